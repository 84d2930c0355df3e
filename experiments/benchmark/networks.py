"""Speed of the networks: inference, training step, segmentation head and a joint pass, on a CPU and on a GPU.

The peer of pose is timm's feature extractor of the same width (finest stream) with the 1x1 convolution of the pose
head, in plain eager NCHW, as one gets it from `timm.create_model`, with the same weights; on a GPU with convolutions
rounded to TF32, which is torch's default. It computes all four streams in the last unit too, 1 % more work.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import partial

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.benchmark.timing import Comparison, Setting, Variant
from experiments.benchmark.variants import (
    BF16,
    BF16_TUNED,
    FP16,
    FP32,
    PLAIN,
    TF32,
    TUNED,
    Numbers,
    Run,
    captured,
    check,
    check_output,
    check_outputs,
    compiled,
    made,
    nhwc,
    predict,
    random,
)
from hrnet import HRNet, HRNetV2, SegmentationHead, for_inference
from hrnet.representations import mixed_strips
from tasks import ClassificationTask, MultiTask, PoseTask, SegmentationTask
from tasks.optim import create_optimizer

BATCH = 8
KEYPOINTS = 17
LARGE = ("hrnet_w32", "w32", (256, 192))
SMALL = ("hrnet_w18_small", "w18_small_v1", (64, 64))


class TimmPose(nn.Module):
    """timm's finest stream and one 1x1 convolution: images (B, 3, H, W) -> heatmaps (B, K, H/4, W/4)."""

    def __init__(self, name: str) -> None:
        super().__init__()
        # Feature 1 is the finest stream, feature 0 the stem; without a location there is no classification head.
        self.backbone = timm.create_model(name, features_only=True, feature_location="", out_indices=(1,))
        self.head = nn.Conv2d(self.backbone.feature_info.channels()[0], KEYPOINTS, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Heatmaps."""
        return self.head(self.backbone(images)[0])


def inference(setting: Setting) -> Iterator[Comparison]:
    """Images/s of pose HRNet-W32 256x192, without decoding; at batch 8 and 1, on a GPU at 64 too (compiled at 8)."""
    theirs, ours, size = networks(setting.quick)
    theirs.eval(), ours.eval()
    batches = (BATCH,) if setting.compiled else (1, BATCH, 64) if setting.precisions else (BATCH, 1)
    for batch in (2,) if setting.quick else batches:
        yield _inference(setting, theirs, ours, random(setting, batch, 3, *size))


def _inference(setting: Setting, theirs: nn.Module, ours: nn.Module, images: Tensor) -> Comparison:
    batch, _, height, width = images.shape
    with FP32.in_use(setting.device), torch.inference_mode():
        expected = deepcopy(theirs).to(setting.device)(images)

    def variant(
        label: str,
        network: nn.Module,
        numbers: Numbers,
        prepare: Callable,
        graph: bool = False,
        target: float | None = None,
    ) -> Variant:
        def make() -> Run:
            run = partial(predict, prepare(network).to(setting.device), images, numbers)
            return captured(run) if graph else run

        agrees = partial(check_output, expected=expected, tolerance=numbers.tolerance)
        return made(numbers.label(label), make, agrees, setting.device, target)

    plain = TF32 if setting.precisions else PLAIN
    variants = [variant("timm, NCHW", theirs, plain, deepcopy), variant("ours, channels_last", ours, plain, nhwc)]
    if not setting.precisions:
        target = 1.25 if batch == BATCH else None
        variants += [variant("ours, for_inference", ours, PLAIN, for_inference, target=target)]
    elif setting.compiled:
        variants += [variant("ours, compiled", ours, numbers, compiled) for numbers in (BF16, TF32)]
    else:
        variants += [variant("timm, NCHW", theirs, numbers, deepcopy) for numbers in (FP32, BF16)]
        variants += [variant("ours, channels_last", ours, numbers, nhwc) for numbers in (FP32, TUNED, BF16, FP16)]
        prepared = (FP32, TF32, BF16, FP16)
        variants += [variant("ours, for_inference", ours, numbers, for_inference) for numbers in prepared]
        variants += [variant("ours, for_inference in a CUDA graph", ours, FP16, for_inference, graph=True)]
    name = f"inference {height}x{width}, batch {batch}"
    return Comparison(name, "images", batch, tuple(variants), setting.device, setting.calls(5))


def train(setting: Setting) -> Iterator[Comparison]:
    """Training steps of the same: forward, mean squared error, backward, Adam; at batch 8, on a GPU at 32 and 128.

    The order of memory costs some exactness on a CPU, see `noise.py`.
    """
    theirs, ours, size = networks(setting.quick)
    theirs.train(), ours.train()
    batches = (BATCH,) if not setting.precisions else (32,) if setting.compiled else (32, 128)
    for batch in (2,) if setting.quick else batches:
        targets = random(setting, batch, KEYPOINTS, size[0] // 4, size[1] // 4)
        yield _training(setting, theirs, ours, random(setting, batch, 3, *size), targets)


def _training(setting: Setting, theirs: nn.Module, ours: nn.Module, images: Tensor, targets: Tensor) -> Comparison:
    gradient = _head_gradient if setting.precisions else _exact_gradient
    expected = gradient(deepcopy(theirs).to(setting.device), images, targets, FP32)

    def variant(
        label: str, network: nn.Module, numbers: Numbers, prepare: Callable, target: float | None = None, **adam: bool
    ) -> Variant:
        def make() -> Run:
            return Step(prepare(network).to(setting.device), images, targets, numbers, adam)

        def agrees(step: Step) -> str:
            tolerance = numbers.tolerance if setting.precisions else 1e-6
            return check(gradient(step.network, images, targets, numbers), expected, tolerance)

        return made(numbers.label(label), make, agrees, setting.device, target)

    plain, target = (TF32, None) if setting.precisions else (PLAIN, 1.0)
    variants = [variant("timm, NCHW", theirs, plain, deepcopy)]
    variants += [variant("ours, channels_last", ours, plain, nhwc, target)]
    if setting.compiled:
        variants += [variant("ours, compiled", ours, numbers, compiled) for numbers in (BF16, TF32)]
    elif setting.precisions:
        tried = (FP32, TUNED, BF16, BF16_TUNED, FP16)
        variants += [variant("timm, NCHW", theirs, numbers, deepcopy) for numbers in (FP32, BF16)]
        variants += [variant("ours, channels_last", ours, numbers, nhwc) for numbers in tried]
        variants += [variant("ours, channels_last, fused Adam", ours, BF16, nhwc, fused=True)]
    batch, _, height, width = images.shape
    name = f"training step {height}x{width}, batch {batch}"
    return Comparison(name, "images", batch, tuple(variants), setting.device, setting.calls(2))


class Step:
    """A training step as Lightning makes it in these numbers: with autocast, and a scaler for float16.

    Args:
        network: On the device, in training mode.
        images: (B, 3, H, W).
        targets: (B, K, H/4, W/4).
        numbers: How numbers are kept.
        adam: Options of Adam, as a task's `optimizer` has them.
    """

    def __init__(self, network: nn.Module, images: Tensor, targets: Tensor, numbers: Numbers, adam: dict) -> None:
        self.network, self.images, self.targets, self.numbers = network, images, targets, numbers
        self.device = images.device.type
        self.optimizer = create_optimizer(network, {"name": "adam", "lr": 1e-3, **adam})
        self.scaler = torch.amp.GradScaler(self.device, enabled=numbers.dtype == torch.float16)

    def __call__(self) -> None:
        """Do it."""
        self.optimizer.zero_grad()
        with self.numbers.in_use(self.device):
            loss = functional.mse_loss(self.network(self.images).float(), self.targets)
            self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()


def segmentation(setting: Setting) -> Iterator[Comparison]:
    """The head at 512x1024: mixed after concatenation as published, per stream, and in the strips that suit a CPU."""
    height, width = (64, 128) if setting.quick else (512, 1024)
    batch = 4 if setting.precisions and not setting.quick else 1
    for variant in ("w18_small_v1",) if setting.quick else ("w18", "w48"):
        torch.manual_seed(0)
        channels = HRNet(variant).channels
        head = nhwc(SegmentationHead(channels, 19).eval()).to(setting.device)
        sizes = [(c, height // s, width // s) for c, s in zip(channels, (4, 8, 16, 32), strict=True)]
        streams = [random(setting, batch, *size).to(memory_format=torch.channels_last) for size in sizes]
        ways = {"after concatenation": concatenated, "per stream": _whole}
        if setting.precisions:
            ways["per stream, in strips"] = _in_strips
        named = {label: partial(way, head) for label, way in ways.items()}
        name = f"segmentation head {variant}, {height}x{width}, batch {batch}"
        yield _forwards(setting, name, batch, named, streams, check_output)


def joint(setting: Setting) -> Iterator[Comparison]:
    """Pose, segmentation and classes of the same images: three networks, and three heads on one backbone."""
    variant, size, batch = ("w18_small_v1", (64, 64), 1) if setting.quick else ("w32", (256, 192), 4)
    batch *= 4 if setting.precisions and not setting.quick else 1
    torch.manual_seed(0)
    heads = {
        "pose": lambda b: PoseTask(b, KEYPOINTS),
        "segmentation": lambda b: SegmentationTask(b, 19),
        "classification": lambda b: ClassificationTask(b, 1000),
    }
    together = nhwc(MultiTask(HRNet(variant, upsample="bilinear"), heads).eval()).to(setting.device)
    single = nhwc(nn.ModuleDict({name: together.single(name) for name in heads}).eval())

    def apart(images: Tensor) -> dict[str, Tensor]:
        return {name: network(images) for name, network in single.items()}

    ways = {"three networks": apart, "one backbone": together}
    targets = {} if setting.precisions else {"one backbone": 2.0}
    name = f"three tasks {size[0]}x{size[1]}, batch {batch}"
    yield _forwards(setting, name, batch, ways, random(setting, batch, 3, *size), check_outputs, targets)


def _forwards(
    setting: Setting,
    name: str,
    batch: int,
    ways: dict[str, Callable],
    inputs: Tensor | list[Tensor],
    agrees: Callable,
    targets: dict[str, float] | None = None,
) -> Comparison:
    """Ways to compute the same from the same inputs; the first is what the others are held against."""
    with FP32.in_use(setting.device), torch.inference_mode():
        expected = next(iter(ways.values()))(inputs)
    variants = [
        made(
            numbers.label(label),
            lambda way=way, numbers=numbers: partial(predict, way, inputs, numbers),
            partial(agrees, expected=expected, tolerance=numbers.tolerance),
            setting.device,
            (targets or {}).get(label),
        )
        for numbers in ((TF32, BF16) if setting.precisions else (PLAIN,))
        for label, way in ways.items()
    ]
    return Comparison(name, "images", batch, tuple(variants), setting.device, setting.calls(5))


def networks(quick: bool) -> tuple[TimmPose, PoseTask, tuple[int, int]]:
    """timm's and our pose network with equal weights, and the (height, width) of their input.

    He initialisation and batch-norm statistics of a random batch: with the published initialisation (deviation 0.001)
    an untrained network computes with denormals, which are many times slower than what a trained one computes with.
    """
    torch.manual_seed(0)
    name, variant, size = SMALL if quick else LARGE
    theirs = TimmPose(name)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        theirs.train()(torch.rand(BATCH, 3, *size))
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    ours = PoseTask(HRNet(variant, multi_scale_output=False), KEYPOINTS)
    state = theirs.state_dict()
    ours.load_state_dict({key: state[key] for key in ours.state_dict()})
    return theirs, ours, size


def concatenated(head: SegmentationHead, streams: Sequence[Tensor]) -> Tensor:
    """Streams -> scores (B, num_classes, H/4, W/4) in the published order: mixed after upsampling."""
    return nn.Sequential.forward(head, HRNetV2()(streams))


def _whole(head: SegmentationHead, streams: list[Tensor]) -> Tensor:
    return head(streams)


def _in_strips(head: SegmentationHead, streams: list[Tensor]) -> Tensor:
    rest = nn.Sequential(*head.children())[1:]
    return torch.cat([rest(strip) for strip in mixed_strips(head[0], streams, head.align_corners)], dim=2)


def _head_gradient(network: nn.Module, images: Tensor, targets: Tensor, numbers: Numbers) -> Tensor:
    """Of the last convolution, before any step; running statistics move on by one batch."""
    scale = 2.0**10 if numbers.dtype == torch.float16 else 1.0
    with numbers.in_use(images.device.type):
        loss = functional.mse_loss(network(images).float(), targets)
        (gradient,) = torch.autograd.grad(scale * loss, [network.head.weight])
    return gradient / scale


def _exact_gradient(network: nn.Module, images: Tensor, targets: Tensor, _: Numbers) -> Tensor:
    """Of the first convolution, in float64: in float32 rounding moves it by some per cent, see `noise.py`."""
    network = deepcopy(network).double()
    functional.mse_loss(network(images[:2].double()), targets[:2].double()).backward()
    return network.backbone.conv1.weight.grad

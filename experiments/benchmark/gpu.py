"""Speed of the networks on a GPU in each precision that a training can ask for, against timm's eager network.

The peer is timm's HRNet (`benchmark_networks.py`) as one gets it: eager, NCHW, float32, convolutions rounded to TF32,
which is torch's default. In inference and training each variant has its own copy of the weights, and its memory is the
most that this, the optimiser and the work take together; elsewhere it is that of the work alone. A variant that cannot
be run, or computes something else, is named and not timed.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.benchmark.evaluation import SIZE
from experiments.benchmark.networks import KEYPOINTS, networks
from experiments.benchmark.peers import plain_dark, plain_msra
from experiments.benchmark.timing import Comparison, Setting, Variant, require
from hrnet import HRNet, HRNetV2, SegmentationHead, for_inference
from hrnet.representations import mixed_strips
from tasks import ClassificationTask, MultiTask, PoseTask, SegmentationTask
from tasks.heatmaps import Codec, DarkCodec, MSRACodec
from tasks.optim import create_optimizer
from tasks.pose import in_image

Run = Callable[[], object]


@dataclass(frozen=True)
class Numbers:
    """How numbers are kept.

    Args:
        name: As in `trainer.precision`, and whether float32 is rounded to TF32 in convolutions and products.
        tf32: Whether it is.
        dtype: Of autocast, where that is used.
        tolerance: Relative error, as a norm over all outputs or gradients, up to which variants agree. An untrained
            network of this depth passes rounding errors on (bfloat16: 0.25 at the end of W32), so it is float32 without
            TF32 that shows two networks to be one; what is rounded more is only seen not to be something else.
        tuned: Whether cuDNN tries its algorithms first (`trainer.benchmark`).
    """

    name: str
    tf32: bool = False
    dtype: torch.dtype | None = None
    tolerance: float = 1e-3
    tuned: bool = False

    @contextmanager
    def in_use(self, device: str) -> Iterator[None]:
        """Within the block."""
        cudnn, cublas = torch.backends.cudnn, torch.backends.cuda.matmul
        before = cudnn.allow_tf32, cublas.allow_tf32, cudnn.benchmark
        cudnn.allow_tf32 = cublas.allow_tf32 = self.tf32
        cudnn.benchmark = self.tuned
        try:
            with torch.autocast(device, dtype=self.dtype, enabled=self.dtype is not None):
                yield
        finally:
            cudnn.allow_tf32, cublas.allow_tf32, cudnn.benchmark = before


FP32 = Numbers("float32 without TF32")
TF32 = Numbers("float32 with TF32", tf32=True, tolerance=0.2)
TUNED = Numbers("float32 with TF32, cuDNN tuned", tf32=True, tolerance=0.2, tuned=True)
FP16 = Numbers("16-mixed", tf32=True, dtype=torch.float16, tolerance=0.2)
BF16 = Numbers("bf16-mixed", tf32=True, dtype=torch.bfloat16, tolerance=0.7)
BF16_TUNED = Numbers("bf16-mixed, cuDNN tuned", tf32=True, dtype=torch.bfloat16, tolerance=0.7, tuned=True)


def inference(setting: Setting) -> Iterator[Comparison]:
    """Images/s of pose HRNet-W32 256x192 at batch 1, 8 and 64 (compiled at 8), without decoding."""
    theirs, ours, size = networks(setting.quick)
    theirs.eval(), ours.eval()
    for batch in (2,) if setting.quick else (8,) if setting.compiled else (1, 8, 64):
        yield _inference(setting, theirs, ours, _random(setting, batch, 3, *size))


def _inference(setting: Setting, theirs: nn.Module, ours: nn.Module, images: Tensor) -> Comparison:
    with FP32.in_use(setting.device), torch.inference_mode():
        expected = deepcopy(theirs).to(setting.device)(images)

    def variant(label: str, network: nn.Module, numbers: Numbers, prepare: Callable, graph: bool = False) -> Variant:
        def make() -> Run:
            run = partial(_predict, prepare(network).to(setting.device), images, numbers)
            return _captured(run) if graph else run

        check = partial(_check_output, expected=expected, tolerance=numbers.tolerance)
        return _made(f"{label}, {numbers.name}", make, check, setting.device)

    variants = [variant("timm, NCHW", theirs, TF32, deepcopy), variant("ours, channels_last", ours, TF32, _nhwc)]
    if setting.compiled:
        variants += [variant("ours, compiled", ours, numbers, _compiled) for numbers in (BF16, TF32)]
    else:
        variants += [variant("timm, NCHW", theirs, numbers, deepcopy) for numbers in (FP32, BF16)]
        variants += [variant("ours, channels_last", ours, numbers, _nhwc) for numbers in (FP32, TUNED, BF16, FP16)]
        prepared = (FP32, TF32, BF16, FP16)
        variants += [variant("ours, for_inference", ours, numbers, for_inference) for numbers in prepared]
        variants += [variant("ours, for_inference in a CUDA graph", ours, FP16, for_inference, graph=True)]
    batch, _, height, width = images.shape
    name = f"inference {height}x{width}, batch {batch}"
    return Comparison(name, "images", batch, tuple(variants), setting.device, 1 if setting.quick else 5)


def train(setting: Setting) -> Iterator[Comparison]:
    """Training steps of the same at batch 32 and 128 (compiled at 32): forward, mean squared error, backward, Adam."""
    theirs, ours, size = networks(setting.quick)
    theirs.train(), ours.train()
    for batch in (2,) if setting.quick else (32,) if setting.compiled else (32, 128):
        targets = _random(setting, batch, KEYPOINTS, size[0] // 4, size[1] // 4)
        yield _training(setting, theirs, ours, _random(setting, batch, 3, *size), targets)


def _training(setting: Setting, theirs: nn.Module, ours: nn.Module, images: Tensor, targets: Tensor) -> Comparison:
    expected = _head_gradient(deepcopy(theirs).to(setting.device), images, targets, FP32)

    def variant(label: str, network: nn.Module, numbers: Numbers, prepare: Callable, **adam: bool) -> Variant:
        def make() -> Run:
            return Step(prepare(network).to(setting.device), images, targets, numbers, adam)

        def check(step: Step) -> str:
            return _check(_head_gradient(step.network, images, targets, numbers), expected, numbers.tolerance)

        return _made(f"{label}, {numbers.name}", make, check, setting.device)

    variants = [variant("timm, NCHW", theirs, TF32, deepcopy), variant("ours, channels_last", ours, TF32, _nhwc)]
    if setting.compiled:
        variants += [variant("ours, compiled", ours, numbers, _compiled) for numbers in (BF16, TF32)]
    else:
        tried = (FP32, TUNED, BF16, BF16_TUNED, FP16)
        variants += [variant("timm, NCHW", theirs, numbers, deepcopy) for numbers in (FP32, BF16)]
        variants += [variant("ours, channels_last", ours, numbers, _nhwc) for numbers in tried]
        variants += [variant("ours, channels_last, fused Adam", ours, BF16, _nhwc, fused=True)]
    batch, _, height, width = images.shape
    name = f"training step {height}x{width}, batch {batch}"
    return Comparison(name, "images", batch, tuple(variants), setting.device, 1 if setting.quick else 2)


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
        self.optimizer.zero_grad()
        with self.numbers.in_use(self.device):
            loss = functional.mse_loss(self.network(self.images).float(), self.targets)
            self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()


def segmentation(setting: Setting) -> Iterator[Comparison]:
    """The head at 512x1024: mixed after concatenation as published, per stream, and in the strips that suit a CPU."""
    (height, width), batch = ((64, 128), 1) if setting.quick else ((512, 1024), 4)
    for variant in ("w18_small_v1",) if setting.quick else ("w18", "w48"):
        torch.manual_seed(0)
        channels = HRNet(variant).channels
        head = _nhwc(SegmentationHead(channels, 19).eval()).to(setting.device)
        sizes = [(c, height // s, width // s) for c, s in zip(channels, (4, 8, 16, 32), strict=True)]
        streams = [_random(setting, batch, *size).to(memory_format=torch.channels_last) for size in sizes]
        variants = _segmenting(setting, head, streams)
        name = f"segmentation head {variant}, {height}x{width}, batch {batch}"
        yield Comparison(name, "images", batch, tuple(variants), setting.device, 1 if setting.quick else 5)


def _segmenting(setting: Setting, head: SegmentationHead, streams: list[Tensor]) -> list[Variant]:
    with FP32.in_use(setting.device), torch.inference_mode():
        expected = _concatenated(head, streams)
    ways = {"after concatenation": _concatenated, "per stream": _whole, "per stream, in strips": _in_strips}
    return [
        _made(
            f"{label}, {numbers.name}",
            lambda way=way, numbers=numbers: partial(_predict, partial(way, head), streams, numbers),
            partial(_check_output, expected=expected, tolerance=numbers.tolerance),
            setting.device,
        )
        for numbers in (TF32, BF16)
        for label, way in ways.items()
    ]


def joint(setting: Setting) -> Iterator[Comparison]:
    """Pose, segmentation and classes of the same images: three networks, and three heads on one backbone."""
    variant, size, batch = ("w18_small_v1", (64, 64), 1) if setting.quick else ("w32", (256, 192), 16)
    torch.manual_seed(0)
    heads = {
        "pose": lambda b: PoseTask(b, KEYPOINTS),
        "segmentation": lambda b: SegmentationTask(b, 19),
        "classification": lambda b: ClassificationTask(b, 1000),
    }
    together = _nhwc(MultiTask(HRNet(variant, upsample="bilinear"), heads).eval())
    single = nn.ModuleDict({name: together.single(name) for name in heads}).eval()
    together.to(setting.device), _nhwc(single).to(setting.device)
    images = _random(setting, batch, 3, *size)

    def apart(images: Tensor) -> dict[str, Tensor]:
        return {name: network(images) for name, network in single.items()}

    with FP32.in_use(setting.device), torch.inference_mode():
        expected = apart(images)
    variants = [
        _made(
            f"{label}, {numbers.name}",
            lambda network=network, numbers=numbers: partial(_predict, network, images, numbers),
            partial(_check_outputs, expected=expected, tolerance=numbers.tolerance),
            setting.device,
        )
        for numbers in (TF32, BF16)
        for label, network in (("three networks", apart), ("one backbone", together))
    ]
    name = f"three tasks {size[0]}x{size[1]}, batch {batch}"
    yield Comparison(name, "images", batch, tuple(variants), setting.device, 1 if setting.quick else 5)


def decode(setting: Setting) -> Iterator[Comparison]:
    """Heatmaps on the GPU to key points in the CPU's memory: decoded there by a loop over joints, or where they are."""
    batch = 4 if setting.quick else 64
    generator = torch.Generator().manual_seed(0)
    points = 16 + torch.rand(batch, KEYPOINTS, 2, generator=generator) * torch.tensor([SIZE[1] - 32, SIZE[0] - 32])
    to_image = torch.tensor([[1.7, 0, 120], [0, 1.7, 35]]).repeat(batch, 1, 1)
    for codec, plain in ((MSRACodec(), plain_msra), (DarkCodec(), plain_dark)):
        heatmaps, _ = codec.encode(points, torch.ones(batch, KEYPOINTS), SIZE)
        heatmaps += 0.01 * torch.rand(heatmaps.shape, generator=generator)
        yield _decoding(setting, codec, plain, heatmaps.to(setting.device), to_image)


def _decoding(setting: Setting, codec: Codec, plain: Callable, heatmaps: Tensor, to_image: Tensor) -> Comparison:
    matrices = to_image.double().numpy() @ np.diag([codec.stride, codec.stride, 1.0])
    on_device = to_image.to(setting.device)

    def loop() -> np.ndarray:
        return plain(heatmaps.cpu().numpy(), matrices)[0]

    def ours() -> np.ndarray:
        return in_image(codec.decode(heatmaps)[0], on_device).cpu().numpy()

    far = np.abs(ours() - loop()).max()
    require(f"{type(codec).__name__} and the loop differ by {far:.4f} pixels", far < 0.02)
    variants = [
        _made(label, lambda run=run: run, lambda run: "", setting.device)
        for label, run in (("copied, loop over joints", loop), ("ours, where they are", ours))
    ]
    name = f"decode {'x'.join(map(str, heatmaps.shape))}, {type(codec).__name__}"
    return Comparison(name, "persons", len(heatmaps), tuple(variants), setting.device)


# ---- making a variant


def _made(label: str, make: Callable[[], Run], check: Callable[[Run], str], device: str) -> Variant:
    """A variant that was run once and seen to agree, with the memory that it takes; or why it is not."""
    on_gpu = device == "cuda"
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    try:
        run = make()
        problem = check(run)
        run()
    except (RuntimeError, ImportError) as error:  # out of memory, no compiler, no kernel
        return Variant(label, _nothing, problem=f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
    memory = torch.cuda.max_memory_allocated() - before if on_gpu else None
    return Variant(label, run, memory=memory, problem=problem)


def _nothing() -> None:
    """In place of what cannot be run."""


def _check_output(run: Run, *, expected: Tensor, tolerance: float) -> str:
    return _check(run(), expected, tolerance)


def _check_outputs(run: Run, *, expected: dict[str, Tensor], tolerance: float) -> str:
    found = run()
    return next((text for name in expected if (text := _check(found[name], expected[name], tolerance))), "")


def _check(found: Tensor, expected: Tensor, tolerance: float) -> str:
    """What is wrong with it; empty where it agrees."""
    error = ((found.double() - expected.double()).norm() / expected.double().norm()).item()
    fine = error <= tolerance  # not so if it is nan
    return "" if fine else f"it differs by {error:.1e} of the size of what is expected, more than {tolerance:g}"


# ---- ways to run


def _nhwc(network: nn.Module) -> nn.Module:
    return deepcopy(network).to(memory_format=torch.channels_last)


def _compiled(network: nn.Module) -> nn.Module:
    """As `compile: true` of a task does it."""
    network = _nhwc(network)
    network.backbone.compile()
    return network


def _predict(network: Callable, inputs: Tensor | list[Tensor], numbers: Numbers) -> object:
    device = (inputs[0] if isinstance(inputs, list) else inputs).device.type
    with torch.inference_mode(), numbers.in_use(device):
        return network(inputs)


def _concatenated(head: SegmentationHead, streams: Sequence[Tensor]) -> Tensor:
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


def _captured(run: Run) -> Run:
    """Replays the kernels of a call without launching them one by one; raises RuntimeError where there is no GPU."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run()

    def replay() -> object:
        graph.replay()
        return found

    return replay


def _random(setting: Setting, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(shape, generator=generator).to(setting.device)

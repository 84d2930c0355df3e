"""Speed of the network: inference and training step of pose HRNet-W32 against timm's HRNet with the same weights.

timm's is its feature extractor of the same width (finest stream) with the 1x1 convolution of the pose head, in plain
eager NCHW, as one gets it from `timm.create_model`. It computes all four streams in the last unit too, 1 % more work.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.benchmark.timing import Comparison, Setting, Variant, require
from hrnet import HRNet, HRNetV2, SegmentationHead
from hrnet.inference import for_inference
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
        return self.head(self.backbone(images)[0])


def inference(setting: Setting) -> Iterator[Comparison]:
    """Images/s at batch 8 and 1: timm eager NCHW, our task, our task after `for_inference`."""
    theirs, ours, size = networks(setting.quick)
    theirs.eval()
    ours.eval().to(memory_format=torch.channels_last)
    fast = for_inference(ours)
    for batch, target in ((BATCH, 1.25), (1, None)):
        images = torch.rand(batch, 3, *size)
        runs = [_forward(network, images) for network in (theirs, ours, fast)]
        expected = runs[0]()
        for run in runs[1:]:
            difference = (run() - expected).abs().max() / expected.abs().max()
            require(f"heatmaps of our network and timm's differ by {difference:.1e} of their size", difference < 1e-3)
        yield Comparison(
            f"inference {size[0]}x{size[1]}, batch {batch}",
            "images",
            batch,
            (
                Variant("timm, NCHW", runs[0]),
                Variant("ours, not prepared", runs[1]),
                Variant("ours, for_inference", runs[2], target),
            ),
        )


def train(setting: Setting) -> Iterator[Comparison]:
    """Training steps: forward, mean squared error, backward, Adam; timm NCHW, ours channels_last with a task's Adam.

    The order of memory costs some exactness on a CPU, see `benchmark_noise.py`.
    """
    theirs, ours, size = networks(setting.quick)
    theirs.train()
    ours.train().to(memory_format=torch.channels_last)
    images = torch.rand(BATCH, 3, *size)
    targets = torch.rand(BATCH, KEYPOINTS, size[0] // 4, size[1] // 4)
    gradients = [_gradient(network, images[:2], targets[:2]) for network in (theirs, ours)]
    difference = ((gradients[0] - gradients[1]).norm() / gradients[0].norm()).item()
    require(f"gradients of our network and timm's differ by {difference:.1e} of their size", difference < 1e-6)
    yield Comparison(
        f"training step {size[0]}x{size[1]}, batch {BATCH}",
        "images",
        BATCH,
        (
            Variant("timm, NCHW", _step(theirs, torch.optim.Adam(theirs.parameters(), lr=1e-3), images, targets)),
            Variant(
                "ours, channels_last",
                _step(ours, create_optimizer(ours, {"name": "adam", "lr": 1e-3}), images, targets),
                1.0,
            ),
        ),
    )


def segmentation(setting: Setting) -> Iterator[Comparison]:
    """The segmentation head at 512x1024: mixed after concatenation as published, and each stream at its own size."""
    height, width = (64, 128) if setting.quick else (512, 1024)
    for variant in ("w18_small_v1",) if setting.quick else ("w18", "w48"):
        torch.manual_seed(0)
        channels = HRNet(variant).channels
        head = SegmentationHead(channels, 19).eval().to(memory_format=torch.channels_last)
        streams = [
            torch.rand(1, c, height // stride, width // stride).to(memory_format=torch.channels_last)
            for c, stride in zip(channels, (4, 8, 16, 32), strict=True)
        ]

        def published(head: SegmentationHead = head, streams: list[Tensor] = streams) -> Tensor:
            with torch.inference_mode():
                return nn.Sequential.forward(head, HRNetV2()(streams))

        def ours(head: SegmentationHead = head, streams: list[Tensor] = streams) -> Tensor:
            with torch.inference_mode():
                return head(streams)

        expected = published()
        difference = ((ours() - expected).abs().max() / expected.abs().max()).item()
        require(f"logits of the two heads differ by {difference:.1e} of their size", difference < 1e-4)
        yield Comparison(
            f"segmentation head {variant}, {height}x{width}",
            "images",
            1,
            (Variant("after concatenation", published), Variant("per stream", ours)),
        )


def joint(setting: Setting) -> Iterator[Comparison]:
    """Pose, segmentation and classes of the same images: three networks, and three heads on one backbone."""
    variant, size, batch = ("w18_small_v1", (64, 64), 1) if setting.quick else ("w32", (256, 192), 4)
    torch.manual_seed(0)
    backbone = {"variant": variant, "upsample": "bilinear"}
    heads = {
        "pose": lambda b: PoseTask(b, KEYPOINTS),
        "segmentation": lambda b: SegmentationTask(b, 19),
        "classification": lambda b: ClassificationTask(b, 1000),
    }
    together = MultiTask(HRNet(**backbone), heads).eval().to(memory_format=torch.channels_last)
    single = {name: together.single(name).eval().to(memory_format=torch.channels_last) for name in heads}
    images = torch.rand(batch, 3, *size)

    def separate() -> dict[str, Tensor]:
        with torch.inference_mode():
            return {name: network(images) for name, network in single.items()}

    expected, found = separate(), _forward(together, images)()
    for name in heads:
        difference = ((found[name] - expected[name]).abs().max() / expected[name].abs().max()).item()
        require(f"outputs of {name} differ by {difference:.1e} of their size", difference < 1e-3)
    yield Comparison(
        f"three tasks {size[0]}x{size[1]}, batch {batch}",
        "images",
        batch,
        (Variant("three networks", separate), Variant("one backbone", _forward(together, images), 2.0)),
    )


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


def _forward(network: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with torch.inference_mode():
            return network(images)

    return run


def _gradient(network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Of the first convolution, in float64: in float32 rounding moves it by some per cent, see `benchmark_noise.py`."""
    network = deepcopy(network).double()
    functional.mse_loss(network(images.double()), targets.double()).backward()
    return network.backbone.conv1.weight.grad


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, targets: Tensor) -> Callable[[], None]:
    def run() -> None:
        optimizer.zero_grad()
        functional.mse_loss(network(images), targets).backward()
        optimizer.step()

    return run

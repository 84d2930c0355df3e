"""The paper's table of time and memory (TPAMI 2020), measured here: HRNet beside what it is compared with.

Every network is plain eager torch with channels last, so that architectures are compared and not what is done to them.
Pose: SimpleBaseline (ECCV 2018), ResNet and three transposed convolutions. Segmentation: PSPNet (CVPR 2017), written
here, and torchvision's DeepLabV3, both on torchvision's ResNet-101 with dilation; the paper's have three 3x3
convolutions in place of the first 7x7, 0.3M parameters more and 0.6M less. Detection: torchvision's Faster R-CNN over
feature pyramids, the same for all; `HRNetV2p` is a backbone of it. Memory is the most that a step takes beyond what was
there before the network: weights, gradients, state of the optimiser, maps.
"""

import ctypes
import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.segmentation import deeplabv3_resnet101

from experiments.benchmark.timing import Comparison, Setting, Variant
from experiments.benchmark.variants import random
from hrnet import HRNet, HRNetV2p, KeypointHead, SegmentationHead

STRIDE = 32  # of sizes
CLASSES = {"pose": 17, "segmentation": 19, "detection": 91}
SIZES = {"pose": (256, 192), "segmentation": (1024, 2048), "detection": (800, 1344)}  # of inference
TRAINED = SIZES | {"segmentation": (512, 1024)}
# Seconds of a training step and of an image, GB of either, as printed (V100, PyTorch 1.0); where not, None.
PAPER: dict[str, dict[str, tuple[float | None, ...]]] = {
    "pose": {
        "SimpleBaseline ResNet-50": (0.946, 0.012, 11.9, 0.16),
        "SimpleBaseline ResNet-152": (1.085, 0.030, 14.8, 0.29),
        "HRNetV1-W32": (1.153, 0.057, 5.7, 0.13),
    },
    "segmentation": {
        "PSPNet, dilated ResNet-101": (0.837, 0.397, 14.4, 1.60),
        "DeepLabV3, dilated ResNet-101": (0.850, 0.411, 13.3, 1.15),
        "HRNetV2-W48": (0.692, 0.150, 13.9, 1.79),
    },
    "detection": {
        "ResNet-101-FPN": (0.550, 0.087, 5.4, 0.62),
        "ResNet-50-FPN": (0.417, 0.074, 3.4, None),
        "ResNeXt-101-64x4d-FPN": (1.183, 0.144, 9.5, 0.77),
        "HRNetV2p-W18": (0.617, 0.097, 6.2, 0.33),
        "HRNetV2p-W32": (0.690, 0.101, 8.5, 0.51),
    },
}


class SimpleBaseline(nn.Sequential):
    """Images (B, 3, H, W) -> heatmaps (B, 17, H/4, W/4) by a ResNet and three transposed convolutions of 256 channels.

    Args:
        depth: Of the ResNet.
    """

    def __init__(self, depth: int) -> None:
        trunk = list(getattr(models, f"resnet{depth}")(weights=None).children())[:-2]
        layers: list[nn.Module] = []
        for channels in (2048, 256, 256):
            up = nn.ConvTranspose2d(channels, 256, 4, stride=2, padding=1, bias=False)
            layers += [up, nn.BatchNorm2d(256), nn.ReLU(inplace=True)]
        super().__init__(*trunk, *layers, nn.Conv2d(256, CLASSES["pose"], 1))


class PSPNet(nn.Module):
    """(B, 3, H, W) -> scores (B, 19, H, W): the map of a dilated ResNet-101 beside its means over 1 to 36 parts."""

    def __init__(self) -> None:
        super().__init__()
        dilated = models.resnet101(weights=None, replace_stride_with_dilation=[False, True, True])
        self.trunk = nn.Sequential(*list(dilated.children())[:-2])
        self.pooled = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(parts), *_layer(2048, 512, 1)) for parts in (1, 2, 3, 6)
        )
        self.classify = nn.Sequential(
            *_layer(2048 + 4 * 512, 512, 3), nn.Dropout2d(0.1), nn.Conv2d(512, CLASSES["segmentation"], 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Scores."""
        found = self.trunk(images)
        size = found.shape[-2:]
        parts = [functional.interpolate(pool(found), size=size, mode="bilinear") for pool in self.pooled]
        return _enlarged(self.classify(torch.cat([found, *parts], dim=1)), images)


class DeepLab(nn.Module):
    """torchvision's DeepLabV3 for the 19 classes, without its auxiliary head: (B, 3, H, W) -> (B, 19, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.network = deeplabv3_resnet101(weights=None, weights_backbone=None, num_classes=CLASSES["segmentation"])

    def forward(self, images: Tensor) -> Tensor:
        """Scores."""
        return self.network(images)["out"]


class HRNetPose(nn.Module):
    """HRNetV1 and its convolution: (B, 3, H, W) -> (B, 17, H/4, W/4)."""

    def __init__(self, variant: str) -> None:
        super().__init__()
        self.backbone = HRNet(variant, multi_scale_output=False)
        self.head = KeypointHead(self.backbone.channels[0], CLASSES["pose"])

    def forward(self, images: Tensor) -> Tensor:
        """Heatmaps."""
        return self.head(self.backbone(images)[0])


class HRNetSegmentation(nn.Module):
    """HRNetV2 and its head: (B, 3, H, W) -> (B, 19, H, W)."""

    def __init__(self, variant: str) -> None:
        super().__init__()
        self.backbone = HRNet(variant, upsample="bilinear")
        self.head = SegmentationHead(self.backbone.channels, CLASSES["segmentation"])

    def forward(self, images: Tensor) -> Tensor:
        """Scores."""
        return _enlarged(self.head(self.backbone(images)), images)


class Pyramid(nn.Module):
    """HRNetV2p as torchvision's detectors take a backbone."""

    out_channels = 256

    def __init__(self, variant: str) -> None:
        super().__init__()
        self.backbone = HRNet(variant)
        self.neck = HRNetV2p(self.backbone.channels, self.out_channels)

    def forward(self, images: Tensor) -> Mapping[str, Tensor]:
        """Five levels."""
        return self.neck(self.backbone(images))


def _pyramid(name: str) -> nn.Module:
    """torchvision's, all of it trained, batch norm too."""
    return resnet_fpn_backbone(backbone_name=name, weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "SimpleBaseline ResNet-50": lambda: SimpleBaseline(50),
    "SimpleBaseline ResNet-152": lambda: SimpleBaseline(152),
    "HRNetV1-W32": lambda: HRNetPose("w32"),
    "PSPNet, dilated ResNet-101": PSPNet,
    "DeepLabV3, dilated ResNet-101": DeepLab,
    "HRNetV2-W48": lambda: HRNetSegmentation("w48"),
    "ResNet-50-FPN": lambda: _pyramid("resnet50"),
    "ResNet-101-FPN": lambda: _pyramid("resnet101"),
    "ResNeXt-101-64x4d-FPN": lambda: _pyramid("resnext101_64x4d"),
    "HRNetV2p-W18": lambda: Pyramid("w18"),
    "HRNetV2p-W32": lambda: Pyramid("w32"),
}


def cost(setting: Setting) -> Iterator[Comparison]:
    """A training step and an image of each network, by task; the first is what the others are held against."""
    for task, printed in PAPER.items():
        for training in (True, False):
            sizes = TRAINED if training else SIZES
            scale = 1.0 if task == "pose" else setting.scale
            size = (64, 64) if setting.quick else scaled(sizes[task], scale)
            batch = 2 if training else 1
            if task == "pose" and training and not setting.quick:
                batch = 8
            labels = list(printed)[:: 2 if setting.quick else 1]
            variants = tuple(_variant(setting, task, label, training, batch, size) for label in labels)
            way = "training" if training else "inference"
            name = f"{task}, {way} {size[0]}x{size[1]}, batch {batch}"
            yield Comparison(name, "images", batch, compared(variants, task, training), setting.device)


def scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """Sides times a factor, as multiples of 32."""
    height, width = (max(STRIDE, STRIDE * round(side * factor / STRIDE)) for side in size)
    return height, width


def compared(variants: tuple[Variant, ...], task: str, training: bool) -> tuple[Variant, ...]:
    """The variants with the paper's ratios to the first: of time (above 1: faster) and of memory (above 1: more)."""
    printed, kind = PAPER[task], 0 if training else 1
    first = printed[variants[0].label]
    found = []
    for variant in variants:
        own = printed[variant.label]
        time, memory = (first[kind], own[kind]), (own[kind + 2], first[kind + 2])
        ratio, memory_ratio = (None if None in pair else pair[0] / pair[1] for pair in (time, memory))
        found.append(replace(variant, published=ratio, published_memory=memory_ratio))
    return tuple(found)


def _variant(setting: Setting, task: str, label: str, training: bool, batch: int, size: tuple[int, int]) -> Variant:
    """One network, made and run once, with the memory that this took."""
    with Memory(setting.device) as memory:
        torch.manual_seed(0)
        network = NETWORKS[label]()
        if task == "detection":
            lesser, larger = min(size), max(size)
            network = FasterRCNN(network, CLASSES[task], min_size=lesser, max_size=larger)
        network = network.to(setting.device, memory_format=torch.channels_last).train(training)
        images = random(setting, batch, 3, *size)
        run = Training(task, network, images) if training else partial(_predict, task, network, images)
        run()
        gc.collect()
    return Variant(label, run, memory=memory.peak)


class Training:
    """A step: forward, loss, backward, optimiser.

    Args:
        task: pose, segmentation or detection.
        network: In training mode.
        images: (B, 3, H, W).
    """

    def __init__(self, task: str, network: nn.Module, images: Tensor) -> None:
        self.network, self.images = network, images
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        adam = task == "pose"
        self.optimizer = torch.optim.Adam(parameters) if adam else torch.optim.SGD(parameters, 1e-3, momentum=0.9)
        self.loss = {"pose": self._heatmaps, "segmentation": self._pixels, "detection": self._boxes}[task]

    def __call__(self) -> None:
        """Do it."""
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()

    def _heatmaps(self) -> Tensor:
        found = self.network(self.images)
        return functional.mse_loss(found, torch.zeros_like(found))

    def _pixels(self) -> Tensor:
        found = self.network(self.images)
        return functional.cross_entropy(found, torch.zeros_like(found[:, 0], dtype=torch.long))

    def _boxes(self) -> Tensor:
        height, width = self.images.shape[-2:]
        corners = [[0, 0, width / 4, height / 3], [width / 3, height / 4, width - 1, height - 1]]
        boxes = torch.tensor(corners, device=self.images.device)
        target = {"boxes": boxes, "labels": torch.tensor([1, 2], device=self.images.device)}
        return torch.stack(list(self.network(list(self.images), [target] * len(self.images)).values())).sum()


def _predict(task: str, network: nn.Module, images: Tensor) -> Any:
    with torch.inference_mode():
        return network(list(images)) if task == "detection" else network(images)


class Memory:
    """Bytes that a block takes at most beyond what was taken before: `peak`, None where the system does not say.

    Args:
        device: Whose memory.
    """

    def __init__(self, device: str) -> None:
        self.on_gpu, self.peak = device == "cuda", None

    def __enter__(self) -> "Memory":
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        elif (trim := _malloc_trim()) is not None:
            trim(0)  # or memory that was freed before would be used again, and not be counted
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            self.before = _status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        if self.on_gpu:
            self.peak = torch.cuda.max_memory_allocated() - self.before
        elif _malloc_trim() is not None:
            self.peak = _status("VmHWM") - self.before


def _malloc_trim() -> Callable[[int], int] | None:
    """Of the C library of Linux."""
    there = Path("/proc/self/clear_refs").exists()
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if there else None


def _status(key: str) -> int:
    """Bytes, of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


def _layer(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def _enlarged(scores: Tensor, images: Tensor) -> Tensor:
    return functional.interpolate(scores, size=images.shape[-2:], mode="bilinear")

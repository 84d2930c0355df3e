"""HRNet: an image becomes parallel streams of four resolutions that exchange information (TPAMI 2020, Section 3).

    image --stem--> stage 1 --.-- stage 2 --------- stage 3 --------- stage 4 ---> stream 0   C channels, stride  4
             /4               '-- stage 2 --------- stage 3 --------- stage 4 ---> stream 1  2C channels, stride  8
                                          '-------- stage 3 --------- stage 4 ---> stream 2  4C channels, stride 16
                                                            '-------- stage 4 ---> stream 3  8C channels, stride 32

Each `--.--` is a transition: it opens one stream from the coarsest one there is. A stage is a row of exchange units:

    stream 0 --[BasicBlock x 4]--(+)-->      each (+) sums all streams of the unit, brought to its own size:
                                  X            from coarser: 1x1 convolution, batch norm, upsampling
    stream 1 --[BasicBlock x 4]--(+)-->        from finer:   3x3 convolutions of stride 2

The file goes from the parts to the whole: convolution with batch norm, the two residual blocks (He et al. 2016), the
exchange unit, the network. Parameter names are those of the published checkpoints: `0`, `1` inside ConvBN; `conv1`,
`bn1`, ... inside the blocks. Use: `streams = HRNet("w32")(images)`.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal, TypeVar, cast

import torch
import torch.nn.functional as F
from lightning import LightningModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hrnet.variants import VARIANTS, Variant
from hrnet.weights import start_from

Maps = TypeVar("Maps", Tensor, list[Tensor])


class ConvBN(nn.Sequential):
    """Convolution without bias, batch norm and, if asked for, ReLU: (B, in, H, W) -> (B, out, H/stride, W/stride)."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, relu: bool = True
    ) -> None:
        layers = [
            nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        super().__init__(*layers, *([nn.ReLU(inplace=True)] if relu else []))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and an identity shortcut: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y.add_(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions; output has four times `width` channels: (B, in, H, W) -> (B, 4 * width, H, W).

    The shortcut is the identity, or a 1x1 projection when the channels change.
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        same = in_channels == out_channels
        self.downsample = nn.Identity() if same else ConvBN(in_channels, out_channels, relu=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, 4 * width, H, W)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y.add_(self.downsample(x)))


class ExchangeUnit(nn.Module):
    """Residual blocks on each stream, then every stream receives the sum of all (TPAMI 2020, Figure 3).

    Args:
        channels: Channels of the streams, finest first.
        blocks: Basic blocks a stream.
        outputs: How many streams are computed, finest first: all of them, or 1 where nothing reads the others.
        mode: Interpolation towards finer streams. With "nearest" the input sizes must halve exactly.
        align_corners: How bilinear interpolation places its samples, see `HRNet`.
    """

    def __init__(self, channels: list[int], blocks: int, outputs: int, mode: str, align_corners: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*(BasicBlock(c) for _ in range(blocks))) for c in channels)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(self._path(channels, source, target) for source in range(len(channels)))
            for target in range(outputs)
        )
        self.mode = mode
        self.align_corners = align_corners if mode == "bilinear" else None

    @staticmethod
    def _path(channels: list[int], source: int, target: int) -> nn.Module:
        """What stream `source` passes through on its way to stream `target`, except the upsampling."""
        if source == target:
            return nn.Identity()
        if source > target:
            return ConvBN(channels[source], channels[target], relu=False)
        steps = target - source
        return nn.Sequential(
            *(ConvBN(channels[source], channels[source], 3, stride=2) for _ in range(steps - 1)),
            ConvBN(channels[source], channels[target], 3, stride=2, relu=False),
        )

    def forward(self, streams: list[Tensor]) -> list[Tensor]:
        """List of (B, C_i, H_i, W_i) -> list of the same shapes, `outputs` long."""
        streams = [branch(x) for branch, x in zip(self.branches, streams, strict=True)]
        return [self._exchange(target, streams) for target in range(len(self.fuse_layers))]

    def _exchange(self, target: int, streams: list[Tensor]) -> Tensor:
        # Sums go into the newest map: it is this unit's own, while a stream is still read by the other targets.
        paths = cast(nn.ModuleList, self.fuse_layers[target])
        total = streams[target]
        for source in range(target):
            total = paths[source](streams[source]).add_(total)
        coarser = [paths[source](streams[source]) for source in range(target + 1, len(streams))]
        if self.mode == "nearest":
            # Nearest upsampling telescopes and so moves less memory: up2(a) + up4(b) = up2(a + up2(b)).
            while len(coarser) > 1:
                last = coarser.pop()
                coarser[-1].add_(F.interpolate(last, scale_factor=2.0, mode="nearest"))
            if coarser:
                total = F.interpolate(coarser[0], scale_factor=2.0, mode="nearest").add_(total)
        else:
            for x in coarser:
                total = self._resize(x, total).add_(total)
        return F.relu_(total)

    def _resize(self, x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, size=like.shape[-2:], mode=self.mode, align_corners=self.align_corners)


class HRNet(LightningModule):
    """The high-resolution network without a head.

    Inside a task it is an ordinary module: it logs nothing and relies on no Lightning hook.

    Args:
        variant: One of `hrnet.VARIANTS`: w18_small_v1, w18_small_v2, w18, w30, w32, w40, w44, w48, w64.
        in_channels: How many channels the images have: 3 for colour, 1 for grey or thermal pictures. Published filters
            are adapted to other numbers than 3.
        multi_scale_output: Give all four streams; if false only the finest (pose), and the exchanges that would
            compute the others in the last unit neither exist nor run.
        upsample: Interpolation in the exchange units: "nearest" (published pose, classification, detection) or
            "bilinear" (published segmentation, landmarks), which also accepts sizes that are no multiple of 32.
        align_corners: Whether bilinear interpolation maps corner pixels onto corner pixels. Some published segmentation
            checkpoints were trained so and need it; new trainings need not.
        gradient_checkpointing: Recompute stage 1 and each exchange unit in the backward pass: less memory, about
            a third more time.
        weights: What to start from, of which all must fit: a run folder, a checkpoint, or a timm name such as
            hrnet_w32.ms_in1k; see `hrnet.load_weights`.

    Raises:
        ValueError: If the variant is unknown, or an input has the wrong channels or size.
    """

    strides: list[int]
    channels: list[int]

    def __init__(
        self,
        variant: str = "w32",
        *,
        in_channels: int = 3,
        multi_scale_output: bool = True,
        upsample: Literal["nearest", "bilinear"] = "nearest",
        align_corners: bool = False,
        gradient_checkpointing: bool = False,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"There is no HRNet variant {variant!r}; choose one of {', '.join(VARIANTS)}.")
        if upsample not in ("nearest", "bilinear"):
            raise ValueError(f'HRNet upsamples by "nearest" or "bilinear", not by {upsample!r}.')
        self.save_hyperparameters(logger=False)
        self.in_channels = in_channels
        self.upsample = upsample
        self.align_corners = align_corners
        self.gradient_checkpointing = gradient_checkpointing
        self._build(VARIANTS[variant], multi_scale_output)
        self._initialise()
        if weights is not None:
            start_from(self, weights, strict=True)

    def _build(self, variant: Variant, multi_scale_output: bool) -> None:
        self.conv1 = nn.Conv2d(self.in_channels, 64, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        out = variant.stage1_width * Bottleneck.expansion
        self.layer1 = nn.Sequential(
            Bottleneck(64, variant.stage1_width),
            *(Bottleneck(out, variant.stage1_width) for _ in range(variant.stage1_blocks - 1)),
        )
        channels = [variant.width * 2**i for i in range(4)]
        self.transition1 = self._transition([out], channels[:2])
        self.stage2 = self._stage(channels[:2], variant.units[0], variant.blocks)
        self.transition2 = self._transition(channels[:2], channels[:3])
        self.stage3 = self._stage(channels[:3], variant.units[1], variant.blocks)
        self.transition3 = self._transition(channels[:3], channels)
        last = 4 if multi_scale_output else 1
        self.stage4 = self._stage(channels, variant.units[2], variant.blocks, last)
        self.channels = channels[:last]
        self.strides = [4, 8, 16, 32][:last]

    @staticmethod
    def _transition(before: list[int], after: list[int]) -> nn.ModuleList:
        """One entry a stream: nothing, a change of channels, or a new stream from the coarsest one."""
        layers: list[nn.Module] = [
            nn.Identity() if b == a else ConvBN(b, a, 3) for b, a in zip(before, after, strict=False)
        ]
        return nn.ModuleList([*layers, nn.Sequential(ConvBN(before[-1], after[-1], 3, stride=2))])

    def _stage(self, channels: list[int], units: int, blocks: int, last: int | None = None) -> nn.Sequential:
        outputs = [len(channels)] * (units - 1) + [last or len(channels)]
        return nn.Sequential(*(ExchangeUnit(channels, blocks, o, self.upsample, self.align_corners) for o in outputs))

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) normalised -> streams, finest first; stream i (B, C*2^i, H/2^(i+2), W/2^(i+2)).

        With upsample "bilinear" odd sizes round up: stream 0 of a 97x129 image is 25x33.
        """
        self._check(images)
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self._run(self.layer1, x)
        streams = [x]
        for transition, stage in (
            (self.transition1, self.stage2),
            (self.transition2, self.stage3),
            (self.transition3, self.stage4),
        ):
            opened = transition[-1](streams[-1])
            kept = [layer(stream) for layer, stream in zip(transition[:-1], streams, strict=True)]
            streams = [*kept, opened]
            for unit in stage:
                streams = self._run(unit, streams)
        return streams

    def _run(self, part: nn.Module, x: Maps) -> Maps:
        if not (self.gradient_checkpointing and self.training and torch.is_grad_enabled()):
            return part(x)
        if torch.compiler.is_compiling():  # a compiled graph writes its buffers once, however often it recomputes
            return checkpoint(part, x, use_reentrant=False)
        return checkpoint(part, x, use_reentrant=False, context_fn=lambda: (nullcontext(), statistics_kept(part)))

    def _check(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ValueError(
                f"HRNet expects images of shape (B, {self.in_channels}, H, W), got {tuple(images.shape)}; "
                "set in_channels to the channels of your images."
            )
        height, width = images.shape[-2:]
        if self.upsample == "nearest" and (height % 32 or width % 32):
            valid = f"{-(-height // 32) * 32}x{-(-width // 32) * 32}"
            raise ValueError(
                f'HRNet with upsample="nearest" needs height and width divisible by 32, got {height}x{width}: '
                f'resize or pad to {valid}, or use upsample="bilinear".'
            )


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Context in which batch norms use the batch but leave their running statistics alone.

    A checkpointed part runs twice a step; without this its running averages would move twice. With momentum 0 they are
    written with their own values: passing none would save fewer tensors than the first run did, which checkpointing
    refuses.
    """
    norms = [m for m in module.modules() if isinstance(m, (nn.BatchNorm2d, nn.SyncBatchNorm))]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches

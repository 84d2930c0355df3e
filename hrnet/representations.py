"""From streams to the feature map(s) a head reads: HRNetV1, HRNetV2 and HRNetV2p (TPAMI 2020, Section 3.4, Figure 4).

V1: the finest stream alone (pose)          V2: all streams at the finest size, concatenated (segmentation)
V2p: V2 reduced to 256 channels and average-pooled into a pyramid (detection)
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIP_BYTES = 8 * 2**20  # of a strip that `mixed_strips` makes; about what a processor's caches hold
MIN_ROWS = 8  # fewer rows would read the coarse streams' rows too often


class HRNetV1(nn.Module):
    """Streams -> the finest one, (B, C, H/4, W/4)."""

    def forward(self, streams: list[Tensor]) -> Tensor:
        """List of streams, finest first -> the first."""
        return streams[0]


class HRNetV2(nn.Module):
    """Streams -> all of them upsampled bilinearly to the finest and concatenated, (B, 15C, H/4, W/4).

    Args:
        align_corners: Whether upsampling maps the corner pixels of a stream onto those of the finest, as some published
            segmentation networks do, instead of onto the corners of the image.
    """

    def __init__(self, align_corners: bool = False) -> None:
        super().__init__()
        self.align_corners = align_corners

    def forward(self, streams: list[Tensor]) -> Tensor:
        """List of (B, C_i, H/2^(i+2), W/2^(i+2)) -> (B, sum of C_i, H/4, W/4)."""
        size = streams[0].shape[-2:]
        coarser = [F.interpolate(x, size=size, mode="bilinear", align_corners=self.align_corners) for x in streams[1:]]
        return torch.cat([streams[0], *coarser], dim=1)


class HRNetV2p(nn.Module):
    """Streams -> pyramid: V2 mixed to `out_channels` by a 1x1 convolution, then pooled by 1, 2, 4, ...

    The mixing is linear, so it is done on each stream at its own size and summed after upsampling; the parameters are
    those of one convolution over the concatenation.

    Args:
        channels: Channels of the streams, `HRNet.channels`.
        out_channels: Channels of every level.
        levels: Number of levels; level i has stride `4 * finest * 2**i`.
        finest: By how much the mixed map is pooled for the first level: 1, or 2, 4, ... for one that begins later.
    """

    def __init__(self, channels: list[int], out_channels: int = 256, levels: int = 5, *, finest: int = 1) -> None:
        super().__init__()
        self.channels = list(channels)
        self.out_channels = out_channels
        self.finest = finest
        self.reduction_conv = nn.Sequential(nn.Conv2d(sum(channels), out_channels, 1))
        self.fpn_conv = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in range(levels))
        for conv in [self.reduction_conv[0], *self.fpn_conv]:
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)

    def forward(self, streams: list[Tensor]) -> OrderedDict[str, Tensor]:
        """List of (B, C_i, H/2^(i+2), W/2^(i+2)) -> {"0": (B, out, H/4, W/4), "1": (B, out, H/8, W/8), ...}."""
        return self.levels(mix(cast(nn.Conv2d, self.reduction_conv[0]), streams, align_corners=False))

    def levels(self, mixed: Tensor) -> OrderedDict[str, Tensor]:
        """The mixed map (B, out, H/4, W/4) -> the pyramid."""
        factors = [self.finest * 2**i for i in range(len(self.fpn_conv))]
        pooled = [mixed if factor == 1 else F.avg_pool2d(mixed, factor, ceil_mode=True) for factor in factors]
        return OrderedDict((str(i), conv(x)) for i, (conv, x) in enumerate(zip(self.fpn_conv, pooled, strict=True)))


def mix(conv: nn.Conv2d, streams: list[Tensor], align_corners: bool) -> Tensor:
    """`conv(HRNetV2(streams))` for a 1x1 convolution, without the concatenated map: (B, out, H/4, W/4).

    A 1x1 convolution acts on channels and bilinear upsampling on positions, so they commute; convolving each stream at
    its own resolution costs an eighth of the multiply-adds.
    """
    weights = conv.weight.split([x.shape[1] for x in streams], dim=1)
    total = F.conv2d(streams[0], weights[0], conv.bias)
    for x, weight in zip(streams[1:], weights[1:], strict=True):
        small = F.conv2d(x, weight)
        total = total + F.interpolate(small, size=total.shape[-2:], mode="bilinear", align_corners=align_corners)
    return total


def mixed_strips(conv: nn.Conv2d, streams: list[Tensor], align_corners: bool) -> Iterator[Tensor]:
    """`mix` in strips of rows, from top to bottom, each (B, out, rows, W/4) and small enough for a processor's cache.

    Bilinear upsampling is one matrix for the rows and one for the columns. The columns are upsampled first, on the few
    rows that a coarse stream has; its rows are then added to the finest stream's by a product with the strip's part of
    the row matrix. The whole map at stride 4, which costs more time in memory than in arithmetic, never exists.
    """
    weights = conv.weight.split([x.shape[1] for x in streams], dim=1)
    finest = streams[0]
    height, width = finest.shape[-2:]
    coarse = []
    for x, weight in zip(streams[1:], weights[1:], strict=True):
        rows = x.shape[-2]
        wide = F.interpolate(F.conv2d(x, weight), size=(rows, width), mode="bilinear", align_corners=align_corners)
        identity = torch.eye(rows, device="cpu").view(1, rows, rows, 1)  # its values are read below
        matrix = F.interpolate(identity, size=(height, 1), mode="bilinear", align_corners=align_corners)
        coarse.append((wide.permute(0, 2, 3, 1).flatten(2), matrix[0, :, :, 0].T))  # (B, rows, W * out), (H, rows)
    step = max(MIN_ROWS, STRIP_BYTES * height // mixed_bytes(conv, finest))
    for top in range(0, height, step):
        strip = F.conv2d(finest[:, :, top : top + step], weights[0], conv.bias).permute(0, 2, 3, 1)
        total = strip.flatten(2)
        for wide, matrix in coarse:
            part = matrix[top : top + step]
            used = part.any(dim=0).nonzero()
            first, last = int(used[0]), int(used[-1]) + 1
            part = part[:, first:last].to(wide).expand(len(wide), -1, -1)
            total = torch.baddbmm(total, part, wide[:, first:last])
        yield total.view(strip.shape).permute(0, 3, 1, 2)


def fits_in_cache(conv: nn.Conv2d, finest: Tensor) -> bool:
    """Whether the map that `mix` makes is no larger than a strip."""
    return mixed_bytes(conv, finest) <= STRIP_BYTES


def mixed_bytes(conv: nn.Conv2d, finest: Tensor) -> int:
    """Size of what `mix` makes of streams with this finest one."""
    return conv.out_channels * finest[:, 0].numel() * finest.element_size()

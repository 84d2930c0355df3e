"""A trained network, rewritten to give the same faster: folded batch norms, fused convolutions, regrouped exchanges.

The identities used are exact (no approximation, no quantisation); only the order of additions changes.
Use: `fast = for_inference(task_or_hrnet)`, then `with torch.inference_mode(): fast(images)`.
"""

from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hrnet.backbone import BasicBlock, Bottleneck, ConvBN, ExchangeUnit, HRNet

# The library's own operators are private to torch: where a version has others, the plain operations serve.
OPERATORS = ("_reorder_convolution_weight", "_convolution_pointwise", "_convolution_pointwise_")
HAS_OPERATORS = all(hasattr(torch.ops.mkldnn, name) for name in OPERATORS)

KEPT_SHAPES = 2
"""Shapes of maps for which a layer keeps its weights packed, a copy each: those of a batch, and of a loader's last."""


def for_inference(module: nn.Module) -> nn.Module:
    """A copy of `module` for evaluation alone; `module` itself is left as it is.

    The copy is in eval mode, needs no gradients and is channels_last (images of either memory format are welcome,
    outputs are channels_last). Outputs agree to about 1e-5 of their size. Weights cannot be loaded into the copy:
    load them first.

    Args:
        module: An HRNet, or any module that holds one, such as a task. In its other parts our blocks are rewritten too,
            and batch norms folded where they follow a convolution in an `nn.Sequential`.
    """
    fast = deepcopy(module).eval().requires_grad_(False)
    for part in list(fast.modules()):
        if isinstance(part, HRNet):
            _rewrite_backbone(part)
    for part in list(fast.modules()):
        _rewrite_head(part)
    return fast.to(memory_format=torch.channels_last)


def _rewrite_backbone(hrnet: HRNet) -> None:
    for name, child in list(hrnet.named_children()):
        setattr(hrnet, name, _fused(child))
    for conv, norm in (("conv1", "bn1"), ("conv2", "bn2")):
        folded = fuse_conv_bn_eval(getattr(hrnet, conv), getattr(hrnet, norm))
        setattr(hrnet, conv, FusedConv(folded, relu=True))
    for idle in ("bn1", "bn2", "relu"):
        setattr(hrnet, idle, nn.Identity())


def _rewrite_head(part: nn.Module) -> None:
    for name, child in list(part.named_children()):
        if isinstance(child, (ConvBN, BasicBlock, Bottleneck)):
            setattr(part, name, _fused(child, overwrite=False))
    if isinstance(part, nn.Sequential):
        for first, second in list(pairwise(part._modules)):
            conv, layer = part._modules[first], part._modules[second]
            owner, name = (layer, "0") if isinstance(layer, nn.Sequential) else (part, second)
            norm = owner._modules.get(name)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, _BatchNorm):
                setattr(part, first, fuse_conv_bn_eval(conv, norm))
                setattr(owner, name, nn.Identity())


def _fused(part: nn.Module, overwrite: bool = True) -> nn.Module:
    """Whatever `part` becomes; inside the backbone a block's input has no other reader, so it may be overwritten."""
    if isinstance(part, ConvBN):
        return FusedConv(_folded(part), relu=len(part) == 3)
    if isinstance(part, (BasicBlock, Bottleneck)):
        return FusedBlock(part, overwrite)
    if isinstance(part, ExchangeUnit):
        return RegroupedExchangeUnit(part)
    for name, child in list(part.named_children()):
        setattr(part, name, _fused(child))
    return part


def _folded(layer: ConvBN) -> nn.Conv2d:
    return fuse_conv_bn_eval(cast(nn.Conv2d, layer[0]), cast(nn.BatchNorm2d, layer[1]))


class FusedConv(nn.Module):
    """`relu(conv(x) + add)`, in one pass over the map where the processor's library (oneDNN) can, else in three.

    The sum is written into `add`: fresh memory costs a processor more than the sum. The weights are also kept in the
    library's own order, or it would reorder them at every call, which at batch 1 costs as much as a small convolution
    itself. Which order is fast depends on the shape of the maps: with one made for another shape a convolution was seen
    to take nine times as long. Compiled and exported models take the plain operations.

    Args:
        conv: With a bias.
        relu: Whether a ReLU follows.
    """

    def __init__(self, conv: nn.Conv2d, relu: bool) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.stride, self.padding = list(conv.stride), [int(size) for size in conv.padding]
        self.relu = relu
        self._packed: dict[torch.Size, Tensor] = {}

    def forward(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        """(B, in, H, W), and perhaps what to add, (B, out, H', W'), which is overwritten -> (B, out, H', W')."""
        if torch.compiler.is_compiling() or not _has_onednn(x):
            y = F.conv2d(x, self.weight, self.bias, self.stride, self.padding)
            y = y if add is None else add.add_(y)
            return y.relu_() if self.relu else y
        x = x.contiguous(memory_format=torch.channels_last)
        geometry = (self._packed_for(x.shape), self.bias, self.padding, self.stride, [1, 1], 1)
        if add is None:
            return torch.ops.mkldnn._convolution_pointwise(x, *geometry, "relu" if self.relu else "none", [], "")
        add, then = add.contiguous(memory_format=torch.channels_last), "relu" if self.relu else None
        return torch.ops.mkldnn._convolution_pointwise_.binary(add, x, *geometry, "add", 1.0, then, [], "")

    def _packed_for(self, shape: torch.Size) -> Tensor:
        """The weights as the library wants them for maps of this shape; the shapes used last are kept."""
        packed = self._packed.pop(shape, None)
        if packed is None:
            reorder = torch.ops.mkldnn._reorder_convolution_weight
            packed = reorder(self.weight, self.padding, self.stride, [1, 1], 1, list(shape))
        self._packed[shape] = packed
        if len(self._packed) > KEPT_SHAPES:
            del self._packed[next(iter(self._packed))]
        return packed

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._packed = {}  # another device, type or memory order: pack anew
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_packed": {}}  # packed weights can be neither copied nor pickled


def _has_onednn(x: Tensor) -> bool:
    onednn = torch.backends.mkldnn
    usable = onednn.is_available() and onednn.enabled and HAS_OPERATORS
    return bool(x.device.type == "cpu" and x.dtype == torch.float32 and usable)


class FusedBlock(nn.Module):
    """A BasicBlock or Bottleneck whose every step is one FusedConv: (B, in, H, W) -> (B, out, H, W).

    Args:
        block: In eval mode, not folded yet.
        overwrite: Whether the sum over an identity shortcut may be written into the input.
    """

    def __init__(self, block: BasicBlock | Bottleneck, overwrite: bool) -> None:
        super().__init__()
        names = ("1", "2", "3") if isinstance(block, Bottleneck) else ("1", "2")
        pairs = [(getattr(block, f"conv{i}"), getattr(block, f"bn{i}")) for i in names]
        self.convs = nn.ModuleList(FusedConv(fuse_conv_bn_eval(conv, norm), relu=True) for conv, norm in pairs)
        self.shortcut = _fused(block.downsample) if isinstance(block, Bottleneck) else nn.Identity()
        self.overwrite = overwrite

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W), which may be overwritten -> (B, out, H, W)."""
        *before, last = self.convs
        y, add = x, self.shortcut(x)
        for conv in before:
            y = conv(y)
        return last(y, add=add.clone() if add is x and not self.overwrite else add)


class RegroupedExchangeUnit(nn.Module):
    """An exchange unit that computes the same in fewer, larger steps.

    - The 1x1 convolutions that leave one stream read the same map, so they are one convolution with more outputs; so
      are the first 3x3 convolutions of the paths towards coarser streams.
    - Nearest upsampling telescopes, up2(a) + up4(b) + up8(c) = up2(a + up2(b + up2(c))), and acts on each channel
      alone: what rises from one stream to the next is upsampled once, for all the streams it goes to.
    - The streams have no other reader, so sums are made in place.
    """

    def __init__(self, unit: ExchangeUnit) -> None:
        super().__init__()
        outputs = len(unit.fuse_layers)
        paths: list[Any] = list(unit.fuse_layers)
        rising = [[_folded(paths[t][s]) for t in range(min(s, outputs))] for s in range(1, len(unit.branches))]
        sinking = [[paths[t][s] for t in range(s + 1, outputs)] for s in range(outputs - 1)]
        first = [[_folded(path[0]) for path in group] for group in sinking]
        self.branches = cast(nn.ModuleList, _fused(unit.branches))
        self.outputs, self.mode, self.align_corners = outputs, unit.mode, unit.align_corners
        self.rise = nn.ModuleList(_merged(convs) for convs in rising)
        self.sink = nn.ModuleList(_merged(convs) for convs in first)
        self.sink_on = nn.ModuleList(nn.ModuleList(_fused(path[1:]) for path in group[1:]) for group in sinking)
        self.rise_widths = [[conv.out_channels for conv in convs] for convs in rising]
        self.sink_widths = [[conv.out_channels for conv in convs] for convs in first]

    def forward(self, streams: list[Tensor]) -> list[Tensor]:
        """List of (B, C_i, H_i, W_i), which are overwritten -> list of the same shapes, `outputs` long."""
        streams = [branch(x) for branch, x in zip(self.branches, streams, strict=True)]
        risen = [conv(x) for conv, x in zip(self.rise, streams[1:], strict=True)]
        sunk = [conv(x) for conv, x in zip(self.sink, streams, strict=False)]
        totals = streams[: self.outputs]
        self._add_sunk(totals, sunk)
        if self.mode == "nearest":
            self._add_risen_telescoped(totals, risen)
        else:
            self._add_risen(totals, risen)
        return [total.relu_() for total in totals]

    def _add_sunk(self, totals: list[Tensor], sunk: list[Tensor]) -> None:
        for source, (merged, widths, paths) in enumerate(zip(sunk, self.sink_widths, self.sink_on, strict=True)):
            nearest, *further = merged.split(widths, dim=1)
            totals[source + 1].add_(nearest)
            for target, (part, path) in enumerate(zip(further, cast(nn.ModuleList, paths), strict=True), source + 2):
                *before, last = cast(nn.Sequential, path)
                x = F.relu(part)
                for conv in before:
                    x = conv(x)
                totals[target] = last(x, add=totals[target])

    def _add_risen_telescoped(self, totals: list[Tensor], risen: list[Tensor]) -> None:
        for source in range(len(risen), 0, -1):
            upsampled = F.interpolate(risen[source - 1], scale_factor=2.0, mode="nearest")
            passing = sum(self.rise_widths[source - 1][: source - 1])
            if passing:
                risen[source - 2].add_(upsampled[:, :passing])
            if source <= self.outputs:
                totals[source - 1].add_(upsampled[:, passing:])

    def _add_risen(self, totals: list[Tensor], risen: list[Tensor]) -> None:
        for x, widths in zip(risen, self.rise_widths, strict=True):
            for total, part in zip(totals, x.split(widths, dim=1), strict=False):
                size = total.shape[-2:]
                total.add_(F.interpolate(part, size=size, mode=self.mode, align_corners=self.align_corners))


def _merged(convs: list[nn.Conv2d]) -> FusedConv:
    """One convolution whose outputs are those of `convs`, concatenated; they must differ in output channels only."""
    merged = deepcopy(convs[0])
    merged.weight = nn.Parameter(torch.cat([conv.weight for conv in convs]), requires_grad=False)
    merged.bias = nn.Parameter(torch.cat([conv.bias for conv in convs if conv.bias is not None]), requires_grad=False)
    return FusedConv(merged, relu=False)

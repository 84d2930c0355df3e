"""Heads: what turns the streams of HRNet into heatmaps, class maps or class scores (TPAMI 2020, Section 3.4, Figure 4).

Parameter names below each head are those of the official repositories, so published heads load by name.
Use: `logits = SegmentationHead(backbone.channels, num_classes=19)(backbone(images))`.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrnet.backbone import Bottleneck, ConvBN
from hrnet.representations import HRNetV2, fits_in_cache, mix, mixed_strips


class KeypointHead(nn.Conv2d):
    """HRNetV1 map -> raw heatmaps: one 1x1 convolution, (B, in_channels, h, w) -> (B, num_keypoints, h, w).

    Args:
        in_channels: Channels of the finest stream, `HRNet.channels[0]`.
        num_keypoints: Heatmaps, one a key point.
    """

    bias: nn.Parameter

    def __init__(self, in_channels: int, num_keypoints: int) -> None:
        super().__init__(in_channels, num_keypoints, 1)
        # The published recipe: heatmaps start near zero, which most of every target is.
        nn.init.normal_(self.weight, std=0.001)
        nn.init.zeros_(self.bias)


class SegmentationHead(nn.Sequential):
    """Streams -> class scores at stride 4: 1x1 convolution over HRNetV2, batch norm, ReLU, 1x1 convolution.

    Also the head of facial landmarks, with one heatmap a landmark. The first convolution is applied to each stream at
    its own size, which is equal by linearity; evaluated on a CPU, large maps are finished strip by strip, in its cache,
    so that no map of all channels at stride 4 exists.

    Args:
        channels: Channels of the streams, `HRNet.channels`.
        num_classes: Channels of the output.
        align_corners: How the streams are upsampled, see `HRNet`; say the same as for the backbone.
    """

    def __init__(self, channels: list[int], num_classes: int, *, align_corners: bool = False) -> None:
        width = sum(channels)
        super().__init__(
            nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Conv2d(width, num_classes, 1)
        )
        self.align_corners = align_corners

    def forward(self, streams: list[Tensor]) -> Tensor:
        """List of (B, C_i, H/2^(i+2), W/2^(i+2)) -> raw scores (B, num_classes, H/4, W/4)."""
        conv = cast(nn.Conv2d, self[0])
        whole = self.training or torch.compiler.is_compiling()  # batch statistics; a compiler fuses by itself
        cached = streams[0].device.type in ("cpu", "meta")  # on meta tensors a CPU's work is counted
        if whole or not cached or fits_in_cache(conv, streams[0]):
            return self._classify(mix(conv, streams, self.align_corners))
        strips = mixed_strips(conv, streams, self.align_corners)
        return torch.cat([self._classify(strip) for strip in strips], dim=2)

    def _classify(self, mixed: Tensor) -> Tensor:
        return self[3](self[2](self[1](mixed)))


class OCRHead(nn.Module):
    """Streams -> class scores through object-contextual representations (Yuan et al., ECCV 2020).

    A first, coarse segmentation says where each class is; the mean feature of each such region describes the class in
    this image; every pixel then attends to these descriptions.

    Args:
        channels: Channels of the streams, `HRNet.channels`.
        num_classes: Channels of the output.
        mid_channels: Channels of the pixel features.
        key_channels: Channels of queries, keys and values. For small variants 256 and 128 do.
        dropout: Probability to drop a channel before the last convolution.
        align_corners: How the streams are upsampled, see `HRNet`; say the same as for the backbone.
    """

    def __init__(
        self,
        channels: list[int],
        num_classes: int,
        *,
        mid_channels: int = 512,
        key_channels: int = 256,
        dropout: float = 0.05,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.concatenate = HRNetV2(align_corners)
        self.conv3x3_ocr = nn.Sequential(
            nn.Conv2d(sum(channels), mid_channels, 3, padding=1), nn.BatchNorm2d(mid_channels), nn.ReLU(inplace=True)
        )
        self.aux_head = SegmentationHead(channels, num_classes, align_corners=align_corners)
        self.ocr_distri_head = ObjectContext(mid_channels, key_channels, dropout)
        self.cls_head = nn.Conv2d(mid_channels, num_classes, 1)

    def forward(self, streams: list[Tensor]) -> tuple[Tensor, Tensor]:
        """List of (B, C_i, H/2^(i+2), W/2^(i+2)) -> (coarse, final) raw scores, both (B, num_classes, H/4, W/4).

        The coarse scores take part in the loss (weight 0.4 in the paper); the final ones are the prediction.
        """
        coarse = self.aux_head(streams)
        pixels = self.conv3x3_ocr(self.concatenate(streams))
        return coarse, self.cls_head(self.ocr_distri_head(pixels, coarse))


class ObjectContext(nn.Module):
    """Each pixel's feature joined with what it attends to among the class regions (ECCV 2020, Section 3)."""

    def __init__(self, mid_channels: int, key_channels: int, dropout: float) -> None:
        super().__init__()
        self.object_context_block = ObjectAttention(mid_channels, key_channels)
        self.conv_bn_dropout = nn.Sequential(*_conv(2 * mid_channels, mid_channels), nn.Dropout2d(dropout))

    def forward(self, pixels: Tensor, coarse: Tensor) -> Tensor:
        """Features (B, mid, h, w), coarse scores (B, K, h, w) -> (B, mid, h, w)."""
        share = coarse.flatten(2).softmax(dim=2)
        regions = torch.einsum("bkn,bcn->bck", share, pixels.flatten(2)).unsqueeze(3)
        return self.conv_bn_dropout(torch.cat([self.object_context_block(pixels, regions), pixels], dim=1))


class ObjectAttention(nn.Module):
    """Attention of pixels (queries) to class regions (keys and values), scaled by key_channels^-0.5."""

    def __init__(self, mid_channels: int, key_channels: int) -> None:
        super().__init__()
        self.f_pixel = nn.Sequential(*_conv(mid_channels, key_channels), *_conv(key_channels, key_channels))
        self.f_object = nn.Sequential(*_conv(mid_channels, key_channels), *_conv(key_channels, key_channels))
        self.f_down = nn.Sequential(*_conv(mid_channels, key_channels))
        self.f_up = nn.Sequential(*_conv(key_channels, mid_channels))

    def forward(self, pixels: Tensor, regions: Tensor) -> Tensor:
        """Features (B, mid, h, w), region features (B, mid, K, 1) -> context (B, mid, h, w)."""
        queries = self.f_pixel(pixels).flatten(2).transpose(1, 2)
        keys = self.f_object(regions).flatten(2).transpose(1, 2)
        values = self.f_down(regions).flatten(2).transpose(1, 2)
        context = F.scaled_dot_product_attention(queries, keys, values)
        return self.f_up(context.transpose(1, 2).unflatten(2, pixels.shape[-2:]))


def _conv(in_channels: int, out_channels: int) -> list[nn.Module]:
    """1x1 convolution, then batch norm and ReLU nested one level deeper, as the published names have it."""
    norm = nn.Sequential(nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))
    return [nn.Conv2d(in_channels, out_channels, 1, bias=False), norm]


class ClassificationHead(nn.Module):
    """Streams -> class scores: widened, brought down one into the next to stride 32, pooled (TPAMI 2020, HRNet-W*-C).

    Args:
        channels: Channels of the four streams, `HRNet.channels`.
        num_classes: Classes; 0 gives the 2048 pooled features instead of scores.

    Raises:
        ValueError: If there are not four streams.
    """

    def __init__(self, channels: list[int], num_classes: int = 1000) -> None:
        super().__init__()
        if len(channels) != 4:
            raise ValueError(
                f"ClassificationHead reads four streams, got channels {list(channels)}; "
                "build the backbone with multi_scale_output=True."
            )
        widths = [32, 64, 128, 256]
        outs = [width * Bottleneck.expansion for width in widths]
        self.incre_modules = nn.ModuleList(
            nn.Sequential(Bottleneck(c, width)) for c, width in zip(channels, widths, strict=True)
        )
        self.downsamp_modules = nn.ModuleList(
            _conv_with_bias(outs[i], outs[i + 1], kernel=3, stride=2) for i in range(3)
        )
        self.final_layer = _conv_with_bias(outs[3], 2048)
        self.classifier = nn.Linear(2048, num_classes) if num_classes else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, streams: list[Tensor]) -> Tensor:
        """List of (B, C_i, H/2^(i+2), W/2^(i+2)) -> raw scores (B, num_classes), or features (B, 2048)."""
        wide = [incre(x) for incre, x in zip(self.incre_modules, streams, strict=True)]
        total = wide[0]
        for down, x in zip(self.downsamp_modules, wide[1:], strict=True):
            total = x + down(total)
        return self.classifier(self.final_layer(total).mean(dim=(2, 3)))


def _conv_with_bias(in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1) -> ConvBN:
    """ConvBN whose convolution has a bias: idle before a batch norm, but the published files carry it."""
    layers = ConvBN(in_channels, out_channels, kernel, stride)
    layers[0] = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2)
    return layers

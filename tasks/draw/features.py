"""What happens inside HRNet, drawn: feature maps, streams, what an exchange unit adds up, what an output looks at.

Maps are (h, w) tensors of any range; pictures are (3, H, W) uint8, as everywhere in `draw.py`. Notebook 02 uses it.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from hrnet.backbone import ExchangeUnit
from tasks.draw.overlays import grid


def draw_map(values: Tensor, size: tuple[int, int]) -> Tensor:
    """A map as colours, dark blue its lowest value and yellow its highest, enlarged so that its pixels stay visible.

    Args:
        values: (h, w), any range; a constant map is dark blue.
        size: (height, width) of the picture in pixels.

    Returns:
        (3, height, width) uint8.
    """
    values = values.detach().float().cpu()
    spread = (values.max() - values.min()).clamp(min=torch.finfo(values.dtype).tiny)
    enlarged = F.interpolate(((values - values.min()) / spread)[None, None], size=size, mode="nearest-exact")[0, 0]
    colours = torch.from_numpy(matplotlib.colormaps["viridis"](enlarged.numpy()))[..., :3].permute(2, 0, 1)
    return (255 * colours).round().to(torch.uint8)


def draw_table(rows: Sequence[Sequence[Tensor | None]], captions: Sequence[Sequence[str]]) -> Tensor:
    """Equally large pictures in a table, each below its caption; None leaves a place empty.

    Args:
        rows: Pictures (3, H, W) uint8, as many in every row.
        captions: One a picture, cut where it is wider.

    Returns:
        (3, height, width) uint8.
    """
    shape = next(picture.shape for row in rows for picture in row if picture is not None)
    white = torch.full(shape, 255, dtype=torch.uint8)
    captioned = [
        [
            torch.cat([_caption(text, shape[-1]), white if picture is None else picture.cpu()], dim=1)
            for picture, text in pairs
        ]
        for pairs in (zip(row, texts, strict=True) for row, texts in zip(rows, captions, strict=True))
    ]
    return grid(captioned)


def draw_streams(streams: Sequence[Tensor], size: tuple[int, int], channels: int = 6) -> Tensor:
    """A row a stream: its mean over the channels, then the channels that vary most over the image.

    Args:
        streams: Of one image, each (C_i, H_i, W_i), finest first.
        size: (height, width) of each map's picture, pixels.
        channels: How many of them are shown.

    Returns:
        (3, height, width) uint8.
    """
    rows, captions = [], []
    for number, stream in enumerate(streams):
        stream = stream.detach()
        chosen = stream.flatten(1).std(1).topk(min(channels, len(stream))).indices.tolist()
        rows.append([draw_map(x, size) for x in (stream.mean(0), *stream[chosen])])
        shape = "x".join(str(side) for side in stream.shape)
        captions.append([f"stream {number}: {shape}", *(f"channel {k}" for k in chosen)])
    return draw_table(rows, captions)


@torch.no_grad()
def exchange_terms(unit: ExchangeUnit, streams: Sequence[Tensor]) -> list[list[Tensor]]:
    """What an exchange unit adds up: `terms[target][source]`, (B, C_target, H_target, W_target).

    The unit's output is `relu(sum(terms[target]))`, for any of its outputs.

    Args:
        unit: In evaluation mode, or its batch norms move.
        streams: What it is given, each (B, C_i, H_i, W_i), finest first.
    """
    streams = [branch(x) for branch, x in zip(unit.branches, streams, strict=True)]
    terms = []
    ways: list[Any] = list(unit.fuse_layers)
    for target, paths in enumerate(ways):
        arriving = [path(x) for path, x in zip(paths, streams, strict=True)]
        size = streams[target].shape[-2:]
        options: dict[str, Any] = {"mode": unit.mode, "align_corners": unit.align_corners}
        terms.append([x if x.shape[-2:] == size else F.interpolate(x, size=size, **options) for x in arriving])
    return terms


def draw_exchange(unit: ExchangeUnit, streams: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """A row a target stream: what each source contributes (mean over channels of its absolute value), then the output.

    Args:
        unit: In evaluation mode.
        streams: What it is given for one image, each (1, C_i, H_i, W_i), finest first.
        size: (height, width) of each map's picture, pixels.

    Returns:
        (3, height, width) uint8.
    """
    rows, captions = [], []
    for target, terms in enumerate(exchange_terms(unit, streams)):
        strength = [term[0].abs().mean(0) for term in terms]
        total = sum(terms[1:], terms[0])[0].relu().mean(0)
        rows.append([draw_map(x, size) for x in (*strength, total)])
        means = torch.stack(strength).flatten(1).mean(1)
        shares = (100 * means / means.sum()).round().int().tolist()
        captions.append(
            [f"{source} to {target}: {share} %" for source, share in enumerate(shares)] + [f"output {target}"]
        )
    return draw_table(rows, captions)


def _caption(text: str, width: int) -> Tensor:
    strip = Image.new("RGB", (width, 18), "white")
    ImageDraw.Draw(strip).text((3, 1), text, fill="black", font=ImageFont.load_default(12))
    return pil_to_tensor(strip)

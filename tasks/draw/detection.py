"""Detections drawn: boxes and masks in the colours of their classes, truth beside prediction, and layers for W&B.

Boxes are edges: one that covers the columns 3 to 5 reaches from 3 to 6. Images are (3, H, W) uint8 RGB.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from tasks.draw.overlays import class_colours, draw_legend, grid
from tasks.draw.pictures import IGNORED, Box, Layers, Panel
from tasks.metrics.masks import paste_masks

SHOWN = 0.3  # score from which on a detection is drawn
SIDE = 384  # pixels of the longer side of a picture among others
Colour = tuple[int, int, int]


def draw_boxes(
    image: Tensor,
    boxes: Tensor | np.ndarray,
    colours: Sequence[Colour],
    captions: Sequence[str] | None = None,
    masks: Iterable[Tensor | np.ndarray] = (),
) -> Tensor:
    """Boxes over an image, the first on top.

    Args:
        image: (3, H, W) uint8.
        boxes: (N, 4) x1, y1, x2, y2, edges in pixels of the image.
        colours: (N,) (r, g, b), 0 to 255.
        captions: (N,) text at the upper left corner of each.
        masks: N or none of (H, W) bool, painted in the same colours; they are taken one by one.

    Returns:
        (3, H, W) uint8.
    """
    image = _painted(image.cpu(), masks, colours)
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    pen, width = ImageDraw.Draw(picture), max(1, max(picture.size) // 400)
    font = ImageFont.load_default(max(10, max(picture.size) // 50))
    rows = list(zip(np.asarray(boxes).tolist(), colours, captions or [""] * len(boxes), strict=True))
    for (x1, y1, x2, y2), colour, caption in reversed(rows):
        # The last pixel inside, where Pillow's rectangles end.
        corner = max(round(x1), round(x2) - 1), max(round(y1), round(y2) - 1)
        pen.rectangle((round(x1), round(y1), *corner), outline=colour, width=width)
        if caption:
            _write(pen, caption, (x1, y1), colour, font, picture.size)
    return pil_to_tensor(picture)


def _painted(image: Tensor, masks: Iterable[Tensor | np.ndarray], colours: Sequence[Colour]) -> Tensor:
    """A copy of the image with masks half transparent, the first on top."""
    picture, free = image.clone(), torch.ones(image.shape[1:], dtype=torch.bool)
    for mask, colour in zip(masks, colours, strict=False):
        here = torch.as_tensor(mask) & free
        free &= ~here
        mixed = (image[:, here].float() + torch.tensor(colour)[:, None]) / 2
        picture[:, here] = mixed.round().to(torch.uint8)
    return picture


def _write(
    pen: ImageDraw.ImageDraw,
    text: str,
    place: tuple[float, float],
    colour: Colour,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: tuple[int, int],
) -> None:
    """A caption above a place, or below where there is no room, on the colour, within the picture."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left + 4, bottom - top + 3
    x = min(max(place[0], 0), max(size[0] - width, 0))
    y = place[1] - height if place[1] >= height else min(max(place[1], 0), max(size[1] - height, 0))
    pen.rectangle((x, y, x + width, y + height), fill=colour)
    bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
    pen.text((x + 2 - left, y + 1 - top), text, fill="black" if bright else "white", font=font)


def draw_detection(
    images: Tensor,
    batch: Mapping[str, Any],
    predictions: Mapping[str, Sequence[Tensor]],
    names: Sequence[str],
    *,
    threshold: float = SHOWN,
    image_ids: Sequence[Any] | None = None,
) -> Panel:
    """Truth above prediction, a sample a column, above a legend of the classes that occur, with layers for W&B.

    Args:
        images: (N, 3, H, W) uint8, the first of the batch.
        batch: With `boxes`, `labels`, `to_image`, `image_id` and perhaps `masks`, see the batch table.
        predictions: `boxes` in original pixels, `scores`, `labels` and perhaps `masks`, see `DetectionTask.predict`.
        names: (K,) of the classes.
        threshold: Detections with a lower score are not drawn.
        image_ids: Of the images, as captions have them; those of the batch when not given.
    """
    palette, size = class_colours(len(names)), (images.shape[-2], images.shape[-1])
    truths = [_truth(batch, i) for i in range(len(images))]
    founds = [_found(predictions, batch["to_image"][i], i, threshold, size) for i in range(len(images))]
    scale = SIDE / max(size)
    small = (max(1, round(scale * size[0])), max(1, round(scale * size[1])))
    pictures = F.interpolate(images.cpu().float(), size=small, mode="bilinear", antialias=True).round().byte()
    rows = [
        [_drawn(picture, row, palette, names, scale) for picture, row in zip(pictures, drawn, strict=True)]
        for drawn in (truths, founds)
    ]
    picture = grid(rows, ["truth", f"prediction: what scores at least {threshold}"])
    occurring = sorted({label for row in (*truths, *founds) for label in row["labels"].tolist()})
    if occurring:
        legend = draw_legend([names[k] for k in occurring], [palette[k] for k in occurring], picture.shape[-1])
        picture = torch.cat([picture, legend], dim=1)
    ids = batch["image_id"].tolist() if image_ids is None else image_ids
    rows_of = zip(images.cpu(), truths, founds, ids, strict=False)
    return Panel(picture, [_layers(image, truth, found, f"image {i}", names) for image, truth, found, i in rows_of])


def in_input(boxes: Tensor, to_image: Tensor) -> Tensor:
    """Boxes (N, 4), edges in original pixels, in those of the input: the way back of `to_image` (2, 3)."""
    matrix = to_image.double().cpu()
    corners = boxes.double().cpu().view(-1, 2, 2) - 0.5 - matrix[:, 2]
    found = torch.linalg.solve(matrix[:, :2], corners.transpose(1, 2)).transpose(1, 2) + 0.5
    low, high = found.amin(1), found.amax(1)  # a mirrored image exchanges the corners
    return torch.cat([low, high], dim=1).float()


def _truth(batch: Mapping[str, Any], index: int) -> dict[str, Tensor]:
    rows = {key: batch[key][index].cpu() for key in ("boxes", "labels", "masks") if key in batch}
    return rows | {"scores": torch.ones(len(rows["labels"]))}


def _found(
    predictions: Mapping[str, Sequence[Tensor]], to_image: Tensor, index: int, threshold: float, size: tuple[int, int]
) -> dict[str, Tensor]:
    """Detections of an image that are drawn, in pixels of the input."""
    keys = [key for key in ("boxes", "scores", "labels", "masks") if key in predictions]
    shown = predictions["scores"][index].cpu() >= threshold
    rows = {key: predictions[key][index].cpu()[shown] for key in keys}
    rows["boxes"] = in_input(rows["boxes"], to_image)
    if "masks" in rows:
        rows["masks"] = torch.from_numpy(paste_masks(rows["masks"].float().numpy(), rows["boxes"].numpy(), size))
    return rows


def _drawn(
    picture: Tensor, row: Mapping[str, Tensor], palette: Sequence[Colour], names: Sequence[str], scale: float
) -> Tensor:
    labels, scores = row["labels"].tolist(), row["scores"].tolist()
    captions = [f"{names[k]} {s:.2f}" if s < 1 else names[k] for k, s in zip(labels, scores, strict=True)]
    masks = row.get("masks", torch.zeros(0, *picture.shape[1:]))
    if len(masks):
        masks = F.interpolate(masks[None].float(), size=picture.shape[1:], mode="nearest")[0]
    return draw_boxes(picture, row["boxes"] * scale, [palette[k] for k in labels], captions, masks > 0)


def _layers(
    image: Tensor, truth: Mapping[str, Tensor], found: Mapping[str, Tensor], caption: str, names: Sequence[str]
) -> Layers:
    """The input with the boxes of both, and their masks as classes of pixels, the best on top."""
    both = {"truth": truth, "prediction": found}
    boxes = {layer: _boxes(row) for layer, row in both.items()}
    masks = {
        layer: _classes(row["masks"], row["labels"], image.shape[-2:]) for layer, row in both.items() if "masks" in row
    }
    return Layers(image, caption, names, masks=masks, boxes=boxes)


def _boxes(row: Mapping[str, Tensor]) -> list[Box]:
    columns = (row["boxes"].tolist(), row["labels"].tolist(), row["scores"].tolist())
    return [Box(x1, y1, x2, y2, label, score) for (x1, y1, x2, y2), label, score in zip(*columns, strict=True)]


def _classes(masks: Tensor, labels: Tensor, size: Sequence[int]) -> Tensor:
    """(H, W) class of each pixel, 255 where nothing is."""
    classes = torch.full(tuple(size), IGNORED, dtype=torch.int64)
    for mask, label in zip(masks.flip(0), labels.flip(0).tolist(), strict=True):
        classes[mask] = label
    return classes

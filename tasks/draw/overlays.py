"""Everything that is drawn: skeletons, heatmaps, masks, grids of pictures, tables; `pictures.py` says where it is kept.

Images are (3, H, W) uint8 RGB, in and out, so that W&B, notebooks and files share the same functions.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor
from torchvision.utils import make_grid

SIDES = {"left": (255, 140, 26), "right": (46, 134, 255)}
MIDDLE = (53, 199, 89)
NAME_HEIGHT = 16
"""Pixels from one name to the next below it."""


def draw_pose(
    image: Tensor,
    keypoints: Tensor,
    shown: Tensor,
    skeleton: Mapping[str, Any],
    scale: int = 2,
    names: bool = False,
) -> Tensor:
    """Skeleton of one person over an image: the person's left orange, right blue, middle green.

    Args:
        image: (3, H, W) uint8.
        keypoints: (K, 2) x, y in pixels of the image.
        shown: (K,) which of them are drawn (non-zero).
        skeleton: With `limbs`, pairs joined by a line where both ends are shown, and `names`.
        scale: The picture is enlarged so many times first, so that lines stay thin.
        names: Write the names of key points beside them, of as many as can be read; `draw_keypoint_names` has room
            for all.

    Returns:
        (3, scale * H, scale * W) uint8.
    """
    picture = F.interpolate(image[None], scale_factor=scale, mode="nearest")[0].permute(1, 2, 0).cpu().numpy().copy()
    # cv2 takes fixed-point coordinates with four binary digits here; a pixel's centre stays its centre when enlarged.
    points = (((keypoints.detach().double().cpu() + 0.5) * scale - 0.5) * 16).round().int().tolist()
    visible = (shown > 0).tolist()
    colours = side_colours(skeleton["names"])
    width = max(1, picture.shape[1] // 90)
    if sum(visible) > 20:  # else the points of a hand or a bee hide each other
        width = max(1, width // 2)
    for a, b in skeleton["limbs"]:
        if visible[a] and visible[b]:
            colour = colours[a] if colours[a] == colours[b] else MIDDLE
            cv2.line(picture, points[a], points[b], colour, width, cv2.LINE_AA, shift=4)
    for point, colour, there in zip(points, colours, visible, strict=True):
        if there:
            cv2.circle(picture, point, (width + 1) * 16, colour, -1, cv2.LINE_AA, shift=4)
            cv2.circle(picture, point, (width + 1) * 16, (20, 20, 20), 1, cv2.LINE_AA, shift=4)
    if names:
        places = [(x / 16, y / 16) for x, y in points]
        shown_names = zip(places, skeleton["names"], visible, strict=True)
        return _with_names(picture, [(place, name) for place, name, there in shown_names if there], width)
    return torch.from_numpy(picture).permute(2, 0, 1)


def side_colours(names: Sequence[str]) -> list[tuple[int, int, int]]:
    """(r, g, b) of each key point: the side of the body that its name says."""
    return [next((colour for side, colour in SIDES.items() if side in name), MIDDLE) for name in names]


def _with_names(picture: np.ndarray, named: list[tuple[tuple[float, float], str]], width: int) -> Tensor:
    """Names beside points, to the right or else to the left, where neither another name nor a point is hidden."""
    written = Image.fromarray(picture)
    pen, font = ImageDraw.Draw(written), ImageFont.load_default(10)
    points = [(x - width, y - width, x + width, y + width) for (x, y), _ in named]
    texts: list[tuple[float, ...]] = []
    for i, ((x, y), name) in enumerate(named):
        length = font.getlength(name)
        for left in (x + width + 3, x - width - 3 - length):
            box = (left, y - 5, left + length, y + 5)
            free = not any(_overlap(box, other) for other in (*texts, *points[:i], *points[i + 1 :]))
            if free and 0 <= left <= picture.shape[1] - length:
                pen.text((left, y), name, fill="white", font=font, anchor="lm", stroke_width=1, stroke_fill="black")
                texts.append(box)
                break
    return pil_to_tensor(written)


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def draw_keypoint_names(image: Tensor, keypoints: Tensor, shown: Tensor, skeleton: Mapping[str, Any]) -> Tensor:
    """An enlarged copy with the name of every key point that is shown, in margins to the left and right.

    Args:
        image: (3, H, W) uint8.
        keypoints: (K, 2) x, y in pixels of the image.
        shown: (K,) which of them are drawn (non-zero).
        skeleton: With `limbs` and `names`.

    Returns:
        (3, height, width) uint8; high enough for half of the names in a column.
    """
    here = (shown > 0).nonzero().flatten().tolist()
    lines = -(-len(here) // 2)
    scale = max(1, math.ceil(max(400, NAME_HEIGHT * (lines + 1)) / image.shape[-2]))
    picture = draw_pose(image, keypoints, shown, skeleton, scale)
    places = ((keypoints.detach().float().cpu() + 0.5) * scale - 0.5).tolist()
    font = ImageFont.load_default(13)
    margin = 24 + math.ceil(max((font.getlength(skeleton["names"][k]) for k in here), default=0))
    sheet = Image.new("RGB", (picture.shape[-1] + 2 * margin, picture.shape[-2]), "white")
    sheet.paste(Image.fromarray(picture.permute(1, 2, 0).numpy()), (margin, 0))
    pen, colours = ImageDraw.Draw(sheet), side_colours(skeleton["names"])
    by_side = sorted(here, key=lambda k: places[k][0])
    for column, left in ((by_side[: len(here) // 2], True), (by_side[len(here) // 2 :], False)):
        column = sorted(column, key=lambda k: places[k][1])
        for k, y in zip(column, _spread([places[k][1] for k in column], sheet.height), strict=True):
            edge = margin - 8 if left else sheet.width - margin + 8
            point = (places[k][0] + margin, places[k][1])
            pen.line([(edge, y), point], fill=colours[k], width=1)
            pen.ellipse([point[0] - 2, point[1] - 2, point[0] + 2, point[1] + 2], fill=colours[k], outline="black")
            text = edge - 4 if left else edge + 4
            pen.text((text, y), skeleton["names"][k], fill="black", font=font, anchor="rm" if left else "lm")
    return pil_to_tensor(sheet)


def _spread(wanted: Sequence[float], height: int) -> list[float]:
    """Ascending places near the wanted ones, a line of text apart, within the height."""
    places: list[float] = []
    for y in wanted:
        places.append(max(y, places[-1] + NAME_HEIGHT if places else NAME_HEIGHT / 2))
    lowest = height - NAME_HEIGHT / 2
    for i in reversed(range(len(places))):
        places[i] = min(places[i], lowest)
        lowest = places[i] - NAME_HEIGHT
    return places


def draw_heatmaps(image: Tensor, heatmaps: Tensor, scale: int = 2) -> Tensor:
    """Maximum over the key points, as colour over the darkened image.

    Args:
        image: (3, H, W) uint8.
        heatmaps: (K, h, w), about 0 to 1.
        scale: As in `draw_pose`.

    Returns:
        (3, scale * H, scale * W) uint8.
    """
    size = (image.shape[-2] * scale, image.shape[-1] * scale)
    strength = heatmaps.detach().float().cpu().amax(0).clamp(0, 1)
    strength = F.interpolate(strength[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
    colours = torch.from_numpy(matplotlib.colormaps["inferno"](strength.numpy()))[..., :3].permute(2, 0, 1) * 255
    below = F.interpolate(image[None].cpu().float(), size=size, mode="nearest")[0]
    return (0.35 * below + 0.65 * colours).clamp(0, 255).to(torch.uint8)


def grid(rows: Sequence[Sequence[Tensor]], captions: Sequence[str] | None = None) -> Tensor:
    """Rows of equally large (3, H, W) pictures -> one picture, a sample a column; rows stand below their captions."""
    if captions is None:
        return make_grid([picture for row in rows for picture in row], nrow=len(rows[0]), padding=2)
    parts = [make_grid(list(row), nrow=len(row), padding=2) for row in rows]
    captioned = [(draw_caption(text, part.shape[-1]), part) for text, part in zip(captions, parts, strict=True)]
    return torch.cat([picture for pair in captioned for picture in pair], dim=1)


def draw_caption(text: str, width: int) -> Tensor:
    """Black on white, in as many lines as it needs at that width: (3, height, width) uint8."""
    size = 14 * max(1, width // 1280)
    font = ImageFont.load_default(size)
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width - size or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    strip = Image.new("RGB", (width, round(1.3 * size * len(lines)) + 6), "white")
    ImageDraw.Draw(strip).multiline_text((size // 2, 2), "\n".join(lines), fill="black", font=font)
    return pil_to_tensor(strip)


def beside(pictures: Sequence[Tensor]) -> Tensor:
    """Pictures (3, H, W) uint8 of any sizes in a row, white below those that are less high."""
    height = max(picture.shape[-2] for picture in pictures)
    return torch.cat([F.pad(p, (0, 0, 0, height - p.shape[-2]), value=255) for p in pictures], dim=2)


def printable(name: str) -> str:
    """A name with escapes for what neither terminals show nor fonts have, such as half a character."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


class PlainConsole(Console):
    """Shows texts as they are: names of classes may hold what rich or a terminal would obey (`[/red]`, escapes)."""

    def render_str(self, text: str, **options: Any) -> Text:
        """A text without markup."""
        lines = "\n".join(map(printable, text.split("\n")))
        return super().render_str(lines, **(options | {"markup": False, "emoji": False}))


def print_tables(*tables: Table) -> None:
    """Print to the terminal, or as plain text where there is none."""
    console = PlainConsole()
    for table in tables:
        console.print(table)


# Segmentation


def class_colours(count: int) -> list[tuple[int, int, int]]:
    """(r, g, b), 0 to 255, of so many classes; neighbours differ clearly."""
    turn = torch.arange(count) * 0.618034 % 1  # the golden section spreads any number of hues evenly
    value = 1 - 0.15 * (torch.arange(count) % 3)
    colours = matplotlib.colors.hsv_to_rgb(torch.stack([turn, torch.full((count,), 0.75), value], dim=1).numpy())
    return [(int(r), int(g), int(b)) for r, g, b in (255 * colours).round()]


def draw_mask(image: Tensor, mask: Tensor, palette: Sequence[Sequence[int]], opacity: float = 0.6) -> Tensor:
    """Classes as colours over an image.

    Args:
        image: (3, H, W) uint8.
        mask: (H, W) int, classes; other labels, such as the ignored 255, leave the image, darkened.
        palette: (r, g, b), 0 to 255, of each class.
        opacity: Of the colours, 0 to 1.

    Returns:
        (3, H, W) uint8.
    """
    black = [[0, 0, 0]] * (256 - len(palette))
    colours = torch.tensor([*(list(colour) for colour in palette), *black], dtype=torch.float32)
    painted = colours[mask.long().cpu()].permute(2, 0, 1)
    return (opacity * painted + (1 - opacity) * image.cpu()).round().to(torch.uint8)


def draw_errors(image: Tensor, mask: Tensor, labels: Tensor, ignored: int = 255) -> Tensor:
    """Where the predicted `labels` differ from the true `mask`, both (H, W): red over the grey image.

    Ignored pixels are darkened. Image and result are (3, H, W) uint8.
    """
    grey = (0.5 * image.cpu().float().mean(0, keepdim=True)).expand(3, -1, -1)
    mask, labels = mask.cpu(), labels.cpu()
    shown = torch.where((mask == ignored), 0.4 * grey, grey)
    red = torch.tensor([255.0, 40.0, 40.0]).view(3, 1, 1)
    return torch.where((mask != labels) & (mask != ignored), red, shown).round().to(torch.uint8)


def draw_legend(names: Sequence[str], palette: Sequence[Sequence[int]], width: int) -> Tensor:
    """A coloured square and the name of each class, in rows of `width` pixels: (3, height, width) uint8.

    Below a photo of many pixels it is larger, to be read where the photo is shown shrunk.
    """
    scale = max(1, width // 1280)
    font = ImageFont.load_default(14 * scale)
    box, line, gap, space = 12 * scale, 20 * scale, 8 * scale, 4 * scale
    places: list[tuple[float, int]] = []
    x, y = float(gap), space
    for name in names:
        needed = box + space + font.getlength(name) + gap
        if x > gap and x + needed > width:
            x, y = gap, y + line
        places.append((x, y))
        x += needed
    strip = Image.new("RGB", (width, y + line), "white")
    pen = ImageDraw.Draw(strip)
    for (x, y), name, colour in zip(places, names, palette, strict=True):
        top = y + space // 2
        pen.rectangle((x, top, x + box, top + box), fill=(colour[0], colour[1], colour[2]), outline="black")
        pen.text((x + box + space, y), name, fill="black", font=font)
    return pil_to_tensor(strip)


def draw_segmentation(
    images: Tensor,
    masks: Tensor,
    labels: Tensor,
    palette: Sequence[Sequence[int]],
    names: Sequence[str],
    side: int = 320,
) -> Tensor:
    """Rows of truth, prediction and errors, a sample a column, above a legend of the classes that occur.

    Args:
        images: (N, 3, h, w) uint8.
        masks: (N, H, W) true classes, 255 ignored.
        labels: (N, H, W) predicted classes.
        palette: (r, g, b), 0 to 255, of each class.
        names: Of the classes.
        side: Pixels of the longer side of each picture.

    Returns:
        (3, height, width) uint8.
    """
    height, width = masks.shape[-2:]
    scale = side / max(height, width)
    size = (max(1, round(scale * height)), max(1, round(scale * width)))
    pictures = F.interpolate(images.cpu().float(), size=size, mode="bilinear", antialias=True).round().to(torch.uint8)
    small = [F.interpolate(x[:, None].cpu().float(), size=size, mode="nearest")[:, 0].long() for x in (masks, labels)]
    samples = list(zip(pictures, *small, strict=True))
    rows = [
        [draw_mask(image, mask, palette) for image, mask, _ in samples],
        [draw_mask(image, predicted, palette) for image, _, predicted in samples],
        [draw_errors(image, mask, predicted) for image, mask, predicted in samples],
    ]
    picture = grid(rows, ["truth", "prediction", "errors in red; ignored pixels are dark"])
    occurring = [i for i in torch.cat(small).unique().tolist() if i < len(names)]
    legend = draw_legend([names[i] for i in occurring], [palette[i] for i in occurring], picture.shape[-1])
    return torch.cat([picture, legend], dim=1)


# Classification


def draw_labels(images: Tensor, captions: Sequence[Sequence[str]], side: int = 224) -> Tensor:
    """Images (N, 3, H, W) uint8 in a row, each above its lines of text: (3, height, width) uint8."""
    pictures = F.interpolate(images.float(), size=(side, side), mode="bilinear", antialias=True).round().to(torch.uint8)
    font = ImageFont.load_default(14)
    strips = []
    for lines in captions:
        strip = Image.new("RGB", (side, 18 * max(map(len, captions)) + 4), "white")
        ImageDraw.Draw(strip).multiline_text((4, 2), "\n".join(lines), fill="black", font=font)
        strips.append(pil_to_tensor(strip))
    return grid([[torch.cat(pair, dim=1) for pair in zip(pictures, strips, strict=True)]])


def class_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row a dict, all of the same keys; nan is shown as n/a."""
    table = Table(*(Column(name, overflow="fold") for name in rows[0]))  # nothing is cut off, such as a file's name
    for row in rows:
        values = row.values()
        table.add_row(*("n/a" if v != v else f"{v:.3f}" if isinstance(v, float) else str(v) for v in values))
    return table

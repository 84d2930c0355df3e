"""Everything that is drawn: skeletons, heatmaps, grids of pictures, tables; and where pictures are kept.

Images are (3, H, W) uint8 RGB, in and out, so that W&B, notebooks and files share the same functions.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
import wandb
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor
from torchvision.io import write_png
from torchvision.transforms.functional import pil_to_tensor
from torchvision.utils import make_grid

SIDES = {"left": (255, 140, 26), "right": (46, 134, 255)}
MIDDLE = (53, 199, 89)


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
        names: Write the name of each key point beside it.

    Returns:
        (3, scale * H, scale * W) uint8.
    """
    picture = F.interpolate(image[None], scale_factor=scale, mode="nearest")[0].permute(1, 2, 0).cpu().numpy().copy()
    # cv2 takes fixed-point coordinates with four binary digits here; a pixel's centre stays its centre when enlarged.
    points = (((keypoints.detach().double().cpu() + 0.5) * scale - 0.5) * 16).round().int().tolist()
    visible = (shown > 0).tolist()
    colours = [next((c for side, c in SIDES.items() if side in name), MIDDLE) for name in skeleton["names"]]
    width = max(1, picture.shape[1] // 90)
    for a, b in skeleton["limbs"]:
        if visible[a] and visible[b]:
            colour = colours[a] if colours[a] == colours[b] else MIDDLE
            cv2.line(picture, points[a], points[b], colour, width, cv2.LINE_AA, shift=4)
    for point, colour, there in zip(points, colours, visible, strict=True):
        if there:
            cv2.circle(picture, point, (width + 1) * 16, colour, -1, cv2.LINE_AA, shift=4)
            cv2.circle(picture, point, (width + 1) * 16, (20, 20, 20), 1, cv2.LINE_AA, shift=4)
    if not names:
        return torch.from_numpy(picture).permute(2, 0, 1)
    written = Image.fromarray(picture)
    pen, font = ImageDraw.Draw(written), ImageFont.load_default(10)
    for (x, y), name, there in zip(points, skeleton["names"], visible, strict=True):
        if there:
            place = min(x / 16 + width + 3, picture.shape[1] - font.getlength(name)), y / 16
            pen.text(place, name, fill="white", font=font, anchor="lm", stroke_width=1, stroke_fill="black")
    return pil_to_tensor(written)


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


def grid(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """Rows of equally large (3, H, W) pictures -> one picture, a sample a column."""
    return make_grid([picture for row in rows for picture in row], nrow=len(rows[0]), padding=2)


def log_pictures(pictures: dict[str, Tensor], trainer: Trainer, split: str) -> None:
    """Write pictures to `pictures/` in the run folder, and to W&B and TensorBoard if they are used."""
    folder = Path(trainer.default_root_dir) / "pictures"
    for name, picture in pictures.items():
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{split}_{name.split(' ')[0].replace('/', '_')}"
        fitting = trainer.state.fn == TrainerFn.FITTING
        moment = f"epoch{trainer.current_epoch:03d}" if fitting else "evaluated"
        write_png(picture, str(folder / f"{stem}_{moment}.png"), compression_level=3)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image(f"{split}/{name}", [picture.permute(1, 2, 0).numpy()])
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(f"{split}/{name}", picture, trainer.global_step)


def log_tables(tables: Mapping[str, list[dict[str, Any]]], trainer: Trainer, folder: Path, split: str) -> None:
    """Write each table, a dict a row, as CSV into `folder`, and to W&B if it is used.

    A (3, H, W) uint8 value is a picture: a file in `pictures/`, whose name stands in the CSV.
    """
    for name, rows in tables.items():
        stem = f"{split}_{name.replace('/', '_')}"
        columns, data = list(rows[0]), [list(row.values()) for row in rows]
        files = [
            [_picture_file(value, f"{stem}_{number:02d}", trainer) for value in row] for number, row in enumerate(data)
        ]
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{stem}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([columns, *files])
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                shown = [[_wandb_value(value) for value in row] for row in data]
                logger.log_table(f"{split}/{name}", columns=columns, data=shown)


def _picture_file(value: Any, stem: str, trainer: Trainer) -> Any:
    if not isinstance(value, Tensor):
        return value
    path = Path(trainer.default_root_dir) / "pictures" / f"{stem}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(value, str(path), compression_level=3)
    return f"pictures/{path.name}"


def _wandb_value(value: Any) -> Any:
    return wandb.Image(value.permute(1, 2, 0).numpy()) if isinstance(value, Tensor) else value


def print_tables(*tables: Table) -> None:
    """Print to the terminal, or as plain text where there is none."""
    console = Console()
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
    places, x, y = [], gap, space
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
        pen.rectangle((x, top, x + box, top + box), fill=tuple(colour), outline="black")
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
    picture = grid(rows)
    occurring = [i for i in torch.cat(small).unique().tolist() if i < len(names)]
    legend = draw_legend([names[i] for i in occurring], [palette[i] for i in occurring], picture.shape[-1])
    return torch.cat([picture, legend], dim=1)


def draw_confusion(matrix: Tensor, names: Sequence[str]) -> Tensor:
    """Confusion matrix (K, K), rows true, as shares of each true class: (3, height, width) uint8.

    Beyond 200 classes their numbers stand at the axes: names would be too small to read, and take seconds to draw.
    """
    count = len(names)
    shares = (matrix.double() / matrix.sum(1, keepdim=True).clamp(min=1)).cpu().numpy()
    inches = 12 if count > 200 else min(2.5 + 0.35 * count, 30)
    figure = Figure(figsize=(inches + 1, inches), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="prediction", ylabel="truth")
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = 8 if count <= 80 else 4
    if count <= 200:
        axes.set_xticks(range(count), names, rotation=90, fontsize=size)
        axes.set_yticks(range(count), names, fontsize=size)
    if count <= 30:
        for row, column in zip(*shares.nonzero(), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            text = f"{100 * shares[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(shown, label="share of the true class")
    canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3]).permute(2, 0, 1).contiguous()


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

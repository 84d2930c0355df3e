"""Where the pictures and tables of an evaluation are kept: files in the run folder, W&B, TensorBoard.

There is one panel for the pictures of a kind, and the samples are the same in every epoch.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch.nn.functional as F
import wandb
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torchvision.io import write_png

IGNORED = 255


class Box(NamedTuple):
    """A box in pixels of its image."""

    x1: float
    y1: float
    x2: float
    y2: float
    label: int
    score: float


class Layers(NamedTuple):
    """An image with masks and boxes over it, which W&B shows and hides by layer and by class."""

    image: Tensor
    """(3, H, W) uint8."""
    caption: str
    names: Sequence[str]
    """Of the classes."""
    masks: Mapping[str, Tensor] = {}
    """Layer -> (H, W) class of each pixel, 255 ignored."""
    boxes: Mapping[str, Sequence[Box]] = {}
    """Layer -> boxes."""


def log_pictures(
    pictures: Mapping[str, Tensor],
    trainer: Trainer,
    split: str,
    layers: Mapping[str, Sequence[Layers]] | None = None,
) -> None:
    """Write pictures to `pictures/` in the run folder, and to W&B and TensorBoard if they are used.

    Args:
        pictures: (3, H, W) uint8 by kind.
        trainer: With the loggers.
        split: That is evaluated.
        layers: By kind, shown by W&B instead of the picture.
    """
    layers = layers or {}
    folder = Path(trainer.default_root_dir) / "pictures"
    moment = f"epoch{trainer.current_epoch:03d}" if trainer.state.fn == TrainerFn.FITTING else "evaluated"
    for kind, picture in pictures.items():
        folder.mkdir(parents=True, exist_ok=True)
        write_png(picture, str(folder / f"{split}_{_stem(kind)}_{moment}.png"), compression_level=3)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(f"{split}/{kind}", picture, trainer.global_step)
            elif isinstance(logger, WandbLogger) and kind not in layers:
                logger.log_image(f"{split}/{kind}", [picture.permute(1, 2, 0).numpy()])
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            for kind, samples in layers.items():
                _log_layers(logger, f"{split}/{kind}", samples)


def _stem(kind: str) -> str:
    """Of a file's name: without what stands in parentheses."""
    return kind.split(" ")[0].replace("/", "_")


def _log_layers(logger: WandbLogger, key: str, samples: Sequence[Layers]) -> None:
    """All samples in one panel, brought to one size, which W&B asks for."""
    height, width = (max(sample.image.shape[axis] for sample in samples) for axis in (1, 2))
    images = [_padded(sample.image, height, width, 0).permute(1, 2, 0).numpy() for sample in samples]
    options: dict[str, Any] = {"caption": [sample.caption for sample in samples]}
    if any(sample.masks for sample in samples):
        options["masks"] = [_wandb_masks(sample, height, width) for sample in samples]
    if any(sample.boxes for sample in samples):
        options["boxes"] = [_wandb_boxes(sample) for sample in samples]
    logger.log_image(key, images, **options)


def _wandb_masks(sample: Layers, height: int, width: int) -> dict[str, Any]:
    labels = {**dict(enumerate(sample.names)), IGNORED: "ignored"}
    return {
        layer: {"mask_data": _padded(mask, height, width, IGNORED).numpy().astype(np.uint8), "class_labels": labels}
        for layer, mask in sample.masks.items()
    }


def _wandb_boxes(sample: Layers) -> dict[str, Any]:
    labels = dict(enumerate(sample.names))
    return {
        layer: {
            "class_labels": labels,
            "box_data": [
                {
                    "position": {"minX": box.x1, "maxX": box.x2, "minY": box.y1, "maxY": box.y2},
                    "domain": "pixel",
                    "class_id": box.label,
                    "box_caption": labels[box.label],
                    "scores": {"score": box.score},
                }
                for box in boxes
            ],
        }
        for layer, boxes in sample.boxes.items()
    }


def _padded(image: Tensor, height: int, width: int, value: int) -> Tensor:
    """(..., H, W) filled at the right and at the bottom."""
    return F.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2]), value=value)


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

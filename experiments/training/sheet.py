"""What the network sees: a sheet of augmented training samples with their labels, before the first step.

A mask that is shifted, a key point that went to the other eye when the image was mirrored, a crop beside its person: a
look at such a sheet finds in seconds what a metric shows after hours. Samples are those of the first epoch, each drawn
from its own random stream, so that drawing them changes no draw of the training.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torchvision.io import write_png

from datamodules.base import BaseDataModule
from tasks.draw import class_colours, draw_boxes, draw_caption, draw_labels, draw_legend, draw_mask, draw_pose, grid

SAMPLES = 16
COLUMNS = 8
SIDE = 224  # pixels of the longer side of a picture, about
NAME = "train_samples.png"


class TrainingSheet(Callback):
    """Writes `pictures/train_samples.png` before the first step; a run that goes on keeps the one it has.

    Args:
        count: Samples of each data set, spread over it.
    """

    def __init__(self, count: int = SAMPLES) -> None:
        self.count = count

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw and write."""
        file = Path(trainer.default_root_dir) / "pictures" / NAME
        if not trainer.is_global_zero or file.exists():
            return
        shown: Any = trainer
        file.parent.mkdir(parents=True, exist_ok=True)
        write_png(training_sheet(shown.datamodule, self.count), str(file), compression_level=3)


def training_sheet(data: BaseDataModule, count: int = SAMPLES) -> Tensor:
    """Training samples as the network gets them, with their labels over them: (3, height, width) uint8.

    Args:
        data: Of which the split `train` is shown; of a joint run each of its parts.
        count: Samples of each data set, spread over it.
    """
    sheets = []
    with isolate_rng():
        for name, part in data.parts.items():
            batch = part.preview(count)
            kinds = ", ".join(key for key in ("keypoints", "boxes", "masks", "mask", "label") if key in batch)
            title = f"{name or type(part).__name__}: training samples of epoch 0 with {kinds or 'no labels'}"
            sheets.append((title, _sheet(batch, part)))
    width = max(sheet.shape[-1] for _, sheet in sheets)
    rows = [part for title, sheet in sheets for part in (draw_caption(title, width), _widened(sheet, width))]
    return torch.cat(rows, dim=1)


def _sheet(batch: Mapping[str, Any], data: BaseDataModule) -> Tensor:
    """Rows of pictures, above a legend of the classes that occur if these have colours."""
    pictures = [_drawn(batch, i, data) for i in range(len(batch["image"]))]
    columns = min(COLUMNS, len(pictures))
    pictures += [torch.full_like(pictures[0], 255)] * (-len(pictures) % columns)
    sheet = grid([pictures[i : i + columns] for i in range(0, len(pictures), columns)], None)
    found = batch["mask"].unique().tolist() if "mask" in batch else []
    found = [label for label in found if label < len(data.class_names)]
    if found:
        colours = _palette(data)
        names = [data.class_names[label] for label in found]
        sheet = torch.cat([sheet, draw_legend(names, [colours[label] for label in found], sheet.shape[-1])], dim=1)
    return sheet


def _drawn(batch: Mapping[str, Any], index: int, data: BaseDataModule) -> Tensor:
    """One sample with whatever labels it has, see the table of batches in `datamodules/base.py`."""
    image = batch["image"][index].contiguous()
    if "mask" in batch:
        image = draw_mask(image, batch["mask"][index], _palette(data), opacity=0.5)
    if "boxes" in batch:
        labels, palette = batch["labels"][index].tolist(), _palette(data)
        names = [_name(data, label) for label in labels]
        masks = batch["masks"][index] if "masks" in batch else ()
        image = draw_boxes(image, batch["boxes"][index], [palette[label] for label in labels], names, masks)
    scale = max(1, round(SIDE / max(image.shape[-2:])))
    if "keypoints" in batch:
        points, visible = batch["keypoints"][index], batch["visible"][index]
        skeleton = data.skeleton.to_dict() if data.skeleton else {"names": [""] * len(points), "limbs": []}
        image = draw_pose(image, points, visible, skeleton, scale)
    else:
        size = [math.ceil(side * min(scale, 4 * SIDE / max(image.shape[-2:]))) for side in image.shape[-2:]]
        image = F.interpolate(image[None].float(), size=size, mode="nearest")[0].byte()
    return draw_labels(image[None], [[_name(data, int(batch["label"][index]))]]) if "label" in batch else image


def _palette(data: BaseDataModule) -> list[Any]:
    return list(data.palette) or class_colours(max(data.num_classes or 0, 1))


def _name(data: BaseDataModule, label: int) -> str:
    return data.class_names[label] if label < len(data.class_names) else str(label)


def _widened(sheet: Tensor, width: int) -> Tensor:
    return F.pad(sheet, (0, width - sheet.shape[-1]), value=255)

"""Pictures of an evaluation: a Lightning callback, and where they are kept: files in the run folder, W&B, TensorBoard.

There is one panel for the pictures of a kind, and the samples are the same in every epoch.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch.nn.functional as F
import wandb
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torchvision.io import write_png

from tasks.draw.overlays import beside

IGNORED = 255
EPOCHS = 8  # that a table of samples by epochs has columns for
ROWS = 4  # samples of such a table


class Box(NamedTuple):
    """A box in pixels of its image."""

    x1: float
    y1: float
    x2: float
    y2: float
    label: int
    score: float


class Layers(NamedTuple):
    """An image with what is over it in layers, such as truth and prediction, each of which can be shown and hidden.

    W&B has masks and boxes; the page of compared runs has all.
    """

    image: Tensor
    """(3, H, W) uint8."""
    caption: str
    names: Sequence[str]
    """Of the classes."""
    masks: Mapping[str, Tensor] = {}
    """Layer -> (H, W) class of each pixel, 255 ignored."""
    boxes: Mapping[str, Sequence[Box]] = {}
    """Layer -> boxes."""
    points: Mapping[str, Tensor] = {}
    """Layer -> (K, 2) key points x, y in pixels of the image, nan where there is none; `names` are theirs then."""
    limbs: Sequence[tuple[int, int]] = ()
    """Pairs of key points that a line joins."""
    labels: Mapping[str, str] = {}
    """Layer -> what is said of the whole image."""
    palette: Sequence[Sequence[int]] = ()
    """(r, g, b), 0 to 255, of the classes, if they have colours of their own."""


class Panel(NamedTuple):
    """A picture, and its samples in layers, which W&B shows instead."""

    picture: Tensor
    """(3, height, width) uint8."""
    layers: Sequence[Layers] = ()


Drawn = Mapping[str, Tensor | Panel]
"""What a task draws, by kind."""


class Pictures(Callback):
    """Shows the first samples of each evaluation as the task, `pl_module`, draws them.

    At the end of a training W&B gets them once more as a table, a row a sample and a column an epoch: the first, the
    last, and some between. A run that was resumed has the epochs since then.

    Args:
        count: Samples: of the first batch, or of the first batches where images of many sizes come one by one.
    """

    def __init__(self, count: int = 8) -> None:
        self.count = count
        self._panels: dict[str, list[Panel]] = {}
        self._epochs: dict[str, list[tuple[int, list[Layers]]]] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Forget a training before."""
        self._epochs = {}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Forget the evaluation before."""
        self._panels = {}

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Draw, if it is a batch to be shown."""
        batches = self.count if "image" in batch and len(batch["image"]) == 1 else 1
        if outputs is None or batch_idx >= batches or trainer.sanity_checking or not trainer.is_global_zero:
            return
        for prefix, task, *values in pl_module.each(outputs["outputs"], outputs["predictions"], batch):
            for kind, drawn in task.draw(*values, count=self.count).items():
                self._panels.setdefault(prefix + kind, []).append(panel(drawn))

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write what was drawn."""
        together = {
            kind: Panel(beside([each.picture for each in found]), [layer for each in found for layer in each.layers])
            for kind, found in self._panels.items()
        }
        log_pictures(together, trainer, pl_module.split)
        self._panels = {}
        if trainer.state.fn == TrainerFn.FITTING and any(isinstance(each, WandbLogger) for each in trainer.loggers):
            for kind, found in together.items():
                if found.layers:
                    earlier = self._epochs.setdefault(f"{pl_module.split}/{kind}", [])
                    earlier[:] = thinned([*earlier, (trainer.current_epoch, list(found.layers[:ROWS]))])

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write the tables."""
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                for key, found in self._epochs.items():
                    _log_epochs(logger, f"{key.split(' (')[0]} by epoch", found)

    on_test_epoch_start, on_test_batch_end = on_validation_epoch_start, on_validation_batch_end
    on_test_end = on_validation_end


def panel(drawn: Tensor | Panel) -> Panel:
    """The panel, or one of a picture alone."""
    return drawn if isinstance(drawn, Panel) else Panel(drawn)


def log_pictures(pictures: Drawn, trainer: Trainer, split: str) -> None:
    """Write pictures to `pictures/` in the run folder, and to W&B and TensorBoard if they are used.

    Args:
        pictures: By kind.
        trainer: With the loggers.
        split: That is evaluated.
    """
    folder = Path(trainer.default_root_dir) / "pictures"
    moment = f"epoch{trainer.current_epoch:03d}" if trainer.state.fn == TrainerFn.FITTING else "evaluated"
    for kind, (picture, layers) in ((kind, panel(drawn)) for kind, drawn in pictures.items()):
        folder.mkdir(parents=True, exist_ok=True)
        stem = kind.split(" ")[0].replace("/", "_")  # without what stands in parentheses
        write_png(picture, str(folder / f"{split}_{stem}_{moment}.png"), compression_level=3)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(f"{split}/{kind}", picture, trainer.global_step)
            elif isinstance(logger, WandbLogger) and any(sample.masks or sample.boxes for sample in layers):
                _log_layers(logger, f"{split}/{kind}", layers)
            elif isinstance(logger, WandbLogger):
                logger.log_image(f"{split}/{kind}", [picture.permute(1, 2, 0).numpy()])


def thinned(epochs: list[tuple[int, list[Layers]]]) -> list[tuple[int, list[Layers]]]:
    """Of epochs with their samples every other of the earlier ones where they are too many, and the last."""
    return epochs if len(epochs) <= EPOCHS else [*epochs[:-1:2], epochs[-1]]


def _log_epochs(logger: WandbLogger, key: str, epochs: Sequence[tuple[int, Sequence[Layers]]]) -> None:
    """A table: a row a sample, a column an epoch, with masks and boxes that can be hidden."""
    columns = ["sample", *(f"epoch {epoch}" for epoch, _ in epochs)]
    samples = zip(*(layers for _, layers in epochs), strict=True)
    data = [[row[0].caption, *(_wandb_image(sample) for sample in row)] for row in samples]
    logger.log_table(key, columns=columns, data=data)


def _wandb_image(sample: Layers) -> wandb.Image:
    said = "; ".join(f"{layer}: {label}" for layer, label in sample.labels.items())
    height, width = sample.image.shape[-2:]
    options: dict[str, Any] = {"caption": said} if said else {}
    if sample.masks:
        options["masks"] = _wandb_masks(sample, height, width)
    if sample.boxes:
        options["boxes"] = _wandb_boxes(sample)
    return wandb.Image(sample.image.permute(1, 2, 0).numpy(), **options)


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

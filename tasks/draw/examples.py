"""Some samples of a final evaluation with truth and prediction as data: a Lightning callback.

They are the same in every run on the same data, whatever the order of batches and the number of processes, so that runs
can be shown side by side: `predictions/<split>_examples.json` in the run folder, of a joint run one a task. Places are
in widths of the picture, which another run may have in another resolution.
"""

import base64
import heapq
import io
import json
import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image
from torch import Tensor

from tasks.draw.overlays import class_colours
from tasks.draw.pictures import IGNORED, Layers, panel
from tasks.draw.tables import one

SIDE = 320  # pixels of the longer side of a picture at most
QUALITY = 80  # of JPEG
DIGITS = 4  # after the point, of widths of a picture
Entry = tuple[int, int, dict[str, Any]]


class Examples(Callback):
    """Keeps some samples of a final evaluation with truth and prediction, the same in every run on the same data.

    Args:
        count: How many.
    """

    def __init__(self, count: int = 32) -> None:
        self.count = count
        self._kept: dict[str, list[Entry]] = {}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Forget the evaluation before."""
        self._kept = {prefix: [] for prefix, _ in pl_module.each()}

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep those samples of a batch whose turn it is."""
        if outputs is None or trainer.state.fn == TrainerFn.FITTING:
            return
        for prefix, task, *values in pl_module.each(outputs["outputs"], outputs["predictions"], batch):
            columns = {key: list(column) for key, column in task.scores(*values[1:]).items()}
            pairs = zip(columns.get("sample", []), columns.get("score", []), strict=True)
            for index, (sample, score) in enumerate(pairs):

                def make(index: int = index, task: Any = task, values: list[Any] = values) -> dict[str, Any] | None:
                    drawn = task.draw(*(one(value, index) for value in values), count=1)
                    layers = [layer for each in drawn.values() for layer in panel(each).layers]
                    return example(layers[0]) if layers else None

                self._add(self._kept[prefix], int(sample), float(score), make)

    def _add(self, kept: list[Entry], sample: int, score: float, make: Callable[[], dict[str, Any] | None]) -> None:
        """A heap, the one to go first in front; an example is made only if it stays."""
        turn = -zlib.crc32(str(sample).encode()), sample
        if math.isnan(score) or any(entry[:2] == turn for entry in kept):
            return
        if len(kept) < self.count or turn > kept[0][:2]:
            made = make()
            if made is not None:
                add = heapq.heappush if len(kept) < self.count else heapq.heapreplace
                add(kept, (*turn, {"sample": sample, "score": round(score, 6), **made}))

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Every process gathers, one writes."""
        if trainer.state.fn == TrainerFn.FITTING:
            return
        for prefix, kept in self._kept.items():
            found = {entry[1]: entry for entries in _of_all_processes(kept) for entry in entries}
            chosen = sorted(found.values(), key=lambda entry: entry[:2], reverse=True)[: self.count]
            if trainer.is_global_zero and chosen:
                folder = Path(trainer.default_root_dir) / "predictions"
                folder.mkdir(parents=True, exist_ok=True)
                stem = f"{pl_module.split}_{prefix.replace('/', '_')}examples"
                content = {"version": 1, "examples": [entry[2] for entry in chosen]}
                (folder / f"{stem}.json").write_text(json.dumps(content, separators=(",", ":")))
        self._kept = {}

    on_test_epoch_start, on_test_batch_end = on_validation_epoch_start, on_validation_batch_end
    on_test_end = on_validation_end


def _of_all_processes(kept: list[Entry]) -> list[list[Entry]]:
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return [kept]
    everybody: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everybody, kept)
    return everybody


def example(sample: Layers) -> dict[str, Any]:
    """A sample as plain data: `picture` (JPEG in base64), `aspect` (height / width), `caption`, `limbs`, `layers`.

    A layer has what there is of `points` (`[x, y, name]`, null where there is none), `boxes` (`[x1, y1, x2, y2, name,
    score]`), `mask` (PNG with transparency in base64) with `classes` (name -> #rrggbb), and `label`. Where there are
    points, boxes are left out: W&B shows the same points by them.

    Args:
        sample: An image and what is over it.
    """
    height, width = sample.image.shape[-2:]
    picture = Image.fromarray(sample.image.permute(1, 2, 0).contiguous().numpy())
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    names = [str(name) for name in sample.names]
    layers: dict[str, dict[str, Any]] = {}
    for layer, points in sample.points.items():
        layers.setdefault(layer, {})["points"] = _points(points, names, width)
    for layer, boxes in sample.boxes.items() if not sample.points else ():
        layers.setdefault(layer, {})["boxes"] = [
            [*(round(edge / width, DIGITS) for edge in box[:4]), names[box.label], round(box.score, 3)] for box in boxes
        ]
    colours = sample.palette or class_colours(len(names))
    for layer, mask in sample.masks.items():
        labels = [label for label in mask.unique().tolist() if label < len(names)]
        classes = {names[label]: "#{:02x}{:02x}{:02x}".format(*colours[label]) for label in labels}
        layers.setdefault(layer, {}).update(mask=_mask(mask, colours, picture.size), classes=classes)
    for layer, label in sample.labels.items():
        layers.setdefault(layer, {})["label"] = label
    return {
        "caption": sample.caption,
        "aspect": round(height / width, DIGITS),
        "picture": _encoded(picture, "JPEG", quality=QUALITY),
        "limbs": [list(limb) for limb in sample.limbs],
        "layers": layers,
    }


def _points(points: Tensor, names: Sequence[str], width: int) -> list[list[Any] | None]:
    """Centres of pixels are half a pixel from the picture's edge."""
    return [
        None if math.isnan(x) else [round((x + 0.5) / width, DIGITS), round((y + 0.5) / width, DIGITS), name]
        for (x, y), name in zip(points.tolist(), names, strict=True)
    ]


def _mask(mask: Tensor, colours: Sequence[Sequence[int]], size: tuple[int, int]) -> str:
    """Classes as colours, what is ignored or of no class transparent."""
    table = np.zeros((IGNORED + 1, 3), np.uint8)
    table[: len(colours)] = np.array(colours, np.uint8)[: IGNORED + 1]
    picture = Image.fromarray(mask.numpy().astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
    picture = picture.convert("P")
    picture.putpalette(table.flatten().tolist())
    transparent = bytes(0 if label >= len(colours) else 255 for label in range(IGNORED + 1))
    return _encoded(picture, "PNG", transparency=transparent, optimize=True)


def _encoded(picture: Image.Image, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return base64.b64encode(file.getvalue()).decode()

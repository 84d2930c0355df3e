"""Tables of a final evaluation: Lightning callbacks that print and keep what was found, and what each sample scored.

They go to `predictions/` in the run folder as CSV, and to W&B if it is used.
"""

import csv
import heapq
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import wandb
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from rich.table import Table
from torch import Tensor
from torchvision.io import write_png

from tasks.draw.overlays import class_table, print_tables
from tasks.draw.pictures import log_pictures, panel
from tasks.losses import one

Row = dict[str, Any]
PRINTED = 9  # columns that a table in the terminal has at most


@runtime_checkable
class Reported(Protocol):
    """A metric that has a table of its figures, and a file of what they were computed from."""

    file_name: str

    def table(self) -> Table:
        """The figures and what they mean."""
        ...

    def save(self, path: Path) -> Path:
        """Write the file, and say where it is."""
        ...


class Tables(Callback):
    """Prints and keeps the tables, figures and files of an evaluation, which tasks and their metrics have."""

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Not while training goes on."""
        if trainer.state.fn == TrainerFn.FITTING or not trainer.is_global_zero:
            return
        split, folder = pl_module.split, Path(trainer.default_root_dir) / "predictions"
        for prefix, task in {**dict(pl_module.each()), "": pl_module}.items():
            if isinstance(task.metric, Reported):
                print_tables(task.metric.table())
                task.metric.save(folder / prefix / f"{split}_{task.metric.file_name}")
            for name, found in task.tables().items():
                if isinstance(found, Tensor):
                    log_pictures({prefix + name: found}, trainer, split)
                elif found:
                    if len(found[0]) <= PRINTED:
                        print_tables(class_table(found))
                    log_table(prefix + name, found, trainer, split)

    on_test_end = on_validation_end


class Samples(Callback):
    """Keeps what each sample of a final evaluation scored, for paired comparisons, and pictures of the worst.

    Args:
        worst: How many pictures are kept.
    """

    def __init__(self, worst: int = 20) -> None:
        self.worst = worst
        self.scores: dict[str, SampleScores] = {}
        """Of each task, in a joint run by `name/`."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Forget the evaluation before."""
        self.scores = {prefix: SampleScores(self.worst) for prefix, _ in pl_module.each()}

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Add a batch."""
        if outputs is None or trainer.state.fn == TrainerFn.FITTING:
            return
        for prefix, task, *values in pl_module.each(outputs["outputs"], outputs["predictions"], batch):

            def draw(index: int, task: Any = task, values: list[Any] = values) -> Tensor | None:
                drawn = task.draw(*(one(value, index) for value in values), count=1)
                return next((panel(each).picture for each in drawn.values()), None)

            columns = task.scores(*values[1:])
            if columns:
                self.scores[prefix].update(columns, draw)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Every process gathers, one writes."""
        if trainer.state.fn == TrainerFn.FITTING:
            return
        for prefix, scores in self.scores.items():
            scores.gather()
            if trainer.is_global_zero:
                for name, rows in scores.tables().items():
                    log_table(prefix + name, rows, trainer, pl_module.split)

    on_test_epoch_start, on_test_batch_end = on_validation_epoch_start, on_validation_batch_end
    on_test_end = on_validation_end


class SampleScores:
    """Collects a row a sample, and a picture of each of the worst.

    A row has `sample` (an integer id), `score` (in [0, 1], high is good) and what else the task says; of equal scores
    that of the highest `confidence`, if rows have one, is the worst, and of equal ones the last sample, whichever
    process has it.

    Args:
        worst: How many pictures are kept.
    """

    def __init__(self, worst: int = 20) -> None:
        self.worst = worst
        self._rows: list[Row] = []
        # A heap, the best of the worst first; the second number keeps rows from being compared.
        self._pictured: list[tuple[float, float, int, int, Row]] = []
        self._number = itertools.count()

    def update(self, columns: Mapping[str, Tensor | list], draw: Callable[[int], Tensor | None]) -> None:
        """Add a batch.

        Args:
            columns: Of the rows, each as long as the batch; rows whose score is nan are left out.
            draw: Makes the picture of a sample of the batch, (3, H, W) uint8, if there is any to be made.
        """
        lists = {key: c.tolist() if isinstance(c, Tensor) else c for key, c in columns.items()}
        for i, values in enumerate(zip(*lists.values(), strict=True)):
            row = dict(zip(lists, values, strict=True))
            if row["score"] != row["score"]:
                continue
            self._rows.append(row)
            badness = (-row["score"], row.get("confidence", 0.0), row["sample"])
            if len(self._pictured) < self.worst or badness > self._pictured[0][:3]:
                add = heapq.heappush if len(self._pictured) < self.worst else heapq.heapreplace
                add(self._pictured, (*badness, next(self._number), {**row, "picture": draw(i)}))

    def gather(self) -> None:
        """Take the rows and pictures of all processes; every process calls it."""
        distributed = torch.distributed
        if not (distributed.is_available() and distributed.is_initialized()):
            return
        everybody: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(everybody, (self._rows, self._pictured))
        self._rows = [row for rows, _ in everybody for row in rows]
        self._pictured = [entry for _, entries in everybody for entry in entries]

    def tables(self) -> dict[str, list[Row]]:
        """`samples`, by id, and `worst`, with a `picture` (3, H, W) uint8 each; empty if there was no sample."""
        if not self._rows:
            return {}
        # A distributed sampler repeats some samples to give every process as many.
        rows = {row["sample"]: row for row in self._rows}
        ordered = sorted(self._pictured, key=lambda entry: entry[:3], reverse=True)
        worst = {entry[-1]["sample"]: entry[-1] for entry in reversed(ordered)}
        chosen = list(reversed(worst.values()))[: self.worst]
        return {"samples": [rows[key] for key in sorted(rows)], "worst": chosen}


def log_table(name: str, rows: list[Row], trainer: Trainer, split: str) -> None:
    """Write a table, a dict a row, as CSV into `predictions/`, and to W&B if it is used.

    A (3, H, W) uint8 value is a picture: a file in `pictures/`, whose name stands in the CSV.
    """
    stem = f"{split}_{name.replace('/', '_')}"
    columns, data = list(rows[0]), [list(row.values()) for row in rows]
    files = [
        [_picture_file(value, f"{stem}_{number:02d}", trainer) for value in row] for number, row in enumerate(data)
    ]
    folder = Path(trainer.default_root_dir) / "predictions"
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

"""Error analysis of one task on one split: tables and figures of what is wrong with its predictions.

A task's file (`pose.py`, `segmentation.py`, `classification.py`) has a function of its task that makes a `Report`, and
registers it by `report_of.register`; `commandline.py` finds run, task and data, and writes what comes back.
"""

import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from datamodules.base import BaseDataModule, DataError
from hrnet import for_inference
from tasks import Task
from tasks.draw.charts import draw_bars

BARS = 30  # classes at most, in a chart
PAIRS = 15  # confusions at most, in a chart
EXAMPLES = 8  # pictures at most, of each kind
TILE = 224  # pixels of a side of such a picture

Tables = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Report:
    """What an error analysis found: tables by name, a dict a row, and figures by name, (3, height, width) uint8."""

    tables: Tables
    figures: dict[str, Tensor]


@singledispatch
def report_of(
    task: Task, data: BaseDataModule, limit: int | float | None = None, predictions: Path | None = None
) -> Report:
    """Error analysis of `task` on the split that it is attached to.

    Args:
        task: In eval mode, attached to `data`.
        data: Of this task alone.
        limit: Batches, or share of them, that the run evaluates, as Lightning has it; None for all.
        predictions: Folder of what the run has predicted for this task.

    Raises:
        DataError: If there is no analysis for this kind of task.
    """
    known = ", ".join(sorted(cls.__name__ for cls in report_of.registry if cls is not object))
    raise DataError(
        f"There is no error analysis for {type(task).__name__}: it has none of its own, and is none of {known}. "
        "experiments/errors/report.py says how one is written."
    )


@torch.inference_mode()
def predicted(task: Task, data: BaseDataModule, limit: int | float | None) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Predictions of each batch of the task's split, and the batch, on the task's device."""
    loader = data.test_dataloader() if task.split == "test" else data.val_dataloader()
    fast = for_inference(task)
    batches = count(limit, len(loader))
    shown = sys.stderr.isatty()
    for batch in track(itertools.islice(loader, batches), "predicting", batches, disable=not shown):
        batch = on_device(task.device, batch)
        yield fast.predict(fast.outputs(batch), batch), batch


def limited(limit: int | float | None) -> bool:
    """Whether a run evaluates some batches only."""
    return limit is not None and (isinstance(limit, int) or limit != 1.0)


def count(limit: int | float | None, batches: int) -> int:
    """Batches of a loader that Lightning's `limit_*_batches` leaves, for which 2.0 is two and 1.0 is all."""
    if limit is None:
        return batches
    return min(int(limit), batches) if isinstance(limit, int) or limit > 1.0 else int(limit * batches)


def class_bars(rows: Sequence[dict[str, Any]], key: str) -> Tensor:
    """Chart of one column of a table of classes, worst first."""
    known = [row for row in rows if not math.isnan(row[key])]
    title = f"{key} of each class" if len(known) <= BARS else f"{key} of the {BARS} worst of {len(known)} classes"
    return draw_bars([row["name"] for row in known[:BARS]], [row[key] for row in known[:BARS]], key, title)


def confusion_bars(rows: Sequence[dict[str, Any]]) -> Tensor:
    """Chart of the first of `confusion_pairs`."""
    names = [f"{row['truth']} → {row['prediction']} ({row['share_of_errors']:.1%})" for row in rows[:PAIRS]]
    shares = [row["share"] for row in rows[:PAIRS]]
    title = "most frequent confusions: truth → prediction (share of all errors)"
    return draw_bars(names, shares, "share of the true class", title)


def confusion_pairs(matrix: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
    """Which classes are taken for which.

    Args:
        matrix: (K, K) int, counts of true class (row) and predicted class (column).
        names: (K,) names of the classes.

    Returns:
        A dict a pair that occurs, most frequent first: `truth`, `prediction`, `count`, `share` of the true class and
        `share_of_errors`.
    """
    wrong = matrix.clone()
    wrong.fill_diagonal_(0)
    errors, sizes = int(wrong.sum()), matrix.sum(1).tolist()
    pairs = wrong.nonzero()
    counts = wrong[pairs[:, 0], pairs[:, 1]]
    order = counts.argsort(descending=True, stable=True)
    return [
        {
            "truth": names[truth],
            "prediction": names[guess],
            "count": count,
            "share": count / sizes[truth],
            "share_of_errors": count / errors,
        }
        for (truth, guess), count in zip(pairs[order].tolist(), counts[order].tolist(), strict=True)
    ]


def on_device(device: torch.device, batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with its tensors on the device."""
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}

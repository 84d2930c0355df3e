"""Error analysis of one task on one split: predictions of the task, tables and figures of what is wrong with them.

One function a kind of task; `errors.py` finds run, task and data, and writes what comes back.
"""

import itertools
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from datamodules.base import BaseDataModule, BaseDataset, DataError, First
from datamodules.keypoints.persons import Persons
from experiments.errors.examples import EXAMPLES, on_device, pose_examples, worst_images
from hrnet import for_inference
from tasks import ClassificationTask, PoseTask, SegmentationTask, Task
from tasks.draw import draw_confusion
from tasks.draw.charts import draw_bars, draw_boundary, draw_gallery, draw_reliability, draw_stacked_bars
from tasks.metrics.classification_errors import ClassificationErrors
from tasks.metrics.pose_errors import KINDS, PoseErrors
from tasks.metrics.segmentation_errors import SegmentationErrors

BARS = 30  # classes at most, in a chart
PAIRS = 15  # confusions at most, in a chart

Tables = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Report:
    """What an error analysis found: tables by name, a dict a row, and figures by name, (3, height, width) uint8."""

    tables: Tables
    figures: dict[str, Tensor]


def report_of(task: Task, data: BaseDataModule, limit: int | float | None, results: Path) -> Report:
    """Error analysis of `task` on the split that it is attached to.

    Args:
        task: In eval mode, attached to `data`.
        data: Of this task alone.
        limit: Batches, or share of them, that the run evaluates, as Lightning has it; None for all.
        results: COCO results file of the run; without it the poses are predicted.

    Raises:
        DataError: If there is no analysis for this kind of task.
    """
    if isinstance(task, PoseTask):
        return pose_report(task, data, limit, results)
    if isinstance(task, SegmentationTask):
        return segmentation_report(task, data, limit)
    if isinstance(task, ClassificationTask):
        return classification_report(task, data, limit)
    raise DataError(
        f"There is no error analysis for {type(task).__name__}: expected a pose, segmentation or classification task."
    )


# ---- poses


def pose_report(task: PoseTask, data: BaseDataModule, limit: int | float | None, results: Path) -> Report:
    """Errors after the taxonomy of `PoseErrors`, with examples of each kind where the data set has image files."""
    truth = data.ground_truth(task.split)
    if results.is_file():
        poses = json.loads(results.read_text())
        seen = {pose["image_id"] for pose in poses}
    else:
        poses, seen = _predicted_poses(task, data, limit)
    if _limited(limit):
        truth = {key: rows if key == "categories" else [r for r in rows if _image_of(r, key) in seen]
                 for key, rows in truth.items()}  # fmt: skip
    errors = PoseErrors(truth, poses, task.skeleton)
    totals, keypoints = errors.totals(), errors.per_keypoint()
    each = "persons" if truth["categories"][0].get("name") == "person" else "instances"
    tables = {"errors": totals, "keypoints": keypoints, each: errors.persons(), "background": errors.background()}
    mistakes = totals[1:]
    shares = {kind: [row[kind] for row in [_total_shares(totals), *keypoints]] for kind in KINDS}
    gains = [row["gain"] for row in mistakes]
    title = f"what correcting each kind of error would add to AP {errors.ap():.3f}"
    figures = {
        "kinds": draw_stacked_bars(
            ["all", *errors.names], shares, f"share of the labelled key points of matched {each}", "kinds of errors"
        ),
        "gain": draw_bars([row["name"] for row in mistakes], gains, "AP gained", title),
    }
    dataset = _without_first(data.split(task.split))
    if isinstance(dataset, Persons):
        figures |= {f"examples_{kind}": picture for kind, picture in pose_examples(errors, dataset)}
    return Report({name: rows for name, rows in tables.items() if rows}, figures)


def _predicted_poses(
    task: PoseTask, data: BaseDataModule, limit: int | float | None
) -> tuple[list[dict[str, Any]], set[Any]]:
    task.reset()
    seen: set[Any] = set()
    for predictions, batch in predicted(task, data, limit):
        task.update(predictions, batch)
        seen.update(task.metric.image_ids[number] for number in batch["image_id"].tolist())
    return task.metric.results(), seen


def _image_of(row: dict[str, Any], key: str) -> Any:
    return row["id"] if key == "images" else row["image_id"]


def _total_shares(totals: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {row["name"]: row["share"] for row in totals}


# ---- segmentation


def segmentation_report(task: SegmentationTask, data: BaseDataModule, limit: int | float | None) -> Report:
    """Confusions, errors by distance to a boundary, the worst images."""
    dataset, names = data.split(task.split), task.metric.names
    errors = SegmentationErrors(task.num_classes, names)
    for predictions, batch in predicted(task, data, limit):
        errors.update(predictions["labels"], batch["mask"], batch["image_id"])
    images = [{"file": dataset.name(row["sample"]), **row} for row in errors.images()]
    boundary = errors.boundary()
    tables = {
        "summary": errors.summary(),
        "classes": errors.per_class(),
        "confusions": errors.confusions(),
        "boundary": boundary,
        "images": images,
    }
    figures = {"boundary": draw_boundary(boundary, "errors near class boundaries")}
    figures["classes"] = _class_bars(tables["classes"], "IoU")
    if tables["confusions"]:
        figures["confusions"] = _confusion_bars(tables["confusions"])
    worst = [row["sample"] for row in images if not math.isnan(row["mIoU"])][:EXAMPLES]
    if worst:
        figures["worst"] = worst_images(task, dataset, worst)
    return Report({name: rows for name, rows in tables.items() if rows}, figures)


# ---- classification


def classification_report(task: ClassificationTask, data: BaseDataModule, limit: int | float | None) -> Report:
    """Confusions, classes, the most confident mistakes, calibration."""
    dataset = data.split(task.split)
    errors = ClassificationErrors(task.num_classes, task.class_names)
    for predictions, batch in predicted(task, data, limit):
        errors.update(predictions["probabilities"], batch["label"], batch["image_id"])
    mistakes = [{"file": dataset.name(row["sample"]), **row} for row in errors.mistakes()]
    summary = errors.summary()
    tables = {
        "summary": summary,
        "classes": errors.per_class(),
        "confusions": errors.confusions(),
        "mistakes": mistakes,
        "calibration": errors.calibration(),
    }
    figures = {"calibration": draw_reliability(tables["calibration"], summary[-1]["value"])}
    figures["classes"] = _class_bars(tables["classes"], "accuracy")
    if task.num_classes <= BARS:
        figures["confusion_matrix"] = draw_confusion(errors.matrix, errors.names)
    if mistakes:
        figures["confusions"] = _confusion_bars(tables["confusions"])
        worst = mistakes[: 2 * EXAMPLES]
        images = [torch.from_numpy(dataset[row["sample"]]["image"]).permute(2, 0, 1) for row in worst]
        captions = [
            (
                f"{row['prediction']} {row['confidence']:.2f}",
                f"is {row['truth']} {row['truth_probability']:.2f}",
                Path(row["file"]).name,
            )
            for row in worst
        ]
        figures["mistakes"] = draw_gallery(images, captions)
    return Report({name: rows for name, rows in tables.items() if rows}, figures)


# ---- shared


@torch.inference_mode()
def predicted(task: Task, data: BaseDataModule, limit: int | float | None) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Predictions of each batch of the task's split, and the batch, on the task's device."""
    loader = data.test_dataloader() if task.split == "test" else data.val_dataloader()
    fast = for_inference(task)
    batches = _count(limit, len(loader))
    shown = sys.stderr.isatty()
    for batch in track(itertools.islice(loader, batches), "predicting", batches, disable=not shown):
        batch = on_device(task.device, batch)
        yield fast.predict(fast.outputs(batch), batch), batch


def _limited(limit: int | float | None) -> bool:
    return limit is not None and (isinstance(limit, int) or limit != 1.0)


def _count(limit: int | float | None, batches: int) -> int:
    """Batches of a loader that Lightning's `limit_*_batches` leaves, for which 2.0 is two and 1.0 is all."""
    if limit is None:
        return batches
    return min(int(limit), batches) if isinstance(limit, int) or limit > 1.0 else int(limit * batches)


def _without_first(dataset: BaseDataset) -> BaseDataset:
    return dataset.dataset if isinstance(dataset, First) else dataset


def _class_bars(rows: Sequence[dict[str, Any]], key: str) -> Tensor:
    known = [row for row in rows if not math.isnan(row[key])]
    title = f"{key} of each class" if len(known) <= BARS else f"{key} of the {BARS} worst of {len(known)} classes"
    return draw_bars([row["name"] for row in known[:BARS]], [row[key] for row in known[:BARS]], key, title)


def _confusion_bars(rows: Sequence[dict[str, Any]]) -> Tensor:
    names = [f"{row['truth']} → {row['prediction']} ({row['share_of_errors']:.1%})" for row in rows[:PAIRS]]
    shares = [row["share"] for row in rows[:PAIRS]]
    title = "most frequent confusions: truth → prediction (share of all errors)"
    return draw_bars(names, shares, "share of the true class", title)

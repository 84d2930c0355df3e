"""Error analysis of detections: tables and charts after `DetectionErrors`, the worst images, examples of each kind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from datamodules.base import BaseDataModule, First
from datamodules.detection.samples import ObjectImages
from experiments.errors.detection_errors import ERRORS, KINDS, DetectionErrors
from experiments.errors.report import (
    EXAMPLES,
    TILE,
    Report,
    class_bars,
    confusion_bars,
    limited,
    predicted,
    report_of,
)
from tasks import DetectionTask
from tasks.draw import class_colours, draw_boxes, grid
from tasks.draw.charts import draw_bars, draw_gallery, draw_stacked_bars
from tasks.draw.detection import SHOWN

MISTAKES = 1000  # rows of the table of wrong detections: a detector has a hundred an image
TRUTH, FOUND = (53, 199, 89), (230, 50, 50)
SINGLE = (*ERRORS, "missed")


@report_of.register
def detection_report(
    task: DetectionTask, data: BaseDataModule, limit: int | float | None = None, predictions: Path | None = None
) -> Report:
    """Errors after the taxonomy of `DetectionErrors`, of boxes, with pictures where the data set has image files."""
    task.reset()
    for found, batch in predicted(task, data, limit):
        task.update(found, batch)
    metric, detections = task.metric, task.metric.collected()
    objects = metric.objects
    if limited(limit):
        seen = set(detections.images.tolist())
        objects = [each for each in objects if each["image_id"] in seen]
    errors = DetectionErrors(objects, detections, metric.class_names)
    totals, classes = errors.totals(), errors.per_class()
    dataset = data.split(task.split)
    dataset = dataset.dataset if isinstance(dataset, First) else dataset
    files: dict[int, int] = {}
    if isinstance(dataset, ObjectImages):
        files = {int(number): row for row, number in enumerate(dataset.image_ids)}
    names = {number: str(dataset.file_names[row]) for number, row in files.items()}
    tables = {
        "errors": totals,
        "classes": classes,
        "confusions": errors.confusions(),
        "images": [{"file": names.get(row["sample"], ""), **row} for row in errors.images()],
        "detections": list(_mistakes(errors, names, metric.image_ids)),
    }
    single = [row for row in totals if row["name"] in SINGLE]
    title = f"what correcting each kind of error would add to AP50 {errors.ap50():.3f}"
    figures = {
        "gain": draw_bars([row["name"] for row in single], [row["gain"] for row in single], "AP50 gained", title),
        "kinds": _kinds_of_classes(errors),
        "classes": class_bars(classes, "AP50"),
    }
    if tables["confusions"]:
        figures["confusions"] = confusion_bars(tables["confusions"])
    if files:
        figures |= {f"examples_{kind}": picture for kind, picture in examples(errors, dataset, files)}
        worst = [row["sample"] for row in tables["images"] if row["badness"] > 0][:EXAMPLES]
        if worst:
            figures["worst"] = worst_images(errors, dataset, [(number, files[number]) for number in worst])
    return Report({name: rows for name, rows in tables.items() if rows}, figures)


def _mistakes(errors: DetectionErrors, names: dict[int, str], image_ids: dict[int, Any]) -> Iterator[dict[str, Any]]:
    """A dict a wrong detection, those that score most first: image, kind, class, score, IoU, its object's class."""
    found = errors.detections
    for row in errors.mistakes(most=MISTAKES).tolist():
        number, target = int(found.image_id[row]), int(errors.target[row])
        box = dict(zip(("x1", "y1", "x2", "y2"), found.boxes[row].round(1).tolist(), strict=True))
        yield {
            "file": names.get(number, ""),
            "image_id": image_ids[number],
            "kind": KINDS[errors.kinds[row]],
            "prediction": errors.names[found.labels[row]],
            "truth": "" if target < 0 else errors.names[errors.labels[target]],
            "score": float(found.scores[row]),
            "IoU": float(errors.overlap[row]),
            **box,
        }


def _kinds_of_classes(errors: DetectionErrors) -> Tensor:
    """Chart: kinds among the detections that would be drawn, of all and of each class with such."""
    shown = errors.detections.scores >= SHOWN
    groups = {"all": shown} | {name: shown & (errors.detections.labels == k) for k, name in enumerate(errors.names)}
    counts = {
        name: np.bincount(errors.kinds[here & (errors.kinds >= 0)], minlength=len(KINDS))
        for name, here in groups.items()
    }
    kept = {name: each / each.sum() for name, each in counts.items() if each.sum()}
    series = {kind: [each[i] for each in kept.values()] for i, kind in enumerate(KINDS)}
    return draw_stacked_bars(list(kept), series, f"share of the detections that score {SHOWN} or more", "kinds")


def examples(errors: DetectionErrors, dataset: ObjectImages, files: dict[int, int]) -> Iterator[tuple[str, Tensor]]:
    """For each kind the errors that score most, or the largest missed objects: found red, the object meant green."""
    found = errors.detections
    sides = np.array([each["bbox"] for each in errors.objects], np.float64).reshape(-1, 4)
    corners = np.concatenate([sides[:, :2], sides[:, :2] + sides[:, 2:]], axis=1)
    for kind in SINGLE:
        tiles, captions = [], []
        if kind == "missed":
            areas = sides[errors.missed, 2:].prod(axis=1)
            cases = [(-1, int(row)) for row in errors.missed[np.argsort(-areas, kind="stable")][:EXAMPLES]]
        else:
            cases = [(int(row), int(errors.target[row])) for row in errors.mistakes(kind, EXAMPLES)]
        for row, target in cases:
            number = int(errors.image_id[target] if row < 0 else found.image_id[row])
            here = [found.boxes[row]] * (row >= 0) + [corners[target]] * (target >= 0)
            colours = [FOUND] * (row >= 0) + [TRUTH] * (target >= 0)
            tiles.append(_tile(dataset.image(files[number]), np.array(here), colours))
            said = [] if row < 0 else [f"{errors.names[found.labels[row]]} {found.scores[row]:.2f}"]
            meant = [] if target < 0 else [f"is {errors.names[errors.labels[target]]}"]
            captions.append([*said, *meant, Path(str(dataset.file_names[files[number]])).name])
        if tiles:
            yield kind, draw_gallery(tiles, captions)


def _tile(image: np.ndarray, boxes: NDArray[np.float64], colours: list[tuple[int, int, int]]) -> Tensor:
    """Square around boxes, (3, TILE, TILE) uint8, with the boxes."""
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    side = max(24, round(1.5 * float((high - low).max())))
    x, y = np.floor((low + high - side) / 2).astype(int).tolist()
    padding = (max(0, -x), max(0, x + side - image.shape[1]), max(0, -y), max(0, y + side - image.shape[0]))
    whole = F.pad(torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1), padding)
    cut = whole[:, y + padding[2] : y + padding[2] + side, x + padding[0] : x + padding[0] + side]
    tile = F.interpolate(cut[None].float(), size=(TILE, TILE), mode="bilinear", antialias=True)[0]
    return draw_boxes(tile.round().clamp(0, 255).to(torch.uint8), (boxes - [x, y, x, y]) * TILE / side, colours)


def worst_images(errors: DetectionErrors, dataset: ObjectImages, chosen: list[tuple[int, int]]) -> Tensor:
    """Images of these numbers and rows, each shrunk into a square: truth above what was found."""
    palette, found = class_colours(len(errors.names)), errors.detections
    truths, founds = [], []
    for number, row in chosen:
        image = torch.from_numpy(np.ascontiguousarray(dataset.image(row))).permute(2, 0, 1)
        scale = 1.5 * TILE / max(image.shape[1:])
        size = tuple(max(1, round(scale * side)) for side in image.shape[1:])
        small = F.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True)[0].round().byte()
        here = np.flatnonzero((errors.image_id == number) & errors.real)
        boxes = np.array([errors.objects[each]["bbox"] for each in here], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        truths.append(_square(draw_boxes(small, boxes * scale, [palette[k] for k in errors.labels[here]])))
        shown = np.flatnonzero((found.image_id == number) & (found.scores >= SHOWN))
        labels = found.labels[shown].tolist()
        captions = [f"{errors.names[k]} {s:.2f}" for k, s in zip(labels, found.scores[shown].tolist(), strict=True)]
        drawn = draw_boxes(small, found.boxes[shown] * scale, [palette[k] for k in labels], captions)
        founds.append(_square(drawn))
    return grid([truths, founds], ["truth", f"prediction: what scores at least {SHOWN}"])


def _square(picture: Tensor) -> Tensor:
    """Filled with white at the right and at the bottom."""
    side = max(picture.shape[1:])
    return F.pad(picture, (0, side - picture.shape[2], 0, side - picture.shape[1]), value=255)

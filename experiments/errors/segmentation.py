"""Where a segmentation errs: which classes it takes for which, how near to their boundaries, and in which images.

errors = SegmentationErrors(num_classes, names); errors.update(labels, mask, image_ids) a batch; then the tables
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from datamodules.base import BaseDataModule, BaseDataset, collate
from experiments.errors.report import (
    EXAMPLES,
    TILE,
    Report,
    class_bars,
    confusion_bars,
    confusion_pairs,
    on_device,
    predicted,
    report_of,
)
from tasks import SegmentationTask
from tasks.draw import class_colours, draw_segmentation
from tasks.draw.charts import draw_boundary
from tasks.losses import IGNORED
from tasks.metrics.confusion import SegmentationScores, image_confusion, image_iou

DISTANCES = (1, 2, 4, 8, 16, 32)


@report_of.register
def segmentation_report(
    task: SegmentationTask, data: BaseDataModule, limit: int | float | None = None, predictions: Path | None = None
) -> Report:
    """Confusions, errors by distance to a boundary, the worst images."""
    dataset, names = data.split(task.split), task.metric.names
    errors = SegmentationErrors(task.num_classes, names)
    for found, batch in predicted(task, data, limit):
        errors.update(found["labels"], batch["mask"], batch["image_id"])
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
    figures["classes"] = class_bars(tables["classes"], "IoU")
    if tables["confusions"]:
        figures["confusions"] = confusion_bars(tables["confusions"])
    worst = [row["sample"] for row in images if not math.isnan(row["mIoU"])][:EXAMPLES]
    if worst:
        figures["worst"] = worst_images(task, dataset, worst)
    return Report({name: rows for name, rows in tables.items() if rows}, figures)


class SegmentationErrors:
    """Confusions, errors by distance to a boundary, and scores of each image; no mask is kept.

    Args:
        num_classes: K, at most 255.
        names: (K,) names of the classes.
    """

    def __init__(self, num_classes: int, names: Sequence[str]) -> None:
        self.num_classes, self.names = num_classes, list(names)
        self.scores = SegmentationScores(num_classes, names, boundary=True)
        self._pixels = np.zeros(len(DISTANCES) + 1, dtype=np.int64)
        self._errors = np.zeros(len(DISTANCES) + 1, dtype=np.int64)
        self._images: list[dict[str, Any]] = []

    def update(self, labels: Tensor, mask: Tensor, ids: Tensor) -> None:
        """Count a batch.

        Args:
            labels: (B, H, W) int, predicted classes.
            mask: (B, H, W) int, true classes, 255 ignored.
            ids: (B,) ids of the images.

        Raises:
            ValueError: If the shapes differ, or a label is no class.
        """
        labels, mask = labels.cpu(), mask.cpu()
        self.scores.update(labels, mask)
        for found, truth, image in zip(labels, mask, ids.tolist(), strict=True):
            self._images.append({"sample": image, **_image_scores(found, truth, self.num_classes)})
            self._count_distances(found.numpy(), truth.numpy().astype(np.uint8))

    def summary(self) -> list[dict[str, Any]]:
        """`name` and `value` of the split's scores, boundary IoU among them."""
        return [{"name": name, "value": value} for name, value in self.scores.compute().items()]

    def per_class(self) -> list[dict[str, Any]]:
        """A dict a class, lowest IoU first: IoU, accuracy, precision, pixels and boundary IoU."""
        return sorted(self.scores.per_class(), key=lambda row: (math.isnan(row["IoU"]), row["IoU"]))

    def confusions(self) -> list[dict[str, Any]]:
        """See `confusion_pairs`; counts are pixels."""
        return confusion_pairs(self.scores.confusion, self.names)

    def boundary(self) -> list[dict[str, Any]]:
        """How many errors are near a boundary, and how many inside.

        A pixel's distance is that to the nearest pixel of another true class, ignored ones included, in rows or columns
        (the larger); the image's edge is no boundary.

        Returns:
            A dict for each band and its rest, `name`, `distance` (inf for the rest: beyond the last), `pixels` and
            `errors` up to that distance (the rest's alone), `share_of_pixels`, `share_of_errors` and `error_rate`, nan
            where undefined.
        """
        pixels, errors = np.cumsum(self._pixels[:-1]), np.cumsum(self._errors[:-1])
        rows = [
            self._band(f"within {distance} px", distance, int(n), int(wrong))
            for distance, n, wrong in zip(DISTANCES, pixels, errors, strict=True)
        ]
        rest = self._band(f"beyond {DISTANCES[-1]} px", math.inf, int(self._pixels[-1]), int(self._errors[-1]))
        return [*rows, rest]

    def images(self) -> list[dict[str, Any]]:
        """A dict an image, lowest mIoU first: `sample`, `mIoU` over the classes in it, `pixel_accuracy`, `worst_class`.

        Unlike the split's mIoU, which sums over all images before any ratio is taken.
        """
        rows = [{**row, "worst_class": self._name(row["worst_class"])} for row in self._images]
        return sorted(rows, key=lambda row: (math.isnan(row["mIoU"]), row["mIoU"]))

    def _count_distances(self, labels: NDArray[np.int64], mask: NDArray[np.uint8]) -> None:
        counted = mask != IGNORED
        band = np.searchsorted(DISTANCES, boundary_distance(mask)[counted])
        wrong = (labels != mask)[counted]
        self._pixels += np.bincount(band, minlength=len(self._pixels))
        self._errors += np.bincount(band[wrong], minlength=len(self._errors))

    def _band(self, name: str, distance: float, pixels: int, errors: int) -> dict[str, Any]:
        return {
            "name": name,
            "distance": distance,
            "pixels": pixels,
            "errors": errors,
            "share_of_pixels": _ratio(pixels, int(self._pixels.sum())),
            "share_of_errors": _ratio(errors, int(self._errors.sum())),
            "error_rate": _ratio(errors, pixels),
        }

    def _name(self, label: int | None) -> str:
        return "" if label is None else self.names[label]


def boundary_distance(mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H, W) labels -> to the nearest pixel of another label, the larger of rows and columns; inf if there is none."""
    square = np.ones((3, 3), np.uint8)
    beside = cv2.dilate(mask, square) != cv2.erode(mask, square)
    if not beside.any():
        return np.full(mask.shape, np.inf, dtype=np.float32)
    return cv2.distanceTransform((~beside).astype(np.uint8), cv2.DIST_C, 3) + 1


def _image_scores(labels: Tensor, mask: Tensor, num_classes: int) -> dict[str, Any]:
    """mIoU over the classes in truth or prediction, pixel accuracy, and the class of lowest IoU among those there."""
    confusion = image_confusion(labels[None], mask[None], num_classes)
    iou, present = image_iou(confusion)[0], confusion[0].sum(1)
    lowest = torch.where(present > 0, iou, torch.inf)
    return {
        "mIoU": iou.nanmean().item(),
        "pixel_accuracy": _ratio(int(confusion[0].trace()), int(present.sum())),
        "worst_class": int(lowest.argmin()) if present.any() else None,
    }


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


@torch.inference_mode()
def worst_images(task: SegmentationTask, dataset: BaseDataset, samples: Sequence[int]) -> Tensor:
    """Truth, prediction and errors of images of any size, each shrunk into a square; predicted once more."""
    columns = []
    for sample in samples:
        batch = on_device(task.device, collate([dataset[sample]]))
        labels = task.predict(task.outputs(batch), batch)["labels"]
        height, width = labels.shape[-2:]  # the mask's; a stretched image gets its own shape back
        scale = TILE / max(height, width)
        size = (max(1, round(scale * height)), max(1, round(scale * width)))
        columns.append([_resized(x, size) for x in (batch["image"], batch["mask"][:, None], labels[:, None])])
    parts = list(zip(*columns, strict=True))
    size = [max(mask.shape[axis] for mask in parts[1]) for axis in (-2, -1)]
    images, masks, labels = (
        torch.cat([_padded(x, size, fill) for x in part])
        for part, fill in zip(parts, (0, IGNORED, IGNORED), strict=True)
    )
    palette = task.palette or class_colours(task.num_classes)
    return draw_segmentation(images, masks[:, 0], labels[:, 0], palette, task.metric.names, TILE)


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(1, C, H, W) image or labels -> (1, C, *size) uint8."""
    smooth = {"mode": "bilinear", "antialias": True} if x.shape[1] == 3 else {"mode": "nearest"}
    return F.interpolate(x.cpu().float(), size=size, **smooth).round().to(torch.uint8)


def _padded(x: Tensor, size: Sequence[int], fill: int) -> Tensor:
    """(1, C, h, w) -> (1, C, *size), filled at the bottom and right."""
    return F.pad(x, (0, size[1] - x.shape[-1], 0, size[0] - x.shape[-2]), value=fill)

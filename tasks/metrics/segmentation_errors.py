"""Where a segmentation errs: which classes it takes for which, how near to their boundaries, and in which images.

errors = SegmentationErrors(num_classes, names); errors.update(labels, mask, image_ids) a batch; then the tables
"""

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.losses import IGNORED
from tasks.metrics.classification_errors import confusion_pairs
from tasks.metrics.confusion import SegmentationScores, image_confusion, image_iou

DISTANCES = (1, 2, 4, 8, 16, 32)


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

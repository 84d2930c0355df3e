"""Scores of semantic segmentation from one confusion matrix over a whole split (TPAMI 2020, Section 5).

Counts are summed over all images and processes before any ratio is taken; a mean over images would be another figure.
Boundary IoU is that of Cheng et al., CVPR 2021. `SegmentationTask` owns one `SegmentationScores`.
"""

import csv
import json
import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor
from torchmetrics import Metric

from tasks.losses import IGNORED

MEANINGS = {
    "mIoU": "mean over classes of intersection / union",
    "pixel_accuracy": "share of the pixels whose class is right",
    "mean_accuracy": "mean over classes of the share of their pixels that is found",
    "fwIoU": "mean of IoU, each class weighted by its share of the pixels",
    "boundary_IoU": "mean over classes of IoU of the bands along the contours, 2 % of the diagonal wide",
}
BAND = 0.02  # of the image's diagonal, as published


class SegmentationScores(Metric):
    """mIoU, pixel accuracy, mean accuracy, frequency-weighted IoU, and the matrix they come from.

    A class that occurs neither in the ground truth nor in the predictions of the split is absent: it has no IoU and is
    left out of mIoU; a class that is predicted but not there has IoU 0 and counts. Mean accuracy is over the classes in
    the ground truth. The official script takes absent classes as 0 and divides by all classes; both agree where every
    class occurs, as in the full validation sets, and `table` states what differs otherwise.

    `compute` gathers all processes: call it on every rank, and what reads its result on whichever rank wants it.

    Args:
        num_classes: K, at most 255.
        names: (K,) names of the classes; their numbers when not given.
        boundary: Compute boundary IoU too (some ten times the work of the matrix).

    Raises:
        ValueError: If the number of names is not that of classes.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    file_name = "confusion.json"
    counts: Tensor
    bands: Tensor

    def __init__(self, num_classes: int, names: Sequence[str] | None = None, *, boundary: bool = False) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.names = [str(i) for i in range(num_classes)] if names is None else list(names)
        if len(self.names) != num_classes:
            raise ValueError(f"Found {len(self.names)} class names for {num_classes} classes, expected one a class.")
        self.boundary = boundary
        self._final = torch.zeros(0)
        self._final_bands = torch.zeros(0)
        zeros = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state("counts", default=zeros, dist_reduce_fx="sum")
        self.add_state("bands", default=torch.zeros(3, num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, labels: Tensor, mask: Tensor) -> None:
        """Count a batch.

        Args:
            labels: (B, H, W) int, predicted classes, 0 to K - 1.
            mask: (B, H, W) int, true classes, or 255 where the pixel does not count.

        Raises:
            ValueError: If the shapes differ, or a label is no class.
        """
        if labels.shape != mask.shape:
            raise ValueError(f"Predicted labels {tuple(labels.shape)} and mask {tuple(mask.shape)} differ in shape.")
        if not mask.numel():
            return
        self._check(labels, 0, self.num_classes, "A prediction")
        self._check(mask, 0, IGNORED + 1, "The mask")
        # Ignored pixels have a row of their own, which is cheaper than leaving them out.
        rows = (mask.long() * self.num_classes + labels).flatten().bincount(minlength=(IGNORED + 1) * self.num_classes)
        rows = rows.view(IGNORED + 1, self.num_classes)
        if rows[self.num_classes : IGNORED].any():
            found = self.num_classes + int(rows[self.num_classes : IGNORED].sum(1).nonzero()[0])
            raise ValueError(self._outside("The mask", found))
        self.counts += rows[: self.num_classes]
        if self.boundary:
            self.bands += torch.stack(_band_counts(labels, mask, self.num_classes))

    def compute(self) -> dict[str, float]:
        """mIoU, pixel_accuracy, mean_accuracy, fwIoU (and boundary_IoU) in [0, 1]; NaN without a counted pixel."""
        self._final = self.counts.cpu()
        self._final_bands = self.bands.cpu()
        iou, accuracy, _ = self._ratios()
        share = self._final.sum(1) / self._final.sum()
        scores = {
            "mIoU": iou.nanmean().item(),
            "pixel_accuracy": (self._final.trace() / self._final.sum()).item(),
            "mean_accuracy": accuracy.nanmean().item(),
            "fwIoU": (share * iou).nansum().item() if self._final.any() else math.nan,
        }
        return scores | ({"boundary_IoU": self._boundary_iou().nanmean().item()} if self.boundary else {})

    @property
    def confusion(self) -> Tensor:
        """(K, K) int64 pixels of true class (row) and predicted class (column), of all processes."""
        self.compute()  # which torchmetrics keeps until the next update
        return self._final

    @property
    def absent(self) -> list[str]:
        """Names of the classes that occur neither in the ground truth nor in the predictions."""
        occurring = self.confusion.sum(0) + self.confusion.sum(1)
        return [name for name, count in zip(self.names, occurring.tolist(), strict=True) if not count]

    def per_class(self) -> list[dict[str, Any]]:
        """A dict a class, NaN where undefined.

        `name`, `IoU`, `accuracy` (share of its pixels that is found), `precision` (share of the pixels predicted so
        that is right), `pixels` in the ground truth, `predicted` pixels, and `boundary_IoU` if it is computed.
        """
        matrix = self.confusion
        columns = [x.tolist() for x in (*self._ratios(), matrix.sum(1), matrix.sum(0))]
        keys = ["IoU", "accuracy", "precision", "pixels", "predicted"]
        if self.boundary:
            columns.append(self._boundary_iou().tolist())
            keys.append("boundary_IoU")
        rows = zip(*columns, strict=True)
        return [{"name": name} | dict(zip(keys, row, strict=True)) for name, row in zip(self.names, rows, strict=True)]

    def table(self) -> Table:
        """The figures of the split, what each means, and which classes are absent."""
        absent = self.absent
        table = Table("metric", "value", "meaning", caption_justify="left")
        for key, value in self.compute().items():
            table.add_row(key, _text(value), MEANINGS[key])
        if absent:
            official = self._ratios()[0].nansum().item() / self.num_classes
            table.caption = (
                f"absent, so without IoU and left out of the means: {', '.join(absent)}. "
                f"The official script counts them as 0: mIoU {_text(official)}."
            )
        return table

    def save(self, path: str | Path) -> Path:
        """Write metrics, per-class figures and the matrix as JSON, and the matrix alone as CSV beside it."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        matrix = self.confusion.tolist()
        rows = [_without_nan(row) for row in self.per_class()]
        content = {"metrics": _without_nan(self.compute()), "per_class": rows, "absent": self.absent, "matrix": matrix}
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")
        with path.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["truth \\ prediction", *self.names])
            writer.writerows([name, *counts] for name, counts in zip(self.names, matrix, strict=True))
        return path

    def _ratios(self) -> tuple[Tensor, Tensor, Tensor]:
        """IoU, accuracy and precision of each class, (K,) float64."""
        matrix = self._final.double()
        right, true, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
        return right / (true + predicted - right), right / true, right / predicted

    def _boundary_iou(self) -> Tensor:
        both, true, predicted = self._final_bands.double()
        return both / (true + predicted - both)

    def _check(self, values: Tensor, low: int, end: int, what: str) -> None:
        smallest, largest = (int(x) for x in torch.stack(values.aminmax()).tolist())
        if smallest < low or largest >= end:
            raise ValueError(self._outside(what, smallest if smallest < low else largest))

    def _outside(self, what: str, label: int) -> str:
        ends = f"0 to {self.num_classes - 1}" + (f", or {IGNORED} for ignored pixels" if "mask" in what else "")
        return f"{what} has the label {label}, expected {ends}: map the data's labels to these."


def image_confusion(labels: Tensor, mask: Tensor, num_classes: int) -> Tensor:
    """Confusion matrix of each image alone.

    Args:
        labels: (B, H, W) int, predicted classes.
        mask: (B, H, W) int, true classes, 255 ignored.
        num_classes: K.

    Returns:
        (B, K, K) int64 pixels of true class (row) and predicted class (column).
    """
    pairs = (mask.long() * num_classes + labels).flatten(1)
    length = (IGNORED + 1) * num_classes
    rows = torch.stack([pair.bincount(minlength=length) for pair in pairs]).view(len(pairs), -1, num_classes)
    return rows[:, :num_classes]


def image_iou(confusion: Tensor) -> Tensor:
    """IoU (B, K) of the classes in each image, of `image_confusion`; nan where an image has none of a class.

    Its mean over classes is to find bad images, not to report.
    """
    counts = confusion.double()
    hits = counts.diagonal(dim1=1, dim2=2)
    return hits / (counts.sum(1) + counts.sum(2) - hits)


def _band_counts(labels: Tensor, mask: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels a class, (K,) each: in the bands of truth and prediction both, in the truth's, in the prediction's."""
    ignored = mask == IGNORED
    distance = max(1, round(BAND * math.hypot(*mask.shape[-2:])))
    # What is ignored in the truth bounds the objects of both like the image's edge does.
    labels = labels.long().masked_fill(ignored, IGNORED)
    true = mask.long().masked_fill(~_band(mask, distance), IGNORED)
    predicted = labels.masked_fill(~_band(labels, distance), IGNORED)
    both = true.masked_fill(true != predicted, IGNORED)
    count = [x.flatten().bincount(minlength=IGNORED + 1)[:num_classes] for x in (both, true, predicted)]
    return count[0], count[1], count[2]


def _band(labels: Tensor, distance: int) -> Tensor:
    """(B, H, W) labels -> bool, where another label or the outside lies within `distance` rows and columns.

    Equal to what `distance` erosions by a 3x3 square take away from the mask of each class, for all classes at once: a
    pixel is as near to another label as it is to a pixel that has another label beside it, plus one. Sums over boxes
    through running sums make the work independent of the distance.
    """
    size = height, width = labels.shape[-2:]
    centre = labels.to(torch.int16)
    framed = F.pad(centre, (1, 1, 1, 1), value=-1)
    near = torch.zeros_like(centre, dtype=torch.bool)
    for down, right in product(range(3), repeat=2):
        near |= framed[:, down : down + height, right : right + width] != centre
    for axis in (1, 2):
        place = torch.arange(size[axis - 1], device=labels.device)
        sums = F.pad(near.cumsum(axis, dtype=torch.int32), (1, 0) if axis == 2 else (0, 0, 1, 0))
        above = sums.index_select(axis, (place + distance).clamp(max=size[axis - 1]))
        near = above > sums.index_select(axis, (place - distance + 1).clamp(min=0))
    return near


def _text(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.4f}"


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    """With None for NaN, which JSON has not."""
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}

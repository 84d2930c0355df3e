"""Poses of a mixture of data sets, each measured by its own truth on its own key points.

A mixture (`MixedPose`) has ids `id * S + s` in the s-th of S data sets; from them follows whose a pose is.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor, nn
from torchmetrics.wrappers.abstract import WrapperMetric

from tasks.metrics.coco_keypoints import CocoKeypoints


class BySource(WrapperMetric):
    """A metric of poses for each data set of a mixture, and the means of what all of them compute.

    Args:
        metrics: Of each data set by name, in the order of the mixture.
        points: (K_s,) indices of each one's key points among those that are predicted.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    file_name = CocoKeypoints.file_name

    def __init__(self, metrics: Mapping[str, CocoKeypoints], points: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self.metrics = nn.ModuleDict(dict(metrics))
        self.points = {name: list(points[name]) for name in metrics}
        self.renamed_images: dict[int, str] = {}
        self.renamed_annotations: dict[int, str] = {}
        for s, (name, metric) in enumerate(metrics.items()):
            images, annotations = metric.image_ids, metric.renamed_annotations
            self.renamed_images |= {self._number(n, s): f"{name}/{image}" for n, image in images.items()}
            self.renamed_annotations |= {self._number(n, s): f"{name}/{annotations.get(n, n)}" for n in metric.areas}

    def _number(self, number: int, s: int) -> int:
        return number * len(self.points) + s

    def _each(self) -> list[tuple[str, CocoKeypoints]]:
        return [(name, cast(CocoKeypoints, metric)) for name, metric in self.metrics.items()]

    @property
    def seen_images_only(self) -> bool:
        """Whether only images that `update` has seen are evaluated."""
        return all(metric.seen_images_only for _, metric in self._each())

    @seen_images_only.setter
    def seen_images_only(self, value: bool) -> None:
        for _, metric in self._each():
            metric.seen_images_only = value

    def update(
        self, image_id: Tensor, instance_id: Tensor, keypoints: Tensor, scores: Tensor, box_scores: Tensor, area: Tensor
    ) -> None:
        """Hand each data set its poses, perhaps none, with its own points; see `CocoKeypoints.update`."""
        for s, (name, metric) in enumerate(self._each()):
            rows, points = image_id % len(self.points) == s, self.points[name]
            metric.update(
                self._own(image_id[rows]),
                self._own(instance_id[rows]),
                keypoints[rows][:, points],
                scores[rows][:, points],
                box_scores[rows],
                area[rows],
            )

    def compute(self) -> dict[str, float]:
        """`<source>/<figure>` of each data set, and before them under its plain name the mean of each figure.

        A mean is over the data sets that define the figure; those that some do not compute at all have none.
        """
        found = {name: metric.compute() for name, metric in self._each()}
        common = [key for key in next(iter(found.values())) if all(key in figures for figures in found.values())]
        means = {key: _mean([figures[key] for figures in found.values()]) for key in common}
        return means | {f"{name}/{key}": value for name, figures in found.items() for key, value in figures.items()}

    def reset(self) -> None:
        """Forget all poses."""
        for _, metric in self._each():
            metric.reset()
        super().reset()

    def similarity(self, instance_id: Tensor, truth: Tensor, visible: Tensor, keypoints: Tensor) -> NDArray[np.float64]:
        """(B,) OKS of poses over the points of their data sets; see `CocoKeypoints.similarity`."""
        found = np.full(len(instance_id), math.nan)
        for s, (name, metric) in enumerate(self._each()):
            rows, points = instance_id % len(self.points) == s, self.points[name]
            parts = (values[rows][:, points] for values in (truth, visible, keypoints))
            found[rows.cpu().numpy()] = metric.similarity(self._own(instance_id[rows]), *parts)
        return found

    def per_keypoint(self) -> list[dict[str, Any]]:
        """The rows of each data set, each named `<source>: <point>`."""
        return [{**row, "name": f"{name}: {row['name']}"} for name, m in self._each() for row in m.per_keypoint()]

    def table(self) -> Table:
        """A row a figure, a column a data set."""
        figures = self.compute()
        names = [key for key in figures if "/" not in key]
        table = Table("metric", "mean", *self.points)
        for key in names:
            values = [figures[key], *(figures[f"{name}/{key}"] for name in self.points)]
            table.add_row(key, *("n/a" if math.isnan(value) else f"{value:.3f}" for value in values))
        return table

    def save(self, path: str | Path) -> Path:
        """Write a file for each data set, in a folder of its name beside `path`, with its own ids and points."""
        path = Path(path)
        for name, metric in self._each():
            metric.save(path.parent / name / path.name)
        return path.parent

    def _own(self, numbers: Tensor) -> Tensor:
        """As the data set has them."""
        return torch.div(numbers, len(self.points), rounding_mode="floor")


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan

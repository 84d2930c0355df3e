"""From predicted to final poses: rescored (box score x mean key point score), double ones dropped by OKS.

So the paper's evaluation has it (CVPR 2019, section 4.1). `final_poses` gives `Poses`, and these COCO's result dicts.
"""

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.metrics.oks import oks_nms


@dataclass(frozen=True)
class Poses:
    """Final predictions, sorted by image and within an image best first; N poses, K key points."""

    image_id: NDArray[np.int64]  # (N,) numbers of the images, as in batches
    keypoints: NDArray[np.float64]  # (N, K, 2) original pixels
    keypoint_scores: NDArray[np.float64]  # (N, K)
    scores: NDArray[np.float64]  # (N,)

    def best(self, count: int) -> "Poses":
        """At most `count` of each image."""
        rank = np.arange(len(self.image_id)) - np.searchsorted(self.image_id, self.image_id)
        top = rank < count
        return Poses(self.image_id[top], self.keypoints[top], self.keypoint_scores[top], self.scores[top])

    def rounded(self, digits: int) -> "Poses":
        """Key points and their scores rounded; the scores of the poses, which rank them, stay."""
        keypoints, keypoint_scores = self.keypoints.round(digits), self.keypoint_scores.round(digits)
        return replace(self, keypoints=keypoints, keypoint_scores=keypoint_scores)

    def results(self, category_id: int, image_ids: Mapping[int, Any]) -> list[dict[str, Any]]:
        """COCO result dicts: image_id, category_id, keypoints (3K numbers x, y, score), score.

        `image_ids` has the id of each image's number; a number that it lacks is its own id.
        """
        columns = [image_ids.get(n, n) for n in self.image_id.tolist()], self._triplets().tolist(), self.scores.tolist()
        return [
            {"image_id": image_id, "category_id": category_id, "keypoints": keypoints, "score": score}
            for image_id, keypoints, score in zip(*columns, strict=True)
        ]

    def detections(self, category_id: int) -> list[dict[str, Any]]:
        """`results` as the evaluator wants them: key points as an array, a number, and an area.

        COCO takes the extent of the key points for the area.
        """
        area = np.ptp(self.keypoints, axis=1).prod(axis=1)
        columns = self.image_id.tolist(), self._triplets(), self.scores.tolist(), area.tolist()
        keys = ("image_id", "keypoints", "score", "area")
        return [
            {"id": i, "category_id": category_id, **dict(zip(keys, row, strict=True))}
            for i, row in enumerate(zip(*columns, strict=True), start=1)
        ]

    def save(self, path: Path, category_id: int, image_ids: Mapping[int, Any]) -> None:
        """Write `results` as JSON; the file appears complete or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            partial.write_text(json.dumps(self.results(category_id, image_ids)))
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    def _triplets(self) -> NDArray[np.float64]:
        """(N, 3K) x, y, score of each key point in turn, the order of COCO's result files."""
        count, num_keypoints = self.keypoint_scores.shape
        triplets = np.concatenate([self.keypoints, self.keypoint_scores[..., None]], axis=2)
        return triplets.reshape(count, 3 * num_keypoints)


def final_poses(
    image_id: NDArray[np.int64],
    instance_id: NDArray[np.int64],
    keypoints: NDArray[np.floating],
    keypoint_scores: NDArray[np.floating],
    box_scores: NDArray[np.floating],
    area: NDArray[np.floating],
    *,
    sigmas: NDArray[np.float64],
    visible_threshold: float,
    oks_threshold: float,
) -> Poses:
    """The poses that count, with the scores that they count with.

    Args:
        image_id: (N,) image of each pose.
        instance_id: (N,); of rows with the same image and instance the first counts.
        keypoints: (N, K, 2) x, y in original pixels.
        keypoint_scores: (N, K) in [0, 1].
        box_scores: (N,) in [0, 1].
        area: (N,) of the padded boxes in pixels².
        sigmas: (K,) COCO's spread of each key point.
        visible_threshold: in [0, 1], key points with a higher score count in the score of the person.
        oks_threshold: in [0, 1], poses of an image with a higher OKS show the same person.
    """
    rows = _first_of_each(image_id, instance_id)
    image_id = image_id[rows]
    columns = [column[rows].astype(np.float64) for column in (keypoints, keypoint_scores, box_scores, area)]
    keypoints, keypoint_scores, box_scores, area = _finite(columns, image_id)
    counted = keypoint_scores > visible_threshold
    scores = box_scores * (keypoint_scores * counted).sum(axis=1) / np.maximum(counted.sum(axis=1), 1)
    bounds = np.append(np.unique(image_id, return_index=True)[1], len(image_id)).tolist()
    kept = [
        start + oks_nms(keypoints[start:end], scores[start:end], area[start:end], sigmas, oks_threshold)
        for start, end in pairwise(bounds)
    ]
    rows = np.concatenate([np.empty(0, dtype=np.int64), *kept])
    return Poses(image_id[rows], keypoints[rows], keypoint_scores[rows], scores[rows])


def _first_of_each(image_id: NDArray[np.int64], instance_id: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows sorted by image and instance, without repetitions."""
    order = np.lexsort((instance_id, image_id))
    first = np.ones(len(order), dtype=bool)
    first[1:] = (np.diff(image_id[order]) != 0) | (np.diff(instance_id[order]) != 0)
    return order[first]


def _finite(columns: list[NDArray[np.float64]], image_id: NDArray[np.int64]) -> list[NDArray[np.float64]]:
    """Poses with a NaN or an infinity set to zero: with score 0 they cannot match anything before all others have."""
    finite = [np.isfinite(column).all(axis=tuple(range(1, column.ndim))) for column in columns]
    broken = ~np.logical_and.reduce(finite)
    if broken.any():
        warnings.warn(
            f"{broken.sum()} of {len(broken)} poses have coordinates or scores that are not finite, the first in image "
            f"{image_id[broken][0]}. They count with score 0; the network has probably diverged, look at the loss.",
            stacklevel=2,
        )
        for column in columns:
            column[broken] = 0
    return columns

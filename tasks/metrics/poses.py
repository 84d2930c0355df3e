"""Poses of a split after the network: which of them count, with what score, and how well each key point is found.

The paper's evaluation (CVPR 2019, section 4.1) rescores a pose by box score x mean key point score, and drops double
ones by OKS. `coco_keypoints` holds what `final_poses` gives against the annotated persons.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.metrics.oks import keypoint_similarity, nearest_poses, oks_nms

PCK_SIMILARITY = 0.5
"""From which key point similarity on a key point is correct: within 2 sigma √(2 ln 2 area), 2.35 sigma √area."""


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

    def triplets(self) -> NDArray[np.float64]:
        """(N, 3K) x, y, score of each key point in turn, the order of COCO's result files."""
        count, num_keypoints = self.keypoint_scores.shape
        triplets = np.concatenate([self.keypoints, self.keypoint_scores[..., None]], axis=2)
        return triplets.reshape(count, 3 * num_keypoints)

    def results(
        self, category_id: int, image_ids: Mapping[int, Any], digits: int | None = None
    ) -> list[dict[str, Any]]:
        """COCO result dicts: image_id, category_id, keypoints (3K numbers x, y, score), score.

        Args:
            category_id: Of all of them.
            image_ids: Number of an image -> its id; a number that is absent is its own id.
            digits: Decimals of the key points and their scores; the scores of the poses, which rank them, keep all.
        """
        triplets = self.triplets() if digits is None else self.triplets().round(digits)
        columns = [image_ids.get(n, n) for n in self.image_id.tolist()], triplets.tolist(), self.scores.tolist()
        return [
            {"image_id": image_id, "category_id": category_id, "keypoints": keypoints, "score": score}
            for image_id, keypoints, score in zip(*columns, strict=True)
        ]


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


def keypoint_accuracy(
    persons: Sequence[Mapping[str, Any]], poses: Poses, names: Sequence[str], sigmas: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """Every person with labelled key points (crowds aside) against the pose of highest OKS in its image.

    Several persons may share a pose. Without a pose in the image all key points of the person count as missed.

    Args:
        persons: `CocoKeypoints.persons`.
        poses: N poses of K key points.
        names: (K,) names of the key points.
        sigmas: (K,) COCO's spread of each key point.

    Returns:
        A dict a key point: `name`; `labelled`, number of labelled key points; `pck`, share of them whose similarity
        exp(-d² / (2 area (2 sigma)²)) is at least 0.5; `error`, mean distance in pixels, and `normalised_error`, mean
        of distance / sqrt(area), both over persons that have a pose. NaN where nothing is labelled or found.
    """
    persons = [p for p in persons if np.any(p["keypoints"][2::3] > 0) and not p["iscrowd"]]
    labels = np.array([p["keypoints"] for p in persons]).reshape(len(persons), len(names), 3)
    area = np.array([p["area"] for p in persons])
    labelled = labels[..., 2] > 0
    image_id = np.array([p["image_id"] for p in persons])
    person, pose = nearest_poses(labels, area, image_id, poses.keypoints, poses.image_id, sigmas)
    squared = np.square(poses.keypoints[pose] - labels[person, :, :2]).sum(axis=-1)
    hit = keypoint_similarity(squared, area[person], sigmas) >= PCK_SIMILARITY
    distance = np.sqrt(squared)
    found = labelled[person]
    with np.errstate(invalid="ignore"):
        pck = (hit & found).sum(axis=0) / labelled.sum(axis=0)
        error = (distance * found).sum(axis=0) / found.sum(axis=0)
        normalised = (distance * found / np.sqrt(area[person])[:, None]).sum(axis=0) / found.sum(axis=0)
    keys = ("name", "labelled", "pck", "error", "normalised_error")
    columns = (labelled.sum(axis=0).tolist(), pck.tolist(), error.tolist(), normalised.tolist())
    return [dict(zip(keys, row, strict=True)) for row in zip(names, *columns, strict=True)]

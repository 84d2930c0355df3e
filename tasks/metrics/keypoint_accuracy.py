"""How well each key point is found, whatever the score of its pose: PCK by COCO's spreads, and errors in pixels.

rows = keypoint_accuracy(persons, poses, names, sigmas), then `keypoint_table(rows)` for reading.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from tasks.metrics.coco_poses import Poses
from tasks.metrics.oks import keypoint_similarity, nearest_poses

PCK_SIMILARITY = 0.5
"""From which key point similarity on a key point is correct: within 2 sigma √(2 ln 2 area), 2.35 sigma √area."""


def keypoint_accuracy(
    persons: Sequence[Mapping[str, Any]], poses: Poses, names: Sequence[str], sigmas: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """Every person with labelled key points (crowds aside) against the pose of highest OKS in its image.

    Several persons may share a pose. Without a pose in the image all key points of the person count as missed.

    Args:
        persons: As `coco_persons.annotated_persons` gives them.
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


def keypoint_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows of `keypoint_accuracy` for reading."""
    threshold = f"PCK: share with a similarity exp(-d² / (2 area (2 sigma)²)) of at least {PCK_SIMILARITY}"
    table = Table("key point", "labelled", f"PCK at {PCK_SIMILARITY}", "error, px", "error / √area", caption=threshold)
    for row in rows:
        numbers = figure(row["pck"]), figure(row["error"], 1), figure(row["normalised_error"])
        table.add_row(row["name"], str(row["labelled"]), *numbers)
    return table


def figure(value: float, digits: int = 3) -> str:
    """For a table: `digits` decimals, n/a where the figure is not defined."""
    return "n/a" if math.isnan(value) else f"{value:.{digits}f}"

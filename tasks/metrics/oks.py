"""Object key point similarity (OKS) and the suppression of duplicate poses with it.

OKS is to key points what IoU is to boxes (COCO key point evaluation). HRNet's evaluation (CVPR 2019, section 4.1) uses
it twice: here, to drop poses of an image that show the same person, and in the average precision of `coco_keypoints`.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def keypoint_similarity(squared_distance: ArrayLike, area: ArrayLike, sigmas: ArrayLike) -> NDArray[np.float64]:
    """Similarity of single key points, exp(-d² / (2 area (2 sigma)²)).

    Args:
        squared_distance: (..., K) squared distances in pixels².
        area: (...) area of the person in pixels².
        sigmas: (K,) COCO's spread of each key point, e.g. 0.026 for the nose.

    Returns:
        (..., K) in [0, 1]; 1 at distance zero.
    """
    area = np.asarray(area, dtype=np.float64)[..., None]
    return np.exp(-np.asarray(squared_distance) / (8 * np.square(np.asarray(sigmas)) * (area + np.spacing(1))))


def oks(
    keypoints_a: ArrayLike, keypoints_b: ArrayLike, area_a: ArrayLike, area_b: ArrayLike, sigmas: ArrayLike
) -> NDArray[np.float64]:
    """OKS of every pose of one set with every pose of another, over all K key points.

    The area of a pair is the mean of both areas, as HRNet's suppression has it.

    Args:
        keypoints_a: (N, K, 2 or more) x, y in pixels; further columns (visibility, score) are not looked at.
        keypoints_b: (M, K, 2 or more) likewise.
        area_a: (N,) area of each pose in pixels².
        area_b: (M,) likewise.
        sigmas: (K,) COCO's spread of each key point.

    Returns:
        (N, M) in [0, 1].
    """
    area = (np.asarray(area_a, dtype=np.float64)[:, None] + np.asarray(area_b, dtype=np.float64)) / 2 + np.spacing(1)
    # Key points outermost and the spread folded into the coordinates: long inner loops and one operation less a pair,
    # eight times faster than the formula written down with (N, M, K, 2) in between.
    scale = 1 / (np.sqrt(8) * np.asarray(sigmas, dtype=np.float64))[:, None]
    xy_a = np.ascontiguousarray(np.asarray(keypoints_a, dtype=np.float64).T) * scale
    xy_b = np.ascontiguousarray(np.asarray(keypoints_b, dtype=np.float64).T) * scale
    exponent = np.square(xy_a[0][:, :, None] - xy_b[0][:, None, :])
    exponent += np.square(xy_a[1][:, :, None] - xy_b[1][:, None, :])
    exponent /= -area
    return np.exp(exponent, out=exponent).mean(axis=0)


def oks_nms(
    keypoints: ArrayLike, scores: ArrayLike, areas: ArrayLike, sigmas: ArrayLike, threshold: float
) -> NDArray[np.int64]:
    """Greedy suppression: a pose stays if its OKS with every better pose that stayed is at most `threshold`.

    Args:
        keypoints: (N, K, 2 or more) poses of one image, x, y in pixels.
        scores: (N,) score of each pose; equal scores keep their order.
        areas: (N,) pixels², HRNet uses the sides' product of the padded box.
        sigmas: (K,) COCO's spread of each key point.
        threshold: in [0, 1]; HRNet uses 0.9.

    Returns:
        Indices of the poses that stay, best first.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    keypoints, areas = np.asarray(keypoints)[order], np.asarray(areas)[order]
    too_close = np.triu(oks(keypoints, keypoints, areas, areas, sigmas) > threshold, k=1)
    kept = np.ones(len(order), dtype=bool)
    for better in np.flatnonzero(too_close.any(axis=1)):
        if kept[better]:
            kept &= ~too_close[better]
    return order[kept]


def nearest_poses(
    labels: NDArray[np.float64],
    area: NDArray[np.float64],
    label_image: NDArray[np.int64],
    poses: NDArray[np.float64],
    pose_image: NDArray[np.int64],
    sigmas: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """To each labelled person the pose of highest OKS in its image, over the labelled key points and the person's area.

    Args:
        labels: (G, K, 3) x, y in pixels and visibility, at least one key point of each person labelled (above 0).
        area: (G,) area of the persons in pixels².
        label_image: (G,) image of each person.
        poses: (N, K, 2) x, y in pixels.
        pose_image: (N,) image of each pose, ascending.
        sigmas: (K,) COCO's spread of each key point.

    Returns:
        Rows of the persons whose image has a pose, ascending, and the row of the pose of each.
    """
    start = np.searchsorted(pose_image, label_image, side="left")
    count = np.searchsorted(pose_image, label_image, side="right") - start
    # All pairs of a person and a pose of its image in one flat list: no loop over images.
    person = np.repeat(np.arange(len(labels)), count)
    pose = np.arange(count.sum()) + np.repeat(start - np.cumsum(count) + count, count)
    labelled = labels[person, :, 2] > 0
    squared = np.square(poses[pose] - labels[person, :, :2]).sum(axis=-1)
    similarity = (keypoint_similarity(squared, area[person], sigmas) * labelled).sum(axis=1) / labelled.sum(axis=1)
    order = np.lexsort((-similarity, person))
    matched, first = np.unique(person[order], return_index=True)
    return matched, pose[order][first]

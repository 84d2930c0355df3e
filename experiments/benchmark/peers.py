"""The plain way of doing it: per-person, per-joint loops, as top-down pose pipelines are usually written.

These are what the benchmarks compare with, and second opinions on what our vectorised code computes. They follow the
published recipe (HRNet, CVPR 2019, section 4.1): same draws in the same order, same targets, same decoding.
"""

import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torchvision.transforms.functional import normalize, to_tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
UNIT = 200.0  # the published code measures the size of boxes in units of 200 pixels


@dataclass(frozen=True)
class Record:
    """One person of the data set: path, centre (2,), scale (2,), joints (K, 3) and their visibility (K, 3)."""

    path: str
    center: np.ndarray
    scale: np.ndarray
    joints: np.ndarray
    visible: np.ndarray


@dataclass(frozen=True)
class Recipe:
    """What the plain samples need to know of the experiment; `size` is (height, width) of the input."""

    size: tuple[int, int]
    flip_pairs: Sequence[Sequence[int]]
    upper_body: Sequence[int]
    stride: int = 4
    sigma: float = 2.0


def plain_sample(
    record: Record, recipe: Recipe, rng: np.random.Generator | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised crop (3, H, W), targets (K, h, w) and weights (K, 1); without `rng` nothing is drawn (evaluation)."""
    image = cv2.imread(record.path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    center, scale, rotation = record.center.copy(), record.scale.copy(), 0.0
    joints, visible = record.joints.copy(), record.visible.copy()
    if rng is not None:
        if np.sum(visible[:, 0]) > 8 and rng.random() < 0.3:
            center, scale = plain_half_body(joints, visible, recipe, center, scale, rng)
        scale = scale * np.clip(rng.standard_normal() * 0.35 + 1, 0.65, 1.35)
        rotation = np.clip(rng.standard_normal() * 45, -90, 90) if rng.random() < 0.6 else 0.0
        if rng.random() < 0.5:
            image = image[:, ::-1, :].copy()
            joints, visible = plain_flip(joints, visible, image.shape[1], recipe.flip_pairs)
            center[0] = image.shape[1] - center[0] - 1
    matrix = plain_affine(center, scale, rotation, recipe.size)
    crop = cv2.warpAffine(image, matrix, (recipe.size[1], recipe.size[0]), flags=cv2.INTER_LINEAR)
    for k in range(len(joints)):
        if visible[k, 0] > 0.0:
            joints[k, :2] = plain_transform(joints[k, :2], matrix)
    targets, weights = plain_targets(joints, visible, recipe)
    return normalize(to_tensor(crop), MEAN, STD), torch.from_numpy(targets), torch.from_numpy(weights)


def plain_half_body(
    joints: np.ndarray,
    visible: np.ndarray,
    recipe: Recipe,
    center: np.ndarray,
    scale: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Centre and scale of the upper or the lower body; as given where too few joints are visible."""
    upper, lower = [], []
    for k in range(len(joints)):
        if visible[k, 0] > 0:
            (upper if k in recipe.upper_body else lower).append(joints[k, :2])
    # 0.6915: the published code compares a normal draw with 0.5.
    prefers_upper = rng.random() < 0.6915
    chosen = upper if (prefers_upper and len(upper) > 2) or len(lower) <= 2 else lower
    if len(chosen) < 2:
        return center, scale
    points = np.array(chosen)
    width, height = points.max(axis=0) - points.min(axis=0)
    aspect = recipe.size[1] / recipe.size[0]
    if width > aspect * height:
        height = width / aspect
    else:
        width = height * aspect
    return points.mean(axis=0), np.array([width, height]) / UNIT * 1.5


def plain_flip(
    joints: np.ndarray, visible: np.ndarray, width: int, pairs: Sequence[Sequence[int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Joints and visibility of the mirrored image, left and right exchanged."""
    joints[:, 0] = width - joints[:, 0] - 1
    for left, right in pairs:
        joints[left], joints[right] = joints[right].copy(), joints[left].copy()
        visible[left], visible[right] = visible[right].copy(), visible[left].copy()
    return joints * visible, visible


def plain_affine(center: np.ndarray, scale: np.ndarray, rotation: float, size: tuple[int, int]) -> np.ndarray:
    """(2, 3) matrix through three pairs of points: the centre, the middle of the upper side, and a corner."""
    height, width = size
    angle = np.pi * rotation / 180
    reach = scale[0] * UNIT * -0.5
    source = np.zeros((3, 2), dtype=np.float32)
    target = np.zeros((3, 2), dtype=np.float32)
    source[0] = center
    source[1] = center + np.array([-np.sin(angle) * reach, np.cos(angle) * reach])
    target[0] = [width * 0.5, height * 0.5]
    target[1] = [width * 0.5, height * 0.5 - width * 0.5]
    for points in (source, target):
        difference = points[0] - points[1]
        points[2] = points[1] + np.array([-difference[1], difference[0]], dtype=np.float32)
    return cv2.getAffineTransform(source, target)


def plain_transform(point: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """One point (x, y) under a (2, 3) matrix."""
    return np.dot(matrix, np.array([point[0], point[1], 1.0]))[:2]


def plain_targets(joints: np.ndarray, visible: np.ndarray, recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """Heatmaps (K, h, w) and weights (K, 1): a Gaussian patch pasted a joint, cut at 3 sigma and at the border."""
    height, width = recipe.size[0] // recipe.stride, recipe.size[1] // recipe.stride
    targets = np.zeros((len(joints), height, width), dtype=np.float32)
    weights = visible[:, :1].astype(np.float32)
    reach = int(3 * recipe.sigma)
    for k in range(len(joints)):
        x, y = (int(joints[k, axis] / recipe.stride + 0.5) for axis in range(2))
        left, top, right, bottom = x - reach, y - reach, x + reach + 1, y + reach + 1
        if left >= width or top >= height or right <= 0 or bottom <= 0:
            weights[k] = 0
        if weights[k] <= 0.5:
            continue
        positions = np.arange(0, 2 * reach + 1, 1, np.float32)
        squared = (positions - reach) ** 2 + (positions[:, np.newaxis] - reach) ** 2
        patch = np.exp(-squared / (2 * recipe.sigma**2))
        columns, rows = slice(max(0, left), min(right, width)), slice(max(0, top), min(bottom, height))
        targets[k, rows, columns] = patch[
            rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
        ]
    return targets, weights


def plain_maxima(heatmaps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions (B, K, 2) and values (B, K, 1) of the maxima; (0, 0) where the maximum is not positive."""
    batch, count, _, width = heatmaps.shape
    flat = heatmaps.reshape(batch, count, -1)
    index = np.argmax(flat, axis=2)[..., None]
    values = np.amax(flat, axis=2)[..., None]
    points = np.tile(index, (1, 1, 2)).astype(np.float32)
    points[:, :, 0] = points[:, :, 0] % width
    points[:, :, 1] = np.floor(points[:, :, 1] / width)
    return points * (values > 0.0), values


def plain_msra(heatmaps: np.ndarray, matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Key points (B, K, 2) in original pixels, scores (B, K, 1): maximum, a quarter pixel, the person's matrix."""
    points, scores = plain_maxima(heatmaps)
    height, width = heatmaps.shape[2:]
    for n in range(len(points)):
        for k in range(points.shape[1]):
            heatmap = heatmaps[n][k]
            x, y = (int(np.floor(value + 0.5)) for value in points[n][k])
            if 1 < x < width - 1 and 1 < y < height - 1:
                difference = np.array([heatmap[y][x + 1] - heatmap[y][x - 1], heatmap[y + 1][x] - heatmap[y - 1][x]])
                points[n][k] += np.sign(difference) * 0.25
    return plain_original(points, matrices), scores


def plain_dark(heatmaps: np.ndarray, matrices: np.ndarray, kernel: int = 11) -> tuple[np.ndarray, np.ndarray]:
    """The same with DARK's decoding: blur, logarithm, one Newton step (Zhang et al., CVPR 2020)."""
    points, scores = plain_maxima(heatmaps)
    logarithms = np.log(np.maximum(plain_blur(heatmaps, kernel), 1e-10))
    for n in range(len(points)):
        for k in range(points.shape[1]):
            points[n][k] = plain_newton(logarithms[n][k], points[n][k])
    return plain_original(points, matrices), scores


def plain_blur(heatmaps: np.ndarray, kernel: int) -> np.ndarray:
    """Every map blurred in a frame of zeros, then scaled back to its old maximum."""
    batch, count, height, width = heatmaps.shape
    border = (kernel - 1) // 2
    blurred = heatmaps.copy()
    for n in range(batch):
        for k in range(count):
            highest = np.max(blurred[n, k])
            framed = np.zeros((height + 2 * border, width + 2 * border), dtype=np.float32)
            framed[border:-border, border:-border] = blurred[n, k]
            framed = cv2.GaussianBlur(framed, (kernel, kernel), 0)
            blurred[n, k] = framed[border:-border, border:-border]
            blurred[n, k] *= highest / np.max(blurred[n, k])
    return blurred


def plain_newton(log: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Minus the inverse Hessian times the gradient of the log map (h, w), added to its maximum (x, y)."""
    x, y = int(point[0]), int(point[1])
    if not (1 < x < log.shape[1] - 2 and 1 < y < log.shape[0] - 2):
        return point
    dx = 0.5 * (log[y][x + 1] - log[y][x - 1])
    dy = 0.5 * (log[y + 1][x] - log[y - 1][x])
    dxx = 0.25 * (log[y][x + 2] - 2 * log[y][x] + log[y][x - 2])
    dxy = 0.25 * (log[y + 1][x + 1] - log[y - 1][x + 1] - log[y + 1][x - 1] + log[y - 1][x - 1])
    dyy = 0.25 * (log[y + 2][x] - 2 * log[y][x] + log[y - 2][x])
    hessian = np.array([[dxx, dxy], [dxy, dyy]])
    if dxx * dyy - dxy**2 == 0:
        return point
    return point - np.linalg.inv(hessian) @ np.array([dx, dy])


def plain_original(points: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """Heatmap pixels (B, K, 2) -> original pixels, point by point, under one (2, 3) matrix a person."""
    mapped = points.copy()
    for n in range(len(points)):
        for k in range(points.shape[1]):
            mapped[n, k] = plain_transform(points[n, k], matrices[n])
    return mapped


def plain_oks(pose: np.ndarray, others: np.ndarray, area: float, areas: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """OKS of one pose (K, 2) with each of N others, one after the other."""
    variances = (sigmas * 2) ** 2
    similarity = np.zeros(len(others))
    for n in range(len(others)):
        dx = others[n, :, 0] - pose[:, 0]
        dy = others[n, :, 1] - pose[:, 1]
        exponent = (dx**2 + dy**2) / variances / ((area + areas[n]) / 2 + np.spacing(1)) / 2
        similarity[n] = np.sum(np.exp(-exponent)) / len(exponent)
    return similarity


def plain_oks_nms(
    poses: np.ndarray, scores: np.ndarray, areas: np.ndarray, sigmas: np.ndarray, threshold: float
) -> list[int]:
    """Indices of the poses of an image that stay, best first: the best, then all that are not too close to it, ..."""
    order = np.argsort(-scores, kind="stable")
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(int(best))
        similarity = plain_oks(poses[best], poses[rest], areas[best], areas[rest], sigmas)
        order = rest[similarity <= threshold]
    return kept


def plain_evaluation(truth: Path, results: list[dict[str, Any]], file: Path) -> np.ndarray:
    """COCO's ten figures by pycocotools, ground truth and results going through JSON files."""
    file.write_text(json.dumps(results))
    with redirect_stdout(StringIO()):
        ground_truth = COCO(str(truth))
        evaluator = COCOeval(ground_truth, ground_truth.loadRes(str(file)), "keypoints")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats

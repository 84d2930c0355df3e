"""Errors of a segmentation by distance to a boundary, by pair of classes and by image, against plain loops."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_jaccard_index

from experiments.errors.segmentation import DISTANCES, SegmentationErrors, boundary_distance
from tasks.metrics.confusion import SegmentationScores

NAMES = ["sky", "road", "car"]


def masks(seed=0, count=3, size=(23, 31)):
    """Blocks of classes with ignored ones among them, and predictions that are wrong here and there."""
    rng = np.random.default_rng(seed)
    blocks = rng.choice([0, 1, 2, 255], (count, 5, 7), p=[0.4, 0.3, 0.2, 0.1])
    mask = blocks.repeat(5, axis=1).repeat(5, axis=2)[:, : size[0], : size[1]]
    labels = np.where((rng.random(mask.shape) < 0.3) | (mask == 255), rng.integers(0, 3, mask.shape), mask)
    return torch.from_numpy(labels), torch.from_numpy(mask)


def plain_distance(mask, y, x):
    other = [(i, j) for i, j in np.ndindex(mask.shape) if mask[i, j] != mask[y, x]]
    return min((max(abs(i - y), abs(j - x)) for i, j in other), default=math.inf)


def test_distance_to_a_boundary_is_that_of_a_plain_loop():
    mask = masks()[1][0].numpy().astype(np.uint8)
    found = boundary_distance(mask)
    for y, x in np.ndindex(mask.shape):
        assert found[y, x] == plain_distance(mask, y, x)
    assert found.min() == 1


def test_the_edge_of_the_image_is_no_boundary():
    assert np.isinf(boundary_distance(np.full((9, 9), 2, np.uint8))).all()
    half = np.zeros((9, 100), np.uint8)
    half[:, 50:] = 1
    assert boundary_distance(half)[0].tolist() == [*range(50, 0, -1), *range(1, 51)]


def test_bands_add_up_and_are_those_of_a_plain_loop():
    labels, mask = masks()
    errors = SegmentationErrors(3, NAMES)
    errors.update(labels, mask, torch.arange(3))
    rows = errors.boundary()
    counted = [
        (plain_distance(m.numpy(), y, x), bool(found[y, x] != m[y, x]))
        for found, m in zip(labels, mask, strict=True)
        for y, x in np.ndindex(tuple(m.shape))
        if m[y, x] != 255
    ]
    wrong_pixels = sum(wrong for _, wrong in counted)
    for row, distance in zip(rows, DISTANCES, strict=False):
        inside = [wrong for d, wrong in counted if d <= distance]
        assert (row["name"], row["pixels"], row["errors"]) == (f"within {distance} px", len(inside), sum(inside))
        assert row["share_of_pixels"] == pytest.approx(len(inside) / len(counted))
        assert row["share_of_errors"] == pytest.approx(sum(inside) / wrong_pixels)
        assert row["error_rate"] == pytest.approx(sum(inside) / len(inside))
    assert rows[-1]["pixels"] == len([d for d, _ in counted if d > DISTANCES[-1]])


def test_errors_at_contours_and_errors_inside_are_told_apart():
    mask = torch.zeros(1, 200, 200, dtype=torch.int64)
    mask[..., 100:] = 1
    contour, inside = mask.clone(), mask.clone()
    contour[..., 98:102] = 1 - mask[..., 98:102]
    inside[..., 10:14] = 2
    for labels, within_two in ((contour, 1.0), (inside, 0.0)):
        errors = SegmentationErrors(3, NAMES)
        errors.update(labels, mask, torch.tensor([5]))
        rows = {row["name"]: row for row in errors.boundary()}
        assert rows["within 2 px"]["share_of_errors"] == within_two
        assert rows["beyond 32 px"]["share_of_errors"] == 1 - within_two


def test_scores_are_those_of_the_metric_and_images_those_of_torchmetrics():
    labels, mask = masks(1)
    errors, metric = SegmentationErrors(3, NAMES), SegmentationScores(3, NAMES, boundary=True)
    for i in range(3):
        errors.update(labels[i : i + 1], mask[i : i + 1], torch.tensor([10 + i]))
    metric.update(labels, mask)
    assert {row["name"]: row["value"] for row in errors.summary()} == pytest.approx(metric.compute())
    rows = errors.images()
    assert [row["mIoU"] for row in rows] == sorted(row["mIoU"] for row in rows)
    assert {row["sample"] for row in rows} == {10, 11, 12}
    for row in rows:
        truth, found = mask[row["sample"] - 10], labels[row["sample"] - 10]
        iou = multiclass_jaccard_index(found, truth, 3, average="none", ignore_index=255)
        assert row["mIoU"] == pytest.approx(iou.mean().item())
        assert row["worst_class"] == NAMES[iou.argmin()]
        assert row["pixel_accuracy"] == pytest.approx((found == truth)[truth != 255].double().mean().item())


def test_confusions_are_shares_of_the_true_class():
    mask = torch.tensor([[[0, 0, 0, 0, 1, 1, 255]]])
    labels = torch.tensor([[[0, 2, 2, 1, 0, 1, 1]]])
    errors = SegmentationErrors(3, NAMES)
    errors.update(labels, mask, torch.tensor([0]))
    first, *rest = errors.confusions()
    assert first == {"truth": "sky", "prediction": "car", "count": 2, "share": 0.5, "share_of_errors": 0.5}
    assert [(row["truth"], row["prediction"], row["share"]) for row in rest] == [
        ("sky", "road", 0.25),
        ("road", "sky", 0.5),
    ]


def test_an_image_of_ignored_pixels_has_no_scores_and_comes_last():
    labels, mask = masks(2, count=2)
    mask[0] = 255
    errors = SegmentationErrors(3, NAMES)
    errors.update(labels, mask, torch.tensor([0, 1]))
    last = errors.images()[-1]
    assert (last["sample"], last["worst_class"]) == (0, "")
    assert math.isnan(last["mIoU"])

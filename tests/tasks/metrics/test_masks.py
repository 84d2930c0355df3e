"""Masks pasted into images: exact at the edges of boxes, equal to bilinear sampling, and back from their codes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask

from tasks.metrics import masks
from tasks.metrics.masks import encode_masks, paste_masks, segmentation

SIZE = (60, 80)


def sampled(probabilities, boxes, size):
    """torch's bilinear sampling at the centres of the pixels, zero beyond the box."""
    rows, columns = (torch.arange(side, dtype=torch.float64) + 0.5 for side in size)
    low, high = torch.from_numpy(boxes[:, :2]), torch.from_numpy(boxes[:, 2:])
    x = ((columns - low[:, :1]) / (high - low)[:, :1] * 2 - 1)[:, None].expand(-1, size[0], -1)
    y = ((rows - low[:, 1:]) / (high - low)[:, 1:] * 2 - 1)[:, :, None].expand(-1, -1, size[1])
    grid = torch.stack([x, y], dim=-1)
    return F.grid_sample(torch.from_numpy(probabilities)[:, None], grid, align_corners=False)[:, 0].numpy()


@pytest.mark.parametrize("box", [(10, 10, 20, 20), (3.4, 7.6, 40.4, 20.6), (-30, -9, 12, 70), (79, 59, 80, 60)])
def test_a_mask_that_fills_its_box_has_the_pixels_whose_centres_are_inside(box):
    found = paste_masks(np.ones((1, 28, 28), np.float32), np.array([box], np.float32), SIZE)[0]
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    inside = (x >= box[0]) & (x <= box[2]) & (y >= box[1]) & (y <= box[3])
    # At a corner the falling edges of both sides multiply: one pixel is left out, if its centre is that near to it.
    corners = sum(int(found[r, c] != inside[r, c]) for r, c in zip(*np.nonzero(found != inside), strict=True))
    assert corners <= 4
    np.testing.assert_array_equal(found[inside.any(1)].any(0), inside.any(0))
    np.testing.assert_array_equal(found.any(1), inside.any(1))


def test_pasting_equals_bilinear_sampling(monkeypatch):
    rng = np.random.default_rng(0)
    probabilities = rng.random((30, 14, 14))
    boxes = np.sort(rng.uniform(-10, [[90, 70]], (30, 2, 2)), axis=1).reshape(30, 4)
    expected = sampled(probabilities, boxes, SIZE)
    clear = np.abs(expected - 0.5) > 1e-5
    found = paste_masks(probabilities, boxes, SIZE)
    np.testing.assert_array_equal(found[clear], (expected >= 0.5)[clear])
    monkeypatch.setattr(masks, "PIXELS", 7 * SIZE[0] * SIZE[1])
    np.testing.assert_array_equal(paste_masks(probabilities, boxes, SIZE), found)


def test_codes_are_read_by_coco_tools():
    rng = np.random.default_rng(1)
    probabilities = rng.random((9, 28, 28)).astype(np.float32)
    boxes = np.sort(rng.uniform(0, [[80, 60]], (9, 2, 2)), axis=1).reshape(9, 4)
    codes = encode_masks(probabilities, boxes, SIZE)
    decoded = coco_mask.decode([segmentation(code, SIZE) for code in codes]).transpose(2, 0, 1)
    np.testing.assert_array_equal(decoded, paste_masks(probabilities, boxes, SIZE))
    none = probabilities[:0], boxes[:0], SIZE
    assert encode_masks(*none) == []
    assert paste_masks(*none).shape == (0, *SIZE)


def test_a_box_without_extent_has_no_pixels():
    boxes = np.array([[5, 5, 5, 9], [7.25, 3, 7.25, 3]], np.float32)
    assert not paste_masks(np.ones((2, 28, 28), np.float32), boxes, SIZE).any()

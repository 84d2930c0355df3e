"""Charts are pictures of the right form, show what they are given, and bear empty and undefined values."""

import math

import pytest
import torch

from tasks.draw.charts import draw_bars, draw_boundary, draw_gallery, draw_reliability, draw_stacked_bars

BLUE = torch.tensor([46, 134, 255], dtype=torch.uint8)


def pixels(picture, colour):
    return int((picture == colour[:, None, None]).all(0).sum())


def is_picture(picture):
    return picture.dtype == torch.uint8 and picture.dim() == 3 and picture.shape[0] == 3 and picture.is_contiguous()


def test_bars_are_as_long_as_their_values():
    one, both = draw_bars(["a", "b"], [1.0, 0.0], "AP", "title"), draw_bars(["a", "b"], [1.0, 1.0], "AP", "title")
    assert is_picture(one)
    assert pixels(both, BLUE) == pytest.approx(2 * pixels(one, BLUE), rel=0.02)


@pytest.mark.parametrize("values", [[math.nan, 0.5], [-0.1, 0.2], [0.0, 0.0]])
def test_bars_bear_undefined_and_negative_values(values):
    assert is_picture(draw_bars(["a", "a very long name, " * 10], values, "AP", "title"))


def test_stacked_bars_grow_with_the_names():
    few = draw_stacked_bars(["a"], {"good": [0.4], "bad": [0.6]}, "share", "title")
    many = draw_stacked_bars(list("abcdefghij"), {"good": [0.4] * 10, "bad": [math.nan] * 10}, "share", "title")
    assert is_picture(few)
    assert many.shape[1] > few.shape[1]


def test_boundary_and_reliability_bear_undefined_values():
    near = {"share_of_pixels": 0.1, "share_of_errors": 0.4, "error_rate": math.nan}
    rows = [{"distance": d, **near} for d in (1, 2, 4, math.inf)]
    assert is_picture(draw_boundary(rows, "title"))
    empty = {"above": 0.0, "upto": 0.5, "images": 0, "confidence": math.nan, "accuracy": math.nan}
    full = {"above": 0.5, "upto": 1.0, "images": 4, "confidence": 0.8, "accuracy": 0.5}
    assert is_picture(draw_reliability([empty, full], 0.3))


def test_gallery_fills_its_last_row():
    images = [torch.full((3, 20, 30), 40 * i, dtype=torch.uint8) for i in range(5)]
    picture = draw_gallery(images, [["one line"], ["two", "lines"], ["a"], ["b"], ["c" * 200]], columns=4)
    assert is_picture(picture)
    row = draw_gallery(images[:4], [["one", "two"]] * 4, columns=4)
    assert picture.shape == (3, 2 * row.shape[1], row.shape[2])
    assert (picture[:, -100:-10, -100:-10] == 255).all()
    assert is_picture(draw_gallery(images[:1], [["one"]]))

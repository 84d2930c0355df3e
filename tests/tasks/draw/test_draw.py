"""What is drawn can be read: names beside the key points that are shown, legends, cells without cuts."""

import numpy as np
import pytest
import torch
from PIL import ImageFont
from rich.console import Console

from tasks import draw
from tasks.draw import beside, class_table, draw_caption, draw_keypoint_names, draw_legend, draw_pose, grid

SKELETON = {"names": ["left_knee", "right_knee"], "limbs": [[0, 1]]}


def test_names_are_written_beside_the_points_that_are_shown():
    image = torch.full((3, 40, 120), 128, dtype=torch.uint8)
    points = torch.tensor([[10.0, 10.0], [115.0, 30.0]])
    shown = torch.tensor([1, 0])
    plain = draw_pose(image, points, shown, SKELETON, scale=1)
    named = draw_pose(image, points, shown, SKELETON, scale=1, names=True)
    rows, columns = (named != plain).any(0).nonzero().T
    assert rows.max() < 20  # nothing at the point that is not shown
    assert columns.min() > 10
    assert (named != plain).any()
    plain, named = (draw_pose(image, points, torch.ones(2), SKELETON, scale=1, names=flag) for flag in (False, True))
    _, columns = (named != plain)[:, 22:].any(0).nonzero().T
    assert columns.min() < 80  # moved to the left until it fits


def test_the_legend_of_a_large_photo_can_be_read():
    small, large = (draw_legend(["sky"], [(0, 0, 255)], width) for width in (640, 2560))
    assert large.shape[1] == 2 * small.shape[1]
    assert large.shape[2] == 2560


def test_a_table_keeps_all_of_a_name():
    name = "background/" + "0123456789" * 12 + ".jpg"
    console = Console(width=60)
    with console.capture() as captured:
        console.print(class_table([{"file": name, "confidence": 0.5}]))
    assert "…" not in captured.get()


def bee(count: int = 32) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """Points that lie close together on a 128 pixel crop, their skeleton, and the crop in one colour."""
    generator = torch.Generator().manual_seed(0)
    points = 34 + 60 * torch.rand(count, 2, generator=generator)
    names = [f"{('left', 'right', 'middle')[k % 3]}_point_{k}" for k in range(count)]
    return (
        torch.full((3, 128, 128), 90, dtype=torch.uint8),
        points,
        {"names": names, "limbs": [[k - 1, k] for k in range(1, min(count, 3))]},
    )


class Pen:
    """Notes where text is written, instead of writing it."""

    def __init__(self) -> None:
        self.boxes: dict[str, tuple[float, float, float, float]] = {}

    def __call__(self, place, text, fill=None, font=None, anchor=None, *rest, **options) -> None:
        anchor = anchor or "la"
        x, y = place
        length, height = max(map(font.getlength, text.split("\n"))), font.size
        left = {"l": x, "r": x - length}[anchor[0]]
        top = {"a": y, "m": y - height / 2}[anchor[1]]
        assert text not in self.boxes
        self.boxes[text] = (left, top, left + length, top + height)


def overlapping(boxes: list[tuple[float, ...]]) -> list[tuple[int, int]]:
    pairs = [(i, j) for i in range(len(boxes)) for j in range(i)]
    return [
        (i, j)
        for i, j in pairs
        if boxes[i][0] < boxes[j][2]
        and boxes[j][0] < boxes[i][2]
        and boxes[i][1] < boxes[j][3]
        and boxes[j][1] < boxes[i][3]
    ]


@pytest.fixture
def pen(monkeypatch) -> Pen:
    written = Pen()
    monkeypatch.setattr(draw.overlays.ImageDraw.ImageDraw, "text", lambda self, *args, **named: written(*args, **named))
    return written


@pytest.mark.parametrize("count", [1, 2, 5, 32, 68])
def test_every_name_of_a_larger_copy_has_a_place_of_its_own(count, pen):
    image, points, skeleton = bee(count)
    shown = torch.ones(count)
    shown[count // 2] = 0 if count > 2 else 1
    sheet = draw_keypoint_names(image, points, shown, skeleton)
    assert set(pen.boxes) == {name for name, there in zip(skeleton["names"], shown, strict=True) if there}
    assert not overlapping(list(pen.boxes.values()))
    for left, top, right, bottom in pen.boxes.values():
        assert left >= 0
        assert top >= 0
        assert right <= sheet.shape[2]
        assert bottom <= sheet.shape[1]
    picture = (sheet != 255).any(0).nonzero()
    assert len(picture)


def test_lines_lead_from_the_names_to_the_points():
    image = torch.full((3, 128, 128), 90, dtype=torch.uint8)
    points = torch.tensor([[20.0, 30.0], [100.0, 90.0]])
    sheet = draw_keypoint_names(image, points, torch.ones(2), {"names": ["left_a", "right_b"], "limbs": []})
    scale = sheet.shape[1] // 128
    margin = (sheet.shape[2] - 128 * scale) // 2
    for (x, y), colour, side in zip(points.tolist(), ((255, 140, 26), (46, 134, 255)), (-1, 1), strict=True):
        px, py = round((x + 0.5) * scale - 0.5) + margin, round((y + 0.5) * scale - 0.5)
        line = sheet[:, py - 1 : py + 2, px + side * 20].T.tolist()
        assert list(colour) in line


def test_a_copy_without_any_point_is_the_picture():
    image, points, skeleton = bee(3)
    sheet = draw_keypoint_names(image, points, torch.zeros(3), skeleton)
    assert set(map(tuple, sheet.flatten(1).T.tolist())) == {(90, 90, 90), (255, 255, 255)}


@pytest.mark.parametrize("seed", range(5))
def test_names_beside_points_never_lie_over_each_other(seed, pen):
    generator = torch.Generator().manual_seed(seed)
    points = 128 * torch.rand(32, 2, generator=generator)
    skeleton = {"names": [f"point_{k}" for k in range(32)], "limbs": []}
    draw_pose(torch.zeros(3, 128, 128, dtype=torch.uint8), points, torch.ones(32), skeleton, scale=3, names=True)
    assert 3 <= len(pen.boxes) <= 32
    assert not overlapping(list(pen.boxes.values()))


def test_many_points_are_drawn_finer_than_few():
    image, points, skeleton = bee(32)
    both = [draw_pose(image, points, torch.arange(32) < count, skeleton, scale=3) for count in (20, 32)]
    drawn = [int((picture != 90).any(0).sum()) for picture in both]
    assert drawn[1] < 32 / 20 * drawn[0]


def test_each_row_of_a_grid_has_its_caption_above_it(pen):
    colours = [10, 200]
    rows = [[torch.full((3, 20, 30), colour, dtype=torch.uint8)] * 4 for colour in colours]
    plain, captioned = grid(rows), grid(rows, ["truth", "prediction"])
    assert set(pen.boxes) == {"truth", "prediction"}
    heights = [draw_caption(text, plain.shape[2]).shape[1] for text in ("first", "second")]
    assert captioned.shape[2] == plain.shape[2]
    middle = captioned[0, :, 15]
    kinds = [int(v) for v in middle.unique_consecutive()]
    assert [kind for kind in kinds if kind != 0] == [255, 10, 255, 200]
    assert captioned.shape[1] == 2 * 24 + sum(heights)


def test_a_caption_takes_as_many_lines_as_it_needs(pen):
    text = "key points that score above 0.2 and then some more words"
    narrow, wide = draw_caption(text, 120), draw_caption(text + " ", 2000)
    assert narrow.shape[2] == 120
    lines = next(written for written in pen.boxes if "\n" in written).split("\n")
    assert " ".join(lines) == text
    font = ImageFont.load_default(14)
    assert all(font.getlength(line) <= 120 for line in lines)
    assert wide.shape[1] < narrow.shape[1]


def test_pictures_of_any_height_stand_beside_each_other():
    first, second = torch.full((3, 10, 4), 7, dtype=torch.uint8), torch.full((3, 6, 5), 9, dtype=torch.uint8)
    both = beside([first, second])
    assert both.shape == (3, 10, 9)
    assert (both[:, :, :4] == 7).all()
    assert (both[:, :6, 4:] == 9).all()
    assert (both[:, 6:, 4:] == 255).all()
    np.testing.assert_array_equal(beside([first]), first)

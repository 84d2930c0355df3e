"""What is drawn can be read: names beside the key points that are shown, legends, cells without cuts."""

import torch
from rich.console import Console

from tasks.draw import class_table, draw_legend, draw_pose

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

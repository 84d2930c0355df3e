"""The table of objects: which are learned, evaluated and refused, and at which pixel that changes."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules import DataError
from datamodules.detection.table import ObjectTable
from tests.datamodules.detection.conftest import detection


def table(boxes: list[list[float]], **changes: Any) -> ObjectTable:
    """Objects in one image of 50 by 100 pixels."""
    count = len(boxes)
    columns = {"images": [0] * count, "category_ids": [3] * count, "image_sizes": [[50, 100], [50, 100]]} | changes
    return ObjectTable(Path("a.json"), ["a.png", "b.png"], boxes=boxes, categories={3: "cat", 7: "dog"}, **columns)


@pytest.mark.parametrize(
    ("box", "learned"),
    [
        ([5, 5, 1, 9], True),
        ([5, 5, 9, 1], True),
        ([5, 5, 0.9, 9], False),
        ([5, 5, 9, 0.9], False),
        ([99, 5, 30, 9], True),  # a column of it is in the image
        ([99.5, 5, 30, 9], False),
        ([5, -8, 9, 9], True),
        ([5, -8.5, 9, 9], False),
    ],
)
def test_an_object_is_learned_from_one_pixel_in_its_image_on(box: list[float], learned: bool) -> None:
    objects = table([[1, 1, 5, 5], box], ids=[11, 12])
    if learned:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert objects.learned().tolist() == [0, 1]
    else:
        with pytest.warns(UserWarning, match=r"skipped 1 annotation \(id 12\) whose box is less than a pixel"):
            assert objects.learned().tolist() == [0]


def test_objects_of_an_image_stand_together_and_crowds_are_left_out_in_silence() -> None:
    boxes = [[1, 1, 5, 5]] * 5
    objects = table(boxes, images=[1, 0, 1, 0, 0], crowd=[False, False, False, True, False])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert objects.learned().tolist() == [1, 4, 0, 2]
    assert table(boxes, images=[1, 0, 1, 0, 0], crowd=[False] * 3 + [True] * 2).learned().tolist() == [1, 0, 2]


def test_boxes_are_cut_where_the_size_of_the_image_is_known() -> None:
    boxes = [[-5.0, 40, 20, 30], [90, -3, 20, 10]]
    assert table(boxes).edges().tolist() == [[0, 40, 15, 50], [90, 0, 100, 7]]
    unknown = table(boxes, image_sizes=None)
    assert unknown.edges().tolist() == [[0, 40, 15, 70], [90, 0, 110, 7]]


def test_labels_are_places_of_categories_and_the_truth_has_what_can_be_met() -> None:
    objects = table(
        [[1, 1, 5, 5], [1, 1, 0, 5], [1, 1, 5, 0], [2, 2, 0.5, 5]], category_ids=[7, 3, 3, 3], areas=[9, 1, 1, 1]
    )
    assert objects.labels.tolist() == [1, 0, 0, 0]
    assert objects.counts == {"cat": 3, "dog": 1}
    truth = objects.to_coco()
    assert [(a["id"], a["category_id"], a["area"], a["iscrowd"]) for a in truth["annotations"]] == [
        (1, 7, 9, 0), (4, 3, 1, 0)
    ]  # fmt: skip
    assert truth["categories"] == [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    assert all("segmentation" not in annotation for annotation in truth["annotations"])


def test_an_area_that_is_not_stated_is_that_of_the_box() -> None:
    objects = table([[1, 1, 5, 4]] * 3, areas=[7.5, 0, np.nan], ids=[1, 2, 3])
    with pytest.warns(UserWarning, match=r"2 annotations \(id 2, 3\) have no `area` above 0"):
        assert objects.accepted().areas.tolist() == [7.5, 20, 20]


@pytest.mark.parametrize(("beyond", "defects"), [(1.0, []), (1.1, ["box outside of the image"])])
def test_a_box_may_leave_its_image_by_a_rounded_pixel(beyond: float, defects: list[str]) -> None:
    for box in ([-beyond, 5, 20, 20], [5, -beyond, 20, 20], [80 + beyond, 5, 20, 20], [5, 30 + beyond, 20, 20]):
        assert [defect.kind for defect in table([[1, 1, 5, 5], box], areas=[9, 9]).checked().defects] == defects


@pytest.mark.parametrize(("outside", "refused"), [(2, False), (3, True)])
def test_most_boxes_beside_their_images_are_no_x_y_width_height(outside: int, refused: bool) -> None:
    boxes = [[80, 30, 90, 90]] * outside + [[1, 1, 5, 5]] * (4 - outside)
    crowds = [[80, 30, 90, 90]] * 3
    objects = table(boxes + crowds, crowd=[False] * 4 + [True] * 3)
    if refused:
        with pytest.raises(DataError, match=r"3 annotations .* of 7 leave their images.*not two corners"):
            objects.accepted()
    else:
        assert len(objects.accepted().boxes) == 7


def test_without_an_object_to_learn_the_counts_are_said() -> None:
    with pytest.raises(DataError, match="no usable object: of 3 annotations 2 are crowds"):
        table([[1, 1, 5, 5], [2, 2, 5, 5], [3, 3, 0.5, 5]], crowd=[True, True, False]).require_objects()
    table([[1, 1, 5, 5]]).require_objects()


def test_sides_may_be_given_in_any_order(drawn: Path) -> None:
    for sides in ((800, 1333), (1333, 800)):
        data = detection(drawn, sides=sides)
        assert data.sides == data.preparer.sides == (800, 1333)
    assert detection(drawn).sides is None

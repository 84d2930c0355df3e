"""A detector's boxes: from which score, overlap and number on they are taken for those of the annotated persons."""

import json
from pathlib import Path

import numpy as np
import pytest

from datamodules import DataError
from datamodules.keypoints.detections import detections_in, read_detections
from datamodules.keypoints.table import PersonTable


def persons(count: int, crowd: int = 0, unlabelled: int = 0) -> PersonTable:
    """So many persons, each in an image of its own; the last ones are crowds, and before them some unlabelled."""
    visible = np.full((count, 1), 2)
    visible[count - crowd - unlabelled : count - crowd] = 0
    return PersonTable(
        Path("truth.json"),
        [f"{i}.jpg" for i in range(count)],
        images=list(range(count)),
        boxes=np.tile([10.0, 10, 101, 101], (count, 1)),
        keypoints=np.full((count, 1, 2), 50.0),
        visible=visible,
        image_sizes=np.full((count, 2), 500),
        crowd=[i >= count - crowd for i in range(count)],
    )


def found(folder: Path, *boxes: tuple[int, list[float], float]) -> Path:
    rows = [{"image_id": image, "category_id": 1, "bbox": box, "score": score} for image, box, score in boxes]
    (folder / "boxes.json").write_text(json.dumps(rows))
    return folder / "boxes.json"


ON, AWAY = [10, 10, 100, 100], [300, 300, 100, 100]


@pytest.mark.parametrize(
    ("count", "met", "refused"),
    [(20, 2, False), (20, 1, True), (10, 1, False), (10, 0, True), (9, 0, False), (31, 3, True), (31, 4, False)],
)
def test_a_tenth_of_the_persons_have_a_box_on_them(count: int, met: int, refused: bool, tmp_path: Path) -> None:
    boxes = [(i + 1, ON if i < met else AWAY, 0.5) for i in range(count)]
    path, table = found(tmp_path, *boxes), persons(count)
    if refused:
        with pytest.raises(DataError, match=rf"of {count} annotated persons only {met} have a detected box"):
            read_detections(path, table)
    else:
        assert len(read_detections(path, table).boxes) == count


@pytest.mark.parametrize(("width", "refused"), [(31, False), (30, True)])
def test_a_box_is_on_a_person_above_an_overlap_of_three_tenths(width: int, refused: bool, tmp_path: Path) -> None:
    """Cleaned, the persons' boxes are 100 pixels wide and high."""
    path = found(tmp_path, *((i + 1, [10, 10, width, 100], 0.5) for i in range(12)))
    if refused:
        with pytest.raises(DataError, match="only 0 have"):
            read_detections(path, persons(12))
    else:
        assert len(read_detections(path, persons(12)).boxes) == 12


@pytest.mark.parametrize("more", [{"crowd": 3}, {"unlabelled": 3}])
def test_crowds_and_unlabelled_persons_are_not_looked_for(more: dict[str, int], tmp_path: Path) -> None:
    path = found(tmp_path, *((i + 1, AWAY, 0.5) for i in range(12)))
    assert len(read_detections(path, persons(12, **more)).boxes) == 12  # of nine nothing is known
    with pytest.raises(DataError, match="of 12 annotated persons"):
        read_detections(found(tmp_path, *((i + 1, AWAY, 0.5) for i in range(15))), persons(15, **more))


def test_boxes_count_from_the_threshold_on_and_stand_by_image(tmp_path: Path) -> None:
    path = found(tmp_path, (3, ON, 0.5), (1, ON, 0.9), (3, [1, 1, 5, 0], 0.9), (1, ON, 0.49), (3, AWAY, 0.7))
    with pytest.warns(UserWarning, match=r"1 detection \(id 2\) have a box without area"):
        read = read_detections(path, persons(3), 0.5)
    assert (read.rows.tolist(), read.images.tolist(), read.image_ids) == ([1, 0, 4], [0, 2, 2], [1, 3, 3])
    assert (read.scores.tolist(), read.found) == ([0.9, 0.5, 0.7], 5)
    assert len(detections_in(path, persons(3)).boxes) == 5


def test_without_annotations_images_are_numbered_as_they_come(tmp_path: Path) -> None:
    path = found(tmp_path, (30, ON, 0.5), (7, ON, 0.9), (30, AWAY, 0.7))
    read = read_detections(path, None)
    assert (read.images.tolist(), read.image_ids) == ([0, 0, 1], [30, 30, 7])
    rows = [{"image_id": 1, "category_id": category, "bbox": ON, "score": 0.5} for category in (1, 2, None)]
    path.write_text(json.dumps([*rows, {"image_id": 1, "bbox": ON, "score": 0.5}]))
    assert read_detections(path, None).rows.tolist() == [0, 3]  # what states no category is of the first

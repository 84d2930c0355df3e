"""Where the boxes of a pose prediction come from: whose they are, which count, what is said where there are none."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import DataError, Skeleton
from experiments.config import ConfigError
from experiments.predict.boxes import CocoBoxes, TorchvisionDetector, box_array, persons_of, whole_image
from experiments.predict.media import Photo

SKELETON = Skeleton.load("coco")


def photo(path: Path | None, height: int = 100, width: int = 120) -> Photo:
    return Photo(np.zeros((height, width, 3), np.uint8), path)


# ---- of the picture, of an array, of a network


def test_the_whole_image_is_a_box_of_its_pixels() -> None:
    corners, scores, image_id = whole_image(photo(None))
    assert (corners.tolist(), scores.tolist(), image_id) == ([[0, 0, 119, 99]], [1], None)


def test_persons_of_a_detector_are_those_that_score_enough() -> None:
    found = SimpleNamespace(
        boxes=np.array(
            [[1, 2, 3, 4], [5, 6, 7, 8], [1, 1, 9, 9], [2, 2, 2, 9], [3, 3, 9, 3], [4, 4, 8, 8]], np.float32
        ),
        scores=np.array([0.5, 0.49, 0.9, 0.9, 0.9, 0.75], np.float32),
        labels=np.array([1, 1, 0, 1, 1, 2]),
        class_names=("chair", "person", "Pedestrian"),
    )
    corners, scores, _ = persons_of(found, 0.5)
    assert corners.tolist() == [[1, 2, 3, 4], [4, 4, 8, 8]]  # as many as asked for; no chair; none without area
    assert scores.tolist() == [0.5, 0.75]
    assert corners.dtype == scores.dtype == np.float64
    assert len(persons_of(found, 0.0).corners) == 3


@pytest.mark.parametrize("boxes", [[], [1, 2, 3, 4], [[1, 2, 3, 4]], np.array([[1.0, 2, 3, 4]] * 2)])
def test_an_array_of_boxes_is_for_every_photo(boxes: Any) -> None:
    source = box_array(boxes)
    expected = np.reshape(boxes, (-1, 4))
    for name in ("a.jpg", "b.jpg"):
        corners, scores, image_id = source(photo(Path(name)))
        np.testing.assert_array_equal(corners, expected)
        assert scores.tolist() == [1] * len(expected)
        assert image_id is None


@pytest.mark.parametrize(
    "boxes",
    [[1, 2, 3], [5, 5, 5, 9], [5, 5, 9, 5], [1, 2, 3, np.nan], [1, 2, np.inf, 4], [[0, 0, 9, 9], [5, 5, 1, 9]]],
)
def test_an_array_without_such_boxes_is_refused(boxes: Any) -> None:
    with pytest.raises(ValueError, match="x1 < x2 and y1 < y2"):
        box_array(boxes)


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.pth cannot be read \(No such file"):
        TorchvisionDetector("ssdlite320_mobilenet_v3_large", tmp_path / "gone.pth", device=torch.device("cpu"))


# ---- of a file


def annotation(number: int, image_id: Any, x: float, **changes: Any) -> dict[str, Any]:
    points = [value for k in range(17) for value in (x + k, 30 + k, 2)]
    stated = {"id": number, "image_id": image_id, "category_id": 1, "iscrowd": 0, "bbox": [x, 20, 30, 40]}
    return stated | {"area": 900.0, "keypoints": points, "num_keypoints": 17} | changes


@pytest.fixture
def truth() -> dict[str, Any]:
    """Two images of one name in two folders, and one more."""
    images = [
        {"id": 5, "file_name": "a/1.jpg", "height": 100, "width": 120},
        {"id": 6, "file_name": "b/1.jpg", "height": 90, "width": 110},
        {"id": 7, "file_name": "b/2.jpg", "height": 80, "width": 100},
    ]
    people = [annotation(1, 5, 10), annotation(2, 6, 40), annotation(3, 6, 50), annotation(4, 6, 5, iscrowd=1)]
    people.append(annotation(5, 5, 60, keypoints=[0] * 51, num_keypoints=0))
    names = list(SKELETON.names)
    return {"images": images, "annotations": people, "categories": [{"id": 1, "name": "person", "keypoints": names}]}


def written(folder: Path, content: Any, name: str = "truth.json") -> Path:
    (folder / name).write_text(json.dumps(content))
    return folder / name


def test_annotated_persons_are_those_that_validation_evaluates(truth: dict, tmp_path: Path) -> None:
    boxes = CocoBoxes(written(tmp_path, truth), SKELETON)
    found = boxes(photo(tmp_path / "a" / "1.jpg"))
    assert found.corners.tolist() == [[10, 20, 39, 59]]  # as the official code clips them, a pixel smaller
    assert (found.scores.tolist(), found.image_id) == ([1], 5)
    found = boxes(photo(tmp_path / "b" / "1.jpg"))
    assert (found.corners[:, 0].tolist(), found.image_id) == ([40, 50], 6)
    found = boxes(photo(tmp_path / "b" / "2.jpg"))
    assert (found.corners.shape, found.image_id) == ((0, 4), 7)
    assert [boxes.image_size(tmp_path / name) for name in ("a/1.jpg", "b/1.jpg")] == [(100, 120), (90, 110)]
    for path in (tmp_path / "c" / "1.jpg", tmp_path / "1.jpg", tmp_path / "b" / "3.jpg", None):
        with pytest.raises(DataError, match=r"truth\.json has no image .*: no boxes for it"):
            boxes(photo(path))
        assert path is None or boxes.image_size(path) is None


def test_of_a_file_without_key_points_every_box_is_a_persons(truth: dict, tmp_path: Path) -> None:
    for person in truth["annotations"]:
        person |= {"keypoints": [0] * 51, "num_keypoints": 0}
    truth["annotations"].append(annotation(9, 5, 0, keypoints=[0] * 51, bbox=[0, 0, 0, 0]))
    boxes = CocoBoxes(written(tmp_path, truth), SKELETON)
    assert boxes(photo(tmp_path / "a" / "1.jpg")).corners[:, 0].tolist() == [10, 60]
    assert boxes(photo(tmp_path / "b" / "1.jpg")).corners[:, 0].tolist() == [40, 50]  # and not the crowd's


def results(*rows: tuple[Any, float, float]) -> list[dict[str, Any]]:
    return [{"image_id": i, "category_id": 1, "bbox": [x, 20, 30, 40], "score": s} for i, x, s in rows]


def test_results_count_from_the_threshold_on_and_keep_their_scores(truth: dict, tmp_path: Path) -> None:
    found = results((6, 1, 0.5), (5, 2, 0.9), (6, 3, 0.49), (6, 4, 0.7))
    path, annotations = written(tmp_path, found, "found.json"), written(tmp_path, truth)
    boxes = CocoBoxes(path, SKELETON, annotations=annotations, threshold=0.5)
    here = boxes(photo(tmp_path / "b" / "1.jpg"))
    assert here.corners.tolist() == [[1, 20, 31, 60], [4, 20, 34, 60]]  # a detector's boxes are not clipped
    assert (here.scores.tolist(), here.image_id) == ([0.5, 0.7], 6)
    assert boxes(photo(tmp_path / "b" / "2.jpg")).corners.shape == (0, 4)
    assert len(CocoBoxes(path, SKELETON, annotations=annotations)(photo(tmp_path / "b" / "1.jpg")).scores) == 3


def test_without_annotations_the_name_of_a_file_is_its_id(tmp_path: Path) -> None:
    numbered = CocoBoxes(written(tmp_path, results((7, 1, 0.5), (8, 2, 0.5)), "numbers.json"), SKELETON)
    found = numbered(photo(tmp_path / "000007.png"))
    assert (found.corners[:, 0].tolist(), found.image_id) == ([1], 7)
    assert len(numbered(photo(tmp_path / "9.png")).corners) == 0
    assert numbered.image_size(tmp_path / "7.png") is None
    with pytest.raises(DataError, match=r"names images by numbers, and the name of .*bee\.png is none.*--annotations"):
        numbered(photo(tmp_path / "bee.png"))
    named = CocoBoxes(written(tmp_path, results(("bee", 1, 0.5), ("7", 2, 0.5)), "names.json"), SKELETON)
    assert named(photo(tmp_path / "bee.png")).corners[:, 0].tolist() == [1]
    assert named(photo(tmp_path / "wasp.png")).image_id == "wasp"
    assert named(photo(tmp_path / "7.png")).image_id == "7"  # as the file writes it

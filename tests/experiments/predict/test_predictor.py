"""A predictor: what it is told reaches the network and the reading of photos; its results, and their files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import DataError, Letterbox, Skeleton
from datamodules.images.files import Reading
from datamodules.segmentation.samples import EvaluationSize
from experiments.config import ConfigError
from experiments.predict.classification import ClassificationResult
from experiments.predict.files import PredictionFiles
from experiments.predict.media import Photo, Source, find_sources, pixels_of
from experiments.predict.pose import PoseResult
from experiments.predict.segmentation import SegmentationResult
from experiments.predictor import DETECTOR, Predictor
from hrnet import HRNet
from tasks import ClassificationTask, DetectionTask, MultiTask, PoseTask, SegmentationTask

SMALL = {"variant": "w18_small_v1", "upsample": "bilinear"}


def pose(backbone: HRNet) -> PoseTask:
    return PoseTask(backbone, 17, skeleton=Skeleton.load("coco").to_dict(), flip_test=False)


def parts(backbone: HRNet) -> SegmentationTask:
    return SegmentationTask(backbone, 3)


def objects(backbone: HRNet) -> DetectionTask:
    options = {"detector": "fcos", "channels": 32, "strides": [8, 16, 32], "class_names": ["person", "dog"]}
    return DetectionTask(backbone, 2, **options)


@pytest.fixture(scope="module")
def classifier() -> ClassificationTask:
    torch.manual_seed(0)
    return ClassificationTask(HRNet("w18_small_v1"), num_classes=3).eval()


@pytest.fixture(scope="module")
def joint() -> MultiTask:
    torch.manual_seed(0)
    return MultiTask(HRNet(**SMALL), {"pose": pose, "parts": parts}).eval()


def photo(height: int = 40, width: int = 50, **more: Any) -> Photo:
    return Photo(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8), **more)


# ---- the predictor


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"max_pixels": 0}, {"image_size": (0, 32)}, {"image_size": (32, 0)}]
)
def test_numbers_below_one_are_refused(options: dict[str, Any], classifier: ClassificationTask) -> None:
    with pytest.raises(ConfigError, match="must be at least 1"):
        Predictor(classifier, **{"image_size": (32, 32)} | options)


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"batch_size": 3}, [3, 3, 1]),
        ({"batch_size": 7}, [7]),
        ({"max_pixels": 2 * 32 * 64}, [2, 2, 2, 1]),
        ({"max_pixels": 3 * 32 * 64 - 1}, [2, 2, 2, 1]),
        ({"max_pixels": 9}, [1] * 7),
    ],
)
def test_so_many_samples_pass_the_network_at_once(options, sizes, classifier: ClassificationTask) -> None:
    predictor, seen = Predictor(classifier, image_size=(32, 64), device="cpu", **options), []
    network = predictor.parts[""].task
    network.backbone.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    assert len(predictor([photo().image] * 7)) == 7
    assert seen == sizes


def of_readings(joint: MultiTask, first: dict[str, Any], second: dict[str, Any], **options: Any) -> Reading:
    readings = {"pose": first, "parts": second}
    joint.preparation = {name: {"image_size": [64, 64], "reading": reading} for name, reading in readings.items()}
    return Predictor(joint, device="cpu", **options).reading


def test_photos_are_read_once_for_all_tasks_as_each_was_trained(joint: MultiTask) -> None:
    turned, stored, untold = {"upright": True}, {"upright": False}, {"upright": None}
    assert of_readings(joint, turned, untold).upright is True
    assert of_readings(joint, untold, stored).upright is False
    assert of_readings(joint, untold, untold).upright is None
    with pytest.raises(ConfigError, match="turned as EXIF says, another on stored pixels"):
        of_readings(joint, turned, stored)
    assert of_readings(joint, turned, stored, upright=False).upright is False
    assert of_readings(joint, stored, stored, upright=True).upright is True
    assert of_readings(joint, {"pixel_limit": 1000}, {"pixel_limit": 3000}).pixel_limit == 3000
    assert of_readings(joint, {"pixel_limit": 1000}, {"pixel_limit": 3000}, pixel_limit=2000).pixel_limit == 2000
    assert of_readings(joint, {"value_range": [0, 9]}, {"value_range": [0, 9]}).value_range == (0, 9)
    with pytest.raises(ConfigError, match="images of different value ranges"):
        of_readings(joint, {"value_range": [0, 9]}, {"value_range": [0, 4095]})


def test_a_detector_sees_photos_as_it_was_trained_and_is_asked_before_ones_own() -> None:
    makers = {"pose": pose, "objects": objects}
    joint, other = MultiTask(HRNet(**SMALL), makers).eval(), objects(HRNet(**SMALL)).eval()
    joint.preparation = {"objects": Letterbox((64, 64)).to_dict()}
    other.preparation = Letterbox((64, 96)).to_dict()
    own = Predictor(joint, image_size=(32, 64), device="cpu")
    assert own.finder == "objects"
    predictor = Predictor(joint, detector=other, image_size=(32, 64), device="cpu")
    assert (predictor.finder, predictor.names) == (DETECTOR, ["pose", "objects"])
    sizes = {name: part.view.preparer.image_size for name, part in predictor.parts.items()}
    assert sizes == {"pose": (32, 64), "objects": (32, 64), DETECTOR: (64, 96)}
    assert list(predictor(photo().image).parts) == ["pose", "objects"]


def test_an_image_of_as_many_pixels_as_may_be_is_one_tile() -> None:
    task = parts(HRNet(**SMALL)).eval()
    task.preparation = EvaluationSize((64, 64), evaluation="original").to_dict()
    for limit, count in ((128 * 192, 1), (128 * 192 - 1, 12)):
        view = Predictor(task, max_pixels=limit, device="cpu").parts[""].view
        samples, _ = view.prepare(photo(128, 192))
        assert len(samples) == count


# ---- results


def test_the_best_classes_of_equal_ones_are_the_first() -> None:
    task = ClassificationTask(HRNet("w18_small_v1"), num_classes=7)
    view = Predictor(task, image_size=(32, 32), device="cpu").parts[""].view
    _, finish = view.prepare(photo(name="x"))
    result = finish([np.array([0.1, 0.2, 0.1, 0.2, 0.1, 0.2, 0.1], np.float32)])
    assert result.labels.tolist() == [1, 3, 5, 0, 2]
    assert result.names == ["1", "3", "5", "0", "2"]
    (row,) = result.rows()
    assert list(row) == ["image", *(f"{word}_{i}" for i in range(1, 6) for word in ("class", "probability"))]
    assert (row["class_4"], row["probability_1"], row["probability_5"]) == ("0", 0.2, 0.1)
    (record,) = result.records(4)
    assert record == {
        "image_id": 4, "category_ids": [1, 3, 5, 0, 2], "names": result.names, "scores": [0.2] * 3 + [0.1] * 2,
        "file_name": "x",
    }  # fmt: skip


def test_key_points_count_and_are_drawn_above_the_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    result = PoseResult(
        photo=photo(), keypoints=np.ones((1, 3, 2)), scores=np.array([[0.2, 0.25, 0.75]]), image_id="bee",
        boxes=np.array([[1.0, 1, 9, 9]]), box_scores=np.array([0.5]), skeleton={"names": ["a", "b", "c"], "limbs": []},
    )  # fmt: skip
    assert result.person_scores.tolist() == [0.25]
    drawn: list[list[bool]] = []

    def draw(picture: torch.Tensor, _: torch.Tensor, shown: torch.Tensor, *__: Any, **___: Any) -> torch.Tensor:
        drawn.append(shown.tolist())
        return picture

    monkeypatch.setattr("experiments.predict.pose.draw_pose", draw)
    picture = np.asarray(result.plot())
    for edge in (picture[1, 1:10], picture[9, 1:10], picture[1:10, 1], picture[1:10, 9]):
        assert (edge == 255).all()
    result.plot(threshold=0.1)
    assert drawn == [[False, True, True], [True, True, True]]
    assert result.records(3)[0]["image_id"] == "bee"
    (row,) = result.rows()
    assert (row["score"], row["box_score"], row["b_score"], row["x2"]) == (0.25, 0.5, 0.25, 9)


def test_classes_that_occur_have_rows_and_a_video_the_names_of_all() -> None:
    result = SegmentationResult(
        photo=photo(2, 3, name="clip", frame=4, time=0.5),
        mask=np.array([[0, 1, 1], [0, 1, 3]], np.uint8),
        class_names=["a", "b", "c", "d"],
        palette=[(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)],
    )
    where = {"image": "clip", "frame": 4, "time": 0.5}
    assert result.rows() == [
        {**where, "label": 0, "name": "a", "pixels": 2, "share": 0.3333},
        {**where, "label": 1, "name": "b", "pixels": 3, "share": 0.5},
        {**where, "label": 3, "name": "d", "pixels": 1, "share": 0.1667},
    ]
    assert [record["category_id"] for record in result.records(1)] == [0, 1, 3]
    assert {record["frame"] for record in result.records(1)} == {4}
    assert result.frame().height > result.plot().height


# ---- files


def of_width(width: int) -> SegmentationResult:
    return SegmentationResult(
        photo=Photo(np.zeros((2, width, 3), np.uint8), name=str(width)), mask=np.zeros((2, width), np.uint8),
        class_names=["a"], palette=[(1, 2, 3)],
    )  # fmt: skip


def test_the_widest_overlay_that_jpeg_takes_is_written(tmp_path: Path) -> None:
    with PredictionFiles(tmp_path, ["overlays"]) as written:
        written.write(of_width(65_000))
        with pytest.raises(DataError, match="JPEG ends at 65000"):
            written.write(of_width(65_001))
    assert [path.name for path in (tmp_path / "overlays").iterdir()] == ["65000.jpg"]


def test_what_a_result_cannot_be_written_as_is_left_out(tmp_path: Path) -> None:
    result = ClassificationResult(photo=photo(), labels=np.array([0]), probabilities=np.array([1.0]), names=["a"])
    with PredictionFiles(tmp_path / "out", ["masks", "csv"]) as written:
        written.write(result)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.csv"]


def test_names_are_different_and_hidden_files_are_no_photos(tmp_path: Path) -> None:
    for name in ("a/x.png", "b/x.jpg", "b/x.png", "b/.x.png", "b/clip.MP4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_sources([str(tmp_path / name) for name in ("a/x.png", "b/x.png", "b/x.jpg", "b/clip.MP4", "a/x.png")])
    assert [source.name for source in found] == ["x", "x_2", "x_3", "clip"]
    assert [source.is_video for source in found] == [False, False, False, True]
    globbed = find_sources(
        [str(tmp_path / "*" / "*.png"), str(tmp_path / "b" / ".?.png*"), str(tmp_path / "b" / "*")][::2]
    )
    assert {source.path.name for source in globbed} == {"x.png", "x.jpg", "clip.MP4"}
    with pytest.raises(ConfigError, match="no image or video"):
        find_sources([str(tmp_path / "b" / ".*png")])
    assert not Source(tmp_path / "mp4", "mp4").is_video


def test_postscript_is_refused_before_a_program_starts() -> None:
    picture = Image.new("RGB", (3, 3))
    picture.format = "EPS"
    with pytest.raises(DataError, match="PostScript"):
        pixels_of(picture)
    picture.format = "PNG"
    assert pixels_of(picture).shape == (3, 3, 3)

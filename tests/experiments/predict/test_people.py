"""A run that detects persons poses whom it finds, with one backbone in memory; a pose run does so with another run."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tasks
from experiments import predict
from experiments.config import ConfigError
from experiments.predict.base import JointResult
from experiments.predict.boxes import box_array
from experiments.predict.media import Photo
from experiments.predictor import Predictor
from hrnet import HRNet
from tasks import DetectionTask, MultiTask, PoseTask

SKELETON = {"names": ["a", "b", "c"], "flip_pairs": [], "limbs": [], "sigmas": [0.1] * 3}
NAMES = ["chair", "person"]
FOUND = [  # x1, y1, x2, y2, score, label
    (10, 5, 40, 60, 0.9, 1),
    (0, 0, 20, 20, 0.8, 0),  # a chair
    (50, 8, 75, 64, 0.6, 1),
    (3, 3, 30, 30, 0.4, 1),  # unsure
    (9, 9, 9, 30, 0.9, 1),  # empty
]
PERSONS = [[10, 5, 40, 60], [50, 8, 75, 64]]


def detector(backbone: HRNet) -> DetectionTask:
    options = {"detector": "fcos", "channels": 32, "strides": [8, 16, 32], "class_names": NAMES}
    return DetectionTask(backbone, 2, **options)


def pose(backbone: HRNet) -> PoseTask:
    return PoseTask(backbone, 3, skeleton=SKELETON, flip_test=False)


@pytest.fixture(autouse=True)
def finding(monkeypatch):
    """The network runs, and what it has found is what the test says."""

    def predict(self, outputs, batch):
        assert outputs
        rows = torch.tensor(FOUND)
        found = {"boxes": rows[:, :4], "scores": rows[:, 4], "labels": rows[:, 5].long()}
        return {key: [value] * len(batch["image"]) for key, value in found.items()}

    monkeypatch.setattr(DetectionTask, "predict", predict)


@pytest.fixture(scope="module")
def joint() -> MultiTask:
    torch.manual_seed(0)
    task = MultiTask(HRNet("w18_small_v1", upsample="bilinear"), {"pose": pose, "objects": detector}).eval()
    size = {"image_size": [64, 64]}
    task.preparation = {"pose": size, "objects": {"class_path": "Letterbox", "init_args": size}}
    return task


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "photos" / f"{i}.png" for i in range(3)]
    paths[0].parent.mkdir()
    for i, path in enumerate(paths):
        pixels = np.random.default_rng(i).integers(0, 256, (70, 80, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


def test_a_joint_run_poses_the_persons_that_it_finds(joint, photos):
    predictor = Predictor(joint)
    backbones = {id(part.task.backbone) for part in predictor.parts.values()}
    assert len(backbones) == 1
    results = predictor(photos)
    by_hand = Predictor(joint.single("pose"), boxes=box_array(PERSONS))
    for path, result in zip(photos, results, strict=True):
        assert isinstance(result, JointResult)
        assert list(result.parts) == ["pose", "objects"]
        assert len(result.parts["objects"].boxes) == len(FOUND)
        poses, expected = result.parts["pose"], by_hand(path)
        np.testing.assert_array_equal(poses.boxes, PERSONS)
        np.testing.assert_allclose(poses.box_scores, [0.9, 0.6], atol=1e-6)
        np.testing.assert_array_equal(poses.keypoints, expected.keypoints)
        assert result.plot().width > 2 * 80
    assert len(Predictor(joint, box_threshold=0.3)(photos[0]).parts["pose"].boxes) == 3
    given = Predictor(joint, boxes=box_array([[1, 2, 30, 40]]))(photos[0])  # boxes that are given are those
    assert given.parts["pose"].boxes.tolist() == [[1, 2, 30, 40]]


def test_in_one_command_from_a_checkpoint(joint, photos, tmp_path):
    tasks.save_task(joint, tmp_path / "people.ckpt")
    assert not predict.main([str(tmp_path / "people.ckpt"), str(photos[0].parent), "--output", str(tmp_path / "out")])
    with (tmp_path / "out" / "pose" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(float(r["x1"]), float(r["y2"])) for r in rows] == [(10, 60), (50, 64)] * 3
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"pose", "objects"}


def test_a_pose_run_with_the_detector_of_another(joint, photos, tmp_path):
    tasks.save_task(joint.single("pose"), tmp_path / "pose.ckpt")
    tasks.save_task(joint, tmp_path / "people.ckpt")
    words = [str(tmp_path / "pose.ckpt"), str(photos[0]), "--detector", str(tmp_path / "people.ckpt")]
    assert not predict.main([*words, "--output", str(tmp_path / "out"), "--box_threshold", "0.7"])
    with (tmp_path / "out" / "predictions.csv").open() as file:
        assert [(float(r["x1"]), float(r["box_score"])) for r in csv.DictReader(file)] == [(10, 0.9)]
    with pytest.raises(ConfigError, match="is no detector: it has PoseTask"):
        predict.main([*words[:3], str(tmp_path / "pose.ckpt"), "--output", str(tmp_path / "other")])
    with pytest.raises(ConfigError, match=r"no such run folder or checkpoint.*nowhere=weights\.pth"):
        predict.main([*words[:3], "nowhere", "--output", str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()
    with pytest.raises(ConfigError, match="A detector is for pose"):
        Predictor(joint.single("objects"), detector=joint)


def test_a_damaged_photo_is_a_failure_in_its_place(joint, photos, tmp_path, capsys):
    photos[1].write_bytes(b"no image")
    failures = predict.main([*_saved(joint, tmp_path), *map(str, photos), "--output", str(tmp_path / "out")])
    assert [failure.path.name for failure in failures] == ["1.png"]
    with (tmp_path / "out" / "pose" / "predictions.csv").open() as file:
        assert [Path(row["image"]).name for row in csv.DictReader(file)] == ["0.png"] * 2 + ["2.png"] * 2
    assert "1.png" in capsys.readouterr().err


def test_nobody_found_is_no_pose(joint, photos, monkeypatch):
    monkeypatch.setattr("tests.experiments.predict.test_people.FOUND", [FOUND[1]])
    result = Predictor(joint)(Photo(np.zeros((70, 80, 3), np.uint8)).image)
    assert result.parts["pose"].keypoints.shape == (0, 3, 2)
    assert len(result.parts["objects"].boxes) == 1


def _saved(task: tasks.Task, folder: Path) -> list[str]:
    tasks.save_task(task, folder / "people.ckpt")
    return [str(folder / "people.ckpt")]

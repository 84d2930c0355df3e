"""A published checkpoint predicts by one command, and classes outside the repository predict if the user says so."""

import csv
import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.datasets import Cityscapes as TorchvisionCityscapes

import tasks
from datamodules import Skeleton
from experiments import compare, predict
from experiments.config import ConfigError
from experiments.errors import errors
from experiments.predict.base import preparer_of
from experiments.predictor import Predictor
from experiments.run import main as run
from hrnet import HRNet
from tasks import ClassificationTask, PoseTask, save_task
from tests.conftest import ROOT
from tests.hrnet.published import filled, ocr, official, pose, segmentation
from tests.tasks.test_heatmaps import official_face_point

SMALL = {"variant": "w18_small_v1"}


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (8, 8, 3), np.uint8)
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.fromarray(cv2.resize(small, (96, 120), interpolation=cv2.INTER_CUBIC)).save(path)
    return path


def pose_file(folder: Path, name: str, count: int = 17) -> tuple[Path, dict]:
    state = filled(pose(num_keypoints=count))
    torch.save(official(state, "final_layer."), folder / name)
    return folder / name, state


def predicted(*words: object) -> None:
    assert not predict.main([str(word) for word in words])


def points(folder: Path) -> np.ndarray:
    (entry,) = json.loads((folder / "predictions.json").read_text())
    return np.array(entry["keypoints"]).reshape(-1, 3)


def test_pose_in_one_command(photo, tmp_path, capsys):
    path, state = pose_file(tmp_path, "pose_hrnet_small_128x96.pth")
    predicted(path, photo, "--output", tmp_path / "out")
    lines = [line for line in capsys.readouterr().out.splitlines() if path.name in line]
    assert len(lines) == 1
    for word in ("PoseTask", "w18_small_v1", "coco", "128x96"):
        assert word in lines[0]
    # The same, put together by hand.
    task = PoseTask(HRNet(**SMALL, multi_scale_output=False), skeleton=Skeleton.load("coco").to_dict()).eval()
    task.load_state_dict(state)
    task.preparation = {"image_size": [128, 96]}
    expected = Predictor(task)(photo)
    np.testing.assert_allclose(points(tmp_path / "out")[:, :2], expected.keypoints[0], atol=1e-3)
    np.testing.assert_allclose(Predictor(path)(photo).keypoints, expected.keypoints, atol=1e-3)
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").open()))
    assert "nose" in str(rows)
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 1


def test_landmarks_in_one_command(photo, tmp_path, capsys):
    """The box of a face is 1.25 times as large for the network; without one it is the whole picture."""
    network = segmentation(num_classes=98).eval()
    state = filled(network)
    network.load_state_dict(state)
    torch.save(official(state, "head."), tmp_path / "HR18-WFLW.pth")
    predicted(tmp_path / "HR18-WFLW.pth", photo, "--output", tmp_path / "out", "--image_size", "64", "64")
    said = capsys.readouterr().out
    for word in ("LandmarkTask", "wflw", "FaceCodec"):
        assert word in said
    found = Predictor(tmp_path / "HR18-WFLW.pth", image_size=(64, 64))(photo)
    np.testing.assert_allclose(points(tmp_path / "out")[:, :2], found.keypoints[0], atol=1e-3)
    # By hand: the crop, the network, the official rule.
    image = np.asarray(Image.open(photo).convert("RGB"))
    height, width = image.shape[:2]
    side = 1.25 * max(height - 1, width - 1)
    scale, center = 64 / side, np.array([width - 1, height - 1]) / 2
    matrix = np.column_stack([scale * np.eye(2), 32 - scale * center])
    crop = torch.from_numpy(cv2.warpAffine(image, matrix, (64, 64))).permute(2, 0, 1)[None].float()
    mean, std = (torch.tensor(v).view(3, 1, 1) * 255 for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        heatmaps = network((crop - mean) / std)[0].numpy()
    expected = np.array([official_face_point(heatmap) if heatmap.max() > 0 else (0, 0) for heatmap in heatmaps])
    expected = (expected - matrix[:, 2]) * side / 64
    near = np.linalg.norm(found.keypoints[0] - expected, axis=1) < 0.01
    assert near.mean() > 0.9  # a maximum may be at one of two equal places
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").open()))
    assert "right_eye_outer_x" in rows[0]


@pytest.mark.parametrize(
    ("name", "build", "head"),
    [("hrnet_cs_8090_torch11.pth", segmentation, "last_layer."), ("hrnet_ocr_cs_8162_torch11.pth", ocr, "")],
)
def test_cityscapes_in_one_command(name, build, head, photo, tmp_path, capsys):
    network = build(num_classes=19).eval()
    state = filled(network)
    network.load_state_dict(state)
    torch.save({f"model.{key}": value for key, value in official(state, head).items()}, tmp_path / name)
    predicted(tmp_path / name, photo, "--output", tmp_path / "out", "--save", "masks", "csv")
    assert "cityscapes" in capsys.readouterr().out
    image = torch.from_numpy(np.asarray(Image.open(photo).convert("RGB"))).permute(2, 0, 1)[None].float()
    mean, std = (torch.tensor(v).view(3, 1, 1) * 255 for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        scores = network((image - mean) / std)
    scores = scores if isinstance(scores, torch.Tensor) else scores[-1]
    size = {"size": image.shape[-2:], "mode": "bilinear", "align_corners": build is ocr}
    expected = torch.nn.functional.interpolate(scores, **size).argmax(1)[0].numpy()
    with Image.open(tmp_path / "out" / "masks" / "photo.png") as mask:
        assert (np.asarray(mask) == expected).mean() > 0.999
        palette = np.array(mask.getpalette()[: 3 * 19]).reshape(19, 3)
    known = {c.train_id: c for c in TorchvisionCityscapes.classes if 0 <= c.train_id < 19}
    assert palette.tolist() == [list(known[label].color) for label in range(19)]
    found = {row["name"] for row in csv.DictReader((tmp_path / "out" / "predictions.csv").open())}
    assert found <= {known[label].name for label in range(19)}


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_timm_in_one_command(name, photo, tmp_path, capsys):
    network = timm.create_model("hrnet_w18_small", num_classes=1000).eval()
    (save_file if "safe" in name else torch.save)(network.state_dict(), tmp_path / name)
    predicted(tmp_path / name, photo, "--output", tmp_path / "out", "--image_size", "64", "64")
    assert "ImageNet" in capsys.readouterr().out
    result = Predictor(tmp_path / name, image_size=(64, 64))(photo)
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").open()))
    assert [rows[0][f"class_{place}"] for place in range(1, 6)] == list(result.names)
    assert not result.names[0].isdigit()


def test_what_the_file_does_not_say_can_be_given(photo, tmp_path, monkeypatch, capsys):
    path, _ = pose_file(tmp_path, "mouse.pth", count=3)
    with pytest.raises(ConfigError, match="--skeleton"):
        predict.main([str(path), str(photo), "--output", str(tmp_path / "a")])
    skeleton = tmp_path / "mouse.yaml"
    skeleton.write_text("names: [tip, left, right]\nflip_pairs: [[left, right]]\nsigmas: 0.05\n")
    given = ["--skeleton", skeleton, "--image_size", "64", "64"]
    predicted(path, photo, "--output", tmp_path / "a", *given)
    predicted("--model.flip_test", "false", path, photo, "--output", tmp_path / "b", *given)
    predicted(path, photo, "--output", tmp_path / "c", *given, "--model.flip_test=false", "--model.codec", "UDPCodec")
    flipped, plain, udp = (points(tmp_path / name) for name in "abc")
    assert not np.allclose(flipped, plain)
    assert not np.allclose(plain, udp)
    task = tasks.load(path, {"skeleton": Skeleton.load(skeleton).to_dict(), "flip_test": False})
    np.testing.assert_allclose(Predictor(task, image_size=(64, 64))(photo).keypoints[0], plain[:, :2], atol=1e-3)
    assert tasks.load(path, {"skeleton": Skeleton.load(skeleton).to_dict()}).flip_test

    for words, said in (
        ([path, photo, "--skeleton", "coco"], "17"),
        ([path, photo, "--model.flip_tests", "true"], "flip_tests"),
        ([path, photo, "--model.flip_test"], "lacks a value"),
        ([path, photo, *given, "--class_names", "a"], "class_names"),
    ):
        monkeypatch.setattr(sys, "argv", ["predict", *map(str, words), "--output", str(tmp_path / "d")])
        assert predict.command() == 2
        assert said in capsys.readouterr().err


def test_class_names_from_words_or_a_file(photo, tmp_path):
    task = ClassificationTask(HRNet(**SMALL), 3)
    torch.save(official(task.state_dict(), ""), tmp_path / "mine.pth")
    (tmp_path / "names.txt").write_text("ant\nbee\n\ncat\n")
    for names in (["ant", "bee", "cat"], [tmp_path / "names.txt"]):
        folder = tmp_path / str(len(names))
        flags = ["--image_size", "64", "64", "--class_names", *names]
        predicted(tmp_path / "mine.pth", photo, "--output", folder, *flags)
        (row,) = csv.DictReader((folder / "predictions.csv").open())
        assert {row[f"class_{place}"] for place in (1, 2, 3)} == {"ant", "bee", "cat"}
    with pytest.raises(ValueError, match="2 class names for 3 classes"):
        predict.main([str(tmp_path / "mine.pth"), str(photo), "--class_names", "a", "b"])


def test_data_that_prepare_images_in_their_own_way():
    task = ClassificationTask(HRNet(**SMALL), 3)
    task.preparation = {"image_size": [64, 64], "fisheye": True}
    with pytest.raises(ConfigError, match="fisheye"):
        preparer_of(task)


# ---- classes outside the repository


@pytest.fixture
def bees(tmp_path, monkeypatch) -> str:
    """Name of a module with a task and a data set of a user."""
    name = f"bees_{abs(hash(str(tmp_path))) % 10**8}"
    (tmp_path / f"{name}.py").write_text(
        "import datamodules, tasks\n\nclass Bees(tasks.PoseTask):\n    pass\n\n"
        "class BeeData(datamodules.CocoPose):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_class_of_ones_own_predicts_by_import(bees, photo, tmp_path, monkeypatch, capsys):
    task = PoseTask(HRNet(**SMALL, multi_scale_output=False), skeleton=Skeleton.load("coco").to_dict())
    save_task(task, tmp_path / "bees.ckpt")
    content = torch.load(tmp_path / "bees.ckpt", weights_only=True)
    torch.save(content | {"task": f"{bees}.Bees"}, tmp_path / "bees.ckpt")
    words = [str(tmp_path / "bees.ckpt"), str(photo), "--image_size", "64", "64", "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["predict", *words])
    assert predict.command() == 2
    assert f"--import {bees}" in capsys.readouterr().err
    assert bees not in sys.modules
    predicted("--import", bees, *words)
    assert type(tasks.load(tmp_path / "bees.ckpt")).__module__ == bees


@pytest.mark.slow
def test_a_run_of_classes_of_ones_own_predicts_evaluates_and_compares(bees, photo, tmp_path):
    flags = ["--wandb.mode", "disabled", "--runs", str(tmp_path / "runs")]
    limits = [word for stage in ("train", "val") for word in (f"--trainer.limit_{stage}_batches", "1")]
    folder = Path(run(["pose_coco.yaml", "sample.yaml", "debug.yaml", *limits, *flags]).default_root_dir)
    # As the run would be if it had been trained with the user's classes, none of which this process has imported.
    config = folder / "config.yaml"
    text = config.read_text()
    for ours, theirs in (("PoseTask", "Bees"), ("CocoPose", "BeeData")):
        (line,) = (line for line in text.splitlines() if line.endswith(f".{ours}"))
        text = text.replace(line, line[: line.index("class_path")] + f"class_path: {bees}.{theirs}")
    config.write_text(text)
    for checkpoint in (folder / "checkpoints").glob("*.ckpt"):
        content = torch.load(checkpoint, weights_only=True)
        torch.save(content | {"task": f"{bees}.Bees"}, checkpoint)
    shutil.rmtree(folder / "predictions")
    assert bees not in sys.modules
    predicted(folder, photo, "--output", tmp_path / "out")
    assert points(tmp_path / "out").shape == (17, 3)
    assert errors(folder).tables
    again = run(["validate", "--checkpoint", str(folder), *flags])
    assert type(again.lightning_module).__module__ == bees
    assert compare.compare([folder, again.default_root_dir])

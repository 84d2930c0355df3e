"""The command that predicts: its words reach the predictor, and its files lie where they are looked for."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import tasks
from experiments import predict
from experiments.config import ConfigError
from experiments.predict import commandline
from experiments.predictor import MAX_PIXELS
from hrnet import HRNet
from tasks import ClassificationTask, MultiTask
from tests.experiments.predict.test_predictor import SMALL, objects, parts, photo, pose


@pytest.fixture(scope="module")
def classifier() -> ClassificationTask:
    torch.manual_seed(0)
    return ClassificationTask(HRNet("w18_small_v1"), num_classes=3).eval()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, classifier: ClassificationTask) -> dict[str, str]:
    tmp_path = tmp_path_factory.mktemp("checkpoints")
    joint = MultiTask(HRNet(**SMALL), {"pose": pose, "parts": parts}).eval()
    made = {"classes": classifier, "joint": joint, "pose": joint.single("pose")}
    made["people"] = MultiTask(HRNet(**SMALL), {"pose": pose, "objects": objects})
    for name, task in made.items():
        tasks.save_task(task, tmp_path / f"{name}.ckpt")
    Image.fromarray(photo().image).save(tmp_path / "photo.png")
    return {name: str(tmp_path / f"{name}.ckpt") for name in made} | {"photo": str(tmp_path / "photo.png")}


class Told(Exception):
    """What the predictor was told."""


def told(monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, Any]:
    def predictor(task: Any, **options: Any) -> None:
        raise Told(options)

    def source(kind: str) -> Any:
        return lambda *given, **options: (kind, *map(str, given[:2]), options)

    monkeypatch.setattr(commandline, "Predictor", predictor)
    monkeypatch.setattr(commandline, "CocoBoxes", source("file"))
    monkeypatch.setattr(commandline, "TorchvisionDetector", source("torchvision"))
    with pytest.raises(Told) as found:
        predict.main(list(words))
    return found.value.args[0]


def test_what_the_command_is_told_reaches_the_predictor(checkpoints, monkeypatch) -> None:
    words = checkpoints["classes"], checkpoints["photo"], "--device", "cpu"
    usual = {"batch_size": 16, "max_pixels": MAX_PIXELS, "image_size": None, "upright": None, "pixel_limit": None}
    assert usual.items() <= told(monkeypatch, *words).items()
    more = ["--batch_size", "3", "--max_pixels", "999", "--image_size", "32", "64", "--pixel_limit", "77", "--as_shown"]
    changed = {"batch_size": 3, "max_pixels": 999, "image_size": (32, 64), "upright": True, "pixel_limit": 77}
    found = told(monkeypatch, *words, *more)
    assert changed.items() <= found.items()
    assert found["device"] == torch.device("cpu")
    assert told(monkeypatch, *words, "--as_stored")["upright"] is False


@pytest.mark.parametrize(
    ("task", "more", "expected"),
    [
        ("pose", [], {"box_threshold": 0.5}),
        ("people", ["--box_threshold", "0.3"], {"box_threshold": 0.3}),
        ("people", ["--box_threshold", "0"], {"box_threshold": 0.0}),
        ("pose", ["--detector", "POSE", "--box_threshold", "0.3"], {"detector": "POSE", "box_threshold": 0.3}),
        ("pose", ["--detector", "POSE"], {"detector": "POSE", "box_threshold": 0.5}),
        ("pose", ["--boxes", "b.json"], ("file", "b.json", {"annotations": None, "threshold": 0.0})),
        (
            "pose",
            ["--boxes", "b.json", "--annotations", "a.json", "--box_threshold", "0.3"],
            ("file", "b.json", {"annotations": "a.json", "threshold": 0.3}),
        ),
        ("pose", ["--detector", "ssd=w.pth"], ("torchvision", "ssd", "w.pth", {"threshold": 0.5})),
        (
            "pose",
            ["--detector", "ssd=w.pth", "--box_threshold", "0.9"],
            ("torchvision", "ssd", "w.pth", {"threshold": 0.9}),
        ),
    ],
)
def test_boxes_come_from_where_the_words_say(task, more, expected, checkpoints, monkeypatch) -> None:
    more = [checkpoints["pose"] if word == "POSE" else word for word in more]
    found = told(monkeypatch, checkpoints[task], checkpoints["photo"], "--device", "cpu", *more)
    if isinstance(expected, dict):
        wanted = {key: checkpoints["pose"] if value == "POSE" else value for key, value in expected.items()}
        assert {key: found[key] for key in found if key in ("boxes", "detector", "box_threshold")} == wanted
    else:
        kind, first, second, options = found["boxes"]
        options = {key: value for key, value in options.items() if key != "device"}
        assert (kind, first, *([second] if kind == "torchvision" else []), options) == expected


@pytest.mark.parametrize(
    ("task", "words", "said"),
    [
        ("pose", ["--boxes", "a", "--detector", "b"], "--boxes and --detector exclude each other"),
        ("pose", ["--as_stored", "--as_shown"], "--as_stored and --as_shown exclude each other"),
        ("pose", ["--annotations", "a.json"], "--annotations goes with --boxes"),
        ("pose", ["--box_threshold", "0.5"], "--box_threshold goes with --boxes or --detector"),
        ("classes", ["--box_threshold", "0"], "--box_threshold: boxes are for pose"),
        ("classes", ["--detector", "a"], "--detector: boxes are for pose, and this is a ClassificationTask"),
        ("joint", ["--save", "masks", "json", "csv", "overlays", "--model.flip"], "lacks a value"),
        ("pose", ["--save", "csv", "masks"], "--save masks: a PoseTask gives no masks"),
    ],
)
def test_words_that_do_not_go_together_are_refused(task, words, said, checkpoints) -> None:
    with pytest.raises(ConfigError, match=said):
        predict.main([checkpoints[task], checkpoints["photo"], "--device", "cpu", *words])


def test_each_task_writes_what_it_can_of_what_is_asked_for(checkpoints, tmp_path: Path) -> None:
    words = [checkpoints["joint"], checkpoints["photo"], "--device", "cpu", "--image_size", "64", "64"]
    assert not predict.main([*words, "--output", str(tmp_path / "out"), "--save", "masks", "csv"])
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    assert found == {"parts/masks/photo.png", "parts/predictions.csv", "pose/predictions.csv"}
    assert not predict.main([*words, "--output", str(tmp_path / "usual")])
    found = {path.relative_to(tmp_path / "usual").as_posix() for path in (tmp_path / "usual").rglob("*.*")}
    assert found == {
        *(f"parts/{name}" for name in ("overlays/photo.jpg", "masks/photo.png", "predictions.csv")),
        *(f"pose/{name}" for name in ("overlays/photo.jpg", "predictions.csv", "predictions.json")),
    }


def test_predictions_lie_in_the_run_under_the_name_of_the_first_input(
    classifier, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    for path in ("run/checkpoints/best.ckpt", "classes.ckpt"):
        tasks.save_task(classifier, tmp_path / path)
    Image.fromarray(photo().image).save(tmp_path / "photo.png")
    (tmp_path / "photos").mkdir()
    Image.fromarray(photo().image).save(tmp_path / "photos" / "a.png")
    flags = ["--image_size", "32", "32", "--device", "cpu", "--save", "csv"]
    for run, inputs, place in (
        ("run", ["photo.png", "photos"], "run/predictions/photo"),
        ("run/checkpoints/best.ckpt", ["photos"], "run/predictions/photos"),
        ("classes.ckpt", ["photos/*.png"], "predictions/photos"),
    ):
        assert not predict.main([run, *inputs, *flags])
        assert (tmp_path / place / "predictions.csv").is_file()
        assert f"predictions: {place}\n" in capsys.readouterr().out

"""Files of predictions: whole after every failure, never `.part`, and one bad picture is one failure in its place."""

import csv
import json
import random
import re
import resource
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import tasks
from datamodules import DataError, Skeleton
from experiments import predict
from experiments.config import ConfigError
from experiments.predict.boxes import Boxes
from experiments.predict.classification import ClassificationResult
from experiments.predict.files import PredictionFiles
from experiments.predict.media import Failure, Photo
from experiments.predict.segmentation import SegmentationResult
from experiments.predictor import Predictor
from hrnet import HRNet
from tasks import ClassificationTask, PoseTask, SegmentationTask


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoints")
    made = {
        "pose": PoseTask(HRNet("w18_small_v1", multi_scale_output=False), skeleton=Skeleton.load("coco").to_dict()),
        "masks": SegmentationTask(HRNet("w18_small_v1", upsample="bilinear"), num_classes=3),
        "classes": ClassificationTask(HRNet("w18_small_v1"), num_classes=3, class_names=["ä", "b", "c"]),
    }
    for name, task in made.items():
        tasks.save_task(task, folder / f"{name}.ckpt")
    return {name: folder / f"{name}.ckpt" for name in made}


@pytest.fixture(scope="module")
def predictors(checkpoints) -> dict[str, Predictor]:
    return {name: Predictor(path, image_size=(64, 64), device="cpu") for name, path in checkpoints.items()}


def photos(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name in names:
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / name)
    return folder


def bomb(path: Path) -> None:
    good = cv2.imencode(".png", np.zeros((8, 8), np.uint8))[1].tobytes()
    head = b"IHDR" + (15_000).to_bytes(4) + (13_000).to_bytes(4) + good[24:29]
    path.write_bytes(good[:12] + head + zlib.crc32(head).to_bytes(4) + good[33:])


def status(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["predict", *map(str, words), "--image_size", "64", "64", "--device", "cpu"])
    return predict.command()


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", ["pose", "masks", "classes"])
def test_bad_pictures_are_failures_in_their_places(
    kind: str, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch, capsys
) -> None:
    folder = photos(tmp_path / "in", "a.png", "z.jpg")
    Image.fromarray(np.zeros((1, 1, 3), np.uint8)).save(folder / "dot.png")
    (folder / "postscript.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    cv2.imwrite(str(folder / "twelve.png"), np.linspace(0, 4095, 1200).reshape(30, 40).astype(np.uint16))
    bomb(folder / "large.png")
    for name in ("a.heic", "notes.txt", "sub/b.HEIC", "sub/._c.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("left out")
    out = tmp_path / "out"
    assert status(monkeypatch, checkpoints[kind], folder, "--output", out, "--save", "csv", "json", "overlays") == 1
    said = capsys.readouterr().err
    bad = ["large.png", "postscript.jpg", "twelve.png", *(["dot.png"] if kind == "pose" else [])]
    assert f"{len(bad)} of 6 files could not" in said
    assert all(name in said for name in bad)
    assert "limit of 178,956,970" in said
    assert "files left out, since they are no images by their ending: 2 .heic, 1 .txt, 1 hidden" in said
    good = sorted({"a", "z", "dot"} - {"dot" if kind == "pose" else ""})
    assert files(out) == sorted([*(f"overlays/{name}.jpg" for name in good), "predictions.csv", "predictions.json"])
    records = json.loads((out / "predictions.json").read_text())
    assert {Path(record["file_name"]).stem for record in records} == set(good)
    words = [checkpoints[kind], folder / "large.png", "--output", tmp_path / "b", "--pixel_limit", 200_000_000]
    assert status(monkeypatch, *words) == 1
    said = capsys.readouterr()
    assert "large.png is damaged or cut off" in said.err  # it was let through, and has no pixels
    assert "predictions:" not in said.out
    assert not (tmp_path / "b").exists()  # nothing was predicted, and nothing is left


def test_pictures_with_changed_bytes_and_odd_names_are_failures_in_their_places(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch, capsys
) -> None:
    folder, rng = photos(tmp_path / "in", "a.png", "z.jpg", "[bold]\x1b[2J.png"), random.Random(0)
    good = {ending: (folder / name).read_bytes() for ending, name in (("png", "a.png"), ("jpg", "z.jpg"))}
    for number in range(40):
        for ending, data in good.items():
            changed = bytearray(data)
            for _ in range(50):
                changed[rng.randrange(8, len(data))] = rng.randrange(256)
            (folder / f"{number}\x1b[31m.{ending}").write_bytes(changed)
    out = tmp_path / "out"
    assert status(monkeypatch, checkpoints["classes"], folder, "--output", out, "--save", "csv") == 1
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "0\\x1b[31m.png: " in said
    failed = int(re.search(r"(\d+) of 83 files could not", said)[1])
    with (out / "predictions.csv").open(newline="") as file:
        found = {Path(row["image"]).name for row in csv.DictReader(file)}
    assert {"a.png", "z.jpg", "[bold]\x1b[2J.png"} <= found
    assert len(found) + failed == 83
    assert failed >= 40


@pytest.mark.parametrize("kind", ["pose", "masks", "classes"])
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (1, 200), (200, 1)])
def test_tiny_pictures_have_finite_results_or_none(kind: str, size: tuple[int, int], predictors) -> None:
    predictor = predictors[kind]
    picture = np.full((*size, 3), 90, np.uint8)
    if kind == "pose" and size == (1, 1):
        with pytest.raises(DataError, match=r"neither width nor height.*1 x 1 pixels"):
            predictor(picture)
    else:
        result = predictor(picture)
        assert json.dumps([result.rows(), result.records(1)], allow_nan=False)


@pytest.mark.parametrize("corners", [[5, 5, 5, 5], [9, 2, 4, 8], [0, 0, np.nan, 4], [0, 0, np.inf, 4]])
def test_boxes_without_area_are_a_sentence(corners: list[float], checkpoints) -> None:
    source = lambda photo: Boxes(np.array([[1, 1, 20, 20], corners], np.float64), np.ones(2))  # noqa: E731
    predictor = Predictor(checkpoints["pose"], image_size=(64, 64), boxes=source, device="cpu")
    with pytest.raises(DataError, match="neither width nor height"):
        predictor(np.zeros((30, 30, 3), np.uint8))


def test_what_a_broken_network_predicts_is_a_failure(checkpoints, tmp_path: Path, monkeypatch, capsys) -> None:
    real = ClassificationTask.predict

    def broken(self: ClassificationTask, outputs: torch.Tensor, batch: dict) -> dict:
        return real(self, outputs * float("inf") * 0, batch)

    monkeypatch.setattr(ClassificationTask, "predict", broken)
    photos(tmp_path / "in", "a.png", "b.png")
    assert status(monkeypatch, checkpoints["classes"], tmp_path / "in", "--output", tmp_path / "out") == 1
    assert "2 of 2 files" in (said := capsys.readouterr().err)
    assert "a.png is not finite" in said
    assert files(tmp_path / "out") == []


def result(name: str, label: int = 1) -> ClassificationResult:
    return ClassificationResult(
        photo=Photo(np.zeros((9, 9, 3), np.uint8), Path(f"{name}.png"), name),
        labels=np.array([label]),
        probabilities=np.array([0.5]),
        names=["ä" * 200],
    )


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), ConfigError("a mistake"), ValueError("nan")])
def test_an_error_in_the_middle_loses_nothing_and_leaves_no_part(tmp_path: Path, error: Exception) -> None:
    def failing() -> None:
        with PredictionFiles(tmp_path, ["json", "csv", "overlays"]) as written:
            for name in ("x", "y"):
                written.write(result(name))
            raise error

    with pytest.raises(type(error)):
        failing()
    assert files(tmp_path) == ["overlays/x.jpg", "overlays/y.jpg", "predictions.csv", "predictions.json"]
    assert [record["file_name"] for record in json.loads((tmp_path / "predictions.json").read_text())] == [
        "x.png",
        "y.png",
    ]
    with (tmp_path / "predictions.csv").open(encoding="utf-8", newline="") as lines:
        assert [row["image"] for row in csv.DictReader(lines)] == ["x.png", "y.png"]


def test_an_error_of_the_command_leaves_no_part(checkpoints, tmp_path: Path, monkeypatch, capsys) -> None:
    real = Predictor.stream

    def broken(self: Predictor, found: Iterator[Photo | Failure]) -> Iterator:
        for number, item in enumerate(real(self, found)):
            if number == 2:
                raise RuntimeError("out of memory")
            yield item

    monkeypatch.setattr(Predictor, "stream", broken)
    folder = photos(tmp_path / "in", "a.png", "b.png", "c.png")
    with pytest.raises(RuntimeError, match="out of memory"):
        status(monkeypatch, checkpoints["masks"], folder, "--output", tmp_path / "out")
    assert files(tmp_path / "out") == [
        *(
            f"{kind}/{name}"
            for kind, end in (("masks", "png"), ("overlays", "jpg"))
            for name in (f"a.{end}", f"b.{end}")
        ),
        "predictions.csv",
    ]


@pytest.mark.parametrize("room", range(500, 2600, 300))
def test_a_full_disk_is_a_sentence_and_leaves_whole_files(tmp_path: Path, room: int) -> None:
    def fill() -> None:
        with PredictionFiles(tmp_path, ["json", "csv"]) as written:
            for number in range(100):
                written.write(result(f"{number:03d}"))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))  # what a file may grow to
    try:
        with pytest.raises(ConfigError, match=r"cannot be written to .*: free space"):
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.rglob("*.part"))
    records = json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))
    assert [record["file_name"] for record in records] == [f"{number:03d}.png" for number in range(len(records))]
    assert (tmp_path / "predictions.json").stat().st_size <= room
    if (tmp_path / "predictions.csv").exists():
        with (tmp_path / "predictions.csv").open(encoding="utf-8", newline="") as lines:
            names = [row["image"] for row in csv.DictReader(lines)]
        assert abs(len(names) - len(records)) <= 1
        assert all(len(name) == len("000.png") for name in names)


def test_an_overlay_beyond_jpeg_is_a_failure_and_nothing_of_it_is_written(tmp_path: Path) -> None:
    def mask(width: int) -> SegmentationResult:
        return SegmentationResult(
            photo=Photo(np.zeros((3, width, 3), np.uint8), name=str(width)),
            mask=np.zeros((3, width), np.uint8),
            class_names=["a"],
            palette=[(1, 2, 3)],
        )

    with PredictionFiles(tmp_path, ["json", "overlays", "masks"]) as written:
        written.write(mask(60))
        with pytest.raises(DataError, match=r"66000 would have 3 x 66000 pixels .*JPEG ends at 65000"):
            written.write(mask(66_000))
        written.write(mask(61))
    assert files(tmp_path) == ["masks/60.png", "masks/61.png", "overlays/60.jpg", "overlays/61.jpg", "predictions.json"]
    assert len(json.loads((tmp_path / "predictions.json").read_text())) == 2


@pytest.mark.parametrize(("flag", "turned"), [([], True), (["--as_stored"], False), (["--as_shown"], True)])
@pytest.mark.parametrize("trained", [None, True, False])
def test_the_command_turns_photos_as_trained_or_as_told(
    trained: bool | None, flag: list[str], turned: bool, checkpoints, tmp_path: Path, monkeypatch
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "in").mkdir()
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(tmp_path / "in" / "a.png", exif=exif)
    task = tasks.load(checkpoints["masks"])
    task.preparation = {"reading": {"upright": trained, "value_range": None, "pixel_limit": 10_000}}
    tasks.save_task(task, tmp_path / "trained.ckpt")
    words = [tmp_path / "trained.ckpt", tmp_path / "in", "--output", tmp_path / "out", "--save", "masks", *flag]
    assert status(monkeypatch, *words) == 0
    expected = trained is not False if not flag else turned
    with Image.open(tmp_path / "out" / "masks" / "a.png") as mask:
        assert mask.size == ((40, 60) if expected else (60, 40))

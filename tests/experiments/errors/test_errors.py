"""Error analysis of real run folders: what is written, what is refused, and that figures are those of the run."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import CocoPose
from datamodules.base import DataError
from experiments.config import ConfigError
from experiments.errors import commandline as command_module
from experiments.errors import errors, main
from experiments.errors.report import Report, count, limited
from experiments.run import main as run
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)  # the sample data are rendered once, into data/sample


@pytest.fixture(scope="module")
def make_run(tmp_path_factory):
    """Name of an experiment -> folder of a run of seconds, made once."""
    made: dict[str, Path] = {}

    def folder_of(name: str) -> Path:
        if name not in made:
            runs = str(tmp_path_factory.mktemp("runs"))
            trainer = run([name, "sample.yaml", "debug.yaml", "--runs", runs, "--wandb.mode", "disabled"])
            made[name] = Path(trainer.default_root_dir)
        return made[name]

    return folder_of


@pytest.fixture
def run_of(make_run, tmp_path):
    """A copy of such a run, to change."""

    def copy_of(name: str) -> Path:
        return Path(shutil.copytree(make_run(name), tmp_path / "run"))

    return copy_of


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def evaluate_everything(folder: Path) -> None:
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("limit_val_batches: 2", "limit_val_batches: null"))


def predict_truth(folder: Path, change) -> None:
    """Write the annotations of the sample data as predictions, key points (K, 3) changed by `change`."""
    truth = CocoPose("sample").ground_truth("val")["annotations"]
    poses = [
        {
            "image_id": a["image_id"],
            "category_id": 1,
            "keypoints": change(np.reshape(a["keypoints"], (-1, 3)).astype(float)).ravel().tolist(),
            "score": 0.9,
        }
        for a in truth
        if a["num_keypoints"]
    ]
    (folder / "predictions" / "val_keypoints.json").write_text(json.dumps(poses))


def test_classification_run(run_of):
    folder = run_of("cls_folder.yaml")
    report = main([str(folder)])
    names = {path.name for path in (folder / "errors").iterdir()}
    assert {"val_summary.csv", "val_classes.csv", "val_calibration.csv", "val_calibration.png"} <= names
    values = {row["name"]: float(row["value"]) for row in rows_of(folder / "errors" / "val_summary.csv")}
    best = json.loads((folder / "summary.json").read_text())["best"]
    assert values["images"] == 8  # two batches of four, as debug.yaml evaluates
    assert values["accuracy"] == pytest.approx(best["val/top1"])
    for row in report.tables.get("mistakes", []):
        assert row["file"].startswith(row["truth"] + "/")  # a folder a class
    assert all(path.stat().st_size for path in (folder / "errors").iterdir())


@pytest.mark.slow
def test_segmentation_run(run_of):
    folder = run_of("seg_cityscapes_w18.yaml")
    main([str(folder)])
    values = {row["name"]: float(row["value"]) for row in rows_of(folder / "errors" / "val_summary.csv")}
    best = json.loads((folder / "summary.json").read_text())["best"]
    assert values["mIoU"] == pytest.approx(best["val/mIoU"], abs=1e-3)
    images = rows_of(folder / "errors" / "val_images.csv")
    assert len(images) == 8
    assert Path(images[0]["file"]).is_file()
    for name in ("boundary", "worst", "classes"):
        assert (folder / "errors" / f"val_{name}.png").is_file()


@pytest.mark.slow
def test_pose_run_that_is_measured_by_heads(run_of):
    folder = run_of("pose_mpii.yaml")
    assert json.loads((folder / "summary.json").read_text())["monitor"] == "val/PCKh"
    for _ in range(2):  # from its own predictions, then anew
        main([str(folder), "--overwrite"])
        assert {row["name"] for row in rows_of(folder / "errors" / "val_errors.csv")} >= {"jitter", "swap", "miss"}
        assert len(rows_of(folder / "errors" / "val_keypoints.csv")) == 16
        (folder / "predictions" / "val_keypoints.json").unlink(missing_ok=True)


@pytest.mark.slow
def test_run_on_a_mixture_is_analysed_by_data_set(run_of):
    folder = run_of("pose_mixed.yaml")
    for _ in range(2):  # from its own predictions, then anew
        main([str(folder), "--overwrite"])
        for name, points in (("coco", 17), ("mpii", 16)):
            assert len(rows_of(folder / "errors" / name / "val_keypoints.csv")) == points
            (folder / "predictions" / name / "val_keypoints.json").unlink(missing_ok=True)


def test_pose_run_takes_the_predictions_that_are_there(run_of):
    folder = run_of("pose_coco.yaml")
    evaluate_everything(folder)
    flip = list(CocoPose("sample").skeleton.flip_permutation)

    def exchange_elbows(points):
        elbows = [7, 8]
        points[elbows] = points[[flip[k] for k in elbows]]
        return points

    predict_truth(folder, exchange_elbows)
    report = main([str(folder)])
    counts = {row["name"]: row["count"] for row in report.tables["errors"]}
    assert counts["inversion"] > 50
    visible = [a["keypoints"][2::3] for a in CocoPose("sample").ground_truth("val")["annotations"]]
    single = sum((v[7] > 0) != (v[8] > 0) for v in visible)  # put where its counterpart would be, at no place
    assert counts["miss"] == single
    assert counts["background false negative"] == 0
    shares = {row["name"]: row["inversion"] for row in report.tables["keypoints"]}
    assert min(shares["left_elbow"], shares["right_elbow"]) > 0.5
    assert shares["left_knee"] == 0
    gain = {row["name"]: float(row["gain"]) for row in rows_of(folder / "errors" / "val_errors.csv")}
    assert gain["inversion"] > 0.01
    assert {"kinds", "gain", "examples_inversion"} <= set(report.figures)
    assert "examples_swap" not in report.figures or counts["swap"]


def test_pose_run_without_predictions_makes_them(run_of):
    folder = run_of("pose_coco.yaml")
    before = errors(folder)
    (folder / "predictions" / "val_keypoints.json").unlink()
    after = errors(folder)
    assert not (folder / "errors").exists()
    for a, b in zip(before.tables["errors"], after.tables["errors"], strict=True):
        assert (a["name"], a["count"]) == (b["name"], b["count"])


def test_run_of_a_few_batches_is_not_blamed_for_the_other_images(run_of):
    report = errors(run_of("pose_coco.yaml"))
    totals = {row["name"]: row for row in report.tables["errors"]}
    persons = totals["background false negative"]["count"] + len(report.tables.get("persons", []))
    assert persons < 20  # of some 270 in the split


@pytest.mark.slow
def test_joint_run_has_a_folder_for_each_task(run_of):
    folder = run_of("multitask_pose_seg.yaml")
    report = main([str(folder)])
    assert (folder / "errors" / "pose" / "val_errors.csv").is_file()
    assert (folder / "errors" / "parts" / "val_boundary.png").is_file()
    assert {"pose/errors", "parts/images"} <= set(report.tables)


def test_an_earlier_analysis_is_replaced_only_when_told(tmp_path, monkeypatch):
    figure = torch.zeros(3, 4, 4, dtype=torch.uint8)
    reports = [
        Report({"summary": [{"name": "a", "value": 1}]}, {"examples_swap": figure, "gain": figure}),
        Report({"summary": [{"name": "a", "value": 2}]}, {"gain": figure}),
    ]
    monkeypatch.setattr(command_module, "errors", lambda run, split: reports.pop(0))
    main([str(tmp_path)])
    table = tmp_path / "errors" / "val_summary.csv"
    with pytest.raises(ConfigError, match="--overwrite"):
        main([str(tmp_path)])
    assert rows_of(table) == [{"name": "a", "value": "1"}]
    main([str(tmp_path), "--overwrite"])
    assert rows_of(table) == [{"name": "a", "value": "2"}]
    assert {path.name for path in table.parent.iterdir()} == {"val_summary.csv", "val_gain.png"}


def test_splits_do_not_meet(tmp_path, monkeypatch):
    report = Report({"pose/summary": [{"name": "a", "value": 1}]}, {})
    monkeypatch.setattr(command_module, "errors", lambda run, split: report)
    main([str(tmp_path)])
    main([str(tmp_path), "--split", "test"])
    assert {path.name for path in (tmp_path / "errors" / "pose").iterdir()} == {"val_summary.csv", "test_summary.csv"}


def test_nothing_is_lost_when_the_analysis_fails(run_of):
    folder = run_of("cls_folder.yaml")
    earlier = folder / "errors" / "val_summary.csv"
    earlier.parent.mkdir()
    earlier.write_text("kept")
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("root: sample", "root: nowhere"))
    with pytest.raises(DataError, match="no folder nowhere"):
        main([str(folder), "--overwrite"])
    assert earlier.read_text() == "kept"


@pytest.mark.parametrize(
    ("make", "message"),
    [(lambda folder: None, "no config.yaml"), (lambda folder: (folder / "config.yaml").write_text("runs: x"), "data")],
)
def test_a_folder_that_is_no_run_ends_with_status_2(make, message, tmp_path, monkeypatch, capsys):
    make(tmp_path)
    monkeypatch.setattr("sys.argv", ["errors", str(tmp_path)])
    assert command_module.command() == 2
    assert message in capsys.readouterr().err


def test_a_run_without_checkpoint_says_so(run_of, monkeypatch, capsys):
    folder = run_of("cls_folder.yaml")
    shutil.rmtree(folder / "checkpoints")
    monkeypatch.setattr("sys.argv", ["errors", str(folder)])
    assert command_module.command() == 2
    assert "No checkpoint" in capsys.readouterr().err


def test_a_run_without_checkpoint_is_not_taken_for_what_it_started_from(run_of):
    folder = run_of("cls_folder.yaml")
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("weights: null", f"weights: {folder / 'best.ckpt'}"))
    (folder / "checkpoints" / "best.ckpt").rename(folder / "best.ckpt")
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(FileNotFoundError, match="No checkpoint"):
        errors(folder)


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--checkpoint", "--model.weights"])
def test_a_run_that_only_evaluated_uses_the_checkpoint_it_was_given(flag, make_run, tmp_path):
    trained = make_run("cls_folder.yaml")
    argv = ["validate", str(trained / "config.yaml"), flag, str(trained), "--runs", str(tmp_path)]
    evaluated = Path(run([*argv, "--wandb.mode", "disabled"]).default_root_dir)
    assert not list(evaluated.rglob("*.ckpt"))
    assert errors(evaluated).tables["summary"] == errors(trained).tables["summary"]


@pytest.mark.parametrize(
    ("limit", "batches", "few"),
    [(None, 9, False), (1.0, 9, False), (2, 2, True), (2.0, 2, True), (20.0, 9, True), (0.5, 4, True), (1, 1, True)],
)
def test_batches_are_limited_as_lightning_limits_them(limit: float | None, batches: int, few: bool) -> None:
    assert count(limit, 9) == batches
    assert limited(limit) == few

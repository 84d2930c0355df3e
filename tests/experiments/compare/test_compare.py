"""Comparing runs: what is read, what is computed, and what a reader of the terminal, the files and the page sees."""

import csv
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel

from experiments import compare as command
from experiments.compare import compare, main
from experiments.compare.modes import MONITORS, checkpoint_monitor, known_mode
from experiments.compare.runs import RunsError, find_runs, flatten, read_run
from experiments.compare.statistics import bootstrap_interval, holm, paired_test, spread
from experiments.compare.text import cell
from experiments.run import main as train
from tests.experiments.training.toys import toy

NAMES = ("nose", "left_eye", "right_eye")


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), restval="")
        writer.writeheader()
        writer.writerows(rows)


def make_run(
    folder: Path,
    *,
    seed: int = 0,
    lr: float = 0.001,
    ap: float = 0.6,
    variant: str = "w32",
    samples: dict[int, float] | None = None,
    metric: str = "val/AP",
    task: str = "PoseTask",
) -> Path:
    """Run folder as experiments.run leaves it: three epochs, the best being the second."""
    folder.mkdir(parents=True)
    backbone = {"class_path": "hrnet.HRNet", "init_args": {"variant": variant}}
    config = {
        "seed_everything": seed,
        "runs": str(folder.parent),
        "model": {
            "class_path": f"tasks.{task}",
            "init_args": {"backbone": backbone, "optimizer": {"name": "adam", "lr": lr}},
        },
        "data": {"class_path": "datamodules.CocoPose", "init_args": {"root": "sample", "image_size": [128, 96]}},
        "trainer": {"max_epochs": 3},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    values = [ap - 0.2, ap, ap - 0.1, ap]  # the fourth is the best checkpoint's evaluation, after the training
    rows: list[dict[str, Any]] = []
    for epoch, value in enumerate(values):
        if epoch < 3:
            rows.append({"epoch": epoch, "step": 10 * epoch + 9, "train/loss": 1 / (epoch + 1), metric: ""})
        rows.append({"epoch": epoch, "step": 10 * epoch + 9, "train/loss": "", metric: value})
    write_csv(folder / "metrics.csv", rows)
    summary = {
        "monitor": metric,
        "best": {metric: ap},
        "best_epoch": 1,
        "last": {"train/loss": 1 / 3, metric: ap - 0.1},
        "epochs": 3,
        "steps": 30,
        "seconds": 90.0,
        "parameters": 28_500_000,
        "multiply_adds": 7 * 2**30,
        "peak_memory_bytes": 3 * 2**29,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "environment.json").write_text(json.dumps({"git": {"revision": "abc" * 13, "changed": []}}))
    table = [{"name": name, "labelled": 10, "pck": ap + 0.01 * i} for i, name in enumerate(NAMES)]
    write_csv(folder / "predictions" / "val_keypoints.csv", table)
    if samples:
        rows = [{"sample": sample, "score": score} for sample, score in samples.items()]
        write_csv(folder / "predictions" / "val_samples.csv", rows)
    return folder


def rows_of(tables: dict[str, list[dict[str, Any]]], table: str, column: str) -> dict[Any, dict[str, Any]]:
    return {row[column]: row for row in tables[table]}


# Finding and reading


def test_folders_globs_and_parents_are_found_once_and_in_order(tmp_path: Path) -> None:
    b, a = make_run(tmp_path / "pose" / "b"), make_run(tmp_path / "pose" / "a")
    c = make_run(tmp_path / "seg" / "c")
    assert find_runs([tmp_path]) == [a, b, c]
    assert find_runs([b, tmp_path / "pose"]) == [b, a]
    assert find_runs([str(tmp_path / "*" / "[bc]")]) == [b, c]
    assert find_runs([a / "summary.json"]) == [a]


@pytest.mark.parametrize("name", ["nothing", "nothing/*", "pictures"])
def test_a_name_without_runs_is_a_sentence_and_exit_status_2(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pictures").mkdir()
    monkeypatch.setattr(sys, "argv", ["compare", str(tmp_path / name)])
    assert command.command() == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert str(tmp_path / name) in said


def test_keys_are_as_flags_are_written() -> None:
    nested = {
        "model": {"class_path": "tasks.PoseTask", "init_args": {"backbone": {"variant": "w32"}, "sizes": [1, 2.5]}}
    }
    assert flatten(nested) == {"model": "PoseTask", "model.backbone.variant": "w32", "model.sizes": [1, 2.5]}
    assert str(flatten({"a": {"b": 1.0, "c": [2.0, True]}})) == str({"a.b": 1, "a.c": [2, True]})


def test_evaluation_of_the_best_checkpoint_is_no_point_of_the_curve(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", ap=0.6))
    assert run.curve("val/AP") == [(0, pytest.approx(0.4)), (1, pytest.approx(0.6)), (2, pytest.approx(0.5))]
    assert run.best == {"val/AP": 0.6}
    assert run.best_epoch == 1
    assert run.last["val/AP"] == pytest.approx(0.5)


def test_unfinished_run_shows_its_best_epoch_so_far(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", ap=0.6)
    (folder / "summary.json").unlink()
    run = read_run(folder)
    assert run.monitor == "val/AP"
    assert (run.best_epoch, run.best["val/AP"]) == (1, pytest.approx(0.6))
    assert run.last == {"train/loss": pytest.approx(1 / 3), "val/AP": pytest.approx(0.5)}
    assert run.notes == ("no summary.json: unfinished",)


def test_curve_has_one_point_an_epoch_the_mean(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    rows = [{"epoch": i // 3, "step": i, "train/loss": value} for i, value in enumerate([5.0, 1.0, 3.0, 4.0, 1.0, 1.0])]
    write_csv(folder / "metrics.csv", rows)
    assert read_run(folder).curve("train/loss") == [(0, 3.0), (1, 2.0)]


def test_metrics_at_the_end_are_those_of_the_summary(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"last": {"val/AP": 0.55, "epoch": 2, "lr-Adam": 0.1}}))
    assert read_run(folder).last == {"val/AP": 0.55}


def test_samples_without_a_score_are_left_out(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", samples={1: 0.1, 2: math.nan, 3: 0.3, 4: 0.5})
    b = make_run(tmp_path / "b", samples={1: 0.2, 2: 0.2, 3: math.inf, 4: 0.5})
    (row,) = compare([a, b]).tables["paired"]
    assert (row["samples"], row["difference"]) == (2, pytest.approx(0.05))


def test_what_a_resumed_run_repeats_counts_once(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    (folder / "summary.json").unlink()
    first = [(0, 9, 0.5, ""), (0, 9, "", 0.4), (1, 19, 0.4, ""), (1, 19, "", 0.9)]  # killed before a checkpoint
    second = [(1, 12, 0.45, ""), (1, 19, 0.3, ""), (1, 19, "", 0.5), (2, 20, "", 0.5)]  # ended, evaluated, and
    third = [(2, 20, 0.2, ""), (2, 29, 0.1, ""), (2, 29, "", 0.6)]  # made longer
    rows = [{"epoch": e, "step": s, "train/loss": loss, "val/AP": ap} for e, s, loss, ap in (*first, *second, *third)]
    rows[7]["best_checkpoint"] = 1
    write_csv(folder / "metrics.csv", [{"best_checkpoint": ""} | row for row in rows])
    run = read_run(folder)
    assert [value for _, value in run.curve("val/AP")] == [0.4, 0.5, 0.6]
    means = [0.5, (0.45 + 0.3) / 2, (0.2 + 0.1) / 2]
    assert [value for _, value in run.curve("train/loss")] == pytest.approx(means)


def test_means_of_an_epoch_that_stand_below_its_validation_do_not_replace_it(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "joint")
    rows = [
        {"epoch": e, "step": s, "train/loss": 1.0, "val/AP": "", "train/pose/weight": ""} for e, s in ((0, 4), (0, 9))
    ]
    rows.append({"epoch": 0, "step": 9, "val/AP": 0.5})
    rows.append({"epoch": 0, "step": 9, "train/pose/weight": 0.25})  # as joint trainings log them
    write_csv(folder / "metrics.csv", [*rows, *({**row, "epoch": 1, "step": row["step"] + 10} for row in rows)])
    assert read_run(folder).curve("val/AP") == [(0, 0.5), (1, 0.5)]
    assert read_run(folder).curve("train/pose/weight") == [(0, 0.25), (1, 0.25)]


def test_number_cut_in_half_is_not_believed(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", metric="val/loss")
    (folder / "summary.json").unlink()
    text = (folder / "metrics.csv").read_text()
    (folder / "metrics.csv").write_text(text + "2,39,,0.0")  # of 0.0512, say: the least loss, if it were believed
    run = read_run(folder)
    assert min(value for _, value in run.curve("val/loss")) == pytest.approx(0.4)
    assert "metrics.csv is cut off" in run.notes


BREAKAGES = {
    "config.yaml": b"model: {class_path: tasks.Po",
    "summary.json": b'{"monitor": "val/AP", "best": {"val',
    "metrics.csv": b"epoch,step,val/AP\n0,9,0.1\n1,\x00\xff\xfe19",
    "environment.json": b"[]",
    "predictions/val_keypoints.csv": b'name,pck\n"nose,0.1\n',
    "predictions/val_samples.csv": b"sample,score\n1,0.5\n2,",
}


@pytest.mark.parametrize("file", BREAKAGES)
def test_broken_file_is_a_note_and_the_rest_is_shown(file: str, tmp_path: Path) -> None:
    samples = {i: i / 10 for i in range(5)}
    whole, broken = (make_run(tmp_path / name, samples=samples) for name in ("whole", "broken"))
    (broken / file).write_bytes(BREAKAGES[file])
    comparison = compare([whole, broken])
    assert [row["run"].rsplit("/", 1)[1] for row in comparison.tables["runs"]] == ["whole", "broken"]
    assert comparison.tables["runs"][0]["note"] == ""
    assert file.rsplit("/", 1)[-1] in comparison.tables["runs"][1]["note"]
    assert comparison.to_html().count("broken")


def test_summary_of_an_earlier_version_had_one_best_value(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text()) | {"best": 0.61}
    (folder / "summary.json").write_text(json.dumps(summary))
    assert read_run(folder).best == {"val/AP": 0.61}


# Direction of a metric


def unfinished(folder: Path, metric: str, values: list[float], task: str = "mine.DepthTask") -> Path:
    """Run folder of a training that goes on, or was killed."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": {"class_path": task}, "trainer": {"max_epochs": 9}}))
    write_csv(folder / "metrics.csv", [{"epoch": i, "step": i, metric: value} for i, value in enumerate(values)])
    return folder


def keep_best(folder: Path, *monitors: tuple[str, str], name: str = "last.ckpt") -> None:
    """A checkpoint as Lightning writes it, of the callbacks that keep the best by these metrics."""
    (folder / "checkpoints").mkdir(exist_ok=True)
    callbacks = [ModelCheckpoint(monitor=metric, mode=mode) for metric, mode in monitors]
    callbacks += [ModelCheckpoint(), EarlyStopping("val/other", mode="min")]
    states = {callback.state_key: callback.state_dict() for callback in callbacks}
    weights = {"weight": torch.zeros(3)}
    torch.save({"epoch": 1, "state_dict": weights, "callbacks": states}, folder / "checkpoints" / name)


VALUES = [0.5, 0.2, 0.9, 0.4]


@pytest.mark.parametrize(("mode", "epoch", "best"), [("min", 1, 0.2), ("max", 2, 0.9)])
@pytest.mark.parametrize("said_by", ["checkpoint", "summary", "summary of all metrics", "user"])
def test_best_epoch_of_an_unfinished_run_follows_the_direction(said_by, mode, epoch, best, tmp_path: Path) -> None:
    folder = unfinished(tmp_path / "run", "val/RMSE", VALUES)
    modes: dict[str, str] = {}
    if said_by == "checkpoint":
        keep_best(folder, ("val/RMSE", mode))
    elif said_by == "user":
        modes = {"val/RMSE": mode}
    else:
        record = {"mode": mode} if said_by == "summary" else {"modes": {"val/RMSE": mode, "val/loss": "min"}}
        (folder / "summary.json").write_text(json.dumps({"monitor": "val/RMSE", "best": {}, **record}))
    for order in ([folder], [make_run(tmp_path / "other"), folder]):
        row = compare(order, "val/RMSE", modes).tables["runs"][-1]
        assert (row["epoch"], row["best"], row["last"]) == (epoch, best, 0.4)
        assert "--mode" not in row["note"]


def test_a_direction_that_nobody_recorded_is_asked_for_and_not_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = unfinished(tmp_path / "run", "val/RMSE", VALUES)
    (row,) = compare([folder]).tables["runs"]
    assert (row["metric"], row["best"]) == (None, None)
    assert "--metric val/RMSE" in row["note"]
    (row,) = compare([folder], "val/RMSE").tables["runs"]
    assert (row["metric"], row["best"], row["epoch"], row["last"]) == ("val/RMSE", None, None, 0.4)
    assert "--mode val/RMSE=min" in row["note"]
    comparison = main([str(folder), "--metric", "val/RMSE", "--mode", "val/RMSE=min"])
    assert comparison.tables["runs"][0]["best"] == 0.2
    assert comparison.titled["best"].note == "Less is better: val/RMSE."
    for words in (["--mode", "val/RMSE"], ["--mode", "val/RMSE=less"], ["--mode", "=min"], ["--mode", "val/RSME=min"]):
        monkeypatch.setattr(sys, "argv", ["compare", str(folder), *words])
        assert command.command() == 2
        assert "val/RMSE" in capsys.readouterr().err


def test_a_tasks_own_monitor_counts_less_than_what_the_run_was_told(tmp_path: Path) -> None:
    folder = unfinished(tmp_path / "run", "val/AP", VALUES, task="tasks.PoseTask")
    assert (read_run(folder).monitor, read_run(folder).best_epoch) == ("val/AP", 2)
    rows = [{"epoch": i, "step": i, "val/AP": value, "val/loss": value} for i, value in enumerate(VALUES)]
    write_csv(folder / "metrics.csv", rows)
    keep_best(folder, ("val/loss", "min"))
    assert (read_run(folder).monitor, read_run(folder).best_epoch) == ("val/loss", 1)
    (folder / "summary.json").write_text(json.dumps({"monitor": "val/AP", "best": {}}))
    assert (read_run(folder).monitor, read_run(folder).best_epoch) == ("val/AP", 2)


def test_a_direction_that_is_none_counts_as_not_recorded(tmp_path: Path) -> None:
    folder = unfinished(tmp_path / "run", "val/RMSE", VALUES)
    record = {"monitor": "val/RMSE", "mode": "less", "modes": {"val/RMSE": "least", "val/x": None}, "best": {}}
    (folder / "summary.json").write_text(json.dumps(record))
    (row,) = compare([folder]).tables["runs"]
    assert row["best"] is None
    assert "--mode val/RMSE=min" in row["note"]


def test_the_users_word_counts_more_than_the_record(tmp_path: Path) -> None:
    folder = unfinished(tmp_path / "run", "val/RMSE", VALUES)
    keep_best(folder, ("val/RMSE", "max"))
    assert compare([folder]).tables["runs"][0]["best"] == 0.9
    assert compare([folder], modes={"val/RMSE": "min"}).tables["runs"][0]["best"] == 0.2
    (folder / "summary.json").write_text(json.dumps({"monitor": "val/RMSE", "modes": {"val/RMSE": "max"}, "best": {}}))
    assert compare([folder], modes={"val/RMSE": "min"}).tables["runs"][0]["best"] == 0.2


def test_a_run_is_compared_by_what_its_checkpoint_was_chosen_by_though_another_metric_is_known(tmp_path: Path) -> None:
    folder = unfinished(tmp_path / "run", "val/RMSE", VALUES)
    rows = [{"epoch": i, "step": i, "val/RMSE": v, "val/loss": 1 + i} for i, v in enumerate(VALUES)]
    write_csv(folder / "metrics.csv", rows)
    keep_best(folder, ("val/RMSE", "min"), name="best.ckpt")
    run = read_run(folder)
    assert (run.monitor, run.best_epoch) == ("val/RMSE", 1)
    assert run.best == {"val/RMSE": 0.2, "val/loss": 2}


@pytest.mark.parametrize(
    ("monitors", "expected"),
    [
        ([("val/x y'z", "min")], None),
        ([("val/AP", "max")], ("val/AP", "max")),
        ([("val/a", "min"), ("val/b", "max")], None),
        ([], None),
    ],
)
def test_checkpoint_says_what_it_was_chosen_by_unless_it_is_not_clear(monitors, expected, tmp_path: Path) -> None:
    keep_best(tmp_path, *monitors)
    assert checkpoint_monitor(tmp_path) == expected


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no checkpoint", None])
def test_a_damaged_checkpoint_says_nothing(content: bytes | None, tmp_path: Path) -> None:
    assert checkpoint_monitor(tmp_path) is None
    keep_best(tmp_path, ("val/RMSE", "min"))
    last = tmp_path / "checkpoints" / "last.ckpt"
    (tmp_path / "checkpoints" / "best.ckpt").write_bytes(last.read_bytes()[:-9] if content is None else content)
    assert checkpoint_monitor(tmp_path) == ("val/RMSE", "min")


def test_checkpoint_of_a_training(tmp_path: Path) -> None:
    class Model(BoringModel):
        def validation_step(self, batch, batch_idx):
            self.log("val/RMSE", super().validation_step(batch, batch_idx)["x"])

    folder = tmp_path / "checkpoints"
    callbacks = [ModelCheckpoint(folder, "best", monitor="val/RMSE", mode="min"), ModelCheckpoint(folder, "last")]
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    limits = {"limit_train_batches": 1, "limit_val_batches": 1, "max_epochs": 1}
    lightning.Trainer(callbacks=callbacks, **limits, **options).fit(Model())
    assert {path.name for path in folder.iterdir()} == {"best.ckpt", "last.ckpt"}
    assert checkpoint_monitor(tmp_path) == ("val/RMSE", "min")


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Run of two epochs whose metric is best when small, and the same with two more epochs."""
    folder = tmp_path_factory.mktemp("toy")
    model = {"values": [0.25, 0.75, 0.5, 0.125], "best": "min"}
    first = Path(train(toy(folder, model, max_epochs=2)).default_root_dir)
    whole = Path(shutil.copytree(first, folder / "copy" / first.name))
    train(["--resume", str(whole), "--trainer.max_epochs", "4"])
    return first, whole


def test_run_of_a_task_of_ones_own_that_is_best_when_small(toy_run: tuple[Path, Path], tmp_path: Path) -> None:
    first, whole = toy_run
    comparison = compare([first, whole])
    rows = comparison.tables["runs"]
    assert [(row["metric"], row["best"], row["epoch"], row["last"]) for row in rows] == [
        ("val/figure", 0.25, 0, 0.75),
        ("val/figure", 0.125, 3, 0.125),
    ]
    assert "Less is better: val/loss, val/product, val/figure." in comparison.titled["best"].note
    assert "More is better: val/count." in comparison.titled["best"].note
    for folder, best in ((first, (0, 0.25)), (whole, (3, 0.125))):
        unfinished = Path(shutil.copytree(folder, tmp_path / f"{best[0]}" / "run"))
        (unfinished / "summary.json").unlink()
        (row,) = compare([unfinished]).tables["runs"]
        assert (row["metric"], (row["epoch"], row["best"])) == ("val/figure", best)


def test_curve_of_a_run_that_was_lengthened_has_no_evaluation_of_a_checkpoint(toy_run: tuple[Path, Path]) -> None:
    for folder, values in zip(toy_run, ([0.25, 0.75], [0.25, 0.75, 0.5, 0.125]), strict=True):
        assert read_run(folder).curve("val/figure") == list(enumerate(values))
        assert not any("checkpoint" in key for key in read_run(folder).last)


def test_monitors_and_directions_of_earlier_versions_are_those_of_the_tasks() -> None:
    import tasks

    ours = {name: task for name, task in tasks.subclasses(tasks.Task).items() if task.__module__.startswith("tasks.")}
    assert set(MONITORS) <= set(ours)
    for name, monitor in MONITORS.items():
        assert (ours[name].monitor, ours[name].mode) == (monitor, known_mode(monitor))


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        ("val/loss", "min"), ("train/heatmap", "min"), ("val/parts/cross_entropy", "min"), ("train/loss", "min"),
        ("val/AP75", "max"), ("val/parts/mIoU", "max"), ("test/top1", "max"), ("val/delta_m", "max"),
        ("val/RMSE", None), ("val/NME", None), ("val/error", None), ("val/mAP", None), ("val/lossless", None),
        ("val/my_loss", None), ("train/weight", None),
    ],
)  # fmt: skip
def test_direction_is_known_of_what_earlier_versions_measured_and_of_nothing_else(metric: str, mode: str) -> None:
    assert known_mode(metric) == mode


def test_page_says_which_way_each_metric_goes(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text())
    summary["best"] |= {"val/loss": 0.3, "val/RMSE": 3.0, "val/lag": 4.0, "val/odd": 1.0}
    (folder / "summary.json").write_text(json.dumps(summary | {"modes": {"val/RMSE": "min", "val/lag": "max"}}))
    note = compare([folder]).titled["best"].note
    assert "More is better: val/AP, val/lag." in note
    assert "Less is better: val/loss, val/RMSE." in note
    assert re.search(r"Not recorded.*--mode.*: val/odd\.", note)
    assert note in unescape(compare([folder]).to_html())


# Tables


def test_two_runs_differ_in_what_was_changed_and_in_nothing_else(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", lr=0.001), make_run(tmp_path / "b", lr=0.002, ap=0.65)
    tables = compare([a, b]).tables
    assert tables["config"] == [{"key": "model.optimizer.lr", "1": "0.001", "2": "0.002"}]
    assert tables["best"] == [{"metric": "val/AP", "1": 0.6, "2": 0.65}]
    assert rows_of(tables, "last", "metric")["train/loss"]["1"] == pytest.approx(1 / 3)
    nose = rows_of(tables, "val_keypoints pck", "name")["nose"]
    assert nose == {"name": "nose", "1": 0.6, "2 - 1": pytest.approx(0.05)}
    assert "val_keypoints labelled" not in tables
    row = tables["runs"][1]
    assert (row["time"], row["peak memory"], row["parameters"]) == (90.0, 3 * 2**29, 28_500_000)


def test_a_name_that_one_run_lacks_has_no_difference(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", ap=0.65)
    write_csv(b / "predictions" / "val_keypoints.csv", [{"name": "nose", "pck": 0.5}, {"name": "tail", "pck": 0.25}])
    table = rows_of(compare([a, b]).tables, "val_keypoints pck", "name")
    assert table["nose"]["2 - 1"] == pytest.approx(-0.1)
    assert (table["left_eye"]["1"], table["left_eye"]["2 - 1"]) == (pytest.approx(0.61), None)
    assert (table["tail"]["1"], table["tail"]["2 - 1"]) == (None, None)


def test_code_libraries_and_machine_are_compared(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    places = [
        {"git": {"revision": "a" * 40, "changed": []}, "libraries": {"torch": "2.8"}, "gpus": [], "cpus": 4},
        {
            "git": {"revision": "b" * 40, "changed": [" M x", "?? y"]},
            "libraries": {"torch": "2.9"},
            "gpus": [],
            "cpus": 4,
        },
    ]
    for folder, place in zip((a, b), places, strict=True):
        (folder / "environment.json").write_text(json.dumps(place))
    assert compare([a, b]).tables["config"] == [
        {"key": "git revision", "1": "a" * 10, "2": "b" * 10},
        {"key": "git changed files", "1": "0", "2": "2"},
        {"key": "torch version", "1": "2.8", "2": "2.9"},
    ]


def test_runs_that_differ_in_the_seed_alone_are_a_group(tmp_path: Path) -> None:
    values = [0.6, 0.61, 0.65]
    runs = [make_run(tmp_path / f"{i}", seed=i, ap=value) for i, value in enumerate(values)]
    runs += [make_run(tmp_path / f"other{i}", seed=i, lr=0.1, ap=0.5) for i in range(2)]
    runs += [make_run(tmp_path / "alone", variant="w48")]
    unfinished = make_run(tmp_path / "unfinished", seed=9)
    (unfinished / "summary.json").unlink()
    first, second = compare([*runs, unfinished]).tables["seeds"]
    assert (first["runs"], first["seeds"], first["n"]) == ("1, 2, 3", "0, 1, 2", 3)
    assert first["mean"] == pytest.approx(np.mean(values))
    assert first["deviation"] == pytest.approx(np.std(values, ddof=1))
    assert first["note"] == "1 unfinished left out"
    assert first["configuration"] == "model.backbone.variant: w32, model.optimizer.lr: 0.001"
    assert (second["n"], second["low"], second["high"]) == (2, None, None)
    assert "fewer than three" in second["note"]


def test_samples_are_joined_by_their_ids(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", samples={1: 0.1, 2: 0.2, 3: 0.3, 9: 1.0})
    b = make_run(tmp_path / "b", samples={3: 0.5, 1: 0.3, 2: 0.4, 7: 0.0})
    (row,) = compare([a, b]).tables["paired"]
    assert (row["samples"], row["split"], row["run"]) == (3, "val", 2)
    assert row["difference"] == pytest.approx(0.2)
    assert "2 samples in one run alone" in row["note"]


def test_ids_of_64_bits_are_not_mixed_up(tmp_path: Path) -> None:
    ids = [2**63 + i for i in range(5)]
    a = make_run(tmp_path / "a", samples={sample: 0.1 * i for i, sample in enumerate(ids)})
    b = make_run(tmp_path / "b", samples={sample: 0.2 * i for i, sample in enumerate(ids)})
    (row,) = compare([a, b]).tables["paired"]
    assert (row["samples"], row["mean of run 1"], row["mean"]) == (5, pytest.approx(0.2), pytest.approx(0.4))
    assert row["note"] == ""


def test_equal_ids_of_other_data_are_not_paired(tmp_path: Path) -> None:
    a, b = (make_run(tmp_path / name, samples={1: 0.1, 2: 0.2, 3: 0.3}) for name in "ab")
    (b / "config.yaml").write_text((b / "config.yaml").read_text().replace("root: sample", "root: data/coco"))
    assert "paired" not in compare([a, b]).tables


def test_runs_of_different_tasks_are_each_compared_by_what_they_monitor(tmp_path: Path) -> None:
    a = make_run(tmp_path / "pose")
    b = make_run(tmp_path / "seg", metric="val/mIoU", task="SegmentationTask", ap=0.7)
    comparison = compare([a, b])
    assert [(row["metric"], row["best"]) for row in comparison.tables["runs"]] == [("val/AP", 0.6), ("val/mIoU", 0.7)]
    assert comparison.curves == ["val/AP", "val/mIoU"]
    assert rows_of(comparison.tables, "best", "metric")["val/mIoU"]["1"] is None
    assert [row["best"] for row in compare([a, b], "val/AP").tables["runs"]] == [0.6, None]


def test_misspelled_metric_is_answered_with_the_nearest(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with pytest.raises(RunsError, match=r"'val/APP'; did you mean val/AP\? There are: train/loss, val/AP"):
        compare([run], "val/APP")
    with pytest.raises(RunsError, match="val/nothing"):
        compare([run]).plot("val/nothing")


# Runs without results, names


def test_runs_without_results_are_left_out_in_one_line_and_cost_no_test(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = np.random.default_rng(0).uniform(size=(2, 30))
    (tmp_path / "pose" / "20260101-120000-abcdef").mkdir(parents=True)  # empty
    failed = make_run(tmp_path / "pose" / "20260101-130000-abcdef")  # before its first step
    for file in ("metrics.csv", "summary.json", "predictions/val_keypoints.csv"):
        (failed / file).unlink()
    for name, row in zip(("a", "b"), scores, strict=True):
        make_run(tmp_path / "pose" / name, samples=dict(enumerate(row)))
    comparison = main([str(tmp_path)])
    said = capsys.readouterr().out
    (line,) = (line for line in said.splitlines() if line.startswith("Left out, without results: pose/2026"))
    assert "pose/20260101-120000-abcdef, pose/20260101-130000-abcdef." in line
    assert [(row["#"], row["run"]) for row in comparison.tables["runs"]] == [(1, "pose/a"), (2, "pose/b")]
    (row,) = comparison.tables["paired"]
    assert row["difference"] == pytest.approx((scores[1] - scores[0]).mean())
    assert comparison.titled["paired"].title == "Paired tests against run 1"
    for text in (comparison.to_html(), comparison.to_markdown()):
        assert all(name in text for name in ("pose/20260101-120000-abcdef", "pose/20260101-130000-abcdef"))
    with pytest.raises(RunsError, match=r"no results in pose/20260101-120000-abcdef, pose/20260101-130000-abcdef"):
        compare([failed.parent / "20260101-120000-abcdef", failed])


def test_run_that_only_trained_so_far_is_shown(tmp_path: Path) -> None:
    folder = unfinished(tmp_path / "run", "train/loss", [3.0, 2.0])
    (row,) = compare([folder]).tables["runs"]
    assert row["best"] is None
    assert rows_of(compare([folder]).tables, "last", "metric")["train/loss"]["1"] == 2.0


def test_tests_are_paired_against_the_first_run_that_can_be_paired(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).uniform(size=(3, 30))
    first = make_run(tmp_path / "first")  # without scores of samples
    other = make_run(tmp_path / "other", samples={1: 0.5, 2: 0.25})  # of other data
    (other / "config.yaml").write_text((other / "config.yaml").read_text().replace("root: sample", "root: data/coco"))
    runs = [make_run(tmp_path / str(i), samples=dict(enumerate(row))) for i, row in enumerate(scores)]
    comparison = compare([first, other, *runs])
    assert comparison.titled["paired"].title == "Paired tests against run 3"
    rows = comparison.tables["paired"]
    assert [row["run"] for row in rows] == [4, 5]
    assert [row["mean of run 3"] for row in rows] == pytest.approx([scores[0].mean()] * 2)
    assert [row["mean"] for row in rows] == pytest.approx([scores[1].mean(), scores[2].mean()])


def test_names_tags_and_roots_are_shown_where_there_are_any(tmp_path: Path) -> None:
    plain, named, joint = (make_run(tmp_path / "pose" / name) for name in ("plain", "named", "joint"))
    assert not {"name", "tags"} & set(compare([plain]).tables["runs"][0])
    config = yaml.safe_load((named / "config.yaml").read_text())
    config["wandb"] = {"name": "bees", "tags": ["summer", "32 points"]}
    (named / "config.yaml").write_text(yaml.safe_dump(config))
    (joint / "environment.json").write_text(json.dumps({"name": "two hives"}))
    parts = {
        "pose": {"class_path": "A", "init_args": {"root": "data/bees"}},
        "parts": {"init_args": {"root": "data/x"}},
    }
    config["data"] = {"class_path": "MultiTaskData", "init_args": {"parts": parts}}
    (joint / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    comparison = compare([plain, named, joint])
    rows = comparison.tables["runs"]
    assert [row["name"] for row in rows] == [None, "bees", "two hives"]
    assert [row["tags"] for row in rows] == [None, "summer, 32 points", "summer, 32 points"]
    assert [row["root"] for row in rows] == ["sample", "sample", "data/bees, data/x"]
    assert "bees" in comparison.to_csv().splitlines()[2]
    assert [row["key"] for row in compare([plain, named]).tables.get("config", [])] == []


def test_a_name_that_is_the_folders_is_not_repeated(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "bees" / "a")
    (folder / "environment.json").write_text(json.dumps({"name": "bees"}))
    (row,) = compare([folder]).tables["runs"]
    assert row["run"] == "bees/a"
    assert "name" not in row


# Statistics


def test_interval_over_seeds_is_that_of_all_resamples() -> None:
    values = [0.2, 0.5, 0.9, 0.4]
    means = [np.mean(resample) for resample in itertools.product(values, repeat=4)]  # all 256, equally likely
    found = spread(values)
    assert (found.mean, found.deviation) == (pytest.approx(0.5), pytest.approx(math.sqrt(0.26 / 3)))
    low, high = np.quantile(means, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.026)  # means are a quarter of 0.1 apart there
    assert found.high == pytest.approx(high, abs=0.026)


def test_bootstrap_interval_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(1).exponential(size=400)
    kept = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=2).confidence_interval
    assert bootstrap_interval(values, 20_000) == pytest.approx((kept.low, kept.high), abs=0.003)
    assert bootstrap_interval(values, 100) == bootstrap_interval(values, 100)


def test_one_and_two_values_have_no_interval() -> None:
    assert (spread([0.5]).deviation, spread([0.5]).low) == (None, None)
    assert spread([0.5, 0.7]).deviation == pytest.approx(math.sqrt(0.02))
    assert spread([0.5, 0.7]).low is None
    with pytest.raises(ValueError, match="at least one"):
        spread([])


def test_wilcoxon_is_the_sum_over_all_signs() -> None:
    difference = np.array([0.3, -0.1, 0.45, 0.25, 0.6, -0.2, 0.75])
    ranks = np.argsort(np.argsort(np.abs(difference))) + 1
    observed = abs((ranks * np.sign(difference)).sum())
    signs = itertools.product([-1, 1], repeat=len(ranks))
    expected = np.mean([abs((ranks * sign).sum()) >= observed for sign in signs])
    zero = dict.fromkeys(range(7), 0.0)
    found = paired_test(zero, dict(enumerate(difference)))
    assert found is not None
    assert found.p == pytest.approx(expected)
    assert found.low < found.difference < found.high


def test_equal_and_disjoint_runs() -> None:
    same = {i: 0.1 * i for i in range(5)}
    found = paired_test(same, same)
    assert found is not None
    assert (found.p, found.difference, found.low, found.high) == (1.0, 0.0, 0.0, 0.0)
    assert paired_test({1: 0.5}, {2: 0.5}) is None


def signed_rank(difference: np.ndarray) -> float:
    """Two-sided p of Wilcoxon's test by its normal approximation: zeros left out, ties share ranks (Pratt 1959)."""
    d = difference[difference != 0]
    size, counts = np.unique(np.abs(d), return_counts=True)
    rank = dict(zip(size, np.cumsum(counts) - (counts - 1) / 2, strict=True))
    plus = sum(rank[abs(x)] for x in d if x > 0)
    n = len(d)
    variance = n * (n + 1) * (2 * n + 1) / 24 - (counts**3 - counts).sum() / 48
    return math.erfc(abs(plus - n * (n + 1) / 4) / math.sqrt(2 * variance))


@pytest.mark.parametrize("zeros", [0, 3, 200])
def test_wilcoxon_leaves_out_samples_with_equal_scores(zeros: int) -> None:
    random = np.random.default_rng(zeros)
    difference = np.concatenate([random.integers(-8, 13, 60) / 16, np.zeros(zeros)])  # ties, and zeros among them
    random.shuffle(difference)
    found = paired_test(dict.fromkeys(range(len(difference)), 0.25), dict(enumerate(0.25 + difference)))
    assert found is not None
    assert found.p == pytest.approx(signed_rank(difference), rel=1e-6)
    assert found.n == len(difference)
    assert found.difference == pytest.approx(difference.mean())


def test_pairs_stay_pairs() -> None:
    random = np.random.default_rng(3)
    easy = random.uniform(0.2, 0.8, 400)  # how hard a sample is, for both runs
    change = random.normal(0.004, 0.05, 400)
    first = {int(i): easy[i] for i in random.permutation(400)}
    second = {int(i): easy[i] + change[i] for i in random.permutation(400)}
    found = paired_test(first, second)
    assert found is not None
    assert (found.first, found.second) == (pytest.approx(easy.mean()), pytest.approx((easy + change).mean()))
    assert found.p == pytest.approx(signed_rank(change), rel=1e-3)
    error = change.std(ddof=1) / math.sqrt(400)
    assert found.low == pytest.approx(change.mean() - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(change.mean() + 1.96 * error, abs=0.15 * error)
    back = paired_test(second, first)
    assert back is not None
    assert (back.difference, back.p) == (pytest.approx(-found.difference), pytest.approx(found.p))


def test_p_values_of_the_table_are_corrected_for_their_number(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    base = random.uniform(size=80)
    gains = (0.0, 0.1, 0.011, 0.03, 0.012)
    scores = [base + random.normal(gain, 0.1, 80) * (gain > 0) for gain in gains]
    runs = [make_run(tmp_path / str(i), samples=dict(enumerate(row))) for i, row in enumerate(scores)]
    rows = compare(runs).tables["paired"]
    raw = [signed_rank(row - base) for row in scores[1:]]
    assert [row["p"] for row in rows] == pytest.approx(raw, rel=1e-3)
    # Holm (1979): the k-th least of m is multiplied by m - k + 1; none may be below a lesser one's.
    expected = [
        max(min(1.0, sum(other >= p for other in raw) * p) for p in raw if p <= own) for own in raw
    ]  # fmt: skip
    assert [row["p (Holm)"] for row in rows] == pytest.approx(expected, rel=1e-3)
    assert len({row["p (Holm)"] / row["p"] for row in rows}) > 1
    assert [row["difference"] for row in rows] == pytest.approx([(row - base).mean() for row in scores[1:]])


def test_tests_on_two_splits_are_corrected_together(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    runs = [make_run(tmp_path / name, samples=dict(enumerate(random.uniform(size=60)))) for name in "ab"]
    for run in runs:
        scores = [{"sample": i, "score": score} for i, score in enumerate(random.uniform(size=60))]
        write_csv(run / "predictions" / "test_samples.csv", scores)
    rows = compare(runs).tables["paired"]
    assert [row["split"] for row in rows] == ["test", "val"]
    low, high = sorted(row["p"] for row in rows)
    assert sorted(row["p (Holm)"] for row in rows) == pytest.approx([min(1, 2 * low), max(min(1, 2 * low), high)])


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


# Files, terminal and page


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("time", 59.4, "59 s"), ("time", 90.0, "1.5 min"), ("time", 5400.0, "1.50 h"),
        ("peak memory", 3 * 2**29, "1.50 GiB"), ("parameters", 28_540_000, "28.54M"),
        ("multiply-adds", 7.5 * 2**30, "7.50 GFLOPs"),  # as the papers count them: 2^30
        ("p", 0.00009, "< 0.0001"), ("p (Holm)", 0.0021, "0.0021"), ("epochs", 12, "12"),
        ("best", 0.61234, "0.6123"), ("best", 0.0, "0.0000"), ("best", 0.000123456, "0.0001235"),
        ("best", 0.0073250369, "0.007325"), ("last", 12.612863, "12.61"), ("last", 9.99999974e-06, "1e-05"),
        ("last", 123456.7, "1.235e+05"),
        ("best", None, "n/a"), ("run", "pose/a", "pose/a"),
    ],
)  # fmt: skip
def test_a_value_is_shown_in_its_unit(column: str, value: Any, text: str) -> None:
    assert cell(column, value) == text


def test_differences_have_a_sign_and_numbers_stand_to_the_right(tmp_path: Path) -> None:
    samples = [{1: 0.5, 2: 0.25, 3: 0.5}, {1: 0.75, 2: 0.5, 3: 0.75}]
    runs = [make_run(tmp_path / f"run {i}", ap=0.5 + i / 4, samples=row) for i, row in enumerate(samples)]
    said = compare(runs).to_markdown()
    assert "| nose | 0.5000 | +0.2500 |" in said
    paired = next(part for part in said.split("\n\n") if part.startswith("| split"))
    head, alignment, row = ([text.strip() for text in line.strip("|").split("|")] for line in paired.splitlines())
    values = dict(zip(head, row, strict=True))
    assert (values["difference"], values["mean"], values["low"]) == ("+0.2500", "0.6667", "+0.2500")
    assert dict(zip(head, alignment, strict=True))["difference"] == "---:"
    assert dict(zip(head, alignment, strict=True))["split"] == "---"


def test_curves_are_called_by_the_numbers_of_the_runs(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a", metric="val/x"),
        make_run(tmp_path / "b", ap=0.7),
        make_run(tmp_path / "c", ap=0.8),
    ]
    comparison = compare(runs)
    figure = comparison.plot("val/AP")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["2", "3"]
    assert figure.axes[0].get_title(loc="left") == "val/AP"


def test_files_are_written_and_not_replaced_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(make_run(tmp_path / name, lr=lr)) for name, lr in (("a", 0.1), ("b|c", 0.2))]
    out = tmp_path / "out"
    main([*runs, "--out", str(out)])
    assert "model.optimizer.lr" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"comparison.html", "comparison.csv", "comparison.md"}
    with (out / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["config/model.optimizer.lr"] for row in rows] == ["0.1", "0.2"]
    assert [float(row["best/val/AP"]) for row in rows] == [0.6, 0.6]
    table = next(part for part in (out / "comparison.md").read_text().split("\n\n") if "b\\|c" in part)
    cells_of_lines = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
    assert len(cells_of_lines) == 1
    (out / "comparison.md").write_text("mine")
    with pytest.raises(RunsError, match="--overwrite"):
        main([*runs, "--markdown", str(out / "comparison.md")])
    assert (out / "comparison.md").read_text() == "mine"
    main([*runs, "--markdown", str(out / "comparison.md"), "--overwrite"])
    assert "b\\|c" in (out / "comparison.md").read_text()


def test_files_are_there_though_nobody_reads_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise SystemExit(1)  # what rich makes of a broken pipe

    monkeypatch.setattr("experiments.compare.commandline.print_tables", broken)
    with pytest.raises(SystemExit):
        main([str(make_run(tmp_path / "a")), "--out", str(tmp_path / "out")])
    assert (tmp_path / "out" / "comparison.html").is_file()


def test_a_file_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    run = str(make_run(tmp_path / "a"))
    with pytest.raises(RunsError, match="cannot be written"):
        main([run, "--csv", f"{run}/config.yaml/x.csv"])


def test_terminal_keeps_every_number_of_many_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(20):
        make_run(tmp_path / f"run{i:02}", seed=i, ap=0.5 + i / 1000)
    main([str(tmp_path)])
    said = capsys.readouterr().out
    assert all(f"{0.5 + i / 1000:.4f}" in said for i in range(20))
    assert max(map(len, said.splitlines())) <= 180


def test_twenty_runs_within_ten_seconds_and_without_torch(tmp_path: Path) -> None:
    samples = {i: (i * 37 % 100) / 100 for i in range(6000)}
    for i in range(20):
        make_run(tmp_path / "runs" / f"run{i:02}", seed=i, samples={k: v * (1 - i / 100) for k, v in samples.items()})
    script = (
        "import sys; from experiments.compare import main; main(sys.argv[1:]); "
        "sys.exit(3 * bool({'torch', 'lightning'} & set(sys.modules)))"
    )
    start = os.times().children_user
    words = [sys.executable, "-c", script, str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    done = subprocess.run(words, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert os.times().children_user - start < 10
    assert (tmp_path / "out" / "comparison.html").is_file()


def test_notebook_shows_tables_and_figure(tmp_path: Path) -> None:
    comparison = compare([make_run(tmp_path / "a"), make_run(tmp_path / "b", ap=0.7)])
    (axes,) = comparison.plot().axes
    assert [list(line.get_ydata()) for line in axes.lines] == [
        pytest.approx([0.4, 0.6, 0.5]),
        pytest.approx([0.5, 0.7, 0.6]),
    ]
    shown = comparison._repr_html_()
    assert shown.startswith("<div")
    assert "<body" not in shown
    assert "<svg" in shown


def without_library(page: str) -> str:
    """The page without plotly's script, which stands in it once."""
    from plotly.offline import get_plotlyjs

    assert page.count(get_plotlyjs()) == 1
    return page.replace(get_plotlyjs(), "")


def test_page_needs_nothing_else_and_escapes_what_it_is_given(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>"
    comparison = compare([make_run(tmp_path / "a"), make_run(tmp_path / "b", variant=bad, metric=f"val/{bad}")])
    page = without_library(comparison.to_html())
    for text in (page, comparison._repr_html_()):
        assert "alert(1)" in text
        assert bad not in text
        assert "<script>alert" not in text
        assert bad in unescape(text)
        assert not re.findall(r"(?:src|href|url\()\s*=?\s*[\"']?(?:https?:)?//", text)
    assert "currentColor" in comparison._repr_html_()


HOSTILE = "\x1b[31mred\x1b[0m [bold]not[/bold] $\\frac{1}$ <b>a</b> \u202eevil\x07"


def test_names_are_shown_as_text_and_obeyed_by_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = make_run(tmp_path / "a", metric=f"val/{HOSTILE}", samples={1: 0.5, 2: 0.25, 3: 0.125})
    second = make_run(tmp_path / "b", metric=f"val/{HOSTILE}", variant=HOSTILE, samples={1: 0.25, 2: 0.5, 3: 0.75})
    for folder in (first, second):
        table = [{"name": HOSTILE, HOSTILE: 0.25}, {"name": "nose", HOSTILE: 0.5}]
        write_csv(folder / "predictions" / "val_x\x1b[2J.csv", table)
        (folder / "environment.json").write_text(json.dumps({"name": f"{HOSTILE} {folder.name}", "tags": [HOSTILE]}))
    comparison = main([str(first), str(second), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    page = without_library(comparison.to_html())
    for text in (said, page, comparison.to_markdown(), comparison._repr_html_()):
        assert not {"\x1b", "\x07", "\u202e"} & set(text)
        assert "x1b" in text
        assert "<b>" not in text or text == said
    assert "[bold]" in said
    assert "[/bold]" in said
    with pytest.raises(RunsError) as caught:
        compare([first], "val/none")
    assert "\x1b" not in str(caught.value)


def test_a_name_that_is_no_utf8_is_written(tmp_path: Path) -> None:
    folder = make_run(tmp_path / os.fsdecode(b"h\xf8ne"))
    main([str(folder), "--out", str(tmp_path / "out")])
    assert "h\\udcf8ne" in (tmp_path / "out" / "comparison.csv").read_text()


# W&B


def test_a_record_of_wandb_is_answered_with_the_run_folder(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    record = folder / "wandb" / "offline-run-20260101_120000-abcdef"
    record.mkdir(parents=True)
    (record / "run-abcdef.wandb").write_bytes(b"W&B's own")
    for path in (record, record / "run-abcdef.wandb", folder / "wandb"):
        with pytest.raises(RunsError, match="name the run folder"):
            find_runs([path])
    assert find_runs([folder]) == find_runs([tmp_path]) == [folder]

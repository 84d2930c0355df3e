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

import numpy as np
import pytest
import yaml

from experiments import compare as command
from experiments.compare import compare, main
from experiments.compare_runs import MONITORED, RunsError, find_runs, flatten, lower_is_better, read_run
from experiments.compare_statistics import bootstrap_interval, holm, paired_test, spread

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


def test_empty_run_folder_is_shown(tmp_path: Path) -> None:
    make_run(tmp_path / "pose" / "whole")
    (tmp_path / "pose" / "20260101-120000-abcdef").mkdir()
    rows = compare([tmp_path]).tables["runs"]
    assert [row["best"] for row in rows] == [None, 0.6]
    assert "empty" in rows[0]["note"]


def test_summary_of_an_earlier_version_had_one_best_value(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text()) | {"best": 0.61}
    (folder / "summary.json").write_text(json.dumps(summary))
    assert read_run(folder).best == {"val/AP": 0.61}


def test_every_task_monitors_a_metric_known_here_and_its_direction_is_told_from_the_name() -> None:
    import tasks

    ours = [task for task in tasks.subclasses(tasks.Task).values() if task.__module__.startswith("tasks.")]
    for task in ours:  # other test files may have tasks of their own
        assert task.monitor in MONITORED
        assert lower_is_better(task.monitor) == (task.mode == "min")


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


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


# Files, terminal and page


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

    monkeypatch.setattr("experiments.compare.print_tables", broken)
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
    done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
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


def test_page_needs_nothing_else_and_escapes_what_it_is_given(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>"
    page = compare([make_run(tmp_path / "a"), make_run(tmp_path / "b", variant=bad, metric=f"val/{bad}")]).to_html()
    assert "<script" not in page
    assert bad in unescape(page)
    assert not re.findall(r"(?:src|href|url\()\s*=?\s*[\"']?(?:https?:)?//", page)
    assert "currentColor" in page


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
QUIET = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium or google-chrome on the PATH")
def test_page_opens_in_a_browser(tmp_path: Path) -> None:
    for i in range(3):
        make_run(tmp_path / "runs" / f"run{i}", seed=i, ap=0.6 + i / 100)
    main([str(tmp_path / "runs"), "--html", str(tmp_path / "page.html")])
    flags = [*QUIET.split(), "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"]
    words = [str(CHROMIUM), *flags, "--dump-dom", (tmp_path / "page.html").as_uri()]
    dom = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout
    rows = re.findall(r"<tr>.*?</tr>", dom, re.DOTALL)
    assert [any(f"run{i}" in row and f"{0.6 + i / 100:.4f}" in row for row in rows) for i in range(3)] == [True] * 3
    assert dom.count("<svg") == 2  # val/AP and train/loss


# W&B


@pytest.fixture
def wandb_folder(tmp_path: Path) -> Path:
    """Offline run as the runner's logger writes it."""
    wandb = pytest.importorskip("wandb")
    config = {
        "seed_everything": 3,
        "model": {"class_path": "tasks.PoseTask", "init_args": {"num_keypoints": 17}},
        "trainer": {"max_epochs": 2},
    }
    settings = wandb.Settings(mode="offline", silent=True, console="off")
    with wandb.init(
        dir=tmp_path, project="hrnet", name="20260101", group="pose_coco", config=config, settings=settings
    ) as run:
        for epoch, value in enumerate([0.3, 0.2, 0.3]):
            run.log({"epoch": epoch, "trainer/global_step": 10 * epoch + 9, "val/AP": value})
            points = [["nose", value + epoch / 10], ["tail", None]]
            run.log({"val/pose/keypoints": wandb.Table(["name", "pck"], data=points)})
        samples = [[7, 0.5], [9, math.nan], [8, 1.0]]
        run.log({"val/samples": wandb.Table(["sample", "score"], data=samples)})
        run.summary.update({"best/val/AP": 0.3, "best/epoch": 0, "epochs": 2, "parameters": 5, "multiply_adds": 7})
    return tmp_path


@pytest.mark.slow
def test_offline_record_of_wandb_is_a_run(wandb_folder: Path) -> None:
    (folder,) = find_runs([wandb_folder / "wandb"])
    assert folder.name.startswith("offline-run-")
    for path in (folder, wandb_folder):
        run = read_run(path)
        assert run.name == "pose_coco/20260101"
        assert run.config["model"] == "PoseTask"
        assert run.config["seed_everything"] == 3
        assert run.curve("val/AP") == [(0, 0.3), (1, 0.2)]
        assert (run.best, run.best_epoch) == ({"val/AP": 0.3}, 0)
        assert run.notes == ("from W&B's record alone",)
        assert run.last == {"val/AP": 0.2}  # and not the height of a table
        assert run.samples == {"val": {7: 0.5, 8: 1.0}}
    tables = compare([wandb_folder]).tables
    (row,) = tables["runs"]
    assert (row["metric"], row["best"], row["last"]) == ("val/AP", 0.3, 0.2)
    assert (row["epochs"], row["parameters"], row["multiply-adds"]) == (2, 5, 7)
    assert tables["val_pose_keypoints pck"] == [{"name": "nose", "1": 0.5}]  # as it was last


@pytest.mark.slow
def test_record_of_wandb_that_was_cut_off(wandb_folder: Path) -> None:
    (file,) = wandb_folder.glob("wandb/offline-run-*/*.wandb")
    file.write_bytes(file.read_bytes()[:-200])
    assert any("unfinished" in note for note in read_run(wandb_folder).notes)
    file.write_bytes(b"not a record")
    assert any("could not read" in note for note in read_run(wandb_folder).notes)

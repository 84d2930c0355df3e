"""What makes runs comparable, what their tables and curves show, and at which values a number changes its form."""

import json
import shutil
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import yaml

from experiments.compare import compare, main
from experiments.compare.html import draw_curves
from experiments.compare.modes import checkpoint_monitor
from experiments.compare.runs import Run, RunsError, find_runs, read_run
from experiments.compare.tables import Table, make_tables
from experiments.compare.text import cell, cells, readable, rounded
from tests.experiments.compare.test_compare import keep_best, make_run, rows_of, unfinished, write_csv

SCORES = {1: 0.1, 2: 0.2, 3: 0.3}


def change(folder: Path, key: str, value: Any) -> None:
    """Set a dotted key of a run's configuration."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    *path, last = key.split(".")
    place = config
    for part in path:
        place = place.setdefault(part, {})
    place[last] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


# ---- which runs belong together


@pytest.mark.parametrize(
    ("key", "value", "paired"),
    [
        ("data.class_path", "datamodules.MpiiPose", False),
        ("data.init_args.root", "data/coco", False),
        ("data.init_args.annotations", {"val": "other.json"}, False),
        ("data.init_args.images", {"val": "elsewhere"}, False),
        ("data.init_args.annotations", {"train": "fewer.json"}, True),
        ("data.init_args.image_size", [256, 192], True),
        ("data.init_args.batch_size", 7, True),
        ("model.class_path", "mine.Task", True),
    ],
)
def test_samples_are_the_same_where_the_data_are(key: str, value: Any, paired: bool, tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, samples=SCORES) for name in "ab"]
    change(runs[1], key, value)
    assert ("paired" in compare(runs).tables) == paired


@pytest.mark.parametrize(
    ("key", "value", "alike"),
    [
        ("seed_everything", 7, True),
        ("runs", "elsewhere", True),
        ("name", "bees", True),
        ("save_minutes", 3, True),
        ("debug", True, True),
        ("wandb.group", "hives", True),
        ("checkpoint", "runs/x", False),
        ("trainer.max_epochs", 4, False),
        ("data.init_args.root", "data/coco", False),
    ],
)
def test_runs_are_one_group_whatever_they_are_called(key: str, value: Any, alike: bool, tmp_path: Path) -> None:
    runs = [make_run(tmp_path / str(i), ap=0.5 + i / 10) for i in range(2)]
    change(runs[1], key, value)
    tables = compare(runs).tables
    assert ("seeds" in tables) == alike
    differs = [row["key"] for row in tables.get("config", [])]
    assert bool(differs) == (not alike or key == "seed_everything")


def test_a_group_has_two_finished_runs_with_the_metric(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / str(i), seed=i, ap=0.5 + i / 10) for i in range(3)]
    summary = json.loads((runs[1] / "summary.json").read_text())
    (runs[1] / "summary.json").write_text(json.dumps(summary | {"best": {}}))
    (row,) = compare(runs).tables["seeds"]
    assert (row["runs"], row["seeds"], row["n"], row["mean"]) == ("1, 3", "0, 2", 2, pytest.approx(0.6))
    assert row["note"] == "1 unfinished left out; no interval from fewer than three runs"
    (runs[2] / "summary.json").unlink()
    assert "seeds" not in compare(runs).tables


def test_a_key_that_one_run_has_alone_comes_after_those_of_all(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, variant=name) for name in ("w18", "w32")]
    change(runs[0], "data.init_args.a_first", None)
    rows = compare(runs).tables["config"]
    assert rows == [
        {"key": "model.backbone.variant", "1": "w18", "2": "w32"},
        {"key": "data.a_first", "1": "null", "2": "–"},
    ]


def test_tables_that_later_runs_have_begin_with_the_first_of_these(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / str(i), ap=0.5 + i / 10) for i in range(3)]
    (runs[0] / "predictions" / "val_keypoints.csv").unlink()
    write_csv(
        runs[1] / "predictions" / "val_keypoints.csv", [{"name": "nose", "pck": 0.25}, {"name": "ear", "pck": "nan"}]
    )
    table = compare(runs).titled["val_keypoints pck"]
    assert rows_of({"": table.rows}, "", "name")["nose"] == {"name": "nose", "2": 0.25, "3 - 2": pytest.approx(0.45)}
    assert "ear" not in rows_of({"": table.rows}, "", "name")
    assert table.note.startswith("Run 2, and what")


def test_tags_may_be_one_word_and_the_run_says_more_than_its_configuration(tmp_path: Path) -> None:
    assert Run(tmp_path, "a", config={"wandb.tags": "summer"}).tags == ["summer"]
    both = {"config": {"wandb.tags": ["a"], "wandb.name": "x"}, "environment": {"tags": ["b"], "name": "y"}}
    assert (Run(tmp_path, "a", **both).tags, Run(tmp_path, "a", **both).given_name) == (["b"], "y")
    assert Run(tmp_path, "a").tags == []


def test_links_within_a_folder_are_not_followed(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "runs" / "a")
    (tmp_path / "runs" / "latest").symlink_to(folder)
    assert find_runs([tmp_path / "runs"]) == [folder]
    assert find_runs([tmp_path / "runs" / "latest"]) == [tmp_path / "runs" / "latest"]
    assert find_runs([folder, tmp_path / "runs" / "latest"]) == [folder]


def test_the_best_checkpoint_says_more_than_the_last(tmp_path: Path) -> None:
    keep_best(tmp_path, ("val/a", "min"), name="best.ckpt")
    keep_best(tmp_path, ("val/b", "max"))
    assert checkpoint_monitor(tmp_path) == ("val/a", "min")


def test_of_equal_epochs_the_first_is_the_best(tmp_path: Path) -> None:
    folder = unfinished(tmp_path / "run", "val/x", [0.3, 0.5, 0.5, 0.3])
    assert [read_run(folder, "val/x", {"val/x": mode}).best_epoch for mode in ("max", "min")] == [1, 0]


# ---- curves


def test_losses_are_drawn_where_all_runs_are_of_one_task(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name) for name in "ab"]
    assert compare(runs).curves == ["val/AP", "train/loss", "val/loss"]
    change(runs[1], "model.class_path", "tasks.LandmarkTask")
    assert compare(runs).curves == ["val/AP"]


def test_a_curve_of_one_or_two_epochs_is_seen_and_many_runs_are_told_apart(tmp_path: Path) -> None:
    lengths = [1, 2, 3, *[4] * 9]
    folders = [unfinished(tmp_path / f"{i:02}", "val/x", [0.1 * k for k in range(n)]) for i, n in enumerate(lengths)]
    runs = [read_run(folder) for folder in folders]
    lines = draw_curves([Run(tmp_path, "none"), *runs], "val/x").axes[0].lines
    assert [line.get_marker() for line in lines[:3]] == ["o", "o", ""]
    assert [line.get_label() for line in lines] == [str(i) for i in range(2, 14)]
    assert [line.get_linestyle() for line in lines] == ["-"] * 9 + ["--"] * 3
    looks = {(line.get_linestyle(), matplotlib.colors.to_hex(line.get_color())) for line in lines}
    assert len(looks) == 12
    assert list(lines[2].get_xdata()) == [0, 1, 2]


# ---- texts


@pytest.mark.parametrize(
    ("column", "value", "signed", "text"),
    [
        ("time", 59.9, False, "60 s"), ("time", 60.0, False, "1.0 min"), ("time", 3599.0, False, "60.0 min"),
        ("time", 3600.0, False, "1.00 h"), ("p", 1e-4, False, "0.0001"), ("p (Holm)", 9.9e-5, False, "< 0.0001"),
        ("best", 0.1, False, "0.1000"), ("best", 0.0999, False, "0.0999"), ("best", 9.9999, False, "9.9999"),
        ("best", 10.0, False, "10"), ("best", 1e4, False, "1e+04"), ("best", -0.5, False, "-0.5000"),
        ("best", -1e4, False, "-1e+04"),
        ("2 - 1", 0.5, True, "+0.5000"), ("2 - 1", -0.5, True, "-0.5000"), ("2 - 1", 3, True, "3"),
        ("difference", None, True, "n/a"),
    ],
)  # fmt: skip
def test_numbers_change_their_form_where_they_should(column: str, value: Any, signed: bool, text: str) -> None:
    assert cell(column, value, signed) == text


@pytest.mark.parametrize(
    ("head", "runs", "rows", "turned"),
    [
        ("metric", 8, 1, True),
        ("metric", 7, 1, False),  # eight columns can be read
        ("key", 9, 8, True),
        ("name", 9, 9, False),  # as high as wide
        ("split", 20, 1, False),
    ],
)
def test_a_table_that_is_wider_than_high_is_turned(head: str, runs: int, rows: int, turned: bool) -> None:
    table = Table(
        "t", [{head: f"m{i}", **{str(k): i + k / 10 for k in range(1, runs + 1)}} for i in range(rows)], "note"
    )
    found = readable(table)
    assert (found is not table) == turned
    if turned:
        assert (found.title, found.note) == ("t", "note")
        assert found.rows[1] == {"run": "2"} | {f"m{i}": i + 0.2 for i in range(rows)}
        assert len(found.rows) == runs


def test_differences_alone_are_signed() -> None:
    heads, texts = cells(Table("t", [{"name": "nose", "1": 0.5, "2 - 1": 0.25}]))
    assert (heads, texts) == (["name", "1", "2 - 1"], [["nose", "0.5000", "+0.2500"]])
    assert cells(Table("t", [{"run": "2 - 1", "nose": 0.25}]))[1] == [["2 - 1", "+0.2500"]]  # turned
    assert cells(Table("t", [{"low": 0.5, "high": 0.75}]))[1] == [["0.5000", "0.7500"]]
    assert cells(Table("t", [{"low": 0.5, "difference": 0.75, "p": 0.5}]))[1] == [["+0.5000", "+0.7500", "0.5000"]]


def test_what_has_no_rows_is_no_table_and_names_of_what_was_left_out_are_said(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "a"))
    tables = make_tables([run], ["val/AP"], ["b", "c"])
    assert not {"config", "seeds", "paired"} & set(tables)
    assert tables["runs"].note.startswith("Left out, without results: b, c. Best is")
    assert make_tables([run], ["val/AP"])["runs"].note.startswith("Best is")


def test_a_folder_is_no_file_to_write(tmp_path: Path) -> None:
    run = str(make_run(tmp_path / "a"))
    with pytest.raises(RunsError, match="is a folder; name a file, or the folder by --out"):
        main([run, "--html", str(tmp_path)])
    before = shutil.copytree(tmp_path / "a", tmp_path / "copy")
    main([run, "--csv", str(tmp_path / "new" / "x.csv")])
    assert (tmp_path / "new" / "x.csv").is_file()
    assert {path.name for path in before.iterdir()} == {path.name for path in (tmp_path / "a").iterdir()}


def test_settings_have_as_many_digits_as_tell_them_apart() -> None:
    rows = [
        {"key": "lr", "1": "0.0001438449888287663", "2": "0.01", "3": "–"},
        {"key": "decay", "1": "0.12345678901", "2": "0.12345698901", "3": "1.43844988828e-05"},
        {"key": "version", "1": "2.14.1", "2": "1234567e12", "3": "[0.123456789]"},
    ]
    _, texts = cells(rounded(Table("What differs", rows)))
    assert texts == [
        ["lr", "0.0001438", "0.01", "–"],
        ["decay", "0.1234568", "0.123457", "1.43845e-05"],
        ["version", "2.14.1", "1234567e12", "[0.123456789]"],
    ]
    assert rows[0]["1"] == "0.0001438449888287663"  # as it stays in CSV


def test_values_of_one_metric_have_as_many_digits_after_the_point() -> None:
    rows = [
        {"metric": "val/mIoU", "1": 0.0154218, "2": 0.0020851, "3": None},
        {"metric": "val/AP", "1": 0.7, "2": 0.003, "3": 1.0},
        {"metric": "val/loss", "1": 12.613, "2": 0.5, "3": 3},
    ]
    _, texts = cells(rounded(Table("Metrics", rows)))
    assert [row[1:] for row in texts] == [
        ["0.01542", "0.00209", "n/a"],
        ["0.7000", "0.0030", "1.0000"],
        ["12.61", "0.5000", "3"],
    ]


def test_arguments_of_another_class_do_not_differ_besides_the_class(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name) for name in "abcd"]
    for run, codec, blur in ((0, "MSRACodec", 2.0), (1, "DarkCodec", 3.0), (2, "DarkCodec", 3.0)):
        change(runs[run], "model.init_args.codec", {"class_path": f"tasks.{codec}", "init_args": {"sigma": 2}})
        change(runs[run], f"model.init_args.codec.init_args.{('sharp', 'blur', 'blur')[run]}", blur)
    change(runs[3], "model.init_args.codec", {"class_path": "tasks.DarkCodec", "init_args": {"sigma": 2}})
    rows = compare(runs).tables["config"]
    codec = {"key": "model.codec", "1": "MSRACodec", "2": "DarkCodec", "3": "DarkCodec", "4": "DarkCodec"}
    # `sharp` is of run 1's class alone; `blur` run 4 could have and has not.
    assert rows == [codec, {"key": "model.codec.blur", "1": "–", "2": "3", "3": "3", "4": "–"}]

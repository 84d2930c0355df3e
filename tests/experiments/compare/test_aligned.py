"""Joint runs beside runs of one task."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.compare import compare
from tests.experiments.compare.test_compare import make_run, rows_of, write_csv

RUNS = Path(__file__).parents[2] / "golden" / "runs"
SHARED = {"schedule": None, "freeze_backbone": False}


def single(folder: Path, species: str, ap: float, **arguments: Any) -> Path:
    """A run of poses of one species."""
    made = make_run(folder, ap=ap, samples={i: ap - 0.01 * (i % 5) for i in range(20)})
    config = yaml.safe_load((made / "config.yaml").read_text())
    config["model"]["init_args"] |= {"num_keypoints": 3, "sigma": 2.0} | SHARED | arguments
    config["data"]["init_args"] |= {"root": f"data/{species}", "batch_size": 8}
    (made / "config.yaml").write_text(yaml.safe_dump(config))
    return made


def joint(folder: Path, **aps: float) -> Path:
    """A run of poses of several species at once."""
    made = make_run(folder, metric="val/score", ap=0.5, task="MultiTask")
    config = yaml.safe_load((made / "config.yaml").read_text())
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    pose = {
        "class_path": "tasks.PoseTask",
        "init_args": {"num_keypoints": 3, "sigma": 2.0, "optimizer": None, **SHARED},
    }
    model |= {"tasks": {name: pose for name in aps}, "balancing": "fixed", **SHARED}
    parts = {
        name: {"class_path": "datamodules.CocoPose", "init_args": data | {"root": f"data/{name}", "batch_size": 64}}
        for name in aps
    }
    arguments = {"data": parts, "policy": "all", "root": None, "image_size": None, "batch_size": 8}
    config["data"] = {"class_path": "datamodules.MultiTaskDataModule", "init_args": arguments}
    (made / "config.yaml").write_text(yaml.safe_dump(config))
    summary = json.loads((made / "summary.json").read_text())
    summary["best"] |= {f"val/{name}/AP": ap for name, ap in aps.items()}
    (made / "summary.json").write_text(json.dumps(summary))
    shutil.rmtree(made / "predictions")
    for name, ap in aps.items():
        rows = [{"sample": i, "score": ap - 0.01 * (i % 5)} for i in range(20)]
        write_csv(made / "predictions" / f"val_{name}_samples.csv", rows)
        write_csv(made / "predictions" / f"val_{name}_keypoints.csv", [{"name": "nose", "pck": ap}])
    return made


def test_metrics_of_a_part_stand_beside_those_of_its_own_run(tmp_path: Path) -> None:
    runs = [single(tmp_path / "m", "mouse", 0.6), single(tmp_path / "b", "bee", 0.7)]
    comparison = compare([*runs, joint(tmp_path / "j", mouse=0.65, bee=0.72)])
    best = rows_of(comparison.tables, "best", "metric")
    assert best["val/mouse/AP"] == {"metric": "val/mouse/AP", "1": 0.6, "2": None, "3": 0.65}
    assert best["val/bee/AP"] == {"metric": "val/bee/AP", "1": None, "2": 0.7, "3": 0.72}
    assert "val/AP" not in best
    assert [(row["task"], row["metric"]) for row in comparison.tables["runs"]] == [
        ("PoseTask", "val/mouse/AP"), ("PoseTask", "val/bee/AP"), ("MultiTask", "val/score"),
    ]  # fmt: skip
    nose = rows_of(comparison.tables, "val_mouse_keypoints pck", "name")["nose"]
    assert nose["3 - 1"] == pytest.approx(0.05)
    (pair,) = comparison.tables["paired"]
    assert (pair["split"], pair["run"], pair["difference"]) == ("val_mouse", 3, pytest.approx(0.05))


def test_only_what_differs_for_a_reason_is_shown(tmp_path: Path) -> None:
    runs = [
        single(tmp_path / "m", "mouse", 0.6),
        single(tmp_path / "b", "bee", 0.7),
        joint(tmp_path / "j", mouse=1, bee=1),
    ]
    assert compare(runs).tables["config"] == [{"key": "tasks", "1": "mouse", "2": "bee", "3": "bee, mouse"}]
    runs[0] = single(tmp_path / "n", "mouse", 0.6, sigma=3.0)
    rows = compare(runs).tables["config"]
    assert rows[1:] == [{"key": "model.tasks.mouse.sigma", "1": "3", "2": "–", "3": "2"}]


def test_a_metric_may_be_named_as_runs_of_one_task_have_it(tmp_path: Path) -> None:
    runs = [single(tmp_path / "m", "mouse", 0.6), joint(tmp_path / "j", mouse=0.65)]
    rows = compare(runs, "val/AP").tables["runs"]
    assert [(row["metric"], row["best"]) for row in rows] == [("val/mouse/AP", 0.6), ("val/mouse/AP", 0.65)]


def test_other_data_and_unclear_parts_stay_apart(tmp_path: Path) -> None:
    other = single(tmp_path / "o", "rat", 0.6)
    tables = compare([other, joint(tmp_path / "j", mouse=0.65, bee=0.7)]).tables
    assert "val/AP" in rows_of(tables, "best", "metric")
    assert "paired" not in tables
    twins = joint(tmp_path / "t", mouse=0.65, bee=0.7)
    text = (twins / "config.yaml").read_text().replace("data/bee", "data/mouse")
    (twins / "config.yaml").write_text(text)
    assert "val/AP" in rows_of(compare([single(tmp_path / "m", "mouse", 0.6), twins]).tables, "best", "metric")


def test_a_joint_run_that_was_written_earlier_is_aligned() -> None:
    comparison = compare([RUNS / "pose", RUNS / "joint"])
    best = rows_of(comparison.tables, "best", "metric")
    assert {"val/pose/AP", "val/parts/mIoU"} <= set(best)
    assert best["val/pose/AP"]["1"] is not None
    assert best["val/pose/AP"]["2"] is not None
    keys = [row["key"] for row in comparison.tables["config"]]
    assert keys[0] == "tasks"
    assert not [key for key in keys if key in ("model", "data", "model.balancing", "model.optimizer")]

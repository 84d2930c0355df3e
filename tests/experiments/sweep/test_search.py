"""What a search space may be, how many trials there are, what is reported to Optuna, and what stands in the files."""

import csv
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

optuna = pytest.importorskip("optuna")

from experiments.config import ConfigError  # noqa: E402
from experiments.sweep import commandline as sweep  # noqa: E402
from experiments.sweep.space import check, constants, read_sweep, suggest  # noqa: E402
from tasks import PoseTask  # noqa: E402
from tests.experiments.sweep.test_sweep import BATCH, LR, RANGE, SPACE, FakeRunner, search  # noqa: E402


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without reading the experiment's files, which takes a second."""
    monkeypatch.setattr(sweep, "_task_of", lambda files, flags: (PoseTask, {}))


# ---- the space


@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        (3, "should be a mapping"),
        (None, "should be a mapping"),
        ({"values": []}, r"values of x should be a list, not \[\]"),
        ({"values": 3}, "values of x should be a list, not 3"),
        ({}, "neither value, nor values, nor min and max"),
        ({"min": 1}, "neither value, nor values, nor min and max"),
        ({"min": 1, "max": True}, "max of x should be a number, not True"),
        ({"min": "1", "max": 2}, "min of x should be a number"),
        ({"min": 2, "max": 1.5}, "runs from 2 to 1.5; expected a rising range"),
        (
            {"min": 0, "max": 1, "distribution": "log_uniform_values"},
            "from 0 to 1; expected a rising range, above zero",
        ),
        ({"min": 1, "max": 2, "distribution": "q_uniform"}, "takes uniform and log_uniform_values"),
    ],
)
def test_what_is_no_space_is_refused(parameter: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=f"here: .*{words}"):
        check({"good": {"values": [1]}, "x": parameter}, "here")


@pytest.mark.parametrize(
    "parameter",
    [
        {"value": None}, {"values": [None]}, {"min": 1, "max": 1}, {"min": -1, "max": 0.5, "distribution": "uniform"},
        {"min": 1e-9, "max": 1, "distribution": "log_uniform_values"},
    ],
)  # fmt: skip
def test_what_is_a_space_is_taken(parameter: dict[str, Any]) -> None:
    check({"x": parameter}, "here")
    flags = suggest(optuna.create_study().ask(), {"x": parameter})
    assert len(flags) + len(constants({"x": parameter})) == 1


def test_numbers_are_whole_where_both_bounds_are_and_the_range_is_even() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space = {
        "whole": {"min": 1, "max": 3},
        "even": {"min": 1, "max": 3.0},
        "log": {"min": 1, "max": 3, "distribution": "log_uniform_values"},
        "point": {"min": 4, "max": 4},
    }
    rows = [dict(flag[2:].split("=") for flag in suggest(study.ask(), space)) for _ in range(30)]
    kinds = {key: {type(yaml.safe_load(row[key])) for row in rows} for key in space}
    assert kinds == {"whole": {int}, "even": {float}, "log": {float}, "point": {int}}
    assert {row["whole"] for row in rows} == {"1", "2", "3"}
    assert {row["point"] for row in rows} == {"4"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"method": "bayes"}, "with a section `parameters`"),
        ([1], "with a section `parameters`"),
        ({"parameters": {}, "run_caps": 3}, "no key 'run_caps'; did you mean run_cap"),
        (
            {"parameters": {}, "method": "hyperband"},
            "method should be one of bayes, tpe, random, grid, not 'hyperband'",
        ),
        ({"parameters": {}, "metric": {"name": "x", "goal": "max"}}, "is maximize or minimize, not 'max'"),
        ({"parameters": {"x": {"values": []}}}, "values of x"),
    ],
)
def test_a_file_that_is_no_sweep_is_refused(content: Any, words: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=rf"mine\.yaml.*{words}"):
        read_sweep(str(tmp_path / "mine.yaml"))


def test_what_a_sweep_file_says_and_what_it_leaves_open(tmp_path: Path) -> None:
    agent = {"program": "x.py", "command": ["y"], "name": "n", "description": "d", "project": "p", "entity": "e"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"parameters": {"x": {"value": 1}}, **agent}))
    found = read_sweep(str(tmp_path / "mine.yaml"))
    assert found == {
        "parameters": {"x": {"value": 1}}, "method": "tpe", "metric": None, "goal": None, "trials": None,
        "early_terminate": None,
    }  # fmt: skip


def test_a_space_without_a_value_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"{LR} should be a mapping .*: None"):
        search(monkeypatch, FakeRunner(), f"--search.{LR}", "--runs", str(tmp_path))


# ---- how many, where, in which group


@pytest.mark.parametrize(
    ("words", "tried"), [([RANGE, "--method", "random"], 20), ([*SPACE, "--method", "grid", "--trials", "50"], 6)]
)
def test_so_many_trials_are_tried(
    words: list[str], tried: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runner = FakeRunner()
    study = search(monkeypatch, runner, *words, "--runs", str(tmp_path))
    assert len(runner.tried) == len(study.trials) == tried
    search(monkeypatch, runner, *words, "--runs", str(tmp_path))
    assert len(runner.tried) == tried  # as many in all


def given_to(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    """What the runner gets for the first trial."""
    seen: list[list[str]] = []

    def look(arguments: Any, callbacks: Any) -> SimpleNamespace:
        seen.append(list(arguments))
        callbacks[0].trial.set_user_attr("run", "somewhere")
        return SimpleNamespace(callback_metrics={"val/AP": torch.tensor(0.5)})

    search(monkeypatch, look, f"--search.{LR}=[0.1]", *words, "--trials", "1")
    return seen[0]


def test_trials_are_one_group_unless_another_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = given_to(monkeypatch, "--runs", str(tmp_path))
    assert found[-2:] == ["--wandb.group", "pose_coco-search"]
    assert found[found.index("--runs") + 1] == str(tmp_path / "sweeps" / "pose_coco-search")
    assert f"--{LR}=0.1" in found
    named = given_to(monkeypatch, "--folder", str(tmp_path / "mine"), "--wandb.group=bees")
    assert "--wandb.group" not in named
    assert named[named.index("--runs") + 1] == str(tmp_path / "mine")
    assert (tmp_path / "mine" / "study.db").is_file()
    stored = f"sqlite:///{tmp_path / 'far.db'}"
    given_to(monkeypatch, "--folder", str(tmp_path / "near"), "--storage", stored)
    assert (tmp_path / "far.db").is_file()
    assert not (tmp_path / "near" / "study.db").exists()


# ---- reports


def trainer(value: float | None, **changes: Any) -> SimpleNamespace:
    metrics = {} if value is None else {"val/AP": torch.tensor(value)}
    usual = {"sanity_checking": False, "state": SimpleNamespace(fn="fit"), "callback_metrics": metrics}
    return SimpleNamespace(**usual | changes)


def test_validations_of_the_training_are_reported_in_order(tmp_path: Path) -> None:
    trial = optuna.create_study(direction="maximize", pruner=optuna.pruners.NopPruner()).ask()
    report = sweep.ReportTrial(trial, "val/AP", tmp_path)
    for one in (
        trainer(0.9, sanity_checking=True),
        trainer(0.5),
        trainer(None),
        trainer(math.nan),
        trainer(math.inf),
        trainer(0.9, state=SimpleNamespace(fn="validate")),  # of the best checkpoint
        trainer(0.25),
    ):
        report.on_validation_end(one, None)
    assert trial.study.trials[0].intermediate_values == {1: 0.5, 2: 0.25}


def test_a_trial_of_several_processes_is_refused(tmp_path: Path) -> None:
    trial = optuna.create_study().ask()
    run = SimpleNamespace(world_size=2, default_root_dir=tmp_path / "pose_coco" / "a")
    with pytest.raises(ConfigError, match=r"this one in 2: add --trainer\.devices 1"):
        sweep.ReportTrial(trial, "val/AP", tmp_path).setup(run, None, "fit")
    run.world_size = 1
    sweep.ReportTrial(trial, "val/AP", tmp_path).setup(run, None, "fit")
    assert trial.user_attrs == {"run": "pose_coco/a"}


def test_trials_stand_in_the_table_best_first_and_those_that_failed_last(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    values = iter([0.5, math.inf, 0.75, math.nan, 0.25])

    def measure(arguments: Any, callbacks: Any) -> SimpleNamespace:
        callbacks[0].trial.set_user_attr("run", f"pose_coco/{callbacks[0].trial.number}")
        return SimpleNamespace(callback_metrics={"val/AP": torch.tensor(next(values))})

    space = f"--search.{BATCH}=[1, 2, 3, 4, 5]"
    study = search(monkeypatch, measure, space, "--method", "grid", "--runs", str(tmp_path))
    folder = tmp_path / "sweeps" / "pose_coco-search"
    with (folder / "trials.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["trial"], row["state"]) for row in rows] == [
        ("2", "complete"), ("0", "complete"), ("4", "complete"), ("1", "fail"), ("3", "fail")
    ]  # fmt: skip
    assert [row["run"] for row in rows] == [f"pose_coco/{row['trial']}" for row in rows]
    assert [row["error"] for row in rows] == ["", "", "", "val/AP is inf", "val/AP is nan"]
    assert [row[BATCH] for row in rows] == [study.trials[int(row["trial"])].params[BATCH] for row in rows]
    said = capsys.readouterr().out
    assert f"best: trial 2, val/AP 0.7500; run folder: {folder / 'pose_coco' / '2'}" in said
    assert "importance" not in said  # of three trials nothing can be told


@pytest.mark.parametrize(("count", "equal", "told"), [(7, False, False), (8, False, True), (8, True, False)])
def test_what_mattered_is_told_of_enough_trials_that_differ(
    count: int, equal: bool, told: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def measure(arguments: Any, callbacks: Any) -> SimpleNamespace:
        callbacks[0].trial.set_user_attr("run", "somewhere")
        value = 0.5 if equal else callbacks[0].trial.number / 10
        return SimpleNamespace(callback_metrics={"val/AP": torch.tensor(value)})

    search(monkeypatch, measure, RANGE, "--method", "random", "--trials", str(count), "--runs", str(tmp_path))
    assert ("importance: " in capsys.readouterr().out) == told


def test_a_search_ends_when_other_machines_have_done_the_rest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tried: list[int] = []

    def measure(arguments: Any, callbacks: Any) -> SimpleNamespace:
        trial = callbacks[0].trial
        tried.append(trial.number)
        for value in (0.1, 0.2):  # of two others meanwhile
            space = {"params": trial.params, "distributions": trial.distributions}
            trial.study.add_trial(optuna.trial.create_trial(value=value, user_attrs={"run": "there"}, **space))
        trial.set_user_attr("run", "here")
        return SimpleNamespace(callback_metrics={"val/AP": torch.tensor(0.3)})

    study = search(monkeypatch, measure, RANGE, "--method", "random", "--trials", "5", "--runs", str(tmp_path))
    assert len(tried) == 2
    assert len(study.trials) == 6

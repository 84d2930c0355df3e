"""A search reads W&B's sweep files, tries each point once, survives failures, and goes on where it was stopped."""

import csv
import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

optuna = pytest.importorskip("optuna")

from experiments import run  # noqa: E402
from experiments.cli.mistakes import Stopped  # noqa: E402
from experiments.config import ConfigError, find, make_parser, parse  # noqa: E402
from experiments.sweep import commandline as sweep  # noqa: E402
from experiments.sweep.space import flag_text  # noqa: E402
from tasks import ClassificationTask, PoseTask  # noqa: E402
from tests.conftest import ROOT  # noqa: E402

FILES = ["pose_coco.yaml", "sample.yaml", "debug.yaml"]
LR = "model.init_args.optimizer.lr"
BATCH = "data.init_args.batch_size"
SPACE = [f"--search.{LR}", "[1.0e-3, 4.0e-3]", f"--search.{BATCH}", "[4, 8, 16]"]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)  # the sample data are rendered once, into data/sample


class FakeRunner:
    """In place of training: AP is best for a learning rate of 0.003, and what is asked for goes wrong."""

    def __init__(self, errors: dict[int, BaseException] | None = None) -> None:
        self.errors = errors or {}
        self.tried: list[tuple[str, ...]] = []

    def __call__(self, arguments, callbacks):
        (callback,) = callbacks
        folder = Path(arguments[arguments.index("--runs") + 1]) / "pose_coco" / str(len(self.tried))
        trainer = SimpleNamespace(world_size=1, default_root_dir=folder)
        callback.setup(trainer, None, "fit")
        flags = dict(word.removeprefix("--").split("=") for word in arguments if "=" in word)
        self.tried.append(tuple(flags.values()))
        if error := self.errors.get(len(self.tried) - 1):
            raise error
        lr = float(flags[LR])
        trainer.callback_metrics = {"val/AP": torch.tensor(1.0 - (torch.tensor(lr).log10().item() + 2.5) ** 2)}
        return trainer


def search(monkeypatch, runner, *arguments):
    monkeypatch.setattr(run, "main", runner)
    monkeypatch.setattr(sweep, "gc", SimpleNamespace(collect=lambda: 0))  # takes a second, and nothing was trained
    return sweep.main([*FILES, *arguments])


@pytest.fixture
def quick(monkeypatch):
    """Without reading the experiment's files, which takes a second."""
    monkeypatch.setattr(sweep, "_task_of", lambda files, flags: (PoseTask, {}))


def states(study) -> list[str]:
    return [trial.state.name for trial in study.trials]


def test_agents_command_is_accepted_by_the_runner():
    content = yaml.safe_load((ROOT / "experiments" / "configs" / "sweeps" / "sweep_pose.yaml").read_text())
    values = {}
    for key, parameter in content["parameters"].items():
        values[key] = parameter.get("value", (parameter.get("values") or [parameter.get("min")])[-1])
    values[LR] = 1e-05  # as the agent prints it, which YAML alone would not read as a number
    args = create_sweep_command_args({"args": {key: {"value": value} for key, value in values.items()}})["args"]
    assert f"--{LR}=1e-05" in args
    command = [word for part in content["command"] for word in (args if part == "${args}" else [part])]
    assert command[:4] == ["${env}", "python", "-m", "experiments.run"]
    action, files, flags = run.split_arguments(command[4:])
    config = parse(make_parser(), files, flags)
    assert action == "fit"
    assert config.model.init_args.optimizer["lr"] == 1e-05
    assert config.model.init_args.codec.init_args.sigma == 1.0
    assert config.data.init_args.batch_size == 32
    assert config.trainer.max_epochs == 20


def test_every_suggestion_of_the_sweep_file_is_accepted_by_the_runner():
    space = sweep.read_sweep("sweep_pose.yaml")
    assert (space["method"], space["metric"], space["goal"], space["trials"]) == ("tpe", "val/AP", "maximize", 20)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(3):
        flags = sweep.suggest(study.ask(), space["parameters"])
        config = parse(make_parser(), [find(name) for name in FILES[:2]], flags)
        assert 5e-4 <= config.model.init_args.optimizer["lr"] <= 2e-2
        assert 1 <= config.model.init_args.codec.init_args.sigma <= 3
        assert config.model.init_args.schedule["warmup_epochs"] in (0, 1, 2, 3)


def test_constants_of_a_sweep_file_give_way_to_the_command_line_and_what_is_searched_does_not(monkeypatch, tmp_path):
    found = []

    def look(arguments, callbacks):
        _, files, flags = run.split_arguments(list(arguments))
        callbacks[0].trial.set_user_attr("run", "somewhere")
        found.append(parse(make_parser(), files, flags))
        return SimpleNamespace(callback_metrics={"val/AP": torch.tensor(0.5)})

    flags = ["--trainer.max_epochs", "3", f"--{LR}", "7", "--trials", "1"]
    search(monkeypatch, look, "--sweep", "sweep_pose.yaml", *flags, "--runs", str(tmp_path))
    assert found[0].trainer.max_epochs == 3
    assert found[0].trainer.check_val_every_n_epoch == 4
    assert found[0].model.init_args.optimizer["lr"] < 1


@pytest.mark.parametrize("value", [1e-05, 0.1, 3, True, None, "adam", "1e-3", [1, 2.5], {"name": "sgd", "lr": 1e-4}])
def test_flag_text_is_read_back_by_yaml(value):
    assert yaml.safe_load(flag_text(value)) == value
    assert "\n" not in flag_text(value)


def test_grid_tries_each_point_once_and_then_has_nothing_to_do(monkeypatch, tmp_path, capsys):
    runner = FakeRunner()
    arguments = [*SPACE, "--method", "grid", "--runs", str(tmp_path)]
    search(monkeypatch, runner, *arguments, "--trials", "4")
    assert len(runner.tried) == 4
    study = search(monkeypatch, runner, *arguments)
    search(monkeypatch, runner, *arguments)
    assert len(runner.tried) == len(set(runner.tried)) == 6
    assert {trial.params[LR] for trial in study.trials} == {"0.001", "0.004"}
    assert study.best_params[LR] == "0.004"  # the nearer to 0.003, on a logarithmic scale
    out = capsys.readouterr().out
    assert "6 trials, 6 of them done" in out
    assert f"best: trial {study.best_trial.number}" in out
    with (tmp_path / "sweeps" / "pose_coco-search" / "trials.csv").open() as lines:
        table = list(csv.DictReader(lines))
    values = [float(row["val/AP"]) for row in table]
    assert len(table) == 6
    assert values == sorted(values, reverse=True)


RANGE = f"--search.{LR}={{distribution: log_uniform_values, min: 1.0e-5, max: 1.0}}"


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_a_continued_search_draws_on(method, quick, monkeypatch, tmp_path):
    """What would have been drawn without the stop, and so nothing twice."""

    def tried(name: str, *pieces: int, seed: int = 0) -> list[str]:
        runner = FakeRunner()
        for trials in pieces:
            words = ["--method", method, "--trials", str(trials), "--sampler_seed", str(seed)]
            search(monkeypatch, runner, RANGE, *words, "--runs", str(tmp_path / name))
        return [point[0] for point in runner.tried]

    whole, pieces = tried("whole", 6), tried("pieces", 2, 3, 6)
    assert len(set(pieces)) == 6
    assert pieces == whole
    assert not set(tried("other seed", 6, seed=1)) & set(whole)


def test_machines_that_begin_together_try_different_points(quick, monkeypatch, tmp_path):
    storage = f"sqlite:///{tmp_path / 'shared.db'}"
    runner = FakeRunner()
    words = [RANGE, "--method", "random", "--storage", storage, "--runs", str(tmp_path)]

    def with_a_second_machine(arguments, callbacks):
        if not runner.tried:
            runner.tried.append(("begun",))
            monkeypatch.setattr(run, "main", runner)
            sweep.main([*FILES, *words, "--trials", "2"])  # while the first is at its first point
            runner.tried.remove(("begun",))
        return runner(arguments, callbacks)

    search(monkeypatch, with_a_second_machine, *words, "--trials", "3")
    assert len(runner.tried) == len(set(runner.tried)) == 3


@dataclass
class Goal:
    """A sweep file's metric, and the direction that follows."""

    metric: dict[str, str] | None
    direction: str


GOALS = {
    "asked for": Goal({"name": "val/AP", "goal": "minimize"}, "MINIMIZE"),
    "asked for, of a metric of one's own": Goal({"name": "val/RMSE", "goal": "minimize"}, "MINIMIZE"),
    "asked for, more of one's own": Goal({"name": "val/lag", "goal": "maximize"}, "MAXIMIZE"),
    "of the loss": Goal({"name": "val/loss"}, "MINIMIZE"),
    "of another metric": Goal({"name": "val/AP75"}, "MAXIMIZE"),
    "of what the task monitors": Goal(None, "MAXIMIZE"),
}


@pytest.mark.parametrize("goal", GOALS.values(), ids=GOALS)
def test_a_search_goes_in_the_direction_of_its_goal(goal, quick, monkeypatch, tmp_path, capsys):
    values = iter([0.5, 0.2, 0.9, 0.4])
    name = (goal.metric or {"name": "val/AP"})["name"]

    def measure(arguments, callbacks):
        callbacks[0].trial.set_user_attr("run", "somewhere")
        return SimpleNamespace(callback_metrics={name: torch.tensor(next(values))})

    content = {"parameters": {BATCH: {"values": [1, 2, 4, 8]}}, "method": "grid"}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(content | ({"metric": goal.metric} if goal.metric else {})))
    study = search(monkeypatch, measure, "--sweep", str(file), "--runs", str(tmp_path))
    best = 0.2 if goal.direction == "MINIMIZE" else 0.9
    assert study.direction.name == goal.direction
    assert study.best_value == pytest.approx(best)
    said = capsys.readouterr().out
    assert f"{name} {best:.4f}" in said
    assert ("PoseTask would maximize" in said) == (goal.metric == {"name": "val/AP", "goal": "minimize"})
    with (tmp_path / "sweeps" / "pose_coco-mine" / "trials.csv").open() as lines:
        table = [float(row[name]) for row in csv.DictReader(lines)]
    assert table == pytest.approx(sorted([0.5, 0.2, 0.9, 0.4], reverse=goal.direction == "MAXIMIZE"))


class LeastTask(ClassificationTask):
    """Monitors what is best when small."""

    monitor = "val/RMSE"
    mode = "min"
    higher_is_better = ("overlap",)
    lower_is_better = ("lag",)


@pytest.mark.parametrize(
    ("metric", "direction"),
    [(None, "MINIMIZE"), ("val/RMSE", "MINIMIZE"), ("val/lag", "MINIMIZE"), ("test/overlap", "MAXIMIZE")],
)
def test_without_a_goal_the_search_goes_as_the_task_declares(metric, direction, quick, monkeypatch, tmp_path):
    def measure(arguments, callbacks):
        callbacks[0].trial.set_user_attr("run", "somewhere")
        return SimpleNamespace(callback_metrics={metric or "val/RMSE": torch.tensor(2.5)})

    monkeypatch.setattr(sweep, "_task_of", lambda files, flags: (LeastTask, {}))
    file = tmp_path / "mine.yaml"
    content = {"parameters": {BATCH: {"values": [4]}}, "method": "grid"}
    file.write_text(yaml.safe_dump(content | ({"metric": {"name": metric}} if metric else {})))
    study = search(monkeypatch, measure, "--sweep", str(file), "--runs", str(tmp_path))
    assert study.direction.name == direction


def test_a_direction_that_nobody_declares_is_asked_for(quick, monkeypatch, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"parameters": {LR: {"values": [0.1]}}, "metric": {"name": "val/RMSE"}}))
    with pytest.raises(ConfigError, match=r"val/RMSE.*goal: minimize, or goal: maximize"):
        search(monkeypatch, FakeRunner(), "--sweep", str(file), "--runs", str(tmp_path))


def test_tpe_comes_near_the_best_value_and_says_what_mattered(quick, monkeypatch, tmp_path, capsys):
    space = "{distribution: log_uniform_values, min: 1.0e-5, max: 1.0}"
    arguments = [
        f"--search.{LR}={space}",
        f"--search.{BATCH}=[4, 8]",
        "--trials",
        "20",
        "--runs",
        str(tmp_path),
    ]
    study = search(monkeypatch, FakeRunner(), *arguments)
    assert study.best_value > 0.95
    out = capsys.readouterr().out
    assert out.index("importance:") < out.index("best: trial")
    assert f"importance: {LR}" in out  # the batch size does nothing here


def test_a_failed_trial_is_recorded_and_the_search_goes_on(quick, monkeypatch, tmp_path, capsys):
    runner = FakeRunner({1: RuntimeError("out of memory")})
    study = search(monkeypatch, runner, *SPACE, "--trials", "3", "--runs", str(tmp_path))
    assert states(study) == ["COMPLETE", "FAIL", "COMPLETE"]
    assert "out of memory" in (tmp_path / "sweeps" / "pose_coco-search" / "trials.csv").read_text()
    assert "trial 1 failed: RuntimeError: out of memory" in capsys.readouterr().err


def test_diverged_is_failed(quick, monkeypatch, tmp_path):
    def diverge(arguments, callbacks):
        return SimpleNamespace(callback_metrics={"val/AP": torch.tensor(float("nan"))})

    study = search(monkeypatch, diverge, *SPACE, "--trials", "1", "--runs", str(tmp_path))
    assert states(study) == ["FAIL"]


@pytest.mark.parametrize(
    ("method", "end", "status"),
    [
        ("grid", SystemExit(1), 130),  # what Lightning makes of a second Ctrl-C
        ("tpe", Stopped(signal.SIGINT), 130),
        ("grid", Stopped(signal.SIGTERM), 143),
        ("tpe", KeyboardInterrupt(), 130),
    ],
)
def test_an_interrupted_search_goes_on_with_the_trial_that_was_cut_short(
    method, end, status, quick, monkeypatch, tmp_path
):
    runner = FakeRunner({2: end})
    arguments = [*SPACE, "--method", method, "--trials", "6", "--runs", str(tmp_path)]
    with pytest.raises(SystemExit) as stop:
        search(monkeypatch, runner, *arguments)
    assert stop.value.code == status
    assert len(runner.tried) == 3
    study = search(monkeypatch, runner, *arguments)
    assert len(runner.tried) == 7
    assert runner.tried.count(runner.tried[2]) >= 2
    assert states(study).count("COMPLETE") == 6
    if method == "grid":
        assert len(set(runner.tried)) == 6


def test_a_users_mistake_in_a_trial_stops_the_search(quick, monkeypatch, tmp_path, capsys):
    runner = FakeRunner({1: ConfigError("no such thing")})
    monkeypatch.setattr(run, "main", runner)
    monkeypatch.setattr(sys, "argv", ["sweep", *FILES, *SPACE, "--trials", "3", "--runs", str(tmp_path)])
    assert run.command(sweep.main) == 2
    assert len(runner.tried) == 2
    assert "error: no such thing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (FILES, ["--sweep", "--search"]),
        (SPACE, ["experiment"]),
        ([*FILES, *SPACE, "--modell.x", "1"], ["modell", "did you mean model"]),
        ([*FILES, "--sweep", "sweep_posse.yaml"], ["did you mean sweep_pose.yaml"]),
        ([*FILES, "--sweep", "debug.yaml"], ["debug.yaml", "parameters"]),
        ([*FILES, "--sweep", "sweep_pose.yaml", "--method", "grid"], [LR, "range", "values"]),
        ([*FILES, f"--search.{LR}={{min: 1e-4, max: 1.0}}"], [LR, "'1e-4'", "1.0e-4"]),
        ([*FILES, f"--search.{LR}={{min: 1.0, max: 0.1}}"], [LR, "rising"]),
        ([*FILES, f"--search.{LR}={{min: 1, max: 2, distribution: normal}}"], [LR, "log_uniform_values", "normal"]),
        ([*FILES, f"--search.{LR}={{min: 1, max: 2, q: 0.5}}"], [LR, "'q': 0.5", "wandb sweep"]),
        ([*FILES, f"--search.{LR}={{parameters: {{a: 1}}}}"], [LR, "dotted"]),
        ([*FILES, f"--search.{LR}", "[1, 2"], [LR, "not valid YAML"]),
        ([*FILES, *SPACE, "--method", "baies"], ["'baies'"]),
        ([*FILES, *SPACE, "--trials", "0"], ["--trials 0"]),
        ([*FILES, *SPACE, "--sampler_seed", "-1"], ["--sampler_seed -1", "0 or more"]),
    ],
)
def test_a_users_mistake_is_one_message_and_status_2(arguments, words, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["sweep", *arguments, "--runs", str(tmp_path)])
    assert run.command(sweep.main) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    for word in words:
        assert word in error


@pytest.mark.parametrize("setting", ["metric: val/AP", "run_cap: many", "early_terminate: hyperband"])
def test_a_setting_of_another_form_is_shown_as_it_should_be(setting, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"{setting}\nparameters: {{{LR}: {{values: [0.1]}}}}\n")
    key, value = setting.split(": ")
    with pytest.raises(ConfigError, match=f"mine.yaml: {key} should be as in `{key}: .*`, not '{value}'"):
        sweep.read_sweep(str(tmp_path / "mine.yaml"))


def test_another_space_is_another_study(quick, monkeypatch, tmp_path):
    search(monkeypatch, FakeRunner(), *SPACE, "--trials", "1", "--runs", str(tmp_path))
    with pytest.raises(ConfigError, match="--folder"):
        search(monkeypatch, FakeRunner(), *SPACE[:2], "--trials", "2", "--runs", str(tmp_path))


def test_a_metric_that_nobody_measures_is_named(quick, monkeypatch, tmp_path):
    file = tmp_path / "mine.yaml"
    space = {"parameters": {LR: {"values": [0.1]}}, "metric": {"name": "val/mAP", "goal": "maximize"}}
    file.write_text(yaml.safe_dump(space))
    with pytest.raises(ConfigError, match=r"val/mAP.*val/AP"):
        search(monkeypatch, FakeRunner(), "--sweep", str(file), "--runs", str(tmp_path))


def test_a_trial_that_lags_behind_is_pruned(tmp_path):
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.SuccessiveHalvingPruner(1, 2))
    state = SimpleNamespace(fn="fit")

    def validate(value: float) -> None:
        trainer = SimpleNamespace(sanity_checking=False, state=state, callback_metrics={"val/AP": torch.tensor(value)})
        callback.on_validation_end(trainer, None)

    for value in (0.5, 0.6, 0.7):
        trial = study.ask()
        callback = sweep.ReportTrial(trial, "val/AP", tmp_path)
        validate(value)
        study.tell(trial, value)
    callback = sweep.ReportTrial(study.ask(), "val/AP", tmp_path)
    with pytest.raises(optuna.TrialPruned, match="after 1 validations"):
        validate(0.1)
    sweep.ReportTrial(study.ask(), "val/AP", tmp_path).on_validation_end(
        SimpleNamespace(sanity_checking=True, state=state, callback_metrics={"val/AP": torch.tensor(0.0)}), None
    )


@pytest.mark.parametrize(
    ("early", "lengths"),
    [
        (None, [6, 6, 6]),
        ({"type": "hyperband", "min_iter": 1, "eta": 2}, [6, 6, 1]),
        ({"type": "hyperband", "min_iter": 3, "eta": 2}, [6, 6, 3]),
        ({"type": "hyperband", "min_iter": 2}, [6, 6, 2]),
    ],
)
def test_early_terminate_of_a_sweep_file_ends_what_lags_behind(early, lengths, quick, monkeypatch, tmp_path):
    """The third of three trials is the worst from its first validation on."""
    validated = []

    def validate(arguments, callbacks):
        (callback,) = callbacks
        callback.trial.set_user_attr("run", "somewhere")
        level = 0.5 + 0.1 * len(validated) if len(validated) < 2 else 0.1
        validated.append(0)
        for _ in range(6):
            validated[-1] += 1
            metrics = {"val/AP": torch.tensor(level)}
            state = SimpleNamespace(fn="fit")
            callback.on_validation_end(
                SimpleNamespace(sanity_checking=False, state=state, callback_metrics=metrics), None
            )
        return SimpleNamespace(callback_metrics=metrics)

    file = tmp_path / "mine.yaml"
    content = {"parameters": {BATCH: {"values": [1, 2, 4]}}, "method": "grid"}
    file.write_text(yaml.safe_dump(content | ({"early_terminate": early} if early else {})))
    study = search(monkeypatch, validate, "--sweep", str(file), "--runs", str(tmp_path))
    assert validated == lengths
    assert states(study) == ["COMPLETE", "COMPLETE", "PRUNED" if early else "COMPLETE"]
    assert study.best_value == pytest.approx(0.6)


@pytest.mark.parametrize(("words", "tried"), [([], 2), (["--trials", "3"], 3), (["--method", "random"], 2)])
def test_a_sweep_file_says_how_many_trials_and_how(words, tried, quick, monkeypatch, tmp_path):
    file = tmp_path / "mine.yaml"
    space = {"distribution": "log_uniform_values", "min": 1e-5, "max": 1.0}
    file.write_text(yaml.safe_dump({"parameters": {LR: space}, "method": "bayes", "run_cap": 2}))
    runner = FakeRunner()
    study = search(monkeypatch, runner, "--sweep", str(file), *words, "--runs", str(tmp_path))
    assert len(runner.tried) == tried
    assert type(study.sampler).__name__ == ("RandomSampler" if words[:1] == ["--method"] else "TPESampler")


def test_suggestions_are_of_the_kinds_that_the_space_names():
    space = {
        "a": {"min": 1, "max": 9},
        "b": {"min": 0.0, "max": 1.0},
        "c": {"min": 1.0e-6, "max": 1.0, "distribution": "log_uniform_values"},
        "d": {"values": ["x", 1.0e-5, [1, 2]]},
        "e": {"value": 7},
    }
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    flags = [dict(flag[2:].split("=") for flag in sweep.suggest(study.ask(), space)) for _ in range(300)]
    drawn = {key: {yaml.safe_load(row[key]) if key != "d" else row[key] for row in flags} for key in "abcd"}
    assert "e" not in flags[0]
    assert drawn["a"] == set(range(1, 10))
    assert all(isinstance(value, float) and 0 <= value <= 1 for value in drawn["b"])
    assert np.median(sorted(drawn["c"])) == pytest.approx(1e-3, rel=1)  # the middle of the exponents
    assert drawn["d"] == {"x", "1.0e-05", "[1, 2]"}


def test_trials_are_run_folders_of_one_group(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    study = sweep.main([*FILES, f"--search.{LR}=[1.0e-3, 2.0e-3]", "--method", "grid", "--runs", str(tmp_path)])
    signal.signal(signal.SIGINT, before)
    folder = tmp_path / "sweeps" / "pose_coco-search"
    for trial, lr in zip(study.trials, (1e-3, 2e-3), strict=True):
        run_folder = folder / trial.user_attrs["run"]
        config = yaml.safe_load((run_folder / "config.yaml").read_text())
        assert config["model"]["init_args"]["optimizer"]["lr"] == lr
        assert config["wandb"]["group"] == "pose_coco-search"
        assert config["trainer"]["callbacks"] is None
        assert trial.value == json.loads((run_folder / "summary.json").read_text())["best"]["val/AP"]
        assert list(trial.intermediate_values) == [1]


@pytest.mark.slow
def test_without_optuna_the_extra_is_named():
    code = "import sys; sys.modules['optuna'] = None; import experiments.sweep"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "[sweep]" in done.stderr
    assert "Traceback" not in done.stderr

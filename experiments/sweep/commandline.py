r"""Search hyperparameters without an account, by Optuna; running the same command again goes on with the same study.

python -m experiments.sweep pose_coco.yaml sample.yaml --sweep sweep_pose.yaml
python -m experiments.sweep pose_coco.yaml sample.yaml --method random --trials 30 \
    --search.model.init_args.optimizer.lr "{distribution: log_uniform_values, min: 1.0e-4, max: 1.0e-2}" \
    --search.data.init_args.batch_size "[8, 16]" --trainer.max_epochs 10

KEY is a flag of the runner; SPACE a list, or a mapping with min, max and perhaps distribution: log_uniform_values.
The sweep folder, `runs/sweeps/<experiment>-<sweep>/`, has study.db (SQLite), trials.csv, and the trials as ordinary run
folders, which W&B shows as one group. Flags that are not the sweep's own are the runner's.
"""

import gc
import itertools
import math
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from rich.console import Console

try:
    import optuna
    from optuna.trial import FrozenTrial, TrialState
except ModuleNotFoundError:
    print("error: a search needs Optuna: pip install optuna, or this project with its extra [sweep]", file=sys.stderr)
    raise SystemExit(2) from None

from datamodules.loading.text_files import parse_yaml
from experiments import cli, run
from experiments.cli.files import write_rows
from experiments.cli.mistakes import Stopped, is_users_mistake
from experiments.cli.shown import say
from experiments.cli.tables import show
from experiments.compare.modes import known_mode
from experiments.config import ConfigError, find_all, make_parser, parse
from experiments.config.files import files_and_flags
from experiments.sweep.space import Sweep, check, choices, constants, read_sweep, suggest
from tasks import Task, subclasses

DEFAULT_TRIALS = 20


class TrialFailed(Exception):
    """A trial that diverged, ran out of memory or broke; the search goes on."""


class ReportTrial(Callback):
    """Tell Optuna the metric after each validation, and stop the trial if it is not worth going on."""

    def __init__(self, trial: optuna.Trial, metric: str, folder: Path) -> None:
        self.trial = trial
        self.metric = metric
        self.folder = folder
        self.validations = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note the run folder."""
        if trainer.world_size > 1:
            raise ConfigError(
                f"A trial runs in one process, this one in {trainer.world_size}: add --trainer.devices 1, or search "
                "with W&B's own agent (wandb sweep)."
            )
        self.trial.set_user_attr("run", str(Path(trainer.default_root_dir).relative_to(self.folder)))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report; raises `optuna.TrialPruned`."""
        value = trainer.callback_metrics.get(self.metric)
        if trainer.sanity_checking or trainer.state.fn != "fit" or value is None or not torch.isfinite(value):
            return
        self.validations += 1
        self.trial.report(value.item(), self.validations)
        if self.trial.should_prune():
            raise optuna.TrialPruned(f"{self.metric} {value.item():.3f} after {self.validations} validations")


def search(
    *words: str,
    sweep: str | None = None,
    method: Literal["tpe", "random", "grid"] | None = None,
    trials: int | None = None,
    runs: str = "runs",
    folder: str | None = None,
    storage: str | None = None,
    sampler_seed: int = 0,
) -> optuna.Study:
    """Search as the command line does.

    Args:
        words: YAML files of the experiment, then `--search.KEY SPACE` and the runner's flags.
        sweep: File with search space and method, in W&B's format; as given or among the experiments.
        method: Instead of that of the file; else tpe.
        trials: In all; else run_cap of the file, the whole grid, or 20.
        runs: Folder in which `sweeps` is.
        folder: Sweep folder; else runs/sweeps/<experiment>-<sweep>.
        storage: Optuna's database for several machines; else study.db in the sweep folder.
        sampler_seed: Seed of the search, not of the training.

    Raises:
        ConfigError: For a mistake in the files, flags or the search space.
        SystemExit: With status 128 + signal when interrupted; the study goes on with the next call.
    """
    files, flags = files_and_flags(words)
    if trials is not None and trials < 1:
        raise ConfigError(f"--trials {trials}: a search has one trial or more.")
    if sampler_seed < 0:
        raise ConfigError(f"--sampler_seed {sampler_seed}: a seed is 0 or more.")
    if not files:
        raise ConfigError("Name an experiment before the flags, such as pose_coco.yaml sample.yaml.")
    space, flags = _space(sweep, flags)
    space["method"] = method or space["method"]
    flags = [*constants(space["parameters"]), *flags]  # the command line has the last word, except on what is searched
    task, options = _task_of(files, flags)
    metric = space["metric"] or task.goal(options)[0]
    name = f"{Path(files[0]).stem}-{Path(sweep).stem if sweep else 'search'}"
    place = Path(folder or Path(runs) / "sweeps" / name)
    goal = _goal(metric, space["goal"], task)
    place.mkdir(parents=True, exist_ok=True)
    study = _study(place, name, goal, space, storage)
    count = trials or space["trials"] or (None if space["method"] == "grid" else DEFAULT_TRIALS)
    if space["method"] == "grid":
        count = min(count or len(_grid(space)), len(_grid(space)))
    remaining = max(0, count - len(_done(study)))
    say(f"sweep folder: {place}; {count} trials, {count - remaining} of them done")

    def objective(trial: optuna.Trial) -> float:
        print(f"trial {trial.number}", flush=True)
        study.sampler = _sampler(space["method"], sampler_seed, trial.number)
        arguments = [*files, *flags, *suggest(trial, space["parameters"]), "--runs", str(place)]
        if not any(flag.startswith("--wandb.group") for flag in flags):
            arguments += ["--wandb.group", name]
        return _value(trial, arguments, metric, place)

    def enough(study: optuna.Study, trial: FrozenTrial) -> None:
        if len(_done(study)) >= count:  # another process may work on the same study
            study.stop()

    try:
        if remaining:
            study.optimize(objective, n_trials=remaining, catch=(TrialFailed,), callbacks=[enough])
    except Stopped as stop:
        print("stopped; the same command goes on with the study", flush=True)
        raise SystemExit(128 + stop.number) from None
    finally:
        _show(study, _done(study), place, metric)
    return study


def _value(trial: optuna.Trial, arguments: list[str], metric: str, folder: Path) -> float:
    """Train one trial; the metric of its best checkpoint."""
    try:
        trainer = run.main(arguments, callbacks=[ReportTrial(trial, metric, folder)])
    except optuna.TrialPruned:
        raise
    except Stopped:
        _again(trial)
        raise
    except (KeyboardInterrupt, SystemExit):  # at once; Lightning turns Ctrl-C into an exit
        _again(trial)
        raise Stopped(signal.SIGINT) from None
    except Exception as error:
        if is_users_mistake(error):
            _again(trial)
            raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        trial.set_user_attr("error", reason)
        say(f"trial {trial.number} failed: {reason}", error=True)
        raise TrialFailed(reason) from error
    finally:
        gc.collect()
        torch.cuda.empty_cache()
    found = trainer.callback_metrics
    if metric not in found:
        raise ConfigError(
            f"The search is for {metric!r}, which is not measured; there are: {', '.join(sorted(found))}."
        )
    value = found[metric].item()
    if value != value or abs(value) == float("inf"):
        trial.set_user_attr("error", f"{metric} is {value}")
        raise TrialFailed(f"{metric} is {value}")
    return value


def _again(trial: optuna.Trial) -> None:
    """A trial that was not given its chance is the next one when the study goes on."""
    trial.set_user_attr("again", True)
    trial.study.enqueue_trial(trial.params)


def _done(study: optuna.Study) -> list[FrozenTrial]:
    return [trial for trial in study.trials if trial.state.is_finished() and "again" not in trial.user_attrs]


def _space(file: str | None, flags: list[str]) -> tuple[Sweep, list[str]]:
    """The search of the file and of `--search.KEY`, and the flags that are left for the runner."""
    empty = Sweep(parameters={}, method="tpe", metric=None, goal=None, trials=None, early_terminate=None)
    sweep = read_sweep(file) if file else empty
    left: list[str] = []
    words = iter(flags)
    for word in words:
        if not word.startswith("--search."):
            left.append(word)
            continue
        key, equals, text = word.removeprefix("--search.").partition("=")
        text = text if equals else next(words, "null")
        space = parse_yaml(text, f"--search.{key} {text}: not valid YAML")
        sweep["parameters"][key] = {"values": space} if isinstance(space, list) else space
    check(sweep["parameters"], file or "--search")
    if not sweep["parameters"]:
        raise ConfigError("There is nothing to search: name --sweep FILE, or --search.KEY with a list or a range.")
    return sweep, left


def _task_of(files: list[str], flags: list[str]) -> tuple[type[Task], dict[str, Any]]:
    """Class of the task and its arguments; a mistake in files and flags is found here, before the first trial."""
    config = parse(make_parser(), find_all(files), flags)
    return subclasses(Task)[config.model.class_path.rsplit(".", 1)[-1]], config.model.init_args.as_dict()


def _goal(metric: str, asked: str | None, task: type[Task]) -> str:
    """maximize or minimize: as asked, else as the metric is declared.

    Raises:
        ConfigError: If neither says it.
    """
    modes = dict.fromkeys(task.higher_is_better, "max") | dict.fromkeys(task.lower_is_better, "min")
    mode = task.mode if metric == task.monitor else modes.get(metric.partition("/")[2]) or known_mode(metric)
    declared = mode and {"min": "minimize", "max": "maximize"}[mode]
    if asked is None and declared is None:
        raise ConfigError(
            f"Whether less or more of {metric} is better is not known: add to the sweep file, under metric, "
            "goal: minimize, or goal: maximize."
        )
    if asked and declared and asked != declared:
        say(f"note: the sweep file asks to {asked} {metric}, of which {task.__name__} would {declared}")
    return asked or declared


def _sampler(method: str, seed: int, trial: int) -> optuna.samplers.BaseSampler:
    """Draws that follow from the trial's number: those of a continued search go on, and of several machines differ."""
    own = int(np.random.SeedSequence((seed, trial)).generate_state(1)[0])
    return optuna.samplers.TPESampler(seed=own) if method == "tpe" else optuna.samplers.RandomSampler(seed=own)


def _grid(sweep: Sweep) -> list[dict[str, str]]:
    """All combinations of the parameters' values."""
    values = {key: choices(parameter) for key, parameter in sweep["parameters"].items() if "value" not in parameter}
    for key in values:
        if values[key] is None:
            raise ConfigError(f"A grid needs `values` for each parameter; {key} is a range.")
    return [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]


def _study(folder: Path, name: str, goal: str, sweep: Sweep, storage: str | None) -> optuna.Study:
    """The study in the folder, or a new one."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    early = sweep["early_terminate"]
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if early is not None:
        pruner = optuna.pruners.SuccessiveHalvingPruner(early.get("min_iter", 1), early.get("eta", 3))
    study = optuna.create_study(
        storage=storage or f"sqlite:///{(folder / 'study.db').resolve()}",
        study_name=name,
        direction=goal,
        pruner=pruner,
        load_if_exists=True,
    )
    before = study.user_attrs.get("parameters", sweep["parameters"])
    if before != sweep["parameters"] or study.direction.name.lower() != goal:
        raise ConfigError(f"The study in {folder} searched another space or goal; name a new one: --folder FOLDER.")
    study.set_user_attr("parameters", sweep["parameters"])
    if sweep["method"] == "grid":  # Optuna's own grid does not go with trials that are to be tried again
        for point in _grid(sweep):
            study.enqueue_trial(point, skip_if_exists=True)
    return study


def _show(study: optuna.Study, trials: Sequence[FrozenTrial], folder: Path, metric: str) -> None:
    """Print the trials, best first, what mattered, and where the best one is; write trials.csv."""
    if not trials:
        return
    lowest_first = study.direction == optuna.study.StudyDirection.MINIMIZE

    def rank(trial: FrozenTrial) -> tuple[bool, float]:
        value = math.inf if trial.value is None else trial.value if lowest_first else -trial.value
        return trial.state != TrialState.COMPLETE, value

    rows = []
    for trial in sorted(trials, key=rank):
        value = math.nan if trial.value is None else trial.value
        row = {"trial": trial.number, "state": trial.state.name.lower(), metric: value}
        row |= {key: f"{v:.4g}" if isinstance(v, float) else v for key, v in trial.params.items()}
        rows.append({**row, "run": trial.user_attrs.get("run", ""), "error": trial.user_attrs.get("error", "")})
    write_rows(folder / "trials.csv", rows)
    columns = list(dict.fromkeys(key for row in rows for key in row if key not in ("run", "error")))
    texts = [[f"{v:.4f}" if isinstance(v := row.get(key, ""), float) else str(v) for key in columns] for row in rows]
    show(Console(), [key.rsplit(".", 1)[-1] for key in columns], texts)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if len(complete) >= 8 and len({trial.value for trial in complete}) > 1:
        importance = optuna.importance.get_param_importances(study)
        say("importance: " + ", ".join(f"{key} {share:.2f}" for key, share in importance.items()))
    if complete:
        best = folder / study.best_trial.user_attrs["run"]
        say(f"best: trial {study.best_trial.number}, {metric} {study.best_value:.4f}; run folder: {best}")


main = partial(cli.call, search)
command = partial(run.command, main)

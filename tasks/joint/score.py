"""What a joint run amounts to in one number: its score, and its mean change against single-task runs (delta-m).

Delta-m is that of Maninis et al. (CVPR 2019) and Vandenhende et al. (TPAMI 2021), as a fraction, positive if sharing
helped.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from tasks.draw.tables import Row
from tasks.task import Task

Metrics = Mapping[str, Mapping[str, float]]


def joint_score(tasks: Mapping[str, Task], found: Metrics) -> float:
    """Mean of the tasks' monitored metrics, m or 1 / (1 + m) if small is good; nan where none is defined.

    Raises:
        ValueError: If a task does not compute what it monitors.
    """
    values = {name: _monitored(name, task, found[name]) for name, task in tasks.items()}
    parts = [value if tasks[name].mode == "max" else 1 / (1 + value) for name, value in values.items()]
    defined = [part for part in parts if not math.isnan(part)]
    return sum(defined) / len(defined) if defined else math.nan


def score_terms(tasks: Mapping[str, Task]) -> list[str]:
    """What each task adds to the score, in words."""
    metrics = {name: f"{name}/{task.monitor.split('/', 1)[1]}" for name, task in tasks.items()}
    return [metric if tasks[name].mode == "max" else f"1 / (1 + {metric})" for name, metric in metrics.items()]


def relative_change(tasks: Mapping[str, Task], found: Metrics, baselines: Mapping[str, float]) -> dict[str, float]:
    """(m - b) / b of each task with a baseline b, turned so that more is better."""
    changes = {}
    for name, baseline in baselines.items():
        sign = 1 if tasks[name].mode == "max" else -1
        changes[name] = sign * (_monitored(name, tasks[name], found[name]) - baseline) / abs(baseline)
    return changes


def read_baselines(tasks: Mapping[str, Task], baselines: Mapping[str, str | float]) -> dict[str, float]:
    """Value of each task's monitored metric in the run folder that is named, or the value itself.

    Raises:
        ValueError: If a folder has no such value, or one is 0.
    """
    values: dict[str, float] = {}
    for name, source in baselines.items():
        number = _number(source)
        values[name] = _best_of(Path(str(source)), tasks[name].monitor) if number is None else number
        if values[name] == 0:
            raise ValueError(f"The baseline of {name} is 0, against which no relative change is defined: leave it out.")
    return values


def delta_rows(tasks: Mapping[str, Task], found: Metrics, baselines: Mapping[str, float]) -> list[Row]:
    """A row a task that has a baseline, and the mean."""
    changes = relative_change(tasks, found, baselines)
    rows = [
        {
            "task": name,
            "metric": tasks[name].monitor.split("/", 1)[1],
            "alone": baselines[name],
            "joint": _monitored(name, tasks[name], found[name]),
            "change": change,
        }
        for name, change in changes.items()
    ]
    mean = sum(changes.values()) / len(changes)
    return [*rows, {"task": "delta-m", "metric": "", "alone": "", "joint": "", "change": mean}]


def _monitored(name: str, task: Task, metrics: Mapping[str, float]) -> float:
    metric = task.monitor.split("/", 1)[1]
    if metric not in metrics:
        raise ValueError(
            f"Task {name!r} monitors {task.monitor} and computes {', '.join(metrics) or 'nothing'}: set `monitor` of "
            f"{type(task).__name__} to one of these."
        )
    return metrics[metric]


def _number(source: str | float) -> float | None:
    """The number that is given, as text too, as the command line has it; None for anything else."""
    try:
        return float(source)
    except ValueError:
        return None


def _best_of(folder: Path, monitor: str) -> float:
    path = folder / "summary.json"
    if not path.is_file():
        raise ValueError(f"The baseline {folder} has no summary.json: name the folder of a finished run, or a number.")
    try:
        summary = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON ({error}): name the folder of a finished run, or a number.") from error
    for metrics in (summary.get("best"), summary.get("last")):
        if metrics and monitor in metrics:
            return float(metrics[monitor])
    raise ValueError(f"{path} has no {monitor}: is it a run of this task?")

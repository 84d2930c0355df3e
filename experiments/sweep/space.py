"""A search space as a sweep file has it -> flags of the runner, suggested by Optuna.

The format is the part of W&B's that lists, ranges and constants need; `wandb sweep` takes the same file.

parameters:
  model.init_args.optimizer.lr: {distribution: log_uniform_values, min: 1.0e-4, max: 1.0e-2}
  data.init_args.batch_size: {values: [16, 32]}
  trainer.max_epochs: {value: 20}
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, TypedDict

import yaml
from optuna import Trial

from datamodules.loading.text_files import read_yaml
from experiments.cli.mistakes import did_you_mean, nearest
from experiments.config import ConfigError, find

Parameter = Mapping[str, Any]
RANGES = ("uniform", "log_uniform_values")
METHODS = {"bayes": "tpe", "tpe": "tpe", "random": "random", "grid": "grid"}
SETTINGS = {
    "metric": (dict, "{name: val/AP, goal: maximize}"),
    "run_cap": (int, "20"),
    "early_terminate": (dict, "{type: hyperband, min_iter: 1}"),
}
FOR_THE_AGENT = ("program", "command", "name", "description", "project", "entity")
"""Keys that `wandb sweep` needs and a search without it passes over."""


class Sweep(TypedDict):
    """What of a sweep file matters here; None where it says nothing."""

    parameters: dict[str, Parameter]
    method: Literal["tpe", "random", "grid"]
    metric: str | None
    goal: Literal["maximize", "minimize"] | None
    trials: int | None
    early_terminate: Mapping[str, Any] | None


def read_sweep(name: str) -> Sweep:
    """A sweep file, as given or among the experiments.

    Raises:
        ConfigError: If there is none, or something in it is not understood.
    """
    path = find(name)
    content = read_yaml(path)
    if not isinstance(content, dict) or not isinstance(content.get("parameters"), dict):
        raise ConfigError(f"{path} should be a sweep in W&B's format, with a section `parameters`.")
    known = ("parameters", "method", *SETTINGS, *FOR_THE_AGENT)
    if unknown := sorted(set(content) - set(known)):
        near = did_you_mean(nearest(unknown[0], known))
        raise ConfigError(f"{path}: a search takes no key {unknown[0]!r}{near} It takes: {', '.join(known)}.")
    for key, (kind, example) in SETTINGS.items():
        if not isinstance(content.get(key), kind | None):
            raise ConfigError(f"{path}: {key} should be as in `{key}: {example}`, not {content[key]!r}.")
    method = content.get("method", "tpe")
    if method not in METHODS:
        raise ConfigError(f"{path}: method should be one of {', '.join(METHODS)}, not {method!r}.")
    metric = content.get("metric") or {}
    if metric.get("goal", "minimize") not in ("maximize", "minimize"):
        raise ConfigError(f"{path}: the goal of a metric is maximize or minimize, not {metric['goal']!r}.")
    check(content["parameters"], str(path))
    return Sweep(
        parameters=content["parameters"],
        method=METHODS[method],
        metric=metric.get("name"),
        goal=metric.get("goal"),
        trials=content.get("run_cap"),
        early_terminate=content.get("early_terminate"),
    )


def check(parameters: Mapping[str, Any], where: str) -> None:
    """Refuse what `suggest` would not understand.

    Raises:
        ConfigError: With the parameter, and what it may be.
    """
    for key, parameter in parameters.items():
        if not isinstance(parameter, Mapping):
            raise ConfigError(f"{where}: {key} should be a mapping with value, values, or min and max: {parameter!r}.")
        if "value" in parameter:
            continue
        if "values" in parameter:
            if not isinstance(parameter["values"], list) or not parameter["values"]:
                raise ConfigError(f"{where}: the values of {key} should be a list, not {parameter['values']!r}.")
        elif {"min", "max"} <= set(parameter):
            _check_range(key, parameter, where)
        else:
            raise ConfigError(
                f"{where}: {key} has neither value, nor values, nor min and max. Parameters within parameters are "
                "written as one dotted key here."
            )


def _check_range(key: str, parameter: Parameter, where: str) -> None:
    distribution = parameter.get("distribution", "uniform")
    if distribution not in RANGES or set(parameter) - {"min", "max", "distribution"}:
        raise ConfigError(
            f"{where}: of W&B's distributions a search takes {' and '.join(RANGES)}, each from min to max; {key} is "
            f"{dict(parameter)}. List the values, or search with W&B's own agent (wandb sweep)."
        )
    for bound in ("min", "max"):
        value = parameter[bound]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{where}: {bound} of {key} should be a number, not {value!r} (YAML writes 1.0e-4).")
    logarithmic = distribution == "log_uniform_values"
    if parameter["min"] > parameter["max"] or (logarithmic and parameter["min"] <= 0):
        raise ConfigError(
            f"{where}: {key} runs from {parameter['min']} to {parameter['max']}; expected a rising range"
            f"{', above zero' if logarithmic else ''}."
        )


def choices(parameter: Parameter) -> list[str] | None:
    """The values of a parameter as they stand in a flag; None for a range."""
    return [flag_text(value) for value in parameter["values"]] if "values" in parameter else None


def suggest(trial: Trial, parameters: Mapping[str, Parameter]) -> list[str]:
    """Flags of what is searched, for one trial: `--key=value`."""
    return [
        f"--{key}={_one(trial, key, parameter)}" for key, parameter in parameters.items() if "value" not in parameter
    ]


def constants(parameters: Mapping[str, Parameter]) -> list[str]:
    """Flags of what is the same in all trials."""
    return [f"--{key}={flag_text(parameter['value'])}" for key, parameter in parameters.items() if "value" in parameter]


def _one(trial: Trial, key: str, parameter: Parameter) -> str:
    values = choices(parameter)
    if values is not None:
        return trial.suggest_categorical(key, values)
    low, high, logarithmic = parameter["min"], parameter["max"], parameter.get("distribution", "uniform") != "uniform"
    if isinstance(low, int) and isinstance(high, int) and not logarithmic:
        return flag_text(trial.suggest_int(key, low, high))
    return flag_text(trial.suggest_float(key, low, high, log=logarithmic))


def flag_text(value: Any) -> str:
    """A value as YAML on one line: 1.0e-05 and not 1e-05, which YAML reads as a word."""
    return yaml.safe_dump(value, default_flow_style=True, width=math.inf).removesuffix("...\n").strip()

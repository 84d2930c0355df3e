"""YAML files and flags -> one checked configuration; every mistake is one sentence.

Files are merged in order: mappings merge, everything else replaces, `key+:` appends to a list, and a new `class_path`
starts afresh. jsonargparse then checks the result against the constructors, which are the documentation of every key.
"""

import json
from pathlib import Path
from typing import TypedDict

from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser, Namespace
from lightning import Callback, Trainer

import datamodules  # noqa: F401  the short class names of the YAML files
import tasks
from datamodules.base import BaseDataModule
from datamodules.yaml_files import ConfigError, combine, find, merge, read, split_flags
from datamodules.yaml_mistakes import explain
from tasks.task import Task

__all__ = ["ConfigError", "explain", "find", "make_parser", "merge", "parse", "read", "split_flags"]


class WandbSpec(TypedDict, total=False):
    """Of `wandb.init`; `mode` is online, offline or disabled: online where there is a key, else offline.

    `log_model` stores the best and the last checkpoint as versions of an artifact.
    """

    project: str
    name: str
    group: str
    tags: list[str]
    notes: str
    entity: str
    mode: str
    log_model: bool


def make_parser() -> ArgumentParser:
    """Parser of the keys that a YAML file may have."""
    parser = ArgumentParser(
        prog="python -m experiments.run",
        usage="%(prog)s [fit|validate|test|predict] EXPERIMENT.yaml [OVERLAY.yaml ...] [--key value ...]",
        description="Train and evaluate an experiment. Later files and flags win; keys are constructor arguments.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action=ActionConfigFile, help="A YAML file; better named without the flag.")
    parser.add_argument("--seed_everything", type=int, default=0, help="Seed of weights, data order and augmentation.")
    parser.add_argument("--runs", type=str, default="runs", help="Folder that run folders are made in.")
    parser.add_argument("--resume", type=str | None, default=None, help="Run folder to go on with.")
    parser.add_argument("--checkpoint", type=str | None, default=None, help="To validate, test or predict with.")
    parser.add_argument("--debug", type=bool, nargs="?", const=True, default=False, help="Show tracebacks.")
    parser.add_argument("--model", type=Task, required=True, help="The task.")
    parser.add_argument("--data", type=BaseDataModule, required=True, help="The data set.")
    parser.add_argument("--wandb", type=WandbSpec | None, default=None, help="Arguments of wandb.init.")
    parser.add_class_arguments(Trainer, "trainer", skip={"default_root_dir"}, instantiate=False)
    return parser


def parse(parser: ArgumentParser, files: list[Path], flags: list[str]) -> Namespace:
    """Files and flags -> checked configuration.

    Raises:
        ConfigError: For any key or value that a constructor does not accept.
    """
    contents = [(path, read(path)) for path in files]
    values, questions = split_flags(flags)
    merged = combine([content for _, content in contents], values)
    for section in ("model", "data"):
        if section not in merged and not questions:
            raise ConfigError(f"No {section}: section; name an experiment, such as pose_coco.yaml.")
    try:
        return parser.parse_args(["--config", json.dumps(merged), *questions])
    except ArgumentError as error:
        raise ConfigError(explain(str(error), contents, _known_classes())) from error


def _known_classes() -> dict[str, type]:
    from hrnet import HRNet

    known = {"trainer": Trainer, HRNet.__name__: HRNet}
    for base in (Task, BaseDataModule, Callback, tasks.Codec):
        known |= tasks.subclasses(base)
    return known

"""YAML files and flags -> one checked configuration; every mistake is one sentence.

Files are merged in order, see `experiments/config/files.py`; jsonargparse then checks the result against the
constructors, which are the documentation of every key.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser, Namespace
from lightning import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_only

import datamodules  # noqa: F401  the short class names of the YAML files
import tasks
from datamodules.base import BaseDataModule
from datamodules.loading.text_files import ConfigError
from experiments.cli import program
from experiments.cli.shown import say
from experiments.config.constructors import REQUIRED, kept_arguments
from experiments.config.files import Rules, combine, find_all, flagged, read, split_flags
from experiments.config.help import help_page
from experiments.config.mistakes import explain, find_key, find_mistake
from experiments.config.sections import KEYS, SECTIONS, SWITCHES
from tasks.task import Task


def make_parser() -> ArgumentParser:
    """Parser of the keys that a YAML file may have."""
    parser = ArgumentParser(
        prog=program("experiments.run"),
        usage="%(prog)s [fit|validate|test|predict] EXPERIMENT.yaml [OVERLAY.yaml ...] [--key value ...]",
        description="Train and evaluate an experiment. Later files and flags win; keys are constructor arguments.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action=ActionConfigFile, help="A YAML file; better named without the flag.")
    for key, (hint, default, text) in KEYS.items():
        if hint is Trainer:
            _try_whole_numbers_first(Trainer.__init__)
            parser.add_class_arguments(Trainer, key, skip={"default_root_dir"}, instantiate=False)
        else:
            options = {"required": True} if default is REQUIRED else {"default": default}
            options |= {"nargs": "?", "const": True} if key in SWITCHES else {}
            parser.add_argument(f"--{key}", type=hint, help=text, **options)
    return parser


def load_data(files: Sequence[str], flags: Sequence[str]) -> BaseDataModule:
    """The DataModule of the `data` section of YAML files, later ones over earlier ones, flags over all.

    Raises:
        ConfigError: If a file is missing or a key is unknown.
        DataError: If the DataModule does not take its arguments.
    """
    contents = [(path, read(path)) for path in find_all(files)]
    values, questions = split_flags(list(flags))
    if questions:
        raise ConfigError(f"The data doctor has no {questions[0]}; see `python -m experiments.run {questions[0]}`.")
    merged = combine([content for _, content in contents], values, Rules(kept_arguments([BaseDataModule])))
    if "data" not in merged:
        raise ConfigError("No data: section; name an experiment, such as pose_coco.yaml.")
    return make_data(merged, [*((str(path), content) for path, content in contents), *flagged(values)])


def make_data(content: Mapping[str, Any], sources: Sequence[tuple[str, Mapping[str, Any]]]) -> BaseDataModule:
    """The DataModule of the section `data` alone.

    Args:
        content: Of all sources, merged.
        sources: Name and content of each file or flag, for messages.

    Raises:
        ConfigError: For any key or value that a constructor does not accept.
        DataError: If the DataModule does not take its arguments.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--data", type=BaseDataModule, required=True)
    try:
        config = parser.parse_args([f"--data={json.dumps(content['data'])}"])
    except ArgumentError as error:
        raise ConfigError(explain(str(error), content, sources, {"data": BaseDataModule})) from error
    return parser.instantiate(config).data


def parse(parser: ArgumentParser, files: list[Path], flags: list[str]) -> Namespace:
    """Files and flags -> checked configuration.

    Raises:
        ConfigError: For any key or value that a constructor does not accept.
        SystemExit: After help, or the configuration, that a flag asked for.
    """
    contents = [(str(path), read(path)) for path in files]
    values, questions = split_flags(flags)
    rules = Rules(kept_arguments((Task, BaseDataModule, Callback, tasks.Codec)))
    merged = combine([content for _, content in contents], values, rules, _guess)
    if questions and (questions[0] == "-h" or questions[0].partition("=")[0].endswith("help")):
        print(help_page(questions[0], questions[1:], merged, KEYS, parser))
        raise SystemExit(0)
    for section in ("model", "data"):
        if merged.get(section) is None and not questions:
            raise ConfigError(f"No {section}: section; name an experiment, such as pose_coco.yaml.")
    if not questions and not any("class_path" in (merged[name] or {}) for name in ("model", "data")):
        named = " ".join(path.name for path in files)
        raise ConfigError(f"No class_path: an overlay goes with an experiment, as in `pose_coco.yaml {named}`.")
    sources = [*contents, *flagged(values)]
    try:
        config = parser.parse_args(["--config", json.dumps(merged), *questions])
    except (ArgumentError, AttributeError) as error:
        # What another class does not take may be what is missing now.
        raise ConfigError(" ".join([explain(str(error), merged, sources, SECTIONS), *_ended(rules.dropped)])) from error
    mistake = find_mistake(merged, sources, SECTIONS)
    if mistake is not None and (mistake.null or len(mistake.path) == 1):  # which jsonargparse lets pass
        raise ConfigError(mistake.text)
    if not 0 <= config.seed_everything < 2**32:
        raise ConfigError(f"seed_everything should be from 0 to {2**32 - 1}, got {config.seed_everything}.")
    for sentence in rules.dropped:
        _say(sentence)
    return config


def _try_whole_numbers_first(function: Callable) -> None:
    """Else one batch would become 1.0, which is all of them.

    Python holds `Optional[Union[int, float]]` and `Optional[Union[float, int]]` for equal and keeps the one that it met
    first, so that the order in which jsonargparse tries the two depends on what was imported before Lightning.
    """
    for name, hint in function.__annotations__.items():
        types = list(get_args(hint))
        if get_origin(hint) is Union and {int, float} <= set(types):
            at, other = sorted((types.index(int), types.index(float)))
            types[at], types[other] = int, float
            function.__annotations__[name] = Union[tuple(types)]  # noqa: UP007  as they stand, not as they were met


def _ended(sentences: list[str]) -> list[str]:
    return [f"{sentence[:1].upper()}{sentence[1:]}." for sentence in sentences]


@rank_zero_only
def _say(line: str) -> None:
    say(line)


def _guess(name: str, merged: Mapping[str, Any]) -> str | None:
    return find_key(name, merged, SECTIONS)

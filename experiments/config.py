"""YAML files and flags -> one checked configuration; every mistake is one sentence.

Files are merged in order: mappings merge, everything else replaces, `key+:` appends to a list, and a new `class_path`
starts afresh. jsonargparse then checks the result against the constructors, which are the documentation of every key.
"""

import ast
import difflib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import yaml
from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser, Namespace
from lightning import Callback, Trainer

import datamodules  # noqa: F401  the short class names of the YAML files
import tasks
from datamodules.base import BaseDataModule
from tasks.task import Task

HERE = Path(__file__).parent
SECTIONS = ("model", "data", "trainer", "wandb", "seed_everything", "runs", "checkpoint", "resume", "debug")


class ConfigError(Exception):
    """A user's mistake in a YAML file or a flag."""


class UniqueKeys(yaml.SafeLoader):
    """Plain YAML that does not let the second of two equal keys replace the first in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping, unless a key comes twice."""
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {twice[0]!r} stands twice in one mapping", node.start_mark
            )
        return super().construct_mapping(node, deep)


class WandbSpec(TypedDict, total=False):
    """Of `wandb.init`; `mode` is online, offline or disabled: online where there is a key, else offline."""

    project: str
    name: str
    group: str
    tags: list[str]
    notes: str
    entity: str
    mode: str


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


def find(name: str) -> Path:
    """YAML file as given, else beside run.py.

    Raises:
        ConfigError: If there is none.
    """
    for path in (Path(name), HERE / name):
        if path.is_file():
            return path
    known = sorted(path.name for path in HERE.glob("*.yaml"))
    near = difflib.get_close_matches(Path(name).name, known, n=1)
    raise ConfigError(
        f"There is no file {name}, neither here nor beside run.py{_did_you_mean(near)}. "
        f"Experiments: {', '.join(known)}."
    )


def read(path: Path) -> dict[str, Any]:
    """One YAML file as a mapping.

    Raises:
        ConfigError: If it is no YAML mapping, or has an unknown section.
    """
    try:
        content = yaml.load(path.read_text(), UniqueKeys)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} should be a mapping with sections such as model, data, trainer; it is {content!r}.")
    if "config" in content:
        raise ConfigError(
            f"{path}: config: inside a file would replace sections rather than merge them; "
            "name both files on the command line instead."
        )
    for key in content:
        if key not in SECTIONS:
            near = difflib.get_close_matches(key, SECTIONS, n=1)
            raise ConfigError(
                f"{path}: there is no section {key!r}{_did_you_mean(near)}. Sections: {', '.join(SECTIONS)}."
            )
    return content


def merge(base: Any, over: Any) -> Any:
    """`over` on top of `base`: mappings merge, `key+` appends, a changed class_path and all else replace.

    Where one of them names a class and the other has its arguments alone, these are the class's `init_args`.
    """
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    if "class_path" in over and "class_path" in base and over["class_path"] != base["class_path"]:
        return over
    if "class_path" in base and not {"class_path", "init_args"} & set(over):
        over = {"init_args": over}
    if "init_args" in over and "class_path" not in {*base, *over} and "init_args" not in base and base:
        over = over["init_args"]
    merged = dict(base)
    for key, value in over.items():
        if key.endswith("+"):
            merged[key[:-1]] = [*(merged.get(key[:-1]) or []), *(value if isinstance(value, list) else [value])]
        else:
            merged[key] = merge(merged[key], value) if key in merged else value
    return merged


def split_flags(flags: list[str]) -> tuple[list[tuple[str, Any]], list[str]]:
    """Flags -> (dotted key, value as YAML) in order, and those that ask for help or print the configuration.

    Raises:
        ConfigError: If a flag has no value, or a word is no flag.
    """
    values: list[tuple[str, Any]] = []
    questions: list[str] = []
    words = iter(flags)
    for word in words:
        key, equals, text = word.removeprefix("--").partition("=")
        if key.split(".")[-1] in ("help", "print_config") or word == "-h":
            questions += flags[flags.index(word) :]
            break
        if not word.startswith("--"):
            raise ConfigError(
                f"{word!r} is neither a YAML file before the flags nor a flag such as --trainer.max_epochs 10."
            )
        if key == "debug" and not equals:
            text = "true"
        elif not equals:
            text = next(words, None)
        if text is None:
            raise ConfigError(f"The flag --{key} lacks a value.")
        values.append((key, yaml.safe_load(text)))
    return values, questions


def parse(parser: ArgumentParser, files: list[Path], flags: list[str]) -> Namespace:
    """Files and flags -> checked configuration.

    Raises:
        ConfigError: For any key or value that a constructor does not accept.
    """
    contents = [(path, read(path)) for path in files]
    merged: dict[str, Any] = {}
    for _, content in contents:
        merged = merge(merged, content)
    values, questions = split_flags(flags)
    for key, value in values:
        if key.split(".")[0] not in SECTIONS:
            near = difflib.get_close_matches(key.split(".")[0], SECTIONS, n=1)
            raise ConfigError(f"There is no flag --{key}{_did_you_mean(near)}; flags are keys of the YAML files.")
        for part in reversed(key.split(".")):
            value = {part: value}
        merged = merge(merged, value)
    for section in ("model", "data"):
        if section not in merged and not questions:
            raise ConfigError(f"No {section}: section; name an experiment, such as pose_coco.yaml.")
    try:
        return parser.parse_args(["--config", json.dumps(merged), *questions])
    except ArgumentError as error:
        raise ConfigError(explain(str(error), contents)) from error


def explain(message: str, contents: list[tuple[Path, dict[str, Any]]]) -> str:
    """jsonargparse's report -> one sentence with the class, the key, the nearest name and the file."""
    owner = (re.findall(r"class_path '([\w.]+)'", message) or [""])[-1].rsplit(".", 1)[-1]
    if option := re.search(r"Option '(\w+)' is not accepted", message):
        names = _parameters(_known_classes().get(owner))
        return _no_such_key(owner, option[1], names, contents)
    if option := re.search(r"Group 'trainer' does not accept option '(\w+)", message):
        return _no_such_key("trainer", option[1], _parameters(Trainer), contents)
    if option := re.search(r"Unexpected keys: (\{.*?\})", message):
        key = sorted(ast.literal_eval(option[1]))[0]
        section = re.findall(r'Parser key "(\w+)"', message)[-1]
        return f"{section} has no key {key!r}{_where(key, contents)}: {message.splitlines()[-1].strip()}"
    if option := re.search(r"Expected a dot import path string: (\w+)", message):
        near = difflib.get_close_matches(option[1], _known_classes(), n=1)
        return f"There is no class {option[1]!r}{_where(option[1], contents)}{_did_you_mean(near)}."
    keys = ".".join(re.findall(r'Parser key "(\w+)"', message))
    value = re.search(r"Expected an? (.*)\. Got value: (.*)", message)
    if value:
        return f"{keys} should be {value[1]}, got {value[2]}{_where(keys.rsplit('.', 1)[-1], contents)}."
    return message


def _no_such_key(owner: str, key: str, names: list[str], contents: list[tuple[Path, dict[str, Any]]]) -> str:
    near = difflib.get_close_matches(key, names, n=1)
    return f"{owner} has no parameter {key!r}{_where(key, contents)}{_did_you_mean(near)}. It has: {', '.join(names)}."


def _did_you_mean(near: list[str]) -> str:
    return f"; did you mean {near[0]}?" if near else ""


def _where(key: str, contents: list[tuple[Path, dict[str, Any]]]) -> str:
    holders = [str(path) for path, content in contents if key in _words(content)]
    return f" ({', '.join(holders) or 'on the command line'})"


def _words(content: Any) -> Iterator[str]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield str(key)
            yield from _words(value)
    elif isinstance(content, list):
        for value in content:
            yield from _words(value)
    else:
        yield str(content)


def _known_classes() -> dict[str, type]:
    from hrnet import HRNet

    known = {HRNet.__name__: HRNet}
    for base in (Task, BaseDataModule, Callback, tasks.Codec):
        known |= tasks.subclasses(base)
    return known


def _parameters(cls: type | None) -> list[str]:
    """Parameters of a class's constructor, and of its bases' where it passes keyword arguments on."""
    names: list[str] = []
    for base in cls.__mro__ if cls else ():
        if "__init__" not in vars(base):
            continue
        signature = inspect.signature(base.__init__).parameters.values()
        names += [p.name for p in signature if p.name != "self" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        if not any(p.kind == p.VAR_KEYWORD for p in signature):
            break
    return list(dict.fromkeys(names))

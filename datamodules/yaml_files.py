"""YAML files of experiments and flags -> one mapping, as yet unchecked; every mistake is one sentence.

Files are merged in order: mappings merge, everything else replaces, `key+:` appends to a list, and a new `class_path`
starts afresh. `experiments/config.py` checks the result against the constructors.
"""

import difflib
from pathlib import Path
from typing import Any

import yaml

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
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


def find(name: str) -> Path:
    """YAML file as given, else beside run.py.

    Raises:
        ConfigError: If there is none.
    """
    for path in (Path(name), EXPERIMENTS / name):
        if path.is_file():
            return path
    known = sorted(path.name for path in EXPERIMENTS.glob("*.yaml"))
    near = difflib.get_close_matches(Path(name).name, known, n=1)
    raise ConfigError(
        f"There is no file {name}, neither here nor beside run.py{did_you_mean(near)}. Experiments: {', '.join(known)}."
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
                f"{path}: there is no section {key!r}{did_you_mean(near)}. Sections: {', '.join(SECTIONS)}."
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
        if isinstance(key, str) and key.endswith("+"):
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


def combine(contents: list[dict[str, Any]], values: list[tuple[str, Any]]) -> dict[str, Any]:
    """Contents of files, later ones over earlier ones, then the dotted keys of the flags over them all.

    Raises:
        ConfigError: If a flag's first word is no section.
    """
    merged: dict[str, Any] = {}
    for content in contents:
        merged = merge(merged, content)
    for key, value in values:
        if key.split(".")[0] not in SECTIONS:
            near = difflib.get_close_matches(key.split(".")[0], SECTIONS, n=1)
            raise ConfigError(f"There is no flag --{key}{did_you_mean(near)}; flags are keys of the YAML files.")
        for part in reversed(key.split(".")):
            value = {part: value}
        merged = merge(merged, value)
    return merged


def did_you_mean(near: list[str]) -> str:
    """The end of a sentence about an unknown name: empty without a near one."""
    return f"; did you mean {near[0]}?" if near else ""

"""Text and YAML files that users write, read with care: UTF-8, plain values, and one sentence about what is wrong."""

from pathlib import Path
from typing import Any

import yaml

MOST_VALUES, MOST_LEVELS = 1_000_000, 100


class ConfigError(Exception):
    """A user's mistake in a YAML file or a flag."""


class UniqueKeys(yaml.SafeLoader):
    """Plain YAML that does not let the second of two equal keys replace the first in silence; dates are text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping, unless a key comes twice."""
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {twice[0]!r} stands twice in one mapping", node.start_mark
            )
        return super().construct_mapping(node, deep)


UniqueKeys.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def visible(text: str) -> str:
    """Names come from files of any origin: what a terminal would obey, or not show, is an escape; lines stay lines."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without a byte order mark.

    Raises:
        ConfigError: If it is in another encoding, or cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{path} is not in UTF-8 (line {line}, byte 0x{error.object[error.start]:02x}): save it as UTF-8 in the "
            "editor's menu of encodings."
        ) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error


def read_yaml(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        ConfigError: If it is no YAML, or refers to itself.
    """
    return parse_yaml(read_text(path), f"{path} is not valid YAML")


def parse_yaml(text: str, complaint: str) -> Any:
    """What YAML text holds; `complaint` begins the message of a ConfigError."""
    try:
        content = yaml.load(text, UniqueKeys)
        _check_plain(content, (), {})
    except yaml.YAMLError as error:
        said = " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
        raise ConfigError(f"{complaint}: {said.removesuffix('.')}.") from error
    except RecursionError as error:
        raise ConfigError(f"{complaint}: it is nested too deeply.") from error
    except (ValueError, OverflowError) as error:  # from here, or of such as `!!int text`
        raise ConfigError(f"{complaint}: {str(error).removesuffix('.')}.") from error
    return content


def _check_plain(value: Any, holders: tuple[int, ...], sizes: dict[int, int]) -> int:
    """How many values there are, aliases followed; raises ValueError for what no configuration can be made of."""
    if id(value) in holders:
        raise ValueError("an alias (*) stands inside the very list or mapping that it names")
    if len(holders) > MOST_LEVELS:
        raise ValueError("it is nested too deeply")
    if value is not None and not isinstance(value, bool | int | float | str | dict | list):
        raise ValueError(f"{value!r} ({type(value).__name__}) is no number, text, list or mapping")
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in sizes:
        inside = value.values() if isinstance(value, dict) else value
        sizes[id(value)] = 1 + sum(_check_plain(inner, (*holders, id(value)), sizes) for inner in inside)
        if sizes[id(value)] > MOST_VALUES:
            raise ValueError(f"with its aliases it has more than {MOST_VALUES} values")
    return sizes[id(value)]

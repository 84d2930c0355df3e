"""What jsonargparse says about a configuration, in one sentence; of its reports, those that a user's YAML can cause."""

import ast
import difflib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.yaml_files import did_you_mean


def explain(message: str, contents: list[tuple[Path, dict[str, Any]]], classes: dict[str, type]) -> str:
    """jsonargparse's report -> one sentence with the class, the key, the nearest name and the file.

    Args:
        message: Of jsonargparse.
        contents: The files that were read, in which the key is looked for.
        classes: By the names that a user may write; `trainer` for that section.
    """
    owner = (re.findall(r"class_path '([\w.]+)'", message) or [""])[-1].rsplit(".", 1)[-1]
    if option := re.search(r"Option '(\w+)' is not accepted", message):
        names = _parameters(classes.get(owner))
        return _no_such_key(owner, option[1], names, contents)
    if option := re.search(r"Group 'trainer' does not accept option '(\w+)", message):
        return _no_such_key("trainer", option[1], _parameters(classes.get("trainer")), contents)
    if option := re.search(r"Unexpected keys: (\{.*?\})", message):
        key = sorted(ast.literal_eval(option[1]))[0]
        section = re.findall(r'Parser key "(\w+)"', message)[-1]
        return f"{section} has no key {key!r}{_where(key, contents)}: {message.splitlines()[-1].strip()}"
    if option := re.search(r"Expected a dot import path string: (\w+)", message):
        near = difflib.get_close_matches(option[1], classes, n=1)
        return f"There is no class {option[1]!r}{_where(option[1], contents)}{did_you_mean(near)}."
    keys = ".".join(re.findall(r'Parser key "(\w+)"', message))
    value = re.search(r"Expected an? (.*)\. Got value: (.*)", message)
    if value:
        return f"{keys} should be {value[1]}, got {value[2]}{_where(keys.rsplit('.', 1)[-1], contents)}."
    return message


def _no_such_key(owner: str, key: str, names: list[str], contents: list[tuple[Path, dict[str, Any]]]) -> str:
    near = difflib.get_close_matches(key, names, n=1)
    return f"{owner} has no parameter {key!r}{_where(key, contents)}{did_you_mean(near)}. It has: {', '.join(names)}."


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

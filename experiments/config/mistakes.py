"""What is wrong with a configuration, in one sentence: the values and the constructors are walked side by side.

jsonargparse decides whether a configuration is accepted; where it is not, its report names types of Python and the
whole of a section. Here the deepest wrong key is found, with what it may be and the file or flag that it came from.
"""

import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from jsonargparse import ArgumentError, ArgumentParser

from experiments.cli.mistakes import did_you_mean, nearest
from experiments.config.constructors import (
    REQUIRED,
    Parameter,
    alternatives,
    arguments,
    below,
    choices,
    class_named,
    example,
    in_words,
    is_class,
    is_keys,
    is_list,
    made_by,
    parameters,
)

Path = tuple[str, ...]
Sources = Sequence[tuple[str, Mapping[str, Any]]]


class Mistake(NamedTuple):
    """A key or value that a constructor does not take."""

    path: Path
    """Keys from the section on, as a user writes them: without `init_args`."""
    text: str
    """One sentence."""
    null: bool = False
    """Nothing was given where something is needed; jsonargparse lets that pass."""


def explain(message: str, merged: Mapping[str, Any], sources: Sources, sections: Mapping[str, Any]) -> str:
    """A refused configuration -> one sentence with the key, what it should be, what it is, and where it was said.

    Args:
        message: Of jsonargparse, used where nothing is found here.
        merged: The configuration.
        sources: Name and content of each file in order, then of the flags.
        sections: Type of each section.
    """
    untyped = re.search(r"Parameter '(\w+)' from '([\w.]+)\.__init__' does not specify a type", message)
    if untyped:
        name, owner = untyped[1], untyped[2].rpartition(".")[2]
        return (
            f"The argument {name} of {owner}'s constructor has no type, by which a value in YAML could be checked: "
            f"write one there, as in `{name}: str`."
        )
    mistake = find_mistake(merged, sources, sections)
    if mistake is not None:
        return mistake.text
    lines = [line.strip().rstrip(".:") for line in message.splitlines()]
    return "; ".join(line for line in lines if line) + "."


def find_mistake(merged: Mapping[str, Any], sources: Sources, sections: Mapping[str, Any]) -> Mistake | None:
    """The first wrong key of a configuration, deepest where there are several ways to read it."""
    walk = _Walk(merged, sources, sections)
    for key, hint in sections.items():
        if key in merged and (found := walk.value(merged[key], hint, (key,))):
            return found
    return None


def find_key(name: str, merged: Mapping[str, Any], sections: Mapping[str, Any]) -> str | None:
    """Where a configuration takes a key of this name, as a dotted path; the least deep one."""
    level: list[tuple[Path, Any, Any]] = [((key,), hint, merged.get(key)) for key, hint in sections.items()]
    for _ in range(4):
        deeper: list[tuple[Path, Any, Any]] = []
        for path, hint, value in level:
            for key, parameter, given in below(hint, value):
                if key == name:
                    return ".".join((*path, key))
                deeper.append(((*path, key), parameter.hint, given))
        level = deeper
    return None


class _Walk:
    """Walks values and types together and says what does not fit."""

    def __init__(self, merged: Mapping[str, Any], sources: Sources, sections: Mapping[str, Any]) -> None:
        self.merged, self.sources, self.sections = merged, sources, sections

    def value(self, value: Any, hint: Any, path: Path) -> Mistake | None:
        """What is wrong with a value of this type."""
        options = alternatives(hint)
        if value is None:
            fits = any(option in (None, type(None), Any) for option in options)
            return None if fits else self._wrong(value, hint, path)
        found = [self._one(value, option, path, hint) for option in options if option is not type(None)]
        if None in found:
            return None
        deeper = [mistake for mistake in found if len(mistake.path) > len(path)]
        # Of equally deep ones that of a type of the value's own shape: a mapping is meant as one.
        said = deeper or [mistake for mistake in found if mistake.text and len(found) == 1]
        return max(said, key=lambda mistake: len(mistake.path)) if said else self._wrong(value, hint, path)

    def _one(self, value: Any, hint: Any, path: Path, union: Any) -> Mistake | None:
        origin, inner = typing.get_origin(hint), typing.get_args(hint)
        if hint is Any:
            return None
        if origin is Literal:
            return (
                None
                if any(value == option and type(value) is type(option) for option in inner)
                else self._wrong(value, union, path)
            )
        if is_keys(hint):
            return self._keys(value, hint, path, union)
        if made := made_by(hint):
            return self._object(value, made[0], path, union, given=made[1])
        if is_class(hint):
            return self._object(value, hint, path, union)
        if origin is dict and isinstance(value, Mapping):
            return self._mapping(value, inner, path, union)
        if isinstance(value, list) and origin is not dict and is_list(hint):
            return self._list(value, hint, path, union)
        return None if _accepts(value, hint) else self._wrong(value, union, path)

    def _keys(self, value: Any, hint: Any, path: Path, union: Any) -> Mistake | None:
        known = parameters(hint)
        if not isinstance(value, Mapping):
            return self._wrong(value, union, path, self._meant(value, known, path))
        found = self._unknown(value, known, ".".join(path), path, "key")
        return found or self._missing(value, known, ".".join(path), path) or self._each(value, known, path)

    def _object(self, value: Any, base: type, path: Path, union: Any, given: int = 0) -> Mistake | None:
        """An object made by a constructor; `given` arguments come from elsewhere."""
        if not isinstance(value, str | Mapping) or (isinstance(value, Mapping) and _odd(value)):
            return self._wrong(value, union, path)
        name = value if isinstance(value, str) else value.get("class_path")
        cls: Any = base
        if name is not None:
            try:
                cls = class_named(str(name), base)
            except ImportError as error:
                return self._say(path, f"{'.'.join(path)} names the class {name}, which cannot be imported: {error}")
            if not isinstance(cls, type):
                return self._no_class(name, base, path, union)
            if not issubclass(cls, base):
                wanted = f"{'.'.join(path)} should be {in_words(base)}, got {cls.__name__}, which is none"
                return self._say(path, wanted)
        elif base.__name__ not in choices(base):
            return self._say(
                path,
                f"{'.'.join(path)} does not say which class it is: set {'.'.join(path)}.class_path to one of "
                f"{', '.join(choices(base))}",
            )
        known = dict(list(parameters(cls).items())[given:])
        values = arguments(value)
        owner = cls.__name__ if len(path) > 1 or name is not None else path[0]
        found = self._unknown(values, known, owner, path, "parameter")
        return found or self._each(values, known, path) or self._missing(values, known, owner, path)

    def _no_class(self, name: str, base: type, path: Path, union: Any) -> Mistake:
        names = choices(base)
        meant = self._meant(name, parameters(base), path) if base.__name__ in names else ""
        if meant or list(names) == [base.__name__]:  # a value of its parameter, or no choice of classes
            return self._wrong(name, union, path, meant)
        near = nearest(str(name), names)
        place = (*path, "class_path") if self._where((*path, "class_path")) else path
        there = f"There is no class {name!r} for {'.'.join(path)}{self._where(place)}{did_you_mean(near)}"
        return Mistake((*path, "class_path"), f"{there} There are: {in_words(base).removeprefix('a class: ')}.")

    def _mapping(self, value: Mapping, inner: tuple, path: Path, union: Any) -> Mistake | None:
        for key, item in value.items():
            if inner[0] is int and not str(key).lstrip("-").isdigit():
                return self._say((*path, str(key)), f"{'.'.join(path)} should be {in_words(union)}; its key is {key!r}")
            if found := self.value(item, inner[1], (*path, str(key))):
                others = nearest(str(key), [str(other) for other in value if other != key])
                if len(found.path) <= len(path) + 2 and others and not isinstance(item, str):
                    return found._replace(text=f"{found.text} Or did you mean {'.'.join((*path, others[0]))}?")
                return found
        return None

    def _list(self, value: list, hint: Any, path: Path, union: Any) -> Mistake | None:
        inner = typing.get_args(hint)
        fixed = typing.get_origin(hint) is tuple and Ellipsis not in inner
        if fixed and len(value) != len(inner):
            return self._wrong(value, union, path)
        kinds = inner if fixed else [inner[0]] * len(value)
        numbered = [(*path[:-1], f"{path[-1]}[{i}]") for i in range(len(value))]
        for item, kind, place in zip(value, kinds, numbered, strict=True):
            if found := self.value(item, kind, place):
                # A wrong number is told with the whole list; what is wrong inside an object by its own place.
                return found if len(found.path) > len(place) else self._wrong(value, union, path)
        return None

    def _each(self, values: Mapping, known: Mapping[str, Parameter], path: Path) -> Mistake | None:
        for key, value in values.items():
            if found := self.value(value, known[key].hint, (*path, key)):
                return found
        return None

    def _unknown(
        self, values: Mapping, known: Mapping[str, Parameter], owner: str, path: Path, kind: str
    ) -> Mistake | None:
        for key in values:
            if key in known:
                continue
            near = nearest(str(key), known)
            elsewhere = find_key(str(key), self.merged, self.sections) if len(path) == 1 and not near else None
            there = near or ([elsewhere] if elsewhere else [])
            said = f"{owner} has no {kind} {str(key)!r}{self._where((*path, str(key)))}{did_you_mean(there)}"
            has = f"It has: {', '.join(known)}." if known else "It has none."
            if ":" in str(key):
                has += " YAML wants a space behind the colon."
            return Mistake((*path, str(key)), f"{said} {has}")
        return None

    def _missing(self, values: Mapping, known: Mapping[str, Parameter], owner: str, path: Path) -> Mistake | None:
        lacking = [key for key, parameter in known.items() if parameter.default is REQUIRED and key not in values]
        if not lacking:
            return None
        told = "; ".join(f"{key} is {in_words(known[key].hint)}" for key in lacking)
        keys = " and ".join(".".join((*path, key)) for key in lacking)
        needs = f"{owner} needs {' and '.join(lacking)} ({told}): set {keys}"
        return Mistake((*path, lacking[0]), f"{needs}.")

    def _meant(self, value: Any, known: Mapping[str, Parameter], path: Path) -> str:
        """Of a text where a mapping is expected: the key that it is probably the value of."""
        first = next(iter(known), None)
        if isinstance(value, str) and first is not None and str in alternatives(known[first].hint):
            return f"; did you mean {'.'.join((*path, first))}: {value}?"
        return ""

    def _wrong(self, value: Any, hint: Any, path: Path, hint_text: str = "") -> Mistake:
        got = "nothing (null)" if value is None else _shown(value)
        options = alternatives(hint)
        advice = hint_text or _unquoted(value, hint)
        literals = [str(v) for o in options if typing.get_origin(o) is Literal for v in typing.get_args(o)]
        if not advice and isinstance(value, str):
            near = nearest(value, literals)
            advice = f"; did you mean {near[0]}?" if near else ""
        said = f"{'.'.join(path)} should be {in_words(hint)}{example(hint)}, got {got}{self._where(path)}{advice}"
        return Mistake(path, said if said.endswith("?") else f"{said}.", null=value is None)

    def _say(self, path: Path, text: str) -> Mistake:
        return Mistake((*path, "class_path"), f"{text}{self._where((*path, 'class_path')) or self._where(path)}.")

    def _where(self, path: Path) -> str:
        for name, content in reversed(self.sources):
            if _holds(content, path):
                return f" ({name})"
        return ""


def _unquoted(value: Any, hint: Any) -> str:
    """What to do where YAML read something else than the text that was meant, also within lists."""
    for option in alternatives(hint):
        if option is str and isinstance(value, bool):
            return "; YAML reads some words as true and false: put quotes around yes, no, on, off"
        if option is str and isinstance(value, int | float):
            return f"; as text it stands in quotes: {str(value)!r}"
        if isinstance(value, list) and typing.get_origin(option) is not dict:
            for advice in (_unquoted(item, kind) for item in value for kind in typing.get_args(option)):
                if advice:
                    return advice
    return ""


def _odd(value: Mapping) -> bool:
    """Whether `class_path` or `init_args` stand beside keys that are neither."""
    return "class_path" in value and bool(set(value) - {"class_path", "init_args", "dict_kwargs"})


def _accepts(value: Any, hint: Any) -> bool:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        parser.parse_object({"value": value})
    except ArgumentError:
        return False
    return True


def _holds(content: Any, path: Path) -> bool:
    """Whether the content of a file or the flags say something about a key, or give a whole of which it is a part."""
    if not path:
        return True
    key = path[0].partition("[")[0]
    if isinstance(content, list):
        return any(_holds(item, path) for item in content)
    if isinstance(content, str):
        return path == ("class_path",)  # a class named without arguments
    if not isinstance(content, Mapping):
        return False
    for name in (key, f"{key}+", f"{key}="):
        if name in content and _holds(content[name], path[1:]):
            return True
    inner = content.get("init_args")
    return isinstance(inner, Mapping) and _holds(inner, path)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."

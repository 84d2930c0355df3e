"""What constructors say of their arguments: names, types in words, defaults and documentation.

A constructor's signature is the configuration. Help pages and messages about mistakes read it here, so that they say
the same of every class, whoever wrote it.
"""

import importlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union

import docstring_parser

REQUIRED = inspect.Parameter.empty
OPTIONAL = "optional"
UNSAID = ("self", "default_root_dir")  # the latter, Lightning's, is the run folder
PLAIN = (bool, int, float, str, bytes, Path, timedelta, types.NoneType, list, tuple, dict, set, object)
PLURAL = {int: "whole numbers", float: "numbers", str: "texts", Path: "paths", bool: "true or false"}
WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    timedelta: "a duration",
    types.NoneType: "null",
    list: "a list",
    tuple: "a list",
    dict: "a mapping",
}


class Parameter(NamedTuple):
    """An argument of a constructor, or a key of a TypedDict."""

    hint: Any
    """Type; Any where there is none."""
    default: Any
    """REQUIRED where there is none; OPTIONAL of a key that may be left out."""
    text: str
    """Its documentation."""


class Description(NamedTuple):
    """What a class says of itself."""

    text: str
    parameters: dict[str, str]


@cache
def describe(cls: type) -> Description:
    """The docstring of a class, or of its constructor, in parts."""
    parts = [
        docstring_parser.parse(doc) for doc in (cls.__doc__, vars(cls).get("__init__", cls).__doc__) if doc is not None
    ]
    text = next((said for said in map(_free_text, parts) if said), "")
    documented = {p.arg_name: _plain(" ".join((p.description or "").split())) for part in parts for p in part.params}
    return Description(_plain(text), documented)


def _plain(text: str) -> str:
    """Without Sphinx's roles, which Lightning's documentation has."""
    return re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", text).replace("``", "`")


def _free_text(parsed: docstring_parser.Docstring) -> str:
    said = (parsed.short_description, parsed.long_description)
    return "\n\n".join(part.strip() for part in said if part)


@cache
def parameters(cls: type) -> dict[str, Parameter]:
    """Arguments of a class by name, and those of its bases where it passes keyword arguments on.

    Without those that a task has settled, see `Task.settled`.
    """
    if typing.is_typeddict(cls):
        hints = typing.get_type_hints(cls)
        return {
            key: Parameter(h, REQUIRED if key in cls.__required_keys__ else OPTIONAL, "") for key, h in hints.items()
        }
    found: dict[str, Parameter] = {}
    unsaid = {*UNSAID, *getattr(cls, "settled", ())}
    lineage = [base for base in cls.__mro__ if "__init__" in vars(base) and base is not object]
    for base in lineage:
        signature = inspect.signature(base.__init__).parameters.values()
        hints = _hints(base.__init__)
        for p in signature:
            if p.name not in unsaid and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name not in found:
                text = _documented(p.name, cls, base)
                found[p.name] = Parameter(hints.get(p.name, Any), p.default, text)
        if not any(p.kind == p.VAR_KEYWORD for p in signature):
            break
    return found


def _hints(function: Callable) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError):  # a name that is imported for type checkers alone
        return {}


def _documented(name: str, cls: type, base: type) -> str:
    """What `cls`, or else the class of the constructor, says of an argument; "See `Other`" is looked up there."""
    told = (describe(other).parameters.get(name) for other in (cls, *base.__mro__))
    text = next((said for said in told if said), "")
    for other in cls.__mro__:
        reference = f"See `{other.__name__}`"
        if text.startswith(reference):
            rest = text.removeprefix(reference).lstrip(";,. ")
            there = describe(other).parameters.get(name, "")
            return f"{there.removesuffix('.')}; {rest}" if rest else there
    return text


def subclasses(cls: type) -> dict[str, type]:
    """`cls` and all imported classes below it, by name."""
    found = {cls.__name__: cls}
    for child in cls.__subclasses__():
        found |= subclasses(child)
    return found


def choices(cls: type) -> dict[str, type]:
    """The classes that may stand where `cls` is expected: neither abstract nor private nor the runner's own."""
    return {
        name: found
        for name, found in sorted(subclasses(cls).items())
        if not inspect.isabstract(found)
        and not name.startswith("_")
        and not found.__module__.startswith("experiments.")
        and not _unfinished(found)
    }


def _unfinished(cls: type) -> bool:
    """A base that is meant to be derived from, such as Task or Callback: without methods, or with none to construct."""
    if not cls.__subclasses__():
        return False
    methods = filter(inspect.isfunction, vars(cls).values())
    unwritten = any("NotImplementedError" in method.__code__.co_names for method in methods)
    return unwritten or not any("__init__" in vars(base) for base in cls.__mro__[:-1])


def class_named(name: str, base: type) -> type | None:
    """The class that a user names, shortly among those below `base`, or by its dotted path; None if there is none.

    Raises:
        ImportError: If the module of a dotted path cannot be imported.
    """
    known = subclasses(base)
    if name in known:
        return known[name]
    module, _, last = name.rpartition(".")
    if not module or not all(part.isidentifier() for part in name.split(".")):
        return None
    return getattr(importlib.import_module(module), last, None)


def is_class(hint: Any) -> bool:
    """Whether values of this type are objects made by a constructor, written as class_path and init_args."""
    return (
        isinstance(hint, type) and hint not in (*PLAIN, Any) and typing.get_origin(hint) is None and not is_keys(hint)
    )


def is_keys(hint: Any) -> bool:
    """Whether it is a mapping with certain keys."""
    return typing.is_typeddict(hint)


def is_list(hint: Any) -> bool:
    """Whether it holds values of certain types, one after the other."""
    origin = typing.get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, typing.Iterable) and bool(typing.get_args(hint))


def made_by(hint: Any) -> tuple[type, int] | None:
    """Of a callable type: the class that it makes, and how many arguments are given to it elsewhere."""
    if typing.get_origin(hint) is not Callable or len(typing.get_args(hint)) != 2:
        return None
    given, made = typing.get_args(hint)
    return (made, len(given)) if isinstance(given, list) and is_class(made) else None


def alternatives(hint: Any) -> list[Any]:
    """The types of a union, or the one type."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        return [inner for option in typing.get_args(hint) for inner in alternatives(option)]
    if typing.get_origin(hint) in (typing.Required, typing.NotRequired, typing.Annotated):
        return alternatives(typing.get_args(hint)[0])
    return [hint]


def in_words(hint: Any, *, short: bool = False) -> str:
    """A type as one says it: `int | None` -> "a whole number or null"; `short` does not list classes and keys."""
    options = alternatives(hint)
    for narrow, wide in ((int, float), (str, Path)):
        if narrow in options and wide in options:
            options.remove(narrow)
    literals = [
        value for option in options if typing.get_origin(option) is Literal for value in typing.get_args(option)
    ]
    words = [_one_in_words(option, short) for option in options if typing.get_origin(option) is not Literal]
    if literals:
        listed = ", ".join(str(value) for value in dict.fromkeys(map(str, literals)))
        words.insert(0, listed if len(literals) == 1 else f"one of {listed}")
    words.sort(key=lambda word: word == "null")
    return " or ".join(dict.fromkeys(words))


def _one_in_words(hint: Any, short: bool) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint in WORDS:
        return WORDS[hint]
    if hint is Any:
        return "anything"
    if is_keys(hint):
        return "a mapping" if short else f"a mapping with {', '.join(parameters(hint))}"
    if made := made_by(hint):
        return _one_in_words(made[0], short)
    if is_class(hint):
        if short:
            return f"{'an' if hint.__name__[0] in 'AEIOU' else 'a'} {hint.__name__}"
        names = list(choices(hint))
        if names and names != [hint.__name__]:
            return "a class: " + _few(names)
        return f"a mapping of {hint.__name__}'s parameters"
    if origin is tuple and inner and Ellipsis not in inner:
        count = {1: "one", 2: "two", 3: "three", 4: "four"}.get(len(inner), str(len(inner)))
        kind = PLURAL.get(inner[0], "values") if len(set(inner)) == 1 else "values"
        return f"a list of {count} {kind}"
    if origin is dict:
        return f"a mapping of {'whole numbers' if inner[0] is int else 'names'} to {_several(inner[1])}"
    if origin in (list, tuple, set) or (isinstance(origin, type) and issubclass(origin, typing.Iterable)):
        return f"a list of {_several(inner[0])}" if inner else "a list"
    return str(getattr(hint, "__name__", hint)).removeprefix("typing.")


def _few(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:12])} and {len(names) - 12} more"


def _several(hint: Any) -> str:
    options = alternatives(hint)
    if all(option in PLURAL for option in options):
        return " or ".join(dict.fromkeys(PLURAL[option] for option in options))
    if any(typing.get_origin(option) is dict for option in options):
        return "mappings"
    if Any in options:
        return "anything"
    if typing.get_origin(hint) in (list, tuple):
        return f"lists, each {in_words(hint)}"
    named = next((made_by(option) or (option, 0) for option in options if made_by(option) or is_class(option)), None)
    return f"{named[0].__name__}s" if named else "values"


def example(hint: Any) -> str:
    """The end of a sentence about a type, for types that people write in other ways."""
    for option in alternatives(hint):
        inner = typing.get_args(option)
        if typing.get_origin(option) is tuple and inner in ((int, int), (float, float)):
            return ", such as [256, 192]" if inner == (int, int) else ", such as [0.5, 1.5]"
        if typing.get_origin(option) is list:
            return {str: ", such as [first, second]", float: ", such as [0.5, 1.0]"}.get(
                inner[0] if inner else None, ""
            )
    return ""


def chosen(value: Any, base: type) -> type | None:
    """The class that a configuration names where `base` is expected; `base` itself where it names none."""
    name = value if isinstance(value, str) else value.get("class_path") if isinstance(value, Mapping) else None
    if name is None:
        return base
    try:
        found = class_named(str(name), base)
    except ImportError:
        return None
    return found if isinstance(found, type) else None


def arguments(value: Any) -> dict[str, Any]:
    """The arguments in a configuration of an object, with or without `init_args`."""
    if not isinstance(value, Mapping):
        return {}
    if "class_path" in value or "init_args" in value:
        inner = value.get("init_args")
        return dict(inner) if isinstance(inner, Mapping) else {}
    return dict(value)


def below(hint: Any, value: Any, *, lists: bool = False) -> Iterator[tuple[str, Parameter, Any]]:
    """Keys one level below a type, for the class that the value names: each with what is said of it, and its value.

    With `lists` those of a list of objects are the parameters of the first.
    """
    for option in alternatives(hint):
        base = (made_by(option) or (option, 0))[0]
        origin, inner = typing.get_origin(option), typing.get_args(option)
        if is_keys(option):
            known, values = parameters(option), value if isinstance(value, Mapping) else {}
        elif is_class(base):
            known, values = parameters(chosen(value, base) or base), arguments(value)
        elif origin is dict and isinstance(value, Mapping):
            known, values = {str(key): Parameter(inner[1], REQUIRED, "") for key in value}, value
        elif lists and is_list(option) and is_class(inner[0]):
            found = next((item for item in value if isinstance(item, Mapping)), {}) if isinstance(value, list) else {}
            known, values = parameters(chosen(found, inner[0]) or inner[0]), arguments(found)
        else:
            continue
        yield from ((key, parameter, values.get(key)) for key, parameter in known.items())


def kept_arguments(bases: Sequence[type]) -> Callable[[str, str], set[str]]:
    """(class before, class now) -> what the latter takes if it is derived from the former, else nothing."""

    def kept(before: str, now: str) -> set[str]:
        for base in bases:
            old, new = chosen(before, base), chosen(now, base)
            if old is not None and new is not None and new is not old and issubclass(new, old):
                return set(parameters(new))
        return set()

    return kept

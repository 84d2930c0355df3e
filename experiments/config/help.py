"""What `--help`, `--model.help` or `--data.augmentation.help` print: constructors, as they document themselves.

The question's keys are followed through the configuration, so that a class named in a YAML file is the one explained.
"""

import shutil
import textwrap
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import ArgumentParser

from datamodules.loading.text_files import ConfigError
from experiments.cli.mistakes import did_you_mean, nearest
from experiments.config.constructors import (
    OPTIONAL,
    REQUIRED,
    Parameter,
    alternatives,
    below,
    choices,
    chosen,
    class_named,
    describe,
    in_words,
    is_class,
    is_keys,
    made_by,
    parameters,
)

MERGING = """\
Files are merged from left to right, and flags come last. Mappings merge; lists and values are replaced. `key+:` appends
to a list, `key=:` (as a flag: --key= VALUE) replaces a whole mapping, and so does a file's table whose keys are numbers
(id_map). A new class_path drops the arguments of the one before, unless it is derived from it: then it keeps what it
takes. What is dropped is said.
Flags are keys of the YAML files, without init_args: --model.optimizer.lr 1.0e-3 --data.image_size '[256, 192]'.
--print_config shows the result."""


def help_page(
    question: str,
    words: Sequence[str],
    merged: Mapping[str, Any],
    sections: Mapping[str, Parameter],
    parser: ArgumentParser,
) -> str:
    """The page for a flag that ends in `help`.

    Args:
        question: The flag.
        words: Behind it: perhaps the name of a class.
        merged: Configuration so far, as yet unchecked.
        sections: Type, default and documentation of each section.
        parser: Of the command, for its usage.

    Raises:
        ConfigError: If there is no such key or class.
    """
    path, equals, name = question.removeprefix("--").partition("=")
    keys = [key for key in path.split(".")[:-1] if key != "init_args"]
    name = name if equals else next((word for word in words if not word.startswith("-")), "")
    if not keys:
        return _overview(merged, sections, parser)
    hint, value, parameter = _follow(keys, merged, sections)
    return _page(".".join(keys), hint, value, parameter, name)


def _follow(
    keys: list[str], merged: Mapping[str, Any], sections: Mapping[str, Parameter]
) -> tuple[Any, Any, Parameter]:
    """Type, value so far, and documentation of a key."""
    known = {key: (section, merged.get(key)) for key, section in sections.items()}
    owner = "The configuration"
    for at, key in enumerate(keys):
        key = key.rstrip("+=")
        if key not in known:
            near = nearest(key, known)
            raise ConfigError(f"{owner} has no key {key!r}{did_you_mean(near)} It has: {', '.join(known)}.")
        parameter, value = known[key]
        owner = ".".join(keys[: at + 1])
        known = {name: (inner, given) for name, inner, given in below(parameter.hint, value, lists=True)}
    return parameter.hint, value, parameter


def _base(hint: Any) -> tuple[Any, int]:
    """The class or TypedDict that a type has parameters of, and how many are given elsewhere; None for plain types."""
    for option in alternatives(hint):
        inner = typing.get_args(option)
        if is_keys(option) or is_class(option):
            return option, 0
        if made := made_by(option):
            return made
        for part in inner:
            found = _base(part) if part is not hint else (None, 0)
            if found[0] is not None and not is_keys(found[0]):
                return found
    return None, 0


def _page(key: str, hint: Any, value: Any, parameter: Parameter, name: str) -> str:
    base, given = _base(hint)
    if base is None:
        return _entry(f"--{key}", parameter)
    if is_keys(base):
        return f"--{key}: {describe(base).text}\n\n{_entries(key, parameters(base))}"
    cls = _asked_for(key, base, name) if name else chosen(value, base) or base
    names = choices(base)
    lines = []
    shown = cls.__name__ in names
    if shown:
        lines += [f"--{key}: {cls.__name__}", "", describe(cls).text, ""]
        lines.append(_entries(key, dict(list(parameters(cls).items())[given:])))
    else:
        lines += [f"--{key}: {in_words(hint, short=True)}", *filter(None, [_indented(parameter.text)])]
    others = {} if name else {label: other for label, other in names.items() if other is not cls}
    if others:
        lines += ["", f"{'Other classes' if shown else 'Classes'}, each explained by --{key}.help NAME:", ""]
        lines += [_line(f"  {label}", _first(describe(other).text)) for label, other in others.items()]
    return "\n".join(lines)


def _asked_for(key: str, base: type, name: str) -> type:
    try:
        cls = class_named(name, base)
    except ImportError as error:
        raise ConfigError(f"--{key}.help {name}: {error}.") from error
    if not isinstance(cls, type):
        near = nearest(name, choices(base))
        raise ConfigError(
            f"There is no class {name!r} for {key}{did_you_mean(near)} There are: {', '.join(choices(base))}."
        )
    return cls


def _entries(key: str, known: Mapping[str, Parameter]) -> str:
    return "\n".join(_entry(f"--{key}.{name}", parameter) for name, parameter in known.items())


def _entry(flag: str, parameter: Parameter) -> str:
    base = _base(parameter.hint)[0]
    what = in_words(parameter.hint)
    if base is not None and len(what) > 60:
        what = in_words(parameter.hint, short=True)
    default = parameter.default
    state = {REQUIRED: "required", OPTIONAL: "optional"}.get(_key(default)) or f"default {_plain(default)}"
    more = f" {flag}.help says more." if base is not None else ""
    told = parameter.text + more
    return "\n".join(filter(None, [f"  {flag}  {what}; {state}", _indented(told.strip())]))


def _first(text: str) -> str:
    """The first sentence or paragraph, on one line."""
    return " ".join(text.split("\n\n")[0].split()).split(". ")[0]


def _key(value: Any) -> Any:
    return value if value is REQUIRED or value is OPTIONAL else None


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _indented(text: str) -> str:
    width = min(shutil.get_terminal_size().columns, 120)
    return textwrap.fill(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6) if text else ""


def _line(start: str, text: str) -> str:
    width = min(shutil.get_terminal_size().columns, 120)
    return textwrap.fill(f"{start}  {text}", width, subsequent_indent=" " * 6)


def _overview(merged: Mapping[str, Any], sections: Mapping[str, Parameter], parser: ArgumentParser) -> str:
    lines = [parser.format_usage().strip(), "", parser.description or "", "", MERGING, "", "Sections:"]
    for key, section in sections.items():
        hint = section.hint
        base, _ = _base(hint)
        if base is None:
            lines.append(_entry(f"--{key}", section))
            continue
        cls = base if is_keys(base) else chosen(merged.get(key), base) or base
        now = f"here {cls.__name__}" if cls is not base else in_words(hint) if len(choices(base)) > 1 else ""
        lines.append(f"  --{key}.help  {now}".rstrip())
        lines.append(_indented(section.text))
    lines += ["", "Keys of the trainer (Lightning's), each explained by --trainer.KEY.help:"]
    names = [f"--trainer.{key}" for key in parameters(sections["trainer"].hint)]
    lines.append(
        textwrap.fill("  ".join(names), 120, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    )
    return "\n".join(lines)

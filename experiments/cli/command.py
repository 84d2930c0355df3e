"""A command is a function: signature and docstring say which words it takes, and every command ends in one way.

    def split(run: str, task: str, checkpoint: Path, *, import_: tuple[str, ...] = ()) -> Task: ...

    main = partial(call, split)       # main(["RUN", "pose", "pose.ckpt"]) -> Task, for notebooks and tests
    command = partial(run, split)     # the same with the words of the process -> exit status

| parameter                              | words                                                                     |
|----------------------------------------|---------------------------------------------------------------------------|
| `task: str`, `checkpoint: Path`        | one word each, in order                                                   |
| `runs: list[str]`                      | one or more words; none where there is a default                          |
| `*words: str`                          | whatever is no flag of the command's own: files, and flags of the runner  |
| `*, trials: int = 3`                   | `--trials 3`; `-` for `_` is taken too                                    |
| `*, overwrite: bool = False`           | `--overwrite`                                                             |
| `*, decode: bool = True`               | `--decode false`                                                          |
| `*, split: Literal["val", "test"]`     | `--split test`                                                            |
| `*, save: list[str] | None = None`     | `--save masks overlays`                                                   |
| `*, size: tuple[int, int] | None`      | `--size 256 192`                                                          |
| `*, import_: tuple[str, ...] = ()`     | `--import mine --import yours`                                            |

`--debug` shows the traceback of a mistake; `--help` prints the module's docstring, and what that of the function says
of each parameter.
"""

import importlib
import inspect
import os
import re
import signal
import sys
import time
import types
import typing
from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import docstring_parser

from experiments.cli.mistakes import (
    Mistake,
    Stopped,
    debugging,
    did_you_mean,
    is_of_another_process,
    nearest,
    sentence_of,
)
from experiments.cli.shown import say

FILES_FIRST = "%(prog)s EXPERIMENT.yaml [OVERLAY.yaml ...] [options] [--key value ...]"
"""Usage of commands that hand words on to the runner."""


PATIENCE = 2.0
"""Seconds that a process which has lost another one gives that one to say why, so that the cause stands first."""


def call(function: Callable, argv: Sequence[str] | None = None) -> Any:
    """What a function returns for the words of a command line; those of the process when not given.

    Raises:
        Mistake: If a word is not understood, or one is missing.
        SystemExit: After help.
    """
    parameters = inspect.signature(function, eval_str=True).parameters
    parser = _parser(function, parameters)
    words = [_underscored(word, parameters) for word in (sys.argv[1:] if argv is None else argv)]
    found, left = parser.parse_known_args(words)
    values = {name: value for name, value in vars(found).items() if name != "debug"}
    if left and not any(p.kind == p.VAR_POSITIONAL for p in parameters.values()):
        flags = [f"--{_flag(p)}" for p in parameters.values() if p.kind == p.KEYWORD_ONLY]
        near = nearest(left[0].partition("=")[0], flags) if left[0].startswith("-") else []
        raise Mistake(f"{parser.prog} does not take {left[0]!r}{did_you_mean(near)} See {parser.prog} --help")
    in_order = [values.pop(p.name) for p in parameters.values() if p.kind != p.KEYWORD_ONLY and p.name in values]
    return function(*in_order, *left, **values)


def run(function: Callable) -> int:
    """Exit status of a command that is called with the words of the process."""
    return status(partial(call, function))


def status(entry: Callable[[], object]) -> int:
    """Exit status: 0, or the number returned; 2 with one sentence for a user's mistake; 128 + the signal that ended it.

    Raises:
        Exception: A bug, whose traceback is needed.
    """
    try:
        found = entry()
    except Stopped as stop:
        return 128 + stop.number
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except SystemExit as leaving:
        if isinstance(leaving.__context__, KeyboardInterrupt):  # Lightning turns it into an exit of its own
            return 128 + signal.SIGINT
        raise
    except Exception as error:
        sentence = None if debugging() else sentence_of(error)
        if sentence is None:
            raise
        if is_of_another_process(error):
            time.sleep(PATIENCE)
        say(f"error: {sentence}", error=True)
        return 2
    return found if type(found) is int else 0


def program(module: str) -> str:
    """What a command calls itself: as it was started, `hrnet compare` or `python -m experiments.compare`."""
    return sys.argv[0] if sys.argv and sys.argv[0].startswith("hrnet ") else f"python -m {module}"


class _Parser(ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        """A sentence like any other; argparse would print the usage and leave."""
        raise Mistake(f"{message}; see {self.prog} --help")


def _parser(function: Callable, parameters: typing.Mapping[str, inspect.Parameter]) -> ArgumentParser:
    module = sys.modules[function.__module__]
    said = {p.arg_name: p.description or "" for p in docstring_parser.parse(function.__doc__ or "").params}
    hands_on = any(p.kind == p.VAR_POSITIONAL for p in parameters.values())
    parser = _Parser(
        prog=program(re.sub(r"\.(commandline|__main__)$", "", module.__spec__.name if module.__spec__ else "")),
        usage=FILES_FIRST if hands_on else None,
        description=module.__doc__,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=SUPPRESS,  # what is not said is the function's own affair
    )
    for p in parameters.values():
        if p.kind == p.VAR_POSITIONAL:
            continue
        options = {"type": true_or_false} if p.default is True else _options(p.annotation)
        text = " ".join(said.get(p.name, "").split()).replace("%", "%%")
        if p.kind == p.KEYWORD_ONLY:
            shown = "" if p.default in (None, ()) or p.default is False else f" (default: {p.default})"
            if "type" in options:
                options["metavar"] = _flag(p).upper()
            parser.add_argument(f"--{_flag(p)}", dest=p.name, help=text + shown, **options)
        else:
            if p.default is not p.empty:
                options["nargs"] = "*" if "nargs" in options else "?"
            parser.add_argument(p.name, help=text, **options)
    if not hands_on:  # else it is the runner's
        parser.add_argument("--debug", action="store_true", help="Show the traceback of a mistake.")
    return parser


def true_or_false(word: str) -> bool:
    """What a word says; ValueError if it is neither."""
    if word.lower() not in ("true", "false"):
        raise ValueError(word)
    return word.lower() == "true"


def _options(hint: Any) -> dict[str, Any]:
    """What argparse is told of a type."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (option for option in typing.get_args(hint) if option is not types.NoneType)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is bool:
        return {"action": "store_true"}
    if origin is Literal:
        return {"choices": inner}
    if origin is list:
        return {"nargs": "+", **_options(inner[0])}
    if origin is tuple and inner[-1] is Ellipsis:
        return {"action": "append", **_options(inner[0])}
    if origin is tuple:
        return {"nargs": len(inner), **_options(inner[0])}
    return {"type": hint}


def _flag(parameter: inspect.Parameter) -> str:
    return parameter.name.rstrip("_")  # `import_`, since Python has the word for itself


def _underscored(word: str, parameters: typing.Mapping[str, inspect.Parameter]) -> str:
    """A flag of the command's own that is written with hyphens, as it is called in Python."""
    key, equals, value = word.partition("=")
    name = key.removeprefix("--").replace("-", "_")
    own = key.startswith("--") and any(name == _flag(p) for p in parameters.values() if p.kind == p.KEYWORD_ONLY)
    return f"--{name}{equals}{value}" if own else word


# The command `hrnet`: the commands as words. `hrnet --help` lists them, at once.


class Command(NamedTuple):
    """A word and what it starts."""

    module: str
    """With `command()`, which gives the exit status."""
    text: str
    """What it does, for the list."""


COMMANDS = {
    "run": Command("experiments.run", "Train, evaluate and resume an experiment: run pose_coco.yaml sample.yaml"),
    "predict": Command("experiments.predict", "Predict on photos and videos with a trained or published model"),
    "compare": Command("experiments.compare", "Runs side by side: terminal, HTML, Markdown, CSV"),
    "errors": Command("experiments.errors", "What kinds of mistakes a run makes, how many, and where"),
    "check": Command("datamodules.check", "Everything that is wrong with the files of a data set"),
    "convert": Command("datamodules.convert", "Other labelling tools' files as a folder that trains"),
    "sweep": Command("experiments.sweep", "Search hyperparameters"),
    "split": Command("experiments.split", "One task of a joint run as a checkpoint of its own"),
    "export": Command("experiments.export", "A run as a file that runs without this project: ONNX, torch, OpenVINO"),
    "benchmark": Command("experiments.benchmark", "Times against other implementations on this machine"),
    "wandb_report": Command("experiments.wandb_report", "A saved comparison in W&B"),
}
ACTIONS = ("fit", "validate", "test")
"""Of `run`, taken as words of their own."""


def main(argv: Sequence[str] | None = None) -> int:
    """Start a command; its exit status, or 2 with one sentence where there is no such command."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_page())
        return 0 if words else 2
    if words[0] == "--version":
        print(_version())
        return 0
    if words[0] in ACTIONS:
        words = ["run", *words]
    name, *rest = words
    if name not in COMMANDS:
        print(f"error: {_unknown(name)}", file=sys.stderr)
        return 2
    # Before torch and albumentations are imported, as in `experiments.run`.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    sys.argv = [f"hrnet {name}", *rest]
    module = importlib.import_module(COMMANDS[name].module)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # classes of the user's own, as `python -m` finds them
    return int(module.command() or 0)


def _page() -> str:
    width = max(map(len, COMMANDS))
    lines = ["usage: hrnet COMMAND ...", "", "HRNet, one backbone for many tasks. Commands:", ""]
    lines += [f"  {name:<{width}}  {command.text}" for name, command in COMMANDS.items()]
    lines += [
        "",
        "`hrnet COMMAND --help` says more. `hrnet validate ...` and `hrnet test ...` are short for `hrnet run`",
    ]
    lines += ["with that word. Every command is a module too: python -m experiments.run, python -m datamodules.check."]
    return "\n".join(lines)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("hrnet-lightning")
    except PackageNotFoundError:
        return "not installed: run from its folder"


def _unknown(name: str) -> str:
    known = ", ".join(COMMANDS)
    if name.endswith((".yaml", ".yml")):
        return f"{name} is no command; did you mean `hrnet run {name}`? Commands: {known}."
    near = nearest(name, [*COMMANDS, *ACTIONS])
    return f"There is no command {name!r}{did_you_mean(near)} Commands: {known}."

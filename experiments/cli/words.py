"""The command `hrnet`: the commands of this folder as words. `hrnet --help` lists them, at once.

hrnet run pose_coco.yaml sample.yaml
hrnet predict runs/pose_coco/20260101-120000-abcdef photo.jpg
"""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from experiments.cli.mistakes import did_you_mean, nearest


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
    "sweep": Command("experiments.sweep", "Search hyperparameters"),
    "split": Command("experiments.split", "One task of a joint run as a checkpoint of its own"),
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

"""Prediction on photos and videos, one file a task. `python -m experiments.predict --help` says how."""

from collections.abc import Sequence
from typing import Any

__all__ = ["command", "main"]


def main(argv: Sequence[str] | None = None) -> Any:
    """The command as `commandline.py` has it; what it returns."""
    from experiments.predict.commandline import main as predict

    return predict(argv)


def command() -> int:
    """`main` with the exit status of a command."""
    from experiments.predict.commandline import command as predict

    return predict()

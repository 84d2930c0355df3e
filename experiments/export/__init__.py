"""Turn a trained network into a file that runs without this project: torch.export (pt2), ONNX or OpenVINO."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["command", "export", "main"]


def export(run: str, **options: Any) -> dict[str, Path]:
    """The files of a run; options as `commandline.py` has them."""
    from experiments.export.commandline import export

    return export(run, **options)


def main(argv: Sequence[str] | None = None) -> dict[str, Path]:
    """The command as `commandline.py` has it; what it returns."""
    from experiments.export.commandline import main

    return main(argv)


def command() -> int:
    """`main` with the exit status of a command."""
    from experiments.export.commandline import command

    return command()

"""The data doctor: reads a data set and says everything that is wrong with it. `python -m datamodules.check --help`."""

from collections.abc import Sequence

from datamodules.check.doctor import check
from datamodules.check.plots import draw_distributions
from datamodules.check.report import Report

__all__ = ["Report", "check", "command", "draw_distributions", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """The command, as `__main__.py` has it: the only file here that knows of the experiments' YAML files."""
    from datamodules.check.__main__ import main as command

    return command(argv)


def command() -> int:
    """`main` with the exit status of a command."""
    from datamodules.check.__main__ import command as check_data

    return check_data()

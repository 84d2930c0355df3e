"""Other labelling tools' files become a folder that trains. `python -m datamodules.convert --help`."""

from collections.abc import Sequence

from datamodules.convert.conversion import Converted, convert
from datamodules.convert.labeller import PointLabeller

__all__ = ["Converted", "PointLabeller", "command", "convert", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """The command, as `__main__.py` has it: the only file here that knows of the experiments."""
    from datamodules.convert.__main__ import main as command

    return command(argv)


def command() -> int:
    """`main` with the exit status of a command."""
    from datamodules.convert.__main__ import command as convert_labels

    return convert_labels()

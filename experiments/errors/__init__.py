"""What kinds of mistakes a run makes, how many, and where. `python -m experiments.errors --help`."""

from experiments.errors.commandline import command, errors, main

__all__ = ["command", "errors", "main"]

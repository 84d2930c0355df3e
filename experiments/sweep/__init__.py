"""Search of hyperparameters. `python -m experiments.sweep --help`."""

from experiments.sweep.commandline import command, main

__all__ = ["command", "main"]

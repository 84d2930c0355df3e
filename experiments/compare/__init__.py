"""Runs side by side: terminal, HTML, Markdown, CSV. `python -m experiments.compare --help`."""

from experiments.compare.commandline import command, compare, main

__all__ = ["command", "compare", "main"]

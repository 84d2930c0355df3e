"""The command line: commands as words (`hrnet run ...`) and as functions, and a user's mistakes as sentences."""

from experiments.cli.command import call, program, run, status
from experiments.cli.words import COMMANDS, main

__all__ = ["COMMANDS", "call", "main", "program", "run", "status"]

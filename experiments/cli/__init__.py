"""The command line: commands as words (`hrnet run ...`) and as functions, and a user's mistakes as sentences."""

from experiments.cli.command import COMMANDS, call, main, program, run, status

__all__ = ["COMMANDS", "call", "main", "program", "run", "status"]

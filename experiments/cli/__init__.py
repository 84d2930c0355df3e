"""The command line: commands as words (`hrnet run ...`), and a user's mistakes as sentences."""

from experiments.cli.words import COMMANDS, main, program

__all__ = ["COMMANDS", "main", "program"]

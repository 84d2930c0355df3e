"""Times against other implementations on this machine. `python -m experiments.benchmark --help`."""

from experiments.benchmark.commandline import BENCHMARKS, command, main, report

__all__ = ["BENCHMARKS", "command", "main", "report"]

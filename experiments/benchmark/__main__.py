"""`python -m experiments.benchmark`."""

import sys

from experiments.benchmark.commandline import command

sys.exit(command())

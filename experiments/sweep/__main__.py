"""`python -m experiments.sweep`."""

import sys

from experiments.sweep.commandline import command

sys.exit(command())

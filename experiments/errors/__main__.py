"""`python -m experiments.errors`."""

import sys

from experiments.errors.commandline import command

sys.exit(command())

"""`python -m experiments.export`."""

import sys

from experiments.export.commandline import command

sys.exit(command())

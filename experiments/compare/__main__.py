"""`python -m experiments.compare`."""

import sys

from experiments.compare.commandline import command

sys.exit(command())

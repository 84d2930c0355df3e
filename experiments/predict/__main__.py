"""`python -m experiments.predict`."""

import sys

from experiments.predict.commandline import command

sys.exit(command())

"""`python -m experiments.cli`, as the console script `hrnet`."""

import sys

from experiments.cli.command import main

sys.exit(main())

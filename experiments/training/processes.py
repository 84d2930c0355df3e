"""Several processes of one job: what they cannot do, and that none of them outlives the others.

Lightning's launcher starts a process for each further device. When one of these fails, it ends the first; when the
first is killed, they would wait for it, in the worst case for half an hour. A process that is in the middle of a
collective learns at once that another one has gone (`experiments/cli/mistakes.py` has the sentence); here is the rest.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from jsonargparse import Namespace
from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_only

from experiments.config import ConfigError

FIRST = "HRNET_FIRST_PROCESS"
"""Number of the process that starts the others, in their environment."""
GRACE = 10.0
"""Seconds that a process has to end by itself after the first has gone."""


def check_processes(trainer: Trainer, config: Namespace) -> None:
    """Refuse what several processes cannot do.

    Args:
        trainer: Of the run.
        config: Of the run.

    Raises:
        ConfigError: If batch norm is to be synchronised without GPUs.
    """
    if config.trainer.sync_batchnorm and trainer.world_size > 1 and trainer.strategy.root_device.type == "cpu":
        raise ConfigError(
            f"trainer.sync_batchnorm is true, and torch synchronises batch norm on GPUs only; this run has "
            f"{trainer.world_size} processes on the CPU: set trainer.sync_batchnorm to false."
        )


@contextmanager
def together() -> Iterator[None]:
    """Within the block, a process that was started by the first of its job ends soon after that one has."""
    if rank_zero_only.rank == 0:
        os.environ[FIRST] = str(os.getpid())
    done = threading.Event()
    if rank_zero_only.rank and os.environ.get(FIRST) == str(os.getppid()):
        threading.Thread(target=_end_with_first, args=(os.getppid(), done), daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _end_with_first(first: int, done: threading.Event) -> None:
    while os.getppid() == first:
        if done.wait(1.0):
            return
    if not done.wait(GRACE):
        print(
            f"error: The first process of this job ({first}) has ended, so this one cannot go on; what was saved is "
            "whole: go on with --resume.",
            file=sys.stderr,
            flush=True,
        )
        os.kill(os.getpid(), signal.SIGKILL)  # the main thread may wait in a collective that nothing else ends

"""A life: one process, or one for each rank, forked from a parent that has imported everything.

It is the real command from there on: words, signals, files, exit status. Only the import of torch is spared.
"""

import atexit
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn

from lightning.pytorch.utilities import rank_zero_only

from experiments.run import command, main
from tests.resume.moments import CLOCK, Moment, Struck

HANGS = 240.0
"""Seconds after which a life that does not end is a failure."""
MOURNING = 30.0
"""Seconds within which all processes of a job have to end after one did."""


class Life(NamedTuple):
    """How it ended."""

    statuses: list[int]
    """Of each process, as a shell has them."""
    seconds: float
    said: str


class Hung(Exception):
    """A life that had to be ended from outside."""


def live(
    words: Sequence[str],
    processes: int,
    moment: Moment | None,
    log: Path,
    counted: Path | None = None,
    scratch: str | None = None,
) -> Life:
    """Run the command until it ends, or is ended.

    Args:
        words: Of the command line.
        processes: How many.
        moment: Of its end; None to leave it alone.
        log: File for what it prints.
        counted: See `Struck`.
        scratch: TMPDIR.

    Raises:
        Hung: If a process lives on.
    """
    began = time.monotonic()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {} if scratch is None else {"TMPDIR": scratch}
    log.write_bytes(b"")
    born: list[int] = []
    for rank in range(processes):
        sys.stdout.flush()
        ranked = {"LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1"}
        ranked = {key: str(value) for key, value in (ranked | {"MASTER_PORT": port}).items()} if processes > 1 else {}
        child = os.fork()
        if child == 0:
            struck = moment if moment is not None and moment.rank in (None, rank) else None
            _be(words, struck, log, counted if rank == 0 else None, environment | ranked, rank, born[0] if born else 0)
        born.append(child)
        with suppress(OSError):
            os.setpgid(child, born[0])
    try:
        return _ended(born, moment, began, log)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(born[0], signal.SIGKILL)


def _ended(born: list[int], moment: Moment | None, began: float, log: Path) -> Life:
    """Strike if it is to be done from here, and wait for all processes."""
    statuses: dict[int, int] = {}
    strikes = []
    if moment is not None and moment.place == CLOCK:
        strikes = [began + moment.when, *([began + moment.when + moment.again] if moment.again is not None else [])]
    first_end = None
    while len(statuses) < len(born):
        for rank, child in enumerate(born):
            if child not in statuses:
                found, status = os.waitpid(child, os.WNOHANG)
                if found:
                    statuses[child] = os.waitstatus_to_exitcode(status)
                    first_end = first_end or time.monotonic()
                elif strikes and time.monotonic() >= strikes[0] and moment.rank in (None, rank):
                    os.kill(child, moment.number)
        now = time.monotonic()
        if strikes and now >= strikes[0]:
            strikes.pop(0)
        if now - began > HANGS or (first_end is not None and now - first_end > MOURNING):
            said = log.read_text(errors="replace")[-2000:]
            raise Hung(f"after {now - began:.0f} s there are {len(born) - len(statuses)} processes left\n{said}")
        time.sleep(0.005)
    # As a shell has them: 128 + the number of the signal that ended it.
    shown = [128 - statuses[child] if statuses[child] < 0 else statuses[child] for child in born]
    return Life(shown, time.monotonic() - began, log.read_text(errors="replace"))


def _be(
    words: Sequence[str],
    moment: Moment | None,
    log: Path,
    counted: Path | None,
    environment: dict[str, str],
    rank: int,
    group: int,
) -> NoReturn:
    """The child's part: become a command that was started in a shell."""
    status = 70
    try:
        os.setpgid(0, group)
        file = os.open(log, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.environ |= environment
        rank_zero_only.rank = rank  # which is read from the environment when Lightning is imported
        sys.argv = ["experiments.run", *words]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        struck = Struck(moment, counted) if moment is None or moment.place != CLOCK else None
        status = command(partial(main, None, [struck] if struck else []))
    except BaseException:  # as Python itself would end
        traceback.print_exc()
        status = 1
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
            atexit._run_exitfuncs()
        os._exit(status)

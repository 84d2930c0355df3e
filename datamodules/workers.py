"""Who reads: a loader's processes in training, threads where many files are looked at once.

OpenCV and Pillow release Python's lock while they decode, so a thread a core keeps all of them busy.
"""

import atexit
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import cv2

Job, Result = TypeVar("Job"), TypeVar("Result")


def available_cores() -> int:
    """How many cores this process may use."""
    # A container or batch system may grant fewer cores than the machine has; only Linux can say so.
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def start_worker(_: int) -> None:
    """What a loader's process does first; its argument is the number of the process."""
    # One process per core is the parallelism; OpenCV's threads would only compete (torch limits its own in workers).
    cv2.setNumThreads(0)
    # Ctrl-C and a batch system's SIGTERM reach every process of a job. The training ends its step first, which needs
    # the loaders; these end with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@atexit.register
def _end_workers() -> None:
    # Python ends what loaders are left by SIGTERM, which they ignore, and would wait for them.
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


def in_threads(work: Callable[[Job], Result], jobs: Sequence[Job], title: str = "") -> list[Result]:
    """Results of `work` for all jobs in order, a thread a core; with a title and a terminal, under a progress bar."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    shown = bool(title) and console.is_terminal
    results: list[Result] = []
    with (
        Progress(*columns, console=console, transient=True, disable=not shown) as progress,
        ThreadPoolExecutor(available_cores()) as pool,
    ):
        task = progress.add_task(title, total=len(jobs))
        for start in range(0, len(jobs), 512):  # a million jobs at once would be a million waiting objects
            results += pool.map(work, jobs[start : start + 512])
            progress.update(task, completed=len(results))
    return results

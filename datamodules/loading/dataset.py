"""Samples and who reads them: what a data set writes, how samples become the batch of `base.py`, processes and threads.

Draws follow from the run's seed, the epoch and the number of the sample alone, see `samplers.py`. A loader's processes
read in training; where many files are looked at once it is threads, since OpenCV and Pillow release Python's lock while
they decode.
"""

import atexit
import multiprocessing
import os
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from datamodules.loading.samplers import stream

LISTED = ("boxes", "labels", "masks")
FILL = (124, 116, 104)
"""RGB beside an image that does not fill the canvas of its batch: the mean colour, which normalised is about zero."""
Job, Result = TypeVar("Job"), TypeVar("Result")


class BaseDataset(Dataset, ABC):
    """Map-style data set whose random draws follow from (global seed, epoch, index) alone, see `samplers.py`.

    So neither the number of workers nor what ran before changes a sample, and a resumed run draws what the
    uninterrupted one would have drawn. Subclasses write `__len__` and `sample`.
    """

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Sample `index` as the module's table says; every random draw comes from `rng`."""

    def name(self, index: int) -> str:
        """What reports call a sample: its file, where a data set says so."""
        return f"sample {index}"

    def group(self, index: int) -> int:
        """Of which of several kinds a sample is, where batches are to be of one kind each."""
        return 0

    def __getitem__(self, key: int | tuple[int, ...] | None) -> dict[str, Any]:
        """The sample for an index, or for the (index, epoch, ...) that a training sampler yields; nothing for None."""
        if key is None:
            return {}
        index, *words = key if isinstance(key, tuple) else (key,)
        return self.sample(int(index), stream("sample", *words, int(index)))


class First(BaseDataset):
    """The first `count` samples of a data set."""

    def __init__(self, dataset: BaseDataset, count: int) -> None:
        self.dataset, self.count = dataset, min(count, len(dataset))

    def __len__(self) -> int:
        return self.count

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """The sample of the whole data set."""
        return self.dataset.sample(index, rng)

    def name(self, index: int) -> str:
        """As the whole data set calls it."""
        return self.dataset.name(index)

    def group(self, index: int) -> int:
        """As in the whole data set."""
        return self.dataset.group(index)


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """The batch of `samples`, see the module's table; detection's keys stay lists. No samples are an empty batch.

    Images with a `size` may differ in height and width: they are padded at the bottom and at the right.
    """
    if not any(samples):
        return {}
    if "size" in samples[0]:
        samples = _padded(samples)
    listed = {key: [torch.as_tensor(sample[key]) for sample in samples] for key in LISTED if key in samples[0]}
    batch = default_collate([{key: value for key, value in sample.items() if key not in listed} for sample in samples])
    batch["image"] = batch["image"].permute(0, 3, 1, 2)
    return batch | listed


def _padded(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The samples with images, and masks, of the largest height and width among them."""
    shapes = [sample["image"].shape[:2] for sample in samples]
    height, width = map(max, zip(*shapes, strict=True))
    if set(shapes) == {(height, width)}:
        return samples
    padded = []
    for sample, shape in zip(samples, shapes, strict=True):
        bottom, right = height - shape[0], width - shape[1]
        image = cv2.copyMakeBorder(sample["image"], 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=FILL)
        padded.append(sample | {"image": image})
        if "masks" in sample:
            padded[-1]["masks"] = np.pad(sample["masks"], ((0, 0), (0, bottom), (0, right)))
    return padded


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
    # Python ends what loaders are left by SIGTERM, which they ignore, and would wait for them. torch takes the end of
    # one for an accident, and would raise an error in whatever runs now.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
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


def errors_of(dataset: BaseDataset, title: str) -> list[tuple[int, str]]:
    """Number and error of each sample that cannot be read; all are read, under a progress bar of that title."""

    def error_of(index: int) -> str:
        try:
            dataset[index]
        except Exception as error:  # whatever is said about a damaged file is a finding, and the others are read
            return f"{type(error).__name__}: {error}"
        return ""

    return [(i, error) for i, error in enumerate(in_threads(error_of, range(len(dataset)), title)) if error]

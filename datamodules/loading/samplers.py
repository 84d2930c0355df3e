"""Which sample comes when, and what it draws: all of it follows from the seed, so that a resumed run goes on alike.

Random numbers come from streams, one for each use, and for each sample of each epoch. A stream follows from (the run's
seed, what it is for, its key) alone, so neither the number of workers nor what ran before changes a draw. Within a
sample everything draws from the sample's one stream, one after the other: two libraries seeded with one number would
draw alike, and a mirrored image would tell where it was cut.

    rng = stream("sample", epoch, index)
    draw_from(rng, albumentations_compose)

Samplers are DistributedSamplers, which Lightning leaves in place; the loaders have them with one process too.
"""

import itertools
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import numpy as np
import torch.distributed as dist
from torch.utils.data import Dataset, DistributedSampler

Use = Literal["sample", "order", "turns"]


def global_seed() -> int:
    """The seed of this run: the one given to `seed_everything`, else 0."""
    return int(os.environ.get("PL_GLOBAL_SEED") or 0)


def stream(use: Use, *key: int) -> np.random.Generator:
    """The generator of a use and a key; no two share their numbers, keys of unlike lengths included.

    Args:
        use: `sample` for what a sample draws, `order` for the order of samples, `turns` for that of joint tasks.
        key: Numbers from zero, such as epoch and index.
    """
    # Not default_rng((seed, *key)): numpy pads that with zeros, so that (seed, epoch) and (seed, epoch, 0) are one.
    words = (get_args(Use).index(use), *key)
    return np.random.default_rng(np.random.SeedSequence(global_seed(), spawn_key=words))


def draw_from(rng: np.random.Generator, compose: Any) -> None:
    """Let an albumentations composition, and all within it, draw from `rng` until the next call.

    Its own `set_random_seed` gives each transform the same seed, so that all of them draw the same numbers.
    """
    compose.set_random_state(rng, random.Random(int(rng.integers(2**63))))


@contextmanager
def global_draws(rng: np.random.Generator) -> Iterator[None]:
    """Let Python's and numpy's global generators follow from `rng` within the block, and be as before after it."""
    before = random.getstate(), np.random.get_state()
    random.seed(int(rng.integers(2**63)))
    np.random.seed(int(rng.integers(2**32)))
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


def world() -> tuple[int, int]:
    """(number of processes, rank of this one); (1, 0) when nothing is distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size(), dist.get_rank()
    return 1, 0


def reached_by(trainer: Any) -> tuple[int, int]:
    """(epoch that is running or comes next, batches of it that are behind) of a Lightning trainer."""
    epochs = trainer.fit_loop.epoch_progress.current
    within = epochs.processed < epochs.ready
    return epochs.processed, trainer.fit_loop.epoch_loop.batch_progress.current.processed if within else 0


class TrainingSampler(DistributedSampler):
    """Shuffled passes over the samples, an epoch one or so many of their samples; yields (index, pass), which seeds it.

    It is a DistributedSampler, so Lightning neither replaces it nor forgets to call `set_epoch`. With several
    processes a pass is padded from its start to a multiple of their number.

    Args:
        dataset: What is sampled.
        num_replicas: Number of processes.
        rank: Of this process.
        samples: Samples an epoch on each process, from an endless row of passes; None makes an epoch of one pass.
        start: (epoch, samples of it) that a resumed training has behind it.
        part: Number of the data set within a joint run, yielded too, so that no two draw the same order or
            augmentation; None for one that stands alone.
    """

    def __init__(
        self,
        dataset: Dataset,
        num_replicas: int = 1,
        rank: int = 0,
        *,
        samples: int | None = None,
        start: tuple[int, int] = (0, 0),
        part: int | None = None,
    ) -> None:
        super().__init__(dataset, num_replicas, rank, seed=global_seed())
        self.samples = self.num_samples if samples is None else samples
        self.start, self.part = start, () if part is None else (part,)
        self.set_epoch(start[0])

    def __len__(self) -> int:
        return self.samples

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        first = self.epoch * self.samples
        behind = self.start[1] if self.start[0] == self.epoch else 0
        current, order = -1, np.empty(0, int)
        for position in range(first + behind, first + self.samples):
            turn, place = divmod(position, self.num_samples)
            if turn != current:
                current, order = turn, self.order(turn)[self.rank :: self.num_replicas]
            yield int(order[place]), turn, *self.part

    def batch(self, epoch: int, number: int, size: int) -> list[int]:
        """The samples of a batch of this process, by its number in the epoch."""
        self.set_epoch(epoch)
        return [index for index, *_ in itertools.islice(self, number * size, (number + 1) * size)]

    def order(self, turn: int) -> np.ndarray:
        """(total_size,) the samples of a pass, those of all processes by turns."""
        shuffled = stream("order", turn, *self.part).permutation(len(self.dataset))
        return np.resize(shuffled, self.total_size)


class GroupedSampler(TrainingSampler):
    """As `TrainingSampler`, but every batch is of one group of samples, such as those of landscape images.

    In a pass, the samples of each group are shuffled, and padded from their start to whole batches on all processes.
    The batches of all groups are shuffled then.

    Args:
        dataset: What is sampled, whose `group` says of which group a sample is.
        num_replicas: Number of processes.
        rank: Of this process.
        batch_size: Samples a batch and process.
        **options: See `TrainingSampler`; `samples` and the samples of `start` are whole batches.
    """

    def __init__(self, dataset: Any, num_replicas: int = 1, rank: int = 0, *, batch_size: int, **options: Any) -> None:
        groups = np.array([dataset.group(index) for index in range(len(dataset))])
        self.groups = [np.flatnonzero(groups == group) for group in np.unique(groups)]
        self.step = batch_size * num_replicas
        whole = sum(-(-len(group) // self.step) for group in self.groups) * batch_size
        super().__init__(dataset, num_replicas, rank, **{"samples": None, **options})
        if options.get("samples") is None:
            self.samples = whole
        self.num_samples, self.total_size = whole, whole * num_replicas

    def order(self, turn: int) -> np.ndarray:
        """(total_size,) the samples of a pass; each stretch of a batch of all processes is of one group."""
        rng = stream("order", turn, *self.part)
        rows = [np.resize(rng.permutation(g), -(-len(g) // self.step) * self.step) for g in self.groups]
        batches = np.concatenate(rows).reshape(-1, self.step)
        return rng.permutation(batches).ravel()


class EvaluationSampler(DistributedSampler):
    """Every sample exactly once over all processes, in contiguous blocks.

    Blocks keep the samples of one image next to each other, so that its decoded pixels can be used again.

    Args:
        dataset: What is evaluated.
        num_replicas: Number of processes.
        rank: Of this process.
        evened: End a block that is one sample shorter than others with None, which stands for no sample: see
            `even_batch_size`, for batches that cannot have another size than 1.
    """

    def __init__(self, dataset: Dataset, num_replicas: int = 1, rank: int = 0, *, evened: bool = False) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=False)
        blocks = np.array_split(np.arange(len(dataset)), num_replicas)
        self.block: list[int | None] = blocks[rank].tolist()
        if evened and len(self.block) < len(blocks[0]):
            self.block.append(None)

    def __iter__(self) -> Iterator[int | None]:
        return iter(self.block)

    def __len__(self) -> int:
        return len(self.block)


def even_batch_size(count: int, num_replicas: int, batch_size: int) -> int:
    """The size nearest to `batch_size`, smaller ones first, that gives every process equally many batches.

    DistributedDataParallel broadcasts the batch-norm buffers at every forward pass, in evaluation too, so a process
    with one batch more than the others would wait for them for ever. Blocks differ by one sample at most; they differ
    in their number of batches only where the size divides the smaller block.
    """
    smaller, uneven = divmod(count, num_replicas)
    if not uneven:
        return batch_size
    return next(size for size in (*range(batch_size, 1, -1), *range(batch_size + 1, smaller + 3)) if smaller % size)

"""Which sample comes when: an order that follows from (seed, epoch), and evaluation that meets every sample once.

Both are DistributedSamplers, which Lightning leaves in place; the loaders of `base.py` use them, in one process too.
"""

from collections.abc import Iterator

import numpy as np
import torch.distributed as dist
from torch.utils.data import Dataset, DistributedSampler

from datamodules.draws import global_seed, stream


def world() -> tuple[int, int]:
    """(number of processes, rank of this one); (1, 0) when nothing is distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size(), dist.get_rank()
    return 1, 0


class TrainingSampler(DistributedSampler):
    """Shuffles anew every epoch and yields (index, epoch), which seeds the sample's own draws.

    It is a DistributedSampler, so Lightning neither replaces it nor forgets to call `set_epoch`. With several
    processes the order is padded from its start to a multiple of their number.

    Args:
        dataset: What is sampled.
        num_replicas: Number of processes.
        rank: Of this process.
        start: (epoch, samples of it) that a resumed training has behind it.
    """

    def __init__(self, dataset: Dataset, num_replicas: int = 1, rank: int = 0, start: tuple[int, int] = (0, 0)) -> None:
        super().__init__(dataset, num_replicas, rank, seed=global_seed())
        self.start = start
        self.set_epoch(start[0])

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = stream("order", self.epoch).permutation(len(self.dataset))
        skip = self.start[1] if self.start[0] == self.epoch else 0
        for index in np.resize(order, self.total_size)[self.rank :: self.num_replicas][skip:]:
            yield int(index), self.epoch


class EvaluationSampler(DistributedSampler):
    """Every sample exactly once over all processes, without padding, in contiguous blocks.

    Blocks keep the samples of one image next to each other, so that its decoded pixels can be used again.
    """

    def __init__(self, dataset: Dataset, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=False)
        self.block = np.array_split(np.arange(len(dataset)), num_replicas)[rank]

    def __iter__(self) -> Iterator[int]:
        return iter(self.block.tolist())

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

"""One sample after the other: what a data set writes, its first samples, and how samples become the batch of `base.py`.

Draws follow from the run's seed, the epoch and the number of the sample alone, see `samplers.py`.
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from datamodules.samplers import stream

LISTED = ("boxes", "labels", "masks")


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

    def __getitem__(self, key: int | tuple[int, ...]) -> dict[str, Any]:
        """The sample for an index, or for the (index, epoch, ...) that a training sampler yields."""
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


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """The batch of `samples`, see the module's table; detection's keys stay lists."""
    listed = {key: [torch.as_tensor(sample[key]) for sample in samples] for key in LISTED if key in samples[0]}
    batch = default_collate([{key: value for key, value in sample.items() if key not in listed} for sample in samples])
    batch["image"] = batch["image"].permute(0, 3, 1, 2)
    return batch | listed

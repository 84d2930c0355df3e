"""Weighted means of values by name, over batches and processes: losses of an evaluation, averages of an epoch."""

import torch
from torch import Tensor
from torchmetrics import Metric


class WeightedMean(Metric):
    """Sum of values times weights over the sum of weights, in double precision where the device has it."""

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        zero = torch.zeros((), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
        self.add_state("total", zero, dist_reduce_fx="sum")
        self.add_state("weight", zero.clone(), dist_reduce_fx="sum")  # made there: a copy would wait for a GPU

    def update(self, value: Tensor, weight: float) -> None:
        """Add a scalar."""
        self.total += value.to(self.total.dtype) * weight
        self.weight += weight

    def compute(self) -> Tensor:
        """The mean; nan if a value was."""
        return self.total / self.weight


class Means:
    """Means by name; a name is known from its first value on.

    Lightning's own epoch means divide by the whole part of the batch sizes' mean over processes, which is wrong where
    these differ, and a resumed epoch would forget the batches before.
    """

    def __init__(self) -> None:
        self._means: dict[str, WeightedMean] = {}

    @property
    def names(self) -> list[str]:
        """Of the means."""
        return list(self._means)

    def update(self, values: dict[str, Tensor], weight: float = 1.0) -> None:
        """Add detached scalars, each the mean of `weight` samples."""
        for name, value in values.items():
            if name not in self._means:
                self._means[name] = WeightedMean(value.device)
            self._means[name].update(value, weight)

    def compute(self) -> dict[str, float]:
        """The means; every process calls it, and each has met the same names."""
        return {name: mean.compute().item() for name, mean in self._means.items() if mean.update_called}

    def reset(self) -> None:
        """Forget all values."""
        for mean in self._means.values():
            mean.reset()

    def state(self) -> dict[str, list[float]]:
        """{name: [total, weight]} over all processes, as plain data, of what has any; every process calls it."""
        found = {}
        for name, mean in self._means.items():
            with mean.sync_context():
                if mean.weight:
                    found[name] = [mean.total.item(), mean.weight.item()]
        return found

    def load(self, state: dict[str, list[float]], device: torch.device, *, known: bool = False) -> None:
        """Go on from a state.

        Args:
            state: Of all processes.
            device: Of the means.
            known: Of several processes one takes the values; the others learn the names alone, since those that one
                process knows and another does not would be gathered by the one and never arrive.
        """
        for name, (total, weight) in state.items():
            if weight:
                mean = self._means[name] = WeightedMean(device)
                mean.update(torch.zeros((), device=device), 0.0 if known else weight)
                mean.total += 0.0 if known else total

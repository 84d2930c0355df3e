"""Batch-norm statistics for each task of a joint run: images of different data sets have different means.

Scales and shifts stay shared; only the running mean and variance are a task's own.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class TaskNorms(nn.Module):
    """A copy of a network's batch-norm statistics, which takes their place while a task runs.

    Args:
        network: Its own statistics are what the copy begins with, and are left alone from then on.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        for name, value in _statistics(network):
            self.register_buffer(name.replace(".", "/"), value.clone())

    def copy_from(self, network: nn.Module) -> None:
        """Begin anew with the network's own statistics."""
        for name, value in _statistics(network):
            self._buffers[name.replace(".", "/")].copy_(value)

    def copy_to(self, network: nn.Module) -> None:
        """Make these the network's own statistics."""
        for name, value in _statistics(network):
            value.copy_(self._buffers[name.replace(".", "/")])

    @contextmanager
    def in_use(self, network: nn.Module) -> Iterator[None]:
        """Context in which the network reads and moves these statistics."""
        kept = []
        for path, norm in _norms(network):
            kept.append((norm, dict(norm._buffers)))
            for key in norm._buffers:
                norm._buffers[key] = self._buffers[f"{path}.{key}".replace(".", "/")]
        try:
            yield
        finally:
            for norm, buffers in kept:
                norm._buffers.update(buffers)


def _norms(network: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    return ((path, module) for path, module in network.named_modules() if isinstance(module, _BatchNorm))


def _statistics(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for path, norm in _norms(network):
        for key, value in norm._buffers.items():
            if isinstance(value, torch.Tensor):
                yield f"{path}.{key}", value

"""Statistics of batch norm in training: where they are, and from which step on they are fixed.

A batch is normalised by its own statistics while it trains, and by the running means when it is evaluated. Of two
images a batch the first say little, and of several data sets the second fit none: from some step on the running means
are used in training too, and no longer move, while scales and shifts go on being trained.
"""

import math
from typing import Any

from torch import nn


def norms_of(network: nn.Module) -> dict[str, nn.Module]:
    """The batch norms of a network by their place in it."""
    kinds = (nn.BatchNorm2d, nn.SyncBatchNorm)
    return {path: module for path, module in network.named_modules() if isinstance(module, kinds)}


def checked_share(share: float) -> float:
    """The share of a training in which statistics are fixed.

    Raises:
        ValueError: If it is none.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"frozen_statistics is {share}: expected a share of the training, from 0 to 1.")
    return share


def first_frozen_step(share: float, trainer: Any) -> float:
    """The step from which statistics are fixed, `inf` for none.

    Raises:
        ValueError: If the training has no end of which it could be a share.
    """
    if share in (0, 1):
        return 0 if share else math.inf
    steps = trainer.estimated_stepping_batches
    if steps == math.inf:
        raise ValueError("frozen_statistics needs an end: set trainer.max_epochs or trainer.max_steps.")
    return round((1 - share) * steps)

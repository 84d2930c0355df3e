"""What of a backbone stays as it is while it trains: all of it for some epochs, or its batch norm's statistics.

A batch is normalised by its own statistics while it trains, and by the running means when it is evaluated. Of two
images a batch the first say little, and of several data sets the second fit none: from some step on the running means
are used in training too, and no longer move, while scales and shifts go on being trained.
"""

import math
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn


def norms_of(network: nn.Module) -> dict[str, nn.Module]:
    """The batch norms of a network by their place in it."""
    kinds = (nn.BatchNorm2d, nn.SyncBatchNorm)
    return {path: module for path, module in network.named_modules() if isinstance(module, kinds)}


class Freezing(Callback):
    """Fixes parts of a module's `backbone` in training.

    Args:
        backbone: Fix all of it, batch norm included: true for good, an integer for so many epochs.
        statistics: Share of the training, at its end, in which batch norm uses its running statistics and leaves them
            as they are.

    Raises:
        ValueError: If the share is none.
    """

    def __init__(self, backbone: bool | int = False, statistics: float = 0.0) -> None:
        if not 0 <= statistics <= 1:
            raise ValueError(f"frozen_statistics is {statistics}: expected a share of the training, from 0 to 1.")
        self.backbone, self.statistics = backbone, statistics
        self.frozen = False
        """Whether all of the backbone is fixed now."""
        self.first_step = math.inf
        """From which on statistics are fixed."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Before a strategy asks which parameters have gradients."""
        if stage == "fit" and self.backbone:
            self._freeze(trainer, pl_module, True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the step; an epoch that a resumed run is within has begun before."""
        self.on_train_epoch_start(trainer, pl_module)
        self.first_step = _first_step(self.statistics, trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze or unfreeze the backbone."""
        if not isinstance(self.backbone, bool):
            self._freeze(trainer, pl_module, trainer.current_epoch < self.backbone)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> None:
        """Fix statistics that are to be fixed."""
        if trainer.global_step >= self.first_step:
            for norm in norms_of(pl_module.get_submodule("backbone")).values():
                norm.eval()

    def _freeze(self, trainer: Trainer, pl_module: LightningModule, frozen: bool) -> None:
        if frozen and not isinstance(self.backbone, bool) and trainer.world_size > 1:
            raise ValueError(
                "freeze_backbone for a number of epochs works in one process only, since distributed training fixes at "
                "its start which parameters have gradients: train with freeze_backbone: true, then start a second run "
                "with weights: from it."
            )
        self.frozen = frozen
        backbone = pl_module.get_submodule("backbone")
        backbone.requires_grad_(not frozen)
        backbone.train(pl_module.training and not frozen)


def _first_step(share: float, trainer: Trainer) -> float:
    """The step from which statistics are fixed, `inf` for none."""
    if share in (0, 1):
        return 0 if share else math.inf
    steps = trainer.estimated_stepping_batches
    if steps == math.inf:
        raise ValueError("frozen_statistics needs an end: set trainer.max_epochs or trainer.max_steps.")
    return round((1 - share) * steps)

"""A look at a few training samples before training starts, so that silent failures are told at once.

Labels that are missing, misread or of other images train without an error and end in a useless model hours later.
"""

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

SAMPLES = 16


class Preflight(Callback):
    """Shows the task a few training samples, spread over the data set; the task says what is wrong with them."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises ValueError where training could not work."""
        if trainer.is_global_zero:
            pl_module.check(trainer.datamodule.preview(SAMPLES))

"""On a GPU: a loss that is NaN is told from gradients that overflow by their scale, in float16."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback

from experiments.run import main
from experiments.training.nonfinite import NonFiniteLoss

HALF = (
    "[{class_path: lightning.pytorch.plugins.MixedPrecision, init_args: {precision: 16-mixed, device: cuda, scaler: "
    "{class_path: torch.amp.GradScaler, init_args: {device: cuda, init_scale: 3.0e+38}}}}]"
)
WORDS = [
    *["pose_coco.yaml", "sample.yaml", "debug.yaml", "--wandb.mode", "disabled", "--trainer.accelerator", "gpu"],
    *["--trainer.devices", "1", "--trainer.max_epochs", "3", "--trainer.limit_train_batches", "6"],
]


class Spoil(Callback):
    """Makes a weight of the head NaN before a step.

    Args:
        step: Which.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """At that step."""
        if trainer.global_step == self.step:
            pl_module.head.weight.data[0] = float("nan")


def test_a_scale_that_is_too_high_is_lowered(gpu: torch.device, tmp_path: Path) -> None:
    trainer = main([*WORDS, "--trainer.plugins", HALF, "--runs", str(tmp_path)])
    assert trainer.global_step == 18
    assert trainer.precision_plugin.scaler.get_scale() < 3e38


@pytest.mark.parametrize("flags", [[], ["--trainer.plugins", HALF.replace("3.0e+38", "1024.0")]])
def test_a_loss_that_is_no_number_stops(flags: list[str], gpu: torch.device, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLoss, match=r"step 8 \(epoch 1, batch 2\): it reached head\.weight"):
        main([*WORDS, *flags, "--runs", str(tmp_path)], [Spoil(8)])

"""What a training does with a loss that is NaN or infinite: it stops before the step, or leaves the step out.

Both say at which step it was, of which files the batch is, and which parameter it reached first. The loss is looked at
unscaled: with `precision: 16-mixed`, gradients that overflow since their scale is too high are left out by the scaler
itself, which lowers the scale, and are no fault of the loss.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor

from experiments.cli.mistakes import Mistake
from experiments.cli.shown import say

Policy = Literal["stop", "skip"]
MOST = 20
"""Steps in a row that are left out, before a training that learns nothing more is stopped."""
SHOWN = 8  # files that are named
STATISTICS = (".running_mean", ".running_var")


class NonFiniteLoss(Mistake):
    """A loss that is NaN or infinite; the message says where, and what may be the cause."""


class FiniteLoss(Callback):
    """Looks at the loss of each step before the optimiser takes it.

    Without a scaler the value is copied to the host while the backward pass runs, so a GPU does not wait for it; with
    one it is looked at after the step, which the scaler has left out where gradients are not finite.

    Args:
        policy: `stop` ends the training and leaves its last checkpoint as it was; `skip` takes the step's gradients
            away, and gives the buffers (the statistics of batch norm) the values from before the step.
    """

    def __init__(self, policy: Policy = "stop") -> None:
        self.policy = policy
        self.in_a_row = 0
        self.step = self.batch = 0
        self._flags: list[tuple[Tensor, torch.cuda.Event | None]] = []
        self._buffers: list[Tensor] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep the place, and what a forward pass changes."""
        self.step, self.batch = trainer.global_step, batch_idx
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._flags = []
            if self.policy == "skip":
                self._buffers = [buffer.detach().clone() for buffer in pl_module.buffers()]

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Ask for the value, without waiting for it."""
        if not _scaled(trainer):
            self._flags.append(_asked(loss, trainer))

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Raises NonFiniteLoss, or takes the gradients away, if a loss of this step was not finite."""
        if not _scaled(trainer) and self._any():
            self._handle(trainer, pl_module)
            for parameter in pl_module.parameters():
                parameter.grad = None
        elif not _scaled(trainer):
            self.in_a_row = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The same with a scaler, which has left the step out."""
        if not _scaled(trainer) or not isinstance(outputs, dict) or "loss" not in outputs:
            return
        self._flags.append(_asked(outputs["loss"], trainer))
        if self._any():
            self._handle(trainer, pl_module)
        else:
            self.in_a_row = 0

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Raises NonFiniteLoss rather than let weights that are no numbers take the place of those that are."""
        learned = {name for name, _ in pl_module.named_parameters()}
        for name, value in checkpoint["state_dict"].items():
            if (name in learned or name.endswith(STATISTICS)) and not value.isfinite().all():
                raise NonFiniteLoss(
                    f"{name} is NaN or infinite after step {trainer.global_step}, so no checkpoint is written in place "
                    f"of the one before. {CAUSES}"
                )

    def _any(self) -> bool:
        """Whether a loss since the last optimiser step was not finite, on any process."""
        flags, self._flags = self._flags, []
        found = False
        for flag, copied in flags:
            if copied is not None:
                copied.synchronize()
            found = found or bool(flag.item())
        return found

    def _handle(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.in_a_row += 1
        where = "; ".join(_everywhere(self._where(trainer, pl_module)))
        said = f"The loss is NaN or infinite at {where}."
        spoilt = [name for name, value in pl_module.named_parameters() if not value.isfinite().all()]
        if self.policy == "stop" or spoilt or self.in_a_row > MOST:
            why = f" These are {self.in_a_row} steps in a row." if self.in_a_row > MOST else ""
            why = f" {spoilt[0]} itself is NaN or infinite before the step." if spoilt else why
            raise NonFiniteLoss(f"{said}{why} {CAUSES}")
        for buffer, before in zip(pl_module.buffers(), self._buffers, strict=True):
            buffer.copy_(before)
        if trainer.is_global_zero:
            say(f"{said} The step is left out.")

    def _where(self, trainer: Trainer, pl_module: LightningModule) -> str:
        """Step, parameter and files of this process."""
        data: Any = trainer.datamodule
        batches = range(self.batch - self.batch % trainer.accumulate_grad_batches, self.batch + 1)
        names = [name for number in batches for name in data.training_names(trainer.current_epoch, number)]
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        process = f", process {trainer.global_rank}" if trainer.world_size > 1 else ""
        place = f"step {self.step} (epoch {trainer.current_epoch}, batch {self.batch}{process})"
        first = next(_reached(pl_module), "no parameter")
        return f"{place}: it reached {first}; the batch is of {', '.join(names[:SHOWN])}{more}"


CAUSES = (
    "Look at the files (python -m datamodules.check), lower the optimizer's lr or set trainer.gradient_clip_val; "
    "--nonfinite_loss skip leaves such steps out. The last checkpoint is of before: go on with --resume."
)


def _scaled(trainer: Trainer) -> bool:
    plugin = trainer.precision_plugin
    return isinstance(plugin, MixedPrecision) and plugin.scaler is not None


def _asked(loss: Tensor, trainer: Trainer) -> tuple[Tensor, torch.cuda.Event | None]:
    """Whether a loss is not finite on any process, on its way to the host, and when it is there."""
    flag: Any = (~loss.detach().isfinite()).to(torch.float32)
    if trainer.world_size > 1:  # else some would leave a step out that others take
        flag = trainer.strategy.reduce(flag, reduce_op="max")
    if flag.device.type != "cuda":
        return flag, None
    flag, copied = flag.to("cpu", non_blocking=True), torch.cuda.Event()
    copied.record()
    return flag, copied


def _reached(pl_module: LightningModule) -> Iterator[str]:
    """Parameters that are not finite, then those whose gradient is not."""
    for name, parameter in pl_module.named_parameters():
        if not parameter.isfinite().all():
            yield name
    for name, parameter in pl_module.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            yield f"the gradient of {name}"


def _everywhere(text: str) -> list[str]:
    """What every process says."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return [text]
    texts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(texts, text)
    return texts

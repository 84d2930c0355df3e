"""What every run does beside training: a look at samples before, its learning rate, a summary of what learns."""

from collections.abc import Iterator
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.table import Table
from torch import nn

from tasks.draw import print_tables

SAMPLES = 16  # that are looked at


class Preflight(Callback):
    """Shows the task a few training samples, spread over the data set; the task says what is wrong with them.

    Labels that are missing, misread or of other images train without an error and end in a useless model hours later.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises ValueError where training could not work."""
        if trainer.is_global_zero:
            pl_module.check(trainer.datamodule.preview(SAMPLES))


class LearningRate(Callback):
    """Logs the rate of each step as `lr`, whatever optimiser, schedule and groups of parameters a run has.

    It is the highest rate of any group, which is that of the head where `lr_scales` or `layer_decay` give others less;
    the lowest is then logged beside it.
    """

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Before the step, so that it stands in one row with the step's loss."""
        rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
        pl_module.log("lr", max(rates), on_step=True, on_epoch=False)
        if min(rates) < max(rates):
            pl_module.log("lr_lowest", min(rates), on_step=True, on_epoch=False)


class PartsSummary(Callback):
    """Prints the parts of a task that have parameters, at the start of a training."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A row a part, and the sum."""
        if not trainer.is_global_zero:
            return
        table = Table("part", "type", "parameters", "trained")
        for column in table.columns[2:]:
            column.justify = "right"
        seen: set[int] = set()
        rows = [(name, part, _counts(part, seen)) for name, part in _parts(pl_module)]
        for name, part, (parameters, trained) in rows:
            if parameters:
                table.add_row(name, type(part).__name__, _millions(parameters), _millions(trained))
        table.add_section()
        sums = [sum(counts[i] for _, _, counts in rows) for i in (0, 1)]
        table.add_row("all", type(pl_module).__name__, *map(_millions, sums))
        print_tables(table)


def _parts(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Children by name, containers opened."""
    for name, part in module.named_children():
        if isinstance(part, nn.ModuleDict | nn.ModuleList):
            yield from _parts(part, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", part


def _counts(part: nn.Module, seen: set[int]) -> tuple[int, int]:
    """Parameters, and those that are trained, that no part before has (tasks share a backbone)."""
    new = [parameter for parameter in part.parameters() if id(parameter) not in seen]
    seen.update(id(parameter) for parameter in new)
    return sum(p.numel() for p in new), sum(p.numel() for p in new if p.requires_grad)


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count >= 1e5 else f"{count:,}"

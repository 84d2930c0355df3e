"""Optimiser, schedule and weight averaging of every task, by timm's names and as plain data.

optimizer: {name: sgd, lr: 0.01, momentum: 0.9, weight_decay: 5.0e-4}     # timm's "sgd" is Nesterov, "momentum" is not
schedule: {name: poly, power: 0.9, warmup_epochs: 1}                      # stepped after each optimiser step
"""

from typing import Any, Required, TypedDict

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn

SCHEDULES = ("cosine", "poly", "multistep", "step", "constant", "tanh", "wsd", "rsqrt")


class OptimizerSpec(TypedDict, total=False):
    """An optimiser of timm by name (`timm.optim.list_optimizers()`), and its arguments.

    `backbone_lr_scale` multiplies the learning rate of the backbone; `decay_norm_and_bias` says whether weight decay
    acts on batch norm and biases too (the official segmentation recipe does).
    """

    name: Required[str]
    lr: Required[float]
    weight_decay: float
    momentum: float
    betas: list[float]
    eps: float
    backbone_lr_scale: float
    decay_norm_and_bias: bool


class ScheduleSpec(TypedDict, total=False):
    """A schedule of timm by name (cosine, poly, multistep, step, constant, ...); times are in epochs.

    `gamma` is the factor at each of the `milestones` (or every `step_epochs`), `power` the exponent of poly, `min_lr`
    the floor, `warmup_epochs` the length of a linear warm-up from `warmup_lr`.
    """

    name: Required[str]
    milestones: list[float]
    step_epochs: float
    gamma: float
    power: float
    min_lr: float
    warmup_epochs: float
    warmup_lr: float


def create_optimizer(task: nn.Module, spec: OptimizerSpec) -> torch.optim.Optimizer:
    """Optimiser over all parameters of `task`, those of `task.backbone` at their own learning rate.

    Raises:
        ValueError: If timm has no optimiser of that name.
    """
    options = dict(spec)
    name = options.pop("name")
    if name not in list_optimizers():
        raise ValueError(f"optimizer.name: timm has no optimiser {name!r}; it has {', '.join(list_optimizers())}.")
    scale = options.pop("backbone_lr_scale", 1.0)
    decay_all = options.pop("decay_norm_and_bias", False)
    weight_decay = options.pop("weight_decay", 0.0)
    in_backbone = {id(p) for p in task.backbone.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in task.parameters():
        lr = spec["lr"] * (scale if id(parameter) in in_backbone else 1.0)
        decayed = decay_all or parameter.ndim > 1
        groups.setdefault((lr, weight_decay if decayed else 0.0), []).append(parameter)
    param_groups = [
        {"params": parameters, "lr": lr, "weight_decay": decay, "name": f"lr {lr:g} decay {decay:g}"}
        for (lr, decay), parameters in groups.items()
    ]
    return create_optimizer_v2(param_groups, opt=name, weight_decay=weight_decay, **options)


def create_schedule(optimizer: torch.optim.Optimizer, spec: ScheduleSpec, trainer: Trainer) -> Scheduler:
    """Schedule that is updated after each optimiser step, over the whole length of the training.

    Raises:
        ValueError: If timm has no schedule of that name, or the training has no end.
    """
    total = trainer.estimated_stepping_batches
    if total == float("inf"):
        raise ValueError("A schedule needs an end: set trainer.max_epochs or trainer.max_steps.")
    updates_per_epoch = max(1, -(-trainer.num_training_batches // trainer.accumulate_grad_batches))
    names = {
        "milestones": "decay_milestones",
        "step_epochs": "decay_epochs",
        "gamma": "decay_rate",
        "power": "decay_rate",
    }
    options: dict[str, Any] = {names.get(key, key): value for key, value in spec.items() if key != "name"}
    if spec["name"] not in SCHEDULES:
        raise ValueError(f"schedule.name: timm has no schedule {spec['name']!r}; it has {', '.join(SCHEDULES)}.")
    if "milestones" in spec:  # timm drops the rate one update before its milestone
        options["decay_milestones"] = [milestone + 0.5 / updates_per_epoch for milestone in spec["milestones"]]
    schedule, _ = create_scheduler_v2(
        optimizer,
        sched=spec["name"],
        num_epochs=total / updates_per_epoch,
        step_on_epochs=False,
        updates_per_epoch=updates_per_epoch,
        **options,
    )
    return schedule


class EMA(EMAWeightAveraging):
    """Exponential moving average of the weights: validated, saved as the checkpoint's weights, and kept at the end.

    Lightning's callback also swaps in its copy before anything was averaged (the weights of step zero); this one waits.

    Args:
        decay: Of the average, per optimiser step.
        update_every_n_steps: Average only every n-th optimiser step.
        update_starting_at_step: First optimiser step that is averaged.
        update_starting_at_epoch: First epoch that is averaged.
    """

    def __init__(
        self,
        decay: float = 0.999,
        update_every_n_steps: int = 1,
        update_starting_at_step: int | None = None,
        update_starting_at_epoch: int | None = None,
    ) -> None:
        super().__init__(
            decay=decay,
            update_every_n_steps=update_every_n_steps,
            update_starting_at_step=update_starting_at_step,
            update_starting_at_epoch=update_starting_at_epoch,
        )

    def _averaged(self) -> bool:
        return self._average_model is not None and int(self._average_model.n_averaged) > 0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swap the average in, if there is one."""
        if self._averaged():
            super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swap it out again."""
        if self._averaged():
            super().on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average in the model, if there is one."""
        if self._averaged():
            super().on_train_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the average as the checkpoint's weights, if there is one."""
        if self._averaged():
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

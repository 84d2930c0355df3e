"""Optimiser, schedule and weight averaging of every task, by timm's names and as plain data; and how they go on.

optimizer: {name: sgd, lr: 0.01, momentum: 0.9, weight_decay: 5.0e-4}     # timm's "sgd" is Nesterov, "momentum" is not
schedule: {name: poly, power: 0.9, warmup_epochs: 1}                      # stepped after each optimiser step
"""

import os
import random
from collections.abc import Mapping
from typing import Any, Required, TypedDict, cast

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

# Of a parameter group, what a configuration says; the rest is the optimiser's own state.
CONFIGURED = {"lr", "initial_lr", "weight_decay", "momentum", "betas", "eps", "nesterov", "fused", "foreign"}
STEP = 1000  # first word of the key of a step's random stream: no data set draws from such
SCHEDULES = ("cosine", "poly", "multistep", "step", "constant", "tanh", "wsd", "rsqrt")


class OptimizerSpec(TypedDict, total=False):
    """An optimiser of timm by name (`timm.optim.list_optimizers()`), and its arguments.

    `lr_scales` multiplies the learning rate of the parts that it names, by the beginning of their parameters' names:
    `{backbone: 0.1}`, or in a joint run `{tasks.pose: 2}`; the longest that fits counts. `layer_decay` multiplies that
    of the backbone's layers by its powers: 1 at the last exchange unit, smaller towards the stem. `decay_norm_and_bias`
    says whether weight decay acts on batch norm and biases too (the official segmentation recipe does). `fused` asks
    torch's own optimisers for one kernel over all parameters; on a CPU adam and adamw have it unless it is false.
    """

    name: Required[str]
    lr: Required[float]
    weight_decay: float
    momentum: float
    betas: list[float]
    eps: float
    lr_scales: dict[str, float]
    layer_decay: float
    decay_norm_and_bias: bool
    fused: bool


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


def create_optimizer(task: nn.Module, spec: OptimizerSpec, *, fuse: bool = True) -> torch.optim.Optimizer:
    """Optimiser over all parameters of `task`, each at the rate of its part.

    Args:
        task: With its parameters where they are trained.
        spec: Name and arguments.
        fuse: Whether Adam may have one kernel on a CPU. In mixed precision Lightning refuses to clip gradients for it.

    Raises:
        ValueError: If timm has no optimiser of that name, or a name in `lr_scales` fits no parameter.
    """
    options: dict[str, Any] = dict(spec)
    name = options.pop("name")
    known = [str(known) for known in list_optimizers()]
    if name not in known:
        raise ValueError(f"optimizer.name: timm has no optimiser {name!r}; it has {', '.join(known)}.")
    scales = _rate_scales(task, options.pop("lr_scales", {}), options.pop("layer_decay", 1.0))
    decay_all = options.pop("decay_norm_and_bias", False)
    weight_decay = options.pop("weight_decay", 0.0)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for key, parameter in task.named_parameters():
        decayed = decay_all or parameter.ndim > 1
        groups.setdefault((spec["lr"] * scales[key], weight_decay if decayed else 0.0), []).append(parameter)
    param_groups = [
        {"params": parameters, "lr": lr, "weight_decay": decay, "name": f"lr {lr:g} decay {decay:g}"}
        for (lr, decay), parameters in groups.items()
    ]
    if fuse and name in ("adam", "adamw") and next(task.parameters()).device.type == "cpu":
        # HRNet has hundreds of small tensors; torch's loop over them takes four times as long (Adam, W18-Small). Not so
        # with SGD, whose one kernel fails where some parameters get their first gradient later than others.
        options.setdefault("fused", True)
    return create_optimizer_v2(param_groups, opt=name, weight_decay=weight_decay, **options)


def _rate_scales(task: nn.Module, lr_scales: Mapping[str, float], layer_decay: float) -> dict[str, float]:
    """Name of each parameter -> factor of its learning rate."""
    names = [name for name, _ in task.named_parameters()]
    for part in lr_scales:
        if not any(_is_of(name, part) for name in names):
            known = sorted({".".join(name.split(".")[:2]) for name in names if name.startswith("tasks.")})
            known += sorted({name.split(".")[0] for name in names})
            raise ValueError(
                f"optimizer.lr_scales has {part!r}, with which no parameter's name begins: name one of "
                f"{', '.join(known)}, or a part of one such as backbone.stage4."
            )
    depths = _layers(task.get_submodule("backbone"))
    last = max(depths.values())
    scales = {}
    for name in names:
        fitting = [part for part in lr_scales if _is_of(name, part)]
        scale = lr_scales[max(fitting, key=len)] if fitting else 1.0
        in_backbone = name.startswith("backbone.")
        scales[name] = scale * (layer_decay ** (last - depths[name.removeprefix("backbone.")]) if in_backbone else 1.0)
    return scales


def _is_of(name: str, part: str) -> bool:
    return name == part or name.startswith(part + ".")


def _layers(backbone: nn.Module) -> dict[str, int]:
    """Name of each parameter of HRNet -> its layer: stem 0, layer1 1, then each exchange unit with its transition."""
    first_unit = {}
    depth = 2
    for stage in (2, 3, 4):
        first_unit[stage] = depth
        depth += len(getattr(backbone, f"stage{stage}"))
    depths = {}
    for name, _ in backbone.named_parameters():
        part, *rest = name.split(".")
        if part.startswith("stage"):
            depths[name] = first_unit[int(part[5:])] + int(rest[0])
        elif part.startswith("transition"):
            depths[name] = first_unit[int(part[10:]) + 1]
        else:
            depths[name] = int(part == "layer1")
    return depths


class Schedule:
    """A schedule of timm, updated after each optimiser step.

    The rate follows from the step alone, so nothing of it is kept in checkpoints: a resumed run goes by the length that
    it has now, be it longer.

    Args:
        optimizer: Whose rates it sets.
        schedule: Of timm, in optimiser steps.
        steps_per_epoch: Optimiser steps an epoch.
        by_epochs: Whether the training ends after a number of epochs rather than of steps.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, schedule: Scheduler, steps_per_epoch: int, by_epochs: bool
    ) -> None:
        self.optimizer, self.schedule = optimizer, schedule
        self.steps_per_epoch, self.by_epochs = steps_per_epoch, by_epochs
        self.offset = 0

    def step_update(self, step: int) -> None:
        """Set the rates for the step after `step` steps."""
        self.schedule.step_update(step + self.offset)

    def go_on(self, step: int, epochs: int, steps_within: int) -> None:
        """Go on after `step` steps: `epochs` whole epochs, which may have had another length, and some steps."""
        self.offset = epochs * self.steps_per_epoch + steps_within - step if self.by_epochs else 0
        self.step_update(step)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: see above."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing: see above."""


def create_schedule(optimizer: torch.optim.Optimizer, spec: ScheduleSpec, trainer: Trainer) -> Schedule:
    """Schedule that is updated after each optimiser step, over the whole length of the training.

    Raises:
        ValueError: If timm has no schedule of that name, or the training has no end.
    """
    if trainer.train_dataloader is None:  # where a number of steps is the end, Lightning would not count an epoch's
        trainer.fit_loop.setup_data()
    total = trainer.estimated_stepping_batches
    if total == float("inf"):
        raise ValueError("A schedule needs an end: set trainer.max_epochs or trainer.max_steps.")
    updates_per_epoch = int(max(1, -(-trainer.num_training_batches // trainer.accumulate_grad_batches)))
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
        step_on_epochs=False,
        **options | {"num_epochs": total / updates_per_epoch, "updates_per_epoch": updates_per_epoch},
    )
    return Schedule(optimizer, schedule, updates_per_epoch, by_epochs=total != trainer.max_steps)


class GoingOn(Callback):
    """Lets a training that was stopped go on as if it had not been, but by the configuration that it has now.

    Rate, decay and the like are those of the module's `optimizer_options`, after the optimiser was restored. Random
    draws of a step (mixup, dropout) follow from its number alone.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the options of the present configuration."""
        if not trainer.global_step:
            return
        for optimizer in trainer.optimizers:
            before = [group["lr"] for group in optimizer.param_groups]
            for group, option in zip(optimizer.param_groups, cast(Any, pl_module).optimizer_options, strict=True):
                group.update({key: option[key] for key in CONFIGURED & option.keys()})
            for config in trainer.lr_scheduler_configs:
                if isinstance(config.scheduler, Schedule):
                    within = trainer.fit_loop.epoch_loop.batch_progress.current.completed
                    steps_within = -(-within // trainer.accumulate_grad_batches)
                    config.scheduler.go_on(trainer.global_step, trainer.current_epoch, steps_within)
            after = [group["lr"] for group in optimizer.param_groups]
            if before != after:
                say(
                    f"learning rate: goes on at {after[0]:.3g} where the stopped run was at {before[0]:.3g}, since "
                    "schedule, rate or length are others now"
                )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Make the draws of this step its own, whatever was drawn before."""
        seed = int(os.environ.get("PL_GLOBAL_SEED") or 0)
        key = (STEP, trainer.current_epoch, batch_idx, trainer.global_rank)
        words = np.random.SeedSequence(seed, spawn_key=key).generate_state(3)
        random.seed(int(words[0]))
        np.random.seed(words[1])
        torch.manual_seed(int(words[2]))


class EMA(WeightAveraging):
    """Exponential moving average of the weights: validated, saved as the checkpoint's weights, and kept at the end.

    Lightning's callback also swaps in its copy before anything was averaged (the weights of step zero), and rounds even
    what never changes, such as the colours of the normalisation; this one waits, and does not.

    Args:
        decay: How much of the average stays at each of its steps: at 0.999 it spans about the last thousand. Shorter
            trainings want less.
        update_every_n_steps: Average only every n-th optimiser step.
        update_starting_at_step: First optimiser step that is averaged.
        update_starting_at_epoch: First epoch whose steps are averaged.
    """

    def __init__(
        self,
        decay: float = 0.999,
        update_every_n_steps: int = 1,
        update_starting_at_step: int | None = None,
        update_starting_at_epoch: int | None = None,
    ) -> None:
        super().__init__(use_buffers=True, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.update_every_n_steps = update_every_n_steps
        self.update_starting_at_step = update_starting_at_step
        self.update_starting_at_epoch = update_starting_at_epoch
        self._swapped = False

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Whether to average now; asked after each optimiser step, and without a step after each epoch."""
        if step_idx is None:
            return False
        return step_idx >= (self.update_starting_at_step or 0) and step_idx % self.update_every_n_steps == 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> None:
        """Average, if it is the epoch for it."""
        if trainer.current_epoch >= (self.update_starting_at_epoch or 0):
            super().on_train_batch_end(trainer, pl_module, *batch)

    def _averaged(self) -> bool:
        return self._average_model is not None and int(self._average_model.n_averaged) > 0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swap the average in, if there is one."""
        if self._averaged() and trainer.state.fn == TrainerFn.FITTING:
            super().on_validation_epoch_start(trainer, pl_module)
            self._swapped = True

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swap it out again."""
        if self._swapped:
            super().on_validation_epoch_end(trainer, pl_module)
            self._swapped = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Swap it out of a validation that was cut short: what is then saved is the state of the training."""
        self.on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average in the model, if there is one."""
        if self._averaged():
            super().on_train_end(trainer, pl_module)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on with both in a resumed training; an evaluation has the average, the checkpoint's weights."""
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the average as the checkpoint's weights, if there is one."""
        if self._averaged():
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the average where the model trains: made before the model moved, it would stay in the CPU's memory.

        Every step would then copy all weights there. The count of averages stays: to read it must not wait for a GPU.
        """
        if self._average_model is not None:
            self._average_model.module.to(pl_module.device)


@rank_zero_only
def say(line: str) -> None:
    """Print a line, of several processes once."""
    print(line, flush=True)

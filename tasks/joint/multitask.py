"""MultiTask: several tasks on one backbone, trained together. It is a task made of tasks.

batch {task: its batch} --each task's own forward, losses, predict, metric--> names with the task's name before them

task = MultiTask(HRNet("w32"), {"pose": PoseTask, "parts": partial(SegmentationTask, num_classes=20)})
"""

import copy
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, Literal, cast

import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn

from hrnet import HRNet, load_weights
from tasks.checkpoints.arguments import built
from tasks.draw.tables import Row
from tasks.joint.balancing import BalancingSpec, make_balancing
from tasks.joint.gradients import (
    Gradients,
    carry,
    combined,
    gradients_at,
    gradients_of,
    gram_matrix,
    mean_over_processes,
    step_values,
)
from tasks.joint.score import delta_rows, joint_score, read_baselines, relative_change, score_terms
from tasks.joint.sharing import TaskNorms, make_tasks, naming, own_data, specs_of
from tasks.losses import Batch, Losses, Predictions
from tasks.metrics.means import Means
from tasks.optim import say
from tasks.task import Task


class MultiTask(Task):
    """Tasks that share a backbone.

    A step takes the tasks that its batch has, one after the other, so that memory is that of the largest; whether that
    is all of them or one is the DataModule's `policy`. `val/score`, the mean of the tasks' own monitored metrics, is
    what checkpoints go by; a metric m that is best when small counts as 1 / (1 + m).

    Args:
        backbone: The HRNet, with all four streams unless every task does with the finest.
        tasks: Name of each task -> what makes it of the backbone. In YAML {class_path, init_args} without backbone;
            `weights` there loads that task's head only. Optimiser and schedule belong to the joint run.
        balancing: fixed, uncertainty, dwa, geometric, gradnorm, pcgrad, or torchjd's mgda, upgrad, imtl_g, aligned_mtl;
            or {name, arguments}; see tasks.joint.balancing.
        task_weights: Constant factor of a task's loss, 1 where not given.
        batch_norm: "shared" statistics of the backbone, or "per_task"; scales and shifts are shared in either case. A
            batch is normalised by the statistics of one task and evaluated by the mean of all, unless each has its own:
            with `frozen_statistics` the network learns to do with these.
        gradient_every: Log norms and cosines of the tasks' gradients at the last shared stage every so many steps.
        baselines: Task -> run folder of a single-task run, or its value of that task's monitored metric: the mean
            relative change against them is logged as `val/delta_m` (Vandenhende et al., TPAMI 2021), as a fraction.

    Raises:
        ValueError: If a name is no identifier, a task needs streams that the backbone does not give, has options that
            belong to the joint run or has no data, or the balancing does not fit.
    """

    monitor = "val/score"
    mode = "max"
    higher_is_better = ("delta_m",)
    tasks: Mapping[str, Task]
    """A ModuleDict: the heads are parts of this module."""
    norms: Mapping[str, TaskNorms]
    """Likewise: the batch-norm statistics of each task, empty where they are shared."""

    def __init__(
        self,
        backbone: HRNet,
        tasks: dict[str, Callable[[HRNet], Task]],
        *,
        balancing: str | BalancingSpec = "fixed",
        task_weights: dict[str, float] | None = None,
        batch_norm: Literal["shared", "per_task"] = "shared",
        gradient_every: int = 50,
        baselines: dict[str, str | float] | None = None,
        **kwargs: Any,
    ) -> None:
        backbone = built(backbone)
        made = make_tasks(backbone, tasks)
        tasks = specs_of(made)  # what the base stores in checkpoints
        super().__init__(backbone, **kwargs)
        self.tasks = cast(Any, nn.ModuleDict(made))
        self.balancing = make_balancing(balancing, list(made), task_weights)
        if batch_norm not in ("shared", "per_task"):
            raise ValueError(f'batch_norm is "shared" or "per_task", not {batch_norm!r}.')
        if self.freezing.statistics and batch_norm == "per_task":
            raise ValueError(
                f"frozen_statistics is {self.freezing.statistics} and batch_norm per_task: expected 0 with per_task, "
                "where training and evaluation do not differ."
            )
        self._reached: set[int] = set()  # ids of parameters that had a gradient since the last optimiser step
        norms = {name: TaskNorms(backbone) for name in made} if batch_norm == "per_task" else {}
        self.norms = cast(Any, nn.ModuleDict(norms))
        self.gradient_every = gradient_every
        self.baselines = baselines or {}
        if unknown := sorted(set(self.baselines) - set(made)):
            raise ValueError(f"baselines has {', '.join(unknown)}; the tasks are {', '.join(made)}.")
        self.baseline_values: dict[str, float] = {}
        self.epoch_means = Means()
        self.logged_step = 0
        self.step_values: dict[str, Any] = {}

    # ---- what every task does, task by task

    @property
    def parts(self) -> dict[str, Task]:
        """The tasks by name."""
        return dict(self.tasks.items())

    def forward(self, images: Tensor) -> dict[str, Any]:
        """Normalised images (B, 3, H, W) -> outputs of every task; with shared batch norm the backbone runs once."""
        if self.norms:
            return {name: self._run(name, task, images) for name, task in self.tasks.items()}
        together = {name for name, task in self.tasks.items() if task.one_pass}
        streams, size = self.backbone(images) if together else [], (images.shape[-2], images.shape[-1])
        return {
            name: task.from_streams(streams, size) if name in together else task(images)
            for name, task in self.tasks.items()
        }

    def outputs(self, batch: Batch) -> dict[str, Any]:
        """Each task's outputs for its own batch."""
        return {name: self._run(name, self.tasks[name].outputs, part) for name, part in batch.items()}

    def losses(self, outputs: dict[str, Any], batch: Batch) -> Losses:
        """{"pose/heatmap": ...}, unweighted."""
        return _flat({name: self.tasks[name].losses(found, batch[name]) for name, found in outputs.items()})

    def predict(self, outputs: dict[str, Any], batch: Batch) -> dict[str, Predictions]:
        """Each task's predictions."""
        return {name: self._run(name, self.tasks[name].predict, outputs[name], batch[name]) for name in outputs}

    def update(self, predictions: dict[str, Predictions], batch: Batch) -> None:
        """Hand each task its predictions."""
        for _, task, found, part in self.each(predictions, batch):
            task.update(found, part)

    def compute(self) -> dict[str, float]:
        """{"pose/AP": ...}, the score, and delta_m where every task has a baseline."""
        found = {name: task.compute() for name, task in self.tasks.items()}
        metrics = _flat(found) | {"score": joint_score(self.tasks, found)}
        if len(self.baseline_values) == len(self.tasks):
            changes = relative_change(self.tasks, found, self.baseline_values)
            metrics["delta_m"] = sum(changes.values()) / len(changes)
        return metrics

    def reset(self) -> None:
        """Forget what the tasks have seen."""
        for task in self.tasks.values():
            task.reset()

    @property
    def modes(self) -> dict[str, str]:
        """Those of the tasks, and the joint run's own."""
        found = {name: task.modes for name, task in self.tasks.items()}  # of "val/AP" and the like
        return {
            f"{self.split}/{name}/{key.split('/', 1)[1]}": mode
            for name, modes in found.items()
            for key, mode in modes.items()
        } | super().modes

    def attach(self, datamodule: Any) -> None:
        """Give each task its own DataModule."""
        data = own_data(self.tasks, datamodule)
        for name, task in self.tasks.items():
            task.split = self.split
            with naming(name):
                task.attach(data[name])
        self.hparams["tasks"] = specs_of(self.tasks)

    def check(self, batch: Batch) -> None:
        """Each task's samples."""
        for name, part in batch.items():
            with naming(name):
                self.tasks[name].check(part)

    def tables(self) -> dict[str, list[Row] | Tensor]:
        """The comparison with the baselines, if there are any."""
        found = {name: task.compute() for name, task in self.tasks.items()}
        return {"delta_m": delta_rows(self.tasks, found, self.baseline_values)} if self.baseline_values else {}

    def _run(self, name: str, function: Callable, *arguments: Any) -> Any:
        """The function's result, with the task's own batch-norm statistics if there are any."""
        with self.norms[name].in_use(self.backbone) if name in self.norms else nullcontext():
            return function(*arguments)

    # ---- one step

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One task after the other; the loss that is returned delivers the combined gradient."""
        names = list(self.tasks)
        self.logged_step, self.step_values = self.global_step, {}
        if self.balancing.needs_all and len(batch) < len(names):
            raise ValueError(
                f"The balancing {type(self.balancing).__name__} needs every task in every step and this one has "
                f"{', '.join(batch)}: set data.init_args.policy to all, or choose another balancing."
            )
        plugin = self.trainer.precision_plugin
        scaler = plugin.scaler if isinstance(plugin, MixedPrecision) else None
        scale = 1.0 if scaler is None else scaler.get_scale()
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        losses = torch.full((len(names),), torch.nan, device=self.device)
        gradients: list[Gradients] = [[None] * len(parameters) for _ in names]
        for i, name in enumerate(names):
            if name in batch:
                terms = self._run(name, self.tasks[name].training_losses, batch[name])
                loss = torch.stack(list(terms.values())).sum()
                gradients[i] = gradients_of(loss, parameters, scale)
                losses[i] = loss.detach()
                self.step_values |= {f"train/{name}/{term}": value.detach() for term, value in terms.items()}
        self.log_dict(self.step_values, logger=False)
        return self._balanced(parameters, losses, gradients)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Losses of this step to the loggers: Lightning would log a task's last ones again in steps that lack it.

        Not within the step, which would have to wait for the values on a GPU.
        """
        if self.loggers and self.logged_step % cast(Any, self.trainer).log_every_n_steps == 0:
            for logger in self.loggers:
                logger.log_metrics({"epoch": self.current_epoch, **self.step_values}, self.logged_step)

    def _balanced(self, parameters: list[nn.Parameter], losses: Tensor, gradients: list[Gradients]) -> Tensor:
        losses = mean_over_processes(losses)
        logged = self.gradient_every > 0 and self.global_step % self.gradient_every == 0
        gram = None
        if logged or self.balancing.wants_gradients():
            gram = gram_matrix(gradients_at(self.backbone.stage4, parameters, gradients)).to(self.device)
        factors = self.balancing(losses, gram)
        shared = self.balancing.shared(factors, gram)
        in_backbone = {id(parameter) for parameter in self.backbone.parameters()}
        is_shared = [id(parameter) in in_backbone for parameter in parameters]
        weights = [[s if inside else f for inside in is_shared] for s, f in zip(shared, factors, strict=True)]
        penalty = self.balancing.penalty(losses)
        total = (factors * losses).nansum() if penalty is None else penalty
        here = [i for i, row in enumerate(gradients) if any(g is not None for g in row)]
        total = total + 0 * losses[here].sum()  # nan where a loss is that the step has, not only lacks
        self.log("train/loss", total.detach(), prog_bar=True, batch_size=1)
        values = step_values(list(self.tasks), here, losses, factors, gram if logged else None)
        self.epoch_means.update({key: value.detach() for key, value in values.items()})
        epoch = {f"train/{key}": value for key, value in values.items()}
        self.log_dict(epoch, on_step=False, on_epoch=True, batch_size=1, logger=False)  # for callbacks
        carried = combined(gradients, weights)
        self._reached |= {id(p) for p, g in zip(parameters, carried, strict=True) if g is not None}
        return carry(total, parameters, carried)

    # ---- Lightning hooks

    def setup(self, stage: str) -> None:
        """Baselines, beside what every task does."""
        super().setup(stage)
        self.baseline_values = read_baselines(self.tasks, self.baselines)
        if stage == "fit":
            self._require_several(cast(Any, self.trainer).datamodule)
            say(f"val/score is the mean of {', '.join(score_terms(self.tasks))}")

    def _require_several(self, datamodule: Any) -> None:
        """Refuse a balancing that would have nothing to do, since no step has two tasks."""
        policy, parts = getattr(datamodule, "policy", "all"), datamodule.tasks.values()
        if self.balancing.needs_several and policy != "all" and len({id(part) for part in parts}) == len(parts):
            raise ValueError(
                f"The balancing {type(self.balancing).__name__} compares the gradients of a step's tasks, and with "
                f"data.init_args.policy {policy} each step has one task: set it to all, or choose another balancing."
            )

    def load_start(self) -> set[str]:
        """Load `weights`, then those of each task into its head."""
        before = {name: copy.deepcopy(norms) for name, norms in self.norms.items()}
        left = super().load_start()
        for name, task in self.tasks.items():
            left -= {f"tasks.{name}.{key}" for key in self._load_head(name, task)}
            if name in before and self.weights is not None and before[name].equals(self.norms[name]):
                self.norms[name].copy_from(self.backbone)  # the weights were of a task without statistics of its own
        return {name for name in left if not name.startswith(("norms.", "balancing."))}

    def _load_head(self, name: str, task: Task) -> list[str]:
        """Load what fits of a task's `weights` except the backbone; names of the tensors."""
        if task.weights is None:
            return []
        alone = self.single(name)
        report = load_weights(alone, task.weights, strict=False)
        task.load_state_dict({key: value for key, value in alone.state_dict().items() if key in task.state_dict()})
        return [*report.matched, *report.zeroed]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Leave the heads of tasks alone that no batch of this step had.

        Distributed training gives them gradients of zero, by which momentum and weight decay would move them.
        """
        if self.trainer.world_size > 1:
            kept = self._reached | {id(parameter) for parameter in self.balancing.parameters()}
            for parameter in self.parameters():
                if id(parameter) not in kept:
                    parameter.grad = None
        self._reached.clear()

    def on_train_epoch_end(self) -> None:
        """Tell the balancing; log what was averaged over the epoch."""
        self.balancing.end_epoch()
        self.log_dict({f"train/{name}": value for name, value in self.epoch_means.compute().items()})
        self.epoch_means.reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The running averages of an epoch, beside what every task stores."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["epoch_means"] = self.epoch_means.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the running averages; they are of all processes, so one takes them."""
        super().on_load_checkpoint(checkpoint)
        known = not self.trainer.is_global_zero
        self.epoch_means.load(checkpoint.get("epoch_means", {}), self.device, known=known)

    # ---- one task alone

    def single(self, name: str) -> Task:
        """A copy of one task with a backbone of its own, which predicts what the task predicts here.

        Raises:
            ValueError: If there is no such task.
        """
        if name not in self.tasks:
            raise ValueError(f"There is no task {name!r} in this checkpoint; it has {', '.join(self.tasks)}.")
        task = self._alone(name, copy.deepcopy(self.tasks[name]))
        if name in self.norms:
            self.norms[name].copy_to(task.backbone)
        return task

    def singles(self) -> dict[str, Task]:
        """`single` of every task; the copies share one backbone, unless its statistics differ from task to task."""
        if self.norms:
            return {name: self.single(name) for name in self.tasks}
        return {name: self._alone(name, task) for name, task in copy.deepcopy(self).tasks.items()}

    def _alone(self, name: str, task: Task) -> Task:
        task.backbone = task.backbone  # registered again, see `make_tasks`
        task.preparation, task.started = self.preparation.get(name, {}), True
        return task


def _flat(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """{task: {key: value}} -> {"task/key": value}."""
    return {f"{name}/{key}": value for name, values in found.items() for key, value in values.items()}

"""Task: what every task shares. A task is a backbone, a head, a metric and a few methods; this file is everything else.

    images --backbone--> streams --from_streams--> outputs --losses--> {term: value}           the sum is minimised
                                                      '----predict--> predictions --update--> metric --> {name: value}

`from_streams` (or `forward`), `losses`, `predict` and `update` are written by each task; the Lightning hooks, the log
lines, the optimiser and the checkpoint's contents live here once. A task inside another (MultiTask) is only a module:
its hooks never run, the outermost task's do.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from hrnet import HRNet, load_weights
from hrnet.freezing import Freezing
from tasks.checkpoints.arguments import built, class_path, plain, require_channels
from tasks.draw.examples import Examples
from tasks.draw.pictures import Drawn, Pictures
from tasks.draw.tables import Row, Samples, Tables
from tasks.losses import Batch, Data, Losses, Predictions, over_samples
from tasks.metrics.means import Means
from tasks.optim import GoingOn, OptimizerSpec, ScheduleSpec, create_optimizer, create_schedule

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # of RGB in 0..255; every published HRNet was trained with these
IMAGENET_STD = (58.395, 57.12, 57.375)


class Task(LightningModule):
    """Base of all tasks.

    Args:
        backbone: The HRNet, or its constructor's arguments. May be shared with other tasks.
        optimizer: Name of timm and arguments; Adam at 1e-3 when not given.
        schedule: Learning rate schedule by timm's names; constant when not given.
        freeze_backbone: Keep the backbone fixed, batch norm included: true for good, an integer for so many epochs.
        frozen_statistics: Share of the training, at its end, in which the backbone's batch norm uses its running
            statistics and leaves them as they are, while scales and shifts go on being trained: 1 for all of it, as
            published detectors with few images a GPU have it.
        compile: Run the backbone through `torch.compile`.
        weights: What to start from, or to evaluate: a run folder, a checkpoint or a timm name, see
            `hrnet.load_weights`. In training a head of another size stays new.

    Raises:
        TypeError: If an argument cannot be written into a checkpoint as plain data.
        ValueError: If a share is none.
    """

    monitor: str = "val/loss"
    mode: str = "min"
    higher_is_better: ClassVar[tuple[str, ...]] = ()
    """Names that the metric gives whose values are best when large; losses are best when small."""
    lower_is_better: ClassVar[tuple[str, ...]] = ()
    """Those best when small."""
    by_sample: ClassVar[bool] = False
    """Whether an evaluation asks `losses` of each sample by itself: of a batch they are no means over samples."""
    settled: ClassVar[tuple[str, ...]] = ()
    """Arguments of a parent that this class gives it by itself, so that it has no such arguments."""
    mean: Tensor
    std: Tensor
    metric: Metric | MetricCollection | None
    """Computes {name: value} of what `update` hands to it; None until there is one."""

    def __init__(
        self,
        backbone: HRNet,
        *,
        optimizer: OptimizerSpec | None = None,
        schedule: ScheduleSpec | None = None,
        freeze_backbone: bool | int = False,
        frozen_statistics: float = 0.0,
        compile: bool = False,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        self.freezing = Freezing(freeze_backbone, frozen_statistics)
        self.save_hyperparameters(
            ignore=["backbone", *self.settled], logger=False
        )  # collects the subclass's arguments too
        self.backbone = built(backbone)
        self.save_hyperparameters(plain({"backbone": self.backbone, **self.hparams}), logger=False)
        self.optimizer_spec: OptimizerSpec = optimizer or {"name": "adam", "lr": 1e-3}
        self.schedule_spec = schedule
        self.compile_backbone = compile
        self.weights = weights
        self.metric = None
        self.started = False  # whether `weights` were loaded, which is done once
        self.split = "val"
        self.preparation: dict[str, Any] = {}  # what the data say of preparing images for evaluation
        self.evaluated_losses = Means()
        self.earlier_metrics: dict[str, float] = {}
        self.partial = False  # true while only some batches of a split are evaluated
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    @classmethod
    def goal(cls, options: Mapping[str, Any]) -> tuple[str, str]:
        """`monitor` and `mode` of a task that is made with these arguments."""
        return cls.monitor, cls.mode

    # ---- what a task writes

    def from_streams(self, streams: list[Tensor], size: tuple[int, int]) -> Any:
        """Streams of the backbone, of images of `size` (height, width) -> outputs."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Any:
        """Normalised images (B, 3, H, W) -> outputs: what an exported model computes, before decoding."""
        return self.from_streams(self.backbone(images), (images.shape[-2], images.shape[-1]))

    @property
    def one_pass(self) -> bool:
        """Whether `forward` is the one above, so that tasks of a joint run can share one pass of the backbone."""
        return type(self).forward is Task.forward

    def losses(self, outputs: Any, batch: Batch) -> Losses:
        """Outputs and facts -> scalars by name; their sum is minimised."""
        raise NotImplementedError

    def predict(self, outputs: Any, batch: Batch) -> Predictions:
        """Outputs -> predictions in the user's units: original pixels, class ids, boxes."""
        raise NotImplementedError

    def update(self, predictions: Predictions, batch: Batch) -> None:
        """Hand predictions and facts to the metric: as they are, unless a task does it otherwise."""
        if self.metric is not None:
            self.metric.update(predictions, batch)

    def compute(self) -> dict[str, float]:
        """Figures of what `update` has seen since the last reset; nan where undefined."""
        if self.metric is None:
            return {}
        if hasattr(self.metric, "seen_images_only"):
            self.metric.seen_images_only = self.partial
        return {name: float(value) for name, value in self.metric.compute().items()}

    def reset(self) -> None:
        """Forget what `update` has seen."""
        if self.metric is not None:
            self.metric.reset()

    def attach(self, datamodule: Data) -> None:
        """Compare counts with the data, take names, make the metric for `self.split`."""

    def check(self, batch: Batch) -> None:
        """Look at a few training samples before training; ValueError where nothing could be learned from such."""
        flat = batch["image"].flatten(1)
        if (flat == flat[:, :1]).all():
            raise ValueError(
                f"Each of {len(flat)} training images is of one colour only: see whether the image files are those "
                "that the annotations mean, and whether crops hit them (python -m datamodules.check EXPERIMENT.yaml)."
            )

    def draw(self, outputs: Any, predictions: Predictions, batch: Batch, count: int) -> Drawn:
        """Pictures of the first `count` samples by kind, each (3, H, W) uint8, perhaps with layers for W&B."""
        return {}

    def scores(self, predictions: Predictions, batch: Batch) -> dict[str, Tensor | list]:
        """What each sample of a batch scored: `sample` (ids), `score` (in [0, 1]) and more; see `SampleScores`."""
        return {}

    def tables(self) -> dict[str, list[Row] | Tensor]:
        """After an evaluation: its tables by name, a dict a row (per class, per key point), and pictures of its result.

        The latter are (3, height, width) uint8.
        """
        return {}

    # ---- one step

    def normalize(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB -> float, zero mean and unit deviation over ImageNet."""
        return image.to(self.mean.dtype, copy=True).sub_(self.mean).div_(self.std)  # in place: a third less time

    def outputs(self, batch: Batch) -> Any:
        """Outputs of `forward` for a batch from the loader."""
        return self(self.normalize(batch["image"]))

    def training_losses(self, batch: Batch) -> Losses:
        """Losses of a training batch from the loader; a task may mix its images, or train auxiliary heads too."""
        return self.losses(self.outputs(batch), batch)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sum of the losses, logged with each of them."""
        losses = self.training_losses(batch)
        total = torch.stack(list(losses.values())).sum()
        self.log("train/loss", total.detach(), prog_bar=True)
        self.log_dict({f"train/{name}": value.detach() for name, value in losses.items()})
        return total

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any] | None:
        """Outputs and predictions, for callbacks; None of an empty batch, while another process has one sample more."""
        if not batch:
            return None
        outputs = self.outputs(batch)
        for prefix, task, found, facts in self.each(outputs, batch):  # means over each task's own samples
            each = over_samples(task.losses, found, facts) if task.by_sample else task.losses(found, facts)
            losses = {prefix + name: value.detach() for name, value in each.items()}
            total = {} if prefix else {"loss": torch.stack(list(losses.values())).sum()}
            self.evaluated_losses.update(total | losses, len(facts["image"]))
        predictions = self.predict(outputs, batch)
        self.update(predictions, batch)
        return {"outputs": outputs, "predictions": predictions}

    test_step = validation_step

    def predict_step(self, batch: Batch, batch_idx: int) -> Predictions:
        """Predictions of a batch; none of an empty one."""
        return self.predict(self.outputs(batch), batch) if batch else {}

    @property
    def parts(self) -> dict[str, "Task"]:
        """The tasks of a joint run by name; any other has itself, under the empty name."""
        return {"": self}

    def each(self, *values: Any) -> Iterator[tuple[Any, ...]]:
        """(prefix of its keys, task, its values) of each of `parts` that all values have."""
        for name, task in self.parts.items():
            if not name:
                yield "", task, *values
            elif all(name in value for value in values):
                yield f"{name}/", task, *(value[name] for value in values)

    def single(self, name: str) -> "Task":
        """One of `parts` as a task of its own, which predicts what it predicts here."""
        return self.parts[name]

    def singles(self) -> dict[str, "Task"]:
        """`single` of each of `parts`, which share what memory they can."""
        return self.parts

    @property
    def modes(self) -> dict[str, str]:
        """For each of the names that an evaluation logs, "max" or "min", as far as the task says."""
        modes = dict.fromkeys(self.higher_is_better, "max") | dict.fromkeys(self.lower_is_better, "min")
        modes |= dict.fromkeys(self.evaluated_losses.names, "min")
        return {f"{self.split}/{name}": mode for name, mode in modes.items()} | {self.monitor: self.mode}

    # ---- Lightning hooks

    def setup(self, stage: str) -> None:
        """Meet the data, load what to start from, and put the network into the order that is fast."""
        self.split = "test" if stage == "test" else "val"
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is not None:
            require_channels(self.backbone, datamodule)
            self.attach(datamodule)
            # Any LightningDataModule will do in Python; those of `datamodules` have this too.
            self.preparation = getattr(datamodule, "preparation", dict)()
        if not self.started:
            self.load_start()
        self.to(memory_format=torch.channels_last)
        if self.compile_backbone:
            self.backbone.compile()

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As torch has it."""
        self.started = True  # what is trained already does not start anew from `weights`
        return super().load_state_dict(*args, **kwargs)

    def load_start(self) -> set[str]:
        """Load `weights`, of which what fits; names of the tensors that nothing was loaded into."""
        self.started = True
        left = {name for name in self.state_dict() if not name.endswith("num_batches_tracked")}
        if self.backbone.hparams["weights"] is not None:
            left = {name for name in left if not name.startswith("backbone.")}
        if self.weights is not None:
            report = load_weights(self, self.weights, strict=False)
            left -= {*report.matched, *report.zeroed}
        return left

    def train(self, mode: bool = True) -> "Task":
        """As torch has it; a frozen backbone stays in eval mode."""
        super().train(mode)
        if mode and self.freezing.frozen:
            self.backbone.eval()  # frozen batch norm keeps its statistics
        return self

    def configure_callbacks(self) -> list[Callback]:
        """What a training has beside its steps, and what shows an evaluation, unless the Trainer has such already."""
        trainer: Any = self.trainer
        given = {type(callback) for callback in trainer.callbacks}
        kinds = (Pictures, Tables, Samples, Examples)
        return [self.freezing, GoingOn(), *(kind() for kind in kinds if kind not in given)]

    def on_validation_epoch_start(self) -> None:
        """Forget the evaluation before."""
        limit = self.trainer.limit_test_batches if self.split == "test" else self.trainer.limit_val_batches
        for task in (self, *self.parts.values()):
            task.partial = self.trainer.sanity_checking or isinstance(limit, int) or limit < 1.0
        self.reset()
        self.evaluated_losses.reset()

    def on_validation_epoch_end(self) -> None:
        """Log what was evaluated, and print it in training."""
        metrics, losses = self.compute(), self.evaluated_losses.compute()
        if self.trainer.sanity_checking:
            return
        found = losses | {name: value for name, value in metrics.items() if value == value}
        defined = {f"{self.split}/{name}": value for name, value in found.items()}
        self.log_dict(defined, sync_dist=False)  # the metric has gathered all processes itself
        if self.trainer.state.fn == TrainerFn.FITTING and self.trainer.is_global_zero:
            values = "  ".join(f"{name} {value:.3f}" for name, value in metrics.items())
            print(f"epoch {self.current_epoch}: {values}", flush=True)

    on_test_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_validation_epoch_end

    def configure_optimizers(self) -> Any:
        """Optimiser over all parameters, and its schedule."""
        mixed = isinstance(self.trainer.precision_plugin, MixedPrecision)
        optimizer = create_optimizer(self, self.optimizer_spec, fuse=not mixed)
        self.optimizer_options = [{**group, "params": None} for group in optimizer.param_groups]
        if self.schedule_spec is None:
            return optimizer
        schedule = create_schedule(optimizer, self.schedule_spec, self.trainer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Rates follow the optimiser's steps."""
        scheduler.step_update(self.trainer.global_step)

    def described(self) -> dict[str, Any]:
        """What `tasks.load` needs of a checkpoint beside tensors and hyperparameters."""
        return {"task": class_path(type(self)), "preparation": self.preparation}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """With what `tasks.load` needs."""
        checkpoint |= {**self.described(), "metrics": self.logged_metrics()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the metrics of before."""
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.earlier_metrics = checkpoint.get("metrics", {})

    def logged_metrics(self) -> dict[str, float]:
        """The last finite value of each loss and metric of this training, those before it was resumed included."""
        values = {name: value.item() for name, value in self.trainer.callback_metrics.items() if "/" in name}
        finite = {name: value for name, value in values.items() if math.isfinite(value) and not name.startswith("lr")}
        return self.earlier_metrics | finite

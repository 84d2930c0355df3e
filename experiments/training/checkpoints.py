"""What a run keeps to go on from: `last.ckpt` after every epoch, every few minutes, and whenever it is stopped.

Files are written beside their target and renamed, so that the one before stays until the new one is whole.
"""

import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn

from experiments.cli.files import replacing
from experiments.cli.mistakes import Stopped
from experiments.training.nonfinite import NonFiniteLoss
from experiments.training.run_folder import RunFolderError


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its target and renames it."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write whole or not at all.

        Raises:
            RunFolderError: If it cannot be written.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as part, part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:
            kept = "; the one before is whole" if path.is_file() else ""
            raise RunFolderError(
                f"The checkpoint {path} could not be written ({getattr(error, 'strerror', None) or error}){kept}: make "
                f"room or correct the rights, then go on with --resume {path.parent.parent}"
            ) from error


@dataclass(frozen=True)
class Position:
    """A place between two steps of a training.

    Args:
        epoch: That is running; the first is 0.
        batches: Of this epoch that were trained on.
        of: Batches of an epoch; 0 where it is not known.
        validated: Whether the validation that is due after these batches was done.
    """

    epoch: int = 0
    batches: int = 0
    of: int = 0
    validated: bool = False

    @property
    def at_end(self) -> bool:
        """Whether all batches of the epoch were trained on."""
        return 0 < self.of <= self.batches


class LastCheckpoint(Checkpoint):
    """Keeps the state of a training in one file, from which a resumed run goes on as if it had not been stopped.

    It is written after every epoch, before a batch when `minutes` have passed, and when the training is stopped or
    fails between two steps. Within a step the state is no whole one: after an error there the file stays as it was.

    Args:
        path: Of the file.
        minutes: Between two writings within an epoch.
    """

    def __init__(self, path: Path, minutes: float = 10.0) -> None:
        self.path, self.minutes = path, minutes
        self.position = Position()
        self.saved_at = 0.0
        self.in_step = False
        self.begun = False
        """Whether the training has begun: before, there is nothing to keep."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Every process writes, or waits, at the path of the first."""
        self.path = Path(trainer.strategy.broadcast(str(self.path)))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Bring counters and data to the position of the stopped run, before a loader is made."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        self.position = stored_position(checkpoint, trainer)
        restore_counters(checkpoint, self.position, trainer)
        _move(checkpoint, self.path.parent)
        if trainer.datamodule is not None:
            place = {"epoch": self.position.epoch, "batches": self.position.batches}
            trainer.datamodule.load_state_dict(place)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the position."""
        store_position(checkpoint, self.position, trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A whole epoch begins as one that was not interrupted."""
        self.begun = True
        self.saved_at = time.monotonic()
        if not self.position.batches:
            trainer.fit_loop.restarting = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A new epoch."""
        batches = trainer.num_training_batches
        self.position = Position(trainer.current_epoch, 0, 0 if math.isinf(batches) else int(batches))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Between two steps: save, if it is time to."""
        late = self.whole(trainer) and batch_idx > 0 and time.monotonic() - self.saved_at > 60 * self.minutes
        if trainer.world_size > 1:
            late = trainer.strategy.broadcast(late)
        if late:
            self._save(trainer)
        self.in_step = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A batch more."""
        self.in_step = False
        self.position = replace(self.position, batches=batch_idx + 1, validated=False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The validation after these batches is done."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self.position = replace(self.position, validated=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the state; an epoch that `max_steps` cut short is one within which a longer run goes on."""
        if self.position.at_end or not self.position.of:
            self.position = Position(trainer.current_epoch + 1)
        self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keep the state, if it is a whole one and every process is here to write it."""
        progress = trainer.fit_loop.epoch_loop.batch_progress.current
        if self.in_step and progress.processed == progress.ready:  # another callback failed at the end of the step
            self.in_step = False
            self.position = replace(self.position, batches=progress.processed, validated=False)
        together = trainer.world_size == 1 or isinstance(exception, Stopped)
        writable = not isinstance(exception, RunFolderError | NonFiniteLoss)
        fitting = self.begun and trainer.state.fn == TrainerFn.FITTING and trainer.global_step > 0
        if fitting and together and writable and self.whole(trainer):
            self._save(trainer)

    def whole(self, trainer: Trainer) -> bool:
        """Whether the state is one between two optimiser steps."""
        between = self.position.at_end or self.position.batches % trainer.accumulate_grad_batches == 0
        return between and not self.in_step

    def _save(self, trainer: Trainer) -> None:
        if not trainer.fast_dev_run:
            trainer.save_checkpoint(self.path)
        self.saved_at = time.monotonic()


def _move(checkpoint: dict[str, Any], folder: Path) -> None:
    """Let every ModelCheckpoint of a run folder that was moved find its files, else it would forget the best score."""
    here = os.path.realpath(folder)
    for state in checkpoint["callbacks"].values():
        if isinstance(state, dict) and "best_k_models" in state and state["dirpath"] != here:
            there = str(state["dirpath"])
            moved = {key: value.replace(there, here, 1) for key, value in state.items() if isinstance(value, str)}
            state |= moved | {
                "best_k_models": {k.replace(there, here, 1): v for k, v in state["best_k_models"].items()}
            }


# Where a stopped training goes on: the epoch, the batch and the validation at which it was. Lightning's own counters
# say the same in many ways, some of which it reads back as another place. So a position is counted by the hooks above,
# stored in the checkpoint, and put into the counters in one form when a run is resumed.


def store_position(checkpoint: dict[str, Any], position: Position, trainer: Trainer) -> None:
    """Write the position into a checkpoint, and what must not change for it to mean the same samples."""
    checkpoint["position"] = asdict(position) | {"layout": _layout(trainer)}


def _layout(trainer: Trainer) -> dict[str, Any]:
    data = trainer.datamodule.state_dict() if trainer.datamodule is not None else {}
    return {
        "data": data,
        "processes": trainer.world_size,
        "limit": trainer.limit_train_batches,
        "accumulated": trainer.accumulate_grad_batches,
    }


def stored_position(checkpoint: Mapping[str, Any], trainer: Trainer | None = None) -> Position:
    """The position that a checkpoint stores; of one that stores none, that of Lightning's counters.

    With a trainer whose batches are others than those of the stopped run (another batch size or data set), a position
    within an epoch is the beginning of that epoch.
    """
    if "position" not in checkpoint:
        return _counted(checkpoint["loops"]["fit_loop"])
    values = dict(checkpoint["position"])
    layout = values.pop("layout")
    position = Position(**values)
    if trainer is not None and position.batches and layout != _layout(trainer):
        print(f"The batches are not those of the stopped run: epoch {position.epoch} begins anew.", flush=True)
        return Position(position.epoch)
    return position


def _counted(loop: Mapping[str, Any]) -> Position:
    epochs, batches = loop["epoch_progress"]["current"], loop["epoch_loop.batch_progress"]
    if epochs["processed"] == epochs["ready"]:
        return Position(epochs["processed"])
    done = batches["current"]["processed"]
    validation = loop["epoch_loop.val_loop.batch_progress"]
    validated = validation["is_last_batch"] and batches["current"]["completed"] == done
    return Position(epochs["processed"], done, done if batches["is_last_batch"] else 0, validated)


def restore_counters(checkpoint: dict[str, Any], position: Position, trainer: Trainer) -> None:
    """Make the counters of a checkpoint that is being loaded say `position`, in the form that Lightning reads so."""
    loop = checkpoint["loops"]["fit_loop"]
    within = position.batches > 0
    epoch = position.epoch
    loop["epoch_progress"] = {
        key: {"ready": epoch + within, "started": epoch + within, "processed": epoch, "completed": epoch}
        for key in ("total", "current")
    }
    progress = loop["epoch_loop.batch_progress"]
    total = progress["total"]["processed"]
    loop["epoch_loop.batch_progress"] = {
        "total": _all(total),
        "current": _all(position.batches),
        "is_last_batch": position.at_end,
    }
    due = within and _validation_due(trainer, position, total)
    # A validation that was not done is one that has begun its first batch: Lightning goes back to such.
    begun = int(due and not position.validated)
    loop["epoch_loop.val_loop.batch_progress"] = {
        "total": {"ready": begun, "started": begun, "processed": 0, "completed": 0},
        "current": _all(0),
        "is_last_batch": False,
    }
    # The step axis of the loggers: counted up after the validation, which Lightning passes, done or not, on its way.
    stepped = position.at_end or position.batches % trainer.accumulate_grad_batches == 0
    loop["epoch_loop.state_dict"] = {"_batches_that_stepped": checkpoint["global_step"] - int(due and stepped)}


def _all(count: int) -> dict[str, int]:
    return dict.fromkeys(("ready", "started", "processed", "completed"), count)


def _validation_due(trainer: Trainer, position: Position, total: int) -> bool:
    """Whether a validation comes after the batches of `position`, of which the training has had `total`."""
    every, interval = trainer.check_val_every_n_epoch, trainer.val_check_interval
    if not trainer.enable_validation or (every is not None and (position.epoch + 1) % every):
        return False
    if isinstance(interval, float) and position.of:
        interval = max(1, int(position.of * interval))
    if not isinstance(interval, int):  # by the clock, or not known
        return False
    return (total if every is None else position.batches) % interval == 0

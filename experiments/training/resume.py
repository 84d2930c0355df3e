"""Where a stopped training goes on: the epoch, the batch and the validation at which it was.

Lightning's own counters say the same in many ways, some of which it reads back as another place. So a position is
counted here by its hooks, stored in the checkpoint, and put into the counters in one form when a run is resumed.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer

from experiments.config import ConfigError
from hrnet.checkpoints import read_file


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


def find_resumable(run: str | Path) -> Path:
    """Run folder, or a checkpoint in it -> the checkpoint to go on from; of a folder it is `last.ckpt`.

    Raises:
        ConfigError: If there is none, or what is there is damaged.
    """
    path = Path(run)
    path = path if path.suffix == ".ckpt" else path / "checkpoints" / "last.ckpt"
    folder = path.parent.parent
    for needed in (folder / "config.yaml", path):
        if not needed.is_file():
            raise ConfigError(
                f"Cannot resume {run}: it has no {needed.relative_to(folder)}; name a run folder such as "
                "runs/pose_coco/..., or a checkpoint in one."
            )
    try:
        read_file(path)
    except ValueError as error:
        others = [other for other in sorted(path.parent.glob("*.ckpt")) if other != path]
        way = f"Go on from another checkpoint: --resume {others[0]}" if others else "The run has no other checkpoint."
        raise ConfigError(f"{error} {way}") from error
    return path


def check_resume(path: Path, checkpoint: Mapping[str, Any], task: LightningModule, options: Mapping[str, Any]) -> None:
    """Refuse what could not go on from a checkpoint, before anything is written.

    Args:
        path: Of the checkpoint.
        checkpoint: Its content.
        task: That is to go on.
        options: Of the Trainer.

    Raises:
        ConfigError: If the file has no state of a training, is of another model, or has trained longer already.
    """
    folder = path.parent.parent
    missing = [key for key in ("state_dict", "loops", "optimizer_states", "global_step") if key not in checkpoint]
    if missing:
        raise ConfigError(
            f"{path} has no {', '.join(missing)}: it holds weights and not the state of a training. Start a new run "
            f"with --model.weights {path}, or resume from another checkpoint in {path.parent}."
        )
    stored, own = checkpoint["state_dict"], task.state_dict()
    for name in sorted(stored.keys() | own.keys()):
        there, here = (tuple(state[name].shape) if name in state else "absent" for state in (stored, own))
        if there != here:
            raise ConfigError(
                f"{path} does not fit the model: {name} is {there} there and {here} here. A resumed run keeps its "
                f"model, so leave out what changes it; a new run may begin with these weights: --model.weights {path}."
            )
    position = stored_position(checkpoint)
    for key, done in (
        ("max_epochs", position.epoch + (position.batches > 0)),
        ("max_steps", checkpoint["global_step"]),
    ):
        limit = options.get(key)
        if limit not in (None, -1) and limit < done:
            raise ConfigError(
                f"{folder} has trained up to {key.removeprefix('max_')[:-1]} {done} and trainer.{key} is {limit}: "
                "raise it, or evaluate the run with validate --checkpoint."
            )

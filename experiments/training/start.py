"""What a run starts from or evaluates: a checkpoint, the weights that its configuration names, or what was drawn.

| action | `--checkpoint X` | `--model.weights X` |
|---|---|---|
| fit | new run from all of X, with a new optimiser and schedule | the same from what fits of X; a head may stay new |
| validate, test, predict | X is evaluated; all of it has to fit | the same |

X is a run folder, a checkpoint of ours, a published file or a timm name. `--resume RUN` is the way to go on with a run,
optimiser and all. `--checkpoint RUN_FOLDER` without YAML files takes model and data from the run's own configuration.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_only

import tasks
from datamodules.base import BaseDataModule
from datamodules.loading.text_files import ConfigError
from experiments.cli.shown import say
from experiments.config.files import split_flags
from experiments.training.checkpoints import stored_position
from hrnet.checkpoints import read_file
from hrnet.processor import has_bfloat16
from tasks.task import Task

OF_BACKBONE = "init_args.backbone.init_args.weights"


def configuration_of(checkpoint: str) -> Path:
    """The configuration of the run that a checkpoint is of.

    Raises:
        ConfigError: If it is no run's.
    """
    path = Path(checkpoint).expanduser()
    folder = next((place.parent for place in (path, path.parent) if place.name == "checkpoints"), path)
    if not (folder / "config.yaml").is_file():
        raise ConfigError(
            f"--checkpoint {checkpoint} is no run folder with a config.yaml, so it does not say on which data: name an "
            f"experiment, such as validate pose_coco.yaml --checkpoint {checkpoint}."
        )
    return folder / "config.yaml"


def find_resumable(run: str | Path) -> Path:
    """Run folder, or a checkpoint in it -> the checkpoint to go on from; of a folder it is `last.ckpt`.

    Raises:
        ConfigError: If there is none, or what is there is damaged, or rows of its metrics are.
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
    _require_rows(folder / "metrics.csv")
    try:
        read_file(path)
    except ValueError as error:
        others = [other for other in sorted(path.parent.glob("*.ckpt")) if other != path]
        way = f"Go on from another checkpoint: --resume {others[0]}" if others else "The run has no other checkpoint."
        raise ConfigError(f"{error} {way}") from error
    return path


def _require_rows(path: Path) -> None:
    """Refuse to write below rows that a disk has left empty."""
    rows = path.read_bytes().split(b"\n") if path.is_file() else []
    empty = [str(number) for number, row in enumerate(rows, 1) if b"\0" in row]
    if empty:
        raise ConfigError(
            f"{path} has NUL bytes in line {', '.join(empty[:5])}{', ...' * (len(empty) > 5)}, as a disk leaves them "
            "that lost its power or was full: what stood there is lost. Take them out and resume again: "
            f"tr -d '\\000' < {path} > {path}.new && mv {path}.new {path}"
        )


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


def check_start(action: str, config: Namespace, flags: Sequence[str]) -> None:
    """Refuse to evaluate what was never trained, and weights that would not be used.

    Args:
        action: fit, validate, test or predict.
        config: Of the run.
        flags: Of the command line.

    Raises:
        ConfigError: For either.
    """
    values, _ = split_flags(list(flags))
    named = [key for key, value in values if key.startswith("model.") and _is_weights(key) and value is not None]
    other = next((key for key in ("resume", "checkpoint") if any(flag == key for flag, _ in values)), None)
    if named and other:
        raise ConfigError(f"--{named[0]} and --{other} both say what the weights are: leave one of them out.")
    if action == "fit" or config.checkpoint or config.random_weights:
        return
    keys = [key for key, value in _named(config.model) if _is_weights(key) and value is not None]
    if not set(keys) - {OF_BACKBONE}:
        only = " The configuration names weights of the backbone only." if keys else ""
        raise ConfigError(
            f"Nothing to {action}: the weights would be random.{only} Give --checkpoint (a run folder, a checkpoint or "
            "a published file) or --model.weights; --random_weights true goes on regardless."
        )


def check_trainer(action: str, config: Namespace) -> None:
    """Refuse options of the Trainer that take away what a run is: its steps, checkpoints, and samples that can go on.

    Args:
        action: fit, validate, test or predict.
        config: Of the run.

    Raises:
        ConfigError: For each of them, with what to use instead.
    """
    options = config.trainer
    if options.barebones:
        raise ConfigError(
            "trainer.barebones leaves out checkpoints, metrics and callbacks, which are what a run is for: leave it "
            "out; `python -m experiments.benchmark` measures speed."
        )
    if options.enable_checkpointing is False:
        raise ConfigError(
            "trainer.enable_checkpointing is false, and a training keeps its last and its best checkpoint: leave it "
            "out. `--trainer.fast_dev_run 2` tries two steps and keeps none."
        )
    if options.overfit_batches:
        raise ConfigError(
            f"trainer.overfit_batches is {options.overfit_batches}: Lightning would put its own order of samples in "
            "place of the one that a resumed run goes on with, and evaluate on others. `--data.overfit 8` trains and "
            "evaluates on the first eight samples, without augmentation."
        )
    on_cpu = options.accelerator == "cpu" or (options.accelerator == "auto" and not torch.accelerator.is_available())
    if on_cpu and str(options.precision).startswith("bf16") and not has_bfloat16():
        raise ConfigError(
            f"trainer.precision is {options.precision}, and this processor has no instructions for bfloat16 (AVX-512 "
            "BF16, AMX or ARM's bf16), so that a step would take up to some hundred times as long as in float32: leave "
            "it out, or train on a GPU."
        )
    if config.resume and options.fast_dev_run:
        raise ConfigError("--resume goes on with a training, and trainer.fast_dev_run keeps nothing: leave one out.")
    for key in ("max_epochs", "max_steps", "limit_train_batches"):
        if action == "fit" and options[key] == 0:
            raise ConfigError(f"trainer.{key} is 0, so nothing would be trained: raise it; validate evaluates a run.")


def to_instantiate(action: str, config: Namespace) -> Namespace:
    """The configuration without weights that would be read only to be overwritten."""
    config = config.clone()
    if config.checkpoint or config.resume:
        _forget(config.model)
    elif action != "fit" and not config.random_weights and dict(_named(config.model)).get("init_args.weights"):
        _forget(config.model, only=OF_BACKBONE)  # what has to be whole has a backbone too
    return config


def begin(action: str, task: Task, data: BaseDataModule, config: Namespace) -> None:
    """Fill a new task with what it starts from, except in a training, which reads `model.weights` itself.

    Images that the data prepare otherwise than those of the checkpoint are said, since scores will differ.

    Raises:
        ConfigError: If an evaluation would use weights that are as they were drawn.
        FileNotFoundError: If there is no checkpoint.
        ValueError: If a file is damaged or does not fit.
    """
    if config.checkpoint:
        before, now = _arguments(tasks.restore(task, config.checkpoint)), _arguments(data.preparation())
        # The crop of a segmentation training is none of its evaluation.
        keys = ("preparer", "crop", "evaluation", *(() if "evaluation" in now else ("image_size",)))
        for key in keys:
            if key in before and key in now and before[key] != now[key]:
                logging.getLogger("hrnet").warning(
                    "%s was trained on images of %s %s, and the data have %s.",
                    *(config.checkpoint, key, before[key], now[key]),
                )
    elif action != "fit":
        left = sorted(task.load_start())
        if left and not config.random_weights:
            files = ", ".join(value for key, value in _named(config.model) if _is_weights(key) and value is not None)
            raise ConfigError(
                f"The weights that the model names ({files}) leave {len(left)} tensors as they were drawn "
                f"({', '.join(left[:3])}{', ...' * (len(left) > 3)}), so the evaluation would say nothing: give a "
                "checkpoint of the whole task that fits it, or --random_weights true to go on regardless."
            )


def _arguments(preparation: dict[str, Any]) -> dict[str, Any]:
    """Class and arguments of a preparer as one level; the arguments alone where that is all that a checkpoint has."""
    if "class_path" not in preparation:
        return preparation
    return {"preparer": preparation["class_path"], **preparation["init_args"]}


def show_weight_reports() -> None:
    """Print what is said of weights as they are read (logger `hrnet`), once for all processes."""
    logger = logging.getLogger("hrnet")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _Printed) for handler in logger.handlers):
        logger.addHandler(_Printed())


def import_named(modules: Sequence[str]) -> None:
    """Import the modules that a user says may be imported."""
    for module in modules:
        tasks.import_module(module)


class _Printed(logging.Handler):
    """To the standard output of the moment, which notebooks and tests exchange."""

    @rank_zero_only
    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


def _is_weights(key: str) -> bool:
    return key.rpartition(".")[2] == "weights"


def _named(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of a configuration with their values."""
    for key, item in _items(value):
        if isinstance(item, Namespace | dict):
            yield from _named(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def _items(value: Namespace | dict) -> list[tuple[str, Any]]:
    return list((vars(value) if isinstance(value, Namespace) else value).items())


def _forget(value: Namespace | dict, only: str | None = None, prefix: str = "") -> None:
    """Set every `weights` to None, or only the one with that dotted key."""
    for key, item in _items(value):
        name = f"{prefix}{key}"
        if isinstance(item, Namespace | dict):
            _forget(item, only, f"{name}.")
        elif _is_weights(name) and only in (None, name):
            if isinstance(value, dict):
                value[key] = None
            else:
                setattr(value, key, None)

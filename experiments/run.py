"""Train and evaluate an experiment.

python -m experiments.run pose_coco.yaml                          # fit, then evaluate the best checkpoint
python -m experiments.run pose_coco.yaml sample.yaml --trainer.max_epochs 2
python -m experiments.run validate --checkpoint runs/pose_coco/20260101-120000-abcdef
python -m experiments.run validate pose_coco.yaml --checkpoint pose_hrnet_w32_256x192.pth
python -m experiments.run --resume runs/pose_coco/20260101-120000-abcdef
"""

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # albumentations asks the network at import otherwise
# Threads of OpenMP spin while they wait for each other. Where loader processes or other programs use the same cores, a
# step then takes many times as long; spinning briefly costs nothing on an idle machine. Read when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import torch
import wandb
from jsonargparse import ArgumentParser, Namespace
from lightning import LightningModule, Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import (
    Callback,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
    Timer,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

import tasks
from datamodules.base import DataError
from experiments.config import ConfigError, find, make_parser, parse
from experiments.cost import cost
from experiments.loggers import RememberRun, log_best, make_csv_logger, make_wandb_logger
from experiments.preflight import Preflight
from experiments.run_folder import environment, new_run_folder, peak_memory, write_json
from experiments.start import begin, check_start, configuration_of, show_weight_reports, to_instantiate
from tasks.task import Task

ACTIONS = ("fit", "validate", "test", "predict")


def main(argv: Sequence[str] | None = None, callbacks: Sequence[Callback] = ()) -> Trainer:
    """Run an experiment as the command line does; for notebooks and tests.

    Args:
        argv: Action, YAML files and flags; those of the process when not given.
        callbacks: Beside those of the YAML files; not part of the stored configuration.

    Returns:
        The Lightning Trainer, with the task at `.lightning_module` and the metrics at `.callback_metrics`.
    """
    action, files, flags = split_arguments(list(sys.argv[1:] if argv is None else argv))
    parser = make_parser()
    resume = _flag_value(flags, "--resume")
    if resume is not None:
        files = [_resumable(resume) / "config.yaml", *files]
    checkpoint = _flag_value(flags, "--checkpoint")
    if checkpoint is not None and not files:
        files = [configuration_of(checkpoint)]
    config = parse(parser, files, flags)
    check_start(action, config, flags)
    name = Path(resume).parent.name if resume else files[0].stem
    folder = Path(resume) if resume else new_run_folder(config.runs, name)
    _say(f"run folder: {folder}")
    show_weight_reports()
    seed_everything(config.seed_everything, workers=True, verbose=False)
    objects = parser.instantiate(to_instantiate(action, config))
    config.resume = None
    if not resume:
        begin(action, objects.model, config)
    objects.trainer.callbacks = [*(objects.trainer.callbacks or []), *callbacks]
    trainer = make_trainer(objects, objects.model, folder, name, action, config)
    if rank_zero_only.rank == 0:
        _write_start(folder, parser, config)
    try:
        if action == "fit":
            start = folder / "checkpoints" / "last.ckpt" if resume else None
            _fit(trainer, objects, folder, start, (config.wandb or {}).get("log_model", False))
        else:
            found = getattr(trainer, action)(objects.model, objects.data)
            if action == "predict":
                (folder / "predictions").mkdir(exist_ok=True)
                torch.save(found, folder / "predictions" / "predict.pt")
    finally:
        wandb.finish()  # a second run in the same process, in a notebook, is a run of its own
    _say(f"run folder: {folder}")
    return trainer


def _fit(trainer: Trainer, objects: Namespace, folder: Path, checkpoint: Path | str | None, log_model: bool) -> None:
    """Train, then evaluate the best checkpoint; the summary is written after either."""
    task, data = objects.model, objects.data
    if trainer.strategy.root_device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(trainer.strategy.root_device)  # of an earlier run in this process
    trainer.fit(task, data, ckpt_path=checkpoint, weights_only=True)
    if trainer.interrupted:
        _say(f"stopped early; go on with: python -m experiments.run --resume {folder}")
        return
    size = cost(task, data.image_size)
    summary: dict[str, Any] = {
        "monitor": task.monitor,
        "best": {},
        "best_epoch": None,
        "last": _finite(trainer.callback_metrics),
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "seconds": round(next(c for c in trainer.callbacks if isinstance(c, Timer)).time_elapsed(), 1),
        "parameters": size.parameters,
        "multiply_adds": size.multiply_adds,
        "peak_memory_bytes": peak_memory(trainer.strategy.root_device),
    }
    best = folder / "checkpoints" / "best.ckpt"
    if best.is_file():
        trainer.validate(task, data, ckpt_path=best, weights_only=True, verbose=False)
        summary["best"] = _finite(trainer.callback_metrics)
        summary["best_epoch"] = torch.load(best, map_location="cpu", weights_only=True, mmap=True)["epoch"]
    if trainer.is_global_zero:
        write_json(folder / "summary.json", summary)
        log_best(trainer, folder, summary, log_model)


def _finite(metrics: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in metrics.items() if name[:3] != "lr-" and torch.isfinite(value)}


def split_arguments(argv: list[str]) -> tuple[str, list[Path], list[str]]:
    """Command line -> action, YAML files, flags."""
    action = argv.pop(0) if argv and argv[0] in ACTIONS else "fit"
    flags_at = next((i for i, word in enumerate(argv) if word.startswith("-")), len(argv))
    return action, [find(name) for name in argv[:flags_at]], argv[flags_at:]


class SaveWhenStopped(Callback):
    """Whatever ends a training early (Ctrl-C, SIGTERM, an error), its state is kept, to go on with by --resume."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the checkpoint; a validation that was cut short is not continued but left out."""
        if trainer.state.fn == TrainerFn.FITTING and trainer.global_step > 0:
            trainer.fit_loop.epoch_loop.val_loop.batch_progress.reset()
            trainer.save_checkpoint(self.path)


def make_trainer(objects: Namespace, task: Task, folder: Path, name: str, action: str, config: Namespace) -> Trainer:
    """Trainer with checkpoints, learning rate monitor, progress bar and loggers, beside what the YAML asks for."""
    options = dict(objects.trainer)
    if isinstance(options["limit_train_batches"], float) and options["limit_train_batches"] == 1.0:
        options["limit_train_batches"] = None
    checkpoints = folder / "checkpoints"
    callbacks: list[Callback] = [
        *(options.pop("callbacks") or []),
        ModelCheckpoint(
            checkpoints,
            "best",
            monitor=task.monitor,
            mode=task.mode,
            enable_version_counter=False,
            save_on_train_epoch_end=False,
        ),
        ModelCheckpoint(checkpoints, "last", enable_version_counter=False),
        SaveWhenStopped(checkpoints / "last.ckpt"),
        Preflight(),
        LearningRateMonitor("step"),
    ]
    if not any(isinstance(callback, Timer) for callback in callbacks):
        callbacks.append(Timer())  # its count goes on when a run is resumed
    bar = options.pop("enable_progress_bar")
    if bar is not False and not any(isinstance(callback, RichProgressBar | TQDMProgressBar) for callback in callbacks):
        if "ipykernel" in sys.modules:
            callbacks.append(TQDMProgressBar())
        elif sys.stdout.isatty():
            callbacks.append(RichProgressBar())
        else:
            bar = False
    loggers = options.pop("logger")
    loggers = loggers if isinstance(loggers, list) else [loggers] if isinstance(loggers, Logger) else []
    loggers.append(make_csv_logger(folder))
    if rank_zero_only.rank == 0:
        tags = [type(task).__name__, type(objects.data).__name__, str(task.backbone.hparams["variant"])]
        settings = {key: value for key, value in config.as_dict().items() if key not in ("config", "resume", "debug")}
        wandb_logger = make_wandb_logger(folder, name, action, tags, settings)
        if wandb_logger is not None:
            loggers.append(wandb_logger)
            callbacks.append(RememberRun(wandb_logger.experiment))
    options["log_every_n_steps"] = options["log_every_n_steps"] or 10
    return Trainer(
        **options, default_root_dir=folder, callbacks=callbacks, logger=loggers, enable_progress_bar=bar is not False
    )


def _write_start(folder: Path, parser: ArgumentParser, config: Namespace) -> None:
    stored = config.clone()
    stored.pop("config", None)
    partial = folder / "config.yaml.part"
    partial.write_text(parser.dump(stored, skip_unset=False))
    partial.replace(folder / "config.yaml")
    write_json(folder / "environment.json", environment() | {"wandb_run": wandb.run and wandb.run.id})


def _resumable(run: str) -> Path:
    folder = Path(run)
    for needed in ("config.yaml", "checkpoints/last.ckpt"):
        if not (folder / needed).is_file():
            raise ConfigError(
                f"Cannot resume {folder}: it has no {needed}; name a run folder such as runs/pose_coco/..."
            )
    return folder


def _flag_value(flags: list[str], name: str) -> str | None:
    for i, flag in enumerate(flags):
        if flag == name and i + 1 < len(flags):
            return flags[i + 1]
        if flag.startswith(name + "="):
            return flag.split("=", 1)[1]
    return None


@rank_zero_only
def _say(line: str) -> None:
    print(line, flush=True)


def is_users_mistake(error: BaseException) -> bool:
    """Our own words about bad input, as opposed to a bug: raised by our packages, or a data error from a worker."""
    if isinstance(error, DataError | ConfigError | MisconfigurationException):
        return True
    ours = {str(Path(module.__file__).parent) for module in (tasks, sys.modules["hrnet"], sys.modules["datamodules"])}
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
    return isinstance(error, ValueError | FileNotFoundError) and any(raised_in.startswith(folder) for folder in ours)


def command(entry: Callable[[], object] = main) -> int:
    """A command's `main` with exit status: 0 on success, 2 with one message for a user's mistake."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # between torch and Lightning
    try:
        entry()
    except Exception as error:
        if "--debug" in sys.argv or not is_users_mistake(error):
            raise
        # A worker process wraps its traceback into the message; the last part is what was said.
        print(f"error: {str(error).rsplit('DataError: ', 1)[-1].strip()}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(command())

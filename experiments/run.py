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
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # albumentations asks the network at import otherwise
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # W&B asks for the address of its server, even offline
# Threads of OpenMP spin while they wait for each other. Where loader processes or other programs use the same cores, a
# step then takes many times as long; spinning briefly costs nothing on an idle machine. Read when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import torch
from jsonargparse import ArgumentParser, Namespace
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import (
    Callback,
    ModelCheckpoint,
    ModelSummary,
    RichProgressBar,
    Timer,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from experiments import cli
from experiments.cli.files import read_json, write_json, write_text
from experiments.cli.mistakes import Stopped
from experiments.cli.shown import say
from experiments.config import ConfigError, find_all, make_parser, parse
from experiments.config.files import files_and_flags
from experiments.training.callbacks import LearningRate, PartsSummary, Preflight
from experiments.training.checkpoints import LastCheckpoint, WholeFiles
from experiments.training.cost import cost
from experiments.training.loggers import MetricsFile, RememberRun, end_wandb, log_best, make_wandb_logger
from experiments.training.nonfinite import FiniteLoss
from experiments.training.processes import check_processes, together
from experiments.training.run_folder import RunFolder, environment, peak_memory, remove_unfinished
from experiments.training.sheet import TrainingSheet
from experiments.training.signals import StopOnSignal
from experiments.training.start import (
    begin,
    check_resume,
    check_start,
    check_trainer,
    configuration_of,
    find_resumable,
    show_weight_reports,
    to_instantiate,
)
from hrnet.checkpoints import read_file
from tasks.task import Task

ACTIONS = ("fit", "validate", "test", "predict")


def main(argv: Sequence[str] | None = None, callbacks: Sequence[Callback] = ()) -> Trainer:
    """Run an experiment as the command line does; for notebooks and tests.

    Args:
        argv: Action, YAML files and flags; those of the process when not given.
        callbacks: Beside those of the YAML files; not part of the stored configuration.

    Returns:
        The Lightning Trainer, with the task at `.lightning_module` and the metrics at `.callback_metrics`.

    Raises:
        Stopped: After Ctrl-C or SIGTERM; a training that had begun can be resumed.
    """
    action, files, flags = split_arguments(list(sys.argv[1:] if argv is None else argv))
    parser = make_parser()
    resume = _flag_value(flags, "--resume")
    last = None
    if resume is not None:
        if action != "fit":
            raise ConfigError(f"--resume goes on with a training; to {action} a run, give --checkpoint {resume}.")
        last = find_resumable(resume)
        files = [last.parent.parent / "config.yaml", *files]
    checkpoint = _flag_value(flags, "--checkpoint")
    if checkpoint is not None and not files:
        files = [configuration_of(checkpoint)]
    config = parse(parser, files, flags)
    check_trainer(action, config)
    check_start(action, config, flags)
    config.name = config.name or "+".join(path.stem for path in files)
    show_weight_reports()
    seed_everything(config.seed_everything, workers=True, verbose=False)
    objects = parser.instantiate(to_instantiate(action, config))
    config.resume = None
    if not resume:
        begin(action, objects.model, objects.data, config)
    objects.trainer.callbacks = [*_as_list(objects.trainer.callbacks), *callbacks]
    before: dict[str, Any] = {}
    if last is not None:
        # Lightning has words about what LastCheckpoint sees to.
        warnings.filterwarnings("ignore", ".*ended before the epoch ended and your dataloader is not resumable.*")
        warnings.filterwarnings("ignore", ".*exists and is not empty.*")
        before = read_file(last)
        check_resume(last, before, objects.model, objects.trainer)
    experiment = files[0].resolve().parts[-3] if files[0].name == "config.yaml" else files[0].stem
    run = RunFolder(last and last.parent.parent, config.runs, experiment)
    start = Start(run.path, parser, config, action)
    wandb_run = before.pop("wandb_run", {})
    before.clear()  # as large as the model thrice
    done = False
    _say(f"run folder: {run.path}")
    try:
        trainer = make_trainer(objects, run.path, experiment, action, config, start, wandb_run)
        check_processes(trainer, config)
        stop = next(callback for callback in trainer.callbacks if isinstance(callback, StopOnSignal))
        with together(), stop.named():
            if action == "fit":
                _fit(trainer, objects, run.path, last, (config.wandb or {}).get("log_model", False))
            else:
                found = getattr(trainer, action)(objects.model, objects.data)
                if action == "predict":
                    (run.path / "predictions").mkdir(exist_ok=True)
                    torch.save(found, run.path / "predictions" / "predict.pt")
        done = True
    except Stopped:
        if action == "fit" and (run.path / "checkpoints" / "last.ckpt").is_file():
            _say(f"go on with: python -m experiments.run --resume {run.path}")
        raise
    finally:
        end_wandb()
        if not (done or start.stepped):
            run.leave_nothing()
        run.release()
    _say(f"run folder: {run.path}")
    return trainer


def _fit(trainer: Trainer, objects: Namespace, folder: Path, start: Path | str | None, log_model: bool) -> None:
    """Train, then evaluate the best checkpoint; the summary is written after either."""
    task, data = objects.model, objects.data
    if trainer.strategy.root_device.type == "cuda" and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats(trainer.strategy.root_device)  # of an earlier run in this process
    trainer.fit(task, data, ckpt_path=start, weights_only=True)
    timer = next(callback for callback in trainer.callbacks if isinstance(callback, Timer))
    left = timer.time_remaining()
    if left is not None and left <= 0:
        _say(f"stopped after {trainer.global_step} steps, when trainer.max_time was over")
    folder = Path(trainer.strategy.broadcast(str(folder)))
    earlier = read_json(folder / "summary.json")
    size = cost(task, data.image_size)
    summary: dict[str, Any] = {
        "monitor": task.monitor,
        "mode": task.mode,
        "modes": {},
        "best": {},
        "best_epoch": None,
        "last": task.logged_metrics(),
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "seconds": round(timer.time_elapsed(), 1),
        "parameters": size.parameters,
        "multiply_adds": size.multiply_adds,
        "peak_memory_bytes": max(peak_memory(trainer.strategy.root_device), earlier.get("peak_memory_bytes", 0)),
    }
    best = folder / "checkpoints" / "best.ckpt"
    if best.is_file():
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                logger.of_best_checkpoint = True
        trainer.validate(task, data, ckpt_path=best, weights_only=True, verbose=False)
        task.earlier_metrics = {}
        summary["best"] = task.logged_metrics()
        summary["best_epoch"] = torch.load(best, map_location="cpu", weights_only=True, mmap=True)["epoch"]
    names = summary["best"] | summary["last"]
    summary["modes"] = {name: mode for name, mode in task.modes.items() if name in names}
    if trainer.is_global_zero:
        write_json(folder / "summary.json", summary)
        log_best(trainer, folder, summary, log_model)


def split_arguments(argv: list[str]) -> tuple[str, list[Path], list[str]]:
    """Command line -> action, YAML files, flags."""
    action = argv.pop(0) if argv and argv[0] in ACTIONS else "fit"
    files, flags = files_and_flags(argv)
    return action, find_all(files), flags


class Start(Callback):
    """Writes config.yaml and environment.json once the run has begun: one that is refused leaves those before.

    Args:
        folder: Run folder.
        parser: That knows the configuration.
        config: Of this run.
        action: fit, validate, test or predict.
    """

    def __init__(self, folder: Path, parser: ArgumentParser, config: Namespace, action: str) -> None:
        self.folder, self.parser, self.config, self.action = folder, parser, config, action
        self.stepped = False
        """Whether a step of training or evaluation has been done."""
        self._written = False

    def _write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._written or not trainer.is_global_zero:
            return
        remove_unfinished(self.folder)
        stored = self.config.clone()
        stored.pop("config", None)
        stored.pop("resume", None)
        write_text(self.folder / "config.yaml", self.parser.dump(stored, skip_unset=False))
        earlier = read_json(self.folder / "environment.json")
        now = environment()
        before = earlier.get("commands") or ([earlier["command"]] if "command" in earlier else [])
        started = [*before, now["command"]]
        more = {"action": self.action, "name": self.config.name, "commands": started}
        loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        more["wandb_run"] = loggers[-1].version if loggers else None
        write_json(self.folder / "environment.json", {**now, "command": started[0], **more})
        self._written = True

    on_train_start = on_validation_start = on_test_start = on_predict_start = _write

    def _step(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        self.stepped = self.stepped or not trainer.sanity_checking

    on_train_batch_end = on_validation_batch_end = on_test_batch_end = on_predict_batch_end = _step


def make_trainer(
    objects: Namespace,
    folder: Path,
    experiment: str,
    action: str,
    config: Namespace,
    start: Start,
    wandb_run: dict[str, Any],
) -> Trainer:
    """Trainer with checkpoints, learning rate monitor, progress bar and loggers, beside what the YAML asks for."""
    task: Task = objects.model
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
        FiniteLoss(config.nonfinite_loss),
        StopOnSignal(),
        LastCheckpoint(checkpoints / "last.ckpt", config.save_minutes),
        start,
        Preflight(),
        TrainingSheet(),
        LearningRate(),
    ]
    if not any(isinstance(callback, Timer) for callback in callbacks):
        callbacks.append(Timer(options.pop("max_time")))  # its count goes on when a run is resumed
    if options["enable_model_summary"] is not False and not any(isinstance(c, ModelSummary) for c in callbacks):
        callbacks.append(PartsSummary())
        options["enable_model_summary"] = False  # Lightning's
    bar = options.pop("enable_progress_bar")
    if bar is not False and not any(isinstance(callback, RichProgressBar | TQDMProgressBar) for callback in callbacks):
        if "ipykernel" in sys.modules:
            callbacks.append(TQDMProgressBar())
        elif sys.stdout.isatty():
            callbacks.append(RichProgressBar())
        else:
            bar = False
    asked = options.pop("logger")
    loggers = asked if isinstance(asked, list) else [asked] if isinstance(asked, Logger) else []
    if asked is not False:
        loggers.append(MetricsFile(folder))
    if asked is not False and rank_zero_only.rank == 0:
        tags = [type(task).__name__, type(objects.data).__name__, str(task.backbone.hparams["variant"])]
        settings = {key: value for key, value in config.as_dict().items() if key not in ("config", "resume", "debug")}
        wandb_logger = make_wandb_logger(folder, experiment, action, tags, settings, wandb_run)
        if wandb_logger is not None:
            loggers.append(wandb_logger)
            callbacks.append(RememberRun(wandb_logger.experiment))
    options["log_every_n_steps"] = options["log_every_n_steps"] or 10
    options["plugins"] = [*_as_list(options.get("plugins")), WholeFiles()]
    return Trainer(
        **options, default_root_dir=folder, callbacks=callbacks, logger=loggers, enable_progress_bar=bar is not False
    )


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def _flag_value(flags: list[str], name: str) -> str | None:
    for i, flag in enumerate(flags):
        if flag == name and i + 1 < len(flags):
            return flags[i + 1]
        if flag.startswith(name + "="):
            return flag.split("=", 1)[1]
    return None


@rank_zero_only
def _say(line: str) -> None:
    say(line)


def command(entry: Callable[[], object] = main) -> int:
    """Exit status of a command that trains or evaluates, without Lightning's words about its own affairs."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # between torch and Lightning
    return cli.status(entry)


if __name__ == "__main__":
    sys.exit(command())

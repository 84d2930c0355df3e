"""What a run logs: metrics.csv in its folder, and W&B, online where there are a key and a network, else offline.

Rows of metrics.csv are only ever appended, each at once: a run that is killed loses no row, and one that goes on writes
below what is there; steps that it repeats stand twice, the later row counts. The evaluation of the best checkpoint
after the training has 1 in the column best_checkpoint.

Offline runs of W&B are complete: `wandb sync` uploads them later, and a resumed experiment goes on in the same W&B run.
"""

import csv
import io
import os
import socket
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

import wandb
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from experiments.cli.files import replacing
from experiments.cli.mistakes import is_of_wandb
from experiments.cli.shown import say
from experiments.config import ConfigError
from experiments.training.run_folder import environment

# W&B refuses rows whose internal number is not above the last one's. The number in a checkpoint is older than the last
# row by what was logged after it, such as the final evaluation; a gap costs nothing, the step axis is another column.
ROWS_AFTER_A_CHECKPOINT = 1000


class MetricsFile(Logger):
    """Logger that appends to `metrics.csv` in a run folder; of several processes the first one writes.

    Args:
        folder: Run folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / "metrics.csv"
        self.columns = self._repaired_columns() if rank_zero_only.rank == 0 else []
        self.of_best_checkpoint = False
        """Whether rows are of the best checkpoint from here on, and no point of the training's curves."""

    @property
    def name(self) -> str:
        """As Lightning asks for it."""
        return self.path.name

    @property
    def version(self) -> str:
        """As Lightning asks for it."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """They are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row with column `step`, the number of optimiser steps before."""
        values = {name: value if isinstance(value, int) else float(value) for name, value in metrics.items()}
        row = {"step": step, **values, **({"best_checkpoint": 1} if self.of_best_checkpoint else {})}
        new = sorted(row.keys() - set(self.columns))
        if new:
            self._add_columns(new)
        with self.path.open("a", newline="") as file:
            file.write(_line([row.get(column, "") for column in self.columns]))

    def _repaired_columns(self) -> list[str]:
        """Columns of the file, none without a header; a row in which a process was killed is ended, as no whole one."""
        if not self.path.is_file():
            return []
        content = self.path.read_bytes()
        columns = next(csv.reader([content.partition(b"\n")[0].decode(errors="replace")]), [])
        columns = columns if "step" in columns else []
        if content and not content.endswith(b"\n"):
            with self.path.open("ab") as file:
                file.write(b"," * len(columns) + b"\n")  # too many cells: even a number that looks whole may be cut
        return columns

    def _add_columns(self, names: list[str]) -> None:
        """Give the file a longer header, written beside it and renamed; every row stays and gets empty cells."""
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.is_file() else []
        rows = lines[1:] if self.columns else lines
        empty = b"," * len(names)
        padded = [row.rstrip(b"\r\n") + empty + b"\n" for row in rows]
        self.columns = [*self.columns, *names]
        with replacing(self.path) as part:
            part.write_bytes(b"".join([_line(self.columns).encode(), *padded]))


def _line(values: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


def make_wandb_logger(
    folder: Path,
    experiment: str,
    action: str,
    tags: list[str],
    config: Mapping[str, Any],
    before: Mapping[str, Any] | None = None,
) -> WandbLogger | None:
    """Logger that writes into the run folder; None if `mode` is disabled.

    The run's id is the folder's name, or that of `before`: a resumed run goes on with the same W&B
    run and step axis, wherever the folder has been moved. Nothing here waits for a login.

    Args:
        folder: Run folder.
        experiment: Group of the run.
        action: Type of the job: fit, validate, test or predict.
        tags: Used when the configuration has none.
        config: Resolved configuration, stored with the run beside versions, machine and state of the code. Its section
            `wandb` has arguments of `wandb.init`: project, name, group, tags, notes, entity, mode.
        before: What `RememberRun` wrote into the checkpoint that a resumed run goes on from.
    """
    spec = dict(config.get("wandb") or {})
    spec.pop("log_model", None)
    before = dict(before or {})
    if before:
        before["step"] += ROWS_AFTER_A_CHECKPOINT
    mode = wanted_mode(spec.pop("mode", None))
    if mode == "disabled":
        return None
    why = why_offline() if mode == "online" else "as asked for"
    sweep = "WANDB_SWEEP_ID" in os.environ  # W&B's agent has named the run
    options: dict[str, Any] = {
        "project": None if sweep else "hrnet",
        "group": experiment,
        "tags": tags,
        **before,
        **spec,
        "id": None if sweep else before.get("id", folder.name),
        "dir": folder,
        "job_type": action,
        "resume": "allow",
        "config": {**config, "environment": environment()},
    }
    options.setdefault("name", config.get("name") or folder.name)
    step = options.pop("step", 0)
    if why is None:
        try:
            run = _start("online", options)
        except wandb.Error as error:
            why = str(error).strip().splitlines()[0]
            wandb.teardown()  # else the id is still in use
    if why is not None:
        run = _start("offline", options)
        say(f"W&B is offline ({why}); upload later with: wandb sync {folder / 'wandb'}/offline-run-*")
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    if step > run.step:
        run.log({}, step=step, commit=False)
    return WandbLogger(experiment=run, project=run.project, save_dir=folder)


def wanted_mode(stated: str | None) -> Literal["online", "offline", "disabled"]:
    """`WANDB_DISABLED` of the environment, else what the configuration states, else `WANDB_MODE`, else online.

    Raises:
        ConfigError: If the environment has another mode than W&B.
    """
    if os.environ.get("WANDB_DISABLED", "").strip().lower() in ("true", "t", "yes", "y", "on", "1"):
        return "disabled"
    mode = stated or os.environ.get("WANDB_MODE") or "online"
    mode = {"dryrun": "offline", "run": "online"}.get(mode, mode)  # former names
    if mode not in ("online", "offline", "disabled"):
        raise ConfigError(f"WANDB_MODE is {mode!r}: expected online, offline or disabled.")
    return mode


def _start(mode: str, options: Mapping[str, Any]) -> wandb.Run:
    settings = wandb.Settings(mode=mode, silent=True, console="off", init_timeout=20)
    return wandb.init(**options, settings=settings)


def end_wandb() -> None:
    """End W&B's run, so that a second one in the same process, in a notebook, is a run of its own."""
    try:
        wandb.finish()
    except Exception as error:
        if not is_of_wandb(error):
            raise
        said = str(error) or type(error).__name__
        say(f"W&B's service has ended ({said}); what it has not written is in metrics.csv.")
        try:
            wandb.teardown()  # it says so once more, and forgets the service, so that the next run starts another
        except Exception as again:
            if not is_of_wandb(again):
                raise


class RememberRun(Callback):
    """Every checkpoint says which W&B run it belongs to, and how many rows that had."""

    def __init__(self, run: wandb.Run) -> None:
        self.run = run
        self.step = run.step

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask W&B here: when a checkpoint is written for the sake of an error, it may no longer answer."""
        self.step = self.run.step

    on_validation_end = on_train_epoch_end

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the run under `wandb_run`."""
        names = {"id": self.run.id, "project": self.run.project, "group": self.run.group, "name": self.run.name}
        checkpoint["wandb_run"] = {**names, "step": self.step}


def log_best(trainer: Trainer, folder: Path, summary: Mapping[str, Any], log_model: bool) -> None:
    """Best metrics, their epoch and the size into W&B's summary, which else shows the last; if asked, the checkpoints.

    Args:
        trainer: With the loggers.
        folder: Run folder.
        summary: As in `summary.json`.
        log_model: Store the checkpoints as versions of the artifact `model-<run id>`, with the aliases best and latest.
    """
    for logger in trainer.loggers:
        if not isinstance(logger, WandbLogger):
            continue
        best = {f"best/{name}": value for name, value in summary["best"].items()}
        size = {key: summary[key] for key in ("epochs", "parameters", "multiply_adds", "monitor", "mode")}
        logger.experiment.summary.update({**best, "best/epoch": summary["best_epoch"], **size})
        for alias, name in (("best", "best"), ("latest", "last")) if log_model else ():
            path = folder / "checkpoints" / f"{name}.ckpt"
            if path.is_file():
                metadata = {"monitor": summary["monitor"], **summary[name]}
                artifact = wandb.Artifact(f"model-{logger.experiment.id}", type="model", metadata=metadata)
                artifact.add_file(str(path), name="model.ckpt")
                logger.experiment.log_artifact(artifact, aliases=[alias])


def why_offline() -> str | None:
    """Why W&B cannot be used online, in a few words; None where there is a key and its server answers."""
    settings = wandb.setup().settings
    key = settings.api_key or os.environ.get("WANDB_API_KEY")
    host = urlparse(settings.base_url)
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    if not key and not (netrc.is_file() and (host.hostname or "") in netrc.read_text()):
        return "no API key"
    try:
        port = host.port or (80 if host.scheme == "http" else 443)
        socket.create_connection((host.hostname, port), timeout=2).close()
    except OSError:
        return f"no answer from {host.hostname}"
    return None

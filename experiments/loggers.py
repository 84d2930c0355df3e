"""The loggers of a run: a CSV file always, and W&B, online where there are a key and a network, else offline."""

import csv
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import wandb
from lightning.pytorch.loggers import CSVLogger, WandbLogger


def make_csv_logger(folder: Path) -> CSVLogger:
    """Logger of `metrics.csv` in the run folder; of a resumed run it keeps what was written up to the checkpoint."""
    path, checkpoint = folder / "metrics.csv", folder / "checkpoints" / "last.ckpt"
    rows: list[dict[str, str]] = []
    if path.is_file() and checkpoint.is_file():
        steps = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"]
        with path.open() as lines:
            rows = [row for row in csv.DictReader(lines) if int(row["step"]) < steps]
        path.rename(folder / "metrics_before_resume.csv")
    logger = CSVLogger(folder, name="", version="")
    for row in rows:
        logger.log_metrics(
            {key: float(value) for key, value in row.items() if value and key != "step"}, int(row["step"])
        )
    logger.save()
    return logger


def make_wandb_logger(folder: Path, experiment: str, tags: list[str], spec: Mapping[str, Any]) -> WandbLogger | None:
    """Logger that writes into the run folder; None if `mode` is disabled.

    Args:
        folder: Run folder; its name is the run's id, so a resumed run goes on with the same W&B run.
        experiment: Group of the run.
        tags: Used when `spec` has none.
        spec: Arguments of `wandb.init`: project, name, group, tags, notes, entity, mode.
    """
    spec = dict(spec)
    mode = spec.pop("mode", None) or os.environ.get("WANDB_MODE") or ("online" if _reachable() else "offline")
    if mode == "disabled":
        return None
    if mode == "offline":
        print(f"W&B is offline; upload later with: wandb sync {folder / 'wandb'}/offline-run-*", flush=True)
    return WandbLogger(
        name=spec.pop("name", folder.name),
        project=spec.pop("project", "hrnet"),
        group=spec.pop("group", experiment),
        tags=spec.pop("tags", tags),
        id=folder.name,
        save_dir=folder,
        offline=mode == "offline",
        settings=wandb.Settings(mode=mode, silent=True, console="off"),
        **spec,
    )


def _reachable() -> bool:
    """Whether there is an API key and its server answers within two seconds."""
    settings = wandb.setup().settings
    key = settings.api_key or os.environ.get("WANDB_API_KEY")
    host = urlparse(settings.base_url)
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    if not key and not (netrc.is_file() and (host.hostname or "") in netrc.read_text()):
        return False
    try:
        socket.create_connection((host.hostname, host.port or 443), timeout=2).close()
    except OSError:
        return False
    return True

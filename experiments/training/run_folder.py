"""The run folder, `runs/<experiment>/<time>-<id>/`: what a run leaves behind, and the unit that other commands take.

config.yaml  metrics.csv  summary.json  environment.json  checkpoints/{best,last}.ckpt  pictures/  predictions/  wandb/
"""

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
import tempfile
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only

from experiments.cli.mistakes import Mistake

LIBRARIES = ("torch", "torchvision", "lightning", "torchmetrics", "timm", "albumentations", "faster-coco-eval", "wandb")


class RunFolderError(Mistake):
    """A run folder that cannot be made, read or written; the message says why and what to do."""


class RunFolder:
    """`runs/<experiment>/<time>-<id>`, new, or that of a run that goes on; of several processes the first makes it.

    Args:
        path: Of a run that goes on.
        runs: Folder that a new one is made in.
        experiment: What it is called there.

    Raises:
        RunFolderError: If it cannot be made or written.
    """

    def __init__(self, path: Path | None, runs: str, experiment: str) -> None:
        self.path = path or Path(runs) / experiment / f"{datetime.now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
        self.writes = rank_zero_only.rank == 0
        self._new = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        self._before = set(self.path.rglob("*"))
        if self.writes:
            try:
                self.path.mkdir(parents=True, exist_ok=path is not None)
                with tempfile.TemporaryFile(dir=self.path):
                    pass
            except OSError as error:
                self.leave_nothing()
                raise RunFolderError(
                    f"The run folder {self.path} cannot be written ({error.strerror}): correct the rights, or name "
                    "another folder by --runs."
                ) from error

    def leave_nothing(self) -> None:
        """Take away what this command has put there; for one that failed before it had done anything."""
        if not self.writes:
            return
        for path in sorted(set(self.path.rglob("*")) - self._before, reverse=True):  # files before their folders
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        for folder in self._new:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def environment() -> dict[str, Any]:
    """Versions, machine, and the state of the code."""
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "git": {"revision": _git("rev-parse", "HEAD"), "changed": (_git("status", "--porcelain") or "").splitlines()},
    }


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that tensors have taken on a GPU; of a run on the CPU, the most that this process has taken."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # macOS counts bytes, Linux kilobytes


def _git(*arguments: str) -> str | None:
    """Answer of git about the folder of the code; None where there is no git or no repository."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()

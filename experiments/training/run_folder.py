"""The run folder, `runs/<experiment>/<time>-<id>/`: what a run leaves behind, and the unit that other commands take.

config.yaml  metrics.csv  summary.json  environment.json  checkpoints/{best,last}.ckpt  pictures/  predictions/  wandb/
"""

import errno
import fcntl
import importlib.metadata
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import uuid
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import torch
from lightning.pytorch.utilities import rank_zero_only

from experiments.cli.mistakes import Mistake
from experiments.cli.shown import say

LOCK = "run.lock"
BLOCK = 4096  # bytes that are written for a try: a full disk takes an empty file
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
LIBRARIES = ("torch", "torchvision", "lightning", "torchmetrics", "timm", "albumentations", "faster-coco-eval", "wandb")


class RunFolderError(Mistake):
    """A run folder that cannot be made, read or written; the message says why and what to do."""


class RunFolder:
    """`runs/<experiment>/<time>-<id>`, new, or that of a run that goes on; of several processes the first makes it.

    It is locked until `release`, so that of two commands that would go on with one run the second is refused. The lock
    is a record lock on a file in the folder: the system gives it back when the process ends, however it ends, and
    loader processes do not inherit it. On a network file system it holds between machines as far as that keeps record
    locks (NFS since version 4 does; Lustre if it is mounted with `flock`); where there are none a line says so.

    Args:
        path: Of a run that goes on.
        runs: Folder that a new one is made in.
        experiment: What it is called there.

    Raises:
        RunFolderError: If it cannot be made or written, has no room, or is in use.
    """

    def __init__(self, path: Path | None, runs: str, experiment: str) -> None:
        self.path = path or Path(runs) / experiment / f"{datetime.now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
        self.writes = rank_zero_only.rank == 0
        self._new = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        self._before = set(self.path.rglob("*"))
        self._lock: IO[str] | None = None
        if self.writes:
            try:
                self.path.mkdir(parents=True, exist_ok=path is not None)
                with tempfile.TemporaryFile(dir=self.path, buffering=0) as file:
                    file.write(bytes(BLOCK))
                self._take()
            except OSError as error:
                self.leave_nothing()
                mend = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "correct the rights"
                raise RunFolderError(
                    f"The run folder {self.path} cannot be written ({error.strerror}): {mend}, or name another folder "
                    "by --runs."
                ) from error
            self._require_room()

    def _take(self) -> None:
        """Lock the folder, or say who has it."""
        place = self.path / LOCK
        while self._lock is None:
            file = place.open("a+")
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in NO_LOCKS:
                    say(f"{self.path} is on a file system without locks: see that no other process writes there.")
                    self._lock = file
                    return
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                file.seek(0)
                raise RunFolderError(
                    f"The run {self.path} is in use by {file.read().strip() or 'another process'}: wait until that has "
                    "ended, or end it; it stops after its step when it gets SIGTERM."
                ) from None
            if place.is_file() and os.path.samestat(os.fstat(file.fileno()), place.stat()):
                self._lock = file
            else:  # whoever had it took the file away meanwhile
                file.close()
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()} on {platform.node()} since {datetime.now():%Y-%m-%d %H:%M:%S}\n")
        self._lock.flush()

    def release(self) -> None:
        """Give the lock back, and take its file away."""
        if self._lock is not None:
            (self.path / LOCK).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def _require_room(self) -> None:
        """A checkpoint is written beside the one before; better no start than an end at the first of them."""
        last = self.path / "checkpoints" / "last.ckpt"
        needed, free = last.stat().st_size if last.is_file() else 0, shutil.disk_usage(self.path).free
        if free < needed:
            self.release()
            raise RunFolderError(
                f"The disk of the run folder {self.path} has {free / 1e6:.1f} MB free, and a checkpoint of this run "
                f"takes {needed / 1e6:.1f} MB: make room, then resume."
            )

    def leave_nothing(self) -> None:
        """Take away what this command has put there; for one that failed before it had done anything."""
        if not self.writes:
            return
        self.release()
        for path in sorted(set(self.path.rglob("*")) - self._before, reverse=True):  # files before their folders
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        for folder in self._new:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def remove_unfinished(folder: Path) -> None:
    """Take away what an earlier life of a run was writing when it was killed; for whoever has the lock."""
    for place in (folder, folder / "checkpoints"):
        for path in place.glob("*.part"):
            path.unlink(missing_ok=True)


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

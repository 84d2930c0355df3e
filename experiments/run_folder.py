"""The run folder, `runs/<experiment>/<time>-<id>/`: what a run leaves behind, and the unit that other commands take.

config.yaml  metrics.csv  summary.json  environment.json  checkpoints/{best,last}.ckpt  pictures/  predictions/  wandb/
"""

import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ("torch", "torchvision", "lightning", "torchmetrics", "timm", "albumentations", "faster-coco-eval", "wandb")


def new_run_folder(runs: str, experiment: str) -> Path:
    """Make `runs/<experiment>/<time>-<id>`; the processes of one distributed run get the same one."""
    shared = os.environ.get("HRNET_RUN_FOLDER") if "LOCAL_RANK" in os.environ else None
    if shared is None:
        job = os.environ.get("SLURM_JOB_ID") or os.environ.get("TORCHELASTIC_RUN_ID")
        name = job or f"{datetime.now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
        shared = str(Path(runs) / experiment / name)
        os.environ["HRNET_RUN_FOLDER"] = shared  # processes that Lightning starts inherit it
    folder = Path(shared)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_json(path: Path, content: Any) -> None:
    """Write whole or not at all."""
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    partial.replace(path)


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

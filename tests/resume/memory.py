"""Memory and open files over many epochs: neither may grow.

python -m tests.resume.memory joint segmentation --epochs 50

They are measured at the end of each epoch in the training process: resident memory as the system counts it, and the
numbers of open files and of threads.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import Callback

from experiments.run import main as run
from tests.conftest import ROOT
from tests.resume.commands import JOINT, SMALL, files_first

RUNS = {
    "pose": ["pose_coco.yaml", *SMALL],
    "segmentation": ["seg_cityscapes_ocr.yaml", *SMALL],
    "joint": [*JOINT, "--data.epoch_length", "3"],
    "detection": ["det_coco_fcos.yaml", *SMALL],
}
SETTLED = 0.3  # of the epochs, after which nothing may grow
ALLOWED = 8.0  # MB: what the allocator keeps or gives back from one epoch to the other


class Taken(NamedTuple):
    """At the end of an epoch."""

    megabytes: float
    files: int
    threads: int


class Meter(Callback):
    """Measures at the end of each epoch."""

    def __init__(self) -> None:
        self.taken: list[Taken] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """After the validation of the epoch before."""
        status = Path("/proc/self/status").read_text()
        resident = int(status.partition("VmRSS:")[2].split()[0]) / 1024
        tasks = len(os.listdir("/proc/self/task"))
        self.taken.append(Taken(resident, len(os.listdir("/proc/self/fd")), tasks))


def main() -> int:
    """Exit status: 0 if nothing grew."""
    parser = argparse.ArgumentParser(prog="python -m tests.resume.memory", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", choices=RUNS)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    os.chdir(ROOT)
    torch.set_num_threads(1)
    grown = False
    for name in asked.runs:
        meter = Meter()
        more = ["--trainer.max_epochs", str(asked.epochs), "--data.num_workers", str(asked.workers)]
        with tempfile.TemporaryDirectory() as folder:
            run([*files_first([*RUNS[name], *more]), "--runs", folder], [meter])
        settled = meter.taken[int(SETTLED * len(meter.taken)) :]
        third = max(1, len(settled) // 3)
        first, last = (max(t.megabytes for t in part) for part in (settled[:third], settled[-third:]))
        wrong = (
            last > first + ALLOWED or settled[-1].files > settled[0].files or settled[-1].threads > settled[0].threads
        )
        print(f"{name}: {'GROWS' if wrong else 'flat'}; epoch: MB, files, threads")
        for number in range(0, len(meter.taken), max(1, len(meter.taken) // 10)):
            print(f"  {number:3}: {meter.taken[number].megabytes:.0f}, {', '.join(map(str, meter.taken[number][1:]))}")
        print(
            f"  {len(meter.taken) - 1:3}: {meter.taken[-1].megabytes:.0f}, {', '.join(map(str, meter.taken[-1][1:]))}"
        )
        grown = grown or wrong
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())

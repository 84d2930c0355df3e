"""What chose a run's best checkpoint, and whether more or less of a metric is better: as recorded, never guessed.

`summary.json` says both. A run that has none yet says it in its checkpoints, and for runs of earlier versions there is
a list of what those measured. Of anything else the direction is unknown, until the user says it.
"""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

Mode = Literal["min", "max"]

# What the tasks of earlier versions monitored and measured, when summary.json had no modes.
MONITORS = {
    "PoseTask": "val/AP",
    "SegmentationTask": "val/mIoU",
    "ClassificationTask": "val/top1",
    "MultiTask": "val/score",
}
MORE = "AP AP50 AP75 APM APL AR AR50 AR75 ARM ARL mIoU pixel_accuracy mean_accuracy fwIoU boundary_IoU top1 top5"
KNOWN: Mapping[str, Mode] = {
    **dict.fromkeys((*MORE.split(), "mean_class_accuracy", "score", "delta_m"), "max"),
    **dict.fromkeys(("loss", "heatmap", "cross_entropy", "auxiliary"), "min"),
}

# As Lightning names the state of a ModelCheckpoint within a checkpoint.
STATE = re.compile(rb"\w*Checkpoint\w*\{'monitor': '([^']+)', 'mode': '(min|max)'")


def recorded_modes(summary: Mapping[str, Any]) -> dict[str, Mode]:
    """Metric -> min or max, as summary.json has it: of all metrics, of the monitored one, or of none."""
    modes = summary.get("modes")
    found = dict(modes) if isinstance(modes, Mapping) else {}
    found.setdefault(summary.get("monitor"), summary.get("mode"))
    return {metric: mode for metric, mode in found.items() if isinstance(metric, str) and mode in ("min", "max")}


def checkpoint_monitor(folder: Path) -> tuple[str, Mode] | None:
    """Metric and direction by which a run keeps its best checkpoint; None where its checkpoints do not say one.

    Read from the names in the file alone: nothing in it is run, and torch is not needed.
    """
    for name in ("best.ckpt", "last.ckpt"):
        try:
            with zipfile.ZipFile(folder / "checkpoints" / name) as file:
                data = next(entry for entry in file.namelist() if entry.endswith("/data.pkl"))
                found = set(STATE.findall(file.read(data)))
        except (OSError, zipfile.BadZipFile, StopIteration):  # missing, cut off, or no checkpoint
            continue
        if len(found) == 1:  # with further callbacks of the user's own it is not said which one is the run's
            ((metric, mode),) = found
            return metric.decode(), "min" if mode == b"min" else "max"
    return None


def known_mode(metric: str) -> Mode | None:
    """Direction of what earlier versions measured; None of anything else."""
    return KNOWN.get(metric.rsplit("/", 1)[-1])


def is_rate(name: str) -> bool:
    """Whether what a run logged is a learning rate and no metric; those of earlier versions begin with `lr-`."""
    return name in ("lr", "lr_lowest") or name.startswith("lr-")

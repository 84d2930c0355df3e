"""What is learned: each task is a backbone, a head and four methods (`tasks/task.py`). `load` brings one back."""

from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser, set_parsing_settings

from tasks.classification import ClassificationTask
from tasks.heatmaps import Codec, DarkCodec, MSRACodec, UDPCodec
from tasks.multitask import MultiTask
from tasks.optim import EMA
from tasks.pose import PoseTask
from tasks.segmentation import SegmentationTask
from tasks.task import Task

__all__ = [
    "EMA",
    "ClassificationTask",
    "Codec",
    "DarkCodec",
    "MSRACodec",
    "MultiTask",
    "PoseTask",
    "SegmentationTask",
    "Task",
    "UDPCodec",
    "find_checkpoint",
    "load",
    "subclasses",
]

set_parsing_settings(subclasses_enabled=[Codec])  # jsonargparse: a codec in YAML names one of its subclasses


def find_checkpoint(path: str | Path) -> Path:
    """Run folder or checkpoint file -> checkpoint file; of a run the best one, else the last.

    Raises:
        FileNotFoundError: If there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    candidates = [path / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"No checkpoint at {path}: expected a checkpoint file, or a run folder with {candidates[0].relative_to(path)}."
    )


def load(source: str | Path) -> Task:
    """A trained task from its run folder or checkpoint, in eval mode, with names or skeleton aboard.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ValueError: If the file is not a checkpoint of this project, or its task's class is not imported.
    """
    path = find_checkpoint(source)
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    if "task" not in checkpoint or "hyper_parameters" not in checkpoint:
        raise ValueError(
            f"{path} was not written by a task of this project; load published weights into a task by weights= instead."
        )
    spec = {"class_path": checkpoint["task"], "init_args": {**checkpoint["hyper_parameters"], "weights": None}}
    spec["init_args"]["backbone"] = {**spec["init_args"]["backbone"], "weights": None}
    _require_known_names(spec, path)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--task", type=Task)
    task = parser.instantiate(parser.parse_object({"task": spec})).task
    task.load_state_dict(checkpoint["state_dict"])
    return task.eval()


def subclasses(cls: type) -> dict[str, type]:
    """`cls` and all imported classes below it, by name."""
    found = {cls.__name__: cls}
    for child in cls.__subclasses__():
        found |= subclasses(child)
    return found


def _require_known_names(spec: Any, path: Path) -> None:
    """Refuse class names that are not ours and imported: a stranger's file must not choose what runs."""
    known = subclasses(Task) | subclasses(Codec)
    if isinstance(spec, dict):
        name = spec.get("class_path")
        if name is not None and name not in known:
            raise ValueError(
                f"{path} names the class {name!r}, which is no imported task or codec: "
                "import its module before loading."
            )
        for value in spec.values():
            _require_known_names(value, path)
    elif isinstance(spec, list):
        for value in spec:
            _require_known_names(value, path)

"""Checkpoints of this project: where a run keeps them, a task from one, one from a task.

task = load("runs/pose_coco/20260101-120000-abcdef")
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import __version__ as lightning_version

from hrnet.checkpoint_files import read_file
from tasks.heatmaps import Codec
from tasks.task import Task, plain


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
        ValueError: If the file is damaged or not a checkpoint of this project, or its task's class is not imported.
    """
    path = find_checkpoint(source)
    checkpoint = read_file(path)
    if not isinstance(checkpoint, dict) or "task" not in checkpoint or "hyper_parameters" not in checkpoint:
        raise ValueError(
            f"{path} was not written by a task of this project; load published weights into a task by weights= instead."
        )
    spec = {"class_path": checkpoint["task"], "init_args": {**checkpoint["hyper_parameters"], "weights": None}}
    spec["init_args"]["backbone"] = {**spec["init_args"]["backbone"], "weights": None}
    task = _made(spec, path)()
    task.load_state_dict(checkpoint["state_dict"])
    task.preparation = checkpoint.get("preparation", {})
    return task.eval()


def save_task(task: Task, path: str | Path) -> None:
    """Write a task as a checkpoint that `load`, `weights:` and `--checkpoint` take."""
    checkpoint = {
        "state_dict": task.state_dict(),
        "hyper_parameters": plain(dict(task.hparams)),
        "pytorch-lightning_version": lightning_version,
        "epoch": 0,
        "global_step": 0,
    }
    task.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)


def subclasses(cls: type) -> dict[str, type]:
    """`cls` and all imported classes below it, by name."""
    found = {cls.__name__: cls}
    for child in cls.__subclasses__():
        found |= subclasses(child)
    return found


def _made(value: Any, path: Path) -> Any:
    """Plain data as a checkpoint has them -> arguments; {class_path, init_args} becomes a codec, or what makes a task.

    Raises:
        ValueError: If a class is none of ours: a stranger's file must not choose what runs.
    """
    if isinstance(value, dict) and "class_path" in value:
        name, known = value["class_path"], subclasses(Task) | subclasses(Codec)
        if name not in known:
            raise ValueError(
                f"{path} names the class {name!r}, which is no imported task or codec: "
                "import its module before loading."
            )
        arguments = {key: _made(item, path) for key, item in value["init_args"].items()}
        return partial(known[name], **arguments) if issubclass(known[name], Task) else known[name](**arguments)
    if isinstance(value, dict):
        return {key: _made(item, path) for key, item in value.items()}
    return value

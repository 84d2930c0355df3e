"""Checkpoints: where a run keeps them, a task from one of ours or a published one, one into a task, one from a task.

task = load("runs/pose_coco/20260101-120000-abcdef")
task = load("pose_hrnet_w32_256x192.pth")                # see `published.py`
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import __version__ as lightning_version
from torch import Tensor

from hrnet import weights
from hrnet.checkpoints import (
    COMPILED,
    checkpoint_of_run,
    is_timm_name,
    read_content,
    read_file,
    refuse_unusable,
    tensors_in,
)
from tasks.checkpoints.arguments import plain
from tasks.checkpoints.classes import import_of_data, made, merged, names_weights, without_weights
from tasks.checkpoints.published import Description, describe
from tasks.task import Task

logger = logging.getLogger("hrnet")

# Arguments that the shapes of tensors, or what is computed with them, depend on.
STRUCTURE = (
    "variant", "in_channels", "multi_scale_output", "upsample", "align_corners", "num_keypoints", "num_classes", "head",
    "ocr_channels", "batch_norm", "class_path",
)  # fmt: skip


def find_checkpoint(path: str | Path) -> Path:
    """Run folder or checkpoint file -> checkpoint file; of a run the best one, else the last.

    Raises:
        FileNotFoundError: If there is none.
    """
    path = Path(path).expanduser()
    run = path.parent if path.name == "checkpoints" else path
    found = path if path.is_file() else checkpoint_of_run(run)
    if found is None:
        raise FileNotFoundError(
            f"No checkpoint at {path}: expected a checkpoint file, or a run folder with checkpoints/best.ckpt."
        )
    return found


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Args:
        name: What messages call it.
        description: What makes its task.
        state: Tensors by their names in it.
        own: Whether a task of this project wrote it.
        run: The run folder that the user named, None for a file.
    """

    name: str
    description: Description
    state: dict[str, Any]
    own: bool
    run: Path | None = None


def load(source: str | Path, arguments: Mapping[str, Any] | None = None) -> Task:
    """A trained task, in eval mode, with names or skeleton aboard.

    Args:
        source: Run folder, checkpoint of ours, published checkpoint with a head, or timm name.
        arguments: Of the task's constructor, over those of the checkpoint; mappings merge:
            {"flip_test": False, "backbone": {"align_corners": True}}.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ValueError: If the file is damaged or no checkpoint of a task, or its task's class is not imported. A run folder
            says itself, in its config.yaml, which modules are imported for its classes; a checkpoint alone never does.
    """
    found = read(source, arguments or {})
    if names_weights(arguments or {}):
        raise ValueError(f"The weights are those of {found.name}: leave `weights` out of the arguments.")
    name = found.description.task
    try:
        values = without_weights(merged(found.description.arguments, arguments or {}))
        task = made({"class_path": name, "init_args": values}, found.name, found.run)()
    except Exception as error:  # whatever constructors say of arguments that nobody has checked
        if str(error).startswith(found.name):
            raise
        said = str(error) if isinstance(error, ValueError | TypeError) else repr(error)
        raise ValueError(
            f"{found.name}: no {name} can be made of the arguments that were stored or given: "
            f"{' '.join(said.split()).removesuffix('.')[:500]}."
        ) from error
    fill(task, found)
    task.preparation = dict(found.description.preparation)
    if found.run is not None:
        import_of_data(task.preparation, found.run)
    if not found.own:
        logger.info("%s", found.description.note)
    return task.eval()


def restore(task: Task, source: str | Path) -> dict[str, Any]:
    """Fill a task with everything in a checkpoint, and say so in one line.

    Args:
        task: Of an experiment.
        source: As `load` takes it.

    Returns:
        How the images of its training were prepared, as DataModules say it of themselves.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ValueError: If it does not fit, with the keys to set.
    """
    found = read(source)
    try:
        fill(task, found)
    except weights.Unfit as error:
        raise ValueError(_what_to_set(found, task, error)) from error
    for key, theirs, ours in _differences(found.description.arguments, plain(dict(task.hparams))):
        logger.warning("%s was trained with %s %s, and is used with %s.", found.name, key, theirs, ours)
    logger.info("%s: all %d tensors match", found.name, sum(not k.endswith("num_batches_tracked") for k in found.state))
    return dict(found.description.preparation)


def read(source: str | Path, given: Mapping[str, Any] | None = None) -> Checkpoint:
    """A checkpoint of ours or a published one, described; `given` are arguments that the user will replace.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ValueError: If it is damaged, or no checkpoint of a task.
    """
    if is_timm_name(source):
        content, name = read_content(source), str(source)
    else:
        path = find_checkpoint(source)
        content, name = read_file(path), str(path)
    if isinstance(content, dict) and "task" in content and "hyper_parameters" in content:
        run = Path(source).expanduser()
        return _own(content, name, run if run.is_dir() else None)
    meta = content.get("meta") if isinstance(content, dict) else {}
    meta = meta if isinstance(meta, Mapping) else {}
    state = tensors_in(content, name)
    try:
        description = describe(state, meta, name, given or {})
    except (LookupError, TypeError, AttributeError, RuntimeError) as error:  # of shapes and facts that no file has
        raise ValueError(
            f"{name} has tensors, or facts beside them, that no published checkpoint has ({error!r}): is it complete?"
        ) from error
    return Checkpoint(name, description, state, own=False)


def _own(content: dict[str, Any], name: str, run: Path | None) -> Checkpoint:
    arguments, state = content["hyper_parameters"], content.get("state_dict")
    if not (isinstance(arguments, dict) and isinstance(arguments.get("backbone"), dict) and isinstance(state, dict)):
        raise ValueError(
            f"{name} was written by a {content['task']}, but lacks a state_dict or hyper_parameters with a backbone: "
            "is it complete? Take another checkpoint of the run."
        )
    preparation = content.get("preparation") or {}
    if not isinstance(preparation, dict) or not isinstance(preparation.get("init_args", {}), dict):
        raise ValueError(
            f"{name} says of its images {str(preparation)[:60]!r}, expected a mapping: is it complete? Take another "
            "checkpoint of the run."
        )
    state = {COMPILED.sub("", str(key)): value for key, value in state.items()}
    description = Description(str(content["task"]), arguments, preparation)
    return Checkpoint(name, description, state, own=True, run=run)


def fill(task: Task, found: Checkpoint) -> None:
    """Copy all tensors of a checkpoint into a task.

    Raises:
        Unfit: If they are not the same as the task's. The task is then as before.
        ValueError: If values are none (NaN).
    """
    if not found.own:
        weights.fill(task, found.state, found.name, strict=True)
        return
    own = task.state_dict()
    odd = [k for k, x in own.items() if isinstance(x, Tensor) and not isinstance(found.state.get(k, x), Tensor)]
    if odd:
        raise ValueError(
            f"{found.name} holds a {type(found.state[odd[0]]).__name__} as {odd[0]}, expected a tensor: is it "
            "complete? Take another checkpoint of the run."
        )
    report = weights.WeightReport(
        matched=[k for k in own if k in found.state and _shape(found.state[k]) == _shape(own[k])],
        missing=[k for k in own if k not in found.state],
        unexpected=[k for k in found.state if k not in own],
        mismatched={
            k: (_shape(found.state[k]), _shape(own[k]))
            for k in own
            if k in found.state and _shape(found.state[k]) != _shape(own[k])
        },
    )
    if not report.complete:
        raise weights.Unfit(f"{found.name} does not fit the {type(task).__name__}.", report, foreign=False)
    computed_with = {*dict(task.named_parameters()), *(k for k in own if k.endswith(("running_mean", "running_var")))}
    refuse_unusable({k: x for k, x in found.state.items() if isinstance(x, Tensor)}, own, found.name, computed_with)
    task.load_state_dict(found.state)


def save_task(task: Task, path: str | Path) -> None:
    """Write a task as a checkpoint that `load`, `weights:` and `--checkpoint` take."""
    checkpoint = {
        "state_dict": task.state_dict(),
        "hyper_parameters": plain(dict(task.hparams)),
        "pytorch-lightning_version": lightning_version,
        "epoch": 0,
        "global_step": 0,
        **task.described(),
    }
    torch.save(checkpoint, path)


def _what_to_set(found: Checkpoint, task: Task, error: weights.Unfit) -> str:
    theirs, ours = found.description.task.rpartition(".")[2], type(task).__name__
    if theirs != ours:
        way = "set model.class_path, or name the experiment that it was trained with"
        if theirs == "MultiTask":
            way = f"split the task off first: python -m experiments.split {found.run or found.name} TASK OUT.ckpt"
        return f"{found.name} holds a {theirs} and the experiment a {ours}: {way}."
    keys = [
        f"model.init_args.{key} to {theirs} (it is {ours})"
        for key, theirs, ours in _differences(found.description.arguments, plain(dict(task.hparams)))
    ]
    problem = f"{found.name} does not fit the model of the experiment: "
    if not keys:
        return problem + _counted(error.report)
    way = (
        ", or add the overlay that it was trained with. `--checkpoint RUN_FOLDER` without YAML files takes everything "
        "from the run itself."
    )
    return f"{problem}set {', '.join(keys)}{way if found.own else '.'}"


def _counted(report: weights.WeightReport) -> str:
    groups = {"missing": report.missing, "too many": report.unexpected, "of another shape": list(report.mismatched)}
    shown = {what: ", ".join(names[:3]) + ", ..." * (len(names) > 3) for what, names in groups.items()}
    return (
        "; ".join(f"{len(groups[what])} tensors are {what} ({names})" for what, names in shown.items() if names) + "."
    )


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    """(key, value there, value here) of the arguments in `STRUCTURE` that both say and that differ."""
    found = []
    for key in theirs.keys() & ours.keys():
        there, here = theirs[key], ours[key]
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            found += _differences(there, here, f"{prefix}{key}.")
        elif key in STRUCTURE and there is not None and plain(there) != plain(here):
            found.append((prefix + key, there, here))
    return sorted(found)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, Tensor) else ()

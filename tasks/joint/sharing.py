"""What the tasks of a joint run share, the backbone, and what each may have of its own there: batch-norm statistics."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hrnet import HRNet
from hrnet.freezing import norms_of
from tasks.checkpoints.arguments import class_path, plain
from tasks.task import Task

JOINT_OPTIONS = ("optimizer", "schedule", "freeze_backbone", "frozen_statistics", "compile")


def make_tasks(backbone: HRNet, tasks: Mapping[str, Callable[[HRNet], Task]]) -> dict[str, Task]:
    """Build the tasks. Their backbone is no submodule of theirs: it is saved, moved and trained once, by its owner."""
    if not tasks:
        raise ValueError("MultiTask needs at least one task: give tasks, such as {pose: {class_path: PoseTask}}.")
    made: dict[str, Task] = {}
    for name, make in tasks.items():
        if not name.isidentifier() or name in dir(nn.ModuleDict):
            raise ValueError(f"The task's name {name!r} is part of many keys: use letters, digits and underscores.")
        with naming(name):
            task = make(backbone)
        given = [option for option in JOINT_OPTIONS if task.hparams[option] not in (None, False)]
        if given:
            raise ValueError(
                f"Task {name!r} sets {', '.join(given)}, which only the joint run has: move to model.init_args."
            )
        del task.backbone
        object.__setattr__(task, "backbone", backbone)  # a plain attribute: torch would register it
        made[name] = task
    return made


def own_data(tasks: Mapping[str, Task], datamodule: Any) -> Mapping[str, Any]:
    """The DataModule of each task.

    Raises:
        ValueError: If there is only one for all, or the names are others.
    """
    try:
        data = datamodule.tasks
    except AttributeError:
        raise ValueError(
            f"MultiTask needs data for each of {', '.join(tasks)}, and {type(datamodule).__name__} is for one task: "
            "put it under its task's name into a MultiTaskDataModule."
        ) from None
    if set(data) != set(tasks):
        raise ValueError(
            f"The tasks are {', '.join(tasks)} and the data are for {', '.join(data)}: every task needs a DataModule "
            "of the same name in data.init_args.data, and every DataModule a task."
        )
    return data


def specs_of(tasks: Mapping[str, Task]) -> dict[str, Any]:
    """What makes these tasks, as plain data."""
    return {
        name: {
            "class_path": class_path(type(task)),
            "init_args": {key: value for key, value in plain(dict(task.hparams)).items() if key != "backbone"},
        }
        for name, task in tasks.items()
    }


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Context in which a ValueError says which task it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"Task {name!r}: {error}") from error


class TaskNorms(nn.Module):
    """A copy of a network's batch-norm statistics, which takes their place while a task runs.

    Images of different data sets have different means. Scales and shifts stay shared.

    Args:
        network: Its own statistics are what the copy begins with, and are left alone from then on.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        for name, value in _statistics(network).items():
            self.register_buffer(name, value.clone())

    def copy_from(self, network: nn.Module) -> None:
        """Begin anew with the network's own statistics."""
        for name, value in _statistics(network).items():
            self.get_buffer(name).copy_(value)

    def copy_to(self, network: nn.Module) -> None:
        """Make these the network's own statistics."""
        for name, value in _statistics(network).items():
            value.copy_(self.get_buffer(name))

    def equals(self, other: "TaskNorms") -> bool:
        """Whether both have the same values."""
        return all(torch.equal(a, b) for a, b in zip(self.buffers(), other.buffers(), strict=True))

    @contextmanager
    def in_use(self, network: nn.Module) -> Iterator[None]:
        """Context in which the network reads and moves these statistics."""
        norms, own, kept = norms_of(network), dict(self.named_buffers()), _statistics(network)
        _put(own, norms)
        try:
            yield
        finally:
            _put(kept, norms)


def _statistics(network: nn.Module) -> dict[str, Tensor]:
    """Each with its place in the network, in which slashes stand for points, so that a buffer may be called so."""
    return {
        f"{path}.{key}".replace(".", "/"): value
        for path, norm in norms_of(network).items()
        for key, value in norm.named_buffers(recurse=False)
    }


def _put(statistics: dict[str, Tensor], norms: dict[str, nn.Module]) -> None:
    for name, value in statistics.items():
        path, _, key = name.rpartition("/")
        setattr(norms[path.replace("/", ".")], key, value)

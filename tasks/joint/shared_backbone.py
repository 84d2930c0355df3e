"""One backbone for several tasks: each has it, one owns it, and one forward pass of it serves them all."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from hrnet import HRNet
from tasks.task import Task, class_path, plain

JOINT_OPTIONS = ("optimizer", "schedule", "freeze_backbone", "compile")


def make_tasks(backbone: HRNet, tasks: dict[str, Callable[[HRNet], Task]]) -> dict[str, Task]:
    """Build the tasks, and take the backbone out of their registers: it is saved, moved and trained once, by its owner.

    Each still has it as `.backbone`.
    """
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
        del task._modules["backbone"]
        task.__dict__["backbone"] = backbone
        made[name] = task
    return made


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


@contextmanager
def computed_once(backbone: HRNet, images: Tensor) -> Iterator[None]:
    """Context in which `backbone(images)` gives streams that were computed once; other images are computed as ever."""
    streams = backbone(images)
    # A compiled call would be compiled anew for every new forward.
    compiled, backbone._compiled_call_impl = backbone._compiled_call_impl, None
    backbone.forward = lambda x: streams if x is images else type(backbone).forward(backbone, x)
    try:
        yield
    finally:
        del backbone.forward
        backbone._compiled_call_impl = compiled

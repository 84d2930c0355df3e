"""The writers: what the three kinds of data sets look like, and the configuration that trains on each."""

from collections.abc import Callable
from typing import NamedTuple

from datamodules.convert.labels import Labels
from datamodules.convert.layouts.class_folders import select_classes, write_classes
from datamodules.convert.layouts.coco_files import select_objects, select_poses, write_objects, write_poses
from datamodules.convert.layouts.mask_folders import select_masks, write_masks
from datamodules.convert.layouts.result import Task, Written


class Layout(NamedTuple):
    """How the data of one task are written."""

    select: Callable[[Labels], None]
    """Leaves what the task can use; the rest is counted."""
    write: Callable[[Task], Written]


LAYOUTS = {
    "pose": Layout(select_poses, write_poses),
    "detection": Layout(select_objects, write_objects),
    "segmentation": Layout(select_masks, write_masks),
    "classification": Layout(select_classes, write_classes),
}

__all__ = ["LAYOUTS", "Layout", "Task", "Written"]

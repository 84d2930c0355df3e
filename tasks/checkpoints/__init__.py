"""Checkpoints -> tasks: our own, run folders, and published files by their layout and name."""

from tasks.checkpoints.files import find_checkpoint, load, restore, save_task

__all__ = ["find_checkpoint", "load", "restore", "save_task"]

"""Checkpoints -> tasks: our own, run folders, and published files by their layout and name."""

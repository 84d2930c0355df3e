"""Joint training: several tasks on one backbone, and how their losses and gradients are balanced."""

from tasks.joint.multitask import MultiTask

__all__ = ["MultiTask"]

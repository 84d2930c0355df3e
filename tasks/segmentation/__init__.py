"""Semantic segmentation: the task, and evaluation by windows and by the published tests."""

from tasks.segmentation.task import SegmentationTask

__all__ = ["SegmentationTask"]

"""Object detection on HRNet's pyramid: the task, and its detectors of one and of two stages."""

from tasks.detection.one_stage import OneStage
from tasks.detection.task import DetectionTask
from tasks.detection.two_stage import TwoStage

__all__ = ["DetectionTask", "OneStage", "TwoStage"]

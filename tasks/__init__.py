"""What is learned. Each task is a backbone, a head, a metric and a few methods (`task.py`); `load` brings one back."""

from jsonargparse import set_parsing_settings

from tasks.checkpoints.classes import class_named, import_module, subclasses
from tasks.checkpoints.files import find_checkpoint, load, restore, save_task
from tasks.classification import ClassificationTask
from tasks.detection import DetectionTask
from tasks.draw.examples import Examples
from tasks.draw.pictures import Pictures
from tasks.draw.tables import Samples, Tables
from tasks.heatmaps import Codec, DarkCodec, FaceCodec, MSRACodec, UDPCodec
from tasks.joint.multitask import MultiTask
from tasks.landmarks import LandmarkTask
from tasks.optim import EMA
from tasks.pose import PoseTask
from tasks.segmentation import SegmentationTask
from tasks.task import Task

__all__ = [
    "EMA",
    "ClassificationTask",
    "Codec",
    "DarkCodec",
    "DetectionTask",
    "Examples",
    "FaceCodec",
    "LandmarkTask",
    "MSRACodec",
    "MultiTask",
    "Pictures",
    "PoseTask",
    "Samples",
    "SegmentationTask",
    "Tables",
    "Task",
    "UDPCodec",
    "class_named",
    "find_checkpoint",
    "import_module",
    "load",
    "restore",
    "save_task",
    "subclasses",
]

set_parsing_settings(subclasses_enabled=[Codec])  # jsonargparse: a codec in YAML names one of its subclasses

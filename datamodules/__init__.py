"""What the networks learn from: one file a data set; they meet the tasks only in the batch (table in `base.py`)."""

from datamodules.base import BaseDataModule, DataError
from datamodules.coco_pose import CocoPose
from datamodules.skeleton import Skeleton
from datamodules.transforms import PersonAugmentation

__all__ = ["BaseDataModule", "CocoPose", "DataError", "PersonAugmentation", "Skeleton"]

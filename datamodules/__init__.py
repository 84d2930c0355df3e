"""What the networks learn from: one file a data set; they meet the tasks only in the batch (table in `base.py`)."""

from datamodules.ade20k import ADE20K
from datamodules.base import BaseDataModule, DataError
from datamodules.cityscapes import Cityscapes
from datamodules.coco_pose import CocoPose
from datamodules.folder_segmentation import FolderSegmentation
from datamodules.image_files import Reading
from datamodules.image_folder import ImageFolder, ImageNet
from datamodules.lip import LIP
from datamodules.multitask import MultiTaskDataModule
from datamodules.pascal_context import PascalContext
from datamodules.skeleton import Skeleton
from datamodules.transforms import PersonAugmentation

__all__ = [
    "ADE20K",
    "LIP",
    "BaseDataModule",
    "Cityscapes",
    "CocoPose",
    "DataError",
    "FolderSegmentation",
    "ImageFolder",
    "ImageNet",
    "MultiTaskDataModule",
    "PascalContext",
    "PersonAugmentation",
    "Reading",
    "Skeleton",
]

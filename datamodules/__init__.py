"""What the networks learn from: one file a data set; they meet the tasks only in the batch (table in `base.py`)."""

from datamodules.base import BaseDataModule, DataError
from datamodules.classification.image_folder import ImageFolder, ImageNet
from datamodules.detection.augmentation import DetectionAugmentation
from datamodules.detection.coco_detection import CocoDetection
from datamodules.detection.letterbox import Letterbox
from datamodules.images.files import Reading
from datamodules.keypoints.coco_pose import CocoPose
from datamodules.keypoints.crop import PersonAugmentation
from datamodules.keypoints.data import KeypointData
from datamodules.keypoints.faces.aflw import AFLW
from datamodules.keypoints.faces.cofw import COFW
from datamodules.keypoints.faces.data import FaceAugmentation, FaceData
from datamodules.keypoints.faces.own import FaceLandmarks
from datamodules.keypoints.faces.w300 import W300
from datamodules.keypoints.faces.wflw import WFLW
from datamodules.keypoints.mixed import MixedPose
from datamodules.keypoints.mpii import MpiiPose
from datamodules.keypoints.table import PersonTable
from datamodules.multitask import MultiTaskDataModule
from datamodules.segmentation.ade20k import ADE20K
from datamodules.segmentation.cityscapes import Cityscapes
from datamodules.segmentation.folder import FolderSegmentation
from datamodules.segmentation.lip import LIP
from datamodules.segmentation.pascal_context import PascalContext
from datamodules.skeleton import Skeleton

__all__ = [
    "ADE20K",
    "AFLW",
    "COFW",
    "LIP",
    "W300",
    "WFLW",
    "BaseDataModule",
    "Cityscapes",
    "CocoDetection",
    "CocoPose",
    "DataError",
    "DetectionAugmentation",
    "FaceAugmentation",
    "FaceData",
    "FaceLandmarks",
    "FolderSegmentation",
    "ImageFolder",
    "ImageNet",
    "KeypointData",
    "Letterbox",
    "MixedPose",
    "MpiiPose",
    "MultiTaskDataModule",
    "PascalContext",
    "PersonAugmentation",
    "PersonTable",
    "Reading",
    "Skeleton",
]

"""Label masks: pairs of image and mask, and a file for each data set."""

from datamodules.segmentation.data import SegmentationData

__all__ = ["SegmentationData"]

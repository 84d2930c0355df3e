"""What each task is measured by; every figure has an independent referee in the tests."""

from tasks.metrics.coco_boxes import CocoBoxes
from tasks.metrics.coco_keypoints import CocoKeypoints
from tasks.metrics.landmarks import NME
from tasks.metrics.oks import oks, oks_nms
from tasks.metrics.pckh import PCKh

__all__ = ["NME", "CocoBoxes", "CocoKeypoints", "PCKh", "oks", "oks_nms"]

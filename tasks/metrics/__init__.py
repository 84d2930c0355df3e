"""What each task is measured by; every figure has an independent referee in the tests."""

from tasks.metrics.coco_boxes import CocoBoxes
from tasks.metrics.coco_keypoints import CocoKeypoints
from tasks.metrics.landmarks import NME
from tasks.metrics.oks import oks, oks_nms

__all__ = ["NME", "CocoBoxes", "CocoKeypoints", "oks", "oks_nms"]

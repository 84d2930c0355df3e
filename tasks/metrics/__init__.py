"""What each task is measured by; every figure has an independent referee in the tests."""

from tasks.metrics.coco_boxes import CocoBoxes
from tasks.metrics.coco_keypoints import CocoKeypoints
from tasks.metrics.landmarks import NME
from tasks.metrics.oks import oks, oks_nms
from tasks.metrics.pckh import PCKh
from tasks.metrics.sources import BySource

__all__ = ["NME", "BySource", "CocoBoxes", "CocoKeypoints", "PCKh", "oks", "oks_nms"]

"""What each task is measured by; every figure has an independent referee in the tests."""

from tasks.metrics.coco_keypoints import CocoKeypoints
from tasks.metrics.oks import oks, oks_nms

__all__ = ["CocoKeypoints", "oks", "oks_nms"]

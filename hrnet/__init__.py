"""HRNet (Wang et al., TPAMI 2020): backbone, representations, heads, and published weights for them."""

from hrnet.backbone import HRNet
from hrnet.heads import ClassificationHead, KeypointHead, OCRHead, SegmentationHead
from hrnet.inference import for_inference
from hrnet.representations import HRNetV1, HRNetV2, HRNetV2p
from hrnet.variants import VARIANTS, Variant
from hrnet.weights import WeightReport, load_weights

__all__ = [
    "VARIANTS",
    "ClassificationHead",
    "HRNet",
    "HRNetV1",
    "HRNetV2",
    "HRNetV2p",
    "KeypointHead",
    "OCRHead",
    "SegmentationHead",
    "Variant",
    "WeightReport",
    "for_inference",
    "load_weights",
]

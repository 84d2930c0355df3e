"""Parameters and multiply-adds of every published HRNet, beside the figures that the papers and READMEs print.

The rows are data: a new one is a line. Used by `python -m experiments.benchmark --table`; counted on meta tensors.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from experiments.training.cost import Cost, cost
from hrnet import ClassificationHead, HRNet, HRNetV1, HRNetV2, HRNetV2p, KeypointHead, OCRHead, SegmentationHead
from tasks import DetectionTask

HEADERS = ("network", "data", "input", "parameters", "GFLOPs", "published", "verdict", "as executed")
LEGEND = (
    "GFLOPs are multiply-adds of convolutions and linear layers / 2^30 for one image, as the papers count. Published "
    "segmentation and landmark heads begin with a 1x1 convolution over the concatenated, upsampled streams; ours is "
    "applied to each stream before upsampling, which is equal by linearity, so fewer are executed (the last column, "
    "which also counts OCR's attention)."
)
MULTIPLY_ADDS = (torch.ops.aten.convolution, torch.ops.aten.addmm)


@dataclass(frozen=True)
class Row:
    """One published network.

    Args:
        task: pose, classification, segmentation, OCR, landmarks or a detector, which decides the head.
        data: Data set.
        variant: Of `hrnet.VARIANTS`.
        outputs: Key points, classes or landmarks.
        size: (height, width) of the input.
        parameters: Printed figure in millions, as printed; empty where none is.
        gflops: Printed figure, as printed; empty where none is.
        note: Why a printed figure is not the counted one.
    """

    task: str
    data: str
    variant: str
    outputs: int
    size: tuple[int, int]
    parameters: str = ""
    gflops: str = ""
    note: str = ""


LAST_DIGIT = "The CVPR paper prints 7.10 GFLOPs; equal at one digit, 7.1."
README_CUT = "The README prints 65.8M parameters, cut off rather than rounded."
NOT_W40 = "The paper's W40 figures cannot be reproduced: no construction by its rules gives them."
SCALED = "Not measured: 76.5 is Cityscapes' 696.2 (19 classes) scaled by area."
SCALED_ODD = "Not measured: 74.3 is Cityscapes' 696.2 scaled by area, but streams of odd sizes round up."
NOT_FACE = "The quoted 9.3M parameters cannot be reproduced: it is lower than the count for any of the data sets."
NOT_FASTER = "Not reproduced: what the text names has 1.3 to 4M parameters more. Counted with 1,000 proposals."
NOT_MASK = "Parameters agree. GFLOPs depend on how many proposals and masks are counted, here 1,000 and 100."
NOT_FCOS = "Parameters agree, and the printed GFLOPs are within 0.4 % of what is executed, streams mixed one by one."
NOTES = (LAST_DIGIT, README_CUT, NOT_W40, SCALED, SCALED_ODD, NOT_FACE, NOT_FASTER, NOT_MASK, NOT_FCOS)
CANVAS = (800, 1344)  # of COCO's images in the published recipes

ROWS = (
    Row("pose", "COCO", "w32", 17, (256, 192), "28.5", "7.10", LAST_DIGIT),
    Row("pose", "COCO", "w32", 17, (384, 288), "28.5", "16.0"),
    Row("pose", "COCO", "w48", 17, (256, 192), "63.6", "14.6"),
    Row("pose", "COCO", "w48", 17, (384, 288), "63.6", "32.9"),
    Row("pose", "MPII", "w32", 16, (256, 256), "28.5", "9.5"),
    Row("pose", "MPII", "w48", 16, (256, 256)),
    Row("classification", "ImageNet", "w18_small_v1", 1000, (224, 224), "13.2", "1.49"),
    Row("classification", "ImageNet", "w18_small_v2", 1000, (224, 224), "15.6", "2.42"),
    Row("classification", "ImageNet", "w18", 1000, (224, 224), "21.3", "3.99"),
    Row("classification", "ImageNet", "w30", 1000, (224, 224), "37.7", "7.55"),
    Row("classification", "ImageNet", "w32", 1000, (224, 224), "41.2", "8.31"),
    Row("classification", "ImageNet", "w40", 1000, (224, 224), "57.6", "11.8"),
    Row("classification", "ImageNet", "w44", 1000, (224, 224), "67.1", "13.9"),
    Row("classification", "ImageNet", "w48", 1000, (224, 224), "77.5", "16.1"),
    Row("classification", "ImageNet", "w64", 1000, (224, 224), "128.1", "26.9"),
    Row("segmentation", "Cityscapes", "w18_small_v1", 19, (1024, 2048), "1.5", "31.1"),
    Row("segmentation", "Cityscapes", "w18_small_v2", 19, (1024, 2048), "3.9", "71.6"),
    Row("segmentation", "Cityscapes", "w18", 19, (1024, 2048)),
    Row("segmentation", "Cityscapes", "w30", 19, (1024, 2048)),
    Row("segmentation", "Cityscapes", "w32", 19, (1024, 2048)),
    Row("segmentation", "Cityscapes", "w40", 19, (1024, 2048), "45.2", "493.2", NOT_W40),
    Row("segmentation", "Cityscapes", "w44", 19, (1024, 2048)),
    Row("segmentation", "Cityscapes", "w48", 19, (1024, 2048), "65.9", "696.2", README_CUT),
    Row("segmentation", "Cityscapes", "w48", 19, (512, 1024)),
    Row("segmentation", "Cityscapes", "w64", 19, (1024, 2048)),
    Row("segmentation", "PASCAL-Context", "w48", 59, (480, 480), "", "76.5", SCALED),
    Row("segmentation", "PASCAL-Context", "w48", 59, (520, 520)),
    Row("segmentation", "PASCAL-Context", "w48", 60, (480, 480)),
    Row("segmentation", "LIP", "w48", 20, (473, 473), "", "74.3", SCALED_ODD),
    Row("segmentation", "ADE20K", "w48", 150, (520, 520)),
    Row("segmentation", "COCO-Stuff", "w48", 171, (520, 520)),
    Row("OCR", "Cityscapes", "w48", 19, (1024, 2048), "70.3", "1206.3"),
    Row("OCR", "Cityscapes", "w48", 19, (512, 1024)),
    Row("OCR", "PASCAL-Context", "w48", 59, (520, 520)),
    Row("OCR", "LIP", "w48", 20, (473, 473)),
    Row("landmarks", "WFLW", "w18", 98, (256, 256), "9.3", "4.3", NOT_FACE),
    Row("landmarks", "300W", "w18", 68, (256, 256)),
    Row("landmarks", "COFW", "w18", 29, (256, 256)),
    Row("landmarks", "AFLW", "w18", 19, (256, 256)),
    Row("faster_rcnn", "COCO", "w18", 80, CANVAS, "26.2", "159.1", NOT_FASTER),
    Row("faster_rcnn", "COCO", "w32", 80, CANVAS, "45.0", "245.3", NOT_FASTER),
    Row("faster_rcnn", "COCO", "w48", 80, CANVAS, "79.4", "399.1", NOT_FASTER),
    Row("mask_rcnn", "COCO", "w18", 80, CANVAS, "30.1", "247.9", NOT_MASK),
    Row("mask_rcnn", "COCO", "w32", 80, CANVAS, "49.9", "341.0", NOT_MASK),
    Row("fcos", "COCO", "w18", 80, CANVAS, "17.5", "180.3", NOT_FCOS),
    Row("fcos", "COCO", "w32", 80, CANVAS, "37.3", "273.3", NOT_FCOS),
)


@dataclass(frozen=True)
class Count:
    """Of one row: parameters, multiply-adds of the published formula, and those that our network executes."""

    parameters: int
    published_multiply_adds: int
    executed_multiply_adds: int

    @property
    def gflops(self) -> float:
        """Of the published formula."""
        return self.published_multiply_adds / 2**30

    @property
    def executed_gflops(self) -> float:
        """Of what is executed."""
        return self.executed_multiply_adds / 2**30


class KeypointBranch(nn.Sequential):
    """Streams -> heatmaps, by the key point head on the finest stream."""

    def __init__(self, channels: list[int], num_keypoints: int) -> None:
        super().__init__(HRNetV1(), KeypointHead(channels[0], num_keypoints))


class Detector(nn.Module):
    """Streams -> what a detector's layers give, those that see 1,000 proposals and 100 masks included.

    Args:
        channels: Of the streams.
        num_classes: Of objects.
        detector: As `DetectionTask` calls it.
    """

    def __init__(self, channels: list[int], num_classes: int, detector: str) -> None:
        super().__init__()
        task = DetectionTask(HRNet("w18_small_v1"), num_classes, detector=detector)
        self.neck = HRNetV2p(channels, levels=len(task.neck.fpn_conv), finest=task.neck.finest)
        self.head = task.head

    def forward(self, streams: list[Tensor]) -> list[Tensor]:
        """Outputs of the last layers."""
        return self.of_pyramid(self.neck(streams))

    def of_pyramid(self, pyramid: dict[str, Tensor]) -> list[Tensor]:
        """The same of the levels."""
        outputs, level = [self.head(pyramid)], next(iter(pyramid.values()))
        if heads := getattr(self.head, "roi_heads", None):
            outputs += heads.box_predictor(heads.box_head(level.new_empty(1000, level.shape[1], 7, 7)))
            if heads.has_mask():
                outputs += heads.mask_predictor(heads.mask_head(level.new_empty(100, level.shape[1], 14, 14)))
        return outputs


HEADS: dict[str, Callable[[list[int], int], nn.Module]] = {
    "pose": KeypointBranch,
    "classification": ClassificationHead,
    "segmentation": SegmentationHead,
    "OCR": OCRHead,
    "landmarks": SegmentationHead,
    **{name: partial(Detector, detector=name) for name in ("faster_rcnn", "mask_rcnn", "fcos")},
}


def as_published(head: nn.Module, streams: list[Tensor]) -> Tensor:
    """Output of the head by the published formula: every convolution after the concatenation, with the same layers."""
    if isinstance(head, SegmentationHead):
        return nn.Sequential.forward(head, HRNetV2(head.align_corners)(streams))
    if isinstance(head, OCRHead):
        coarse = as_published(head.aux_head, streams)
        return head.cls_head(head.ocr_distri_head(head.conv3x3_ocr(head.concatenate(streams)), coarse))
    if isinstance(head, Detector):
        return head.of_pyramid(head.neck.levels(head.neck.reduction_conv(HRNetV2()(streams))))
    return head(streams)


@cache
def count(row: Row) -> Count:
    """Count a row; half a second, most of it for the backbone, which rows of one variant and size share."""
    upsample = "bilinear" if row.task in ("segmentation", "OCR", "landmarks") else "nearest"
    channels, trunk = _trunk(row.variant, row.size, row.task == "pose", upsample)
    shapes = [[math.ceil(side / 2 ** (i + 2)) for side in row.size] for i in range(len(channels))]
    with torch.device("meta"), torch.no_grad():
        head = HEADS[row.task](channels, row.outputs).eval()
        streams = [torch.empty(1, c, *shape) for c, shape in zip(channels, shapes, strict=True)]
        with FlopCounterMode(display=False) as published:
            as_published(head, streams)
        with FlopCounterMode(display=False) as executed:
            head(streams)
    layers = published.get_flop_counts()["Global"]
    return Count(
        trunk.parameters + sum(parameter.numel() for parameter in head.parameters()),
        trunk.multiply_adds + sum(layers.get(operator, 0) for operator in MULTIPLY_ADDS) // 2,
        trunk.multiply_adds + executed.get_total_flops() // 2,
    )


@cache
def _trunk(variant: str, size: tuple[int, int], finest_only: bool, upsample: str) -> tuple[list[int], Cost]:
    """Channels of the streams, and what the backbone costs."""
    with torch.device("meta"):
        backbone = HRNet(variant, multi_scale_output=not finest_only, upsample=upsample)
    parameters = sum(parameter.numel() for parameter in backbone.parameters())
    for module in list(backbone.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())  # not counted, but half of the time that counting takes
    return backbone.channels, Cost(parameters, cost(backbone, size).multiply_adds)


def compare(value: float, printed: str) -> str:
    """`equal`, `equal, cut off` or `differs`: `value` at as many digits as `printed` has."""
    digits = len(printed.partition(".")[2])
    if f"{value:.{digits}f}" == printed:
        return "equal"
    cut_off = math.floor(value * 10**digits) / 10**digits
    return "equal, cut off" if f"{cut_off:.{digits}f}" == printed else "differs"


def verdict(row: Row, counted: Count) -> str:
    """How the counted figures compare with the printed ones: the worse of both; empty where nothing is printed."""
    pairs = ((counted.parameters / 1e6, row.parameters), (counted.gflops, row.gflops))
    found = [compare(value, printed) for value, printed in pairs if printed]
    return next((word for word in ("differs", "equal, cut off", "equal") if word in found), "")


def cells(row: Row) -> tuple[str, ...]:
    """The row of the table, under `HEADERS`."""
    counted = count(row)
    digits = 3 if counted.gflops < 10 and row.task != "pose" else 2
    printed = (f"{row.parameters}M" if row.parameters else "", row.gflops)
    mark = f" [{NOTES.index(row.note) + 1}]" if row.note else ""
    return (
        f"{row.task} {row.variant}",
        f"{row.data}, {row.outputs}",
        f"{row.size[0]}x{row.size[1]}",
        f"{counted.parameters:,}",
        f"{counted.gflops:.{digits}f}",
        " / ".join(word for word in printed if word),
        verdict(row, counted) + mark,
        f"{counted.executed_gflops:.{digits}f}",
    )


def legend() -> list[str]:
    """What stands below the table, a paragraph an item."""
    return [LEGEND, *(f"[{number}] {note}" for number, note in enumerate(NOTES, start=1))]

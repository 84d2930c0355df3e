"""Object detection: boxes, classes and perhaps masks, on the pyramid HRNetV2p (TPAMI 2020, Section 6).

task = DetectionTask(HRNet("w32"), num_classes=80)
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torchvision.ops import box_iou

from hrnet import HRNet, HRNetV2p
from tasks.detection.one_stage import OneStage
from tasks.detection.two_stage import CONVENTIONS, TwoStage
from tasks.draw import draw_detection
from tasks.draw.detection import SHOWN
from tasks.draw.pictures import Drawn
from tasks.draw.tables import Row
from tasks.losses import Batch, Data, Losses
from tasks.metrics.coco_boxes import MASK, MEANINGS, CocoBoxes
from tasks.pose import in_image
from tasks.task import Task

ONE_STAGE, TWO_STAGE = ("fcos", "retinanet"), ("faster_rcnn", "mask_rcnn")
OPTIONS: dict[str, dict[str, Any]] = {  # what a detector may be told beyond what all have, and what it is otherwise
    "fcos": {"nms_threshold": 0.6},
    "retinanet": {"nms_threshold": 0.5, "anchor_size": 4.0, "aspect_ratios": [0.5, 1.0, 2.0]},
    "faster_rcnn": {
        "nms_threshold": 0.5,
        "anchor_size": 8.0,
        "aspect_ratios": [0.5, 1.0, 2.0],
        "box_channels": None,
        "proposals": (2000, 1000),
        "convention": "official",
    },
}
OPTIONS["mask_rcnn"] = OPTIONS["faster_rcnn"]
STRIDES = dict.fromkeys(TWO_STAGE, (4, 8, 16, 32, 64)) | dict.fromkeys(ONE_STAGE, (8, 16, 32, 64, 128))

Prediction = dict[str, list[Tensor]]


class DetectionTask(Task):
    """Boxes and classes of the objects in an image, with masks if the detector is Mask R-CNN.

    Boxes are x1, y1, x2, y2 at the edges of pixels: one that covers the columns 3 to 5 has x1 = 3 and x2 = 6. Images
    stand at the top left of a canvas filled with the mean colour; `size` in the batch says how much of it they cover.

    Where it knowingly differs from the official code, which is mmdetection's, by torchvision's parts:

    * An object's best anchor is positive however small their IoU (there from 0.3 on), and anchors beyond the border
      take part, those on the padding as background.
    * Faster R-CNN's box loss turns linear at 1/9 (there at 1), and the best `proposals` of all levels together are
      classified (in the oldest files' code as many of each level).
    * Smallest deltas of width and height are not cut off at 16/1000, largest are.
    * FCOS has a ReLU and its stride before distances, GIoU loss, and scores sqrt(class * centerness); the authors' has
      an exponential with a factor a level, IoU loss and class * centerness. Distances begin at four strides, where
      torchvision's begin at none, in reach of being stuck there.
    * New weights of the backbone are Kaiming's; published runs start from ImageNet weights.

    Args:
        backbone: HRNet with all four streams.
        num_classes: Classes of objects, the background not counted.
        detector: "faster_rcnn", "mask_rcnn" (which needs masks in training), "fcos" or "retinanet".
        channels: Of each level of the pyramid and of the heads on it; 256 as published, for FCOS a multiple of 32.
        strides: Of the pyramid's levels in input pixels, each twice the one before, from 4 on. 4 to 64 for the R-CNNs
            and 8 to 128 for the others when not given.
        anchor_size: Side of the (smallest) anchors in strides of their level; 8, for RetinaNet 4. FCOS has none.
        aspect_ratios: Heights by widths of anchors; 0.5, 1, 2 when not given. FCOS has none.
        box_channels: R-CNN's two layers that see a proposal; four times `channels` when not given, which is 1024 as
            published.
        proposals: R-CNN's best boxes of a level before suppression, and of all levels after it; (2000, 1000).
        convention: Where R-CNN's anchors and pixels lie: "official" (also mmdetection 1), or "mmdet2" (also 3), whose
            anchors are at the cells' corners and not rounded, and whose RoIAlign is shifted by half a pixel. Files by
            one are read wrongly by the other: boxes are off by half a stride.
        score_threshold: Boxes that score less are no detections; 0 to 1.
        nms_threshold: IoU above which the lower of two boxes of a class goes; 0.5, for FCOS 0.6.
        max_detections: Of an image, the best.
        class_names: Names of the classes; taken from the data when not given.
        category_ids: Ids of the classes in the data's annotations, which results of predictions have; taken from the
            data when not given.

    Raises:
        ValueError: If the backbone gives fewer than four streams, an option does not fit the detector, or the data have
            another number of classes, or names or ids are of another number.
    """

    monitor = "val/AP"
    mode = "max"
    # A batch's are divided by the objects that are in all of it. What R-CNNs sample of an image is the same in every
    # batch, but for proposals whose scores differ by rounding alone.
    by_sample = True
    higher_is_better = tuple(f"{prefix}{name}" for prefix in ("", MASK) for name in MEANINGS)

    def __init__(
        self,
        backbone: HRNet,
        num_classes: int,
        *,
        detector: Literal["faster_rcnn", "mask_rcnn", "fcos", "retinanet"] = "faster_rcnn",
        channels: int = 256,
        strides: list[int] | None = None,
        anchor_size: float | None = None,
        aspect_ratios: list[float] | None = None,
        box_channels: int | None = None,
        proposals: tuple[int, int] | None = None,
        convention: Literal["official", "mmdet2"] | None = None,
        score_threshold: float = 0.05,
        nms_threshold: float | None = None,
        max_detections: int = 100,
        class_names: list[str] | None = None,
        category_ids: list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        if len(self.backbone.channels) != 4:
            raise ValueError(
                f"DetectionTask reads four streams and the backbone gives {len(self.backbone.channels)}: build it with "
                "multi_scale_output=True."
            )
        self.num_classes = num_classes
        self.detector = detector
        self.class_names, self.category_ids = class_names, category_ids
        self._asked = {"class_names": class_names is None, "category_ids": category_ids is None}
        if category_ids is not None and len(category_ids) != num_classes:
            raise ValueError(
                f"category_ids are {len(category_ids)} and num_classes is {num_classes}: give the id of each class, in "
                "the order of the classes, or leave category_ids out."
            )
        options = {
            "anchor_size": anchor_size,
            "aspect_ratios": aspect_ratios,
            "box_channels": box_channels,
            "proposals": proposals,
            "convention": convention,
            "nms_threshold": nms_threshold,
        }
        chosen = _chosen(detector, options)
        self.convention: str | None = chosen.get("convention")
        strides = _checked(list(STRIDES[detector]) if strides is None else strides)
        # As they are, for checkpoints to be compared by them.
        self.hparams.update({"strides": strides, "convention": self.convention})
        self.neck = HRNetV2p(self.backbone.channels, channels, len(strides), finest=strides[0] // 4)
        common: dict[str, Any] = {
            "sizes": chosen.get("anchor_size"),
            "ratios": chosen.get("aspect_ratios"),
            "nms_threshold": chosen["nms_threshold"],
            "score_threshold": score_threshold,
            "max_detections": max_detections,
        }
        self.head: OneStage | TwoStage
        if detector in ONE_STAGE:
            self.head = OneStage(detector, num_classes, channels, strides, **common)
        else:
            own: dict[str, Any] = {
                "box_channels": chosen["box_channels"] or 4 * channels,
                "proposals": tuple(chosen["proposals"]),
            }
            where = CONVENTIONS[chosen["convention"]]
            masks = detector == "mask_rcnn"
            self.head = TwoStage(num_classes, channels, strides, masks=masks, convention=where, **own, **common)

    def from_streams(self, streams: list[Tensor], size: tuple[int, int]) -> dict[str, Any]:
        """Streams -> what the detector computes for every anchor, before decoding, see `OneStage` and `TwoStage`."""
        return self.head(self.neck(streams))

    def losses(self, outputs: dict[str, Any], batch: Batch) -> Losses:
        """Each of the detector's losses, of a whole batch: images without objects count as background.

        Boxes without width or height are left out: the logarithms of their sizes would be infinite.
        """
        keys = ["boxes", "labels", "masks"] if self.detector == "mask_rcnn" else ["boxes", "labels"]
        if absent := [key for key in keys if key not in batch]:
            raise ValueError(
                f"{self.detector} learns from {', '.join(keys)} and the batch lacks {', '.join(absent)}: "
                "for masks set data.init_args.masks to true."
            )
        targets = []
        for rows in zip(*(batch[key] for key in keys), strict=True):
            target = dict(zip(keys, rows, strict=True))
            kept = (target["boxes"][:, 2:] > target["boxes"][:, :2]).all(1)
            target = {key: row[kept] for key, row in target.items()}
            labels = target["labels"] + self.head.first_label
            targets.append(target | {"boxes": target["boxes"].float(), "labels": labels})
        return self.head.losses(outputs, targets, *_sizes(batch))

    @torch.no_grad()
    def predict(self, outputs: dict[str, Any], batch: Batch) -> Prediction:
        """Detections of each image, in lists: the best first, in float32.

        `boxes` (N, 4) at the edges of original pixels, `scores` (N,) in [0, 1], `labels` (N,) int64 from 0 on, and of
        Mask R-CNN `masks` (N, 28, 28), probabilities that a place in its box belongs to the object.
        """
        found = self.head.detections(outputs, *_sizes(batch))
        predictions: Prediction = {key: [one[key] for one in found] for key in found[0]}
        predictions["labels"] = [labels - self.head.first_label for labels in predictions["labels"]]
        pairs = zip(predictions["boxes"], batch["to_image"], strict=True)
        return predictions | {"boxes": [in_original(boxes, matrix) for boxes, matrix in pairs]}

    def attach(self, datamodule: Data) -> None:
        """Compare the number of classes; take their names and ids, if none were given."""
        if datamodule.num_classes != self.num_classes:
            raise ValueError(
                f"The model has {self.num_classes} classes and the data have {datamodule.num_classes}: "
                f"set model.init_args.num_classes to {datamodule.num_classes}."
            )
        truth = datamodule.ground_truth(self.split)
        if self._asked["class_names"]:
            self.class_names = [str(name) for name in datamodule.class_names]
        if self._asked["category_ids"]:
            self.category_ids = [int(category["id"]) for category in truth["categories"]]
        self.hparams.update({"class_names": self.class_names, "category_ids": self.category_ids})
        self.metric = CocoBoxes(
            truth,
            [str(name) for name in self.class_names or range(self.num_classes)],
            "segm" if self.detector == "mask_rcnn" else "bbox",
        ).to(self.device)

    def tables(self) -> dict[str, list[Row] | Tensor]:
        """How well each class is found."""
        return {"classes": self.metric.per_class()} if isinstance(self.metric, CocoBoxes) else {}

    def draw(self, outputs: dict[str, Any], predictions: Prediction, batch: Batch, count: int) -> Drawn:
        """Images with true and found objects."""
        images, names = batch["image"][:count], self.class_names or [str(label) for label in range(self.num_classes)]
        renamed = self.metric.renamed_images if isinstance(self.metric, CocoBoxes) else {}
        ids = [renamed.get(number, number) for number in batch["image_id"].tolist()]
        return {"detection (truth, prediction)": draw_detection(images, batch, predictions, names, image_ids=ids)}

    def scores(self, predictions: Prediction, batch: Batch) -> dict[str, Tensor | list]:
        """Quality of each image's detections that score 0.3 or more, see `quality`, and how many there are of what."""
        quality_of, shown = [], []
        rows = zip(*(predictions[key] for key in ("boxes", "scores", "labels")), strict=True)
        truth = zip(batch["boxes"], batch["labels"], batch["to_image"], strict=True)
        for (boxes, scores, labels), (true_boxes, true_labels, matrix) in zip(rows, truth, strict=True):
            kept = scores >= SHOWN
            shown.append(int(kept.sum()))
            found = quality(boxes[kept], labels[kept], in_original(true_boxes, matrix), true_labels)
            quality_of.append(found)
        objects = [len(boxes) for boxes in batch["boxes"]]
        return {"sample": batch["image_id"], "score": quality_of, "objects": objects, "detections": shown}

    def check(self, batch: Batch) -> None:
        """There are objects, inside their images."""
        super().check(batch)
        count = len(batch["image"])
        boxes = torch.cat(batch["boxes"])
        advice = "look at the boxes (python -m datamodules.check EXPERIMENT.yaml)."
        if not len(boxes):
            raise ValueError(f"None of {count} training images has an object: {advice}")
        height, width = batch["image"].shape[-2:]
        fits = (boxes >= -0.5).all(1) & (boxes[:, 2] <= width + 0.5) & (boxes[:, 3] <= height + 0.5)
        fits &= (boxes[:, 2:] > boxes[:, :2]).all(1)
        if not fits.all():
            worst = [round(value, 1) for value in boxes[~fits][0].tolist()]
            raise ValueError(
                f"A box of {count} training images, {worst}, is empty or beyond its image of {height}x{width}: are the "
                f"annotations [x, y, width, height] in original pixels? {advice}"
            )


def in_original(boxes: Tensor, to_image: Tensor) -> Tensor:
    """Boxes (N, 4) at edges of input pixels, at edges of original pixels, in float32.

    Args:
        boxes: (N, 4) x1, y1, x2, y2.
        to_image: (2, 3), which maps centres of pixels; edges are half a pixel away from these.
    """
    corners = boxes.float().view(1, -1, 2) - 0.5
    return (in_image(corners, to_image[None]) + 0.5).view(-1, 4).clamp(min=0)


def quality(boxes: Tensor, labels: Tensor, true_boxes: Tensor, true_labels: Tensor) -> float:
    """Panoptic quality of boxes (Kirillov et al., CVPR 2019) in [0, 1]: 1 where nothing is amiss, also of nothing.

    Sum of the IoU of matched pairs, by matched pairs plus half of what is left over on both sides. A pair is of one
    class and has an IoU above 0.5; each box has one partner at most, the best detections choose first.

    Args:
        boxes: (N, 4) of detections, the best first.
        labels: (N,) of these.
        true_boxes: (M, 4).
        true_labels: (M,) of these.
    """
    if not len(boxes) or not len(true_boxes):
        return float(len(boxes) == len(true_boxes))
    overlaps = box_iou(boxes, true_boxes) * (labels[:, None] == true_labels)
    total = matched = 0.0
    for row in overlaps:
        best = row.argmax()
        if row[best] > 0.5:
            total, matched = total + row[best].item(), matched + 1
            overlaps[:, best] = 0  # taken
    return total / (matched + (len(boxes) - matched) / 2 + (len(true_boxes) - matched) / 2)


def _sizes(batch: Batch) -> tuple[tuple[int, int], list[tuple[int, int]]]:
    """Height and width of a batch's images with their padding, and of each without."""
    height, width = batch["image"].shape[-2:]
    return (height, width), [(rows, columns) for rows, columns in batch["size"].tolist()]


def _chosen(detector: str, options: dict[str, Any]) -> dict[str, Any]:
    """A detector's options, those that were not given as they usually are."""
    if detector not in OPTIONS:
        raise ValueError(f"DetectionTask has the detectors {', '.join(OPTIONS)}, not {detector!r}.")
    given = {name: value for name, value in options.items() if value is not None}
    if foreign := sorted(given.keys() - OPTIONS[detector].keys()):
        raise ValueError(
            f"{detector} has no {', '.join(foreign)}: leave out, or choose a detector that has, by "
            "model.init_args.detector."
        )
    chosen = OPTIONS[detector] | given
    if "convention" in chosen and chosen["convention"] not in CONVENTIONS:
        raise ValueError(f"convention is one of {', '.join(CONVENTIONS)}, not {chosen['convention']!r}.")
    return chosen


def _checked(strides: list[int]) -> list[int]:
    expected = [strides[0] * 2**i for i in range(len(strides))] if strides else []
    if not strides or list(strides) != expected or strides[0] < 4 or strides[0] & (strides[0] - 1):
        raise ValueError(
            f"strides are a pyramid's, each twice the one before, and the first is 4, 8, 16 or so: got {strides}."
        )
    return list(strides)

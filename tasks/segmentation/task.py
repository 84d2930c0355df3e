"""Semantic segmentation: a class for every pixel, HRNetV2 (TPAMI 2020, Section 5), optionally with OCR (ECCV 2020).

task = SegmentationTask(HRNet("w48", upsample="bilinear"), num_classes=19)
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hrnet import HRNet, OCRHead, SegmentationHead
from tasks.draw import class_colours, draw_confusion, draw_segmentation
from tasks.draw.pictures import Drawn, Layers, Panel
from tasks.draw.tables import Row
from tasks.losses import IGNORED, Batch, CrossEntropy, Data, Losses, OhemCrossEntropy
from tasks.metrics.confusion import SegmentationScores, image_confusion, image_iou
from tasks.segmentation.sliding import PUBLISHED_TESTS, PublishedTest, SlidingWindow
from tasks.task import Task

OF_THE_DATA = ("class_names", "palette", "label_flip_pairs")
AUXILIARY_WEIGHT = 0.4  # of the coarse scores' loss, ECCV 2020 Section 4

LAYER_SIDE = 640  # pixels of the longer side of an image with masks, at most


class SegmentationTask(Task):
    """Class of each pixel.

    Where it knowingly differs from the official code:

    * Scores of several scales are averaged as probabilities (softmax), at the size of the mask; there exponentials of
      the logits are summed, so that confident scales weigh more. Mirrored logits are averaged as logits, as there.
    * A scale is made from the image as the data resized it for evaluation; there from the original image (except for
      ADE20K and the OCR head's PASCAL-Context, which are resized twice there).
    * Windows end with the image and fade into one another (`SlidingWindow`); there all weigh alike, and those at the
      border are filled up with black. `published_test` does all three as there, for final figures.
    * OCR's auxiliary loss is the mean over the pixels that are not ignored; with `ohem`, there, over all pixels.
    * New weights are Kaiming's in the backbone and torch's in the heads, and batch norm has a momentum of 0.1; there
      all convolutions start at a deviation of 0.001 (with OCR those of the backbone alone) and the momentum is 0.01
      (with OCR 0.1). The published runs start from ImageNet weights, so the backbone's start does not matter to them.

    Args:
        backbone: HRNet with all four streams; published segmentation uses upsample="bilinear". With "nearest" height
            and width of images, windows and scaled images must be multiples of 32.
        num_classes: Classes, at most 255; label 255 of the masks is ignored.
        head: "v2", or "ocr" for object-contextual representations with their auxiliary loss in training.
        ocr_channels: Channels of OCR's pixel features and of its keys; for small variants (256, 128) do.
        class_weights: A factor of the loss for each class, or "cityscapes" for the published ones of its 19 classes.
        ohem: Only hard pixels count in the loss (not in OCR's auxiliary one).
        ohem_threshold: A pixel is hard while the probability of its true class is below it.
        ohem_min_kept: Pixels a batch (of each process) that are kept at least.
        flip_test: Average with the mirrored image at prediction; classes of `label_flip_pairs` change places.
        scales: Factors of the image size whose predictions are averaged; paper: 0.5, 0.75, 1, 1.25, 1.5, 1.75, also 2
            except for Cityscapes.
        published_test: Make the labels by the official code's final test, with `scales` and `flip_test`: "ade20k" (both
            heads), "pascal_context" or "pascal_context_ocr" (also COCO-Stuff's). See `tasks/segmentation/sliding.py`;
            the data must be evaluated as it says. The loss, and drawings of scores, come from the images as they are.
        window: (height, width): in evaluation, images (scaled ones too) beyond it are covered by overlapping windows of
            this size, blended, so that memory does not grow with the image except for the scores themselves.
        window_stride: (down, right) from window to window in pixels; about two thirds of the window when not given.
        boundary_iou: Evaluate also the IoU of the bands along contours (CVPR 2021).
        class_names: Names of the classes; taken from the data when not given, as are the next two.
        palette: (r, g, b) of each class, 0 to 255, for pictures.
        label_flip_pairs: Classes that exchange in a mirror, such as left and right arm.

    Raises:
        ValueError: If the backbone gives fewer than four streams, an option does not fit, or the data have another
            number of classes.
    """

    monitor = "val/mIoU"
    mode = "max"
    higher_is_better = ("mIoU", "pixel_accuracy", "mean_accuracy", "fwIoU", "boundary_IoU")
    by_sample = True  # a mean over pixels counts images with more of them more
    metric: SegmentationScores

    def __init__(
        self,
        backbone: HRNet,
        num_classes: int,
        *,
        head: Literal["v2", "ocr"] = "v2",
        ocr_channels: tuple[int, int] = (512, 256),
        class_weights: Literal["cityscapes"] | list[float] | None = None,
        ohem: bool = False,
        ohem_threshold: float = 0.9,
        ohem_min_kept: int = 131072,
        flip_test: bool = False,
        scales: list[float] | None = None,
        window: tuple[int, int] | None = None,
        window_stride: tuple[int, int] | None = None,
        published_test: Literal["ade20k", "pascal_context", "pascal_context_ocr"] | None = None,
        boundary_iou: bool = False,
        class_names: list[str] | None = None,
        palette: list[tuple[int, int, int]] | None = None,
        label_flip_pairs: list[tuple[int, int]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        if len(self.backbone.channels) != 4:
            raise ValueError(
                f"SegmentationTask reads four streams and the backbone gives {len(self.backbone.channels)}: build it "
                "with multi_scale_output=True."
            )
        self.num_classes = num_classes
        self.flip_test = flip_test
        self.scales = _checked_scales(scales)
        self.window = _made_window(window, window_stride)
        self.published_test = _chosen_test(published_test)
        self.boundary_iou = boundary_iou
        self.class_names = class_names
        self.palette = palette
        self.label_flip_pairs = label_flip_pairs
        self._asked = [name for name in OF_THE_DATA if getattr(self, name) is None]
        self.head = self._make_head(head, ocr_channels)
        self.loss = CrossEntropy(num_classes, class_weights)
        self.auxiliary_loss = self.loss
        if ohem:
            options: dict[str, Any] = {"threshold": ohem_threshold, "min_kept": ohem_min_kept}
            self.loss = OhemCrossEntropy(num_classes, class_weights, **options)
        self.metric = SegmentationScores(num_classes, class_names, boundary=boundary_iou)

    def _make_head(self, head: str, ocr_channels: tuple[int, int]) -> SegmentationHead | OCRHead:
        channels, align_corners = self.backbone.channels, self.backbone.align_corners
        if head == "v2":
            return SegmentationHead(channels, self.num_classes, align_corners=align_corners)
        if head == "ocr":
            mid, key = ocr_channels
            options: dict[str, Any] = {"mid_channels": mid, "key_channels": key, "align_corners": align_corners}
            return OCRHead(channels, self.num_classes, **options)
        raise ValueError(f'SegmentationTask has the heads "v2" and "ocr", not {head!r}.')

    def from_streams(self, streams: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Streams -> logits (B, num_classes, *size), of OCR the final ones."""
        scores = self.head(streams)
        return self._resize(scores if isinstance(scores, Tensor) else scores[1], size)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> logits (B, num_classes, H, W); in evaluation by windows if they are set."""
        if self.window is None or not self._windowed():
            return self.whole(images)
        return self.window(self.whole, images)

    def whole(self, images: Tensor) -> Tensor:
        """The same without windows."""
        return super().forward(images)

    @property
    def one_pass(self) -> bool:
        """Unless windows are laid."""
        return type(self).forward is SegmentationTask.forward and not self._windowed()

    def training_losses(self, batch: Batch) -> Losses:
        """Of whole images, with OCR's coarse logits."""
        return self.losses(self.training_outputs(self.normalize(batch["image"])), batch)

    def training_outputs(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits of the whole images, for OCR (coarse, final) logits, each (B, num_classes, H, W)."""
        scores = self.head(self.backbone(images))
        if isinstance(scores, Tensor):
            return self._resize(scores, images.shape[-2:])
        coarse, final = scores
        return self._resize(coarse, images.shape[-2:]), self._resize(final, images.shape[-2:])

    def losses(self, outputs: Tensor | tuple[Tensor, Tensor], batch: Batch) -> Losses:
        """Logits -> {"cross_entropy": ...}, with {"auxiliary": ...} where coarse logits come along, weight included."""
        mask = batch["mask"].long()
        if isinstance(outputs, Tensor):
            return {"cross_entropy": self.loss(self._resize(outputs, mask.shape[-2:]), mask)}
        coarse, final = (self._resize(logits, mask.shape[-2:]) for logits in outputs)
        auxiliary = AUXILIARY_WEIGHT * self.auxiliary_loss(coarse, mask)
        return {"cross_entropy": self.loss(final, mask), "auxiliary": auxiliary}

    @torch.no_grad()
    def predict(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Logits -> {"labels": (B, h, w) int64}, at the size of the masks, or of the images where there are none."""
        size = tuple((batch["mask"] if "mask" in batch else batch["image"]).shape[-2:])
        if self.published_test is not None:
            options: dict[str, Any] = {
                "scales": self.scales,
                "size": size,
                "align_corners": self.backbone.align_corners,
            }
            return {"labels": _best(self.published_test(self._both_ways, batch["image"], self.normalize, **options))}
        images = self.normalize(batch["image"])
        if len(self.scales) == 1:
            return {"labels": _best(self._resize(self._scaled(self.scales[0], images, outputs), size))}
        total = self._resize(self._scaled(self.scales[0], images, outputs), size).softmax(1)
        for scale in self.scales[1:]:
            total += self._resize(self._scaled(scale, images, outputs), size).softmax(1)
        return {"labels": _best(total)}

    def update(self, predictions: dict[str, Tensor], batch: Batch) -> None:
        """Count the labels in the confusion matrix."""
        self.metric.update(predictions["labels"], batch["mask"])

    def attach(self, datamodule: Data) -> None:
        """Compare the number of classes; take names, colours and mirror pairs that were not given."""
        if datamodule.num_classes != self.num_classes:
            raise ValueError(
                f"The model has {self.num_classes} classes and the data have {datamodule.num_classes}: "
                f"set model.init_args.num_classes to {datamodule.num_classes}."
            )
        if self.published_test is not None:
            _check_evaluation(self.published_test, datamodule)
        found = {
            "class_names": [str(name) for name in datamodule.class_names],
            "palette": _integers(datamodule.palette),
            "label_flip_pairs": _integers(datamodule.label_flip_pairs),
        }
        for name in self._asked:
            setattr(self, name, found[name])
            self.hparams[name] = found[name]
        self.metric = SegmentationScores(self.num_classes, self.class_names, boundary=self.boundary_iou).to(self.device)

    def scores(self, predictions: dict[str, Tensor], batch: Batch) -> dict[str, Tensor | list]:
        """mIoU of each image, over the classes that it has in truth or prediction; nan if all of it is ignored."""
        confusion = image_confusion(predictions["labels"], batch["mask"], self.num_classes)
        return {"sample": batch["image_id"], "score": image_iou(confusion).nanmean(1)}

    def check(self, batch: Batch) -> None:
        """Masks have pixels that count, of more than one class."""
        super().check(batch)
        found = batch["mask"].unique().tolist()
        classes = [label for label in found if label != IGNORED]
        advice = "look at the masks, and at id_map (python -m datamodules.check EXPERIMENT.yaml)."
        if not classes:
            raise ValueError(f"Every pixel of {len(batch['mask'])} training masks is ignored (255): {advice}")
        if len(classes) == 1 and min(self.num_classes, len(batch["mask"])) > 1:
            name = self.class_names[classes[0]] if self.class_names else classes[0]
            raise ValueError(f"All of {len(batch['mask'])} training masks have one class alone, {name}: {advice}")

    def tables(self) -> dict[str, list[Row] | Tensor]:
        """IoU, accuracy and precision of each class, and the confusion matrix."""
        picture = draw_confusion(self.metric.confusion, self.metric.names)
        return {"classes": self.metric.per_class(), "confusion": picture}

    def draw(self, outputs: Tensor, predictions: dict[str, Tensor], batch: Batch, count: int) -> Drawn:
        """Images with true and predicted classes over them, where they differ, and the classes' colours by name.

        The layers are the true and the predicted classes as masks.
        """
        palette, names = self.palette or class_colours(self.num_classes), self.metric.names
        images, masks, labels = batch["image"][:count], batch["mask"][:count], predictions["labels"][:count]
        picture = draw_segmentation(images, masks, labels, palette, names)
        captions = [f"image {number}" for number in batch["image_id"][:count].tolist()]
        layers = [
            _layers(image.cpu(), caption, names, {"truth": mask.cpu(), "prediction": found.cpu()}, palette)
            for image, caption, mask, found in zip(images, captions, masks, labels, strict=True)
        ]
        return {"segmentation (truth, prediction, errors)": Panel(picture, layers)}

    def _windowed(self) -> bool:
        return self.window is not None and not self.training

    def _scaled(self, scale: float, images: Tensor, outputs: Tensor) -> Tensor:
        """Logits of the images at a scale, averaged with the mirrored ones'; `outputs` are those at scale 1."""
        if scale != 1:
            # Halves up, as published; by functions that leave the size of an exported graph open.
            size: Any = [torch.sym_max(1, torch.sym_int(scale * side + 0.5)) for side in images.shape[-2:]]
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
            outputs = self(images)
        return (outputs + self._mirrored(self, images)) / 2 if self.flip_test else outputs

    def _both_ways(self, images: Tensor) -> Tensor:
        """Logits of whole images, averaged with the mirrored ones' for the flip test."""
        outputs = self.whole(images)
        return (outputs + self._mirrored(self.whole, images)) / 2 if self.flip_test else outputs

    def _mirrored(self, network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        return network(images.flip(-1))[:, self._flip_order()].flip(-1)

    def _flip_order(self) -> list[int]:
        order = list(range(self.num_classes))
        for left, right in self.label_flip_pairs or []:
            order[left], order[right] = right, left
        return order

    def _resize(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        if tuple(logits.shape[-2:]) == tuple(size):
            return logits
        # In float32: reduced precision would make ties of many neighbouring pixels.
        align_corners = self.backbone.align_corners
        return F.interpolate(logits.float(), size=tuple(size), mode="bilinear", align_corners=align_corners)


def _layers(
    image: Tensor, caption: str, names: list[str], masks: dict[str, Tensor], palette: Sequence[Sequence[int]]
) -> Layers:
    """An image (3, H, W) with masks (h, w) over it, of `LAYER_SIDE` pixels at most."""
    height, width = masks["truth"].shape
    scale = min(1, LAYER_SIDE / max(height, width))
    size = (max(1, round(scale * height)), max(1, round(scale * width)))
    small = F.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True)[0].round().byte()
    masks = {name: F.interpolate(m[None, None].float(), size=size)[0, 0].long() for name, m in masks.items()}
    return Layers(small, caption, names, masks, palette=palette)


def _best(scores: Tensor) -> Tensor:
    """(B, K, H, W) -> (B, H, W), the class of the highest score; by the faster of two ways for the memory's order."""
    if scores.is_contiguous(memory_format=torch.channels_last):
        return scores.argmax(1)
    return scores.max(1).indices


def _checked_scales(scales: list[float] | None) -> list[float]:
    scales = [1.0] if scales is None else list(scales)
    if not scales or min(scales) <= 0:
        raise ValueError(f"scales are factors of the image size above 0, at least one of them; got {scales}.")
    return scales


def _chosen_test(name: str | None) -> PublishedTest | None:
    if name is None:
        return None
    if name not in PUBLISHED_TESTS:
        raise ValueError(f"published_test is one of {', '.join(PUBLISHED_TESTS)}, or left out; got {name!r}.")
    return PUBLISHED_TESTS[name]


def _check_evaluation(test: PublishedTest, datamodule: Data) -> None:
    """Refuse data that prepare images in another way than the test begins with."""
    found: Any = getattr(datamodule, "preparer", None)
    if not hasattr(found, "evaluation"):  # a DataModule of the user's own
        return
    if found.evaluation != test.evaluation or (test.evaluation != "original" and found.base_size != test.long_side):
        side_there = "" if test.evaluation == "original" else f" with base_scale {test.long_side} / image_size's longer"
        raise ValueError(
            f"The published test needs data.init_args.evaluation: {test.evaluation}{side_there}; the data have "
            f"{found.evaluation} with base_scale {found.base_scale:.4g} and image_size {list(found.image_size)}."
        )


def _made_window(size: tuple[int, int] | None, stride: tuple[int, int] | None) -> SlidingWindow | None:
    if size is not None:
        return SlidingWindow(size, stride)
    if stride is not None:
        raise ValueError(f"window_stride {stride} has no window to move: set window, or leave window_stride out.")
    return None


def _integers(rows: Any) -> list[list[int]]:
    return [[int(value) for value in row] for row in rows]

"""Detectors of two stages: Faster R-CNN (NeurIPS 2015) and Mask R-CNN (ICCV 2017) on a pyramid.

    pyramid --RPN--> objectness, deltas of anchors --suppression--> proposals --RoIAlign, two layers--> classes, boxes
                                                                    detections --RoIAlign, five layers--> masks

Heads, matching, sampling, losses and suppression are torchvision's; its wrapper, which resizes and pads images, is not
used, so that one pass of backbone, neck and RPN head serves losses and predictions.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_inference, maskrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers

from tasks.detection.pyramid import Anchors, RoIAlign

Outputs = dict[str, Any]
Targets = list[dict[str, Tensor]]
Detections = list[dict[str, Tensor]]

BOX_SIDE, MASK_SIDE = 7, 14  # of what is pooled for the two heads
EVALUATION_SEED = 0


@dataclass(frozen=True)
class Convention:
    """What published detectors count differently.

    Args:
        offset: Of anchors in their cells, see `Anchors`.
        rounded: Whether the anchors' sides are rounded.
        aligned: See `RoIAlign`.
        samples: See `RoIAlign`.
    """

    offset: float
    rounded: bool
    aligned: bool
    samples: int


CONVENTIONS = {
    "official": Convention(offset=0.5, rounded=True, aligned=False, samples=2),
    "mmdet2": Convention(offset=0.0, rounded=False, aligned=True, samples=0),
}


class TwoStage(nn.Module):
    """Proposals, then a class, a box and perhaps a mask for each.

    Args:
        num_classes: Classes of objects; the background is one more, before them.
        channels: Of every level of the pyramid.
        strides: Of each level of the pyramid, in input pixels.
        masks: Whether each detection gets a mask.
        sizes: Sides of anchors, in strides of their level.
        ratios: Heights by widths of anchors.
        box_channels: Of the two layers that see a proposal.
        proposals: The best boxes of a level that take part in suppression, and those of all levels that are left.
        convention: Where anchors and pixels lie.
        score_threshold: Boxes that score less are no detections.
        nms_threshold: IoU above which the lower of two boxes of a class goes.
        max_detections: Of an image.
    """

    first_label = 1
    """Of the objects in `targets`."""

    def __init__(
        self,
        num_classes: int,
        channels: int,
        strides: Sequence[int],
        *,
        masks: bool,
        sizes: float,
        ratios: Sequence[float],
        box_channels: int,
        proposals: tuple[int, int],
        convention: Convention,
        score_threshold: float,
        nms_threshold: float,
        max_detections: int,
    ) -> None:
        super().__init__()
        self.anchors = Anchors(
            strides,
            [[sizes * stride] for stride in strides],
            ratios,
            offset=convention.offset,
            rounded=convention.rounded,
        )
        before, after = ({"training": count, "testing": count} for count in proposals)
        self.rpn = RegionProposalNetwork(
            self.anchors, RPNHead(channels, len(ratios)), 0.7, 0.3, 256, 0.5, before, after, nms_thresh=0.7
        )
        pooling: dict[str, Any] = {"samples": convention.samples, "aligned": convention.aligned}
        mask_parts = {
            "mask_roi_pool": RoIAlign(strides, MASK_SIDE, **pooling),
            "mask_head": MaskRCNNHeads(channels, [channels] * 4, 1),
            "mask_predictor": MaskRCNNPredictor(channels, channels, num_classes + 1),
        }
        self.roi_heads = RoIHeads(
            RoIAlign(strides, BOX_SIDE, **pooling),
            TwoMLPHead(channels * BOX_SIDE**2, box_channels),
            FastRCNNPredictor(box_channels, num_classes + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=512,
            positive_fraction=0.25,
            bbox_reg_weights=(10.0, 10.0, 5.0, 5.0),
            score_thresh=score_threshold,
            nms_thresh=nms_threshold,
            detections_per_img=max_detections,
            **(mask_parts if masks else {}),
        )

    def forward(self, pyramid: Mapping[str, Tensor]) -> Outputs:
        """Levels (B, channels, H_i, W_i), finest first -> `pyramid`, these, and what RPN says of all N anchors.

        `objectness` (B, N), logits, and `deltas` (B, N, 4), both in float32.
        """
        levels = list(pyramid.values())
        objectness, deltas = concat_box_prediction_layers(*self.rpn.head(levels))
        count = len(levels[0])
        return {
            "pyramid": tuple(levels),  # which is cut into samples level by level
            "objectness": objectness.float().reshape(count, -1),
            "deltas": deltas.float().reshape(count, -1, 4),
        }

    def losses(
        self, outputs: Outputs, targets: Targets, size: tuple[int, int], valid: list[tuple[int, int]]
    ) -> Outputs:
        """Of a batch: {"objectness", "proposal_box", "classification", "box"} and "mask".

        Anchors and proposals are sampled at random: in training from torch's stream, otherwise the same every time and
        from a stream of their own.

        Args:
            outputs: Of `forward`.
            targets: `boxes` (N, 4) x1 y1 x2 y2 in input pixels, `labels` (N,) from 1 on, and for masks `masks`
                (N, H, W) bool of each image.
            size: Height and width of the images, padding included.
            valid: Height and width of each image without padding, which proposals are clipped to.
        """
        proposals = self.proposals(outputs, size, valid)
        with sampling(self.training, outputs["objectness"].device):
            found = self._proposal_losses(outputs, targets, size)
            samples, matched, labels, regression = self.roi_heads.select_training_samples(proposals, targets)
        logits, deltas = self._classified(outputs, samples)
        found["classification"], found["box"] = fastrcnn_loss(logits, deltas, labels, regression)
        if self.roi_heads.has_mask():
            objects = [here > 0 for here in labels]
            boxes = [rows[here] for rows, here in zip(samples, objects, strict=True)]
            indices = [rows[here] for rows, here in zip(matched, objects, strict=True)]
            masks, classes = ([target[key] for target in targets] for key in ("masks", "labels"))
            found["mask"] = maskrcnn_loss(self._masks(outputs, boxes), boxes, masks, classes, indices)
        return found

    def detections(self, outputs: Outputs, size: tuple[int, int], valid: list[tuple[int, int]]) -> Detections:
        """`boxes` (N, 4) in input pixels within the `valid` part of each image, `scores` descending, `labels` from 1.

        With masks also `masks` (N, 28, 28), probabilities of the object inside its box.
        """
        proposals = self.proposals(outputs, size, valid)
        logits, deltas = self._classified(outputs, proposals)
        found = self.roi_heads.postprocess_detections(logits, deltas, proposals, valid)
        detections = [
            {"boxes": boxes, "scores": scores, "labels": labels} for boxes, scores, labels in zip(*found, strict=True)
        ]
        if self.roi_heads.has_mask():
            boxes, _, labels = found
            masks = maskrcnn_inference(self._masks(outputs, boxes), labels)
            detections = [one | {"masks": mask[:, 0]} for one, mask in zip(detections, masks, strict=True)]
        return detections

    def proposals(self, outputs: Outputs, size: tuple[int, int], valid: list[tuple[int, int]]) -> list[Tensor]:
        """The best boxes (N, 4) of each image, in input pixels; no gradient goes through them."""
        levels = self.anchors.levels(size, outputs["deltas"].device)
        anchors = [torch.cat(levels)] * len(valid)
        boxes = self.rpn.box_coder.decode(outputs["deltas"].detach().flatten(0, 1), anchors)
        counts = [len(level) for level in levels]
        found, _ = self.rpn.filter_proposals(boxes.view(len(valid), -1, 4), outputs["objectness"], valid, counts)
        return found

    def _proposal_losses(self, outputs: Outputs, targets: Targets, size: tuple[int, int]) -> Outputs:
        anchors = [torch.cat(self.anchors.levels(size, outputs["deltas"].device))] * len(targets)
        labels, boxes = self.rpn.assign_targets_to_anchors(anchors, targets)
        regression = self.rpn.box_coder.encode(boxes, anchors)
        objectness, deltas = outputs["objectness"].view(-1, 1), outputs["deltas"].flatten(0, 1)
        found = self.rpn.compute_loss(objectness, deltas, labels, regression)
        return dict(zip(("objectness", "proposal_box"), found, strict=True))

    def _classified(self, outputs: Outputs, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Of all boxes of a batch: logits (N, classes + 1) and deltas (N, 4 * (classes + 1)), in float32."""
        heads = self.roi_heads
        logits, deltas = heads.box_predictor(heads.box_head(heads.box_roi_pool(outputs["pyramid"], boxes)))
        return logits.float(), deltas.float()

    def _masks(self, outputs: Outputs, boxes: list[Tensor]) -> Tensor:
        """Logits (N, classes + 1, 28, 28) of all boxes of a batch, in float32."""
        heads = self.roi_heads
        return heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(outputs["pyramid"], boxes))).float()


@contextmanager
def sampling(training: bool, device: torch.device) -> Iterator[None]:
    """Context in which torch's random draws are the step's own in training, and in evaluation leave no trace.

    A training's stream is seeded by the task at every step, by seed and step, so a resumed run draws the same. What an
    evaluation draws is the same each time, and the stream goes on as if nothing had been drawn.

    Args:
        training: Whether the draws belong to a training step.
        device: Where they are made.
    """
    if training:
        yield
        return
    others = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=others):
        torch.manual_seed(EVALUATION_SEED)
        yield

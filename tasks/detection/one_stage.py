"""Detectors of one stage: FCOS (ICCV 2019) and RetinaNet (ICCV 2017) predict a box at every place of the pyramid.

Head, matching, losses and suppression are torchvision's; its wrapper, which resizes and pads images, is not used.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.ops import remove_small_boxes

from tasks.detection.pyramid import Anchors

SMALLEST = 1e-2  # width and height of a box in pixels, as torchvision has it for its detectors of two stages
# FCOS' distances to the sides before anything is learned, in strides: the middle of what a level finds, 0 to 8. A ReLU
# gives them, so from a bias of 0 (torchvision's) they can get stuck at 0, where nothing teaches them any more.
FIRST_DISTANCE = 4.0
OCTAVES = tuple(2 ** (i / 3) for i in range(3))  # RetinaNet's anchors of a place, Section 4

Outputs = dict[str, Tensor]
Targets = list[dict[str, Tensor]]
Detections = list[dict[str, Tensor]]


class OneStage(nn.Module):
    """A detector whose outputs are maps alone, so that it draws nothing at random.

    Args:
        detector: "fcos" or "retinanet".
        num_classes: Classes of objects; there is none for the background.
        channels: Of every level of the pyramid; FCOS normalises them in 32 groups.
        strides: Of each level of the pyramid, in input pixels.
        sizes: RetinaNet's smallest anchors, in strides of their level; FCOS has points instead.
        ratios: RetinaNet's heights by widths of anchors.
        score_threshold: Boxes that score less are no detections.
        nms_threshold: IoU above which the lower of two boxes of a class goes.
        max_detections: Of an image.

    Raises:
        ValueError: If FCOS has channels that do not make 32 groups.
    """

    first_label = 0
    """Of the objects in `targets`."""

    def __init__(
        self,
        detector: str,
        num_classes: int,
        channels: int,
        strides: Sequence[int],
        *,
        sizes: float,
        ratios: Sequence[float],
        score_threshold: float,
        nms_threshold: float,
        max_detections: int,
    ) -> None:
        super().__init__()
        options = {
            "score_thresh": score_threshold,
            "nms_thresh": nms_threshold,
            "detections_per_img": max_detections,
        }
        if detector == "fcos":
            if channels % 32:
                raise ValueError(
                    f"FCOS normalises its channels in 32 groups and channels is {channels}: set "
                    f"model.init_args.channels to {max(32, 32 * round(channels / 32))}."
                )
            self.anchors = Anchors(strides, [[stride] for stride in strides], [1.0])
            self.detector: FCOS | RetinaNet = FCOS(
                Pyramid(channels), num_classes, anchor_generator=self.anchors, **options
            )
            nn.init.constant_(self.detector.head.regression_head.bbox_reg.bias, FIRST_DISTANCE)
        else:
            smallest = [sizes * stride for stride in strides]
            self.anchors = Anchors(strides, [[int(side * octave) for octave in OCTAVES] for side in smallest], ratios)
            self.detector = RetinaNet(Pyramid(channels), num_classes, anchor_generator=self.anchors, **options)
        for module in self.detector.head.modules():
            if isinstance(module, nn.GroupNorm):
                module.register_forward_pre_hook(_in_planes)

    def forward(self, pyramid: Mapping[str, Tensor]) -> Outputs:
        """Levels (B, channels, H_i, W_i), finest first -> raw outputs for each of N anchors, in float32.

        `cls_logits` (B, N, num_classes), `bbox_regression` (B, N, 4), and of FCOS `bbox_ctrness` (B, N, 1).
        """
        return {name: found.float() for name, found in self.detector.head(list(pyramid.values())).items()}

    def losses(
        self, outputs: Outputs, targets: Targets, size: tuple[int, int], valid: list[tuple[int, int]]
    ) -> Outputs:
        """Of a batch: {"classification", "box"} and of FCOS "centerness".

        The sums are divided by the positive places of this process's batch.

        Args:
            outputs: Of `forward`.
            targets: `boxes` (N, 4) x1 y1 x2 y2 in input pixels and `labels` (N,) of each image.
            size: Height and width of the images, padding included.
            valid: Height and width of each image without padding, which the losses do not need.
        """
        levels = self.anchors.levels(size, outputs["cls_logits"].device)
        anchors = [torch.cat(levels)] * len(targets)
        if isinstance(self.detector, FCOS):
            found = self.detector.compute_loss(targets, outputs, anchors, [len(level) for level in levels])
            names = {"bbox_regression": "box", "bbox_ctrness": "centerness"}
        else:
            found = self.detector.compute_loss(targets, outputs, anchors)
            names = {"bbox_regression": "box"}
        return {names.get(name, name): value for name, value in found.items()}

    def detections(self, outputs: Outputs, size: tuple[int, int], valid: list[tuple[int, int]]) -> Detections:
        """`boxes` (N, 4) in input pixels within the `valid` part of each image, `scores` descending, and `labels`.

        Boxes that lie on the padding have no extent within that part and are left out, as in detectors of two stages.
        """
        levels = self.anchors.levels(size, outputs["cls_logits"].device)
        split = {name: list(found.split([len(level) for level in levels], dim=1)) for name, found in outputs.items()}
        found = self.detector.postprocess_detections(split, [levels] * len(valid), valid)
        kept = [remove_small_boxes(one["boxes"], SMALLEST) for one in found]
        return [{key: row[here] for key, row in one.items()} for one, here in zip(found, kept, strict=True)]


class Pyramid(nn.Module):
    """What torchvision's detectors ask of a backbone; the pyramid comes from elsewhere.

    Args:
        out_channels: Of every level.
    """

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels


def _in_planes(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """On a CPU torch normalises groups twenty times as fast where each channel is one piece of memory."""
    return tuple(x.contiguous() if x.device.type == "cpu" else x for x in inputs)

"""FCOS with its suppression inside, in tensors of fixed sizes, which is what exported graphs can hold.

torchvision's own suppression returns as many boxes as there are, one image after the other. Here the best candidates of
each image suppress each other in a matrix, round by round, until nobody's fate changes any more.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image, remove_small_boxes

from experiments.config import ConfigError
from experiments.export.graph import Ending, ending_of
from tasks import DetectionTask
from tasks.detection.one_stage import SMALLEST
from tasks.detection.task import in_original
from tasks.losses import Batch

CANDIDATES = 400  # of an image that take part in suppression
ROUNDS = 16  # a box that is suppressed by one that is suppressed by one ...: so long a chain is settled


class FcosEnding(Ending):
    """Boxes in pixels of the canvas, classes and scores; places without a detection are all 0."""

    def canvas(self, preparer: Any) -> Any:
        """One canvas for images of both orientations."""
        return replace(preparer, grouped=False)

    def outputs(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """All of them."""
        return found

    def raw(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """`cls_logits` (B, N, num_classes), `bbox_regression` (B, N, 4), `bbox_ctrness` (B, N, 1)."""
        return outputs

    def decoded(self, outputs: dict[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """`boxes` (B, M, 4), `scores` (B, M) descending and `labels` (B, M) int64, M `max_detections` of the task."""
        detector, anchors = self.task.head.detector, torch.cat(self.task.head.anchors.levels(size, torch.device("cpu")))
        classes = outputs["cls_logits"].shape[-1]
        every = (outputs["cls_logits"].sigmoid() * outputs["bbox_ctrness"].sigmoid()).sqrt().flatten(1)
        scores, places = every.topk(min(CANDIDATES, every.shape[1]), dim=1)
        labels, rows = places % classes, (places // classes)[..., None].expand(-1, -1, 4)
        boxes = detector.box_coder.decode(
            outputs["bbox_regression"].gather(1, rows), anchors.expand(rows.shape[0], -1, -1).gather(1, rows)
        )
        height, width = size
        boxes = boxes.clamp(min=0).minimum(torch.tensor([width, height, width, height], dtype=boxes.dtype))
        scores = scores * (scores > detector.score_thresh) * _kept(boxes, labels, detector.nms_thresh)
        scores, order = scores.topk(min(detector.detections_per_img, scores.shape[1]), dim=1)
        found = scores > 0
        boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4)) * found[..., None]
        return {"boxes": boxes, "scores": scores, "labels": labels.gather(1, order) * found}

    def aligned(self, found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
        """Each expected box has the nearest that was found of its class: equal scores come in any order."""
        apart = torch.cdist(expected["boxes"], found["boxes"], p=float("inf"))
        apart = apart + 1e6 * (expected["labels"][:, :, None] != found["labels"][:, None])
        nearest = apart.argmin(-1)
        boxes = found["boxes"].gather(1, nearest[..., None].expand(-1, -1, 4))
        return {"boxes": boxes, "scores": found["scores"], "labels": found["labels"].gather(1, nearest)}

    def predictions(self, found: dict[str, Tensor], batch: Batch) -> dict[str, list[Tensor]]:
        """In original pixels, without the places that hold nothing."""
        rows: dict[str, list[Tensor]] = {"boxes": [], "scores": [], "labels": []}
        for i, (size, matrix) in enumerate(zip(batch["size"].tolist(), batch["to_image"], strict=True)):
            boxes = clip_boxes_to_image(found["boxes"][i], size)
            kept = remove_small_boxes(boxes, SMALLEST)
            kept = kept[found["scores"][i, kept] > 0]
            rows["boxes"].append(in_original(boxes[kept], matrix))
            rows["scores"].append(found["scores"][i, kept])
            rows["labels"].append(found["labels"][i, kept])
        return rows

    def described(self) -> dict[str, Any]:
        """The classes, and the ids that the training data call them by."""
        return super().described() | {"category_ids": self.task.category_ids}


def _kept(boxes: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """(B, M) 1 for the boxes (B, M, 4), best first, that no better one of their class suppresses, 0 for the others."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    areas = (x2 - x1) * (y2 - y1)
    start = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    end = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    common = (end - start).clamp(min=0).prod(-1)
    overlaps = common / (areas[:, :, None] + areas[:, None] - common)
    better = torch.ones(boxes.shape[1], boxes.shape[1]).tril(-1)  # row i: those before i
    suppresses = (overlaps > threshold).float() * (labels[:, :, None] == labels[:, None]).float() * better
    kept = torch.ones_like(areas)
    for _ in range(ROUNDS):
        kept = ((suppresses * kept[:, None]).sum(-1) == 0).float()
    return kept


@ending_of.register
def _(task: DetectionTask) -> Ending:
    if task.detector != "fcos":
        raise ConfigError(
            f"{task.detector} cannot be exported: how many boxes it looks at differs from image to image. FCOS can, "
            "`detector: fcos`."
        )
    return FcosEnding(task)

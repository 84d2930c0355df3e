"""Objects in photos: the whole photo on the canvas of the training, and the boxes, classes and masks found in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from datamodules.detection.letterbox import Letterbox
from datamodules.images.preparer import Preparer
from experiments.predict.base import Finish, Result, Sample, View, pillow, rounded, view_of
from experiments.predict.boxes import BoxSource, whole_image
from experiments.predict.media import Photo
from experiments.predict.pose import in_pixels
from tasks import DetectionTask
from tasks.draw import class_colours, draw_boxes
from tasks.draw.detection import SHOWN
from tasks.metrics.masks import encode_masks, pasted, segmentation


@dataclass(frozen=True, eq=False, kw_only=True)
class DetectionResult(Result):
    """N objects, the best first.

    Args:
        boxes: (N, 4) x1, y1, x2, y2, edges in pixels of the photo: one that covers the columns 3 to 5 reaches from 3
            to 6.
        scores: (N,) in [0, 1].
        labels: (N,) classes.
        class_names: (K,) names of all classes.
        category_ids: (K,) ids that the data of the training call them by; None where these are not known.
        masks: (N, 28, 28) probabilities inside the boxes, None where only boxes are found.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str]
    category_ids: Sequence[int] | None = None
    masks: np.ndarray | None = None

    def plot(self, threshold: float = SHOWN) -> Image.Image:
        """Boxes with class and score, and masks where there are such, of what scores at least `threshold`."""
        shown = self.scores >= threshold
        labels, palette = self.labels[shown].tolist(), class_colours(len(self.class_names))
        captions = [
            f"{self.class_names[k]} {score:.2f}" for k, score in zip(labels, self.scores[shown].tolist(), strict=True)
        ]
        chunks = () if self.masks is None else pasted(self.masks[shown], self.boxes[shown], self.photo.image.shape[:2])
        masks = (mask for chunk in chunks for mask in chunk)
        return pillow(draw_boxes(self.picture(), self.boxes[shown], [palette[k] for k in labels], captions, masks))

    def rows(self) -> list[dict[str, Any]]:
        """An object a row: class, score and box."""
        return [
            self.where()
            | {"instance": place, "label": label, "name": self.class_names[label], "score": rounded(score)}
            | dict(zip(("x1", "y1", "x2", "y2"), in_pixels(box), strict=True))
            for place, (box, score, label) in enumerate(zip(self.boxes, self.scores, self.labels.tolist(), strict=True))
        ]

    def records(self, image_id: int) -> list[dict[str, Any]]:
        """COCO results: box as x, y, width, height, and a run-length encoded mask.

        `category_id` is the one that the data of the training have, or the class plus 1; `category_ids` says which.
        """
        ids = self.category_ids or range(1, len(self.class_names) + 1)
        meaning = "of the training data" if self.category_ids else "label + 1"
        boxes = np.concatenate([self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]], axis=1)
        size = self.photo.image.shape[:2]
        codes = [] if self.masks is None else encode_masks(self.masks, self.boxes, size)
        records = []
        for place, (box, score, label) in enumerate(zip(boxes, self.scores, self.labels.tolist(), strict=True)):
            record = {"image_id": image_id, "category_id": ids[label], "bbox": in_pixels(box), "score": rounded(score)}
            mask = {"segmentation": segmentation(codes[place], size)} if codes else {}
            said = {"name": self.class_names[label], "label": label, "category_ids": meaning}
            records.append({**record, **mask, **said, **self.file()})
        return records


class DetectionView(View):
    """The whole photo on a canvas."""

    result, usual, finds_boxes = DetectionResult, Letterbox, True

    def __init__(
        self, task: DetectionTask, preparer: Preparer, *, boxes: BoxSource = whole_image, max_pixels: int = 0
    ) -> None:
        self.names = task.class_names or [str(label) for label in range(task.num_classes)]
        self.category_ids = task.category_ids
        self.preparer = preparer

    @classmethod
    def assumed(cls, task: DetectionTask) -> dict[str, Any]:
        """As the published recipes evaluate on COCO."""
        return {"image_size": (832, 1344), "sides": (800, 1333), "grouped": True}

    def prepare(self, photo: Photo) -> tuple[list[Sample], Finish]:
        """One sample."""
        height, width = photo.image.shape[:2]

        def finish(predictions: list[dict[str, np.ndarray]]) -> DetectionResult:
            found = predictions[0]
            inside = np.clip(found["boxes"], 0, [width, height, width, height])
            classes: dict[str, Any] = {"class_names": self.names, "category_ids": self.category_ids}
            return DetectionResult(photo=photo, **classes, **found | {"boxes": inside})

        return [self.preparer(photo.image)], finish

    def split(self, predictions: dict[str, list[Tensor]]) -> list[dict[str, np.ndarray]]:
        """Boxes (N, 4), scores (N,), labels (N,) and perhaps masks (N, 28, 28) of each photo."""
        keys = [key for key in ("boxes", "scores", "labels", "masks") if key in predictions]
        columns = zip(*(predictions[key] for key in keys), strict=True)
        return [{key: value.cpu().numpy() for key, value in zip(keys, row, strict=True)} for row in columns]


@view_of.register
def _(task: DetectionTask) -> type[View]:
    return DetectionView

"""Key points of photos: a crop for each box, as the data sets cut it, and the persons or other things in them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import draw_bounding_boxes

from datamodules.base import DataError
from datamodules.images.preparer import Preparer
from datamodules.keypoints.crop import PersonCrop
from experiments.config import ConfigError
from experiments.predict.base import Finish, Result, Sample, View, pillow, rounded, view_of
from experiments.predict.boxes import BoxSource, whole_image
from experiments.predict.media import Photo
from tasks import PoseTask, UDPCodec
from tasks.draw import draw_pose

VISIBLE = 0.2  # key points that score more are drawn, and count in a person's score, as in COCO's evaluation of HRNet


@dataclass(frozen=True, eq=False, kw_only=True)
class PoseResult(Result):
    """N persons.

    Args:
        keypoints: (N, K, 2) x, y in pixels of the photo.
        scores: (N, K) of the key points, about 0 to 1.
        boxes: (N, 4) that were looked into, x1, y1, x2, y2 in pixels.
        box_scores: (N,) of the boxes, in [0, 1].
        skeleton: Names and limbs of the K key points.
        image_id: Of the photo, where the source of the boxes has ids, as it writes them.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    box_scores: np.ndarray
    skeleton: Mapping[str, Any]
    image_id: Any = None

    @property
    def person_scores(self) -> np.ndarray:
        """(N,) score of the box times the mean over its key points above 0.2, as COCO's evaluation ranks persons."""
        counted = self.scores > VISIBLE
        return self.box_scores * (self.scores * counted).sum(1) / np.maximum(counted.sum(1), 1)

    def plot(self, threshold: float = VISIBLE) -> Image.Image:
        """Skeletons and boxes; key points that score above `threshold`."""
        picture = self.picture()
        if len(self.boxes):
            picture = draw_bounding_boxes(picture, torch.from_numpy(self.boxes), colors="white", width=1)
        for points, shown in zip(self.keypoints, self.scores > threshold, strict=True):
            picture = draw_pose(picture, torch.from_numpy(points), torch.from_numpy(shown), self.skeleton, scale=1)
        return pillow(picture)

    def rows(self) -> list[dict[str, Any]]:
        """A pose a row: scores, box, and x, y, score of each key point by name."""
        rows = []
        for person, score in enumerate(self.person_scores):
            box = dict(zip(("x1", "y1", "x2", "y2"), in_pixels(self.boxes[person]), strict=True))
            row = self.where() | {"instance": person, "score": rounded(score)} | box
            row["box_score"] = rounded(self.box_scores[person])
            for k, name in enumerate(self.skeleton["names"]):
                x, y = in_pixels(self.keypoints[person, k])
                row |= {f"{name}_x": x, f"{name}_y": y, f"{name}_score": rounded(self.scores[person, k])}
            rows.append(row)
        return rows

    def records(self, image_id: int) -> list[dict[str, Any]]:
        """COCO key-point results: x, y, score of each point in turn, box as x, y, width, height."""
        triplets = np.concatenate([self.keypoints, self.scores[..., None]], axis=2).reshape(
            len(self.boxes), 3 * self.scores.shape[1]
        )
        boxes = np.concatenate([self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]], axis=1)
        return [
            {
                "image_id": image_id if self.image_id is None else self.image_id,
                "category_id": 1,
                "keypoints": in_pixels(points),
                "score": rounded(score),
                "bbox": in_pixels(box),
                **self.file(),
            }
            for points, score, box in zip(triplets, self.person_scores, boxes, strict=True)
        ]


class PoseView(View):
    """A crop for each box.

    Raises:
        ConfigError: If the task does not know its skeleton.
    """

    result, usual, looks_into_boxes = PoseResult, PersonCrop, True

    def __init__(
        self, task: PoseTask, preparer: Preparer, *, boxes: BoxSource = whole_image, max_pixels: int = 0
    ) -> None:
        self.skeleton, self.preparer, self.boxes = skeleton_of(task), preparer, boxes

    @classmethod
    def assumed(cls, task: PoseTask) -> dict[str, Any]:
        """The crop that goes with the codec."""
        return {"crop": "unit"} if isinstance(task.codec, UDPCodec) else {}

    def prepare(self, photo: Photo) -> tuple[list[Sample], Finish]:
        """One sample a box."""
        corners, scores, image_id = self.boxes(photo)
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        empty = ~(np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] >= 0).all(axis=1) & (boxes[:, 2:] > 0).any(axis=1))
        if empty.any():
            raise DataError(
                f"A box of {photo.path or 'the picture'}, {corners[empty][0].tolist()} (x1, y1, x2, y2), has neither "
                f"width nor height, so that there is nothing to look at; the picture has {photo.image.shape[0]} x "
                f"{photo.image.shape[1]} pixels (height x width)."
            )

        def finish(predictions: list[tuple[np.ndarray, np.ndarray]]) -> PoseResult:
            count = len(self.skeleton["names"])
            return PoseResult(
                photo=photo,
                keypoints=np.array([points for points, _ in predictions], np.float32).reshape(-1, count, 2),
                scores=np.array([scores for _, scores in predictions], np.float32).reshape(-1, count),
                boxes=corners,
                box_scores=scores,
                skeleton=self.skeleton,
                image_id=image_id,
            )

        return [self.preparer(photo.image, box) for box in boxes], finish

    def split(self, predictions: dict[str, Tensor]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Key points (K, 2) and scores (K,)."""
        points, scores = predictions["keypoints"].float().cpu().numpy(), predictions["scores"].float().cpu().numpy()
        return list(zip(points, scores, strict=True))


@view_of.register
def _(task: PoseTask) -> type[View]:
    return PoseView


def skeleton_of(task: PoseTask) -> dict[str, Any]:
    """Names, limbs, flip pairs, sigmas; raises ConfigError if the task does not know them."""
    if task.skeleton is None:
        raise ConfigError(
            "The names of the key points are not known, since the checkpoint does not say them: give --skeleton coco, "
            "mpii or a YAML file, or in Python tasks.load(..., {'skeleton': Skeleton.load('coco').to_dict()})."
        )
    return task.skeleton


def in_pixels(values: np.ndarray) -> list[float]:
    """Coordinates as files have them."""
    return np.round(values.astype(np.float64), 3).tolist()

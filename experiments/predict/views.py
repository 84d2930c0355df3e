"""What each task sees of a photo and makes of its predictions: photo -> samples of the batch table -> result.

A view has three methods: `prepare` cuts samples out of a photo and knows how their predictions become its result,
`batch` stacks samples of one shape, `split` takes a batch's predictions apart. `predictor.py` runs the network between.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import isqrt
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from datamodules.base import DataError, collate
from datamodules.classification.samples import centre_crop
from datamodules.keypoints.crop import box_to_center_scale, crop_matrix, invert_affine, warp
from datamodules.segmentation.samples import resized_for_evaluation
from experiments.config import ConfigError
from experiments.predict.boxes import BoxSource
from experiments.predict.media import Photo
from experiments.predict.preparation import Preparation
from experiments.predict.results import ClassificationResult, PoseResult, Result, SegmentationResult
from tasks import ClassificationTask, PoseTask, SegmentationTask
from tasks.draw import class_colours
from tasks.task import Batch

Sample = dict[str, Any]
Finish = Callable[[list[Any]], Result]


class View(Protocol):
    """See above."""

    def prepare(self, photo: Photo) -> tuple[list[Sample], Finish]:
        """Samples of a photo (none, one or many), and what makes its result of their predictions, in their order."""

    def batch(self, samples: list[Sample]) -> Batch:
        """Samples of one shape -> batch for the task."""

    def split(self, predictions: dict[str, Tensor]) -> list[Any]:
        """Predictions of a batch -> those of each sample."""


def skeleton_of(task: PoseTask) -> dict[str, Any]:
    """Names, limbs, flip pairs, sigmas; raises ConfigError if the task does not know them."""
    if task.skeleton is None:
        raise ConfigError(
            "The names of the key points are not known, since the checkpoint does not say them: give --skeleton coco, "
            "mpii or a YAML file, or in Python tasks.load(..., {'skeleton': Skeleton.load('coco').to_dict()})."
        )
    return task.skeleton


class PoseView:
    """A crop for each box, as the data sets cut it.

    Raises:
        ConfigError: If the task does not know its skeleton.
    """

    def __init__(self, task: PoseTask, preparation: Preparation, boxes: BoxSource) -> None:
        self.skeleton, self.preparation, self.boxes = skeleton_of(task), preparation, boxes

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
        size, p = self.preparation.image_size, self.preparation
        centers, extents = box_to_center_scale(boxes, size[1] / size[0], p.box_padding)
        matrices = [crop_matrix(*crop, 0.0, size, convention=p.crop) for crop in zip(centers, extents, strict=True)]
        samples = [
            {"image": warp(photo.image, matrix, size), "to_image": invert_affine(matrix).astype(np.float32)}
            for matrix in matrices
        ]

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

        return samples, finish

    def batch(self, samples: list[Sample]) -> Batch:
        """`image` and `to_image`."""
        return collate(samples)

    def split(self, predictions: dict[str, Tensor]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Key points (K, 2) and scores (K,)."""
        points, scores = predictions["keypoints"].float().cpu().numpy(), predictions["scores"].float().cpu().numpy()
        return list(zip(points, scores, strict=True))


class SegmentationView:
    """The image at its evaluation size; beyond `max_pixels` in overlapping tiles.

    A tile's labels count up to the middle of the overlap with its neighbour, so that memory is that of the labels and
    of a few tiles. An image that is evaluated at a smaller size than its own, and is itself beyond `max_pixels`, gets
    the labels of that size, enlarged, and not enlarged scores as in validation.
    """

    def __init__(self, task: SegmentationTask, preparation: Preparation, max_pixels: int) -> None:
        self.names = task.class_names or [str(i) for i in range(task.num_classes)]
        self.palette = task.palette or class_colours(task.num_classes)
        self.preparation, self.max_pixels = preparation, max_pixels
        self.side = max(64, isqrt(max_pixels) // 2 // 32 * 32)

    def prepare(self, photo: Photo) -> tuple[list[Sample], Finish]:
        """One sample, or one a tile."""
        p = self.preparation
        image = resized_for_evaluation(photo.image, p.evaluation, p.image_size, p.base_size)
        size, original = image.shape[:2], photo.image.shape[:2]
        if size[0] * size[1] > self.max_pixels:
            rows, columns = spans(size[0], self.side), spans(size[1], self.side)
        else:
            rows, columns = [(0, size[0], 0, size[0])], [(0, size[1], 0, size[1])]
        whole = len(rows) == len(columns) == 1 and original[0] * original[1] <= self.max_pixels
        tiles = [(row, column) for row in rows for column in columns]
        parts = [image[top:bottom, left:right] for (top, bottom, *_), (left, right, *_) in tiles]
        samples = [{"image": part, "size": original if whole else part.shape[:2]} for part in parts]

        def finish(predictions: list[np.ndarray]) -> SegmentationResult:
            mask = np.empty(original if whole else size, np.uint8)
            for ((top, _, start, end), (left, _, first, last)), labels in zip(tiles, predictions, strict=True):
                if whole:
                    mask = labels
                else:
                    mask[start:end, first:last] = labels[start - top : end - top, first - left : last - left]
            if mask.shape != original:
                mask = cv2.resize(mask, original[::-1], interpolation=cv2.INTER_NEAREST)
            return SegmentationResult(photo=photo, mask=mask, class_names=self.names, palette=self.palette)

        return samples, finish

    def batch(self, samples: list[Sample]) -> Batch:
        """`image`, and where their labels should have another size, a `mask` that says which."""
        batch = collate([{"image": sample["image"]} for sample in samples])
        if samples[0]["size"] == samples[0]["image"].shape[:2]:
            return batch
        # The task reads nothing but the mask's size at prediction; this one takes no memory.
        return batch | {"mask": torch.zeros((), dtype=torch.uint8).expand(len(samples), *samples[0]["size"])}

    def split(self, predictions: dict[str, Tensor]) -> list[np.ndarray]:
        """Labels (H, W)."""
        return list(predictions["labels"].to(torch.uint8).cpu().numpy())


def spans(size: int, side: int) -> list[tuple[int, int, int, int]]:
    """Tiles along an axis: (start, end, first, last), where first to last is what counts of it.

    Neighbours overlap by a quarter of `side` or more; the last ends with the image.
    """
    if size <= side:
        return [(0, size, 0, size)]
    starts = [*range(0, size - side, side - side // 4), size - side]
    cuts = [0, *((start + side + after) // 2 for start, after in pairwise(starts)), size]
    return [(start, start + side, *cut) for start, cut in zip(starts, pairwise(cuts), strict=True)]


class ClassificationView:
    """The centre crop."""

    def __init__(self, task: ClassificationTask, preparation: Preparation) -> None:
        self.names = task.class_names or [str(i) for i in range(task.num_classes)]
        self.preparation = preparation

    def prepare(self, photo: Photo) -> tuple[list[Sample], Finish]:
        """One sample."""

        def finish(predictions: list[np.ndarray]) -> ClassificationResult:
            probabilities = predictions[0]
            best = np.argsort(-probabilities, kind="stable")[:5]
            names = [self.names[label] for label in best]
            return ClassificationResult(photo=photo, labels=best, probabilities=probabilities[best], names=names)

        image = centre_crop(photo.image, self.preparation.image_size, self.preparation.crop_ratio)
        return [{"image": image}], finish

    def batch(self, samples: list[Sample]) -> Batch:
        """`image`."""
        return collate(samples)

    def split(self, predictions: dict[str, Tensor]) -> Sequence[np.ndarray]:
        """Probabilities (num_classes,)."""
        return list(predictions["probabilities"].float().cpu().numpy())

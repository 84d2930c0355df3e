"""A class for every pixel of a photo: the image at its evaluation size, large ones in tiles, and the mask."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isqrt
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor

from datamodules.base import collate
from datamodules.images.preparer import Preparer
from datamodules.segmentation.samples import EvaluationSize
from experiments.predict.base import Finish, Result, Sample, View, pillow, rounded, view_of
from experiments.predict.boxes import BoxSource, whole_image
from experiments.predict.media import Photo
from tasks import SegmentationTask
from tasks.draw import class_colours, draw_legend, draw_mask
from tasks.losses import Batch

STRIP = 512  # rows of an image that are coloured at once


@dataclass(frozen=True, eq=False, kw_only=True)
class SegmentationResult(Result):
    """A class for each pixel.

    Args:
        mask: (H, W) uint8, classes, at the size of the photo.
        class_names: Names of the classes.
        palette: (r, g, b), 0 to 255, of each class.
    """

    saves: ClassVar[tuple[str, ...]] = ("overlays", "csv", "json", "masks")
    saves_by_default: ClassVar[tuple[str, ...]] = ("overlays", "csv", "masks")

    mask: np.ndarray
    class_names: Sequence[str]
    palette: Sequence[Sequence[int]]

    def plot(self) -> Image.Image:
        """Classes as colours, and the names of those that occur."""
        return self._plot(np.flatnonzero(self._counts()).tolist())

    def frame(self) -> Image.Image:
        """The same with the names of all classes, so that the height stays."""
        return self._plot(list(range(len(self.class_names))))

    def indexed(self) -> Image.Image:
        """The mask as an image of class ids with the palette, for PNG."""
        image = Image.fromarray(self.mask)
        image.putpalette(np.asarray(self.palette, np.uint8).tobytes())
        return image

    def rows(self) -> list[dict[str, Any]]:
        """A class a row, those that occur: its pixels and their share of the image."""
        counts = self._counts()
        return [
            {
                **self.where(),
                "label": label,
                "name": self.class_names[label],
                "pixels": int(counts[label]),
                "share": rounded(counts[label] / self.mask.size),
            }
            for label in np.flatnonzero(counts).tolist()
        ]

    def records(self, image_id: int) -> list[dict[str, Any]]:
        """COCO stuff results: a run-length encoded mask for each class that occurs; category_id is the class."""
        records = []
        for label in np.flatnonzero(self._counts()).tolist():
            code = coco_mask.encode(np.asfortranarray(self.mask == label, np.uint8))
            code["counts"] = code["counts"].decode()
            record = {"image_id": image_id, "category_id": label, "segmentation": code, "score": 1.0}
            records.append(record | self.file())
        return records

    def _counts(self) -> np.ndarray:
        return np.bincount(self.mask.ravel(), minlength=len(self.class_names))

    def _plot(self, labels: Sequence[int]) -> Image.Image:
        image, mask = self.picture(), torch.from_numpy(self.mask)
        # In strips, since colours are blended in float.
        strips = [
            draw_mask(image[:, top : top + STRIP], mask[top : top + STRIP], self.palette)
            for top in range(0, len(mask), STRIP)
        ]
        names, colours = [self.class_names[i] for i in labels], [self.palette[i] for i in labels]
        return pillow(torch.cat([*strips, draw_legend(names, colours, image.shape[-1])], dim=1))


class SegmentationView(View):
    """The image at its evaluation size; beyond `max_pixels` in overlapping tiles.

    A tile's labels count up to the middle of the overlap with its neighbour, so that memory is that of the labels and
    of a few tiles. An image that is evaluated at a smaller size than its own, and is itself beyond `max_pixels`, gets
    the labels of that size, enlarged, and not enlarged scores as in validation.
    """

    result, usual = SegmentationResult, EvaluationSize

    def __init__(
        self, task: SegmentationTask, preparer: Preparer, *, boxes: BoxSource = whole_image, max_pixels: int
    ) -> None:
        self.names = task.class_names or [str(i) for i in range(task.num_classes)]
        self.palette = task.palette or class_colours(task.num_classes)
        self.preparer, self.max_pixels = preparer, max_pixels
        self.side = max(64, isqrt(max_pixels) // 2 // 32 * 32)

    @classmethod
    def assumed(cls, task: SegmentationTask) -> dict[str, Any]:
        """Any size, since images keep their own."""
        return {"image_size": (1, 1)}

    def prepare(self, photo: Photo) -> tuple[list[Sample], Finish]:
        """One sample, or one a tile."""
        image = self.preparer(photo.image)["image"]
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


@view_of.register
def _(task: SegmentationTask) -> type[View]:
    return SegmentationView


def spans(size: int, side: int) -> list[tuple[int, int, int, int]]:
    """Tiles along an axis: (start, end, first, last), where first to last is what counts of it.

    Neighbours overlap by a quarter of `side` or more; the last ends with the image.
    """
    if size <= side:
        return [(0, size, 0, size)]
    starts = [*range(0, size - side, side - side // 4), size - side]
    cuts = [0, *((start + side + after) // 2 for start, after in pairwise(starts)), size]
    return [(start, start + side, *cut) for start, cut in zip(starts, pairwise(cuts), strict=True)]

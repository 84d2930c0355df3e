"""One image and its objects a sample: the data set behind every detection experiment (TPAMI 2020, section 6).

A DataModule such as `coco_detection.py` fills it with arrays; it decodes, draws how the image lies on its canvas, and
lets boxes and masks follow. Segments are kept in a few arrays too, since the plain lists of a million polygons would be
copied into every loader process.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from datamodules.base import BaseDataset, DataError
from datamodules.detection.augmentation import DetectionAugmentation
from datamodules.detection.letterbox import Letterbox, Placement
from datamodules.detection.table import ObjectTable
from datamodules.images.files import PLAIN, Reading
from datamodules.images.photometric import Photometric
from datamodules.images.pixels import read_image


class ObjectImages(BaseDataset):
    """Images of a split with their objects; all in arrays that loader processes share.

    Args:
        folder: Folder of the images.
        table: Images and objects; those that are not learned are left out.
        rows: (M,) images in their order, rows of the table.
        preparer: How an evaluated image lies on its canvas.
        masks: Whether samples have the objects' masks.
        augmentation: How a training image lies on its canvas; None evaluates.
        photometric: Applied to the image, not to what is beside it.
        reading: Of the image files.
        turned: Rows of the images that are turned as EXIF says.
    """

    def __init__(
        self,
        folder: Path,
        table: ObjectTable,
        rows: np.ndarray,
        *,
        preparer: Letterbox,
        masks: bool = False,
        augmentation: DetectionAugmentation | None = None,
        photometric: Photometric | None = None,
        reading: Reading = PLAIN,
        turned: Sequence[int] = (),
    ) -> None:
        self.folder, self.rows = str(folder), rows
        self.file_names, self.image_ids, self.sizes = table.file_names, table.image_numbers, table.image_sizes
        objects = table.learned()
        self.first = np.searchsorted(table.images[objects], np.arange(len(table.file_names) + 1))
        self.boxes, self.labels = table.edges()[objects], table.labels[objects]
        self.ids = table.numbers[objects]
        self.segments = Segments([table.segmentations[row] for row in objects]) if masks else None
        self.preparer, self.augmentation, self.photometric = preparer, augmentation, photometric
        self._reading, self._turned = reading, frozenset(turned)

    def __len__(self) -> int:
        return len(self.rows)

    def group(self, index: int) -> int:
        """1 for an image that is higher than wide, else 0."""
        height, width = self.sizes[self.rows[index]].tolist()
        return int(height > width)

    def name(self, index: int) -> str:
        """The file of the image."""
        return str(self.file_names[self.rows[index]])

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """One image on its canvas with its objects, in the keys of the batch table."""
        row = int(self.rows[index])
        image = self.image(row)
        if self.augmentation is None:
            placement = self.preparer.placement(image.shape[:2])
        else:
            placement = self.augmentation(image.shape[:2], self.preparer, rng)
        part = placement.part(image)
        if self.photometric is not None:
            part = self.photometric(np.ascontiguousarray(part), rng)
        objects = slice(*self.first[row : row + 2])
        return {
            **placement.laid(part),
            "image_id": self.image_ids[row],
            **self.objects(np.arange(objects.start, objects.stop), placement),
        }

    def image(self, row: int) -> np.ndarray:
        """Image of the row (H, W, 3) uint8 RGB, in whose pixels the boxes are."""
        reading = replace(self._reading, upright=True) if row in self._turned else self._reading
        return read_image(os.path.join(self.folder, self.file_names[row]), tuple(self.sizes[row].tolist()), reading)

    def objects(self, rows: np.ndarray, placement: Placement) -> dict[str, np.ndarray]:
        """Boxes, labels and masks of those of the objects that remain where the image is shown."""
        whole = placement.boxes(self.boxes[rows])
        boxes = placement.clipped(whole)
        remains = _areas(boxes) / _areas(whole)
        share = 0.0 if self.augmentation is None else self.augmentation.min_remaining
        kept = (boxes[:, 2:] - boxes[:, :2] >= 1).all(axis=1) & (remains >= share)
        found = {"boxes": boxes.astype(np.float32), "labels": self.labels[rows]}
        if self.segments is not None:
            blank = np.zeros(placement.canvas, bool)
            masks = [self._mask(row, placement) if ok else blank for row, ok in zip(rows.tolist(), kept, strict=True)]
            found["masks"] = np.stack(masks) if masks else np.zeros((0, *placement.canvas), bool)
            kept &= found["masks"].any(axis=(1, 2))
        return {name: values[kept] for name, values in found.items()}

    def _mask(self, row: int, placement: Placement) -> np.ndarray:
        try:
            return self.segments.mask(row, placement)
        except ValueError as error:
            raise DataError(
                f"The run-length code of annotation {self.ids[row]} cannot be unpacked ({error}): write it again, or "
                "remove the annotation."
            ) from error


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)


class Segments:
    """The segments of N objects.

    Args:
        segmentations: (N,) polygons [[x, y, x, y, ...], ...] or a run-length code {size, counts} each; None for one
            without.
    """

    def __init__(self, segmentations: Sequence[Any]) -> None:
        polygons = [stated if isinstance(stated, list) else [] for stated in segmentations]
        flat = list(chain.from_iterable(polygons))
        self.points = np.array(list(chain.from_iterable(flat)), np.float64).astype(np.float32)
        self.polygons = _offsets([len(polygon) for polygon in flat])
        self.objects = _offsets([len(parts) for parts in polygons])
        codes = [_code(stated) if isinstance(stated, dict) else b"" for stated in segmentations]
        self.codes, self.lengths = np.frombuffer(b"".join(codes), np.uint8), _offsets([len(code) for code in codes])
        self.stated = np.array([bool(stated) for stated in segmentations], bool)

    def mask(self, row: int, placement: Placement) -> np.ndarray:
        """(H, W) bool of the canvas: what is shown of the segment; raises ValueError for a damaged run-length code."""
        start, end = self.lengths[row : row + 2]
        if end > start:
            code = {"size": list(placement.shape), "counts": self.codes[start:end].tobytes()}
            part = placement.part(255 * coco_mask.decode(code)) >= 128
        else:
            part = self._drawn(row, placement)
        mask = np.zeros(placement.canvas, bool)
        mask[placement.window] = part
        return mask

    def _drawn(self, row: int, placement: Placement) -> np.ndarray:
        """(h, w) bool, polygons on the part of the canvas that is shown."""
        matrix, (height, width) = placement.edges(), placement.shown
        offset = matrix[:, 2] - placement.place[::-1]
        bounds = self.polygons[self.objects[row] : self.objects[row + 1] + 1].tolist()
        polygons = [
            (self.points[start:end].reshape(-1, 2) * matrix[[0, 1], [0, 1]] + offset).ravel().tolist()
            for start, end in pairwise(bounds)
        ]
        codes = coco_mask.frPyObjects(polygons, height, width)
        return coco_mask.decode(coco_mask.merge(codes)).astype(bool)


def _offsets(lengths: Sequence[int]) -> np.ndarray:
    """(N + 1,) where each of N stretches begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _code(stated: dict[str, Any]) -> bytes:
    """A run-length code as COCO packs it."""
    counts = stated["counts"]
    if isinstance(counts, list):
        size = [int(float(side)) for side in stated["size"]]
        runs = [int(float(run)) for run in counts]
        counts = coco_mask.frPyObjects({"size": size, "counts": runs}, *size)["counts"]
    return counts.encode() if isinstance(counts, str) else counts

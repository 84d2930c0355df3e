"""What tables of annotated images have in common: their columns, names of images and annotations, boxes that are wrong.

`PersonTable` (`table.py`) and `ObjectTable` (`detection/table.py`) are such tables: I images, N annotations with a box.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from datamodules.base import DataError
from datamodules.keypoints.columns import batch_numbers, identifiers
from datamodules.keypoints.defects import Defect, Notes, accept, short
from datamodules.loading.distributions import Distribution, Histogram, Positions, some

ROUNDED = 1.0
"""Pixels by which a box may leave the image: COCO's own are rounded."""


class Annotated:
    """A table of annotated images, to derive a frozen dataclass from that has these columns.

    Attributes:
        path: File or folder that it was read from.
        file_names: (I,) of the images.
        image_sizes: (I, 2) height, width in pixels; 0 where not known.
        image_ids: (I,) ids of the images.
        images: (N,) row of each annotation's image; -1 for none.
        boxes: (N, 4) x, y, width, height in pixels of the image.
        areas: (N,) of the annotated things themselves, in square pixels.
        crowd: (N,) bool, whether a box is of a crowd.
        ids: (N,) ids of the annotations.
        categories: Id -> name of what is annotated.
        defects: What was found wrong.
    """

    path: Path
    file_names: np.ndarray
    image_sizes: np.ndarray | None
    image_ids: Sequence[Any] | None
    images: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray | None
    crowd: np.ndarray | None
    ids: Sequence[Any] | None
    categories: Mapping[Any, str]
    defects: Sequence[Defect]

    def set_columns(self, columns: Mapping[str, tuple[Any, tuple[int, ...], Any]], of: str) -> None:
        """Make arrays of the columns that all tables have, and of {name: (type, shape, what stands for None)}.

        Raises:
            DataError: If one cannot be such an array.
        """
        count, num_images = len(self.images), len(self.file_names)
        shared = {
            "file_names": (np.str_, (num_images,), None),
            "images": (np.int64, (count,), None),
            "boxes": (np.float64, (count, 4), None),
            "image_sizes": (np.int64, (num_images, 2), 0),
            "areas": (np.float64, (count,), np.nan),
            "crowd": (np.bool_, (count,), False),
        }
        for name, (kind, shape, default) in (shared | columns).items():
            value = getattr(self, name)
            try:
                array = np.full(shape, default, kind) if value is None else np.asarray(value, kind)
            except (TypeError, ValueError) as error:
                raise DataError(f"{self.path}: `{name}` of the {of} cannot be an array: {error}.") from error
            if array.shape != shape:
                raise DataError(f"{self.path}: `{name}` of the {of} has shape {array.shape}, expected {shape}.")
            object.__setattr__(self, name, array)
        first = -1 if self.defects else 0  # a reader has noted those without an image
        if ((self.images < first) | (self.images >= num_images)).any():
            raise DataError(f"{self.path}: `images` of the {of} are rows of {num_images} images, 0 to "
                            f"{num_images - 1}; found {self.images.min()} to {self.images.max()}.")  # fmt: skip

    def set_ids(self, of: str) -> None:
        """Make lists of the ids, which count from 1 where there are none; raises DataError for too few or many."""
        for name, size in (("image_ids", len(self.file_names)), ("ids", len(self.images))):
            ids = getattr(self, name)
            ids = (
                list(range(1, size + 1)) if ids is None else ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
            )
            if len(ids) != size:
                raise DataError(f"{self.path}: {len(ids)} `{name}` of the {of}, expected {size}.")
            object.__setattr__(self, name, ids)

    def checked(self) -> Self:
        """The table with what can be put right put right, and in `defects` all that is wrong."""
        raise NotImplementedError

    def accepted(self) -> Self:
        """`checked`, without defects: warned of those that were put right; raises DataError for the first grave one."""
        table = self.checked()
        accept(table.defects)
        return replace(table, defects=())

    @cached_property
    def numbers(self) -> np.ndarray:
        """(N,) int64 what batches call the annotations: their ids, or rows where an id is text or beyond 64 bits."""
        return batch_numbers(identifiers(self.ids))

    @cached_property
    def image_numbers(self) -> np.ndarray:
        """(I,) likewise, of the images."""
        return batch_numbers(identifiers(self.image_ids))

    def label(self, row: int) -> str:
        """What the data doctor calls an annotation: id and file name."""
        image = self.images[row]
        return f"annotation {short(self.ids[row])} ({short(self.file_names[image]) if image >= 0 else 'no image'})"

    def limits(self) -> np.ndarray:
        """(N, 2) width and height of each annotation's image; nan where that is not known."""
        known = np.append(self.image_sizes, [[0, 0]], axis=0)[self.images].astype(np.float64)  # row -1: no image
        known[known < 1] = np.nan
        return known[:, ::-1]

    def size_of(self, row: int) -> str:
        """The size of an annotation's image, for messages."""
        height, width = self.image_sizes[self.images[row]].tolist()
        return f"{height} x {width} (height x width)"

    def check_boxes(self, notes: Notes, *, inside: bool = True) -> np.ndarray:
        """Note boxes that are not finite, without area, or outside of the image; (N,) bool, which are the last.

        Args:
            notes: To note them in.
            inside: Whether boxes have to be inside of their images.
        """

        def one(row: int) -> str:
            return f"bbox is {self.boxes[row].tolist()}"

        finite = np.isfinite(self.boxes).all(axis=1)
        expected = "x, y, width, height"
        notes.refuse(~finite, "malformed entry", "have a `bbox` that is not finite", expected, one)
        empty = (self.boxes[:, 2:] < 1).any(axis=1)
        notes.mention(finite & empty, "box without area", one)
        start, extent = self.boxes[:, :2], self.boxes[:, 2:]
        over = np.maximum(-start, start + extent - self.limits()).max(axis=1)
        outside = inside & finite & ~empty & (over > ROUNDED)  # not where the size is unknown, nan
        notes.mention(
            outside,
            "box outside of the image",
            lambda row: f"{one(row)}, by {over[row]:.4g} pixels outside of {self.size_of(row)}",
        )
        return outside

    def spread(self, rows: np.ndarray, noun: str) -> Iterator[Distribution]:
        """Sizes of the boxes of these rows (n,), and where they are in images whose size is known."""
        start, extent = self.boxes[rows, :2], self.boxes[rows, 2:]
        if len(rows):
            sides, label = np.sqrt(extent.prod(axis=1)), "square root of the box's area, pixels"
            yield Histogram(f"sizes of {noun}", some(len(rows), noun), sides, label, noun)
        limits = self.limits()[rows]
        known = np.isfinite(limits).all(axis=1)
        if known.any():
            points = ((start + extent / 2) / limits)[known]
            yield Positions("centres of the boxes", some(len(points), noun, len(rows)), points, noun)

    def coco_images(self) -> list[dict[str, Any]]:
        """The images of a COCO dict; one that batches call otherwise than by its id has that `number` too."""
        height, width = self.image_sizes.T.tolist()
        images = {"id": self.image_ids, "file_name": self.file_names.tolist(), "height": height, "width": width}
        return _rows(images | _numbers(self.image_ids, self.image_numbers))

    def coco_annotations(self, columns: Mapping[str, Sequence]) -> list[dict[str, Any]]:
        """The annotations of a COCO dict, with these columns beside their ids and those of their images.

        Ids are the file's, unless one is no integer above 0, as COCO's evaluation wants it: then all of them count from
        1, beside `original_id`. An annotation that batches call otherwise has that `number` too.
        """
        counted = not all(type(value) is int and value > 0 for value in self.ids)
        ids = list(range(1, len(self.ids) + 1)) if counted else self.ids
        rows = {"id": ids, "image_id": [self.image_ids[row] for row in self.images.tolist()], **columns}
        rows |= {"original_id": self.ids} if counted else {}
        return _rows(rows | _numbers(ids, self.numbers))


def _numbers(ids: Sequence[Any], numbers: np.ndarray) -> dict[str, list]:
    """The column `number`, where batches do not use the ids themselves."""
    return {} if ids == numbers.tolist() else {"number": numbers.tolist()}


def _rows(columns: Mapping[str, Sequence]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

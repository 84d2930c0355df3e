"""The objects of a split as a table of arrays, a box and a class each, and the COCO file that it is read from.

Samples, the ground truth of the evaluation and the data doctor start from the table. A file is read once; whatever is
wrong with it is noted and read over: the loader refuses the table for the first grave defect, the data doctor has all.
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.base import DataError
from datamodules.keypoints.annotations import Annotated
from datamodules.keypoints.coco_json import (
    annotation_columns,
    category_entries,
    check_segmentations,
    leave_out_unknown,
    read_coco,
    sound_rows,
)
from datamodules.keypoints.columns import MALFORMED, capped
from datamodules.keypoints.defects import Defect, Notes, listed, short
from datamodules.loading.distributions import Bars, Distribution, Histogram, some


@dataclass(frozen=True)
class ObjectTable(Annotated):
    """I images and N objects of K classes, in the order of their file. Lists do as well as arrays.

    Args:
        path: File that it was read from; this and the next three are as in every table (`Annotated`).
        file_names: Of the images.
        images: Row of each object's image.
        boxes: Of the objects.
        category_ids: (N,) ids of the objects' categories.
        categories: Id -> name, ids ascending: a category's place is its label.
        image_sizes: (I, 2) height, width in pixels; 0, or None for all, where the image file has to say it.
        areas: (N,) of the objects themselves in square pixels, by which scores are split; None takes that of the box.
        crowd: (N,) bool, whether a box is of a crowd, which is not learned; None for no crowds.
        image_ids: (I,) ids of the images, numbers or text, as they are shown and written; None counts from 1.
        ids: (N,) likewise, of the objects.
        segmentations: (N,) polygons or a run-length code each as COCO writes them, None for one without; None for all
            where they are not needed.
        defects: What was found wrong while reading.

    Raises:
        DataError: If the columns do not fit together.
    """

    path: Path
    file_names: np.ndarray
    images: np.ndarray
    boxes: np.ndarray
    category_ids: np.ndarray
    categories: Mapping[int, str]
    image_sizes: np.ndarray | None = None
    areas: np.ndarray | None = None
    crowd: np.ndarray | None = None
    image_ids: Sequence[Any] | None = None
    ids: Sequence[Any] | None = None
    segmentations: Sequence[Any] | None = field(default=None, repr=False)
    defects: Sequence[Defect] = ()

    def __post_init__(self) -> None:
        self.set_columns({"category_ids": (np.int64, (len(self.images),), None)}, "objects")
        self.set_ids("objects")

    @cached_property
    def labels(self) -> np.ndarray:
        """(N,) int64 place of each object's category among all of them."""
        places = {key: label for label, key in enumerate(self.categories)}
        return np.array([places[key] for key in self.category_ids.tolist()], np.int64)

    @property
    def counts(self) -> Counter:
        """Name -> objects of each category."""
        counts = Counter(dict.fromkeys(self.categories.values(), 0))
        counts.update(self.categories[key] for key in self.category_ids.tolist())
        return counts

    def edges(self) -> np.ndarray:
        """(N, 4) boxes x1, y1, x2, y2, clipped to their images."""
        limits = np.where(np.isnan(self.limits()), np.inf, self.limits())
        start = np.clip(self.boxes[:, :2], 0, limits)
        return np.column_stack([start, np.clip(self.boxes[:, :2] + self.boxes[:, 2:], start, limits)])

    def learned(self) -> np.ndarray:
        """(n,) rows to learn from, those of an image together: no crowds, at least a pixel wide and high in the image.

        Warns of those that are left out for the latter.
        """
        sides = self.edges()[:, 2:] - self.edges()[:, :2]
        rows = np.flatnonzero(~self.crowd & (sides >= 1).all(axis=1))
        without = [self.ids[row] for row in np.flatnonzero(~self.crowd & (sides < 1).any(axis=1))]
        if without:
            rank_zero_warn(f"{self.path}: skipped {listed(without)} whose box is less than a pixel wide or high inside "
                           "the image.")  # fmt: skip
        return rows[np.argsort(self.images[rows], kind="stable")]

    def distributions(self, rows: np.ndarray, images: np.ndarray) -> Iterator[Distribution]:
        """Classes, sizes and positions of the objects of these rows (n,), and how many of them each image (m,) has."""
        noun, names = "objects", list(self.categories.values())
        found = np.bincount(self.labels[rows], minlength=len(names)).tolist()
        yield Bars("objects of each class", some(len(rows), noun), names, found, noun)
        yield from self.spread(rows, noun)
        many = np.bincount(self.images[rows], minlength=len(self.file_names))[images]
        if len(images):
            yield Histogram("objects on an image", some(len(images), "images"), many, noun, "images")

    def require_objects(self) -> None:
        """Raise DataError where nothing can be learned."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if len(self.learned()):
                return
        raise DataError(
            f"{self.path} has no usable object: of {len(self.ids)} annotations {int(self.crowd.sum())} are crowds, and "
            "the others have no box with area inside their image. Expected at least one with the `bbox` x, y, width, "
            "height in pixels."
        )

    def to_coco(self) -> dict[str, list]:
        """A COCO ground-truth dict for the metric, crowds included; categories in the order of the labels.

        Ids are as `coco_annotations` says. Objects without a width or a height, which nothing can meet, are left out.
        """
        rows = np.flatnonzero((self.boxes[:, 2:] > 0).all(axis=1))
        columns: dict[str, Sequence] = {
            "category_id": self.category_ids.tolist(),
            "bbox": self.boxes.tolist(),
            "area": self.areas.tolist(),
            "iscrowd": self.crowd.astype(int).tolist(),
        }
        annotations = self.coco_annotations(columns)
        for row, segmentation in enumerate(self.segmentations or ()):
            if segmentation:
                annotations[row]["segmentation"] = segmentation
        return {
            "images": self.coco_images(),
            "annotations": [annotations[row] for row in rows],
            "categories": [{"id": key, "name": name} for key, name in self.categories.items()],
        }

    # ---- what may be wrong with it

    def checked(self) -> "ObjectTable":
        """The table with what can be put right put right, and in `defects` all that is wrong."""
        notes = Notes(self.path, "annotation", self.ids, self.label, list(self.defects))
        with np.errstate(invalid="ignore", over="ignore"):  # numbers that are not finite are among the defects
            outside = self.check_boxes(notes)
            self._find_corners(notes, outside)
            areas = self._checked_areas(notes)
        return replace(self, areas=areas, defects=notes.defects)

    def _find_corners(self, notes: Notes, outside: np.ndarray) -> None:
        """Find boxes that are no x, y, width, height: most of them leave their images."""
        rows = np.flatnonzero(outside & ~self.crowd)
        if 2 * len(rows) <= np.count_nonzero(~self.crowd):
            return
        first = rows[0]
        said = (
            f"leave their images, the first with bbox {self.boxes[first].tolist()} in one of {self.size_of(first)}; "
            "expected x, y, width, height in pixels of the image (not two corners, and not of an image of another size)"
        )
        sentence = f"{self.path}: {listed([self.ids[row] for row in rows])} of {len(self.ids)} {said}."
        found = [(f"{self.label(first)} and others", f"{len(rows)} annotations {said}")]
        notes.defects.append(Defect("boxes beside their images", sentence, lambda: found, grave=True))

    def _checked_areas(self, notes: Notes) -> np.ndarray:
        """(N,) above 0 wherever the box is."""
        kind, areas = "area absent or not positive", capped(self.areas)
        boxes = self.boxes[:, 2] * self.boxes[:, 3]

        def one(row: int) -> str:
            return "has no area" if np.isnan(self.areas[row]) else f"area is {self.areas[row]:g}"

        notes.refuse(np.isinf(areas), kind, "have an `area` that is not finite", "square pixels", one)
        absent = ~(areas > 0) & (boxes > 0)  # exporters write 0 for what they do not know
        notes.warn(absent, kind, "have no `area` above 0, by which scores are split; the box's area is taken.", one)
        return np.where(areas > 0, areas, boxes)


def read_objects(path: Path, *, segmentations: bool = True, masks: bool = False) -> ObjectTable:
    """The objects of a COCO file; defects are in the table.

    Args:
        path: Of the file.
        segmentations: Whether these are wanted; they are most of a file.
        masks: Whether masks are made of them, so that a wrong one is grave; else it is left out.

    Raises:
        DataError: If the file is no COCO JSON.
    """
    file = read_coco(path)
    named = _categories(path, file.categories, file.defects)
    everything = file.entries(file.annotations)
    of = everything.ids("category_id", optional=True)
    leave_out_unknown(everything, of, named)
    chosen = [(key, entry) for key, entry in zip(of, file.annotations, strict=True) if key in named]
    entries = file.entries([entry for _, entry in chosen])
    columns = annotation_columns(entries, file.image_ids)
    columns["category_ids"] = np.array([key for key, _ in chosen], np.int64)
    segments: list[Any] | None = None
    if segmentations:
        wrong = check_segmentations(entries, file.sizes_by_id, needed=masks)
        segments = [
            None if bad else entry.get("segmentation") for bad, entry in zip(wrong, entries.entries, strict=True)
        ]
        segments = [segment for ok, segment in zip(entries.sound.tolist(), segments, strict=True) if ok]
    return ObjectTable(
        path=path,
        **file.of_images,
        **sound_rows(entries, columns),
        categories=named,
        segmentations=segments,
        defects=file.defects,
    )


def _categories(path: Path, categories: list[dict], defects: list[Defect]) -> dict[int, str]:
    """Names of the categories by id, ids ascending."""
    entries = category_entries(path, categories, defects)
    ids = entries.ids("id")
    entries.refuse_repeats(ids)
    whole = np.array([key is None or (isinstance(key, int) and -(2**63) <= key < 2**63) for key in ids], bool)
    expected = "whole numbers of up to 64 bits, as results are written with them"
    entries.notes.refuse(~whole, MALFORMED, "have ids that are no such numbers", expected, entries.said("id"))
    names = [category.get("name") for category in categories]
    named = np.array([isinstance(name, str) and bool(name.strip()) for name in names], bool)
    entries.notes.refuse(~named, MALFORMED, "have no `name`", "the name of the class", entries.said("name"))
    known = {
        key: short(name) for key, name, ok in zip(ids, names, whole.tolist(), strict=True) if ok and key is not None
    }
    counts = Counter(known.values())
    twice = np.array([counts[short(name)] > 1 for name in names], bool) & named
    found = "have the name of another one"
    entries.notes.refuse(twice, "repeated name", found, "a name for each class", entries.said("name"))
    return dict(sorted(known.items()))

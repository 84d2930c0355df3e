"""Reads the objects of a COCO file (Lin et al. 2014), once: they become a table of objects.

Whatever is wrong is noted and read over: the loader refuses the table for the first grave defect, the data doctor lists
them all.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.detection.table import ObjectTable
from datamodules.keypoints.coco_json import (
    annotation_columns,
    annotation_entries,
    category_entries,
    check_segmentations,
    images_of,
    leave_out_unknown,
    lists_of,
    sound_rows,
)
from datamodules.keypoints.columns import MALFORMED, read_json
from datamodules.keypoints.defects import Defect, short


def read_objects(path: Path, *, segmentations: bool = True, masks: bool = False) -> ObjectTable:
    """The objects of a COCO file; defects are in the table.

    Args:
        path: Of the file.
        segmentations: Whether these are wanted; they are most of a file.
        masks: Whether masks are made of them, so that a wrong one is grave; else it is left out.

    Raises:
        DataError: If the file is no COCO JSON.
    """
    content, defects = read_json(path), []
    images, annotations, categories = lists_of(path, content, defects)
    images, image_ids, file_names, sizes = images_of(path, images, defects)
    named = _categories(path, categories, defects)
    names_of = dict(zip(image_ids, file_names, strict=True))
    everything = annotation_entries(path, annotations, names_of, defects)
    of = everything.ids("category_id", optional=True)
    leave_out_unknown(everything, of, named)
    chosen = [(key, entry) for key, entry in zip(of, annotations, strict=True) if key in named]
    entries = annotation_entries(path, [entry for _, entry in chosen], names_of, defects)
    columns = annotation_columns(entries, image_ids) | {"category_ids": np.array([key for key, _ in chosen], np.int64)}
    segments: list[Any] | None = None
    if segmentations:
        stated = dict(zip(image_ids, map(tuple, sizes.tolist()), strict=True))
        wrong = check_segmentations(entries, stated, needed=masks)
        segments = [
            None if bad else entry.get("segmentation") for bad, entry in zip(wrong, entries.entries, strict=True)
        ]
        segments = [segment for ok, segment in zip(entries.sound.tolist(), segments, strict=True) if ok]
    return ObjectTable(
        path=path,
        file_names=file_names,
        image_sizes=sizes,
        image_ids=[image.get("id") for image in images],
        **sound_rows(entries, columns),
        categories=named,
        segmentations=segments,
        defects=defects,
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

"""Reads the annotations of a COCO key-point file (Lin et al. 2014), once: they become a table of persons.

Whatever is wrong is noted and read over: the loader refuses the table for the first grave defect, the data doctor lists
them all.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.keypoints.coco_json import (
    annotation_columns,
    category_entries,
    check_segmentations,
    leave_out_unknown,
    read_coco,
    sound_rows,
)
from datamodules.keypoints.columns import MALFORMED, Entries, Id, identifier
from datamodules.keypoints.defects import Defect, quoted, short
from datamodules.keypoints.table import PersonTable
from datamodules.skeleton import Skeleton


def read_annotations(path: Path, skeleton: Skeleton, *, thorough: bool = False) -> PersonTable:
    """The persons of a COCO key-point file: annotations of the categories with key points; defects are in the table.

    Args:
        path: Of the file.
        skeleton: Of its key points.
        thorough: Look also for what does no harm here: annotations of other categories, segmentations.

    Raises:
        DataError: If the file is no COCO JSON.
    """
    file = read_coco(path)
    everything = file.entries(file.annotations)
    named, chosen = _categories(path, everything, file.categories, skeleton, file.defects)
    of = everything.ids("category_id", optional=True)
    leave_out_unknown(everything, of, {*chosen, *named})
    persons = file.entries([entry for key, entry in zip(of, file.annotations, strict=True) if key in chosen])
    counts = Counter(dict.fromkeys(named.values(), 0))
    counts.update(named[key] for key in of if key in named)
    table = PersonTable(
        path=path,
        **file.of_images,
        **_columns(persons, skeleton, file.image_ids),
        categories=named,
        category_ids=frozenset(chosen),
        counts=counts,
        defects=file.defects,
    )
    if thorough:
        found: list[Defect] = []
        others = file.entries([e for key, e in zip(of, file.annotations, strict=True) if key not in chosen], found)
        columns = _columns(others, skeleton, file.image_ids)
        rest = PersonTable(path, file.file_names, image_sizes=file.image_sizes, **columns, defects=found)
        file.defects.extend(rest.checked().defects)
        check_segmentations(everything, file.sizes_by_id)
    return table


def _categories(
    path: Path, annotations: Entries, categories: list[dict], skeleton: Skeleton, defects: list[Defect]
) -> tuple[dict[Id | None, str], set[Id | None]]:
    """Names of all categories by id, and the ids of those with key points.

    Where none states key points, it is those that are annotated with some.
    """
    entries = category_entries(path, categories, defects)
    ids = entries.ids("id", optional=True)
    entries.notes.mention(np.array([key is None for key in ids], bool) & entries.sound, MALFORMED, entries.said("id"))
    counts = Counter(ids)
    twice = np.array([counts[key] > 1 for key in ids], bool)
    entries.notes.mention(twice, "repeated id", lambda row: f"{counts[ids[row]]} categories have this id")
    stated = [category.get("keypoints") or [] for category in categories]
    lists = np.array([isinstance(names, list) for names in stated], bool)
    first = short(next((names for names in stated if not isinstance(names, list)), ""))
    found = f"has the `keypoints` {first}"
    entries.notes.refuse(~lists, MALFORMED, found, "a list of their names", entries.said("keypoints"))
    _compare_names(entries, skeleton, path, defects)
    chosen = {key for key, names, right in zip(ids, stated, lists.tolist(), strict=True) if right and names}
    if not chosen:
        # A file without labels (COCO's test-dev) has none of either: there, detections of COCO's person count.
        with_points = [entry for entry in annotations.entries if entry.get("keypoints")]
        chosen = {identifier(entry.get("category_id")) for entry in with_points} or {1}
    return {key: short(entry.get("name", "")) for key, entry in zip(ids, categories, strict=True)}, chosen


def _compare_names(categories: Entries, skeleton: Skeleton, path: Path, defects: list[Defect]) -> None:
    """Note the categories whose key points have other names than the skeleton's."""
    for row, category in enumerate(categories.entries):
        theirs, ours = category.get("keypoints") or [], skeleton.names
        if not isinstance(theirs, list):
            continue
        pairs = [(a, b) for a, b in zip(theirs, ours, strict=False) if _plain(a) != _plain(b)]
        if not theirs or (not pairs and len(theirs) == len(ours)):
            continue
        found = f"{len(theirs)} key points, the skeleton has {len(ours)}"
        if len(theirs) == len(ours):
            found = f"key point {quoted(pairs[0][0])} where the skeleton has {pairs[0][1]!r}"
        their, our = (*pairs, ("", ""))[0]
        sentence = (
            f"{path} has a key point `{short(their)}` where the skeleton has `{our}`: unless these mean the same, "
            "mirroring swaps the wrong ones, so give `skeleton` a YAML file with the names of the data."
        )
        first = not any(defect.kind == "categories disagree" for defect in defects)
        grave = False if pairs and first else None
        item = categories.notes.label(row)
        defects.append(Defect("categories disagree", sentence, lambda item=item, found=found: [(item, found)], grave))


def _plain(name: Any) -> str:
    """A key point's name without what spelling varies in."""
    return short(name).lower().replace(" ", "_").replace("-", "_")


def _columns(entries: Entries, skeleton: Skeleton, image_ids: Sequence[Id | None]) -> dict[str, Any]:
    """What a table of persons has of annotations, without those of the wrong types."""
    columns, k = annotation_columns(entries, image_ids), skeleton.num_keypoints
    expected = (
        f"{3 * k}, that is x, y, visibility for each of the skeleton's {k} key points: set `skeleton` (coco, mpii or "
        "the path of a YAML file) to the one of this file, and the task's num_keypoints to its count"
    )
    points = entries.table("keypoints", 3 * k, "wrong number of key points", expected).reshape(-1, k, 3)
    columns |= {
        "keypoints": points[..., :2],
        "visible": points[..., 2],
        "num_labelled": entries.column("num_keypoints"),
    }
    return sound_rows(entries, columns)

"""Reads the annotations of a COCO key-point file (Lin et al. 2014), once: they become a table of persons.

Whatever is wrong is noted and read over: the loader refuses the table for the first grave defect, the data doctor lists
them all.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.base import DataError
from datamodules.images.names import is_file_name
from datamodules.keypoints.columns import MALFORMED, Entries, Id, identifier, numbers, read_json
from datamodules.keypoints.defects import Defect, listed, quoted, short
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
    content, defects = read_json(path), []
    images, annotations, categories = _lists(path, content, defects)
    images, image_ids, file_names, sizes = _images(path, images, defects)
    names_of = dict(zip(image_ids, file_names, strict=True))

    def entries_of(chosen: list[dict], found: list[Defect]) -> Entries:
        def label(row: int) -> str:
            image = chosen[row].get("image_id")
            name = names_of.get(identifier(image)) or f"image {short(image)}"
            return f"annotation {short(chosen[row].get('id'))} ({short(name)})"

        return Entries(path, chosen, "annotation", label, found)

    everything = entries_of(annotations, defects)
    named, chosen = _categories(path, everything, categories, skeleton, defects)
    of = everything.ids("category_id", optional=True)
    unknown = np.array([key not in chosen and key not in named for key in of], bool)
    left_out = "name a category that `categories` lacks; left out."
    everything.notes.warn(unknown, "unknown category", left_out, everything.said("category_id"))
    persons = entries_of([entry for key, entry in zip(of, annotations, strict=True) if key in chosen], defects)
    counts = Counter(dict.fromkeys(named.values(), 0))
    counts.update(named[key] for key in of if key in named)
    table = PersonTable(
        path=path,
        file_names=file_names,
        image_sizes=sizes,
        image_ids=[image.get("id") for image in images],
        **_columns(persons, skeleton, image_ids),
        categories=named,
        category_ids=frozenset(chosen),
        counts=counts,
        defects=defects,
    )
    if thorough:
        found: list[Defect] = []
        others = entries_of([e for key, e in zip(of, annotations, strict=True) if key not in chosen], found)
        columns = _columns(others, skeleton, image_ids)
        rest = PersonTable(path, file_names, image_sizes=sizes, **columns, defects=found)
        defects += rest.checked().defects
        _check_segmentations(everything, dict(zip(image_ids, map(tuple, sizes.tolist()), strict=True)))
    return table


def _lists(path: Path, content: Any, defects: list[Defect]) -> list[list[dict]]:
    """The objects of `images`, `annotations`, `categories`."""
    parts = content if isinstance(content, dict) else {}
    keys = ("images", "annotations", "categories")
    lists = [parts.get(key) or [] for key in keys]
    found = f"an object with {sorted(map(short, parts))[:5]}" if parts else f"a {type(content).__name__}"
    sentence = f"{path} is not COCO JSON: found {found}, expected lists `images`, `annotations`, `categories`."
    if not lists[0] or not all(isinstance(part, list) for part in lists):
        raise DataError(sentence)
    odd = [(key, entry) for key, part in zip(keys, lists, strict=True) for entry in part if not isinstance(entry, dict)]
    if odd:
        found = [(path.name, f"one of `{key}` is {short(entry)}, expected an object") for key, entry in odd]
        defects.append(Defect(MALFORMED, sentence, lambda: found, grave=True))
    return [[entry for entry in part if isinstance(entry, dict)] for part in lists]


def _images(
    path: Path, images: list[dict], defects: list[Defect]
) -> tuple[list[dict], list[Id | None], list[str], np.ndarray]:
    """The I images but those that repeat an id, (I,) ids, (I,) file names, "" for none, (I, 2) sizes, 0 for none."""
    required = ("id", "file_name", "height", "width")
    poor = [image.get("id") for image in images if not all(key in image for key in required)]
    if poor:  # of which each column says what is absent
        sentence = f"{path}: {listed(poor, 'image')} of {len(images)} lack one of {', '.join(required)}: add them " \
            "(boxes are clipped to the image)."  # fmt: skip
        defects.append(Defect(MALFORMED, sentence, lambda: (), grave=True))
    names = [image.get("file_name") for image in images]

    def label(row: int) -> str:
        return f"image {short(images[row].get('id'))} ({short(names[row])})"

    entries = Entries(path, images, "image", label, defects)
    ids = entries.ids("id")
    again = entries.refuse_repeats(ids)
    sizes = np.stack([entries.column(key) for key in ("height", "width")], axis=1)
    known = (np.isfinite(sizes) & (sizes >= 1)).all(axis=1)
    entries.notes.refuse(
        ~known,
        MALFORMED,
        "have a height or width below 1",
        "pixels",
        lambda row: f"{entries.said('height')(row)}, {entries.said('width')(row)}, expected pixels",
    )
    right = np.array([is_file_name(name) for name in names], bool)
    said = entries.said("file_name")
    entries.notes.refuse(~right, MALFORMED, "have no `file_name`", "the name of a file", said)
    file_names = [name if ok else "" for name, ok in zip(names, right.tolist(), strict=True)]
    counts = Counter(name for name, repeated in zip(file_names, again.tolist(), strict=True) if name and not repeated)
    twice = np.array([counts[name] > 1 for name in file_names], bool) & ~again
    entries.notes.mention(twice, "repeated file name", lambda row: f"{counts[names[row]]} entries have this file")
    rows = np.flatnonzero(~again).tolist()
    lists = ([values[row] for row in rows] for values in (images, ids, file_names))
    return *lists, np.where(known[:, None], sizes, 0).astype(np.int64)[rows]


def _categories(
    path: Path, annotations: Entries, categories: list[dict], skeleton: Skeleton, defects: list[Defect]
) -> tuple[dict[Id | None, str], set[Id | None]]:
    """Names of all categories by id, and the ids of those with key points.

    Where none states key points, it is those that are annotated with some.
    """

    def label(row: int) -> str:
        entry = categories[row]
        return f"category {short(entry.get('id'))} ({short(entry.get('name'))}) in {path.name}"

    entries = Entries(path, categories, "category", label, defects)
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
    ids = entries.ids("id")
    entries.refuse_repeats(ids)
    rows, unknown = _rows_of(entries.ids("image_id", optional=True), image_ids)
    entries.notes.refuse(
        unknown & entries.sound,
        "unknown image",
        "name an image_id that `images` does not have",
        "the id of an image of this file",
        lambda row: f"{entries.said('image_id')(row)}, which is not in `images`",
    )
    k = skeleton.num_keypoints
    expected = (
        f"{3 * k}, that is x, y, visibility for each of the skeleton's {k} key points: set `skeleton` (coco, mpii or "
        "the path of a YAML file) to the one of this file, and the task's num_keypoints to its count"
    )
    points = entries.table("keypoints", 3 * k, "wrong number of key points", expected).reshape(-1, k, 3)
    boxes = entries.table("bbox", 4)
    crowd = np.nan_to_num(entries.column("iscrowd"))
    found = "have another `iscrowd`"
    entries.notes.refuse(~np.isin(crowd, (0, 1)), MALFORMED, found, "0 or 1", entries.said("iscrowd"))
    areas, counts = entries.column("area"), entries.column("num_keypoints")
    columns = {
        "images": rows,
        "boxes": boxes,
        "keypoints": points[..., :2],
        "visible": points[..., 2],
        "areas": areas,
        "crowd": crowd == 1,
        "num_labelled": counts,
    }
    if not entries.sound.all():
        columns = {name: column[entries.sound] for name, column in columns.items()}
    return columns | {"ids": [entries.names[row] for row in np.flatnonzero(entries.sound)]}


def _rows_of(wanted: Sequence[Id | None], known: Sequence[Id | None]) -> tuple[np.ndarray, np.ndarray]:
    """For each of `wanted` its row in `known`, and whether it is absent there."""
    places = {key: row for row, key in enumerate(known) if key is not None}
    rows = np.array([places.get(key, -1) for key in wanted], np.int64)
    return rows, rows < 0


def _check_segmentations(entries: Entries, sizes: Mapping[Id | None, tuple[int, int]]) -> None:
    """Note polygons of fewer than three points, and run-length codes of another size than the image's."""
    found = [_of_segmentation(entry, sizes.get(identifier(entry.get("image_id")))) for entry in entries.entries]
    entries.notes.mention(np.array([text != "" for text in found], bool), "wrong segmentation", found.__getitem__)


def _of_segmentation(entry: dict, size: tuple[int, int] | None) -> str:
    """What is wrong with the segmentation of an annotation in an image of (height, width); empty for nothing."""
    stated = entry.get("segmentation")
    if not stated:
        return ""
    if isinstance(stated, dict):
        own = numbers(stated.get("size"), 2)
        if own is None or "counts" not in stated:
            return f"segmentation is {quoted(stated)}, expected size and counts"
        if size is not None and min(size) > 0 and tuple(own) != size:
            return f"the run-length code is of size {stated['size']}, the image has {list(size)} (height, width)"
        return ""
    polygons = stated if isinstance(stated, list) else []
    bad = [p for p in polygons if not isinstance(p, list) or len(p) < 6 or len(p) % 2 or numbers(p, len(p)) is None]
    if bad or not polygons:
        return f"has a polygon {quoted(bad[0] if bad else stated)}, expected x, y of 3 points or more"
    return ""

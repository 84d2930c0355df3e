"""A detector's boxes for top-down evaluation, from a file in COCO's results format (HRNet paper, section 4.1)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.base import DataError
from datamodules.keypoints.columns import MALFORMED, Entries, Id, identifiers, read_json
from datamodules.keypoints.defects import Defect, accept, short
from datamodules.keypoints.table import PERSONS, PersonTable

SAME_PERSON = 0.3  # intersection over union of a detected box with an annotated one
FEW_PERSONS, FEW_MET = 10, 0.1  # of at least so many persons, the share that detections of the same images never miss


@dataclass(frozen=True)
class Detections:
    """N boxes of a detector.

    Args:
        path: Of the file.
        rows: (N,) position in the file.
        images: (N,) row of the image.
        boxes: (N, 4) x, y, width, height.
        scores: (N,).
        image_ids: (N,) as the file has them.
        found: Boxes of any category in the file.
        defects: What is wrong with the file.
    """

    path: Path
    rows: np.ndarray
    images: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    image_ids: Sequence[Any]
    found: int
    defects: Sequence[Defect]


@dataclass(frozen=True)
class FoundBoxes:
    """N boxes that a network has just found on the images of a split, see `KeypointData.evaluated_on`.

    Args:
        image_ids: (N,) as the files have them.
        boxes: (N, 4) x, y, width, height in pixels.
        scores: (N,).
    """

    image_ids: Sequence[Any]
    boxes: np.ndarray
    scores: np.ndarray

    def rows_of(self, persons: PersonTable) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image rows, boxes and scores of those that have an area and whose image there is, an image's together."""
        known = {key: row for row, key in enumerate(identifiers(persons.image_ids))}
        images = np.array([known.get(key, -1) for key in identifiers(self.image_ids)], np.int64)
        keep = np.flatnonzero((images >= 0) & ~_empty(self.boxes))
        keep = keep[np.argsort(images[keep], kind="stable")]
        return images[keep], self.boxes[keep], self.scores[keep]


def person_labels(class_names: Sequence[str]) -> list[int]:
    """The classes of a detector whose boxes are to be posed: persons by their name, or the only class that it has.

    Raises:
        DataError: If there is none.
    """
    labels = [label for label, name in enumerate(class_names) if name.lower() in PERSONS]
    if not labels and len(class_names) != 1:
        raise DataError(
            f"The detector's classes are {', '.join(class_names)}: none is a person ({', '.join(sorted(PERSONS))}), "
            "and there is more than one, so that it is not known whose boxes to pose."
        )
    return labels or [0]


def read_detections(path: Path, persons: PersonTable | None, threshold: float = 0.0) -> Detections:
    """Boxes with a score of at least `threshold` and an area, of the categories with key points; see `detections_in`.

    Raises:
        DataError: no such list, numbers missing or not finite, scores beyond 0 to 1, images that the split does not
            have, or no box left.
    """
    all_of = detections_in(path, persons)
    accept(all_of.defects)
    scoring = all_of.scores >= threshold
    keep = np.flatnonzero(scoring & ~_empty(all_of.boxes))
    if not len(keep):
        ids = [1] if persons is None else sorted(persons.category_ids, key=str)[:5]
        raise DataError(
            f"{path}: no box is left of {all_of.found}, with {len(all_of.rows)} in categories with key points and "
            f"{int(scoring.sum())} of them scoring at least {threshold}: lower detection_threshold, or use the "
            f"category ids {ids} of {'COCO' if persons is None else persons.path}."
        )
    keep = keep[np.argsort(all_of.images[keep], kind="stable")]
    if persons is not None:
        _require_boxes_on_persons(path, persons, all_of.images[keep], all_of.boxes[keep])
    image_ids = [all_of.image_ids[row] for row in keep.tolist()]
    columns = (column[keep] for column in (all_of.rows, all_of.images, all_of.boxes, all_of.scores))
    return Detections(path, *columns, image_ids, all_of.found, ())


def detections_in(path: Path, persons: PersonTable | None) -> Detections:
    """All boxes of the categories with key points, in COCO's results format: image_id, category_id, bbox, score.

    Without persons the category is 1, COCO's person, and the rows of the images count the ids in order of appearance.

    Raises:
        DataError: If the file is no list in JSON.
    """
    content, defects = read_json(path), []
    sentence = f"{path} is no detections file: expected a list of objects image_id, category_id, bbox, score."
    if not isinstance(content, list):
        raise DataError(sentence)
    places = [row for row, entry in enumerate(content) if isinstance(entry, dict)]
    odd = [
        (f"detection {row} of {path.name}", f"is {short(entry)}, expected an object")
        for row, entry in enumerate(content)
        if not isinstance(entry, dict)
    ]
    if odd:
        defects.append(Defect(MALFORMED, sentence, lambda: odd, grave=True))

    def entries_at(places: list[int], entries: Iterable[dict]) -> Entries:
        return Entries(
            path, list(entries), "detection", lambda row: f"detection {places[row]} of {path.name}", defects, places
        )

    categories = frozenset({1}) if persons is None else persons.category_ids
    of = entries_at(places, ({"category_id": 1} | content[row] for row in places)).ids("category_id", optional=True)
    places = [row for row, category in zip(places, of, strict=True) if category in categories]
    entries = entries_at(places, (content[row] for row in places))
    boxes, scores = entries.table("bbox", 4), entries.column("score")
    broken = entries.sound & (~np.isfinite(boxes).all(axis=1) | ~np.isfinite(scores))
    found, expected = "have a `bbox` or `score` that is not finite", "x, y, width, height and a score"

    def one(row: int) -> str:
        return f"{entries.said('bbox')(row)}, {entries.said('score')(row)}, expected 4 numbers and one"

    entries.notes.refuse(broken, MALFORMED, found, expected, one)
    beyond = entries.sound & ~broken & ((scores < 0) | (scores > 1))
    found, expected = "have a `score` beyond 0 to 1", "how sure the detector is, from 0 to 1"
    entries.notes.refuse(beyond, MALFORMED, found, expected, entries.said("score"))
    ids = entries.ids("image_id", optional=persons is not None)
    known: Sequence[Id | None] = list(dict.fromkeys(ids)) if persons is None else identifiers(persons.image_ids)
    rows = {key: row for row, key in reversed(list(enumerate(known)))}
    images = np.array([rows.get(key, -1) for key in ids], np.int64)
    source = "this split" if persons is None else persons.path
    entries.notes.refuse(
        images < 0,
        "unknown image",
        f"name images that {source} does not have",
        "the detections of this very split",
        lambda row: f"{entries.said('image_id')(row)}, which is not in {source}",
    )
    empty = entries.sound & _empty(boxes)
    entries.notes.warn(empty, "box without area", "have a box without area; skipped.", entries.said("bbox"))
    image_ids = [content[row].get("image_id") for row in places]
    return Detections(path, np.array(places, np.int64), images, boxes, scores, image_ids, len(content), defects)


def _empty(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] <= 0).any(axis=1)


def _require_boxes_on_persons(path: Path, table: PersonTable, images: np.ndarray, boxes: np.ndarray) -> None:
    """Refuse boxes of other pictures, which sets that number their images from 1 do not tell by an unknown id."""
    if np.count_nonzero(table.visible.any(axis=1) & ~table.crowd) < FEW_PERSONS:
        return  # such as the files of test sets, which have none
    usable = table.usable()
    persons, rows = table.clean_boxes()[usable], table.images[usable]
    first, last = np.searchsorted(images, rows, side="left"), np.searchsorted(images, rows, side="right")
    person = np.repeat(np.arange(len(persons)), last - first)
    found = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)] or [np.empty(0, int)])
    met = np.unique(person[_overlap(persons[person], boxes[found]) > SAME_PERSON])
    if len(persons) >= FEW_PERSONS and len(met) < FEW_MET * len(persons):
        raise DataError(
            f"{path}: of {len(persons)} annotated {table.noun}s only {len(met)} have a detected box on them. Are "
            "these detections of other images with the same ids, or boxes that are not x, y, width, height in pixels? "
            f"Give the detections of the images of {table.path}."
        )


def _overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N,) intersection over union of pairs of boxes, each (N, 4) x, y, width, height."""
    start, end = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    common = np.clip(end - start, 0, None).prod(axis=1)
    return common / np.maximum(a[:, 2:].prod(axis=1) + b[:, 2:].prod(axis=1) - common, 1e-9)

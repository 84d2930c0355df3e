"""Reads COCO key-point files and detection files, and checks them once at start-up, before the first epoch is spent.

Errors (DataError) say what only the user can put right, warnings (one line) what was put right here; both name the
file, how many annotations and the first few ids. Used by `coco_pose.py`; the format is COCO's (Lin et al. 2014).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.base import DataError
from datamodules.coco_annotations import CocoAnnotations, listed
from datamodules.skeleton import Skeleton

SEGMENT_SHARE = 0.53
"""Mean share of a COCO person's box that the segment covers: stands in where a file states no area."""

SAME_PERSON = 0.3  # intersection over union of a detected box with an annotated one
FEW_PERSONS, FEW_MET = 10, 0.1  # of at least so many persons, the share that detections of the same images never miss


@dataclass(frozen=True)
class CocoDetections:
    """N boxes of a detector that lie in the split."""

    rows: np.ndarray  # (N,) position in the file
    images: np.ndarray  # (N,) row of the image
    boxes: np.ndarray  # (N, 4) x, y, width, height
    scores: np.ndarray  # (N,)
    image_ids: np.ndarray  # (N,)


def read_annotations(path: Path, skeleton: Skeleton) -> CocoAnnotations:
    """Read and check a COCO key-point file; raises DataError for the first mistake that cannot be put right."""
    content = _read_json(path)
    parts = content if isinstance(content, dict) else {}
    images, annotations, categories = (parts.get(key) or [] for key in ("images", "annotations", "categories"))
    if not images or not all(_is_list_of_dicts(part) for part in (images, annotations, categories)):
        found = f"an object with {sorted(parts)[:5]}" if parts else f"a {type(content).__name__}"
        raise DataError(
            f"{path} is not COCO JSON: found {found}, expected lists `images`, `annotations`, `categories`."
        )
    image_ids, file_names, sizes = _images(path, images)
    chosen = _categories(annotations, categories)
    entries = _Entries(path, [entry for entry in annotations if entry.get("category_id") in chosen], "annotation")
    entries.refuse(_repeats(entries.ids), "repeat the id of another one", "a different id for each")
    rows, unknown = _rows_of(entries.column("image_id", np.int64), image_ids)
    entries.refuse(unknown, "name an image_id that `images` does not have", "the id of an image of this file")
    keypoints, visible = _keypoints(entries, skeleton, sizes[rows])
    boxes = entries.table("bbox", 4)
    entries.refuse(~np.isfinite(boxes).all(axis=1), "have a `bbox` that is not finite", "x, y, width, height")
    _warn_of_names(path, categories, skeleton)
    return CocoAnnotations(
        path=path,
        image_ids=image_ids,
        file_names=file_names,
        image_sizes=sizes,
        category_ids=frozenset(chosen),
        ids=entries.ids,
        images=rows,
        boxes=boxes,
        keypoints=keypoints,
        visible=visible,
        num_labelled=_num_labelled(entries, visible),
        areas=_areas(entries, boxes),
        crowd=entries.column("iscrowd", np.int64, 0) == 1,
    )


def read_detections(path: Path, annotations: CocoAnnotations | None, threshold: float = 0.0) -> CocoDetections:
    """Read the boxes of a detector in COCO's results format: a list of image_id, category_id, bbox, score.

    Kept are boxes of the categories with key points, with a score of at least `threshold` and with an area. Without
    annotations the category is 1, COCO's person, and the rows of the images count the ids that occur, in order.

    Raises:
        DataError: no such list, numbers missing or not finite, images that the split does not have, or no box left.
    """
    content = _read_json(path)
    if not _is_list_of_dicts(content):
        raise DataError(f"{path} is no detections file: expected a list of objects image_id, category_id, bbox, score.")
    categories = frozenset({1}) if annotations is None else annotations.category_ids
    rows = [row for row, entry in enumerate(content) if entry.get("category_id", 1) in categories]
    entries = _Entries(path, [content[row] for row in rows], "detection", np.array(rows, np.int64))
    boxes, scores = entries.table("bbox", 4), entries.column("score", np.float64)
    broken = ~np.isfinite(boxes).all(axis=1) | ~np.isfinite(scores)
    entries.refuse(broken, "have a `bbox` or `score` that is not finite", "x, y, width, height and a score")
    image_ids = entries.column("image_id", np.int64)
    if annotations is None:
        images = np.unique(image_ids, return_inverse=True)[1]
    else:
        images, unknown = _rows_of(image_ids, annotations.image_ids)
        wanted = "the detections of this very split"
        entries.refuse(unknown, f"name images that {annotations.path} does not have", wanted)
    empty = (boxes[:, 2:] <= 0).any(axis=1)
    entries.warn(empty, "have a box without area; skipped.")
    keep = np.flatnonzero(~empty & (scores >= threshold))
    if not len(keep):
        raise DataError(
            f"{path}: no box is left of {len(content)}, with {len(rows)} in categories with key points and "
            f"{int((scores >= threshold).sum())} of them scoring at least {threshold}: lower detection_threshold, or "
            f"use the category ids {sorted(categories, key=str)[:5]} of {annotations.path if annotations else 'COCO'}."
        )
    keep = keep[np.argsort(images[keep], kind="stable")]
    if annotations is not None:
        _require_boxes_on_persons(path, annotations, images[keep], boxes[keep])
    return CocoDetections(entries.ids[keep], images[keep], boxes[keep], scores[keep], image_ids[keep])


def _require_boxes_on_persons(path: Path, annotations: CocoAnnotations, images: np.ndarray, boxes: np.ndarray) -> None:
    """Refuse boxes of other pictures, which sets that number their images from 1 do not tell by an unknown id."""
    usable = annotations.usable()
    persons, rows = annotations.clean_boxes()[usable], annotations.images[usable]
    first, last = np.searchsorted(images, rows, side="left"), np.searchsorted(images, rows, side="right")
    person = np.repeat(np.arange(len(persons)), last - first)
    found = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)] or [np.empty(0, int)])
    met = np.unique(person[_overlap(persons[person], boxes[found]) > SAME_PERSON])
    if len(persons) >= FEW_PERSONS and len(met) < FEW_MET * len(persons):
        raise DataError(
            f"{path}: of {len(persons)} annotated persons only {len(met)} have a detected box on them. Are these "
            "detections of other images with the same ids, or boxes that are not x, y, width, height in pixels? Give "
            f"the detections of the images of {annotations.path}."
        )


def _overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N,) intersection over union of pairs of boxes, each (N, 4) x, y, width, height."""
    start, end = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    common = np.clip(end - start, 0, None).prod(axis=1)
    return common / np.maximum(a[:, 2:].prod(axis=1) + b[:, 2:].prod(axis=1) - common, 1e-9)


class _Entries:
    """The objects of one list of a file as columns; reports by file, count and first ids."""

    def __init__(self, path: Path, entries: list[dict], noun: str, ids: np.ndarray | None = None) -> None:
        self.path, self.entries, self.noun = path, entries, noun
        self.ids = self.column("id", np.int64) if ids is None else ids

    def column(self, key: str, dtype: type, default: float | None = None) -> np.ndarray:
        """(N,) the numbers under `key`; `default` where there is no such key."""
        values = [entry.get(key, default) for entry in self.entries]
        try:
            return np.array(values, np.float64 if dtype is np.float64 else None).reshape(len(values)).astype(dtype)
        except (TypeError, ValueError) as error:
            wrong = [
                entry.get("id") for entry, value in zip(self.entries, values, strict=True) if not _is_number(value)
            ]
            raise DataError(
                f"{self.path}: `{key}` is no number in {listed(np.array(wrong, object), self.noun)}: correct them."
            ) from error

    def table(self, key: str, width: int, expected: str = "") -> np.ndarray:
        """(N, width) the number lists under `key`, zeros where it is absent or empty; null is nan."""
        values = [entry.get(key) or (0,) * width for entry in self.entries]
        lengths = np.array([len(value) if isinstance(value, Sequence) else 0 for value in values], np.int64)
        wrong = lengths != width
        self.refuse(
            wrong, f"have {np.unique(lengths[wrong])[:5].tolist()} numbers in `{key}`", expected or f"{width} numbers"
        )
        try:
            return np.array(values, np.float64).reshape(len(values), width)
        except (TypeError, ValueError) as error:
            odd = [not all(_is_number(number) or number is None for number in value) for value in values]
            self.refuse(np.array(odd), f"have something else than numbers in `{key}`", f"{width} numbers")
            raise DataError(f"{self.path}: `{key}` cannot be read: {error}") from error

    def refuse(self, wrong: np.ndarray, found: str, expected: str) -> None:
        """Raise DataError if any entry is `wrong`."""
        if wrong.any():
            raise DataError(f"{self.path}: {listed(self.ids[wrong], self.noun)} {found}; expected {expected}.")

    def warn(self, odd: np.ndarray, found: str) -> None:
        """One line if any entry is `odd`."""
        if odd.any():
            rank_zero_warn(f"{self.path}: {listed(self.ids[odd], self.noun)} {found}")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not COCO JSON ({error}): give the file of annotations or detections.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): give the path relative to root.") from error


def _categories(annotations: list[dict], categories: list[dict]) -> set:
    """Ids of the categories with key points; of those whose annotations have some where a file leaves the names out."""
    named = {category.get("id") for category in categories if category.get("keypoints")}
    # A file without labels (COCO's test-dev) has none of either: there, detections of COCO's person count.
    return named or {entry.get("category_id") for entry in annotations if entry.get("keypoints")} or {1}


def _images(path: Path, images: list[dict]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    required = ("id", "file_name", "height", "width")
    poor = [image.get("id") for image in images if not all(key in image for key in required)]
    if poor:
        raise DataError(
            f"{path}: {listed(np.array(poor, object), 'image')} of {len(images)} lack one of {', '.join(required)}: "
            "add them (boxes are clipped to the image)."
        )
    entries = _Entries(path, images, "image")
    entries.refuse(_repeats(entries.ids), "repeat the id of another one", "a different id for each")
    sizes = np.stack([entries.column(key, np.int64) for key in ("height", "width")], axis=1)
    return entries.ids, np.array([str(image["file_name"]) for image in images]), sizes


def _keypoints(entries: _Entries, skeleton: Skeleton, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, K, 2) coordinates, zero where not labelled, and (N, K) visibility; `sizes` are (height, width)."""
    k = skeleton.num_keypoints
    expected = (
        f"{3 * k}, that is x, y, visibility for each of the skeleton's {k} key points: set `skeleton` (coco, mpii or "
        "the path of a YAML file) to the one of this file, and the task's num_keypoints to its count"
    )
    points = entries.table("keypoints", 3 * k, expected=expected).reshape(-1, k, 3)
    points, stated = points[..., :2], points[..., 2]
    entries.refuse(~np.isfinite(stated).all(axis=1), "have a visibility that is not finite", "0, 1 or 2")
    entries.warn(~np.isin(stated, (0, 1, 2)).all(axis=1), "have a visibility other than 0, 1, 2; clipped to these.")
    visible = np.clip(np.ceil(stated), 0, 2).astype(np.int64)  # a fraction still says "labelled"
    labelled = visible > 0
    broken = (labelled & ~np.isfinite(points).all(axis=2)).any(axis=1)
    entries.refuse(broken, "have labelled key points that are not finite", "numbers, or visibility 0")
    # COCO's own coordinates reach the width and the height themselves.
    inside = ((points >= 0) & (points <= sizes[:, None, ::-1])).all(axis=2)
    entries.warn((labelled & ~inside).any(axis=1), "have labelled key points outside of the image; kept.")
    return np.where(labelled[..., None], points, 0.0), visible


def _num_labelled(entries: _Entries, visible: np.ndarray) -> np.ndarray:
    counted = np.count_nonzero(visible, axis=1)
    stated = entries.column("num_keypoints", np.int64, -1)
    stated = np.where(stated < 0, counted, stated)
    entries.warn(stated != counted, "state a num_keypoints other than their labelled ones; kept for evaluation.")
    return stated


def _areas(entries: _Entries, boxes: np.ndarray) -> np.ndarray:
    absent = np.array([entry.get("area") is None for entry in entries.entries], bool)
    areas = entries.column("area", np.float64)
    entries.refuse(~absent & ~np.isfinite(areas), "have an `area` that is not finite", "square pixels")
    entries.warn(absent, f"have no `area`, which OKS needs; replaced by the box's area x {SEGMENT_SHARE}.")
    return np.where(absent, SEGMENT_SHARE * boxes[:, 2] * boxes[:, 3], areas)


def _warn_of_names(path: Path, categories: list[dict], skeleton: Skeleton) -> None:
    for names in (category.get("keypoints") or () for category in categories):
        for theirs, ours in zip(names, skeleton.names, strict=False):
            if _plain(theirs) != _plain(ours):
                rank_zero_warn(
                    f"{path} has a key point `{theirs}` where the skeleton has `{ours}`: unless these mean the same, "
                    "mirroring swaps the wrong ones, so give `skeleton` a YAML file with the names of the data."
                )
                return


def _rows_of(wanted: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of `wanted` its row in `known` (no repeats), and whether it is absent there."""
    order = np.argsort(known, kind="stable")
    place = np.minimum(np.searchsorted(known, wanted, sorter=order), len(known) - 1)
    return order[place], known[order[place]] != wanted


def _repeats(ids: np.ndarray) -> np.ndarray:
    repeats = np.ones(len(ids), bool)
    repeats[np.unique(ids, return_index=True)[1]] = False
    return repeats


def _is_list_of_dicts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _plain(name: Any) -> str:
    return str(name).lower().replace(" ", "_").replace("-", "_")

"""Reads COCO key-point files and detection files, and checks them once at start-up, before the first epoch is spent.

Errors (DataError) say what only the user can put right, warnings (one line) what was put right here; both name the
file, how many annotations and the first few ids. Used by `coco_pose.py`; the format is COCO's (Lin et al. 2014), and
`coco_table.py` says which values are taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.base import DataError
from datamodules.images.names import is_file_name
from datamodules.keypoints.coco_annotations import CocoAnnotations, beside_boxes
from datamodules.keypoints.coco_table import Entries, Id, batch_numbers, identifier, listed, read_json, short
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
    image_ids: list[Any]  # (N,) as the file has them


def read_annotations(path: Path, skeleton: Skeleton) -> CocoAnnotations:
    """Read and check a COCO key-point file; raises DataError for the first mistake that cannot be put right."""
    content = read_json(path)
    parts = content if isinstance(content, dict) else {}
    images, annotations, categories = (parts.get(key) or [] for key in ("images", "annotations", "categories"))
    if not images or not all(_is_list_of_dicts(part) for part in (images, annotations, categories)):
        found = f"an object with {sorted(map(short, parts))[:5]}" if parts else f"a {type(content).__name__}"
        raise DataError(
            f"{path} is not COCO JSON: found {found}, expected lists `images`, `annotations`, `categories`."
        )
    image_ids, file_names, sizes = _images(path, images)
    chosen, names = _categories(path, annotations, categories)
    entries = Entries(path, _of_categories(path, annotations, categories, chosen), "annotation")
    ids = entries.ids("id")
    entries.refuse_repeats(ids)
    rows, unknown = _rows_of(entries.ids("image_id", optional=True), image_ids)
    entries.refuse(unknown, "name an image_id that `images` does not have", "the id of an image of this file")
    keypoints, visible = _keypoints(entries, skeleton, sizes[rows])
    boxes = entries.table("bbox", 4)
    entries.refuse(~np.isfinite(boxes).all(axis=1), "have a `bbox` that is not finite", "x, y, width, height")
    crowd = np.nan_to_num(entries.column("iscrowd"))
    entries.refuse(~np.isin(crowd, (0, 1)), "have another `iscrowd`", "0 or 1")
    _warn_of_names(path, categories, skeleton)
    read = CocoAnnotations(
        path=path,
        image_ids=batch_numbers(image_ids),
        file_image_ids=[image["id"] for image in images],
        file_names=file_names,
        image_sizes=sizes,
        category_ids=frozenset(chosen),
        category_names=names,
        ids=batch_numbers(ids),
        file_ids=entries.names,
        images=rows,
        boxes=boxes,
        keypoints=keypoints,
        visible=visible,
        num_labelled=_num_labelled(entries, visible),
        areas=_areas(entries, boxes),
        crowd=crowd == 1,
    )
    _require_points_in_boxes(read)
    return read


def read_detections(path: Path, annotations: CocoAnnotations | None, threshold: float = 0.0) -> CocoDetections:
    """Read the boxes of a detector in COCO's results format: a list of image_id, category_id, bbox, score.

    Kept are boxes of the categories with key points, with a score of at least `threshold` and with an area. Without
    annotations the category is 1, COCO's person, and the rows of the images count the ids in order of appearance.

    Raises:
        DataError: no such list, numbers missing or not finite, images that the split does not have, or no box left.
    """
    content = read_json(path)
    if not _is_list_of_dicts(content):
        raise DataError(f"{path} is no detections file: expected a list of objects image_id, category_id, bbox, score.")
    categories = frozenset({1}) if annotations is None else annotations.category_ids
    stated = [{"category_id": 1} if "category_id" not in entry else entry for entry in content]
    of = Entries(path, stated, "detection", range(len(content))).ids("category_id", optional=True)
    rows = [row for row, category in enumerate(of) if category in categories]
    entries = Entries(path, [content[row] for row in rows], "detection", rows)
    boxes, scores = entries.table("bbox", 4), entries.column("score")
    broken = ~np.isfinite(boxes).all(axis=1) | ~np.isfinite(scores)
    entries.refuse(broken, "have a `bbox` or `score` that is not finite", "x, y, width, height and a score")
    image_ids = entries.ids("image_id", optional=annotations is not None)
    if annotations is None:
        known: Sequence[Id | None] = list(dict.fromkeys(image_ids))
    else:
        known = [identifier(value) for value in annotations.file_image_ids]
    images, unknown = _rows_of(image_ids, known)
    if annotations is not None:
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
    places = np.array(rows, np.int64)[keep]
    image_ids = [content[row].get("image_id") for row in places.tolist()]
    return CocoDetections(places, images[keep], boxes[keep], scores[keep], image_ids)


def _require_boxes_on_persons(path: Path, annotations: CocoAnnotations, images: np.ndarray, boxes: np.ndarray) -> None:
    """Refuse boxes of other pictures, which sets that number their images from 1 do not tell by an unknown id."""
    if np.count_nonzero(annotations.visible.any(axis=1) & ~annotations.crowd) < FEW_PERSONS:
        return  # such as the files of test sets, which have none
    usable = annotations.usable()
    persons, rows = annotations.clean_boxes()[usable], annotations.images[usable]
    first, last = np.searchsorted(images, rows, side="left"), np.searchsorted(images, rows, side="right")
    person = np.repeat(np.arange(len(persons)), last - first)
    found = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)] or [np.empty(0, int)])
    met = np.unique(person[_overlap(persons[person], boxes[found]) > SAME_PERSON])
    if len(persons) >= FEW_PERSONS and len(met) < FEW_MET * len(persons):
        raise DataError(
            f"{path}: of {len(persons)} annotated {annotations.noun}s only {len(met)} have a detected box on them. Are "
            "these detections of other images with the same ids, or boxes that are not x, y, width, height in pixels? "
            f"Give the detections of the images of {annotations.path}."
        )


def _overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N,) intersection over union of pairs of boxes, each (N, 4) x, y, width, height."""
    start, end = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    common = np.clip(end - start, 0, None).prod(axis=1)
    return common / np.maximum(a[:, 2:].prod(axis=1) + b[:, 2:].prod(axis=1) - common, 1e-9)


def _require_points_in_boxes(read: CocoAnnotations) -> None:
    """Refuse key points that are no pixels, such as shares of the image, beside boxes that are."""
    rows = np.flatnonzero(~read.crowd)
    misplaced = beside_boxes(read.boxes[rows], read.keypoints[rows], read.visible[rows])
    if misplaced is not None:
        ids = [read.file_ids[row] for row in rows[misplaced.rows]]
        raise DataError(f"{read.path}: {listed(ids)} {misplaced.found}; expected {misplaced.expected}.")


def _categories(path: Path, annotations: list[dict], categories: list[dict]) -> tuple[set[Id | None], tuple[str, ...]]:
    """Ids and names of the categories with key points; of those that are annotated with some where none states them."""
    ids = Entries(path, categories, "category").ids("id", optional=True)
    for category in categories:
        if not isinstance(category.get("keypoints") or [], list):
            found = f"category {short(category.get('id'))} has the `keypoints` {short(category['keypoints'])}"
            raise DataError(f"{path}: {found}; expected a list of their names.")
    chosen = {key for key, category in zip(ids, categories, strict=True) if category.get("keypoints")}
    if not chosen:
        # A file without labels (COCO's test-dev) has none of either: there, detections of COCO's person count.
        chosen = {identifier(entry.get("category_id")) for entry in annotations if entry.get("keypoints")} or {1}
    names = [str(c.get("name", "")) for key, c in zip(ids, categories, strict=True) if key in chosen]
    return chosen, tuple(dict.fromkeys(names))


def _of_categories(path: Path, annotations: list[dict], categories: list[dict], chosen: set[Id | None]) -> list[dict]:
    """The annotations of the chosen categories; a word on those whose category the file does not have."""
    entries = Entries(path, annotations, "annotation")
    of = entries.ids("category_id", optional=True)
    unknown = set(of) - chosen - {identifier(category.get("id")) for category in categories}
    if unknown:
        entries.warn(np.array([key in unknown for key in of]), "name a category that `categories` lacks; left out.")
    return [entry for key, entry in zip(of, annotations, strict=True) if key in chosen]


def _images(path: Path, images: list[dict]) -> tuple[list[Id | None], np.ndarray, np.ndarray]:
    """(I,) ids, (I,) file names, (I, 2) height and width."""
    required = ("id", "file_name", "height", "width")
    poor = [image.get("id") for image in images if not all(key in image for key in required)]
    if poor:
        raise DataError(
            f"{path}: {listed(poor, 'image')} of {len(images)} lack one of {', '.join(required)}: "
            "add them (boxes are clipped to the image)."
        )
    entries = Entries(path, images, "image")
    ids = entries.ids("id")
    entries.refuse_repeats(ids)
    sizes = np.stack([entries.column(key) for key in ("height", "width")], axis=1)
    entries.refuse(~(np.isfinite(sizes) & (sizes >= 1)).all(axis=1), "have a height or width below 1", "pixels")
    names = [image["file_name"] for image in images]
    entries.refuse(~np.array([is_file_name(name) for name in names]), "have no `file_name`", "the name of a file")
    return ids, np.array(names), sizes.astype(np.int64)


def _keypoints(entries: Entries, skeleton: Skeleton, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


def _num_labelled(entries: Entries, visible: np.ndarray) -> np.ndarray:
    counted = np.count_nonzero(visible, axis=1)
    stated = entries.column("num_keypoints")
    entries.refuse(np.isinf(stated), "have a `num_keypoints` that is not finite", "a count")
    stated = np.where(stated >= 0, stated, counted)  # nan where absent
    entries.warn(stated != counted, "state a num_keypoints other than their labelled ones; kept for evaluation.")
    return stated.astype(np.int64)


def _areas(entries: Entries, boxes: np.ndarray) -> np.ndarray:
    areas = entries.column("area")
    entries.refuse(np.isinf(areas), "have an `area` that is not finite", "square pixels")
    absent = ~(areas > 0)  # exporters write 0 for what they do not know
    entries.warn(absent, f"have no `area` above 0, which OKS needs; replaced by the box's area x {SEGMENT_SHARE}.")
    return np.where(absent, SEGMENT_SHARE * boxes[:, 2] * boxes[:, 3], areas)


def _warn_of_names(path: Path, categories: list[dict], skeleton: Skeleton) -> None:
    for names in (category.get("keypoints") or () for category in categories):
        for theirs, ours in zip(names, skeleton.names, strict=False):
            if plain_name(theirs) != plain_name(ours):
                rank_zero_warn(
                    f"{path} has a key point `{short(theirs)}` where the skeleton has `{ours}`: unless these mean the "
                    "same, mirroring swaps the wrong ones, so give `skeleton` a YAML file with the names of the data."
                )
                return


def _rows_of(wanted: Sequence[Id | None], known: Sequence[Id | None]) -> tuple[np.ndarray, np.ndarray]:
    """For each of `wanted` its row in `known` (no repeats), and whether it is absent there."""
    places = {key: row for row, key in enumerate(known)}
    rows = np.array([places.get(key, -1) for key in wanted], np.int64)
    return rows, rows < 0


def _is_list_of_dicts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def plain_name(name: Any) -> str:
    """A key point's name without what spelling varies in."""
    return str(name).lower().replace(" ", "_").replace("-", "_")

"""What all files in COCO's form have (Lin et al. 2014): lists of images, annotations and categories.

A reader takes what a file holds (`read_coco`) and makes columns of the annotations that it is for: `coco_file.py` those
with key points, `detection/table.py` objects. What is wrong is noted, see `defects.py`.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from datamodules.base import DataError, Split
from datamodules.images.names import is_file_name
from datamodules.keypoints.columns import HUGE, MALFORMED, Entries, Id, identifier, numbers, read_json
from datamodules.keypoints.defects import Defect, listed, quoted, short


class CocoFiles:
    """Where a DataModule in COCO's layout has its files: an annotation file and a folder of images for each split.

    `test` is `val` unless there is an annotation file of its own.
    """

    folder: Path
    layout: ClassVar[str]
    source: ClassVar[str] = "https://cocodataset.org/#download (2017 Train, Val and Train/Val annotations)."
    image_key: ClassVar[str] = "images"

    def set_files(self, kind: str, annotations: Mapping[str, str] | None, images: Mapping[str, str] | None) -> None:
        """Take the files that the user names, relative to root, and COCO's for the others.

        Args:
            kind: How the names of COCO's annotation files begin.
            annotations: Split -> annotation file.
            images: Split -> image folder.

        Raises:
            DataError: If there are other splits than train, val and test.
        """
        self.annotations = {split: f"annotations/{kind}_{split}2017.json" for split in ("train", "val")}
        self.annotations |= _by_split(annotations, "annotations")
        self.images = _by_split(images, "images")
        self.test_split: Split = "test" if "test" in self.annotations else "val"

    def annotation_file(self, split: Split) -> Path:
        """The annotation file of `split`; raises DataError if there is none."""
        path = self.folder / self.annotations[split]
        if not path.is_file():
            raise DataError(
                f"{type(self).__name__} found no {path}. Expected below {self.folder}:\n{self.layout}\nor set "
                f"`annotations: {{{split}: FILE}}`. The data come from {self.source}"
            )
        return path

    def image_folder(self, split: Split) -> Path:
        """Folder of the images of `split`; raises DataError if there is none."""
        names = (self.images[split],) if split in self.images else (f"{split}2017", f"images/{split}2017")
        for name in names:
            if (self.folder / name).is_dir():
                return self.folder / name
        raise DataError(
            f"{type(self).__name__} found no image folder {' or '.join(names)} in {self.folder}: set "
            f"`images: {{{split}: FOLDER}}`, relative to root."
        )


def coco_tree(kind: str) -> str:
    """COCO's own files and folders; `kind` is how the names of the annotation files begin."""
    return f"""\
    annotations/{kind}_train2017.json
    annotations/{kind}_val2017.json
    train2017/000000000009.jpg ...      (or images/train2017)
    val2017/000000000139.jpg ...        (or images/val2017)"""


def _by_split(paths: Mapping[str, str] | None, key: str) -> dict[str, str]:
    unknown = sorted(set(paths or ()) - {"train", "val", "test"})
    if unknown:
        raise DataError(f"`{key}` has the entries {unknown}: expected some of train, val, test.")
    return dict(paths or {})


@dataclass(frozen=True)
class CocoContent:
    """What a file holds.

    Args:
        path: Of the file.
        images: (I,) entries, without those that repeat an id.
        image_ids: (I,) of these.
        file_names: (I,) of these, "" for none.
        image_sizes: (I, 2) height and width of these, 0 for none.
        annotations: All entries.
        categories: All entries.
        defects: What was found wrong, to which what is found later is added.
    """

    path: Path
    images: list[dict]
    image_ids: list[Id | None]
    file_names: list[str]
    image_sizes: np.ndarray
    annotations: list[dict]
    categories: list[dict]
    defects: list[Defect]

    @property
    def of_images(self) -> dict[str, Any]:
        """The columns of a table that say what the images are."""
        stated = [image.get("id") for image in self.images]
        return {"file_names": self.file_names, "image_sizes": self.image_sizes, "image_ids": stated}

    @property
    def sizes_by_id(self) -> dict[Id | None, tuple[int, int]]:
        """(height, width) of each image."""
        return dict(zip(self.image_ids, map(tuple, self.image_sizes.tolist()), strict=True))

    def entries(self, annotations: list[dict], defects: list[Defect] | None = None) -> Entries:
        """Annotations, which reports call by their ids and the file names of their images.

        Args:
            annotations: Some of all.
            defects: Where to note what is wrong with them, in place of the file's own.
        """
        names_of = dict(zip(self.image_ids, self.file_names, strict=True))

        def label(row: int) -> str:
            image = annotations[row].get("image_id")
            name = names_of.get(identifier(image)) or f"image {short(image)}"
            return f"annotation {short(annotations[row].get('id'))} ({short(name)})"

        return Entries(self.path, annotations, "annotation", label, self.defects if defects is None else defects)


def read_coco(path: Path) -> CocoContent:
    """Read a file, whose images are looked at; raises DataError where it is no COCO JSON."""
    defects: list[Defect] = []
    images, annotations, categories = _lists_of(path, read_json(path), defects)
    return CocoContent(path, *_images_of(path, images, defects), annotations, categories, defects)


def _lists_of(path: Path, content: Any, defects: list[Defect]) -> list[list[dict]]:
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


def _images_of(
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


def rows_of(wanted: Sequence[Id | None], known: Sequence[Id | None]) -> tuple[np.ndarray, np.ndarray]:
    """For each of `wanted` its row in `known`, and whether it is absent there."""
    places = {key: row for row, key in enumerate(known) if key is not None}
    rows = np.array([places.get(key, -1) for key in wanted], np.int64)
    return rows, rows < 0


def category_entries(path: Path, categories: list[dict], defects: list[Defect]) -> Entries:
    """Categories, which reports call by their ids and names."""

    def label(row: int) -> str:
        entry = categories[row]
        return f"category {short(entry.get('id'))} ({short(entry.get('name'))}) in {path.name}"

    return Entries(path, categories, "category", label, defects)


def leave_out_unknown(entries: Entries, of: Sequence[Id | None], known: Collection[Id | None]) -> None:
    """Note the annotations whose category `of` is none of the known ones, which the reader leaves out."""
    unknown = np.array([key not in known for key in of], bool)
    left_out = "name a category that `categories` lacks; left out."
    entries.notes.warn(unknown, "unknown category", left_out, entries.said("category_id"))


def annotation_columns(entries: Entries, image_ids: Sequence[Id | None]) -> dict[str, np.ndarray]:
    """What tables of annotations have in common: rows of the images, boxes (N, 4), areas, and which are crowds."""
    ids = entries.ids("id")
    entries.refuse_repeats(ids)
    rows, unknown = rows_of(entries.ids("image_id", optional=True), image_ids)
    entries.notes.refuse(
        unknown & entries.sound,
        "unknown image",
        "name an image_id that `images` does not have",
        "the id of an image of this file",
        lambda row: f"{entries.said('image_id')(row)}, which is not in `images`",
    )
    boxes = entries.table("bbox", 4)
    crowd = np.nan_to_num(entries.column("iscrowd"))
    found = "have another `iscrowd`"
    entries.notes.refuse(~np.isin(crowd, (0, 1)), MALFORMED, found, "0 or 1", entries.said("iscrowd"))
    return {"images": rows, "boxes": boxes, "areas": entries.column("area"), "crowd": crowd == 1}


def sound_rows(entries: Entries, columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The columns, and the `ids`, of the annotations in which everything had the right type."""
    rows = dict(columns)
    if not entries.sound.all():
        rows = {name: column[entries.sound] for name, column in columns.items()}
    return rows | {"ids": [entries.names[row] for row in np.flatnonzero(entries.sound)]}


def check_segmentations(entries: Entries, sizes: Mapping[Id | None, tuple[int, int]], *, needed: bool = False) -> None:
    """Note polygons of fewer than three points, and run-length codes of another size than the image's.

    Args:
        entries: Annotations.
        sizes: Id of an image -> (height, width).
        needed: Whether they are grave, since masks are made of them.
    """
    found = [_of_segmentation(entry, sizes.get(identifier(entry.get("image_id")))) for entry in entries.entries]
    wrong = np.array([text != "" for text in found], bool)
    kind, first = "wrong segmentation", next(filter(None, found), "")
    if needed:
        expected = "polygons of 3 points or more, or a run-length code of the image's size"
        entries.notes.refuse(
            wrong, kind, f"have a segmentation that is none: the first {first}", expected, found.__getitem__
        )
    else:
        entries.notes.mention(wrong, kind, found.__getitem__)
    return wrong


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
        return _of_counts(stated["counts"], own)
    polygons = stated if isinstance(stated, list) else []
    bad = [polygon for polygon in polygons if not _is_polygon(polygon)]
    if bad or not polygons:
        return f"has a polygon {quoted(bad[0] if bad else stated)}, expected x, y of 3 points or more"
    return ""


def _is_polygon(polygon: Any) -> bool:
    """Whether this is x, y of 3 points or more."""
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        return False
    if set(map(type, polygon)) == {float} and abs(sum(polygon)) < HUGE:  # the usual one, also neither nan nor infinite
        return True
    return numbers(polygon, len(polygon)) is not None


def _of_counts(counts: Any, size: Sequence[float]) -> str:
    """What is wrong with the run lengths of a code: whole numbers that cover the image, or packed into text."""
    if isinstance(counts, str):
        runs = unpacked(counts)
    else:
        runs = numbers(counts, len(counts)) if isinstance(counts, list) else None
    if runs is None or any(run < 0 or run != int(run) for run in runs):
        return f"the run lengths are {quoted(counts)}, expected whole numbers or COCO's text"
    total, area = int(sum(runs)), int(size[0] * size[1])
    return "" if total == area else f"the run lengths add up to {total} pixels, its size has {area}"


def unpacked(text: str) -> list[int] | None:
    """The run lengths that a text has in COCO's packing; None if it has none.

    pycocotools keeps them to itself, and takes what memory holds for the pixels that a cut-off text leaves open. A
    number is written in characters of five bits, the lowest first, the sixth bit set in all but the last; from the
    fourth on it is the difference to the last but one.
    """
    codes = np.frombuffer(text.encode(errors="replace"), np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    ends = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    places = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    if places.max() > 11:  # beyond 60 bits
        return None
    runs = np.add.reduceat((codes & 31) << (5 * places), starts)
    runs -= np.where(codes[ends] & 16, 1 << (5 * (places[ends] + 1)), 0)
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    return runs.tolist()

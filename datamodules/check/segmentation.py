"""The data doctor for segmentation: images and masks without a partner, of another size, unreadable, unknown labels."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

import numpy as np

from datamodules.base import DataError, Split
from datamodules.check.findings import Report
from datamodules.check.images import (
    Seen,
    find_shared_images,
    look,
    note_left_out,
    note_orientations,
    relative,
    size_histogram,
)
from datamodules.findings import Mode
from datamodules.images.files import Reading
from datamodules.segmentation.data import MASK_ENDINGS, Pairs, SegmentationData, Unpaired
from datamodules.segmentation.folder import FolderSegmentation
from datamodules.segmentation.masks import IGNORED, UnknownLabels, mask_size
from datamodules.workers import in_threads


@dataclass(frozen=True)
class _Pair:
    """What one look at an image and its mask said."""

    image: Seen
    mask: Path
    problems: list[tuple[str, str]]  # of the mask: kind of finding, what was found
    counts: np.ndarray | None = None  # (256,) pixels of each class


def check_segmentation(data: SegmentationData, report: Report, mode: Mode) -> None:
    """Write what is wrong with the images and masks of all splits to `report`; `full` alone looks for labels."""
    splits: list[Split] = ["train", "val", *(["test"] if data.test_split == "test" else [])]
    pairs = {split: found for split in splits if (found := _pairs_of(data, split, report)) is not None}
    _find_lonely_masks(data, pairs, report)
    looked = {split: _look_at_split(data, split, found, report, mode) for split, found in pairs.items()}
    seen = {split: [pair.image for pair in found] for split, found in looked.items()}
    find_shared_images(seen, report, data.folder)
    note_orientations(seen, data.stated_reading, report, data.folder)
    parents = {split: [file.parent for files in found[:2] for file in files] for split, found in pairs.items()}
    note_left_out({split: _uppermost(folders) for split, folders in parents.items()}, report, MASK_ENDINGS)
    if mode != "full":
        return
    counts = {split: _count_pixels(data, found) for split, found in looked.items()}
    for split, counter in counts.items():
        report.count("pixels", split, counter)
    named_by_user = isinstance(data, FolderSegmentation)  # official data sets may be subsets
    report.compare_classes(counts, data.class_names, stated=named_by_user, noun="pixel")


def _pairs_of(data: SegmentationData, split: Split, report: Report) -> Pairs | None:
    """Images, masks and reader of a split as far as they are complete; the others are findings."""
    try:
        return data.pairs(split)
    except Unpaired as error:
        for kind, path in error.problems:
            found = "another file has its name" if kind == "ambiguous name" else "is not there"
            report.add(kind, split, relative(path, data.folder), found)
        if error.advice:
            report.note(split, error.advice)
        return error.pairs
    except DataError as error:
        report.add("unreadable data", split, str(data.folder), str(error))
        return None


def _look_at_split(data: SegmentationData, split: Split, pairs: Pairs, report: Report, mode: Mode) -> list[_Pair]:
    images, masks, read_labels = pairs

    def look_at(files: tuple[Path, Path]) -> _Pair:
        return _look(*files, read_labels, mode, data.stated_reading)

    looked = in_threads(look_at, list(zip(images, masks, strict=True)), f"images and masks of {split}")
    for pair in looked:
        if pair.image.problem:
            report.add(pair.image.problem[0], split, relative(pair.image.path, data.folder), pair.image.problem[1])
        for kind, found in pair.problems:
            report.add(kind, split, relative(pair.mask, data.folder), found)
    report.saw(split, images=len(images), masks=len(masks))
    sizes = [pair.image.size for pair in looked if pair.image.size]
    report.count("images, longer side in pixels", split, size_histogram(sizes))
    return looked


def _look(image: Path, mask: Path, read_labels: Callable[[Path], np.ndarray], mode: Mode, reading: Reading) -> _Pair:
    seen = look(image, None, mode, reading)
    if mode == "none":
        return _Pair(seen, mask, [])
    try:
        if mode == "headers":
            counts, size = None, None if mask.suffix == ".mat" else mask_size(mask, reading.pixel_limit)
        else:
            labels = read_labels(mask)
            counts, size = np.bincount(labels.ravel(), minlength=IGNORED + 1), labels.shape
    except UnknownLabels as error:
        size = mask_size(mask, reading.pixel_limit)
        return _Pair(seen, mask, [("unknown label", str(error)), *_size_problem(seen, size, reading)])
    except Exception as error:  # whatever a decoder says about a damaged file is a finding, and the others are read
        return _Pair(seen, mask, [("unreadable mask", str(error) or type(error).__name__)])
    return _Pair(replace(seen, annotated=size), mask, _size_problem(seen, size, reading), counts)


def _size_problem(image: Seen, size: tuple[int, ...] | None, reading: Reading) -> list[tuple[str, str]]:
    if size is None or image.header is None or image.may_be(size, reading.upright):
        return []
    found = f"has {size[0]} x {size[1]} pixels (height x width), its image {image.size[0]} x {image.size[1]}"
    return [("mask of another size", found)]


def _count_pixels(data: SegmentationData, looked: list[_Pair]) -> Counter:
    total = np.zeros(IGNORED + 1, np.int64)
    for pair in looked:
        if pair.counts is not None:
            total += pair.counts
    counts = Counter(dict(zip(data.class_names, total.tolist(), strict=False)))
    return counts + Counter({"(ignored)": int(total[IGNORED])}) if total[IGNORED] else counts


def _find_lonely_masks(data: SegmentationData, pairs: dict[Split, Pairs], report: Report) -> None:
    """Find masks that no split has an image for, unless the splits are chosen from the images of a larger folder."""
    used_images = {image for images, _, _ in pairs.values() for image in images}
    used_masks = {mask for _, masks, _ in pairs.values() for mask in masks}
    for split, (images, masks, _) in pairs.items():
        if not images or any(file not in used_images for file in _files({image.parent for image in images}, "")):
            continue
        letters = zip(images[0].stem, masks[0].stem, strict=False)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], letters))
        tail = masks[0].name[same:]
        for mask in sorted(_files({mask.parent for mask in masks}, tail) - used_masks):
            report.add("mask without image", split, relative(mask, data.folder), "no image has its name")
            used_masks.add(mask)


def _files(folders: set[Path], tail: str) -> set[Path]:
    """Images and masks in the folders whose names end with `tail`."""
    files = (file for folder in folders for file in folder.iterdir() if file.suffix.lower() in MASK_ENDINGS)
    return {file for file in files if file.name.endswith(tail) and not file.name.startswith(".")}


def _uppermost(folders: list[Path]) -> list[Path]:
    """Those of the folders that are in no other one of them."""
    return [folder for folder in sorted(set(folders)) if not set(folder.parents) & set(folders)]

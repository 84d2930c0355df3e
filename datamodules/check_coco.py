"""The data doctor for COCO JSON: every image, annotation and category of every split, and the image files.

Reads the JSON itself, since `coco_reader.py` stops at the first mistake; each annotation is for `check_annotation.py`.
"""

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.base import DataError, Split
from datamodules.check_annotation import Facts, annotation_defects, is_id, is_number, numbers
from datamodules.check_findings import Report
from datamodules.check_images import (
    Mode,
    Seen,
    find_shared_images,
    look,
    look_at_all,
    note_left_out,
    note_orientations,
    relative,
    size_histogram,
)
from datamodules.coco_pose import CocoPose
from datamodules.skeleton import Skeleton


def check_coco_pose(data: CocoPose, report: Report, mode: Mode) -> None:
    """Write what is wrong with the annotations and images of all splits to `report`."""
    splits: list[Split] = ["train", "val", *(["test"] if data.test_split == "test" else [])]
    files = {}
    for split in splits:
        file = _CocoFile(data.folder / data.annotations[split], split, data.skeleton, report)
        if file.read():
            files[split] = file
    for file in files.values():
        file.check()
    _compare_categories(files, report)
    seen = {split: _look_at_images(data, file, mode) for split, file in files.items()}
    find_shared_images(seen, report, data.folder)
    note_orientations(seen, data.stated_reading, report, data.folder)
    note_left_out({split: list({image.path.parent for image in images}) for split, images in seen.items()}, report)
    if data.detections is not None and data.test_split in files:
        _check_detections(data.folder / data.detections, files[data.test_split], report)


class _CocoFile:
    """One annotation file.

    Args:
        path: Of the JSON file.
        split: It is of.
        skeleton: Of its key points.
        report: What is written to.
    """

    def __init__(self, path: Path, split: Split, skeleton: Skeleton, report: Report) -> None:
        self.path, self.split, self.skeleton = path, split, skeleton
        self.add = partial(report.add, split=split)
        self.report = report
        self.images: dict[int, dict] = {}
        self.categories: dict[int, dict] = {}
        self.annotations: list[dict] = []

    def read(self) -> bool:
        """Read the file; False, and a finding, if it is no COCO JSON at all."""
        content = read_json(self.path, self.split, self.report)
        if content is None:
            return False
        parts = content if isinstance(content, dict) else {}
        lists = {key: parts.get(key) for key in ("images", "annotations", "categories")}
        wrong = [key for key, value in lists.items() if not isinstance(value, list)]
        if wrong:
            found = f"expected an object with the lists images, annotations, categories; {', '.join(wrong)} is none"
            self.add("unreadable data", item=str(self.path), found=found)
            return False
        self.categories = self._by_id(lists["categories"], "category")
        self.images = self._by_id(lists["images"], "image")
        self.annotations = [a for a in lists["annotations"] if self._is_object(a, "an annotation")]
        return True

    def _by_id(self, entries: list, noun: str) -> dict[int, dict]:
        found: dict[int, dict] = {}
        for entry in entries:
            if not self._is_object(entry, noun):
                continue
            key, name = entry.get("id"), entry.get("file_name") or entry.get("name")
            if not is_id(key):
                self.add("malformed entry", item=f"{noun} {name}", found=f"its id is {key!r}, expected an integer")
            elif key in found:
                self.add("repeated id", item=f"{noun} {key} ({name})", found="another one has this id")
            else:
                found[key] = entry
        return found

    def _is_object(self, entry: Any, noun: str) -> bool:
        if not isinstance(entry, dict):
            self.add("malformed entry", item=self.path.name, found=f"{noun} is {str(entry)[:60]}, expected an object")
        return isinstance(entry, dict)

    def size(self, image: Any) -> tuple[int, int] | None:
        """(height, width) of an image of the file in pixels, None where they are not stated."""
        pair = [self.images[image].get(key) for key in ("height", "width")] if self.has(image) else []
        return (int(pair[0]), int(pair[1])) if len(pair) == 2 and all(is_number(v) and v >= 1 for v in pair) else None

    def has(self, image: Any) -> bool:
        """Whether `image` is the id of an image of the file."""
        return is_id(image) and image in self.images

    def label(self, annotation: dict) -> str:
        """What an annotation is called in the report: id and file name."""
        image = annotation.get("image_id")
        name = self.images[image].get("file_name") if self.has(image) else f"image {image}"
        return f"annotation {annotation.get('id')} ({name})"

    def check(self) -> None:
        """Find what is wrong within the file, and count its classes, sizes and key points."""
        self._check_images()
        self._check_skeletons()
        self._check_annotations()
        self.report.saw(self.split, images=len(self.images), annotations=len(self.annotations))
        sizes = filter(None, map(self.size, self.images))
        self.report.count("images, longer side in pixels", self.split, size_histogram(sizes))
        boxes = [numbers(annotation.get("bbox"), 4) for annotation in self.annotations]
        self.report.count("boxes, longer side in pixels", self.split, size_histogram(b[2:] for b in boxes if b))
        self.report.count("annotations", self.split, self.count_categories())

    def _check_images(self) -> None:
        names = Counter(str(image.get("file_name")) for image in self.images.values())
        for key, image in self.images.items():
            name = image.get("file_name")
            item = f"image {key} ({name})"
            if not (isinstance(name, str) and name):
                self.add("malformed entry", item=item, found=f"file_name is {name!r}, expected a name")
            elif names[name] > 1:
                self.add("repeated file name", item=item, found=f"{names[name]} entries have this file")
            if self.size(key) is None:
                found = f"height is {image.get('height')!r}, width {image.get('width')!r}, expected pixels"
                self.add("malformed entry", item=item, found=found)

    def _check_skeletons(self) -> None:
        ours = [_plain(name) for name in self.skeleton.names]
        for key, category in self.categories.items():
            theirs = category.get("keypoints") or []
            if isinstance(theirs, list) and theirs and [_plain(name) for name in theirs] != ours:
                pairs = [
                    pair
                    for pair in zip(theirs, self.skeleton.names, strict=False)
                    if _plain(pair[0]) != _plain(pair[1])
                ]
                found = f"{len(theirs)} key points, the skeleton has {len(ours)}"
                if len(theirs) == len(ours):
                    found = f"key point {pairs[0][0]!r} where the skeleton has {pairs[0][1]!r}"
                self.add(
                    "categories disagree",
                    item=f"category {key} ({category.get('name')}) in {self.path.name}",
                    found=found,
                )

    def _check_annotations(self) -> None:
        ids = Counter(a["id"] for a in self.annotations if is_id(a.get("id")))
        labelled = Counter(dict.fromkeys(self.skeleton.names, 0))
        usable = 0
        for annotation in self.annotations:
            key, image, category = (annotation.get(name) for name in ("id", "image_id", "category_id"))
            item = self.label(annotation)
            if not is_id(key):
                self.add("malformed entry", item=item, found=f"its id is {key!r}, expected an integer")
            elif ids[key] > 1:
                self.add("repeated id", item=item, found=f"{ids[key]} annotations have this id")
            if not self.has(image):
                self.add("unknown image", item=item, found=f"image_id {image!r} is not in `images`")
            if not (is_id(category) and category in self.categories):
                self.add("unknown category", item=item, found=f"category_id {category!r} is not in `categories`")
            facts = Facts(annotation, self.size(image), self.skeleton.num_keypoints)
            for kind, found in annotation_defects(facts):
                self.add(kind, item=item, found=found)
            shown = [v > 0 for _, _, v in facts.points]
            labelled.update(name for name, is_shown in zip(self.skeleton.names, shown, strict=False) if is_shown)
            usable += any(shown) and annotation.get("iscrowd") != 1
        if not usable:
            found = f"none of {len(self.annotations)} annotations has a labelled key point (a file of boxes alone?)"
            self.add("no usable sample", item=self.path.name, found=found)
        self.report.count("labelled key points", self.split, labelled)

    def count_categories(self) -> Counter:
        """How many annotations each category has, by name."""
        names = {key: str(category.get("name", key)) for key, category in self.categories.items()}
        counts = Counter(dict.fromkeys(names.values(), 0))
        counts.update(
            names[a["category_id"]]
            for a in self.annotations
            if is_id(a.get("category_id")) and a["category_id"] in names
        )
        return counts


def read_json(path: Path, split: str, report: Report) -> Any | None:
    """What a JSON file holds; None, and a finding, where it holds nothing or is no JSON."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        report.add("unreadable data", split, str(path), f"{error.strerror}")
    except (ValueError, RecursionError) as error:
        report.add("unreadable data", split, str(path), f"is no JSON: {error}")
    else:
        if content is None:
            report.add("unreadable data", split, str(path), "holds null")
        return content
    return None


def _compare_categories(files: dict[str, _CocoFile], report: Report) -> None:
    """Find categories that two splits name differently, or that one of them does not have annotated."""
    named = {split: {key: c.get("name") for key, c in file.categories.items()} for split, file in files.items()}
    first = next(iter(named), "")
    for split, names in named.items():
        for key in sorted({*names, *named[first]}):
            if names.get(key) != named[first].get(key):
                found = f"is {names.get(key)!r}, in {first} {named[first].get(key)!r}"
                report.add("categories disagree", split, f"category {key} in {files[split].path.name}", found)
    counts = {split: file.count_categories() for split, file in files.items()}
    names = dict.fromkeys(name for count in counts.values() for name in count)
    report.compare_classes(counts, list(names), stated=False, noun="annotation")


def _look_at_images(data: CocoPose, file: _CocoFile, mode: Mode) -> list[Seen]:
    try:
        folder = data.image_folder(file.split)
    except DataError as error:
        file.add("unreadable data", item=str(data.images.get(file.split, f"{file.split}2017")), found=str(error))
        return []
    keys = [key for key, image in file.images.items() if isinstance(image.get("file_name"), str) and image["file_name"]]

    def look_at(key: int) -> Seen:
        return look(folder / file.images[key]["file_name"], file.size(key), mode, data.stated_reading)

    seen = look_at_all(look_at, keys, f"images of {file.split}")
    for key, image in zip(keys, seen, strict=True):
        if image.problem:
            file.add(
                image.problem[0], item=f"image {key} ({relative(image.path, data.folder)})", found=image.problem[1]
            )
    return seen


def _check_detections(path: Path, file: _CocoFile, report: Report) -> None:
    """Find what is wrong with a file of a detector's boxes."""
    content = read_json(path, file.split, report)
    if content is None:
        return
    if not isinstance(content, list):
        report.add("unreadable data", file.split, str(path), "expected a list of image_id, category_id, bbox, score")
        return
    for row, entry in enumerate(content):
        item = f"detection {row} of {path.name}"
        if not isinstance(entry, dict):
            report.add("malformed entry", file.split, item, f"is {str(entry)[:60]}, expected an object")
            continue
        box = numbers(entry.get("bbox"), 4)
        if box is None or not is_number(entry.get("score")):
            found = f"bbox is {entry.get('bbox')!r}, score {entry.get('score')!r}, expected 4 numbers and one"
            report.add("malformed entry", file.split, item, found)
        elif min(box[2:]) <= 0:
            report.add("box without area", file.split, item, f"bbox is {entry['bbox']}")
        if not file.has(entry.get("image_id")):
            report.add(
                "unknown image", file.split, item, f"image_id {entry.get('image_id')!r} is not in {file.path.name}"
            )


def _plain(name: Any) -> str:
    return str(name).lower().replace(" ", "_").replace("-", "_")

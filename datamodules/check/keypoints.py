"""The data doctor for COCO JSON: every image, annotation and category of every split, and the image files.

Reads the JSON itself, since `coco_reader.py` stops at the first mistake; each annotation is for `check_annotation.py`.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.check.annotation import Facts, annotation_defects
from datamodules.dataset import in_threads
from datamodules.findings import Count, DataError, Fact, Finding, Mode, Split
from datamodules.images.looking import Seen, files_left_out, look, size_histogram
from datamodules.images.names import as_stored, is_file_name
from datamodules.keypoints.coco_annotations import beside_boxes
from datamodules.keypoints.coco_pose import CocoPose
from datamodules.keypoints.coco_reader import plain_name
from datamodules.keypoints.coco_table import Id, identifier, number, numbers, read_json, short
from datamodules.skeleton import Skeleton


def check_coco_pose(data: CocoPose, mode: Mode) -> list[Fact]:
    """What is wrong with the annotations and images of all splits."""
    files = {}
    facts: list[Fact] = []
    for split in data.split_names:
        file = _CocoFile(data.folder / data.annotations[split], split, data.skeleton, facts)
        if file.read():
            files[split] = file
    for file in files.values():
        file.check()
    _compare_categories(files, facts)
    for split, file in files.items():
        seen = _look_at_images(data, file, mode)
        facts += [*seen, *files_left_out(split, [image.path.parent for image in seen])]
    if data.detections is not None and data.test_split in files:
        _check_detections(data.folder / data.detections, files[data.test_split])
    return facts


class _CocoFile:
    """One annotation file.

    Args:
        path: Of the JSON file.
        split: It is of.
        skeleton: Of its key points.
        facts: What is written to.
    """

    def __init__(self, path: Path, split: Split, skeleton: Skeleton, facts: list[Fact]) -> None:
        self.path, self.split, self.skeleton, self.facts = path, split, skeleton, facts
        self.images: dict[Id, dict] = {}
        self.categories: dict[Id, dict] = {}
        self.annotations: list[dict] = []

    def add(self, kind: str, item: str, found: str) -> None:
        """Write down a defect."""
        self.facts.append(Finding(kind, self.split, item, found))

    def read(self) -> bool:
        """Read the file; False, and a finding, if it is no COCO JSON at all."""
        try:
            content = read_json(self.path)
        except DataError as error:
            self.add("unreadable data", item=str(self.path), found=str(error))
            return False
        parts = content if isinstance(content, dict) else {}
        lists = {key: parts.get(key) or [] for key in ("images", "annotations", "categories")}
        wrong = [key for key, value in lists.items() if not isinstance(value, list) or (key == "images" and not value)]
        if wrong:
            found = f"expected an object with the lists images, annotations, categories; {', '.join(wrong)} is none"
            self.add("unreadable data", item=str(self.path), found=found)
            return False
        self.categories = self._by_id(lists["categories"], "category")
        self.images = self._by_id(lists["images"], "image")
        self.annotations = [a for a in lists["annotations"] if self._is_object(a, "an annotation")]
        return True

    def _by_id(self, entries: list, noun: str) -> dict[Id, dict]:
        found: dict[Id, dict] = {}
        for entry in entries:
            if not self._is_object(entry, noun):
                continue
            key, name = identifier(entry.get("id")), short(entry.get("file_name") or entry.get("name"))
            if key is None:
                wrong = f"its id is {_said(entry, 'id')}, expected an integer or a text"
                self.add("malformed entry", item=f"{noun} {name}", found=wrong)
            elif key in found:
                self.add("repeated id", item=f"{noun} {short(key)} ({name})", found="another one has this id")
            else:
                found[key] = entry
        return found

    def _is_object(self, entry: Any, noun: str) -> bool:
        if not isinstance(entry, dict):
            self.add("malformed entry", item=self.path.name, found=f"{noun} is {short(entry)}, expected an object")
        return isinstance(entry, dict)

    def size(self, image: Any) -> tuple[int, int] | None:
        """(height, width) of an image of the file in pixels, None where they are not stated."""
        pair = [number(self.images[image].get(key)) for key in ("height", "width")] if image in self.images else []
        return (int(pair[0]), int(pair[1])) if pair and all(v is not None and v >= 1 for v in pair) else None

    def has(self, image: Any) -> bool:
        """Whether `image` is the id of an image of the file."""
        return identifier(image) in self.images

    def label(self, annotation: dict) -> str:
        """What an annotation is called in the report: id and file name."""
        image = annotation.get("image_id")
        name = self.images[identifier(image)].get("file_name") if self.has(image) else f"image {short(image)}"
        return f"annotation {short(annotation.get('id'))} ({short(name)})"

    def check(self) -> None:
        """Find what is wrong within the file, and count its classes, sizes and key points."""
        self._check_images()
        self._check_skeletons()
        self._check_annotations()
        self.facts.append(Count(self.split, None, Counter(annotations=len(self.annotations))))
        boxes = [numbers(annotation.get("bbox"), 4) for annotation in self.annotations]
        sizes = size_histogram(b[2:] for b in boxes if b)
        self.facts.append(Count(self.split, "boxes, longer side in pixels", sizes))
        counts = self.count_categories()
        self.facts.append(Count(self.split, "annotations", counts, list(counts), "annotation"))

    def _check_images(self) -> None:
        names = Counter(name for image in self.images.values() if is_file_name(name := image.get("file_name")))
        for key, image in self.images.items():
            name = image.get("file_name")
            item = f"image {short(key)} ({short(name)})"
            if not is_file_name(name):
                self.add("malformed entry", item=item, found=f"file_name is {short(repr(name))}, expected a name")
            elif names[name] > 1:
                self.add("repeated file name", item=item, found=f"{names[name]} entries have this file")
            if self.size(key) is None:
                found = f"height is {_said(image, 'height')}, width {_said(image, 'width')}, expected pixels"
                self.add("malformed entry", item=item, found=found)

    def _check_skeletons(self) -> None:
        for key, category in self.categories.items():
            theirs, item = category.get("keypoints") or [], f"category {short(key)} ({short(category.get('name'))})"
            if not isinstance(theirs, list):
                found = f"keypoints is {short(theirs)}, expected a list of names"
                self.add("malformed entry", item=f"{item} in {self.path.name}", found=found)
            elif theirs and (found := self._other_names(theirs)):
                self.add("categories disagree", item=f"{item} in {self.path.name}", found=found)

    def _other_names(self, theirs: list) -> str:
        """What differs from the names of the skeleton; empty for nothing."""
        ours = self.skeleton.names
        if len(theirs) != len(ours):
            return f"{len(theirs)} key points, the skeleton has {len(ours)}"
        for their, our in zip(theirs, ours, strict=True):
            if plain_name(their) != plain_name(our):
                return f"key point {short(repr(their))} where the skeleton has {our!r}"
        return ""

    def _check_annotations(self) -> None:
        ids = Counter(identifier(a.get("id")) for a in self.annotations)
        labelled = Counter(dict.fromkeys(self.skeleton.names, 0))
        persons: list[Facts] = []
        for annotation in self.annotations:
            key, image, category = (identifier(annotation.get(name)) for name in ("id", "image_id", "category_id"))
            item = self.label(annotation)
            if key is None:
                found = f"its id is {_said(annotation, 'id')}, expected an integer or a text"
                self.add("malformed entry", item=item, found=found)
            elif ids[key] > 1:
                self.add("repeated id", item=item, found=f"{ids[key]} annotations have this id")
            if image not in self.images:
                self.add(
                    "unknown image", item=item, found=f"image_id {_said(annotation, 'image_id')} is not in `images`"
                )
            if category not in self.categories and self.categories:
                found = f"category_id {_said(annotation, 'category_id')} is not in `categories`"
                self.add("unknown category", item=item, found=found)
            facts = Facts(annotation, self.size(image), self.skeleton.num_keypoints)
            for kind, found in annotation_defects(facts):
                self.add(kind, item=item, found=found)
            shown = [v > 0 for _, _, v in facts.points]
            labelled.update(name for name, is_shown in zip(self.skeleton.names, shown, strict=False) if is_shown)
            if any(shown) and number(annotation.get("iscrowd")) != 1:
                persons.append(facts)
        self._find_misplaced(persons)
        if not persons:
            found = f"none of {len(self.annotations)} annotations has a labelled key point (a file of boxes alone?)"
            self.add("no usable sample", item=self.path.name, found=found)
        self.facts.append(Count(self.split, "labelled key points", labelled))

    def _find_misplaced(self, persons: list[Facts]) -> None:
        """Find key points that are no pixels, such as shares of the image, beside boxes that are."""
        complete = [p for p in persons if p.box and all(None not in point for point in p.points if point[2] > 0)]
        boxes = np.array([person.box for person in complete], np.float64).reshape(-1, 4)
        points = np.array([person.points for person in complete], np.float64)
        points = points.reshape(-1, self.skeleton.num_keypoints, 3)
        misplaced = beside_boxes(boxes, points[..., :2], points[..., 2])
        if misplaced is not None:
            found = f"{len(misplaced.rows)} annotations {misplaced.found}; expected {misplaced.expected}"
            first = self.label(complete[misplaced.rows[0]].entry)
            self.add("key points beside their boxes", item=f"{first} and others in {self.path.name}", found=found)

    def count_categories(self) -> Counter:
        """How many annotations each category has, by name."""
        names = {key: short(category.get("name", key)) for key, category in self.categories.items()}
        counts = Counter(dict.fromkeys(names.values(), 0))
        found = (identifier(annotation.get("category_id")) for annotation in self.annotations)
        counts.update(names[key] for key in found if key in names)
        return counts


def _compare_categories(files: dict[str, _CocoFile], facts: list[Fact]) -> None:
    """Find categories that two splits name differently."""
    named = {split: {key: c.get("name") for key, c in file.categories.items()} for split, file in files.items()}
    first = next(iter(named), "")
    for split, names in named.items():
        for key in sorted({*names, *named[first]}, key=str):
            if names.get(key) != named[first].get(key):
                found = f"is {names.get(key)!r}, in {first} {named[first].get(key)!r}"
                facts.append(
                    Finding("categories disagree", split, f"category {short(key)} in {files[split].path.name}", found)
                )


def _look_at_images(data: CocoPose, file: _CocoFile, mode: Mode) -> list[Seen]:
    try:
        folder = data.image_folder(file.split)
    except DataError as error:
        file.add("unreadable data", item=str(data.images.get(file.split, f"{file.split}2017")), found=str(error))
        return []
    named = {key: image["file_name"] for key, image in file.images.items() if is_file_name(image.get("file_name"))}
    stored, keys = as_stored(folder, named.values()), list(named)
    for key, name in named.items():
        if name in stored:
            file.add("file name spelled otherwise", item=f"image {short(key)} ({name})", found=f"is {stored[name]}")

    def look_at(key: Id) -> Seen:
        path = folder / stored.get(named[key], named[key])
        item = f"image {short(key)} ({path})"
        return look(path, file.size(key), mode, data.stated_reading, split=file.split, item=item)

    return in_threads(look_at, keys, f"images of {file.split}")


def _check_detections(path: Path, file: _CocoFile) -> None:
    """Find what is wrong with a file of a detector's boxes."""
    try:
        content = read_json(path)
    except DataError as error:
        file.add("unreadable data", str(path), str(error))
        return
    if not isinstance(content, list):
        file.add("unreadable data", str(path), "expected a list of image_id, category_id, bbox, score")
        return
    for row, entry in enumerate(content):
        item = f"detection {row} of {path.name}"
        if not isinstance(entry, dict):
            file.add("malformed entry", item, f"is {short(entry)}, expected an object")
            continue
        box = numbers(entry.get("bbox"), 4)
        if box is None or number(entry.get("score")) is None:
            found = f"bbox is {_said(entry, 'bbox')}, score {_said(entry, 'score')}, expected 4 numbers and one"
            file.add("malformed entry", item, found)
        elif min(box[2:]) <= 0:
            file.add("box without area", item, f"bbox is {entry['bbox']}")
        if not file.has(entry.get("image_id")):
            found = f"image_id {_said(entry, 'image_id')} is not in {file.path.name}"
            file.add("unknown image", item, found)


def _said(entry: dict, key: str) -> str:
    """What an object has under `key`, as in Python."""
    return short(repr(entry.get(key)))

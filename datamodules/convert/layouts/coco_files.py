"""COCO's layout (Lin et al. 2014): annotations/<kind>_<split>2017.json and <split>2017/, as `CocoPose` reads it.

Boxes are those of the source, cut off at the image's border; a pose without one gets the smallest box about its points
and a tenth of its longer side more.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from pycocotools import mask as run_lengths

from datamodules.convert.labels import Box, Labels, Picture, Thing, hull
from datamodules.convert.layouts.outlines import code_of
from datamodules.convert.layouts.result import Task, Written, put_pictures
from datamodules.findings import DataError

MARGIN = 0.1
WIDE = 0.9
"""Width by height of boxes from which on a square crop is proposed rather than an upright one."""


def select_poses(labels: Labels) -> None:
    """Leave the things with key points and their pictures; raises DataError where there are none."""
    there = _there(labels)
    _keep(labels, lambda thing: bool(thing.points), "things without a labelled key point")
    for picture in labels.pictures:
        if not picture.things:
            labels.left_out.add("images without a labelled key point", picture.name)
    labels.pictures = [picture for picture in labels.pictures if picture.things]
    if not labels.pictures:
        raise DataError(f"The source has no key points: say another --task. {there}")


def write_poses(task: Task) -> Written:
    """Key points and the skeleton."""
    labels, names = task.labels, task.labels.point_names()
    things = [thing for pictures in task.splits.values() for picture in pictures for thing in picture.things]
    classes = labels.class_names(things)
    typical = median([max(hull(list(t.points.values()))[2:]) for t in _pairs(things)] or [0.0])
    put_pictures(task, lambda split, picture: [Path(f"{split}2017", picture.name)])
    limbs = [(a, b) for a, b in labels.limbs if a in names and b in names]
    skeleton = [[names.index(a) + 1, names.index(b) + 1] for a, b in limbs]
    categories = [
        {"id": place, "name": name, "supercategory": "", "keypoints": names, "skeleton": skeleton}
        for place, name in enumerate(classes, 1)
    ]
    boxes: list[Box] = []

    def entry_of(thing: Thing, picture: Picture) -> dict[str, Any] | None:
        box = _inside(thing.extent() or _about(thing, picture, typical), picture)
        if box is None:
            return None
        boxes.append(box)
        points = [value for name in names for value in _inside_point(thing, name, picture, labels)]
        if not any(points[2::3]):
            return None
        entry = {"bbox": list(box), "keypoints": points, "num_keypoints": sum(v > 0 for v in points[2::3])}
        return entry | _area(thing, picture, box)

    counts = _write(task, "person_keypoints", classes, categories, entry_of)
    flips = _disjoint(labels.flip_pairs, names) or mirrored(names)
    content = {
        "names": names,
        "limbs": [list(p) for p in limbs],
        "flip_pairs": [list(p) for p in flips],
        "sigmas": 0.05,
    }
    text = "# What the key points mean. A mirror exchanges flip_pairs: correct them where names mislead.\n"
    text += yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    (task.folder / "skeleton.yaml").write_text(text, encoding="utf-8")
    overlay: dict[str, Any] = {"model.init_args.num_keypoints": len(names), "data.init_args.skeleton": "skeleton.yaml"}
    overlay |= _files("person_keypoints", task)
    shape = median([box[2] / box[3] for box in boxes] or [1.0])
    if shape > WIDE:
        overlay["data.init_args.image_size"] = [256, 256]
    notes = [] if labels.flip_pairs or not flips else [f"{len(flips)} mirror pairs by left and right in the names."]
    if not flips and len(names) > 1:
        notes = ["No mirror pairs: no name says left or right. Add `flip_pairs` to skeleton.yaml where there are some."]
    return Written("pose_custom.yaml", overlay, counts, notes)


def select_objects(labels: Labels) -> None:
    """Leave the things with boxes, and pictures without any; raises DataError where there are none."""
    there = _there(labels)
    _keep(labels, lambda thing: _box_of(thing) is not None, "things without a box or an outline")
    if not any(labels.things()):
        raise DataError(f"The source has neither boxes nor outlines: say another --task. {there}")


def write_objects(task: Task) -> Written:
    """Boxes, and outlines where the source has them."""
    labels = task.labels
    things = [thing for pictures in task.splits.values() for picture in pictures for thing in picture.things]
    classes = labels.class_names(things)
    put_pictures(task, lambda split, picture: [Path(f"{split}2017", picture.name)])
    categories = [{"id": place, "name": name, "supercategory": ""} for place, name in enumerate(classes, 1)]

    def entry_of(thing: Thing, picture: Picture) -> dict[str, Any] | None:
        box = _inside(_box_of(thing), picture)
        return None if box is None else {"bbox": list(box)} | _area(thing, picture, box)

    counts = _write(task, "instances", classes, categories, entry_of)
    overlay: dict[str, Any] = {"model.init_args.num_classes": len(classes)} | _files("instances", task)
    notes = []
    if all(thing.outlined for thing in things if not thing.crowd):
        notes.append("All have outlines: --model.detector mask_rcnn --data.masks true learns them too.")
    return Written("det_custom.yaml", overlay, counts, notes)


def _disjoint(pairs: Sequence[tuple[str, str]], names: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of known names, without those of which an earlier pair has a name: a point has one mirror image."""
    found: list[tuple[str, str]] = []
    for pair in pairs:
        if (
            set(pair) <= set(names)
            and pair[0] != pair[1]
            and not set(pair) & {name for other in found for name in other}
        ):
            found.append(pair)
    return found


def mirrored(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of names that differ in left and right alone, also as l and r at an end or between separators."""

    def other(name: str) -> str | None:
        for left, right in (("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT")):
            if left in name:
                return name.replace(left, right)
        for left, right in (("l", "r"), ("L", "R")):
            for mark in "_-. ":
                for old, new in ((f"{left}{mark}", f"{right}{mark}"), (f"{mark}{left}", f"{mark}{right}")):
                    if name.startswith(old) and old.endswith(mark):
                        return new + name[len(old) :]
                    if name.endswith(old) and old.startswith(mark):
                        return name[: -len(old)] + new
        return None

    found = [(name, other(name)) for name in names]
    return [(name, mirror) for name, mirror in found if mirror is not None and mirror in names]


# ---- what both have in common


def _write(
    task: Task,
    kind: str,
    classes: list[str],
    categories: list[dict],
    entry_of: Callable[[Thing, Picture], dict[str, Any] | None],
) -> dict[str, dict[str, int]]:
    """The annotation file of each split; how much is in it."""
    ids, counts, number = {name: place for place, name in enumerate(classes, 1)}, {}, 0
    (task.folder / "annotations").mkdir()
    image_number = 0
    for split, pictures in task.splits.items():
        images, annotations = [], []
        for picture in pictures:
            entries = []
            for thing in picture.things:
                entry = entry_of(thing, picture)
                if entry is None:
                    task.labels.left_out.add("things outside of their image", f"{thing.name} on {picture.name}")
                else:
                    entries.append({"category_id": ids[thing.name], "iscrowd": int(thing.crowd)} | entry)
            image_number += 1
            height, width = picture.size
            images.append({"id": image_number, "file_name": picture.name, "height": height, "width": width})
            for entry in entries:
                number += 1
                annotations.append({"id": number, "image_id": image_number} | entry)
        content = {"images": images, "annotations": annotations, "categories": categories}
        path = task.folder / "annotations" / f"{kind}_{split}2017.json"
        path.write_text(json.dumps(content, ensure_ascii=False, allow_nan=False), encoding="utf-8")
        counts[split] = {"images": len(images), "annotations": len(annotations)}
    return counts


def _files(kind: str, task: Task) -> dict[str, Any]:
    """Where the files of a test split are; those of the others are where the experiment has them."""
    if "test" not in task.splits:
        return {}
    splits = list(task.splits)
    return {
        "data.init_args.annotations": {split: f"annotations/{kind}_{split}2017.json" for split in splits},
        "data.init_args.images": {split: f"{split}2017" for split in splits},
    }


def _keep(labels: Labels, wanted: Callable[[Thing], bool], reason: str) -> None:
    """Drop the things that are not wanted."""
    for picture in labels.pictures:
        for thing in picture.things:
            if not wanted(thing):
                labels.left_out.add(reason, f"{thing.name} on {picture.name}")
        picture.things = [thing for thing in picture.things if wanted(thing)]


def _pairs(things: Sequence[Thing]) -> list[Thing]:
    return [thing for thing in things if len(thing.points) > 1]


def _box_of(thing: Thing) -> Box | None:
    """The box that a thing has; of a thing with points alone, about these."""
    extent = thing.extent()
    if extent is None and len(thing.points) > 1:
        return hull(list(thing.points.values()))
    return extent


def _about(thing: Thing, picture: Picture, typical: float) -> Box:
    """A box about the key points; of one alone, as large as is typical of the source."""
    x, y, width, height = hull(list(thing.points.values()))
    longer = max(width, height)
    margin = MARGIN * longer if longer >= 2 else (typical or min(picture.size) / 4) / 2
    return x - margin, y - margin, width + 2 * margin, height + 2 * margin


def _inside(box: Box, picture: Picture) -> Box | None:
    """The box cut off at the image's border; None where nothing is left. Sides below 0 are drawn from the other end."""
    (height, width), (x, y, across, down) = picture.size, box
    left, right = sorted((x, x + across))
    top, bottom = sorted((y, y + down))
    left, right, top, bottom = max(0.0, left), min(width, right), max(0.0, top), min(height, bottom)
    if right - left <= 0 or bottom - top <= 0:
        return None
    return tuple(round(float(value), 3) for value in (left, top, right - left, bottom - top))


def _inside_point(thing: Thing, name: str, picture: Picture, labels: Labels) -> tuple[float, float, int]:
    """x, y, visibility as COCO writes them; zeros where it is not labelled or outside of the image."""
    point = thing.points.get(name)
    if point is None:
        return 0, 0, 0
    if not (0 <= point.x <= picture.size[1] and 0 <= point.y <= picture.size[0]):
        labels.left_out.add("key points outside of their image", f"{name} on {picture.name}")
        return 0, 0, 0
    return round(float(point.x), 3), round(float(point.y), 3), point.visible


def _area(thing: Thing, picture: Picture, box: Box) -> dict[str, Any]:
    """Area in square pixels, and the outline where there is one. A pose's is about half its box (COCO's people)."""
    if not thing.outlined:
        return {"area": round(box[2] * box[3] * (0.53 if thing.points else 1.0), 3)}
    code = code_of(thing, picture.size)
    area = float(run_lengths.area(code))
    if area <= 0:
        return {"area": round(box[2] * box[3], 3)}
    plain = thing.polygons and not thing.crowd and thing.mask is None
    shape = [[round(float(v), 3) for v in polygon] for polygon in thing.polygons] if plain else code
    return {"area": area, "segmentation": shape}


def _there(labels: Labels) -> str:
    """What the source does have, as a sentence."""
    things = list(labels.things())
    found = {
        "pose (key points)": any(thing.points for thing in things),
        "detection (boxes)": any(thing.extent() is not None for thing in things),
        "segmentation (outlines, masks)": any(t.outlined for t in things) or any(p.mask for p in labels.pictures),
        "classification (classes of images)": any(picture.classes for picture in labels.pictures),
    }
    return f"It has what {', '.join(name for name, has in found.items() if has) or 'nothing'} needs."

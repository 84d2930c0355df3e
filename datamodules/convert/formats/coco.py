"""COCO's JSON as tools export it: key points (COCO Annotator, CVAT, ...), boxes, polygons, run-length codes.

The skeleton is that of the categories, whose lines count from 1. Data in this form train as they are
(`pose_custom.yaml`); converting them splits them, and writes the skeleton and the configuration.
"""

from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as run_lengths

from datamodules.convert.labels import Labels, Patch, Picture, Point, Thing
from datamodules.convert.pixels import ImageFile
from datamodules.convert.source_files import SPLITS, SourceFiles
from datamodules.findings import DataError
from datamodules.images.files import PIXEL_LIMIT
from datamodules.keypoints.coco_json import unpacked
from datamodules.keypoints.columns import identifier, numbers


def recognise(files: SourceFiles) -> list[Path]:
    """JSON files with images, annotations and categories."""
    return [path for path in files.ending_in(".json")[:50] if _is_coco(files, path)]


def _is_coco(files: SourceFiles, path: Path) -> bool:
    try:
        content = files.json(path)
    except DataError:
        return False
    keys = ("images", "annotations", "categories")
    return isinstance(content, dict) and all(isinstance(content.get(key), list) for key in keys)


def read(files: SourceFiles) -> Labels:
    """The labels of all files; a file or folder named after a split is of it.

    COCO has people in two files, `instances_*.json` and `person_keypoints_*.json`: what both have is one thing.
    """
    labels = Labels("coco")
    known: dict[tuple, Picture] = {}
    both = 0
    for path in recognise(files):
        content = files.json(path)
        names = {identifier(c.get("id")): str(c.get("name")) for c in content["categories"]}
        skeletons = {identifier(c.get("id")): _points_of(c, labels) for c in content["categories"]}
        labels.classes += [name for name in names.values() if name not in labels.classes]
        pictures = _pictures(content["images"], path, files, labels)
        pictures = {key: known.setdefault(picture.pixels.key, picture) for key, picture in pictures.items()}
        of_other_files = {id(picture): list(picture.things) for picture in pictures.values()}
        for entry in content["annotations"]:
            picture, category = pictures.get(identifier(entry.get("image_id"))), identifier(entry.get("category_id"))
            item = f"annotation {entry.get('id')} in {path.name}"
            if category not in names:
                labels.left_out.add("annotations of an unknown category", item)
            elif picture is not None:
                thing = _thing(entry, names[category], skeletons[category], picture.size, item, labels)
                twin = _twin(thing, of_other_files[id(picture)])
                both += twin is not None
                _join(twin, thing) if twin is not None else picture.things.append(thing)
    labels.pictures = list(known.values())
    if both:
        labels.notes.append(
            f"{both} things are in two files with one class and box; each is taken once, with all of both."
        )
    return labels


def _pictures(images: list[dict], path: Path, files: SourceFiles, labels: Labels) -> dict[Any, Picture]:
    """A file's images that are found, by id."""
    words = path.stem.lower().replace("-", "_").replace("2017", "").split("_")
    split = next((SPLITS[word] for word in words if word in SPLITS), files.split_of(path))
    pictures: dict[Any, Picture] = {}
    for image in images:
        name = str(image.get("file_name", ""))
        found = files.image(name, path.parent)
        if found is None:
            labels.left_out.add("images that were not found", name)
            continue
        picture = Picture(ImageFile(found), name, split=split)
        sides = numbers([image.get("height"), image.get("width")], 2)
        picture.size = None if sides is None or min(sides) < 1 else (int(sides[0]), int(sides[1]))
        pictures[identifier(image.get("id"))] = picture
    return pictures


def _twin(thing: Thing, others: list[Thing]) -> Thing | None:
    """The same thing as another file has it; it is taken from `others`, as it is met once."""
    for place, other in enumerate(others):
        if thing.box is not None and (thing.name, thing.box, thing.crowd) == (other.name, other.box, other.crowd):
            return others.pop(place)
    return None


def _join(thing: Thing, twin: Thing) -> None:
    """Give a thing what another file says of it besides."""
    thing.points |= twin.points
    if not thing.outlined:
        thing.polygons, thing.mask = twin.polygons, twin.mask


def _points_of(category: dict[str, Any], labels: Labels) -> list[str]:
    """Names of a category's key points."""
    names = [str(name) for name in category.get("keypoints") or []]
    labels.points += [name for name in names if name not in labels.points]
    for pair in category.get("skeleton") or []:
        if isinstance(pair, list) and len(pair) == 2 and all(type(p) is int and 1 <= p <= len(names) for p in pair):
            limb = (names[pair[0] - 1], names[pair[1] - 1])
            labels.limbs += [limb] if limb not in labels.limbs else []
    return names


def _thing(
    entry: dict[str, Any], name: str, names: list[str], size: tuple[int, int] | None, item: str, labels: Labels
) -> Thing:
    box, thing = numbers(entry.get("bbox"), 4), Thing(name, crowd=entry.get("iscrowd") == 1)
    thing.box = None if box is None else (box[0], box[1], box[2], box[3])
    stated = entry.get("keypoints")
    if stated:
        values = numbers(stated, 3 * len(names))
        if values is None:
            labels.left_out.add("lists of key points of another length than their category's", item)
        else:
            triples = zip(names, values[::3], values[1::3], values[2::3], strict=True)
            thing.points = {n: Point(x, y, 1 if v == 1 else 2) for n, x, y, v in triples if v > 0}
    shape = entry.get("segmentation")
    if isinstance(shape, list):
        thing.polygons = [p for p in shape if isinstance(p, list) and len(p) >= 6 and numbers(p, len(p)) is not None]
    elif isinstance(shape, dict):
        thing.mask = _patch(shape, size)
        if thing.mask is None:
            labels.left_out.add("run-length codes of another size than their image", item)
    return thing


def _patch(code: dict[str, Any], size: tuple[int, int] | None) -> Patch | None:
    """The pixels of a run-length code; None where it does not fill the image."""
    counts, stated = code.get("counts"), numbers(code.get("size"), 2)
    runs = unpacked(counts) if isinstance(counts, str) else counts
    if stated is None or size != (int(stated[0]), int(stated[1])) or not isinstance(runs, list):
        return None
    values = numbers(runs, len(runs))
    if values is None or min(values, default=-1) < 0 or sum(values) != size[0] * size[1] or sum(values) > PIXEL_LIMIT:
        return None
    whole = run_lengths.frPyObjects({"size": list(size), "counts": [int(run) for run in values]}, *size)
    return Patch(np.asarray(run_lengths.decode(whole), bool))

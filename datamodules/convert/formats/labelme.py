"""LabelMe: a JSON file an image, or a folder of them, with the shapes of `labelme`.

Polygons of one label and group are parts of one thing. Points are key points, of the thing with their group, else of
the smallest shape about them; a flag `occluded` or `hidden` says that a point is. Flags of the image are its classes.
"""

import base64
import binascii
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.convert.labels import Box, Labels, Patch, Picture, Point, Thing, assemble, circle, hull
from datamodules.convert.pixels import Embedded, ImageFile, Pixels
from datamodules.convert.source_files import SourceFiles
from datamodules.findings import DataError
from datamodules.images.files import opened
from datamodules.images.names import plain_spelling
from datamodules.keypoints.columns import number

HIDDEN = ("occluded", "hidden", "invisible")


def recognise(files: SourceFiles) -> list[Path]:
    """The JSON files of a folder, if the first few have LabelMe's keys."""
    paths = files.ending_in(".json")
    return paths if any(_is_labelme(files, path) for path in paths[:5]) else []


def _is_labelme(files: SourceFiles, path: Path) -> bool:
    try:
        content = files.json(path)
    except DataError:
        return False
    return isinstance(content, dict) and isinstance(content.get("shapes"), list) and "imagePath" in content


def read(files: SourceFiles) -> Labels:
    """The labels of all JSON files."""
    labels = Labels("labelme")
    for path in recognise(files):
        name = files.name_of(path)
        if not _is_labelme(files, path):
            labels.left_out.add("JSON files that are not LabelMe's", name)
            continue
        content = files.json(path)
        pixels = _pixels(content, path, files)
        if pixels is None:
            labels.left_out.add("images that were not found", str(content["imagePath"]))
            continue
        picture = Picture(pixels, name.removesuffix(path.suffix) + pixels.ending(), split=files.split_of(path))
        sides = number(content.get("imageHeight")), number(content.get("imageWidth"))
        picture.size = None if None in sides else (int(sides[0]), int(sides[1]))
        flags = content.get("flags")
        picture.classes = [str(flag) for flag, on in flags.items() if on is True] if isinstance(flags, dict) else []
        picture.things = _things(content["shapes"], name, labels)
        labels.pictures.append(picture)
    taken = {picture.pixels.key for picture in labels.pictures}
    for image in files.images_in(files.root) if files.source.is_dir() else ():
        if ImageFile(image).key not in taken and not image.with_suffix(".json").is_file():
            labels.left_out.add("images without a JSON file", files.name_of(image))
    return labels


def _pixels(content: dict[str, Any], path: Path, files: SourceFiles) -> Pixels | None:
    """The image file, or the copy of it within the JSON."""
    stated = plain_spelling(str(content["imagePath"]))
    found = files.image(stated, path.parent) or files.image_of_stem(path.stem, path.parent)
    if found is not None:
        return ImageFile(found)
    data = content.get("imageData")
    return Embedded(_decoded(data, path), path) if isinstance(data, str) and data else None


def _decoded(data: str, path: Path) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{path} has an image or mask that is no base64 ({error}): save the labels again.") from error


def _things(shapes: list[Any], item: str, labels: Labels) -> list[Thing]:
    things: list[Thing] = []
    grouped: dict[tuple[str, Any], Thing] = {}
    points: list[tuple[str, Point, Any]] = []
    for shape in shapes:
        name, corners = str(shape.get("label", "")), _corners(shape)
        kind, group = shape.get("shape_type") or "polygon", shape.get("group_id")
        if corners is None:
            labels.left_out.add("shapes whose points are no numbers", f"{name} in {item}")
        elif kind == "point":
            flags = shape.get("flags") or {}
            hidden = any(flags.get(flag) is True for flag in HIDDEN)
            points.append((name, Point(*corners[0], 1 if hidden else 2), group))
        else:
            part = _part(kind, shape, corners, name, item)
            if part is None:
                reason = f"shapes of the kind {kind}" if len(corners) > 1 else "shapes of a single corner"
                labels.left_out.add(reason, f"{name} in {item}")
                continue
            part.group = group
            whole = grouped.get((name, group)) if group is not None else None
            if whole is not None and part.polygons and whole.mask is None:
                whole.polygons += part.polygons
            elif whole is not None and part.box is not None and whole.box is None:
                whole.box = part.box
            elif whole is not None and whole.mask is None and part.mask is not None and not whole.polygons:
                whole.mask = part.mask
            else:
                things.append(part)
                if group is not None:
                    grouped.setdefault((name, group), part)
    return assemble(things, points, labels.left_out, item)


def _part(kind: str, shape: dict[str, Any], corners: list[tuple[float, float]], name: str, item: str) -> Thing | None:
    """A shape as a thing; None for lines and what has too few corners."""
    flat = list(chain.from_iterable(corners))
    if kind == "rectangle" and len(corners) >= 2:
        return Thing(name, box=hull(corners))
    if kind in ("polygon", "oriented_rectangle") and len(corners) >= 3:
        return Thing(name, polygons=[flat])
    if kind == "circle" and len(corners) == 2:
        (x, y), (edge_x, edge_y) = corners
        radius = float(np.hypot(edge_x - x, edge_y - y))
        return Thing(name, polygons=[circle(x, y, radius, radius)])
    if kind == "mask" and len(corners) == 2 and isinstance(shape.get("mask"), str):
        box: Box = hull(corners)
        return Thing(name, mask=_patch(shape["mask"], box, Path(item)))
    return None


def _patch(data: str, box: Box, path: Path) -> Patch:
    """The pixels of a mask, which lie from the upper left corner on."""
    with opened(f"A mask of {path}", _decoded(data, path)) as image:
        return Patch(np.asarray(image.convert("L")) > 0, round(box[0]), round(box[1]))


def _corners(shape: dict[str, Any]) -> list[tuple[float, float]] | None:
    points = shape.get("points")
    if not isinstance(points, list) or not points:
        return None
    found = [(number(p[0]), number(p[1])) if isinstance(p, list) and len(p) == 2 else (None, None) for p in points]
    return None if any(None in corner for corner in found) else [(float(x), float(y)) for x, y in found]

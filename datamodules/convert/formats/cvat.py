"""CVAT: "CVAT for images 1.1" and "CVAT for video 1.1", an annotations.xml and, where they were saved, its images.

Boxes, polygons, ellipses, masks, skeletons and tags; shapes of one label and group are parts of one thing. Of a point
`outside` means not labelled, `occluded` hidden. Of a video the frames with something on them are taken.
"""

import re
from collections import defaultdict
from itertools import chain
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from datamodules.convert.labels import Labels, Patch, Picture, Point, Thing, assemble, circle, turned
from datamodules.convert.pixels import ImageFile, Pixels, VideoFrame
from datamodules.convert.source_files import SPLITS, SourceFiles, parse_xml
from datamodules.findings import DataError
from datamodules.images.files import PIXEL_LIMIT
from datamodules.keypoints.columns import number

SHAPES = ("box", "polygon", "polyline", "points", "ellipse", "mask", "skeleton", "cuboid")


def recognise(files: SourceFiles) -> list[Path]:
    """XML files whose root is `annotations`."""
    return [path for path in files.ending_in(".xml")[:200] if _is_cvat(path)]


def _is_cvat(path: Path) -> bool:
    with path.open("rb") as file:
        return re.search(rb"<\s*annotations\b", file.read(4096)) is not None


def read(files: SourceFiles) -> Labels:
    """The labels of all files."""
    labels = Labels("cvat")
    for path in recognise(files):
        root = parse_xml(path)
        _read_skeletons(root, path, labels)
        for image in root.iter("image"):
            _read_image(image, root, path, files, labels)
        if root.find("track") is not None:
            _read_tracks(root, path, files, labels)
    return labels


def _read_skeletons(root: Element, path: Path, labels: Labels) -> None:
    """Classes in the order of the task, and the points and lines of skeletons."""
    for label in root.iter("label"):
        name, parent = label.findtext("name", ""), label.findtext("parent")
        if parent:
            labels.points += [name] if name not in labels.points else []
        elif name:
            labels.classes.append(name)
        drawing = label.findtext("svg")
        if label.findtext("type") == "skeleton" and drawing:
            drawn = parse_xml(path, f"<svg>{drawing}</svg>".encode())
            nodes = {c.get("data-node-id"): c.get("data-label-name") for c in drawn.iter("circle")}
            labels.points += [node for node in nodes.values() if node and node not in labels.points]
            ends = [(nodes.get(e.get("data-node-from")), nodes.get(e.get("data-node-to"))) for e in drawn.iter("line")]
            labels.limbs += [(a, b) for a, b in ends if a and b and (a, b) not in labels.limbs]


# ---- images


def _read_image(image: Element, root: Element, path: Path, files: SourceFiles, labels: Labels) -> None:
    name = image.get("name", "")
    pixels = _pixels(image, root, path, files)
    if pixels is None:
        labels.left_out.add("images that were not found", name)
        return
    subset = (image.get("subset") or "").lower()
    picture = Picture(pixels, Path(name).with_suffix("").as_posix() + pixels.ending(), split=SPLITS.get(subset))
    sides = number(image.get("height")), number(image.get("width"))
    picture.size = None if None in sides else (int(sides[0]), int(sides[1]))
    video = _video_of(root, image.get("task_id"))
    if video is not None:
        picture.group = f"{image.get('task_id', '')} {video}".strip()
    picture.classes = [tag.get("label", "") for tag in image.findall("tag")]
    picture.things = _things([shape for shape in image if shape.tag in SHAPES], name, labels)
    labels.pictures.append(picture)


def _pixels(image: Element, root: Element, path: Path, files: SourceFiles) -> Pixels | None:
    name = image.get("name", "")
    found = files.image(name, path.parent)
    if found is None and not Path(name).suffix:
        found = files.image_of_stem(name, path.parent)
    if found is not None:
        return ImageFile(found)
    source = _video_of(root, image.get("task_id"))
    video = files.video(source, path.parent) if source else None
    return VideoFrame(video, int(image.get("id", 0))) if video is not None else None


def _video_of(root: Element, task_id: str | None) -> str | None:
    """The video that a task is of; None for a task of images."""
    for task in chain(root.iter("task"), root.iter("job")):
        its_own = task_id is None or task.findtext("id") == task_id or root.find("meta/project") is None
        if its_own and task.findtext("mode") == "interpolation":
            return task.findtext("source") or root.findtext("meta/source") or task.findtext("name") or "video"
    return None


# ---- videos


def _read_tracks(root: Element, path: Path, files: SourceFiles, labels: Labels) -> None:
    shapes: dict[tuple[str | None, int], list[Element]] = defaultdict(list)
    for track in root.findall("track"):
        for shape in track:
            if shape.tag in SHAPES and shape.get("frame") is not None:
                shape.attrib.setdefault("label", track.get("label", ""))
                if track.get("group_id"):
                    shape.attrib.setdefault("group_id", track.get("group_id", ""))
                if shape.get("outside") != "1":
                    shapes[track.get("task_id"), int(shape.get("frame", 0))].append(shape)
    size = _original_size(root)
    for (task, frame), found in sorted(shapes.items(), key=lambda entry: (entry[0][0] or "", entry[0][1])):
        source = _video_of(root, task) or root.findtext("meta/task/name") or path.parent.name
        item = f"frame {frame} of {source}"
        pixels = _frame(frame, source, path, files)
        if pixels is None:
            labels.left_out.add("images that were not found", item)
            continue
        folder = Path(source).stem or "video"
        picture = Picture(pixels, f"{folder}/{frame:06d}{pixels.ending()}", size=size)
        picture.group = f"{task or path.name} {source}"
        picture.things = _things(found, item, labels)
        if picture.things:
            labels.pictures.append(picture)


def _original_size(root: Element) -> tuple[int, int] | None:
    for size in root.iter("original_size"):
        sides = number(size.findtext("height")), number(size.findtext("width"))
        return None if None in sides else (int(sides[0]), int(sides[1]))
    return None


def _frame(frame: int, source: str, path: Path, files: SourceFiles) -> Pixels | None:
    """Its image, as CVAT saves them, or its place in the video."""
    for stem in (f"frame_{frame:06d}", f"{frame:06d}"):
        found = files.image_of_stem(stem, path.parent)
        if found is not None:
            return ImageFile(found)
    video = files.video(source, path.parent)
    return None if video is None else VideoFrame(video, frame)


# ---- shapes


def _things(shapes: list[Element], item: str, labels: Labels) -> list[Thing]:
    things: list[Thing] = []
    grouped: dict[tuple[str, str], Thing] = {}
    loose: list[tuple[str, Point, Any]] = []
    for shape in sorted(shapes, key=lambda shape: int(number(shape.get("z_order")) or 0)):
        name, group = shape.get("label", ""), shape.get("group_id") or None
        group = None if group == "0" else group
        if shape.tag == "points":
            corners = _corners(shape.get("points"))
            if len(corners) == 1:
                loose.append((name, Point(*corners[0], _visible(shape)), group))
            elif corners:
                points = {str(place): Point(*corner, _visible(shape)) for place, corner in enumerate(corners, 1)}
                things.append(Thing(name, points=points))
            continue
        part = _part(shape, name, item)
        if part is None:
            labels.left_out.add(f"shapes of the kind {shape.tag}", f"{name} on {item}")
            continue
        part.group = group
        whole = grouped.get((name, group)) if group else None
        if whole is not None and part.polygons and whole.polygons:
            whole.polygons += part.polygons
        elif whole is not None and part.points and whole.box is not None and not whole.points:
            whole.points = part.points
        elif whole is not None and part.box is not None and whole.box is None and not whole.outlined:
            whole.box = part.box
        else:
            things.append(part)
            if group:
                grouped.setdefault((name, group), part)
    return assemble(things, loose, labels.left_out, item)


def _part(shape: Element, name: str, item: str) -> Thing | None:
    """A shape as a thing; None for lines, cuboids, and skeletons without a labelled point."""
    if shape.tag == "box":
        left, top, right, bottom = _numbers(shape, ("xtl", "ytl", "xbr", "ybr"), item)
        box = (left, top, right - left, bottom - top)
        degrees = number(shape.get("rotation")) or 0.0
        if degrees:  # about the centre
            return Thing(name, polygons=[turned(box, degrees, ((left + right) / 2, (top + bottom) / 2))])
        return Thing(name, box=box)
    if shape.tag == "polygon":
        corners = _corners(shape.get("points"))
        return Thing(name, polygons=[list(chain.from_iterable(corners))]) if len(corners) >= 3 else None
    if shape.tag == "ellipse":
        x, y, across, down = _numbers(shape, ("cx", "cy", "rx", "ry"), item)
        return Thing(name, polygons=[circle(x, y, across, down, number(shape.get("rotation")) or 0.0)])
    if shape.tag == "mask":
        return Thing(name, mask=_patch(shape, item))
    if shape.tag == "skeleton":
        points = {}
        for element in shape.findall("points"):
            corners = _corners(element.get("points"))
            if corners and element.get("outside") != "1":
                points[element.get("label", "")] = Point(*corners[0], _visible(element))
        return Thing(name, points=points) if points else None
    return None


def _visible(shape: Element) -> int:
    return 1 if shape.get("occluded") == "1" else 2


def _patch(shape: Element, item: str) -> Patch:
    """Run lengths of a rectangle, row by row, beginning with those that are not the thing's."""
    left, top, width, height = (int(v) for v in _numbers(shape, ("left", "top", "width", "height"), item))
    runs = [number(run) for run in shape.get("rle", "").split(",")]
    sound = None not in runs and all(run >= 0 for run in runs) and 0 < width * height <= PIXEL_LIMIT
    if not sound or sum(runs) != width * height:
        raise DataError(f"A mask on {item} has run lengths that do not fill its {width} x {height}: export again.")
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, np.array(runs, np.int64)).reshape(height, width)
    return Patch(pixels, left, top)


def _numbers(shape: Element, keys: tuple[str, ...], item: str) -> list[float]:
    found = [number(shape.get(key)) for key in keys]
    if None in found:
        raise DataError(f"A {shape.tag} on {item} lacks one of {', '.join(keys)}: export again.")
    return found


def _corners(text: str | None) -> list[tuple[float, float]]:
    """`x,y;x,y`; empty where that is not what stands there."""
    pairs = [pair.split(",") for pair in (text or "").split(";") if pair]
    found = [(number(p[0]), number(p[1])) if len(p) == 2 else (None, None) for p in pairs]
    return [] if any(None in corner for corner in found) else [(float(x), float(y)) for x, y in found]

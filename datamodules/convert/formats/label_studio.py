"""Label Studio: the export "JSON", a list of tasks with the regions of each annotation.

Positions are percents of the image. Of several annotations of a task the one marked as ground truth is taken, else the
first that was not cancelled. Key points belong to the region that is their parent or that a relation names, else to the
smallest one about them. Choices are classes of the image.
"""

from collections import defaultdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.convert.labels import UNNAMED, Labels, Patch, Picture, Point, Thing, assemble, circle, turned
from datamodules.convert.pixels import ImageFile
from datamodules.convert.source_files import SourceFiles
from datamodules.findings import DataError
from datamodules.images.files import PIXEL_LIMIT
from datamodules.keypoints.columns import number

REGIONS = ("rectangle", "polygon", "ellipse", "brush", "keypoint")


def recognise(files: SourceFiles) -> list[Path]:
    """JSON files with a list of tasks."""
    return [path for path in files.ending_in(".json")[:20] if _is_export(files, path)]


def _is_export(files: SourceFiles, path: Path) -> bool:
    try:
        content = files.json(path)
    except DataError:
        return False
    first = content[0] if isinstance(content, list) and content else None
    return (
        isinstance(first, dict)
        and isinstance(first.get("data"), dict)
        and ({"annotations", "completions"} & set(first))
    )


def read(files: SourceFiles) -> Labels:
    """The labels of all tasks."""
    labels = Labels("label_studio")
    for path in recognise(files):
        for task in files.json(path):
            _read_task(task, path, files, labels)
    return labels


def _read_task(task: dict[str, Any], path: Path, files: SourceFiles, labels: Labels) -> None:
    out, data = labels.left_out, task.get("data") or {}
    stated = next((str(data[key]) for key in ("image", "img", "photo", "picture") if key in data), None)
    stated = stated or next((v for v in data.values() if isinstance(v, str) and "." in v), "")
    item = stated or f"task {task.get('id')}"
    if task.get("predictions"):
        out.add("predictions of a model", item, len(task["predictions"]))
    annotations = [a for a in task.get("annotations") or task.get("completions") or [] if not a.get("was_cancelled")]
    if not annotations:
        out.add("images without an annotation", item)
        return
    chosen = next((a for a in annotations if a.get("ground_truth")), annotations[0])
    if len(annotations) > 1:
        out.add("further annotations of an image", item, len(annotations) - 1)
    image = files.image(stated, path.parent)
    if image is None:
        out.add("images that were not found", item)
        return
    picture = Picture(ImageFile(image), image.name)
    _read_regions(chosen.get("result") or [], picture, item, labels)
    labels.pictures.append(picture)


def _read_regions(results: list[dict[str, Any]], picture: Picture, item: str, labels: Labels) -> None:
    """Shapes and their labels, which come as one entry or as two with one id."""
    names: dict[Any, list[str]] = defaultdict(list)
    parents: dict[Any, Any] = {}
    for entry in results:
        value, kind = entry.get("value") or {}, str(entry.get("type", ""))
        if kind == "relation":
            parents |= {entry.get("from_id"): entry.get("to_id")}
        elif kind == "choices" and entry.get("id") not in names and "x" not in value:
            picture.classes += [str(choice) for choice in value.get("choices", [])]
        for key in value:
            if key == "labels" or (key.endswith("labels") and key == kind):
                names[entry.get("id")] += [str(name) for name in value[key] if str(name) not in names[entry.get("id")]]
        if entry.get("parentID"):
            parents[entry.get("id")] = entry["parentID"]
    things: dict[Any, Thing] = {}
    loose: list[tuple[Any, str, Point]] = []
    seen = set()
    for entry in results:
        kind = str(entry.get("type", "")).removesuffix("labels")
        key = entry.get("id")
        if kind not in REGIONS or key in seen:
            if kind not in (*REGIONS, "", "choices", "relation"):
                labels.left_out.add(f"regions of the kind {kind}", item)
            continue
        seen.add(key)
        name = names[key][0] if names[key] else UNNAMED
        sides = number(entry.get("original_width")), number(entry.get("original_height"))
        if None in sides or min(sides) < 1 or entry.get("image_rotation"):
            labels.left_out.add("regions of a turned image, or without its size", item)
            continue
        picture.size = int(sides[1]), int(sides[0])
        if kind == "keypoint":
            point = _point(entry.get("value") or {}, *sides)
            if point is None:
                labels.left_out.add("regions whose position is no number", item)
            else:
                loose.append((key, name, point))
        else:
            thing = _thing(kind, name, entry.get("value") or {}, *sides)
            if thing is None:
                labels.left_out.add("regions whose position is no number", item)
            else:
                thing.group = key
                things[key] = thing
    tied = [(name, point, _holder(key, parents, things)) for key, name, point in loose]
    picture.things = assemble(list(things.values()), tied, labels.left_out, item)


def _holder(key: Any, parents: dict[Any, Any], things: dict[Any, Thing]) -> Any:
    """The thing that a key point is tied to, in whichever direction the relation was drawn."""
    if parents.get(key) in things:
        return parents[key]
    return next((source for source, target in parents.items() if target == key and source in things), None)


def _point(value: dict[str, Any], width: float, height: float) -> Point | None:
    x, y = number(value.get("x")), number(value.get("y"))
    return None if x is None or y is None else Point(x * width / 100, y * height / 100)


def _thing(kind: str, name: str, value: dict[str, Any], width: float, height: float) -> Thing | None:
    """A region in pixels; None where its numbers are none."""
    if kind == "brush":
        mask = _brush(value.get("rle"), int(width), int(height)) if value.get("format") == "rle" else None
        return None if mask is None else Thing(name, mask=mask)
    if kind == "polygon":
        corners = value.get("points") if isinstance(value.get("points"), list) else []
        found = [(number(p[0]), number(p[1])) for p in corners if isinstance(p, list) and len(p) == 2]
        if len(found) < 3 or len(found) < len(corners) or any(None in corner for corner in found):
            return None
        return Thing(name, polygons=[list(chain.from_iterable((x * width / 100, y * height / 100) for x, y in found))])
    keys = ("x", "y", "width", "height") if kind == "rectangle" else ("x", "y", "radiusX", "radiusY")
    numbers = [number(value.get(key)) for key in keys]
    if None in numbers:
        return None
    x, across = numbers[0] * width / 100, numbers[2] * width / 100
    y, down = numbers[1] * height / 100, numbers[3] * height / 100
    degrees = number(value.get("rotation")) or 0.0
    if kind == "ellipse":
        return Thing(name, polygons=[circle(x, y, across, down, degrees)])
    if degrees:  # about the upper left corner
        return Thing(name, polygons=[turned((x, y, across, down), degrees, (x, y))])
    return Thing(name, box=(x, y, across, down))


def _brush(codes: Any, width: int, height: int) -> Patch | None:
    """The pixels of a brush: the last band of an RGBA image, in Label Studio's run-length code of bits.

    The code begins with the number of values (32 bits), the bits of a value less 1 (5) and four lengths of run lengths
    less 1 (4 each). Then come runs: 1 bit whether one value repeats, 2 bits which of the four lengths, the run length
    less 1, and the value or values.
    """
    total = 4 * width * height
    if not isinstance(codes, list) or len(codes) < 8 or total > 4 * PIXEL_LIMIT:
        return None
    try:
        bits = np.unpackbits(np.array(codes, np.uint8))
    except (TypeError, ValueError, OverflowError):
        return None
    text = (bits + ord("0")).tobytes().decode()
    if int(text[:32], 2) != total:
        return None
    size, at = int(text[32:37], 2) + 1, 37
    lengths = []
    for _ in range(4):
        lengths.append(int(text[at : at + 4], 2) + 1)
        at += 4
    values, place = np.zeros(total, np.uint8), 0
    while place < total:
        if at + 3 > len(text):
            return None
        repeated, which = text[at] == "1", int(text[at + 1 : at + 3], 2)
        at += 3
        length = lengths[which]
        if at + length + size > len(text):
            return None
        run = int(text[at : at + length], 2) + 1
        at += length
        if repeated:
            values[place : place + run] = int(text[at : at + size], 2) > 0
            at += size
        else:
            if at + run * size > len(text) or place + run > total:
                return None
            each = bits[at : at + run * size].reshape(run, size)
            values[place : place + run] = each.any(axis=1)
            at += run * size
        place += run
    return Patch(values.reshape(height, width, 4)[..., 3] > 0)

"""VGG Image Annotator 1, 2 and 3: a project or export as JSON, or the export of 1 and 2 as CSV.

The class of a region is its attribute `label`, `class`, `name`, `type`, `category` or `species`, else the only one it
has. Points are key points of those names; an attribute `group`, `instance` or `id` ties them to a region.
"""

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from datamodules.convert.formats import via3
from datamodules.convert.labels import UNNAMED, Labels, LeftOut, Picture, Point, Thing, assemble, circle
from datamodules.convert.pixels import Embedded, ImageFile, VideoFrame, frame_at
from datamodules.convert.source_files import SourceFiles, read_csv
from datamodules.findings import DataError
from datamodules.keypoints.columns import number

NAMES = ("label", "class", "name", "type", "category", "species")
GROUPS = ("group", "instance", "id")
COLUMNS = {"filename", "region_shape_attributes", "region_attributes"}


def recognise(files: SourceFiles) -> list[Path]:
    """JSON files whose entries have regions, and CSV files with VIA's columns."""
    found = [path for path in files.ending_in(".json")[:20] if _entries(files, path, LeftOut())]
    return found + [path for path in files.ending_in(".csv")[:20] if set(_header(path)) >= COLUMNS]


def _header(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return [cell.strip().strip('"').lstrip("#") for cell in file.readline(4096).split(",")]


def _entries(files: SourceFiles, path: Path, left_out: LeftOut) -> list[dict[str, Any]]:
    """The images of a JSON file; empty if it is not VIA's."""
    try:
        content = files.json(path)
    except DataError:
        return []
    if via3.is_project(content):
        return via3.entries(content, left_out)
    content = content.get("_via_img_metadata", content) if isinstance(content, dict) else {}
    entries = list(content.values()) if isinstance(content, dict) else []
    right = bool(entries) and all(isinstance(e, dict) and "filename" in e and "regions" in e for e in entries)
    return entries if right else []


def read(files: SourceFiles) -> Labels:
    """The labels of all files; of a JSON and a CSV file both."""
    labels = Labels("via")
    for path in recognise(files):
        folder = ""
        if path.suffix.lower() == ".json":
            entries = _entries(files, path, labels.left_out)
            settings = files.json(path).get("_via_settings")
            core = settings.get("core") if isinstance(settings, dict) else None
            folder = str(core.get("default_filepath") or "") if isinstance(core, dict) else ""
        else:
            entries = list(_of_csv(path))
        for entry in entries:
            _read_entry(entry, folder, path, files, labels)
    return labels


def _of_csv(path: Path) -> Iterator[dict[str, Any]]:
    """The images of a CSV file, which has a row a region."""
    header, *rows = read_csv(path)
    columns = {name.strip().lstrip("#"): place for place, name in enumerate(header)}
    images: dict[str, dict[str, Any]] = {}
    for line, row in enumerate(rows, 2):
        if len(row) < len(columns):
            continue
        cells = {name: row[place] for name, place in columns.items()}
        try:
            shape, attributes, said = (
                json.loads(cells.get(key) or "{}")
                for key in ("region_shape_attributes", "region_attributes", "file_attributes")
            )
        except ValueError as error:
            raise DataError(f"{path}, line {line}: attributes are no JSON ({error}): export it again.") from error
        image = images.setdefault(
            cells["filename"], {"filename": cells["filename"], "regions": [], "file_attributes": said}
        )
        if shape:
            image["regions"].append({"shape_attributes": shape, "region_attributes": attributes})
    yield from images.values()


def _read_entry(entry: dict[str, Any], folder: str, path: Path, files: SourceFiles, labels: Labels) -> None:
    name = str(entry["filename"])
    picture = _picture(entry, folder, path, files)
    if picture is None:
        labels.left_out.add("images that were not found", name)
        return
    regions = entry["regions"]
    regions = list(regions.values()) if isinstance(regions, dict) else regions or []
    said = entry.get("file_attributes")
    classes = [_text(said[key]) for key in NAMES if said.get(key)] if isinstance(said, dict) else []
    picture.classes = classes[:1]
    things: list[Thing] = []
    points: list[tuple[str, Point, Any]] = []
    for region in regions:
        shape, attributes = region.get("shape_attributes") or {}, region.get("region_attributes") or {}
        label, kind = _label(attributes), str(shape.get("name", ""))
        group = next((_text(attributes[key]) for key in GROUPS if attributes.get(key)), None)
        found = _shape(kind, shape, label)
        if found is None:
            labels.left_out.add(f"regions of the kind {kind or '(none)'}", f"{label} on {name}")
        elif isinstance(found, Point):
            points.append((label, found, group))
        else:
            found.group = group
            things.append(found)
    picture.things = assemble(things, points, labels.left_out, name)
    labels.pictures.append(picture)


def _picture(entry: dict[str, Any], folder: str, path: Path, files: SourceFiles) -> Picture | None:
    """An entry's image, frame of a video or bytes; None where they are not found."""
    name, seconds = str(entry["filename"]), entry.get("seconds")
    if entry.get("data") is not None:
        return Picture(Embedded(entry["data"], path), name)
    names = [*entry.get("names", ()), folder + name, name]
    find = files.image if seconds is None else files.video
    found = next(filter(None, (find(stated, path.parent) for stated in names)), None)
    if found is None:
        return None
    if seconds is not None:
        number = frame_at(found, seconds)
        pixels = VideoFrame(found, number)
        return Picture(pixels, f"{found.name}/{number:06d}.png", group=found.name, split=files.split_of(found))
    shown = files.name_of(found) if found.is_relative_to(files.root) else found.name
    return Picture(ImageFile(found), shown, split=files.split_of(found))


def _label(attributes: dict[str, Any]) -> str:
    """The class that a region's attributes say."""
    key = next((key for key in NAMES if attributes.get(key)), None)
    if key is None:
        others = [other for other, value in attributes.items() if value and other not in GROUPS]
        key = others[0] if len(others) == 1 else None
    return UNNAMED if key is None else _text(attributes[key])


def _text(value: Any) -> str:
    """A value; of check boxes the first that is ticked."""
    return next((str(option) for option, on in value.items() if on), "") if isinstance(value, dict) else str(value)


def _shape(kind: str, shape: dict[str, Any], label: str) -> Thing | Point | None:
    """A region in pixels; None for lines, and where its numbers are none."""
    keys = {
        "rect": ("x", "y", "width", "height"), "circle": ("cx", "cy", "r"), "ellipse": ("cx", "cy", "rx", "ry"),
        "point": ("cx", "cy"),
    }.get(kind, ())  # fmt: skip
    numbers = [number(shape.get(key)) for key in keys]
    if None in numbers:
        return None
    if kind == "rect":
        return Thing(label, box=tuple(numbers))
    if kind == "point":
        return Point(*numbers)
    if kind == "circle":
        return Thing(label, polygons=[circle(*numbers, numbers[2])])
    if kind == "ellipse":
        return Thing(label, polygons=[circle(*numbers, (number(shape.get("theta")) or 0.0) * 180 / 3.141592653589793)])
    if kind == "polygon":
        axes = shape.get("all_points_x"), shape.get("all_points_y")
        if all(isinstance(axis, list) and len(axis) >= 3 for axis in axes) and len(axes[0]) == len(axes[1]):
            corners = [number(v) for v in chain.from_iterable(zip(*axes, strict=True))]
            return None if None in corners else Thing(label, polygons=[corners])
    return None

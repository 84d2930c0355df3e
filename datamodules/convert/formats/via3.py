"""VGG Image Annotator 3: its project's JSON in the form that versions 1 and 2 have, an entry an image or frame.

A project has tables. `file` says what an image or video is called, `view` which files are shown together, `attribute`
what is asked for, with the texts of options, and `metadata` what is answered of a view: `xy` is the number of a shape
and its coordinates, `z` seconds of a video, `av` attribute -> value, or option.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np

from datamodules.convert.labels import LeftOut, hull
from datamodules.keypoints.columns import numbers

TABLES = ("project", "config", "attribute", "file", "metadata", "view")
IMAGE, VIDEO = 2, 4
INLINE = 4
TEXT, CHECKBOX = 1, 2
DELETED = 1
POINT, RECTANGLE, CIRCLE, ELLIPSE, LINE, POLYLINE, POLYGON, EXTREME_RECTANGLE, EXTREME_CIRCLE = range(1, 10)
KEYS = {
    POINT: ("point", "cx", "cy"),
    RECTANGLE: ("rect", "x", "y", "width", "height"),
    CIRCLE: ("circle", "cx", "cy", "r"),
    ELLIPSE: ("ellipse", "cx", "cy", "rx", "ry"),
}
OTHERS = {LINE: "line", POLYLINE: "polyline"}


def is_project(content: Any) -> bool:
    """Whether a JSON file's content has the tables of a project."""
    return isinstance(content, dict) and all(isinstance(content.get(table), dict) for table in TABLES)


def entries(content: dict[str, Any], left_out: LeftOut) -> list[dict[str, Any]]:
    """Images as version 2 writes them; `names` are further ones of the file, `seconds` are of a video, `data` an image.

    Args:
        content: A project.
        left_out: Gets what has no place in an image.
    """
    found: dict[tuple[str, float | None], dict[str, Any]] = {}
    for key, view in content["view"].items():
        file = _only_file(content, view)
        if file is not None and file.get("type") == IMAGE:
            found[key, None] = _entry(content, file)
    for name, said in content["metadata"].items():
        key, seconds, shape = str(said.get("vid")), said.get("z") or [], said.get("xy") or []
        file, item = _only_file(content, content["view"].get(key)), f"{name}"
        if said.get("flg") == DELETED:
            left_out.add("regions that are deleted", item)
        elif file is None:
            left_out.add("regions of views of no or several files", item)
        elif len(seconds) > 1 or (file.get("type") != IMAGE and not (file.get("type") == VIDEO and seconds and shape)):
            left_out.add("segments of time, and attributes of videos and sounds", item)
        else:
            time = numbers(seconds, 1) if file.get("type") == VIDEO else [None]
            place = key, None if time is None else time[0]
            entry = found.setdefault(place, _entry(content, file) | {"seconds": place[1]})
            values = _values(content["attribute"], said.get("av") or {})
            if shape:
                entry["regions"].append({"shape_attributes": _shape(shape), "region_attributes": values})
            else:
                entry["file_attributes"] |= values
    return list(found.values())


def _only_file(content: dict[str, Any], view: Any) -> dict[str, Any] | None:
    """The file of a view that shows one."""
    ids = view.get("fid_list") if isinstance(view, dict) else None
    return content["file"].get(str(ids[0])) if isinstance(ids, list) and len(ids) == 1 else None


def _entry(content: dict[str, Any], file: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of a file, without regions: its name, its address behind the folder of its kind, bytes within."""
    name, address, place = str(file.get("fname") or ""), str(file.get("src") or ""), file.get("loc")
    entry: dict[str, Any] = {"filename": name, "regions": [], "file_attributes": {}}
    if place == INLINE:
        return entry | {"data": _bytes(address)}
    folders = (content["config"].get("file") or {}).get("loc_prefix") or {}
    folder = str(folders.get(str(place)) or "")
    return entry | {"names": [folder + address, address, folder + name] if address else [folder + name]}


def _bytes(address: str) -> bytes | None:
    """What a `data:` address holds; None if it is none."""
    try:
        return base64.b64decode(address.partition(";base64,")[2], validate=True) or None
    except binascii.Error:
        return None


def _values(attributes: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, str]:
    """Attribute's name in small letters -> text; of several options that are ticked, the first."""
    found = {}
    for key, value in said.items():
        attribute, text = attributes.get(key) or {}, str(value)
        if attribute.get("type", TEXT) != TEXT:
            options = attribute.get("options") or {}
            chosen = text.split(",") if attribute["type"] == CHECKBOX else [text]
            text = next((str(options[option]) for option in chosen if option in options), "")
        found[str(attribute.get("aname") or key).lower()] = text
    return found


def _shape(shape: list[Any]) -> dict[str, Any]:
    """A shape as version 2 writes it; without a name's coordinates where its numbers are none."""
    kind, values = shape[0], numbers(shape[1:], len(shape) - 1)
    if values is not None and len(values) % 2 == 0:
        pairs = list(zip(values[::2], values[1::2], strict=True))
        if kind == POLYGON:
            return {"name": "polygon", "all_points_x": values[::2], "all_points_y": values[1::2]}
        if kind == EXTREME_RECTANGLE and pairs:
            return dict(zip(("name", *KEYS[RECTANGLE][1:]), ("rect", *hull(pairs)), strict=True))
        if kind == EXTREME_CIRCLE and len(pairs) == 3:
            return _circle(pairs)
    name, *keys = KEYS.get(kind, (OTHERS.get(kind, f"{kind}"),))
    return {"name": name} | dict(zip(keys, values or (), strict=False))


def _circle(points: list[tuple[float, float]]) -> dict[str, Any]:
    """The circle through three points; without coordinates where they are on a line."""
    first, second, third = np.array(points)
    chords = np.array([second - first, third - first])
    if abs(np.linalg.det(chords)) < 1e-9:
        return {"name": "circle"}
    centre = first + np.linalg.solve(2 * chords, (chords**2).sum(axis=1))
    radius = float(np.linalg.norm(centre - first))
    return {"name": "circle", "cx": float(centre[0]), "cy": float(centre[1]), "r": radius}

"""YOLO: boxes, polygons (also turned boxes) or key points, a text file an image with a line a thing, and data.yaml.

Lines are `class x y width height` (the centre's x, y), then of poses x, y and visibility of each point, or `class`
and x, y of corners; all in shares of the image. `kpt_shape` of data.yaml says that the lines are poses.
"""

import math
from pathlib import Path
from typing import Any

from datamodules.convert.labels import Labels, Picture, Point, Thing
from datamodules.convert.pixels import ImageFile
from datamodules.convert.source_files import SPLITS, SourceFiles
from datamodules.findings import DataError
from datamodules.loading.text_files import ConfigError, read_text, read_yaml

NAME_FILES = ("classes.txt", "obj.names", "labels.txt", "names.txt")
SPLIT_KEYS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def recognise(files: SourceFiles) -> list[Path]:
    """The YAML file that names the classes, or a text file of names beside text files of numbers."""
    found = [path for path in files.ending_in(".yaml", ".yml") if _described(path) is not None]
    if found:
        return found[:1]
    names = [path for path in files.ending_in(".txt", ".names") if path.name in NAME_FILES]
    lines = [path for path in files.ending_in(".txt")[:50] if path.name not in NAME_FILES and _has_lines(path)]
    return names[:1] if names and lines else []


def _described(path: Path) -> dict[str, Any] | None:
    try:
        content = read_yaml(path)
    except ConfigError:
        return None
    right = isinstance(content, dict) and isinstance(content.get("names"), list | dict) and "train" in content
    return content if right else None


def _has_lines(path: Path) -> bool:
    with path.open(encoding="utf-8", errors="replace") as file:
        words = file.readline(4096).split()
    try:
        return len(words) >= 5 and all(math.isfinite(float(word)) for word in words)
    except ValueError:
        return False


def read(files: SourceFiles) -> Labels:
    """The labels of all splits."""
    labels, paths = Labels("yolo"), recognise(files)
    if not paths:
        raise DataError(f"{files.source} has neither a data.yaml with `names` and `train`, nor a classes.txt: add one.")
    path = paths[0]
    described = _described(path) if path.suffix in (".yaml", ".yml") else None
    if described is None:
        labels.classes = [line.strip() for line in read_text(path).splitlines() if line.strip()]
        images = [(None, image) for image in files.images_in(files.root)]
        names, shape = dict(enumerate(labels.classes)), None
    else:
        names = _numbered(described["names"])
        labels.classes = [names[key] for key in sorted(names)]
        shape = _points_of(described, path, labels)
        images = [
            (SPLIT_KEYS[key], image)
            for key in SPLIT_KEYS
            for stated in _listed(described.get(key))
            for image in _images(stated, described, path, files, labels)
        ]
    for split, image in images:
        _read_image(image, split, names, shape, files, labels)
    return labels


def _numbered(names: Any) -> dict[int, str]:
    return {int(key): str(name) for key, name in (names.items() if isinstance(names, dict) else enumerate(names))}


def _points_of(described: dict[str, Any], path: Path, labels: Labels) -> tuple[int, int] | None:
    """(points, numbers a point), and the points' names and mirror pairs; None where there are no key points."""
    shape = described.get("kpt_shape")
    if shape is None:
        return None
    if not (isinstance(shape, list) and len(shape) == 2 and shape[0] > 0 and shape[1] in (2, 3)):
        raise DataError(f"{path} has kpt_shape {shape}, expected the number of key points and 2 or 3.")
    stated = described.get("kpt_names")
    stated = next(iter(stated.values()), None) if isinstance(stated, dict) else stated
    right = isinstance(stated, list) and len(stated) == shape[0]
    labels.points = [str(name) for name in stated] if right else [f"point_{place}" for place in range(shape[0])]
    if not right:
        labels.notes.append(f"{path.name} names no key points (kpt_names): they are point_0, point_1, ...")
    mirror = described.get("flip_idx") or []
    for place, other in enumerate(mirror):
        if place < other < shape[0]:
            labels.flip_pairs.append((labels.points[place], labels.points[other]))
    return shape[0], shape[1]


def _listed(value: Any) -> list[str]:
    return [str(entry) for entry in (value if isinstance(value, list) else [value]) if entry]


def _images(stated: str, described: dict[str, Any], path: Path, files: SourceFiles, labels: Labels) -> list[Path]:
    """The images of a folder or of a list of files, relative to `path` of the YAML file or to its folder."""
    bases = [path.parent / str(described.get("path") or "."), path.parent]
    names = [stated, stated.lstrip("./")]  # exports write ../train/images for train/images
    for place in dict.fromkeys(base / name for base in bases for name in names):
        if place.is_dir():
            return files.images_in(place)
        if place.is_file():
            found = []
            for line in read_text(place).splitlines():
                image = files.image(line.strip().removeprefix("./"), place.parent)
                if image is not None:
                    found.append(image)
                elif line.strip():
                    labels.left_out.add("images that were not found", line.strip())
            return found
    raise DataError(f"{path} names the images {stated}, which are neither in {bases[0]} nor in {bases[1]}: correct it.")


def _labels_of(image: Path) -> Path | None:
    """The text file of an image: in `labels` for `images`, or beside it."""
    parts = list(image.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            path = Path(*parts[:place], "labels", *parts[place + 1 :]).with_suffix(".txt")
            if path.is_file():
                return path
            break
    beside = image.with_suffix(".txt")
    return beside if beside.is_file() else None


def _read_image(
    image: Path, split: str | None, names: dict[int, str], shape: tuple[int, int] | None, files: SourceFiles,
    labels: Labels,
) -> None:  # fmt: skip
    pixels, item = ImageFile(image), files.name_of(image)
    try:
        height, width = pixels.header().shown
    except DataError as error:
        labels.left_out.add("images that cannot be read", str(error))
        return
    picture = Picture(pixels, item, split=split or files.split_of(image), size=(height, width))
    parts = [part for part in Path(item).parts if part.lower() not in {"images", *SPLITS}]
    picture.name = "/".join(parts)
    text = _labels_of(image)
    for line, words in enumerate((row.split() for row in read_text(text).splitlines()) if text else (), 1):
        if words:
            thing = _thing(words, names, shape, width, height, f"{text}, line {line}", labels)
            picture.things += [thing] if thing is not None else []
    if text is None:
        labels.left_out.add("text files of images, which are taken as images without things", item)
    labels.pictures.append(picture)


def _thing(
    words: list[str], names: dict[int, str], shape: tuple[int, int] | None, width: int, height: int, place: str,
    labels: Labels,
) -> Thing | None:  # fmt: skip
    try:
        key, *numbers = int(float(words[0])), *map(float, words[1:])
    except ValueError as error:
        raise DataError(f"{place} has {' '.join(words)[:60]!r}: expected a class and numbers.") from error
    if not all(map(math.isfinite, numbers)):
        raise DataError(f"{place} has a number that is not finite: correct it.")
    name = names.get(key, f"class_{key}")
    if shape is not None and len(numbers) == 4 + shape[0] * shape[1]:
        return Thing(
            name, _box(numbers[:4], width, height), _points(numbers[4:], shape[1], labels.points, width, height)
        )
    if len(numbers) == 4:
        return Thing(name, _box(numbers, width, height))
    if shape is None and len(numbers) >= 6 and len(numbers) % 2 == 0:
        sides = [width, height] * (len(numbers) // 2)
        return Thing(name, polygons=[[value * side for value, side in zip(numbers, sides, strict=True)]])
    labels.left_out.add("lines with another count of numbers than boxes, polygons or poses have", place)
    return None


def _box(numbers: list[float], width: int, height: int) -> tuple[float, float, float, float]:
    x, y, across, down = numbers
    return (x - across / 2) * width, (y - down / 2) * height, across * width, down * height


def _points(numbers: list[float], size: int, names: list[str], width: int, height: int) -> dict[str, Point]:
    """The labelled points; without a visibility those that are not at 0, 0."""
    found = {}
    for place, name in enumerate(names):
        x, y, *said = numbers[size * place : size * (place + 1)]
        visible = min(2, math.ceil(said[0])) if said else 2 * any((x, y))
        if visible > 0:
            found[name] = Point(x * width, y * height, int(visible))
    return found

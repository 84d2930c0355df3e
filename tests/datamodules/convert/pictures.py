"""Pictures that tests label: no two alike, so that none is taken for a copy of another."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.convert import Converted


def picture(path: Path, width: int = 64, height: int = 48, **options: Any) -> Path:
    """Noise that depends on the file's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(zlib.crc32(str(path).encode()))
    Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path, **options)
    return path


def text(path: Path, content: Any) -> Path:
    """A text file, or a JSON file of anything else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def entries(converted: Converted, kind: str = "person_keypoints") -> dict[str, list[dict]]:
    """The annotations of both splits by the file name of their image."""
    found: dict[str, list[dict]] = {}
    for split in ("train", "val"):
        content = json.loads((converted.folder / f"annotations/{kind}_{split}2017.json").read_text(encoding="utf-8"))
        names = {image["id"]: image["file_name"] for image in content["images"]}
        found |= {name: [] for name in names.values()}
        for entry in content["annotations"]:
            found[names[entry["image_id"]]].append(entry)
    return found


def points(entry: dict) -> list[tuple[float, float, int]]:
    """x, y, visibility of each key point."""
    values = entry["keypoints"]
    return list(zip(values[::3], values[1::3], values[2::3], strict=True))


def labelled(root: Path, count: int = 8) -> Path:
    """LabelMe's files of images in folders with spaces and accents: a box, an outline, two points, and a class each."""
    for i in range(count):
        path = root / ("été 1" if i % 2 else "b") / f"photo {i}.json"
        image = picture(path.with_suffix(".jpg"), width=80 - i)
        x, y = 10 + i, 8
        corners = {
            "rectangle": [[x, y], [x + 30, y + 30]],
            "polygon": [[x, y], [x + 30, y], [x + 30, y + 30], [x, y + 25]],
        }
        shapes = [
            {"label": "left mouse" if i % 3 else "mouse", "shape_type": k, "points": c, "group_id": i}
            for k, c in corners.items()
        ]
        shapes += [
            {"label": f"{side}_ear", "shape_type": "point", "points": [[x + d, y + d]], "group_id": i}
            for side, d in (("left", 5), ("right", 20))
        ]
        content = {"version": "5.4.1", "flags": {"day": i % 2 == 0, "night": i % 2 == 1}, "shapes": shapes}
        text(path, content | {"imagePath": image.name, "imageData": None, "imageHeight": 48, "imageWidth": 80 - i})
    return root

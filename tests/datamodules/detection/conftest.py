"""Drawn objects that the tests of detection share."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from datamodules import CocoDetection

CLASSES = {7: "cat", 3: "dog", 90: "bird"}


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty images of rectangles in three classes, portrait and landscape, one in five empty, and crowds."""
    root, rng = tmp_path_factory.mktemp("drawn"), np.random.default_rng(0)
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        (root / f"{split}2017").mkdir()
        images, annotations = [], []
        for number in range(1, 21):
            height, width = (int(v) for v in rng.integers(60, 120, 2))
            pixels = rng.integers(0, 60, (height, width, 3), np.uint8)
            for _ in range(number % 5):
                x, y = (int(v) for v in rng.integers(0, (width - 20, height - 20)))
                w, h = (int(v) for v in rng.integers(8, 20, 2))
                pixels[y : y + h, x : x + w] = 255
                crowd = len(annotations) % 6 == 5
                segmentation: Any = [[x, y, x + w, y, x + w, y + h, x, y + h]]
                if crowd or len(annotations) % 2:
                    mask = np.zeros((height, width), np.uint8, order="F")
                    mask[y : y + h, x : x + w] = 1
                    code = coco_mask.encode(mask)
                    segmentation = {"size": [height, width], "counts": code["counts"].decode()}
                annotations.append(
                    {
                        "id": 100 + len(annotations),
                        "image_id": number,
                        "category_id": list(CLASSES)[len(annotations) % 3],
                        "bbox": [x, y, w, h],
                        "area": w * h - 1,
                        "iscrowd": int(crowd),
                        "segmentation": segmentation,
                    }
                )
            Image.fromarray(pixels).save(root / f"{split}2017" / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        categories = [{"id": key, "name": name} for key, name in CLASSES.items()]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return root


def content_of(root: Path, split: str = "val") -> dict[str, Any]:
    return json.loads((root / "annotations" / f"instances_{split}2017.json").read_text())


def detection(root: Path | str, **options: Any) -> CocoDetection:
    return CocoDetection(root, **{"image_size": (128, 128), "batch_size": 4, "num_workers": 0} | options)

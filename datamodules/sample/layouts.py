"""The embedded sample data in the official layouts of the segmentation and classification data sets.

All are cut from the pictures and part masks of `sample_coco()`. LIP's classes are what they say; for the other data
sets a body part stands in for one of their classes, so that every id map and ignore rule is exercised.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from datamodules.images.pixels import read_image
from datamodules.sample.coco import sample_coco, written_once

VERSION = 4  # a change of the pictures or labels must raise it
SAMPLE = Path("data/sample")
NUM_IMAGES = {"train": 600, "val": 150}
NUM_OF_CLASS = {"train": 75, "val": 40}

# What the parts of `PART_NAMES` become: background, hair, face, torso, hips, arms, legs, shoes (left, right).
FOLDER_IDS = np.arange(11, dtype=np.uint8)
LIP_IDS = np.array([0, 2, 13, 5, 9, 14, 15, 16, 17, 18, 19], np.uint8)
# building, vegetation, person, car, car, bicycle, pole, static (void)
CITYSCAPES_IDS = np.array([11, 21, 24, 26, 26, 33, 33, 17, 17, 4, 4], np.uint8)
# wall, grass, person, cloth, cloth, wood, road, background
PASCAL_CONTEXT_IDS = np.array([56, 29, 37, 18, 18, 59, 59, 41, 41, 0, 0], np.uint8)
# wall, tree, person, apparel, apparel, pole, path, 0 (ignored)
ADE20K_IDS = np.array([1, 5, 13, 93, 93, 94, 94, 53, 53, 0, 0], np.uint8)
HAIR, FACE, TORSO, LEGS, SHOES = (1,), (2,), (3,), (7, 8), (9, 10)
CLASSES = ("back_of_head", "background", "face", "legs", "shoe", "torso")
SYNSETS = tuple(f"n{number:08d}" for number in range(1, len(CLASSES) + 1))


def sample_folder_segmentation(root: Path = SAMPLE / "folder_segmentation", coco: Path | None = None) -> Path:
    """Pictures of people and masks of their parts, 0 to 10, see parts/classes.txt of `sample_coco`."""
    return _pictures(root, coco, FOLDER_IDS, "images/{split}/{name}.jpg", "masks/{split}/{name}.png")


def sample_cityscapes(root: Path = SAMPLE / "cityscapes", coco: Path | None = None) -> Path:
    """Pictures of one size, as those of Cityscapes are."""
    names = "leftImg8bit/{split}/sample/sample_{number:06d}_000019_leftImg8bit.png"
    masks = "gtFine/{split}/sample/sample_{number:06d}_000019_gtFine_labelIds.png"
    return _pictures(root, coco, CITYSCAPES_IDS, names, masks, size=(192, 256))


def sample_pascal_context(root: Path = SAMPLE / "pascal_context", coco: Path | None = None) -> Path:
    """Masks hold positions in the protocol's list of 60."""
    names, masks = "JPEGImages/{name}.jpg", "SegmentationClassContext/{name}.png"
    return _pictures(root, coco, PASCAL_CONTEXT_IDS, names, masks, stems="ImageSets/SegmentationContext/{split}.txt")


def sample_ade20k(root: Path = SAMPLE / "ade20k", coco: Path | None = None) -> Path:
    """Masks hold 0 for what is ignored and 1 to 150."""
    names, masks = "images/{official}/ADE_{name}.jpg", "annotations/{official}/ADE_{name}.png"
    return _pictures(root, coco, ADE20K_IDS, names, masks)


def sample_lip(root: Path = SAMPLE / "lip", coco: Path | None = None) -> Path:
    """One person a picture; whoever else is in it is background, as in LIP."""

    def write(coco: Path, fresh: Path) -> None:
        for split in NUM_IMAGES:
            people = (person for person in _people(coco, split) if min(person["box"][2:]) >= 24)
            for _, person in zip(range(NUM_IMAGES[split]), people, strict=False):
                window = _window(person["box"], person["parts"].shape, 1.1)
                ids = LIP_IDS[person["parts"] * person["mask"]][window]
                _write(fresh / f"TrainVal_images/{split}_images/{person['id']}.jpg", person["image"][window])
                _write(fresh / f"TrainVal_parsing_annotations/{split}_segmentations/{person['id']}.png", ids)

    return _derived(root, coco, write)


def sample_image_folder(root: Path = SAMPLE / "image_folder", coco: Path | None = None) -> Path:
    """What a picture shows, one of `CLASSES`: a part of the body, or nobody."""
    return _derived(root, coco, lambda coco, fresh: _classes(coco, fresh, CLASSES))


def sample_imagenet(root: Path = SAMPLE / "imagenet", coco: Path | None = None) -> Path:
    """The pictures of `sample_image_folder` in folders that are named like synsets; the names are in a text file."""

    def write(coco: Path, fresh: Path) -> None:
        _classes(coco, fresh, SYNSETS)
        lines = [f"{synset} {name.replace('_', ' ')}\n" for synset, name in zip(SYNSETS, CLASSES, strict=True)]
        (fresh / "LOC_synset_mapping.txt").write_text("".join(lines))

    return _derived(root, coco, write)


def _derived(root: Path, coco: Path | None, write: Callable[[Path, Path], None]) -> Path:
    """`root`, written from the sample pictures when it is absent or of another version."""
    coco = coco or sample_coco()
    stamp = f"{VERSION} of {(coco / 'VERSION').read_text()}"
    return written_once(root, stamp, lambda fresh: write(coco, fresh))


def _pictures(
    root: Path,
    coco: Path | None,
    ids: np.ndarray,
    images: str,
    masks: str,
    *,
    stems: str = "",
    size: tuple[int, int] | None = None,
) -> Path:
    """Whole pictures as they are, or at `size`, and masks of the `ids` of the parts."""

    def write(coco: Path, fresh: Path) -> None:
        for split, official in (("train", "training"), ("val", "validation")):
            names = []
            files = sorted((coco / f"{split}2017").glob("*.jpg"))[: NUM_IMAGES[split]]
            for number, file in enumerate(files):
                image, parts = _read(coco, split, file.stem)
                height, width = size or parts.shape
                words = {"split": split, "official": official, "name": file.stem, "number": number}
                area = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
                _write(fresh / images.format(**words), area)
                nearest = cv2.resize(parts, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
                _write(fresh / masks.format(**words), ids[nearest])
                names.append(file.stem)
            if stems:
                path = fresh / stems.format(split=split)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("\n".join(names) + "\n")

    return _derived(root, coco, write)


def _classes(coco: Path, fresh: Path, folders: tuple[str, ...]) -> None:
    """Cut out as many pictures of each class as are wanted and found."""
    for split, wanted in NUM_OF_CLASS.items():
        counts = dict.fromkeys(CLASSES, 0)
        rng = np.random.default_rng(len(split))
        for person in _people(coco, split):
            for name, box in _views(person, rng):
                if counts[name] < wanted:
                    crop = person["image"][_window(box, person["parts"].shape, 1.15)]
                    _write(fresh / split / folders[CLASSES.index(name)] / f"{person['id']}.jpg", crop)
                    counts[name] += 1
            if min(counts.values()) == wanted:
                break


def _views(person: dict[str, Any], rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Class and box (x, y, width, height) of the parts of a person that are large enough to be recognised."""
    parts = person["parts"] * person["mask"]
    for name, members in (("torso", TORSO), ("legs", LEGS), ("shoe", SHOES), ("head", HAIR + FACE)):
        shown = np.isin(parts, members)
        if name == "shoe":
            _, labels, stats, _ = cv2.connectedComponentsWithStats(shown.astype(np.uint8))
            if len(stats) > 1:
                shown = labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()
        if shown.sum() < 120:
            continue
        box = np.array(cv2.boundingRect(shown.astype(np.uint8)))
        if min(box[2:]) < 10 or shown.sum() < 0.3 * box[2] * box[3]:
            continue
        if name == "head":
            face = np.isin(parts[shown], FACE).mean()
            if 0.08 < face < 0.35:
                continue
            name = "face" if face >= 0.35 else "back_of_head"
        yield name, box
    height, width = parts.shape
    side = int(rng.integers(48, 112))
    box = np.array([rng.integers(0, width - side), rng.integers(0, height - side), side, side])
    if not person["parts"][_window(box, parts.shape, 1.15)].any():
        yield "background", box


def _people(coco: Path, split: str) -> Iterator[dict[str, Any]]:
    """Every annotated person with picture (BGR), part mask and own mask of the picture, box and id."""
    content = json.loads((coco / "annotations" / f"instances_{split}2017.json").read_text())
    stems = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
    for annotation in content["annotations"]:
        image, parts = _read(coco, split, stems[annotation["image_id"]])
        counts = annotation["segmentation"]["counts"]
        mask = np.repeat(np.arange(len(counts)) % 2, counts).astype(np.uint8).reshape(parts.shape, order="F")
        yield {
            "id": annotation["id"],
            "box": np.array(annotation["bbox"]),
            "image": image,
            "parts": parts,
            "mask": mask,
        }


def _window(box: np.ndarray, size: tuple[int, int], factor: float) -> tuple[slice, slice]:
    """Rows and columns of a box (x, y, width, height), enlarged by `factor` and cut at the border."""
    middle, half = box[:2] + box[2:] / 2, factor * box[2:] / 2
    x0, y0 = np.maximum(np.floor(middle - half), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(middle + half), size[::-1]).astype(int)
    return slice(y0, y1), slice(x0, x1)


def _read(coco: Path, split: str, stem: str) -> tuple[np.ndarray, np.ndarray]:
    image = read_image(coco / f"{split}2017" / f"{stem}.jpg")[..., ::-1]
    return image, read_image(coco / "parts" / f"{split}2017" / f"{stem}.png")[..., 0].copy()


def _write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not cv2.imwrite, which is silent about a full disk.
    options = [cv2.IMWRITE_JPEG_QUALITY, 92] if path.suffix == ".jpg" else []
    path.write_bytes(cv2.imencode(path.suffix, np.ascontiguousarray(pixels), options)[1])

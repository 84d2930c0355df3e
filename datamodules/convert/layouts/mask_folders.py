"""Folders of images and masks (images/<split>, masks/<split>), as `FolderSegmentation` reads them.

A mask is PNG with one class a pixel, 255 where nothing is scored. Outlines are drawn in the source's order, later over
earlier; what none covers is background.
"""

from pathlib import Path

import cv2
import numpy as np

from datamodules.convert.labels import Labels, Picture
from datamodules.convert.layouts.coco_files import mirrored
from datamodules.convert.layouts.outlines import pixels_of
from datamodules.convert.layouts.result import Task, Written, put_pictures
from datamodules.findings import DataError

IGNORED = 255
BACKGROUND = ("background", "_background_", "__background__")
IGNORE = ("ignore", "__ignore__", "void", "unlabeled")
"""Names, in any case, of what is no class of its own."""


def select_masks(labels: Labels) -> None:
    """Leave the pictures with a mask, or with outlines; raises DataError where there are neither."""
    ready = any(picture.mask is not None for picture in labels.pictures)
    if not ready and not any(thing.outlined for thing in labels.things()):
        raise DataError("The source has neither masks nor outlines: say another --task, such as detection for boxes.")
    for picture in labels.pictures:
        if ready and picture.mask is None:
            labels.left_out.add("images without a mask", picture.name)
        for thing in picture.things if not ready else ():
            if not thing.outlined:
                labels.left_out.add("things without an outline", f"{thing.name} on {picture.name}")
        picture.things = [thing for thing in picture.things if thing.outlined]
    labels.pictures = [picture for picture in labels.pictures if picture.mask is not None or not ready]


def write_masks(task: Task) -> Written:
    """Images and masks; raises DataError where there is a single class."""
    labels = task.labels
    pictures = [picture for pictures in task.splits.values() for picture in pictures]
    ready = any(picture.mask is not None for picture in pictures)
    if ready:
        classes = labels.mask_classes
    else:
        named = labels.class_names(thing for picture in pictures for thing in picture.things)
        classes = ["background", *(n for n in named if n.lower() not in (*BACKGROUND, *IGNORE))]
    if not 1 < len(classes) < IGNORED:
        raise DataError(f"The source has the classes {', '.join(classes)}: segmentation needs 2 to 254.")
    put_pictures(task, lambda split, picture: [Path("images", split, picture.name)])
    counts = {}
    for split, some in task.splits.items():
        for picture in some:
            mask = picture.mask() if ready and picture.mask else _drawn(picture, classes)
            if mask.shape != picture.size:
                raise DataError(
                    f"The mask of {picture.name} has {mask.shape[0]} x {mask.shape[1]} pixels (height x width), its "
                    f"image {picture.size[0]} x {picture.size[1]}: export both at one size."
                )
            path = (task.folder / "masks" / split / picture.name).with_suffix(".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(cv2.imencode(".png", mask)[1].tobytes())
        counts[split] = {"images": len(some), "masks": len(some)}
    overlay = {
        "model.init_args.num_classes": len(classes),
        "data.init_args.class_names": classes,
        "data.init_args.id_map": None,
    }
    flips = mirrored(classes)
    if flips:
        overlay["data.init_args.label_flip_pairs"] = [list(pair) for pair in flips]
    if "test" in task.splits:
        for key in ("images", "masks"):
            overlay[f"data.init_args.{key}"] = {split: f"{key}/{split}" for split in task.splits}
    return Written("seg_folder.yaml", overlay, counts)


def _drawn(picture: Picture, classes: list[str]) -> np.ndarray:
    """(H, W) uint8 classes of the outlines."""
    mask = np.zeros(picture.size, np.uint8)
    for thing in picture.things:
        name = thing.name.lower()
        value = IGNORED if name in IGNORE else 0 if name in BACKGROUND else classes.index(thing.name)
        mask[pixels_of(thing, picture.size)] = value
    return mask

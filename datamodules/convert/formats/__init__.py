"""The readers: one file a labelling tool, each with `recognise(files)` and `read(files)`."""

from datamodules.convert.formats import (
    coco,
    cvat,
    deeplabcut,
    label_studio,
    labelme,
    lightning_pose,
    sleap,
    via,
    voc,
    yolo,
)

FORMATS = {
    "deeplabcut": deeplabcut,
    "lightning_pose": lightning_pose,
    "sleap": sleap,
    "labelme": labelme,
    "label_studio": label_studio,
    "cvat": cvat,
    "via": via,
    "yolo": yolo,
    "voc": voc,
    "coco": coco,
}

__all__ = ["FORMATS"]

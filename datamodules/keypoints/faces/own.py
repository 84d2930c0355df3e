"""Faces of your own, from a list that is a CSV file, a COCO key-point file or an XML file of dlib's.

data = FaceLandmarks("data/mine", skeleton="data/mine/skeleton.yaml")

A row of a CSV file is a face: the image, the box, then the landmarks in the order of the skeleton, in pixels from 0:

    image,x,y,width,height,x0,y0,x1,y1,...
    a/001.jpg,20,31,90,95,24.5,60,27.1,71.5,...

Landmarks without coordinates are not labelled; a face without a box gets one about its landmarks.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

import numpy as np

from datamodules.base import DataError, Split
from datamodules.findings import refused
from datamodules.keypoints.coco_file import read_annotations
from datamodules.keypoints.defects import quoted
from datamodules.keypoints.faces.data import FaceData, Faces
from datamodules.keypoints.faces.rows import TextRows, box_about, face_table, is_inside
from datamodules.keypoints.table import PersonTable
from datamodules.sample.face_layouts import sample_face_list


class FaceLandmarks(FaceData):
    """Faces from lists of one's own.

    Args:
        root: Folder of the data set, or `sample` for the embedded data.
        skeleton: What the landmarks are: `wflw`, `w300`, `cofw`, `aflw`, or the path of a YAML file.
        **kwargs: Lists, images, crops, loaders: see `FaceData`. A list that ends in .json is a COCO file, one that ends
            in .xml is dlib's, any other is a CSV file.
    """

    layout: ClassVar[str] = """\
    train.csv, val.csv (or .json, .xml; others with `annotations`)
    images/<any name>.jpg ..., or the images beside the lists"""
    source: ClassVar[str] = "you."
    embedded = staticmethod(sample_face_list)
    lists: ClassVar = {split: tuple(f"{split}.{kind}" for kind in ("csv", "json", "xml")) for split in ("train", "val")}
    image_folders = ("images", ".")

    def __init__(self, root: str | Path, *, skeleton: str = "wflw", **kwargs: Any) -> None:
        super().__init__(root, skeleton=skeleton, **kwargs)

    def read(self, path: Path, split: Split) -> Faces:
        """The faces of a list."""
        kind = path.suffix.lower()
        if kind == ".json":
            table = read_annotations(path, self.skeleton)
            return Faces(replace(table, areas=table.boxes[:, 2:].prod(axis=1), clipped=False))
        return Faces((read_dlib if kind == ".xml" else read_csv)(path, self.num_keypoints))


def read_csv(path: Path, num_landmarks: int) -> PersonTable:
    """The faces of a CSV file; see the head of this file."""
    columns = f"the image, x, y, width, height of the face, x, y of {num_landmarks} landmarks"
    rows = TextRows.read(path, expected=5 + 2 * num_landmarks, columns=columns)
    points = rows.numbers(5, 5 + 2 * num_landmarks, optional=True).reshape(-1, num_landmarks, 2)
    boxes = rows.numbers(1, 5, optional=True)
    return rows.table(_with_boxes(boxes, points), points)


def read_dlib(path: Path, num_landmarks: int) -> PersonTable:
    """The faces of dlib's XML: images with boxes, and parts whose names are their numbers from 0; raises DataError."""
    with refused(lambda said: f"{path} is no XML ({said}): expected dlib's, dataset, images, image, box, part."):
        tree = ElementTree.parse(path)
    names: list[str] = []
    boxes, points = [], []
    for image in tree.iterfind("images/image"):
        name = image.get("file", "")
        if not is_inside(name):
            raise DataError(f"{path}: names the image {quoted(name)}; expected a file below the folder of the images.")
        for box in image.iterfind("box"):
            if box.get("ignore", "0") != "0":
                continue
            where = f"{path}, face {len(names) + 1} ({name})"
            boxes.append([_number(box, key, where) for key in ("left", "top", "width", "height")])
            points.append(_parts(box, num_landmarks, where))
            names.append(name)
    if not names:
        raise DataError(f"{path} has no face; expected dlib's XML with dataset, images, image, box, part.")
    landmarks = np.array(points)
    return face_table(path, names, _with_boxes(np.array(boxes), landmarks), landmarks)


def _parts(box: ElementTree.Element, num_landmarks: int, where: str) -> np.ndarray:
    """(K, 2) the parts of a face, nan for those that it lacks."""
    points = np.full((num_landmarks, 2), np.nan)
    for part in box.iterfind("part"):
        name = part.get("name", "")
        if not name.isdecimal() or len(name) > 9 or int(name) >= num_landmarks:
            raise DataError(
                f"{where}: has the part {quoted(name)}; expected numbers from 0 to {num_landmarks - 1}, the landmarks "
                "of the skeleton: set `skeleton` to the one of these data."
            )
        points[int(name)] = _number(part, "x", where), _number(part, "y", where)
    return points


def _number(element: ElementTree.Element, key: str, where: str) -> float:
    try:
        return float(element.get(key, ""))
    except ValueError as error:
        found = quoted(element.get(key))
        raise DataError(f"{where}: `{key}` of a {element.tag} is {found}; expected a number.") from error


def _with_boxes(boxes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N, 4) the boxes, where there are none those about the landmarks, of faces that have any."""
    missing = ~np.isfinite(boxes).all(axis=1) & np.isfinite(points).all(axis=2).any(axis=1)
    boxes = boxes.copy()
    boxes[missing] = box_about(points[missing])
    return boxes

"""AFLW: 19 landmarks of faces in all poses (Koestinger et al. 2011; revised by Zhu et al. 2016; TPAMI 2020, Table 12).

data = AFLW("data/aflw")
"""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from datamodules.base import DataError, Split
from datamodules.images.matlab import read_matlab, table_of
from datamodules.keypoints.faces.data import FaceData, Faces
from datamodules.keypoints.faces.published import read_published
from datamodules.keypoints.faces.rows import face_table, is_inside
from datamodules.sample.face_layouts import sample_aflw

NUM_LANDMARKS = 19
NUM_TRAIN = 20_000
"""Of the order in the MATLAB file so many are for training."""
_MATLAB = "AFLWinfo_release.mat"


class AFLW(FaceData):
    """20,000 train and 4,386 test faces; the latter are `val` and `test`, with the 1,314 frontal ones as a subset.

    Errors are divided by the side of the face box, of which batches have the square as `area`.

    Args:
        root: Folder of the data set, or `sample` for the embedded data.
        skeleton: What the landmarks are.
        **kwargs: Lists, images, crops, loaders: see `FaceData`.
    """

    layout: ClassVar[str] = """\
    face_landmarks_aflw_{train,test,test_frontal}.csv, or AFLWinfo_release.mat
    images/..., or data/flickr/{0,2,3}/image00002.jpg ..."""
    source: ClassVar[str] = (
        "https://www.tugraz.at/institute/icg/research/team-bischof/lrs/downloads/aflw (images); the CSV files from "
        "https://github.com/HRNet/HRNet-Facial-Landmark-Detection; the MATLAB file from "
        "http://mmlab.ie.cuhk.edu.hk/projects/compositional.html."
    )
    embedded = staticmethod(sample_aflw)
    lists: ClassVar = {
        split: (f"face_landmarks_aflw_{name}.csv", _MATLAB) for split, name in (("train", "train"), ("val", "test"))
    }
    image_folders = ("images", "data/flickr", "flickr")

    def __init__(self, root: str | Path, *, skeleton: str = "aflw", **kwargs: Any) -> None:
        super().__init__(root, skeleton=skeleton, **kwargs)

    def read(self, path: Path, split: Split) -> Faces:
        """The faces of a published list or of the MATLAB file, in which a frontal face has no hidden landmark."""
        if path.suffix.lower() == ".csv":
            subsets = {"frontal": f"{path.stem}_frontal.csv"}
            return read_published(path, NUM_LANDMARKS, box_size=True, subsets=subsets)
        table, frontal = _read_matlab(path, split == "train")
        return Faces(table, {"frontal": frontal})


def _read_matlab(path: Path, training: bool) -> tuple[Any, list[int]]:
    """The table of a split, whose faces are called by their rows in the file, and those that are frontal."""
    names = ("ra", "nameList", "data", "mask_new", "bbox")
    order, files, data, mask, stated = read_matlab(path, *names)
    data = table_of(path, "data", data, 2 * NUM_LANDMARKS)
    mask = table_of(path, "mask_new", mask, NUM_LANDMARKS, len(data))
    sides = table_of(path, "bbox", stated, 4, len(data))
    order = np.asarray(order, np.int64).ravel() - 1
    if len(files) != len(data) or sorted(order.tolist()) != list(range(len(data))):
        raise DataError(
            f"{path}: nameList has {len(files)} names and ra {len(order)} rows; expected one for each of the "
            f"{len(data)} faces of `data`."
        )
    if len(data) <= NUM_TRAIN:
        raise DataError(f"{path} has {len(data)} faces; expected 24386, of which {NUM_TRAIN} are for training.")
    rows = order[:NUM_TRAIN] if training else order[NUM_TRAIN:]
    points = data.reshape(-1, 2, NUM_LANDMARKS).transpose(0, 2, 1)[rows]
    left, right, top, bottom = sides[rows].T
    side = np.maximum(right - left, bottom - top)
    boxes = np.stack([(left + right - side) / 2, (top + bottom - side) / 2, side, side], axis=1)
    pictures = [str(np.asarray(files[row]).ravel()[0]) if np.asarray(files[row]).size else "" for row in rows]
    wrong = [(row, name) for row, name in zip(rows.tolist(), pictures, strict=True) if not is_inside(name)]
    if wrong:
        raise DataError(
            f"{path}, row {wrong[0][0] + 1} of nameList: names the image {wrong[0][1]!r}; expected a file below the "
            "folder of the images."
        )
    shown = mask[rows] > 0
    ids = (rows + 1).tolist()
    frontal = [key for key, all_shown in zip(ids, shown.all(axis=1).tolist(), strict=True) if all_shown]
    return face_table(path, pictures, boxes, points, visible=np.where(shown, 2, 1), ids=ids), frontal

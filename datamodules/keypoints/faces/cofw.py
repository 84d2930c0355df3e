"""COFW: 29 landmarks of faces of which much is hidden (Burgos-Artizzu et al. 2013; TPAMI 2020, Table 12).

data = COFW("data/cofw")
"""

from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np

from datamodules.base import DataError, Split
from datamodules.images.matlab import read_matlab, table_of
from datamodules.keypoints.faces.data import FaceData, Faces
from datamodules.keypoints.faces.published import read_published
from datamodules.keypoints.faces.rows import box_about, face_table
from datamodules.sample.coco import written_once
from datamodules.sample.face_layouts import sample_cofw

NUM_LANDMARKS = 29
SUFFIX = {"train": "Tr", "val": "T", "test": "T"}
"""Of the names of the variables of a split."""
PICTURES = "pictures_of_{}"
"""Folder beside a MATLAB file into which the pictures in it are written."""


class COFW(FaceData):
    """1,345 train and 507 test faces; the latter are `val` and `test`. Of hidden landmarks `visible` is 1.

    The pictures are inside the MATLAB files. When they are first read, they are written beside them as PNG.

    Args:
        root: Folder of the data set, or `sample` for the embedded data.
        skeleton: What the landmarks are.
        **kwargs: Lists, images, crops, loaders: see `FaceData`. Lists may be the MATLAB files, or CSV files as HRNet's
            code has them for WFLW.
    """

    layout: ClassVar[str] = """\
    COFW_train_color.mat, COFW_test_color.mat
or  face_landmarks_cofw_{train,test}.csv and images/..."""
    source: ClassVar[str] = "http://www.vision.caltech.edu/xpburgos/ICCV13 (COFW_color)."
    embedded = staticmethod(sample_cofw)
    lists: ClassVar = {
        split: (f"COFW_{name}_color.mat", f"face_landmarks_cofw_{name}.csv")
        for split, name in (("train", "train"), ("val", "test"))
    }

    def __init__(self, root: str | Path, *, skeleton: str = "cofw", **kwargs: Any) -> None:
        super().__init__(root, skeleton=skeleton, **kwargs)

    def read(self, path: Path, split: Split) -> Faces:
        """The faces of a MATLAB file or of a CSV file."""
        if path.suffix.lower() == ".csv":
            return read_published(path, NUM_LANDMARKS, subsets={})
        name = f"phis{SUFFIX[split]}"
        (stated,) = read_matlab(path, name)
        numbers = table_of(path, name, stated, 3 * NUM_LANDMARKS)
        x, y, hidden = numbers.reshape(len(numbers), 3, NUM_LANDMARKS).transpose(1, 0, 2)
        points = np.stack([x, y], axis=2)
        names = [picture_name(row) for row in range(len(numbers))]
        # As the published code does, which does not take the boxes of the file.
        return Faces(face_table(path, names, box_about(points), points, visible=np.where(hidden > 0, 1, 2)))

    def image_folder(self, split: Split) -> Path:
        """Folder of the images; those in a MATLAB file are written there if they have not been."""
        path = self.list_of(split)
        if path.suffix.lower() == ".csv" or self.images is not None:
            return super().image_folder(split)
        folder = path.parent / PICTURES.format(path.stem)
        try:
            return written_once(
                folder, f"{path.name} {path.stat().st_size}\n", lambda f: write_pictures(path, split, f)
            )
        except OSError as error:
            raise DataError(
                f"The pictures in {path} cannot be written to {folder} ({error.strerror}): make the folder of the data "
                "writable, or write them elsewhere and set `images` to that folder."
            ) from error


def picture_name(row: int) -> str:
    """File of the picture of a row, from 0."""
    return f"{row + 1:06d}.png"


def write_pictures(path: Path, split: Split, folder: Path) -> None:
    """Write the pictures in a MATLAB file, of which some are grey; raises DataError where one is none."""
    name = f"Is{SUFFIX[split]}"
    (pictures,) = read_matlab(path, name)
    for row, picture in enumerate(pictures):
        array = np.asarray(picture)
        if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)) or not array.size:
            raise DataError(
                f"{path}: picture {row + 1} of {name} is of shape {array.shape} and type {array.dtype}; expected "
                "(height, width) or (height, width, 3) of uint8."
            )
        array = array[..., ::-1] if array.ndim == 3 else array
        # Not cv2.imwrite, which is silent about a full disk.
        (folder / picture_name(row)).write_bytes(cv2.imencode(".png", np.ascontiguousarray(array))[1])

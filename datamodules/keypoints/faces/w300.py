"""300W: 68 landmarks of faces from four collections (Sagonas et al. 2013; TPAMI 2020, Tables 13 and 14).

data = W300("data/300w")
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from datamodules.base import DataError, Split
from datamodules.keypoints.faces.data import FaceData, Faces
from datamodules.keypoints.faces.published import read_published
from datamodules.keypoints.faces.rows import box_about, face_table, read_text
from datamodules.keypoints.table import PersonTable
from datamodules.sample.face_layouts import sample_w300

NUM_LANDMARKS = 68
SUBSETS = ("common", "challenge")
CHALLENGE = "ibug"
"""The collection of which the challenging faces are."""
COLLECTIONS = {
    "train": ("afw", "helen/trainset", "lfpw/trainset"),
    "val": ("helen/testset", "lfpw/testset", CHALLENGE),
    "test": ("300w",),
}
"""Folders of the original distribution with a .pts file beside each picture; the first of a split has to be there."""
PICTURES = (".jpg", ".png")


class W300(FaceData):
    """3,148 train faces; `val` is the full set of 689, with its subsets common and challenge; `test` are 600 others.

    Args:
        root: Folder of the data set, or `sample` for the embedded data.
        skeleton: What the landmarks are.
        test_split: What `test` evaluates: `test`, the 600 faces of the competition, or `val`, where there are none.
        **kwargs: Lists, images, crops, loaders: see `FaceData`.
    """

    layout: ClassVar[str] = """\
    face_landmarks_300w_{train,valid,valid_common,valid_challenge,test}.csv
    images/{afw,helen,ibug,lfpw,...}/...
or, as originally distributed, pictures with .pts files beside them:
    afw/, helen/{trainset,testset}/, lfpw/{trainset,testset}/, ibug/, 300w/{01_Indoor,02_Outdoor}/"""
    source: ClassVar[str] = (
        "https://ibug.doc.ic.ac.uk/resources/300-W (images); the CSV files from "
        "https://github.com/HRNet/HRNet-Facial-Landmark-Detection."
    )
    embedded = staticmethod(sample_w300)
    lists: ClassVar = {
        split: (f"face_landmarks_300w_{name}.csv", COLLECTIONS[split][0])
        for split, name in (("train", "train"), ("val", "valid"), ("test", "test"))
    }

    image_folders = ("images", ".")

    def __init__(
        self,
        root: str | Path,
        *,
        skeleton: str = "w300",
        test_split: Literal["test", "val"] = "test",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, skeleton=skeleton, **kwargs)
        if test_split not in ("test", "val"):
            raise DataError(f"test_split is {test_split!r}: expected test or val.")
        self.test_split = test_split

    def read(self, path: Path, split: Split) -> Faces:
        """The faces of a published list or of .pts files; without files of subsets, iBUG's own are the challenge."""
        if path.is_dir():
            faces = Faces(read_pts(self.folder, split))
        else:
            faces = read_published(path, NUM_LANDMARKS, subsets={name: f"{path.stem}_{name}.csv" for name in SUBSETS})
        if faces.subsets or split != "val":
            return faces
        table = faces.table
        hard = [CHALLENGE in Path(name).parts for name in table.file_names[table.images]]
        if not any(hard):
            return faces
        chosen = {
            name: [key for key, is_hard in zip(table.ids or (), hard, strict=True) if is_hard == (name == "challenge")]
            for name in SUBSETS
        }
        return Faces(table, chosen)


def read_pts(folder: Path, split: Split) -> PersonTable:
    """The faces of the original distribution, with boxes about their landmarks as in the published lists.

    Raises:
        DataError: If a collection, a picture or a landmark is missing.
    """
    names, points = [], []
    for collection in COLLECTIONS[split]:
        files = sorted(file for file in (folder / collection).rglob("*.pts") if not file.stem.endswith("_mirror"))
        if not files:
            raise DataError(f"{folder / collection} has no .pts file: unpack there what 300W has of {collection}.")
        for file in files:
            pictures = [file.with_suffix(kind) for kind in PICTURES if file.with_suffix(kind).is_file()]
            if not pictures:
                raise DataError(f"{file} has no picture beside it; expected {file.stem}.jpg or {file.stem}.png.")
            names.append(pictures[0].relative_to(folder).as_posix())
            points.append(_points(file))
    landmarks = np.array(points)
    return face_table(folder / COLLECTIONS[split][0], names, box_about(landmarks), landmarks)


def _points(path: Path) -> np.ndarray:
    """(68, 2) the landmarks between the braces of a .pts file."""
    inside = read_text(path).partition("{")[2].partition("}")[0].split()
    try:
        points = np.array(inside, np.float64)
    except ValueError as error:
        raise DataError(f"{path} has text among its coordinates ({error}): correct it or fetch it again.") from error
    if points.size != 2 * NUM_LANDMARKS or not np.isfinite(points).all():
        expected = f"{2 * NUM_LANDMARKS} between braces, x and y of {NUM_LANDMARKS} landmarks"
        raise DataError(f"{path} has {points.size} numbers; expected {expected}.")
    return points.reshape(NUM_LANDMARKS, 2)

"""300W: 68 landmarks of faces from four collections (Sagonas et al. 2013; TPAMI 2020, Tables 13 and 14).

data = W300("data/300w")
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

from datamodules.base import DataError, Split
from datamodules.keypoints.faces.data import FaceData, Faces
from datamodules.keypoints.faces.published import read_published
from datamodules.sample.face_layouts import sample_w300

NUM_LANDMARKS = 68
SUBSETS = ("common", "challenge")
CHALLENGE = "ibug"
"""The collection of which the challenging faces are."""


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
    images/{afw,helen,ibug,lfpw,...}/..."""
    source: ClassVar[str] = (
        "https://ibug.doc.ic.ac.uk/resources/300-W (images); the CSV files from "
        "https://github.com/HRNet/HRNet-Facial-Landmark-Detection."
    )
    embedded = staticmethod(sample_w300)
    lists: ClassVar = {
        split: (f"face_landmarks_300w_{name}.csv",)
        for split, name in (("train", "train"), ("val", "valid"), ("test", "test"))
    }

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
        """The faces of a published list; without files of the subsets, iBUG's own are the challenging ones."""
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

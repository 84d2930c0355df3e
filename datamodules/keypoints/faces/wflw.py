"""WFLW: 98 landmarks of faces in the wild, six attributes (Wu et al. 2018, Look at Boundary; TPAMI 2020, Table 11).

data = WFLW("data/wflw")
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

from datamodules.base import DataError, Split
from datamodules.keypoints.faces.data import FaceData, Faces
from datamodules.keypoints.faces.published import read_published
from datamodules.keypoints.faces.rows import TextRows, box_about
from datamodules.sample.face_layouts import sample_wflw

ATTRIBUTES = ("pose", "expression", "illumination", "makeup", "occlusion", "blur")
NUM_LANDMARKS = 98
_FILES = {name: "large" * (name == "pose") + name for name in ATTRIBUTES}
_LISTS = "list_98pt_rect_attr_train_test/list_98pt_rect_attr_{split}.txt"
_CSV = "face_landmarks_wflw_{split}.csv"


class WFLW(FaceData):
    """7,500 train and 2,500 test faces; the latter are `val` and `test`, with the six subsets that authors report.

    Args:
        root: Folder of the data set, or `sample` for the embedded data.
        skeleton: What the landmarks are.
        boxes: Of the original lists: `rectangle` takes the one that is annotated, `landmarks` one about the landmarks,
            as in the published CSV files.
        **kwargs: Lists, images, crops, loaders: see `FaceData`.
    """

    layout: ClassVar[str] = """\
    WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_{train,test}.txt
    WFLW_images/0--Parade/0_Parade_marchingband_1_116.jpg ...
or, as published with HRNet:
    face_landmarks_wflw_{train,test}.csv and face_landmarks_wflw_test_{largepose,expression,...}.csv
    images/0--Parade/0_Parade_marchingband_1_116.jpg ..."""
    source: ClassVar[str] = (
        "https://wywu.github.io/projects/LAB/WFLW.html; the CSV files from "
        "https://github.com/HRNet/HRNet-Facial-Landmark-Detection."
    )
    embedded = staticmethod(sample_wflw)
    lists: ClassVar = {
        split: (f"WFLW_annotations/{_LISTS}".format(split=name), _LISTS.format(split=name), _CSV.format(split=name))
        for split, name in (("train", "train"), ("val", "test"))
    }
    image_folders = ("WFLW_images", "images")

    def __init__(
        self,
        root: str | Path,
        *,
        skeleton: str = "wflw",
        boxes: Literal["rectangle", "landmarks"] = "rectangle",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, skeleton=skeleton, **kwargs)
        if boxes not in ("rectangle", "landmarks"):
            raise DataError(f"boxes is {boxes!r}: expected rectangle or landmarks.")
        self.boxes = boxes

    def read(self, path: Path, split: Split) -> Faces:
        """The faces of an original list (.txt) or of a published one (.csv)."""
        if path.suffix.lower() == ".csv":
            files = {name: f"{path.stem}_{file}.csv" for name, file in _FILES.items()}
            return read_published(path, NUM_LANDMARKS, subsets=files)
        count = 2 * NUM_LANDMARKS
        columns = "x, y of 98 landmarks, x_min, y_min, x_max, y_max of the face, 6 attributes, and the image"
        rows = TextRows.read(path, expected=count + 11, columns=columns, name=count + 10, comma=False)
        points = rows.numbers(0, count).reshape(-1, NUM_LANDMARKS, 2)
        boxes = rows.numbers(count, count + 4)
        boxes[:, 2:] -= boxes[:, :2]
        attributes = rows.numbers(count + 4, count + 10) > 0
        table = rows.table(boxes if self.boxes == "rectangle" else box_about(points), points)
        lines = list(rows.lines)
        chosen = {
            name: [line for line, has in zip(lines, attributes[:, index].tolist(), strict=True) if has]
            for index, name in enumerate(ATTRIBUTES)
        }
        return Faces(table, chosen)

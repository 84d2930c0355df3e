"""MPII Human Pose, one person a sample (Andriluka et al. 2014; HRNet paper, section 4.2), in the official JSON files.

Persons come as a centre and a scale, and everything counts pixels from 1. As in the published code the crop is lowered
by 15 and padded by 1.25 scales, and the head boxes that PCKh is measured by are those of gt_valid.mat.

    data = MpiiPose("data/mpii")
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.base import DataError, Split
from datamodules.images.matlab import read_matlab, shapes_in
from datamodules.images.names import is_file_name
from datamodules.keypoints.columns import MALFORMED, Entries, read_json
from datamodules.keypoints.crop import PersonAugmentation
from datamodules.keypoints.data import KeypointData
from datamodules.keypoints.defects import Defect, short
from datamodules.keypoints.table import SEGMENT_SHARE, PersonTable
from datamodules.sample import sample_mpii

HEIGHT = 200  # pixels of a person of scale 1
LOWERED = 15  # pixels at scale 1 by which the centre is moved down, since it is annotated too high for the crop
HEAD_SHARE = 0.6
"""Of the diagonal of a head box: the head size that PCKh measures by."""
AGREEMENT = 2.0  # pixels by which joints of the JSON and the .mat may differ in the median


class MpiiPose(KeypointData):
    """MPII Human Pose: 16 joints.

    `val` is MPII's valid, and so is `test`: MPII keeps the joints of its test images to itself.

    Args:
        root: Folder of the data set, or `sample` for the embedded data.
        train: What is trained on; `trainval` has the persons of `val` too.
        image_size: (height, width) of the crop; the paper has (256, 256).
        skeleton: What the joints are: `mpii`, or the path of a YAML file.
        augmentation: Geometry of the training crops; None is the published MPII recipe: scale 0.25, rotation 30 degrees
            and no half bodies.
        **kwargs: Detections, crops, loaders: see `KeypointData`.
    """

    layout: ClassVar[str] = """\
    annot/train.json, annot/valid.json      (annot/trainval.json for `train: trainval`)
    annot/gt_valid.mat                      (head boxes, for PCKh)
    images/015601864.jpg ..."""
    source: ClassVar[str] = "http://human-pose.mpi-inf.mpg.de (images); annot comes with the published HRNet code."
    embedded = staticmethod(sample_mpii)

    def __init__(
        self,
        root: str | Path,
        *,
        train: Literal["train", "trainval"] = "train",
        image_size: tuple[int, int] = (256, 256),
        skeleton: str = "mpii",
        augmentation: PersonAugmentation | None = None,
        **kwargs: Any,
    ) -> None:
        published = PersonAugmentation(scale_factor=0.25, rotation_factor=30.0, half_body_probability=0.0)
        drawn = augmentation or published
        super().__init__(root, image_size=image_size, skeleton=skeleton, augmentation=drawn, **kwargs)
        self.files = {"train": train, "val": "valid"}

    def image_folder(self, split: Split) -> Path:
        """Folder of the images of all splits."""
        return self.existing("image", "images")

    def persons(self, split: Split) -> PersonTable:
        """The persons of the JSON file; in `val` the joints are those of gt_valid.mat, where that is at hand."""
        path = self.folder / "annot" / f"{self.files[split]}.json"
        if not path.is_file():
            raise DataError(
                f"{type(self).__name__} found no {path}. Expected below {self.folder}:\n{self.layout}\nThe data come "
                f"from {self.source}"
            )
        table = read_persons(path, self.skeleton.num_keypoints)
        return _with_truth(table, self.truth) if split == "val" and self.truth.is_file() else table

    @property
    def truth(self) -> Path:
        """The file with the head boxes of `val`."""
        return self.folder / "annot" / "gt_valid.mat"

    def ground_truth(self, split: Split) -> dict[str, list]:
        """The COCO dict of a split for the metric; annotations have `head_size` in pixels too, which PCKh needs.

        It is 0.6 of the diagonal of the head box; where there are none, with a warning, the length from upper neck to
        head top; nan where these are not labelled either.
        """
        truth = super().ground_truth(split)
        annotations = truth["annotations"]
        if self.overfit is None and self.truth.is_file():
            sizes = _head_sizes(self.truth, len(annotations))
        else:
            sizes = self._head_lengths(annotations)
        annotated = [{**row, "head_size": size} for row, size in zip(annotations, sizes.tolist(), strict=True)]
        return truth | {"annotations": annotated}

    def _head_lengths(self, annotations: list[dict[str, Any]]) -> np.ndarray:
        """(N,) pixels from upper neck to head top; nan without both."""
        names = self.skeleton.names
        if not {"upper_neck", "head_top"} <= set(names):
            return np.full(len(annotations), np.nan)
        why = f"there is no {self.truth}" if self.overfit is None else "training persons have no head boxes"
        rank_zero_warn(
            f"{why[0].upper()}{why[1:]}, so PCKh is measured by the length from upper neck to head top, which is no "
            "published figure; training, prediction and AP need no head boxes."
        )
        points = np.array([row["keypoints"] for row in annotations]).reshape(len(annotations), len(names), 3)
        neck, top = points[:, names.index("upper_neck")], points[:, names.index("head_top")]
        length = np.linalg.norm(top[:, :2] - neck[:, :2], axis=1)
        return np.where((neck[:, 2] > 0) & (top[:, 2] > 0) & (length > 0), length, np.nan)


def read_persons(path: Path, num_joints: int) -> PersonTable:
    """The persons of an official JSON file, in pixels that count from 0; defects are in the table.

    Raises:
        DataError: If the file is no list of persons.
    """
    content = read_json(path, "MPII's JSON")
    if not isinstance(content, list) or not content or not all(isinstance(entry, dict) for entry in content):
        raise DataError(
            f"{path} is not MPII's JSON: found {short(type(content).__name__)}, expected a list of persons with image, "
            "center, scale, joints, joints_vis."
        )
    images = [entry.get("image") for entry in content]
    right = np.array([is_file_name(name) for name in images], bool)
    names = sorted({name for name, ok in zip(images, right.tolist(), strict=True) if ok})
    defects: list[Defect] = []

    def label(row: int) -> str:
        return f"person {row + 1} of {path.name} ({short(images[row])})"

    flat = [{**entry, "joints": _flat(entry.get("joints"))} for entry in content]
    entries = Entries(path, flat, "person", label, defects, list(range(1, len(flat) + 1)))
    entries.notes.refuse(~right, MALFORMED, "have no `image`", "the name of a file", entries.said("image"))
    expected = f"x, y of each of the skeleton's {num_joints} joints, and one number of each in `joints_vis`"
    joints = entries.table("joints", 2 * num_joints, "wrong number of key points", expected).reshape(-1, num_joints, 2)
    visible = entries.table("joints_vis", num_joints, "wrong number of key points", expected)
    places = {name: row for row, name in enumerate(names)}
    boxes = _boxes(entries.table("center", 2), entries.column("scale"))
    return PersonTable(
        path,
        names,
        images=[places.get(name, -1) if ok else -1 for name, ok in zip(images, right.tolist(), strict=True)],
        boxes=boxes,
        keypoints=joints - 1,
        visible=2 * visible,
        areas=_areas(boxes, joints, visible > 0),
        clipped=False,
        defects=defects,
    )


def _flat(joints: Any) -> Any:
    """Pairs in a row; anything else as it is, for what reads it to refuse."""
    if isinstance(joints, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in joints):
        return [value for pair in joints for value in pair]
    return joints


def _boxes(center: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(N, 4) squares about the lowered centre that are as high as the person; of size 0 where there is none."""
    known = center[:, 0] != -1
    middle = center + np.outer(known * scale, (0, LOWERED)) - 1
    side = np.where(known, HEIGHT * scale, 0.0)[:, None]
    return np.concatenate([middle - side / 2, side, side], axis=1)


def _areas(boxes: np.ndarray, joints: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """(N,) areas for OKS, which MPII does not state: of the extent of the labelled joints.

    The square would make them too large. With joints on one line it has to do.
    """
    low = np.where(labelled[..., None], joints, np.inf).min(axis=1)
    high = np.where(labelled[..., None], joints, -np.inf).max(axis=1)
    extent = np.where(labelled.any(axis=1)[:, None], high - low, 0).prod(axis=1)
    return np.where(extent > 0, extent, SEGMENT_SHARE * boxes[:, 2] * boxes[:, 3])


# ---- the official truth


def _with_truth(table: PersonTable, path: Path) -> PersonTable:
    """The table with the joints by which the protocol evaluates; raises DataError if they are of other persons."""
    count, num_joints = table.visible.shape
    content = _matlab(path, {"pos_gt_src": (num_joints, 2, count), "jnt_missing": (num_joints, count)}, table.path.name)
    joints, labelled = content["pos_gt_src"].transpose(2, 0, 1) - 1, content["jnt_missing"].T == 0
    both = labelled & (table.visible > 0)
    apart = np.linalg.norm(joints - table.keypoints, axis=2)[both]
    if len(apart) and not np.median(apart) <= AGREEMENT:
        raise DataError(
            f"{path} has other joints than {table.path}, in the median {np.median(apart):.4g} pixels away: expected "
            "those of the same persons in the same order; fetch both files from one source."
        )
    return replace(table, keypoints=joints, visible=2 * labelled.astype(np.int8))


def _head_sizes(path: Path, count: int) -> np.ndarray:
    """(N,) pixels."""
    boxes = _matlab(path, {"headboxes_src": (2, 2, count)}, "valid.json")["headboxes_src"]
    return HEAD_SHARE * np.linalg.norm(boxes[1] - boxes[0], axis=0)


def _matlab(path: Path, shapes: dict[str, tuple[int, ...]], other: str) -> dict[str, np.ndarray]:
    """Matrices of gt_valid.mat, which have to be of these shapes."""
    words = {
        "expected": f"MPII's MATLAB file with {', '.join(shapes)}",
        "advice": "Fetch it again, or remove it and go without head boxes.",
    }
    found = shapes_in(path, *shapes, **words)
    wrong = {name: found.get(name) for name, shape in shapes.items() if found.get(name) != shape}
    if wrong:
        name, shape = next(iter(wrong.items()))
        has = f"no matrix {name}" if shape is None else f"the matrix {name} of shape {shape}"
        raise DataError(
            f"{path} has {has}, expected {shapes[name]}, the last one the persons of {other}: fetch both files from "
            "one source."
        )
    matrices = zip(shapes, read_matlab(path, *shapes, **words), strict=True)
    return {name: np.asarray(matrix, np.float64) for name, matrix in matrices}

"""The persons of one COCO key-point file as arrays: who is usable, clean boxes, and ground truth for the metric.

Arrays, because plain Python objects of 150,000 persons would be copied into every loader process by reference counting.
`coco_reader.py` fills and checks them, `coco_pose.py` serves them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.base import DataError
from datamodules.skeleton import Skeleton


@dataclass(frozen=True)
class CocoAnnotations:
    """One file with I images and N annotations of those categories that have K key points.

    Rows keep the file's order; boxes, areas and key points are as in the file, with unlabelled points set to zero.
    """

    path: Path
    image_ids: np.ndarray  # (I,) int64
    file_names: np.ndarray  # (I,) str
    image_sizes: np.ndarray  # (I, 2) height, width
    category_ids: frozenset[int]  # those with key points
    ids: np.ndarray  # (N,) int64
    images: np.ndarray  # (N,) row of the image
    boxes: np.ndarray  # (N, 4) x, y, width, height
    keypoints: np.ndarray  # (N, K, 2) x, y
    visible: np.ndarray  # (N, K) 0, 1, 2
    num_labelled: np.ndarray  # (N,) the file's num_keypoints
    areas: np.ndarray  # (N,)
    crowd: np.ndarray  # (N,) bool

    def clean_boxes(self) -> np.ndarray:
        """(N, 4) boxes clipped to their images, one pixel smaller, as in the official code; of size 0 if unusable."""
        limits = self.image_sizes[self.images][:, ::-1] - 1.0
        start = np.maximum(0, self.boxes[:, :2])
        extent = np.minimum(limits, start + np.maximum(0, self.boxes[:, 2:] - 1)) - start
        # A box one pixel wide has no width left, but its height still gives a crop.
        usable = (self.areas > 0) & (extent >= 0).all(axis=1) & (extent > 0).any(axis=1)
        return np.column_stack([start, np.where(usable[:, None], extent, 0)])

    def usable(self) -> np.ndarray:
        """(n,) rows to learn from, those of an image together: no crowd, some key point labelled, a box with area."""
        labelled = ~self.crowd & (self.visible > 0).any(axis=1)
        boxed = (self.clean_boxes()[:, 2:] > 0).any(axis=1)
        without = self.ids[labelled & ~boxed]
        if len(without):
            rank_zero_warn(f"{self.path}: skipped {listed(without)} whose box or area is empty inside the image.")
        rows = np.flatnonzero(labelled & boxed)
        if not len(rows):
            raise DataError(
                f"{self.path} has no usable person: of {len(self.ids)} annotations in categories with key points, "
                f"{int(self.crowd.sum())} are crowds, {int((~labelled & ~self.crowd).sum())} have no labelled key "
                f"point and {len(without)} no box with area. Expected at least one with `keypoints` and `bbox`."
            )
        return rows[np.argsort(self.images[rows], kind="stable")]

    def to_coco(self, skeleton: Skeleton) -> dict[str, list]:
        """The file as a COCO ground-truth dict for the metric, crowds and unlabelled persons included.

        All categories with key points become category 1, since one network predicts the points of all of them. Ids
        are kept, unless one is below 1: COCO's evaluation takes an id of 0 for "not matched", so all are renumbered.
        """
        ids = self.ids if not len(self.ids) or self.ids.min() > 0 else np.arange(1, len(self.ids) + 1)
        points = np.concatenate([self.keypoints, self.visible[..., None]], axis=2).reshape(len(ids), -1)
        columns = {
            "id": ids,
            "image_id": self.image_ids[self.images],
            "category_id": np.ones_like(ids),
            "bbox": self.boxes,
            "area": self.areas,
            "iscrowd": self.crowd.astype(int),
            "keypoints": points,
            "num_keypoints": self.num_labelled,
        }
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        images = zip(self.image_ids.tolist(), self.file_names.tolist(), self.image_sizes.tolist(), strict=True)
        limbs = [[first + 1, second + 1] for first, second in skeleton.limbs]
        return {
            "images": [{"id": i, "file_name": name, "height": h, "width": w} for i, name, (h, w) in images],
            "annotations": [dict(zip(columns, row, strict=True)) for row in rows],
            "categories": [{"id": 1, "name": "person", "keypoints": list(skeleton.names), "skeleton": limbs}],
        }


def listed(ids: np.ndarray, noun: str = "annotation") -> str:
    """Count and first few of `ids`, for messages: "2 annotations (id 5, 9)"."""
    shown = ", ".join(str(value) for value in ids[:5])
    return f"{len(ids)} {noun}{'s' * (len(ids) != 1)} (id {shown}{', ...' * (len(ids) > 5)})"

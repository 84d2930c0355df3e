"""The persons of one COCO key-point file as arrays: who is usable, clean boxes, and ground truth for the metric.

Arrays, because plain Python objects of 150,000 persons would be copied into every loader process by reference counting.
`coco_reader.py` fills and checks them, `coco_pose.py` serves them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.base import DataError
from datamodules.keypoints.coco_table import listed
from datamodules.skeleton import Skeleton

PERSONS = frozenset({"person", "persons", "people", "human", "pedestrian"})
"""Categories of which messages and tables speak as persons."""


@dataclass(frozen=True)
class CocoAnnotations:
    """One file with I images and N annotations of those categories that have K key points.

    Rows keep the file's order; boxes, areas and key points are as in the file, with unlabelled points set to zero. Ids
    are kept twice: as the file has them, for all that is shown or written, and as int64, for batches: the same numbers,
    or rows where the file has an id that is text or beyond 64 bits.
    """

    path: Path
    image_ids: np.ndarray  # (I,) int64
    file_image_ids: list[Any]  # (I,)
    file_names: np.ndarray  # (I,) str
    image_sizes: np.ndarray  # (I, 2) height, width
    category_ids: frozenset[int | str | None]  # those with key points
    category_names: tuple[str, ...]  # of these
    ids: np.ndarray  # (N,) int64
    file_ids: list[Any]  # (N,)
    images: np.ndarray  # (N,) row of the image
    boxes: np.ndarray  # (N, 4) x, y, width, height
    keypoints: np.ndarray  # (N, K, 2) x, y
    visible: np.ndarray  # (N, K) 0, 1, 2
    num_labelled: np.ndarray  # (N,) the file's num_keypoints
    areas: np.ndarray  # (N,)
    crowd: np.ndarray  # (N,) bool

    @property
    def noun(self) -> str:
        """What one annotated thing is called: a person, or, of other categories, an instance."""
        return "person" if all(name.lower() in PERSONS for name in self.category_names) else "instance"

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
        without = [self.file_ids[row] for row in np.flatnonzero(labelled & ~boxed)]
        if without:
            rank_zero_warn(f"{self.path}: skipped {listed(without)} whose box or area is empty inside the image.")
        rows = np.flatnonzero(labelled & boxed)
        if not len(rows):
            raise DataError(
                f"{self.path} has no usable {self.noun}: of {len(self.ids)} annotations in categories with key points, "
                f"{int(self.crowd.sum())} are crowds, {int((~labelled & ~self.crowd).sum())} have no labelled key "
                f"point and {len(without)} no box with area. Expected at least one with `keypoints` and `bbox`."
            )
        return rows[np.argsort(self.images[rows], kind="stable")]

    def to_coco(self, skeleton: Skeleton) -> dict[str, list]:
        """The file as a COCO ground-truth dict for the metric, crowds and unlabelled persons included.

        All categories with key points become category 1, since one network predicts the points of all of them. Ids
        are the file's, unless an annotation's is no integer above 0, as COCO's evaluation wants it: then all of these
        count from 1, beside `original_id`. An image or annotation that batches call otherwise has that `number` too.
        """
        counted = not all(type(value) is int and value > 0 for value in self.file_ids)
        ids = list(range(1, len(self.ids) + 1)) if counted else self.file_ids
        points = np.concatenate([self.keypoints, self.visible[..., None]], axis=2).reshape(len(ids), -1)
        columns: dict[str, list] = {
            "id": ids,
            "image_id": [self.file_image_ids[row] for row in self.images.tolist()],
            "category_id": [1] * len(ids),
            "bbox": self.boxes.tolist(),
            "area": self.areas.tolist(),
            "iscrowd": self.crowd.astype(int).tolist(),
            "keypoints": points.tolist(),
            "num_keypoints": self.num_labelled.tolist(),
        }
        columns |= {"original_id": self.file_ids} if counted else {}
        columns |= _numbers(ids, self.ids)
        height, width = self.image_sizes.T.tolist()
        images: dict[str, list] = {"id": self.file_image_ids, "file_name": self.file_names.tolist()}
        images |= {"height": height, "width": width} | _numbers(self.file_image_ids, self.image_ids)
        limbs = [[first + 1, second + 1] for first, second in skeleton.limbs]
        name = self.noun if self.noun == "person" or len(self.category_names) != 1 else self.category_names[0]
        return {
            "images": _rows(images),
            "annotations": _rows(columns),
            "categories": [{"id": 1, "name": name, "keypoints": list(skeleton.names), "skeleton": limbs}],
        }


def _numbers(ids: list[Any], numbers: np.ndarray) -> dict[str, list]:
    """The column `number`, where batches do not use the ids themselves."""
    return {} if ids == numbers.tolist() else {"number": numbers.tolist()}


def _rows(columns: dict[str, list]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@dataclass(frozen=True)
class Misplaced:
    """Rows whose key points are elsewhere than their boxes, and what to say of them."""

    rows: np.ndarray
    found: str
    expected: str


def beside_boxes(boxes: np.ndarray, keypoints: np.ndarray, visible: np.ndarray) -> Misplaced | None:
    """Whether most labelled points of most persons lie outside of their own boxes: no network could learn that.

    So it is with points as shares of the image, in another order than x, y, or of another picture; shares in a box that
    is the whole image lie inside it, and are told by being at most 1.

    Args:
        boxes: (N, 4) x, y, width, height; persons without a box of a pixel or more are not looked at.
        keypoints: (N, K, 2) x, y.
        visible: (N, K), above 0 where labelled.
    """
    rows = np.flatnonzero((visible > 0).any(axis=1) & (boxes[:, 2:] >= 1).all(axis=1))
    if not len(rows):
        return None
    labelled, points, start, extent = visible[rows] > 0, keypoints[rows], boxes[rows, :2], boxes[rows, 2:]
    slack = 1 + 0.1 * extent  # annotators draw boxes tightly
    low, high = (start - slack)[:, None], (start + extent + slack)[:, None]
    outside = ((points < low) | (points > high)).any(axis=2) & labelled
    shares = (((points >= 0) & (points <= 1)).all(axis=2) | ~labelled).all(axis=1) & (extent.max(axis=1) > 4)
    wrong = (2 * outside.sum(axis=1) > labelled.sum(axis=1)) | shares
    if 2 * np.count_nonzero(wrong) <= len(rows):
        return None
    first = int(np.flatnonzero(wrong)[0])
    x, y = points[first][labelled[first]][0].tolist()
    found = f"of {len(rows)} with key points have most of them outside of their own boxes"
    found += f", the first at ({x:.6g}, {y:.6g}) beside the bbox {boxes[rows[first]].tolist()}"
    hint = "multiply them by the width and height" if 2 * np.count_nonzero(shares) > len(rows) else "the same as boxes"
    return Misplaced(rows[wrong], found, f"x, y in pixels of the image ({hint})")

"""Segments of objects as COCO writes them, polygons or run-length codes, and the masks that they are on a canvas.

All are kept in a few arrays, since the plain lists of a million polygons would be copied into every loader process.
"""

from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from datamodules.detection.letterbox import Placement


class Segments:
    """The segments of N objects.

    Args:
        segmentations: (N,) polygons [[x, y, x, y, ...], ...] or a run-length code {size, counts} each; None for one
            without.
    """

    def __init__(self, segmentations: Sequence[Any]) -> None:
        polygons = [stated if isinstance(stated, list) else [] for stated in segmentations]
        flat = list(chain.from_iterable(polygons))
        self.points = np.array(list(chain.from_iterable(flat)), np.float64).astype(np.float32)
        self.polygons = _offsets([len(polygon) for polygon in flat])
        self.objects = _offsets([len(parts) for parts in polygons])
        codes = [_code(stated) if isinstance(stated, dict) else b"" for stated in segmentations]
        self.codes, self.lengths = np.frombuffer(b"".join(codes), np.uint8), _offsets([len(code) for code in codes])
        self.stated = np.array([bool(stated) for stated in segmentations], bool)

    def mask(self, row: int, placement: Placement) -> np.ndarray:
        """(H, W) bool of the canvas: what is shown of the segment; raises ValueError for a damaged run-length code."""
        start, end = self.lengths[row : row + 2]
        if end > start:
            code = {"size": list(placement.shape), "counts": self.codes[start:end].tobytes()}
            part = placement.part(255 * coco_mask.decode(code)) >= 128
        else:
            part = self._drawn(row, placement)
        mask = np.zeros(placement.canvas, bool)
        mask[placement.window] = part
        return mask

    def _drawn(self, row: int, placement: Placement) -> np.ndarray:
        """(h, w) bool, polygons on the part of the canvas that is shown."""
        matrix, (height, width) = placement.edges(), placement.shown
        offset = matrix[:, 2] - placement.place[::-1]
        bounds = self.polygons[self.objects[row] : self.objects[row + 1] + 1].tolist()
        polygons = [
            (self.points[start:end].reshape(-1, 2) * matrix[[0, 1], [0, 1]] + offset).ravel().tolist()
            for start, end in pairwise(bounds)
        ]
        codes = coco_mask.frPyObjects(polygons, height, width)
        return coco_mask.decode(coco_mask.merge(codes)).astype(bool)


def _offsets(lengths: Sequence[int]) -> np.ndarray:
    """(N + 1,) where each of N stretches begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _code(stated: dict[str, Any]) -> bytes:
    """A run-length code as COCO packs it."""
    counts = stated["counts"]
    if isinstance(counts, list):
        size = [int(float(side)) for side in stated["size"]]
        runs = [int(float(run)) for run in counts]
        counts = coco_mask.frPyObjects({"size": size, "counts": runs}, *size)["counts"]
    return counts.encode() if isinstance(counts, str) else counts

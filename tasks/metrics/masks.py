"""Masks of objects between the network, pictures and COCO's files: pasted into images, and run-length encoded.

A mask head (Mask R-CNN, ICCV 2017) says what of each box is the object, as a small square of probabilities.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

OBJECT = 0.5  # probability from which on a pixel is of the object
PIXELS = 2**24  # of pasted masks at once


def paste_masks(
    probabilities: NDArray[np.floating], boxes: NDArray[np.floating], size: tuple[int, int]
) -> NDArray[np.bool_]:
    """Masks of boxes at the size of their image, see `pasted`.

    Args:
        probabilities: (N, S, S) within each box, in [0, 1].
        boxes: (N, 4) x1, y1, x2, y2, edges in pixels.
        size: (height, width) of the image.

    Returns:
        (N, height, width).
    """
    parts = list(pasted(probabilities, boxes, size))
    return np.concatenate(parts) if parts else np.zeros((0, *size), bool)


def pasted(
    probabilities: NDArray[np.floating], boxes: NDArray[np.floating], size: tuple[int, int]
) -> Iterator[NDArray[np.bool_]]:
    """The same, some masks at a time, so that memory stays that of a few images.

    A pixel is of the object where the probability at its centre, bilinear between the cells' centres and falling to
    zero beyond the box, is at least 0.5. Not by torchvision's paste_masks_in_image, which rounds boxes to whole pixels
    and draws them up to a pixel wider at each side: a perfect mask of 10 by 10 pixels would have an IoU of 0.7.
    """
    chunk = max(1, PIXELS // (size[0] * size[1]))
    side = probabilities.shape[-1]
    for start in range(0, len(boxes), chunk):
        part, corners = probabilities[start : start + chunk], boxes[start : start + chunk]
        rows = _weights(corners[:, 1], corners[:, 3], size[0], side)
        columns = _weights(corners[:, 0], corners[:, 2], size[1], side)
        yield rows @ part.astype(np.float32) @ columns.transpose(0, 2, 1) >= OBJECT


def _weights(low: NDArray[np.floating], high: NDArray[np.floating], count: int, cells: int) -> NDArray[np.float32]:
    """(N, count, cells): how much each cell of a box counts at the centre of each pixel, along one axis."""
    extent = np.maximum(high - low, 1e-6).astype(np.float64)
    centres = np.arange(count) + 0.5
    places = (centres - low[:, None]) / extent[:, None] * cells - 0.5  # in cells
    return np.maximum(1 - np.abs(places[..., None] - np.arange(cells)), 0).astype(np.float32)


def encode_masks(
    probabilities: NDArray[np.floating], boxes: NDArray[np.floating], size: tuple[int, int]
) -> list[bytes]:
    """COCO's compressed run-length codes (`counts`) of masks pasted into an image of `size`; see `paste_masks`."""
    codes: list[bytes] = []
    for masks in pasted(probabilities, boxes, size):
        # COCO runs down the columns, and its encoder wants the masks last: without a copy more than that.
        columns = np.ascontiguousarray(masks.transpose(0, 2, 1)).view(np.uint8)
        codes += [code["counts"] for code in coco_mask.encode(columns.T)]
    return codes


def segmentation(code: bytes, size: Sequence[int]) -> dict[str, Any]:
    """What COCO's files say of a mask, from its code and the (height, width) of its image."""
    return {"size": [int(side) for side in size], "counts": code.decode()}

"""From an image to the canvas of its batch, its aspect kept: resized, mirrored, cut, placed; boxes and points follow.

Everything but the resizing moves whole pixels, so that an image is read once and nothing is interpolated twice. Boxes
are edges (one that covers the columns 3 to 5 reaches from 3 to 6), while matrices map the centres of pixels.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from datamodules.base import DataError
from datamodules.images.preparer import Preparer
from datamodules.loading.dataset import FILL

Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True)
class Placement:
    """How an image lies on a canvas: it is resized, then mirrored, then a part of it is laid on the canvas.

    Args:
        shape: (height, width) of the image.
        size: (height, width) of the resized image.
        canvas: (height, width) of the canvas.
        shown: (height, width) of the part.
        start: (row, column) of the part in the resized and mirrored image.
        place: (row, column) of the part on the canvas.
        flip: Whether left and right are exchanged.
    """

    shape: Size
    size: Size
    canvas: Size
    shown: Size
    start: Size = (0, 0)
    place: Size = (0, 0)
    flip: bool = False

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the canvas on which the image lies."""
        (top, left), (height, width) = self.place, self.shown
        return slice(top, top + height), slice(left, left + width)

    @property
    def reach(self) -> Size:
        """(height, width) of the canvas up to the last pixel of the image."""
        return self.place[0] + self.shown[0], self.place[1] + self.shown[1]

    def edges(self) -> np.ndarray:
        """(2, 3) float64, edges (x, y) in the image -> edges on the canvas."""
        scale = np.array(self.size[::-1]) / self.shape[::-1]
        offset = np.subtract(self.place, self.start)[::-1].astype(np.float64)
        if self.flip:
            return np.array([[-scale[0], 0, offset[0] + self.size[1]], [0, scale[1], offset[1]]])
        return np.array([[scale[0], 0, offset[0]], [0, scale[1], offset[1]]])

    def to_image(self) -> np.ndarray:
        """(2, 3) float32, pixel centres (x, y) on the canvas -> pixel centres in the image."""
        (a, _, x), (_, d, y) = self.edges().tolist()
        return np.array([[1 / a, 0, (0.5 - x) / a - 0.5], [0, 1 / d, (0.5 - y) / d - 0.5]], np.float32)

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """(N, 4) boxes x1, y1, x2, y2 of the image on the canvas, also where they leave what is shown."""
        (a, _, x), (_, d, y) = self.edges().tolist()
        moved = boxes * np.array([a, d, a, d]) + np.array([x, y, x, y])
        return moved[:, [2, 1, 0, 3]] if self.flip else moved

    def clipped(self, boxes: np.ndarray) -> np.ndarray:
        """(N, 4) boxes of the canvas, cut where they leave what is shown."""
        (top, left), (bottom, right) = self.place, self.reach
        return np.clip(boxes, (left, top, left, top), (right, bottom, right, bottom))

    def part(self, image: np.ndarray) -> np.ndarray:
        """The part (h, w) or (h, w, C) that is shown of an image of `shape`, resized bilinearly."""
        if image.shape[:2] != self.size:
            image = cv2.resize(image, self.size[::-1], interpolation=cv2.INTER_LINEAR)
        (top, left), (height, width) = self.start, self.shown
        if not self.flip:
            return image[top : top + height, left : left + width]
        left = self.size[1] - left - width
        return image[top : top + height, left : left + width][:, ::-1]

    def laid(self, part: np.ndarray) -> dict[str, Any]:
        """The canvas with the part (h, w, 3) on it, and what a sample of the batch table says of it."""
        (top, left), (bottom, right) = self.place, np.subtract(self.canvas, self.reach).tolist()
        part = np.ascontiguousarray(part)
        image = cv2.copyMakeBorder(part, top, bottom, left, right, cv2.BORDER_CONSTANT, value=FILL)
        return {"image": image, "size": np.array(self.reach, np.int64), "to_image": self.to_image()}


@dataclass(frozen=True)
class Letterbox(Preparer):
    """The whole image as large as it fits, at the top left of a canvas, beside it the mean colour.

    Args:
        sides: (shorter, longer) side that images are brought to at most, in pixels: the first of the two that is
            reached decides. None fills the canvas.
        grouped: Whether height and width of the canvas are exchanged for images that are higher than wide.
    """

    sides: tuple[int, int] | None = None
    grouped: bool = False

    def __call__(self, image: np.ndarray, *box: np.ndarray) -> dict[str, Any]:
        """{"image": the canvas (H, W, 3) uint8, "size": (2,) int64, "to_image": (2, 3) float32}."""
        placement = self.placement(image.shape[:2])
        return placement.laid(placement.part(image))

    def placement(self, shape: Size) -> Placement:
        """How an image of that (height, width) lies on its canvas."""
        canvas = self.canvas(shape)
        size = fitted(shape, self.sides, canvas)
        return Placement(shape, size, canvas, shown=size)

    def canvas(self, shape: Size) -> Size:
        """(height, width) of the canvas of an image of that (height, width)."""
        return turned(self.image_size, shape) if self.grouped else self.image_size


def turned(canvas: Size, shape: Size) -> Size:
    """A canvas, its longer side along that of an image of this shape; an image as high as wide counts as wide."""
    return (max(canvas), min(canvas)) if shape[0] > shape[1] else (min(canvas), max(canvas))


def fitted(shape: Size, sides: tuple[int, int] | None, canvas: Size | None, factor: float = 1.0) -> Size:
    """(height, width) of an image of that shape, its aspect kept, as large as `sides` and the canvas allow.

    Args:
        shape: (height, width) of the image.
        sides: (shorter, longer) side at most; None for no limit but the canvas.
        canvas: (height, width) that it has to fit into; None for no limit but the sides.
        factor: On the size that they allow.

    Raises:
        DataError: If nothing limits the size.
    """
    limits = [] if sides is None else [sides[0] / min(shape), sides[1] / max(shape)]
    limits += [] if canvas is None else [canvas[0] / shape[0], canvas[1] / shape[1]]
    if not limits:
        raise DataError("An image is brought to the size of `sides` or of a canvas: give one of them.")
    # Halves are rounded up, as in the published code.
    height, width = (max(1, int(factor * min(limits) * side + 0.5)) for side in shape)
    return height, width

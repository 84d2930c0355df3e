"""Canvas of the embedded sample data: draws solid shapes and remembers for every pixel what lies on top.

Not from the paper; it stands in for COCO so that every experiment runs without a download. A picture is drawn far to
near at twice its size and reduced at the end: smooth edges for the eye, exact masks and visibility for the labels.
"""

import cv2
import numpy as np

from datamodules.sample.bodies import Array

FURNITURE = 255  # in Canvas.owner: a thing that may hide people
_CIRCLE = np.stack([np.cos(np.arange(20) * np.pi / 10), np.sin(np.arange(20) * np.pi / 10)], axis=1)


class Canvas:
    """A picture drawn at twice its size: `image` (2H, 2W, 3) BGR uint8 and `owner` (2H, 2W) uint8, who is on top.

    Coordinates given to its methods are pixels of the final picture (x, y), pixel centres at integers.
    """

    def __init__(self, background: Array, light: Array) -> None:
        self.image = cv2.resize(background, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
        self.owner = np.zeros(self.image.shape[:2], np.uint8)
        self.light = light

    def fill(self, circles: Array, colour: Array, owner: int | None = None) -> None:
        """Fill the convex hull of circles (N, 3), x, y, radius; without `owner` the pixels keep theirs."""
        points = (circles[:, None, :2] + circles[:, None, 2:] * _CIRCLE).reshape(-1, 2)
        outline = cv2.convexHull(points.astype(np.float32))
        fixed = np.round((2 * outline + 0.5) * 16).astype(np.int32)
        cv2.fillConvexPoly(self.image, fixed, colour.tolist(), cv2.LINE_AA, 4)
        if owner is not None:
            cv2.fillConvexPoly(self.owner, fixed, owner, cv2.LINE_8, 4)

    def solid(self, circles: Array, colour: Array, owner: int, line: float = 0.0) -> None:
        """Fill a hull with a dark outline `line` px wide, a shaded side and a light side."""
        grown = circles + np.array((0, 0, line))
        self.fill(grown, 0.5 * colour, owner)
        self.fill(circles, 0.84 * colour)
        lit = circles[:, 2:] * (*self.light, 0)
        self.fill(circles * (1, 1, 0.8) + 0.2 * lit, colour)
        self.fill(circles * (1, 1, 0.4) + 0.42 * lit, np.minimum(1.1 * colour + 6, 255))

    def limb(self, circles: Array, colour: Array, owner: int, line: float) -> None:
        """Draw a limb (first and last circle its joints); its outline fades at both, so that segments flow together."""
        middle = circles.mean(axis=0) + np.array((0, 0, line))
        lower = 0.5 * (middle + circles[-1]) + np.array((0, 0, 0.4 * line))
        grown = np.stack([circles[0], middle, lower, circles[-1]])
        self.fill(grown, 0.5 * colour, owner)
        self.solid(circles, colour, owner)

    def ellipsoid(self, centre: Array, frame: Array, axes: Array) -> tuple[tuple[slice, slice], Array, Array]:
        """Cast rays at an ellipsoid with half axes (3,) px; `frame` (3, 3) leads from its own frame to the picture.

        Returns its window (rows, columns) of the canvas, for every pixel of the window the surface point (h, w, 3) in
        half axes of its own frame, and the depth (h, w): largest in the middle, 0 on the silhouette, negative outside.
        """
        reach = float(axes.max())
        low = np.maximum(np.floor(2 * (centre - reach)), 0).astype(int)
        high = np.maximum(np.ceil(2 * (centre + reach)).astype(int) + 2, low)
        window = slice(low[1], min(high[1], len(self.owner))), slice(low[0], min(high[0], self.owner.shape[1]))
        x = (np.arange(low[0], max(window[1].stop, low[0])) - 0.5) / 2 - centre[0]
        y = (np.arange(low[1], max(window[0].stop, low[1])) - 0.5) / 2 - centre[1]
        across, down, away = (frame.T / axes[:, None]).T
        start = x[None, :, None] * across + y[:, None, None] * down
        squared = away @ away
        half = start @ away
        depth = half**2 - squared * ((start**2).sum(axis=-1) - 1)
        hit = (np.sqrt(np.maximum(depth, 0)) - half) / squared
        return window, start + hit[..., None] * away, depth / squared

    def finish(self) -> tuple[Array, Array]:
        """Return the picture (H, W, 3) BGR uint8 and the owner of each of its pixels (H, W) uint8."""
        height, width = self.owner.shape
        image = cv2.resize(self.image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        return image, np.ascontiguousarray(self.owner[1::2, 1::2])

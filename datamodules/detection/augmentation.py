"""How a training image lies on its canvas: its size, mirror, the part that is cut out, its place (HRNet, TPAMI 2020).

The published recipes of COCO detection are made of a few draws: one size or one of several ("Default"), and a part of
fixed size cut out of it ("ResizeCrop"). Small canvases want a random scale and place instead.
"""

import math
from collections.abc import Sequence

import numpy as np

from datamodules.base import DataError
from datamodules.detection.letterbox import Letterbox, Placement, Size, fitted, turned


class DetectionAugmentation:
    """Draws how an image lies on its canvas; by default as evaluated, and mirrored every other time.

    Args:
        flip_probability: How often the image is mirrored.
        sides: (shorter, longer) sides in pixels, of which each image draws one pair instead of the evaluated size: the
            published multi-scale training has [[1000, 1600], [600, 1000], [800, 1333]].
        scale: Lowest and highest factor on the size, drawn evenly in its logarithm: [0.8, 1.25] on small data.
        crop: (height, width) in pixels of a random part that is cut out of the resized image; None cuts where the
            canvas ends. The published "ResizeCrop" has [800, 1200].
        image_size: (height, width) in pixels of the canvas in training; None takes that of evaluation.
        random_place: Lay the image anywhere on the canvas, instead of at the top left.
        min_remaining: Share of a box that has to remain in the image for it to be learned.
    """

    def __init__(
        self,
        flip_probability: float = 0.5,
        sides: Sequence[tuple[int, int]] | None = None,
        scale: tuple[float, float] = (1.0, 1.0),
        crop: tuple[int, int] | None = None,
        image_size: tuple[int, int] | None = None,
        random_place: bool = False,
        min_remaining: float = 0.3,
    ) -> None:
        if not 0 < scale[0] <= scale[1]:
            raise DataError(f"scale is {tuple(scale)}: expected two factors above 0, the lowest first.")
        if not (0 <= flip_probability <= 1 and 0 <= min_remaining <= 1):
            raise DataError(
                f"flip_probability {flip_probability} and min_remaining {min_remaining} should be from 0 to 1."
            )
        for name, sizes in {
            "sides": sides or (),
            "crop": [crop or (1, 1)],
            "image_size": [image_size or (1, 1)],
        }.items():
            if any(len(size) != 2 or min(size) < 1 for size in sizes):
                raise DataError(f"{name} is {list(sizes)}: expected pairs of pixels, each at least 1.")
        self.flip_probability, self.min_remaining, self.random_place = flip_probability, min_remaining, random_place
        self.sides = None if not sides else [(min(pair), max(pair)) for pair in sides]
        self.scale = float(scale[0]), float(scale[1])
        self.crop = None if crop is None else (int(crop[0]), int(crop[1]))
        self.image_size = None if image_size is None else (int(image_size[0]), int(image_size[1]))

    def __call__(self, shape: Size, letterbox: Letterbox, rng: np.random.Generator) -> Placement:
        """The placement of an image.

        Args:
            shape: (height, width) of the image.
            letterbox: How it is evaluated.
            rng: Source of all draws.
        """
        sides = letterbox.sides if self.sides is None else self.sides[int(rng.integers(len(self.sides)))]
        factor = math.exp(rng.uniform(*np.log(self.scale)))
        flip = bool(rng.random() < self.flip_probability)
        canvas, limit = self.image_size or letterbox.image_size, self.crop or self.image_size or letterbox.image_size
        if letterbox.grouped:
            canvas, limit = turned(canvas, shape), turned(limit, shape)
        size = fitted(shape, sides, canvas if self.crop is None or sides is None else None, factor)
        shown = min(size[0], canvas[0], limit[0]), min(size[1], canvas[1], limit[1])
        start = [int(rng.integers(whole - part + 1)) for whole, part in zip(size, shown, strict=True)]
        place = [int(rng.integers(whole - part + 1)) for whole, part in zip(canvas, shown, strict=True)]
        place = place if self.random_place else [0, 0]
        return Placement(shape, size, canvas, shown, (start[0], start[1]), (place[0], place[1]), flip)

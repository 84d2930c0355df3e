"""The published augmentation of segmentation, by albumentations (Buslaev et al. 2020): scale, pad, crop, mirror.

Image and mask take the same way; every draw follows from the sample's own generator.
"""

from collections.abc import Sequence
from typing import Any

import albumentations as A
import cv2
import numpy as np

from datamodules.loading.samplers import draw_from
from datamodules.segmentation.masks import IGNORED


class RandomCrop:
    """The published recipe: scale in steps of 0.1, pad bottom and right, crop at random, mirror every other image.

    Padding is black (0 before normalisation, as published) and ignored (255) in the mask.

    Args:
        image_size: (height, width) of the crop, pixels.
        base_size: Length of the longer side at scale 1, pixels.
        scale: (lowest, highest) scale, both drawn; (1, 1) for none.
        stretch: Bring the image to `image_size` first, without keeping its aspect.
        flip_pairs: Classes that exchange in a mirror; None never mirrors.
        draw: False takes scale 1, the crop at the centre and no mirror.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        base_size: int,
        scale: tuple[float, float],
        *,
        stretch: bool = False,
        flip_pairs: Sequence[Sequence[int]] = (),
        draw: bool = True,
    ) -> None:
        tenths = range(round(10 * scale[0]), round(10 * scale[1]) + 1) if draw else [10]
        sides = [max(1, round(base_size * tenth / 10)) for tenth in tenths]
        height, width = image_size
        self._compose = A.Compose(
            [
                *([A.Resize(height, width)] if stretch else []),
                A.LongestMaxSize(sides),
                A.PadIfNeeded(height, width, position="top_left", border_mode=cv2.BORDER_CONSTANT, fill_mask=IGNORED),
                (A.RandomCrop if draw else A.CenterCrop)(height, width),
                *([Mirror(flip_pairs)] if draw else []),
            ]
        )

    def __call__(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 3) and (H, W) uint8 -> the same of the crop's size."""
        draw_from(rng, self._compose)
        result = self._compose(image=image, mask=mask)
        return result["image"], result["mask"]


class Mirror(A.HorizontalFlip):
    """Mirrors every other image and exchanges its left and right classes."""

    def __init__(self, pairs: Sequence[Sequence[int]] = (), p: float = 0.5) -> None:
        super().__init__(p=p)
        self.exchange = np.arange(256, dtype=np.uint8)
        for left, right in pairs:
            self.exchange[[left, right]] = right, left

    def apply_to_mask(self, mask: np.ndarray, *args: Any, **params: Any) -> np.ndarray:
        """The mirrored mask (H, W) uint8."""
        return self.exchange[mask[:, ::-1]]

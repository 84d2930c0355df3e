"""One image and its label mask a sample: the data set behind every segmentation experiment (TPAMI 2020, section 5).

A DataModule derived from `SegmentationData` fills it with files; albumentations scales, crops and mirrors both alike.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from datamodules.base import BaseDataset, DataError
from datamodules.images.files import PLAIN, Reading, read_header
from datamodules.images.pixels import read_image
from datamodules.photometric import Photometric
from datamodules.segmentation.masks import mask_size

if TYPE_CHECKING:
    from datamodules.segmentation.crop import RandomCrop

Evaluation = Literal["original", "long", "short", "stretch"]


class ImageMasks(BaseDataset):
    """N images and masks of a split.

    Args:
        images: N files.
        masks: Their N mask files.
        read_labels: Mask file -> classes (H, W) uint8, 255 ignored.
        image_size: (height, width) that `stretch` brings images to, pixels.
        base_size: Length of the side that `long` and `short` bring images to, pixels.
        evaluation: Size of the images that are evaluated, whose masks keep theirs; see `SegmentationData`.
        augmentation: None evaluates.
        photometric: Applied to the training crop.
        reading: Of the image files.
        turned: Rows of the images that are turned as EXIF says; masks are as stored.
    """

    def __init__(
        self,
        images: Sequence[Path],
        masks: Sequence[Path],
        *,
        read_labels: Callable[[Path], np.ndarray],
        image_size: tuple[int, int],
        base_size: int,
        evaluation: Evaluation,
        augmentation: "RandomCrop | None" = None,
        photometric: Photometric | None = None,
        reading: Reading = PLAIN,
        turned: Sequence[int] = (),
    ) -> None:
        # Arrays of names, since worker processes would copy a list of strings page by page.
        self.images, self.masks = np.array([str(p) for p in images]), np.array([str(p) for p in masks])
        self.read_labels, self.augmentation, self.photometric = read_labels, augmentation, photometric
        self.image_size, self.base_size, self.evaluation = image_size, base_size, evaluation
        self._stored, self._upright = replace(reading, upright=False), replace(reading, upright=True)
        self._turned = frozenset(turned)
        self.sizes_vary = augmentation is None and len(self._sizes()) > 1
        """Whether evaluated samples differ in size, so that they do not stack into a batch."""

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """One image and its mask, in the keys of the batch table; raises DataError where their sizes differ."""
        image = read_image(self.images[index], None, self._upright if index in self._turned else self._stored)
        mask = self.read_labels(Path(self.masks[index]))
        if image.shape[:2] != mask.shape:
            self._refuse(index, image.shape[:2], mask.shape)
        if self.augmentation is None:
            image = resized_for_evaluation(image, self.evaluation, self.image_size, self.base_size)
        else:
            image, mask = self.augmentation(image, mask, rng)
            if self.photometric is not None:
                image = self.photometric(image, rng)
        return {"image": np.ascontiguousarray(image), "image_id": index, "mask": mask.astype(np.int64)}

    def name(self, index: int) -> str:
        """The image's file."""
        return str(self.images[index])

    def _sizes(self) -> set[tuple[int, int]]:
        """Sizes of the images, from the heads of the files; masks of another size are refused at once."""
        sizes = set()
        for index, (image, mask) in enumerate(zip(self.images, self.masks, strict=True)):
            header = read_header(image, limit=self._stored.pixel_limit)
            size = header.shown if index in self._turned else header.size
            if not mask.endswith(".mat") and mask_size(Path(mask), self._stored.pixel_limit) != size:
                self._refuse(index, size, mask_size(Path(mask), self._stored.pixel_limit))
            sizes.add(size)
        return sizes

    def _refuse(self, index: int, image: tuple[int, ...], mask: tuple[int, ...]) -> None:
        raise DataError(
            f"The mask {self.masks[index]} has {mask[0]} x {mask[1]} pixels (height x width), its image "
            f"{self.images[index]} has {image[0]} x {image[1]}: make them agree, without interpolating class ids."
        )


def resized_for_evaluation(
    image: np.ndarray, evaluation: Evaluation, image_size: tuple[int, int], base_size: int
) -> np.ndarray:
    """The image (H, W, 3) at the size at which it is evaluated; the arguments are those of `ImageMasks`."""
    height, width = image.shape[:2]
    if evaluation == "stretch":
        size = image_size
    elif evaluation == "original":
        size = height, width
    else:
        side = (max if evaluation == "long" else min)(height, width)
        # Halves are rounded up, as in the published code.
        size = tuple(max(1, (2 * base_size * other + side) // (2 * side)) for other in (height, width))
    return image if size == (height, width) else cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)

"""One image and its label mask a sample: the data set behind every segmentation experiment (TPAMI 2020, section 5).

A DataModule derived from `SegmentationData` fills it with files; albumentations scales, crops and mirrors both alike.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from datamodules.base import BaseDataset, DataError
from datamodules.images.files import PLAIN, Reading, read_header
from datamodules.images.photometric import Photometric
from datamodules.images.pixels import read_image
from datamodules.images.preparer import Preparer
from datamodules.segmentation.masks import mask_size

if TYPE_CHECKING:
    from datamodules.segmentation.crop import RandomCrop

Evaluation = Literal["original", "long", "short", "stretch"]


@dataclass(frozen=True)
class EvaluationSize(Preparer):
    """The image at the size at which it is evaluated; labels come back to its own by resizing.

    Args:
        evaluation: `original`; `long` or `short` side brought to `base_size`; or `stretch` to `image_size`.
        base_scale: `base_size` in lengths of the longer side of `image_size`.
    """

    evaluation: Evaluation = "original"
    base_scale: float = 1.0

    @property
    def base_size(self) -> int:
        """Pixels of the side that `long` and `short` bring images to."""
        return max(1, round(self.base_scale * max(self.image_size)))

    def __call__(self, image: np.ndarray, *box: np.ndarray) -> dict[str, Any]:
        """{"image": (height, width, 3) uint8}."""
        size = self.size_of(image.shape[:2])
        same = image.shape[:2] == size
        return {"image": image if same else cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)}

    def size_of(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """(height, width) at which an image of that shape is evaluated."""
        height, width = shape
        if self.evaluation == "original":
            return height, width
        if self.evaluation == "stretch":
            return self.image_size
        side = (max if self.evaluation == "long" else min)(height, width)
        # Halves are rounded up, as in the published code.
        height, width = (max(1, (2 * self.base_size * other + side) // (2 * side)) for other in (height, width))
        return height, width


class ImageMasks(BaseDataset):
    """N images and masks of a split.

    Args:
        images: N files.
        masks: Their N mask files.
        read_labels: Mask file -> classes (H, W) uint8, 255 ignored.
        preparer: Brings evaluated images to their size; their masks keep theirs.
        augmentation: None evaluates.
        photometric: Applied to the training crop.
        reading: How the image files become pixels.
        turned: Rows of the images that are turned as EXIF says; masks are as stored.
    """

    def __init__(
        self,
        images: Sequence[Path],
        masks: Sequence[Path],
        *,
        read_labels: Callable[[Path], np.ndarray],
        preparer: Preparer,
        augmentation: "RandomCrop | None" = None,
        photometric: Photometric | None = None,
        reading: Reading = PLAIN,
        turned: Sequence[int] = (),
    ) -> None:
        # Arrays of names, since worker processes would copy a list of strings page by page.
        self.images, self.masks = np.array([str(p) for p in images]), np.array([str(p) for p in masks])
        self.read_labels, self.augmentation, self.photometric = read_labels, augmentation, photometric
        self.preparer = preparer
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
            image = self.preparer(image)["image"]
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

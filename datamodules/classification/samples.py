"""One image and its class a sample, seen as in the published recipe (TPAMI 2020, appendix) or with RandAugment.

A DataModule such as `image_folder.py` fills it with file names.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.base import BaseDataset, DataError
from datamodules.images.files import PLAIN, Reading
from datamodules.images.pixels import read_image
from datamodules.images.preparer import Preparer
from datamodules.loading.samplers import draw_from, global_draws

IMAGENET_MEAN = (124, 116, 104)  # what RandAugment fills with


class TrainingView:
    """Random resized crop and mirror, then optionally RandAugment and random erasing.

    Args:
        image_size: (height, width) of the result, pixels.
        rand_augment: timm's description of RandAugment, such as rand-m9-mstd0.5.
        random_erasing: Probability that a rectangle of 2 to 33 % becomes noise.
    """

    def __init__(self, image_size: tuple[int, int], rand_augment: str | None, random_erasing: float) -> None:
        import albumentations as A  # half a second

        self._crop = A.Compose([A.RandomResizedCrop(image_size, area_for_downscale="image"), A.HorizontalFlip()])
        self._erase = A.Compose([A.Erasing(fill="random", p=random_erasing)]) if random_erasing else None
        self._augment = None
        if rand_augment is not None:
            from timm.data.auto_augment import rand_augment_transform

            try:
                self._augment = rand_augment_transform(rand_augment, {"img_mean": IMAGENET_MEAN})
            except (AssertionError, KeyError, ValueError) as error:
                raise DataError(
                    f"timm does not understand rand_augment {rand_augment!r} ({error}): write rand-m9-mstd0.5, say."
                ) from error

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(H, W, 3) uint8 -> the same of `image_size`."""
        draw_from(rng, self._crop)
        image = self._crop(image=image)["image"]
        if self._augment is not None:
            with global_draws(rng):
                image = np.array(self._augment(Image.fromarray(image)))
        if self._erase is not None:
            draw_from(rng, self._erase)
            image = self._erase(image=image)["image"]
        return image


@dataclass(frozen=True)
class CentreCrop(Preparer):
    """Resize with anti-aliasing so that `image_size` is a share of the tighter side, and cut the middle.

    For square sizes it is the published evaluation, torchvision's Resize(int(size / ratio)) and CenterCrop(size): the
    longer side is truncated to whole pixels, and half a pixel of offset goes to the even number.

    Args:
        crop_ratio: How much of the tighter side of the resized image the crop covers; 0.875 as published.
    """

    crop_ratio: float = 0.875

    def __call__(self, image: np.ndarray, *box: np.ndarray) -> dict[str, Any]:
        """{"image": (height, width, 3) uint8}."""
        height, width = resized_shape(image.shape[:2], self.image_size, self.crop_ratio)
        # Pillow's bilinear filter widens when it shrinks, as in the published evaluation; OpenCV's would alias.
        image = np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        top, left = round((height - self.image_size[0]) / 2), round((width - self.image_size[1]) / 2)
        return {"image": image[top : top + self.image_size[0], left : left + self.image_size[1]]}


class LabelledImages(BaseDataset):
    """N images of C classes.

    Args:
        folder: Folder that has a folder for each class.
        files: (N,) file names below it, as bytes.
        labels: (N,) classes.
        preparer: What evaluated images go through.
        view: Augmentation; None evaluates.
        reading: Of the image files.
    """

    def __init__(
        self,
        folder: Path,
        files: np.ndarray,
        labels: np.ndarray,
        *,
        preparer: Preparer,
        view: TrainingView | None,
        reading: Reading = PLAIN,
    ) -> None:
        self.folder, self.files, self.labels = str(folder), files, labels
        self.preparer, self.view, self.reading = preparer, view, reading

    def __len__(self) -> int:
        return len(self.files)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """One image and its class, in the keys of the batch table."""
        image = read_image(os.path.join(self.folder, os.fsdecode(self.files[index])), None, self.reading)
        image = self.preparer(image)["image"] if self.view is None else self.view(image, rng)
        return {"image": np.ascontiguousarray(image), "image_id": index, "label": self.labels[index]}

    def name(self, index: int) -> str:
        """The image's file, below the folder of the classes."""
        return os.fsdecode(self.files[index])


def resized_shape(shape: tuple[int, int], size: tuple[int, int], ratio: float) -> tuple[int, int]:
    """(height, width) that an image of `shape` has before a centre crop of `size` is cut out of it."""
    height, width = (int(wanted / ratio) for wanted in size)
    if height * shape[1] > width * shape[0]:  # the height is the tighter side
        return height, height * shape[1] // shape[0]
    return width * shape[0] // shape[1], width

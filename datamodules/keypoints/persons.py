"""One person a sample: the data set behind every top-down pose experiment (HRNet, section 4.1).

A DataModule such as `coco_pose.py` fills it with arrays; it decodes, draws the crop, and lets the key points follow.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.base import BaseDataset
from datamodules.images.files import PLAIN, Reading
from datamodules.images.photometric import Photometric
from datamodules.images.pixels import read_image
from datamodules.keypoints.crop import PersonAugmentation, PersonCrop, apply_affine
from datamodules.skeleton import Skeleton


class Persons(BaseDataset):
    """N persons of a split, those of one image next to each other; all in arrays that loader processes share.

    Args:
        folder: Folder of the I images.
        image_ids: (I,) ids.
        file_names: (I,) names below `folder`.
        image_sizes: (I, 2) annotated height and width.
        images: (N,) rows of the persons' images.
        instance_ids: (N,) annotation ids, or positions in the detections file.
        centers: (N, 2) centres of the padded boxes, original pixels.
        sizes: (N, 2) width and height of the padded boxes, original pixels.
        keypoints: (N, K, 2) original pixels.
        visible: (N, K) 0, 1, 2.
        scores: (N,) scores of the boxes.
        areas: (N,) what batches have as `area`, square pixels of the image; None takes the padded boxes.
        skeleton: Of the K key points.
        preparer: What crops a padded box.
        augmentation: None crops the padded box itself.
        photometric: Applied to the crop.
        reading: Of the image files.
        turned: Rows of the images that are turned as EXIF says.
    """

    def __init__(
        self,
        folder: Path,
        *,
        image_ids: np.ndarray,
        file_names: np.ndarray,
        image_sizes: np.ndarray,
        images: np.ndarray,
        instance_ids: np.ndarray,
        centers: np.ndarray,
        sizes: np.ndarray,
        keypoints: np.ndarray,
        visible: np.ndarray,
        scores: np.ndarray,
        skeleton: Skeleton,
        preparer: PersonCrop,
        areas: np.ndarray | None = None,
        augmentation: PersonAugmentation | None = None,
        photometric: Photometric | None = None,
        reading: Reading = PLAIN,
        turned: Sequence[int] = (),
    ) -> None:
        self.folder = str(folder)
        self.image_ids, self.file_names, self.image_sizes = image_ids, file_names, image_sizes
        self.images, self.centers, self.sizes = images, centers, sizes
        self.instance_ids, self.scores = instance_ids, scores.astype(np.float32)
        self.areas = (sizes.prod(axis=1) if areas is None else areas).astype(np.float32)
        self.keypoints, self.visible = keypoints.astype(np.float32), visible.astype(np.int8)
        self.permutation, self.upper_body = np.array(skeleton.flip_permutation), skeleton.upper_body
        self.preparer, self.augmentation, self.photometric = preparer, augmentation, photometric
        self._options: dict[str, Reading] = {} if reading == PLAIN else {"reading": reading}
        self._upright = {"reading": replace(reading, upright=True)}
        self._turned = frozenset(turned)
        self._decoded: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """The image's file."""
        return str(self.file_names[self.images[index]])

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """One person's crop, in the keys of the batch table."""
        image, center, size = self.image(int(self.images[index])), self.centers[index], self.sizes[index]
        keypoints, visible = self.keypoints[index], self.visible[index].astype(np.int64)
        rotation, flip = 0.0, False
        if self.augmentation is not None:
            center, size, rotation, flip = self.augmentation(center, size, keypoints, visible, self.upper_body, rng)
        matrix = self.preparer.matrix(center, size, rotation, flip)
        crop = self.preparer.cut(image, matrix)
        if self.photometric is not None:
            crop["image"] = self.photometric(crop["image"], rng)
        if flip:
            keypoints, visible = keypoints[self.permutation], visible[self.permutation]
        return {
            **crop,
            "image_id": self.image_ids[self.images[index]],
            "instance_id": self.instance_ids[index],
            "keypoints": (apply_affine(matrix, keypoints) * (visible > 0)[:, None]).astype(np.float32),
            "visible": visible,
            "area": self.areas[index],
            "score": self.scores[index],
        }

    def image(self, row: int) -> np.ndarray:
        """Image of the row (H, W, 3) uint8 RGB, in whose pixels boxes and points are."""
        # Decoding is the slowest step, and a detector gives about 20 boxes an image, which come one after another.
        if self._decoded is None or self._decoded[0] != row:
            height, width = self.image_sizes[row].tolist()
            options = self._upright if row in self._turned else self._options
            self._decoded = row, read_image(os.path.join(self.folder, self.file_names[row]), (height, width), **options)
        return self._decoded[1]

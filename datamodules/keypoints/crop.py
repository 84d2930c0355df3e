"""From a person's box to the crop that the network sees: one affine matrix, one warp (HRNet paper, section 4.1).

Scale, rotation, half body and mirroring are folded into the matrix, so the decoded image is read once and never copied.
albumentations' mirroring does not swap left and right key points, hence this file; its colours: `photometric.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np

from datamodules.base import DataError
from datamodules.images.preparer import Preparer

Crop = Literal["size", "unit"]


def box_to_center_scale(box: np.ndarray, aspect_ratio: float, padding: float = 1.25) -> tuple[np.ndarray, np.ndarray]:
    """Centre and padded size of boxes.

    Args:
        box: (..., 4) as x, y, width, height in pixels.
        aspect_ratio: Width / height of the network's input; the shorter side is extended to it.
        padding: Factor on both sides afterwards.

    Returns:
        Centre (..., 2) as (x, y) and size (..., 2) as (width, height) of the padded box, in pixels.
    """
    box = np.asarray(box, np.float64)
    return box[..., :2] + box[..., 2:] / 2, extend_to_aspect(box[..., 2:], aspect_ratio) * padding


def extend_to_aspect(size: np.ndarray, aspect_ratio: float) -> np.ndarray:
    """(..., 2) the smallest sizes (width, height) of that ratio which hold `size`."""
    width = np.maximum(size[..., 0], size[..., 1] * aspect_ratio)
    return np.stack([width, width / aspect_ratio], axis=-1)


def crop_matrix(
    center: np.ndarray,
    size: np.ndarray,
    rotation_degrees: float,
    output: tuple[int, int],
    flip: bool = False,
    convention: Crop = "size",
) -> np.ndarray:
    """(2, 3) float64 affine matrix, original pixels -> input pixels, in closed form.

    With `flip` the image is mirrored (x' = width - 1 - x) before it is rotated and cropped. Its centre is mirrored with
    it, so the image's width cancels and only the sign of the x column changes.

    Args:
        center: (x, y) of the crop, original pixels.
        size: (width, height) of the crop, original pixels.
        rotation_degrees: A positive angle turns the content counter-clockwise on the screen.
        output: (height, width) of the input.
        flip: Mirror left and right.
        convention: "size" is the classic one (HRNet, SimpleBaseline): the box is as wide as W pixels, its width alone
            sets the scale, and its centre falls on (W/2, H/2). "unit" is UDP's (Huang et al. 2020): lengths count
            from pixel centre to pixel centre, scales are (W-1)/width and (H-1)/height, the centre falls on
            ((W-1)/2, (H-1)/2), and mirroring the image mirrors the crop exactly. (UDP's own code turns the other
            way for a positive angle; angles are drawn symmetrically, so here both turn alike.)
    """
    extent = np.array([output[1], output[0]], np.float64) - (convention == "unit")
    scale = np.full(2, extent[0] / size[0]) if convention == "size" else extent / np.asarray(size, np.float64)
    cosine, sine = np.cos(np.deg2rad(rotation_degrees)), np.sin(np.deg2rad(rotation_degrees))
    linear = scale[:, None] * np.array([[cosine, sine], [-sine, cosine]])
    if flip:
        linear[:, 0] *= -1
    return np.column_stack([linear, extent / 2 - linear @ np.asarray(center, np.float64)])


def invert_affine(matrix: np.ndarray) -> np.ndarray:
    """(2, 3) the inverse of a (2, 3) affine matrix."""
    (a, b, x), (c, d, y) = matrix.tolist()
    determinant = a * d - b * c
    a, b, c, d = d / determinant, -b / determinant, -c / determinant, a / determinant
    return np.array([[a, b, -a * x - b * y], [c, d, -c * x - d * y]])


def apply_affine(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(..., 2) the points (x, y) under a (2, 3) matrix."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def warp(image: np.ndarray, matrix: np.ndarray, output: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) the crop of size `output` under `matrix`, bilinear, black outside of the image."""
    return cv2.warpAffine(image, matrix, (output[1], output[0]), flags=cv2.INTER_LINEAR)


@dataclass(frozen=True)
class PersonCrop(Preparer):
    """The crop around a person's box, brought to `image_size`; points come back by `to_image`.

    Args:
        crop: "size" is the classic crop, "unit" that of UDP, see `crop_matrix`.
        box_padding: Factor on the box's sides.
    """

    crop: Crop = "size"
    box_padding: float = 1.25

    def __call__(self, image: np.ndarray, *box: np.ndarray) -> dict[str, Any]:
        """{"image": (height, width, 3) uint8, "to_image": (2, 3) float32, input pixels -> image pixels}."""
        return self.cut(image, self.matrix(*self.padded(*box)))

    def padded(self, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Centres (..., 2) and sizes (..., 2) of the crops of boxes (..., 4), see `box_to_center_scale`."""
        return box_to_center_scale(boxes, self.image_size[1] / self.image_size[0], self.box_padding)

    def matrix(self, center: np.ndarray, size: np.ndarray, rotation: float = 0.0, flip: bool = False) -> np.ndarray:
        """(2, 3) image pixels -> input pixels, see `crop_matrix`."""
        return crop_matrix(center, size, rotation, self.image_size, flip, self.crop)

    def cut(self, image: np.ndarray, matrix: np.ndarray) -> dict[str, Any]:
        """The crop under a matrix, in training one that was drawn; see `__call__`."""
        return {"image": warp(image, matrix, self.image_size), "to_image": invert_affine(matrix).astype(np.float32)}


class PersonAugmentation:
    """Draws a person's crop; the defaults are the published COCO recipe (facts of its code, not of the paper's text).

    Args:
        scale_factor: The size is multiplied by 1 + scale_factor * N(0, 1), clipped at one standard deviation, so 31.7 %
            of the draws are at a limit.
        rotation_factor: Degrees; the angle is rotation_factor * N(0, 1), clipped at two standard deviations.
        rotation_probability: How often a person is rotated at all.
        flip_probability: How often the image is mirrored.
        half_body_probability: How often a half body is tried; needs a skeleton with `upper_body`.
        half_body_min_keypoints: Half body needs more labelled key points than this.
        half_body_upper_probability: How often the upper body is preferred. The published code compares a normal draw
            with 0.5 where a uniform one was surely meant, hence 0.6915 = P(N(0, 1) < 0.5) and not 0.5.
    """

    def __init__(
        self,
        scale_factor: float = 0.35,
        rotation_factor: float = 45.0,
        rotation_probability: float = 0.6,
        flip_probability: float = 0.5,
        half_body_probability: float = 0.3,
        half_body_min_keypoints: int = 8,
        half_body_upper_probability: float = 0.6915,
    ) -> None:
        if not 0 <= scale_factor < 1:
            raise DataError(f"scale_factor is {scale_factor}: expected 0 <= scale_factor < 1, the recipe has 0.35.")
        self.scale_factor = scale_factor
        self.rotation_factor = rotation_factor
        self.rotation_probability = rotation_probability
        self.flip_probability = flip_probability
        self.half_body_probability = half_body_probability
        self.half_body_min_keypoints = half_body_min_keypoints
        self.half_body_upper_probability = half_body_upper_probability

    def __call__(
        self,
        center: np.ndarray,
        size: np.ndarray,
        keypoints: np.ndarray,
        visible: np.ndarray,
        upper_body: Sequence[int],
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray, float, bool]:
        """Centre (2,), size (2,), rotation in degrees and flip of the crop, drawn in the order of the recipe.

        Args:
            center: (x, y) in original pixels.
            size: (width, height) of the padded box; its ratio is kept.
            keypoints: (K, 2) original pixels.
            visible: (K,) 0 where not labelled.
            upper_body: Indices; without any there is no half body.
            rng: Source of all draws.
        """
        enough = len(upper_body) > 0 and np.count_nonzero(visible) > self.half_body_min_keypoints
        if enough and rng.random() < self.half_body_probability:
            center, size = self.half_body(center, size, keypoints, visible, upper_body, rng)
        factor, rotation = self.drawn(rng)
        return center, size * factor, rotation, bool(rng.random() < self.flip_probability)

    def drawn(self, rng: np.random.Generator) -> tuple[float, float]:
        """Factor on the size, and rotation in degrees."""
        factor = 1 + self.scale_factor * float(np.clip(rng.standard_normal(), -1, 1))
        if rng.random() >= self.rotation_probability:
            return factor, 0.0
        return factor, self.rotation_factor * float(np.clip(rng.standard_normal(), -2, 2))

    def half_body(
        self,
        center: np.ndarray,
        size: np.ndarray,
        keypoints: np.ndarray,
        visible: np.ndarray,
        upper_body: Sequence[int],
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Centre and size around the labelled key points of the upper or of the lower body, padded by 1.5.

        Unchanged if the chosen half has fewer than two labelled points, or all at one place.
        """
        is_upper = np.isin(np.arange(len(visible)), upper_body)
        upper, lower = keypoints[(visible > 0) & is_upper], keypoints[(visible > 0) & ~is_upper]
        prefers_upper = rng.random() < self.half_body_upper_probability
        chosen = upper if (prefers_upper and len(upper) > 2) or len(lower) <= 2 else lower
        if len(chosen) < 2 or not np.ptp(chosen, axis=0).any():
            return center, size
        return chosen.mean(axis=0), extend_to_aspect(np.ptp(chosen, axis=0), size[0] / size[1]) * 1.5

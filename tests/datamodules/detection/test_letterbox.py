"""Geometry of detection: boxes, masks, points and pixels go one way together; evaluation is what is published."""

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from scipy.stats import kstest, uniform

from datamodules import DataError, DetectionAugmentation, Letterbox
from datamodules.base import collate
from datamodules.detection.letterbox import Placement, fitted
from datamodules.detection.samples import Segments
from datamodules.loading.dataset import FILL

RECIPES = {
    "published": DetectionAugmentation(),
    "jitter": DetectionAugmentation(scale=(0.6, 1.7), random_place=True),
    "several sizes": DetectionAugmentation(sides=[(96, 150), (60, 100), (80, 133)], image_size=(104, 160)),
    "resize and crop": DetectionAugmentation(sides=[(60, 140), (80, 140), (100, 140)], crop=(80, 120)),
}


def rectangle(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A box x1, y1, x2, y2 of whole pixels, at least 20 on a side."""
    sides = rng.integers(20, np.minimum(shape[::-1], 90))
    start = rng.integers(0, np.array(shape[::-1]) - sides + 1)
    return np.concatenate([start, start + sides]).astype(float)


def drawn(box: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    x1, y1, x2, y2 = box.astype(int)
    mask = np.zeros(shape, np.uint8)
    mask[y1:y2, x1:x2] = 1
    return mask


def bounds(mask: np.ndarray) -> np.ndarray:
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)


@pytest.mark.parametrize("form", ["polygons", "run lengths"])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("grouped", [False, True])
def test_a_box_is_what_bounds_the_mask_after_any_placement(recipe: str, form: str, grouped: bool) -> None:
    rng = np.random.default_rng(0)
    letterbox = Letterbox((96, 160), grouped=grouped)
    errors = []
    for _ in range(300):
        shape = tuple(rng.integers(90, 260, 2).tolist())
        box = rectangle(rng, shape)
        placement = RECIPES[recipe](shape, letterbox, rng)
        moved = placement.clipped(placement.boxes(box[None]))[0]
        x1, y1, x2, y2 = box.tolist()
        segment = [[x1, y1, x2, y1, x2, y2, x1, y2]]
        if form == "run lengths":
            segment = coco_mask.encode(np.asfortranarray(drawn(box, shape)))
        mask = Segments([None, segment]).mask(1, placement)
        assert mask.shape == placement.canvas
        if (moved[2:] - moved[:2] < 2).any():
            continue
        errors.append(bounds(mask) - moved)
    errors = np.array(errors)
    assert len(errors) > 200
    assert np.abs(errors).max() <= 0.51
    assert np.abs(errors.mean(axis=0)).max() < 0.05


@pytest.mark.parametrize("recipe", RECIPES)
def test_pixels_boxes_and_points_agree(recipe: str) -> None:
    """A blob in the image is on the canvas where the box around it is, and `to_image` leads back to it."""
    rng = np.random.default_rng(1)
    letterbox, distances = Letterbox((96, 160), grouped=True), []
    for _ in range(100):
        shape = tuple(rng.integers(90, 260, 2).tolist())
        blob, reach = rng.uniform(25, np.array(shape[::-1]) - 25), 24.0
        rows, columns = np.mgrid[: shape[0], : shape[1]]
        bright = np.exp(-((columns - blob[0]) ** 2 + (rows - blob[1]) ** 2) / (2 * 6.0**2))
        placement = RECIPES[recipe](shape, letterbox, rng)
        box = np.concatenate([blob - reach, blob + reach]) + 0.5  # edges
        moved = placement.boxes(box[None])
        if (placement.clipped(moved) != moved).any():
            continue
        weights = np.zeros(placement.canvas)
        weights[placement.window] = placement.part(bright)
        rows, columns = np.mgrid[: weights.shape[0], : weights.shape[1]]
        centre = np.array([(weights * columns).sum(), (weights * rows).sum()]) / weights.sum()
        distances.append(centre - ((moved[0, :2] + moved[0, 2:]) / 2 - 0.5))
        matrix = placement.to_image()
        assert np.abs(matrix[:, :2] @ centre + matrix[:, 2] - blob).max() < 0.1
    assert len(distances) > 20
    assert np.abs(distances).max() < 0.05


def test_draws_are_evenly_distributed_and_independent() -> None:
    augmentation = DetectionAugmentation(scale=(0.5, 0.9), random_place=True)
    letterbox, rows = Letterbox((400, 600)), []
    for number in range(1500):
        placement = augmentation((400, 600), letterbox, np.random.default_rng(number))
        free = np.subtract(placement.canvas, placement.size)
        rows.append([placement.flip, np.log(placement.size[0] / 400), *(np.add(placement.place, 0.5) / (free + 1))])
    flip, scale, top, left = np.array(rows, float).T
    assert abs(flip.mean() - 0.5) < 0.04
    assert kstest(scale, uniform(np.log(0.5), np.log(0.9 / 0.5)).cdf).pvalue > 1e-3
    for place in (top, left):
        assert kstest(place, "uniform").pvalue > 1e-3
    correlations = np.corrcoef([flip, scale, top, left]) - np.eye(4)
    assert np.abs(correlations).max() < 0.1


@pytest.mark.parametrize("grouped", [False, True])
def test_the_published_recipes_of_several_sizes(grouped: bool) -> None:
    letterbox = Letterbox((832, 1344), sides=(800, 1333), grouped=grouped)
    several = DetectionAugmentation(sides=[(1000, 1600), (600, 1000), (800, 1333)], image_size=(1024, 1600))
    cut = DetectionAugmentation(
        sides=[(600, 1400), (800, 1400), (1000, 1400)], crop=(800, 1200), image_size=(832, 1216)
    )
    for seed in range(30):
        rng = np.random.default_rng(seed)
        placement = several((480, 640), letterbox, rng)
        assert placement.canvas == (1024, 1600)
        assert placement.size in {(1000, 1333), (600, 800), (800, 1067)}
        assert placement.shown == placement.size
        placement = cut((480, 640), letterbox, rng)
        assert placement.size in {(600, 800), (800, 1067), (1000, 1333)}
        assert placement.shown == tuple(np.minimum(placement.size, (800, 1200)))
        portrait = several((640, 480), letterbox, rng)
        assert portrait.canvas == ((1600, 1024) if grouped else (1024, 1600))
        assert not grouped or portrait.size in {(1333, 1000), (800, 600), (1067, 800)}
        assert cut((640, 480), letterbox, rng).shown[0] <= (1200 if grouped else 800)


def test_mirrored_twice_is_the_identity() -> None:
    rng = np.random.default_rng(2)
    image = rng.integers(0, 256, (40, 60, 3), np.uint8)
    box = np.array([[3.25, 4.0, 20.5, 33.0]])
    placement = Placement((40, 60), (40, 60), (40, 60), (40, 60), flip=True)
    once = placement.part(image)
    np.testing.assert_array_equal(placement.part(np.ascontiguousarray(once)), image)
    assert (once[:, 0] == image[:, -1]).all()
    np.testing.assert_allclose(placement.boxes(placement.boxes(box)), box)
    np.testing.assert_allclose(placement.boxes(box), [[39.5, 4, 56.75, 33]])
    centres = np.vstack([placement.to_image(), [0, 0, 1]])
    np.testing.assert_allclose(centres @ centres, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(centres @ [0, 7, 1], [59, 7, 1])  # the first pixel centre is the last


# The published size of COCO images: keep the aspect, shorter side 800, longer at most 1333, halves rounded up.
@pytest.mark.parametrize(
    ("shape", "size", "canvas"),
    [
        ((480, 640), (800, 1067), (832, 1344)),
        ((640, 480), (1067, 800), (1344, 832)),
        ((427, 640), (800, 1199), (832, 1344)),
        ((300, 640), (625, 1333), (832, 1344)),
        ((640, 640), (800, 800), (832, 1344)),
    ],
)
def test_evaluated_images_have_the_published_size(shape: tuple, size: tuple, canvas: tuple) -> None:
    letterbox = Letterbox((832, 1344), sides=(800, 1333), grouped=True)
    image = np.random.default_rng(3).integers(0, 256, (*shape, 3), np.uint8)
    sample = letterbox(image)
    assert sample["image"].shape == (*canvas, 3)
    assert tuple(sample["size"]) == size
    height, width = size
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(sample["image"][:height, :width], resized)
    assert (sample["image"][height:] == FILL).all()
    assert (sample["image"][:, width:] == FILL).all()
    corner = sample["to_image"] @ [width - 0.5, height - 0.5, 1]  # the edges of the last pixel
    np.testing.assert_allclose(corner, [shape[1] - 0.5, shape[0] - 0.5], atol=1e-3)


def test_without_groups_every_image_fits_the_one_canvas() -> None:
    letterbox = Letterbox((832, 1344), sides=(800, 1333))
    assert letterbox.placement((640, 480)).size == (832, 624)
    assert letterbox.placement((480, 640)).size == (800, 1067)
    assert Letterbox((160, 224)).placement((100, 100)).size == (160, 160)
    assert Letterbox.of(letterbox.to_dict()["init_args"]) == letterbox
    with pytest.raises(DataError, match="sides"):
        fitted((3, 4), None, None)


def test_images_of_both_orientations_are_padded_to_one_batch() -> None:
    letterbox, samples = Letterbox((32, 64), grouped=True), []
    for shape in ((30, 60), (60, 30)):
        sample = letterbox(np.full((*shape, 3), 9, np.uint8)) | {"boxes": np.zeros((1, 4), np.float32)}
        samples.append(sample | {"masks": np.ones((1, *sample["image"].shape[:2]), bool)})
    batch = collate(samples)
    assert batch["image"].shape == (2, 3, 64, 64)
    assert batch["size"].tolist() == [[32, 64], [64, 32]]
    for image, mask, (height, width) in zip(batch["image"], batch["masks"], batch["size"].tolist(), strict=True):
        assert (image[:, :height, :width] == 9).all()
        assert mask[0, :height, :width].all()
        assert mask.sum() == height * width
        outside = image.permute(1, 2, 0)[~mask[0]]
        assert (outside.numpy() == FILL).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": (1.2, 0.8)}, "lowest first"),
        ({"flip_probability": 2}, "from 0 to 1"),
        ({"crop": (0, 5)}, "crop is"),
        ({"sides": [(0, 5)]}, "sides is"),
    ],
)
def test_wrong_arguments_are_a_sentence(options: dict, words: str) -> None:
    with pytest.raises(DataError, match=words):
        DetectionAugmentation(**options)

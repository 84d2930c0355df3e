"""The crop: published matrices, mirroring inside the matrix, points that follow pixels, and the recipe's draws."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules import DataError, PersonAugmentation, Skeleton
from datamodules.images.photometric import Photometric
from datamodules.keypoints.crop import apply_affine, box_to_center_scale, crop_matrix, invert_affine, warp

GOLDEN = Path(__file__).parents[2] / "golden" / "crop_affine.npz"
OUTPUT = (256, 192)


def test_matrices_equal_the_published_code() -> None:
    golden = np.load(GOLDEN)
    output = tuple(golden["affine_output_size_wh"][::-1].tolist())
    for center, scale, rotation, matrix, inverse in zip(
        *(golden[f"affine_{key}"] for key in ("center", "scale", "rotation_degrees", "matrix", "matrix_inverse")),
        strict=True,
    ):
        ours = crop_matrix(center, scale * 200, float(rotation), output)
        # The published code solves for three points in single precision.
        np.testing.assert_allclose(ours, matrix, rtol=1e-4, atol=2e-3)
        np.testing.assert_allclose(invert_affine(ours), inverse, rtol=1e-4, atol=2e-3)


@given(st.floats(-180, 180), st.floats(-50, 400), st.floats(-50, 400), st.floats(20, 500))
def test_the_unit_crop_is_udps_formula(angle: float, x: float, y: float, height: float) -> None:
    w, h = size = np.array([0.75 * height, height])
    # UDP's published formula turns the other way for the same angle.
    cosine, sine = np.cos(np.deg2rad(-angle)), np.sin(np.deg2rad(-angle))
    sx, sy = (OUTPUT[1] - 1) / w, (OUTPUT[0] - 1) / h
    expected = [
        [cosine * sx, -sine * sx, sx * (-x * cosine + y * sine + w / 2)],
        [sine * sy, cosine * sy, sy * (-x * sine - y * cosine + h / 2)],
    ]
    np.testing.assert_allclose(
        crop_matrix(np.array([x, y]), size, angle, OUTPUT, convention="unit"), expected, atol=1e-9
    )


def test_box_is_extended_to_the_ratio_then_padded() -> None:
    center, size = box_to_center_scale(np.array([[10, 20, 30, 100], [10, 20, 100, 30]]), 0.75)
    np.testing.assert_allclose(center, [[25, 70], [60, 35]])
    np.testing.assert_allclose(size, [[93.75, 125], [125, 125 / 0.75]])


@pytest.mark.parametrize("convention", ["size", "unit"])
@given(st.floats(-90, 90), st.floats(0, 99), st.floats(0, 79))
def test_flip_in_the_matrix_is_flipping_the_image_first(convention: str, angle: float, x: float, y: float) -> None:
    width, size = 100, np.array([60.0, 80.0])
    mirror = np.array([[-1.0, 0, width - 1], [0, 1, 0]])
    mirrored_center = apply_affine(mirror, np.array([x, y]))
    after = crop_matrix(mirrored_center, size, angle, OUTPUT, convention=convention)
    at_once = crop_matrix(np.array([x, y]), size, angle, OUTPUT, flip=True, convention=convention)
    points = np.array([[0.0, 0], [99, 0], [31, 57]])
    np.testing.assert_allclose(
        apply_affine(at_once, points), apply_affine(after, apply_affine(mirror, points)), atol=1e-9
    )


def test_flipped_crop_has_the_pixels_of_the_flipped_image() -> None:
    image = cv2.resize(np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8), (100, 80))
    center, size = np.array([43.3, 38.1]), np.array([60.0, 80.0])
    ours = warp(image, crop_matrix(center, size, 20, OUTPUT, flip=True), OUTPUT)
    mirrored_center = np.array([99 - center[0], center[1]])
    reference = warp(np.ascontiguousarray(image[:, ::-1]), crop_matrix(mirrored_center, size, 20, OUTPUT), OUTPUT)
    assert np.abs(ours.astype(int) - reference).max() <= 4  # the warp rounds positions to 1/32 pixel


@pytest.mark.parametrize("convention", ["size", "unit"])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("angle", [0.0, 33.0, -70.0])
def test_points_follow_the_pixels(convention: str, flip: bool, angle: float) -> None:
    rng = np.random.default_rng(1)
    for point in rng.uniform(60, 140, (5, 2)):
        y, x = np.mgrid[:200, :200]
        dot = 255 * np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / 18)
        image = np.repeat(dot[..., None], 3, axis=2).astype(np.uint8)
        matrix = crop_matrix(np.array([101.0, 98.0]), np.array([150.0, 200.0]), angle, OUTPUT, flip, convention)
        crop = warp(image, matrix, OUTPUT)[..., 0].astype(float)
        y, x = np.mgrid[: OUTPUT[0], : OUTPUT[1]]
        found = np.array([(crop * x).sum(), (crop * y).sum()]) / crop.sum()
        expected = apply_affine(matrix, point)
        np.testing.assert_allclose(found, expected, atol=0.15)
        np.testing.assert_allclose(apply_affine(invert_affine(matrix), expected), point, atol=1e-9)


def test_mirroring_twice_returns_every_point() -> None:
    permutation = np.array(Skeleton.load("coco").flip_permutation)
    points = np.random.default_rng(0).uniform(0, 99, (17, 2))
    mirror = np.array([[-1.0, 0, 99], [0, 1, 0]])
    once = apply_affine(mirror, points)[permutation]
    assert not np.allclose(once, points)
    np.testing.assert_allclose(apply_affine(mirror, once)[permutation], points)


def draws(augmentation: PersonAugmentation, count: int, visible: np.ndarray) -> list[tuple]:
    rng = np.random.default_rng(7)
    keypoints = np.stack([np.arange(17.0), 10 * np.arange(17.0)], axis=1)
    center, size = np.array([50.0, 60.0]), np.array([75.0, 100.0])
    return [augmentation(center, size, keypoints, visible, range(11), rng) for _ in range(count)]


def test_recipe_draws_scale_rotation_and_flip_as_published() -> None:
    drawn = draws(PersonAugmentation(half_body_probability=0), 20_000, np.full(17, 2))
    factor = np.array([size[0] / 75 for _, size, _, _ in drawn])
    rotation = np.array([rotation for _, _, rotation, _ in drawn])
    at_limit = np.isclose(factor, 0.65) | np.isclose(factor, 1.35)
    assert at_limit.mean() == pytest.approx(0.317, abs=0.012)
    assert factor.min() == pytest.approx(0.65)
    assert factor.max() == pytest.approx(1.35)
    turned = rotation[rotation != 0]
    assert len(turned) / len(rotation) == pytest.approx(0.6, abs=0.012)
    assert (np.abs(turned) == 90).mean() == pytest.approx(0.0455, abs=0.006)
    assert np.std(turned[np.abs(turned) < 90]) == pytest.approx(45 * 0.88, rel=0.03)
    assert np.mean([flip for *_, flip in drawn]) == pytest.approx(0.5, abs=0.012)


def test_half_body_prefers_the_upper_half_as_the_published_code_does() -> None:
    augmentation = PersonAugmentation(scale_factor=0, half_body_probability=0.3)
    drawn = draws(augmentation, 20_000, np.full(17, 2))
    upper = np.mean([np.allclose(center, [5, 50]) for center, *_ in drawn])
    lower = np.mean([np.allclose(center, [13.5, 135]) for center, *_ in drawn])
    assert upper + lower == pytest.approx(0.3, abs=0.012)
    assert upper / (upper + lower) == pytest.approx(0.6915, abs=0.02)
    sizes = {tuple(np.round(size, 6)) for center, size, *_ in drawn if np.allclose(center, [5, 50])}
    assert sizes == {(112.5, 150.0)}  # extent 10 x 100, widened to 75 x 100, times 1.5


@pytest.mark.parametrize(
    ("labelled", "center"),
    [
        (range(8), [50, 60]),  # not more than eight
        (range(9), [4, 40]),  # lower half empty: upper
        ((*range(9), 11, 12), [4, 40]),  # two are too few for the lower half
        ((0, 1, *range(11, 17), 2), None),  # both halves have three or more
        ((0, 1, *range(10, 17)), None),
    ],
)
def test_half_body_needs_enough_points_of_its_half(labelled, center) -> None:
    visible = np.zeros(17, int)
    visible[list(labelled)] = 1
    drawn = draws(PersonAugmentation(scale_factor=0, half_body_probability=1), 200, visible)
    centers = {tuple(np.round(found, 6)) for found, *_ in drawn}
    upper, lower = [k for k in labelled if k < 11], [k for k in labelled if k >= 11]
    expected = {tuple(np.round(np.mean([[k, 10 * k] for k in half], axis=0), 6)) for half in (upper, lower) if half}
    assert centers == ({tuple(map(float, center))} if center else expected)


def test_half_body_leaves_coinciding_points_alone() -> None:
    keypoints, rng = np.full((17, 2), 5.0), np.random.default_rng(0)
    center, size = np.array([50.0, 60.0]), np.array([75.0, 100.0])
    found = PersonAugmentation().half_body(center, size, keypoints, np.ones(17), range(11), rng)
    assert found == (center, size) or np.array_equal(found[1], size)


def test_scale_factor_that_could_vanish_is_refused() -> None:
    with pytest.raises(DataError, match="scale_factor"):
        PersonAugmentation(scale_factor=1.0)


def test_photometric_follows_the_generator_and_keeps_the_format() -> None:
    photometric = Photometric(
        [{"name": "ColorJitter", "brightness": 0.5, "p": 1.0}, {"name": "CoarseDropout", "p": 1.0}]
    )
    image = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    first, again, other = (photometric(image, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert first.shape == image.shape
    assert first.dtype == np.uint8


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "HorizontalFlip"}, "HorizontalFlip is a geometric"),
        ({"name": "Affine", "p": 0.5}, "geometric"),
        ({"name": "ColourJitter"}, "no transform ColourJitter, did you mean ColorJitter"),
        ({"name": "Compose"}, "no transform Compose"),
        ({"name": "ColorJitter", "brigthness": 0.5}, "brigthness"),
        ({"name": "ColorJitter", "p": "often"}, "does not accept"),
        ({"name": "Normalize"}, "Normalize turns uint8 .* into float32"),
        ({"name": "Normalize", "p": 0.01}, "float32"),
        ({"name": "FDA", "p": 0.01}, "FDA fails on an image: .*fda_metadata"),
        ({"p": 0.5}, "no `name`"),
    ],
)
def test_photometric_mistakes_are_named(entry: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Photometric([entry])

"""Codecs against golden figures of the published code, slow plain loops and the properties a user relies on."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tasks.heatmaps import Codec, DarkCodec, FaceCodec, MSRACodec, UDPCodec

CODECS = [MSRACodec, DarkCodec, UDPCodec, FaceCodec]
SUBPIXEL = [DarkCodec, UDPCodec]
PAIRS = torch.tensor([0, 2, 1])


# --- slow references: one key point, one pixel at a time, as the papers say it ---------------------------------------


def slow_encode(codec: Codec, point: np.ndarray, visible: float, size: tuple[int, int]) -> tuple[np.ndarray, float]:
    height, width = (math.ceil(extent / codec.stride) for extent in size)
    if isinstance(codec, UDPCodec):
        x, y = point[0] * (width - 1) / (width * 4 - 1), point[1] * (height - 1) / (height * 4 - 1)
    else:
        x, y = point[0] / codec.stride, point[1] / codec.stride
    rounding = {MSRACodec: 0.5, FaceCodec: 0.0}.get(type(codec))
    if rounding is not None:
        x, y = int(x + rounding), int(y + rounding)
    window = 3 * codec.sigma
    overlaps = -window <= x <= width - 1 + window and -window <= y <= height - 1 + window
    heatmap = np.zeros((height, width))
    if visible > 0 and overlaps:
        for row in range(height):
            for column in range(width):
                if rounding is None or max(abs(row - y), abs(column - x)) <= window:
                    heatmap[row, column] = math.exp(-((row - y) ** 2 + (column - x) ** 2) / (2 * codec.sigma**2))
    return heatmap, float(visible > 0 and overlaps)


def blur(heatmap: np.ndarray, taps: int) -> np.ndarray:
    """The whole map, zero outside, with OpenCV's own kernel for this number of taps."""
    border = taps // 2
    padded = np.pad(heatmap, border)
    return cv2.GaussianBlur(padded, (taps, taps), 0)[border:-border, border:-border]


def slow_decode(codec: Codec, heatmap: np.ndarray) -> tuple[float, float, float]:
    """One map -> x, y in input pixels and score. Looped over joints this is the published way, and the benchmark's."""
    height, width = heatmap.shape
    y, x = divmod(int(heatmap.argmax()), width)
    score = float(heatmap[y, x])
    if score <= 0:
        return 0.0, 0.0, score
    if isinstance(codec, FaceCodec):
        return *official_face_point(heatmap), score
    offset = {MSRACodec: quarter_offset, DarkCodec: dark_offset, UDPCodec: udp_offset}[type(codec)]
    dx, dy = offset(heatmap, x, y, {2.0: 11, 3.0: 17}[codec.sigma])
    if not isinstance(codec, MSRACodec) and not (1 < x < width - 2 and 1 < y < height - 2):
        dx = edge_offset(heatmap[y, :], x, 3 * codec.sigma)
        dy = edge_offset(heatmap[:, x], y, 3 * codec.sigma)
    if isinstance(codec, UDPCodec):
        return (x + dx) * (4 * width - 1) / (width - 1), (y + dy) * (4 * height - 1) / (height - 1), score
    return 4 * (x + dx), 4 * (y + dy), score


def edge_offset(line: np.ndarray, maximum: int, limit: float) -> float:
    """Top of the parabola through the logarithms of the three pixels of a line nearest to its maximum at the border."""
    middle = min(max(maximum, 1), len(line) - 2)
    three = line[middle - 1 : middle + 2].astype(np.float64)
    if (three <= 1e-3 * line[maximum]).any():
        return 0.0
    a, b, _ = np.polyfit([-1, 0, 1], np.log(three), 2)
    if a >= 0:
        return 0.0
    return float(np.clip(middle - b / (2 * a) - maximum, -limit, limit))


def official_face_point(heatmap: np.ndarray) -> tuple[float, float]:
    """The facial landmark code's own steps, which count pixels from 1, up to the point in input pixels (stride 4)."""
    height, width = heatmap.shape
    index = int(heatmap.argmax()) + 1
    px, py = (index - 1) % width + 1, (index - 1) // width + 1
    x, y = float(px), float(py)
    if 1 < px < width and 1 < py < height:
        x += 0.25 * float(np.sign(heatmap[py - 1, px] - heatmap[py - 1, px - 2]))
        y += 0.25 * float(np.sign(heatmap[py, px - 1] - heatmap[py - 2, px - 1]))
    x, y = x + 0.5, y + 0.5
    return 4 * (x - 1), 4 * (y - 1)


def quarter_offset(heatmap: np.ndarray, x: int, y: int, taps: int) -> tuple[float, float]:
    height, width = heatmap.shape
    if not (1 < x < width - 1 and 1 < y < height - 1):
        return 0.0, 0.0
    return (
        0.25 * float(np.sign(heatmap[y, x + 1] - heatmap[y, x - 1])),
        0.25 * float(np.sign(heatmap[y + 1, x] - heatmap[y - 1, x])),
    )


def dark_offset(heatmap: np.ndarray, x: int, y: int, taps: int) -> tuple[float, float]:
    height, width = heatmap.shape
    if not (1 < x < width - 2 and 1 < y < height - 2):
        return 0.0, 0.0
    blurred = blur(heatmap, taps)
    log = np.log(np.maximum(blurred * (heatmap.max() / blurred.max()), 1e-10))
    gradient = 0.5 * np.array([log[y, x + 1] - log[y, x - 1], log[y + 1, x] - log[y - 1, x]])
    dxx = 0.25 * (log[y, x + 2] - 2 * log[y, x] + log[y, x - 2])
    dyy = 0.25 * (log[y + 2, x] - 2 * log[y, x] + log[y - 2, x])
    dxy = 0.25 * (log[y + 1, x + 1] - log[y - 1, x + 1] - log[y + 1, x - 1] + log[y - 1, x - 1])
    if dxx * dyy - dxy**2 == 0:
        return 0.0, 0.0
    dx, dy = -np.linalg.inv([[dxx, dxy], [dxy, dyy]]) @ gradient
    return float(dx), float(dy)


def udp_offset(heatmap: np.ndarray, x: int, y: int, taps: int) -> tuple[float, float]:
    log = np.pad(np.log(np.clip(blur(heatmap, taps), 1e-3, 50)), 1, mode="edge").astype(np.float64)
    x, y = x + 1, y + 1
    gradient = 0.5 * np.array([log[y, x + 1] - log[y, x - 1], log[y + 1, x] - log[y - 1, x]])
    dxx = log[y, x + 1] - 2 * log[y, x] + log[y, x - 1]
    dyy = log[y + 1, x] - 2 * log[y, x] + log[y - 1, x]
    forward = log[y + 1, x + 1] - log[y, x + 1] - log[y + 1, x] + log[y, x]
    backward = log[y, x] - log[y, x - 1] - log[y - 1, x] + log[y - 1, x - 1]
    hessian = np.array([[dxx, 0.5 * (forward + backward)], [0.5 * (forward + backward), dyy]])
    dx, dy = -np.linalg.inv(hessian + np.finfo(np.float32).eps * np.eye(2)) @ gradient
    return float(dx), float(dy)


def compare_decode(codec: Codec, heatmaps: Tensor, atol: float) -> None:
    keypoints, scores = codec.decode(heatmaps)
    for sample, maps in enumerate(heatmaps.numpy()):
        for point, heatmap in enumerate(maps):
            x, y, score = slow_decode(codec, heatmap)
            assert keypoints[sample, point].tolist() == pytest.approx([x, y], abs=atol), (sample, point)
            assert scores[sample, point].item() == score


# --- inputs ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["repository", "reference"])
def golden(request: pytest.FixtureRequest) -> dict[str, np.ndarray]:
    """A few samples kept in the repository, and all of them where the reference folder is at hand."""
    if request.param == "repository":
        path = Path(__file__).parents[1] / "golden" / "pose_codec.npz"
    else:
        path = request.getfixturevalue("shared_reference") / "golden" / "pose_codec.npz"
    with np.load(path) as arrays:
        return dict(arrays)


def points(batch: int, num_keypoints: int, size: tuple[int, int], margin: float = 0.0) -> Tensor:
    """Random (B, K, 2) at least `margin` pixels inside the image (outside, if negative)."""
    last = torch.tensor([size[1] - 1.0, size[0] - 1.0])
    return margin + torch.rand(batch, num_keypoints, 2) * (last - 2 * margin)


def noisy(codec: Codec, amplitude: float, noise: float, size: tuple[int, int] = (256, 192)) -> Tensor:
    heatmaps, _ = codec.encode(points(4, 17, size), torch.ones(4, 17), size)
    return amplitude * heatmaps + noise * torch.randn_like(heatmaps)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# --- golden figures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "size", "sigma"), [("256x192", (256, 192), 2), ("384x288", (384, 288), 3)])
def test_msra_targets_equal_the_published_code(
    golden: dict[str, np.ndarray], name: str, size: tuple[int, int], sigma: float
) -> None:
    keypoints, visible = (torch.from_numpy(golden[f"target_{name}_{key}"]) for key in ("keypoints", "visible"))
    heatmaps, weights = MSRACodec(sigma=sigma).encode(keypoints, visible, size)
    np.testing.assert_allclose(heatmaps.numpy(), golden[f"target_{name}_heatmaps"], atol=2e-7)
    np.testing.assert_array_equal(weights.numpy(), golden[f"target_{name}_weights"])


def test_msra_decode_equals_the_published_code(golden: dict[str, np.ndarray]) -> None:
    heatmaps = torch.from_numpy(golden["decode_heatmaps"]).float()
    keypoints, scores = MSRACodec().decode(heatmaps)
    in_map = keypoints.numpy() / 4 - np.array([24, 32])
    in_image = golden["decode_center"][:, None] + in_map * 200 * golden["decode_scale"][:, None, :1] / 48
    np.testing.assert_allclose(in_image, golden["decode_keypoints"], atol=1e-3)
    np.testing.assert_array_equal(scores.numpy(), golden["decode_scores"].reshape(scores.shape))


@pytest.mark.parametrize(("codec", "key"), [(UDPCodec(), "flip_back"), (MSRACodec(), "flip_back_shifted")])
def test_flip_back_equals_the_published_code(golden: dict[str, np.ndarray], codec: Codec, key: str) -> None:
    permutation = torch.tensor([0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15])
    flipped = codec.flip_back(torch.from_numpy(golden["flip_heatmaps"]), permutation)
    np.testing.assert_array_equal(flipped.numpy(), golden[key])


# --- encode ----------------------------------------------------------------------------------------------------------

coordinate = st.floats(-60, 130, width=32)
person = st.lists(st.tuples(coordinate, coordinate, st.sampled_from([0, 1, 2])), min_size=1, max_size=3)


@pytest.mark.parametrize("kind", CODECS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(joints=person, sigma=st.sampled_from([1.0, 1.5, 2.0, 3.0]), size=st.sampled_from([(64, 48), (64, 64), (70, 41)]))
def test_encode_equals_the_plain_loop(
    kind: type[Codec], joints: list[tuple[float, float, int]], sigma: float, size: tuple[int, int]
) -> None:
    codec = kind(sigma=sigma)
    keypoints = torch.tensor([[joint[:2] for joint in joints]])
    visible = torch.tensor([[joint[2] for joint in joints]])
    heatmaps, weights = codec.encode(keypoints, visible, size)
    for point, (x, y, seen) in enumerate(joints):
        heatmap, weight = slow_encode(codec, np.array([x, y]), seen, size)
        np.testing.assert_allclose(heatmaps[0, point].numpy(), heatmap, atol=2e-5)
        assert weights[0, point].item() == weight


@pytest.mark.parametrize("kind", CODECS)
def test_peak_is_one_at_a_pixel_and_falls_as_a_gaussian(kind: type[Codec]) -> None:
    codec = kind(sigma=2)
    keypoint = torch.tensor([10 * codec.pixel(48), 10 * codec.pixel(64)])
    heatmap = codec.encode(keypoint.expand(1, 1, 2), torch.ones(1, 1), (256, 192))[0][0, 0]
    expected = torch.tensor([1.0, math.exp(-0.5), math.exp(-4.5)])
    torch.testing.assert_close(heatmap[10, [10, 12, 16]], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(heatmap[[10, 12, 16], 10], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", CODECS)
def test_weight_is_zero_exactly_where_nothing_of_the_window_is_seen(kind: type[Codec]) -> None:
    codec = kind(sigma=2)
    x = torch.arange(-40.0, 240.0)
    keypoints = torch.stack([x, torch.full_like(x, 100)], dim=-1)[None]
    heatmaps, weights = codec.encode(keypoints, torch.ones(1, len(x)), (256, 192))
    assert torch.equal(weights > 0, heatmaps.amax((2, 3)) > 0)
    assert weights[0, x <= -30].sum() == 0
    assert weights[0, (x >= -24) & (x <= 212)].min() == 1
    assert weights[0, x >= 216].sum() == 0


@pytest.mark.parametrize("kind", CODECS)
def test_unlabelled_points_may_hold_anything(kind: type[Codec]) -> None:
    keypoints = torch.tensor([[[math.nan, 3.0], [math.inf, 3.0], [1e30, -1e30], [20.0, 30.0]]])
    heatmaps, weights = kind().encode(keypoints, torch.tensor([[0, 0, 0, 2]]), (64, 48))
    assert heatmaps.isfinite().all()
    assert weights.tolist() == [[0, 0, 0, 1]]
    assert heatmaps[0, :3].abs().max() == 0
    _, weights = kind().encode(keypoints, torch.ones(1, 4), (64, 48))
    assert weights.tolist() == [[0, 0, 0, 1]]


# --- decode ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CODECS)
@pytest.mark.parametrize(("amplitude", "noise"), [(1.0, 0.0), (0.8, 0.05), (0.2, 0.03)])
def test_decode_equals_the_plain_loop(kind: type[Codec], amplitude: float, noise: float) -> None:
    compare_decode(kind(), noisy(kind(), amplitude, noise), atol=2e-3)


@pytest.mark.parametrize("kind", CODECS)
def test_decode_equals_the_plain_loop_at_the_larger_size(kind: type[Codec]) -> None:
    codec = kind(sigma=3.0)
    compare_decode(codec, noisy(codec, 0.9, 0.03, (384, 288)), atol=2e-3)


def test_dark_rescales_by_the_maximum_of_the_whole_blurred_map() -> None:
    """A sharp spike in a negative dip reaches the clamp at 1e-10, while the blurred maximum lies elsewhere."""
    heatmaps = torch.zeros(1, 1, 32, 32)
    heatmaps[..., 6:11, 6:11] = -0.4
    heatmaps[..., 8, 8:10] = torch.tensor([3.0, 2.0])
    heatmaps[..., 7, 9] = 1.0
    heatmaps[..., 20:28, 20:28] = 0.7
    spread = blur(heatmaps[0, 0].numpy(), 11)
    assert spread[6:11, 6:11].min() < 0 < spread[8, 8] < 0.5 * spread.max()
    compare_decode(DarkCodec(), heatmaps, atol=1e-3)


@pytest.mark.parametrize("kind", SUBPIXEL)
@pytest.mark.parametrize(("size", "sigma"), [((256, 192), 2.0), ((384, 288), 3.0), ((256, 256), 1.5)])
def test_subpixel_codecs_return_what_was_encoded(kind: type[Codec], size: tuple[int, int], sigma: float) -> None:
    codec = kind(sigma=sigma)
    keypoints = points(16, 17, size, margin=2.5 * sigma * 4)
    decoded, scores = codec.decode(codec.encode(keypoints, torch.ones(16, 17), size)[0])
    assert (decoded - keypoints).abs().max() < 0.05
    assert scores.min() > 0.7
    assert scores.max() <= 1


@pytest.mark.parametrize(("kind", "error"), [(MSRACodec, 3.0), (DarkCodec, 3.0), (UDPCodec, 4.1)])
def test_error_up_to_the_border_stays_near_a_heatmap_pixel(kind: type[Codec], error: float) -> None:
    keypoints = points(64, 17, (256, 192))
    decoded, _ = kind().decode(kind().encode(keypoints, torch.ones(64, 17), (256, 192))[0])
    assert (decoded - keypoints).abs().max() <= error


@pytest.mark.parametrize("kind", SUBPIXEL)
def test_at_the_border_a_faint_map_has_its_point_where_a_strong_one_has_it(kind: type[Codec]) -> None:
    keypoints = torch.stack([torch.linspace(0, 6, 17), torch.linspace(80, 120, 17)], dim=-1)[None]
    heatmaps, _ = kind().encode(keypoints, torch.ones(1, 17), (256, 192))
    faint, _ = kind().decode(1e-3 * heatmaps)
    assert (faint - keypoints).abs().max() < 0.1


def test_msra_returns_the_nearest_pixel() -> None:
    keypoints = points(16, 17, (256, 192), margin=8)
    decoded, scores = MSRACodec().decode(MSRACodec().encode(keypoints, torch.ones(16, 17), (256, 192))[0])
    assert (decoded - keypoints).abs().max() <= 2
    assert torch.equal(decoded % 4, torch.zeros_like(decoded))
    assert torch.equal(scores, torch.ones(16, 17))


@pytest.mark.parametrize("kind", CODECS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (5, 5), (7, 48), (64, 5), (10, 9)])
def test_ties_give_the_first_pixel_on_maps_of_any_size(kind: type[Codec], height: int, width: int) -> None:
    codec = kind()
    heatmaps = torch.randint(0, 3, (8, 5, height, width)).float()
    compare = MSRACodec().decode(heatmaps)[0] / 4
    for sample, maps in enumerate(heatmaps.numpy()):
        for point, heatmap in enumerate(maps):
            y, x = divmod(int(heatmap.argmax()), width)
            assert compare[sample, point].tolist() == pytest.approx([x, y], abs=0.25)
    assert codec.decode(heatmaps)[0].isfinite().all()


@pytest.mark.parametrize("kind", CODECS)
def test_a_batch_of_nobody_passes(kind: type[Codec]) -> None:
    heatmaps, weights = kind().encode(torch.zeros(0, 17, 2), torch.zeros(0, 17), (64, 48))
    assert heatmaps.shape == (0, 17, 16, 12)
    assert weights.shape == (0, 17)
    keypoints, scores = kind().decode(heatmaps)
    assert keypoints.shape == (0, 17, 2)
    assert scores.shape == (0, 17)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(x=st.floats(0, 255, width=32), y=st.floats(0, 191, width=32), sigma=st.sampled_from([1.0, 1.5, 2.0]))
def test_face_coding_gives_the_middle_of_the_pixel_that_a_point_falls_into(x: float, y: float, sigma: float) -> None:
    codec = FaceCodec(sigma=sigma)
    heatmaps, weights = codec.encode(torch.tensor([[[x, y]]]), torch.ones(1, 1), (192, 256))
    decoded, scores = codec.decode(heatmaps)
    # On the border, where a neighbour is missing, the maximum is the point's pixel too.
    assert decoded[0, 0].tolist() == [4 * (x // 4) + 2, 4 * (y // 4) + 2]
    assert (weights.item(), scores.item()) == (1.0, 1.0)


def test_face_coding_is_unbiased_and_the_classic_reading_of_it_is_off_by_two_input_pixels() -> None:
    keypoints = 4 * 64 * torch.rand(64, 98, 2)
    heatmaps, _ = FaceCodec().encode(keypoints, torch.ones(64, 98), (256, 256))
    errors = [codec.decode(heatmaps)[0] - keypoints for codec in (FaceCodec(), MSRACodec())]
    assert errors[0].abs().max() <= 2
    assert errors[0].mean((0, 1)).abs().max() < 0.1
    torch.testing.assert_close(errors[1].mean((0, 1)), torch.tensor([-2.0, -2.0]), rtol=0, atol=0.1)


def published_face_target(x: float, y: float, sigma: float) -> np.ndarray:
    """The facial landmark code's own target on 64 x 64, with its window that sigma 1.5 makes uneven."""
    heatmap, reach = np.zeros((64, 64)), 3 * sigma
    mean = [int(x / 4), int(y / 4)]
    low, high = [int(m - reach) for m in mean], [int(m + reach + 1) for m in mean]
    side = np.arange(0, 2 * reach + 1)
    middle = (2 * reach + 1) // 2
    patch = np.exp(-((side - middle) ** 2 + (side[:, None] - middle) ** 2) / (2 * sigma**2))
    columns, rows = (slice(max(0, a), min(b, 64)) for a, b in zip(low, high, strict=True))
    x_part, y_part = (slice(max(0, -a), min(b, 64) - a) for a, b in zip(low, high, strict=True))
    heatmap[rows, columns] = patch[y_part, x_part]
    return heatmap


@pytest.mark.parametrize(("sigma", "difference"), [(1.0, 1e-6), (1.5, 0.004)])
def test_face_targets_are_the_published_ones_but_for_an_uneven_window(sigma: float, difference: float) -> None:
    keypoints = points(4, 98, (256, 256), margin=21)
    heatmaps, _ = FaceCodec(sigma=sigma).encode(keypoints, torch.ones(4, 98), (256, 256))
    expected = [[published_face_target(*point, sigma) for point in person] for person in keypoints.tolist()]
    np.testing.assert_allclose(heatmaps.numpy(), np.array(expected), atol=difference)


def test_face_maps_of_the_mirrored_image_are_the_mirrored_maps() -> None:
    """For points at whole pixels."""
    size, codec = (256, 192), FaceCodec()
    keypoints, visible = points(4, 3, size, margin=24).round(), torch.ones(4, 3)
    maps, _ = codec.encode(mirrored(keypoints, size), visible, size)
    torch.testing.assert_close(codec.flip_back(maps, PAIRS), codec.encode(keypoints, visible, size)[0])


def test_udp_clips_faint_maps() -> None:
    heatmaps = noisy(UDPCodec(), 1.9e-3, 0.0)
    compare_decode(UDPCodec(), heatmaps, atol=2e-3)
    assert (UDPCodec().decode(heatmaps)[0] - UDPCodec().decode(1000 * heatmaps)[0]).abs().max() > 0.1


@pytest.mark.parametrize("kind", CODECS)
def test_empty_maps_give_the_origin(kind: type[Codec]) -> None:
    heatmaps = torch.stack([torch.zeros(2, 64, 48), torch.full((2, 64, 48), -1.0)])
    heatmaps[1, 1, 30, 20] = -0.5
    keypoints, scores = kind().decode(heatmaps)
    assert torch.equal(keypoints, torch.zeros(2, 2, 2))
    assert scores.tolist() == [[0, 0], [-1, -0.5]]


@pytest.mark.parametrize("kind", CODECS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_points_are_finite_whatever_the_maps_hold(kind: type[Codec], value: float) -> None:
    heatmaps = noisy(kind(), 0.8, 0.05)
    clean, _ = kind().decode(heatmaps)
    heatmaps[0, 0, 30:35, 20:25] = value
    heatmaps[0, 1] = value
    keypoints, _ = kind().decode(heatmaps)
    assert keypoints.isfinite().all()
    assert torch.equal(keypoints[1:], clean[1:])


@pytest.mark.parametrize("kind", CODECS)
def test_decode_depends_neither_on_the_batch_nor_on_the_layout(kind: type[Codec]) -> None:
    codec, heatmaps = kind(), torch.cat([noisy(kind(), 0.8, 0.05), noisy(kind(), 0.03, 0.03)])
    keypoints, scores = codec.decode(heatmaps)
    for layout in (heatmaps.to(memory_format=torch.channels_last), heatmaps.flip(-1).flip(-1), heatmaps.double()):
        assert all(map(torch.equal, codec.decode(layout), (keypoints, scores)))
    alone = [codec.decode(sample[None]) for sample in heatmaps]
    torch.testing.assert_close(torch.cat([pair[0] for pair in alone]), keypoints, atol=2e-3, rtol=1e-4)
    assert torch.equal(torch.cat([pair[1] for pair in alone]), scores)


@pytest.mark.parametrize("kind", CODECS)
def test_autocast_changes_nothing(kind: type[Codec]) -> None:
    codec, keypoints, heatmaps = kind(), points(2, 17, (256, 192)), noisy(kind(), 0.8, 0.05)
    expected = *codec.decode(heatmaps), *codec.encode(keypoints, torch.ones(2, 17), (256, 192))
    with torch.autocast("cpu", torch.bfloat16):
        inside = *codec.decode(heatmaps), *codec.encode(keypoints, torch.ones(2, 17), (256, 192))
    assert all(map(torch.equal, inside, expected))
    assert codec.decode(heatmaps.half())[0].dtype == torch.float32


@pytest.mark.parametrize("kind", CODECS)
def test_works_compiled(kind: type[Codec]) -> None:
    codec, keypoints, heatmaps = kind(), points(2, 3, (64, 48)), noisy(kind(), 0.8, 0.05)
    encode = torch.compile(codec.encode, backend="eager", fullgraph=True)
    decode = torch.compile(codec.decode, backend="eager")
    torch.testing.assert_close(decode(heatmaps), codec.decode(heatmaps))
    visible = torch.ones(2, 3)
    torch.testing.assert_close(encode(keypoints, visible, (64, 48)), codec.encode(keypoints, visible, (64, 48)))


# --- mirroring -------------------------------------------------------------------------------------------------------


def test_flipping_back_twice_is_the_identity_without_a_shift() -> None:
    heatmaps = torch.randn(2, 3, 16, 12)
    assert torch.equal(UDPCodec().flip_back(UDPCodec().flip_back(heatmaps, PAIRS), PAIRS), heatmaps)


@pytest.mark.parametrize("kind", CODECS)
def test_flip_back_equals_the_plain_loop(kind: type[Codec]) -> None:
    codec, heatmaps = kind(), torch.randn(2, 3, 8, 6).to(memory_format=torch.channels_last)
    flipped = codec.flip_back(heatmaps, PAIRS)
    for point, partner in enumerate(PAIRS.tolist()):
        for column in range(6):
            source = 5 - max(column - codec.flip_shift, 0)
            assert torch.equal(flipped[:, point, :, column], heatmaps[:, partner, :, source])


def mirrored(keypoints: Tensor, size: tuple[int, int]) -> Tensor:
    """The same persons in the mirrored image: left and right exchange their names."""
    return torch.stack([size[1] - 1 - keypoints[..., 0], keypoints[..., 1]], dim=-1)[:, PAIRS]


def test_udp_targets_of_the_mirrored_image_are_the_mirrored_targets() -> None:
    size, codec = (256, 192), UDPCodec()
    keypoints, visible = points(4, 3, size, margin=-20), torch.ones(4, 3)
    heatmaps, weights = codec.encode(keypoints, visible, size)
    other, other_weights = codec.encode(mirrored(keypoints, size), visible, size)
    torch.testing.assert_close(codec.flip_back(other, PAIRS), heatmaps, atol=1e-5, rtol=0)
    assert torch.equal(other_weights[:, PAIRS], weights)


@pytest.mark.parametrize(("kind", "bias"), [(DarkCodec, 1.0), (UDPCodec, 0.0)])
def test_flip_back_leaves_at_most_a_quarter_heatmap_pixel(kind: type[Codec], bias: float) -> None:
    """The classic grid is off by -0.75 heatmap pixels when mirrored; the shift leaves +0.25, one input pixel."""
    size, codec = (256, 192), kind()
    keypoints, visible = points(4, 3, size, margin=24), torch.ones(4, 3)
    maps, _ = codec.encode(mirrored(keypoints, size), visible, size)
    error = codec.decode(codec.flip_back(maps, PAIRS))[0] - keypoints
    torch.testing.assert_close(error, torch.tensor([bias, 0.0]).expand(4, 3, 2), atol=0.05, rtol=0)


# --- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stride", "sigma"), [(0, 2.0), (4, 0.0), (4, -1.0), (4, math.nan)])
def test_impossible_arguments_are_refused(stride: int, sigma: float) -> None:
    with pytest.raises(ValueError, match="positive sigma"):
        MSRACodec(stride=stride, sigma=sigma)


@pytest.mark.parametrize(("sigma", "taps"), [(2.0, 11), (3.0, 17)])
def test_blur_kernel_is_opencvs(sigma: float, taps: int) -> None:
    """A single bright pixel, read back through the blurred maps of UDP: the offset it gives is the kernel's."""
    heatmaps = torch.zeros(1, 1, 48, 48)
    heatmaps[0, 0, 20, 20:22] = torch.tensor([1.0, 0.6])
    compare_decode(UDPCodec(sigma=sigma), heatmaps, atol=1e-4)
    kernel = cv2.getGaussianKernel(taps, 0).ravel()
    slopes = np.log(kernel[taps // 2 - 1] / kernel[taps // 2])
    assert slopes == pytest.approx(-1 / (2 * (0.3 * (taps // 2 - 1) + 0.8) ** 2), rel=1e-4)

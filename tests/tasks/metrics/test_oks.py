"""OKS and the suppression with it, against the definition written as plain loops and against golden figures."""

import math
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.metrics.oks import keypoint_similarity, nearest_poses, oks, oks_nms

COCO_SIGMAS = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89], dtype=np.float64) / 1000
GOLDEN = Path(__file__).parents[2] / "golden" / "oks_nms.npz"


def plain_oks(a, b, area_a, area_b, sigmas) -> float:
    """The definition for one pair of poses, without any array operation."""
    area = (area_a + area_b) / 2
    terms = [
        math.exp(-((a[k][0] - b[k][0]) ** 2 + (a[k][1] - b[k][1]) ** 2) / (2 * area * (2 * sigmas[k]) ** 2))
        for k in range(len(sigmas))
    ]
    return sum(terms) / len(terms)


def plain_nms(keypoints, scores, areas, sigmas, threshold) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if all(plain_oks(keypoints[i], keypoints[j], areas[i], areas[j], sigmas) <= threshold for j in kept):
            kept.append(i)
    return kept


def crowded_image(rng: np.random.Generator, num_poses: int, num_keypoints: int = 17, num_persons: int = 4):
    """Poses scattered around a few persons, so that suppression has something to do."""
    persons = rng.uniform(0, 400, (num_persons, num_keypoints, 2))
    spread = rng.choice([1.0, 5.0, 20.0], (num_poses, 1, 1))
    keypoints = persons[rng.integers(num_persons, size=num_poses)] + spread * rng.normal(
        size=(num_poses, num_keypoints, 2)
    )
    return keypoints, rng.permutation(num_poses) / num_poses, rng.uniform(2e3, 5e4, num_poses)


def test_oks_is_one_at_distance_zero_and_1_over_e_at_the_characteristic_distance():
    area = np.array([5000.0])
    keypoints = np.zeros((1, 17, 2))
    shifted = keypoints.copy()
    shifted[0, :, 0] = np.sqrt(2 * area * (2 * COCO_SIGMAS) ** 2)
    assert oks(keypoints, keypoints, area, area, COCO_SIGMAS).item() == 1.0
    assert oks(keypoints, shifted, area, area, COCO_SIGMAS).item() == pytest.approx(0.3679, abs=5e-5)
    assert keypoint_similarity(shifted[..., 0] ** 2, area, COCO_SIGMAS) == pytest.approx(math.exp(-1))


@settings(deadline=None, max_examples=25)
@given(n=st.integers(0, 6), m=st.integers(0, 6), k=st.integers(1, 20), seed=st.integers(0, 2**16))
def test_oks_equals_the_plain_loop(n, m, k, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(0, 60, (n, k, 2)), rng.uniform(0, 60, (m, k, 2))
    area_a, area_b, sigmas = rng.uniform(100, 1e4, n), rng.uniform(100, 1e4, m), rng.uniform(0.02, 0.2, k)
    expected = [[plain_oks(a[i], b[j], area_a[i], area_b[j], sigmas) for j in range(m)] for i in range(n)]
    result = oks(a, b, area_a, area_b, sigmas)
    assert result.shape == (n, m)
    np.testing.assert_allclose(result, np.reshape(expected, (n, m)), rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(result, oks(b, a, area_b, area_a, sigmas).T, rtol=1e-12)


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_oks_nms_equals_the_golden_file(threshold):
    golden = np.load(GOLDEN)
    kept = oks_nms(golden["keypoints"], golden["scores"], golden["areas"], COCO_SIGMAS, threshold)
    assert kept.tolist() == golden[f"kept_oks_{threshold}"].tolist()


def test_oks_equals_the_golden_file():
    golden = np.load(GOLDEN)
    keypoints, areas = golden["keypoints"], golden["areas"]
    of_first = oks(keypoints[:1], keypoints[1:], areas[:1], areas[1:], COCO_SIGMAS)
    np.testing.assert_allclose(of_first[0], golden["oks_of_0_with_rest"], rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=25)
@given(n=st.integers(0, 25), k=st.sampled_from([1, 5, 17]), threshold=st.floats(0.1, 0.95), seed=st.integers(0, 2**16))
def test_oks_nms_equals_the_plain_loop(n, k, threshold, seed):
    keypoints, scores, areas = crowded_image(np.random.default_rng(seed), n, k)
    sigmas = np.full(k, 0.08)
    kept = oks_nms(keypoints, scores, areas, sigmas, threshold)
    assert kept.tolist() == plain_nms(keypoints, scores, areas, sigmas, threshold)


def test_oks_nms_keeps_the_first_of_equal_poses_with_equal_scores():
    keypoints = np.tile(np.arange(34.0).reshape(1, 17, 2), (3, 1, 1))
    assert oks_nms(keypoints, np.full(3, 0.5), np.full(3, 900.0), COCO_SIGMAS, 0.9).tolist() == [0]


def test_a_pose_at_the_threshold_stays():
    keypoints = np.zeros((2, 17, 2))
    assert oks_nms(keypoints, [0.3, 0.9], np.full(2, 1e4), COCO_SIGMAS, threshold=1.0).tolist() == [1, 0]


def test_a_suppressed_pose_suppresses_nothing():
    """Three poses in a row: the middle one is too close to both, the outer two are not close to each other."""
    sigmas = np.array([0.1])
    keypoints = np.array([[[0.0, 0.0]], [[4.0, 0.0]], [[8.0, 0.0]]])
    kept = oks_nms(keypoints, np.array([0.9, 0.8, 0.7]), np.full(3, 400.0), sigmas, 0.5)
    assert kept.tolist() == [0, 2]


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**16))
def test_nearest_poses_equals_the_plain_loop(seed):
    rng = np.random.default_rng(seed)
    num_persons, num_poses, num_images = rng.integers(0, 8), rng.integers(0, 12), 4
    labels = np.concatenate([rng.uniform(0, 50, (num_persons, 5, 2)), rng.integers(0, 3, (num_persons, 5, 1))], axis=2)
    labels[:, 0, 2] = 2
    area, sigmas = rng.uniform(500, 3000, num_persons), np.full(5, 0.1)
    label_image, pose_image = rng.integers(0, num_images, num_persons), np.sort(rng.integers(0, num_images, num_poses))
    poses = rng.uniform(0, 50, (num_poses, 5, 2))

    expected = []
    for g in range(num_persons):
        seen = labels[g, :, 2] > 0
        values = {
            p: plain_oks(labels[g, seen], poses[p, seen], area[g], area[g], sigmas[seen])
            for p in range(num_poses)
            if pose_image[p] == label_image[g]
        }
        if values:
            expected.append((g, max(values, key=lambda p: values[p])))
    person, pose = nearest_poses(labels, area, label_image, poses, pose_image, sigmas)
    assert list(zip(person.tolist(), pose.tolist(), strict=True)) == expected


def test_oks_nms_is_at_least_seven_times_faster_than_a_loop_over_pairs():
    """37 poses an image, as many as a detector gives on COCO; numpy inside the loop, to be fair to it."""

    def loop(keypoints, scores, areas, sigmas, threshold):
        kept = []
        for i in np.argsort(-scores):
            for j in kept:
                squared = np.square(keypoints[i] - keypoints[j]).sum(axis=1)
                if np.exp(-squared / (8 * sigmas**2) / ((areas[i] + areas[j]) / 2)).mean() > threshold:
                    break
            else:
                kept.append(i)
        return kept

    rng = np.random.default_rng(0)
    images = [crowded_image(rng, 37, num_persons=10) for _ in range(12)]
    seconds = []
    for suppress in (oks_nms, loop):
        rounds = []
        for _ in range(3):
            start = time.process_time()
            results = [list(suppress(*image, COCO_SIGMAS, 0.9)) for image in images]
            rounds.append(time.process_time() - start)
        seconds.append(min(rounds))
    assert results == [list(oks_nms(*image, COCO_SIGMAS, 0.9)) for image in images]
    assert seconds[1] >= 7 * seconds[0], f"{seconds[1] / seconds[0]:.1f} times as fast as the loop"

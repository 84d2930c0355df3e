"""Rendered faces: a number gives one face, landmarks lie where the picture says, and no mean face solves it."""

import numpy as np
import pytest

from datamodules import WFLW, Skeleton
from datamodules.keypoints.crop import apply_affine
from datamodules.sample import render_face
from datamodules.sample.face_layouts import sample_wflw
from datamodules.sample.face_shape import sample_head

FACES = range(1, 61)


@pytest.fixture(scope="module")
def faces():
    return [render_face(number) for number in FACES]


def test_a_number_is_a_face(faces):
    for number in (1, 7, 33):
        again = render_face(number)
        np.testing.assert_array_equal(again.image, faces[number - 1].image)
        np.testing.assert_array_equal(again.landmarks, faces[number - 1].landmarks)
    assert len({face.image.tobytes() for face in faces}) == len(faces)


def test_landmarks_lie_inside_of_picture_and_about_the_box(faces):
    for face in faces:
        height, width = face.image.shape[:2]
        assert 128 <= min(height, width) <= max(height, width) <= 170
        assert face.landmarks.shape == (98, 2)
        assert face.landmarks.min() >= 0
        assert (face.landmarks <= (width - 1, height - 1)).all()
        low, high = face.box[:2], face.box[2:]
        size = np.ptp(face.landmarks, axis=0)
        assert (np.abs(low - face.landmarks.min(axis=0)) < 0.25 * size + 1).all()
        assert (np.abs(high - face.landmarks.max(axis=0)) < 0.25 * size + 1).all()


def test_partners_are_level_and_the_right_ones_are_left_in_the_picture(faces):
    pairs = np.array(Skeleton.load("wflw").flip_pairs)
    for face in faces:
        first, second = face.landmarks[pairs[:, 0]], face.landmarks[pairs[:, 1]]
        across = (second - first).mean(axis=0)
        across /= np.linalg.norm(across)
        assert across[0] > 0.6
        assert (((second - first) @ across) > 0).mean() > 0.95


def test_eyes_and_mouth_are_where_the_landmarks_are():
    """Pupils are darker than the white beside them in eyes that are open and not covered."""
    darker = []
    for number in range(200, 300):
        face = render_face(number)
        points, grey = face.landmarks, face.image.mean(axis=2)
        height = np.linalg.norm(points[[62, 70]] - points[[66, 74]], axis=1).min()
        if height < 5 or face.attributes[[2, 4, 5]].any():
            continue
        for pupil, corner in ((96, 60), (97, 72)):
            x, y = points[pupil].round().astype(int)
            white = 0.55 * points[corner] + 0.45 * points[pupil]
            a, b = white.round().astype(int)
            darker.append(grey[y, x] < grey[b, a])
    assert len(darker) > 40
    assert np.mean(darker) > 0.9


def test_each_attribute_is_there_and_is_not_the_rule(faces):
    share = np.mean([render_face(number).attributes for number in range(1000, 1200)], axis=0)
    assert (share > 0.04).all()
    assert (share < 0.45).all()


def test_a_head_turned_left_and_right_keeps_its_features_in_order():
    for seed in range(200):
        head = sample_head(np.random.default_rng(seed))
        points = head.landmarks
        roll = np.radians(head.angles[2])
        upright = points @ np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
        x = upright[:, 0]
        assert x[60] < x[64] < x[68] < x[72]
        assert x[0] - 0.05 < x[60], seed  # half widths of the face; an outer corner may reach the temple
        assert x[72] < x[32] + 0.05, seed
        assert x[76] < x[79] < x[82]
        assert upright[16, 1] > upright[85, 1] > upright[79, 1] > upright[57, 1] > upright[51, 1]


def test_the_mean_face_errs_by_a_fifth_of_the_eye_distance(tmp_path):
    """So a network that ignores the picture cannot look good."""
    root = sample_wflw(tmp_path / "wflw", num_train=200, num_test=100)
    data = WFLW(root, image_size=(128, 128), num_workers=0)

    def crops(split):
        dataset = data.dataset(split)
        matrices = [data.preparer.matrix(*box) for box in zip(dataset.centers, dataset.sizes, strict=True)]
        return np.stack([apply_affine(m, points) for m, points in zip(matrices, dataset.keypoints, strict=True)])

    mean, truth = crops("train").mean(axis=0), crops("val")
    errors = np.linalg.norm(mean - truth, axis=2).mean(axis=1) / np.linalg.norm(truth[:, 60] - truth[:, 72], axis=1)
    assert errors.mean() > 0.20
    assert ((truth > 0) & (truth < 127)).all(axis=2).mean() > 0.995


def test_the_folder_is_written_once(tmp_path):
    root = sample_wflw(tmp_path / "wflw", num_train=2, num_test=2)
    picture = next((root / "WFLW_images").rglob("*.jpg"))
    stamp = picture.stat().st_mtime_ns
    assert sample_wflw(tmp_path / "wflw", num_train=2, num_test=2) == root
    assert picture.stat().st_mtime_ns == stamp
    sample_wflw(tmp_path / "wflw", num_train=3, num_test=2)
    assert len(list((root / "WFLW_images").rglob("*.jpg"))) == 5

"""COFW and AFLW in their MATLAB files, of version 5 and of 7.3: landmarks, hidden ones, pictures, splits, damage."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import loadmat, savemat

from datamodules import AFLW, COFW, WFLW, DataError
from datamodules.keypoints.faces import aflw as aflw_file
from datamodules.sample import face_layouts

SIZE = {"image_size": (64, 64), "num_workers": 0}


@pytest.fixture(scope="module")
def sample(rendered, tmp_path_factory) -> Path:
    return face_layouts.sample_cofw(tmp_path_factory.mktemp("cofw") / "cofw", rendered)


@pytest.fixture
def root(sample, tmp_path) -> Path:
    for file in sample.glob("*.mat"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_cofw_has_the_pictures_and_landmarks_of_its_file(root, rendered):
    content = loadmat(root / "COFW_test_color.mat")
    data = COFW(root, **SIZE)
    table = data.persons("val")
    stated = content["phisT"]
    np.testing.assert_array_equal(table.keypoints[..., 0], stated[:, :29])
    np.testing.assert_array_equal(table.keypoints[..., 1], stated[:, 29:58])
    folder = data.image_folder("val")
    for row, picture in enumerate(content["IsT"].ravel()):
        written = cv2.imread(str(folder / table.file_names[table.images[row]]))
        np.testing.assert_array_equal(written[..., ::-1], picture)
    low, high = np.floor(table.keypoints.min(axis=1)), np.ceil(table.keypoints.max(axis=1))
    np.testing.assert_array_equal(table.boxes, np.hstack([low, high - low]))
    first = WFLW(rendered).persons("val").keypoints[0][list(face_layouts.COFW)]
    np.testing.assert_allclose(table.keypoints[0], first)
    assert len(data.dataset("train")) == 12
    assert data.dataset("val")[0]["image"].shape == (64, 64, 3)


def test_hidden_landmarks_of_cofw_are_labelled(root):
    path = root / "COFW_test_color.mat"
    content = {key: value for key, value in loadmat(path).items() if not key.startswith("_")}
    content["phisT"][1, 58 + 7] = 1
    savemat(path, content)
    visible = COFW(root, **SIZE).persons("val").visible
    assert visible[1, 7] == 1
    assert visible.sum() == 2 * visible.size - 1


def test_pictures_are_written_once_and_anew_for_another_file(root):
    data = COFW(root, **SIZE)
    folder = data.image_folder("val")
    stamp = (folder / "000001.png").stat().st_mtime_ns
    assert COFW(root, **SIZE).image_folder("val") == folder
    assert (folder / "000001.png").stat().st_mtime_ns == stamp
    assert data.image_folder("train") != folder
    pictures = np.empty((2, 1), object)
    pictures[0, 0], pictures[1, 0] = np.full((20, 30), 9, np.uint8), np.full((21, 31, 3), (1, 2, 3), np.uint8)
    savemat(root / "COFW_test_color.mat", {"IsT": pictures, "phisT": np.ones((2, 87))})
    assert COFW(root, **SIZE).image_folder("val") == folder
    assert len(list(folder.glob("*.png"))) == 2
    assert cv2.imread(str(folder / "000001.png")).shape == (20, 30, 3)  # grey
    assert cv2.imread(str(folder / "000002.png"))[0, 0].tolist() == [3, 2, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"IsT": np.zeros(1)}, r"COFW_test_color\.mat lacks the variables phisT"),
        ({"phisT": np.zeros((3, 58))}, r"phisT is of shape \(3, 58\), expected numbers of shape \(faces, 87\)"),
        ({"phisT": "text"}, r"phisT is of shape"),
        ({"phisT": np.ones((1, 87)), "IsT": [np.zeros((4, 5))]}, r"picture 1 of IsT is of shape \(.*float64"),
    ],
)
def test_a_damaged_file_is_named(root, content, message):
    if "IsT" in content and isinstance(content["IsT"], list):
        cell = np.empty((1, 1), object)
        cell[0, 0] = content["IsT"][0]
        content = content | {"IsT": cell}
    savemat(root / "COFW_test_color.mat", content)
    with pytest.raises(DataError, match=message):
        COFW(root, **SIZE).dataset("val")


def test_no_matlab_file_at_all(root):
    (root / "COFW_test_color.mat").write_bytes(b"no matrix")
    with pytest.raises(DataError, match=r"test_color\.mat cannot be read \(.*expected a MATLAB file with phisT"):
        COFW(root, **SIZE).persons("val")


def test_version_7_3_reads_as_version_5(root, sample):
    h5py = pytest.importorskip("h5py", reason="needs h5py, which reads MATLAB 7.3: pip install h5py")
    content = loadmat(sample / "COFW_test_color.mat")
    path = root / "COFW_test_color.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        cells = [
            file.create_dataset(f"#refs#/{row}", data=picture.T) for row, picture in enumerate(content["IsT"].ravel())
        ]
        file.create_dataset("IsT", data=np.array([[cell.ref for cell in cells]], h5py.ref_dtype))
        file.create_dataset("phisT", data=content["phisT"].T)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(128))
    one, other = COFW(root, **SIZE), COFW(sample, **SIZE)
    np.testing.assert_array_equal(one.persons("val").keypoints, other.persons("val").keypoints)
    for row in range(3):
        np.testing.assert_array_equal(one.dataset("val")[row]["image"], other.dataset("val")[row]["image"])


@pytest.fixture
def aflw(tmp_path, rendered, monkeypatch) -> Path:
    """Seven faces of four pictures, five of them for training."""
    monkeypatch.setattr(aflw_file, "NUM_TRAIN", 5)
    names = np.empty((7, 1), object)
    names[:, 0] = [np.array([f"0/image{number}.jpg"]) for number in (1, 1, 2, 3, 3, 3, 4)]
    points = np.random.default_rng(0).uniform(20, 90, (7, 19, 2))
    mask = np.ones((7, 19), np.uint8)
    mask[3, 4] = 0
    box = np.array([[10, 100, 20, 100]] * 7) + np.arange(7)[:, None]  # left, right, top, bottom
    content = {"ra": np.array([[7, 2, 1, 3, 5, 4, 6]]), "nameList": names, "mask_new": mask, "bbox": box}
    savemat(tmp_path / "AFLWinfo_release.mat", content | {"data": points.transpose(0, 2, 1).reshape(7, 38)})
    np.save(tmp_path / "points.npy", points)
    (tmp_path / "data" / "flickr" / "0").mkdir(parents=True)
    picture = next((rendered / "WFLW_images").rglob("*.jpg")).read_bytes()
    for number in (1, 2, 3, 4):
        (tmp_path / f"data/flickr/0/image{number}.jpg").write_bytes(picture)
    return tmp_path


def test_aflw_of_the_matlab_file(aflw):
    data, points = AFLW(aflw, **SIZE), np.load(aflw / "points.npy")
    train, test = data.persons("train"), data.persons("val")
    assert (train.ids, test.ids) == ([7, 2, 1, 3, 5], [4, 6])
    np.testing.assert_allclose(test.keypoints, points[[3, 5]])
    assert test.visible[0].tolist() == [2] * 4 + [1] + [2] * 14
    assert test.boxes[0].tolist() == [13, 18, 90, 90]  # a square about the middle of 13..103 x 23..103
    assert test.areas.tolist() == [90**2] * 2
    assert data.subsets("val")["frontal"].tolist() == [6]
    assert [test.file_names[image] for image in test.images] == ["0/image3.jpg"] * 2
    assert len(data.dataset("val")) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ra": np.array([[1, 2, 3]])}, "ra 3 rows; expected one for each of the 7 faces"),
        ({"bbox": np.ones((6, 4))}, r"bbox is of shape \(6, 4\), expected numbers of shape \(7, 4\)"),
        ({"name": "../a.jpg"}, r"row 4 of nameList: names the image '\.\./a\.jpg'"),
    ],
)
def test_a_wrong_file_of_aflw_is_named(aflw, change, message):
    path = aflw / "AFLWinfo_release.mat"
    content = {key: value for key, value in loadmat(path).items() if not key.startswith("_")}
    if "name" in change:
        content["nameList"][3, 0] = np.array([change["name"]])
    savemat(path, content | {key: value for key, value in change.items() if key != "name"})
    with pytest.raises(DataError, match=message):
        AFLW(aflw, **SIZE).dataset("val")

"""300W, AFLW and COFW in the published lists: landmarks that stand for WFLW's, subsets, boxes, sizes of errors."""

import csv
from pathlib import Path

import numpy as np
import pytest

from datamodules import AFLW, COFW, W300, WFLW, DataError, Skeleton
from datamodules.check import check
from datamodules.sample import face_layouts


@pytest.fixture(scope="module")
def w300(rendered, tmp_path_factory) -> Path:
    return face_layouts.sample_w300(tmp_path_factory.mktemp("w300") / "w300", rendered)


@pytest.fixture(scope="module")
def aflw(rendered, tmp_path_factory) -> Path:
    return face_layouts.sample_aflw(tmp_path_factory.mktemp("aflw") / "aflw", rendered)


def rows_of(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text().splitlines()))


@pytest.mark.parametrize(("name", "chosen"), [("w300", "W300"), ("cofw", "COFW"), ("aflw", "AFLW")])
def test_landmarks_that_stand_for_others_are_named_alike_and_mirror_alike(name, chosen):
    chosen, whole, skeleton = getattr(face_layouts, chosen), Skeleton.load("wflw"), Skeleton.load(name)
    assert len(set(chosen)) == len(chosen) == skeleton.num_keypoints
    for point, place in enumerate(chosen):
        assert chosen[skeleton.flip_permutation[point]] == whole.flip_permutation[place]
        side = skeleton.names[point].split("_")[0]
        if side in ("left", "right"):
            assert whole.names[place].startswith(side)
        kinds = ("jaw", "brow", "eye", "pupil", "nostril", "nose", "lip", "mouth", "chin")
        ours = [kind for kind in kinds if kind in skeleton.names[point]]
        assert any(kind in whole.names[place] for kind in ours) or (name, point) == ("aflw", 16)


def test_300w_has_common_and_challenge_as_subsets_and_a_test_of_its_own(w300):
    data = W300(w300, image_size=(64, 64), num_workers=0)
    assert data.split_names == ("train", "val", "test")
    sizes = {split: len(data.dataset(split)) for split in data.split_names}
    assert sizes == {split: len(rows_of(w300 / f"face_landmarks_300w_{name}.csv")) - 1
                     for split, name in (("train", "train"), ("val", "valid"), ("test", "test"))}  # fmt: skip
    subsets = data.subsets("val")
    assert sorted(np.concatenate(list(subsets.values())).tolist()) == data.persons("val").ids
    hard = [name.startswith("ibug") for name in data.persons("val").file_names]
    assert len(subsets["challenge"]) == sum(hard) > 0
    assert data.subsets("test") == {}
    assert W300(w300, test_split="val").subsets("test").keys() == subsets.keys()
    with pytest.raises(DataError, match="test_split is 'private'"):
        W300(w300, test_split="private")


def test_without_files_of_the_subsets_those_of_ibug_are_the_challenge(w300, tmp_path):
    (tmp_path / "images").symlink_to(w300 / "images")
    for name in ("train", "valid", "test"):
        file = f"face_landmarks_300w_{name}.csv"
        (tmp_path / file).write_text((w300 / file).read_text())
    found, expected = W300(tmp_path).subsets("val"), W300(w300).subsets("val")
    assert {name: ids.tolist() for name, ids in found.items()} == {n: ids.tolist() for n, ids in expected.items()}


def test_the_other_sets_see_the_faces_of_wflw(rendered, w300, aflw):
    size = {"image_size": (64, 64), "num_workers": 0}
    whole = {row.file_names[0][-10:]: 0 for row in [WFLW(rendered).persons("train")]}
    assert whole
    first = WFLW(rendered, **size).dataset("val")
    for data, chosen in ((W300(w300, **size), face_layouts.W300), (AFLW(aflw, **size), face_layouts.AFLW)):
        one = data.dataset("val")[0]
        other = next(first[row] for row in range(len(first)) if np.array_equal(first[row]["image"], one["image"]))
        np.testing.assert_allclose(one["keypoints"], other["keypoints"][list(chosen)], atol=1e-3)


def test_errors_of_aflw_are_divided_by_the_stated_size_of_the_box(aflw, tmp_path):
    rows = rows_of(aflw / "face_landmarks_aflw_test.csv")
    rows[1][1:5] = ["0.5", "77", "60", "50"]  # scale, box_size, centre
    (tmp_path / "images").symlink_to(aflw / "images")
    (tmp_path / "face_landmarks_aflw_test.csv").write_text("\n".join(map(",".join, rows)) + "\n")
    data = AFLW(tmp_path, image_size=(64, 64), num_workers=0)
    table = data.persons("val")
    assert table.boxes[0].tolist() == [10, 0, 100, 100]
    samples = {int(sample["instance_id"]): sample for sample in (data.dataset("val")[row] for row in range(2))}
    assert samples[2]["area"] == 77**2  # the second line of the file
    assert data.skeleton.normaliser == "box"


def test_frontal_faces_are_a_subset(aflw):
    data = AFLW(aflw)
    frontal = rows_of(aflw / "face_landmarks_aflw_test_frontal.csv")[1:]
    lines = {tuple(row): line for line, row in enumerate(rows_of(aflw / "face_landmarks_aflw_test.csv"), 1)}
    assert data.subsets("val")["frontal"].tolist() == [lines[tuple(row)] for row in frontal]


def test_cofw_as_csv(rendered, tmp_path):
    rows = face_layouts.sample_aflw(tmp_path / "aflw", rendered)
    text = rows_of(rows / "face_landmarks_aflw_test.csv")[1:]
    lines = [[row[0], row[1], row[3], row[4], *row[5:], *row[5:25]] for row in text]
    (tmp_path / "face_landmarks_cofw_test.csv").write_text("\n".join(map(",".join, lines)) + "\n")  # without a heading
    (tmp_path / "images").symlink_to(rows / "images")
    data = COFW(tmp_path, image_size=(64, 64), num_workers=0)
    assert data.persons("val").keypoints.shape == (10, 29, 2)
    assert data.persons("val").ids[0] == 1
    assert len(data.dataset("val")) == 10


@pytest.mark.parametrize(
    ("kind", "row", "column", "text", "message"),
    [
        (W300, 3, 1, "big", r"valid\.csv, row 4: has 'big' in column 2; expected a number"),
        (W300, 2, 8, "", r"valid\.csv, row 3: has '' in column 9; expected a number"),
        (W300, 1, 0, "../x.jpg", r"valid\.csv, row 2: names the image '\.\./x\.jpg'"),
        (AFLW, 4, 2, "?", r"test\.csv, row 5: has '\?' in column 3"),
        (AFLW, 2, 4, "1,2", r"test\.csv, row 3: has 44 columns; expected 43: image_name, scale, box_size"),
    ],
)
def test_mistakes_name_file_and_row(kind, row, column, text, message, w300, aflw, tmp_path):
    source, file = (w300, "face_landmarks_300w_valid.csv") if kind is W300 else (aflw, "face_landmarks_aflw_test.csv")
    rows = rows_of(source / file)
    rows[row][column] = text
    for other in source.glob("*.csv"):
        (tmp_path / other.name).write_text(other.read_text())
    (tmp_path / "images").symlink_to(source / "images")
    (tmp_path / file).write_text("\n".join(map(",".join, rows)) + "\n")
    data = kind(tmp_path, image_size=(64, 64), num_workers=0)
    with pytest.raises(DataError, match=message):
        data.dataset("val")
    assert [f.item.split(" in ")[0] for f in check(data, images="none").findings if f.kind == "malformed row"] == [
        f"row {row + 1}"
    ]


@pytest.fixture
def pts(w300, tmp_path) -> Path:
    """The faces of the lists as originally distributed: a .pts file beside each picture."""
    places = {"train": "afw", "valid": None, "test": "300w/01_Indoor"}
    for place in ("helen/trainset", "lfpw/trainset", "helen/testset", "lfpw/testset", "ibug"):
        (tmp_path / place).mkdir(parents=True)
    for split, place in places.items():
        for number, row in enumerate(rows_of(w300 / f"face_landmarks_300w_{split}.csv")[1:]):
            folder = tmp_path / (place or ("ibug" if row[0].startswith("ibug") else "lfpw/testset"))
            if split != "test" and number < 2:
                folder = tmp_path / f"{('helen', 'lfpw')[number]}/{'trainset' if split == 'train' else 'testset'}"
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / f"{split}_{number}.jpg"
            file.write_bytes((w300 / "images" / row[0]).read_bytes())
            pairs = np.array(row[4:]).reshape(-1, 2)
            text = "version: 1\nn_points:  68\n{\n" + "".join(f"{x} {y}\n" for x, y in pairs) + "}\n"
            file.with_suffix(".pts").write_text(text)
    (tmp_path / "ibug" / "1.png").write_bytes(file.read_bytes())
    (tmp_path / "ibug" / "1.pts").write_text(text)
    (tmp_path / "ibug" / "1_mirror.pts").write_text(text)
    return tmp_path


def test_300w_as_originally_distributed(w300, pts):
    original, published = (W300(root, image_size=(64, 64), num_workers=0) for root in (pts, w300))
    for split in ("train", "val", "test"):
        one, other = original.persons(split), published.persons(split)
        assert len(one.ids) == len(other.ids) + (split == "val")
        place = {points.tobytes() for points in one.keypoints}
        assert all(points.tobytes() in place for points in other.keypoints)
        assert len(original.dataset(split)) == len(one.ids)
    table = original.persons("val")
    low, high = np.floor(table.keypoints.min(axis=1)), np.ceil(table.keypoints.max(axis=1))
    np.testing.assert_array_equal(table.boxes, np.hstack([low, high - low]))
    hard = original.subsets("val")["challenge"]
    assert all("ibug" in table.file_names[table.images[number - 1]] for number in hard)
    assert len(hard) + len(original.subsets("val")["common"]) == len(table.ids)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.write_text("{ 1 2 3 }"), r"\.pts has 3 numbers; expected 136 between braces"),
        (lambda file: file.write_text("{ 1 b }"), r"\.pts has text among its coordinates"),
        (lambda file: file.with_suffix(".png").unlink(), r"1\.pts has no picture beside it; expected 1\.jpg or 1\.png"),
    ],
)
def test_a_wrong_pts_file_is_named(pts, spoil, message):
    spoil(pts / "ibug" / "1.pts")
    with pytest.raises(DataError, match=message):
        W300(pts, image_size=(64, 64), num_workers=0).dataset("val")


def test_a_collection_of_300w_that_is_not_there_is_named(pts):
    (pts / "lfpw" / "testset").rename(pts / "elsewhere")
    with pytest.raises(DataError, match=r"lfpw/testset has no \.pts file"):
        W300(pts, image_size=(64, 64), num_workers=0).dataset("val")

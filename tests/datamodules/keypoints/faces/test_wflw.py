"""WFLW: the original lists and the published CSV files say the same, crops are exact, and what is wrong is named."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from datamodules import WFLW, DataError
from datamodules.check import check
from datamodules.keypoints.crop import apply_affine

LISTS = "WFLW_annotations/list_98pt_rect_attr_train_test"
TEST = f"{LISTS}/list_98pt_rect_attr_test.txt"


@pytest.fixture
def root(rendered, tmp_path) -> Path:
    """A copy whose lists may be spoilt."""
    (tmp_path / LISTS).mkdir(parents=True)
    for split in ("train", "test"):
        name = f"{LISTS}/list_98pt_rect_attr_{split}.txt"
        (tmp_path / name).write_text((rendered / name).read_text())
    (tmp_path / "WFLW_images").symlink_to(rendered / "WFLW_images")
    return tmp_path


def wflw(root: Path, **kwargs) -> WFLW:
    return WFLW(root, num_workers=0, batch_size=4, **{"image_size": (64, 64), **kwargs})


def rows_of(root: Path) -> list[list[str]]:
    return [line.split() for line in (root / TEST).read_text().splitlines()]


def write_rows(root: Path, rows: list[list[str]]) -> None:
    (root / TEST).write_text("".join(" ".join(row) + "\n" for row in rows))


def test_a_list_is_read_column_by_column(root):
    rows = rows_of(root)
    table = wflw(root).persons("val")
    numbers = np.array([row[:-1] for row in rows], float)
    np.testing.assert_array_equal(table.keypoints.reshape(len(rows), -1), numbers[:, :196])
    low, high = numbers[:, 196:198], numbers[:, 198:200]
    np.testing.assert_array_equal(table.boxes, np.concatenate([low, high - low], axis=1))
    np.testing.assert_array_equal(table.areas, (high - low).prod(axis=1))
    assert [table.file_names[image] for image in table.images] == [row[-1] for row in rows]
    assert (table.visible == 2).all()
    assert table.ids == list(range(1, len(rows) + 1))


def test_subsets_are_the_attributes_of_the_list(root):
    rows = rows_of(root)
    for number, row in enumerate(rows):
        row[200:206] = ["1" if number % 6 == column or number == 9 else "0" for column in range(6)]
    write_rows(root, rows)
    found = wflw(root).subsets("val")
    assert list(found) == ["pose", "expression", "illumination", "makeup", "occlusion", "blur"]
    assert found["pose"].tolist() == [1, 7, 10]
    assert found["occlusion"].tolist() == [5, 10]
    assert wflw(root).subsets("test")["blur"].tolist() == [6, 10]
    assert wflw(root).subsets("train") == {}
    assert wflw(root, overfit=2).subsets("val") == {}


def test_subsets_name_what_batches_hold(root):
    data = wflw(root)
    data.setup("validate")
    held = {int(number) for batch in data.val_dataloader() for number in batch["instance_id"]}
    assert held == set(range(1, 11))
    assert all(set(numbers.tolist()) <= held for numbers in data.subsets("val").values())


def published(root: Path, tmp_path: Path) -> Path:
    """The same faces as the published CSV files have them: centre and scale of the rectangle."""
    tmp_path.mkdir()
    (tmp_path / "images").symlink_to(root / "WFLW_images")
    head = ["image_name", "scale", "center_w", "center_h", *(f"original_{k}_{a}" for k in range(98) for a in "xy")]
    for split in ("train", "test"):
        files = {"": [head]} | {f"_{name}": [head] for name in ("largepose", "expression", "occlusion")}
        for line in (root / LISTS / f"list_98pt_rect_attr_{split}.txt").read_text().splitlines():
            *cells, name = line.split()
            x0, y0, x1, y1 = map(float, cells[196:200])
            scale, center = max(x1 - x0, y1 - y0) / 200, ((x0 + x1) / 2, (y0 + y1) / 2)
            row = [name, str(scale), *map(str, center), *cells[:196]]
            for file, column in (("", None), ("_largepose", 200), ("_expression", 201), ("_occlusion", 204)):
                if column is None or cells[column] == "1":
                    files[file].append(row)
        for file, rows in files.items():
            if split == "test" or not file:
                text = "".join(",".join(row) + "\n" for row in rows)
                (tmp_path / f"face_landmarks_wflw_{split}{file}.csv").write_text(text)
    return tmp_path


def test_published_lists_give_the_crops_of_the_original_ones(root, tmp_path):
    rows = rows_of(root)
    for number, row in enumerate(rows):
        row[200:206] = ["1" if column == number % 6 else "0" for column in range(6)]
    write_rows(root, rows)
    original, csv = wflw(root), wflw(published(root, tmp_path / "csv"))
    for split in ("train", "val"):
        first, second = original.dataset(split), csv.dataset(split)
        for index in range(len(first)):
            one, other = first[index], second[index]
            if split == "train":
                continue  # drawn
            np.testing.assert_allclose(one["keypoints"], other["keypoints"], atol=1e-4)
            np.testing.assert_array_equal(one["image"], other["image"])
    lines = {name: (numbers - 1).tolist() for name, numbers in csv.subsets("val").items()}  # below the heading
    expected = {name: numbers.tolist() for name, numbers in original.subsets("val").items()}
    assert lines == {name: expected[name] for name in ("pose", "expression", "occlusion")}


def test_a_subset_with_a_row_of_another_list_is_refused(root, tmp_path):
    folder = published(root, tmp_path / "csv")
    path = folder / "face_landmarks_wflw_test_largepose.csv"
    text = (folder / "face_landmarks_wflw_train.csv").read_text().splitlines()
    path.write_text("\n".join(text[:2]) + "\n")
    with pytest.raises(DataError, match=r"largepose\.csv, row 2: is not in face_landmarks_wflw_test\.csv"):
        wflw(folder).subsets("val")


def test_the_crop_is_the_published_one_even_beyond_the_border(root):
    """A square of 1.25 times the longer side about the centre of the box, which falls on the centre of the crop."""
    rows = rows_of(root)
    rows[0][196:200] = ["-30", "10", "70", "90"]
    write_rows(root, rows)
    sample = wflw(root).dataset("val")[0]
    points = np.array(rows[0][:196], float).reshape(-1, 2)
    expected = (points - (20, 50)) * 64 / 125 + 32
    np.testing.assert_allclose(sample["keypoints"], expected, atol=1e-4)
    assert sample["area"] == 100 * 80
    np.testing.assert_allclose(apply_affine(sample["to_image"], sample["keypoints"]), points, atol=1e-3)


def test_a_box_about_the_landmarks_is_rounded_outwards(root):
    data = wflw(root, boxes="landmarks")
    points, box = data.persons("val").keypoints[3], data.persons("val").boxes[3]
    low, high = np.floor(points.min(axis=0)), np.ceil(points.max(axis=0))
    assert box.tolist() == [*low, *(high - low)]


def test_first_pixel_one_takes_one_off_points_and_boxes(root):
    plain, shifted = wflw(root).persons("val"), wflw(root, first_pixel=1).persons("val")
    np.testing.assert_allclose(plain.keypoints - 1, shifted.keypoints)
    np.testing.assert_allclose(plain.boxes - (1, 1, 0, 0), shifted.boxes)


def test_training_crops_are_drawn_uniformly(root):
    data = wflw(root, image_size=(128, 128))
    dataset = data.dataset("train")
    plain = data.preparer
    angles, factors, flips = [], [], []
    for epoch in range(40):
        for index in range(len(dataset)):
            matrix = dataset[index, epoch]["to_image"][:, :2].astype(float)
            scale = plain.matrix(dataset.centers[index], dataset.sizes[index])[0, 0]
            factors.append(np.sqrt(abs(np.linalg.det(matrix))) * scale)
            flips.append(np.linalg.det(matrix) < 0)
            angles.append(np.degrees(np.arctan2(matrix[1, 0], matrix[1, 1])))
    factors, angles = np.array(factors), np.array(angles)
    assert 0.75 <= factors.min() < 0.77
    assert 1.23 < factors.max() <= 1.25
    assert np.histogram(factors, bins=5, range=(0.75, 1.25))[0].min() > 0.13 * len(factors)
    assert np.abs(angles).max() <= 30
    turned = np.abs(angles) > 1e-6
    assert abs(turned.mean() - 0.6) < 0.07
    assert abs(np.abs(angles[turned]).mean() - 15) < 1.5
    assert abs(np.mean(flips) - 0.5) < 0.07


def test_landmarks_of_mirrored_faces_change_sides_with_them(root):
    dataset = wflw(root, image_size=(128, 128)).dataset("train")
    mirrored = 0
    for index in range(len(dataset)):
        for epoch in range(4):
            sample = dataset[index, epoch]
            points, mirrored = sample["keypoints"], mirrored + (np.linalg.det(sample["to_image"][:, :2]) < 0)
            assert np.linalg.norm(points[33] - points[60]) < np.linalg.norm(points[33] - points[72])
            # Right eye, left eye and chin turn clockwise in every picture of a face, mirrored or not.
            assert np.linalg.det(np.stack([points[72] - points[60], points[16] - points[60]])) > 0
    assert mirrored > 10


@pytest.mark.parametrize(
    ("column", "text", "message"),
    [
        (3, "abc", r"test\.txt, row 4: has 'abc' in column 4; expected a number"),
        (3, "nan", r"test\.txt, row 4: has 'nan' in column 4; expected a number"),
        (198, "x", r"row 4: has 'x' in column 199; expected a number"),
        (206, "../face.jpg", r"row 4: names the image '\.\./face\.jpg'; expected a file below the folder"),
        (206, "/face.jpg", r"row 4: names the image '/face\.jpg'"),
        (206, "C:\\face.jpg", r"row 4: names the image"),
        (206, "gone.jpg", r"lacks 1 of the 10 images that are annotated \(gone\.jpg\)"),
        (0, "", r"row 4: has 206 columns; expected 207: x, y of 98 landmarks"),
        (0, "1 1", r"row 4: has 208 columns; expected 207"),
    ],
)
def test_a_mistake_is_one_sentence_with_its_row_and_the_doctor_lists_it(root, column, text, message):
    rows = rows_of(root)
    rows[3][column] = text
    write_rows(root, rows)
    with pytest.raises(DataError, match=message) as error:
        wflw(root).dataset("val")
    assert "\n" not in str(error.value)
    before = {(f.kind, f.split, f.item) for f in check(wflw(root), images="none").findings if f.split == "train"}
    found = [f for f in check(wflw(root), images="none").findings if f.split == "val"]
    assert not {f for f in before if f[0] in ("malformed row", "missing image")}
    kind = "missing image" if text == "gone.jpg" else "malformed row"
    listed = [f for f in found if f.kind == kind]
    assert len(listed) == 1
    assert "row 4" in listed[0].item or "gone.jpg" in listed[0].item


def test_all_rows_that_are_wrong_are_counted_and_listed(root):
    rows = rows_of(root)
    for row in rows[2:5]:
        row[7] = "?"
    write_rows(root, rows)
    with pytest.raises(DataError, match=r"row 3: has '\?' in column 8; expected a number \(2 more rows"):
        wflw(root).dataset("val")
    found = [f for f in check(wflw(root), images="none").findings if f.kind == "malformed row"]
    assert [f.item.split(" in ")[0] for f in found] == ["row 3", "row 4", "row 5"]


def test_files_that_are_not_there_or_are_none(root, tmp_path):
    with pytest.raises(DataError, match=r"found no .*list_98pt.*train.*face_landmarks_wflw_train\.csv in"):
        wflw(tmp_path / LISTS).dataset("train")
    text = (root / TEST).read_text()
    (root / TEST).write_text("")
    with pytest.raises(DataError, match=r"test\.txt has no rows; expected 207 columns"):
        wflw(root).dataset("val")
    (root / TEST).write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(DataError, match=r"no text in UTF-8"):
        wflw(root).dataset("val")
    (root / TEST).write_text(text)
    with pytest.raises(DataError, match=r"`annotations` has the entries \['vall'\]"):
        wflw(root, annotations={"vall": "a.txt"})
    with pytest.raises(DataError, match=r"found no mine\.txt in"):
        wflw(root, annotations={"val": "mine.txt"}).dataset("val")
    with pytest.raises(DataError, match="boxes is 'tight'"):
        wflw(root, boxes="tight")
    with pytest.raises(DataError, match="first_pixel is 2"):
        wflw(root, first_pixel=2)
    with pytest.raises(DataError, match=r"no image folder pictures"):
        wflw(root, images="pictures").dataset("val")


def test_another_skeleton_is_named(root):
    with pytest.raises(DataError, match=r"98 key points and the skeleton 68"):
        wflw(root, skeleton="w300").dataset("val")


def test_real_faces_have_mirrored_partners_on_both_sides(shared_data):
    """Of annotated photographs: the pairs' middles lie along the middle line, and right is left in the picture."""
    import json

    from datamodules import Skeleton

    for name, skeleton in (("wflw", "wflw"), ("300w", "w300"), ("cofw", "cofw"), ("aflw", "aflw")):
        content = json.loads((shared_data / "samples" / name / f"test_{name}.json").read_text())
        pairs = np.array(Skeleton.load(skeleton).flip_pairs)
        for annotation in content["annotations"]:
            points = np.array(annotation["keypoints"]).reshape(-1, 3)[:, :2]
            first, second = points[pairs[:, 0]], points[pairs[:, 1]]
            across = (second - first).mean(axis=0)
            across /= np.linalg.norm(across)
            assert across[0] > 0.8  # the person's right is left in the picture
            # Partners are level with each other along the face, and the first one is always on the right side.
            level = np.abs((second - first) @ [-across[1], across[0]]) / np.ptp(points, axis=0).max()
            assert level.max() < 0.2, (name, annotation["id"], level)
            assert (((second - first) @ across) > -0.02 * np.ptp(points, axis=0).max()).all(), (name, annotation["id"])


def test_the_sample_root_is_a_normal_root(monkeypatch, rendered):
    monkeypatch.setattr(WFLW, "embedded", staticmethod(lambda: rendered))
    data = wflw("sample", image_size=(96, 96))
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (4, 3, 96, 96)
    assert batch["keypoints"].shape == (4, 98, 2)
    report = check(data)
    assert {finding.kind for finding in report.findings} <= {"key point outside of the image"}
    image = cv2.imread(str(rendered / "WFLW_images" / data.persons("val").file_names[0]))
    assert min(image.shape[:2]) >= 128

"""Own lists of faces: CSV, COCO and dlib's XML say the same, real faces load, and mistakes name file and row."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from datamodules import COFW, WFLW, DataError, FaceLandmarks
from datamodules.check import check
from datamodules.keypoints.crop import apply_affine
from datamodules.sample import face_layouts

SIZE = {"image_size": (64, 64), "num_workers": 0}
SKELETON = {"names": ["a", "b", "c"], "sigmas": 0.05, "flip_pairs": [["a", "b"]], "normaliser": ["a", "b"]}
FACES = [
    ("x/1.jpg", [10, 12, 50, 60], [[20, 30], [41.5, 30], [30, 55]]),
    ("x/1.jpg", [60, 12, 40, 60], [[70, 30], [90, 31], None]),
]


@pytest.fixture
def root(tmp_path, rendered) -> Path:
    (tmp_path / "images" / "x").mkdir(parents=True)
    picture = next((rendered / "WFLW_images").rglob("*.jpg")).read_bytes()
    (tmp_path / "images" / "x" / "1.jpg").write_bytes(picture)
    (tmp_path / "skeleton.yaml").write_text(yaml.safe_dump(SKELETON))
    return tmp_path


def own(root: Path, **kwargs) -> FaceLandmarks:
    return FaceLandmarks(root, skeleton=str(root / "skeleton.yaml"), **{**SIZE, **kwargs})


def write_csv(path: Path, faces=FACES) -> None:
    lines = ["image,x,y,width,height,x0,y0,x1,y1,x2,y2"]
    for name, box, points in faces:
        cells = [name, *(box or [""] * 4), *(v for point in points for v in (point or ("", "")))]
        lines.append(",".join(map(str, cells)))
    path.write_text("\n".join(lines) + "\n")


def write_dlib(path: Path, faces=FACES) -> None:
    lines = ["<?xml version='1.0' encoding='ISO-8859-1'?>", "<dataset><images><image file='x/1.jpg'>"]
    for _, box, points in faces:
        lines.append("<box left='{}' top='{}' width='{}' height='{}'>".format(*box))
        lines += [f"<part name='{k:02d}' x='{p[0]}' y='{p[1]}'/>" for k, p in enumerate(points) if p]
        lines.append("</box>")
    path.write_text(
        "\n".join([*lines, "<box left='1' top='1' width='9' height='9' ignore='1'/>", "</image></images></dataset>"])
    )


def write_coco(path: Path, faces=FACES) -> None:
    annotations = [
        {"id": k, "image_id": 1, "category_id": 1, "bbox": box, "area": 5.0, "iscrowd": 0,
         "keypoints": [v for p in points for v in ((*p, 2) if p else (0, 0, 0))]}
        for k, (_, box, points) in enumerate(faces, 1)
    ]  # fmt: skip
    image = {"id": 1, "file_name": "x/1.jpg", "height": 0, "width": 0}
    from PIL import Image

    with Image.open(path.parent / "images" / "x" / "1.jpg") as picture:
        image["width"], image["height"] = picture.size
    category = {"id": 1, "name": "face", "keypoints": SKELETON["names"]}
    path.write_text(json.dumps({"images": [image], "annotations": annotations, "categories": [category]}))


WRITERS = {"csv": write_csv, "xml": write_dlib, "json": write_coco}


@pytest.mark.parametrize("kind", WRITERS)
def test_three_kinds_of_lists_say_the_same(root, kind):
    WRITERS[kind](root / f"val.{kind}")
    data = own(root)
    table = data.persons("val").accepted()
    assert table.boxes.tolist() == [box for _, box, _ in FACES]
    assert table.areas.tolist() == [50 * 60, 40 * 60]
    assert table.visible.tolist() == [[2, 2, 2], [2, 2, 0]]
    assert table.keypoints[0].tolist() == FACES[0][2]
    assert table.file_names.tolist() == ["x/1.jpg"]
    samples = [data.dataset("val")[row] for row in range(2)]
    assert [float(sample["area"]) for sample in samples] == [3000, 2400]
    np.testing.assert_allclose(samples[0]["keypoints"][0], (np.array([20, 30]) - (35, 42)) * 64 / 75 + 32, atol=1e-4)


def test_a_face_without_a_box_gets_one_about_its_landmarks(root):
    write_csv(root / "val.csv", [("x/1.jpg", None, [[20.2, 30], [41.5, 30], [30, 55]])])
    assert own(root).persons("val").boxes.tolist() == [[20, 30, 22, 25]]


def test_images_may_lie_beside_the_list_and_lists_have_any_name(root):
    (root / "images" / "x").rename(root / "x")
    (root / "images").rmdir()
    write_csv(root / "mine.csv")
    write_dlib(root / "other.xml")
    data = own(root, annotations={"train": "mine.csv", "val": "other.xml", "test": "mine.csv"})
    assert data.split_names == ("train", "val", "test")
    assert [len(data.dataset(split)) for split in data.split_names] == [2, 2, 2]


@pytest.mark.parametrize(
    ("kind", "old", "new", "message"),
    [
        ("csv", "41.5", "wide", r"val\.csv, row 2: has 'wide' in column 8; expected a number"),
        ("csv", "41.5", "inf", r"val\.csv, row 2: has 'inf' in column 8"),
        ("csv", "41.5,30,", "", r"val\.csv, row 2: has 9 columns; expected 11: the image, x, y, width, height"),
        ("csv", "x/1.jpg,10", "../1.jpg,10", r"val\.csv, row 2: names the image '\.\./1\.jpg'"),
        ("csv", "x/1.jpg,10", "x/2.jpg,10", r"lacks 1 of the 2 images that are annotated \(x/2\.jpg\)"),
        ("xml", "x='41.5'", "x='wide'", r"val\.xml, face 1 \(x/1\.jpg\): `x` of a part is 'wide'; expected a number"),
        ("xml", "width='40'", "", r"val\.xml, face 2 \(x/1\.jpg\): `width` of a box is None"),
        ("xml", "name='02'", "name='03'", r"face 1 \(x/1\.jpg\): has the part '03'; expected numbers from 0 to 2"),
        ("xml", "x/1.jpg", "../1.jpg", r"val\.xml: names the image '\.\./1\.jpg'"),
        ("xml", "</images>", "", r"val\.xml is no XML \(mismatched tag"),
        ("xml", "box", "bos", r"val\.xml has no face"),
        ("json", "41.5", '"wide"', r"`keypoints`"),
        ("json", '"images"', '"pictures"', r"is not COCO JSON"),
    ],
)  # fmt: skip
def test_mistakes_name_file_and_row(root, kind, old, new, message):
    path = root / f"val.{kind}"
    WRITERS[kind](path)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, -1 if old == "box" else 1))
    with pytest.raises(DataError, match=message):
        own(root).dataset("val")
    assert [f for f in check(own(root, annotations={"train": path.name}), images="none").findings if f.split == "val"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("val.csv", b"x/1.jpg," + b"9" * 140_000 + b"\n", r"val\.csv is no CSV \(Error: field larger than"),
        ("val.csv", b"x/1.jpg,10\xff\n", r"val\.csv is no text in UTF-8"),
        ("val.xml", b"<?xml version='1.0' encoding='none'?><dataset/>", r"val\.xml is no XML"),
        ("val.xml", b"<?xml version='1.0' encoding='shift_jis'?><dataset/>", r"val\.xml is no XML"),
        ("val.xml", b"<dataset>" * 99, r"val\.xml is no XML"),
        ("val.xml", b"", r"val\.xml is no XML"),
    ],
)  # fmt: skip
def test_what_is_no_list_is_one_sentence(root, name, content, message):
    (root / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        own(root).dataset("val")


def test_a_part_may_have_any_number_of_digits(root):
    write_dlib(root / "val.xml")
    path = root / "val.xml"
    path.write_text(path.read_text().replace("name='02'", f"name='{'9' * 5000}'", 1))
    with pytest.raises(DataError, match=r"has the part '9{50,60}\.\.\.; expected numbers from 0 to 2") as error:
        own(root).dataset("val")
    assert len(str(error.value)) < 500


def test_a_face_without_landmarks_is_left_out(root):
    write_csv(root / "val.csv", [*FACES, ("x/1.jpg", [1, 1, 20, 20], [None, None, None])])
    assert len(own(root).dataset("val")) == 2
    write_csv(root / "val.csv", [("x/1.jpg", [1, 1, 20, 20], [None, None, None])])
    with pytest.raises(DataError, match="has no usable instance"):
        own(root).dataset("val")


def test_the_sample_list_has_all_landmarks(rendered, tmp_path):
    root = face_layouts.sample_face_list(tmp_path / "list", rendered)
    whole, own_list = WFLW(rendered, **SIZE), FaceLandmarks(root, skeleton="wflw", **SIZE)
    np.testing.assert_allclose(own_list.persons("val").keypoints, whole.persons("val").keypoints)
    np.testing.assert_array_equal(own_list.dataset("val")[3]["image"], whole.dataset("val")[3]["image"])


def test_real_faces_of_dlib(shared_data):
    data = FaceLandmarks(
        shared_data / "dlib_faces",
        skeleton="w300",
        annotations={"train": "training_with_face_landmarks.xml", "val": "testing_with_face_landmarks.xml"},
        image_size=(128, 128),
        num_workers=0,
    )
    faces = [
        sample
        for split in ("train", "val")
        for sample in map(data.dataset(split).__getitem__, range(len(data.dataset(split))))
    ]
    assert len(faces) == 43
    for split in ("train", "val"):
        points = data.persons(split).keypoints
        right, left, chin = points[:, 36:42].mean(axis=1), points[:, 42:48].mean(axis=1), points[:, 8]
        assert (right[:, 0] < left[:, 0]).all()
        assert (chin[:, 1] > right[:, 1]).all()
    # Skin shows where the cheeks are: warmer than grey, unlike most of the pictures.
    sample = data.dataset("val")[0]
    x, y = sample["keypoints"][[31, 35, 30]].round().astype(int).T
    colours = sample["image"][y, x].astype(int)
    assert (colours[:, 0] > colours[:, 2]).all()


@pytest.mark.parametrize("name", ["wflw", "300w", "cofw", "aflw"])
def test_real_samples_load_as_own_lists(shared_data, name):
    skeleton = {"300w": "w300"}.get(name, name)
    annotations = dict.fromkeys(("train", "val"), f"test_{name}.json")
    data = FaceLandmarks(shared_data / "samples" / name, skeleton=skeleton, annotations=annotations, **SIZE)
    dataset = data.dataset("val")
    truth = json.loads((shared_data / "samples" / name / f"test_{name}.json").read_text())["annotations"]
    assert len(dataset) == len(truth)
    stated = {entry["id"]: np.array(entry["keypoints"]).reshape(-1, 3) for entry in truth}
    for row in range(len(dataset)):
        sample = dataset[row]
        points = stated[int(sample["instance_id"])]
        found = apply_affine(sample["to_image"], sample["keypoints"])
        np.testing.assert_allclose(found, points[:, :2], atol=0.01)
        assert sample["visible"].tolist() == points[:, 2].tolist()
    assert COFW.test_split == "val"

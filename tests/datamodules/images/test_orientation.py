"""EXIF orientation: read alike from every format, decided once per data set, the same in training and prediction."""

import json
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageOps

from datamodules import (
    ADE20K,
    CocoPose,
    DataError,
    FolderSegmentation,
    ImageFolder,
    ImageNet,
    PersonAugmentation,
    Reading,
)
from datamodules.check import check
from datamodules.images.files import read_header
from datamodules.images.orientation import find_tagged, oriented
from datamodules.images.pixels import read_image
from experiments.predict.media import pixels_of, read_photo
from experiments.predictor import Predictor
from hrnet import HRNet
from tasks import ClassificationTask, SegmentationTask

NUMBERS = range(1, 9)
SIDEWAYS = (5, 6, 7, 8)
INVERSE = {**{number: number for number in NUMBERS}, 6: 8, 8: 6}


def save(path: Path, pixels: np.ndarray, orientation: int, **options: object) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    lossless = {".webp": {"lossless": True, "exact": True}, ".jpg": {"subsampling": 0}}.get(path.suffix, {})
    Image.fromarray(pixels).save(path, exif=exif, quality=100, **lossless, **options)
    return path


def noise(height: int = 40, width: int = 60) -> np.ndarray:
    blocks = np.random.default_rng(0).integers(0, 256, (height // 10, width // 10, 3), np.uint8)
    return blocks.repeat(10, axis=0).repeat(10, axis=1)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_stored_and_shown_pixels_of_every_format(tmp_path: Path, suffix: str, number: int) -> None:
    picture = noise()
    path = save(tmp_path / f"a.{suffix}", picture, number)
    image = Image.fromarray(picture)
    image.getexif()[0x0112] = number
    shown = np.asarray(ImageOps.exif_transpose(image)).astype(int)
    near = {"jpg": 10}.get(suffix, 0)
    for reading in (Reading(), Reading(upright=False)):
        assert np.abs(read_image(path, None, reading).astype(int) - picture).max() <= near
    upright = read_image(path, None, Reading(upright=True))
    assert upright.shape == shown.shape
    assert np.abs(upright.astype(int) - shown).max() <= near
    assert upright.flags.c_contiguous
    assert upright.flags.writeable
    annotated = shown if number in SIDEWAYS else picture  # a size that both have tells nothing
    assert np.abs(read_image(path, shown.shape[:2]).astype(int) - annotated).max() <= near
    assert np.abs(read_image(path, (40, 60)).astype(int) - picture).max() <= near
    header = read_header(path)
    assert (header.orientation, header.size, header.shown) == (number, (40, 60), shown.shape[:2])
    np.testing.assert_array_equal(read_photo(path, upright=True).image, upright)
    np.testing.assert_array_equal(pixels_of(Image.open(path)), upright)
    np.testing.assert_array_equal(oriented(picture, number), shown)


def test_the_tag_of_a_png_may_stand_behind_its_pixels(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", noise(), 6)
    data = path.read_bytes()
    start = data.index(b"eXIf") - 4
    length = 12 + struct.unpack_from(">I", data, start)[0]
    path.write_bytes(data[:start] + data[start + length : -12] + data[start : start + length] + data[-12:])
    assert read_header(path).orientation == 6
    assert read_image(path, None, Reading(upright=True)).shape == (60, 40, 3)


@pytest.mark.parametrize("tag", [0, 9, 77])
def test_numbers_that_are_no_orientation_mean_upright(tmp_path: Path, tag: int) -> None:
    path = save(tmp_path / "a.jpg", noise(), tag)
    assert read_header(path).orientation == 1
    assert read_image(path, None, Reading(upright=True)).shape == (40, 60, 3)


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_of_both_byte_orders_is_turned_once(tmp_path: Path, order: str) -> None:
    values = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    tags = [(256, 3), (257, 2), (258, 8), (259, 1), (262, 1), (273, 8), (274, 6), (277, 1), (278, 2), (279, 6)]
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 14)
    entries = b"".join(struct.pack(order + "HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    (tmp_path / "a.tif").write_bytes(head + values.tobytes() + struct.pack(order + "H", len(tags)) + entries + bytes(4))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[..., 0], values)
    turned = read_image(tmp_path / "a.tif", None, Reading(upright=True))
    np.testing.assert_array_equal(turned[..., 0], np.rot90(values, -1))


# ---- key points

SHAPES = {"wide": (80, 120), "square": (100, 100)}
NAMES = ["a", "b", "c"]


def dots(shape: tuple[int, int], points: list[tuple[int, int]]) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    spots = sum(np.exp(-((x - px) ** 2 + (y - py) ** 2) / 18) for px, py in points)
    return np.repeat((255 * np.minimum(spots, 1))[..., None], 3, axis=2).astype(np.uint8)


def pose_data(root: Path, images: dict[str, list[tuple[str, int, str]]], **options: object) -> CocoPose:
    """Images (shape, orientation, which picture was annotated: shown or stored) with a dot at each key point."""
    (root / "annotations").mkdir(parents=True)
    (root / "skeleton.yaml").write_text(yaml.safe_dump({"names": NAMES, "flip_pairs": [], "sigmas": 0.05}))
    for split, entries in images.items():
        content: dict[str, list] = {"images": [], "annotations": [], "categories": [{"id": 1, "keypoints": NAMES}]}
        for number, (shape, orientation, annotated) in enumerate(entries, start=1):
            stored = SHAPES[shape]
            size = stored[::-1] if annotated == "shown" and orientation in SIDEWAYS else stored
            points = [(25, 20), (60, 30), (40, 60)]
            pixels = dots(size, points)
            if annotated == "shown":  # what is stored is what EXIF turns into the annotated picture
                pixels = oriented(pixels, INVERSE[orientation])
            assert pixels.shape[:2] == stored
            save(root / f"{split}2017" / f"{number}.jpg", pixels, orientation)
            height, width = size
            entry = {"id": number, "file_name": f"{number}.jpg", "height": height, "width": width}
            content["images"].append(entry)
            flat = [value for point in points for value in (*point, 2)]
            person = {"id": number, "image_id": number, "category_id": 1, "keypoints": flat, "num_keypoints": 3}
            content["annotations"].append(person | {"bbox": [10, 10, 65, 65], "area": 2000.0, "iscrowd": 0})
        (root / "annotations" / f"person_keypoints_{split}2017.json").write_text(json.dumps(content))
    options = {"skeleton": str(root / "skeleton.yaml"), "image_size": (96, 96), "num_workers": 0} | options
    return CocoPose(root, **options)


def hits(data: CocoPose, split: str) -> list[bool]:
    """Of each sample whether the crop is bright where its key points are."""
    dataset = data.split(split)
    found = []
    for row in range(len(dataset)):
        sample = dataset[row, 0]
        x, y = np.rint(sample["keypoints"]).astype(int).T
        found.append(bool((sample["image"][y, x] > 150).all()))
    return found


ONE_TELLS = [("wide", 6, "shown"), ("wide", 3, "shown"), ("square", 8, "shown"), ("wide", 1, "stored")]
QUIET = PersonAugmentation(scale_factor=0, rotation_factor=0, rotation_probability=0, half_body_probability=0)


@pytest.mark.filterwarnings("ignore:.*EXIF orientation")
@pytest.mark.parametrize(
    ("train", "val", "upright"),
    [
        (ONE_TELLS, [("wide", 3, "shown")], True),
        ([("wide", 3, "shown"), ("square", 6, "shown")], ONE_TELLS, True),
        ([("wide", 2, "stored"), ("wide", 3, "stored")], [("square", 6, "stored"), ("wide", 8, "stored")], False),
        ([("wide", 1, "stored")], [("wide", 3, "stored")], False),
        ([("wide", 1, "stored")], [("wide", 1, "stored")], None),
        ([("wide", 6, "shown"), ("wide", 8, "stored"), ("square", 3, "shown")], [("wide", 1, "stored")], True),
    ],
)
def test_one_rule_decides_for_all_splits(tmp_path: Path, train: list, val: list, upright: bool | None) -> None:
    data = pose_data(tmp_path, {"train": train, "val": val}, augmentation=QUIET)
    assert all(hits(data, "val"))
    assert all(hits(data, "train"))
    data = pose_data(tmp_path / "again", {"train": train, "val": val}, augmentation=QUIET)
    assert all(hits(data, "train"))
    data.setup("fit")
    assert data.preparation()["init_args"]["reading"]["upright"] is upright


@pytest.mark.parametrize("key", [True, False])
def test_a_key_overrides_the_rule(tmp_path: Path, key: bool) -> None:
    annotated = "shown" if key else "stored"
    entries = [("wide", 3, annotated), ("square", 6, annotated), ("square", 5, annotated), ("wide", 4, annotated)]
    data = pose_data(tmp_path, {"train": entries, "val": entries}, reading=Reading(upright=key), augmentation=QUIET)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert hits(data, "train") == hits(data, "val") == [True] * 4
    assert data.preparation()["init_args"]["reading"]["upright"] is key
    assert not [finding for finding in check(data).findings if "orientation" in finding.kind]
    other = "stored" if key else "shown"
    wrong = pose_data(tmp_path / "wrong", {"train": [("wide", 6, other)], "val": entries}, reading=Reading(upright=key))
    with pytest.raises(DataError, match=r"1\.jpg has .* pixels"):
        wrong.split("train")[0]
    assert ("train", "image of another size") in {(finding.split, finding.kind) for finding in check(wrong).findings}


def test_what_is_not_decided_is_said_and_is_a_finding(tmp_path: Path) -> None:
    data = pose_data(
        tmp_path, {"train": [("wide", 3, "shown"), ("wide", 1, "stored")], "val": [("square", 6, "shown")]}
    )
    with pytest.warns(
        UserWarning, match=r"train: 1 image carries an EXIF orientation \(1\.jpg\), read as stored.*upright: true"
    ):
        data.split("train")
    for mode in ("headers", "full"):
        report = check(data, mode)
        assert [(f.kind, f.split) for f in report.findings] == [
            ("orientation not decided", "train"),
            ("orientation not decided", "val"),
        ]
        assert len(report.notes) == 2
    told = pose_data(tmp_path / "told", {"train": [("wide", 6, "shown"), ("wide", 3, "shown")], "val": ONE_TELLS})
    with pytest.warns(
        UserWarning, match=r"train: 2 images carry an EXIF orientation \(1\.jpg, 2\.jpg\), turned upright"
    ):
        told.split("train")
    assert not [finding for finding in check(told).findings if "orientation" in finding.kind]
    assert [note.split(":")[0] for note in check(told).notes] == ["train", "val"]
    mixed = pose_data(tmp_path / "mixed", {"train": [("wide", 6, "shown"), ("wide", 8, "stored")], "val": ONE_TELLS})
    odd = [finding for finding in check(mixed).findings if "orientation" in finding.kind]
    assert [(finding.kind, finding.item) for finding in odd] == [("orientations disagree", "train2017/2.jpg")]


def test_only_tagged_images_are_found(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{row}.jpg", noise(), row % 9) for row in range(100)]
    (tmp_path / "3.jpg").write_bytes(b"damaged")
    found = find_tagged(paths, lambda row: (row, row))
    assert [tag.row for tag in found] == [row for row in range(100) if row % 9 > 1 and row != 3]
    assert [tag.annotated for tag in found] == [(tag.row, tag.row) for tag in found]


# ---- masks


def mask_data(root: Path, images: dict[str, list[tuple[str, int, str]]], **options: object) -> FolderSegmentation:
    """Images that are white where their masks are 1."""
    rng = np.random.default_rng(0)
    for split, entries in images.items():
        for number, (shape, orientation, annotated) in enumerate(entries):
            stored = SHAPES[shape]
            size = stored[::-1] if annotated == "shown" and orientation in SIDEWAYS else stored
            mask = rng.integers(0, 2, (size[0] // 10, size[1] // 10), np.uint8).repeat(10, axis=0).repeat(10, axis=1)
            pixels = mask * 255
            if annotated == "shown":
                pixels = oriented(pixels, INVERSE[orientation])
            save(root / "images" / split / f"{number}.png", pixels, orientation)
            (root / "masks" / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(root / "masks" / split / f"{number}.png")
    options = {"class_names": ["a", "b"], "image_size": (120, 120), "num_workers": 0, "scale": (1.0, 1.0)} | options
    return FolderSegmentation(root, **options)


def agree(data: FolderSegmentation, split: str) -> bool:
    dataset = data.split(split)
    samples = [dataset[row, 0] for row in range(len(dataset))]
    return all(((s["image"][..., 0] > 127) == (s["mask"] == 1))[s["mask"] != 255].mean() > 0.95 for s in samples)


@pytest.mark.filterwarnings("ignore:.*EXIF orientation")
@pytest.mark.parametrize(
    ("train", "val", "upright"),
    [
        (ONE_TELLS, [("wide", 3, "shown")], True),
        ([("square", 6, "shown")], ONE_TELLS, True),
        ([("wide", 3, "stored")], [("wide", 8, "stored"), ("square", 5, "stored")], False),
        ([("wide", 1, "stored")], [("square", 1, "stored")], None),
    ],
)
def test_masks_decide_as_annotations_do(tmp_path: Path, train: list, val: list, upright: bool | None) -> None:
    data = mask_data(tmp_path, {"train": train, "val": val})
    assert agree(data, "train")
    assert agree(data, "val")
    assert data.preparation()["init_args"]["reading"]["upright"] is upright
    kinds = {finding.kind for finding in check(data, "headers").findings}
    assert not kinds & {"mask of another size", "image of another size"}


def test_a_key_overrides_the_rule_for_masks(tmp_path: Path) -> None:
    entries = [("wide", 3, "shown"), ("square", 6, "shown")]
    data = mask_data(tmp_path, {"train": entries, "val": entries}, reading=Reading(upright=True))
    assert agree(data, "train")
    assert agree(data, "val")
    with pytest.warns(UserWarning, match="read as stored"):
        assert not agree(mask_data(tmp_path / "b", {"train": entries, "val": entries}), "train")


@pytest.mark.filterwarnings("ignore:.*EXIF orientation")
def test_a_data_set_without_a_test_split_of_its_own_is_not_asked_for_one(tmp_path: Path) -> None:
    for split in ("training", "validation"):
        save(tmp_path / "images" / split / "ADE_1.jpg", dots((80, 120), [(25, 20)]), 6)
        mask = Image.fromarray(np.ones((120, 80), np.uint8))
        (tmp_path / "annotations" / split).mkdir(parents=True)
        mask.save(tmp_path / "annotations" / split / "ADE_1.png")
    data = ADE20K(tmp_path, image_size=(32, 32), num_workers=0)
    assert data.split("val")[0]["mask"].shape == (120, 80)
    assert data.preparer.reading.upright
    assert data.split("train")[0, 0]["image"].shape == (32, 32, 3)


# ---- classes, and prediction


@pytest.mark.parametrize("cls", [ImageFolder, ImageNet])
@pytest.mark.parametrize("key", [None, True, False])
def test_classified_images_are_turned_unless_the_key_says_no(tmp_path: Path, cls: type, key: bool | None) -> None:
    stored = noise(160, 160)
    for split in ("train", "val"):
        for name in ("x", "y"):
            save(tmp_path / split / name / "a.png", stored, 6)
    options = {"num_classes": 2} if cls is ImageNet else {}
    data = cls(tmp_path, image_size=(160, 160), crop_ratio=1.0, reading=Reading(upright=key), num_workers=0, **options)
    expected = stored if key is False else np.rot90(stored, -1)
    np.testing.assert_array_equal(data.split("val")[0]["image"], expected)
    assert data.preparation()["init_args"]["reading"]["upright"] is (key is not False)
    task = ClassificationTask(HRNet("w18_small_v1"), num_classes=2, class_names=["x", "y"])
    task.preparation = data.preparation()
    predictor = Predictor(task)
    path = tmp_path / "val" / "x" / "a.png"
    for picture in (path, Image.open(path)):
        np.testing.assert_array_equal(predictor(picture).photo.image, expected)


@pytest.mark.parametrize(
    ("trained", "given", "turned"),
    [(True, None, True), (False, None, False), (None, None, True), (True, False, False), (False, True, True)],
)
def test_prediction_does_as_training_did(
    tmp_path: Path, trained: bool | None, given: bool | None, turned: bool
) -> None:
    task = SegmentationTask(HRNet("w18_small_v1", upsample="bilinear"), num_classes=2).eval()
    task.preparation = {
        "image_size": [64, 64],
        "reading": {"upright": trained, "value_range": None, "pixel_limit": 9999},
    }
    predictor = Predictor(task, upright=given)
    path = save(tmp_path / "a.tiff", noise(), 6)
    assert predictor.reading.pixel_limit == 9999
    for picture in (path, str(path), Image.open(path) if turned else path):
        result = predictor(picture)
        assert result.mask.shape == result.photo.image.shape[:2] == ((60, 40) if turned else (40, 60))


def test_photos_with_an_annotated_size_are_read_as_validation_reads_them(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", noise(), 6)
    assert read_photo(path, upright=False, size=(60, 40)).image.shape == (60, 40, 3)
    assert read_photo(path, upright=True, size=(40, 60)).image.shape == (40, 60, 3)
    half = save(tmp_path / "b.png", noise(), 3)
    for upright, turned in ((True, True), (False, False), (None, False)):
        expected = np.rot90(noise(), 2) if turned else noise()
        np.testing.assert_array_equal(read_photo(half, upright=upright, size=(40, 60)).image, expected)
    np.testing.assert_array_equal(read_photo(half, upright=None).image, np.rot90(noise(), 2))

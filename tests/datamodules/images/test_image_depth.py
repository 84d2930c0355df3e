"""Depth and bands: what is no 8-bit grey or RGB is scaled by a stated range, or refused with its depth, never dark."""

import json
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from datamodules import CocoPose, DataError, FolderSegmentation, ImageFolder, Reading
from datamodules.check import check
from datamodules.images.files import read_header
from datamodules.images.pixels import ManyBands, UnknownRange, as_rgb, read_image
from experiments.config import ConfigError, load_data
from experiments.predict.media import pixels_of
from experiments.predictor import Predictor, _reading
from hrnet import HRNet
from tasks import ClassificationTask


def write(path: Path, values: np.ndarray) -> Path:
    """A PNG or TIFF of any depth; channels as red, green, blue."""
    path.parent.mkdir(parents=True, exist_ok=True)
    swapped = values if values.ndim == 2 else np.concatenate([values[..., 2::-1], values[..., 3:]], axis=2)
    path.write_bytes(cv2.imencode(path.suffix, swapped)[1].tobytes())
    return path


def ramp(top: float, dtype: type, channels: int | None = None) -> np.ndarray:
    """(20, 30) or (20, 30, channels) from 0 to `top`."""
    shape = (20, 30) if channels is None else (20, 30, channels)
    return np.linspace(0, top, int(np.prod(shape))).reshape(shape).astype(dtype)


def expected(values: np.ndarray, low: float, high: float) -> np.ndarray:
    scaled = np.rint((values.astype(np.float64) - low) / (high - low) * 255).clip(0, 255)
    return np.repeat(scaled[..., None], 3, axis=2) if values.ndim == 2 else scaled


@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("bits", [8 + 1, 10, 12, 14])
def test_few_bits_in_sixteen_are_refused_with_the_range_to_state(
    tmp_path: Path, suffix: str, channels: int | None, bits: int
) -> None:
    values = ramp(2**bits - 1, np.uint16, channels)
    path = write(tmp_path / f"grey{suffix}", values)
    with pytest.raises(
        DataError,
        match=rf"grey{suffix} holds 16-bit values up to {2**bits - 1} of 65535.*value_range: \[0, {2**bits - 1}\]",
    ):
        read_image(path)
    image = read_image(path, None, Reading(value_range=(0, 2**bits - 1)))
    assert image.dtype == np.uint8
    assert np.abs(image - expected(values, 0, 2**bits - 1)).max() <= 1e-3
    assert image.max() == 255


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [None, 3])
def test_sixteen_bits_in_use_keep_the_upper_eight(tmp_path: Path, suffix: str, channels: int | None) -> None:
    values = ramp(50_000, np.uint16, channels)
    image = read_image(write(tmp_path / f"a{suffix}", values))
    np.testing.assert_array_equal(image, np.broadcast_to((values >> 8).reshape(20, 30, -1), (20, 30, 3)))
    assert not read_image(write(tmp_path / f"black{suffix}", np.zeros_like(values))).any()


@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.int32])
def test_floats_and_signed_numbers_need_a_range(tmp_path: Path, dtype: type, channels: int | None) -> None:
    top = 1 if np.issubdtype(dtype, np.floating) else 200
    values = ramp(top, dtype, channels) - dtype(top // 2 if top > 1 else 0)
    path = write(tmp_path / "deep.tiff", values)
    with pytest.raises(UnknownRange, match=rf"deep.tiff holds {np.dtype(dtype).name} values from .*value_range"):
        read_image(path)
    low, high = float(values.min()), float(values.max())
    np.testing.assert_allclose(
        read_image(path, None, Reading(value_range=(low, high))), expected(values, low, high), atol=1
    )
    half = read_image(path, None, Reading(value_range=(low, (low + high) / 2)))
    np.testing.assert_allclose(half, expected(values, low, (low + high) / 2), atol=1)
    assert (half == 255).mean() == pytest.approx(0.5, abs=0.02)


def test_what_is_no_number_is_black(tmp_path: Path) -> None:
    values = ramp(1, np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    image = read_image(write(tmp_path / "a.tiff", values), None, Reading(value_range=(0, 1)))
    assert image[0, :3, 0].tolist() == [0, 255, 0]


def test_a_range_leaves_eight_bits_alone(tmp_path: Path) -> None:
    values = ramp(255, np.uint8, 3)
    for suffix in (".png", ".tiff", ".bmp"):
        path = write(tmp_path / f"a{suffix}", values)
        np.testing.assert_array_equal(read_image(path, None, Reading(value_range=(0, 4095))), values)
    for wrong in ((5, 5), (9, 1)):
        with pytest.raises(DataError, match=r"value_range \[\d, \d\] should be the lowest value, then the highest"):
            ImageFolder(tmp_path, reading=Reading(value_range=wrong))
    with pytest.raises(DataError, match="pixel_limit is a number of pixels"):
        FolderSegmentation(tmp_path, class_names=["a", "b"], image_size=(8, 8), reading=Reading(pixel_limit=0))


def test_the_head_of_a_pgm_says_what_is_white(tmp_path: Path) -> None:
    values = ramp(4095, np.uint16)
    for name, body in (("a.pgm", b"P5 30 20 4095\n"), ("b.pnm", b"P2 30 20 4095\n")):
        text = " ".join(map(str, values.ravel().tolist())).encode()
        (tmp_path / name).write_bytes(body + (values.astype(">u2").tobytes() if body[1:2] == b"5" else text))
        np.testing.assert_allclose(read_image(tmp_path / name), expected(values, 0, 4095), atol=1)


def tiff_of_bands(path: Path, values: np.ndarray, extra: tuple[int, ...]) -> Path:
    """(H, W, bands) uint8, where `extra` is what the file says of those beyond red, green, blue."""
    height, width, bands = values.shape
    entries = [(256, 3, width), (257, 3, height), (258, 3, 8), (259, 3, 1), (262, 3, 2 if bands > 2 else 1),
               (277, 3, bands), (278, 3, height), (279, 4, values.size)]  # fmt: skip
    data = values.tobytes()
    place = 8
    tail = 8 + len(data)
    bits = struct.pack(f"<{bands}H", *[8] * bands)
    extras = struct.pack(f"<{len(extra)}H", *extra)
    rows = []
    for tag, kind, value in sorted([*entries, (273, 4, place), *([(338, 3, None)] if extra else [])]):
        if tag == 258 and bands > 2:
            rows.append(struct.pack("<HHII", tag, 3, bands, tail))
        elif tag == 258:
            rows.append(struct.pack("<HHI", tag, 3, bands) + bits.ljust(4, b"\0"))
        elif tag == 338 and len(extra) > 2:
            rows.append(struct.pack("<HHII", tag, 3, len(extra), tail + len(bits)))
        elif tag == 338:
            rows.append(struct.pack("<HHI", tag, 3, len(extra)) + extras.ljust(4, b"\0"))
        else:
            rows.append(struct.pack("<HHII", tag, kind, 1, value))
    start = tail + len(bits) + len(extras)
    directory = struct.pack("<H", len(rows)) + b"".join(rows) + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", start) + data + bits + extras + directory)
    return path


@pytest.mark.parametrize(
    ("bands", "extra"), [(4, ()), (4, (0,)), (2, ()), (2, (0,)), (5, (0, 0)), (8, (0,) * 5), (5, (2, 0))]
)
def test_more_bands_than_colours_are_refused_by_number(tmp_path: Path, bands: int, extra: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 256, (6, 7, bands), np.uint8)
    path = tiff_of_bands(tmp_path / "sat.tif", values, extra)
    left = bands - sum(kind in (1, 2) for kind in extra)
    assert read_header(path).bands == left
    with pytest.raises(ManyBands, match=rf"sat\.tif is 8-bit unsigned, {left} bands: expected grey or RGB"):
        read_image(path)


@pytest.mark.parametrize(("bands", "extra"), [(3, ()), (4, (2,)), (4, (1,)), (1, ()), (2, (2,))])
def test_transparency_is_no_band(tmp_path: Path, bands: int, extra: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 256, (6, 7, bands), np.uint8)
    if bands % 2 == 0:
        values[..., -1] = 255
    image = read_image(tiff_of_bands(tmp_path / "a.tif", values, extra))
    colours = values[..., :3] if bands > 2 else values[..., :1].repeat(3, axis=2)
    np.testing.assert_array_equal(image, colours)


def test_cmyk_tiff_has_three_colours(tmp_path: Path) -> None:
    picture = Image.fromarray(ramp(255, np.uint8, 3)).convert("CMYK")
    picture.save(tmp_path / "a.tif")
    assert read_header(tmp_path / "a.tif").bands == 3
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("kind", [("png", np.uint16), ("tiff", np.uint16), ("tiff", np.float32)])
def test_deep_files_that_are_cut_off_are_refused(tmp_path: Path, kind: tuple[str, type], share: float) -> None:
    values = np.random.default_rng(0).random((50, 60, 3)) * 60_000
    path = write(tmp_path / f"cut.{kind[0]}", values.astype(kind[1]))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match=r"cut\.\w+ is damaged or cut off"):
        read_image(path, None, Reading(value_range=(0, 65535)))


def test_strips_beyond_the_end_are_refused_where_the_head_stands_first(tmp_path: Path) -> None:
    image = Image.fromarray(ramp(60_000, np.uint16))
    image.save(tmp_path / "a.tif")
    data = (tmp_path / "a.tif").read_bytes()
    with Image.open(tmp_path / "a.tif") as stored:
        offset = stored.tag_v2[TiffImagePlugin.STRIPOFFSETS][0]
    assert offset > 8  # Pillow writes the head first
    (tmp_path / "a.tif").write_bytes(data[:-400])
    with pytest.raises(DataError, match=r"a\.tif is damaged or cut off"):
        read_image(tmp_path / "a.tif")


# ---- the same for arrays


@pytest.mark.parametrize("values", [ramp(50_000, np.uint16), ramp(50_000, np.uint16, 3), ramp(200, np.uint8)])
def test_arrays_pillow_images_and_files_are_read_alike(tmp_path: Path, values: np.ndarray) -> None:
    path = write(tmp_path / "a.png", values)
    np.testing.assert_array_equal(pixels_of(values), read_image(path))
    if values.ndim == 2:
        np.testing.assert_array_equal(pixels_of(Image.fromarray(values)), read_image(path))
    np.testing.assert_array_equal(pixels_of(Image.open(path)), read_image(path))


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.int32])
def test_arrays_that_would_come_out_black_are_refused_or_scaled(tmp_path: Path, dtype: type) -> None:
    values = ramp(4095, dtype)
    path = write(tmp_path / "a.tiff", values)
    for picture in (values, Image.fromarray(values), Image.open(path)):
        with pytest.raises(UnknownRange, match="value_range"):
            pixels_of(picture)
        reading = Reading(value_range=(0, 4095))
        np.testing.assert_array_equal(pixels_of(picture, reading=reading), read_image(path, None, reading))


@pytest.mark.parametrize("dtype", [complex, object, "U3"])
def test_arrays_of_no_numbers_are_refused(dtype: type) -> None:
    with pytest.raises(UnknownRange, match=r"This holds .*no brightnesses"):
        as_rgb(np.zeros((4, 5), dtype), "This")


@pytest.mark.parametrize("shape", [(4,), (4, 5, 2), (4, 5, 4), (4, 5, 6), (0, 5, 3), (2, 4, 5, 3)])
def test_arrays_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"This has the shape \(.*grey or RGB"):
        as_rgb(np.zeros(shape, np.uint8), "This")
    task = ClassificationTask(HRNet("w18_small_v1"), num_classes=2, class_names=["a", "b"])
    with pytest.raises(ValueError, match=r"A picture is a path.*got uint8 \("):
        Predictor(task, image_size=(32, 32))(np.zeros(shape, np.uint8))


def test_prediction_takes_the_range_of_the_training(tmp_path: Path) -> None:
    task = ClassificationTask(HRNet("w18_small_v1"), num_classes=2, class_names=["a", "b"])
    for split in ("train", "val"):
        for name in ("a", "b"):
            write(tmp_path / split / name / "x.png", ramp(4095, np.uint16))
    data = ImageFolder(tmp_path, image_size=(32, 32), reading=Reading(value_range=(0, 4095)), num_workers=0)
    assert data.split("train")[0]["image"].max() > 240
    task.preparation = json.loads(json.dumps(data.preparation()))
    predictor = Predictor(task)
    values = ramp(4095, np.uint16)
    for picture in (tmp_path / "val/a/x.png", values, Image.fromarray(values)):
        np.testing.assert_allclose(predictor(picture).photo.image, expected(values, 0, 4095), atol=1)


def test_a_joint_run_of_two_ranges_or_ways_says_so() -> None:
    with pytest.raises(ConfigError, match="different value ranges"):
        _reading([Reading(value_range=(0, 1)), Reading()], None, None)
    with pytest.raises(ConfigError, match="--as_shown or --as_stored"):
        _reading([Reading(upright=True), Reading(upright=False)], None, None)
    assert _reading([Reading(upright=True), Reading(upright=False)], False, None).upright is False
    assert _reading([Reading(), Reading(upright=False, pixel_limit=5)], None, None) == Reading(upright=False)


# ---- the data doctor


def test_check_lists_depth_bands_and_darkness(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("a", "b"):
            write(tmp_path / split / name / f"{split}.png", rng.integers(0, 256, (20, 30, 3), np.uint8))
    folder = tmp_path / "train" / "a"
    write(folder / "grey12.png", ramp(4095, np.uint16))
    write(folder / "float.tiff", ramp(1, np.float32))
    write(folder / "signed.tiff", ramp(99, np.int32))
    write(folder / "dark.png", ramp(15, np.uint8))
    write(folder / "deep.png", ramp(50_000, np.uint16))
    tiff_of_bands(folder / "sat.tif", rng.integers(0, 256, (6, 7, 5), np.uint8), (0, 0))
    bands, unknown, dark = "image of many bands", "image of an unknown range", "image almost black"
    always = {("float.tiff", unknown), ("signed.tiff", unknown), ("sat.tif", bands)}
    for mode, more in (("headers", set()), ("full", {("grey12.png", unknown), ("dark.png", dark)})):
        findings = check(ImageFolder(tmp_path, image_size=(16, 16)), mode).findings
        assert {(Path(f.item).name, f.kind) for f in findings} == always | more
    stated = ImageFolder(tmp_path, image_size=(16, 16), reading=Reading(value_range=(0, 4095)))
    found = {(Path(f.item).name, f.kind) for f in check(stated).findings}
    assert found == {("sat.tif", bands), ("float.tiff", dark), ("signed.tiff", dark), ("dark.png", dark)}


@pytest.mark.parametrize("layout", ["pose", "masks"])
def test_every_data_set_refuses_and_scales(tmp_path: Path, layout: str) -> None:
    values = ramp(4095, np.uint16)
    for split in ("train", "val"):
        write(tmp_path / "images" / split / "x.png", values)
        write(tmp_path / "masks" / split / "x.png", np.ones((20, 30), np.uint8))
    person = {"id": 1, "image_id": 1, "category_id": 1, "keypoints": [15, 10, 2], "num_keypoints": 1, "area": 99.0}
    content = {
        "images": [{"id": 1, "file_name": "x.png", "height": 20, "width": 30}],
        "annotations": [person | {"bbox": [2, 2, 20, 15], "iscrowd": 0}],
        "categories": [{"id": 1, "keypoints": ["a"]}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    (tmp_path / "skeleton.yaml").write_text("{names: [a], flip_pairs: [], sigmas: 0.05}")

    def data(reading: Reading | None):
        options = {"image_size": (32, 32), "num_workers": 0, "reading": reading}
        if layout == "masks":
            return FolderSegmentation(tmp_path, class_names=["a", "b"], **options)
        files = dict.fromkeys(("train", "val"), "a.json")
        folders = {split: f"images/{split}" for split in ("train", "val")}
        skeleton = str(tmp_path / "skeleton.yaml")
        return CocoPose(tmp_path, skeleton=skeleton, annotations=files, images=folders, **options)

    for split in ("train", "val"):
        with pytest.raises(DataError, match=r"x\.png holds 16-bit values up to 4095"):
            data(None).split(split)[0]
        assert data(Reading(value_range=(0, 4095))).split(split)[0]["image"].max() > 200


def test_reading_is_said_in_yaml_and_flags() -> None:
    flags = ["--data.init_args.reading.value_range", "[0, 4095]", "--data.reading.upright", "true"]
    data = load_data(["seg_folder.yaml", "sample.yaml"], flags)
    assert data.reading == Reading(upright=True, value_range=(0, 4095))
    assert load_data(["cls_folder.yaml"], ["--data.reading.pixel_limit", "7"]).reading == Reading(True, None, 7)
    assert load_data(["pose_coco.yaml"], []).reading == Reading()
    for flag, value, said in (("value_range", "[9, 1]", "lowest value"), ("pixel_limit", "0", "at least 1")):
        with pytest.raises(DataError, match=said):
            load_data(["pose_coco.yaml"], [f"--data.reading.{flag}", value])
    with pytest.raises(ConfigError, match=r"uprigt.*did you mean upright"):
        load_data(["pose_coco.yaml"], ["--data.reading.uprigt", "true"])

"""Masks: ids of any depth become classes or are refused by number, and no resizing makes a class in between."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from datamodules import DataError, FolderSegmentation
from datamodules.images.files import Reading
from datamodules.sample import layouts, sample_coco
from datamodules.segmentation.crop import RandomCrop
from datamodules.segmentation.masks import IGNORED, ColourMasks, IndexMasks, UnknownLabels, lookup, mask_size
from datamodules.segmentation.pascal_context import id_table
from datamodules.segmentation.samples import EvaluationSize
from experiments.errors.segmentation import _resized
from experiments.predict.media import Photo
from experiments.predict.segmentation import SegmentationView
from hrnet import HRNet
from tasks import SegmentationTask
from tasks.draw import draw_segmentation

NAMES = ["a", "b", "c"]


def tiff(path: Path, values: np.ndarray) -> Path:
    path.write_bytes(cv2.imencode(".tiff", values)[1].tobytes())
    return path


def folder(root: Path, mask: np.ndarray, name: str = "x.png") -> Path:
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((*mask.shape, 3), np.uint8)).save(root / f"images/{split}/x.png")
        path = root / "masks" / split / name
        if name.endswith(".tiff"):
            tiff(path, mask)
        elif name.endswith(".mat"):
            savemat(path, {"LabelMap": mask})
        else:
            Image.fromarray(mask).save(path)
    return root


def data(root: Path, **options: object) -> FolderSegmentation:
    options = {"class_names": NAMES, "image_size": (32, 32), "num_workers": 0} | options
    return FolderSegmentation(root, **options)


# ---- ids


@pytest.mark.parametrize("name", ["x.png", "x.tiff", "x.mat"])
@pytest.mark.parametrize("unknown", [3, 254, 256, 257, 300, 512, 40_000, 65_535])
def test_sixteen_bit_ids_beyond_the_table_are_refused_by_number(tmp_path: Path, name: str, unknown: int) -> None:
    mask = np.array([[0, 1, 2], [2, unknown, unknown]], np.uint16)
    with pytest.raises(UnknownLabels, match=rf"{name} has 2 pixels of the ids \[{unknown}\].*known ids are 0-2, 255"):
        data(folder(tmp_path, mask, name)).split("val")[0]
    named = data(tmp_path, id_map={0: 0, 1: 1, 2: 2, unknown: 1}).split("val")[0]
    assert named["mask"].tolist() == [[0, 1, 2], [2, 1, 1]]
    left = data(tmp_path, ignore_label=unknown).split("val")[0]
    assert left["mask"].tolist() == [[0, 1, 2], [2, 255, 255]]


@pytest.mark.parametrize("table", [lookup({0: 0, 1: 1}, 3, size=2), lookup({0: 0, 1: 1}, 3), id_table(59, 459)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_the_first_id_beyond_a_table_of_any_size(tmp_path: Path, table: np.ndarray, dtype: type) -> None:
    beyond = len(table)
    if beyond > np.iinfo(dtype).max:
        pytest.skip("an image of this depth cannot hold it")
    path = tiff(tmp_path / "a.tiff", np.array([[0, 1], [1, beyond]], dtype))
    with pytest.raises(UnknownLabels, match=rf"1 pixels of the ids \[{beyond}\]"):
        IndexMasks(table, NAMES)(path)


def test_negative_ids_are_no_ids_from_the_end(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tiff", np.array([[0, -1], [-256, 1]], np.int32))
    with pytest.raises(UnknownLabels, match=r"2 pixels of the ids \[-256, -1\]"):
        IndexMasks(lookup({0: 0, 1: 1, 255: 255}, 2), NAMES)(path)


@pytest.mark.parametrize(
    ("ids", "ignore_label", "expected"),
    [
        ({0: 0, 255: 1}, None, [0, 1, None]),
        ({0: 0, 255: 255, 7: 2}, None, [0, 255, 2]),
        ({0: 0, 255: 2}, 7, [0, 2, 255]),
        ({0: 0, 7: 255, 255: 1}, 7, [0, 1, 255]),
        ({0: 1, 7: 0}, None, [1, 255, 0]),
    ],
)
def test_a_named_id_is_what_it_is_named(tmp_path: Path, ids: dict, ignore_label: int | None, expected: list) -> None:
    mask = np.array([[0, 255, 7 if expected[2] is not None else 0]], np.uint8)
    options = {} if ignore_label is None else {"ignore_label": ignore_label}
    found = data(folder(tmp_path, mask), id_map=ids, **options).split("val")[0]["mask"]
    assert found.tolist() == [[expected[0], expected[1], expected[0] if expected[2] is None else expected[2]]]


def test_an_id_that_is_a_class_and_ignored_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"mask id 7 is both ignore_label and, by id_map, class 1"):
        data(tmp_path, id_map={0: 0, 7: 1}, ignore_label=7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["x.tiff", "x.mat"])
def test_whole_numbers_in_a_float_mask_are_ids(tmp_path: Path, name: str, dtype: type) -> None:
    mask = np.array([[0, 1, 2], [255, 2, 0]], dtype)
    assert data(folder(tmp_path, mask, name)).split("val")[0]["mask"].tolist() == [[0, 1, 2], [255, 2, 0]]
    assert mask_size(tmp_path / "masks" / "val" / name) == (2, 3)


@pytest.mark.parametrize("value", [0.5, 1.0001, float("nan"), float("inf"), -float("inf")])
def test_other_floats_are_no_ids(tmp_path: Path, value: float) -> None:
    mask = np.array([[0, 1, 2], [2, value, value]], np.float32)
    said = f"{np.float32(value):.4g}".replace(".", r"\.")
    with pytest.raises(
        DataError, match=rf"x\.tiff holds float32 numbers, 2 of them not whole, such as {said}: .*no ids"
    ):
        data(folder(tmp_path, mask, "x.tiff")).split("val")[0]
    with pytest.raises(UnknownLabels, match=r"ids \[7\]"):
        data(folder(tmp_path / "b", np.full((2, 3), 7, np.float32), "x.tiff")).split("val")[0]


def test_a_palette_of_few_colours_and_the_shades_of_a_mask_are_ids(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 2, 2]], np.uint8)
    image = Image.fromarray(ids, "P")
    image.putpalette([9, 9, 9, 200, 0, 0, 0, 0, 200])
    for ending, options in (("png", {"bits": 2}), ("gif", {}), ("tif", {}), ("bmp", {})):
        image.save(tmp_path / f"a.{ending}", **options)
        read = IndexMasks(lookup({0: 0, 1: 1, 2: 2}, 3), NAMES)
        assert read(tmp_path / f"a.{ending}").tolist() == ids.tolist()


def test_a_matlab_mask_has_the_limit_of_other_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of kilobytes may unpack to gigabytes, so its head alone is looked at."""
    root = folder(tmp_path, np.zeros((40, 50), np.uint8), "x.mat")
    path = root / "masks/val/x.mat"
    savemat(path, {"other": np.zeros((9, 9)), "LabelMap": np.zeros((400, 500), np.uint8)}, do_compression=True)
    assert path.stat().st_size < 2000
    assert mask_size(path, 200_000) == IndexMasks(lookup({0: 0}, 1), NAMES, 200_000)(path).shape == (400, 500)
    monkeypatch.setattr("scipy.io.loadmat", None)
    for read in (
        lambda: mask_size(path, 199_999),
        lambda: IndexMasks(lookup({0: 0}, 1), NAMES, 199_999)(path),
        lambda: data(root, reading=Reading(pixel_limit=199_999)).split("val")[0],
    ):
        with pytest.raises(DataError, match=r"x\.mat has 400 x 500 pixels .*more than the limit of 199,999"):
            read()


@pytest.mark.parametrize(
    "content", [b"", b"MATLAB 5.0", {"labels": np.zeros((2, 3))}, {"LabelMap": np.zeros((2, 3, 4))}]
)
def test_a_matlab_file_without_a_map_is_one_sentence(tmp_path: Path, content: bytes | dict) -> None:
    path = tmp_path / "a.mat"
    path.write_bytes(content) if isinstance(content, bytes) else savemat(path, content)
    with pytest.raises(DataError, match=r"a\.mat cannot be read .*expected a MATLAB file with the matrix LabelMap"):
        IndexMasks(lookup({0: 0}, 1), NAMES)(path)


# ---- formats: ids are the stored numbers, whatever grey a decoder makes of them

IDS = (np.indices((21, 33)).sum(axis=0) % 3).astype(np.uint8)


def grey_png(path: Path, ids: np.ndarray, bits: int) -> Path:
    """A grey PNG whose values have 1, 2 or 4 bits, as Pillow does not write them."""
    width = -(-ids.shape[1] * bits // 8)
    shifted = np.zeros((len(ids), width * 8 // bits), np.uint8)
    shifted[:, : ids.shape[1]] = ids
    packed = (shifted.reshape(len(ids), width, 8 // bits) << np.arange(8 - bits, -1, -bits, dtype=np.uint8)).sum(axis=2)
    rows = np.concatenate([np.zeros((len(ids), 1), np.uint8), packed.astype(np.uint8)], axis=1)
    head = struct.pack(">IIBBBBB", ids.shape[1], len(ids), bits, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b""))
    written = (len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4) for kind, data in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(written))
    return path


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_is_the_stored_number(tmp_path: Path, bits: int) -> None:
    ids = np.minimum(IDS, 2**bits - 1) if bits < 4 else IDS * 7
    read = IndexMasks(lookup({int(value): int(value) for value in np.unique(ids)}, 16), NAMES)
    assert read(grey_png(tmp_path / "a.png", ids, bits)).tolist() == ids.tolist()
    assert cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED).max() == ids.max() * (255 // (2**bits - 1))


@pytest.mark.parametrize("ending", ["png", "tif", "bmp", "pbm"])
def test_the_foreground_of_one_bit_is_class_one_and_not_ignored(tmp_path: Path, ending: str) -> None:
    foreground = IDS > 0
    # In a PBM the number 1 is black.
    Image.fromarray(~foreground if ending == "pbm" else foreground).save(tmp_path / f"a.{ending}")
    read = IndexMasks(lookup({0: 0, 1: 1, 255: IGNORED}, 2), NAMES)
    assert read(tmp_path / f"a.{ending}").tolist() == foreground.astype(int).tolist()


@pytest.mark.parametrize("few", [True, False])
def test_a_tiff_whose_zero_is_white_keeps_its_numbers(tmp_path: Path, few: bool) -> None:
    image = Image.fromarray(IDS > 0 if few else IDS)
    image.save(tmp_path / "a.tif")
    black, white = (struct.pack("<HHIHH", 262, 3, 1, value, 0) for value in (1, 0))
    content = (tmp_path / "a.tif").read_bytes()
    assert content.count(black) == 1
    (tmp_path / "b.tif").write_bytes(content.replace(black, white))
    with Image.open(tmp_path / "b.tif") as turned:
        assert (np.asarray(turned) != np.asarray(image)).all()
    read = IndexMasks(lookup({0: 0, 1: 1, 2: 2}, 3), NAMES)
    for name in ("a.tif", "b.tif"):
        assert read(tmp_path / name).tolist() == (np.minimum(IDS, 1) if few else IDS).tolist()


def test_a_pgm_whose_white_is_another_number_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5\n# drawn\n33 21 # wide\n2\n" + IDS.tobytes())
    read = IndexMasks(lookup({0: 0, 1: 1, 2: 2, 255: 255}, 3), NAMES)
    with pytest.raises(DataError, match=r"a\.pgm cannot be read: it is a PGM whose white is 2, expected 255"):
        read(path)
    path.write_bytes(b"P5 33 21 255\n" + IDS.tobytes())
    assert read(path).tolist() == IDS.tolist()


@pytest.mark.parametrize("name", ["a.jpg", "a.tif", "a.webp", "a.png"])
def test_formats_that_change_numbers_are_refused_for_ids_and_for_colours(tmp_path: Path, name: str) -> None:
    path, colours = tmp_path / name, np.array([(0, 0, 0), (90, 0, 0), (0, 90, 0)], np.uint8)
    palette = [tuple(colour) for colour in colours.tolist()]
    options = {"a.tif": {"compression": "jpeg"}, "a.webp": {"quality": 99}, "a.png": {"format": "JPEG"}}.get(name, {})
    for picture, read in (
        (Image.fromarray(IDS), IndexMasks(lookup({0: 0, 1: 1, 2: 2}, 3), NAMES)),
        (Image.fromarray(colours[IDS]), ColourMasks(palette)),
    ):
        picture.save(path, **options)
        with pytest.raises(DataError, match=rf"The mask .*{name} cannot be read: it is a .* changing values.*PNG"):
            read(path)
    Image.fromarray(colours[IDS]).save(tmp_path / "b.webp", lossless=True)
    assert ColourMasks(palette)(tmp_path / "b.webp").tolist() == IDS.tolist()


# ---- classes in between: 0 and 10 next to each other, and 5 nowhere

EDGES = (np.indices((90, 130)).sum(axis=0) // 9 % 2 * 10).astype(np.uint8)


@pytest.mark.parametrize("stretch", [True, False])
@pytest.mark.parametrize("draw", [True, False])
@pytest.mark.parametrize("base_size", [60, 130, 300])
def test_training_crops_have_the_classes_of_the_mask_alone(stretch: bool, draw: bool, base_size: int) -> None:
    image = np.repeat(EDGES[..., None] * 20, 3, axis=2)
    crop = RandomCrop((96, 112), base_size, (0.5, 2.1), stretch=stretch, draw=draw)
    for seed in range(20):
        _, mask = crop(image, EDGES, np.random.default_rng(seed))
        assert set(np.unique(mask)) <= {0, 10, IGNORED}


def test_enlarged_predictions_have_the_classes_of_the_prediction_alone() -> None:
    task = SegmentationTask(HRNet("w18_small_v1", upsample="bilinear"), num_classes=11)
    view = SegmentationView(task, EvaluationSize((48, 64), evaluation="stretch"), max_pixels=64 * 64)
    samples, finish = view.prepare(Photo(np.zeros((90, 130, 3), np.uint8)))
    predictions = [np.resize(EDGES, sample["image"].shape[:2]) for sample in samples]
    result = finish(predictions)
    assert result.mask.shape == (90, 130)
    assert set(np.unique(result.mask)) == {0, 10}


def test_drawn_masks_have_the_colours_of_their_classes_alone() -> None:
    colours = [(0, 0, 0), *[(0, 200, 0)] * 9, (200, 0, 0)]
    masks = torch.from_numpy(EDGES.astype(np.int64))[None]
    images = torch.zeros(1, 3, 90, 130, dtype=torch.uint8)
    for side in (64, 100, 320):
        picture = draw_segmentation(images, masks, masks, colours, list("abcdefghijk"), side)
        rows = 2 * round(side * 90 / 130)
        red, green, _ = picture[:, :rows]  # and black on white above each row
        assert not (green > red).any(), "green stands for the classes between"
        assert (red > green).any()
    for size in ((30, 40), (200, 333)):
        assert set(_resized(masks[:, None], size).unique().tolist()) == {0, 10}


def test_rendered_masks_are_not_interpolated(tmp_path: Path) -> None:
    coco = sample_coco(tmp_path / "coco", num_train=2, num_val=1)
    root = layouts.sample_cityscapes(tmp_path / "city", coco)
    for path, parts in zip(sorted(root.rglob("*labelIds.png")), sorted((coco / "parts").rglob("*.png")), strict=True):
        ids, before = np.asarray(Image.open(path)), np.asarray(Image.open(parts))
        rows, columns = (
            ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(ids.shape, before.shape, strict=True)
        )
        assert (ids == layouts.CITYSCAPES_IDS[before[rows][:, columns]]).mean() > 0.999


def test_red_green_and_blue_of_one_strength_are_three_classes(tmp_path: Path) -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    Image.fromarray(np.array([colours], np.uint8)).save(tmp_path / "mask.png")
    assert ColourMasks(colours)(tmp_path / "mask.png").tolist() == [[0, 1, 2]]

"""Segmentation data: image and mask stay aligned, label maps are the published ones, and mistakes name their file."""

import math
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from datamodules import ADE20K, LIP, Cityscapes, DataError, FolderSegmentation, PascalContext
from datamodules.sample import layouts, sample_coco
from datamodules.segmentation.cityscapes import IDS_TO_CLASSES, TRAIN_IDS_TO_CLASSES
from datamodules.segmentation.crop import RandomCrop
from datamodules.segmentation.data import SegmentationData
from datamodules.segmentation.masks import ColourMasks, voc_palette
from datamodules.segmentation.pascal_context import IDS, id_table
from datamodules.segmentation.samples import EvaluationSize

NAMES = ["a", "b", "c"]


def write(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def folder(root: Path, sizes: tuple[tuple[int, int], ...] = ((40, 60), (50, 44)), top: int = 3) -> Path:
    """Images of noise and masks of ids below `top` in both splits."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for index, size in enumerate(sizes):
            write(root / "images" / split / f"{index}.jpg", rng.integers(0, 256, (*size, 3), np.uint8))
            write(root / "masks" / split / f"{index}.png", rng.integers(0, top, size, np.uint8))
    return root


def data(root: Path, **options: object) -> FolderSegmentation:
    options = {"class_names": NAMES, "image_size": (32, 48), "batch_size": 2, "num_workers": 0, **options}
    return FolderSegmentation(root, **options)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(20, 150),
    width=st.integers(20, 150),
    base_size=st.integers(30, 150),
    stretch=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_image_and_mask_stay_aligned(height: int, width: int, base_size: int, stretch: bool, seed: int) -> None:
    # Both channels and the mask hold a coordinate, so wherever a pixel comes from, all three must say the same.
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    image, mask = np.stack([rows + 1, columns + 1, np.full_like(rows, 200)], axis=-1), columns
    crop = RandomCrop((48, 64), base_size, (0.5, 2.1), stretch=stretch)
    moved, labels = crop(image, mask, np.random.default_rng(seed))
    assert moved.shape == (48, 64, 3)
    assert labels.shape == (48, 64)
    padding = labels == 255
    assert (moved[padding] == 0).all()
    assert (moved[~padding][:, 2] == 200).all()
    # Bilinear and nearest interpolation are half a source pixel apart when enlarging, one when shrinking.
    steps = max(1.0, width / (64 if stretch else width) * max(height, width) / (0.5 * base_size))
    assert np.abs(moved[..., 1].astype(int)[~padding] - 1 - labels[~padding]).max(initial=0) <= 1 + steps


@pytest.mark.parametrize("stretch", [False, True])
@pytest.mark.parametrize("scale", [0.5, 0.7, 1.0, 1.9])
def test_masks_take_the_nearest_pixel_and_images_a_mean(scale: float, stretch: bool) -> None:
    """No class lies between two others: where 2 meets 9 there is neither 5 nor 6, whatever the scale."""
    rng = np.random.default_rng(0)
    blocks = rng.choice([2, 9, 255], (6, 8), p=[0.45, 0.45, 0.1]).astype(np.uint8)
    mask = blocks.repeat(7, axis=0).repeat(9, axis=1)
    image = np.where(mask == 9, 240, 20).astype(np.uint8)[..., None].repeat(3, axis=2)
    crop, between = RandomCrop((40, 50), 72, (scale, scale), stretch=stretch), 0
    for seed in range(20):
        moved, labels = crop(image, mask, np.random.default_rng(seed))
        assert set(np.unique(labels)) <= {2, 9, 255}
        assert {2, 9} <= set(np.unique(labels))
        between += np.count_nonzero((moved > 40) & (moved < 220))
        inside = cv2.erode((labels == 9).astype(np.uint8), np.ones((9, 9), np.uint8), borderValue=0) > 0
        assert (moved[inside] > 120).all()
    assert between > 100 or (scale == 1.0 and not stretch), "images are interpolated"


def test_scales_mirrors_and_places_are_those_of_the_recipe() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    mask = np.zeros((100, 200), np.uint8)
    mask[:, 100:] = 1
    crop, rng = RandomCrop((400, 400), 200, (0.5, 1.6)), np.random.default_rng(0)
    widths, mirrored = [], []
    for _ in range(600):
        labels = crop(image, mask, rng)[1]
        inside = labels != 255
        widths.append(int(inside.any(axis=0).sum()))
        columns = np.flatnonzero(inside.any(axis=0))
        mirrored.append(bool(labels[0, columns[0]] == 1))
        # The padding is at the bottom and, before the mirror, at the right.
        assert inside[0].any()
        assert columns[-1] == 399 if mirrored[-1] else columns[0] == 0
    values, counts = np.unique(widths, return_counts=True)
    assert values.tolist() == [round(200 * (0.5 + n / 10)) for n in range(12)]
    assert counts.min() > 25  # 50 are expected of each
    assert 0.4 < np.mean(mirrored) < 0.6
    enlarged, places = RandomCrop((100, 100), 400, (1.0, 1.0)), set()
    ramp = np.repeat(np.arange(200, dtype=np.uint8)[None], 100, axis=0)
    for _ in range(50):
        labels = enlarged(np.zeros((100, 200, 3), np.uint8), ramp, rng)[1]
        places.add(int(labels.min()))
    assert min(places) < 20
    assert max(places) > 130


def test_mirror_exchanges_left_and_right_labels() -> None:
    mask = np.tile(np.array([14, 15, 16, 17, 18, 19, 3, 255], np.uint8), (8, 1))
    image = np.repeat(mask[..., None], 3, axis=2)
    crop = RandomCrop((8, 8), 8, (1.0, 1.0), flip_pairs=LIP.label_flip_pairs)
    rows = {tuple(crop(image, mask, np.random.default_rng(seed))[1][0].tolist()) for seed in range(20)}
    assert rows == {(14, 15, 16, 17, 18, 19, 3, 255), (255, 3, 18, 19, 16, 17, 14, 15)}


def test_draws_follow_from_the_key_not_from_workers(tmp_path: Path) -> None:
    options = {"photometric": [{"name": "ColorJitter", "p": 1.0}]}
    folder(tmp_path, ((60, 80),) * 5)

    def batches(workers: int, epoch: int) -> list[torch.Tensor]:
        loader = data(tmp_path, num_workers=workers, **options).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return [value for batch in loader for value in (batch["image"], batch["mask"], batch["image_id"])]

    first = batches(0, 1)
    assert all(torch.equal(a, b) for a, b in zip(first, batches(2, 1), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, batches(0, 2), strict=True))


def test_batches_are_as_the_table_says_and_differing_sizes_come_alone(tmp_path: Path) -> None:
    varying = data(folder(tmp_path / "varying"))
    batch = next(iter(varying.train_dataloader()))
    assert batch["image"].shape == (2, 3, 32, 48)
    assert batch["image"].dtype == torch.uint8
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    assert batch["mask"].shape == (2, 32, 48)
    assert batch["mask"].dtype == batch["image_id"].dtype == torch.int64
    shapes = [(tuple(batch["image"].shape), tuple(batch["mask"].shape)) for batch in varying.val_dataloader()]
    assert shapes == [((1, 3, 40, 60), (1, 40, 60)), ((1, 3, 50, 44), (1, 50, 44))]
    equal = data(folder(tmp_path / "equal", ((40, 60),) * 2))
    assert [len(batch["image"]) for batch in equal.val_dataloader()] == [2]


@pytest.mark.parametrize(
    ("evaluation", "size"), [("original", (40, 60)), ("long", (64, 96)), ("short", (96, 144)), ("stretch", (32, 48))]
)
def test_evaluated_images_have_the_chosen_size_and_masks_their_own(
    tmp_path: Path, evaluation: str, size: tuple[int, int]
) -> None:
    # base_scale 2 of a crop that is 48 long is 96 pixels.
    module = data(folder(tmp_path), evaluation=evaluation, base_scale=2)
    sample = module.split("val")[0]
    assert sample["image"].shape[:2] == size
    stored = np.asarray(Image.open(tmp_path / "masks/val/0.png"))
    np.testing.assert_array_equal(sample["mask"], stored)


@given(height=st.integers(1, 90), width=st.integers(1, 90), base=st.integers(1, 60))
def test_evaluated_sizes_round_halves_up_as_the_published_code(height: int, width: int, base: int) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    for evaluation, side in (("long", max(height, width)), ("short", min(height, width))):
        preparer = EvaluationSize((7, base), evaluation=evaluation, base_scale=base / max(7, base))
        found = preparer(image)["image"].shape[:2]
        assert found == tuple(max(1, math.floor(Fraction(base * n, side) + Fraction(1, 2))) for n in (height, width))


def test_overfitting_shows_the_same_unaugmented_samples(tmp_path: Path) -> None:
    module = data(folder(tmp_path), overfit=1, photometric=[{"name": "ColorJitter", "p": 1.0}])
    first, again, evaluated = module.split("train")[0, 1], module.split("train")[0, 2], module.split("val")[0]
    for other in (again, evaluated):
        np.testing.assert_array_equal(first["image"], other["image"])
        np.testing.assert_array_equal(first["mask"], other["mask"])


def test_cityscapes_ids_become_the_published_train_ids() -> None:
    published = {
        7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14,
        28: 15, 31: 16, 32: 17, 33: 18,
    }  # fmt: skip
    assert IDS_TO_CLASSES[:34].tolist() == [published.get(value, 255) for value in range(34)]
    assert IDS_TO_CLASSES[255] == 255
    assert (IDS_TO_CLASSES[34:255] == -1).all()
    assert TRAIN_IDS_TO_CLASSES[:19].tolist() == list(range(19))
    assert Cityscapes.class_names[13] == "car"
    assert Cityscapes.palette[18] == (119, 11, 32)


def test_cityscapes_takes_ids_and_ready_train_ids(tmp_path: Path) -> None:
    ids = np.array([[7, 8, 26], [0, 33, 4]], np.uint8)
    ready = np.array([[0, 1, 13], [255, 18, 255]], np.uint8)
    for split, pixels, ending in (("train", ids, "labelIds"), ("val", ready, "labelTrainIds")):
        write(tmp_path / f"leftImg8bit/{split}/town/town_0_1_leftImg8bit.png", np.zeros((2, 3, 3), np.uint8))
        write(tmp_path / f"gtFine/{split}/town/town_0_1_gtFine_{ending}.png", pixels)
    module = Cityscapes(tmp_path, image_size=(2, 3), num_workers=0)
    for split in ("train", "val"):
        images, masks, read = module.pairs(split)
        assert len(images) == len(masks) == 1
        np.testing.assert_array_equal(read(masks[0]), ready)
    both = Cityscapes(tmp_path, train_folders=["train", "val"])
    with pytest.raises(DataError, match=r"1 of 2 Cityscapes images have no mask.*town_0_1_gtFine"):
        both.pairs("train")
    (tmp_path / "gtFine/val/town/town_0_1_gtFine_labelTrainIds.png").unlink()
    with pytest.raises(DataError, match=r"no mask, the first is .*gtFine_label"):
        module.pairs("val")


@pytest.mark.parametrize("num_classes", [59, 60])
def test_pascal_context_tables_follow_the_protocols(num_classes: int) -> None:
    table, original = id_table(num_classes, 60), id_table(num_classes, 459)
    background = 255 if num_classes == 59 else 0
    assert table[0] == background
    assert table[1:60].tolist() == list(range(60 - 59 - (num_classes == 59), 60 - (num_classes == 59)))
    for value in range(460):
        assert original[value] == (table[IDS.index(value)] if value in IDS else background)
    module = PascalContext("nowhere", num_classes=num_classes)
    assert module.num_classes == num_classes
    assert module.class_names[table[37]] == "person"
    assert module.class_names[-1] == "wood"


def test_pascal_context_reads_original_ids(tmp_path: Path) -> None:
    ids = np.array([[0, 2, 255], [458, 284, 431]], np.uint16)
    for name in ("a", "b"):
        write(tmp_path / f"VOCdevkit/VOC2010/JPEGImages/{name}.jpg", np.zeros((2, 3, 3), np.uint8))
    root = tmp_path / "VOCdevkit/VOC2010"
    (root / "trainval").mkdir()
    savemat(root / "trainval/a.mat", {"LabelMap": ids})
    write(root / "trainval/b.png", ids)
    (root / "ImageSets/SegmentationContext").mkdir(parents=True)
    (root / "ImageSets/SegmentationContext/val.txt").write_text("a\nb\n")
    module = PascalContext(tmp_path, masks="trainval", ids=459, evaluation="original")
    expected = [[255, 0, 255], [58, 36, 255]]
    for index in range(2):
        assert module.split("val")[index]["mask"].tolist() == expected
    with pytest.raises(DataError, match=r"train\.txt cannot be read"):
        module.split("train")


def test_ade20k_ignores_zero_and_shifts_the_rest(tmp_path: Path) -> None:
    write(tmp_path / "images/validation/ADE_val_1.jpg", np.zeros((2, 3, 3), np.uint8))
    write(tmp_path / "annotations/validation/ADE_val_1.png", np.array([[0, 1, 150], [13, 2, 0]], np.uint8))
    module = ADE20K(tmp_path, image_size=(64, 64))
    assert module.split("val")[0]["mask"].tolist() == [[255, 0, 149], [12, 1, 255]]
    assert (module.num_classes, module.class_names[12], module.class_names[149]) == (150, "person", "flag")
    write(tmp_path / "annotations/validation/ADE_val_1.png", np.full((2, 3), 151, np.uint8))
    with pytest.raises(DataError, match=r"ADE_val_1.png has 6 pixels of the ids \[151\]"):
        module.split("val")[0]


def test_folder_maps_ids_and_reads_split_files(tmp_path: Path) -> None:
    write(tmp_path / "images/x/one.jpg", np.zeros((2, 3, 3), np.uint8))
    write(tmp_path / "images/two.tif", np.zeros((2, 3, 3), np.uint8))
    for name in ("x/one", "two"):
        write(tmp_path / f"masks/{name}_L.png", np.array([[5, 9, 5], [7, 254, 9]], np.uint8))
    (tmp_path / "train.txt").write_text("x/one.jpg first\n")
    (tmp_path / "val.txt").write_text("two\n\n")
    module = data(
        tmp_path,
        splits={"train": "train.txt", "val": "val.txt"},
        mask_suffix="_L",
        id_map={5: 0, 9: 2, 7: 255},
        ignore_label=254,
    )
    assert [path.name for path in module.pairs("train")[0]] == ["one.jpg"]
    assert module.split("val")[0]["mask"].tolist() == [[0, 2, 0], [255, 255, 2]]


def test_folder_reads_colours(tmp_path: Path) -> None:
    palette = [(10, 20, 30), (255, 0, 0), (0, 0, 255)]
    colours = np.array([[palette[2], palette[0]], [(0, 0, 0), palette[1]]], np.uint8)
    write(tmp_path / "images/val/a.png", np.zeros((2, 2, 3), np.uint8))
    path = write(tmp_path / "masks/val/a.png", colours)
    module = data(tmp_path, palette=palette, colour_masks=True, ignore_colours=[(0, 0, 0)])
    assert module.split("val")[0]["mask"].tolist() == [[2, 0], [255, 1]]
    with pytest.raises(DataError, match=r"a.png has 1 pixels of the colours \(0, 0, 0\), which are no class"):
        data(tmp_path, palette=palette, colour_masks=True).split("val")[0]
    with pytest.raises(DataError, match="stands for two classes"):
        ColourMasks([*palette, palette[0]])
    # A palette PNG holds indices, whatever its colours.
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    image.putpalette([value for colour in palette for value in colour])
    image.save(path)
    assert data(tmp_path).split("val")[0]["mask"].tolist() == [[0, 1], [2, 1]]
    write(path, colours)
    with pytest.raises(DataError, match=r"a.png has 3 colour channels.*colour_masks"):
        data(tmp_path).split("val")[0]


def test_mistakes_in_the_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found no folder .*nowhere[\s\S]*masks/train"):
        data(tmp_path / "nowhere").split("train")
    root = folder(tmp_path / "root")
    with pytest.raises(DataError, match=r"no image folder pictures in .*root"):
        data(root, images={"train": "pictures"}).split("train")
    with pytest.raises(DataError, match=r"no mask folder labels in .*root"):
        data(root, masks={"train": "labels"}).split("train")
    write(root / "masks/train/0.png", np.zeros((30, 60), np.uint8))
    with pytest.raises(DataError, match=r"train/0.png has 30 x 60 pixels .*train/0.jpg has 40 x 60"):
        data(root).split("train")[0]
    write(root / "masks/val/1.png", np.zeros((30, 60), np.uint8))
    with pytest.raises(DataError, match=r"val/1.png has 30 x 60 pixels .*val/1.jpg has 50 x 44"):
        data(root).split("val")  # at the start, before hours of training
    (root / "masks/train/0.png").unlink()
    with pytest.raises(DataError, match=r"masks/train lacks the mask of 1 of 2 names \(0\)"):
        data(root).split("train")
    write(root / "masks/train/0.png", np.full((40, 60), 3, np.uint8))
    with pytest.raises(DataError, match=r"train/0.png has 2400 pixels of the ids \[3\].*the known ids are 0-2, 255"):
        data(root).split("train")[0]
    (root / "masks/train/0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"train/0.png cannot be read"):
        data(root).split("train")[0]
    for file in (root / "images/train").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"images/train has no images"):
        data(root).split("train")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": ["a", "a"]}, "2 to 254 different names"),
        ({"palette": [(0, 0, 0)]}, "1 colours for 3 classes"),
        ({"colour_masks": True}, "needs a palette"),
        ({"id_map": {0: 3}}, "mapped to class 3"),
        ({"label_flip_pairs": [("a", "z")]}, "names \\['z'\\]"),
        ({"images": {"trian": "x"}}, "\\['trian'\\]"),
        ({"scale": (2.0, 0.5)}, "lowest scale first"),
    ],
)
def test_contradictory_arguments_are_refused(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        data(tmp_path, **options)


def test_the_voc_palette_is_the_published_one() -> None:
    expected = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128)]
    assert voc_palette(21)[:7] == expected
    assert voc_palette(21)[15] == (192, 128, 128)
    assert len(set(voc_palette(256))) == 256


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_coco(tmp_path_factory.mktemp("sample") / "coco", num_train=6, num_val=4)


@pytest.mark.parametrize(
    ("module", "render", "classes"),
    [
        (Cityscapes, layouts.sample_cityscapes, {2, 5, 8, 11, 13, 18, 255}),
        (PascalContext, layouts.sample_pascal_context, {17, 28, 36, 40, 55, 58, 255}),
        (ADE20K, layouts.sample_ade20k, {0, 4, 12, 52, 92, 93, 255}),
        (LIP, layouts.sample_lip, {0, 2, 5, 9, 13, *range(14, 20)}),
    ],
)
def test_sample_data_have_the_official_layout_and_every_stand_in(
    tmp_path: Path, coco: Path, module: type[SegmentationData], render, classes: set[int]
) -> None:
    root = render(tmp_path / "data", coco)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert render(tmp_path / "data", coco) == root
    assert before == {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    data = module(root, image_size=(64, 48), batch_size=2, num_workers=0)
    data.setup()
    found: set[int] = set()
    for dataset in (data.split("train"), data.split("val")):
        found |= {int(label) for mask in dataset.masks for label in np.unique(dataset.read_labels(Path(mask)))}
    assert found == classes
    assert next(iter(data.train_dataloader()))["image"].shape[2:] == (64, 48)
    for batch in data.val_dataloader():
        assert batch["image"].shape[0] == batch["mask"].shape[0]
    assert len(data.palette) == data.num_classes


def test_the_people_of_lip_alone_are_labelled(coco: Path, tmp_path: Path) -> None:
    root = layouts.sample_lip(tmp_path / "lip", coco)
    for path in (root / "TrainVal_parsing_annotations/val_segmentations").iterdir():
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        rows, columns = np.nonzero(mask)
        # The picture is the person's box, enlarged by a tenth.
        assert np.ptp(rows) + 1 >= 0.8 * mask.shape[0] - 3
        assert np.ptp(columns) + 1 >= 0.8 * mask.shape[1] - 3


def test_camvid_through_the_folder(shared_data: Path) -> None:
    root = shared_data / "camvid"
    names = (root / "classes.txt").read_text().split()
    module = FolderSegmentation(
        root, class_names=names, ignore_label=11, image_size=(360, 480), batch_size=4, num_workers=0
    )
    train, val = module.split("train"), module.split("val")
    assert (len(train), len(val)) == (367, 101)
    batch = next(iter(module.val_dataloader()))
    assert batch["image"].shape == (4, 3, 360, 480)
    assert set(batch["mask"].unique().tolist()) <= {*range(11), 255}
    # Sky is above road in every street.
    rows = torch.arange(360)[None, :, None].expand_as(batch["mask"])
    sky, road = (rows[batch["mask"] == names.index(name)].float().mean() for name in ("sky", "road"))
    assert sky < road
    assert train[0, 1]["image"].shape == (360, 480, 3)

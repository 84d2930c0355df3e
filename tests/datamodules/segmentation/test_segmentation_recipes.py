"""The published sizes, scales and mirrors of each segmentation data set, read off the samples that it gives."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import ADE20K, LIP, Cityscapes, FolderSegmentation, PascalContext
from datamodules.segmentation.data import SegmentationData

Filled = Callable[..., SegmentationData]


@pytest.fixture
def filled(tmp_path: Path) -> Filled:
    """Makes a data set whose only image has its column as red and 200 as blue; the left half of its mask is 14."""

    def make(kind: type[SegmentationData], height: int, width: int, **options: object) -> SegmentationData:
        rows, columns = np.mgrid[:height, :width]
        image = np.stack([columns * 255 // width, rows * 255 // height, np.full_like(rows, 200)], axis=-1)
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / "image.png")
        Image.fromarray(np.where(columns < width / 2, 14, 15).astype(np.uint8)).save(tmp_path / "mask.png")
        data = kind(".", num_workers=0, **options)
        read = lambda path: np.asarray(Image.open(path))  # noqa: E731
        data.pairs = lambda split: ([tmp_path / "image.png"], [tmp_path / "mask.png"], read)
        return data

    return make


def enlargements(data: SegmentationData, width: int, count: int = 150) -> set[int]:
    """Tenths by which the longer side of the crops exceeds the base size of the published recipe."""
    dataset, found = data.dataset("train"), set()
    base = data.base_scale * max(data.image_size)
    for epoch in range(count):
        crop = dataset[0, epoch]["image"].astype(int)
        inside = np.flatnonzero(crop[0, :, 2] > 100)
        span = abs(crop[0, inside[-1], 0] - crop[0, inside[0], 0]) * width / 255
        found.add(round(10 * (len(inside) - 1) / span * width / base))
    return found


@pytest.mark.parametrize(
    ("kind", "options", "tenths"),
    [
        (Cityscapes, {}, range(5, 22)),
        (PascalContext, {}, range(5, 22)),
        (ADE20K, {}, range(5, 17)),
        (ADE20K, {"scale": (0.5, 2.1)}, range(5, 22)),
        (LIP, {}, range(5, 17)),
        (FolderSegmentation, {"class_names": ["a", "b"], "scale": (0.8, 1.3), "base_scale": 1.5}, range(8, 14)),
    ],
)
def test_training_images_have_the_published_scales(filled: Filled, kind, options: dict, tenths: range) -> None:
    size = (96, 96) if kind is LIP else (60, 100)
    data = filled(kind, 120, 200, image_size=size, **options)
    assert enlargements(data, 200) == set(tenths)


@pytest.mark.parametrize(
    ("kind", "base", "sizes"),
    [
        (Cityscapes, 2048, [(300, 400), (400, 300)]),
        (PascalContext, 520, [(390, 520), (520, 390)]),
        (ADE20K, 520, [(520, 693), (693, 520)]),
        (LIP, 473, [(473, 473), (473, 473)]),
    ],
)
def test_evaluated_images_have_the_sizes_of_the_notes(filled: Filled, kind, base: int, sizes: list) -> None:
    for (height, width), expected in zip([(300, 400), (400, 300)], sizes, strict=True):
        data = filled(kind, height, width)
        assert round(data.base_scale * max(data.image_size)) == base
        sample = data.dataset("val")[0]
        assert sample["image"].shape[:2] == expected
        assert sample["mask"].shape == (height, width)


def test_people_are_stretched_in_training_and_change_sides_in_a_mirror(filled: Filled) -> None:
    dataset = filled(LIP, 60, 100, image_size=(64, 40), scale=(1.0, 1.0)).dataset("train")
    turned = set()
    for epoch in range(30):
        sample = dataset[0, epoch]
        red = sample["image"][32, :, 0].astype(int)
        assert (sample["image"][..., 2] > 150).all(), "the whole crop is image: stretched, and not padded"
        mirrored = bool(red[0] > red[-1])
        # What is on the left of the picture is always the left arm, 14.
        assert sample["mask"][32, 0] == 14
        assert sample["mask"][32, -1] == 15
        turned.add(mirrored)
    assert turned == {False, True}
    for kind in (Cityscapes, ADE20K, PascalContext):
        assert kind.label_flip_pairs == []
    for pair in ("arm", "leg", "shoe"):
        numbers = tuple(LIP.class_names.index(f"{side}-{pair}") for side in ("left", "right"))
        assert numbers in LIP.label_flip_pairs


def test_cityscapes_colours_are_the_benchmarks() -> None:
    published = {
        "road": (128, 64, 128), "sidewalk": (244, 35, 232), "building": (70, 70, 70), "wall": (102, 102, 156),
        "fence": (190, 153, 153), "pole": (153, 153, 153), "traffic light": (250, 170, 30),
        "traffic sign": (220, 220, 0), "vegetation": (107, 142, 35), "terrain": (152, 251, 152), "sky": (70, 130, 180),
        "person": (220, 20, 60), "rider": (255, 0, 0), "car": (0, 0, 142), "truck": (0, 0, 70), "bus": (0, 60, 100),
        "train": (0, 80, 100), "motorcycle": (0, 0, 230), "bicycle": (119, 11, 32),
    }  # fmt: skip
    assert dict(zip(Cityscapes.class_names, Cityscapes.palette, strict=True)) == published
    assert list(published) == Cityscapes.class_names

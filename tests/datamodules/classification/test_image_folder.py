"""Classification data: the published views, reproducible draws, classes from folders, and errors that name them."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from torchvision.transforms import v2
from torchvision.transforms.functional import _compute_resized_output_size

from datamodules import DataError, ImageFolder, ImageNet
from datamodules.check import check
from datamodules.check.report import show_findings, show_statistics
from datamodules.classification.samples import CentreCrop, TrainingView, resized_shape
from datamodules.sample import layouts, sample_coco


def folder(root: Path, classes: tuple[str, ...] = ("cat", "dog", "emu"), count: int = 3) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in classes:
            for index in range(count):
                path = root / split / name / f"{index}{('.jpg', '.PNG', '.JPEG')[index % 3]}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    return root


def test_evaluation_meets_every_class_first(tmp_path: Path) -> None:
    data = ImageFolder(folder(tmp_path), image_size=(32, 32), batch_size=3, num_workers=0)
    evaluated, trained = data.dataset("val"), data.dataset("train")
    assert evaluated.labels.tolist() == [0, 1, 2] * 3
    assert [evaluated.name(i) for i in (0, 1, 5)] == ["cat/0.jpg", "dog/0.jpg", "emu/1.PNG"]
    assert trained.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(("crop", "ratio", "resized"), [(224, 0.875, 256), (224, 0.95, 235), (320, 1.0, 320)])
def test_the_evaluated_view_is_the_published_one(crop: int, ratio: float, resized: int) -> None:
    rng = np.random.default_rng(0)
    published = v2.Compose([v2.Resize(resized), v2.CenterCrop(crop)])
    sizes = [(375, 500), (500, 333), (224, 224), (100, 90), (256, 256), (255, 257), (2000, 60), (81, 640)]
    for size in [*sizes, *rng.integers(60, 700, (25, 2)).tolist()]:
        image = rng.integers(0, 256, (*size, 3), np.uint8)
        expected = np.asarray(published(Image.fromarray(image)))
        np.testing.assert_array_equal(
            CentreCrop((crop, crop), crop_ratio=ratio)(image)["image"], expected, err_msg=str(size)
        )


def test_sizes_before_the_crop_are_torchvisions() -> None:
    rng = np.random.default_rng(1)
    for height, width in rng.integers(1, 5000, (3000, 2)).tolist():
        expected = _compute_resized_output_size((height, width), [256])
        assert list(resized_shape((height, width), (224, 224), 0.875)) == expected, (height, width)


@given(
    shape=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    size=st.tuples(st.integers(1, 600), st.integers(1, 600)),
    ratio=st.floats(0.3, 1.0),
)
def test_a_crop_of_any_shape_fits_and_covers_its_share(
    shape: tuple[int, int], size: tuple[int, int], ratio: float
) -> None:
    resized = resized_shape(shape, size, ratio)
    assert all(side >= wanted for side, wanted in zip(resized, size, strict=True))
    assert int(size[0] / ratio) == resized[0] or int(size[1] / ratio) == resized[1]
    # The aspect is kept, but for the truncation of one side.
    assert abs(resized[0] * shape[1] - resized[1] * shape[0]) < max(shape)


def test_the_view_of_a_tall_crop_covers_it() -> None:
    rows, columns = np.mgrid[:200, :100].astype(np.uint8)
    view = CentreCrop((128, 96))(np.stack([rows, columns, rows], axis=-1))["image"]
    assert view.shape == (128, 96, 3)
    # The width, the tighter side, is scaled to 96 / 0.875 = 110 pixels, so that 7/8 of it are seen.
    assert abs(int(view[64, 0, 1]) - 6) <= 1
    assert abs(int(view[64, -1, 1]) - 93) <= 1
    assert abs((int(view[0, 0, 0]) + int(view[-1, 0, 0])) / 2 - 99.5) <= 1


def test_training_crops_have_the_published_area_and_aspect() -> None:
    size, rng = 400, np.random.default_rng(0)
    rows, columns = (255 * np.mgrid[:size, :size] / (size - 1)).astype(np.uint8)
    image = np.stack([rows, columns, rows], axis=-1)
    view = TrainingView((64, 64), None, 0.0)
    crops = [view(image, rng).astype(int) for _ in range(400)]
    heights = np.array([(crop[-1, 32, 0] - crop[0, 32, 0]) / 255 for crop in crops])
    widths = np.array([abs(crop[32, -1, 1] - crop[32, 0, 1]) / 255 for crop in crops])
    areas = heights * widths
    assert 0.06 < areas.min() < 0.14
    assert areas.max() > 0.9
    assert 0.45 < areas.mean() < 0.6  # uniform from 0.08 to 1, a little less for the crops that did not fit
    assert (widths / heights).min() > 0.68
    assert (widths / heights).max() < 1.47
    mirrored = np.mean([crop[32, -1, 1] < crop[32, 0, 1] for crop in crops])
    assert 0.42 < mirrored < 0.58


def test_draws_follow_from_the_key_not_from_workers_or_globals(tmp_path: Path) -> None:
    folder(tmp_path)

    def images(workers: int, epoch: int) -> list[torch.Tensor]:
        random.seed(workers)
        np.random.seed(workers)
        options = {"rand_augment": "rand-m9-mstd0.5", "random_erasing": 0.5, "num_workers": workers}
        loader = ImageFolder(tmp_path, image_size=(32, 32), batch_size=3, **options).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return [batch["image"] for batch in loader]

    first = images(0, 1)
    assert all(torch.equal(a, b) for a, b in zip(first, images(2, 1), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, images(0, 2), strict=True))


def test_augmentation_leaves_the_global_generators_as_they_were() -> None:
    view = TrainingView((32, 32), "rand-m9-mstd0.5", 0.5)
    random.seed(5)
    np.random.seed(5)
    view(np.zeros((40, 40, 3), np.uint8), np.random.default_rng(0))
    drawn = random.random(), np.random.random()
    random.seed(5)
    np.random.seed(5)
    assert drawn == (random.random(), np.random.random())


def test_rand_augment_and_erasing_change_the_pictures_as_often_as_asked() -> None:
    image = np.full((40, 40, 3), 90, np.uint8)
    plain, strong = TrainingView((32, 32), None, 0.0), TrainingView((32, 32), "rand-m9-mstd0.5", 0.0)
    erased = TrainingView((32, 32), None, 0.25)

    def changed(view: TrainingView) -> float:
        return np.mean([(view(image, np.random.default_rng(seed)) != 90).any() for seed in range(200)])

    assert changed(plain) == 0
    assert changed(strong) > 0.3
    assert 0.15 < changed(erased) < 0.35


@pytest.mark.parametrize("option", [{"rand_augment": "rand-m9-n2"}, {"random_erasing": 1.0}])
def test_options_of_the_data_set_reach_its_training_views(tmp_path: Path, option: dict) -> None:
    folder(tmp_path)
    plain = ImageFolder(tmp_path, image_size=(32, 32), num_workers=0)
    changed = ImageFolder(tmp_path, image_size=(32, 32), num_workers=0, **option)
    keys = [(index, epoch) for index in range(9) for epoch in range(5)]
    differs = [(plain.split("train")[key]["image"] != changed.split("train")[key]["image"]).any() for key in keys]
    assert np.mean(differs) > 0.6
    for index in range(9):
        np.testing.assert_array_equal(plain.split("val")[index]["image"], changed.split("val")[index]["image"])


def test_labels_belong_to_their_images_in_training_too(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for label, name in enumerate(("cat", "dog", "emu")):
            for index in range(2):
                path = tmp_path / split / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (50, 40), (90 * label, 90 * label, 90 * label)).save(path)
    data = ImageFolder(tmp_path, image_size=(16, 16), num_workers=0)
    for split in ("train", "val"):
        dataset = data.split(split)
        for key in range(6):
            sample = dataset[key, 3] if split == "train" else dataset[key]
            assert (sample["image"] == 90 * sample["label"]).all()
            assert sample["image_id"] == key


def test_erased_rectangles_are_coloured_noise_of_a_third_at_most() -> None:
    image, view = np.full((40, 40, 3), 90, np.uint8), TrainingView((64, 64), None, 1.0)
    shares, rng = [], np.random.default_rng(0)
    for _ in range(100):
        crop = view(image, rng)
        noise = crop[(crop != 90).any(axis=-1)]
        shares.append(len(noise) / 64**2)
        if len(noise) > 50:
            assert noise.std(axis=0).min() > 50
            assert (np.ptp(noise.astype(int), axis=-1) > 20).mean() > 0.5, "colours, not greys"
    assert min(share for share in shares if share) > 0.015
    assert 0.25 < max(shares) < 0.35


def test_what_rand_augment_turns_in_from_outside_is_the_mean_colour() -> None:
    image, view, outside = np.full((40, 40, 3), (10, 200, 30), np.uint8), TrainingView((32, 32), "rand-m9-n1", 0), 0
    for seed in range(60):
        corner = view(image, np.random.default_rng(seed))[[0, 0, -1, -1], [0, -1, 0, -1]]
        outside += (corner == (124, 116, 104)).all(axis=-1).any()
    assert outside > 5


def test_training_crops_shrink_without_aliasing() -> None:
    """Fine stripes become grey, as in torchvision, and no coarse stripes."""
    stripes = np.zeros((500, 500, 3), np.uint8)
    stripes[::2] = 255
    view, rng = TrainingView((24, 24), None, 0.0), np.random.default_rng(0)
    assert np.mean([view(stripes, rng).std() for _ in range(40)]) < 25


def test_batches_name_the_folders_in_order(tmp_path: Path) -> None:
    data = ImageFolder(folder(tmp_path), image_size=(32, 24), batch_size=4, num_workers=0)
    assert data.class_names == ["cat", "dog", "emu"]
    assert data.num_classes == 3
    batches = list(data.val_dataloader())
    assert torch.cat([batch["label"] for batch in batches]).tolist() == [0, 1, 2] * 3
    assert batches[0]["image"].shape == (4, 3, 32, 24)
    assert batches[0]["image"].is_contiguous(memory_format=torch.channels_last)
    assert batches[0]["label"].dtype == batches[0]["image_id"].dtype == torch.int64
    assert {len(batch["image"]) for batch in data.train_dataloader()} == {4}


def test_overfitting_shows_the_same_unaugmented_samples(tmp_path: Path) -> None:
    data = ImageFolder(folder(tmp_path), image_size=(32, 24), overfit=2, rand_augment="rand-m9-mstd0.5")
    first, again, evaluated = data.split("train")[0, 1], data.split("train")[0, 2], data.split("val")[0]
    np.testing.assert_array_equal(first["image"], again["image"])
    np.testing.assert_array_equal(first["image"], evaluated["image"])


def test_mistakes_in_the_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found no folder .*nowhere[\s\S]*train/<class>"):
        ImageFolder(tmp_path / "nowhere").split("train")
    root = folder(tmp_path / "root")
    (root / "val/fox").mkdir()
    with pytest.raises(DataError, match=r"val has the class folders \['fox'\], which `train` lacks"):
        ImageFolder(root).split("val")
    (root / "train/fox").mkdir()
    with pytest.raises(DataError, match=r"train has no images of the classes \['fox'\]"):
        ImageFolder(root).split("train")
    for name in "ab":
        (tmp_path / "other/train" / name).mkdir(parents=True)
    with pytest.raises(DataError, match=r"found no image folder val or images/val in"):
        ImageFolder(tmp_path / "other").split("val")
    (tmp_path / "other/val").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "other/val/flat.jpg")
    with pytest.raises(DataError, match=r"val has no images in class folders such as a"):
        ImageFolder(tmp_path / "other").split("val")
    (root / "train/cat/0.jpg").write_bytes(b"no picture")
    (root / "train/fox").rmdir()
    with pytest.raises(DataError, match=r"train/cat/0.jpg"):
        ImageFolder(root).split("train")[0]
    with pytest.raises(DataError, match=r"rand_augment 'augmix"):
        TrainingView((32, 32), "augmix-m3", 0.0)


def test_imagenet_takes_both_layouts_and_refuses_other_counts(tmp_path: Path) -> None:
    synsets = ("n01440764", "n01443537", "n02110341")
    folder(tmp_path / "images", synsets)
    data = ImageNet(tmp_path, num_classes=3, image_size=(32, 32), num_workers=0)
    assert data.class_names == [
        "tench, Tinca tinca",
        "goldfish, Carassius auratus",
        "dalmatian, coach dog, carriage dog",
    ]
    assert len(data.split("train")) == 9
    with pytest.raises(DataError, match="has 3 synset folders, expected 1000"):
        ImageNet(tmp_path).split("train")


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_coco(tmp_path_factory.mktemp("sample") / "coco", num_train=50, num_val=8)


def test_sample_imagenet_has_a_thousand_classes_of_which_few_occur(
    tmp_path: Path, coco: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = layouts.sample_imagenet(tmp_path / "imagenet", coco)
    monkeypatch.setattr(ImageNet, "embedded", staticmethod(lambda: root))
    data = ImageNet("sample", image_size=(32, 32), num_workers=0)
    assert data.num_classes == len(data.class_names) == 1000
    assert data.class_names[:7] == ["back of head", "background", "face", "legs", "shoe", "torso", "unused 6"]
    assert {int(label) for split in ("train", "val") for label in data.split(split).labels} == set(range(6))


def test_sample_folders_are_reproducible(tmp_path: Path, coco: Path) -> None:
    first, second = (layouts.sample_image_folder(tmp_path / name, coco) for name in "ab")
    files = [sorted(path.relative_to(root) for path in root.rglob("*.jpg")) for root in (first, second)]
    assert files[0] == files[1]
    assert len(files[0]) > 60
    assert all((first / file).read_bytes() == (second / file).read_bytes() for file in files[0])


def test_real_pictures(shared_data: Path) -> None:
    data = ImageFolder(shared_data / "cifar_small", image_size=(32, 32), batch_size=50, num_workers=0)
    assert data.num_classes == 10
    assert (len(data.split("train")), len(data.split("val"))) == (1500, 500)
    assert next(iter(data.val_dataloader()))["image"].float().std() > 20


def test_an_empty_train_folder_is_not_remembered(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
    data = ImageFolder(tmp_path, image_size=(32, 32), num_workers=0)
    for _ in range(2):
        with pytest.raises(DataError, match="has 0 class folders, expected two or more"):
            _ = data.num_classes
    folder(tmp_path)
    assert data.class_names == ["cat", "dog", "emu"]


def test_class_folders_may_have_any_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("[red]", "a$\\frac$", "\x1b[31mred", "h\udcf8")
    data = ImageFolder(folder(tmp_path, names, 1), image_size=(32, 32), num_workers=0)
    assert data.class_names == sorted(names)
    assert len(data.dataset("val")) == 4
    (tmp_path / "val" / "[red]" / "\x1b[2J.png").write_bytes(b"none")
    report = check(data)
    show_findings(report, Console(width=200))
    show_statistics(report, Console(width=200))
    said = capsys.readouterr().out
    assert not {"\x1b", "\udcf8"} & set(said)
    for shown in ("[red]", "a$\\frac$", "\\x1b[31mred", "h\\udcf8", "\\x1b[2J.png"):
        assert shown in said

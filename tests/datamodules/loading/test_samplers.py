"""Random draws: independent of one another within a sample, and between samples, epochs, seeds, uses and parts.

The marginal distributions are tested beside each augmentation; here it is the joint ones, by chi-square on fixed seeds.
"""

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import albumentations
import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.stats import chi2_contingency, kstest, spearmanr

from datamodules import DataError, FolderSegmentation, ImageFolder, MultiTaskDataModule, PersonAugmentation, Skeleton
from datamodules.base import BaseDataset
from datamodules.classification.samples import TrainingView
from datamodules.images.photometric import Photometric
from datamodules.keypoints.crop import PersonCrop
from datamodules.keypoints.persons import Persons
from datamodules.loading.samplers import TrainingSampler, stream
from datamodules.segmentation.crop import RandomCrop

COUNT = 1500


def assert_independent(**columns: np.ndarray) -> None:
    """No pair of columns, and not all together, depends on one another; numbers are split at their median."""
    split = {k: np.asarray(v) if np.asarray(v).dtype == bool else v > np.median(v) for k, v in columns.items()}
    for names in [*itertools.combinations(split, 2), tuple(split)]:
        table = np.zeros((2,) * len(names))
        np.add.at(table, tuple(split[name].astype(int) for name in names), 1)
        assert table.sum(axis=0).min() > 0, f"one of {names} never varies"
        assert chi2_contingency(table).pvalue > 1e-3, f"{names}: {table.tolist()}"


def ramps(height: int, width: int) -> np.ndarray:
    """(H, W, 3) an image whose red is the row, green the column, blue 200."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([rows, columns, np.full_like(rows, 200)], axis=-1)


def where(crop: np.ndarray) -> dict[str, np.ndarray]:
    """Mirror, extent and place of a crop of `ramps`."""
    left, right, top, bottom = (int(v) for v in (crop[0, 0, 1], crop[0, -1, 1], crop[0, 0, 0], crop[-1, 0, 0]))
    return {"mirror": left > right, "left": min(left, right), "width": abs(right - left), "top": top, "end": bottom}


def gathered(draw: Callable[[int], dict[str, float]], count: int = COUNT) -> dict[str, np.ndarray]:
    rows = [draw(i) for i in range(count)]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


# Streams


def test_no_two_streams_share_their_numbers() -> None:
    keys = [
        (),
        *((a,) for a in range(4)),
        *itertools.product(range(4), repeat=2),
        *itertools.product(range(4), repeat=3),
    ]
    first = {(use, key): stream(use, *key).random() for use in ("sample", "order", "turns") for key in keys}
    assert len(set(first.values())) == len(first)


def test_neighbours_are_independent(monkeypatch: pytest.MonkeyPatch) -> None:
    def draws(*key: int) -> np.ndarray:
        return stream("sample", *key).random(3)

    base = np.stack([draws(3, i) for i in range(COUNT)])
    others = {
        "index": np.stack([draws(3, i + 1) for i in range(COUNT)]),
        "epoch": np.stack([draws(4, i) for i in range(COUNT)]),
        "part": np.stack([draws(3, 1, i) for i in range(COUNT)]),
        "order": np.stack([stream("order", 3, i).random(3) for i in range(COUNT)]),
    }
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    others["seed"] = np.stack([draws(3, i) for i in range(COUNT)])
    for name, other in others.items():
        correlations = np.corrcoef(base.T, other.T)[:3, 3:]
        assert np.abs(correlations).max() < 0.1, name
    assert_independent(a=base[:, 0], b=base[:, 1], c=others["index"][:, 0], d=others["epoch"][:, 0])


class Drawing(BaseDataset):
    """Keeps a permutation that each sample draws, as long as the data set."""

    def __len__(self) -> int:
        return 20

    def sample(self, index: int, rng: np.random.Generator) -> dict:
        return {"image": np.zeros((4, 4, 3), np.uint8), "image_id": index, "order": tuple(rng.permutation(20).tolist())}


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_the_order_of_samples_is_not_what_a_sample_draws(epoch: int) -> None:
    samplers = TrainingSampler(Drawing()), TrainingSampler(Drawing(), samples=20), TrainingSampler(Drawing(), part=0)
    for sampler in samplers:
        sampler.set_epoch(epoch)
        keys = list(sampler)
        assert sorted(index for index, *_ in keys) == list(range(20))
        assert tuple(index for index, *_ in keys) not in {Drawing()[key]["order"] for key in keys}


class Parts(FolderSegmentation):
    """A part of a joint run with twenty samples that are never read."""

    def dataset(self, split: str) -> Drawing:
        return Drawing()


def test_a_sampler_of_its_own_begins_with_the_first_epoch() -> None:
    again, other = TrainingSampler(Drawing()), TrainingSampler(Drawing())
    first = list(TrainingSampler(Drawing()))
    again.set_epoch(0)
    other.set_epoch(1)
    assert first == list(again) != list(other)
    assert {turn for _, turn in first} == {0}


@pytest.mark.parametrize("policy", ["all", "round_robin", "proportional"])
def test_parts_of_a_joint_run_draw_independently(policy: str) -> None:
    options = {"class_names": ["a", "b"], "image_size": (4, 4), "batch_size": 1, "num_workers": 0}
    data = MultiTaskDataModule({name: Parts(".", **options) for name in "ab"}, policy=policy, num_workers=0)
    drawn: dict[str, dict[int, tuple]] = {"a": {}, "b": {}}
    for batch, _, _ in data.train_dataloader():
        for name, part in batch.items():
            if part is not None:
                drawn[name][int(part["image_id"])] = tuple(int(place) for place in part["order"])
    assert len(drawn["a"]) == len(drawn["b"]) == 20
    assert list(drawn["a"]) != list(drawn["b"]), "both parts come in one order"
    assert not set(drawn["a"].values()) & set(drawn["b"].values()), "samples of both parts are augmented alike"


# Within a sample


def test_segmentation_crops_are_independent() -> None:
    image, crop = ramps(90, 120), RandomCrop((40, 50), 120, (1.0, 1.9))

    def draw(i: int) -> dict[str, float]:
        found = where(crop(image, image[..., 1].copy(), stream("sample", 0, i))[0])
        scale = 49 / max(found["width"], 1)
        # Places as shares of what the scale leaves free.
        across, down = found["left"] * scale / (120 * scale - 50), found["top"] * scale / (90 * scale - 40)
        return {"mirror": found["mirror"], "scale": scale, "across": across, "down": down}

    assert_independent(**gathered(draw))


def test_classification_views_are_independent() -> None:
    image = ramps(160, 160)
    plain, strong = TrainingView((32, 32), None, 0.0), TrainingView((32, 32), "rand-m9-n1-p0.5", 0.0)
    erased = TrainingView((32, 32), None, 0.5)

    def draw(i: int) -> dict[str, float]:
        crop, augmented, covered = (view(image, stream("sample", 0, i)) for view in (plain, strong, erased))
        found = where(crop)
        height = found["end"] - found["top"]
        across, down = found["left"] / max(160 - found["width"], 1), found["top"] / max(160 - height, 1)
        changed = {"augmented": bool((augmented != crop).any()), "erased": bool((covered != crop).any())}
        return {"mirror": found["mirror"], "width": found["width"], "across": across, "down": down, **changed}

    columns = gathered(draw)
    assert 0.4 < columns["mirror"][columns["width"] > 0.8 * 160].mean() < 0.6  # none of the widest, once
    for name in ("augmented", "erased"):
        assert_independent(**{key: columns[key] for key in ("mirror", "width", name)})
    assert_independent(**{key: columns[key] for key in ("mirror", "across", "down")})
    assert_independent(mirror=columns["mirror"], augmented=columns["augmented"], erased=columns["erased"])


@pytest.mark.parametrize("kind", ["RandomResizedCrop", "RandomCrop"])
def test_places_of_crops_do_not_depend_on_their_size(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Places are whole pixels, of which few are left where a crop nearly fills the image.

    So the share `top / free` depends on the height by itself: where one pixel is free it is 0 or 1. With a draw of its
    own added within the pixel, (top + u) / (free + 1) is evenly distributed for every height.
    """
    draws, generator, drawn = [], np.random.default_rng(0), getattr(albumentations, kind).get_params_dependent_on_data

    def recorded(self: Any, params: dict, data: dict) -> dict:
        found = drawn(self, params, data)
        left, top, right, bottom = found["crop_coords"]
        (height, width), (u, v) = params["shape"][:2], generator.random(2)
        size = {"tall": (bottom - top) / height, "wide": (right - left) / width}
        free = width - right + left + 1, height - bottom + top + 1
        draws.append(size | {"across": (left + u) / free[0], "down": (top + v) / free[1]})
        return found

    monkeypatch.setattr(getattr(albumentations, kind), "get_params_dependent_on_data", recorded)
    image = ramps(60, 60)
    view, crop = TrainingView((20, 20), None, 0.0), RandomCrop((40, 40), 60, (0.7, 1.6))
    for i in range(4000):
        rng = stream("sample", 2, i)
        seen = view(image, rng) if kind == "RandomResizedCrop" else crop(image, image[..., 1].copy(), rng)[0]
        draws[-1]["mirror"] = bool(seen[0, 0, 1] > seen[0, -1, 1])
    columns = gathered(lambda i: draws[i], len(draws))
    for place in ("across", "down"):
        assert kstest(columns[place], "uniform").pvalue > 1e-3
        for size in ("tall", "wide"):
            assert spearmanr(columns[place], columns[size]).pvalue > 1e-3
    for size in ("tall", "wide"):
        assert_independent(**{key: columns[key] for key in (size, "across", "down", "mirror")})


def test_photometric_transforms_are_independent() -> None:
    names = ("InvertImg", "ToGray", "CoarseDropout")
    photometric = Photometric([{"name": name, "p": 0.5} for name in names])
    image = np.full((24, 24, 3), (200, 90, 30), np.uint8)

    def draw(i: int) -> dict[str, float]:
        changed = photometric(image, stream("sample", 0, i))
        uncovered = changed[(changed != 0).any(axis=-1)]
        grey, dark = (uncovered[0] == uncovered[0, 0]).all(), uncovered[0].astype(int).sum() > 400
        return {"inverted": bool(dark), "grey": bool(grey), "covered": len(uncovered) < 24 * 24}

    assert_independent(**gathered(draw))


def test_amounts_of_photometric_transforms_are_independent() -> None:
    limits = {"brightness_limit": 0.4, "contrast_limit": 0.0, "p": 1.0}
    hole = {"num_holes_range": (1, 1), "hole_height_range": (3, 9), "hole_width_range": (3, 9), "fill": 0, "p": 1.0}
    photometric = Photometric([{"name": "RandomBrightnessContrast", **limits}, {"name": "CoarseDropout", **hole}])
    image = np.full((40, 40, 3), 128, np.uint8)

    def draw(i: int) -> dict[str, float]:
        changed = photometric(image, stream("sample", 0, i))[..., 0]
        rows, columns = np.nonzero(changed == 0)
        return {"brightness": int(changed.max()), "top": rows.min(), "left": columns.min(), "height": np.ptp(rows)}

    assert_independent(**gathered(draw))


def test_geometry_and_colours_of_a_segmentation_sample_are_independent(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for kind, pixels in (("images", ramps(60, 80)), ("masks", np.zeros((60, 80), np.uint8))):
            (tmp_path / kind / split).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / kind / split / "0.png")
    colours = [{"name": name, "p": 0.5} for name in ("InvertImg", "ChannelShuffle")]
    data = FolderSegmentation(
        tmp_path, class_names=["a", "b"], image_size=(30, 40), scale=(1.0, 1.0), base_scale=2, photometric=colours
    )
    dataset = data.split("train")

    def draw(epoch: int) -> dict[str, float]:
        crop = dataset[0, epoch]["image"]
        # Blue, constant before it is moved or inverted, is the channel without variation.
        blue = int(crop.std(axis=(0, 1)).argmin())
        inverted, moved = crop[0, 0, blue] < 100, blue != 2
        order = [c for c in range(3) if c != blue]
        across = next(c for c in order if np.ptp(crop[0, :, c]) > 0)
        row = crop[0, :, across].astype(int) * (-1 if inverted else 1)
        left = (row.min() + 255 * inverted) % 256
        return {"mirror": bool(row[0] > row[-1]), "inverted": bool(inverted), "moved": bool(moved), "left": left}

    assert_independent(**gathered(draw, 1000))


def test_draws_of_a_persons_crop_are_independent(tmp_path: Path) -> None:
    Image.fromarray(np.full((120, 120, 3), 250, np.uint8)).save(tmp_path / "a.png")
    keypoints = np.stack([np.linspace(30, 90, 17), np.linspace(20, 100, 17)], axis=1)
    persons = Persons(
        tmp_path,
        image_ids=np.array([1]),
        file_names=np.array(["a.png"]),
        image_sizes=np.array([[120, 120]]),
        images=np.array([0]),
        instance_ids=np.array([1]),
        centers=np.array([[60.0, 60.0]]),
        sizes=np.array([[75.0, 100.0]]),
        keypoints=keypoints[None],
        visible=np.full((1, 17), 2),
        scores=np.ones(1),
        skeleton=Skeleton.load("coco"),
        preparer=PersonCrop((64, 48)),
        augmentation=PersonAugmentation(rotation_probability=1.0, half_body_probability=0.5),
        photometric=Photometric([{"name": "InvertImg", "p": 0.5}]),
    )

    def draw(epoch: int) -> dict[str, float]:
        sample = persons[0, epoch]
        linear = sample["to_image"][:, :2].astype(float)
        mirror = np.linalg.det(linear) < 0
        centre = linear @ (24, 32) + sample["to_image"][:, 2]
        angle = np.arctan2(linear[0, 1], linear[1, 1])
        half = bool(np.abs(centre - 60).max() > 5)
        inside = sample["image"][32, 24, 0]
        return {"mirror": bool(mirror), "angle": angle, "half": half, "inverted": bool(inside < 100), "scale": linear}

    columns = gathered(draw)
    # The half body has another size by itself, so the scale is compared among whole persons.
    whole = ~columns["half"]
    scale = np.sqrt(np.abs(np.linalg.det(columns.pop("scale"))))[whole]
    assert_independent(**columns)
    assert_independent(scale=scale, **{name: columns[name][whole] for name in ("mirror", "angle", "inverted")})


# From the key alone


def accepted_transforms() -> list[str]:
    names = []
    for name, kind in vars(albumentations).items():
        if isinstance(kind, type) and issubclass(kind, albumentations.BasicTransform):
            try:
                Photometric([{"name": name, "p": 1.0}])
            except DataError:  # geometric, or in need of arguments
                continue
            names.append(name)
    return names


def test_every_photometric_transform_follows_from_the_key_alone() -> None:
    entries = [{"name": name, "p": 1.0} for name in accepted_transforms()]
    noise = {"noise_type": "gaussian", "noise_params": {"mean_range": (0, 0), "std_range": (0.2, 0.2)}}
    entries.append({"name": "AdditiveNoise", "p": 1.0, "spatial_mode": "per_pixel", **noise})
    image = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    assert len(entries) > 40
    for entry in entries:
        results = []
        for state in range(2):
            photometric = Photometric([entry])
            random.seed(state)
            np.random.seed(state)
            cv2.setRNGSeed(state)
            for i in range(state):  # what was drawn before makes no difference
                photometric(image, stream("sample", 9, i))
            results.append(photometric(image, stream("sample", 0, 5)))
        np.testing.assert_array_equal(*results, err_msg=str(entry))


def test_workers_draw_the_same_noise(tmp_path: Path) -> None:
    for name in "ab":
        for split, i in itertools.product(("train", "val"), range(3)):
            path = tmp_path / "classes" / split / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(ramps(40, 50)).save(path)
    noise = {"noise_type": "gaussian", "noise_params": {"mean_range": (0, 0), "std_range": (0.2, 0.2)}}
    for split, kind in itertools.product(("train", "val"), ("images", "masks")):
        (tmp_path / kind / split).mkdir(parents=True)
        for i in range(4):
            pixels = ramps(40, 50) if kind == "images" else np.zeros((40, 50), np.uint8)
            Image.fromarray(pixels).save(tmp_path / kind / split / f"{i}.png")

    def batches(workers: int) -> list[np.ndarray]:
        photometric = [{"name": "AdditiveNoise", "spatial_mode": "per_pixel", "p": 0.7, **noise}]
        options = {"image_size": (32, 32), "batch_size": 2, "num_workers": workers}
        masks = FolderSegmentation(tmp_path, class_names=["a", "b"], photometric=photometric, **options)
        classes = ImageFolder(tmp_path / "classes", rand_augment="rand-m9-mstd0.5", random_erasing=0.5, **options)
        return [batch["image"].numpy() for data in (masks, classes) for batch in data.train_dataloader()]

    for alone, together in zip(batches(0), batches(2), strict=True):
        np.testing.assert_array_equal(alone, together)

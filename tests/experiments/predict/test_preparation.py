"""What the network sees of a picture at prediction is, pixel for pixel, what it sees of it in evaluation."""

import importlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from PIL import Image

import tasks
from datamodules import FolderSegmentation, ImageFolder
from datamodules.classification.samples import CentreCrop
from datamodules.keypoints.crop import PersonCrop
from experiments.config import ConfigError
from experiments.predict.base import Result, View, preparer_of, view_of
from experiments.predictor import Predictor
from hrnet import HRNet
from tasks import ClassificationTask, PoseTask, SegmentationTask, Task, UDPCodec

SIZES = ((40, 60), (61, 37))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images and masks, and the same images in folders of classes."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split in ("train", "val"):
        for i, size in enumerate(SIZES):
            image = Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8))
            for path in (root / "images" / split, root / "masks" / split, root / "classes" / split / "ab"[i]):
                path.mkdir(parents=True, exist_ok=True)
            image.save(root / "images" / split / f"{i}.png")
            image.save(root / "classes" / split / "ab"[i] / f"{i}.png")
            Image.fromarray(rng.integers(0, 2, size, np.uint8)).save(root / "masks" / split / f"{i}.png")
    return root


def assert_seen_alike(
    task: Task, data: Any, paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[int, ...]]:
    """Evaluate, store, load and predict; sizes of what was seen."""
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(default_root_dir=folder, limit_val_batches=1, **options)
    trainer.validate(task, data, verbose=False)
    trainer.save_checkpoint(folder / "task.ckpt")
    seen, outputs = [], Task.outputs

    def watched(task: Task, batch: dict[str, Any]) -> Any:
        seen.extend(batch["image"])
        return outputs(task, batch)

    monkeypatch.setattr(Task, "outputs", watched)
    predict = Predictor(folder / "task.ckpt", batch_size=1)
    for path in paths:
        predict(path)
    dataset = data.split("val")
    assert len(seen) == len(dataset) == len(paths)
    for index, image in enumerate(seen):
        expected = dataset[index]["image"]
        assert torch.equal(image, torch.from_numpy(expected).permute(2, 0, 1)), (tuple(image.shape), expected.shape)
    return [tuple(image.shape[1:]) for image in seen]


@pytest.mark.parametrize(
    ("evaluation", "base_scale", "sizes"),
    [
        ("original", 1.0, [(40, 60), (61, 37)]),
        ("long", 1.0, [(32, 48), (48, 29)]),
        ("long", 1.5, [(48, 72), (72, 44)]),
        ("short", 1.0, [(48, 72), (79, 48)]),
        ("short", 0.75, [(36, 54), (59, 36)]),
        ("stretch", 1.0, [(32, 48), (32, 48)]),
    ],
)
def test_segmented_pictures(
    pictures: Path, tmp_path: Path, monkeypatch, evaluation: str, base_scale: float, sizes: list[tuple[int, int]]
) -> None:
    options = {"class_names": ["a", "b"], "image_size": (32, 48), "num_workers": 0, "batch_size": 1}
    data = FolderSegmentation(pictures, evaluation=evaluation, base_scale=base_scale, **options)
    task = SegmentationTask(HRNet("w18_small_v1", upsample="bilinear"), 2)
    paths = sorted((pictures / "images" / "val").iterdir())
    assert assert_seen_alike(task, data, paths, tmp_path, monkeypatch) == sizes


@pytest.mark.parametrize(("crop_ratio", "size"), [(0.875, (32, 32)), (0.5, (32, 32)), (1.0, (32, 64))])
def test_classified_pictures(
    pictures: Path, tmp_path: Path, monkeypatch, crop_ratio: float, size: tuple[int, int]
) -> None:
    data = ImageFolder(pictures / "classes", image_size=size, crop_ratio=crop_ratio, num_workers=0, batch_size=2)
    task = ClassificationTask(HRNet("w18_small_v1"), 2)
    paths = [pictures / "classes" / "val" / "ab"[i] / f"{i}.png" for i in range(2)]
    assert assert_seen_alike(task, data, paths, tmp_path, monkeypatch) == [size, size]
    plain = ImageFolder(pictures / "classes", image_size=size, num_workers=0)
    differs = (plain.split("val")[0]["image"] != data.split("val")[0]["image"]).any()
    assert differs == (crop_ratio != 0.875)


# ---- ways of one's own

NEGATIVES = """
from dataclasses import dataclass

import cv2
import datamodules
import numpy as np
from datamodules.images.preparer import Preparer


@dataclass(frozen=True)
class Negative(Preparer):
    white: tuple[int, int, int] = (255, 255, 255)

    def __call__(self, image, *box):
        small = cv2.resize(image, self.image_size[::-1])
        return {"image": np.clip(np.array(self.white) - small, 0, 255).astype(np.uint8)}


class Negatives(datamodules.ImageFolder):
    @property
    def preparer(self):
        return Negative(self.image_size, self.reading, white=(255, 250, 255))
"""


@pytest.fixture
def negatives(tmp_path: Path, monkeypatch) -> str:
    """Name of a module of a user with a data set that prepares images in its own way."""
    name = f"negatives_{abs(hash(str(tmp_path))) % 10**8}"
    (tmp_path / f"{name}.py").write_text(NEGATIVES)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_data_set_prepares_pictures_in_its_own_way(pictures: Path, tmp_path: Path, monkeypatch, negatives) -> None:
    module = importlib.import_module(negatives)
    data = module.Negatives(pictures / "classes", image_size=(32, 64), num_workers=0, batch_size=2)
    task = ClassificationTask(HRNet("w18_small_v1"), 2)
    paths = [pictures / "classes" / "val" / "ab"[i] / f"{i}.png" for i in range(2)]
    assert assert_seen_alike(task, data, paths, tmp_path, monkeypatch) == [(32, 64), (32, 64)]
    stored = tasks.load(tmp_path / "task.ckpt")
    assert preparer_of(stored) == data.preparer == module.Negative((32, 64), data.reading, (255, 250, 255))
    assert preparer_of(stored, (64, 32)).image_size == (64, 32)


def test_no_checkpoint_chooses_what_is_imported_and_a_run_folder_does(
    pictures: Path, tmp_path: Path, negatives
) -> None:
    (tmp_path / f"{negatives}.py").write_text(NEGATIVES.replace("Negative", "Inverse"))
    task = ClassificationTask(HRNet("w18_small_v1"), 2, class_names=["a", "b"])
    task.preparation = {"class_path": f"{negatives}.Inverse", "init_args": {"image_size": [32, 32], "reading": {}}}
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    tasks.save_task(task, run / "checkpoints" / "best.ckpt")
    with pytest.raises(ValueError, match=re.escape(f"(--import {negatives})")):
        Predictor(run / "checkpoints" / "best.ckpt")
    assert negatives not in sys.modules
    (run / "config.yaml").write_text(f"data: {{class_path: {negatives}.Inverses, init_args: {{root: gone}}}}\n")
    picture = pictures / "classes" / "val" / "a" / "0.png"
    assert len(Predictor(run)(picture).probabilities) == 2


def test_what_is_not_known_is_assumed_from_the_task() -> None:
    pose = PoseTask(HRNet("w18_small_v1", multi_scale_output=False), codec=UDPCodec())
    assert preparer_of(pose, (64, 48)) == PersonCrop((64, 48), crop="unit")
    # As checkpoints had it before they named classes.
    pose.preparation = {"image_size": [64, 48], "crop": "size", "box_padding": 1.5}
    assert preparer_of(pose) == PersonCrop((64, 48), crop="size", box_padding=1.5)
    assert preparer_of(SegmentationTask(HRNet("w18_small_v1"), 2)).evaluation == "original"
    with pytest.raises(ConfigError, match="image_size"):
        preparer_of(ClassificationTask(HRNet("w18_small_v1"), 2))


class GreyMean(Task):
    """How bright an image is."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((1, 2, 3))

    def predict(self, outputs: torch.Tensor, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        return {"brightness": batch["image"].float().mean((1, 2, 3))}


class SeenGreyMean(GreyMean):
    """The same with a view."""


@dataclass(frozen=True, eq=False, kw_only=True)
class GreyMeanResult(Result):
    brightness: float

    def rows(self) -> list[dict[str, Any]]:
        return [self.where() | {"brightness": self.brightness}]


class GreyMeanView(View):
    result, usual = GreyMeanResult, CentreCrop

    def __init__(self, task: Task, preparer: Any, **options: Any) -> None:
        self.preparer = preparer

    def prepare(self, photo: Any) -> tuple[list, Any]:
        return [self.preparer(photo.image)], lambda found: GreyMeanResult(photo=photo, brightness=found[0])

    def split(self, predictions: dict[str, torch.Tensor]) -> list[float]:
        return predictions["brightness"].tolist()


@view_of.register
def _(task: SeenGreyMean) -> type[View]:
    return GreyMeanView


def test_a_task_of_ones_own_predicts_by_a_view_of_its_own() -> None:
    picture = np.full((40, 60, 3), 77, np.uint8)
    result = Predictor(SeenGreyMean(HRNet("w18_small_v1")), image_size=(32, 32))(picture)
    assert result.rows() == [{"image": "image", "brightness": 77}]


def test_a_task_without_a_view_says_so() -> None:
    with pytest.raises(ConfigError, match=r"no prediction on pictures for GreyMean: .* none of .*PoseTask"):
        Predictor(GreyMean(HRNet("w18_small_v1")), image_size=(32, 32))

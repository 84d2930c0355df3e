"""What the network sees of a picture at prediction is, pixel for pixel, what it sees of it in evaluation."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from PIL import Image

from datamodules import FolderSegmentation, ImageFolder
from experiments.predictor import Predictor
from hrnet import HRNet
from tasks import ClassificationTask, SegmentationTask, Task

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

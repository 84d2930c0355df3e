"""Samples of an evaluation that are kept as data: the same in every run, and what stands in them."""

import base64
import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image

from tasks.draw.examples import Examples, example
from tasks.draw.pictures import Box, Layers, Panel

IMAGE = torch.arange(3 * 40 * 20).reshape(3, 40, 20).remainder(256).byte()


def opened(text: str) -> Image.Image:
    """A picture in base64."""
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_places_are_in_widths_of_the_picture() -> None:
    points = {"truth": torch.tensor([[0.0, 0.0], [9.5, 19.5], [float("nan"), float("nan")]])}
    found = example(Layers(IMAGE, "image 1", ["nose", "tail", "ear"], points=points, limbs=[(0, 1)]))
    assert found["aspect"] == 2.0
    assert found["layers"]["truth"]["points"] == [[0.025, 0.025, "nose"], [0.5, 1.0, "tail"], None]
    assert found["limbs"] == [[0, 1]]
    boxes = {"prediction": [Box(0.0, 10.0, 20.0, 40.0, 1, 0.75)]}
    found = example(Layers(IMAGE, "image 1", ["cat", "dog"], boxes=boxes))
    assert found["layers"] == {"prediction": {"boxes": [[0.0, 0.5, 1.0, 2.0, "dog", 0.75]]}}
    assert opened(found["picture"]).size == (20, 40)


def test_large_pictures_are_kept_small_and_masks_with_them() -> None:
    mask = torch.full((800, 400), 255)
    mask[:400], mask[400:600] = 1, 0
    image = torch.zeros(3, 800, 400, dtype=torch.uint8)
    found = example(Layers(image, "", ["road", "sky"], {"truth": mask}, palette=[(200, 0, 0), (0, 0, 200)]))
    layer = found["layers"]["truth"]
    assert layer["classes"] == {"road": "#c80000", "sky": "#0000c8"}
    assert opened(found["picture"]).size == opened(layer["mask"]).size == (160, 320)
    pixels = np.asarray(opened(layer["mask"]).convert("RGBA"))
    assert pixels[10, 10].tolist() == [0, 0, 200, 255]
    assert pixels[200, 10].tolist() == [200, 0, 0, 255]
    assert pixels[300, 10, 3] == 0


class Toy:
    """A task whose samples are their ids; every third has no score."""

    split = "val"

    def each(self, *values: Any) -> list[tuple[Any, ...]]:
        """As of a task alone."""
        return [("", self, *values)]

    def scores(self, predictions: Any, batch: dict[str, Any]) -> dict[str, Any]:
        """A score from the id."""
        ids = batch["image_id"]
        return {"sample": ids, "score": torch.where(ids % 3 == 0, float("nan"), ids / 1000)}

    def draw(self, outputs: Any, predictions: Any, batch: dict[str, Any], count: int) -> dict[str, Panel]:
        """The id as label."""
        label = {"truth": str(int(batch["image_id"][0]))}
        return {"toy": Panel(IMAGE, [Layers(IMAGE, "", [], labels=label)])}


class Trainer:
    """What the callback asks of one."""

    def __init__(self, folder: Path, fitting: bool = False) -> None:
        self.default_root_dir, self.is_global_zero = str(folder), True
        self.state = type("State", (), {"fn": TrainerFn.FITTING if fitting else TrainerFn.VALIDATING})()


def kept(folder: Path, ids: list[int], batch_size: int, count: int = 6, fitting: bool = False) -> list[dict[str, Any]]:
    """Examples of an evaluation in that order."""
    callback, task, trainer = Examples(count), Toy(), Trainer(folder, fitting)
    callback.on_validation_epoch_start(trainer, task)
    for start in range(0, len(ids), batch_size):
        batch = {"image_id": torch.tensor(ids[start : start + batch_size])}
        outputs = {"outputs": batch["image_id"], "predictions": batch["image_id"]}
        callback.on_validation_batch_end(trainer, task, outputs, batch, 0)
    callback.on_validation_end(trainer, task)
    file = folder / "predictions" / "val_examples.json"
    return json.loads(file.read_text())["examples"] if file.is_file() else []


def test_the_same_samples_are_kept_whatever_their_order(tmp_path: Path) -> None:
    ids = list(range(1, 60))
    found = kept(tmp_path / "a", ids, 4)
    shuffled = np.random.default_rng(0).permutation(ids).tolist()
    assert kept(tmp_path / "b", [*shuffled, *shuffled[:5]], 7) == found  # some come twice with several processes
    scored = [i for i in ids if i % 3]
    assert [one["sample"] for one in found] == sorted(scored, key=lambda i: zlib.crc32(str(i).encode()))[:6]
    assert [one["layers"]["truth"]["label"] for one in found] == [str(one["sample"]) for one in found]
    assert [one["score"] for one in found] == pytest.approx([one["sample"] / 1000 for one in found])
    assert len(kept(tmp_path / "c", ids[:4], 4)) == 3


def test_nothing_is_kept_while_training_goes_on(tmp_path: Path) -> None:
    assert kept(tmp_path, [1, 2], 2, fitting=True) == []

"""The sheet of training samples: written before the first step, with labels, and without a trace in the draws."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torchvision.io import read_image

from datamodules import Cityscapes, CocoDetection, CocoPose, ImageFolder, MultiTaskDataModule
from experiments.run import main
from experiments.training.sheet import NAME, TrainingSheet, training_sheet
from tests.experiments.training.toys import toy

SMALL = {"image_size": (64, 48), "num_workers": 0}


class Draws(Callback):
    """What is drawn in training: the batches, and numbers of the random streams at each step."""

    def __init__(self, folder: Path) -> None:
        self.found: list[Any] = []
        self.there: list[bool] = []
        self.folder = folder

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: dict[str, Any], batch_idx: int) -> None:
        """Before each step."""
        self.there.append((Path(trainer.default_root_dir) / "pictures" / NAME).is_file())
        streams = random.getstate()[1][:3], np.random.get_state()[1][:3].tolist(), torch.get_rng_state()[:24].tolist()
        self.found.append((batch["image"].clone(), batch["label"].tolist(), streams))


def test_training_is_the_same_with_and_without_a_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for drawn in (True, False):
        if not drawn:
            monkeypatch.setattr(TrainingSheet, "on_train_start", lambda *_: None)
        folder = tmp_path / str(drawn)
        folder.mkdir()
        draws = Draws(folder)
        main(toy(folder), callbacks=[draws])
        assert draws.there == [drawn] * len(draws.there)
        seen.append(draws.found)
    assert len(seen[0]) == len(seen[1]) > 3
    for (images, labels, streams), (others, same_labels, same_streams) in zip(*seen, strict=True):
        assert torch.equal(images, others)
        assert (labels, streams) == (same_labels, same_streams)


def test_a_sheet_leaves_the_random_streams_where_they_are() -> None:
    data = CocoPose("sample", **SMALL)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    first, second = training_sheet(data, 4), training_sheet(data, 4)
    assert torch.equal(first, second)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


def test_labels_are_drawn_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    data = CocoPose("sample", **SMALL)
    batch = data.preview(2)
    bare = {"image": torch.zeros_like(batch["image"])}
    monkeypatch.setattr(data, "preview", lambda count: bare)
    assert training_sheet(data, 2)[:, -100:].float().std() < 1e-6  # black, below the caption
    labelled = bare | {key: batch[key] for key in ("keypoints", "visible")}
    labelled["keypoints"] = torch.full_like(batch["keypoints"], 20.0)
    labelled["visible"] = torch.full_like(batch["visible"], 2)
    monkeypatch.setattr(data, "preview", lambda count: labelled)
    sheet = training_sheet(data, 2)
    scale = 4  # 224 / 64, rounded
    top = sheet.shape[1] - 64 * scale - 4 + 2
    ys, xs = (sheet[:, top : top + 64 * scale, 2 : 2 + 48 * scale].amax(0) > 30).nonzero(as_tuple=True)
    assert xs.float().mean().item() == pytest.approx(20.5 * scale - 0.5, abs=1)
    assert ys.float().mean().item() == pytest.approx(20.5 * scale - 0.5, abs=1)


@pytest.mark.parametrize("kind", [CocoPose, CocoDetection, Cityscapes, ImageFolder])
def test_every_kind_of_labels_has_a_sheet(kind: type) -> None:
    sheet = training_sheet(kind("sample", **SMALL), 9)
    assert sheet.dtype == torch.uint8
    assert sheet.shape[0] == 3
    assert sheet.shape[2] > 8 * 100
    assert sheet.float().std() > 20


def test_a_joint_run_shows_each_of_its_data_sets() -> None:
    parts = {"pose": CocoPose("sample", **SMALL), "parts": Cityscapes("sample", **SMALL)}
    both = training_sheet(MultiTaskDataModule(parts), 8)
    one = training_sheet(parts["pose"], 8)
    assert both.shape[1] > 1.5 * one.shape[1]


def test_the_doctor_draws_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datamodules.check import main as check

    words = ["pose_coco.yaml", "sample.yaml", "--data.image_size", "[64,48]", "--data.num_workers", "0"]
    check([*words, "--images", "none", "--picture", str(tmp_path / "sheet.png")])
    assert read_image(str(tmp_path / "sheet.png")).shape[0] == 3
    with pytest.raises(Exception, match=r"--picture .*cannot be written"):
        check([*words, "--images", "none", "--picture", str(tmp_path / "none" / "sheet.png")])

"""Masks and boxes of an offline W&B run, read back from its files: layers to show and hide, their classes by name."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import wandb
from lightning import Trainer
from PIL import Image

from experiments.training.loggers import make_wandb_logger
from hrnet import HRNet
from tasks import SegmentationTask
from tasks.draw.pictures import Box, Layers, Panel, log_pictures
from tests.experiments.training.test_wandb import of_kind, records, rows
from tests.tasks.draw.test_pictures import IDS, KEY, Stripes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def class_labels(found: list[dict[str, Any]], kind: str) -> dict[str, dict[str, str]]:
    """Panel and layer -> number -> name, as W&B's page takes them from the run's configuration."""
    stored = of_kind(found, "config")[-1]["update"]["_wandb"][f"{kind}/class_labels"]
    return {name.replace("_wandb_delimeter_", " "): entry["value"] for name, entry in stored.items()}


def panels(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was shown, oldest first: name of the panel and what W&B keeps of it."""
    shown = []
    for row in rows(found):
        for name in sorted({key.rsplit("._type", 1)[0] for key in row if str(row[key]).startswith("images/")}):
            inner = {key[len(name) + 1 :]: value for key, value in row.items() if key.startswith(f"{name}.")}
            shown.append({"panel": name, **inner})
    return shown


def test_masks_of_a_training_arrive_with_the_names_of_their_classes(folder: Path) -> None:
    task = SegmentationTask(HRNet("w18_small_v1", upsample="bilinear"), 2)
    logger = make_wandb_logger(folder, "seg", "fit", [], {"wandb": {"mode": "offline"}})
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    try:
        Trainer(accelerator="cpu", default_root_dir=folder, logger=logger, max_epochs=2, **quiet).fit(task, Stripes())
    finally:
        wandb.finish()
    ((found),) = records(folder)
    (files,) = folder.glob("wandb/offline-run-*/files")
    shown = panels(found)
    assert [each["panel"] for each in shown] == [KEY] * 2  # one panel, an epoch each
    for each in shown:
        assert each["captions"] == [f"image {number}" for number in IDS]
        for layers, (height, width) in zip(each["all_masks"], Stripes.sizes, strict=True):
            assert set(layers) == {"truth", "prediction"}
            truth, prediction = (
                np.asarray(Image.open(files / layers[layer]["path"])) for layer in ("truth", "prediction")
            )
            assert truth.shape == prediction.shape == (64, 96)
            expected = np.full((64, 96), 255)
            expected[2:height, : width // 2], expected[2:height, width // 2 : width] = 0, 1
            assert (truth == expected).all()
            assert set(np.unique(prediction[:height, :width])) <= {0, 1}
    names = {"0": "dark", "1": "bright", "255": "ignored"}
    labels = class_labels(found, "mask")
    assert {name: labels[name] for name in (f"{KEY} truth", f"{KEY} prediction")} == {
        f"{KEY} truth": names,
        f"{KEY} prediction": names,
    }
    # The table of epochs has them too.
    contents = [a["manifest"]["contents"] for a in of_kind(found, "artifact") if "manifest" in a]
    stored = {entry["path"]: entry["local_path"] for entries in contents for entry in entries}
    (name,) = (name for name in stored if name.endswith("by epoch.table.json"))
    table = json.loads(Path(stored[name]).read_text())
    assert table["columns"] == ["sample", "epoch 0", "epoch 1"]
    for _, *images in table["data"]:
        for image in images:
            assert set(image["masks"]) == {"truth", "prediction"}
            assert all(Path(stored[mask["path"]]).is_file() for mask in image["masks"].values())


def test_boxes_and_masks_of_one_panel_arrive_with_scores_and_names(folder: Path) -> None:
    logger = make_wandb_logger(folder, "det", "fit", [], {"wandb": {"mode": "offline"}})
    state = SimpleNamespace(fn=None)
    trainer = SimpleNamespace(default_root_dir=folder, state=state, current_epoch=0, global_step=0, loggers=[logger])
    picture = torch.zeros(3, 8, 8, dtype=torch.uint8)
    mask = torch.tensor([[0, 1], [255, 1]]).repeat(4, 4)
    samples = [
        Layers(picture, "a", ["cat", "dog"], {"truth": mask}, {"truth": [Box(1, 2, 3, 4, 1, 1.0)], "prediction": []}),
        Layers(picture + 9, "b", ["cat", "dog"], {"truth": 0 * mask}, {"prediction": [Box(0, 1, 5, 6, 0, 0.25)]}),
    ]
    try:
        log_pictures({"detection (truth, prediction)": Panel(picture, samples), "plain": picture}, trainer, "val")
    finally:
        wandb.finish()
    ((found),) = records(folder)
    (files,) = folder.glob("wandb/offline-run-*/files")
    shown = {each["panel"]: each for each in panels(found)}
    name = "val/detection (truth, prediction)"
    assert set(shown) == {name, "val/plain"}
    assert not {"all_boxes", "all_masks"} & set(shown["val/plain"])
    boxes = [
        {layer: json.loads((files / said["path"]).read_text()) for layer, said in layers.items()}
        for layers in shown[name]["all_boxes"]
    ]
    names = {"0": "cat", "1": "dog"}
    assert all(said["class_labels"] == names for layers in boxes for said in layers.values())
    assert boxes[0]["prediction"]["box_data"] == []
    assert boxes[0]["truth"]["box_data"] == [
        {
            "position": {"minX": 1, "maxX": 3, "minY": 2, "maxY": 4}, "domain": "pixel", "class_id": 1,
            "box_caption": "dog", "scores": {"score": 1.0},
        }
    ]  # fmt: skip
    (only,) = boxes[1]["prediction"]["box_data"]
    assert (only["class_id"], only["box_caption"], only["scores"]) == (0, "cat", {"score": 0.25})
    masks = [np.asarray(Image.open(files / layers["truth"]["path"])) for layers in shown[name]["all_masks"]]
    assert (masks[0] == mask.numpy()).all()
    assert (masks[1] == 0).all()
    assert class_labels(found, "bounding_box") == {f"{name} truth": names, f"{name} prediction": names}
    assert class_labels(found, "mask") == {f"{name} truth": names | {"255": "ignored"}}

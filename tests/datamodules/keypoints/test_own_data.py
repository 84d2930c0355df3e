"""A key-point data set that is no COCO JSON: it says who is on which image, and everything else is there."""

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from datamodules import CocoPose, DataError
from datamodules.base import Split
from datamodules.check import check
from datamodules.keypoints.data import KeypointData
from datamodules.keypoints.table import PersonTable
from datamodules.sample import sample_coco
from experiments.predict.boxes import Boxes
from experiments.predictor import Predictor
from hrnet import HRNet
from tasks import PoseTask
from tasks.metrics import CocoKeypoints

SIZE = (64, 48)


class CsvKeypoints(KeypointData):
    """A row a person: image file, box x, y, width, height, then x, y, visibility of each key point, in pixels."""

    layout = """\
    train.csv, val.csv
    train/..., val/..."""
    source = "your own annotation."

    def image_folder(self, split: Split) -> Path:
        return self.folder / split

    def persons(self, split: Split) -> PersonTable:
        path = self.folder / f"{split}.csv"
        with path.open(newline="") as file:
            rows = list(csv.reader(file))
        file_names = sorted({row[0] for row in rows})
        numbers = np.array([row[1:] for row in rows], np.float64)
        points = numbers[:, 4:].reshape(len(rows), -1, 3)
        return PersonTable(
            path,
            file_names,
            images=[file_names.index(row[0]) for row in rows],
            boxes=numbers[:, :4],
            keypoints=points[..., :2],
            visible=points[..., 2],
        )


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_coco(tmp_path_factory.mktemp("own") / "coco", num_train=6, num_val=4)


Row = list[Any]


@pytest.fixture
def rows(coco: Path) -> dict[str, list[Row]]:
    """The labelled persons of the sample data as rows of CSV."""
    found = {}
    for split in ("train", "val"):
        content = json.loads((coco / f"annotations/person_keypoints_{split}2017.json").read_text())
        names = {image["id"]: image["file_name"] for image in content["images"]}
        found[split] = [
            [names[a["image_id"]], *a["bbox"], *a["keypoints"]]
            for a in content["annotations"]
            if a["num_keypoints"] and not a["iscrowd"]
        ]
    return found


@pytest.fixture
def write(coco: Path, tmp_path: Path) -> Callable[..., CsvKeypoints]:
    def build(rows: dict[str, list[Row]], **options: Any) -> CsvKeypoints:
        for split, persons in rows.items():
            shutil.copytree(coco / f"{split}2017", tmp_path / split, dirs_exist_ok=True)
            with (tmp_path / f"{split}.csv").open("w", newline="") as file:
                csv.writer(file).writerows(persons)
        return CsvKeypoints(tmp_path, image_size=SIZE, batch_size=4, num_workers=0, **options)

    return build


def test_crops_are_those_of_the_same_persons_in_coco(coco: Path, rows, write) -> None:
    own, official = write(rows).split("val"), CocoPose(coco, image_size=SIZE, num_workers=0).split("val")
    assert len(own) == len(official) > 3
    for a, b in zip((own[i] for i in range(len(own))), (official[i] for i in range(len(own))), strict=True):
        for key in ("image", "keypoints", "visible", "to_image", "area"):
            np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.parametrize("overfit", [None, 2])
def test_it_trains_is_evaluated_and_predicted_with(rows, write, overfit: int | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = write(rows, overfit=overfit)
    task = PoseTask(HRNet("w18_small_v1", multi_scale_output=False, upsample="bilinear"), flip_test=False)
    before = next(iter(task.head.parameters())).clone()
    task.attach(data)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    options |= {"enable_model_summary": False, "num_sanity_val_steps": 0, "accelerator": "cpu"}
    options["default_root_dir"] = tmp_path  # where its pictures go
    trainer = Trainer(max_epochs=1, limit_train_batches=1, **options)
    trainer.fit(task, data)
    assert not torch.equal(before, next(iter(task.head.parameters())))
    assert 0 <= trainer.callback_metrics["val/AP"] < 0.5
    metric = CocoKeypoints(data.ground_truth("val"), data.skeleton.sigmas, data.skeleton.names)
    for batch in data.val_dataloader():
        truth = batch["keypoints"] @ batch["to_image"][:, :, :2].mT + batch["to_image"][:, None, :, 2]
        ids = batch["image_id"], batch["instance_id"]
        metric.update(*ids, truth, torch.ones(truth.shape[:2]), batch["score"], batch["area"])
    assert metric.compute()["AP"] == pytest.approx(1.0)
    photo = np.full((80, 90, 3), 90, np.uint8)
    boxes = Boxes(np.array([[5.0, 5, 60, 75]]), np.ones(1))
    (row,) = Predictor(task, image_size=SIZE, boxes=lambda _: boxes)(photo).rows()
    assert all(math.isfinite(value) for value in row.values() if isinstance(value, float))


def test_detections_name_images_by_their_place_in_the_table(rows, write, tmp_path: Path) -> None:
    table = write(rows).persons("val")
    found = [
        {"image_id": table.image_ids[image], "bbox": box, "score": 0.5}
        for image, box in zip(table.images.tolist(), table.boxes.tolist(), strict=True)
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(found))
    assert len(write(rows, detections="boxes.json").split("val")) == len(found)


def test_the_doctor_is_content_with_it(rows, write) -> None:
    report = check(write(rows))
    assert report.clean, report.findings
    assert report.looked_at["train"] == {
        "images": len({row[0] for row in rows["train"]}),
        "annotations": len(rows["train"]),
    }


def change(place: int, value: Any) -> Callable[[list[Row]], None]:
    return lambda persons: persons[0].__setitem__(place, value)


def shares(persons: list[Row]) -> None:
    for row in persons:
        row[5:] = [value if k % 3 == 2 else value / 640 for k, value in enumerate(row[5:])]


def all_hidden(persons: list[Row]) -> None:
    for row in persons:
        row[7::3] = [0] * 17


@pytest.mark.parametrize(
    ("kind", "seed", "message"),
    [
        ("box outside of the image", change(3, 5000), None),
        ("box without area", change(3, 0), None),
        ("malformed entry", change(1, "nan"), r"train\.csv: 1 annotation \(id 1\) have a `bbox` that is not finite"),
        ("visibility not 0, 1 or 2", change(7, 7), None),
        ("key points beside their boxes", shares, r"train\.csv: .*outside of their own boxes"),
        ("no usable sample", all_hidden, r"train\.csv has no usable person"),
        ("missing image", change(0, "gone.jpg"), r"lacks 1 of the \d images.*gone\.jpg"),
        ("unreadable data", lambda persons: [row.extend([0, 0, 0]) for row in persons], "18 key points and the skel"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_planted_defect_is_found_and_a_grave_one_refused(rows, write, kind: str, seed: Any, message: Any) -> None:
    seed(rows["train"])
    data = write(rows)
    found = check(data).findings
    assert {(finding.kind, finding.split) for finding in found} - {("key point outside of the image", "train")} == {
        (kind, "train")
    }
    if message is None:
        assert len(data.split("train")) >= len(rows["train"]) - 1
    else:
        with pytest.raises(DataError, match=message):
            data.split("train")


COLUMNS = {"images": [0], "boxes": [[1, 2, 30, 40]], "keypoints": [[[5, 6]]], "visible": [[2]]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": [[1, 2, 3]]}, r"`boxes` of the persons has shape \(1, 3\), expected \(1, 4\)"),
        ({"ids": [5, 6]}, "2 `ids` of the persons, expected 1"),
        ({"visible": [["seen"]]}, "`visible` of the persons cannot be an array: could not convert string"),
        ({"keypoints": [[[5, 6], [7]]]}, "`keypoints` of the persons cannot be an array"),
        ({"keypoints": np.zeros(3)}, r"`keypoints` of the persons has shape \(3,\), expected \(1, 2\)"),
        ({"images": [1]}, "`images` of the persons are rows of 1 images, 0 to 0; found 1 to 1"),
        ({"images": [-1]}, "`images` of the persons are rows of 1 images, 0 to 0; found -1 to -1"),
    ],
)
def test_columns_that_do_not_fit_together_are_one_sentence(tmp_path: Path, change: dict, message: str) -> None:
    assert PersonTable(tmp_path, ["a.jpg"], **COLUMNS).accepted().areas.tolist() == pytest.approx([0.53 * 30 * 40])
    with pytest.raises(DataError, match=f"own: {message}") as error:
        PersonTable(tmp_path / "own", ["a.jpg"], **(COLUMNS | change))
    assert "\n" not in str(error.value)

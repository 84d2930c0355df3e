"""Of bees no message, table, figure or file says that they are persons, and PCK says how near a point has to be."""

import io
import json
import math
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from datamodules import CocoPose, DataError
from datamodules.check import check, main
from datamodules.sample import sample_coco
from experiments.errors import pose as error_pose
from experiments.errors.pose import pose_report
from experiments.predict.boxes import Boxes
from experiments.predictor import Predictor
from hrnet import HRNet
from tasks import PoseTask
from tasks.draw import class_table
from tasks.metrics.coco_keypoints import CocoKeypoints


@pytest.fixture(scope="module")
def persons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_coco(tmp_path_factory.mktemp("instances") / "coco", num_train=6, num_val=6)


def named(root: Path, target: Path, *names: str, change: Any = None) -> CocoPose:
    """The data set with other categories: the first one's things are spread over them."""
    shutil.copytree(root, target)
    for path in (target / "annotations").glob("person_keypoints_*.json"):
        content = json.loads(path.read_text())
        category = content["categories"][0]
        content["categories"] = [{**category, "id": i, "name": name} for i, name in enumerate(names, start=1)]
        for number, annotation in enumerate(content["annotations"]):
            annotation["category_id"] = 1 + number % len(names)
            if change is not None:
                change(annotation)
        path.rename(path.with_name(path.name.replace("person_keypoints", "points")))
        path.with_name(path.name.replace("person_keypoints", "points")).write_text(json.dumps(content))
    files = {split: f"annotations/points_{split}2017.json" for split in ("train", "val")}
    return CocoPose(target, image_size=(64, 48), num_workers=0, annotations=files)


def attached(data: CocoPose) -> PoseTask:
    torch.manual_seed(0)
    task = PoseTask(HRNet("w18_small_v1", multi_scale_output=False, upsample="bilinear"), flip_test=False).eval()
    task.attach(data)
    return task


def report_and_titles(data: CocoPose, monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[dict[str, list], str]:
    """Tables of an error analysis, and all text that stands in its charts."""
    texts: list[str] = []
    for draw in ("draw_bars", "draw_stacked_bars"):
        real = getattr(error_pose, draw)
        monkeypatch.setattr(error_pose, draw, lambda *given, real=real: texts.append(str(given)) or real(*given))
    truth = data.ground_truth("val")["annotations"]
    results = [
        {"image_id": a["image_id"], "category_id": 1, "keypoints": a["keypoints"], "score": 0.9}
        for a in truth[::2]
        if a["num_keypoints"]
    ]
    (folder / "val_keypoints.json").write_text(json.dumps(results))
    report = pose_report(attached(data), data, None, folder)
    return report.tables, " ".join(texts)


@pytest.mark.parametrize("names", [("bee",), ("person", "dog")])
def test_bees_are_instances(persons: Path, tmp_path: Path, monkeypatch, names: tuple[str, ...]) -> None:
    data = named(persons, tmp_path / "coco", *names)
    data.split("val")
    tables, titles = report_and_titles(data, monkeypatch, tmp_path)
    assert "instances" in tables
    assert "person" not in f"{json.dumps(tables)} {titles}"
    assert data.ground_truth("val")["categories"][0]["name"] == (names[0] if len(names) == 1 else "instance")


def test_persons_are_persons(persons: Path, tmp_path: Path, monkeypatch) -> None:
    data = named(persons, tmp_path / "coco", "Human")
    tables, titles = report_and_titles(data, monkeypatch, tmp_path)
    assert "persons" in tables
    assert "matched persons" in titles


@pytest.mark.parametrize("name", ["person", "Person", "human", "people"])
def test_whatever_persons_are_called_the_ground_truth_has_persons(persons: Path, tmp_path: Path, name: str) -> None:
    assert named(persons, tmp_path / "coco", name).ground_truth("val")["categories"][0]["name"] == "person"


def test_messages_speak_of_the_things_annotated(persons: Path, tmp_path: Path) -> None:
    crowded = named(persons, tmp_path / "crowds", "bee", change=lambda a: a.update(iscrowd=1))
    with pytest.raises(DataError, match="no usable instance: of"):
        crowded.split("train")
    misplaced = named(persons, tmp_path / "misplaced", "bee", change=lambda a: a.update(bbox=[5000, 5000, 9, 9]))
    with pytest.raises(DataError) as error:
        misplaced.split("train")
    assert "person" not in str(error.value)
    data = named(persons, tmp_path / "coco", "bee")
    rows = [{"image_id": a["image_id"], "bbox": [900 + n, 900, 9, 9], "score": 0.5}
            for n, a in enumerate(data.ground_truth("val")["annotations"])]  # fmt: skip
    (data.folder / "boxes.json").write_text(json.dumps(rows))
    data.detections = "boxes.json"
    with pytest.raises(DataError, match=r"of \d+ annotated instances only 0 have a detected box"):
        data.dataset("val")


def test_the_doctor_speaks_of_annotations(persons: Path, tmp_path: Path, capsys) -> None:
    data = named(persons, tmp_path / "coco", "bee", change=lambda a: a.update(keypoints=[0] * 51, num_keypoints=0))
    assert "no usable sample" in {finding.kind for finding in check(data, images="none").findings}
    files = "{train: annotations/points_train2017.json, val: annotations/points_val2017.json}"
    words = [
        "pose_custom.yaml",
        "--data.root",
        str(data.folder),
        "--data.annotations",
        files,
        "--data.skeleton",
        "coco",
    ]
    assert main([*words, "--data.images", "{}", "--images", "none", "--statistics"]) == 1
    assert "person" not in capsys.readouterr().out


def test_tables_of_the_metric_speak_of_no_person(persons: Path, tmp_path: Path) -> None:
    data = named(persons, tmp_path / "coco", "bee")
    metric = CocoKeypoints(data.ground_truth("val"), data.skeleton.sigmas, data.skeleton.names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing was handed in
        text = printed(metric.table()) + printed(class_table(metric.per_keypoint()))
    assert "person" not in text.lower()
    assert "pck: share" in text
    assert "at least 0.5" in text


def printed(table: Any) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    return " ".join(console.file.getvalue().split())


@pytest.mark.parametrize(("factor", "share"), [(0.99, 1.0), (1.01, 0.0)])
def test_pck_counts_points_within_what_it_states(factor: float, share: float) -> None:
    """2 sigma √(2 ln 2 area): where exp(-d² / (2 area (2 sigma)²)) is 0.5."""
    area, sigma, place = 5000.0, 0.05, np.array([70.0, 60.0])
    truth = {
        "images": [{"id": 1}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 100, 100], "area": area, "keypoints": [*place, 2]}
        ],
        "categories": [{"id": 1, "name": "bee"}],
    }
    metric = CocoKeypoints(truth, [sigma], ["sting"])
    reach = 2 * sigma * math.sqrt(2 * math.log(2) * area)
    found = torch.as_tensor(place + np.array([0, factor * reach]))[None, None].float()
    one = torch.ones(1)
    metric.update(one.long(), one.long(), found, one[:, None], one, torch.tensor([1e4]))
    assert metric.per_keypoint()[0]["pck"] == share


def test_predicted_bees_are_instances(persons: Path, tmp_path: Path) -> None:
    task = attached(named(persons, tmp_path / "coco", "bee"))
    boxes = Boxes(np.array([[1.0, 2, 30, 40], [3, 4, 50, 60]]), np.ones(2))
    predictor = Predictor(task, image_size=(64, 48), boxes=lambda photo: boxes)
    rows = predictor(np.zeros((64, 64, 3), np.uint8)).rows()
    assert [row["instance"] for row in rows] == [0, 1]
    assert "person" not in rows[0]

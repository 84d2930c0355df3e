"""A joint run's poses are evaluated on the boxes of its own detector too, as if these came from a file."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from torch import Tensor

from datamodules import CocoPose, MixedPose, MultiTaskDataModule
from experiments.training.detected import PosesOnDetections
from hrnet import HRNet
from tasks import MultiTask, PoseTask, Task
from tasks.pose import in_image
from tests.conftest import ROOT

SIZE = (32, 32)


class Finder(Task):
    """Stands for a detector that has found `rows`."""

    monitor = "val/AP"
    rows: list[dict[str, Any]] = []

    def from_streams(self, streams: list[Tensor], size: tuple[int, int]) -> Tensor:
        return streams[0].mean()

    def losses(self, outputs: Tensor, batch: dict) -> dict[str, Tensor]:
        return {"none": outputs}

    def predict(self, outputs: Tensor, batch: dict) -> None:
        return None

    def attach(self, datamodule: Any) -> None:
        self.metric = None
        self.found = SimpleNamespace(compute=dict, results=lambda: self.rows)

    def update(self, predictions: None, batch: dict) -> None:
        object.__setattr__(self, "metric", self.found)

    def compute(self) -> dict[str, float]:
        return {"AP": 0.25}

    def reset(self) -> None:
        object.__setattr__(self, "metric", self.found)


class Reader(PoseTask):
    """Knows the pose of whoever stands nearest to the middle of a crop."""

    persons: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}

    def predict(self, outputs: Tensor, batch: dict) -> dict[str, Tensor]:
        middle = torch.full((len(outputs), 1, 2), SIZE[0] / 2)
        places = in_image(middle, batch["to_image"])[:, 0].numpy()
        poses = []
        for image, place in zip(batch["image_id"].tolist(), places, strict=True):
            poses.append(min(self.persons[image], key=lambda person: float(np.abs(person[0] - place).max()))[1])
        keypoints = torch.from_numpy(np.stack(poses)).float()
        return {"keypoints": keypoints, "scores": torch.ones(keypoints.shape[:2]), "input_keypoints": keypoints}


class DetectionData(CocoPose):
    """The same images."""

    def ground_truth(self, split: Any) -> dict[str, list]:
        return super().ground_truth(split) | {"categories": [{"id": 7, "name": "dog"}, {"id": 9, "name": "person"}]}


@pytest.fixture
def evaluated(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(ROOT)
    options: dict[str, Any] = {"image_size": SIZE, "batch_size": 64, "num_workers": 0}
    data = CocoPose("sample", **options)
    table = data.persons("val")
    rows = table.usable()
    boxes, images = table.clean_boxes(), table.images
    Reader.persons = {}
    for row in rows.tolist():
        middle = boxes[row, :2] + boxes[row, 2:] / 2
        Reader.persons.setdefault(int(table.image_numbers[images[row]]), []).append((middle, table.keypoints[row]))

    def evaluate(chosen: np.ndarray, **options_of_callback: Any) -> dict[str, float]:
        Finder.rows = [
            {
                "image_id": table.image_ids[images[row]],
                "category_id": 9,
                "bbox": boxes[row].tolist(),
                "score": 1.0,
            }
            for row in chosen.tolist()
        ]
        Finder.rows += [row | {"category_id": 7} for row in Finder.rows[:5]]  # dogs are not posed
        Finder.rows += [row | {"score": 0.01, "bbox": [0, 0, 9, 9]} for row in Finder.rows[:5]]
        makers = {"pose": lambda b: Reader(b, flip_test=False), "detection": Finder}
        task = MultiTask(HRNet("w18_small_v1"), makers)
        parts = {"pose": CocoPose("sample", **options), "detection": DetectionData("sample", **options)}
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        trainer = Trainer(
            accelerator="cpu",
            logger=False,
            default_root_dir=tmp_path,
            callbacks=[PosesOnDetections(**options_of_callback)],
            **quiet,
        )
        (found,) = trainer.validate(task, MultiTaskDataModule(parts, num_workers=0), verbose=False)
        assert task.modes["val/pose/AP_detected"] == "max"
        return found

    return rows, images, evaluate


@pytest.mark.slow
def test_poses_on_found_boxes_stand_beside_those_on_annotated_ones(evaluated):
    rows, images, evaluate = evaluated
    found = evaluate(rows)
    assert found["val/pose/AP"] > 0.95  # not 1 where two persons stand behind each other
    assert found["val/pose/AP_detected"] == pytest.approx(found["val/pose/AP"], abs=1e-6)
    half = evaluate(rows[images[rows] % 2 == 0])
    assert half["val/pose/AP"] == found["val/pose/AP"]
    assert 0.35 < half["val/pose/AP_detected"] < 0.65  # the persons of every other image
    one = evaluate(rows, boxes_per_image=1)
    several = np.mean(np.bincount(images[rows])[images[rows]] > 1)
    assert several > 0.3
    assert one["val/pose/AP_detected"] < found["val/pose/AP"] - 0.1
    assert evaluate(rows[:0])["val/pose/AP_detected"] == 0


def test_a_run_without_these_tasks_is_refused():
    task = MultiTask(HRNet("w18_small_v1"), {"pose": PoseTask})
    with pytest.raises(ValueError, match="about the tasks detection; this run has pose"):
        PosesOnDetections().setup(Trainer(barebones=True, accelerator="cpu"), task, "fit")


# ---- which boxes


class Caught(PosesOnDetections):
    """Keeps the boxes, of which the poses are taken for 0.75."""

    found: Any = None

    def _evaluated(self, trainer: Any, task: Any, found: Any) -> float:
        self.found = found
        return 0.75


def detected(image: str, score: float, category: int = 9, x: float = 0.0) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": [x, 1.0, 5.0, 6.0], "score": score}


def caught(rows: list[dict[str, Any]], callback: Caught, **changes: Any) -> dict[str, float]:
    """What is logged of a detector that has found these."""
    options = {"sanity": False, "partial": False, "overfit": None, "processes": 1, "split": "val"} | changes
    categories = [{"id": 7, "name": "dog"}, {"id": 9, "name": "Person"}]
    data = {
        "pose": SimpleNamespace(overfit=options["overfit"]),
        "detection": SimpleNamespace(ground_truth=lambda split: {"categories": categories}),
    }
    logged: dict[str, float] = {}
    task = SimpleNamespace(
        partial=options["partial"],
        split=options["split"],
        parts={"detection": SimpleNamespace(metric=SimpleNamespace(compute=dict, results=lambda: rows))},
        log=lambda name, value, sync_dist: logged.update({name: value}),
    )
    trainer = SimpleNamespace(
        sanity_checking=options["sanity"],
        world_size=options["processes"],
        datamodule=SimpleNamespace(tasks=data),
    )
    callback.on_validation_epoch_end(trainer, task)
    return logged


def test_the_best_persons_of_each_image_are_posed():
    rows = [
        detected("a", 0.2, x=1),
        detected("b", 0.05, x=2),  # as much as is asked for
        detected("a", 0.9, x=3),
        detected("b", 0.0499, x=4),
        detected("a", 0.95, category=7, x=5),  # a dog
        detected("a", 0.5, x=6),
    ]
    callback = Caught(boxes_per_image=2)
    assert caught(rows, callback) == {"val/pose/AP_detected": 0.75}
    assert callback.found.image_ids == ["a", "a", "b"]
    assert callback.found.boxes.tolist() == [[x, 1.0, 5.0, 6.0] for x in (3, 6, 2)]
    assert callback.found.scores.tolist() == [0.9, 0.5, 0.05]
    more = Caught(threshold=0.5, boxes_per_image=9)
    assert caught(rows, more, split="test") == {"test/pose/AP_detected": 0.75}
    assert more.found.scores.tolist() == [0.9, 0.5]


@pytest.mark.parametrize("changes", [{"sanity": True}, {"partial": True}, {"overfit": 3}])
def test_what_is_evaluated_in_part_only_is_not_posed(changes):
    assert caught([detected("a", 0.9)], callback := Caught(), **changes) == {}
    assert callback.found is None


@pytest.mark.parametrize(("boxes", "processes", "value"), [(0, 1, 0.0), (1, 1, 0.75), (1, 2, 0.0), (2, 2, 0.75)])
def test_of_fewer_boxes_than_processes_nothing_is_posed(boxes, processes, value):
    rows = [detected("a", 0.9)] * boxes
    assert caught(rows, callback := Caught(), processes=processes) == {"val/pose/AP_detected": value}
    assert (callback.found is None) == (value == 0)


def refusal(trainer: Any, maker: Any) -> str:
    task = MultiTask(HRNet("w18_small_v1"), {"pose": maker, "detection": Finder})
    with pytest.raises(ValueError, match="PosesOnDetections") as refused:
        PosesOnDetections().setup(trainer, task, "fit")
    return str(refused.value)


def test_poses_that_detected_boxes_say_nothing_of_are_refused_before_the_training(tmp_path: Path):
    trainer = Trainer(barebones=True, accelerator="cpu")
    said = refusal(trainer, lambda backbone: PoseTask(backbone, 16, measure="pckh"))
    assert "the task pose is measured by PCKh" in said
    assert "trainer.callbacks" in said
    mixture = MixedPose({"coco": {"data": CocoPose(tmp_path)}}, skeleton="union")
    trainer.datamodule = SimpleNamespace(tasks={"pose": mixture})
    assert "those of pose are a mixture of coco" in refusal(trainer, PoseTask)
    trainer.datamodule = SimpleNamespace(tasks={"pose": CocoPose(tmp_path)})
    task = MultiTask(HRNet("w18_small_v1"), {"pose": PoseTask, "detection": Finder})
    PosesOnDetections().setup(trainer, task, "fit")

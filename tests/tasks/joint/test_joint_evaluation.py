"""A joint evaluation gives on two processes what it gives on one, whatever the numbers of samples."""

import csv
import json
import os
import socket
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing

from datamodules import BaseDataModule, MultiTaskDataModule
from datamodules.base import BaseDataset
from datamodules.skeleton import Skeleton
from hrnet import HRNet
from tasks import ClassificationTask, MultiTask, PoseTask, SegmentationTask
from tests.tasks.joint.toys import quiet_trainer

SIZE = (32, 32)
SKELETON = Skeleton(names=("left", "right"), limbs=((0, 1),), flip_pairs=((0, 1),), sigmas=(0.3, 0.4))


class Facts(BaseDataset):
    """Noise, and the facts that a data set has about it."""

    def __init__(self, count: int, facts: dict) -> None:
        self.count, self.facts = count, facts

    def __len__(self) -> int:
        return self.count

    def sample(self, index: int, rng: np.random.Generator) -> dict:
        noise = np.random.default_rng((len(self.facts), index)).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
        return {"image": noise, "image_id": index, **{key: column[index] for key, column in self.facts.items()}}


class FactsData(BaseDataModule):
    num_classes = 3
    class_names = ["x", "y", "z"]
    palette = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    label_flip_pairs: list[tuple[int, int]] = []
    num_keypoints = 2
    skeleton = SKELETON

    def __init__(self, count: int, batch_size: int, facts: dict) -> None:
        super().__init__(".", image_size=SIZE, batch_size=batch_size, num_workers=0)
        self.count, self.facts = count, facts

    def dataset(self, split: str) -> Facts:
        return Facts(self.count, self.facts)

    def ground_truth(self, split: str) -> dict:
        persons = [
            {
                "id": i,
                "image_id": i,
                "category_id": 1,
                "bbox": [0, 0, 32, 32],
                "area": 1024.0,
                "iscrowd": 0,
                "keypoints": np.concatenate([points, np.full((2, 1), 2)], 1).ravel().tolist(),
            }
            for i, points in enumerate(self.facts["keypoints"])
        ]
        images = [{"id": i} for i in range(self.count)]
        return {"images": images, "annotations": persons, "categories": [{"id": 1}]}


def data() -> MultiTaskDataModule:
    """7 persons in batches of 2, 5 masks in batches of 3, 3 labels in batches of 2."""
    rng = np.random.default_rng(0)
    persons = {
        "keypoints": rng.uniform(0, 31, (7, 2, 2)).astype(np.float32),
        "visible": np.full((7, 2), 2),
        "to_image": np.tile(np.eye(3, dtype=np.float32)[:2], (7, 1, 1)),
        "area": np.full(7, 1024, dtype=np.float32),
        "score": np.linspace(0.5, 1, 7, dtype=np.float32),
        "instance_id": np.arange(7),
    }
    masks = {"mask": rng.integers(0, 3, (5, *SIZE))}
    masks["mask"][4, :20] = 255  # images count by their pixels
    parts = {
        "pose": FactsData(7, 2, persons),
        "parts": FactsData(5, 3, masks),
        "kind": FactsData(3, 2, {"label": np.array([0, 2, 2])}),
    }
    return MultiTaskDataModule(parts, num_workers=0)


def evaluated(processes: int, folder: Path) -> dict[str, float]:
    torch.manual_seed(0)
    makers = {
        "pose": partial(PoseTask, num_keypoints=2, flip_test=True),
        "parts": partial(SegmentationTask, num_classes=3),
        "kind": partial(ClassificationTask, num_classes=3),
    }
    joint = MultiTask(HRNet("w18_small_v1"), makers, baselines={"pose": 0.5, "parts": 0.5, "kind": 0.5})
    strategy = {"devices": processes, "strategy": "ddp" if processes > 1 else "auto"}
    return quiet_trainer(folder, 1, limit_val_batches=None, **strategy).validate(joint, data(), verbose=False)[0]


def evaluate_in_one_of_two(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "NODE_RANK": "0"}
    os.environ.update(place | {"LOCAL_RANK": str(rank), "RANK": str(rank)})
    (Path(folder) / f"{rank}.json").write_text(json.dumps(evaluated(2, Path(folder) / "two")))


@pytest.mark.slow
def test_two_processes_evaluate_as_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(evaluate_in_one_of_two, (port, str(tmp_path)), nprocs=2)
    expected = evaluated(1, tmp_path / "one")
    losses = {"val/pose/heatmap", "val/parts/cross_entropy", "val/kind/cross_entropy"}
    assert {"val/score", "val/delta_m", "val/pose/AP", "val/parts/mIoU", "val/kind/top1", *losses} <= set(expected)
    assert 0 < expected["val/pose/AP"] < 1
    assert 0 < expected["val/parts/mIoU"] < 1
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found == pytest.approx(expected, abs=1e-5)
    for name, count in (("pose", 7), ("parts", 5), ("kind", 3)):
        tables = []
        for folder in ("one", "two"):
            (path,) = (tmp_path / folder / "predictions").glob(f"*{name}*samples.csv")
            tables.append(list(csv.reader(path.open())))
        assert len(tables[0]) == count + 1
        for one, two in zip(*tables, strict=True):
            assert one[0] == two[0]
    poses = [
        json.loads((tmp_path / f / "predictions" / "pose" / "val_keypoints.json").read_text()) for f in ("one", "two")
    ]
    assert len(poses[0]) == len(poses[1]) == 7

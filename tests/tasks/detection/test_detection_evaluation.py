"""Losses and figures of an evaluated split do not depend on how its images are cut into batches, or on processes."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from torch.utils.data import DataLoader

from datamodules import CocoDetection
from datamodules.sample import sample_coco
from hrnet import HRNet
from tasks import DetectionTask
from tests.tasks.detection.scenes import DETECTORS, batch_of, random_batch, small_task
from tests.tasks.detection.test_detection import Batches, losses_of, quiet
from tests.tasks.joint.toys import quiet_trainer

IMAGES = 5


def images() -> dict[str, Any]:
    """With one object, with many, and without any."""
    drawn = random_batch(IMAGES - 1, 4, most=8)
    boxes = [rows.tolist() for rows in drawn["boxes"]]
    return batch_of([*boxes[:2], [], *boxes[2:]])


def parts(batch: dict[str, Any], size: int) -> list[dict[str, Any]]:
    return [{key: value[i : i + size] for key, value in batch.items()} for i in range(0, IMAGES, size)]


def apart(task: DetectionTask) -> DetectionTask:
    """With scores of which no two tie but for rounding: the order of proposals decides which are sampled."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in task.named_parameters():
            if "cls_logits" in name or "box_predictor" in name:
                parameter.normal_(std=0.2, generator=generator)
    return task.eval()


@pytest.mark.parametrize("detector", DETECTORS)
def test_losses_of_a_split_do_not_depend_on_the_size_of_batches(detector: str, tmp_path: Path) -> None:
    batch = images()
    assert len({len(boxes) for boxes in batch["boxes"]}) > 2
    found = []
    for size in (1, 3, 4):
        loader = DataLoader(Batches(parts(batch, size)), batch_size=None)
        found.append(quiet(tmp_path).validate(apart(small_task(detector)), loader, verbose=False)[0])
    task = apart(small_task(detector))
    with torch.no_grad():
        each = [losses_of(task, one) for one in parts(batch, 1)]
    expected = {f"val/{name}": sum(losses[name].item() for losses in each) / IMAGES for name in each[0]}
    expected["val/loss"] = sum(expected.values())
    for values in found:
        assert values == pytest.approx(expected, rel=1e-3)
    if detector != "retinanet":  # whose own are such means
        with torch.no_grad():
            whole = losses_of(task, batch)
        assert any(abs(whole[name].item() / expected[f"val/{name}"] - 1) > 0.01 for name in whole)


def evaluated(processes: int, detector: str, root: Path, folder: Path) -> dict[str, float]:
    """Figures of new weights, after which the same processes train for a step and evaluate."""
    torch.manual_seed(0)
    own = {"strides": [8, 16, 32]} if detector == "fcos" else {"box_channels": 32, "proposals": (60, 30)}
    options = {"channels": 32, "score_threshold": 0.0, "max_detections": 20, **own}
    task = apart(DetectionTask(HRNet("w18_small_v1"), 1, detector=detector, **options))
    masks = detector == "mask_rcnn"
    data = CocoDetection(root, image_size=(96, 128), batch_size=2, num_workers=0, masks=masks)
    trainer = {"limit_val_batches": None, "strategy": "ddp" if processes > 1 else "auto", "devices": processes}
    found = quiet_trainer(folder, 1, **trainer).validate(task, data, verbose=False)[0]
    if processes > 1:
        quiet_trainer(folder / "fit", 1, **trainer, limit_train_batches=1).fit(task, data)
    return found


def in_one_of_two(rank: int, port: int, detector: str, root: str, folder: str) -> None:
    torch.set_num_threads(1)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "NODE_RANK": "0"}
    os.environ.update(place | {"LOCAL_RANK": str(rank), "RANK": str(rank)})
    found = evaluated(2, detector, Path(root), Path(folder) / "two")
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["fcos", "mask_rcnn"])
def test_two_processes_evaluate_an_odd_number_of_images_as_one(detector: str, tmp_path: Path) -> None:
    root = sample_coco(tmp_path / "data", num_train=4, num_val=5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = (port, detector, str(root), str(tmp_path))
    processes = torch.multiprocessing.spawn(in_one_of_two, arguments, nprocs=2, join=False)
    ended = [processes.join(timeout=90) for _ in range(2)][-1]
    for process in processes.processes:
        process.kill()
    assert ended, "the processes wait for each other"
    expected = evaluated(1, detector, root, tmp_path / "one")
    assert {"val/AP", "val/loss"} <= expected.keys()
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == pytest.approx(expected, rel=1e-3, abs=1e-6)

"""Images of many sizes come one a batch; an odd number of them on two processes is evaluated as on one."""

import csv
import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing
from PIL import Image

from datamodules import FolderSegmentation
from hrnet import HRNet
from tasks import SegmentationTask
from tests.tasks.joint.toys import quiet_trainer

SIZES = ((32, 64), (64, 32), (32, 32), (64, 64), (32, 64))


def write(root: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for number, size in enumerate(SIZES):
            Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(root / f"images/{split}/{number}.png")
            mask = rng.choice(np.array([0, 1, 1, 2], np.uint8), size)
            mask[: 6 * number] = 255  # so that images differ in the pixels that count
            Image.fromarray(mask).save(root / f"masks/{split}/{number}.png")


def trained_and_evaluated(processes: int, root: Path, folder: Path) -> dict[str, float]:
    """Metrics of new weights, evaluated, after a training with an evaluation in it."""
    names = ["a", "b", "c"]
    paths = {
        "images": {s: f"images/{s}" for s in ("train", "val")},
        "masks": {s: f"masks/{s}" for s in ("train", "val")},
    }
    data = FolderSegmentation(
        root, class_names=names, **paths, image_size=(32, 32), batch_size=2, num_workers=0, evaluation="original"
    )
    torch.manual_seed(0)
    task = SegmentationTask(HRNet("w18_small_v1"), 3, class_weights=[1.0, 3.0, 0.5])
    options = {"limit_val_batches": None, "strategy": "ddp" if processes > 1 else "auto", "devices": processes}
    found = quiet_trainer(folder, 1, **options).validate(task, data, verbose=False)[0]
    predictions = quiet_trainer(folder, 1, **options).predict(task, data)
    assert {len(batch["labels"]) for batch in predictions if batch} == {1}
    found["predicted"] = sum(map(bool, predictions))
    if processes > 1:
        quiet_trainer(folder / "fit", 1, **options, limit_train_batches=1).fit(task, data)
    return found


def in_one_of_two(rank: int, port: int, root: str, folder: str) -> None:
    torch.set_num_threads(1)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "NODE_RANK": "0"}
    os.environ.update(place | {"LOCAL_RANK": str(rank), "RANK": str(rank)})
    found = trained_and_evaluated(2, Path(root), Path(folder) / "two")
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))


@pytest.mark.slow
def test_two_processes_evaluate_images_of_many_sizes_as_one(tmp_path: Path) -> None:
    write(tmp_path / "data")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = (port, str(tmp_path / "data"), str(tmp_path))
    processes = torch.multiprocessing.spawn(in_one_of_two, arguments, nprocs=2, join=False)
    ended = [processes.join(timeout=60) for _ in range(2)][-1]
    for process in processes.processes:
        process.kill()
    assert ended, "the processes wait for each other"
    expected = trained_and_evaluated(1, tmp_path / "data", tmp_path / "one")
    assert expected.pop("predicted") == len(SIZES)
    predicted = 0
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        predicted += found.pop("predicted")
        assert found == pytest.approx(expected, abs=1e-5)
    assert predicted == len(SIZES)
    tables = [(tmp_path / f / "predictions" / "val_samples.csv").open() for f in ("one", "two")]
    one, two = ([row[0] for row in csv.reader(table)] for table in tables)
    assert one == two
    assert len(one) == len(SIZES) + 1

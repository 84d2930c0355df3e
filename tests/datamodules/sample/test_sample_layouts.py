"""The sample data of segmentation and classification cannot be solved by always answering with the commonest class."""

import numpy as np
import pytest
import torch

from datamodules import FolderSegmentation, ImageFolder
from experiments.config import find, read
from tasks.metrics.confusion import SegmentationScores


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def test_majority_class_is_a_poor_segmentation():
    arguments = read(find("seg_folder.yaml"))["data"]["init_args"] | {"root": "sample", "num_workers": 0}
    arguments.pop("photometric")
    data = FolderSegmentation(**arguments | {"image_size": (128, 96)})
    data.setup("validate")
    scores = SegmentationScores(data.num_classes, data.class_names)
    for batch in data.val_dataloader():
        scores.update(torch.zeros_like(batch["mask"], dtype=torch.long), batch["mask"])
    assert scores.compute()["mIoU"] < 0.15
    assert scores.compute()["pixel_accuracy"] > 0.8  # why accuracy alone says little


def test_majority_class_is_a_poor_classification():
    data = ImageFolder("sample", image_size=(64, 64), num_workers=0)
    data.setup("validate")
    labels = np.concatenate([batch["label"].numpy() for batch in data.val_dataloader()])
    assert np.bincount(labels).max() / len(labels) < 0.25

"""What trains in silence and learns nothing is stopped before the first step, with an explanation."""

import pytest
import torch

from datamodules import CocoPose
from datamodules.base import BaseDataset
from hrnet import HRNet
from tasks import ClassificationTask, MSRACodec, MultiTask, PoseTask, SegmentationTask

BACKBONE = {"variant": "w18_small_v1"}


@pytest.fixture(scope="module")
def pose_batch() -> dict:
    data = CocoPose("sample", image_size=(64, 48), num_workers=0)
    return data.preview(16)


def test_preview_is_spread_over_the_training_samples_and_disturbs_nothing(pose_batch):
    before = torch.get_rng_state()
    data = CocoPose("sample", image_size=(64, 48), num_workers=0)
    batch = data.preview(16)
    assert torch.equal(batch["image"], pose_batch["image"])
    assert torch.equal(torch.get_rng_state(), before)
    dataset: BaseDataset = data.split("train")
    assert batch["instance_id"][-1] == dataset[len(dataset) - 1, 0]["instance_id"]
    assert len(data.preview(10**6)["image"]) == len(dataset)


def test_sound_samples_pass(pose_batch):
    PoseTask(BACKBONE).check(pose_batch)
    mask = torch.arange(2).repeat(16, 8, 4)
    SegmentationTask(BACKBONE, 3).check({"image": pose_batch["image"], "mask": mask})
    ClassificationTask(BACKBONE, 3).check({"image": pose_batch["image"], "label": torch.arange(16) % 3})


def broken(task: str, batch: dict) -> dict:
    image = batch["image"]
    return {
        "no key point": {**batch, "visible": torch.zeros_like(batch["visible"])},
        "all outside": {**batch, "keypoints": batch["keypoints"] + 500},
        "one colour": {**batch, "image": torch.full_like(image, 114)},
        "ignored": {"image": image, "mask": torch.full((16, 64, 48), 255)},
        "one class": {"image": image, "mask": torch.ones(16, 64, 48, dtype=torch.long)},
        "one label": {"image": image, "label": torch.full((16,), 2)},
    }[task]


@pytest.mark.parametrize(
    ("what", "task", "words"),
    [
        ("no key point", PoseTask(BACKBONE), "labelled key point"),
        ("all outside", PoseTask(BACKBONE), "all zero"),
        ("one colour", PoseTask(BACKBONE), "one colour only"),
        ("ignored", SegmentationTask(BACKBONE, 3), "is ignored"),
        ("one class", SegmentationTask(BACKBONE, 3, class_names=["a", "b", "c"]), "one class alone, b"),
        ("one label", ClassificationTask(BACKBONE, 3), "of one class, 2"),
    ],
)
def test_what_cannot_be_learned_is_explained(what, task, words, pose_batch):
    with pytest.raises(ValueError, match=words):
        task.check(broken(what, pose_batch))


def test_a_codec_that_does_not_give_points_back_is_named(pose_batch, monkeypatch):
    decode = MSRACodec.decode

    def transposed(self, heatmaps):
        points, scores = decode(self, heatmaps)
        return points.flip(-1), scores

    monkeypatch.setattr(MSRACodec, "decode", transposed)
    with pytest.raises(ValueError, match=r"off by .* pixels of the crop"):
        PoseTask(BACKBONE).check(pose_batch)


def test_a_joint_run_says_whose_samples(pose_batch):
    joint = MultiTask(HRNet("w18_small_v1"), {"pose": PoseTask})
    with pytest.raises(ValueError, match=r"Task 'pose'.*labelled"):
        joint.check({"pose": broken("no key point", pose_batch)})

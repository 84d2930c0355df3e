"""Batches of landscape or of portrait images alone: every sample, whole batches, resumed alike, sizes as published."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import MultiTaskDataModule
from datamodules.base import BaseDataset
from datamodules.loading.samplers import GroupedSampler
from tests.datamodules.detection.conftest import detection


def test_every_image_is_evaluated_once_at_its_size_by_orientation(drawn: Path) -> None:
    data = detection(drawn, image_size=(64, 128), sides=(60, 120), grouped=True)
    ids, mixed = [], 0
    for batch in data.val_dataloader():
        ids += batch["image_id"].tolist()
        shapes = {tuple(size) for size in batch["size"].tolist()}
        wide = [height <= width for height, width in shapes]
        mixed += len(set(wide)) > 1
        expected = (128, 128) if len(set(wide)) > 1 else (64, 128) if wide[0] else (128, 64)
        assert batch["image"].shape[2:] == expected
        assert all(min(shape) == 60 or max(shape) == 120 for shape in shapes)
    assert sorted(ids) == list(range(1, 21))
    assert mixed <= 1


class Kinds(BaseDataset):
    """Samples of two kinds."""

    def __init__(self, kinds: list[int]) -> None:
        self.kinds = kinds

    def __len__(self) -> int:
        return len(self.kinds)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        return {"image": np.zeros((2, 2, 3), np.uint8), "image_id": index}

    def group(self, index: int) -> int:
        return self.kinds[index]


@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("kinds", [[0, 1] * 8, [0] * 13 + [1] * 3, [1] * 5, [0]])
def test_batches_are_of_one_kind_and_have_every_sample(kinds: list[int], replicas: int) -> None:
    dataset, size = Kinds(kinds), 4
    samplers = [GroupedSampler(dataset, replicas, rank, batch_size=size) for rank in range(replicas)]
    passes = []
    for turn in range(3):
        for sampler in samplers:
            sampler.set_epoch(turn)
        rows = [list(sampler) for sampler in samplers]
        assert {len(found) for found in rows} == {len(samplers[0])}
        assert len(samplers[0]) % size == 0
        assert {key[1] for found in rows for key in found} == {turn}
        for found in rows:
            for start in range(0, len(found), size):
                assert len({kinds[index] for index, _ in found[start : start + size]}) == 1
        indices = [index for found in rows for index, _ in found]
        assert set(indices) == set(range(len(kinds)))
        counts = np.bincount(indices, minlength=len(kinds))
        for kind in set(kinds):
            of = counts[np.array(kinds) == kind]
            assert of.max() - of.min() <= 1  # padding repeats evenly
        passes.append(indices)
    assert len(kinds) < 4 or passes[0] != passes[1]


@pytest.mark.parametrize("behind", [1, 3])
def test_a_resumed_pass_goes_on_with_the_same_batches(behind: int) -> None:
    dataset = Kinds([0, 0, 1] * 9)
    whole = GroupedSampler(dataset, batch_size=4)
    whole.set_epoch(2)
    resumed = GroupedSampler(dataset, batch_size=4, start=(2, 4 * behind))
    assert list(resumed) == list(whole)[4 * behind :]
    # In a joint run epochs are stretches of an endless row of passes.
    short = GroupedSampler(dataset, batch_size=4, samples=8)
    row = []
    for epoch in range(4):
        short.set_epoch(epoch)
        row += list(short)
    endless = []
    for epoch in range(2):
        whole.set_epoch(epoch)
        endless += list(whole)
    assert row == endless[: len(row)]


def test_training_batches_have_one_canvas_each(drawn: Path) -> None:
    data = detection(drawn, image_size=(64, 128), grouped=True, masks=True)
    seen = set()
    for batch in data.train_dataloader():
        assert len(batch["image"]) == 4
        shape = tuple(batch["image"].shape[2:])
        seen.add(shape)
        assert all(masks.shape[1:] == shape for masks in batch["masks"])
        assert all((height <= width) == (shape == (64, 128)) for height, width in batch["size"].tolist())
        assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    assert seen == {(64, 128), (128, 64)}
    assert data.state_dict()["grouped"]
    assert "grouped" not in detection(drawn).state_dict()


def test_workers_give_the_same_batches_and_joint_runs_take_groups(drawn: Path) -> None:
    options = {"image_size": (64, 128), "grouped": True}
    alone, together = detection(drawn, **options), detection(drawn, **options, num_workers=2)
    for one, other in zip(alone.train_dataloader(), together.train_dataloader(), strict=True):
        assert torch.equal(one["image"], other["image"])
        assert all(map(torch.equal, one["boxes"], other["boxes"]))
    joint = MultiTaskDataModule({"objects": detection(drawn, **options), "others": detection(drawn)})
    for batch, _, _ in joint.train_dataloader():
        assert tuple(batch["objects"]["image"].shape[2:]) in {(64, 128), (128, 64)}
        assert tuple(batch["others"]["image"].shape[2:]) == (128, 128)

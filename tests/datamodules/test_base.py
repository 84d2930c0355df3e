"""Loaders: reproducible draws, every sample once in evaluation, batches as the table says, helpful errors."""

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import LightningModule, Trainer

from datamodules import BaseDataModule, CocoPose, DataError
from datamodules.base import BaseDataset, collate
from datamodules.loading.dataset import in_threads
from datamodules.loading.samplers import EvaluationSampler, TrainingSampler, even_batch_size
from tests.conftest import ROOT


class Numbers(BaseDataset):
    """Images of the index, with one random draw."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        image = np.full((4, 6, 3), index, np.uint8)
        return {"image": image, "image_id": index, "draw": rng.random(), "boxes": np.ones((index % 3, 4), np.float32)}


class NumbersData(BaseDataModule):
    """Numbers without files."""

    layout = "    numbers.txt"
    source = "https://example.org/numbers."
    rendered = 0

    def __init__(self, root: str | Path, count: int = 10, **kwargs: Any) -> None:
        super().__init__(root, image_size=(4, 6), **kwargs)
        self.count = count

    def dataset(self, split: str) -> Numbers:
        return Numbers(self.count)


def draws(loader: torch.utils.data.DataLoader, epoch: int) -> dict[int, float]:
    loader.sampler.set_epoch(epoch)
    return {int(i): float(draw) for batch in loader for i, draw in zip(batch["image_id"], batch["draw"], strict=True)}


def test_draws_follow_from_seed_epoch_and_index_not_from_workers(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    alone = NumbersData(tmp_path, batch_size=2, num_workers=0).train_dataloader()
    together = NumbersData(tmp_path, batch_size=2, num_workers=2).train_dataloader()
    first = draws(alone, 4)
    assert list(first.items()) == list(draws(together, 4).items())
    assert first == {index: Numbers(10)[index, 4]["draw"] for index in range(10)}
    assert len(set(first.values())) == 10  # no two samples of an epoch draw alike
    assert list(draws(alone, 5)) != list(first)
    assert not set(draws(together, 5).values()) & set(first.values())
    monkeypatch.setenv("PL_GLOBAL_SEED", "4")
    other_seed = draws(NumbersData(tmp_path, batch_size=2, num_workers=0).train_dataloader(), 4)
    assert list(other_seed) != list(first)
    assert not set(other_seed.values()) & set(first.values())


@given(st.integers(1, 40), st.integers(1, 4), st.integers(0, 3))
def test_training_covers_everything_and_gives_each_process_as_much(count: int, replicas: int, epoch: int) -> None:
    samplers = [TrainingSampler(Numbers(count), replicas, rank) for rank in range(replicas)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    keys = [list(sampler) for sampler in samplers]
    assert {len(part) for part in keys} == {len(samplers[0])}
    assert {index for part in keys for index, _ in part} == set(range(count))
    assert {drawn_in for part in keys for _, drawn_in in part} == {epoch}


def test_a_resumed_order_leaves_out_what_is_behind_in_its_own_epoch_only() -> None:
    whole, resumed = TrainingSampler(Numbers(10)), TrainingSampler(Numbers(10), start=(1, 4))
    for epoch, behind in ((1, 4), (2, 0)):
        whole.set_epoch(epoch)
        resumed.set_epoch(epoch)
        assert list(resumed) == list(whole)[behind:]


@pytest.mark.parametrize("replicas", [1, 2, 3])
@given(st.integers(3, 200))
def test_evaluation_meets_every_sample_once_in_contiguous_blocks(replicas: int, count: int) -> None:
    samplers = [EvaluationSampler(Numbers(count), replicas, rank) for rank in range(replicas)]
    assert [index for sampler in samplers for index in sampler] == list(range(count))
    assert [len(sampler) for sampler in samplers] == [len(list(sampler)) for sampler in samplers]


@given(st.integers(1, 500), st.integers(1, 8), st.integers(1, 64))
def test_every_process_evaluates_equally_many_batches(count: int, replicas: int, batch_size: int) -> None:
    count += replicas
    size = even_batch_size(count, replicas, batch_size)
    blocks = {len(EvaluationSampler(Numbers(count), replicas, rank)) for rank in range(replicas)}

    def batches(size: int) -> set[int]:
        return {-(-block // size) for block in blocks}

    assert len(batches(size)) == 1
    # No size between the chosen and the wanted one would have done.
    assert all(len(batches(other)) > 1 for other in range(min(size + 1, batch_size + 1), batch_size + 1))
    assert size <= batch_size or all(len(batches(other)) > 1 for other in range(1, batch_size + 1))


def test_batch_is_channels_last_and_keeps_lists() -> None:
    batch = collate([Numbers(5)[index] for index in range(5)])
    assert batch["image"].shape == (5, 3, 4, 6)
    assert batch["image"].dtype == torch.uint8
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    assert batch["image"][:, 0, 0, 0].tolist() == batch["image_id"].tolist() == list(range(5))
    assert batch["image_id"].dtype == torch.int64
    assert [boxes.shape for boxes in batch["boxes"]] == [(n, 4) for n in (0, 1, 2, 0, 1)]


@pytest.mark.parametrize(("count", "sizes"), [(10, [4, 4]), (4, [4]), (3, [3])])
def test_only_an_incomplete_batch_after_a_full_one_is_dropped(tmp_path: Path, count: int, sizes: list[int]) -> None:
    data = NumbersData(tmp_path, count=count, batch_size=4, num_workers=0)
    assert [len(batch["image"]) for batch in data.train_dataloader()] == sizes
    for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        assert torch.cat([batch["image_id"] for batch in loader]).tolist() == list(range(count))


def test_missing_root_names_folder_tree_source_and_the_sample_where_there_is_one(tmp_path: Path) -> None:
    data = NumbersData(tmp_path / "nowhere")
    for step in (data.prepare_data, lambda: data.folder):
        with pytest.raises(DataError) as error:
            step()
        for part in (str(tmp_path / "nowhere"), "numbers.txt", "https://example.org/numbers"):
            assert part in str(error.value)
        assert "sample" not in str(error.value)
    with pytest.raises(DataError, match=r"(?s)nowhere.*sample\.yaml.*root: sample|nowhere.*root: sample.*sample\.yaml"):
        _ = CocoPose(tmp_path / "nowhere", image_size=(64, 48)).folder


def test_sample_root_is_the_data_sets_own_affair(tmp_path: Path) -> None:
    class Rendered(NumbersData):
        @classmethod
        def sample_root(cls) -> Path:
            (tmp_path / "rendered").mkdir(exist_ok=True)
            return tmp_path / "rendered"

    data = Rendered("sample")
    data.prepare_data()
    data.setup("fit")
    assert data.folder == tmp_path / "rendered"
    with pytest.raises(DataError, match="NumbersData has no embedded sample data"):
        NumbersData("sample").prepare_data()


@pytest.mark.parametrize(
    ("stage", "splits"),
    [
        ("fit", ["train", "val"]),
        ("validate", ["val"]),
        ("test", ["val"]),
        ("predict", ["val"]),
        (None, ["train", "val"]),
    ],
)
def test_setup_builds_each_needed_split_once(tmp_path: Path, stage: str | None, splits: list[str]) -> None:
    built = []

    class Counting(NumbersData):
        def dataset(self, split: str) -> Numbers:
            built.append(split)
            return super().dataset(split)

    data = Counting(tmp_path)
    data.setup(stage)
    data.setup(stage)
    assert built == splits


def test_sizes_that_are_not_positive_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="batch_size 0"):
        NumbersData(tmp_path, batch_size=0)


class Recorder(LightningModule):
    """Writes down what Lightning hands over."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.epochs: dict[int, dict[int, float]] = {}
        self.validated: list[int] = []

    def training_step(self, batch: dict[str, Any], _: int) -> torch.Tensor:
        drawn = zip(batch["image_id"].tolist(), batch["draw"].tolist(), strict=True)
        self.epochs.setdefault(self.current_epoch, {}).update(drawn)
        return self.weight.sum()

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        self.validated += batch["image_id"].tolist()

    def predict_step(self, batch: dict[str, Any], _: int) -> list[int]:
        return batch["image_id"].tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore")
def test_lightning_leaves_the_samplers_alone_and_counts_epochs(tmp_path: Path) -> None:
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=tmp_path,
    )  # fmt: skip
    module, data = Recorder(), NumbersData(tmp_path, batch_size=5, num_workers=0)
    trainer.fit(module, data)
    assert module.epochs == {epoch: {i: Numbers(10)[i, epoch]["draw"] for i in range(10)} for epoch in (0, 1)}
    assert module.validated == 2 * list(range(10))
    assert list(itertools.chain(*trainer.predict(module, data))) == list(range(10))


@pytest.mark.filterwarnings("ignore")
def test_overfitting_a_few_batches_sees_the_same_samples_every_epoch(tmp_path: Path) -> None:
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, overfit_batches=1, default_root_dir=tmp_path,
    )  # fmt: skip
    module = Recorder()
    trainer.fit(module, NumbersData(tmp_path, batch_size=5, num_workers=0))
    assert module.epochs[0] == module.epochs[1]
    assert list(module.epochs[0]) == list(range(5))


def test_workers_default_to_the_cores_but_at_most_eight(tmp_path: Path) -> None:
    assert 1 <= NumbersData(tmp_path).num_workers <= min(8, os.cpu_count() or 1)
    assert NumbersData(tmp_path, num_workers=0).num_workers == 0


def test_a_data_set_without_classes_or_key_points_says_so(tmp_path: Path) -> None:
    data = NumbersData(tmp_path)
    assert (data.num_classes, data.num_keypoints, data.skeleton, data.preparer) == (None, None, None, None)
    assert not [*data.class_names, *data.palette, *data.label_flip_pairs]
    assert data.parts == {"": data}
    with pytest.raises(DataError, match="NumbersData has no ground truth"):
        data.ground_truth("val")


def test_the_first_folder_that_exists_is_taken(tmp_path: Path) -> None:
    data = NumbersData(tmp_path)
    (tmp_path / "images" / "val").mkdir(parents=True)
    assert data.existing("image", "val", "images/val") == tmp_path / "images" / "val"
    (tmp_path / "val").mkdir()
    assert data.existing("image", "val", "images/val") == tmp_path / "val"
    with pytest.raises(
        DataError, match=r"no image folder train or images/train in [\s\S]*numbers\.txt[\s\S]*example\.org"
    ):
        data.existing("image", "train", "images/train")


@pytest.mark.parametrize("count", [0, 1, 512, 1300])
def test_threads_keep_the_order_of_their_jobs(count: int) -> None:
    assert in_threads(lambda job: 2 * job, range(count)) == list(range(0, 2 * count, 2))


def test_a_program_that_leaves_its_loaders_running_ends_without_a_word() -> None:
    """torch takes the end of a loader for an accident, and would raise an error in whatever runs while Python ends."""
    program = (
        "from tests.datamodules.test_base import NumbersData\n"
        "batches = iter(NumbersData('.', batch_size=1, num_workers=2).train_dataloader())\n"
        "next(batches)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("accelerator", "pinned"), [("cpu", False), (None, True)])
def test_memory_is_pinned_for_a_gpu_that_is_used(accelerator: str | None, pinned: bool, monkeypatch) -> None:
    data = NumbersData(".", num_workers=0)
    data.trainer = accelerator and Trainer(accelerator=accelerator, logger=False, enable_checkpointing=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert data.train_dataloader().pin_memory is pinned
    assert data.val_dataloader().pin_memory is pinned


@given(st.integers(1, 100), st.integers(1, 8))
def test_blocks_of_samples_that_do_not_stack_are_evened_by_batches_without_samples(count: int, replicas: int) -> None:
    count += replicas - 1
    blocks = [list(EvaluationSampler(Numbers(count), replicas, rank, evened=True)) for rank in range(replicas)]
    assert len({len(block) for block in blocks}) == 1
    assert [index for block in blocks for index in block if index is not None] == list(range(count))
    assert all(None not in block[:-1] for block in blocks)
    assert Numbers(count)[None] == collate([{}]) == {}

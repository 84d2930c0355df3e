"""Joint loader: whose turn it is, how long an epoch is, that no sample is lost, and that a resumed run goes on."""

from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer

from datamodules import BaseDataModule, DataError, MultiTaskDataModule
from datamodules.base import BaseDataset
from datamodules.images.preparer import Preparer
from datamodules.loading.samplers import TrainingSampler
from datamodules.multitask import apportion


class Rows(BaseDataset):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def sample(self, index: int, rng: np.random.Generator) -> dict:
        image = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        return {"image": image, "image_id": index}


@dataclass(frozen=True)
class Prepared(Preparer):
    name: str = ""

    def __call__(self, image: np.ndarray, *box: np.ndarray) -> dict:
        return {"image": image}


class Toy(BaseDataModule):
    def __init__(self, count: int, batch_size: int = 2, val: int | None = None, num_workers: int = 0) -> None:
        super().__init__(".", image_size=(4, 4), batch_size=batch_size, num_workers=num_workers)
        self.count, self.val = count, val or count

    @property
    def preparer(self) -> Prepared:
        return Prepared(self.image_size, name=f"of {self.batch_size}")

    def dataset(self, split: str) -> Rows:
        return Rows(self.count if split == "train" else self.val)


def joint(counts: dict[str, int], **options) -> MultiTaskDataModule:
    return MultiTaskDataModule({name: Toy(count) for name, count in counts.items()}, num_workers=0, **options)


def at(data: MultiTaskDataModule, epoch: int, completed: int = 0) -> MultiTaskDataModule:
    """As Lightning has it at the start of an epoch, or when resumed within it."""
    current = SimpleNamespace(processed=epoch, ready=epoch + (completed > 0))
    batches = SimpleNamespace(current=SimpleNamespace(processed=completed))
    loop = SimpleNamespace(epoch_progress=SimpleNamespace(current=current))
    loop.epoch_loop = SimpleNamespace(batch_progress=batches)
    data.trainer = SimpleNamespace(fit_loop=loop)
    return data


def steps(data: MultiTaskDataModule, epoch: int = 0, completed: int = 0) -> list[dict[str, list[int]]]:
    loader = at(data, epoch, completed).train_dataloader()
    for part in loader.flattened:
        part.sampler.set_epoch(epoch)
    batches = [batch for batch, _, _ in loader]
    return [{k: [*b["image_id"].tolist(), int(b["image"].sum())] for k, b in batch.items()} for batch in batches]


def test_all_gives_every_part_in_every_step_and_lasts_as_long_as_the_longest():
    data = joint({"a": 12, "b": 4})
    found = steps(data)
    assert len(found) == 6 == data.counts()["a"]
    assert all(set(step) == {"a", "b"} for step in found)
    assert sorted(i for step in found for i in step["a"][:2]) == list(range(12))
    assert Counter(i for step in found for i in step["b"][:2]) == dict.fromkeys(range(4), 3)


def test_the_shortest_part_can_set_the_epoch():
    found = steps(joint({"a": 12, "b": 4}, epoch_length="shortest"))
    assert len(found) == 2
    assert sorted(i for step in found for i in step["b"][:2]) == list(range(4))


def test_a_share_of_the_shortest_part_can_be_an_epoch():
    data = joint({"a": 24, "b": 8}, epoch_length=0.5)
    first, second = steps(data), steps(data, epoch=1)
    assert [len(first), len(second)] == [2, 2]
    assert sorted(i for step in first + second for i in step["b"][:2]) == list(range(8))
    assert len({i for step in first + second for i in step["a"][:2]}) == 8


def test_a_pass_goes_on_across_epochs():
    sampler = TrainingSampler(Rows(5), samples=4)
    drawn = []
    for epoch in range(5):
        sampler.set_epoch(epoch)
        drawn += list(sampler)
    assert [turn for _, turn in drawn] == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
    passes = [[index for index, turn in drawn if turn == k] for k in range(4)]
    assert all(sorted(one) == list(range(5)) for one in passes)
    assert len({tuple(one) for one in passes}) > 1


def test_processes_share_a_pass():
    drawn = []
    for rank in range(2):
        sampler = TrainingSampler(Rows(6), 2, rank, samples=3)
        drawn += [index for index, _ in sampler]
    assert sorted(drawn) == list(range(6))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"policy": "round_robin"}, {"a": 10, "b": 10}),
        ({"policy": "proportional"}, {"a": 16, "b": 4}),
        ({"policy": "temperature", "temperature": 2.0}, {"a": 13, "b": 7}),  # 4 : 2
        ({"policy": "ratios", "ratios": {"a": 1.0, "b": 3.0}}, {"a": 5, "b": 15}),
        ({"policy": "proportional", "epoch_length": 5}, {"a": 4, "b": 1}),
        ({"policy": "all", "epoch_length": 3}, {"a": 3, "b": 3}),
        ({"policy": "all", "epoch_length": 1}, {"a": 1, "b": 1}),
        ({"policy": "all", "epoch_length": 1.0}, {"a": 4, "b": 4}),
        ({"policy": "all", "epoch_length": 0.7}, {"a": 2, "b": 2}),
        ({"policy": "all", "epoch_length": 0.1}, {"a": 1, "b": 1}),
        ({"policy": "temperature", "temperature": 1.0}, {"a": 16, "b": 4}),
        ({"policy": "temperature", "temperature": 1000.0}, {"a": 10, "b": 10}),
    ],
)
def test_shares_are_those_of_the_policy(options, expected):
    data = joint({"a": 32, "b": 8}, **options)
    assert data.counts() == expected
    found = steps(data)
    assert Counter(name for step in found for name in step) == expected
    assert len(data.train_dataloader().flattened[0]) == len(found)


def test_round_robin_takes_turns_and_the_others_are_shuffled_anew_every_epoch():
    turns = [next(iter(step)) for step in steps(joint({"a": 8, "b": 8}, policy="round_robin"))]
    assert turns == ["a", "b"] * 4
    data = joint({"a": 40, "b": 40}, policy="proportional")
    orders = [[next(iter(step)) for step in steps(data, epoch)] for epoch in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("policy", ["all", "round_robin", "proportional"])
@pytest.mark.parametrize(("epoch", "completed"), [(0, 3), (2, 1), (2, 0), (1, 5)])
def test_resumed_within_an_epoch_it_goes_on_with_the_next_batch(policy, epoch, completed):
    whole = steps(joint({"a": 12, "b": 6}, policy=policy), epoch)
    assert steps(joint({"a": 12, "b": 6}, policy=policy), epoch, completed) == whole[completed:]


def test_after_the_resumed_epoch_nothing_is_left_out():
    data = joint({"a": 12, "b": 6}, policy="proportional")
    whole = steps(data, 3)
    loader = at(data, 2, 4).train_dataloader()
    loader.flattened[0].sampler.set_epoch(3)
    found = [{k: b["image_id"].tolist() for k, b in batch.items()} for batch, _, _ in loader]
    assert found == [{k: b[:-1] for k, b in batch.items()} for batch in whole]


class Listener(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict] = []

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        self.seen.append({name: part["image_id"].tolist() for name, part in batch.items()})

    test_step = validation_step

    def predict_step(self, batch: dict, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)


def quiet_trainer(**options) -> Trainer:
    return Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, **options)


@pytest.mark.parametrize("action", ["validate", "test", "predict"])
def test_evaluation_meets_every_sample_once(action):
    listener = Listener()
    getattr(quiet_trainer(), action)(listener, joint({"a": 7, "b": 3}))
    for name, count in (("a", 7), ("b", 3)):
        assert [i for step in listener.seen for i in step.get(name, [])] == list(range(count))
    assert all(listener.seen)


def test_limit_holds_for_every_part():
    listener = Listener()
    quiet_trainer(limit_val_batches=2).validate(listener, joint({"a": 9, "b": 1}))
    assert listener.seen == [{"a": [0, 1], "b": [0]}, {"a": [2, 3]}]


def test_images_labelled_for_two_tasks_are_loaded_once():
    data = MultiTaskDataModule({"a": Toy(4), "c": "a"}, num_workers=0)
    assert data.tasks == {"a": data.parts["a"], "c": data.parts["a"]}
    batch, _, _ = next(iter(at(data, 0).train_dataloader()))
    assert set(batch) == {"a"}
    batch = data.on_after_batch_transfer(batch, 0)
    assert batch["c"]["image"] is batch["a"]["image"]


def test_what_is_given_at_the_top_replaces_that_of_the_parts():
    parts = {"a": Toy(4), "b": Toy(6, batch_size=3)}
    data = MultiTaskDataModule(parts, num_workers=3)
    assert [part.num_workers for part in parts.values()] == [2, 2]
    assert [part.batch_size for part in parts.values()] == [2, 3]
    assert (data.image_size, str(data.root)) == ((4, 4), ".")
    MultiTaskDataModule(parts, root="sample", image_size=(8, 6), batch_size=5, num_workers=0, overfit=1)
    for part in parts.values():
        assert (part.root, part.image_size, part.batch_size, part.num_workers) == ("sample", (8, 6), 5, 0)
        assert len(part.split("val")) == 1


def unlike(**options) -> MultiTaskDataModule:
    return MultiTaskDataModule({"a": Toy(12, 2), "b": Toy(15, 5)}, num_workers=0, **options)


def test_every_part_has_its_own_batch_size():
    data = unlike()
    assert data.counts() == {"a": 6, "b": 6}
    found = steps(data)
    assert {(len(step["a"]) - 1, len(step["b"]) - 1) for step in found} == {(2, 5)}
    assert sorted(i for step in found[:3] for i in step["b"][:-1]) == list(range(15))
    assert unlike(policy="proportional").counts() == {"a": 6, "b": 3}
    assert unlike(epoch_length="shortest").counts() == {"a": 3, "b": 3}
    assert MultiTaskDataModule({"b": Toy(15, 5), "a": Toy(12, 2)}, num_workers=0).counts() == {"a": 6, "b": 6}


@pytest.mark.parametrize("policy", ["all", "proportional"])
def test_processes_take_turns_alike_and_share_the_samples(policy, monkeypatch):
    ranks = []
    for rank in range(2):
        monkeypatch.setattr("datamodules.multitask.world", lambda rank=rank: (2, rank))
        data = MultiTaskDataModule({"a": Toy(12, 2), "b": Toy(20, 5)}, policy=policy, num_workers=0)
        assert data.counts() == ({"a": 3, "b": 3} if policy == "all" else {"a": 3, "b": 2})
        ranks.append(steps(data))
    assert [set(step) for step in ranks[0]] == [set(step) for step in ranks[1]]
    for name, count in (("a", 12), ("b", 20)):
        seen = Counter(i for found in ranks for step in found if name in step for i in step[name][:-1])
        assert set(seen) == set(range(count))
        assert max(seen.values()) == (2 if (policy, name) == ("all", "b") else 1)


@pytest.mark.parametrize("policy", ["all", "ratios"])
def test_loader_processes_change_nothing(policy):
    options = {"policy": policy, "ratios": {"a": 1.0, "b": 2.0}} if policy == "ratios" else {}
    parts = {"a": Toy(12, 2), "b": Toy(15, 5)}
    assert steps(MultiTaskDataModule(parts, num_workers=2, **options)) == steps(unlike(**options))


def test_order_of_turns_follows_from_the_seed(monkeypatch):
    def turns(seed: int) -> list[str]:
        monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
        return [next(iter(step)) for step in steps(joint({"a": 20, "b": 20}, policy="proportional"))]

    assert turns(1) == turns(1) != turns(2)


def test_a_preview_is_of_every_task_with_its_own_images():
    data = MultiTaskDataModule({"a": Toy(9), "b": Toy(30), "c": "a"}, num_workers=0)
    found = data.preview(3)
    assert {name: part["image_id"].tolist() for name, part in found.items()} == {
        "a": [0, 4, 8],
        "b": [0, 14, 29],
        "c": [0, 4, 8],
    }


def test_images_are_prepared_as_the_part_that_a_task_takes_them_from():
    data = MultiTaskDataModule({"a": Toy(9), "b": Toy(30, 5), "c": "b"}, num_workers=0)
    names = {name: found["init_args"]["name"] for name, found in data.preparation().items()}
    assert names == {"a": "of 2", "b": "of 5", "c": "of 5"}
    assert data.preparation()["a"]["class_path"] == f"{__name__}.Prepared"


def test_prediction_is_of_the_test_split_one_part_after_the_other():
    class Tested(Toy):
        test_split = "test"

        def dataset(self, split: str) -> Rows:
            return Rows({"train": 8, "val": 1, "test": 5}[split])

    listener = Listener()
    quiet_trainer().predict(listener, MultiTaskDataModule({"a": Tested(8), "b": Tested(8, 4)}, num_workers=0))
    assert listener.seen == [{"a": [0, 1]}, {"a": [2, 3]}, {"a": [4]}, {"b": [0, 1, 2, 3]}, {"b": [4]}]


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"image_size": (0, 4)}, {"overfit": 0}])
def test_numbers_that_cannot_be_are_refused_as_in_every_datamodule(options):
    with pytest.raises(DataError, match=r"positive|at least 1"):
        joint({"a": 4, "b": 4}, **options)


def test_every_part_is_trained_and_evaluated_on_the_samples_to_overfit():
    data = joint({"a": 12, "b": 8}, overfit=2)
    assert [len(part.split("train")) for part in data.parts.values()] == [2, 2]
    assert [len(part.split("val")) for part in data.parts.values()] == [2, 2]
    assert data.counts() == {"a": 1, "b": 1}


@pytest.mark.parametrize(
    ("shares", "total", "expected"),
    [
        ({"a": 1, "b": 2}, 4, {"a": 1, "b": 3}),  # 1.33 and 2.67: the larger remainder
        ({"a": 3, "b": 3, "c": 1}, 8, {"a": 4, "b": 3, "c": 1}),  # of equal remainders the first
        ({"a": 1, "b": 1, "c": 100}, 3, {"a": 1, "b": 1, "c": 1}),
        ({"a": 5, "b": 1, "c": 1, "d": 1}, 5, {"a": 2, "b": 1, "c": 1, "d": 1}),  # too many by one each before
        ({"a": 0.5}, 7, {"a": 7}),
    ],
)
def test_steps_are_shared_out_by_largest_remainders(shares, total, expected):
    assert apportion(shares, total) == expected


def test_apportion_sums_up_and_leaves_nobody_out():
    assert apportion({"a": 1000, "b": 1, "c": 1}, 10) == {"a": 8, "b": 1, "c": 1}
    assert apportion({"a": 1, "b": 1, "c": 1}, 10) in ({"a": 4, "b": 3, "c": 3},)
    with pytest.raises(DataError, match="too short"):
        apportion({"a": 1, "b": 1}, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"policy": "ratios"}, "go together"),
        ({"ratios": {"a": 1.0, "b": 1.0}}, "go together"),
        ({"policy": "ratios", "ratios": {"a": 1.0}}, "each of a, b"),
        ({"policy": "temperature"}, "go together"),
        ({"policy": "temperature", "temperature": -1.0}, "positive"),
        ({"policy": "temperature", "temperature": 0.0}, "positive"),
        ({"temperature": 2.0}, "go together"),
        ({"policy": "ratios", "ratios": {"a": 1.0, "b": 0.0}}, "a positive number to each"),
        ({"policy": "ratios", "ratios": {"a": 1.0, "b": 1.0, "c": 1.0}}, "to each of a, b"),
        ({"epoch_length": 0}, "at least 1"),
        ({"epoch_length": 0.0}, "from above 0 to 1"),
        ({"epoch_length": 1.5}, "from above 0 to 1"),
        ({"epoch_length": "shortest", "policy": "proportional"}, "goes with"),
        ({"epoch_length": 0.5, "policy": "proportional"}, "goes with"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, words):
    with pytest.raises(DataError, match=words):
        joint({"a": 4, "b": 4}, **options)


def test_entries_without_data_are_refused():
    with pytest.raises(DataError, match="refers to 'b'"):
        MultiTaskDataModule({"a": Toy(4), "c": "b"})
    with pytest.raises(DataError, match="a DataModule to each task"):
        MultiTaskDataModule({})
    with pytest.raises(DataError, match=r"parts\[name\]"):
        joint({"a": 4}).dataset("train")


def test_batches_are_channels_last_uint8():
    batch, _, _ = next(iter(at(joint({"a": 4}), 0).train_dataloader()))
    assert batch["a"]["image"].dtype == torch.uint8
    assert batch["a"]["image"].shape == (2, 3, 4, 4)

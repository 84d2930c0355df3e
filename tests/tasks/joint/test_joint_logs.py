"""What a joint run writes down at each step and epoch, and the weights that it and its tasks begin with."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback, seed_everything
from lightning.pytorch.loggers import Logger
from torch import nn

from hrnet import HRNet
from tasks import MultiTask, save_task
from tasks.joint.gradients import step_values
from tasks.joint.score import delta_rows, score_terms
from tasks.joint.sharing import TaskNorms
from tasks.optim import create_optimizer
from tests.tasks.joint.test_multitask import SMALL, Brightness, Redness, Stop, toy, toy_data
from tests.tasks.joint.test_multitask import quiet_trainer as quiet
from tests.tasks.joint.toys import GOALS, ShiftData, pulls, quiet_trainer, shift_data


class Kept(Logger):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []

    @property
    def name(self) -> str:
        return "kept"

    @property
    def version(self) -> str:
        return ""

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        self.rows.append((step, {name: float(value) for name, value in metrics.items()}))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Of no interest here."""

    def with_term(self, term: str) -> dict[int, dict[str, float]]:
        """Step -> row, of the rows that have a term."""
        return {step: row for step, row in self.rows if any(name.endswith(term) for name in row)}


# ---- steps


class Parts(Callback):
    """Tasks of each step's batch, and what the step lost."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, list[str], dict[str, float]]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        found = {name: value.item() for name, value in trainer.callback_metrics.items() if name.endswith("/head")}
        self.steps.append((trainer.current_epoch, list(batch), found))


@pytest.mark.parametrize("every", [1, 2, 3])
def test_loggers_get_the_losses_of_a_step_that_it_has_and_no_others(tmp_path: Path, every: int) -> None:
    kept, parts = Kept(), Parts()
    trainer = quiet_trainer(tmp_path, 2, logger=kept, callbacks=[parts], log_every_n_steps=every)
    trainer.fit(pulls(), shift_data(ShiftData([0, 1, 2], 1), ShiftData([3, 4], 1), policy="proportional"))
    rows = kept.with_term("/head")
    assert list(rows) == list(range(0, 10, every))
    assert {name for _, names, _ in parts.steps for name in names} == {"a", "b"}
    for step, row in rows.items():
        epoch, names, found = parts.steps[step]
        expected = {f"train/{name}/{term}" for name in names for term in ("head", "shared")}
        assert set(row) == expected | {"epoch"}
        assert row["epoch"] == epoch == step // 5
        assert row[f"train/{names[0]}/head"] == pytest.approx(found[f"train/{names[0]}/head"])


# ---- epochs


def epoch_means(kept: Kept) -> list[dict[str, float]]:
    """What is logged once an epoch."""
    return [row for row in (row for _, row in kept.rows) if "train/a/weighted_loss" in row]


def losses_by_hand(shifts: list[int]) -> list[float]:
    """Of task a at each step, where only its own head is trained, by 0.1 of its distance from 1."""
    found, head = [], 0.0
    for shift in shifts:
        shared = (shift - 3) ** 2 + 2**2
        found.append((shared + (head - 1) ** 2) / 2)
        head += 0.1 * (1 - head)
    return found


class Shifts(Callback):
    """Shifts of task a, a step each."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.seen.append(int(batch["a"]["image"][0, 0, 0, 0]))


def fitted(folder: Path, kept: Kept, shifts: Shifts, *callbacks: Callback, epochs: int = 3, **arguments: Any) -> None:
    seed_everything(2, verbose=False)
    joint = pulls(freeze_backbone=True, gradient_every=0)
    options = {"logger": kept, "callbacks": [shifts, *callbacks], "log_every_n_steps": 1}
    data = shift_data(ShiftData([0, 1, 2, 7], 1), ShiftData([0, 0, 0, 0], 1))
    quiet_trainer(folder, epochs, **options).fit(joint, data, **arguments)


def test_an_epochs_means_are_of_its_own_steps(tmp_path: Path) -> None:
    kept, shifts = Kept(), Shifts()
    fitted(tmp_path, kept, shifts)
    losses = losses_by_hand(shifts.seen)
    assert len(losses) == 12
    found = epoch_means(kept)
    assert len(found) == 3
    for epoch, row in enumerate(found):
        expected = np.mean(losses[4 * epoch : 4 * epoch + 4])
        assert row["train/a/loss"] == row["train/a/weighted_loss"] == pytest.approx(expected, rel=1e-5)
        assert row["train/a/weight"] == 1


def test_resumed_within_an_epoch_its_means_are_of_the_steps_before_too(tmp_path: Path) -> None:
    whole, first, second = Kept(), Kept(), Kept()
    fitted(tmp_path, whole, Shifts())
    with pytest.raises(RuntimeError, match="killed"):
        fitted(tmp_path, first, Shifts(), Stop(6, tmp_path / "stopped.ckpt"))
    fitted(tmp_path, second, Shifts(), ckpt_path=tmp_path / "stopped.ckpt", weights_only=True)
    lives = [*epoch_means(first), *epoch_means(second)]
    assert len(lives) == 3
    for found, expected in zip(lives, epoch_means(whole), strict=True):
        assert found == pytest.approx(expected, rel=1e-6)


# ---- figures


def test_tasks_without_a_gradient_have_a_cosine_of_zero() -> None:
    gram = torch.tensor([[4.0, 0.0], [0.0, 0.0]])
    found = step_values(["a", "b"], [0, 1], torch.tensor([2.0, 3.0]), torch.tensor([5.0, 7.0]), gram)
    assert {name: value.item() for name, value in found.items()} == {
        "a/loss": 2, "a/weighted_loss": 10, "a/weight": 5, "a/gradient_norm": 2,
        "b/loss": 3, "b/weighted_loss": 21, "b/weight": 7, "b/gradient_norm": 0, "gradient_cosine/a_b": 0,
    }  # fmt: skip


def test_the_table_of_changes_has_a_row_a_task_and_their_mean() -> None:
    tasks = pulls(GOALS | {"c": GOALS["a"]}).tasks
    tasks["a"].mode = "max"
    found = {"a": {"error": 0.6}, "b": {"error": 3.0}, "c": {"error": 1.0}}
    rows = delta_rows(tasks, found, {"a": 0.5, "b": 4.0})
    assert [list(row.values()) for row in rows[:2]] == [
        ["a", "error", 0.5, 0.6, pytest.approx(0.2)],
        ["b", "error", 4.0, 3.0, pytest.approx(0.25)],
    ]
    assert rows[2]["task"] == "delta-m"
    assert rows[2]["change"] == pytest.approx(0.225)
    assert score_terms(tasks) == ["a/error", "1 / (1 + b/error)", "1 / (1 + c/error)"]


@pytest.mark.parametrize("split", ["val", "test"])
def test_directions_are_those_of_the_tasks_and_of_the_run(split: str) -> None:
    joint = pulls()
    joint.tasks["a"].mode = "max"
    joint.tasks["b"].split = joint.split = split
    joint.tasks["a"].higher_is_better = ("count",)
    modes = joint.modes
    expected = {"a/error": "max", "b/error": "min", "a/count": "max", "delta_m": "max"}
    assert {f"{split}/{name}": mode for name, mode in expected.items()}.items() <= modes.items()
    assert modes["val/score"] == "max"


# ---- rates, weights


def test_the_beginning_of_another_tasks_name_is_not_that_task() -> None:
    joint = pulls({"a": GOALS["a"], "ab": GOALS["b"]})
    spec = {"name": "momentum", "lr": 1.0, "lr_scales": {"tasks.a": 2.0, "backbone.stage4": 3.0}}
    rate = {id(p): g["lr"] for g in create_optimizer(joint, spec).param_groups for p in g["params"]}
    names = {name: rate[id(p)] for name, p in joint.named_parameters()}
    assert names == {
        "backbone.stage3.0.weight": 1.0, "backbone.stage4.0.weight": 3.0, "tasks.a.head": 2.0, "tasks.ab.head": 1.0
    }  # fmt: skip


@pytest.mark.parametrize(
    "option",
    [
        {"optimizer": {"name": "adam", "lr": 1.0}},
        {"schedule": {"name": "cosine"}},
        {"freeze_backbone": True},
        {"freeze_backbone": 3},
        {"frozen_statistics": 0.5},
        {"compile": True},
    ],
    ids=str,
)
def test_what_the_joint_run_decides_is_no_option_of_a_task(option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(ValueError, match=rf"Task 'b' sets {name}, .*move to model\.init_args"):
        pulls({"a": GOALS["a"], "b": GOALS["b"] | option})
    usual = {"optimizer": None, "schedule": None, "freeze_backbone": False, "frozen_statistics": 0.0, "compile": False}
    assert list(pulls({"a": GOALS["a"] | usual}).tasks) == ["a"]


def test_weights_of_a_joint_run_bring_the_statistics_of_each_task(tmp_path: Path) -> None:
    before = toy(batch_norm="per_task")
    for name, norms in before.norms.items():
        for buffer in norms.buffers():
            buffer.fill_(3 if name == "bright" else 5)
    save_task(before, tmp_path / "joint.ckpt")
    joint = toy(batch_norm="per_task", weights=str(tmp_path / "joint.ckpt"))
    quiet(tmp_path, max_epochs=0).fit(joint, toy_data())
    for name, value in (("bright", 3), ("red", 5)):
        assert joint.single(name).backbone.bn1.running_mean.unique().tolist() == [value]


def test_a_task_that_is_split_off_keeps_what_it_has_learned(tmp_path: Path) -> None:
    """And does not begin anew with the weights that the joint run began with."""
    first = Brightness(HRNet(**SMALL))
    save_task(first, tmp_path / "first.ckpt")
    makers = {"bright": partial(Brightness, weights=str(tmp_path / "first.ckpt")), "red": Redness}
    joint = MultiTask(HRNet(**SMALL), makers)
    quiet(tmp_path, max_epochs=0).fit(joint, toy_data())
    torch.testing.assert_close(joint.tasks["bright"].head.weight, first.head.weight)
    nn.init.constant_(joint.tasks["bright"].head.weight, 0.125)
    for single in (joint.single("bright"), joint.singles()["bright"]):
        quiet(tmp_path).validate(single, toy_data().parts["bright"], verbose=False)
        assert single.head.weight.unique().tolist() == [0.125]


def test_a_tasks_statistics_are_taken_back_after_an_error_too() -> None:
    network = HRNet(**SMALL)
    norms = TaskNorms(network)
    before = copy.deepcopy(network.state_dict())
    for buffer in norms.buffers():
        buffer.fill_(7)

    def broken() -> None:
        with norms.in_use(network):
            assert network.bn1.running_mean.unique().tolist() == [7]
            raise RuntimeError("within")

    with pytest.raises(RuntimeError, match="within"):
        broken()
    torch.testing.assert_close(dict(network.state_dict()), dict(before))
    assert not TaskNorms(network).equals(norms)
    norms.copy_from(network)
    assert TaskNorms(network).equals(norms)


def test_a_part_counts_where_all_that_is_asked_for_has_it() -> None:
    joint = pulls()
    assert list(joint.each({"a": 1, "b": 2}, {"a": 3})) == [("a/", joint.tasks["a"], 1, 3)]
    assert [prefix for prefix, *_ in joint.each({"a": 1, "b": 2}, {"a": 3, "b": 4})] == ["a/", "b/"]

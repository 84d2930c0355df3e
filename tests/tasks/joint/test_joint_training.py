"""Joint training on losses whose gradients are known: every balancing against the formulas of its paper in numpy."""

import math
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.plugins import MixedPrecision

from tasks import MultiTask
from tests.tasks.joint.toys import (
    GOALS,
    WEIGHTS,
    Pull,
    ShiftData,
    pulls,
    quiet_trainer,
    shift_data,
    unlike_parts,
)

SHIPPED = {"a": 1000.0, "b": 0.3}  # as far apart as those of the shipped joint experiments


def one_step(joint: MultiTask, parts: str = "ab", trainer: Trainer | None = None) -> dict[str, float]:
    """Gradients of a first step on unshifted samples, two of task a and three of b; returns what it logs."""
    joint.trainer = trainer or bare_trainer()
    logged: dict[str, float] = {}
    joint.log = lambda name, value, **_: logged.update({name: float(value)})
    joint.log_dict = lambda values, **_: logged.update({name: float(value) for name, value in values.items()})
    sizes = {"a": 2, "b": 3}
    batch = {name: {"image": torch.zeros(sizes[name], 3, 1, 1, dtype=torch.uint8)} for name in parts}
    joint.training_step(batch, 0).backward()
    return logged


def bare_trainer() -> Trainer:
    return Trainer(accelerator="cpu", logger=False, barebones=True)


def gradients(joint: MultiTask) -> dict[str, list[float]]:
    named = {
        "early": joint.backbone.stage3[0].weight,
        "last": joint.backbone.stage4[0].weight,
        **{name: task.head for name, task in joint.tasks.items()},
    }
    return {name: None if p.grad is None else p.grad.tolist() for name, p in named.items()}


# ---- one step, figures worked out by hand


def test_fixed_weights_are_factors_of_all_gradients():
    joint = pulls(task_weights=WEIGHTS)
    logged = one_step(joint)
    # 2 (3, 0) + 0.5 (-1, 1); 2 (0, -2) + 0.5 (1, 0); each head's -1 times its task's weight.
    assert gradients(joint) == {"last": [5.5, 0.5], "early": [0.5, -4.0], "a": [-2.0], "b": [-0.5]}
    assert logged["train/loss"] == pytest.approx(2 * 7 + 0.5 * 2)
    assert (logged["train/a/shared"], logged["train/a/head"]) == (6.5, 0.5)
    assert (logged["train/b/shared"], logged["train/b/head"]) == (1.5, 0.5)
    for name, loss in (("a", 7.0), ("b", 2.0)):
        assert logged[f"train/{name}/loss"] == loss
        assert logged[f"train/{name}/weight"] == WEIGHTS[name]
        assert logged[f"train/{name}/weighted_loss"] == WEIGHTS[name] * loss


def test_norms_and_cosines_are_those_at_the_last_stage():
    logged = one_step(pulls(task_weights=WEIGHTS))
    # (3, 0) and (-1, 1), unweighted: their cosine is -3 / (3 sqrt(2)).
    assert logged["train/a/gradient_norm"] == pytest.approx(3.0)
    assert logged["train/b/gradient_norm"] == pytest.approx(math.sqrt(2))
    assert logged["train/gradient_cosine/a_b"] == pytest.approx(-1 / math.sqrt(2))


def test_cosines_are_of_each_pair():
    third = {"early": [5.0, 5.0], "last": [0.0, 4.0]}  # (0, -4) at the last stage
    joint = pulls(GOALS | {"c": third})
    joint.trainer = bare_trainer()
    values: dict[str, float] = {}
    joint.log = lambda *_, **__: None
    joint.log_dict = lambda given, **_: values.update({name: float(value) for name, value in given.items()})
    image = {"image": torch.zeros(1, 3, 1, 1, dtype=torch.uint8)}
    joint.training_step({name: image for name in "abc"}, 0)
    cosines = {name.rsplit("/", 1)[1]: value for name, value in values.items() if "cosine" in name}
    assert cosines == pytest.approx({"a_b": -1 / math.sqrt(2), "a_c": 0.0, "b_c": -1 / math.sqrt(2)}, abs=1e-6)
    assert values["train/c/gradient_norm"] == pytest.approx(4.0)
    values.clear()
    joint.training_step({"a": image, "c": image}, 0)
    assert {name for name in values if "cosine" in name} == {"train/gradient_cosine/a_c"}
    assert not [name for name in values if name.startswith("train/b/")]


def test_pcgrad_projects_the_weighted_gradients_that_oppose_each_other():
    joint = pulls(balancing="pcgrad", task_weights=WEIGHTS)
    one_step(joint)
    found = gradients(joint)
    # Weighted: (6, 0) and (-0.5, 0.5), product -3. a + 6 b = (3, 3) and b + a / 12 = (0, 0.5) are what is left.
    assert found["last"] == pytest.approx([3.0, 3.5], rel=1e-5)
    # So a counts 13/12 and b counts 7 times at every shared parameter: of 2 (0, -2) and 0.5 (1, 0).
    assert found["early"] == pytest.approx([3.5, -13 / 3], rel=1e-5)
    # Heads keep their own.
    assert (found["a"], found["b"]) == ([-2.0], [-0.5])


def test_pcgrad_leaves_gradients_alone_that_agree():
    goals = {"a": {"early": [0.0, 2.0], "last": [-3.0, 0.0]}, "b": {"early": [0.0, -2.0], "last": [-1.0, 1.0]}}
    joint = pulls(goals, balancing="pcgrad", task_weights=WEIGHTS)
    one_step(joint)
    # They oppose each other at the stage before only, which is not asked.
    assert gradients(joint) == {"last": [6.5, -0.5], "early": [0.0, -3.0], "a": [-2.0], "b": [-0.5]}


def test_uncertainty_halves_the_weighted_losses_and_learns_from_them():
    joint = pulls(balancing="uncertainty", task_weights=WEIGHTS)
    logged = one_step(joint)
    assert gradients(joint) == {"last": [2.75, 0.25], "early": [0.25, -2.0], "a": [-1.0], "b": [-0.25]}
    assert logged["train/loss"] == pytest.approx((2 * 7 + 0.5 * 2) / 2)
    # Of (w L exp(-s) + s) / 2 at s = 0: (1 - w L) / 2.
    assert joint.balancing.log_variance.grad.tolist() == pytest.approx([(1 - 14) / 2, (1 - 1) / 2])


def test_geometric_takes_weights_as_exponents():
    joint = pulls(balancing="geometric", task_weights=WEIGHTS)
    logged = one_step(joint)
    root = 7**0.8 * 2**0.2
    a, b = 0.8 * root / 7, 0.2 * root / 2
    assert logged["train/loss"] == pytest.approx(root)
    assert gradients(joint)["last"] == pytest.approx([3 * a - b, b], rel=1e-5)
    assert gradients(joint)["a"] == pytest.approx([-a], rel=1e-5)


def test_gradnorm_moves_by_the_norms_of_the_weighted_gradients():
    joint = pulls(balancing="gradnorm", task_weights=WEIGHTS)
    logged = one_step(joint)
    # Norms 2 * 3 and 0.5 sqrt(2) about their mean: down by 0.025 * 6, up by 0.025 * 0.707, then to a sum of 2.
    moved = np.array([1 - 0.025 * 6, 1 + 0.025 * 0.5 * math.sqrt(2)])
    a, b = np.array([2.0, 0.5]) * moved * 2 / moved.sum()
    assert (logged["train/a/weight"], logged["train/b/weight"]) == pytest.approx((a, b))
    assert gradients(joint)["last"] == pytest.approx([3 * a - b, b], rel=1e-5)


def test_a_step_that_lacks_a_task_has_the_others_gradients_alone():
    for method in ("fixed", "uncertainty", "dwa", "pcgrad"):
        joint = pulls(balancing=method, task_weights=WEIGHTS)
        one_step(joint, "b")
        factor = 0.25 if method == "uncertainty" else 0.5
        expected = {"last": [-factor, factor], "early": [factor, 0.0], "a": None, "b": [-factor]}
        assert gradients(joint) == expected, method


def test_gradients_too_small_for_half_precision_survive_by_the_loss_scale(monkeypatch):
    def tiny(task: Pull, outputs: list, batch: dict) -> dict:
        return {"shared": 1e-9 * outputs[1].half().float().sum(), "head": outputs[2].sum()}

    monkeypatch.setattr(Pull, "losses", tiny)
    joint = pulls()
    trainer = bare_trainer()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)
    trainer.strategy._precision_plugin = MixedPrecision("16-mixed", "cpu", scaler)
    scaler.scale(torch.zeros(1))  # it begins at the first loss
    one_step(joint, trainer=trainer)
    assert gradients(joint)["last"] == pytest.approx([2e-9, 2e-9], rel=1e-3)
    assert gradients(joint)["a"] == [1.0]


# ---- whole trainings, against the published formulas


class Recorder(Callback):
    """The shifts that each step's batch has, and what it logs."""

    def __init__(self) -> None:
        self.steps: list[dict[str, np.ndarray]] = []
        self.losses: list[float] = []
        self.epochs: list[dict[str, float]] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.steps.append({name: part["image"][:, 0, 0, 0].double().numpy() for name, part in batch.items()})

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.losses.append(trainer.callback_metrics["train/loss"].item())

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        self.epochs.append({k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("train/")})


class Reference:
    """Gradient descent on the toys' losses in numpy, the tasks weighed after the papers."""

    def __init__(self, method: str, weights: dict[str, float], lr: float, every: int = 1) -> None:
        self.method, self.lr, self.every = method, lr, every
        self.constant = np.array([weights[name] for name in GOALS])
        self.early, self.last, self.heads = np.zeros(2), np.zeros(2), np.zeros(2)
        self.log_variance, self.moving, self.coefficients = np.zeros(2), np.ones(2), np.ones(2)
        self.first: np.ndarray | None = None
        self.means: list[np.ndarray] = []
        self.epoch: list[np.ndarray] = []
        self.step = self.conflicts = 0

    def measure(self, shifts: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        losses, early, last = np.zeros(2), np.zeros((2, 2)), np.zeros((2, 2))
        for i, (name, goal) in enumerate(GOALS.items()):
            goals = np.array(goal["last"]) + np.stack([shifts[name], 0 * shifts[name]], 1)
            distance = np.square(self.last - goals).sum(1).mean() + np.square(self.early - goal["early"]).sum()
            losses[i] = (distance + (self.heads[i] - 1) ** 2) / 2
            early[i], last[i] = self.early - goal["early"], (self.last - goals).mean(0)
        return losses, early, last

    def factors(self, losses: np.ndarray, last: np.ndarray) -> np.ndarray:
        weighted = self.constant * losses
        if self.method == "uncertainty":
            factors = self.constant * np.exp(-self.log_variance) / 2
            self.log_variance = self.log_variance - self.lr * (1 - weighted * np.exp(-self.log_variance)) / 2
            return factors
        if self.method == "dwa":
            self.epoch.append(losses)
            if len(self.means) < 2:
                return self.constant
            powers = np.exp(self.means[-1] / self.means[-2] / 2.0)
            return self.constant * 2 * powers / powers.sum()
        if self.method == "geometric":
            share = self.constant / self.constant.sum()
            return share / losses * np.prod(losses**share)
        if self.method == "gradnorm":
            self.first = losses if self.first is None else self.first
            if self.step % self.every == 0:
                norms = self.constant * np.linalg.norm(last, axis=1)
                pace = losses / self.first
                wanted = (self.moving * norms).mean() * (pace / pace.mean()) ** 1.5
                moved = self.moving - 0.025 * np.sign(self.moving * norms - wanted) * norms
                self.moving = 2 * np.maximum(moved, 1e-3) / np.maximum(moved, 1e-3).sum()
            return self.constant * self.moving
        return self.constant

    def shared(self, factors: np.ndarray, last: np.ndarray) -> np.ndarray:
        if self.method == "pcgrad" and self.step % self.every == 0:
            a, b = factors[:, None] * last
            opposed = min(a @ b, 0.0)
            self.conflicts += opposed < 0
            self.coefficients = np.array([1 - opposed / (a @ a), 1 - opposed / (b @ b)])
        return factors * self.coefficients

    def train(self, shifts: dict[str, np.ndarray]) -> np.ndarray:
        losses, early, last = self.measure(shifts)
        factors = self.factors(losses, last)
        shared = self.shared(factors, last)
        self.early = self.early - self.lr * shared @ early
        self.last = self.last - self.lr * shared @ last
        self.heads = self.heads - self.lr * factors * (self.heads - 1)
        self.step += 1
        return factors

    def end_epoch(self) -> None:
        if self.epoch:
            self.means.append(np.mean(self.epoch, axis=0))
        self.epoch = []


@pytest.mark.parametrize(
    ("balancing", "every"),
    [
        ("fixed", 1),
        ("uncertainty", 1),
        ("dwa", 1),
        ("geometric", 1),
        ("gradnorm", 1),
        ({"name": "gradnorm", "every": 2}, 2),
        ("pcgrad", 1),
        ({"name": "pcgrad", "every": 2}, 2),
    ],
    ids=str,
)
@pytest.mark.parametrize("weights", [{"a": 1.0, "b": 1.0}, WEIGHTS, SHIPPED], ids=["equal", "weighted", "shipped"])
def test_a_training_goes_where_the_formulas_go(tmp_path, balancing, every, weights):
    method = balancing if isinstance(balancing, str) else balancing["name"]
    lr = 0.05 if method == "geometric" else 0.05 / max(weights.values())  # the curvature is the larger factor
    seed_everything(0, verbose=False)
    joint = pulls(
        balancing=balancing,
        task_weights=weights,
        optimizer={"name": "momentum", "lr": lr, "momentum": 0.0},
        gradient_every=0 if weights["a"] == 1 else 1,  # what is only logged must change nothing
    )
    recorder = Recorder()
    quiet_trainer(tmp_path, 5, callbacks=[recorder]).fit(joint, shift_data(*unlike_parts()))
    assert len(recorder.steps) == 15
    assert {(len(step["a"]), len(step["b"])) for step in recorder.steps} == {(2, 3)}
    reference = Reference(method, weights, lr, every)
    for epoch in range(5):
        factors = [reference.train(shifts) for shifts in recorder.steps[3 * epoch : 3 * epoch + 3]]
        reference.end_epoch()
        logged = [recorder.epochs[epoch][f"train/{name}/weight"] for name in GOALS]
        assert logged == pytest.approx(np.mean(factors, axis=0), rel=1e-4), epoch
    found = {name: p.detach().numpy() for name, p in joint.named_parameters()}
    np.testing.assert_allclose(found["backbone.stage3.0.weight"], reference.early, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found["backbone.stage4.0.weight"], reference.last, rtol=1e-3, atol=1e-5)
    heads = np.concatenate([found["tasks.a.head"], found["tasks.b.head"]])
    np.testing.assert_allclose(heads, reference.heads, rtol=1e-3, atol=1e-6)
    assert np.abs(reference.last).max() > 0.05
    assert reference.conflicts > 2 or method != "pcgrad"


def test_accumulated_steps_are_the_mean_of_their_gradients(tmp_path):
    seed_everything(0, verbose=False)
    joint = pulls(task_weights=WEIGHTS, balancing="pcgrad")
    recorder = Recorder()
    options = {"accumulate_grad_batches": 2, "limit_train_batches": 2, "callbacks": [recorder]}
    quiet_trainer(tmp_path, 1, **options).fit(joint, shift_data(*unlike_parts()))
    reference, expected = Reference("pcgrad", WEIGHTS, 0.1), np.zeros(2)
    for shifts in recorder.steps:
        _, _, last = reference.measure(shifts)
        expected -= 0.1 * reference.shared(reference.constant, last) @ last / 2
    np.testing.assert_allclose(joint.backbone.stage4[0].weight.detach().numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_gradients_are_clipped_in_mixed_precision_too(tmp_path, name, precision):
    """Adam's one kernel on a CPU is no way to clip there, as the shipped joint experiments do."""
    joint = pulls(optimizer={"name": name, "lr": 0.1})
    trainer = quiet_trainer(tmp_path, 1, precision=precision, gradient_clip_val=1.0)
    trainer.fit(joint, shift_data(*unlike_parts()))
    assert trainer.global_step > 0
    assert joint.backbone.stage4[0].weight.abs().max() > 0.01
    assert bool(trainer.optimizers[0].defaults["fused"]) is (precision == "32-true")


def test_clipping_sees_the_combined_gradient(tmp_path):
    joint = pulls(task_weights=SHIPPED)
    quiet_trainer(tmp_path, 1, limit_train_batches=1, gradient_clip_val=0.5).fit(joint, shift_data(*unlike_parts()))
    moved = torch.cat([p.detach().flatten() for p in joint.parameters()]).norm()
    assert moved.item() == pytest.approx(0.1 * 0.5, rel=1e-4)


@pytest.mark.parametrize(("every", "expected"), [(1, [0, 1, 2, 3]), (2, [0, 2]), (3, [0, 3]), (0, [])])
@pytest.mark.parametrize("balancing", ["fixed", "pcgrad"])  # which needs them at every step
def test_norms_are_logged_every_so_many_steps(tmp_path, balancing, every, expected):
    joint = pulls(gradient_every=every, balancing=balancing)
    steps: list[int] = []
    log_dict = joint.log_dict

    def spy(values, **options):
        if "on_step" in options and any("gradient" in name for name in values):
            steps.append(joint.global_step)
        log_dict(values, **options)

    joint.log_dict = spy
    quiet_trainer(tmp_path, 2, limit_train_batches=2).fit(joint, shift_data(*unlike_parts()))
    assert steps == expected


def test_gradnorm_waits_until_every_task_had_a_loss():
    """Paces relate to the first loss; a batch in which a task has none must not spoil the weights for good."""
    joint = pulls(balancing="gradnorm").balancing
    gram = torch.tensor([[9.0, 0.0], [0.0, 1.0]])
    assert joint(torch.tensor([0.0, 2.0]), gram).tolist() == [1.0, 1.0]
    moved = joint(torch.tensor([4.0, 1.0]), gram)
    assert joint.first.tolist() == [4.0, 2.0]
    # Paces 1 and 1/2, relative 4/3 and 2/3; both norms 3 and 1 about the wanted ones 2 (4/3)^1.5 and 2 (2/3)^1.5.
    assert 2 * (4 / 3) ** 1.5 > 3
    assert 2 * (2 / 3) ** 1.5 > 1
    raised = np.array([1 + 0.025 * 3, 1 + 0.025])
    assert moved.tolist() == pytest.approx(2 * raised / raised.sum())


# ---- two processes

CASES: dict[str, dict] = {
    "fixed": {},
    "uncertainty": {"balancing": "uncertainty"},
    "dwa": {"balancing": "dwa"},
    "gradnorm": {"balancing": {"name": "gradnorm", "every": 2}},
    "pcgrad": {"balancing": "pcgrad"},
    "one task a step": {"policy": "proportional", "optimizer": {"name": "adamw", "lr": 0.1, "weight_decay": 0.1}},
}


def fitted(processes: int, folder: Path, policy: str = "all", **options) -> dict:
    """Weights, metrics and the balancing's state after four epochs; the batch of all processes is the same."""
    seed_everything(3, verbose=False)
    joint = pulls(task_weights=WEIGHTS, gradient_every=1, **options)
    parts = ShiftData(list(range(8)), 4 // processes), ShiftData([5, 1, 0, 9, 2, 2], 2 // processes, [1, 2, 4])
    strategy = {"devices": processes, "strategy": "ddp" if processes > 1 else "auto"}
    trainer = quiet_trainer(folder, 4, limit_val_batches=None, **strategy)
    trainer.fit(joint, shift_data(*parts, policy=policy))
    weighing = ("/weight", "/gradient_norm", "/a_b")
    logged = {name: value for name, value in trainer.callback_metrics.items() if name.endswith(weighing)}
    return {**joint.state_dict(), **logged}


def train_in_one_of_two(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "NODE_RANK": "0"}
    os.environ.update(place | {"LOCAL_RANK": str(rank), "RANK": str(rank)})
    found = {name: fitted(2, Path(folder), **options) for name, options in CASES.items()}
    torch.save(found, f"{folder}/{rank}.pt")


@pytest.mark.slow
def test_two_processes_train_as_one_on_the_same_batches(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(train_in_one_of_two, (port, str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name, options in CASES.items():
        expected = fitted(1, tmp_path, **options)
        for found in ranks:
            torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")

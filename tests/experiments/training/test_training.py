"""What a training does by its configuration, worked out by hand: rates, averages, best weights, means, lengths."""

import csv
import json
import math
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback, Trainer

import tasks
from experiments.run import main
from tests.experiments.training.toys import toy

STEPS = 4  # an epoch of 8 numbers, two a batch


class Record(Callback):
    """Rates and weights at each optimiser step."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.weights: list[float] = []
        self.groups: list[dict[str, Any]] = []
        self.validated: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: tasks.Task) -> None:
        """The optimiser's groups."""
        names = {id(parameter): name for name, parameter in pl_module.named_parameters()}
        for group in trainer.optimizers[0].param_groups:
            self.groups += [{"name": names[id(p)], "decay": group["weight_decay"]} for p in group["params"]]

    def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
        """The rate of this step."""
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: Trainer, pl_module: tasks.Task, *_: Any) -> None:
        """The weight after it."""
        self.weights.append(pl_module.weight.item())

    def on_validation_batch_start(self, trainer: Trainer, pl_module: tasks.Task, *_: Any) -> None:
        """The weight that is validated."""
        self.validated.append(pl_module.weight.item())


def summary(trainer: Trainer) -> dict[str, Any]:
    return json.loads((Path(trainer.default_root_dir) / "summary.json").read_text())


def column(trainer: Trainer, name: str) -> dict[int, float]:
    with (Path(trainer.default_root_dir) / "metrics.csv").open() as lines:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(lines) if row[name]}


# Rates


def poly(t: int, total: int) -> float:
    return 0.1 * (1 - t / total) ** 0.9


def cosine(t: int, total: int) -> float:
    """With a warm-up of one epoch, which is part of the cosine's length."""
    warm = total // 3
    return 0.1 * t / warm if t < warm else 0.1 * 0.5 * (1 + math.cos(math.pi * t / total))


def multistep(t: int, total: int) -> float:
    return 0.1 * 0.1 ** sum(t >= epoch * total // 3 for epoch in (1, 2))


SCHEDULES = {
    "poly": ({"name": "poly", "power": 0.9}, poly),
    "cosine": ({"name": "cosine", "warmup_epochs": 1, "warmup_lr": 0.0}, cosine),
    "multistep": ({"name": "multistep", "milestones": [1, 2]}, multistep),
    "none": (None, lambda t, total: 0.1),
}


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_step_has_the_rate_of_the_formula(name: str, accumulated: int, tmp_path: Path) -> None:
    spec, formula = SCHEDULES[name]
    record = Record()
    main(toy(tmp_path, {"schedule": spec}, accumulate_grad_batches=accumulated), [record])
    total = 3 * STEPS // accumulated
    assert record.rates == pytest.approx([formula(t, total) for t in range(total)], abs=1e-9)


@pytest.mark.parametrize(("epochs", "accumulated"), [(-1, 1), (-1, 2), (None, 1)])
@pytest.mark.parametrize("name", ["cosine", "multistep"])
def test_times_are_in_epochs_where_steps_alone_end_the_training(
    name: str, epochs: int | None, accumulated: int, tmp_path: Path
) -> None:
    spec, formula = SCHEDULES[name]
    record, total = Record(), 3 * STEPS // accumulated
    limits = {"max_epochs": epochs, "max_steps": total, "accumulate_grad_batches": accumulated}
    main(toy(tmp_path, {"schedule": spec}, **limits), [record])
    assert record.rates == pytest.approx([formula(t, total) for t in range(total)], abs=1e-9)


@pytest.mark.parametrize("name", ["poly", "cosine", "none"])
@pytest.mark.parametrize("way", ["epochs", "steps", "batches", "data"])
def test_a_longer_run_goes_by_its_new_length(
    name: str, way: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Three epochs are done; then six are asked for, in four ways."""
    spec, formula = SCHEDULES[name]
    first, second = Record(), Record()
    limit = {"max_steps": 12, "max_epochs": 9} if way == "steps" else {}
    run = main(toy(tmp_path, {"schedule": spec}, **limit), [first]).default_root_dir
    flags = {
        "epochs": ["--trainer.max_epochs", "6"],
        "steps": ["--trainer.max_steps", "24"],
        "batches": ["--trainer.max_epochs", "6", "--data.batch_size", "4"],
        "data": ["--trainer.max_epochs", "6", "--data.train", "16"],
    }[way]
    capsys.readouterr()
    main(["--resume", str(run), *flags], [second])
    steps = {"batches": 2, "data": 8}.get(way, STEPS)  # an epoch, from the fourth on
    if name == "cosine":  # the warm-up was over before
        expected = [0.05 * (1 + math.cos(math.pi * t / (6 * steps))) for t in range(3 * steps, 6 * steps)]
    else:
        expected = [formula(t, 6 * steps) for t in range(3 * steps, 6 * steps)]
    assert second.rates == pytest.approx(expected, abs=1e-9)
    assert min(second.rates) > 0
    said = capsys.readouterr().out
    assert ("learning rate: goes on at" in said) == (name != "none")


def test_where_steps_end_the_training_a_longer_run_goes_by_steps_however_long_an_epoch_is(tmp_path: Path) -> None:
    record, limits = Record(), {"max_steps": 12, "max_epochs": 99}
    run = main(toy(tmp_path, {"schedule": SCHEDULES["poly"][0]}, **limits)).default_root_dir
    main(["--resume", str(run), "--trainer.max_steps", "20", "--data.batch_size", "4"], [record])
    assert record.rates == pytest.approx([poly(t, 20) for t in range(12, 20)], abs=1e-9)


def test_within_an_epoch_of_gathered_gradients_the_rate_goes_on_with_its_steps(tmp_path: Path) -> None:
    record, limits = Record(), {"max_epochs": 3, "max_steps": 3, "accumulate_grad_batches": 2}
    run = main(toy(tmp_path, {"schedule": SCHEDULES["poly"][0]}, **limits)).default_root_dir
    main(["--resume", str(run), "--trainer.max_steps", "-1"], [record])
    assert record.rates == pytest.approx([poly(t, 6) for t in (3, 4, 5)], abs=1e-9)


def test_another_rate_on_resume_is_taken(tmp_path: Path) -> None:
    record = Record()
    run = main(toy(tmp_path)).default_root_dir
    main(["--resume", str(run), "--trainer.max_epochs", "4", "--model.optimizer.lr", "0.02"], [record])
    assert record.rates == pytest.approx([0.02] * STEPS)


@pytest.mark.parametrize("everything", [True, False])
def test_weight_decay_spares_norms_and_biases_unless_told(everything: bool, tmp_path: Path) -> None:
    record = Record()
    optimizer = {"name": "momentum", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.3, "decay_norm_and_bias": everything}
    main(toy(tmp_path, {"optimizer": optimizer}, max_epochs=1), [record])
    decay = {group["name"]: group["decay"] for group in record.groups}
    assert decay["weight"] == decay["backbone.conv1.weight"] == 0.3
    assert {decay["bias"], decay["backbone.bn1.weight"], decay["backbone.bn1.bias"]} == {0.3 if everything else 0.0}


# Averages


def test_the_average_is_validated_saved_and_left_in_the_model(tmp_path: Path) -> None:
    record = Record()
    ema = [{"class_path": "EMA", "init_args": {"decay": 0.75}}]
    trainer = main(toy(tmp_path, callbacks=ema), [record])
    average, after_epochs = record.weights[0], []
    for step, weight in enumerate(record.weights):
        average = weight if step == 0 else 0.75 * average + 0.25 * weight
        if step % STEPS == STEPS - 1:
            after_epochs.append(average)
    assert len(set(record.weights)) == 3 * STEPS
    best = summary(trainer)["best_epoch"]
    expected = [*after_epochs, after_epochs[best]]  # after each epoch, and of the best at the end; three batches each
    assert record.validated == pytest.approx([weight for weight in expected for _ in range(3)], rel=1e-6)
    assert trainer.lightning_module.weight.item() == pytest.approx(after_epochs[best], rel=1e-6)
    assert tasks.load(trainer.default_root_dir).weight.item() == pytest.approx(after_epochs[best], rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "averaged"),
    [
        ({"update_starting_at_epoch": 1}, range(4, 12)),
        ({"update_starting_at_step": 6}, range(6, 12)),
        ({"update_every_n_steps": 3}, range(0, 12, 3)),
    ],
)
def test_the_average_begins_and_counts_as_told(arguments: dict, averaged: range, tmp_path: Path) -> None:
    record = Record()
    ema = [{"class_path": "EMA", "init_args": {"decay": 0.75, **arguments}}]
    trainer = main(toy(tmp_path, {"values": [0.1, 0.2, 0.3]}, callbacks=ema), [record])
    chosen = [record.weights[step] for step in averaged]
    average = chosen[0]
    for weight in chosen[1:]:
        average = 0.75 * average + 0.25 * weight
    assert trainer.lightning_module.weight.item() == pytest.approx(average, rel=1e-6)


@pytest.mark.parametrize("moment", ["on_validation_batch_start", "on_validation_end"])
def test_a_validation_cut_short_leaves_the_trained_weights_beside_their_average(moment: str, tmp_path: Path) -> None:
    """The run that goes on takes the steps of one that was never stopped, and ends at its average."""

    def stop(trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 2 * STEPS and trainer.state.fn == "fit":
            raise RuntimeError("on purpose")

    broken, (whole, first, second) = Callback(), (Record(), Record(), Record())
    setattr(broken, moment, stop)
    (tmp_path / "whole").mkdir()
    ema = [{"class_path": "EMA", "init_args": {"decay": 0.75}}]
    expected = main(toy(tmp_path / "whole", callbacks=ema), [whole])
    with pytest.raises(RuntimeError, match="on purpose"):
        main(toy(tmp_path, callbacks=ema), [first, broken])
    (run,) = tmp_path.glob("runs/toy/*")
    reached = main(["--resume", str(run)], [second])
    assert [*first.weights, *second.weights] == whole.weights
    assert reached.lightning_module.weight.item() == expected.lightning_module.weight.item()
    assert tasks.load(run).weight.item() == tasks.load(expected.default_root_dir).weight.item()


def test_the_average_is_left_in_the_model_where_no_best_weights_are_kept(tmp_path: Path) -> None:
    record = Record()
    ema = [{"class_path": "EMA", "init_args": {"decay": 0.75}}]
    task = main(toy(tmp_path, callbacks=ema, limit_val_batches=0), [record]).lightning_module
    average = record.weights[0]
    for weight in record.weights[1:]:
        average = 0.75 * average + 0.25 * weight
    assert task.weight.item() == pytest.approx(average, rel=1e-6)


def test_what_never_changes_is_averaged_without_rounding(tmp_path: Path) -> None:
    ema = [{"class_path": "EMA", "init_args": {"decay": 0.9}}]
    task = main(toy(tmp_path, callbacks=ema, max_epochs=5)).lightning_module
    assert task.mean.flatten().tolist() == torch.tensor([123.675, 116.28, 103.53]).tolist()


# The best epoch


@pytest.mark.parametrize(
    ("best", "values", "epoch"), [("max", [0.2, 0.9, 0.5], 1), ("min", [0.5, 0.2, 0.9], 1), ("min", [0.1, 0.2, 0.3], 0)]
)
def test_the_best_weights_are_kept_evaluated_and_told(
    best: str, values: list[float], epoch: int, tmp_path: Path
) -> None:
    record = Record()
    trainer = main(toy(tmp_path, {"values": values, "best": best}), [record])
    found = summary(trainer)
    assert found["best_epoch"] == epoch
    assert found["best"]["val/figure"] == pytest.approx(values[epoch])
    assert found["last"]["val/figure"] == pytest.approx(values[-1])
    assert (found["monitor"], found["mode"], found["modes"]["val/figure"]) == ("val/figure", best, best)
    assert found["modes"]["val/count"] == "max"
    assert found["modes"]["val/product"] == found["modes"]["val/loss"] == "min"
    assert "val/weight" not in found["modes"]  # the task does not say
    kept = record.weights[epoch * STEPS + STEPS - 1]
    assert trainer.lightning_module.weight.item() == tasks.load(trainer.default_root_dir).weight.item() == kept


def test_the_evaluation_of_the_best_weights_is_marked_as_no_point_of_the_curve(tmp_path: Path) -> None:
    trainer = main(toy(tmp_path, {"values": [0.2, 0.9, 0.5], "best": "max"}))
    with (Path(trainer.default_root_dir) / "metrics.csv").open() as lines:
        rows = [row for row in csv.DictReader(lines) if row["val/figure"]]
    assert [row["best_checkpoint"] for row in rows] == ["", "", "", "1"]
    assert [float(row["val/figure"]) for row in rows] == pytest.approx([0.2, 0.9, 0.5, 0.9])


# Evaluation


def test_losses_of_an_uneven_last_batch_weigh_as_much_as_it_has_samples(tmp_path: Path) -> None:
    trainer = main(toy(tmp_path, max_epochs=1))  # five numbers, two a batch
    weight = trainer.lightning_module.weight.item()
    for name in ("val/loss", "val/product"):
        assert summary(trainer)["best"][name] == pytest.approx(weight * np.mean([0, 1, 2, 3, 4]), rel=1e-6)


def test_each_validation_has_a_mean_loss_of_its_own(tmp_path: Path) -> None:
    record = Record()
    trainer = main(toy(tmp_path, max_epochs=3), [record])
    weights = [record.weights[epoch * STEPS + STEPS - 1] for epoch in (0, 1)]
    losses = list(column(trainer, "val/loss").values())[:2]
    assert losses == pytest.approx([weight * np.mean([0, 1, 2, 3, 4]) for weight in weights], rel=1e-6)
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize(
    ("limit", "partial", "count"), [(2, True, 4), (0.5, True, 2), (1.0, False, 5), (None, False, 5)]
)
def test_an_evaluation_that_is_cut_short_says_so(limit: Any, partial: bool, count: int, tmp_path: Path) -> None:
    trainer = main(toy(tmp_path, max_epochs=1, limit_val_batches=limit))
    assert trainer.lightning_module.partial == partial
    assert summary(trainer)["best"]["val/count"] == count


def test_a_checkpoint_stands_after_every_epoch_whatever_is_validated(tmp_path: Path) -> None:
    trainer = main(toy(tmp_path, max_epochs=5, check_val_every_n_epoch=10))
    last = torch.load(Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt", weights_only=True)
    assert (last["position"]["epoch"], last["global_step"]) == (5, 20)
    assert summary(trainer)["best"] == {}
    assert summary(trainer)["last"]["train/loss"] == pytest.approx(column(trainer, "train/loss")[19])


class Validations(Callback):
    """Steps after which the training is validated; breaks at one of them."""

    def __init__(self, broken: int | None = None) -> None:
        self.steps: list[int] = []
        self.broken = broken

    def on_validation_start(self, trainer: Trainer, *_: Any) -> None:
        """One more."""
        if trainer.state.fn == "fit":
            self.steps.append(trainer.global_step)
            if trainer.global_step == self.broken:
                raise RuntimeError("on purpose")


@pytest.mark.parametrize(
    ("options", "steps", "broken"),
    [
        ({"val_check_interval": 3}, [3, 7, 11], 7),
        ({"val_check_interval": 3, "check_val_every_n_epoch": None}, [3, 6, 9, 12], 6),
        ({"val_check_interval": 0.5, "check_val_every_n_epoch": 2}, [6, 8], 6),
    ],
)
def test_a_validation_that_was_due_is_the_first_of_the_run_that_goes_on(
    options: dict[str, Any], steps: list[int], broken: int, tmp_path: Path
) -> None:
    whole, first, second = Validations(), Validations(broken), Validations()
    (tmp_path / "whole").mkdir()
    main(toy(tmp_path / "whole", **options), [whole])
    with pytest.raises(RuntimeError, match="on purpose"):
        main(toy(tmp_path, **options), [first])
    (run,) = tmp_path.glob("runs/toy/*")
    main(["--resume", str(run)], [second])
    assert whole.steps == steps
    assert first.steps[-1] == second.steps[0] == broken
    assert first.steps[:-1] + second.steps == steps


def test_a_checkpoint_is_written_within_long_epochs(tmp_path: Path) -> None:
    class Broken(Callback):
        def on_before_zero_grad(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == 3:
                raise RuntimeError("within a step, so nothing is written any more")

    with pytest.raises(RuntimeError, match="within a step"):
        main([*toy(tmp_path), "--save_minutes", "0"], [Broken()])
    (path,) = tmp_path.glob("runs/toy/*/checkpoints/last.ckpt")
    last = torch.load(path, weights_only=True)
    assert last["position"]["batches"] == last["global_step"] == 3


# The seed


def test_the_seed_decides_weights_and_order(tmp_path: Path) -> None:
    def run(seed: int, name: str) -> tuple[list[float], torch.Tensor]:
        (tmp_path / name).mkdir()
        record = Record()
        task = main([*toy(tmp_path / name, max_epochs=1), "--seed_everything", str(seed)], [record]).lightning_module
        return record.weights, task.backbone.conv1.weight.detach()

    (weights, conv), (again, same), (others, other) = run(1, "a"), run(1, "b"), run(2, "c")
    assert weights == again != others
    assert torch.equal(conv, same)
    assert not torch.equal(conv, other)


# Signals


def test_a_run_gives_the_signals_back(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    main(toy(tmp_path, max_epochs=1))
    with pytest.raises(RuntimeError, match="on purpose"):
        main(toy(tmp_path, max_epochs=1), [Failing()])
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


class Failing(Callback):
    """Breaks a training."""

    def on_train_batch_end(self, *_: Any) -> None:
        """Break it."""
        raise RuntimeError("on purpose")

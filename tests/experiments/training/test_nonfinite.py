"""A loss that is NaN or infinite stops a training, or its step is left out; what overflows by scaling is neither."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback
from torch import Tensor

from experiments import run
from experiments.run import main
from experiments.training.nonfinite import MOST, NonFiniteLoss
from tests.conftest import ROOT
from tests.experiments.training.toys import ToyTask, toy

STEPS = 4  # an epoch of 8 numbers, two a batch


class Spoilt(ToyTask):
    """Its loss is no number for some samples, from some epoch on; every pass changes a buffer.

    Args:
        backbone: Not used.
        bad: The samples.
        value: What their loss is.
        from_epoch: The first epoch in which it is.
        **kwargs: Of the toy.
    """

    def __init__(
        self, backbone: Any, *, bad: list[int], value: str = "nan", from_epoch: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(backbone, **kwargs)
        self.bad, self.value, self.from_epoch = bad, value, from_epoch
        self.register_buffer("running", torch.tensor(0.0))

    def losses(self, outputs: Tensor, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Mean of weight * number, and of what is no number."""
        numbers = batch["label"].float()
        if self.training and self.current_epoch >= self.from_epoch:
            spoilt = torch.isin(batch["label"], torch.tensor(self.bad, dtype=torch.long))
            numbers = torch.where(spoilt, torch.tensor(float(self.value)), numbers)
        product = (outputs * numbers).mean()
        if self.training:
            self.running.add_(product.detach())
        return {"product": product}


class Seen(Callback):
    """The numbers of each batch."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Keep them."""
        self.batches.append(batch["label"].tolist())


def spoilt(folder: Path, bad: list[int], *flags: str, model: dict[str, Any] | None = None, **trainer: Any) -> list[str]:
    words = toy(folder, model={"bad": bad, **(model or {})}, **trainer)
    path = folder / "toy.yaml"
    path.write_text(path.read_text().replace("toys.ToyTask", "test_nonfinite.Spoilt"))
    return [*words, *flags]


SKIP = ["--nonfinite_loss", "skip"]


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_the_training_stops_and_keeps_the_checkpoint_before(value, tmp_path, monkeypatch, capsys) -> None:
    words = spoilt(tmp_path, [3], model={"value": value, "from_epoch": 1})
    monkeypatch.setattr("sys.argv", ["run", *words])
    assert run.command() == 2
    (folder,) = tmp_path.glob("runs/toy/*")
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["position"]["epoch"] == 1
    assert last["global_step"] == STEPS
    assert all(value.isfinite().all() for value in last["state_dict"].values())
    error = capsys.readouterr().err
    assert error.startswith("error: The loss is NaN or infinite at step ")
    assert "(epoch 1, batch " in error
    assert "it reached the gradient of weight; the batch is of " in error
    assert "--nonfinite_loss skip" in error


def test_step_files_and_parameter_are_those_of_the_batch(tmp_path) -> None:
    seen = Seen()
    with pytest.raises(NonFiniteLoss) as caught:
        main(spoilt(tmp_path, [3]), [seen])
    number, batch = len(seen.batches) - 1, seen.batches[-1]
    assert 3 in batch
    assert f"step {number} (epoch 0, batch {number})" in str(caught.value)
    assert f"the batch is of sample {batch[0]}, sample {batch[1]}." in str(caught.value)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_left_out_the_step_changes_nothing(accumulated, tmp_path, capsys) -> None:
    """Weights by hand: each step takes the mean number of its batches, but those with a bad sample take nothing."""
    seen = Seen()
    trainer = main(spoilt(tmp_path, [3, 6], *SKIP, accumulate_grad_batches=accumulated), [seen])
    weight, running, left_out = 1.0, 0.0, 0
    for start in range(0, len(seen.batches), accumulated):
        batches = seen.batches[start : start + accumulated]
        if any({3, 6} & set(batch) for batch in batches):
            left_out += 1
            continue
        running += sum(weight * np.mean(batch) for batch in batches)
        weight -= 0.1 * float(np.mean([np.mean(batch) for batch in batches]))
    last = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
    state = torch.load(last, weights_only=True)["state_dict"]
    assert state["weight"].item() == pytest.approx(weight, rel=1e-5)
    assert state["running"].item() == pytest.approx(running, rel=1e-5)
    assert capsys.readouterr().out.count("The step is left out.") == left_out > 0
    assert trainer.global_step == 3 * STEPS // accumulated


def test_a_training_that_leaves_out_step_after_step_is_stopped(tmp_path) -> None:
    with pytest.raises(NonFiniteLoss, match=rf"These are {MOST + 1} steps in a row"):
        main(spoilt(tmp_path, list(range(8)), *SKIP, max_epochs=10))


class Broken(Callback):
    """A weight that is no number before the third step."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Break it."""
        if trainer.global_step == 2:
            pl_module.weight.data.fill_(float("nan"))


def test_weights_that_are_no_numbers_stop_a_training_that_leaves_steps_out(tmp_path) -> None:
    with pytest.raises(NonFiniteLoss, match=r"step 2 .*it reached weight; .*weight itself is NaN or infinite"):
        main(spoilt(tmp_path, [], *SKIP), [Broken()])


class BrokenAtTheEnd(Callback):
    """A weight that is no number after the last step of the second epoch, where no loss tells."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Break it."""
        if trainer.global_step == 2 * STEPS:
            pl_module.weight.data.fill_(float("inf"))


def test_no_checkpoint_of_weights_that_are_no_numbers_takes_the_place_of_one(tmp_path) -> None:
    with pytest.raises(NonFiniteLoss, match=r"weight is NaN or infinite after step 8"):
        main(spoilt(tmp_path, []), [BrokenAtTheEnd()])
    (folder,) = tmp_path.glob("runs/toy/*")
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == STEPS


HALF = (
    "[{class_path: lightning.pytorch.plugins.MixedPrecision, init_args: {precision: 16-mixed, device: cpu, scaler: "
    "{class_path: torch.amp.GradScaler, init_args: {device: cpu, init_scale: 3.0e+38}}}}]"
)


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_gradients_that_overflow_by_their_scale_are_no_such_loss(policy, tmp_path, capsys) -> None:
    trainer = main(spoilt(tmp_path, [], "--nonfinite_loss", policy, "--trainer.plugins", HALF, max_epochs=2))
    assert "left out" not in capsys.readouterr().out
    assert trainer.precision_plugin.scaler.get_scale() < 3e38  # it has overflowed, and the scale was lowered
    assert trainer.global_step == 2 * STEPS


def test_a_loss_that_is_no_number_is_found_under_a_scaler_too(tmp_path, capsys) -> None:
    half = HALF.replace("3.0e+38", "1024.0")
    with pytest.raises(NonFiniteLoss, match=r"it reached the gradient of weight"):
        main(spoilt(tmp_path, [3], "--trainer.plugins", half))
    (tmp_path / "skip").mkdir()
    trainer = main(spoilt(tmp_path / "skip", [3], *SKIP, "--trainer.plugins", half))
    assert capsys.readouterr().out.count("The step is left out.") == 3
    assert trainer.lightning_module.running.isfinite()


@pytest.mark.slow
def test_of_a_joint_run_one_task_is_enough(tmp_path, monkeypatch) -> None:
    """Although the sum over the tasks leaves out what a step lacks, which is NaN there."""
    from tasks import SegmentationTask

    monkeypatch.chdir(ROOT)
    losses = SegmentationTask.losses

    def second_is_nan(self, outputs: Any, batch: Any) -> dict[str, Tensor]:
        found = losses(self, outputs, batch)
        second_is_nan.calls += self.training
        return {key: value * float("nan") for key, value in found.items()} if second_is_nan.calls == 2 else found

    second_is_nan.calls = 0
    monkeypatch.setattr(SegmentationTask, "losses", second_is_nan)
    words = ["multitask.yaml", "sample.yaml", "debug.yaml", "--wandb.mode", "disabled", "--data.image_size", "[64, 64]"]
    with pytest.raises(NonFiniteLoss) as caught:
        main([*words, "--data.batch_size", "2", "--runs", str(tmp_path)])
    assert "step 1 (epoch 0, batch 1)" in str(caught.value)
    for part in ("pose: ", "segmentation: ", "classification: "):
        assert part in str(caught.value)

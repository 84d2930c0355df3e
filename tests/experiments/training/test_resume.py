"""A run that was stopped, at whatever moment and however often, ends as the one that was not: bit for bit."""

import csv
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback

from experiments.cli.mistakes import Stopped
from experiments.run import main
from tests.conftest import ROOT

SMALL = ["sample.yaml", "debug.yaml", "--wandb.mode", "disabled", "--data.image_size", "[64, 64]"]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # the sample data are rendered once, into data/sample


class Interrupt(Callback):
    """Stops a training at a moment.

    Args:
        hook: Of Lightning's callbacks.
        step: Number of optimiser steps before.
        number: Signal that this process gets; None for an error.
    """

    def __init__(self, hook: str, step: int, number: int | None = None) -> None:
        self.hook, self.step, self.number = hook, step, number
        self.done = False
        setattr(self, hook, self._stop)

    def _stop(self, trainer: Any, *_: Any, **__: Any) -> None:
        if self.done or trainer.global_step < self.step or trainer.sanity_checking:
            return
        self.done = True
        if self.number is None:
            raise RuntimeError("broken on purpose")
        os.kill(os.getpid(), self.number)


def columns(folder: Path) -> dict[tuple[str, str], list[str]]:
    """(step, column) -> values of metrics.csv, the last of those that a life has repeated."""
    found: dict[tuple[str, str], str] = {}
    with (folder / "metrics.csv").open() as lines:
        for row in csv.DictReader(lines):
            assert None not in row
            found |= {(row["step"], key): value for key, value in row.items() if value}
    return found


def assert_same(whole: Path, found: Path) -> None:
    """Weights, optimiser, position, and every logged number of two run folders are equal, bit for bit."""
    expected, actual = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (whole, found)
    )
    assert actual["position"] == expected["position"]
    for key in ("state_dict", "current_model_state"):
        assert (key in actual) == (key in expected)
        for name, tensor in expected.get(key, {}).items():
            torch.testing.assert_close(actual[key][name], tensor, rtol=0, atol=0, equal_nan=True, msg=name)
    states, others = expected["optimizer_states"][0], actual["optimizer_states"][0]
    assert states["param_groups"] == others["param_groups"]
    for index, state in states["state"].items():
        for name, value in state.items():
            assert torch.equal(torch.as_tensor(others["state"][index][name]), torch.as_tensor(value)), (index, name)
    assert columns(found) == columns(whole)


def run_in_lives(command: list[str], folder: Path, stops: list[Interrupt]) -> Path:
    """Run a command; at each stop the next life resumes it, and the last one ends it."""
    for life, stop in enumerate(stops):
        resume = ["--resume", str(next(folder.glob("*/*")))] if life else [*command, "--runs", str(folder)]
        with pytest.raises((RuntimeError, Stopped)):
            main([*resume, "--wandb.mode", "disabled"], [stop])
        assert stop.done
    (run,) = folder.glob("*/*")
    main(["--resume", str(run), "--wandb.mode", "disabled"])
    return run


POSE = ["pose_coco.yaml", *SMALL, "--trainer.limit_train_batches", "5", "--trainer.max_epochs", "3"]
EMA = ["--trainer.callbacks+", "{class_path: EMA, init_args: {decay: 0.5}}"]
BATCHES = ["--trainer.limit_train_batches", "5", "--trainer.max_epochs", "3"]
RUNS = {
    "pose, loader processes": [*POSE, "--data.num_workers", "2"],
    "pose, accumulation, EMA": [*POSE, *EMA, "--trainer.accumulate_grad_batches", "2"],
    "pose, multistep": [*POSE, "--model.schedule", "{name: multistep, milestones: [1, 2]}"],
    "pose, validation within epochs": [*POSE, "--trainer.val_check_interval", "2"],
    "pose, validation every other epoch": [*POSE, "--trainer.check_val_every_n_epoch", "2"],
    "pose, frozen": [*POSE, "--model.freeze_backbone", "1", "--model.schedule", "null"],
    "segmentation, poly": ["seg_cityscapes.yaml", *SMALL, *BATCHES, "--model.schedule", "{name: poly, power: 0.9}"],
    "classification, mixup": ["cls_imagenet_modern.yaml", *SMALL, *BATCHES],
    "detection, FCOS": ["det_coco_fcos.yaml", *SMALL, *BATCHES, "--data.num_workers", "2"],
    "detection, Faster R-CNN": ["det_coco.yaml", *SMALL, *BATCHES],
    "landmarks": ["landmarks_wflw.yaml", *SMALL, *BATCHES],
    "joint": ["multitask.yaml", *SMALL, *BATCHES],
    "joint, proportional": [
        *["multitask.yaml", *SMALL, *BATCHES, "--data.policy", "proportional", "--data.epoch_length", "null"],
        *["--model.balancing", "dwa"],
    ],
}
LIVES = {
    "between batches": [
        Interrupt("on_train_batch_end", 2, signal.SIGTERM),
        Interrupt("on_train_batch_end", 7, signal.SIGINT),
        Interrupt("on_train_batch_start", 9),
    ],
    "within a step": [Interrupt("on_before_optimizer_step", 3, signal.SIGINT), Interrupt("on_before_zero_grad", 8)],
    "at the end of an epoch": [
        Interrupt("on_train_batch_end", 5, signal.SIGTERM),
        Interrupt("on_train_epoch_start", 10),
    ],
    "in validation": [
        Interrupt("on_validation_batch_end", 5, signal.SIGTERM),
        Interrupt("on_validation_epoch_end", 10),
        Interrupt("on_validation_end", 15),
    ],
}


@pytest.fixture(scope="module")
def pose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    os.chdir(ROOT)
    return Path(main([*POSE, "--runs", str(tmp_path_factory.mktemp("whole"))]).default_root_dir)


@pytest.mark.slow
@pytest.mark.parametrize("stops", LIVES.values(), ids=LIVES)
def test_pose_stopped(stops: list[Interrupt], pose: Path, tmp_path: Path) -> None:
    assert_same(pose, run_in_lives(POSE, tmp_path, stops))


@pytest.mark.slow
@pytest.mark.parametrize("command", RUNS.values(), ids=RUNS)
def test_stopped_again_and_again(command: list[str], tmp_path: Path) -> None:
    whole = Path(main([*command, "--runs", str(tmp_path / "whole")]).default_root_dir)
    steps = 9 if "--trainer.accumulate_grad_batches" in command else 15
    stops = [
        Interrupt("on_train_batch_end", steps // 5, signal.SIGTERM),
        Interrupt("on_before_zero_grad", 2 * steps // 5),
        Interrupt("on_train_batch_end", 3 * steps // 5 - 1, signal.SIGINT),
        Interrupt("on_train_epoch_start", 2 * steps // 3),
        Interrupt("on_validation_batch_end", steps, signal.SIGTERM),
    ]
    assert_same(whole, run_in_lives(command, tmp_path / "lives", stops))

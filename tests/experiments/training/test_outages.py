"""What fails around a training: data that disappear, a loader process that is killed, W&B's service that is.

The training goes on or ends with a sentence, and what it has saved can be resumed.
"""

import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError

from experiments import run
from experiments.run import main
from experiments.training.loggers import end_wandb
from tests.conftest import ROOT
from tests.experiments.training.test_resume import assert_same
from tests.experiments.training.toys import toy

POSE = [
    *["pose_coco.yaml", "sample.yaml", "debug.yaml", "--data.image_size", "[64, 64]", "--wandb.mode", "disabled"],
    *["--trainer.limit_train_batches", "6", "--trainer.max_epochs", "2"],
]


class At(Callback):
    """Does something before a batch.

    Args:
        step: Number of optimiser steps before.
        work: What.
    """

    def __init__(self, step: int, work: Any) -> None:
        self.step, self.work = step, work

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Do it once."""
        if trainer.global_step == self.step:
            self.work()


def status_of(words: list[str], callbacks: list[Callback], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["run", *words])
    return run.command(lambda: main(None, callbacks))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_data_that_disappear_end_the_training_with_a_sentence_and_it_goes_on(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(ROOT)
    main(["fit", *POSE, "--trainer.fast_dev_run", "true", "--runs", str(tmp_path / "rendered")])
    data = Path(shutil.copytree(ROOT / "data" / "sample" / "coco", tmp_path / "coco"))
    words = [*POSE, "--data.root", str(data), "--data.num_workers", str(workers)]
    whole = Path(main([*words, "--runs", str(tmp_path / "whole")]).default_root_dir)
    gone = At(2, lambda: data.rename(tmp_path / "gone"))
    assert status_of([*words, "--runs", str(tmp_path / "runs")], [gone], monkeypatch) == 2
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert f"{data}" in error
    (folder,) = tmp_path.glob("runs/*/*")
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] >= 2
    (tmp_path / "gone").rename(data)
    assert status_of(["--resume", str(folder), "--wandb.mode", "disabled"], [], monkeypatch) == 0
    assert_same(whole, folder)


def kill_workers() -> None:
    """All of them, since those of the validation live on beside those of the training."""
    workers = [child for child in multiprocessing.active_children() if child.daemon]
    assert workers
    for worker in workers:
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()


@pytest.mark.slow
def test_a_loader_process_killed_for_memory_ends_the_training_with_a_sentence_and_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    words = toy(tmp_path, data={"train": 64, "num_workers": 2})
    killed = At(40, kill_workers)
    assert status_of(words, [killed], monkeypatch) == 2
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert "A loader process (" in error
    assert "lower data.num_workers" in error
    (folder,) = tmp_path.glob("runs/toy/*")
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] >= 32
    assert status_of(["--resume", str(folder), "--wandb.mode", "disabled"], [], monkeypatch) == 0


def kill_wandb() -> None:
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    cores = [int(child) for child in children if b"wandb-core" in Path(f"/proc/{child}/cmdline").read_bytes()]
    assert cores
    for core in cores:
        os.kill(core, signal.SIGKILL)


@pytest.mark.parametrize(
    "error", [HandleAbandonedError(), MailboxClosedError("closed")], ids=lambda e: type(e).__name__
)
def test_an_end_of_wandb_that_is_never_answered_is_said_and_no_error(error, monkeypatch, capsys):
    def fail():
        raise error

    monkeypatch.setattr("wandb.finish", fail)
    monkeypatch.setattr("wandb.teardown", fail)
    end_wandb()
    assert capsys.readouterr().out.startswith("W&B's service has ended (")
    monkeypatch.setattr("wandb.finish", lambda: int("seven"))
    with pytest.raises(ValueError, match="seven"):
        end_wandb()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the service in /proc")
def test_a_training_whose_wandb_service_is_killed_leaves_a_state_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    words = [*toy(tmp_path, max_epochs=6), "--wandb.mode", "offline"]
    status = status_of(words, [At(9, kill_wandb)], monkeypatch)
    error = capfd.readouterr().err
    assert "Traceback" not in error
    (folder,) = tmp_path.glob("runs/toy/*")
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] >= 8
    assert status == 2
    assert error.startswith("error: W&B's service has ended")
    assert status_of(["--resume", str(folder), "--wandb.mode", "disabled"], [], monkeypatch) == 0
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 24

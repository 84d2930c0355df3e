"""Real processes: killed, interrupted, or two at once, they end as one that is left alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback

from experiments.run import command, main
from tests.conftest import ROOT
from tests.experiments.training.test_resume import SMALL, assert_same
from tests.experiments.training.toys import toy


def start(arguments: list[str]) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "experiments.run", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, process_group=0)


def wait_for(condition: Any, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


def epochs_behind(runs: Path) -> int:
    """Of the only run below `runs`, as its last checkpoint says."""
    paths = list(runs.glob("*/*/checkpoints/last.ckpt"))
    return torch.load(paths[0], weights_only=True, mmap=True)["position"]["epoch"] if paths else 0


@pytest.mark.slow
def test_killed_with_loader_processes_and_resumed_it_is_the_same(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(ROOT)
    flags = ["--data.num_workers", "2", "--trainer.limit_train_batches", "12", "--trainer.max_epochs", "4"]
    command = ["pose_coco.yaml", *SMALL, *flags, "--trainer.check_val_every_n_epoch", "2"]
    whole = Path(main([*command, "--runs", str(tmp_path / "whole")]).default_root_dir)
    process = start([*command, "--runs", str(tmp_path / "killed"), "--save_minutes", "0"])
    wait_for(lambda: epochs_behind(tmp_path / "killed") >= 1)
    time.sleep(0.3)  # somewhere within an epoch, or while a checkpoint is written
    process.kill()
    process.wait()
    (run,) = (tmp_path / "killed").glob("*/*")
    assert epochs_behind(tmp_path / "killed") < 4
    main(["--resume", str(run), "--wandb.mode", "disabled"])
    assert_same(whole, run)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_ends_with_its_status_and_says_how_to_go_on(number: int, tmp_path: Path) -> None:
    process = start([*toy(tmp_path, data={"num_workers": 1}, max_epochs=1000, check_val_every_n_epoch=1000)])
    wait_for(lambda: epochs_behind(tmp_path / "runs") >= 1)
    os.killpg(process.pid, number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    (run,) = tmp_path.glob("runs/toy/*")
    assert f"go on with: python -m experiments.run --resume {run}" in said
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 4 * last["position"]["epoch"] + last["position"]["batches"] > 0


@pytest.mark.slow
def test_two_processes_give_the_figures_of_one_and_share_a_folder(tmp_path: Path, monkeypatch: Any) -> None:
    summaries, rows = [], []
    for name, batch, flags in (
        ("one", 4, []),
        ("two", 2, ["--trainer.devices", "2", "--trainer.strategy", "ddp_find_unused_parameters_true"]),
    ):
        (tmp_path / name).mkdir()
        arguments = toy(tmp_path / name, data={"val": 35, "batch_size": batch}, accelerator="cpu", devices=1)
        process = start([*arguments, *flags])
        process.communicate(timeout=180)
        assert process.returncode == 0
        (run,) = (tmp_path / name).glob("runs/toy/*")
        summaries.append(json.loads((run / "summary.json").read_text()))
        rows.append(len((run / "metrics.csv").read_text().splitlines()))
        assert (run / "checkpoints" / "last.ckpt").is_file()
    one, two = summaries
    assert rows[0] == rows[1] > 3
    assert two["best"]["val/weight"] == pytest.approx(one["best"]["val/weight"], rel=1e-6)
    for summary in summaries:
        expected = summary["best"]["val/weight"] * np.mean(np.arange(35))
        assert summary["best"]["val/loss"] == summary["best"]["val/product"] == pytest.approx(expected, rel=1e-6)


class Twice(Callback):
    """This process gets a signal a second time before the first has ended it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """In the second epoch."""
        if trainer.global_step == 6:
            os.kill(os.getpid(), self.number)
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_wait_and_has_the_status_of_the_first(
    number: int, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert command(lambda: main(toy(tmp_path), [Twice(number)])) == 128 + number
    (run,) = tmp_path.glob("runs/toy/*")
    assert f"go on with: python -m experiments.run --resume {run}" in capsys.readouterr().out
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] in (4, 6)


def test_parameters_are_sharded_on_gpus_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    flags = ["--trainer.strategy", "fsdp", "--trainer.accelerator", "cpu", "--trainer.devices", "2"]
    monkeypatch.setattr("sys.argv", ["run", *toy(tmp_path), *flags])
    assert command() == 2
    assert "fsdp` requires a GPU" in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/*"))

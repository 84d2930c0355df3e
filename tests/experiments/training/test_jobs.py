"""A job of two processes ends soon when one of them does, says why in a sentence, and can be resumed."""

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

from datamodules.findings import DataError
from datamodules.loading.samplers import world
from tests.conftest import ROOT
from tests.experiments.training.test_processes import epochs_behind, wait_for
from tests.experiments.training.toys import Numbers, ToyData, toy

SOON = 30.0  # seconds
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp_find_unused_parameters_true"]


class DamagedNumbers(Numbers):
    """The second process cannot read the last one."""

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Raises DataError there."""
        if world()[1] == 1 and index == self.count - 1:
            raise DataError("7.jpg is damaged: copy it anew.")
        return super().sample(index, rng)


class DamagedData(ToyData):
    """Numbers, one of which cannot be read."""

    def dataset(self, split: str) -> Numbers:
        """The first numbers."""
        return DamagedNumbers(self.counts[split])


def start(words: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.run", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )


def second_of(first: subprocess.Popen) -> int:
    """Number of the process that the first has started."""
    (child,) = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    return int(child)


def ended(job: subprocess.Popen) -> tuple[str, float]:
    """What it said, and after how many seconds all of its processes had ended."""
    began = time.monotonic()
    said, _ = job.communicate(timeout=120)
    return said, time.monotonic() - began


@pytest.fixture
def long(tmp_path: Path) -> list[str]:
    return [*toy(tmp_path, data={"train": 9}, max_epochs=100_000, check_val_every_n_epoch=100_000), *TWO]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the second process in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("which", ["first", "second"])
def test_one_that_is_ended_ends_the_other(which: str, number: int, long: list[str], tmp_path: Path) -> None:
    job = start(long)
    wait_for(lambda: epochs_behind(tmp_path / "runs") >= 2)
    second = second_of(job)
    os.kill(job.pid if which == "first" else second, number)
    said, seconds = ended(job)
    assert seconds < SOON
    assert "Traceback" not in said
    if number == signal.SIGKILL:
        assert "error: " in said
        assert "--resume" in said
    else:
        (run,) = tmp_path.glob("runs/toy/*")
        assert f"go on with: python -m experiments.run --resume {run}" in said
    done = epochs_behind(tmp_path / "runs")
    if which == "second" and number == signal.SIGKILL:
        (run,) = tmp_path.glob("runs/toy/*")
        again = start(["--resume", str(run), "--trainer.max_epochs", str(done + 2)])
        said, _ = ended(again)
        assert again.returncode == 0, said
        assert epochs_behind(tmp_path / "runs") == done + 2


@pytest.mark.slow
def test_ctrl_c_ends_both_after_their_step(long: list[str], tmp_path: Path) -> None:
    job = start(long)
    wait_for(lambda: epochs_behind(tmp_path / "runs") >= 2)
    os.killpg(job.pid, signal.SIGINT)
    said, seconds = ended(job)
    assert seconds < SOON
    assert job.returncode == 128 + signal.SIGINT
    assert "Traceback" not in said
    (run,) = tmp_path.glob("runs/toy/*")
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["position"]["layout"]["processes"] == 2


@pytest.mark.slow
def test_a_damaged_image_of_the_second_is_said_first(long: list[str], tmp_path: Path) -> None:
    path = Path(long[0])
    path.write_text(path.read_text().replace("toys.ToyData", "test_jobs.DamagedData"))
    began = time.monotonic()
    job = start(long)
    said, _ = ended(job)
    assert time.monotonic() - began < 2 * SOON  # with the import of torch, twice
    assert job.returncode != 0
    assert "Traceback" not in said
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert errors[0] == "error: 7.jpg is damaged: copy it anew."


@pytest.mark.slow
def test_batch_norm_is_not_synchronised_on_a_cpu(tmp_path: Path) -> None:
    job = start([*toy(tmp_path, sync_batchnorm=True, accelerator="cpu"), *TWO])
    said, _ = ended(job)
    assert job.returncode == 2
    assert "error: trainer.sync_batchnorm is true, and torch synchronises batch norm on GPUs only" in said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("runs/toy/*"))

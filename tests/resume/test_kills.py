"""Twenty kills of real runs, in halves that may run side by side; `python -m tests.resume --kills 200` has more."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

KILLS = 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 3])
def test_killed_and_resumed_runs_end_as_those_left_alone(seed: int) -> None:
    command = [sys.executable, "-m", "tests.resume", "--kills", str(KILLS), "--seed", str(seed)]
    command += ["--stride", "5", "--each", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert f"{KILLS} kills" in done.stdout or f"{KILLS + 1} kills" in done.stdout

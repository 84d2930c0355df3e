"""The batch script of docs/slurm.md, run as it stands: stopped by its time limit, requeued, gone on with, done.

SLURM's own commands are stand-ins that do to one process what SLURM would do to many.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT
from tests.experiments.training.test_processes import epochs_behind, wait_for
from tests.experiments.training.toys import toy

EPOCHS = 120
STANDS_IN = {
    "srun": """
        while [ "$1" != python ]; do shift; done
        export SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_NODELIST=127.0.0.1
        echo $$ > step.pid
        exec "$@"
    """,
    "scancel": 'echo "$@" >> cancelled; kill -TERM $(cat step.pid)',
    "scontrol": 'echo "$@" >> requeued',
}


def script(folder: Path) -> Path:
    """The script of the documentation, for a toy on one machine."""
    text = re.search(r"```bash\n(#!/bin/bash.*?)```", (ROOT / "docs" / "slurm.md").read_text(), re.DOTALL)[1]
    experiment = toy(folder, max_epochs=EPOCHS, check_val_every_n_epoch=EPOCHS)[0]
    assert "pose_coco.yaml --runs" in text
    assert "--trainer.devices 4" in text
    path = folder / "job.sh"
    path.write_text(text.replace("pose_coco.yaml", experiment).replace("--trainer.devices 4", "--trainer.devices 1"))
    for name, body in STANDS_IN.items():
        (folder / "bin").mkdir(exist_ok=True)
        (folder / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / "bin" / name).chmod(0o755)
    return path


def submitted(path: Path) -> subprocess.Popen:
    folder = path.parent
    slurm = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "toy", "SLURM_NNODES": "1"}
    places = (folder / "bin", Path(sys.executable).parent, os.environ["PATH"])  # the environment of a job is active
    way = {"PATH": ":".join(map(str, places)), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        ["bash", str(path)],
        cwd=folder,
        env={**os.environ, **slurm, **way},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_the_script_goes_on_until_the_run_is_done(tmp_path: Path) -> None:
    path, runs = script(tmp_path), tmp_path / "runs" / "toy-4711"
    job = submitted(path)
    wait_for(lambda: job.poll() is not None or epochs_behind(runs) >= 1)
    assert job.poll() is None, job.communicate()[0]
    job.send_signal(signal.SIGTERM)  # as `--signal=B:TERM@300` has it
    said, _ = job.communicate(timeout=60)
    assert job.returncode == 128 + signal.SIGTERM, said
    assert (tmp_path / "cancelled").read_text() == "--signal=TERM 4711.0\n"
    assert (tmp_path / "requeued").read_text() == "requeue 4711\n"
    assert 1 <= epochs_behind(runs) < EPOCHS
    job = submitted(path)
    said, _ = job.communicate(timeout=120)
    assert job.returncode == 0, said
    assert (tmp_path / "requeued").read_text() == "requeue 4711\n"
    (run,) = runs.glob("*/*")
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["position"]["epoch"] == EPOCHS
    assert [file.name for file in (run / "checkpoints").iterdir() if "hpc" in file.name] == []

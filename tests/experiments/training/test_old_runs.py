"""Run folders written by earlier versions go on: they load, predict, compare, resume and give an error analysis."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import tasks
from experiments.compare import main as compare
from experiments.errors import main as errors
from experiments.predictor import Predictor
from experiments.run import main as run
from tests.golden import old_run

NAMES = ("pose", "segmentation", "classification", "joint")


@pytest.mark.parametrize("name", NAMES)
def test_an_old_run_loads_and_predicts(name: str, tmp_path: Path) -> None:
    folder = old_run(name, tmp_path)
    task = tasks.load(folder / "checkpoints")  # as good as the folder, or a file
    assert type(task).__name__ in (folder / "config.yaml").read_text()
    photo = np.random.default_rng(0).integers(0, 256, (80, 60, 3), dtype=np.uint8)
    result = Predictor(folder)(photo)
    found = result.parts if name == "joint" else {name: result}
    for part, each in found.items():
        if part == "pose":
            assert each.keypoints.shape == (1, 17, 2)
            assert np.isfinite(each.keypoints).all()
        elif part == "classification":
            assert len(each.probabilities) == 5
            assert (np.diff(each.probabilities) <= 0).all()
        else:
            assert each.mask.shape == (80, 60)


def test_old_runs_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in NAMES:
        old_run(name, tmp_path)
    compare([str(tmp_path), "--csv", str(tmp_path / "table.csv")])
    table = (tmp_path / "table.csv").read_text()
    for name in NAMES:
        best = json.loads(next((tmp_path / name).glob("*/summary.json")).read_text())["best"]
        for metric in ("val/AP", "val/mIoU", "val/top1", "val/score"):
            if metric in best:
                # Beside the joint run, a run of one task has the joint run's names.
                named = {"pose": "val/pose/AP"}.get(name, metric)
                assert named in table
    assert "old-joint" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_old_run_goes_on(name: str, tmp_path: Path) -> None:
    folder = old_run(name, tmp_path)
    before = (folder / "metrics.csv").read_text()
    run(["--resume", str(folder), "--trainer.max_epochs", "2", "--trainer.limit_val_batches", "1"])
    assert (folder / "metrics.csv").read_text().startswith(before.partition("\n")[0])
    stored = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert (stored["epoch"], stored["global_step"]) == (1, 4)
    assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["max_epochs"] == 2
    assert json.loads((folder / "environment.json").read_text())["name"].startswith("old-")


@pytest.mark.slow
def test_the_mistakes_of_an_old_run(tmp_path: Path) -> None:
    folder = old_run("pose", tmp_path)
    errors([str(folder)])
    assert list((folder / "errors").iterdir())

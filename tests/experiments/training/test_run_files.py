"""What a run writes is whole at any moment, only grows, and is not there where a run was refused."""

import csv
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import run
from experiments.run import main
from experiments.training.checkpoints import WholeFiles
from experiments.training.loggers import MetricsFile
from experiments.training.run_folder import RunFolder, RunFolderError
from experiments.training.start import find_resumable
from tests.conftest import ROOT

QUICK = ["pose_coco.yaml", "sample.yaml", "debug.yaml", "--wandb.mode", "disabled", "--data.image_size", "[64, 64]"]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # the sample data are rendered once, into data/sample


# metrics.csv


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_every_row_is_there_at_once_and_new_columns_keep_the_old_rows(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path)
    metrics.log_metrics({"train/loss": 0.5, "epoch": 0}, 10)
    assert rows(tmp_path) == [{"epoch": "0", "step": "10", "train/loss": "0.5"}]
    metrics.log_metrics({"val/AP": torch.tensor(0.25), "epoch": 0}, 19)
    assert rows(tmp_path) == [
        {"epoch": "0", "step": "10", "train/loss": "0.5", "val/AP": ""},
        {"epoch": "0", "step": "19", "train/loss": "", "val/AP": "0.25"},
    ]


def test_lives_append_whatever_the_last_one_left(tmp_path: Path) -> None:
    MetricsFile(tmp_path).log_metrics({"a": 1.0}, 1)
    path = tmp_path / "metrics.csv"
    with path.open("a") as file:
        file.write("1.2,")  # killed in the middle of a row
    written = path.read_bytes()
    for step in (2, 3):  # two lives
        MetricsFile(tmp_path).log_metrics({"a": float(step)}, step)
    assert path.read_bytes().startswith(written)
    found = rows(tmp_path)
    assert [row["step"] for row in found if None not in row] == ["1", "2", "3"]
    assert len(found) == 4  # the damaged one has too many cells, so a reader sees what it is


def test_a_file_without_header_is_kept(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_bytes(b"\x00\x00\x00")
    MetricsFile(tmp_path).log_metrics({"a": 1.0}, 1)
    assert b"\x00\x00\x00" in (tmp_path / "metrics.csv").read_bytes()
    assert rows(tmp_path)[-1] == {"a": "1.0", "step": "1"}


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MetricsFile(tmp_path).log_metrics({"a": 1.0}, 1)
    before = (tmp_path / "metrics.csv").read_bytes()
    monkeypatch.setattr("experiments.training.loggers.rank_zero_only.rank", 1)
    MetricsFile(tmp_path).log_metrics({"b": 2.0}, 2)
    assert (tmp_path / "metrics.csv").read_bytes() == before


# Checkpoint files


def test_checkpoint_is_written_beside_its_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    WholeFiles().save_checkpoint({"step": 1}, path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))

    def full(content: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RunFolderError, match=r"last\.ckpt.*No space left.*the one before is whole"):
        WholeFiles().save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_killed_while_writing_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    WholeFiles().save_checkpoint({"step": 1}, path)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        WholeFiles().save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}


# Run folders


def test_a_new_run_takes_no_folder_that_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    folders = {RunFolder(None, str(tmp_path), "pose").path for _ in range(5)}
    assert len(folders) == 5
    assert all(folder.is_dir() for folder in folders)


def test_a_runs_path_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"file.*--runs"):
        RunFolder(None, str(tmp_path / "file"), "pose")


def status(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["run", *arguments])
    return run.command()


def test_a_run_that_fails_before_its_first_step_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for mistake in (["--model.num_keypoints", "16"], ["--data.root", "nowhere"], ["--data.image_size", "[100, 96]"]):
        assert status([*QUICK, *mistake, "--wandb.mode", "offline", "--runs", str(tmp_path / "runs")], monkeypatch) == 2
        assert not (tmp_path / "runs").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs."""
    os.chdir(ROOT)
    flags = ["--trainer.max_epochs", "2", "--runs", str(tmp_path_factory.mktemp("runs")), "--name", "bees"]
    return Path(main([*QUICK, *flags]).default_root_dir)


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """The same at another place: a run folder may be moved."""
    return Path(shutil.copytree(trained, tmp_path / "pose_coco" / "moved"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def scramble(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 8)


def of_a_stranger(path: Path) -> None:
    torch.save({"state_dict": {"layer.weight": torch.zeros(2, 3)}}, path)


@pytest.mark.parametrize(
    ("damage", "flags", "words"),
    [
        (None, ["--trainer.max_epochs", "1"], ["max_epochs is 1", "epoch 2"]),
        (None, ["--trainer.max_steps", "3"], ["max_steps is 3", "step 4"]),
        (None, ["--model.num_keypoints", "7", "--trainer.max_epochs", "3"], ["head", "(7,", "(17,"]),
        (
            None,
            ["--model.backbone.variant", "w18_small_v2", "--trainer.max_epochs", "3"],
            ["last.ckpt", "does not fit"],
        ),
        (None, ["--data.root", "nowhere", "--trainer.max_epochs", "3", "--wandb.mode", "offline"], ["nowhere"]),
        (cut, ["--trainer.max_epochs", "3"], ["last.ckpt is damaged", "--resume", "best.ckpt"]),
        (scramble, ["--trainer.max_epochs", "3"], ["last.ckpt is damaged", "best.ckpt"]),
        (of_a_stranger, ["--trainer.max_epochs", "3"], ["last.ckpt has no", "--model.weights"]),
    ],
)
def test_a_refused_resume_changes_nothing(
    damage: Any,
    flags: list[str],
    words: list[str],
    copied: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    if damage is not None:
        damage(copied / "checkpoints" / "last.ckpt")
    before = contents(copied)
    assert status(["--resume", str(copied), *flags], monkeypatch) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "Traceback" not in error
    for word in words:
        assert word in error
    assert contents(copied) == before


def test_resume_from_the_best_checkpoint_where_the_last_is_damaged(copied: Path) -> None:
    cut(copied / "checkpoints" / "last.ckpt")
    best = copied / "checkpoints" / "best.ckpt"
    assert find_resumable(best) == best
    trainer = main(["--resume", str(best), "--trainer.max_epochs", "3", "--wandb.mode", "disabled"])
    assert trainer.global_step == 6
    assert torch.load(copied / "checkpoints" / "last.ckpt", weights_only=True)["position"]["epoch"] == 3


def test_a_finished_run_that_is_resumed_keeps_its_figures(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copied / "summary.json"
    before = json.loads(path.read_text())
    before["peak_memory_bytes"] = 10**13
    path.write_text(json.dumps(before))
    main(["--resume", str(copied), "--wandb.mode", "disabled"])
    after = json.loads(path.read_text())
    assert after["last"] == before["last"] != {}
    assert {**after, "seconds": 0} == {**before, "seconds": 0}
    path.unlink()  # killed after the last step, before the summary was written
    main(["--resume", str(copied), "--wandb.mode", "disabled"])
    assert json.loads(path.read_text())["last"] == pytest.approx(before["last"])


def test_a_longer_run_keeps_its_commands_and_its_best(copied: Path) -> None:
    first = json.loads((copied / "environment.json").read_text())
    assert first["name"] == "bees"
    assert len(first["commands"]) == 1
    rows_before = (copied / "metrics.csv").read_bytes()
    score = torch.load(copied / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    main(["--resume", str(copied), "--trainer.max_epochs", "3", "--wandb.mode", "disabled"])
    second = json.loads((copied / "environment.json").read_text())
    assert len(second["commands"]) == 2
    assert second["commands"][0] == first["commands"][0] == second["command"]
    assert second["name"] == "bees"
    assert (copied / "metrics.csv").read_bytes().startswith(rows_before)
    assert "max_epochs: 3" in (copied / "config.yaml").read_text()
    best = next(value for key, value in score.items() if "ModelCheckpoint" in key)
    after = torch.load(copied / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    there = next(value for key, value in after.items() if "ModelCheckpoint" in key)
    assert there["best_model_score"] >= best["best_model_score"]
    assert there["best_model_path"] == str(copied / "checkpoints" / "best.ckpt")


def test_summary_says_which_way_each_metric_is_better(trained: Path) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["mode"] == "max"
    assert summary["modes"]["val/loss"] == summary["modes"]["val/heatmap"] == "min"
    assert summary["modes"]["val/AP"] == "max"
    assert set(summary["modes"]) >= {name for name in summary["best"] if name.startswith("val/")}


def test_a_life_takes_away_what_the_one_before_was_writing_and_leaves_nothing_of_its_own(copied: Path) -> None:
    before = {path.name for path in copied.iterdir()}
    for name in ("checkpoints/last.ckpt.part", "metrics.csv.part", "config.yaml.part"):
        (copied / name).write_bytes(b"half")
    (copied / "run.lock").write_text("process 1 on another machine")  # killed, it could not take it away
    main(["--resume", str(copied), "--trainer.max_epochs", "3", "--wandb.mode", "disabled"])
    assert {path.name for path in copied.iterdir()} == before
    assert {path.name for path in (copied / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}

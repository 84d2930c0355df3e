"""The real command where nothing can be written: one sentence, exit status 2, and every file as it was.

A full and a read-only disk are real ones, mounted in a name space of their own; that takes the rights of root on Linux.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from experiments.run import main
from tests.conftest import ROOT
from tests.experiments.training.toys import toy


def may_mount() -> bool:
    try:
        made = subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True)
    except OSError:
        return False
    return made.returncode == 0


def mounted(script: str, words: list[str], after: str = "", **environment: str) -> subprocess.CompletedProcess:
    """The command in a name space of its own, between two scripts, the first of which mounts disks there."""
    command = [sys.executable, "-m", "experiments.run", *words]
    return subprocess.run(
        [
            "unshare",
            "--mount",
            "bash",
            "-ec",
            f'{script}\nset +e\n"$@"\nstatus=$?\n{after}\nexit $status',
            "bash",
            *command,
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=180,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    return Path(main(toy(folder)).default_root_dir)


FULL = "mount -t tmpfs -o size=64k none {folder}\ndd if=/dev/zero of={folder}/filler bs=4k 2>/dev/null || true"
COPY = "cp -r {run} {folder}/copy\n"
SAME = "rm -f {run}/filler {folder}/filler; [ ! -d {folder}/copy ] || diff -r {folder}/copy {run} || echo CHANGED >&2"
FULL_RUN = """
mount -t tmpfs -o size=64m none {run}
cp -r {folder}/copy/. {run}
dd if=/dev/zero of={run}/filler bs=4k 2>/dev/null || true
"""
ASKED = {
    "a full run folder": (
        COPY + FULL_RUN,
        ["--resume", "{run}"],
        ["{run} cannot be written (No space left", "make room"],
    ),
    "a read-only run folder": (
        COPY + "mount --bind {run} {run}\nmount -o remount,ro,bind {run}",
        ["--resume", "{run}"],
        ["{run} cannot be written (Read-only file system)"],
    ),
    "a full disk for a new run": (FULL, ["--runs", "{folder}"], ["{folder}", "No space left", "--runs"]),
}


@pytest.mark.slow
@pytest.mark.skipif(not may_mount(), reason="needs the right to mount disks in a name space")
@pytest.mark.parametrize("what", ASKED)
def test_refused_with_a_sentence_and_nothing_changed(what: str, trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "toy" / "run"))
    folder = tmp_path / "full"
    folder.mkdir()
    script, words, expected = ASKED[what]

    def filled(text: str) -> str:
        return text.format(run=run, folder=folder)

    begun = words if words[0] == "--resume" else [*toy(tmp_path), *words]
    more = ["--trainer.max_epochs", "4"] if words[0] == "--resume" else []
    found = mounted(filled(script), [*map(filled, begun), *more], filled(SAME))
    assert found.returncode == 2, found.stderr
    errors = [line for line in found.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in found.stderr
    for word in expected:
        assert filled(word) in errors[0]
    assert "CHANGED" not in found.stderr
    assert not list(folder.glob("toy*"))


@pytest.mark.slow
@pytest.mark.skipif(not may_mount(), reason="needs the right to mount disks in a name space")
def test_a_full_tmpdir_is_not_missed(trained: Path, tmp_path: Path) -> None:
    """Nothing that a training needs is kept there: it goes on to its end, loader processes and all."""
    run = Path(shutil.copytree(trained, tmp_path / "toy" / "run"))
    (tmp_path / "full").mkdir()
    words = ["--resume", str(run), "--trainer.max_epochs", "4", "--data.num_workers", "2"]
    found = mounted(FULL.format(folder=tmp_path / "full"), words, TMPDIR=str(tmp_path / "full"))
    assert found.returncode == 0, found.stderr
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["position"]["epoch"] == 4


def test_rows_of_nul_bytes_are_refused(trained: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    from experiments import run

    folder = Path(shutil.copytree(trained, tmp_path / "toy" / "run"))
    rows = (folder / "metrics.csv").read_bytes()
    (folder / "metrics.csv").write_bytes(rows + bytes(512))
    before = contents(folder)
    monkeypatch.setattr("sys.argv", ["run", "--resume", str(folder), "--trainer.max_epochs", "4"])
    assert run.command() == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {folder / 'metrics.csv'} has NUL bytes in line ")
    assert contents(folder) == before
    mend = error.partition("resume again: ")[2].strip()
    subprocess.run(mend, shell=True, check=True)
    assert (folder / "metrics.csv").read_bytes() == rows
    assert run.command() == 0

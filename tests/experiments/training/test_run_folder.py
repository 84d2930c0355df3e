"""The run folder: what it says of the machine, whose it is, and that a training begins only where it can be kept."""

import errno
import fcntl
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest
import torch

from experiments.training.run_folder import LOCK, RunFolder, RunFolderError, peak_memory, remove_unfinished


def test_a_run_on_the_cpu_has_used_the_memory_of_its_process(monkeypatch):
    """Also on a machine with a GPU, where it has used none of that one's."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert peak_memory(torch.device("cpu")) > 2**26


def test_a_run_on_a_gpu_has_used_what_its_tensors_took(monkeypatch):
    taken = {torch.device("cuda", 1): 3 * 2**30}
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: taken[device])
    assert peak_memory(torch.device("cuda", 1)) == 3 * 2**30


# Whose it is


def in_a_process(work: Callable[[], object]) -> int:
    """Number of a child that does some work, keeps what that gives, and sleeps until it is killed."""
    child = os.fork()
    if child:
        return child
    try:
        kept = work()
        time.sleep(60)
        del kept
    finally:
        os._exit(1)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.exists()


def end(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    return tmp_path / "run"


def test_of_two_processes_that_go_on_with_a_run_the_second_is_refused(folder: Path, tmp_path: Path) -> None:
    def hold() -> RunFolder:
        run = RunFolder(folder, "", "")
        (tmp_path / "held").touch()
        return run

    child = in_a_process(hold)
    try:
        wait_for(tmp_path / "held")
        with pytest.raises(RunFolderError, match=rf"is in use by process {child} on .*: wait until"):
            RunFolder(folder, "", "")
    finally:
        end(child)
    run = RunFolder(folder, "", "")  # killed, it has it no longer
    assert f"process {os.getpid()} " in (folder / LOCK).read_text()
    run.release()
    assert [path.name for path in folder.iterdir()] == ["checkpoints"]


def test_loader_processes_that_outlive_a_killed_run_do_not_keep_it(folder: Path, tmp_path: Path) -> None:
    def hold() -> RunFolder:
        run = RunFolder(folder, "", "")
        number = os.fork()
        if number == 0:
            time.sleep(60)
            os._exit(0)
        (tmp_path / "worker").write_text(str(number))
        (tmp_path / "held").touch()
        return run

    child = in_a_process(hold)
    wait_for(tmp_path / "held")
    end(child)
    worker = int((tmp_path / "worker").read_text())
    try:
        RunFolder(folder, "", "").release()
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_lock_whose_file_was_taken_away_meanwhile_is_taken_anew(folder: Path, monkeypatch) -> None:
    real, calls = fcntl.lockf, []

    def released_by_another(file, how) -> None:
        real(file, how)
        calls.append(how)
        if len(calls) == 1:
            (folder / LOCK).unlink()

    monkeypatch.setattr(fcntl, "lockf", released_by_another)
    run = RunFolder(folder, "", "")
    assert len(calls) == 2
    assert (folder / LOCK).is_file()
    run.release()


def test_where_a_file_system_has_no_locks_a_line_says_so(folder: Path, monkeypatch, capsys) -> None:
    def none(*_) -> NoReturn:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", none)
    RunFolder(folder, "", "").release()
    assert "without locks" in capsys.readouterr().out


def test_other_processes_of_a_job_take_no_lock(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr("experiments.training.run_folder.rank_zero_only.rank", 1)
    RunFolder(folder, "", "")
    assert not (folder / LOCK).exists()


# Where it can be kept


def test_no_training_begins_where_the_next_checkpoint_has_no_room(folder: Path, monkeypatch) -> None:
    (folder / "checkpoints" / "last.ckpt").write_bytes(bytes(3_000_000))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2_000_000))
    with pytest.raises(RunFolderError, match=r"2\.0 MB free.* 3\.0 MB"):
        RunFolder(folder, "", "")
    assert not (folder / LOCK).exists()


def test_what_a_killed_life_was_writing_is_taken_away(folder: Path) -> None:
    for name in ("checkpoints/last.ckpt.part", "metrics.csv.part", "summary.json.part"):
        (folder / name).write_bytes(b"half")
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"whole")
    remove_unfinished(folder)
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["last.ckpt"]

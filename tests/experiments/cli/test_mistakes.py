"""What is the user's to mend is one sentence and exit status 2; a bug keeps its traceback."""

import errno
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader, Dataset
from wandb.sdk.mailbox import HandleAbandonedError

import hrnet
from datamodules.base import DataError
from datamodules.images.orientation import oriented
from experiments import cli, run
from experiments.cli.mistakes import debugging, is_users_mistake, sentence_of
from experiments.training.run_folder import RunFolderError


def raised(function, *arguments, **options) -> BaseException:
    try:
        function(*arguments, **options)
    except Exception as error:
        return error
    pytest.fail("nothing was raised")


def raising(error: BaseException):
    def function() -> None:
        raise error

    return function


class Broken(Dataset):
    """Its samples raise an error of ours, or a bug.

    Args:
        kind: Which.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        """Raise."""
        if self.kind == "data":
            raise DataError("image 3 is cut off: copy it again.")
        if self.kind == "ours":
            return len(hrnet.HRNet("w99").channels)
        return int("seven")


@pytest.mark.parametrize(
    ("kind", "expected"), [("data", "image 3 is cut off: copy it again."), ("ours", "w99"), ("bug", None)]
)
@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_loader_workers_are_those_of_the_process_itself(kind, expected, workers):
    error = raised(next, iter(DataLoader(Broken(kind), num_workers=workers)))
    sentence = sentence_of(error)
    if expected is None:
        assert sentence is None
    else:
        assert expected in sentence
        assert "Traceback" not in sentence
        assert "File" not in sentence


@pytest.mark.parametrize(
    "error", [DataError("said."), RunFolderError("said."), MisconfigurationException("said.")], ids=lambda e: type(e)
)
def test_what_is_said_on_purpose_is_passed_on(error):
    assert sentence_of(error) == "said."


@pytest.mark.parametrize("error", [KeyError("x"), TypeError("x"), RuntimeError("x"), ValueError("x"), IndexError("x")])
def test_bugs_are_none_of_the_users(error):
    assert sentence_of(raised(raising(error))) is None


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied", "/data/x"),
        NotADirectoryError(errno.ENOTDIR, "Not a directory", "/data/x"),
        IsADirectoryError(errno.EISDIR, "Is a directory", "/data/x"),
        FileExistsError(errno.EEXIST, "File exists", "/data/x"),
        OSError(errno.ENOSPC, "No space left on device", "/data/x"),
        OSError(errno.EROFS, "Read-only file system", "/data/x"),
    ],
    ids=lambda error: error.strerror,
)
def test_what_the_file_system_refuses_names_the_place(error):
    sentence = sentence_of(raised(raising(error)))
    assert "/data/x" in sentence
    assert error.strerror in sentence
    assert is_users_mistake(error)


def test_what_nobody_said_on_purpose_is_a_bug_of_ours():
    error = raised(oriented, np.zeros(3), 5)  # in a file of ours, by no `raise`
    assert isinstance(error, ValueError)
    assert sentence_of(error) is None


def test_connections_that_break_are_no_matter_of_files():
    assert sentence_of(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")) is None


def test_an_answer_of_wandb_that_will_never_come_says_how_to_go_on():
    sentence = sentence_of(HandleAbandonedError())
    assert sentence.startswith("W&B's service has ended (HandleAbandonedError)")
    assert "--resume" in sentence


def test_one_value_a_channel_says_what_to_raise():
    error = raised(nn.BatchNorm2d(3).train(), torch.zeros(1, 3, 1, 1))
    sentence = sentence_of(error)
    assert "[1, 3, 1, 1]" in sentence
    assert "data.batch_size" in sentence
    assert "data.image_size" in sentence
    assert not is_users_mistake(error)  # a search goes on with other values


def test_a_full_gpu_says_what_to_lower():
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
    assert "data.batch_size" in sentence_of(error)
    assert "2.00 GiB" in sentence_of(error)
    assert not is_users_mistake(error)


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ([], False),
        (["--debug"], True),
        (["--debug=true"], True),
        (["--debug", "true"], True),
        (["--debug", "false"], False),
        (["--debug=false"], False),
        (["debug.yaml"], False),
    ],
)
def test_tracebacks_are_shown_where_they_are_asked_for(words, asked, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run", *words])
    assert debugging() is asked
    entry = raising(DataError("said."))
    if asked:
        with pytest.raises(DataError):
            run.command(entry)
    else:
        assert run.command(entry) == 2
        assert capsys.readouterr().err == "error: said.\n"


def test_a_name_in_a_sentence_is_shown_and_obeyed_by_no_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run"])
    assert run.command(raising(DataError("a\x1b[2J\udcf8.png is damaged.\nNext \x07line"))) == 2
    assert capsys.readouterr().err == "error: a\\x1b[2J\\udcf8.png is damaged.\nNext \\x07line\n"


def test_a_bug_is_not_hidden(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run"])
    with pytest.raises(KeyError):
        run.command(raising(KeyError("x")))


QUICK = ["pose_coco.yaml", "sample.yaml", "debug.yaml", "--wandb.mode", "disabled"]


@pytest.mark.parametrize(
    ("yaml", "flags", "words"),
    [
        (b"5: x", [], ["section 5"]),
        (b"data: {init_args: {root: 2024-05-01}}", [], ["2024-05-01", "no folder"]),
        (b"data: &a [*a]", [], ["alias"]),
        (b"data: {init_args: {photometric: [{name: {}}]}}", [], ["no transform {}"]),
        (b"data: {init_args: {photometric: [{name: 5}]}}", [], ["5"]),
        (b"data: {init_args: {annotations: {train: {}}}}", [], ["data.annotations.train"]),
        (b"model: {init_args: {optimizer: {name: {}, lr: 1}}}", [], ["model.optimizer.name should be text"]),
        (b"model: {init_args: {optimizer: {name: {}}}}", [], ["model.optimizer"]),
        (b"wandb: {name: {}}", [], ["wandb.name should be text"]),
        (b"name: {}", [], ["name should be text"]),
        (b"save_minutes: soon", [], ["save_minutes should be a number"]),
        ("wandb: {notes: größer}".encode("cp1252"), [], ["UTF-8"]),
        (b"{}", ["--runs", "@file"], ["@file"]),
    ],
)
def test_odd_files_and_paths_end_with_a_sentence(yaml, flags, words, tmp_path, monkeypatch, capsys):
    mine = tmp_path / "mine.yaml"
    mine.write_bytes(yaml)
    (tmp_path / "@file").write_text("")
    monkeypatch.chdir(tmp_path)
    flags = flags or ["--runs", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", ["run", QUICK[0], "sample.yaml", "debug.yaml", str(mine), *QUICK[3:], *flags])
    assert run.command() == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "Traceback" not in error
    for word in words:
        assert word in error
    assert not (tmp_path / "runs").exists()


def test_a_path_that_is_a_file_is_named_by_every_command(tmp_path, monkeypatch, capsys):
    file = tmp_path / "file"
    file.write_text("x")
    monkeypatch.setattr(sys, "argv", ["hrnet"])
    for words in (["compare", str(file)], ["errors", str(file)], ["split", str(file), "pose", "out.ckpt"]):
        assert cli.main(words) == 2
        error = capsys.readouterr().err
        assert str(file) in error
        assert "Traceback" not in error


def test_a_read_only_run_folder_is_a_sentence(monkeypatch, tmp_path, capsys):
    real = Path.mkdir

    def refuse(self, *arguments, **options):
        if "runs" in self.parts:
            raise OSError(errno.EROFS, "Read-only file system", str(self))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(sys, "argv", ["run", *QUICK, "--runs", str(tmp_path / "runs")])
    assert run.command() == 2
    error = capsys.readouterr().err
    assert "Read-only file system" in error
    assert "--runs" in error

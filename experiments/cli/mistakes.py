"""A user's mistakes: which errors are for the user to mend, and the one sentence that says what to do.

What all commands may raise stands here, so that those that need no torch do not import it.
"""

import difflib
import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

OURS = tuple(f"{Path(__file__).parents[2] / name}/" for name in ("hrnet", "tasks", "datamodules"))
REFUSALS = (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG)


class Mistake(Exception):
    """What was asked for is wrong; the message is one sentence that says what was found and what to do."""


class Stopped(Exception):
    """The work was asked to stop by a signal, and its state is kept.

    Args:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The known name that was probably meant, if any: a similar one, or one that begins as `name` does."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    stem = name.lower()[: max(4, len(name) - 2)]
    return near or [other for other in known if len(name) > 3 and other.lower().startswith(stem)][:1]


def did_you_mean(near: list[str]) -> str:
    """The end of a sentence about an unknown name; without a near one a full stop."""
    return f"; did you mean {near[0]}?" if near else "."


def sentence_of(error: BaseException) -> str | None:
    """What a command says of an error; None for a bug, whose traceback is needed."""
    if isinstance(error, Mistake):
        return str(error)
    import torch

    text = str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return (
            "The GPU has not enough memory: lower data.batch_size or data.image_size, or set trainer.precision to "
            f"16-mixed or model.backbone.gradient_checkpointing to true. ({text.splitlines()[0]})"
        )
    if is_of_another_process(error):
        return (
            "Another process of this job has ended or cannot be reached, so this one cannot go on; what that one said "
            f"is the cause. What was saved is whole: go on with --resume. ({text.strip().splitlines()[0][:200]})"
        )
    if isinstance(error, RuntimeError) and (
        lost := re.match(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\) (.*)", text)
    ):
        return (
            f"A loader process ({lost[1]}) has ended: {lost[2].rstrip('.')}. If it was killed, the memory or /dev/shm "
            "was full: lower data.num_workers or data.batch_size. What was saved is whole: go on with --resume."
        )
    if is_of_wandb(error):
        return (
            f"W&B's service has ended ({text or type(error).__name__}): what was saved is whole, so go on with "
            "--resume, or without W&B by --wandb.mode disabled as well."
        )
    if isinstance(error, ValueError) and text.startswith("Expected more than 1 value per channel when training"):
        shape = text.rpartition("torch.Size")[2].strip("()")
        return (
            f"Batch norm cannot be trained on one value a channel, here of a map {shape} (batch, channels, height, "
            "width): set data.batch_size to 2 or more, or a larger data.image_size."
        )
    return text_of_mistake(error)


def is_of_another_process(error: BaseException) -> bool:
    """Whether a process of a job has lost another one: what gloo, NCCL and torch's store say when a line is cut."""
    import torch

    kinds = getattr(torch.distributed, "DistError", ())
    return isinstance(error, kinds) or (
        isinstance(error, RuntimeError) and re.search(r"gloo/transport|gloo::|NCCL", str(error)) is not None
    )


def is_of_wandb(error: BaseException) -> bool:
    """Whether W&B's service process has ended: an answer that will never come, or a line that is cut."""
    abandoned = type(error).__module__.startswith("wandb.sdk.mailbox")
    return abandoned or (isinstance(error, ConnectionError) and _raised_below("wandb", error))


def is_users_mistake(error: BaseException) -> bool:
    """Whether what was asked for is wrong, or the machine refuses it, so that no other attempt can do better."""
    return text_of_mistake(error) is not None


def text_of_mistake(error: BaseException) -> str | None:
    """Our own words about bad input, or what the file system refuses; None for anything else."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from datamodules.base import DataError
    from datamodules.loading.text_files import ConfigError

    text = str(error)
    if isinstance(error, Mistake | DataError | ConfigError | MisconfigurationException):
        # A worker process wraps its traceback into the message; the last part is what was said.
        return text.rsplit("DataError: ", 1)[-1].strip()
    if isinstance(error, REFUSALS) or (isinstance(error, OSError) and error.errno in FULL):
        where = f"{error.filename} cannot be used: " if error.filename is not None else ""
        return f"{where}{error.strerror or text}. Correct its rights, make room, or name another place."
    frames = traceback.extract_tb(error.__traceback__)
    if frames and _refused_by_lightning(error, frames[-1]):
        return " ".join(text.split())
    raised_in, text = _in_worker(text) or (frames[-1].filename if frames else "", text)
    if isinstance(error, ValueError | FileNotFoundError) and raised_in.startswith(OURS):
        # Not where a line of ours met what it should have looked at before, such as `int(text)`: that is a bug.
        here = isinstance(error, ValueError) and frames and raised_in == frames[-1].filename
        line = frames[-1].line if here else None
        return text.strip() if not line or line.startswith("raise ") else None
    return None


def _refused_by_lightning(error: BaseException, last: traceback.FrameSummary) -> bool:
    """Whether Lightning says on purpose that it does not take an option, in an error of no class of its own."""
    place = last.filename.rpartition(f"{os.sep}lightning{os.sep}")[2]
    kinds = ValueError | TypeError | RuntimeError if f"{os.sep}callbacks{os.sep}" in place else ValueError | TypeError
    return place != last.filename and isinstance(error, kinds) and (last.line or "").startswith("raise ")


def _raised_below(package: str, error: BaseException) -> bool:
    """Whether an error comes through a package that is no code of ours."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(f"{os.sep}site-packages{os.sep}{package}{os.sep}" in frame.filename for frame in frames)


def debugging() -> bool:
    """Whether the command line asks for tracebacks."""
    asked = False
    for place, word in enumerate(sys.argv):
        if word == "--debug":
            asked = sys.argv[place + 1 : place + 2] != ["false"]
        elif word.startswith("--debug="):
            asked = word != "--debug=false"
    return asked


def _in_worker(text: str) -> tuple[str, str] | None:
    """Of an error that a loader's worker process has sent: the file that raised it, and what it said."""
    if not text.startswith("Caught ") or "Original Traceback" not in text:
        return None
    files = re.findall(r'^  File "([^"]+)"', text, re.MULTILINE)
    said = re.findall(r"^\w[\w.]*: (.*)", text.rpartition("Original Traceback")[2], re.MULTILINE | re.DOTALL)
    return (files[-1], said[-1]) if files and said else None

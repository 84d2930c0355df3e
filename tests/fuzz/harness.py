"""One input of one kind of file: written, read under a limit of time and memory, and judged."""

import random
import signal
import sys
import traceback
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from datamodules.base import DataError
from datamodules.loading.text_files import ConfigError
from experiments.cli.mistakes import Mistake

SECONDS = 20
"""Within which an input has to be read."""
MEMORY = 2**30
"""Bytes that reading one may take beyond what the process has; images are read with a limit of 2^22 pixels here."""
ROOT = Path(__file__).parents[2]
OURS = tuple(f"{ROOT / name}/" for name in ("hrnet", "tasks", "datamodules", "experiments"))
STATUS, REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Hang(BaseException):
    """Reading takes too long; no reader may catch it."""


class Outcome(NamedTuple):
    """What became of one input."""

    kind: str
    """read, refused, or what is wrong: foreign error, wrong result, poor sentence, hang, memory."""
    said: str
    """The sentence, or the traceback."""

    @property
    def is_right(self) -> bool:
        """Whether the file was read rightly, or refused in a sentence."""
        return self.kind in ("read", "refused")


class Kind(ABC):
    """A kind of file.

    Args:
        folder: Empty, to be written to.
    """

    name: ClassVar[str]
    share: ClassVar[int] = 1
    """How many of the inputs are of this kind, beside the others."""
    names_file: ClassVar[bool] = True
    """Whether a refusal has to name a file; a configuration's may name the key or flag instead."""

    refuses: ClassVar[bool] = True
    """Whether some inputs have to be refused: a comparison goes as far as a run does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @abstractmethod
    def write(self, rng: random.Random) -> Path:
        """Write an input; the file that a refusal has to name."""

    @abstractmethod
    def read(self, path: Path, rng: random.Random) -> None:
        """Read it as the library does; AssertionError where the result is not right."""


def judge(kind: Kind, seed: int) -> Outcome:
    """Write and read one input; the same seed gives the same one."""
    rng = random.Random(f"{kind.name} {seed}")
    path = kind.write(rng)
    before = _reset_peak()
    try:
        with _limited(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind.read(path, rng)
        outcome = Outcome("read", "")
    except Hang:
        return Outcome("hang", traceback.format_exc())
    except AssertionError:
        return Outcome("wrong result", traceback.format_exc())
    except Exception as error:
        outcome = _of_error(kind, path, error)
    used = _peak() - before
    return Outcome("memory", f"{used / 2**20:.0f} MiB") if used > MEMORY else outcome


def _of_error(kind: Kind, path: Path, error: Exception) -> Outcome:
    if not is_ours(error):
        return Outcome("foreign error", "".join(traceback.format_exception(error)))
    said = str(error)
    if len(said) > 4000 or not said.strip() or (kind.names_file and str(kind.folder) not in said):
        return Outcome("poor sentence", f"{type(error).__name__}: {said!r}")
    return Outcome("refused", said)


def is_ours(error: BaseException) -> bool:
    """Whether an error says on purpose that the input is wrong: of our classes, or a ValueError that we raise."""
    if isinstance(error, DataError | ConfigError | Mistake):
        return True
    last: Any = traceback.extract_tb(error.__traceback__)[-1]
    return type(error) in _DOCUMENTED and last.filename.startswith(OURS) and (last.line or "").startswith("raise ")


def _documented() -> tuple[type, ...]:
    from hrnet.weights import Unfit

    return ValueError, FileNotFoundError, Unfit


_DOCUMENTED = _documented()


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _reset_peak() -> int:
    """Bytes that the process has, from which on its peak is measured; 0 where no system says it."""
    if sys.platform != "linux":
        return 0
    try:
        REFERENCES.write_text("5")
    except OSError:  # not allowed, as in some containers: then the peak is that of the whole life, and says nothing
        return sys.maxsize
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM") if sys.platform == "linux" else 0


def _status(key: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(key))
    return 1024 * int(line.split()[1])

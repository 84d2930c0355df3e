"""What a data set says of itself: defects, notes, counts, and the error that stops a run at the first grave defect.

A DataModule yields facts, the data doctor gathers them; `images/looking.py` has one more kind, a look at an image file.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "val", "test"]
Mode = Literal["none", "headers", "full"]
"""How far images are read: not at all (are they there?), the head of each file, or every pixel."""


class DataError(Exception):
    """A mistake in the user's data or in what was said about them; the message is a sentence that says what to do."""


@contextmanager
def refused(complaint: Callable[[str], str]) -> Iterator[None]:
    """The edge of a reader: whatever is raised within, because a file is damaged or odd, becomes one DataError.

    Libraries raise anything: KeyError, struct.error, RecursionError, errors of their own. Only the reading itself
    belongs within, so that no bug of ours in what follows is hidden; what we say ourselves passes as it is.

    Args:
        complaint: What was said, in a few words -> the sentence with the name of the file.

    Raises:
        DataError: For any other exception.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(complaint(_words(error))) from error


def _words(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "it does not fit into memory"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    said = " ".join(str(error).split())
    said = said if len(said) <= 200 else f"{said[:197]}..."
    return said if said and isinstance(error, OSError | SyntaxError | ValueError) else f"{type(error).__name__}: {said}"


class Fact:
    """Something that a DataModule says of one of its splits."""

    split: str


@dataclass(frozen=True)
class Finding(Fact):
    """One defect.

    Args:
        kind: What is wrong, in a few words, by which findings are grouped: one that the data doctor has advice for, or
            a new one.
        split: Where it is, such as `train`; of a joint run `pose train`.
        item: The id or file that has it, such as `annotation 17 (000000000009.jpg)`.
        found: What was found, and what was expected.
    """

    kind: str
    split: str
    item: str
    found: str


@dataclass(frozen=True)
class Note(Fact):
    """What is no defect, but good to know.

    Args:
        split: Of which it is said.
        text: A sentence.
    """

    split: str
    text: str


@dataclass(frozen=True)
class Count(Fact):
    """How often each of several things occurs in a split: a column of the statistics.

    Args:
        split: Where they were counted.
        table: Title of the table, such as `pixels`; None for what is said of the whole: how much was looked at.
        counts: Name -> how often.
        classes: Those names that each split should have; what one split has and another lacks is a defect.
        noun: What is counted, in the sentence about such a class, such as pixel.
        required: Whether a class that no split has is a defect too, since the user named it.
    """

    split: str
    table: str | None
    counts: Counter
    classes: Sequence[str] = ()
    noun: str = "sample"
    required: bool = False

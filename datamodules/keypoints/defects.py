"""What is wrong with the file of a data set: noted once while it is read, said in two ways.

Training refuses a file for its first grave defect and warns of what it put right, one sentence for all entries alike
(`accept`); the data doctor lists every entry of every defect.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.base import DataError


@dataclass(frozen=True)
class Defect:
    """Entries of a file that are wrong in one way.

    Args:
        kind: What the data doctor calls it, and has advice for.
        sentence: All of them in one sentence.
        each: Gives what each entry is called, and what was found there.
        grave: True if only the user can put it right, False if it was put right here; None is for the doctor alone.
    """

    kind: str
    sentence: str
    each: Callable[[], Iterable[tuple[str, str]]]
    grave: bool | None = None


def accept(defects: Iterable[Defect]) -> None:
    """Warn of what was put right; raises DataError for the first grave defect."""
    for defect in defects:
        if defect.grave:
            raise DataError(defect.sentence)
        if defect.grave is False:
            rank_zero_warn(defect.sentence)


class Notes:
    """Notes the defects of N entries of a file, whose sentences count them and name the first few.

    Args:
        path: Of the file.
        noun: What one entry is called.
        names: (N,) what sentences call them: their ids.
        label: Row -> what the doctor calls an entry.
        defects: What is noted is appended to it.
    """

    def __init__(
        self, path: Path, noun: str, names: Sequence[Any], label: Callable[[int], str], defects: list[Defect]
    ) -> None:
        self.path, self.noun, self.names, self.label, self.defects = path, noun, names, label, defects

    def refuse(self, wrong: np.ndarray, kind: str, found: str, expected: str, one: Callable[[int], str]) -> None:
        """Note entries (N,) that only the user can put right.

        Args:
            wrong: (N,) bool.
            kind: Of the defect.
            found: What they do, as "have a `bbox` that is not finite".
            expected: What they should have.
            one: Row -> what was found there.
        """
        self.note(wrong, kind, f"{found}; expected {expected}.", one, grave=True)

    def warn(self, odd: np.ndarray, kind: str, found: str, one: Callable[[int], str]) -> None:
        """Note entries that are put right here; `found` says how."""
        self.note(odd, kind, found, one, grave=False)

    def mention(self, odd: np.ndarray, kind: str, one: Callable[[int], str]) -> None:
        """Note entries that do no harm here."""
        self.note(odd, kind, "", one, grave=None)

    def note(self, wrong: np.ndarray, kind: str, found: str, one: Callable[[int], str], grave: bool | None) -> None:
        """Note those entries, if any."""
        rows = np.flatnonzero(wrong).tolist()
        if rows:
            sentence = f"{self.path}: {listed([self.names[row] for row in rows], self.noun)} {found}"
            self.defects.append(Defect(kind, sentence, lambda: ((self.label(row), one(row)) for row in rows), grave))


def listed(ids: Sequence[Any], noun: str = "annotation") -> str:
    """Count and first few of `ids`, for messages: "2 annotations (id 5, 9)"."""
    shown = ", ".join(short(value) for value in ids[:5])
    return f"{len(ids)} {noun}{'s' * (len(ids) != 1)} (id {shown}{', ...' * (len(ids) > 5)})"


def short(value: Any) -> str:
    """A value for a message, cut to 60 characters that any terminal shows."""
    try:
        text = str(value)
    except ValueError:  # an integer of more digits than Python writes
        text = "a number of thousands of digits"
    text = text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    return text if len(text) <= 60 else f"{text[:57]}..."


def quoted(value: Any) -> str:
    """`short` of a value as Python writes it."""
    try:
        return short(repr(value))
    except ValueError:
        return short(value)

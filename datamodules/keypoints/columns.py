"""The objects of a JSON file as typed columns, and what an id, a number and a list of numbers may be there.

A file is parsed once (`read_json`), its objects become columns (`Entries`), and all that follows works on arrays.
"""

import gc
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.base import DataError
from datamodules.keypoints.defects import Defect, Notes, listed, quoted

MALFORMED = "malformed entry"

HUGE = 1e15
"""No length in pixels, area or count comes near; what is larger counts as not finite, which it soon would be."""
Id = int | str


def identifier(value: Any) -> Id | None:
    """An id by which files name the same thing: integers of any size, also as 7.0 or "7", and text; None for others."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if not isinstance(value, str):
        return None
    text = value.strip()
    is_integer = text.isascii() and text.removeprefix("-").isdigit() and len(text) < 4000  # Python reads no longer ones
    return int(text) if is_integer else text or None


def identifiers(values: Sequence[Any]) -> list[Id | None]:
    """`identifier` of each; the values themselves where all are integers."""
    return list(values) if set(map(type, values)) <= {int} else [identifier(value) for value in values]


def batch_numbers(ids: Sequence[Id | None]) -> np.ndarray:
    """(N,) int64 that stand for ids in a batch: the ids, or the rows 0, 1, ... where one is no 64-bit integer."""
    fit = all(isinstance(key, int) and -(2**63) <= key < 2**63 for key in ids)
    return np.array(ids, np.int64) if fit else np.arange(len(ids))


def number(value: Any) -> float | None:
    """A number, also as true, false or text, if it is finite and below 1e15; None for anything else."""
    found = as_float(value)
    return found if found is not None and abs(found) < HUGE else None


def numbers(value: Any, count: int) -> list[float] | None:
    """A list of so many such numbers; None for anything else."""
    found = [number(v) for v in value] if isinstance(value, list) and len(value) == count else [None]
    return None if None in found else found


def as_float(value: Any) -> float | None:
    """The number that `value` is or writes, however large; None if it is none."""
    if not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except ValueError:
        return None


def capped(values: np.ndarray) -> np.ndarray:
    """The numbers with infinities for those from 1e15 on."""
    if not values.size or (values.min() > -HUGE and values.max() < HUGE):
        return values
    return np.where(np.abs(values) >= HUGE, np.copysign(np.inf, values), values)


def read_json(path: Path, kind: str = "COCO JSON") -> Any:
    """What a JSON file holds; raises DataError where it cannot be read, in UTF-8 or UTF-16, or is no JSON.

    Args:
        path: Of the file.
        kind: What messages say that it should be.
    """
    try:
        data = path.read_bytes()
        with _no_garbage_collection():
            return json.loads(data)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): give the path relative to root.") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not {kind}: byte {error.start} is no {error.encoding.upper()}; save the file as UTF-8."
        ) from error
    except RecursionError as error:
        raise DataError(f"{path} is not {kind}: its lists are nested a thousand deep; give another file.") from error
    except ValueError as error:
        raise DataError(f"{path} is not {kind} ({error}): give the file of annotations or detections.") from error
    except MemoryError as error:
        raise DataError(f"{path} does not fit into memory: split it, or use a machine with more.") from error


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """JSON has no circles to look for, and looking takes a third of the time that 200 MB take."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class Entries:
    """The N objects of one list of a file as columns; what is wrong with them is noted.

    Args:
        path: Of the file.
        entries: The objects.
        noun: What one is called.
        label: Row -> what the data doctor calls one.
        defects: To append to.
        names: (N,) what sentences call them; their `id` when not given.

    Attributes:
        sound: (N,) bool, whether all that was asked for had the right type; the others have None or nan in its place.
    """

    def __init__(
        self,
        path: Path,
        entries: Sequence[dict],
        noun: str,
        label: Callable[[int], str],
        defects: list[Defect],
        names: Sequence[Any] | None = None,
    ) -> None:
        self.entries, self.sound = entries, np.ones(len(entries), bool)
        self.names = [entry.get("id") for entry in entries] if names is None else names
        self.notes = Notes(path, noun, self.names, label, defects)

    def said(self, key: str) -> Callable[[int], str]:
        """Row -> what an entry has under `key`, as a finding says it."""
        return lambda row: f"{key} is {quoted(self.entries[row].get(key))}"

    def ids(self, key: str, *, optional: bool = False) -> list[Id | None]:
        """(N,) the ids under `key`, see `identifier`; None, where that is allowed, for one that is absent or null."""
        values = [entry.get(key) for entry in self.entries]
        found = identifiers(values)
        right = [key is not None or (optional and v is None) for key, v in zip(found, values, strict=True)]
        self._refuse_type(key, right, "number or text")
        return found

    def column(self, key: str) -> np.ndarray:
        """(N,) float64 numbers under `key`, nan where it is absent or null; infinite from 1e15 on."""
        values = [entry.get(key) for entry in self.entries]
        try:
            column = np.array(values, np.float64)  # of None it makes nan
            if column.ndim == 1:
                return capped(column)
        except (TypeError, ValueError, OverflowError):
            pass
        found = [math.nan if value is None else as_float(value) for value in values]
        self._refuse_type(key, [value is not None for value in found], "number")
        return capped(np.array(found, np.float64))

    def table(self, key: str, width: int, kind: str = MALFORMED, expected: str = "") -> np.ndarray:
        """(N, width) float64 lists under `key`, zeros for one that is absent or empty; null is nan."""
        blank = [0] * width
        values = [entry.get(key) for entry in self.entries]
        values = [blank if value is None or value == [] else value for value in values]
        lengths = np.array([len(value) if isinstance(value, list) else 0 for value in values], np.int64)
        wrong, expected = lengths != width, expected or f"{width} numbers"
        found = f"have {np.unique(lengths[wrong])[:5].tolist()} numbers in `{key}`"
        self._refuse(wrong, kind, found, expected, lambda row: f"{key} has {lengths[row]} numbers, expected {width}")
        if wrong.any():
            values = [blank if bad else value for bad, value in zip(wrong.tolist(), values, strict=True)]
        try:
            table = np.array(values, np.float64)
            if table.shape == (len(values), width) or not values:
                return capped(table.reshape(len(values), width))
        except (TypeError, ValueError, OverflowError):
            pass
        rows = [[math.nan if v is None else as_float(v) for v in value] for value in values]
        odd = np.array([None in row for row in rows], bool)
        self._refuse(odd, MALFORMED, f"have something else than numbers in `{key}`", f"{width} numbers", self.said(key))
        return capped(np.array(rows, np.float64).reshape(len(values), width))

    def refuse_repeats(self, ids: Sequence[Id | None]) -> np.ndarray:
        """(N,) bool, which have the id of an earlier one; they are noted."""
        if len(set(ids)) == len(ids):
            return np.zeros(len(ids), bool)
        counts, seen = Counter(ids), set()
        repeated = np.array([key is not None and counts[key] > 1 for key in ids])
        later = np.array([key in seen or seen.add(key) is not None for key in ids]) & repeated
        expected = "a different id for each"
        if any(isinstance(self.names[row], float) and abs(self.names[row]) > 2**53 for row in np.flatnonzero(later)):
            expected += ", as a whole number or text: with a decimal point, numbers above 2^53 run together"

        def one(row: int) -> str:
            return f"{counts[ids[row]]} entries have this id"

        self.notes.refuse(later, "repeated id", "repeat the id of another one", expected, one)
        self.notes.mention(repeated & ~later, "repeated id", one)
        return later

    def _refuse(self, wrong: np.ndarray, kind: str, found: str, expected: str, one: Callable[[int], str]) -> None:
        self.sound &= ~wrong
        self.notes.refuse(wrong, kind, found, expected, one)

    def _refuse_type(self, key: str, right: Sequence[bool], expected: str) -> None:
        wrong = ~np.array(right, bool)
        if wrong.any():
            self.sound &= ~wrong
            names, said = [self.names[row] for row in np.flatnonzero(wrong)], self.said(key)
            notes = self.notes
            sentence = f"{notes.path}: `{key}` is no {expected} in {listed(names, notes.noun)}: correct them."
            one = [(row, f", expected a {expected}") for row in np.flatnonzero(wrong).tolist()]
            notes.defects.append(
                Defect(MALFORMED, sentence, lambda: ((notes.label(row), said(row) + more) for row, more in one), True)
            )

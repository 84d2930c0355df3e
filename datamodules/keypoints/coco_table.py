"""COCO JSON as typed columns: what an id, a number and a list of numbers may be, for the loader and the data doctor.

A file is parsed once (`read_json`), its objects become columns (`Entries`), and all that follows works on arrays.
"""

import gc
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.base import DataError

HUGE = 1e15
"""No length in pixels, area or count comes near; what is larger counts as not finite, which it soon would be."""
Id = int | str


def read_json(path: Path) -> Any:
    """What a JSON file holds; raises DataError where it cannot be read, in UTF-8 or UTF-16, or is no JSON."""
    try:
        data = path.read_bytes()
        with _no_garbage_collection():
            return json.loads(data)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): give the path relative to root.") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not COCO JSON: byte {error.start} is no {error.encoding.upper()}; save the file as UTF-8."
        ) from error
    except RecursionError as error:
        raise DataError(f"{path} is not COCO JSON: its lists are nested a thousand deep; give another file.") from error
    except ValueError as error:
        raise DataError(f"{path} is not COCO JSON ({error}): give the file of annotations or detections.") from error


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


def number(value: Any) -> float | None:
    """A number, also as true, false or text, if it is finite and below 1e15; None for anything else."""
    found = _float(value)
    return found if found is not None and abs(found) < HUGE else None


def numbers(value: Any, count: int) -> list[float] | None:
    """A list of so many such numbers; None for anything else."""
    found = [number(v) for v in value] if isinstance(value, list) and len(value) == count else [None]
    return None if None in found else found


def _float(value: Any) -> float | None:
    """The number that `value` is or writes, however large; None if it is none."""
    if not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except ValueError:
        return None


def batch_numbers(ids: Sequence[Id | None]) -> np.ndarray:
    """(N,) int64 that stand for ids in a batch: the ids, or the rows 0, 1, ... where one is no 64-bit integer."""
    fit = all(isinstance(key, int) and -(2**63) <= key < 2**63 for key in ids)
    return np.array(ids, np.int64) if fit else np.arange(len(ids))


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


class Entries:
    """The N objects of one list of a file as columns; a mistake is reported by file, count and first ids.

    Args:
        path: Of the file.
        entries: The objects.
        noun: What one is called.
        names: (N,) what messages call them; their `id` when not given.
    """

    def __init__(self, path: Path, entries: Sequence[dict], noun: str, names: Sequence[Any] | None = None) -> None:
        self.path, self.entries, self.noun = path, entries, noun
        self.names = [entry.get("id") for entry in entries] if names is None else names

    def ids(self, key: str, *, optional: bool = False) -> list[Id | None]:
        """(N,) the ids under `key`, see `identifier`; None, where that is allowed, for one that is absent or null."""
        values = [entry.get(key) for entry in self.entries]
        if set(map(type, values)) <= {int}:
            return values
        found = [identifier(value) for value in values]
        absent = [optional and value is None for value in values]
        self._refuse_type(key, [a or f is not None for a, f in zip(absent, found, strict=True)], "number or text")
        return found

    def column(self, key: str) -> np.ndarray:
        """(N,) float64 numbers under `key`, nan where it is absent or null; infinite from 1e15 on."""
        values = [entry.get(key) for entry in self.entries]
        try:
            column = np.array(values, np.float64)  # of None it makes nan
            if column.ndim == 1:
                return _capped(column)
        except (TypeError, ValueError, OverflowError):
            pass
        found = [math.nan if value is None else _float(value) for value in values]
        self._refuse_type(key, [value is not None for value in found], "number")
        return _capped(np.array(found, np.float64))

    def table(self, key: str, width: int, expected: str = "") -> np.ndarray:
        """(N, width) float64 lists under `key`, zeros for one that is absent or empty; null is nan."""
        blank = [0] * width
        values = [entry.get(key) for entry in self.entries]
        values = [blank if value is None or value == [] else value for value in values]
        lengths = np.array([len(value) if isinstance(value, list) else 0 for value in values], np.int64)
        wrong = lengths != width
        self.refuse(
            wrong, f"have {np.unique(lengths[wrong])[:5].tolist()} numbers in `{key}`", expected or f"{width} numbers"
        )
        try:
            table = np.array(values, np.float64)
            if table.shape == (len(values), width) or not values:
                return _capped(table.reshape(len(values), width))
        except (TypeError, ValueError, OverflowError):
            pass
        rows = [[math.nan if v is None else _float(v) for v in value] for value in values]
        odd = np.array([None in row for row in rows], bool)
        self.refuse(odd, f"have something else than numbers in `{key}`", f"{width} numbers")
        return _capped(np.array(rows, np.float64).reshape(len(values), width))

    def refuse(self, wrong: np.ndarray, found: str, expected: str) -> None:
        """Raise DataError if any entry is `wrong`."""
        if wrong.any():
            raise DataError(f"{self.path}: {self._listed(wrong)} {found}; expected {expected}.")

    def warn(self, odd: np.ndarray, found: str) -> None:
        """One line if any entry is `odd`."""
        if odd.any():
            rank_zero_warn(f"{self.path}: {self._listed(odd)} {found}")

    def refuse_repeats(self, ids: Sequence[Id | None]) -> None:
        """Raise DataError if an id comes twice."""
        if len(set(ids)) == len(ids):
            return
        seen: set[Id | None] = set()
        wrong = np.array([key in seen or seen.add(key) is not None for key in ids], bool)
        expected = "a different id for each"
        if any(isinstance(self.names[row], float) and abs(self.names[row]) > 2**53 for row in np.flatnonzero(wrong)):
            expected += ", as a whole number or text: with a decimal point, numbers above 2^53 run together"
        self.refuse(wrong, "repeat the id of another one", expected)

    def _refuse_type(self, key: str, right: Sequence[bool], expected: str) -> None:
        wrong = ~np.array(right, bool)
        if wrong.any():
            raise DataError(f"{self.path}: `{key}` is no {expected} in {self._listed(wrong)}: correct them.")

    def _listed(self, chosen: np.ndarray) -> str:
        return listed([self.names[row] for row in np.flatnonzero(chosen)], self.noun)


def _capped(values: np.ndarray) -> np.ndarray:
    if not values.size or (values.min() > -HUGE and values.max() < HUGE):
        return values
    return np.where(np.abs(values) >= HUGE, np.copysign(np.inf, values), values)

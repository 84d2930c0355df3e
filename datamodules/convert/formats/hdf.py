"""HDF5 files of labelling tools: opened with a sentence where h5py is absent, and pandas' tables in them.

pandas itself is not used: it reads such files by unpickling, and a pickle that somebody sent may run programs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datamodules.findings import DataError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MOST_VALUES = 200_000_000
"""A few kilobytes may unpack to gigabytes."""


class Frame(NamedTuple):
    """A table of numbers: names of the rows, of the columns by level, and the (rows, columns) values."""

    index: list[str]
    columns: list[tuple[str, ...]]
    values: np.ndarray


def is_hdf(path: Path) -> bool:
    """Whether a file begins as HDF5."""
    with path.open("rb") as file:
        return file.read(8) == SIGNATURE


@contextmanager
def opened_hdf(path: Path) -> Iterator[Any]:
    """The file, as h5py has it; raises DataError where h5py is absent or the file is damaged."""
    try:
        import h5py
    except ImportError as error:
        raise DataError(
            f"{path} is read by h5py, which is not installed: pip install 'hrnet-lightning[convert]', or give the CSV."
        ) from error
    try:
        with h5py.File(path, "r") as file:
            yield file
    except DataError:
        raise
    except Exception as error:  # a damaged file is read as anything
        raise DataError(
            f"{path} is a damaged HDF5 file, or of another layout ({type(error).__name__}: {error})."
        ) from error


def values_of(dataset: Any, path: Path) -> np.ndarray:
    """All values of a dataset; raises DataError where they are too many."""
    if dataset.size > MOST_VALUES:
        raise DataError(f"{path} says that {dataset.name} has {dataset.size:,} values: more than labels have.")
    return dataset[()]


def text(value: Any) -> str:
    """A text that HDF5 has as bytes or as text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def frame_in(file: Any, path: Path) -> Frame | None:
    """The first table that pandas wrote into the file (`to_hdf`); None where there is none.

    Raises:
        DataError: If its columns are pickled, as `format="table"` does.
    """
    for group in file.values():
        kind = text(group.attrs.get("pandas_type", ""))
        if kind == "frame_table":
            raise DataError(
                f"{path} is a pandas table whose columns are pickled, which is not read, since it may run programs: "
                "give the CSV that DeepLabCut writes beside it."
            )
        if kind == "frame":
            return _frame(group, path)
    return None


def _frame(group: Any, path: Path) -> Frame:
    columns = _axis(group, "axis0", path)
    places = {column: place for place, column in enumerate(columns)}
    index = ["/".join(row) for row in _axis(group, "axis1", path)]
    if len(index) * len(columns) > MOST_VALUES:
        raise DataError(f"{path} says that it has {len(index):,} rows of {len(columns):,}: more than labels have.")
    values = np.full((len(index), len(columns)), np.nan)
    for block in range(int(group.attrs["nblocks"])):
        items = _axis(group, f"block{block}_items", path)
        values[:, [places[item] for item in items]] = values_of(group[f"block{block}_values"], path)
    return Frame(index, columns, values)


def _axis(group: Any, name: str, path: Path) -> list[tuple[str, ...]]:
    """The names along one axis, a tuple of all levels each."""
    if text(group.attrs.get(f"{name}_variety", "regular")) != "multi":
        return [(text(value),) for value in values_of(group[name], path)]
    levels = []
    for level in range(int(group.attrs[f"{name}_nlevels"])):
        names = [*map(text, values_of(group[f"{name}_level{level}"], path)), ""]  # -1 is absent
        levels.append([names[code] for code in values_of(group[f"{name}_label{level}"], path).tolist()])
    return list(zip(*levels, strict=True))

"""MATLAB's files of faces: matrices and cells by name; scipy reads version 5, h5py version 7.3, which is HDF5."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.base import DataError

_HDF5 = b"MATLAB 7.3"


def read_matlab(path: Path, *names: str) -> list[Any]:
    """The variables of these names: arrays in MATLAB's order of axes, and of a cell array the list of what it holds.

    Nothing in such a file is run: matrices and cells of matrices are all that is read.

    Raises:
        DataError: If the file cannot be read or lacks one of the names.
    """
    with _damage(path, names):
        with path.open("rb") as file:
            is_hdf5 = file.read(len(_HDF5)) == _HDF5
        found = _of_hdf5(path, names) if is_hdf5 else _of_scipy(path, names)
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(f"{path} lacks the variables {', '.join(missing)}; expected {', '.join(names)}.")
    return [found[name] for name in names]


def table_of(path: Path, name: str, value: Any, columns: int, rows: int | None = None) -> np.ndarray:
    """A variable as numbers (N, columns); raises DataError where it is of another shape."""
    array = np.asarray(value)
    if array.ndim != 2 or array.shape[1] != columns or array.dtype.kind not in "biuf" or rows not in (None, len(array)):
        expected = f"({'faces' if rows is None else rows}, {columns})"
        raise DataError(f"{path}: {name} is of shape {array.shape}, expected numbers of shape {expected}.")
    return array.astype(np.float64)


def _of_scipy(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    from scipy.io import loadmat  # only some data sets come in this format

    found = loadmat(path, variable_names=list(names))
    return {
        name: [np.asarray(item) for item in value.ravel(order="F")] if value.dtype == object else value
        for name, value in found.items()
        if name in names
    }


def _of_hdf5(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    try:
        import h5py
    except ImportError as error:
        raise DataError(f"{path} is a file of MATLAB 7.3, which h5py reads: pip install h5py.") from error
    with h5py.File(path, "r") as file:
        # HDF5 has the axes the other way round; a cell array holds references.
        return {
            name: [np.asarray(file[item]).T for item in np.asarray(file[name]).ravel()]
            if file[name].dtype == object
            else np.asarray(file[name]).T
            for name in names
            if name in file
        }


@contextmanager
def _damage(path: Path, names: tuple[str, ...]) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # a damaged file is read as anything
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}: {error}): expected a MATLAB file with {', '.join(names)}. "
            "Fetch it again."
        ) from error

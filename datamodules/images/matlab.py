"""MATLAB's files: matrices and cells by name; scipy reads version 5, h5py version 7.3, which is HDF5.

Nothing in such a file is run. Some kilobytes of it may unpack to gigabytes, so its heads are looked at first.
"""

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from datamodules.findings import DataError, refused

LIMIT = 2**31
"""Bytes that are unpacked at most: no variable of version 5 has more."""
_HDF5 = b"MATLAB 7.3"
_MATRIX, _COMPRESSED = 14, 15  # kinds of an element of version 5
_KINDS = {*range(1, 8), 9, *range(12, 19)}  # all that there are
_LONGEST_NAME = 63
_PIECE = 2**20
_BYTES = {"int8": 1, "uint8": 1, "logical": 1, "char": 4, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "single": 4}


def read_matlab(path: Path, *names: str, expected: str = "", advice: str = "Fetch it again.") -> list[Any]:
    """The variables of these names: arrays in MATLAB's order of axes, and of a cell array the list of what it holds.

    Matrices and cells of matrices are all that is read.

    Args:
        path: Of the file.
        names: Of the variables.
        expected: What the file should be, in messages; one with these variables if not given.
        advice: What to do about a damaged one.

    Raises:
        DataError: If the file cannot be read, lacks one of the names, or they would unpack to more than `LIMIT` bytes.
    """
    with _damage(path, names, expected, advice):
        if _is_hdf5(path):
            found = _of_hdf5(path, names)
        else:
            _refuse_bombs(path, names)
            found = _of_scipy(path, names)
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(f"{path} lacks the variables {', '.join(missing)}; expected {', '.join(names)}.")
    return [found[name] for name in names]


def shapes_in(
    path: Path, *names: str, expected: str = "", advice: str = "Fetch it again."
) -> dict[str, tuple[int, ...]]:
    """The shapes of those of the variables that there are, without unpacking them; for the rest see `read_matlab`."""
    with _damage(path, names, expected, advice):
        if _is_hdf5(path):
            with _opened(path) as file:
                return {name: file[name].shape[::-1] for name in names if name in file}
        return {name: shape for name, shape, _ in _variables(path) if name in names}


def table_of(path: Path, name: str, value: Any, columns: int, rows: int | None = None) -> np.ndarray:
    """A variable as numbers (N, columns); raises DataError where it is of another shape."""
    array = np.asarray(value)
    if array.ndim != 2 or array.shape[1] != columns or array.dtype.kind not in "biuf" or rows not in (None, len(array)):
        expected = f"({'faces' if rows is None else rows}, {columns})"
        raise DataError(f"{path}: {name} is of shape {array.shape}, expected numbers of shape {expected}.")
    return array.astype(np.float64)


def _is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_HDF5)) == _HDF5


# ---- version 5, and 4, which is never packed


def _of_scipy(path: Path, names: Sequence[str]) -> dict[str, Any]:
    from scipy.io import loadmat  # only some data sets come in this format

    found = loadmat(path, variable_names=list(names))
    return {
        name: [np.asarray(item) for item in value.ravel(order="F")] if value.dtype == object else value
        for name, value in found.items()
        if name in names
    }


def _variables(path: Path) -> list[tuple[str, tuple[int, ...], str]]:
    """Name, shape and type of each."""
    from scipy.io import whosmat

    for _ in _packed(path):  # names are looked at
        pass
    return whosmat(path)


def _refuse_bombs(path: Path, names: Sequence[str]) -> None:
    """Raise DataError where variables unpack to more than `LIMIT` bytes, by their shapes or in fact."""
    shapes = {name: math.prod(shape) * _BYTES.get(kind, 8) for name, shape, kind in _variables(path) if name in names}
    _refuse_beyond(path, sum(shapes.values()))
    total = 0
    for name, pieces in _packed(path):
        for length in pieces if name in names else ():
            total += length
            _refuse_beyond(path, total)
    for content, order in _contents(path, names):
        _refuse_unknown(content, order)


def _refuse_beyond(path: Path, count: int) -> None:
    if count > LIMIT:
        raise DataError(f"{path} would unpack to more than {LIMIT:,} bytes: is it what it should be? Fetch it again.")


def _packed(path: Path) -> Iterator[tuple[str, Iterator[int]]]:
    """Name of each packed variable, and the lengths of its pieces as they are unpacked."""
    with path.open("rb") as file:
        order = {b"IM": "<", b"MI": ">"}.get(file.read(128)[126:])
        while order and len(tag := file.read(8)) == 8:
            kind, size = struct.unpack(f"{order}II", tag)
            after = file.tell() + size
            if kind == _COMPRESSED:
                head = zlib.decompressobj().decompress(file.read(min(size, _PIECE)), _PIECE)
                file.seek(after - size)
                yield _name(head, order), _pieces(file, size)
            file.seek(after)


def _contents(path: Path, names: Sequence[str]) -> Iterator[tuple[memoryview, str]]:
    """The elements of each of the variables, unpacked, and the order of their bytes."""
    with path.open("rb") as file:
        order = {b"IM": "<", b"MI": ">"}.get(file.read(128)[126:])
        while order and len(tag := file.read(8)) == 8:
            kind, size = struct.unpack(f"{order}II", tag)
            content = tag + file.read(size)
            if kind == _COMPRESSED:
                content = zlib.decompressobj().decompress(content[8:])
            if _name(content, order) in names:
                yield memoryview(content)[8:], order


def _refuse_unknown(content: memoryview, order: str) -> None:
    """Raise ValueError at an element of a kind that there is not: scipy takes its reader from beyond a table."""
    place = 0
    while place + 8 <= len(content):
        kind, size = struct.unpack_from(f"{order}II", content, place)
        start = place + 8
        if kind >> 16:  # short ones stand within the tag
            kind, size = kind & 0xFFFF, 0
        if kind not in _KINDS:
            raise ValueError(f"it has an element of kind {kind}")
        place = start + -(-size // 8) * 8
        if kind == _MATRIX:
            _refuse_unknown(content[start:place], order)


def _name(head: bytes, order: str) -> str:
    """Of a variable, behind its flags and its shape."""
    (axes,) = struct.unpack_from(f"{order}I", head, 28)
    place = 32 + -(-axes // 8) * 8
    kind, size = struct.unpack_from(f"{order}II", head, place)
    start = place + 8
    if kind >> 16:  # short names stand within the tag
        start, size = place + 4, kind >> 16
    if size > _LONGEST_NAME:
        raise ValueError(f"a variable has a name of {size} letters")
    return head[start : start + size].decode("latin-1")


def _pieces(file: IO[bytes], size: int) -> Iterator[int]:
    unpack = zlib.decompressobj()
    while size and not unpack.eof and (data := file.read(min(size, _PIECE))):
        size -= len(data)
        while data and not unpack.eof:
            yield len(unpack.decompress(data, _PIECE))
            data = unpack.unconsumed_tail


# ---- version 7.3


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import h5py
    except ImportError as error:
        raise DataError(f"{path} is a file of MATLAB 7.3, which h5py reads: pip install h5py.") from error
    with h5py.File(path, "r") as file:
        yield file


def _of_hdf5(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """HDF5 has the axes the other way round; a cell array holds references."""
    found: dict[str, Any] = {}
    total = 0
    with _opened(path) as file:
        for name in (name for name in names if name in file):
            _refuse_beyond(path, total := total + file[name].nbytes)
            is_cell = file[name].dtype == object
            parts = [file[item] for item in np.asarray(file[name]).ravel()] if is_cell else [file[name]]
            _refuse_beyond(path, total := total + is_cell * sum(part.nbytes for part in parts))
            arrays = [np.asarray(part).T for part in parts]
            found[name] = arrays if is_cell else arrays[0]
    return found


def _damage(path: Path, names: Sequence[str], expected: str, advice: str) -> AbstractContextManager[None]:
    what = expected or f"a MATLAB file with {', '.join(names)}"
    return refused(lambda said: f"{path} cannot be read ({said}): expected {what}. {advice}")

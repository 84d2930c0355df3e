"""Text files with a face a row: columns of file names and numbers, and what is wrong with rows.

A file is read once (`TextRows.read`); its columns become a table of persons (`table`). Rows that cannot be used are
noted with their line and left out: the loader refuses the table for the first one, the data doctor lists them all.
"""

import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from datamodules.base import DataError
from datamodules.findings import refused
from datamodules.images.names import is_file_name
from datamodules.keypoints.columns import as_float, capped
from datamodules.keypoints.defects import Defect, quoted
from datamodules.keypoints.table import PersonTable

KIND = "malformed row"
FACE = {1: "face"}


class TextRows:
    """N rows of a text file, each of as many cells as expected.

    Args:
        path: Of the file.
        cells: Of each row.
        lines: (N,) lines of the rows in the file, from 1.
        expected: Number of cells; rows of another number are noted and left out.
        columns: What the cells are, for messages.
        name: Which cell is the file name of the image.
    """

    def __init__(
        self, path: Path, cells: Sequence[list[str]], lines: Sequence[int], *, expected: int, columns: str, name: int
    ) -> None:
        self.path, self.name = path, name
        self.defects: list[Defect] = []
        self.cells, self.lines = list(cells), list(lines)
        self.note(
            [len(row) != expected for row in self.cells],
            lambda row: f"has {len(self.cells[row])} columns",
            f"{expected}: {columns}",
        )
        right = [len(row) == expected for row in self.cells]
        self.cells = [row for row, is_right in zip(self.cells, right, strict=True) if is_right]
        self.lines = [line for line, is_right in zip(self.lines, right, strict=True) if is_right]
        self.sound = np.ones(len(self.cells), bool)

    @classmethod
    def read(cls, path: Path, *, expected: int, columns: str, name: int = 0, comma: bool = True) -> "TextRows":
        """The rows of a file of cells between commas, below a heading if there is one, or between blanks.

        Raises:
            DataError: If the file cannot be read or has no row.
        """
        text = read_text(path)
        with refused(lambda said: f"{path} is no CSV ({said}); expected {expected} columns a row: {columns}."):
            rows = list(csv.reader(text.splitlines())) if comma else [line.split() for line in text.splitlines()]
        numbered = [(row, line) for line, row in enumerate(rows, 1) if any(cell.strip() for cell in row)]
        if numbered and comma and _is_heading(numbered[0][0], name):
            numbered = numbered[1:]
        if not numbered:
            raise DataError(f"{path} has no rows; expected {expected} columns a row: {columns}.")
        cells, lines = zip(*numbered, strict=True)
        return cls(path, cells, lines, expected=expected, columns=columns, name=name)

    def numbers(self, first: int, last: int, *, optional: bool = False) -> np.ndarray:
        """(N, last - first) float64 numbers of these cells; rows with anything else are noted.

        Args:
            first: Cell, from 0.
            last: The cell after the last one.
            optional: An empty cell is allowed, and nan.
        """
        cells = [row[first:last] for row in self.cells]
        try:
            numbers = np.array(cells, np.float64).reshape(len(cells), last - first)
        except ValueError:
            found = [[math.nan if not cell.strip() else as_float(cell) for cell in row] for row in cells]
            numbers = np.array([[math.inf if cell is None else cell for cell in row] for row in found], np.float64)
            numbers = numbers.reshape(len(cells), last - first)
        numbers = capped(numbers)
        wrong = np.isinf(numbers) if optional else ~np.isfinite(numbers)

        def one(row: int) -> str:
            column = int(np.argmax(wrong[row]))
            return f"has {quoted(cells[row][column])} in column {first + column + 1}"

        self.note(np.any(wrong, axis=1).tolist(), one, "a number")
        self.sound &= ~wrong.any(axis=1)
        return numbers

    def names(self) -> list[str]:
        """(N,) file names of the images; rows with a name outside of the folder, or without one, are noted."""
        names = [row[self.name].strip() for row in self.cells]
        wrong = [not is_inside(name) for name in names]
        self.note(wrong, lambda row: f"names the image {quoted(names[row])}", "a file below the folder of the images")
        self.sound &= ~np.array(wrong, bool)
        return names

    def table(
        self,
        boxes: np.ndarray,
        points: np.ndarray,
        *,
        visible: np.ndarray | None = None,
        areas: np.ndarray | None = None,
    ) -> PersonTable:
        """The table of the sound rows, which are called by their lines; see `face_table`."""
        names = self.names()
        rows = np.flatnonzero(self.sound).tolist()
        return face_table(
            self.path,
            [names[row] for row in rows],
            boxes[rows],
            points[rows],
            visible=None if visible is None else visible[rows],
            areas=None if areas is None else areas[rows],
            ids=[self.lines[row] for row in rows],
            defects=self.defects,
        )

    def note(self, wrong: Sequence[bool], one: Callable[[int], str], expected: str) -> None:
        """Note rows that only the user can put right; `one` says of a row what it has."""
        rows = [row for row, is_wrong in enumerate(wrong) if is_wrong]
        if not rows:
            return
        more = f" ({len(rows) - 1} more rows are wrong like this)" if len(rows) > 1 else ""
        sentence = f"{self.path}, row {self.lines[rows[0]]}: {one(rows[0])}; expected {expected}{more}."
        found = [(f"row {self.lines[row]} in {self.path.name}", f"{one(row)}, expected {expected}") for row in rows]
        self.defects.append(Defect(KIND, sentence, lambda: found, grave=True))


def face_table(
    path: Path,
    names: Sequence[str],
    boxes: np.ndarray,
    points: np.ndarray,
    *,
    visible: np.ndarray | None = None,
    areas: np.ndarray | None = None,
    ids: Sequence[Any] | None = None,
    defects: Sequence[Defect] = (),
) -> PersonTable:
    """N faces as a table, whose crops are those of their boxes, beyond the border of the image too.

    Args:
        path: File or folder that they are from.
        names: (N,) file names of their images; several faces may be on one.
        boxes: (N, 4) x, y, width, height in pixels.
        points: (N, K, 2) landmarks in pixels.
        visible: (N, K) 0, 1, 2; None takes 2 for all that are numbers.
        areas: (N,) square pixels, by whose square roots errors may be divided; None takes those of the boxes.
        ids: (N,) what they are called; None counts from 1.
        defects: What was found wrong while reading.
    """
    rows = {name: row for row, name in enumerate(dict.fromkeys(names))}
    if visible is None:
        visible = 2 * np.isfinite(points).all(axis=2).astype(np.int8)
    return PersonTable(
        path,
        np.array(list(rows), np.str_),
        images=np.array([rows[name] for name in names], np.int64),
        boxes=boxes,
        keypoints=points,
        visible=visible,
        areas=boxes[:, 2:].prod(axis=1) if areas is None else areas,
        ids=ids,
        categories=FACE,
        clipped=False,
        defects=defects,
    )


def box_about(points: np.ndarray) -> np.ndarray:
    """(N, 4) x, y, width, height about landmarks (N, K, 2), rounded outwards to whole pixels as published."""
    low, high = np.floor(np.nanmin(points, axis=1)), np.ceil(np.nanmax(points, axis=1))
    return np.concatenate([low, high - low], axis=1)


def read_text(path: Path) -> str:
    """What a text file says; raises DataError where it cannot be read or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): give the path relative to root.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8: byte {error.start}; save it as UTF-8.") from error


def is_inside(name: str) -> bool:
    """Whether a file of this name lies below a folder that it is relative to."""
    path = PurePosixPath(name.replace("\\", "/"))
    return is_file_name(name) and not path.is_absolute() and ".." not in path.parts and ":" not in path.parts[0]


def _is_heading(row: list[str], name: int) -> bool:
    """Whether no cell but the file name is a number."""
    cells = [cell for index, cell in enumerate(row) if index != name]
    return len(cells) > 1 and all(as_float(cell) is None for cell in cells)

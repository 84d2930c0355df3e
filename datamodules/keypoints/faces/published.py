"""The lists that were published with HRNet's code for faces: CSV files of centre, scale and landmarks, a face a row."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from datamodules.base import DataError
from datamodules.keypoints.faces.data import Faces
from datamodules.keypoints.faces.rows import TextRows

PIXELS = 200.0
"""The scale of a face is the longer side of its box in so many pixels."""


def read_published(path: Path, num_landmarks: int, *, box_size: bool = False, subsets: Mapping[str, str]) -> Faces:
    """The faces of a list with the columns image_name, scale, center_w, center_h, then x, y of each landmark.

    Args:
        path: Of the CSV file.
        num_landmarks: K.
        box_size: Whether the side of the box, by which errors are divided, stands behind the scale, as in AFLW's.
        subsets: Name -> file beside it with the rows of a subset; those that are not there are left out.

    Raises:
        DataError: If a file cannot be read, or a subset has a row that is not in the list.
    """
    rows = _rows(path, num_landmarks, box_size)
    first = 4 + box_size
    stated = rows.numbers(1, first)
    centers, sides = stated[:, -2:], PIXELS * stated[:, :1]
    points = rows.numbers(first, first + 2 * num_landmarks).reshape(-1, num_landmarks, 2)
    boxes = np.concatenate([centers - sides / 2, sides, sides], axis=1)
    table = rows.table(boxes, points, areas=stated[:, 1] ** 2 if box_size else None)
    if table.defects:  # of which the rows of a subset may be
        return Faces(table)
    lines = {tuple(row): line for row, line in zip(rows.cells, rows.lines, strict=True)}
    found = {name: path.parent / file for name, file in subsets.items() if (path.parent / file).is_file()}
    return Faces(table, {name: _lines(file, _rows(file, num_landmarks, box_size), lines, path)
                         for name, file in found.items()})  # fmt: skip


def _rows(path: Path, num_landmarks: int, box_size: bool) -> TextRows:
    head = "image_name, scale, box_size, center_w, center_h" if box_size else "image_name, scale, center_w, center_h"
    columns = f"{head} and x, y of {num_landmarks} landmarks"
    return TextRows.read(path, expected=4 + box_size + 2 * num_landmarks, columns=columns)


def _lines(path: Path, rows: TextRows, lines: Mapping[tuple[str, ...], int], whole: Path) -> list[int]:
    """Lines in the whole list of the rows of a subset."""
    absent = [line for row, line in zip(rows.cells, rows.lines, strict=True) if tuple(row) not in lines]
    if absent:
        raise DataError(
            f"{path}, row {absent[0]}: is not in {whole.name}, of which it is a subset ({len(absent)} rows are not): "
            "fetch both from one place, or move the subset's file away."
        )
    return [lines[tuple(row)] for row in rows.cells]

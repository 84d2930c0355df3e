"""The table of key points that DeepLabCut introduced: a row an image, columns scorer, (individual,) body part, x or y.

CSV and pandas' HDF5 say the same. Coordinates are pixels of the image with pixel centres at integers, as the tools'
own; an empty cell is a point that is not labelled. Networks' tables have a `likelihood` beside x and y.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from datamodules.convert.formats.hdf import frame_in, is_hdf, opened_hdf
from datamodules.convert.labels import UNNAMED, Labels, Picture, Point, Thing
from datamodules.convert.pixels import ImageFile
from datamodules.convert.source_files import SourceFiles, read_csv
from datamodules.findings import DataError
from datamodules.images.names import plain_spelling

LEVELS = ("scorer", "individuals", "bodyparts", "coords")
UNIQUE = "single"
"""What DeepLabCut calls the individual that has the body parts of no animal, such as a lever."""


@dataclass(frozen=True)
class PointTable:
    """N images and M columns.

    Args:
        path: Of the file.
        index: (N,) names of the images.
        columns: (M,) scorer, individual or "", body part, coordinate.
        values: (N, M) numbers, nan where there is none.
    """

    path: Path
    index: Sequence[str]
    columns: Sequence[tuple[str, str, str, str]]
    values: np.ndarray

    @property
    def scorers(self) -> list[str]:
        """Who labelled, in the order of the columns."""
        return list(dict.fromkeys(scorer for scorer, *_ in self.columns))


def is_point_csv(path: Path) -> bool:
    """Whether a CSV file begins with the header of such a table."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            first = [file.readline(4096).partition(",")[0].strip() for _ in range(4)]
    except OSError:
        return False
    return first[0] == "scorer" and "bodyparts" in first and "coords" in first


def read_table(path: Path) -> PointTable:
    """The table of a CSV or HDF5 file; raises DataError where it has none."""
    if is_hdf(path):
        with opened_hdf(path) as file:
            frame = frame_in(file, path)
        if frame is None:
            raise DataError(f"{path} has no table of pandas: expected DeepLabCut's labels.")
        return _checked(PointTable(path, frame.index, _four(path, frame.columns), frame.values))
    rows = read_csv(path)
    header = {row[0].strip(): row for row in rows[:4] if row and row[0].strip() in LEVELS}
    if not {"scorer", "bodyparts", "coords"} <= set(header):
        raise DataError(f"{path} does not begin with the rows scorer, bodyparts and coords.")
    coords = header["coords"]
    width = next((place for place, cell in enumerate(coords) if place and cell.strip()), len(coords))
    columns = list(zip(*(header[level][width:] for level in LEVELS if level in header), strict=True))
    body = [row for row in rows[len(header) :] if row and any(cell.strip() for cell in row[:width])]
    index = ["/".join(cell.strip() for cell in row[:width] if cell.strip()) for row in body]
    values = np.array([[_number(path, cell) for cell in row[width:]] for row in body], dtype=object)
    if any(len(row) - width != len(columns) for row in body):
        raise DataError(f"{path} has rows of other lengths than its header of {len(coords)} cells: export it again.")
    return _checked(PointTable(path, index, _four(path, columns), values.reshape(len(body), -1).astype(np.float64)))


def _number(path: Path, cell: str) -> float:
    try:
        return float(cell) if cell.strip() else np.nan
    except ValueError as error:
        if not cell.strip().replace("_", "").isalpha():
            raise DataError(f"{path} has {cell!r} where a number is expected: correct or empty the cell.") from error
        return np.nan  # a word, such as in the column `set` of Lightning Pose


def _four(path: Path, columns: Sequence[tuple[str, ...]]) -> list[tuple[str, str, str, str]]:
    """Columns with an individual, "" where the table has no such level."""
    if columns and len(columns[0]) not in (3, 4):
        raise DataError(
            f"{path} has {len(columns[0])} rows of header: expected scorer, (individuals,) bodyparts, coords."
        )
    stripped = [tuple(part.strip() for part in column) for column in columns]
    return [c if len(c) == 4 else (c[0], "", c[1], c[2]) for c in stripped]


def _checked(table: PointTable) -> PointTable:
    if table.index and all(name.isdigit() for name in table.index):
        raise DataError(
            f"{table.path} has numbers of frames instead of names of images: it is what a network found in a video. "
            "Extract and correct frames in the labelling tool, and give its labels."
        )
    return table


def pictures_of(tables: Sequence[PointTable], files: SourceFiles, labels: Labels, scorers: Sequence[str]) -> None:
    """Add the pictures of `tables` to `labels`.

    An image is taken from the first of `scorers` who labelled it; of images that others labelled too, these labels are
    left out.
    """
    rows: dict[str, list[tuple[PointTable, int]]] = defaultdict(list)
    for table in tables:
        labels.points += [part for _, who, part, _ in table.columns if part not in labels.points and who != UNIQUE]
        for row, name in enumerate(table.index):
            rows[plain_spelling(name)].append((table, row))
    if not labels.points:  # nothing but the parts of no animal
        labels.points += list(dict.fromkeys(part for table in tables for _, _, part, _ in table.columns))
    out = labels.left_out
    for name, places in rows.items():
        by_scorer: dict[str, dict[str, Thing]] = {}
        for table, row in places:
            for scorer in table.scorers:
                if scorer not in by_scorer or not by_scorer[scorer]:
                    by_scorer[scorer] = _things(table, row, scorer, files.likelihood, labels)
        with_labels = [scorer for scorer in scorers if by_scorer.get(scorer)]
        others = [scorer for scorer, things in by_scorer.items() if things and scorer not in with_labels[:1]]
        if not with_labels:
            reason = "images that --scorer did not label" if others else "images without a labelled key point"
            out.add(reason, name)
            continue
        for scorer in others:
            out.add(f"images' labels by {scorer}, which {with_labels[0]} labelled too", name)
        path = files.image(name, places[0][0].path.parent)
        if path is None:
            out.add("images that were not found", name)
            continue
        parts = PurePosixPath(name).parts
        group = "/".join(parts[:-1]) or path.parent.name
        things = list(by_scorer[with_labels[0]].values())
        labels.pictures.append(Picture(ImageFile(path), "/".join(parts[-2:]), things, group=group))


def _things(table: PointTable, row: int, scorer: str, likelihood: float, labels: Labels) -> dict[str, Thing]:
    """The individuals that a scorer labelled on an image, by their names."""
    cells: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for (who, individual, part, coordinate), value in zip(table.columns, table.values[row].tolist(), strict=True):
        if who == scorer:
            cells[individual, part][coordinate] = value
    found: dict[str, Thing] = {}
    for (individual, part), cell in cells.items():
        x, y, item = cell.get("x", np.nan), cell.get("y", np.nan), f"{part} on {table.index[row]}"
        if not np.isfinite([x, y]).all():
            if np.isfinite([x, y]).any():
                labels.left_out.add("key points with one coordinate of two", item)
        elif part not in labels.points:
            labels.left_out.add("key points of no animal (DeepLabCut's unique body parts)", item)
        elif "likelihood" in cell and not cell["likelihood"] >= likelihood:
            labels.left_out.add(f"key points with a likelihood below {likelihood:g}", item)
        else:
            found.setdefault(individual, Thing(UNNAMED)).points[part] = Point(x, y)
    return found


def scorers_by_count(tables: Sequence[PointTable]) -> list[str]:
    """Who labelled, those with the most labels first."""
    counts: Counter[str] = Counter()
    for table in tables:
        labelled = np.isfinite(table.values).sum(axis=0).tolist()
        for (scorer, *_), count in zip(table.columns, labelled, strict=True):
            counts[scorer] += count
    return [scorer for scorer, _ in counts.most_common()]


def chosen_scorers(tables: Sequence[PointTable], files: SourceFiles, first: str | None = None) -> list[str]:
    """Whose labels are taken, those who come first: the one that was asked for, or all, `first` before the others.

    Raises:
        DataError: If nobody of the name that was asked for labelled.
    """
    known = scorers_by_count(tables)
    if files.scorer is not None:
        if files.scorer not in known:
            raise DataError(f"--scorer {files.scorer} labelled nothing here: choose one of {', '.join(known)}.")
        return [files.scorer]
    return sorted(known, key=lambda scorer: scorer != first)

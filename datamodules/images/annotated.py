"""What data sets of annotated images share, key points as well as objects: names, sizes and looks of their image files.

A data set has a table of a split (`keypoints/annotations.py`); here it meets the folder of the images.
"""

import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from datamodules.base import BaseDataModule, DataError, Split
from datamodules.findings import Fact, Finding, Mode
from datamodules.images.files import read_header
from datamodules.images.looking import Seen, files_left_out, look
from datamodules.images.names import as_stored, listing
from datamodules.images.orientation import Tagged, find_tagged
from datamodules.keypoints.annotations import Annotated
from datamodules.keypoints.defects import Defect, short
from datamodules.loading.dataset import in_threads

Table = TypeVar("Table", bound=Annotated)


class AnnotatedImages(BaseDataModule):
    """A data set of which each split is a table of annotated images, which a subclass reads (`annotated`)."""

    def __init__(self, root: str | Path, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self._named: dict[str, dict[Any, str]] = {}  # of the splits that were looked at for findings

    @abstractmethod
    def annotated(self, split: Split) -> Annotated:
        """The table of a split as the files have it; raises DataError where these cannot be read."""

    def image_folder(self, split: Split) -> Path:
        """Folder that the file names of `split` are relative to: that of the data, unless a data set has others."""
        return self.folder

    def tagged(self, split: Split, table: Annotated | None = None) -> list[Tagged]:
        """The images that carry an EXIF orientation, whose stated sizes tell whether to turn them."""
        folder = self.image_folder(split)
        table = spelled_as_stored(self.annotated(split), folder) if table is None else table
        paths = [folder / name for name in table.file_names.tolist()]
        sizes = [tuple(size) if min(size) > 0 else None for size in table.image_sizes.tolist()]
        return find_tagged(paths, sizes.__getitem__, self.stated_reading.pixel_limit)

    def with_sizes(self, table: Table, folder: Path, turned: Iterable[int] = ()) -> Table:
        """The table with the sizes that it does not state, from the heads of the files; `turned` are rows of images."""
        unknown = np.flatnonzero((table.image_sizes == 0).all(axis=1) & (table.file_names != ""))
        if not len(unknown):
            return table
        sizes, turned = table.image_sizes.copy(), set(turned)

        def size_of(row: int) -> tuple[int, int]:
            try:
                header = read_header(folder / table.file_names[row], limit=self.stated_reading.pixel_limit)
            except (OSError, DataError):  # which is said when the file is read
                return 0, 0
            return header.shown if row in turned else header.size

        sizes[unknown] = in_threads(size_of, unknown.tolist())
        return replace(table, image_sizes=sizes)

    def seen(self, split: Split, table: Annotated, stated: np.ndarray, folder: Path, mode: Mode) -> Iterator[Fact]:
        """What a look at each image says, which has to be of its `stated` size (I, 2) if there is one."""

        def look_at(row: int) -> Seen:
            size = tuple(stated[row].tolist()) if stated[row].all() else None
            path = folder / table.file_names[row]
            item = f"image {short(table.image_ids[row])} ({path})"
            return look(path, size, mode, self.stated_reading, split=split, item=item)

        rows = np.flatnonzero(table.file_names != "").tolist()
        seen = in_threads(look_at, rows, f"images of {split}")
        yield from seen
        yield from files_left_out(split, [image.path.parent for image in seen])

    def other_categories(self, split: Split, table: Annotated) -> Iterator[Finding]:
        """Categories that the split names otherwise than the first one that was looked at."""
        self._named[split] = dict(table.categories)
        first, theirs = next(iter(self._named.items()))
        for key in sorted({*table.categories, *theirs}, key=str):
            here, there = table.categories.get(key), theirs.get(key)
            if here != there:
                item = f"category {short(key)} in {table.path.name}"
                yield Finding("categories disagree", split, item, f"is {here!r}, in {first} {there!r}")


def spelled_as_stored(table: Table, folder: Path) -> Table:
    """The table with the names that its image files have, and a defect where these differ."""
    names = table.file_names.tolist()
    stored = as_stored(folder, filter(None, names))
    if not stored:
        return table
    first = next(iter(stored))
    sentence = (
        f"{table.path} spells {len(stored)} of {len(names)} images otherwise than {folder} does, the first "
        f"{first!r} for {stored[first]!r}; these are taken."
    )
    found = [
        (f"image {short(key)} ({short(name)})", f"is {stored[name]}")
        for key, name in zip(table.image_ids, names, strict=True)
        if name in stored
    ]
    defect = Defect("file name spelled otherwise", sentence, lambda: found, grave=False)
    spelled = np.array([stored.get(name, name) for name in names])
    return replace(table, file_names=spelled, defects=[*table.defects, defect])


def found_in(split: Split, defects: Iterable[Defect]) -> Iterator[Finding]:
    """What the data doctor is told of the defects of a table."""
    for defect in defects:
        yield from (Finding(defect.kind, split, item, found) for item, found in defect.each())


def refuse_missing_files(folder: str, names: Sequence[str]) -> None:
    """Raise DataError if the folder lacks some of the files."""
    # One listing a folder instead of a question for each of 100,000 files.
    present = {parent: listing(os.path.join(folder, parent)) for parent in set(map(os.path.dirname, names))}
    missing = [name for name in names if os.path.basename(name) not in present[os.path.dirname(name)]]
    if missing:
        shown = ", ".join(missing[:3]) + ", ..." * (len(missing) > 3)
        raise DataError(
            f"{folder} lacks {len(missing)} of the {len(names)} images that are annotated ({shown}): set "
            "`images` to their folder, or fetch them."
        )

"""What data sets of annotated images share, key points as well as objects: names, sizes and looks of their image files.

A data set has a table of a split (`keypoints/annotations.py`); here it meets the folder of the images.
"""

import os
import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from datamodules.base import BaseDataModule, DataError, Split
from datamodules.findings import Count, Fact, Finding, Mode
from datamodules.images.files import read_header
from datamodules.images.looking import Seen, files_left_out, look, size_histogram
from datamodules.images.names import as_stored, listing
from datamodules.images.orientation import Tagged, find_tagged
from datamodules.keypoints.annotations import Annotated
from datamodules.keypoints.defects import Defect, short
from datamodules.loading.dataset import in_threads

Table = TypeVar("Table", bound=Annotated)


class AnnotatedImages(BaseDataModule):
    """A data set of which each split is a table of annotated images, which a subclass reads (`annotated`)."""

    image_key: ClassVar[str] = ""
    """Argument that says where the images are, where there is one."""

    def __init__(self, root: str | Path, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self._named: dict[str, dict[Any, str]] = {}  # of the splits that were looked at for findings

    @abstractmethod
    def annotated(self, split: Split) -> Annotated:
        """The table of a split as the files have it; raises DataError where these cannot be read."""

    def examined(self, split: Split) -> Annotated:
        """`annotated` for the data doctor, whose `defects` may have more than training needs to know."""
        return self.annotated(split)

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

    def require_images(self, folder: Path, names: Sequence[str]) -> None:
        """Raise DataError if the folder lacks some of the files."""
        # One listing a folder instead of a question for each of 100,000 files.
        present = {parent: listing(os.path.join(folder, parent)) for parent in set(map(os.path.dirname, names))}
        missing = [name for name in names if os.path.basename(name) not in present[os.path.dirname(name)]]
        if missing:
            shown = ", ".join(missing[:3]) + ", ..." * (len(missing) > 3)
            other = f"set `{self.image_key}` to their folder, or " if self.image_key else ""
            raise DataError(
                f"{folder} lacks {len(missing)} of the {len(names)} images that are annotated ({shown}): {other}fetch "
                f"them. The data come from {self.source}"
            )

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

    def findings(self, split: Split, images: Mode = "full") -> Iterator[Fact]:
        """What is wrong with the annotations of a split and their images, and what there is."""
        try:
            table = self.examined(split)
            self.require_fit(table)
        except DataError as error:
            yield Finding("unreadable data", split, type(self).__name__, str(error))
            return
        folder: Path | None = None
        try:
            folder = self.image_folder(split)
        except DataError as error:
            yield Finding("unreadable data", split, "images", str(error))
        stated = table.image_sizes
        table = (table if folder is None else self.with_sizes(spelled_as_stored(table, folder), folder)).checked()
        yield from found_in(split, table.defects)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # each box without area is among the findings
                self.require_usable(split, table)
        except DataError as error:
            yield Finding("no usable sample", split, table.path.name, str(error))
        yield from self.other_categories(split, table)
        yield Count(split, None, Counter(images=len(table.file_names), annotations=table.counts.total()))
        yield Count(split, "annotations", table.counts, classes=list(table.counts), noun="annotation")
        yield from self.counted(split, table)
        boxes = table.boxes[np.isfinite(table.boxes).all(axis=1), 2:]
        yield Count(split, "boxes, longer side in pixels", size_histogram(boxes))
        if folder is not None:
            yield from self.seen(split, table, stated, folder, images)
        yield from self.other_findings(split, table)

    def accepted(self, split: Split, table: Table, turned: Iterable[int] = ()) -> Table:
        """The table put right, with all sizes; raises DataError for what only the user can put right."""
        self.require_fit(table)
        return self.with_sizes(table, self.image_folder(split), turned).accepted()

    def loaded(self, split: Split) -> tuple[Any, list[int]]:
        """The table of a split as the loader takes it, and the rows of the images that are turned; raises DataError."""
        table = spelled_as_stored(self.annotated(split), self.image_folder(split))
        turned = self.orientations.turned(split, self.tagged(split, table))
        return self.accepted(split, table, turned), turned

    def require_fit(self, table: Annotated) -> None:
        """Raise DataError where a table is of other things than the data set was told."""

    def require_usable(self, split: Split, table: Annotated) -> None:
        """Raise DataError where a split that was checked has nothing that can be used."""

    def counted(self, split: Split, table: Annotated) -> Iterator[Count]:
        """How often there is what else these annotations have."""
        yield from ()

    def other_findings(self, split: Split, table: Annotated) -> Iterator[Fact]:
        """What is wrong with other files than annotations and images."""
        yield from ()

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

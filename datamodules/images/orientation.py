"""EXIF orientation: how a camera was held, as a number from 1 to 8, and whether a data set's images are turned by it.

Annotations may refer to the stored pixels or to the picture as viewers show it. Their sizes tell, once per data set: if
any image fits its annotated size only when turned, all that carry an orientation are turned, else none.
"""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.findings import DataError, Split
from datamodules.images.files import PIXEL_LIMIT, SIDEWAYS, Header, jpeg_head, read_header
from datamodules.loading.dataset import in_threads


def oriented(image: np.ndarray, orientation: int) -> np.ndarray:
    """The stored image (H, W, ...) as a viewer shows it."""
    if orientation in SIDEWAYS:  # stored by columns
        image = image.swapaxes(0, 1)
    rows, columns = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1), orientation in (2, 3, 6, 7)
    return image if orientation == 1 else np.ascontiguousarray(image[rows, :: -1 if columns else 1])


@dataclass(frozen=True)
class Tagged:
    """An image of a split that is not shown as it is stored.

    Args:
        row: Of the split.
        path: Of the file.
        header: Of the file.
        annotated: (height, width) that annotation or mask say; None where they say none.
    """

    row: int
    path: Path
    header: Header
    annotated: tuple[int, int] | None

    @property
    def told(self) -> bool | None:
        """Whether the annotated size tells that the image has to be turned; None where both or neither would fit."""
        stored, shown = self.annotated == self.header.size, self.annotated == self.header.shown
        return None if stored == shown else shown


def find_tagged(
    paths: Sequence[Path | str], size_of: Callable[[int], tuple[int, int] | None], limit: int = PIXEL_LIMIT
) -> list[Tagged]:
    """The images that carry an orientation other than upright, by their heads; some 10 us each.

    Args:
        paths: Of all images of a split. A file that cannot be read is left out: it is refused when it is read.
        size_of: Row -> annotated (height, width).
        limit: See `Reading`.
    """

    def look(rows: range) -> list[Tagged]:
        headers = ((row, _header_if_tagged(paths[row], limit)) for row in rows)
        return [Tagged(row, Path(paths[row]), header, size_of(row)) for row, header in headers if header is not None]

    slices = [range(start, min(start + 256, len(paths))) for start in range(0, len(paths), 256)]
    return [tag for found in in_threads(look, slices) for tag in found]


def _header_if_tagged(path: Path | str, limit: int) -> Header | None:
    try:
        with open(path, "rb", buffering=0) as file:
            start = file.read(4096)
        if start[:2] == b"\xff\xd8" and not jpeg_head(start)[1]:
            return None
        header = read_header(path, limit=limit)
    except (OSError, DataError):
        return None
    return None if header.orientation == 1 else header


def all_upright(tagged: Iterable[Tagged]) -> bool:
    """The rule: all are turned if any has its annotated size only then."""
    return any(tag.told for tag in tagged)


class Orientations:
    """Which images of a data set are turned: decided once, for all of its splits.

    Args:
        upright: What the user says; None looks at the annotated sizes.
        find: Split -> its tagged images; DataError where the split cannot be read.
        splits: All of them.
    """

    def __init__(self, upright: bool | None, find: Callable[[Split], list[Tagged]], splits: Sequence[Split]) -> None:
        self.stated, self.find, self.splits = upright, find, splits
        self._tagged: dict[Split, list[Tagged]] = {}

    @property
    def upright(self) -> bool | None:
        """Whether tagged images are turned; None if no split that has been looked at has any."""
        if self.stated is not None or not any(self._tagged.values()):
            return self.stated
        for split in self.splits:
            if split not in self._tagged:
                with contextlib.suppress(DataError):  # of a split that is not there nothing is known
                    self._tagged[split] = self.find(split)
        return all_upright(tag for tags in self._tagged.values() for tag in tags)

    def turned(self, split: Split, tagged: list[Tagged]) -> list[int]:
        """Rows of the images of a split that are turned; says which ones carry an orientation.

        An image whose annotated size fits in one way alone is read that way, even where others tell the opposite.

        Args:
            split: To be read.
            tagged: Its images that carry an orientation.
        """
        self._tagged[split] = tagged
        if self.stated is not None:
            return [tag.row for tag in tagged if self.stated]
        if not tagged:
            return []
        upright = self.upright
        rank_zero_warn(f"{split}: {describe(tagged, upright)}")
        return [tag.row for tag in tagged if (upright if tag.told is None else tag.told)]


def describe(tagged: Sequence[Tagged], upright: bool | None) -> str:
    """A sentence on images that carry an orientation, and whether they are turned."""
    names = ", ".join(tag.path.name for tag in tagged[:3]) + ", ..." * (len(tagged) > 3)
    done = "turned upright" if upright else "read as stored"
    told = upright or any(tag.told is not None for tag in tagged)
    doubt = "nothing says whether the annotations were made on the turned pictures: if so, `reading: {upright: true}`"
    why = "" if told else f"; {doubt}"
    count = f"{len(tagged)} image{'s carry' if len(tagged) > 1 else ' carries'} an EXIF orientation"
    return f"{count} ({names}), {done}{why}."

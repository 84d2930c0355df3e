"""One look at each image of a data set: what cannot be read, is of another size, has too many bands or no known range.

What a look said (`Seen`) is a fact that a DataModule yields; the data doctor compares the images of all splits.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from datamodules.findings import Count, DataError, Fact, Mode, Note
from datamodules.images.files import IMAGE_ENDINGS, PLAIN, Header, Reading, left_out, read_header
from datamodules.images.pixels import ManyBands, UnknownRange, read_image

ALMOST_BLACK = 16
SIZES = (64, 128, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True)
class Seen(Fact):
    """What one look at an image file said.

    Args:
        split: Split that the image is of.
        path: Its file.
        item: What reports call it.
        annotated: (height, width) in pixels that annotation or mask say; None where they say none.
        size: (height, width) in pixels that it has; None where it was not read.
        header: What the head of the file says.
        problem: Kind of finding, what was found.
        fingerprint: Equal for equal pixels where these were read, else for files of equal length.
        miniature: (16, 16) uint8 grey, of a decoded image.
    """

    split: str
    path: Path
    item: str
    annotated: tuple[int, int] | None = None
    size: tuple[int, int] | None = None
    header: Header | None = None
    problem: tuple[str, str] | None = None
    fingerprint: str | None = None
    miniature: np.ndarray | None = None

    @property
    def is_decoded(self) -> bool:
        """Whether its pixels were read, and not just its head."""
        return self.miniature is not None

    def may_be(self, size: tuple[int, int], upright: bool | None) -> bool:
        """Whether the image can be read as of `size`; where nobody says if images are turned, in either way."""
        sizes = {False: (self.header.size,), True: (self.header.shown,), None: (self.header.size, self.header.shown)}
        return size in sizes[upright]


def look(
    path: Path,
    size: tuple[int, int] | None,
    mode: Mode,
    reading: Reading = PLAIN,
    *,
    split: str = "",
    item: str | None = None,
) -> Seen:
    """Look at an image.

    Args:
        path: Its file.
        size: Annotated (height, width) in pixels; None where nothing is annotated.
        mode: `none` asks whether the file is there, `headers` reads its head, `full` decodes it.
        reading: How the data set reads images.
        split: Split that the image is of.
        item: What reports call it; the path where not given.
    """
    seen = Seen(split, path, str(path) if item is None else item, size)
    try:
        if not path.is_file():
            return replace(seen, problem=("missing image", "there is no such file"))
        if mode == "none":
            return replace(seen, fingerprint=str(path.resolve()))
        header = read_header(path, limit=reading.pixel_limit)
        seen = replace(seen, size=header.size, fingerprint=f"{path.stat().st_size} bytes", header=header)
        problem = _problem(seen, reading)
        return replace(seen, problem=problem) if problem or mode == "headers" else _decoded(seen, reading)
    except ManyBands as error:
        return replace(seen, problem=("image of many bands", str(error)))
    except UnknownRange as error:
        return replace(seen, problem=("image of an unknown range", str(error)))
    except DataError as error:
        return replace(seen, problem=("unreadable image", str(error)))
    except Exception as error:  # whatever a decoder says about a damaged file is a finding, and the others are read
        return replace(seen, problem=("unreadable image", f"{type(error).__name__}: {error}"))


def _problem(seen: Seen, reading: Reading) -> tuple[str, str] | None:
    """What its head says is wrong with an image."""
    header, size = seen.header, seen.annotated
    if header.bands not in (1, 3):
        return "image of many bands", f"is {header.depth}, expected grey or RGB"
    if (header.number != "unsigned" or header.bits > 16) and reading.value_range is None:
        return "image of an unknown range", f"is {header.depth}, and nothing says which values are black and white"
    if size is not None and not seen.may_be(size, reading.upright):
        found = header.shown if reading.upright else header.size
        sizes = f"{found[0]} x {found[1]} pixels (height x width), annotated are {size[0]} x {size[1]}"
        return "image of another size", f"has {sizes}"
    return None


def _decoded(seen: Seen, reading: Reading) -> Seen:
    image = read_image(seen.path, seen.annotated, reading)
    problem = None
    if image.max() < ALMOST_BLACK:
        problem = "image almost black", f"no value is above {image.max()} of 255"
    miniature = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (16, 16), interpolation=cv2.INTER_AREA)
    return replace(seen, size=image.shape[:2], fingerprint=digest(image), miniature=miniature, problem=problem)


def digest(pixels: np.ndarray) -> str:
    """The same words for the same pixels."""
    return hashlib.blake2b(np.ascontiguousarray(pixels), digest_size=16, key=str(pixels.shape).encode()).hexdigest()


def files_left_out(
    split: str, folders: Sequence[Path], endings: tuple[str, ...] = IMAGE_ENDINGS
) -> Iterator[Note | Count]:
    """How many files in the folders of a split are not taken for images, by ending; nothing where all are."""
    counts = sum((left_out(folder, endings) for folder in dict.fromkeys(folders)), Counter())
    if counts:
        kinds = ", ".join(f"{count} {ending}" for ending, count in sorted(counts.items()))
        yield Note(split, f"files left out, since they are no images by their ending: {kinds}")
        yield Count(split, "files left out", counts)


def size_histogram(sizes: Iterable[tuple[float, float]]) -> Counter:
    """How many (height, width) have their longer side in each range of pixels."""
    names = [f"below {SIZES[0]}", *(f"{a} to {b - 1}" for a, b in pairwise(SIZES)), f"{SIZES[-1]} up"]
    ranges = np.searchsorted(SIZES, [max(size) for size in sizes], side="right")
    return Counter(dict(zip(names, np.bincount(ranges, minlength=len(names)).tolist(), strict=True)))

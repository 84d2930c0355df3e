"""Reading the images of a data set for the data doctor: what cannot be read, of another size, or in two splits."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from datamodules.base import DataError
from datamodules.check.findings import Report
from datamodules.findings import Mode
from datamodules.images.files import IMAGE_ENDINGS, PLAIN, Header, Reading, left_out, read_header
from datamodules.images.orientation import Tagged, describe
from datamodules.images.pixels import ManyBands, UnknownRange, read_image

SIZES = (64, 128, 256, 512, 1024, 2048, 4096)
SAME_LOOKS = 1.0
"""Mean difference of 16 x 16 grey values up to which two images are one; saving as JPEG again costs about 0.3."""
ALMOST_BLACK = 16


@dataclass(frozen=True)
class Seen:
    """What one look at an image file said."""

    path: Path
    size: tuple[int, int] | None = None  # height, width
    fingerprint: str | None = None  # equal for equal pixels (full) or equal files (headers, none)
    problem: tuple[str, str] | None = None  # kind of finding, what was found
    miniature: np.ndarray | None = None  # (16, 16) uint8 grey, of a decoded image
    header: Header | None = None
    annotated: tuple[int, int] | None = None  # height, width

    def may_be(self, size: tuple[int, int], upright: bool | None) -> bool:
        """Whether the image can be read as of `size`; where nobody says if images are turned, in either way."""
        sizes = {False: (self.header.size,), True: (self.header.shown,), None: (self.header.size, self.header.shown)}
        return size in sizes[upright]


def look(path: Path, size: tuple[int, int] | None, mode: Mode, reading: Reading = PLAIN) -> Seen:
    """Look at an image.

    Args:
        path: Its file.
        size: Annotated (height, width) in pixels; None where nothing is annotated.
        mode: `none` asks whether the file is there, `headers` reads its head, `full` decodes it.
        reading: Of the data set.
    """
    try:
        if not path.is_file():
            return Seen(path, problem=("missing image", "there is no such file"))
        if mode == "none":
            return Seen(path, fingerprint=str(path.resolve()))
        header = read_header(path, limit=reading.pixel_limit)
        seen = Seen(path, header.size, f"{path.stat().st_size} bytes", header=header, annotated=size)
        problem = _problem(seen, size, reading)
        return replace(seen, problem=problem) if problem or mode == "headers" else _decoded(seen, size, reading)
    except ManyBands as error:
        return Seen(path, problem=("image of many bands", str(error)))
    except UnknownRange as error:
        return Seen(path, problem=("image of an unknown range", str(error)))
    except DataError as error:
        return Seen(path, problem=("unreadable image", str(error)))
    except Exception as error:  # whatever a decoder says about a damaged file is a finding, and the others are read
        return Seen(path, problem=("unreadable image", f"{type(error).__name__}: {error}"))


def _problem(seen: Seen, size: tuple[int, int] | None, reading: Reading) -> tuple[str, str] | None:
    """What its head says is wrong with an image."""
    header = seen.header
    if header.bands not in (1, 3):
        return "image of many bands", f"is {header.depth}, expected grey or RGB"
    if (header.number != "unsigned" or header.bits > 16) and reading.value_range is None:
        return "image of an unknown range", f"is {header.depth}, and nothing says which values are black and white"
    if size is not None and not seen.may_be(size, reading.upright):
        found = header.shown if reading.upright else header.size
        sizes = f"{found[0]} x {found[1]} pixels (height x width), annotated are {size[0]} x {size[1]}"
        return "image of another size", f"has {sizes}"
    return None


def _decoded(seen: Seen, size: tuple[int, int] | None, reading: Reading) -> Seen:
    image = read_image(seen.path, size, reading)
    problem = None
    if image.max() < ALMOST_BLACK:
        problem = "image almost black", f"no value is above {image.max()} of 255"
    miniature = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (16, 16), interpolation=cv2.INTER_AREA)
    return replace(seen, size=image.shape[:2], fingerprint=digest(image), miniature=miniature, problem=problem)


def note_orientations(seen: Mapping[str, Sequence[Seen]], reading: Reading, report: Report, root: Path) -> None:
    """Name the images that carry an EXIF orientation, and find those of which it is not clear whether to turn them.

    Args:
        seen: Split -> its images.
        reading: Of the data set.
        report: What is written to.
        root: Names are written relative to it.
    """
    tagged = {
        split: [
            Tagged(row, image.path, image.header, image.annotated)
            for row, image in enumerate(images)
            if image.header is not None and image.header.orientation != 1
        ]
        for split, images in seen.items()
    }
    told = {tag.told for tags in tagged.values() for tag in tags}
    upright = (True in told) if reading.upright is None else reading.upright
    for split, tags in tagged.items():
        if tags:
            report.note(split, describe(tags, upright))
        for tag in tags if reading.upright is None else ():
            item, number = relative(tag.path, root), f"EXIF orientation {tag.header.orientation}"
            if told == {None}:
                report.add("orientation not decided", split, item, f"{number}; read as stored")
            elif told >= {True, False} and tag.told is False:
                report.add("orientations disagree", split, item, f"{number}; read as stored, others are turned")


def note_left_out(
    folders: Mapping[str, Sequence[Path]], report: Report, endings: tuple[str, ...] = IMAGE_ENDINGS
) -> None:
    """Count the files in the folders of each split that are not taken for images, by ending."""
    for split, places in folders.items():
        counts = sum((left_out(place, endings) for place in dict.fromkeys(places)), Counter())
        if counts:
            kinds = ", ".join(f"{count} {ending}" for ending, count in sorted(counts.items()))
            report.note(split, f"files left out, since they are no images by their ending: {kinds}")
            report.count("files left out", split, counts)


def digest(pixels: np.ndarray) -> str:
    """The same words for the same pixels."""
    return hashlib.blake2b(np.ascontiguousarray(pixels), digest_size=16, key=str(pixels.shape).encode()).hexdigest()


def find_shared_images(seen: dict[str, Sequence[Seen]], report: Report, root: Path) -> None:
    """Find images of one split in a later one: equal fingerprints, or one name and, encoded anew, the same looks.

    Args:
        seen: Split -> its images.
        report: What is written to.
        root: Names are written relative to it.
    """
    places: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for split, images in seen.items():
        for image in images:
            if image.fingerprint is not None:
                places[image.fingerprint].append((split, image.path))
    for fingerprint, found in places.items():
        if len({split for split, _ in found}) > 1:
            for group in _same_files(found) if fingerprint.endswith(" bytes") else [found]:
                first_split, first = group[0]
                for split, path in group[1:]:
                    if split != first_split:
                        found_in = f"is the same picture as {relative(first, root)} in {first_split}"
                        report.add("image in two splits", split, relative(path, root), found_in)
    _find_copies(seen, report, root)


def _find_copies(seen: dict[str, Sequence[Seen]], report: Report, root: Path) -> None:
    """Find images that differ from one of the same name and size in an earlier split by no more than encoding."""
    earlier: dict[tuple, tuple[str, Seen]] = {}
    for split, images in seen.items():
        for image in images:
            if image.miniature is None:
                continue
            other_split, other = earlier.setdefault((image.path.stem, image.size), (split, image))
            difference = np.abs(image.miniature.astype(int) - other.miniature).mean()
            if other_split != split and other.fingerprint != image.fingerprint and difference < SAME_LOOKS:
                found = f"has the name, the size and the looks of {relative(other.path, root)} in {other_split}"
                report.add("image in two splits", split, relative(image.path, root), found)


def _same_files(found: list[tuple[str, Path]]) -> list[list[tuple[str, Path]]]:
    """Files of one length, grouped by their bytes."""
    groups: dict[bytes, list[tuple[str, Path]]] = defaultdict(list)
    for split, path in found:
        groups[hashlib.blake2b(path.read_bytes()).digest()].append((split, path))
    return [group for group in groups.values() if len({split for split, _ in group}) > 1]


def relative(path: Path, root: Path) -> str:
    """`path` below `root`, else as it is."""
    return os.fspath(path.relative_to(root)) if path.is_relative_to(root) else os.fspath(path)


def size_histogram(sizes: Iterable[tuple[float, float]]) -> Counter:
    """How many (height, width) have their longer side in each range of pixels."""
    names = [
        f"below {SIZES[0]}",
        *(f"{a} to {b - 1}" for a, b in pairwise(SIZES)),
        f"{SIZES[-1]} up",
    ]
    ranges = np.searchsorted(SIZES, [max(size) for size in sizes], side="right")
    return Counter(dict(zip(names, np.bincount(ranges, minlength=len(names)).tolist(), strict=True)))

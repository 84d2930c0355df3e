"""Reading the images of a data set for the data doctor: what cannot be read, of another size, or in two splits.

Decoding all of COCO takes minutes: OpenCV and Pillow release Python's lock, so a thread a core keeps them all busy.
"""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, TypeVar

import cv2
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from datamodules.base import DataError, available_cores
from datamodules.check_findings import Report
from datamodules.images import read_image

Mode = Literal["none", "headers", "full"]
SIZES = (64, 128, 256, 512, 1024, 2048, 4096)
SAME_LOOKS = 1.0
"""Mean difference of 16 x 16 grey values up to which two images are one; saving as JPEG again costs about 0.3."""
Job, Result = TypeVar("Job"), TypeVar("Result")


@dataclass(frozen=True)
class Seen:
    """What one look at an image file said."""

    path: Path
    size: tuple[int, int] | None = None  # height, width
    fingerprint: str | None = None  # equal for equal pixels (full) or equal files (headers, none)
    problem: tuple[str, str] | None = None  # kind of finding, what was found
    miniature: np.ndarray | None = None  # (16, 16) uint8 grey, of a decoded image


def look(path: Path, size: tuple[int, int] | None, mode: Mode) -> Seen:
    """Look at an image.

    Args:
        path: Its file.
        size: Annotated (height, width) in pixels; None where nothing is annotated.
        mode: `none` asks whether the file is there, `headers` reads its size, `full` decodes it.
    """
    try:
        if not path.is_file():
            return Seen(path, problem=("missing image", "there is no such file"))
        if mode == "none":
            return Seen(path, fingerprint=str(path.resolve()))
        return _header(path, size) if mode == "headers" else _pixels(path, size)
    except Exception as error:  # whatever a decoder says about a damaged file is a finding, and the others are read
        return Seen(path, problem=("unreadable image", f"{type(error).__name__}: {error}"))


def _header(path: Path, size: tuple[int, int] | None) -> Seen:
    with Image.open(path) as image:
        stored = image.size[::-1]
    # A photograph that lies on its side is turned by the reader where the annotation says so.
    if size is not None and size not in (stored, stored[::-1]):
        return Seen(path, stored, problem=("image of another size", _sizes(stored, size)))
    return Seen(path, stored, f"{path.stat().st_size} bytes")


def _pixels(path: Path, size: tuple[int, int] | None) -> Seen:
    try:
        image = read_image(path)
    except DataError as error:
        return Seen(path, problem=("unreadable image", str(error)))
    if size is not None and image.shape[:2] != size:
        try:
            image = read_image(path, size)
        except DataError:
            return Seen(path, image.shape[:2], problem=("image of another size", _sizes(image.shape, size)))
    miniature = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (16, 16), interpolation=cv2.INTER_AREA)
    return Seen(path, image.shape[:2], digest(image), miniature=miniature)


def digest(pixels: np.ndarray) -> str:
    """The same words for the same pixels."""
    return hashlib.blake2b(np.ascontiguousarray(pixels), digest_size=16, key=str(pixels.shape).encode()).hexdigest()


def _sizes(found: Sequence[int], expected: Sequence[int]) -> str:
    return f"has {found[0]} x {found[1]} pixels (height x width), annotated are {expected[0]} x {expected[1]}"


def look_at_all(work: Callable[[Job], Result], jobs: Sequence[Job], title: str) -> list[Result]:
    """Results of `work` for all jobs in order, a thread a core, with a progress bar where there is a terminal."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    results: list[Result] = []
    with (
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
        ThreadPoolExecutor(available_cores()) as pool,
    ):
        task = progress.add_task(title, total=len(jobs))
        for start in range(0, len(jobs), 512):  # a million jobs at once would be a million waiting objects
            results += pool.map(work, jobs[start : start + 512])
            progress.update(task, completed=len(results))
    return results


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

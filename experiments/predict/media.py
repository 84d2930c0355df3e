"""What a prediction reads: images, folders, globs and videos named by the user become photos, one after another.

for item in read_photos(find_sources(["photos/", "clip.mp4"])): ...     # Photo, or Failure where a file is damaged
"""

import glob
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from datamodules.base import DataError
from datamodules.images.files import IMAGE_ENDINGS, PLAIN, Reading, images_below, left_out, read_header
from datamodules.images.orientation import Tagged
from datamodules.images.pixels import as_rgb, read_image
from experiments.config import ConfigError
from experiments.predict.video import read_video

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
MEDIA_ENDINGS = (*IMAGE_ENDINGS, *VIDEO_SUFFIXES)
READERS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class Source:
    """A file to predict on, and the name of what is written for it: a path without ending, different for each."""

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """Whether the file's ending is that of a video."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES


@dataclass(frozen=True, eq=False)
class Photo:
    """An image (H, W, 3) uint8 RGB with its file, the name of its outputs; in a video its number and time (seconds).

    `boxes` are those of its persons, where a network has found them on the way.
    """

    image: np.ndarray
    path: Path | None = None
    name: str = "image"
    frame: int | None = None
    time: float | None = None
    boxes: Any = None


@dataclass(frozen=True, eq=False)
class Failure:
    """A file that could not be predicted on, and why."""

    path: Path | None
    error: DataError


def find_sources(inputs: Sequence[str]) -> list[Source]:
    """Files behind images, videos, folders (searched through and through) and globs; each file once.

    Raises:
        ConfigError: If one of the inputs names no file.
    """
    found: dict[Path, Path] = {}
    for text in inputs:
        matches = list(_files(text))
        if not matches:
            raise ConfigError(
                f"There is no image or video at {text} (from {Path.cwd()}): name images, videos, folders of them, or a "
                f"glob such as 'photos/*.jpg'. Endings in folders: {' '.join(MEDIA_ENDINGS)}."
            )
        for path, relative in matches:
            found.setdefault(path, relative)
    names: dict[str, Path] = {}
    for path, relative in found.items():
        stem = relative.with_suffix("").as_posix()
        name, number = stem, 1
        while name in names:
            number += 1
            name = f"{stem}_{number}"
        names[name] = path
    return [Source(path, name) for name, path in names.items()]


def _files(text: str) -> Iterator[tuple[Path, Path]]:
    """(file, its path relative to what was named)."""
    path = Path(text).expanduser()
    if path.is_file():
        yield path, Path(path.name)
    elif path.is_dir():
        for name in images_below(path, MEDIA_ENDINGS):
            yield path / name, Path(name)
    elif glob.has_magic(str(path)):
        root = fixed_part(path)
        for match in sorted(glob.glob(str(path), recursive=True)):
            for file, relative in _files(match) if Path(match).is_dir() else [(Path(match), Path())]:
                if _is_medium(file):
                    yield (
                        file,
                        file.relative_to(root) if relative == Path() else Path(match).relative_to(root) / relative,
                    )


def unread(inputs: Sequence[str]) -> Counter:
    """How many files in the folders among the inputs are neither images nor videos, by ending."""
    folders = (Path(text).expanduser() for text in inputs)
    return sum((left_out(folder, MEDIA_ENDINGS) for folder in folders if folder.is_dir()), Counter())


def fixed_part(path: Path) -> Path:
    """The folder before the first wildcard of a glob."""
    return Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))


def _is_medium(file: Path) -> bool:
    return file.suffix.lower() in MEDIA_ENDINGS and not file.name.startswith(".") and file.is_file()


def read_photo(
    path: Path,
    name: str = "image",
    *,
    upright: bool | None = False,
    size: tuple[int, int] | None = None,
    reading: Reading = PLAIN,
) -> Photo:
    """The photo in an image file, read as the data sets read theirs.

    Args:
        path: Of the image.
        name: Of its outputs.
        upright: Turn as the file's EXIF orientation says. An annotated size that fits in one way alone decides itself;
            None turns where no size is annotated.
        size: The annotated (height, width).
        reading: Depth and largest size, see `Reading`.

    Raises:
        DataError: If the file is absent, damaged or no image, or of another size than annotated.
    """
    if size is not None:
        tagged = Tagged(0, path, read_header(path, limit=reading.pixel_limit), tuple(size))
        upright = bool(upright) if tagged.told is None else tagged.told
    return Photo(read_image(path, size, replace(reading, upright=upright is not False)), path, name)


def pixels_of(picture: np.ndarray | Image.Image, *, upright: bool = True, reading: Reading = PLAIN) -> np.ndarray:
    """An array or Pillow image as the file of it would be read: (H, W, 3) uint8 RGB.

    Args:
        picture: (H, W) or (H, W, 3) uint8, or of a type for which `reading` says what is black and white.
        upright: Turn a Pillow image as its EXIF orientation says.
        reading: Depth, see `Reading`.

    Raises:
        DataError: For other shapes, or values whose range has to be stated.
    """
    what = f"The picture, {type(picture).__name__},"
    if isinstance(picture, Image.Image):
        if picture.format == "EPS":  # decoding would start Ghostscript
            raise DataError(f"{what} is PostScript, which is a program and no image: convert it to PNG.")
        picture = ImageOps.exif_transpose(picture) if upright else picture
        deep = picture.mode.startswith(("I", "F"))
        return as_rgb(np.array(picture if deep else picture.convert("RGB")), what, reading.value_range)
    return as_rgb(picture, what, reading.value_range)


def read_photos(
    sources: Sequence[Source],
    *,
    upright: bool | None = False,
    size_of: Callable[[Path], tuple[int, int] | None] = lambda path: None,
    reading: Reading = PLAIN,
) -> Iterator[Photo | Failure]:
    """Photos of all sources in order, the frames of a video one by one; some images are read ahead, in threads.

    Memory is that of a few images, however many there are. A damaged file gives a Failure, and the rest follow.

    Args:
        sources: From `find_sources`.
        upright: See `read_photo`.
        size_of: Annotated (height, width) of an image.
        reading: See `read_photo`.
    """

    def read(source: Source) -> Photo | Failure:
        try:
            return read_photo(source.path, source.name, upright=upright, size=size_of(source.path), reading=reading)
        except DataError as error:
            return Failure(source.path, error)

    ahead: deque[tuple[Source, Future | None]] = deque()
    waiting = iter(sources)
    with ThreadPoolExecutor(READERS) as pool:
        while True:
            while len(ahead) <= READERS and (source := next(waiting, None)) is not None:
                ahead.append((source, None if source.is_video else pool.submit(read, source)))
            if not ahead:
                return
            source, future = ahead.popleft()
            if future is None:
                yield from _frames(source, reading)
            else:
                yield future.result()


def _frames(source: Source, reading: Reading) -> Iterator[Photo | Failure]:
    try:
        for number, (image, time) in enumerate(read_video(source.path, reading.pixel_limit)):
            yield Photo(image, source.path, source.name, number, time)
    except DataError as error:
        yield Failure(source.path, error)

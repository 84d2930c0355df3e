"""Where the pixels of a labelled picture are (a file, a frame of a video, bytes within the labels) and writing them.

Sources are other people's: a file is taken only if it begins like an image (`images/files.py`), a video only if
OpenCV's FFmpeg decodes it.
"""

import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2

from datamodules.findings import DataError
from datamodules.images.files import IMAGE_ENDINGS, Header, format_of, read_header

ENDINGS = {"JPEG": ".jpg", "PNG": ".png", "BMP": ".bmp", "GIF": ".gif", "WEBP": ".webp", "TIFF": ".tif", "PPM": ".ppm"}
VIDEO_ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")


@dataclass(frozen=True)
class ImageFile:
    """An image file."""

    path: Path

    @property
    def key(self) -> tuple:
        """Equal for the same pixels."""
        return ("file", os.path.realpath(self.path))

    def header(self) -> Header:
        """Size and orientation; raises DataError where it is no image."""
        return read_header(self.path)

    def ending(self) -> str:
        """The ending that its copy gets."""
        if self.path.suffix.lower() in IMAGE_ENDINGS:
            return self.path.suffix
        with self.path.open("rb") as file:
            return ENDINGS[format_of(file.read(16)) or "JPEG"]


@dataclass(frozen=True)
class Embedded:
    """An image file that lies within the labels.

    Args:
        data: Its bytes.
        of: The file that has them, for messages.
    """

    data: bytes
    of: Path

    @property
    def key(self) -> tuple:
        """Equal for the same pixels."""
        return ("bytes", self.data)

    def header(self) -> Header:
        """Size and orientation; raises DataError where it is no image."""
        return read_header(self.of, self.data)

    def ending(self) -> str:
        """The ending that its copy gets."""
        return ENDINGS[format_of(self.data[:16]) or "PNG"]


@dataclass(frozen=True)
class VideoFrame:
    """A frame of a video, counted from 0."""

    path: Path
    index: int

    @property
    def key(self) -> tuple:
        """Equal for the same pixels."""
        return ("frame", os.path.realpath(self.path), self.index)

    def header(self) -> Header:
        """Size of the video's frames; raises DataError where it is no video."""
        return _video_header(self.path)

    def ending(self) -> str:
        """The ending that its copy gets."""
        return ".png"


Pixels = ImageFile | Embedded | VideoFrame


def put(pixels: ImageFile | Embedded, path: Path, *, link: bool = False) -> None:
    """Copy an image, bytes for bytes, to `path`, or link to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(pixels, Embedded):
        path.write_bytes(pixels.data)
    elif link:
        path.symlink_to(pixels.path.resolve())
    else:
        shutil.copyfile(pixels.path, path)


def put_frames(frames: Iterable[tuple[VideoFrame, Path]]) -> list[VideoFrame]:
    """Write frames of videos as PNG files, each video read once from its beginning; returns those it does not have."""
    wanted: dict[Path, dict[int, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for frame, path in frames:
        wanted[frame.path][frame.index].append(path)
    missing = []
    for video, places in wanted.items():
        left = set(places)
        for index, picture in _decoded(video, max(places), left):
            for path in places[index]:
                path.parent.mkdir(parents=True, exist_ok=True)
                ok, data = cv2.imencode(".png", picture)
                if not ok:
                    raise DataError(f"Frame {index} of {video} cannot be written as PNG: extract the frames yourself.")
                path.write_bytes(data.tobytes())
            left.discard(index)
        missing += [VideoFrame(video, index) for index in sorted(left)]
    return missing


def frame_at(path: Path, seconds: float) -> int:
    """The frame of a video, from 0, that is shown at a time, which may be rounded to milliseconds.

    Of a video whose frames are not equally long it is about the right one.

    Raises:
        DataError: If the video cannot be read or says no rate.
    """
    return max(0, int((seconds + 0.0005) * _frames_per_second(path)))


def _decoded(path: Path, last: int, wanted: set[int]) -> Iterator[tuple[int, "cv2.typing.MatLike"]]:
    """The wanted frames of a video in order. Seeking lands beside the frame in many containers, so none are skipped."""
    wanted = set(wanted)
    with _video(path) as video:
        for index in range(last + 1):
            if not video.grab():
                return
            if index in wanted:
                ok, picture = video.retrieve()
                if ok:
                    yield index, picture


@lru_cache
def _frames_per_second(path: Path) -> float:
    with _video(path) as video:
        rate = float(video.get(cv2.CAP_PROP_FPS))
    if not 0 < rate < 1e5:
        raise DataError(f"{path} does not say how many frames a second has: convert it to MP4 of a constant rate.")
    return rate


@lru_cache
def _video_header(path: Path) -> Header:
    with _video(path) as video:
        return Header((int(video.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(video.get(cv2.CAP_PROP_FRAME_WIDTH))))


@contextmanager
def _video(path: Path) -> Iterator[cv2.VideoCapture]:
    video = cv2.VideoCapture(os.path.realpath(path), cv2.CAP_FFMPEG)
    try:
        if not video.isOpened():
            raise DataError(f"{path} is no video that can be read: convert it to MP4, or extract the labelled frames.")
        yield video
    finally:
        video.release()

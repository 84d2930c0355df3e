"""Videos, a frame at a time: by PyAV where it is installed (`pip install 'hrnet-lightning[video]'`), else by OpenCV.

for image in read_frames(path): ...         # (H, W, 3) uint8 RGB
with VideoWriter(path, rate) as video: video.write(image)
"""

import importlib.util
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

import cv2
import numpy as np

from datamodules.base import DataError

if TYPE_CHECKING:
    from av.container import InputContainer

CONVERT = "convert it to an MP4 (H.264)"
HINT = f"{CONVERT}, or install PyAV, which knows more formats: pip install 'hrnet-lightning[video]'"


class VideoInfo(NamedTuple):
    """Frames, None where the file does not say, and frames a second."""

    frames: int | None
    rate: Fraction


def has_pyav() -> bool:
    """Whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


def video_info(path: Path) -> VideoInfo:
    """What the file's head says; raises DataError where it is no video that can be read."""
    if has_pyav():
        with _opened_by_pyav(path) as container:
            stream = container.streams.video[0]
            return VideoInfo(stream.frames or None, stream.average_rate or Fraction(25))
    capture = _opened_by_opencv(path)
    frames, rate = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    return VideoInfo(frames if frames > 0 else None, Fraction(rate or 25).limit_denominator(1001))


def read_frames(path: Path) -> Iterator[np.ndarray]:
    """The frames (H, W, 3) uint8 RGB, turned as a player shows them.

    Raises:
        DataError: If the file is absent, damaged, or no video that can be read; after the frames before the damage.
    """
    return _read_with_pyav(path) if has_pyav() else _read_with_opencv(path)


def _opened_by_pyav(path: Path) -> "InputContainer":
    import av

    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError) as error:
        raise DataError(f"The video {path} cannot be read ({error.strerror}): fetch it again or {CONVERT}.") from error
    if not container.streams.video:
        container.close()
        raise DataError(f"{path} has no video stream: remove it from the inputs.")
    return container


def _read_with_pyav(path: Path) -> Iterator[np.ndarray]:
    import av

    with _opened_by_pyav(path) as container:
        container.streams.video[0].thread_type = "AUTO"
        try:
            for frame in container.decode(video=0):
                image = frame.to_ndarray(format="rgb24")
                turns = round(frame.rotation / 90) % 4
                yield np.ascontiguousarray(np.rot90(image, turns)) if turns else image
        except av.error.FFmpegError as error:
            raise DataError(f"The video {path} is damaged or cut off ({error.strerror}): fetch it again.") from error


def _opened_by_opencv(path: Path) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise DataError(f"The video {path} cannot be read by OpenCV: check the file, {HINT}.")
    return capture


def _read_with_opencv(path: Path) -> Iterator[np.ndarray]:
    capture = _opened_by_opencv(path)
    count = 0
    try:
        while True:
            there, frame = capture.read()
            if not there:
                break
            count += 1
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    finally:
        capture.release()
    if not count:
        raise DataError(f"OpenCV finds no frame in the video {path}: check the file, {HINT}.")


class VideoWriter:
    """Writes an MP4 whose size is that of the first frame; the file has its name only when it is complete.

    Args:
        path: Ends with .mp4.
        rate: Frames a second.
    """

    def __init__(self, path: Path, rate: Fraction) -> None:
        self.path, self.rate = path, rate
        self.partial = path.with_name(f"{path.stem}.part.mp4")
        self._sink: _PyAVSink | _OpenCVSink | None = None

    def write(self, image: np.ndarray) -> None:
        """Append a frame (H, W, 3) uint8 RGB of the size of the first; an odd side loses its last line of pixels."""
        if self._sink is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            kind = _PyAVSink if has_pyav() else _OpenCVSink
            self._sink = kind(self.partial, self.rate, (image.shape[0] // 2 * 2, image.shape[1] // 2 * 2))
        height, width = self._sink.size
        self._sink.write(np.ascontiguousarray(image[:height, :width]))

    def close(self, complete: bool = True) -> None:
        """End the file; an incomplete one keeps the ending .part.mp4, and can be played too."""
        if self._sink is not None:
            self._sink.close()
            self._sink = None
            if complete:
                self.partial.replace(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(complete=error is None)


class _PyAVSink:
    def __init__(self, path: Path, rate: Fraction, size: tuple[int, int]) -> None:
        import av

        self.size = size
        self.container = av.open(str(path), "w")
        self.stream = self.container.add_stream("libx264", rate=rate, options={"crf": "20"})
        self.stream.height, self.stream.width = size
        self.stream.pix_fmt = "yuv420p"

    def write(self, image: np.ndarray) -> None:
        import av

        self.container.mux(self.stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))

    def close(self) -> None:
        self.container.mux(self.stream.encode())
        self.container.close()


class _OpenCVSink:
    def __init__(self, path: Path, rate: Fraction, size: tuple[int, int]) -> None:
        self.size = size
        self.writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), float(rate), size[::-1])
        if not self.writer.isOpened():
            raise DataError(
                f"OpenCV cannot write the video {path}: install PyAV, pip install 'hrnet-lightning[video]'."
            )

    def write(self, image: np.ndarray) -> None:
        self.writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        self.writer.release()

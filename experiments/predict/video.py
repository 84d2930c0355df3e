"""Videos, a frame at a time with its time, by PyAV: `pip install 'hrnet-lightning[video]'`.

for image, time in read_video(path): ...         # (H, W, 3) uint8 RGB, seconds
with VideoWriter(path, rate) as video: video.write(image, time)

Phones and screen recorders write frames when there is something new, so the time of a frame is not its number divided
by a rate. Times count as a player does, from the beginning of the file: a file whose own stamps begin at 2.5 s has its
first frame at 0, unless its sound begins earlier.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from datamodules.base import DataError
from datamodules.images.files import PIXEL_LIMIT, refuse_beyond

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.video.frame import VideoFrame

FORMATS = "mov,matroska,avi,mpeg,mpegts,mpegvideo,h264,hevc,asf,flv,ogg,m4v,gif,dv,ivf,wtv,mxf"
"""FFmpeg's containers of pictures alone: others, such as a list of an HLS stream, name further files and addresses."""
TICKS = 90_000  # a second at least, MPEG's clock: no stamp moves by more than 6 microseconds


class VideoInfo(NamedTuple):
    """Frames, None where the file does not say, and frames a second on average."""

    frames: int | None
    rate: Fraction


class Frame(NamedTuple):
    """Image (H, W, 3) uint8 RGB, and its time in seconds from the beginning of the file."""

    image: np.ndarray
    time: float


def video_info(path: Path) -> VideoInfo:
    """What the file's head says; raises DataError where it is no video that can be read."""
    with _opened(path) as container:
        return VideoInfo(container.streams.video[0].frames or None, _rate(container))


def read_video(path: Path, limit: int = PIXEL_LIMIT) -> Iterator[Frame]:
    """The frames, turned as a player shows them; times rise from frame to frame.

    A frame without a time stamp, or with one that does not rise, comes an average interval after the one before.

    Args:
        path: Of the file.
        limit: Of pixels of a frame; what the head says is looked at before the first is decoded.

    Raises:
        DataError: If the file is absent, damaged, of larger frames, or no video that can be read; after the frames
            before the damage. If PyAV is not installed.
    """
    av = _pyav(path)
    with _opened(path) as container:
        refuse_beyond(limit, path, (container.streams.video[0].height, container.streams.video[0].width))
        container.streams.video[0].thread_type = "AUTO"
        start, step = Fraction(container.start_time or 0, av.time_base), 1 / _rate(container)
        time = -step
        try:
            for frame in container.decode(video=0):
                stamp = time if frame.pts is None else frame.pts * frame.time_base - start
                time = stamp if stamp > time else time + step
                refuse_beyond(limit, path, (frame.height, frame.width))
                yield Frame(_upright(frame), round(float(time), 6))
        except av.error.FFmpegError as error:
            raise DataError(f"The video {path} is damaged or cut off ({error.strerror}): fetch it again.") from error


def _upright(frame: "VideoFrame") -> np.ndarray:
    image = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def _rate(container: "InputContainer") -> Fraction:
    return container.streams.video[0].average_rate or Fraction(25)


def _pyav(path: Path) -> ModuleType:
    try:
        import av
    except ModuleNotFoundError:
        raise DataError(
            f"The video {path} needs PyAV, which is not installed: pip install av, or this project with its extra, "
            "pip install 'hrnet-lightning[video]'."
        ) from None
    return av


def _opened(path: Path) -> "InputContainer":
    av = _pyav(path)
    try:
        # By the content and not by the name, so that `concat:` in a name is none either.
        container = av.open(str(path.absolute()), options={"format_whitelist": FORMATS, "protocol_whitelist": "file"})
    except (av.error.FFmpegError, OSError) as error:
        raise DataError(
            f"The video {path} cannot be read ({error.strerror}): fetch it again or convert it to an MP4 (H.264)."
        ) from error
    if not container.streams.video:
        container.close()
        raise DataError(f"{path} has no video stream: remove it from the inputs.")
    return container


class VideoWriter:
    """Writes an MP4 whose size is that of the first frame; the file has its name only when it is complete.

    Args:
        path: Ends with .mp4.
        rate: Frames a second: the last frame is shown for such an interval, and so is each that comes without a time.
    """

    def __init__(self, path: Path, rate: Fraction) -> None:
        self.path = path
        self.partial = path.with_name(f"{path.stem}.part.mp4")
        self.rate = Fraction(rate).limit_denominator(1001)
        per_second = self.rate.numerator  # frames at exactly this rate fall on ticks: 1001 of 24000 a second
        self.tick = Fraction(1, per_second * max(1, -(-TICKS // per_second)))
        self._last = -1  # tick of the frame before
        self._container: OutputContainer | None = None

    def write(self, image: np.ndarray, time: float | None = None) -> None:
        """Append a frame.

        Args:
            image: (H, W, 3) uint8 RGB of the size of the first; an odd side loses its last line of pixels.
            time: Seconds from the beginning of the video, later than the frame before; an interval later when not
                given.
        """
        if self._container is None:
            self._open((image.shape[0] // 2 * 2, image.shape[1] // 2 * 2))
        if time is not None:
            self._last = max(self._last + 1, round(time / self.tick))
        else:
            self._last = 0 if self._last < 0 else self._last + round(1 / self.rate / self.tick)
        height, width = self._stream.height, self._stream.width
        frame = _pyav(self.path).VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
        frame.pts, frame.time_base = self._last, self.tick
        self._container.mux(self._stream.encode(frame))

    def _open(self, size: tuple[int, int]) -> None:
        av = _pyav(self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # The clock of the file, too: in milliseconds, as usual, what comes before the first frame would be rounded.
        self._container = av.open(str(self.partial), "w", options={"movie_timescale": str(self.tick.denominator)})
        # Frames in the order shown ("bf"): with others between, an MP4 of uneven times is said to end too early.
        self._stream = self._container.add_stream("libx264", rate=self.rate, options={"crf": "20", "bf": "0"})
        self._stream.height, self._stream.width = size
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = self.tick

    def close(self, complete: bool = True) -> None:
        """End the file; an incomplete one keeps the ending .part.mp4, and can be played too."""
        if self._container is not None:
            self._container.mux(self._stream.encode())
            self._container.close()
            self._container = None
            if complete:
                self.partial.replace(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(complete=error is None)

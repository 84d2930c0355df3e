"""Files of predictions, written as results come: overlays/, masks/, predictions.json (COCO results), predictions.csv.

with PredictionFiles(folder, {"overlays", "json"}) as files: files.write(result)

Every file has its name only when it is whole. What an interrupted command has written is kept as `.part`; an error ends
the files where it came, so that what was predicted before it is there, and nothing else.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from PIL import Image

from datamodules.base import DataError
from experiments.cli.files import replacing
from experiments.config import ConfigError
from experiments.predict.base import Result
from experiments.predict.media import Photo, Source
from experiments.predict.video import VideoWriter, video_info

MAX_JPEG = 65_000  # pixels of a side: 65,500, less a legend
WHERE = ("image", "frame", "time")  # the first columns, though a picture has no frame and no time


class PredictionFiles:
    """Writes the results of one task.

    Args:
        folder: Made where it is missing, and taken away again where nothing was written.
        saves: Some of overlays, json, masks, csv; what a result cannot be written as is left out.
    """

    def __init__(self, folder: Path, saves: Iterable[str]) -> None:
        self.folder, self.saves = folder, frozenset(saves)
        self.count = 0
        self._made: list[Path] = []
        self._json = _Json(folder / "predictions.json")
        self._csv = _Csv(folder / "predictions.csv")
        self._video: VideoWriter | None = None

    def write(self, result: Result) -> None:
        """Write one result; frames of a video one after another.

        Raises:
            DataError: The result cannot be written, and nothing of it was.
            ConfigError: Nothing can be written any more, as on a full disk.
        """
        self.count += 1
        saves = self.saves & set(result.saves)
        records = result.records(self.count) if "json" in saves else []
        rows = result.rows() if "csv" in saves else []
        _refuse_non_finite(result, records, rows)
        overlay = _overlay(result) if "overlays" in saves else None
        try:
            if "json" in saves:
                self._json.write(records)
            if "csv" in saves:
                self._csv.write(rows)
            if "masks" in saves:
                name, frame = result.photo.name, result.photo.frame
                mask = f"{name}.png" if frame is None else f"{name}/{frame:06d}.png"
                _save(result.indexed(), self.folder / "masks" / mask)
            if overlay is not None:
                self._draw(overlay, result.photo)
        except OSError as error:
            raise ConfigError(
                f"Predictions cannot be written to {self.folder} ({error.strerror or error}): free space, or choose "
                "another folder by --output. Results from before are kept there."
            ) from error

    def _draw(self, overlay: Image.Image, photo: Photo) -> None:
        if photo.frame is None:
            _save(overlay, self.folder / "overlays" / f"{photo.name}.jpg")
            return
        path = self.folder / "overlays" / f"{photo.name}.mp4"
        if self._video is None or self._video.path != path:
            self._end_video()
            self._video = VideoWriter(path, video_info(photo.path).rate)
        self._video.write(np.asarray(overlay), photo.time)

    def _end_video(self, complete: bool = True) -> None:
        if self._video is not None:
            self._video.close(complete)
            self._video = None

    def __enter__(self) -> Self:
        self._made = [place for place in (self.folder, *self.folder.parents) if not place.exists()]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"The folder {self.folder} cannot be made ({error.strerror}): choose another by --output."
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        interrupted = error is not None and not isinstance(error, Exception)
        with ExitStack() as stack:
            for close in (self._end_video, self._json.close, self._csv.close):
                stack.callback(close, not interrupted)
        for place in self._made:
            if any(place.iterdir()):
                break
            place.rmdir()


def refuse_existing(folder: Path, sources: Sequence[Source], saves: Iterable[str]) -> None:
    """Raise ConfigError if one of the files to be written is there."""
    there = [path for path in _targets(folder, sources, set(saves)) if path.exists()]
    if there:
        raise ConfigError(
            f"{there[0]} exists{f' and {len(there) - 1} more of the outputs' if len(there) > 1 else ''}: choose "
            "another folder by --output, or replace by --overwrite."
        )


def _targets(folder: Path, sources: Sequence[Source], saves: set[str]) -> Iterator[Path]:
    yield from (folder / f"predictions.{kind}" for kind in ("json", "csv") if kind in saves)
    for source in sources:
        if "overlays" in saves:
            yield folder / "overlays" / f"{source.name}.{'mp4' if source.is_video else 'jpg'}"
        if "masks" in saves:
            yield folder / "masks" / (source.name if source.is_video else f"{source.name}.png")


def _refuse_non_finite(result: Result, records: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    """Raise DataError where a network has found nan: neither JSON nor a table can say that."""
    try:
        json.dumps([records, rows], allow_nan=False)
    except ValueError as error:
        name = result.photo.path or result.photo.name
        raise DataError(
            f"What the network predicts on {name} is not finite: look at the picture, and whether the weights are."
        ) from error


def _overlay(result: Result) -> Image.Image:
    photo = result.photo
    height, width, _ = photo.image.shape
    if max(height, width) > MAX_JPEG:
        raise DataError(
            f"The overlay of {photo.path or photo.name} would have {height} x {width} pixels (height x width) or more, "
            f"and JPEG ends at {MAX_JPEG} a side: leave overlays out by --save."
        )
    return result.plot() if photo.frame is None else result.frame()


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        image.save(partial, format="PNG" if path.suffix == ".png" else "JPEG", quality=92)


class _Lines:
    """A text file that is opened with the first entry, is whole after each, and gets its name at the end."""

    tail = b""
    """What follows the last entry; the next one is written over it."""

    def __init__(self, path: Path) -> None:
        self.path, self.partial = path, path.with_name(path.name + ".part")
        self.file: IO[bytes] | None = None
        self.size = 0  # without the tail

    def append(self, text: str) -> None:
        """Write an entry; one that does not fit on the disk leaves the file as it was."""
        if self.file is None:
            self.file = self.partial.open("wb", buffering=0)
        entry = text.encode()
        try:
            self._put(entry + self.tail)
        except OSError:
            self.file.truncate(self.size)
            self._put(self.tail)
            raise
        self.size += len(entry)

    def _put(self, content: bytes) -> None:
        self.file.seek(self.size)
        while content:
            content = content[self.file.write(content) :]

    def close(self, complete: bool = True) -> None:
        """End the file, and give it its name if it is `complete`."""
        if self.file is not None:
            self.file.close()
            if complete:
                self.partial.replace(self.path)


class _Json(_Lines):
    """A JSON array, an entry a line."""

    tail = b"\n]\n"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.entries = 0

    def write(self, records: list[dict[str, Any]]) -> None:
        """Append entries; none still make a file."""
        if self.file is None:
            self.append("[")
        for record in records:
            self.append((",\n" if self.entries else "\n") + json.dumps(record, allow_nan=False))
            self.entries += 1


class _Csv(_Lines):
    """Rows of the same columns."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.columns: list[str] | None = None

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Append rows; none still make a file."""
        text = io.StringIO(newline="")
        for row in rows:
            if self.columns is None:
                self.columns = list(dict.fromkeys((*WHERE, *row)))
                csv.DictWriter(text, self.columns).writeheader()
            csv.DictWriter(text, self.columns).writerow(row)
        self.append(text.getvalue())

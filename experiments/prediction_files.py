"""Files of predictions, written as results come: overlays/, masks/, predictions.json (COCO results), predictions.csv.

with PredictionFiles(folder, {"overlays", "json"}) as files: files.write(result)

Every file has its name only when it is complete. What an interrupted command has written is kept as `.part`.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import numpy as np
from PIL import Image

from experiments.config import ConfigError
from experiments.media import Source
from experiments.results import Result
from experiments.video import VideoWriter, video_info

SAVES = ("overlays", "json", "masks", "csv")
WHERE = ("image", "frame", "time")  # the first columns, though a picture has no frame and no time


class PredictionFiles:
    """Writes the results of one task.

    Args:
        folder: Made where it is missing.
        saves: Some of overlays, json, masks, csv; what a result cannot be written as is left out.
    """

    def __init__(self, folder: Path, saves: Iterable[str]) -> None:
        self.folder, self.saves = folder, frozenset(saves)
        self.count = 0
        self._json = _Json(folder / "predictions.json")
        self._csv = _Csv(folder / "predictions.csv")
        self._video: VideoWriter | None = None

    def write(self, result: Result) -> None:
        """Write one result; frames of a video one after another."""
        self.count += 1
        saves = self.saves & set(result.saves)
        if "json" in saves:
            self._json.write(result.records(self.count))
        if "csv" in saves:
            self._csv.write(result.rows())
        if "masks" in saves:
            name, frame = result.photo.name, result.photo.frame
            _save(
                result.indexed(),
                self.folder / "masks" / (f"{name}.png" if frame is None else f"{name}/{frame:06d}.png"),
            )
        if "overlays" in saves:
            self._overlay(result)

    def _overlay(self, result: Result) -> None:
        photo = result.photo
        if photo.frame is None:
            _save(result.plot(), self.folder / "overlays" / f"{photo.name}.jpg")
            return
        path = self.folder / "overlays" / f"{photo.name}.mp4"
        if self._video is None or self._video.path != path:
            self._end_video()
            self._video = VideoWriter(path, video_info(photo.path).rate)
        self._video.write(np.asarray(result.frame()), photo.time)

    def _end_video(self, complete: bool = True) -> None:
        if self._video is not None:
            self._video.close(complete)
            self._video = None

    def __enter__(self) -> Self:
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
        for close in (self._end_video, self._json.close, self._csv.close):
            close(error is None)


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


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    image.save(partial, format="PNG" if path.suffix == ".png" else "JPEG", quality=92)
    partial.replace(path)


class _Lines:
    """A text file that is opened with the first entry, and gets its name when it is complete."""

    def __init__(self, path: Path) -> None:
        self.path, self.partial = path, path.with_name(path.name + ".part")
        self.file: TextIO | None = None

    def opened(self) -> TextIO:
        if self.file is None:
            self.file = self.partial.open("w", newline="")
        return self.file

    def close(self, complete: bool = True) -> None:
        if self.file is not None:
            self.file.close()
            if complete:
                self.partial.replace(self.path)


class _Json(_Lines):
    """A JSON array, an entry a line."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.entries = 0

    def write(self, records: list[dict[str, Any]]) -> None:
        file = self.opened()
        for record in records:
            file.write((",\n" if self.entries else "[\n") + json.dumps(record, allow_nan=False))
            self.entries += 1

    def close(self, complete: bool = True) -> None:
        if self.file is not None:
            self.file.write("\n]\n" if self.entries else "[]\n")
        super().close(complete)


class _Csv(_Lines):
    """Rows of the same columns."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.columns: list[str] | None = None

    def write(self, rows: list[dict[str, Any]]) -> None:
        file = self.opened()
        for row in rows:
            if self.columns is None:
                self.columns = list(dict.fromkeys((*WHERE, *row)))
                csv.DictWriter(file, self.columns).writeheader()
            csv.DictWriter(file, self.columns).writerow(row)

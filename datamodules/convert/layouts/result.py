"""What a writer is given and gives back, and the images that it puts in place."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.convert.labels import Labels, Picture
from datamodules.convert.pixels import VideoFrame, put, put_frames


@dataclass
class Task:
    """What is to be written.

    Args:
        labels: Of the source; what is not written is added to their `left_out`.
        splits: train, val and perhaps test -> pictures with sizes and names that differ.
        folder: To write into.
        link: Link to image files rather than copying them.
    """

    labels: Labels
    splits: dict[str, list[Picture]]
    folder: Path
    link: bool = False


@dataclass
class Written:
    """What was written.

    Args:
        experiment: The experiment's file that trains on it.
        overlay: What it has to be told: dotted keys of the configuration and their values.
        counts: Split -> noun -> how many.
        notes: Sentences about what was decided.
    """

    experiment: str
    overlay: dict[str, Any]
    counts: dict[str, dict[str, int]]
    notes: list[str] = field(default_factory=list)


def put_pictures(task: Task, place: Callable[[str, Picture], Iterable[Path]]) -> None:
    """Copy, link or extract the pixels of all pictures to the `place` of each, below the folder.

    Frames that a video does not have are left out of the splits.
    """
    frames: list[tuple[VideoFrame, Path]] = []
    for split, pictures in task.splits.items():
        for picture in pictures:
            for path in place(split, picture):
                if isinstance(picture.pixels, VideoFrame):
                    frames.append((picture.pixels, task.folder / path))
                else:
                    put(picture.pixels, task.folder / path, link=task.link)
    missing = {frame.key for frame in put_frames(frames)}
    for frame in dict.fromkeys(frame for frame, _ in frames if frame.key in missing):
        task.labels.left_out.add("frames that the video does not have", f"{frame.index} of {frame.path.name}")
    for pictures in task.splits.values() if missing else ():
        pictures[:] = [picture for picture in pictures if picture.pixels.key not in missing]

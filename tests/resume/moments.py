"""When a life ends: by the clock, within a batch or a validation, or while a file is written.

The signal comes from the process itself where a place in its work is meant, so that it strikes there and nowhere else;
by the clock it comes from outside.
"""

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Callback

CLOCK = "by the clock"
PLACES: dict[str, tuple[str, ...]] = {
    "in a batch": (
        *("on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward"),
        *("on_before_optimizer_step", "on_train_batch_end"),
    ),
    "in a validation": (
        *("on_validation_start", "on_validation_batch_start", "on_validation_batch_end", "on_validation_epoch_end"),
        "on_validation_end",
    ),
    "between epochs": ("on_train_epoch_start", "on_train_epoch_end"),
    "in a checkpoint": (),
    "before a file is renamed": (),
    "after a file is renamed": (),
}
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Moment:
    """An end.

    Args:
        place: One of `PLACES`, or by the clock.
        when: How often the place is passed before; of the clock, seconds.
        number: Of the signal.
        again: Seconds after which the signal comes a second time, which does not wait for the end of a step.
        rank: Of the process that it strikes; None for all of them.
    """

    place: str
    when: float
    number: int
    again: float | None = None
    rank: int | None = None

    def __str__(self) -> str:
        words = f"{signal.Signals(self.number).name} {self.place} ({self.when:.3g})"
        words += "" if self.again is None else f", again after {self.again:.2f} s"
        return words if self.rank is None else f"{words}, process {self.rank}"


def draw_moment(rng: random.Random, passed: Counter, seconds: float, ends: int, processes: int) -> Moment:
    """Some moment of the first of `ends` lives of a run that, left alone, passes the places so often."""
    known = [place for place in PLACES if passed[place]]
    place = rng.choice([CLOCK, *known])
    number = rng.choice(SIGNALS)
    when = rng.uniform(0, seconds / ends) if place == CLOCK else float(rng.randrange(max(1, passed[place] // ends)))
    again = rng.uniform(0, 0.3) if number != signal.SIGKILL and rng.random() < 0.25 else None
    rank = rng.choice([None, *range(processes)]) if processes > 1 else None
    return Moment(place, when, number, again, rank)


class Struck(Callback):
    """Counts how often a run passes each place, and ends it at a moment.

    Args:
        moment: None to count only.
        counted: File that the counts are written to, when the training ends.
    """

    def __init__(self, moment: Moment | None, counted: Path | None = None) -> None:
        self.moment, self.counted = moment, counted
        self.passed: Counter[str] = Counter()
        for place, hooks in PLACES.items():
            for hook in hooks:
                setattr(self, hook, self._passing(place))
        _watch_files(self.at)

    def _passing(self, place: str) -> Callable[..., None]:
        def hook(trainer: Any, *_: Any, **__: Any) -> None:
            if not trainer.sanity_checking:
                self.at(place)

        return hook

    def at(self, place: str) -> None:
        """The run is there."""
        moment = self.moment
        self.passed[place] += 1
        if moment is not None and place == moment.place and self.passed[place] == int(moment.when) + 1:
            os.kill(os.getpid(), moment.number)
            if moment.again is not None:
                timer = threading.Timer(moment.again, os.kill, (os.getpid(), moment.number))
                timer.daemon = True  # a life that has ended by then does not wait for it
                timer.start()

    def on_fit_end(self, *_: Any) -> None:
        """Keep the counts."""
        if self.counted is not None:
            self.counted.write_text("\n".join(f"{count} {place}" for place, count in self.passed.items()))


def read_counts(path: Path) -> Counter[str]:
    """What a life that was left alone has counted."""
    counts: Counter[str] = Counter()
    with suppress(FileNotFoundError):
        for line in path.read_text().splitlines():
            count, place = line.split(" ", 1)
            counts[place] = int(count)
    return counts


def _watch_files(at: Callable[[str], None]) -> None:
    """Call `at` in the middle of a checkpoint, and around the renaming of a file that has been written."""
    save, replace = torch.save, Path.replace

    class Halved:
        """A file in which something happens after a random number of bytes, as the disk would have it."""

        def __init__(self, file: Any) -> None:
            self.file, self.left = file, random.Random(os.urandom(8)).randrange(200_000)

        def write(self, content: bytes) -> int:
            if 0 <= self.left < len(content):
                self.file.write(content[: self.left])
                self.file.flush()
                at("in a checkpoint")
                content = content[self.left :]
            self.left -= len(content)
            return self.file.write(content)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    def saved(content: Any, file: Any, *arguments: Any, **options: Any) -> None:
        save(content, file if isinstance(file, str | os.PathLike) else Halved(file), *arguments, **options)

    def replaced(path: Path, target: Any) -> Path:
        at("before a file is renamed")
        found = replace(path, target)
        at("after a file is renamed")
        return found

    torch.save, Path.replace = saved, replaced

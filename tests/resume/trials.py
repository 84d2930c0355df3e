"""A trial: a run that is killed some times, resumed each time, and compared with the one that was left alone."""

import random
import shutil
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tests.resume.commands import Command
from tests.resume.lives import Hung, Life, live
from tests.resume.moments import Moment, draw_moment, read_counts
from tests.resume.same import differences, grown

DONE = 0
STOPPED = {128 + signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGKILL}
LIVES = 12  # more than so many, and the run makes no way


@dataclass(frozen=True)
class Whole:
    """A run that was left alone."""

    folder: Path
    seconds: float
    passed: Counter[str]


@dataclass
class Trial:
    """What became of one."""

    kills: int = 0
    anew: int = 0
    """Lives that were killed before there was anything to go on from."""
    told: list[str] = field(default_factory=list)
    """Each life in a few words."""
    wrong: list[str] = field(default_factory=list)
    """What should not be."""


def left_alone(command: Command, folder: Path) -> Whole:
    """The run that others are compared with; raises RuntimeError if it fails."""
    folder.mkdir(parents=True)
    counted = folder / "counted"
    life = live([*command.line, "--runs", str(folder)], command.processes, None, folder / "log", counted)
    if set(life.statuses) != {DONE}:
        raise RuntimeError(f"{' '.join(command.words)} ended with {life.statuses}:\n{life.said[-3000:]}")
    (run,) = (path.parent for path in folder.glob("*/*/summary.json"))
    return Whole(run, life.seconds, read_counts(counted))


def killed(command: Command, whole: Whole, seed: int, kills: int, folder: Path, scratch: Path | None) -> Trial:
    """Kill and resume until the run is done, at most `kills` times, then compare.

    Args:
        command: That is run.
        whole: The same, left alone.
        seed: Of all that is drawn.
        kills: How many there may be.
        folder: For the run; it is removed if all is well.
        scratch: Folder on another file system, which is TMPDIR of every other life.
    """
    rng, trial = random.Random(seed), Trial()
    folder.mkdir(parents=True)
    run: Path | None = None
    for number in range(LIVES):
        left = kills - trial.kills
        moment = None
        if left > 0:
            moment = draw_moment(rng, whole.passed, whole.seconds, left + 1, command.processes)
        words = ["--resume", str(run), *_fixed(command)] if run else [*command.line, "--runs", str(folder)]
        before = _rows(run)
        try:
            place = str(scratch) if scratch is not None and number % 2 else None
            life = live(words, command.processes, moment, folder / f"log{number}", None, place)
        except Hung as error:
            trial.wrong.append(f"{moment}: {error}")
            return trial
        trial.told.append(f"{moment or 'left alone'} -> {', '.join(map(str, life.statuses))} in {life.seconds:.1f} s")
        _judge(life, moment, trial)
        if trial.wrong:
            return trial
        if set(life.statuses) == {DONE}:
            break
        trial.kills += 1
        run = _resumable(folder, trial)
        if run is not None and before is not None and not grown(before, _rows(run) or b""):
            trial.wrong.append("metrics.csv has lost a row")
    runs = [path.parent for path in folder.glob("*/*/summary.json")]
    if len(runs) != 1:
        trial.wrong.append(f"{len(runs)} runs were finished after {len(trial.told)} lives")
        return trial
    trial.wrong += differences(whole.folder, runs[0])
    if not trial.wrong:
        shutil.rmtree(folder)
    return trial


def _fixed(command: Command) -> list[str]:
    """What a resumed run is told again: what is not stored in its configuration."""
    return ["--wandb.mode", "disabled"]


def _rows(run: Path | None) -> bytes | None:
    path = run and run / "metrics.csv"
    return path.read_bytes() if path and path.is_file() else None


def _judge(life: Life, moment: Moment | None, trial: Trial) -> None:
    """Whether a life ended as it should: done, or by what struck it, and without a traceback."""
    expected = {DONE} if moment is None else {DONE, 128 + moment.number}
    alone = len(life.statuses) == 1
    for status in life.statuses:
        # Of several processes, those that were left alone say in a sentence that another one has gone.
        if status not in (expected if alone or moment is None else expected | {2}):
            trial.wrong.append(f"{moment} ended with {life.statuses}:\n{life.said[-3000:]}")
            return
    if "Traceback" in life.said and not (moment is not None and moment.again is not None):
        trial.wrong.append(f"{moment} showed a traceback:\n{life.said[-3000:]}")


def _resumable(folder: Path, trial: Trial) -> Path | None:
    """The run to go on with; one that has no checkpoint yet is taken away, and begun anew."""
    last = list(folder.glob("*/*/checkpoints/last.ckpt"))
    if last:
        try:
            torch.load(last[0], weights_only=True, mmap=True)
        except Exception as error:
            trial.wrong.append(f"{last[0]} cannot be loaded: {error}")
        return last[0].parent.parent
    trial.anew += 1
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    return None

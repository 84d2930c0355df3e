"""Kill real runs at random moments, resume them until they are done, and compare them with those left alone.

python -m tests.resume --kills 200
python -m tests.resume --kills 4 --seed 17 --only "joint, ratios"      # one trial again
python -m tests.resume --list
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from experiments.config import make_parser, parse
from experiments.run import split_arguments
from tests.conftest import ROOT
from tests.resume.commands import COMMANDS, Command
from tests.resume.trials import Trial, Whole, killed, left_alone

MOST = 4  # kills of one run
SHARED_MEMORY = Path("/dev/shm")


def main() -> int:
    """Exit status: 0 if every run ended as the one that was left alone."""
    parser = argparse.ArgumentParser(prog="python -m tests.resume", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="How many at least.")
    parser.add_argument("--seed", type=int, default=0, help="Of the first trial; it says which run that is, too.")
    parser.add_argument("--stride", type=int, default=1, help="From one seed to the next.")
    parser.add_argument("--only", default="", help="Runs whose name has this in it.")
    parser.add_argument("--each", type=int, default=MOST, help="Kills of one run at most.")
    parser.add_argument("--minutes", type=float, default=1e9, help="No trial begins after so long.")
    parser.add_argument("--list", action="store_true", help="Say which runs there are.")
    asked = parser.parse_args()
    commands = {name: command for name, command in COMMANDS.items() if asked.only in name}
    if asked.list or not commands:
        print("\n".join(COMMANDS))
        return 0 if asked.list else 2
    os.chdir(ROOT)
    torch.set_num_threads(1)
    _warm(next(iter(commands.values())))
    elsewhere = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
    # Not TemporaryDirectory, which every life would remove at its own end.
    folder, scratch = (Path(tempfile.mkdtemp(prefix="resume-", dir=place)) for place in (None, elsewhere))
    try:
        return _all(commands, asked, folder, scratch)
    finally:
        shutil.rmtree(folder)
        shutil.rmtree(scratch)


def _all(commands: dict[str, Command], asked: argparse.Namespace, folder: Path, scratch: Path) -> int:
    """Trial after trial, each a line; the sum at the end."""
    began = time.monotonic()
    wholes: dict[str, Whole] = {}
    kills: Counter[str] = Counter()
    failed: list[str] = []
    anew = number = 0
    while kills.total() < asked.kills and time.monotonic() - began < 60 * asked.minutes:
        seed = asked.seed + number * asked.stride
        name = list(commands)[seed % len(commands)]
        number += 1
        if name not in wholes:
            wholes[name] = left_alone(commands[name], folder / f"whole{len(wholes)}")
        most = min(asked.each, asked.kills - kills.total())
        trial: Trial = killed(commands[name], wholes[name], seed, most, folder / f"trial{number}", scratch)
        kills[name] += trial.kills
        anew += trial.anew
        print(f"{name} (seed {seed}): {'; '.join(trial.told)}: {'DIFFERS' if trial.wrong else 'the same'}", flush=True)
        for line in trial.wrong:
            print(f"    {line}", flush=True)
        failed += [f"{name} (seed {seed})"] * bool(trial.wrong)
        if number >= 50 * asked.kills:
            break
    seconds = time.monotonic() - began
    print(f"{kills.total()} kills of {number} runs in {seconds / 60:.1f} min; {anew} lives before the first checkpoint")
    for name, count in kills.items():
        print(f"  {count:4} {name}")
    print(f"{len(failed)} runs differ{': ' * bool(failed)}{'; '.join(failed)}")
    return 1 if failed else 0


def _warm(command: Command) -> None:
    """Import and read what every life would import and read again."""
    _, files, flags = split_arguments(command.line)
    parse(make_parser(), files, flags)


if __name__ == "__main__":
    sys.exit(main())

"""Reads many inputs and says what became of them; see `python -m tests.fuzz --help`."""

import argparse
import faulthandler
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from tests.fuzz.harness import judge
from tests.fuzz.kinds import KINDS, plan

ROOM = 12 * 2**30
"""Bytes of addresses that this process may have: a reader that asks for more is told that there are none."""


def main() -> int:
    """Exit status: 0 if every input was read rightly or refused in a sentence."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=500, help="How many files to read (default: 500).")
    parser.add_argument("--seed", type=int, default=0, help="Of the first input of each kind (default: 0).")
    parser.add_argument("--only", nargs="+", choices=sorted(KINDS), help="Kinds of files; all when not given.")
    words = parser.parse_args()
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (ROOM, resource.getrlimit(resource.RLIMIT_AS)[1]))
    counts: dict[str, Counter] = {name: Counter() for name in words.only or KINDS}
    wrong, slowest, begun = 0, (0.0, ""), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for name, seeds in plan(words.inputs, words.seed, words.only).items():
            kind = KINDS[name](Path(folder) / name)
            for seed in seeds:
                faulthandler.dump_traceback_later(60, exit=True)  # where no signal reaches, in a library's own code
                start = time.monotonic()
                outcome = judge(kind, seed)
                slowest = max(slowest, (time.monotonic() - start, f"{name} {seed}"))
                counts[name][outcome.kind] += 1
                if not outcome.is_right:
                    wrong += 1
                    print(f"--- {outcome.kind}: python -m tests.fuzz --only {name} --seed {seed} --inputs 1")
                    print(outcome.said, flush=True)
            faulthandler.cancel_dump_traceback_later()
            print(f"{name}: {', '.join(f'{n} {what}' for what, n in counts[name].most_common())}", flush=True)
    total = sum(counts.values(), Counter())
    print(
        f"{total.total()} inputs from seed {words.seed} in {time.monotonic() - begun:.0f} s, the slowest "
        f"{slowest[0]:.1f} s ({slowest[1]}): {', '.join(f'{n} {what}' for what, n in total.most_common())}"
    )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())

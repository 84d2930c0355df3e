"""Where random numbers come from: each use, and each sample of each epoch, draws from a stream of its own.

A stream follows from (the run's seed, what it is for, its key) alone, so neither the number of workers nor what ran
before changes a draw. Within a sample everything draws from the sample's one stream, one after the other: two libraries
seeded with one number would draw alike, and a mirrored image would tell where it was cut.

    rng = stream("sample", epoch, index)
    draw_from(rng, albumentations_compose)
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import numpy as np

Use = Literal["sample", "order", "turns"]


def global_seed() -> int:
    """The seed of this run: the one given to `seed_everything`, else 0."""
    return int(os.environ.get("PL_GLOBAL_SEED") or 0)


def stream(use: Use, *key: int) -> np.random.Generator:
    """The generator of a use and a key; no two share their numbers, keys of unlike lengths included.

    Args:
        use: `sample` for what a sample draws, `order` for the order of samples, `turns` for that of joint tasks.
        key: Numbers from zero, such as epoch and index.
    """
    # Not default_rng((seed, *key)): numpy pads that with zeros, so that (seed, epoch) and (seed, epoch, 0) are one.
    words = (get_args(Use).index(use), *key)
    return np.random.default_rng(np.random.SeedSequence(global_seed(), spawn_key=words))


def draw_from(rng: np.random.Generator, compose: Any) -> None:
    """Let an albumentations composition, and all within it, draw from `rng` until the next call.

    Its own `set_random_seed` gives each transform the same seed, so that all of them draw the same numbers.
    """
    compose.set_random_state(rng, random.Random(int(rng.integers(2**63))))


@contextmanager
def global_draws(rng: np.random.Generator) -> Iterator[None]:
    """Let Python's and numpy's global generators follow from `rng` within the block, and be as before after it."""
    before = random.getstate(), np.random.get_state()
    random.seed(int(rng.integers(2**63)))
    np.random.seed(int(rng.integers(2**32)))
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])

"""How speed is compared: variants of one piece of work take turns in one process, so all of them see the same machine.

Absolute times mean little on a shared machine; what counts is the ratio to the first variant, the peer. Each benchmark
file yields `Comparison`s, `measure` times them.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import cv2
import torch


@dataclass(frozen=True)
class Setting:
    """What the user chose.

    Args:
        quick: Tiny sizes, which show that everything works and say nothing about speed.
        data_root: Root of CocoPose for the data benchmarks; `sample` is the embedded data.
    """

    quick: bool = False
    data_root: str = "sample"


@dataclass(frozen=True)
class Variant:
    """One way to do the work; `target` is the ratio to the peer that it must reach, where there is one."""

    label: str
    run: Callable[[], object]
    target: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Variants of the same work, the peer first.

    Args:
        name: Of the work, with its sizes.
        unit: What is counted, in the plural.
        amount: How many of these one call does.
        variants: The peer and ours; they were seen to agree.
    """

    name: str
    unit: str
    amount: int
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class Benchmark:
    """A named set of comparisons.

    Args:
        about: What is compared, in a line.
        rounds: How many are needed for a steady median.
        comparisons: Loads what they need and checks that the variants agree.
        networks: Whether networks are run, which use the user's number of threads; everything else has one.
    """

    about: str
    rounds: int
    comparisons: Callable[[Setting], Iterator[Comparison]]
    networks: bool = False


@dataclass(frozen=True)
class Result:
    """Of one variant: ratio of medians to the peer (above 1: faster) and range of the rounds' own ratios."""

    benchmark: str
    work: str
    variant: str
    ratio: float
    lowest: float
    highest: float
    seconds: float
    per_second: float
    unit: str
    rounds: int
    threads: int
    target: float | None

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None where there is none."""
        return None if self.target is None else self.ratio >= self.target


def measure(benchmark: str, comparison: Comparison, rounds: int) -> list[Result]:
    """Time every variant once a round, in an order that rotates by one each round.

    The first call of each variant, before the rounds, is not counted.

    Raises:
        ValueError: If `rounds` is below 1.
    """
    if rounds < 1:
        raise ValueError(f"A benchmark needs at least one round, got {rounds}.")
    variants = comparison.variants
    for variant in variants:
        variant.run()
    seconds: list[list[float]] = [[] for _ in variants]
    for turn in range(rounds):
        for step in range(len(variants)):
            index = (turn + step) % len(variants)
            start = time.perf_counter()
            variants[index].run()
            seconds[index].append(time.perf_counter() - start)
    return [
        _result(benchmark, comparison, variant, seconds[0], own) for variant, own in zip(variants, seconds, strict=True)
    ]


def _result(benchmark: str, comparison: Comparison, variant: Variant, peer: list[float], own: list[float]) -> Result:
    ratios = [a / b for a, b in zip(peer, own, strict=True)]
    middle = median(own)
    return Result(
        benchmark=benchmark,
        work=comparison.name,
        variant=variant.label,
        ratio=median(peer) / middle,
        lowest=min(ratios),
        highest=max(ratios),
        seconds=middle,
        per_second=comparison.amount / middle,
        unit=comparison.unit,
        rounds=len(own),
        threads=torch.get_num_threads(),
        target=variant.target,
    )


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch and OpenCV use so many threads within the block."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(count)
    cv2.setNumThreads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def require(problem: str, fine: bool | torch.Tensor) -> None:
    """Stop a benchmark whose variants do not compute the same.

    Raises:
        RuntimeError: With `problem`, unless `fine`.
    """
    if not fine:
        raise RuntimeError(f"Nothing was timed: {problem}.")

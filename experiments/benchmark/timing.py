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
        device: cpu or cuda.
        compiled: With `precisions`: the variants by `torch.compile`, instead of the others beside the peer.
        precisions: Whether each precision that a training may ask for is a variant, as on a GPU.
        scale: Factor of the paper's sizes of images in the table of cost.
    """

    quick: bool = False
    data_root: str = "sample"
    device: str = "cpu"
    compiled: bool = False
    precisions: bool = False
    scale: float = 0.5

    def calls(self, on_gpu: int) -> int:
        """How many calls are timed together: a GPU's are short."""
        return on_gpu if self.precisions and not self.quick else 1


@dataclass(frozen=True)
class Variant:
    """One way to do the work.

    Args:
        label: Its name.
        run: Does it once; on a GPU the work may still go on when it returns.
        target: Ratio to the peer that it must reach, where there is one.
        memory: Bytes that making and running it takes at most; None where nobody counts them.
        problem: Why it is not timed; empty where it is.
        published: The paper's ratio to the peer, where there is one.
        published_memory: The paper's ratio of memory.
    """

    label: str
    run: Callable[[], object]
    target: float | None = None
    memory: int | None = None
    problem: str = ""
    published: float | None = None
    published_memory: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Variants of the same work, the peer first.

    Args:
        name: Of the work, with its sizes.
        unit: What is counted, in the plural.
        amount: How many of these one call does.
        variants: The peer and ours; they were seen to agree.
        device: What is waited for before a clock is read.
        calls: How many are timed together, one after the other.
    """

    name: str
    unit: str
    amount: int
    variants: tuple[Variant, ...]
    device: str = "cpu"
    calls: int = 1


@dataclass(frozen=True)
class Benchmark:
    """A named set of comparisons.

    Args:
        about: What is compared, in a line.
        rounds: How many are needed for a steady median.
        comparisons: Loads what they need and checks that the variants agree.
        networks: Whether networks are run, which use the user's number of threads; everything else has one.
        on_gpu: Whether there is something to compare on a GPU.
        named: Whether it takes so long that it is run only where it is named.
    """

    about: str
    rounds: int
    comparisons: Callable[[Setting], Iterator[Comparison]]
    networks: bool = False
    on_gpu: bool = False
    named: bool = False


@dataclass(frozen=True)
class Result:
    """Of one variant: ratio of medians to the peer (above 1: faster) and range of the rounds' own ratios.

    Figures are None for a variant with a `problem`, which was not timed.
    """

    benchmark: str
    work: str
    variant: str
    ratio: float | None
    lowest: float | None
    highest: float | None
    seconds: float | None
    per_second: float | None
    unit: str
    rounds: int
    threads: int
    target: float | None
    device: str = "cpu"
    memory: int | None = None
    problem: str = ""
    published: float | None = None
    published_memory: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None where there is none."""
        return None if self.target is None or self.ratio is None else self.ratio >= self.target


def measure(benchmark: str, comparison: Comparison, rounds: int) -> list[Result]:
    """Time every variant once a round, in an order that rotates by one each round.

    The first call of each variant, before the rounds, is not counted. What cannot be run is passed over.

    Raises:
        ValueError: If `rounds` is below 1.
    """
    if rounds < 1:
        raise ValueError(f"A benchmark needs at least one round, got {rounds}.")
    wait = torch.cuda.synchronize if comparison.device == "cuda" else _no_wait
    peer = comparison.variants[0]
    require(f"{peer.label}, which all are compared with: {peer.problem}", not peer.problem)
    variants = [variant for variant in comparison.variants if not variant.problem]
    for variant in variants:
        variant.run()
    seconds: dict[str, list[float]] = {variant.label: [] for variant in variants}
    for turn in range(rounds):
        for step in range(len(variants)):
            variant = variants[(turn + step) % len(variants)]
            wait()
            start = time.perf_counter()
            for _ in range(comparison.calls):
                variant.run()
            wait()
            seconds[variant.label].append((time.perf_counter() - start) / comparison.calls)
    return [
        _result(benchmark, comparison, variant, seconds[peer.label], seconds.get(variant.label, []), rounds)
        for variant in comparison.variants
    ]


def _no_wait() -> None:
    """A CPU is done when the call returns."""


def _result(
    benchmark: str, comparison: Comparison, variant: Variant, peer: list[float], own: list[float], rounds: int
) -> Result:
    ratios = [a / b for a, b in zip(peer, own, strict=False)]
    return Result(
        benchmark=benchmark,
        work=comparison.name,
        variant=variant.label,
        ratio=median(peer) / median(own) if own else None,
        lowest=min(ratios, default=None),
        highest=max(ratios, default=None),
        seconds=median(own) if own else None,
        per_second=comparison.amount / median(own) if own else None,
        unit=comparison.unit,
        rounds=rounds,
        threads=torch.get_num_threads(),
        target=variant.target,
        device=torch.cuda.get_device_name() if comparison.device == "cuda" else "cpu",
        memory=variant.memory,
        problem=variant.problem,
        published=variant.published,
        published_memory=variant.published_memory,
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

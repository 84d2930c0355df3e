"""How sure a difference is: runs that differ in their seed alone, and two runs on the same samples.

Random numbers come from a generator with a fixed seed, so the same runs give the same figures.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

SEED = 0
FEWEST = 3  # two runs have three distinct resamples, whose quantiles say nothing


@dataclass(frozen=True)
class Spread:
    """Of n values: mean; standard deviation with n - 1 (None for one value); 95 % interval (None below three)."""

    n: int
    mean: float
    deviation: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class PairedTest:
    """Of second minus first over n joint samples: means, mean difference, its 95 % interval, Wilcoxon's p value."""

    n: int
    first: float
    second: float
    difference: float
    low: float | None
    high: float | None
    p: float


def spread(values: Sequence[float]) -> Spread:
    """Mean, standard deviation and bootstrap interval of the mean over runs.

    The standard deviation is sqrt(sum((x - mean)^2) / (n - 1)). The interval is the percentile bootstrap (Efron 1979):
    n values drawn with replacement, 10,000 times, and the 2.5 % and 97.5 % quantiles of their means. It never leaves
    the range of the values, so with three or four runs it is narrower than a 95 % interval ought to be.

    Raises:
        ValueError: If there are no values.
    """
    if not values:
        raise ValueError("spread() needs at least one value, got none.")
    x = np.asarray(values, dtype=float)
    deviation = float(x.std(ddof=1)) if len(x) > 1 else None
    low, high = bootstrap_interval(x, resamples=10_000) if len(x) >= FEWEST else (None, None)
    return Spread(len(x), float(x.mean()), deviation, low, high)


def bootstrap_interval(values: np.ndarray, resamples: int) -> tuple[float, float]:
    """2.5 % and 97.5 % quantiles of the means of so many resamples of (n,) values."""
    generator = np.random.default_rng(SEED)
    chunk = max(1, 2_000_000 // len(values))  # 16 MB at once
    means = [
        values[generator.integers(0, len(values), (min(chunk, resamples - start), len(values)), dtype=np.int32)].mean(1)
        for start in range(0, resamples, chunk)
    ]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)


def paired_test(first: Mapping[int, float], second: Mapping[int, float]) -> PairedTest | None:
    """Two runs on the samples that both have scores of; None if there are none.

    The interval is the percentile bootstrap, 2,000 resamples, of the mean of the differences second - first, resampled
    by sample. p is of the two-sided Wilcoxon signed-rank test that the differences are symmetric about zero; samples
    with equal scores are left out, as Wilcoxon did, and p is 1 where all are equal. Both take samples as independent,
    which people in the same picture are not quite.
    """
    samples = sorted(first.keys() & second.keys())
    if not samples:
        return None
    a = np.array([first[sample] for sample in samples])
    b = np.array([second[sample] for sample in samples])
    difference = b - a
    low, high = bootstrap_interval(difference, resamples=2_000) if len(samples) >= FEWEST else (None, None)
    return PairedTest(len(samples), a.mean(), b.mean(), difference.mean(), low, high, _wilcoxon(difference))


def _wilcoxon(difference: np.ndarray) -> float:
    if not difference.any():
        return 1.0
    from scipy.stats import wilcoxon  # a second of import, needed only where there are per-sample scores

    return float(wilcoxon(difference).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for their number by Holm's step-down method (1979), in the order given."""
    corrected = [math.nan] * len(p_values)
    floor = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = floor
    return corrected


def explained(setting: Sequence[float] | Sequence[str], reached: Sequence[float]) -> float | None:
    """Share of the variance of a metric's ranks that one setting explains by itself, 0 to 1; None if they are too few.

    R2 of least squares, adjusted for the number of its terms (Ezekiel 1930): on the rank of a number and its square,
    so that a best value in the middle counts too, or on the names, a mean each. Settings that were changed together
    share what they explain, and of few runs chance explains something.

    Args:
        setting: Its values, a run each; numbers or names.
        reached: The metric, a run each.
    """
    from scipy.stats import rankdata

    target = rankdata(reached)
    if any(isinstance(value, str) for value in setting):
        names = sorted(set(map(str, setting)))
        terms = np.array([[value == name for name in names[1:]] for value in setting], dtype=float)
    else:
        ranks = rankdata(setting) / len(target)
        terms = np.stack([ranks, ranks**2][: min(2, len(set(setting)) - 1)], axis=1)
    left = len(target) - terms.shape[1] - 1
    total = ((target - target.mean()) ** 2).sum()
    if left < 2 or total == 0 or not terms.shape[1]:
        return None
    design = np.column_stack([np.ones(len(target)), terms])
    error = ((target - design @ np.linalg.lstsq(design, target, rcond=None)[0]) ** 2).sum()
    return float(np.clip(1 - error / left / (total / (len(target) - 1)), 0, 1))

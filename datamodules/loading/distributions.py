"""How the labels of a data set are spread: classes, sizes, positions, visibility, as plain numbers to be plotted.

A DataModule yields them (`BaseDataModule.distributions`), `check/plots.py` draws them. What takes the reading of many
files is of some of them, evenly spaced, and says of how many.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Distribution:
    """What one plot shows.

    Args:
        title: In a few words.
        of: What was counted, such as `200 of 2,975 masks`.
    """

    title: str
    of: str


@dataclass(frozen=True)
class Bars(Distribution):
    """How often each of several things occurs.

    Args:
        names: (K,) of the things.
        values: (K,) how often as whole numbers, or which share, from 0 to 1, as floats.
        label: What the values are.
    """

    names: Sequence[str]
    values: Sequence[float]
    label: str


@dataclass(frozen=True)
class StackedBars(Distribution):
    """Of what each of several things consists.

    Args:
        names: (K,) of the things.
        series: Name -> (K,) how often; they are shown as shares of each thing's sum.
        label: What the shares are of.
    """

    names: Sequence[str]
    series: Mapping[str, Sequence[float]]
    label: str


@dataclass(frozen=True)
class Histogram(Distribution):
    """How many have a value in each of several ranges.

    Args:
        values: (N,) one of each, finite, at least one.
        label: What they are, with the unit.
        noun: What has them, in the plural.
    """

    values: np.ndarray
    label: str
    noun: str


@dataclass(frozen=True)
class Positions(Distribution):
    """Where things are in their images.

    Args:
        points: (N, 2) x and y in shares of the image's width and height; 0, 0 is the corner at the top left.
        noun: What is there, in the plural.
    """

    points: np.ndarray
    noun: str


def evenly(count: int, most: int) -> np.ndarray:
    """(n,) rows, evenly spaced over `count`: all of them, or `most`."""
    return np.linspace(0, max(count - 1, 0), min(count, most)).round().astype(np.int64)


def some(count: int, noun: str, of: int | None = None) -> str:
    """How many were counted, the noun in the plural: `3 masks`, or, where these are not all, `200 of 2,975 masks`."""
    return f"{count:,} {noun}" if of in (None, count) else f"{count:,} of {of:,} {noun}"

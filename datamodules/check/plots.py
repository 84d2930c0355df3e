"""Plots of how the labels of a data set are spread: bars of classes and visibility, sizes, maps of positions.

What there is to plot the DataModules say (`distributions.py`); a kind of plot is drawn here in the same way for all.
"""

import math
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation
from torch import Tensor

from datamodules.base import BaseDataModule
from datamodules.findings import Split
from datamodules.loading.distributions import Bars, Distribution, Histogram, Positions, StackedBars
from datamodules.loading.text_files import visible

BLUE, GREY, RED = "#2e86ff", "#b8bec8", "#d64545"
PARTS = {"visible": BLUE, "labelled": BLUE, "hidden": "#f2b632", "not labelled": GREY}
DPI = 100
WIDTH = 1600
"""Pixels of the plots side by side, at least."""
COLUMNS = 4
FIRST, LAST = 20, 10
"""Of more bars than both together, so many of the highest and of the lowest are shown."""
LONGEST_NAME = 28
BINS = 30
"""Of a histogram, at most; fewer of few values, so that a bin has some."""
WIDE = 8
"""How many times the lowest value the highest has to be for an axis of logarithms."""
CELLS = 20
"""Of a map of positions, in either direction, at most."""
STEPS = (1, 2, 5, 10)


def draw_distributions(data: BaseDataModule, width: int = WIDTH, split: Split = "train") -> Tensor:
    """A row of plots, or several, for each part of a data set: (3, height, width) uint8 RGB; height 0 for none.

    Args:
        data: Of which the distributions are drawn; of a joint run, or a mixture, each of its parts.
        width: Pixels of the picture.
        split: Which is shown.

    Raises:
        DataError: If the data are not as they should be.
    """
    rows = [_rendered(figure) for figure in figures(data, width, split)]
    return torch.cat([torch.empty((3, 0, width), dtype=torch.uint8), *rows], dim=1)


def figures(data: BaseDataModule, width: int = WIDTH, split: Split = "train") -> Iterator[Figure]:
    """These rows, before they become pixels; arguments and errors are those of `draw_distributions`."""
    for name, part in data.parts.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is put right in the data was said when they were loaded
            found = list(part.distributions(split))
        columns = math.ceil(len(found) / max(1, math.ceil(len(found) / COLUMNS)))
        for start in range(0, len(found), max(1, columns)):
            title = "" if start else f"{name or type(part).__name__}: labels of {split}"
            yield _figure(found[start : start + columns], title, width)


def _figure(found: Sequence[Distribution], title: str, width: int) -> Figure:
    """Plots side by side, below a title."""
    inches = max(4.4, *(1.6 + 0.19 * _bars(one) for one in found))
    figure = Figure(figsize=(width / DPI, inches), dpi=DPI, layout="constrained")
    ratios = [1.3 if _bars(one) else 1.0 for one in found]
    grid = figure.add_gridspec(1, len(found), width_ratios=ratios)
    plots = [figure.add_subplot(grid[0, column]) for column in range(len(found))]
    for axes in plots:
        axes.tick_params(labelsize=9)
        axes.set_anchor("NW")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    notes = [_drawn(axes, one) for axes, one in zip(plots, found, strict=True)]
    most = max(map(len, notes))  # as many lines for all that are side by side
    for axes, one, lines in zip(plots, found, notes, strict=True):
        lines = [one.title, one.of, *lines, *[""] * (most - len(lines))]
        axes.set_title(visible("\n".join(lines)), fontsize=10, loc="left", parse_math=False)
    figure.suptitle(visible(title), fontsize=12, x=0.005, ha="left", parse_math=False)
    return figure


def _bars(one: Distribution) -> int:
    """How many bars a plot has."""
    return min(len(one.names), FIRST + LAST) if isinstance(one, Bars | StackedBars) else 0


def _drawn(axes: Axes, one: Distribution) -> list[str]:
    """Draw one plot; lines that its title should have too."""
    match one:
        case Bars():
            return _draw_bars(axes, one)
        case StackedBars():
            return _draw_stacked(axes, one)
        case Histogram():
            return _draw_histogram(axes, one)
        case Positions():
            return _draw_positions(axes, one)
    raise TypeError(f"{type(one).__name__} is no kind of plot that is drawn here")


def _draw_bars(axes: Axes, one: Bars) -> list[str]:
    values = np.asarray(one.values)
    rows, notes = _chosen(values, "most frequent", "rarest")
    shares = values.dtype.kind == "f"
    axes.barh(range(len(rows)), values[rows], color=BLUE, height=0.7)
    for place, row in enumerate(rows):
        text = _percent(values[row]) if shares else _thousands(values[row])
        axes.annotate(text, (values[row], place), (3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_xlim(0, 1.2 * max(values.max(initial=0), 1e-9))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=not shares, steps=STEPS))
    axes.xaxis.set_major_formatter(_percent if shares else _thousands)
    axes.set_xlabel(visible(one.label), fontsize=9, parse_math=False)
    _name_bars(axes, [one.names[row] for row in rows])
    absent = int(np.count_nonzero(values == 0))
    return [*notes, f"{absent:,} without any"] if absent else notes


def _draw_stacked(axes: Axes, one: StackedBars) -> list[str]:
    counts = np.array(list(one.series.values()), dtype=float)  # (series, things)
    shares, first = counts / np.maximum(counts.sum(axis=0), 1), next(iter(one.series))
    rows, notes = np.arange(len(one.names)), []
    if len(rows) > FIRST + LAST:
        rows, notes = _chosen(shares[0], f"most often {first}", "least often")
    start = np.zeros(len(rows))
    for name, lengths in zip(one.series, shares[:, rows], strict=True):
        axes.barh(range(len(rows)), lengths, left=start, color=PARTS.get(name, GREY), height=0.8, label=name)
        for place, (left, length) in enumerate(zip(start, lengths, strict=True)):
            if length >= 0.08:
                axes.text(left + length / 2, place, f"{100 * length:.0f}", ha="center", va="center", fontsize=8)
        start = start + lengths
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(_percent)
    axes.set_xlabel(visible(one.label), fontsize=9, parse_math=False)
    below = axes.transAxes + ScaledTranslation(0, -36 / 72, axes.figure.dpi_scale_trans)  # the axis and its name
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below, ncols=3, fontsize=9, frameon=False
    )  # fmt: skip
    _name_bars(axes, [one.names[row] for row in rows])
    return notes


def _draw_histogram(axes: Axes, one: Histogram) -> list[str]:
    values = np.asarray(one.values, dtype=float)
    low, high, middle = float(values.min()), float(values.max()), float(np.median(values))
    bins, whole = min(BINS, max(5, math.isqrt(len(values)))), bool((values == np.rint(values)).all())
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=whole, steps=STEPS))
    if whole and high - low < BINS:
        edges = np.arange(low, high + 2) - 0.5
    elif low > 0 and high > WIDE * low:
        edges = np.geomspace(low, high, bins + 1)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(_round_numbers(low, high)))
        axes.xaxis.set_minor_locator(NullLocator())
    elif whole:  # as many whole numbers in each
        step = math.ceil((high - low + 1) / bins)
        edges = np.arange(low, high + step + 1, step) - 0.5
    else:
        edges = np.histogram_bin_edges(values, bins)
    edges[[0, -1]] = min(edges[0], low), max(edges[-1], high)  # which logarithms may miss by a last digit
    axes.hist(values, edges, color=BLUE, edgecolor="white", linewidth=0.5)
    axes.xaxis.set_major_formatter(_number)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True, steps=STEPS))
    axes.yaxis.set_major_formatter(_thousands)
    axes.set_xlabel(visible(one.label), fontsize=9, parse_math=False)
    axes.set_ylabel(visible(one.noun), fontsize=9, parse_math=False)
    axes.set_box_aspect(0.75)
    if low == high:
        axes.set_xticks([low])
        return [f"all {_number(low)}"]
    axes.axvline(middle, color=RED, linewidth=1.2)
    return [f"{_number(low)} to {_number(high)}, median {_number(middle)} (red)"]


def _draw_positions(axes: Axes, one: Positions) -> list[str]:
    inside = ((one.points >= 0) & (one.points <= 1)).all(axis=1)
    x, y = one.points[inside].T
    cells = min(CELLS, max(5, math.isqrt(len(x))))
    counts, *_ = axes.hist2d(x, y, bins=cells, range=[[0, 1], [0, 1]], cmap="Blues", vmin=0)
    axes.set_ylim(1, 0)
    axes.set_box_aspect(1)
    for side in ("top", "right"):
        axes.spines[side].set_visible(True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(_percent)
    axes.set_xlabel("of the image's width", fontsize=9)
    axes.set_ylabel("of the image's height", fontsize=9)
    outside = int(np.count_nonzero(~inside))
    notes = [f"up to {int(counts.max()):,} in a cell"]
    return [*notes, f"{outside:,} outside of their images"] if outside else notes


def _chosen(values: np.ndarray, highest: str, lowest: str) -> tuple[np.ndarray, list[str]]:
    """The rows to show, from the highest value to the lowest, and a note where these are not all."""
    order = np.argsort(-values, kind="stable")
    if len(order) <= FIRST + LAST:
        return order, []
    first = min(FIRST, int(np.count_nonzero(values)))
    return np.concatenate([order[:first], order[-LAST:]]), [f"{first} {highest}, {LAST} {lowest} of {len(order):,}"]


def _name_bars(axes: Axes, names: Sequence[str]) -> None:
    shown = [visible(name) for name in names]
    shown = [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…" for name in shown]
    # Names are names: a `$` in one begins no formula.
    axes.set_yticks(range(len(names)), shown, fontsize=9, parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    if len(names) <= 12:  # else a few bars would be as thick as the plot is high
        axes.set_box_aspect(0.08 * max(len(names), 2))


def _round_numbers(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between two numbers, or these alone where that were too many to read."""
    powers = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    found = [first * power for power in powers for first in (1, 2, 5) if low <= first * power <= high]
    return found if len(found) <= 6 else [power for power in powers if low <= power <= high]


# What axes write at a tick, of which matplotlib says the place too.


def _percent(value: float, _: int = 0) -> str:
    return f"{100 * value:.3g} %"


def _thousands(value: float, _: int = 0) -> str:
    return f"{value:,.0f}"


def _number(value: float, _: int = 0) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _rendered(figure: Figure) -> Tensor:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3]).permute(2, 0, 1).contiguous()

"""Charts of an evaluation: confusions, bars, stacked bars, curves by distance, reliability diagrams, galleries.

Everything returns a (3, height, width) uint8 RGB picture as `overlays.py` does, for files, W&B and notebooks alike.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from tasks.draw.overlays import draw_labels, printable

BLUE, GREY, RED = "#2e86ff", "#b8bec8", "#d64545"
SERIES = ("#35b36b", "#f2b632", "#9b5de5", "#2e86ff", "#d64545", "#b8bec8")
LONGEST_NAME = 40


def draw_bars(names: Sequence[str], values: Sequence[float], label: str, title: str, colour: str = BLUE) -> Tensor:
    """Horizontal bars from the top, each with its value; nan has none. `label` names the axis of values."""
    lengths = np.array(values, dtype=float)
    figure, axes = _figure(len(names), label, title)
    places = np.arange(len(names))
    axes.barh(places, np.nan_to_num(lengths), color=colour, height=0.7)
    for place, value in zip(places, lengths, strict=True):
        text = "n/a" if np.isnan(value) else f"{value:.3f}"
        right = not value < 0
        axes.annotate(
            text, (0 if np.isnan(value) else value, place), (3 if right else -3, 0), textcoords="offset points",
            va="center", ha="left" if right else "right", fontsize=8,
        )  # fmt: skip
    axes.margins(x=0.15)
    axes.axvline(0, color="black", linewidth=0.8)
    _name_bars(axes, names)
    return _rendered(figure)


def draw_stacked_bars(names: Sequence[str], series: Mapping[str, Sequence[float]], label: str, title: str) -> Tensor:
    """Horizontal bars made of one part a series, each as long as its value; nan has none."""
    figure, axes = _figure(len(names), label, title)
    places, start = np.arange(len(names)), np.zeros(len(names))
    for i, (name, values) in enumerate(series.items()):
        lengths = np.nan_to_num(np.array(values, dtype=float))
        axes.barh(places, lengths, left=start, color=SERIES[i % len(SERIES)], height=0.8, label=name)
        for place, left, length in zip(places, start, lengths, strict=True):
            if length >= 0.06:
                axes.text(left + length / 2, float(place), f"{100 * length:.0f}", ha="center", va="center", fontsize=7)
        start = start + lengths
    axes.set_xlim(0, max(1.0, start.max(initial=0)))
    figure.legend(loc="outside lower center", ncols=len(series), fontsize=8, frameon=False)
    _name_bars(axes, names)
    return _rendered(figure)


def draw_boundary(rows: Sequence[Mapping[str, Any]], title: str) -> Tensor:
    """Share of the errors and of the pixels within a distance of a boundary, and how many of these pixels are wrong.

    Args:
        rows: Of `SegmentationErrors.boundary`.
        title: Above the picture.

    Returns:
        (3, height, width) uint8.
    """
    near = [row for row in rows if np.isfinite(row["distance"])]
    figure = Figure(figsize=(7, 4.5), dpi=100, layout="constrained")
    axes = figure.add_subplot(xlabel="within so many pixels of a class boundary", ylabel="share", title=title)
    distance = [row["distance"] for row in near]
    lines = {"share_of_errors": RED, "share_of_pixels": GREY, "error_rate": BLUE}
    for key, colour in lines.items():
        axes.plot(distance, [row[key] for row in near], "o-", color=colour, label=key.replace("_", " "))
    axes.set_xscale("log", base=2)
    axes.set_xticks(distance, [str(d) for d in distance])
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return _rendered(figure)


def draw_cumulative(values: np.ndarray, limit: float, label: str, title: str) -> Tensor:
    """Cumulative curve, a staircase: which share of the samples has at most that value.

    Args:
        values: (N,) of the samples, in any order.
        limit: Of the axis of values.
        label: Names the axis of values.
        title: Above the picture.

    Returns:
        (3, height, width) uint8.
    """
    figure = Figure(figsize=(6, 4.5), dpi=100, layout="constrained")
    axes = figure.add_subplot(xlabel=label, ylabel="share of the samples", title=title)
    shown = np.sort(values[values <= limit])
    shares = np.arange(1, len(shown) + 1) / max(len(values), 1)
    axes.step([0, *shown, limit], [0, *shares, shares[-1] if len(shown) else 0], where="post", color=BLUE)
    axes.set(xlim=(0, limit), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    return _rendered(figure)


def draw_reliability(rows: Sequence[Mapping[str, Any]], error: float) -> Tensor:
    """Accuracy against confidence, and how many images each bin has.

    Args:
        rows: Of `ClassificationErrors.calibration`.
        error: Expected calibration error, in [0, 1].

    Returns:
        (3, height, width) uint8.
    """
    figure = Figure(figsize=(5, 6), dpi=100, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    left, width = [row["above"] for row in rows], [row["upto"] - row["above"] for row in rows]
    accuracy = np.array([row["accuracy"] for row in rows], dtype=float)
    confidence = np.array([row["confidence"] for row in rows], dtype=float)
    top.bar(left, np.nan_to_num(accuracy), width, align="edge", color=BLUE, edgecolor="white", label="accuracy")
    top.plot(confidence, accuracy, "o", color="black", markersize=4, label="at the mean confidence")
    top.vlines(confidence, np.fmin(confidence, accuracy), np.fmax(confidence, accuracy), RED, linewidth=3, label="gap")
    top.plot([0, 1], [0, 1], "--", color="black", linewidth=0.8)
    top.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), title=f"expected calibration error {error:.3f}")
    figure.legend(frameon=False, loc="outside lower center", ncols=3)
    bottom.bar(left, [row["images"] for row in rows], width, align="edge", color=GREY, edgecolor="white")
    bottom.set(xlabel="confidence", ylabel="images")
    return _rendered(figure)


def draw_confusion(matrix: Tensor, names: Sequence[str]) -> Tensor:
    """Confusion matrix (K, K), rows true, as shares of each true class: (3, height, width) uint8.

    Beyond 200 classes their numbers stand at the axes: names would be too small to read, and take seconds to draw.
    """
    count = len(names)
    shares = (matrix.double() / matrix.sum(1, keepdim=True).clamp(min=1)).cpu().numpy()
    inches = 12 if count > 200 else min(2.5 + 0.35 * count, 30)
    figure = Figure(figsize=(inches + 1, inches), dpi=100, layout="constrained")
    axes = figure.add_subplot(xlabel="prediction", ylabel="truth")
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = 8 if count <= 80 else 4
    if count <= 200:
        shown_names = [printable(name) for name in names]
        axes.set_xticks(range(count), shown_names, rotation=90, fontsize=size, parse_math=False)
        axes.set_yticks(range(count), shown_names, fontsize=size, parse_math=False)
    if count <= 30:
        for row, column in zip(*shares.nonzero(), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            text = f"{100 * shares[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(shown, label="share of the true class")
    return _rendered(figure)


def draw_gallery(images: Sequence[Tensor], captions: Sequence[Sequence[str]], columns: int = 4) -> Tensor:
    """Captioned pictures in rows.

    Args:
        images: (3, H, W) uint8 each, of one size, at least one.
        captions: Lines below each; they are cut to the picture's width.
        columns: Pictures a row; the last row is filled with white.

    Returns:
        (3, height, width) uint8.
    """
    longest = max(map(len, captions))
    columns = min(columns, len(images))
    missing = -len(images) % columns
    tiles = torch.stack([*images, *[torch.full_like(images[0], 255)] * missing])
    lines = [[_cut(line, 30) for line in [*caption, *[""] * (longest - len(caption))]] for caption in captions]
    lines += [[""] * longest] * missing
    starts = range(0, len(tiles), columns)
    return torch.cat([draw_labels(tiles[i : i + columns], lines[i : i + columns]) for i in starts], dim=1)


def _figure(bars: int, label: str, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 1.4 + 0.26 * max(bars, 1)), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(printable(label), parse_math=False)
    axes.set_title(printable(title), parse_math=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _name_bars(axes: Axes, names: Sequence[str]) -> None:
    # Names are names: a `$` in one begins no formula.
    axes.set_yticks(range(len(names)), [_cut(name, LONGEST_NAME) for name in names], fontsize=8, parse_math=False)
    axes.set_ylim(max(len(names), 1) - 0.4, -0.6)


def _cut(text: str, length: int) -> str:
    text = printable(text)
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _rendered(figure: Figure) -> Tensor:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3]).permute(2, 0, 1).contiguous()

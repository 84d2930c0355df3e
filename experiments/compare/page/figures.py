"""Figures of the page by plotly: curves that can be smoothed, parallel coordinates, and what explains the metric.

Plotly ships its script, which stands once in the page: hover, zoom and sliders need no network. What is written in a
figure comes from files of any origin, and plotly reads a few tags of HTML in it: `plain` keeps it text.
"""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.utils import PlotlyJSONEncoder

from experiments.cli.tables import visible
from experiments.compare.runs import Run
from experiments.compare.sweeps import Setting, Swept

COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")
DASHES = ("solid", "dash", "dot", "dashdot")
SMOOTHING = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95)
LONGEST = 36  # characters of a name in a legend
FONT = {"family": "system-ui, sans-serif", "size": 15}
GRID = "rgba(128, 128, 128, 0.3)"
CLEAR = "rgba(0, 0, 0, 0)"
CONFIG = {"displaylogo": False, "responsive": True}


def plain(text: str) -> str:
    """A text as plotly shows it letter by letter."""
    return escape(visible(text), quote=False)


def run_name(number: int, run: Run) -> str:
    """What a run is called in figures, its number first."""
    name = run.given_name or run.name
    return plain(f"{number}  {name if len(name) <= LONGEST else '…' + name[1 - LONGEST :]}")


@dataclass(frozen=True)
class Embedded:
    """A figure as a part of a page.

    Args:
        name: Unique in the page, a word.
        height: Pixels.
        text: JSON that may stand in a script element; a picture is a number, its place among those of the page.
    """

    name: str
    height: int
    text: str


def embedded(figures: Mapping[str, go.Figure]) -> tuple[list[Embedded], str]:
    """Figures for a page that draws each when it is looked at, and JSON of the pictures that they share.

    Args:
        figures: Name -> figure.
    """
    pictures: dict[str, int] = {}
    parts = []
    for name, figure in figures.items():
        content = figure.to_dict()
        for part in (content, *content.get("frames", ())):
            for trace in part["data"]:
                if "source" in trace:
                    trace["source"] = pictures.setdefault(trace["source"], len(pictures))
        parts.append(Embedded(name, figure.layout.height, _script_text(content | {"config": CONFIG})))
    return parts, _script_text(list(pictures))


def _script_text(content: Any) -> str:
    """JSON in which no tag can begin or end."""
    return json.dumps(content, cls=PlotlyJSONEncoder, separators=(",", ":")).replace("<", "\\u003c")


def layout(title: str, height: int, **more: Any) -> dict[str, Any]:
    """What all figures share; the page's own colours shine through."""
    return {
        "title": {"text": plain(title), "font": {"size": 18}, "x": 0, "xref": "paper", "y": 1, "yref": "container",
                  "pad": {"t": 12}, "yanchor": "top"},
        "height": height,
        "font": FONT,
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "colorway": COLOURS,
        "hoverlabel": {"bgcolor": "#222", "bordercolor": "#888", "font": {"color": "white", "size": 14}},
        "modebar": {"bgcolor": CLEAR, "color": "#888", "activecolor": COLOURS[0]},
        "margin": {"l": 70, "r": 20, "t": 50, "b": 60},
        **more,
    }  # fmt: skip


def draw_curves(runs: Sequence[Run], metric: str) -> go.Figure:
    """One metric over the epochs, a line a run, with a slider that smooths; unsmoothed values stay as faint lines.

    Args:
        runs: In the order of their numbers; those without the metric are left out.
        metric: Such as val/AP.
    """
    drawn = [(i, run, run.curve(metric)) for i, run in enumerate(runs, start=1) if metric in run.metrics_of_epochs]
    figure = go.Figure()
    for i, _, points in drawn:
        style = {"color": COLOURS[(i - 1) % len(COLOURS)], "width": 1}
        figure.add_scatter(**_line(points), opacity=0.3, line=style, hoverinfo="skip", legendgroup=i, showlegend=False)
    for i, run, points in drawn:
        dash = DASHES[(i - 1) // len(COLOURS) % len(DASHES)]
        style = {"color": COLOURS[(i - 1) % len(COLOURS)], "width": 2.5, "dash": dash}
        mode = "lines+markers" if len(points) < 3 else "lines"
        figure.add_scatter(**_line(points), mode=mode, line=style, name=run_name(i, run), legendgroup=i)
    lines = list(range(len(drawn), 2 * len(drawn)))
    values = [[value for _, value in points] for _, _, points in drawn]
    steps = [
        {
            "method": "restyle",
            "label": f"{weight:g}",
            "args": [{"y": [as_bytes(smoothed(row, weight)) for row in values]}, lines],
        }
        for weight in SMOOTHING
    ]
    axis = {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": GRID, "automargin": True}
    figure.update_layout(
        **layout(metric, 480 + 22 * max(0, len(drawn) - 12), hovermode="x unified"),
        xaxis={"title": "epoch", **axis},
        yaxis=axis,
        legend={"orientation": "v", "font": {"size": 14}, "tracegroupgap": 0},
        sliders=[slider(steps, "smoothing ")] if any(len(row) > 2 for row in values) else [],
    )
    return figure


def slider(steps: Sequence[dict[str, Any]], prefix: str) -> dict[str, Any]:
    """A slider below a figure."""
    return {
        "steps": list(steps),
        "currentvalue": {"prefix": prefix, "font": {"size": 15}},
        "font": {"size": 14},
        "pad": {"t": 60, "b": 10},
        "bgcolor": "rgba(128, 128, 128, 0.4)",
        "bordercolor": "rgba(128, 128, 128, 0.6)",
        "activebgcolor": "#1f77b4",
    }


def smoothed(values: Sequence[float], weight: float) -> list[float]:
    """Exponential moving average without the pull towards zero at its begin: each value is a mean of those so far.

    Args:
        values: In order.
        weight: Of what was before, 0 (none) to below 1.
    """
    means, total, mass = [], 0.0, 0.0
    for value in values:
        total, mass = weight * total + (1 - weight) * value, weight * mass + 1 - weight
        means.append(total / mass)
    return means


def draw_parallel(swept: Swept) -> go.Figure:
    """A line a run through its settings and what it reached; drag along an axis to choose runs, or move an axis.

    Args:
        swept: Runs that differ in their settings.
    """
    goal = Setting(swept.metric, swept.reached)
    dimensions = [_axis(setting) for setting in (*swept.settings, goal)]
    colour = {"color": swept.reached, "colorscale": "Portland", "showscale": True, "reversescale": swept.mode == "min"}
    figure = go.Figure(
        go.Parcoords(
            dimensions=dimensions,
            line=colour,
            labelangle=-12,
            labelfont={"size": 14},
            tickfont={"size": 14},
            rangefont={"size": 1, "color": CLEAR},  # the ticks say it
        )
    )
    more = {"l": 110, "r": 60, "t": 120, "b": 40}
    figure.update_layout(**layout(f"Settings and {swept.metric}", 520) | {"margin": more})
    return figure


def draw_importance(rows: Sequence[dict[str, Any]], metric: str) -> go.Figure:
    """Bars: which share of the metric's variance each setting explains by itself.

    Args:
        rows: Of the table of the same name.
        metric: Explained.
    """
    ordered = list(reversed(rows))
    figure = go.Figure(
        go.Bar(
            x=[row["explains"] for row in ordered],
            y=[plain(row["key"]) for row in ordered],
            orientation="h",
            marker={"color": COLOURS[0]},
            texttemplate="%{x:.2f}",
            textfont={"size": 14},
            textposition="outside",
            cliponaxis=False,
            hoverinfo="skip",
        )
    )
    figure.update_layout(
        **layout(f"What explains {metric}", 160 + 32 * len(rows)),
        xaxis={"range": [0, 1.08], "gridcolor": GRID, "zerolinecolor": GRID, "title": "share of the variance of ranks"},
        yaxis={"automargin": True, "ticksuffix": "  ", "linecolor": GRID},
    )
    return figure


def _axis(setting: Setting) -> dict[str, Any]:
    """An axis of the parallel coordinates: of numbers, of their logarithms if they span decades, or of names."""
    label = plain(setting.key)
    if not setting.is_number:
        names = list(dict.fromkeys(map(setting.text, setting.values)))
        places = [names.index(setting.text(value)) for value in setting.values]
        return {
            "label": label,
            "values": places,
            "range": [-0.2, len(names) - 0.8],
            "tickvals": list(range(len(names))),
            "ticktext": [plain(name[:LONGEST]) for name in names],
        }
    numbers = [float(value) for value in setting.values]
    if min(numbers) > 0 and max(numbers) >= 20 * min(numbers):
        logarithms = [math.log10(number) for number in numbers]
        shown: list[float] = []
        for place in sorted(logarithms):
            if not shown or place - shown[-1] > (max(logarithms) - min(logarithms)) / 14:  # else texts overlap
                shown.append(place)
        texts = [f"{10**place:.3g}" for place in shown]
        return {"label": label, "values": logarithms, "tickvals": shown, "ticktext": texts}
    return {"label": label, "values": numbers, "tickformat": ".4~g"}


def _line(points: Sequence[tuple[float, float]]) -> dict[str, Any]:
    return {"x": as_bytes([epoch for epoch, _ in points]), "y": as_bytes([value for _, value in points])}


def as_bytes(values: Sequence[float]) -> dict[str, str]:
    """Numbers of seven digits as plotly reads them from bytes, which is smaller and faster than text."""
    return {"dtype": "f4", "bdata": base64.b64encode(np.array(values, "<f4").tobytes()).decode()}

"""A comparison as one HTML page that needs no other file: inline CSS and SVG, no script, light and dark, any width."""

from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.cli.tables import numeric, visible
from experiments.compare.runs import Run
from experiments.compare.tables import Table
from experiments.compare.text import cells, readable

INK = "#123457"  # a colour that nothing else has, replaced by the page's own text colour
PALETTE = [matplotlib.colors.to_hex(colour) for colour in matplotlib.colormaps["tab10"].colors]
DASHES = ("-", "--", ":", "-.")
TEMPLATE = Path(__file__).with_name("page.html")
LONG = 40  # characters, from which on a cell's text may be broken into lines


class Curves(Figure):
    """A figure that a notebook shows though no pyplot has loaded a backend."""

    def _repr_png_(self) -> bytes:
        file = BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


def draw_curves(runs: Sequence[Run], metric: str, ink: str = "black") -> Figure:
    """One metric over the epochs, a line a run; runs without it are left out.

    Args:
        runs: In the order of their numbers, which the legend shows.
        metric: Such as val/AP.
        ink: Colour of text and axes.
    """
    figure = Curves(figsize=(6.4, 3.6), layout="constrained")
    figure.patch.set_alpha(0 if ink != "black" else 1)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    for i, run in enumerate(runs):
        points = run.curve(metric)
        if points:
            style = DASHES[i // len(PALETTE) % len(DASHES)]
            marker = "o" if len(points) < 3 else ""
            label = str(i + 1)
            axes.plot(*zip(*points, strict=True), style, marker=marker, color=PALETTE[i % len(PALETTE)], label=label)
    axes.set_title(visible(metric), color=ink, loc="left", fontsize=11, parse_math=False)
    axes.set_xlabel("epoch", color=ink)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(colors=ink)
    axes.grid(color=ink, alpha=0.15)
    for side in axes.spines.values():
        side.set_color(ink)
    if axes.lines:
        figure.legend(
            loc="outside right upper", title="run", labelcolor=ink, frameon=False, fontsize=8, ncols=1 + len(runs) // 14
        ).get_title().set_color(ink)
    return figure


def to_html(runs: Sequence[Run], tables: Mapping[str, Table], metrics: Sequence[str], *, page: bool = True) -> str:
    """The whole page, or without `page` what stands in a notebook's cell.

    Args:
        runs: In the order of their numbers.
        tables: The overview first.
        metrics: Whose curves are drawn.
        page: Whether it is a document of its own.
    """
    overview, *others = tables.values()
    shown = [_texts(overview), *(_texts(readable(table)) for table in others)]
    curves = [
        _svg(draw_curves(runs, metric, INK), metric) for metric in metrics if any(run.curve(metric) for run in runs)
    ]
    template = Environment(autoescape=True).from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(page=page, tables=shown, curves=curves, colours=PALETTE)


def _texts(table: Table) -> dict[str, Any]:
    """A table as the template takes it: each cell a text and its kind, number or long."""
    heads, rows = cells(table)
    right = numeric(rows)
    lines = [
        [
            (text, "number" if is_right else "long" if len(text) > LONG else "")
            for text, is_right in zip(row, right, strict=True)
        ]
        for row in (heads, *rows)
    ]
    return {"title": visible(table.title), "note": visible(table.note), "heads": lines[0], "rows": lines[1:]}


def _svg(figure: Figure, label: str) -> str:
    file = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label, "font.family": "sans-serif"}):
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(visible(label))} over the epochs"', 1)

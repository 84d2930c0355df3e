"""Tables and curves as HTML: what a notebook's cell shows, and the parts that the page has too."""

from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, FileSystemLoader, Template
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.cli.tables import numeric, visible
from experiments.compare.runs import Run
from experiments.compare.tables import Table
from experiments.compare.text import cells, readable, rounded

INK = "#123457"  # a colour that nothing else has, replaced by the page's own text colour
PALETTE = [matplotlib.colors.to_hex(colour) for colour in matplotlib.colormaps["tab10"].colors]
DASHES = ("-", "--", ":", "-.")
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


def to_cell(runs: Sequence[Run], tables: Mapping[str, Table], metrics: Sequence[str]) -> str:
    """What stands in a notebook's cell: the tables, and curves without a script.

    Args:
        runs: In the order of their numbers.
        tables: The overview first.
        metrics: Whose curves are drawn.
    """
    curves = [
        _svg(draw_curves(runs, metric, INK), metric) for metric in metrics if any(run.curve(metric) for run in runs)
    ]
    return template("cell.html").render(tables=table_texts(tables), curves=curves, colours=PALETTE)


def template(name: str) -> Template:
    """One of the templates in this folder or that of the page; what they are given is escaped."""
    here = Path(__file__).parent
    return Environment(autoescape=True, loader=FileSystemLoader([here, here / "page"])).get_template(name)


def table_texts(tables: Mapping[str, Table]) -> list[dict[str, Any]]:
    """Tables as templates take them: each cell a text and its kind, number, long or best.

    Args:
        tables: The overview first, which is never turned.
    """
    overview, *others = tables.values()
    return [_texts(overview), *(_texts(readable(rounded(table))) for table in others)]


def _texts(table: Table) -> dict[str, Any]:
    heads, rows = cells(table)
    right, keys = numeric(rows), list(table.rows[0])

    def kind(row: int, column: int, text: str) -> str:
        shape = "number" if right[column] else "long" if len(text) > LONG else ""
        return f"{shape} best".strip() if (row, keys[column]) in table.best else shape

    lines = [
        [(text, kind(number, column, text)) for column, text in enumerate(row) if any(line[column] for line in rows)]
        for number, row in enumerate((heads, *rows), start=-1)
    ]
    return {
        "title": visible(table.title), "note": visible(table.note), "best": bool(table.best),
        "heads": lines[0], "rows": lines[1:],
    }  # fmt: skip


def _svg(figure: Figure, label: str) -> str:
    file = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label, "font.family": "sans-serif"}):
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(visible(label))} over the epochs"', 1)

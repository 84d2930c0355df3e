"""A comparison as one HTML page that needs no other file: inline CSS and SVG, no script, light and dark, any width."""

from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO, StringIO

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.compare.runs import Run
from experiments.compare.tables import Table
from experiments.compare.text import cells, is_number, readable, visible

INK = "#123457"  # a colour that nothing else has, replaced by the page's own text colour
PALETTE = [matplotlib.colors.to_hex(colour) for colour in matplotlib.colormaps["tab10"].colors]
DASHES = ("-", "--", ":", "-.")

STYLE = """
.comparison { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
.comparison h2 { font-size: 1.15rem; margin: 2rem 0 .3rem; }
.comparison p { margin: .3rem 0; max-width: 46rem; opacity: .8; }
.comparison .wide { overflow-x: auto; }
.comparison table { border-collapse: collapse; font-size: .85rem; }
.comparison th, .comparison td { padding: .25rem .6rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid #8884; }
.comparison th { border-bottom: 2px solid #8888; }
.comparison th, .comparison td { white-space: nowrap; }
.comparison td.long { min-width: 12rem; max-width: 24rem; white-space: normal; overflow-wrap: anywhere; }
.comparison .number { text-align: right; font-variant-numeric: tabular-nums; }
.comparison .figures { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
.comparison svg { width: 100%; height: auto; }
"""
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Comparison of runs</title>
<style>
body {{ margin: 0; padding: 1rem; background: Canvas; color: CanvasText; font-family: system-ui, sans-serif; }}
main {{ max-width: 1400px; margin: 0 auto; }}
.comparison th:first-child, .comparison td:first-child {{ position: sticky; left: 0; background: Canvas; }}
</style>
</head>
<body>
<main>
<h1>Comparison of runs</h1>
{content}
</main>
</body>
</html>
"""


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


def to_html(runs: Sequence[Run], tables: Mapping[str, Table], metrics: Sequence[str]) -> str:
    """The whole page."""
    return PAGE.format(content=to_fragment(runs, tables, metrics))


def to_fragment(runs: Sequence[Run], tables: Mapping[str, Table], metrics: Sequence[str]) -> str:
    """What stands in the page, and in a notebook's cell: the overview, curves of `metrics`, the other tables."""
    overview, *others = tables.values()
    curves = [_svg(draw_curves(runs, m, INK), m) for m in metrics if any(len(run.curve(m)) for run in runs)]
    parts = [_table(overview, coloured=True)]
    if curves:
        parts.append('<h2>Curves</h2>\n<div class="figures">' + "\n".join(curves) + "</div>")
    parts += [_table(readable(table)) for table in others]
    return f'<div class="comparison">\n<style>{STYLE}</style>\n' + "\n".join(parts) + "\n</div>"


def _svg(figure: Figure, label: str) -> str:
    file = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label, "font.family": "sans-serif"}):
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(visible(label))} over the epochs"', 1)


def _table(table: Table, coloured: bool = False) -> str:
    heads, rows = cells(table)
    numbers = [all(is_number(row[i]) for row in rows) for i in range(len(heads))]
    lines = ["<tr>" + "".join(_cell("th", head, right) for head, right in zip(heads, numbers, strict=True)) + "</tr>"]
    for k, row in enumerate(rows):
        texts = [_cell("td", text, right) for text, right in zip(row, numbers, strict=True)]
        if coloured:
            colour = PALETTE[k % len(PALETTE)]
            texts[0] = f'<td class="number"><span style="color: {colour}">&#9632;</span> {escape(row[0])}</td>'
        lines.append("<tr>" + "".join(texts) + "</tr>")
    note = f"<p>{escape(visible(table.note))}</p>\n" if table.note else ""
    body = "\n".join(lines)
    return f'<h2>{escape(visible(table.title))}</h2>\n{note}<div class="wide"><table>\n{body}\n</table></div>'


def _cell(tag: str, text: str, is_right: bool) -> str:
    kind = ' class="number"' if is_right else ' class="long"' if len(text) > 40 else ""
    return f"<{tag}{kind}>{escape(text)}</{tag}>"

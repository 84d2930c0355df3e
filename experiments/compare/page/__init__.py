"""A comparison as one HTML page that needs no other file and no network; plotly's script stands in it once."""

from collections.abc import Mapping, Sequence

from plotly.offline import get_plotlyjs

from experiments.cli.tables import visible
from experiments.compare.html import table_texts, template
from experiments.compare.page.figures import COLOURS, draw_curves, draw_importance, draw_parallel, figure_html
from experiments.compare.page.side_by_side import draw_examples, shown_examples
from experiments.compare.runs import Run
from experiments.compare.sweeps import swept
from experiments.compare.tables import Table


def to_html(
    runs: Sequence[Run], metrics: Sequence[str | None], tables: Mapping[str, Table], curves: Sequence[str]
) -> str:
    """The whole page.

    Args:
        runs: In the order of their numbers.
        metrics: Of each, the one it is compared by.
        tables: The overview first.
        curves: Metrics whose curves are drawn.
    """
    drawn = [draw_curves(runs, metric) for metric in curves if any(run.curve(metric) for run in runs)]
    found = swept(runs, metrics)
    sweep = [draw_parallel(found)] if found else []
    if "importance" in tables and found:
        sweep.append(draw_importance(tables["importance"].rows, found.metric))
    shown, notes = shown_examples(runs)
    examples = [draw_examples(group, runs) for group in shown]
    return template("page.html").render(
        script=get_plotlyjs(),
        examples=[figure_html(figure, f"examples{i}") for i, figure in enumerate(examples)],
        notes=list(map(visible, notes)),
        tables=table_texts(tables),
        curves=[figure_html(figure, f"curves{i}") for i, figure in enumerate(drawn)],
        sweep=[figure_html(figure, f"sweep{i}") for i, figure in enumerate(sweep)],
        colours=COLOURS,
    )

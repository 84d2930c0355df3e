"""A comparison as one HTML page that needs no other file and no network; plotly's script stands in it once."""

from collections.abc import Mapping, Sequence

from plotly.offline import get_plotlyjs

from experiments.cli.tables import visible
from experiments.compare.html import table_texts, template
from experiments.compare.page.figures import COLOURS, draw_curves, draw_importance, draw_parallel, embedded
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
    groups = {"examples": examples, "curves": drawn, "sweep": sweep}
    named = {f"{group}{i}": figure for group, figures in groups.items() for i, figure in enumerate(figures)}
    parts, pictures = embedded(named)
    return template("page.html").render(
        script=get_plotlyjs(),
        pictures=pictures,
        notes=list(map(visible, notes)),
        tables=table_texts(tables),
        colours=COLOURS,
        **{group: [part for part in parts if part.name.startswith(group)] for group in groups},
    )

"""Compare runs: what differs, what they reached, how sure the difference is, what they cost.

python -m experiments.compare runs/pose_coco                      # all runs in the folder
python -m experiments.compare RUN RUN --metric val/AP50 --out comparison
python -m experiments.compare "runs/*/2026*" --html comparison.html
python -m experiments.compare runs/mine --metric val/RMSE --mode val/RMSE=min    # where the runs do not say it

In a notebook: `compare(["runs/pose_coco"])` shows itself; `.tables` are lists of dicts, `.plot()` is a figure.
The first run is the one that the others are held against.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from experiments.cli import call, run
from experiments.cli.files import write_text
from experiments.cli.mistakes import did_you_mean, nearest
from experiments.cli.tables import visible
from experiments.compare.aligned import align, metric_of
from experiments.compare.differences import Row
from experiments.compare.modes import Mode
from experiments.compare.runs import Run, RunsError, find_runs, read_run
from experiments.compare.sweeps import importance, swept
from experiments.compare.tables import Table, make_tables
from experiments.compare.text import print_tables, to_csv, to_markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOSSES = ("train/loss", "val/loss")
ENDINGS = {"html": "html", "csv": "csv", "markdown": "md"}


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Args:
        runs: In the order of their numbers, from 1.
        metrics: Of each run, the one it is compared by; None where it has none.
        titled: Tables by name, with title and note.
    """

    runs: list[Run]
    metrics: list[str | None]
    titled: dict[str, Table]

    @property
    def tables(self) -> dict[str, list[Row]]:
        """Tables by name (runs, config, seeds, paired, best, last, val_classes IoU, ...), a dict a row."""
        return {name: table.rows for name, table in self.titled.items()}

    @property
    def curves(self) -> list[str]:
        """Metrics whose curves are drawn: those compared by, then the losses if all runs are of the same task."""
        tasks = {run.task for run in self.runs if run.task}
        return list(dict.fromkeys([*filter(None, self.metrics), *(LOSSES if len(tasks) < 2 else ())]))

    def plot(self, metric: str | None = None) -> "Figure":
        """Curves of one metric over the epochs; of the first that the runs are compared by, if none is named.

        Raises:
            RunsError: If no run has the metric.
        """
        from experiments.compare.html import draw_curves  # matplotlib only where something is drawn

        chosen = metric or self.curves[0]
        if not any(run.curve(chosen) for run in self.runs):
            raise _no_such_metric(chosen, self.runs)
        return draw_curves(self.runs, chosen)

    def to_html(self) -> str:
        """A page that needs no other file, with figures that can be operated."""
        from experiments.compare.page import to_html  # plotly only where a page is made

        return to_html(self.runs, self.metrics, self.titled, self.curves)

    def to_markdown(self) -> str:
        """All tables."""
        return to_markdown(self.titled)

    def to_csv(self) -> str:
        """One row a run, unrounded."""
        return to_csv(self.runs, self.titled)

    def _repr_html_(self) -> str:
        from experiments.compare.html import to_cell

        return to_cell(self.runs, self.titled, self.curves)


def compare(
    runs: Sequence[str | Path], metric: str | None = None, modes: Mapping[str, Mode] | None = None
) -> Comparison:
    """Compare runs; nothing is written. Runs in which nothing was measured are left out, and named in the first note.

    Runs of one task are aligned with joint runs that have the same task on the same data, see `aligned.py`.

    Args:
        runs: Run folders, globs, folders of run folders.
        metric: To compare by, such as val/AP; the one that each run monitors when not given.
        modes: Metric -> "min" where less is better, or "max", instead of what the runs say.

    Raises:
        RunsError: If there is no run with results, or none has the metric.
    """
    found = [read_run(path, metric, modes or {}) for path in find_runs(runs)]
    measured = align([run for run in found if run.has_results])
    empty = [visible(run.name) for run in found if not run.has_results]
    if not measured:
        raise RunsError(f"There is nothing to compare yet: no results in {', '.join(empty)}.")
    for name in filter(None, (metric, *(modes or ()))):
        if not any(metric_of(run, name) in run.best | run.last for run in measured):
            raise _no_such_metric(name, measured)
    metrics = [metric_of(run, metric) if metric else run.monitor for run in measured]
    titled = make_tables(measured, metrics, empty)
    if rows := importance(swept(measured, metrics)):
        note = (
            "Share of the variance of the metric's ranks that a setting explains by itself, adjusted for its number of "
            "values. Settings that were changed together share what they explain; of few runs chance explains some."
        )
        titled["importance"] = Table("What explains the metric", rows, note)
    return Comparison(measured, metrics, titled)


def _no_such_metric(metric: str, runs: Sequence[Run]) -> RunsError:
    """What to say when no run has a metric."""
    known = sorted({name for run in runs for name in (*run.best, *run.last)})
    question = did_you_mean(nearest(metric, known))
    return RunsError(visible(f"No run has the metric {metric!r}{question} There are: {', '.join(known) or 'none'}."))


def print_comparison(
    runs: list[str],
    *,
    metric: str | None = None,
    mode: tuple[str, ...] = (),
    out: Path | None = None,
    html: Path | None = None,
    csv: Path | None = None,
    markdown: Path | None = None,
    overwrite: bool = False,
) -> Comparison:
    """Compare as the command line does: print, and write the files asked for.

    Args:
        runs: Run folders, globs, or folders of runs.
        metric: To compare by; the one that each run monitors when not given.
        mode: METRIC=min or METRIC=max: whether less or more is better, where the runs do not say it; once a metric.
        out: Folder for comparison.html, comparison.csv and comparison.md.
        html: Page to write.
        csv: Table to write, a row a run.
        markdown: Text to write, with all tables.
        overwrite: Replace files that are there.

    Raises:
        RunsError: If there is no such run or metric, or a file is there already.
    """
    wanted = [("html", html), ("csv", csv), ("markdown", markdown)]
    if out is not None:
        wanted += [(kind, out / f"comparison.{ending}") for kind, ending in ENDINGS.items()]
    files = [(kind, path) for kind, path in wanted if path is not None]
    for _, path in files:
        _check(path, overwrite)
    comparison = compare(runs, metric, dict(map(_mode, mode)))
    for kind, path in files:  # before the tables: what reads these may stop, as `| head` does
        _write(path, getattr(comparison, f"to_{kind}")())
    print_tables(comparison.titled, Console(width=None if sys.stdout.isatty() else 180))
    for _, path in files:
        print(f"wrote {path}")
    return comparison


def _mode(text: str) -> tuple[str, Mode]:
    metric, _, mode = text.rpartition("=")
    if not metric or mode not in ("min", "max"):
        raise RunsError(f"--mode {text}: expected a metric and min or max, as in --mode val/RMSE=min.")
    return metric, mode


def _check(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise RunsError(f"{path} is a folder; name a file, or the folder by --out.")
    if path.exists() and not overwrite:
        raise RunsError(f"{path} is there already; name another file, or replace it with --overwrite.")


def _write(path: Path, text: str) -> None:
    """Write; raises RunsError where that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text, errors="backslashreplace")  # names of files may be no UTF-8
    except OSError as error:
        raise RunsError(f"{path} cannot be written ({error.strerror}): name another file.") from error


main = partial(call, print_comparison)
command = partial(run, print_comparison)

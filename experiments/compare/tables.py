"""Runs -> tables: what was reached at what cost, what differs, seeds, paired tests, metrics, classes and key points.

A table is rows of plain values (None where a run has no such value); runs are called by their numbers, from 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from experiments.compare.aligned import source_of
from experiments.compare.differences import Row, as_text, chosen, config_differences, differing_rows
from experiments.compare.reading import numbers
from experiments.compare.runs import Run
from experiments.compare.statistics import Spread, holm, paired_test, spread

SEED_KEY = "seed_everything"


@dataclass(frozen=True)
class Table:
    """Rows with the same keys, under a title.

    Args:
        title: Above it.
        rows: A dict each.
        note: How to read them.
        best: (number of the row, from 0, and key) of values that no other of their kind exceeds.
    """

    title: str
    rows: list[Row]
    note: str = ""
    best: frozenset[tuple[int, str]] = frozenset()

    def turned(self) -> "Table":
        """Rows as columns: the first column's values become the heads of the others."""
        head, *others = self.rows[0]
        rows = [{"run": name} | {str(row[head]): row[name] for row in self.rows} for name in others]
        best = {(others.index(key), str(self.rows[i][head])) for i, key in self.best}
        return replace(self, rows=rows, best=frozenset(best))


def make_tables(runs: Sequence[Run], metrics: Sequence[str | None], left_out: Sequence[str] = ()) -> dict[str, Table]:
    """All tables that the runs have something for, in the order to be read.

    Args:
        runs: To compare.
        metrics: Of each run, the one to compare by.
        left_out: Names of runs without results.
    """
    reference, pairs = paired_tests(runs)
    shown = overview(runs, metrics)
    best, last = metric_rows([run.best for run in runs]), metric_rows([run.last for run in runs])
    tables = {
        "runs": Table(
            "Runs",
            shown,
            (f"Left out, without results: {', '.join(left_out)}. " if left_out else "")
            + "Best is of the checkpoint that the monitored metric chose; epochs count from 0. Without summary.json: "
            "of the best epoch so far.",
            best_of_overview(runs, shown),
        ),
        "config": Table(
            "What differs", config_differences(runs), "Keys as flags are written; – where a run has no such key."
        ),
        "seeds": Table(
            "Seeds",
            seed_groups(runs, metrics),
            "Finished runs whose configuration differs in seed_everything alone. Standard deviation with n - 1; 95 % "
            "percentile bootstrap interval of the mean over runs, from three runs on, and narrow when they are few.",
        ),
        "paired": Table(
            f"Paired tests against run {reference}",
            pairs,
            "Mean score over the samples that both runs evaluated, 95 % bootstrap interval of the mean difference over "
            "samples, p of the two-sided Wilcoxon signed-rank test, and p corrected for the number of tests (Holm).",
        ),
        "best": Table("Metrics of the best checkpoint", best, directions(runs, best), best_of_rows(runs, best)),
        "last": Table("Metrics at the end", last, best=best_of_rows(runs, last)),
    }
    tables |= name_tables(runs)
    return {name: table for name, table in tables.items() if table.rows}


def overview(runs: Sequence[Run], metrics: Sequence[str | None]) -> list[Row]:
    """A row a run: what it is, what it reached, what it cost, what it lacks. Seconds, bytes, multiply-adds."""
    names = [run.given_name if run.given_name not in run.name.split("/") else None for run in runs]
    tags = [", ".join(run.tags) or None for run in runs]
    remarks = [run.remarks for run in runs]
    roots = [", ".join(run.roots) or None for run in runs]
    return [
        {
            "#": i,
            "run": run.name,
            **({"name": names[i - 1]} if any(names) else {}),
            **({"tags": tags[i - 1]} if any(tags) else {}),
            **({"remarks": remarks[i - 1]} if any(remarks) else {}),
            "task": run.task,
            "data": run.data,
            **({"root": roots[i - 1]} if any(roots) else {}),
            "metric": metric,
            "best": run.best.get(metric),
            "epoch": run.best_epoch,
            "last": run.last.get(metric),
            "epochs": run.summary.get("epochs"),
            "time": run.summary.get("seconds"),
            "peak memory": run.summary.get("peak_memory_bytes"),
            "parameters": run.summary.get("parameters"),
            "multiply-adds": run.summary.get("multiply_adds"),
            "note": "; ".join(run.notes),
        }
        for i, (run, metric) in enumerate(zip(runs, metrics, strict=True), start=1)
    ]


def seed_groups(runs: Sequence[Run], metrics: Sequence[str | None]) -> list[Row]:
    """A row a group of runs that differ in nothing but the seed, if any such group has two finished runs."""
    configs = [chosen(run) for run in runs]
    for config in configs:
        config.pop(SEED_KEY, None)
    groups: dict[str, list[int]] = {}
    for i, config in enumerate(configs):
        if config:
            groups.setdefault(as_text(sorted(config.items())), []).append(i)
    differing = differing_rows(configs)
    rows = []
    for members in groups.values():
        metric = metrics[members[0]]
        done = [i for i in members if metric in runs[i].best and _is_finished(runs[i])]
        if len(done) < 2:
            continue
        found = spread([runs[i].best[metric] for i in done])
        rows.append(
            {
                "runs": ", ".join(str(i + 1) for i in done),
                "seeds": ", ".join(as_text(runs[i].config.get(SEED_KEY)) for i in done),
                "configuration": ", ".join(f"{row['key']}: {row[str(members[0] + 1)]}" for row in differing),
                "metric": metric,
                "n": found.n,
                "mean": found.mean,
                "deviation": found.deviation,
                "low": found.low,
                "high": found.high,
                "note": _group_note(len(members) - len(done), found),
            }
        )
    return rows


def _is_finished(run: Run) -> bool:
    return bool(run.summary.get("best"))


def _group_note(unfinished: int, found: Spread) -> str:
    notes = [f"{unfinished} unfinished left out"] if unfinished else []
    if found.low is None:
        notes.append("no interval from fewer than three runs")
    return "; ".join(notes)


def paired_tests(runs: Sequence[Run]) -> tuple[int, list[Row]]:
    """Number of the first run that can be paired with a later one, and a row for each such run and split."""
    for reference in range(1, len(runs)):
        rows = _pairs(runs, reference)
        if rows:
            break
    else:
        return 1, []
    for row, corrected in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p (Holm)"] = corrected
    return reference, sorted(rows, key=lambda row: (row["split"], row["run"]))


def _pairs(runs: Sequence[Run], reference: int) -> list[Row]:
    """A row for each run after the reference and split of which both have scores of the same samples."""
    first, rows = runs[reference - 1], []
    for number, run in enumerate(runs[reference:], start=reference + 1):
        for split in first.samples.keys() & run.samples.keys():
            if source_of(first, split) != source_of(run, split):
                continue
            found = paired_test(first.samples[split], run.samples[split])
            if found is not None:
                only_one = len(first.samples[split].keys() ^ run.samples[split].keys())
                rows.append(
                    {
                        "split": split,
                        "run": number,
                        "samples": found.n,
                        f"mean of run {reference}": found.first,
                        "mean": found.second,
                        "difference": found.difference,
                        "low": found.low,
                        "high": found.high,
                        "p": found.p,
                        "p (Holm)": None,
                        "note": f"{only_one} samples in one run alone, left out" if only_one else "",
                    }
                )
    return rows


def directions(runs: Sequence[Run], rows: Sequence[Row]) -> str:
    """Which metrics of a table are better when they are greater, which when they are less, and of which nobody said."""
    found: dict[str, list[str]] = {"max": [], "min": [], "": []}
    for row in rows:
        modes = {run.mode(row["metric"]) for run in runs} - {None}
        found[modes.pop() if len(modes) == 1 else ""].append(row["metric"])
    said = {"max": "More is better", "min": "Less is better", "": "Not recorded which (say --mode METRIC=min or =max)"}
    return " ".join(f"{said[mode]}: {', '.join(names)}." for mode, names in found.items() if names)


def best_of_rows(runs: Sequence[Run], rows: Sequence[Row]) -> frozenset[tuple[int, str]]:
    """Row and column of the best value of each metric whose direction is known, where the runs differ in it."""
    found = set()
    for number, row in enumerate(rows):
        modes = {run.mode(row["metric"]) for run in runs} - {None}
        values = {key: value for key, value in row.items() if key != "metric" and value is not None}
        if len(modes) == 1 and len(set(values.values())) > 1:
            goal = {"max": max, "min": min}[modes.pop()](values.values())
            found |= {(number, key) for key, value in values.items() if value == goal}
    return frozenset(found)


def best_of_overview(runs: Sequence[Run], rows: Sequence[Row]) -> frozenset[tuple[int, str]]:
    """Row and column of what is best of a metric among the runs on the same data, where they differ in it."""
    groups: dict[Any, list[int]] = {}
    for place, (run, row) in enumerate(zip(runs, rows, strict=True)):
        if row["best"] is not None:
            groups.setdefault((row["metric"], run.data, tuple(run.roots)), []).append(place)
    found = set()
    for (metric, *_), places in groups.items():
        table = [{"metric": metric} | {str(place): rows[place]["best"] for place in places}]
        found |= {(int(key), "best") for _, key in best_of_rows([runs[place] for place in places], table)}
    return frozenset(found)


def metric_rows(values: Sequence[dict[str, float]]) -> list[Row]:
    """A row a metric, a column a run."""
    metrics = dict.fromkeys(metric for found in values for metric in found)
    return [{"metric": m} | {str(i): found.get(m) for i, found in enumerate(values, start=1)} for m in metrics]


def name_tables(runs: Sequence[Run]) -> dict[str, Table]:
    """For each score of a class or key point: run 1's (or that of the first run that has it), and the others' minus it.

    Columns of whole numbers are counts, not scores, and left out.
    """
    tables: dict[str, Table] = {}
    for table in sorted({name for run in runs for name in run.tables}):
        rows_of = {i: run.tables[table] for i, run in enumerate(runs, start=1) if run.tables.get(table)}
        for column in dict.fromkeys(key for rows in rows_of.values() for key in rows[0] if key != "name"):
            scores = {i: _column(rows, column) for i, rows in rows_of.items()}
            scores = {i: found for i, found in scores.items() if found}
            if not any(value % 1 for found in scores.values() for value in found.values()):
                continue
            first, *others = scores
            names = dict.fromkeys(name for found in scores.values() for name in found)
            rows = []
            for name in names:
                base = scores[first].get(name)
                changes = {
                    f"{i} - {first}": None if base is None or name not in scores[i] else scores[i][name] - base
                    for i in others
                }
                rows.append({"name": name, str(first): base} | changes)
            note = f"Run {first}, and what the others have more (+) or less (-)." if others else ""
            tables[f"{table} {column}"] = Table(f"{table.replace('_', ' ')}: {column}", rows, note)
    return tables


def _column(rows: list[dict[str, str]], column: str) -> dict[str, float]:
    named = [(row["name"], numbers({column: row[column]})) for row in rows if "name" in row and column in row]
    return {name: found[column] for name, found in named if found}

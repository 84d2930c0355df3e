"""Tables of a comparison as text: cells, Markdown, CSV, and the terminal."""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console

from experiments.cli.tables import MISSING, markdown, show, visible
from experiments.compare.runs import Run
from experiments.compare.tables import Table

P_VALUES = ("p", "p (Holm)")
LONG_NUMBER = re.compile(r"-?\d+\.\d{5,}(e[+-]?\d+)?")
SIGNED = ("difference", "low", "high")


def cell(column: str, value: Any, signed: bool = False) -> str:
    """A value as it is shown: time in minutes, memory in GiB, multiply-adds / 2^30 as the papers' GFLOPs."""
    if value is None:
        return MISSING
    if isinstance(value, str):
        return visible(value)
    if column == "time":
        return f"{value:.0f} s" if value < 60 else f"{value / 60:.1f} min" if value < 3600 else f"{value / 3600:.2f} h"
    if column == "peak memory":
        return f"{value / 2**30:.2f} GiB"
    if column == "parameters":
        return f"{value / 1e6:.2f}M"
    if column == "multiply-adds":
        return f"{value / 2**30:.2f} GFLOPs"
    if column in P_VALUES:
        return "< 0.0001" if value < 1e-4 else f"{value:.4f}"
    if isinstance(value, int):
        return str(value)
    if signed:
        return f"{value:+.4f}"
    return f"{value:.4f}" if value == 0 or 0.1 <= abs(value) < 10 else f"{value:.4g}"


def cells(table: Table) -> tuple[list[str], list[list[str]]]:
    """Heads, and the texts of each row."""
    heads = list(table.rows[0])
    paired = "difference" in heads
    texts = [
        [cell(head, row.get(head), " - " in f"{head}{row[heads[0]]}" or (paired and head in SIGNED)) for head in heads]
        for row in table.rows
    ]
    return [visible(head) for head in heads], texts


def readable(table: Table) -> Table:
    """The table itself, or turned where it is wider than high: columns are the fewer."""
    keyed = next(iter(table.rows[0])) in ("key", "metric", "name")
    return table.turned() if keyed and len(table.rows[0]) > 8 and len(table.rows[0]) > len(table.rows) + 1 else table


def rounded(table: Table) -> Table:
    """The table with the values of a setting or metric in digits that suit all runs."""
    alike = {"key": _told_apart, "metric": _aligned}.get(next(iter(table.rows[0])))
    return table if alike is None else replace(table, rows=list(map(alike, table.rows)))


def _aligned(row: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a metric, which are small, in the digits after the point that give the largest four that count."""
    largest = max((abs(value) for value in row.values() if isinstance(value, float)), default=0.0)
    if not 1e-6 < largest < 10:
        return dict(row)
    digits = max(4, 3 - math.floor(math.log10(largest)))
    return {key: f"{value:.{digits}f}" if isinstance(value, float) else value for key, value in row.items()}


def _told_apart(row: Mapping[str, Any]) -> dict[str, Any]:
    """A setting's values in four digits, or as many more as tell them apart."""
    long = {text for text in row.values() if isinstance(text, str) and LONG_NUMBER.fullmatch(text)}
    for digits in range(4, 17):
        shown = {text: f"{float(text):.{digits}g}" for text in long}
        if len({shown.get(text, text) for text in row.values()}) == len(set(row.values())):
            return {key: shown.get(text, text) for key, text in row.items()}
    return dict(row)


def to_markdown(tables: Mapping[str, Table]) -> str:
    """Tables under their titles."""
    parts = ["# Comparison of runs"]
    for table in map(readable, map(rounded, tables.values())):
        heads, rows = cells(table)
        parts.append(f"## {_escaped(visible(table.title))}")
        parts += [_escaped(visible(table.note))] if table.note else []
        parts.append(markdown([_escaped(head) for head in heads], [[_escaped(text) for text in row] for row in rows]))
    return "\n\n".join(parts) + "\n"


def _escaped(text: str) -> str:
    return re.sub(r"([\\|`*\[\]])", r"\\\1", text).replace("&", "&amp;").replace("<", "&lt;")


def to_csv(runs: Sequence[Run], tables: Mapping[str, Table]) -> str:
    """One row a run, unrounded: the overview, what differs as config/KEY, best/METRIC and last/METRIC."""
    rows = [dict(row) for row in tables["runs"].rows]
    for number, (row, run) in enumerate(zip(rows, runs, strict=True), start=1):
        row["path"] = str(run.path)
        for name in ("config", "best", "last"):
            for entry in tables[name].rows if name in tables else ():
                key, *_ = entry.values()
                row[f"{name}/{key}"] = entry[str(number)]
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def print_tables(tables: Mapping[str, Table], console: Console) -> None:
    """Print them one below the other."""
    for table in map(readable, map(rounded, tables.values())):
        show(console, *cells(table), visible(table.title), visible(table.note))

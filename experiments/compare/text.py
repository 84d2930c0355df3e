"""Tables of a comparison as text: cells, Markdown, CSV, and the terminal."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from experiments.compare.runs import Run
from experiments.compare.tables import Table

P_VALUES = ("p", "p (Holm)")
SIGNED = ("difference", "low", "high")
NUMBER = re.compile(r"n/a|[-+<]? ?\d[\d.e+-]*( ?(s|min|h|GiB|M|GFLOPs))?")


def cell(column: str, value: Any, signed: bool = False) -> str:
    """A value as it is shown: time in minutes, memory in GiB, multiply-adds / 2^30 as the papers' GFLOPs."""
    if value is None:
        return "n/a"
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
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.4g}"


def visible(text: str) -> str:
    """Names come from files of any origin: what a terminal would obey, or not show, is written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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


def is_number(text: str) -> bool:
    """Whether a cell is aligned as a number, or stands for one."""
    return NUMBER.fullmatch(text) is not None


def to_markdown(tables: Mapping[str, Table]) -> str:
    """Tables under their titles."""
    parts = ["# Comparison of runs"]
    for table in map(readable, tables.values()):
        heads, rows = cells(table)
        numbers = [all(is_number(row[i]) for row in rows) for i in range(len(heads))]
        lines = [heads, ["---:" if right else "---" for right in numbers], *rows]
        parts.append(f"## {_escaped(visible(table.title))}")
        parts += [_escaped(visible(table.note))] if table.note else []
        parts.append("\n".join("| " + " | ".join(_escaped(text) for text in line) + " |" for line in lines))
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
    """Print; a table too wide for the console comes in blocks of columns, each with the first column."""
    for table in map(readable, tables.values()):
        heads, rows = cells(table)
        blocks = _blocks(heads, rows, console.width)
        for block in blocks:
            shown = RichTable(title=Text(visible(table.title)) if block is blocks[0] else None, box=box.SIMPLE)
            for i in block:
                right = all(is_number(row[i]) for row in rows)
                shown.add_column(Text(heads[i]), justify="right" if right else "left", overflow="fold")
            for row in rows:
                shown.add_row(*(Text(row[i]) for i in block))
            console.print(shown)
        if table.note:
            console.print(Text(visible(table.note), style="dim"))


def _blocks(heads: list[str], rows: list[list[str]], width: int) -> list[list[int]]:
    widths = [min(40, max(len(head), *(len(row[i]) for row in rows))) + 3 for i, head in enumerate(heads)]
    first = [0]
    blocks = [first.copy()]
    for i in range(1, len(heads)):
        if len(blocks[-1]) > 1 and sum(widths[j] for j in blocks[-1]) + widths[i] > width - 2:
            blocks.append(first.copy())
        blocks[-1].append(i)
    return blocks

"""Tables of text for the terminal and as Markdown; columns of numbers stand to the right."""

import re
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.cli.shown import visible

MISSING = "n/a"
"""In place of a value that was not measured."""
NUMBER = re.compile(rf"{MISSING}|[-+<]? ?\d[\d.,e+-]*( ?(s|min|h|GiB|M|GFLOPs))?")
MOST = 40  # of a column's width, when it is decided which columns stand side by side

Rows = Sequence[Sequence[str]]


def numeric(rows: Rows) -> list[bool]:
    """Of each column, whether all its cells are numbers, or stand for one."""
    return [all(NUMBER.fullmatch(text) is not None for text in column) for column in zip(*rows, strict=True)]


def markdown(heads: Sequence[str], rows: Rows) -> str:
    """A table in Markdown; cells are taken as they are."""
    lines = [heads, ["---:" if right else "---" for right in numeric(rows)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def show(
    console: Console, heads: Sequence[str], rows: Rows, title: str = "", note: str = "", *, fold: bool = False
) -> None:
    """Print a table.

    Args:
        console: Where.
        heads: Of the columns.
        rows: A text for each column.
        title: Above it.
        note: Below it.
        fold: A table too wide for the console has its cells folded; else it comes in blocks of columns, each with the
            first column.
    """
    right = numeric(rows)
    for number, block in enumerate([list(range(len(heads)))] if fold else _blocks(heads, rows, console.width)):
        shown = Text(visible(title)) if title and not number else None
        table = Table(title=shown, title_justify="left", box=box.SIMPLE)
        for i in block:
            table.add_column(Text(visible(heads[i])), justify="right" if right[i] else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(visible(row[i])) for i in block))
        console.print(table)
    if note:
        console.print(Text(visible(note), style="dim"))


def _blocks(heads: Sequence[str], rows: Rows, width: int) -> list[list[int]]:
    widths = [min(MOST, max(len(head), *(len(row[i]) for row in rows))) + 3 for i, head in enumerate(heads)]
    blocks = [[0]]
    for i in range(1, len(heads)):
        if len(blocks[-1]) > 1 and sum(widths[j] for j in blocks[-1]) + widths[i] > width - 2:
            blocks.append([0])
        blocks[-1].append(i)
    return blocks

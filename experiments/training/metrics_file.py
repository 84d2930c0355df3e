"""metrics.csv: what a run logged, a row whenever something was logged. Rows are only ever appended, each at once.

A run that is killed loses no row, and one that goes on writes below what is there; steps that it repeats stand twice,
the later row counts. The evaluation of the best checkpoint after the training has 1 in the column best_checkpoint.
"""

import csv
import io
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from experiments.cli.files import replacing


class MetricsFile(Logger):
    """Logger that appends to `metrics.csv` in a run folder; of several processes the first one writes.

    Args:
        folder: Run folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / "metrics.csv"
        self.columns = self._repaired_columns() if rank_zero_only.rank == 0 else []
        self.of_best_checkpoint = False
        """Whether rows are of the best checkpoint from here on, and no point of the training's curves."""

    @property
    def name(self) -> str:
        """As Lightning asks for it."""
        return self.path.name

    @property
    def version(self) -> str:
        """As Lightning asks for it."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """They are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row with column `step`, the number of optimiser steps before."""
        values = {name: value if isinstance(value, int) else float(value) for name, value in metrics.items()}
        row = {"step": step, **values, **({"best_checkpoint": 1} if self.of_best_checkpoint else {})}
        new = sorted(row.keys() - set(self.columns))
        if new:
            self._add_columns(new)
        with self.path.open("a", newline="") as file:
            file.write(_line([row.get(column, "") for column in self.columns]))

    def _repaired_columns(self) -> list[str]:
        """Columns of the file, none without a header; a row in which a process was killed is ended, as no whole one."""
        if not self.path.is_file():
            return []
        content = self.path.read_bytes()
        columns = next(csv.reader([content.partition(b"\n")[0].decode(errors="replace")]), [])
        columns = columns if "step" in columns else []
        if content and not content.endswith(b"\n"):
            with self.path.open("ab") as file:
                file.write(b"," * len(columns) + b"\n")  # too many cells: even a number that looks whole may be cut
        return columns

    def _add_columns(self, names: list[str]) -> None:
        """Give the file a longer header, written beside it and renamed; every row stays and gets empty cells."""
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.is_file() else []
        rows = lines[1:] if self.columns else lines
        empty = b"," * len(names)
        padded = [row.rstrip(b"\r\n") + empty + b"\n" for row in rows]
        self.columns = [*self.columns, *names]
        with replacing(self.path) as part:
            part.write_bytes(b"".join([_line(self.columns).encode(), *padded]))


def _line(values: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()

"""Error analysis of a run: what kinds of mistakes its best checkpoint makes, how many, and where.

python -m experiments.errors runs/pose_coco/20260101-120000-abcdef
python -m experiments.errors RUN --split test --overwrite

Tables (CSV) and plots (PNG) go to RUN/errors/, of a joint run to RUN/errors/<task>/. In Python:

report = errors("runs/..."); report.tables["errors"]; report.figures["gain"]
"""

import csv
import io
from argparse import ArgumentParser as PlainParser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jsonargparse
import torch
from rich.table import Table
from torchvision.io import encode_png

import tasks
from datamodules.base import BaseDataModule
from experiments import run as runner
from experiments.cli import program
from experiments.config import ConfigError, explain, read
from experiments.errors import classification, pose, segmentation  # noqa: F401, each says whose analysis it has
from experiments.errors.report import Report, report_of
from experiments.training.start import add_import, import_named
from tasks.draw import class_table, print_tables

SHOWN = 20  # rows of a table in the terminal; files have all


def errors(run: str | Path, split: str = "val") -> Report:
    """Tables and figures of the mistakes of a run; nothing is written.

    Poses come from the run's own COCO results file where it has one, all else from the best checkpoint on the run's own
    data, batch by batch. A run that evaluates only some batches (`limit_val_batches`) is analysed on these.

    Args:
        run: Run folder.
        split: "val" or "test".

    Returns:
        Tables and figures by name; of a joint run with the task's name before them, `pose/errors`.

    Raises:
        ConfigError: If it is no run folder, or has no such split.
        FileNotFoundError: If there is no checkpoint.
        DataError: If the data are not there, or there is no analysis for the run's task.
    """
    folder = Path(run)
    content = _read_run(folder)
    if split not in ("val", "test"):
        raise ConfigError(f"The split is val or test, not {split!r}.")
    task = tasks.load(_checkpoint(folder, content))
    task.to("cuda" if torch.cuda.is_available() else "cpu")
    data = _make_data(folder, content)
    data.prepare_data()
    task.split = split
    task.attach(data)
    limit = (content.get("trainer") or {}).get(f"limit_{split}_batches")
    whole = Report({}, {})
    for name in task.parts:
        part_data = data.tasks[name] if name else data
        part = report_of(task.single(name), part_data, limit, folder / "predictions" / name)
        prefix = f"{name}/" if name else ""
        whole.tables.update({f"{prefix}{key}": rows for key, rows in part.tables.items()})
        whole.figures.update({f"{prefix}{key}": figure for key, figure in part.figures.items()})
    return whole


def main(argv: Sequence[str] | None = None) -> Report:
    """Analyse, print and write, as the command line does.

    Raises:
        ConfigError: Also if there is an analysis of this split already, without --overwrite.
    """
    parser = PlainParser(prog=program("experiments.errors"), description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("run", help="Run folder.")
    parser.add_argument("--split", choices=("val", "test"), default="val", help="Which split; val when not given.")
    parser.add_argument("--overwrite", action="store_true", help="Replace an earlier analysis of the split.")
    parser.add_argument("--debug", action="store_true", help="Show tracebacks.")
    add_import(parser)
    arguments = parser.parse_args(argv)
    import_named(arguments.modules)
    folder = Path(arguments.run) / "errors"
    earlier = sorted(folder.rglob(f"{arguments.split}_*"))
    if earlier and not arguments.overwrite:
        raise ConfigError(
            f"{folder} has an analysis of {arguments.split} already ({earlier[0].name}, ...): add --overwrite to "
            "replace it."
        )
    report = errors(arguments.run, arguments.split)
    written = write(report, folder, arguments.split)
    for path in set(earlier) - written:  # a kind of error may have no examples any more
        path.unlink()
    print_tables(*_shown(report))
    print(f"tables and plots: {folder}")
    return report


def write(report: Report, folder: Path, split: str) -> set[Path]:
    """Every table as `{split}_{table}.csv` and every figure as PNG, those of a task of a joint run in its folder.

    Returns:
        The files, each written whole or not at all.
    """
    files = {f"{name}.csv": _as_csv(rows) for name, rows in report.tables.items()}
    files |= {f"{name}.png": bytes(encode_png(figure, 3).numpy()) for name, figure in report.figures.items()}
    written = set()
    for name, content in files.items():
        path = folder / name
        path = path.with_name(f"{split}_{path.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".part")
        partial.write_bytes(content)
        partial.replace(path)
        written.add(path)
    return written


def _as_csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _shown(report: Report) -> list[Table]:
    shown = []
    for name, rows in report.tables.items():
        table = class_table(rows[:SHOWN])
        table.title = name if len(rows) <= SHOWN else f"{name}: {SHOWN} of {len(rows)}"
        shown.append(table)
    return shown


def _read_run(folder: Path) -> dict[str, Any]:
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"{folder} has no config.yaml: name a run folder such as runs/pose_coco/20260101-120000-abc.")
    content = read(folder / "config.yaml")
    if "data" not in content:
        raise ConfigError(f"{folder / 'config.yaml'} has no section data: expected the configuration of a run.")
    return content


def _checkpoint(folder: Path, content: dict[str, Any]) -> str | Path:
    """The run itself, or for a run that only evaluated what it evaluated."""
    own = any((folder / "checkpoints").glob("*.ckpt"))
    return folder if own or not content.get("checkpoint") else content["checkpoint"]


def _make_data(folder: Path, content: dict[str, Any]) -> BaseDataModule:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--data", type=BaseDataModule, required=True)
    try:
        return parser.instantiate(parser.parse_object({"data": content["data"]})).data
    except jsonargparse.ArgumentError as error:
        sources = [(str(folder / "config.yaml"), content)]
        raise ConfigError(explain(str(error), content, sources, {"data": BaseDataModule})) from error


def command(entry: Callable[[], object] = main) -> int:
    """`main` with exit status: 0 on success, 2 with one message for a user's mistake."""
    return runner.command(entry)

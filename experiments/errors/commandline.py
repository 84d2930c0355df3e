"""Error analysis of a run: what kinds of mistakes its best checkpoint makes, how many, and where.

python -m experiments.errors runs/pose_coco/20260101-120000-abcdef
python -m experiments.errors RUN --split test --overwrite

Tables (CSV) and plots (PNG) go to RUN/errors/, of a joint run to RUN/errors/<task>/. In Python:

report = errors("runs/..."); report.tables["errors"]; report.figures["gain"]
"""

from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from rich.table import Table
from torchvision.io import encode_png

import tasks
from experiments import cli
from experiments.cli.files import read_json, replacing, write_rows
from experiments.cli.shown import say
from experiments.config import ConfigError, read
from experiments.config.parser import make_data
from experiments.errors import (  # noqa: F401, each says whose analysis it has
    classification,
    detection,
    landmarks,
    pose,
    segmentation,
)
from experiments.errors.report import Report, report_of
from experiments.training.start import import_named
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
    data = make_data(content, [(str(folder / "config.yaml"), content)])
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


def analyse(
    run: Path, *, split: Literal["val", "test"] = "val", overwrite: bool = False, import_: tuple[str, ...] = ()
) -> Report:
    """Analyse a run, print and write what is found.

    Args:
        run: Run folder.
        split: Which of its splits is analysed.
        overwrite: Replace an earlier analysis of the split.
        import_: Module of your own with a task, codec or data set that the run names; once for each module.

    Raises:
        ConfigError: Also if there is an analysis of this split already, without `overwrite`.
    """
    import_named(import_)
    folder = run / "errors"
    earlier = sorted(folder.rglob(f"{split}_*"))
    if earlier and not overwrite:
        raise ConfigError(
            f"{folder} has an analysis of {split} already ({earlier[0].name}, ...): add --overwrite to replace it."
        )
    report = errors(run, split)
    written = write(report, folder, split)
    for path in set(earlier) - written:  # a kind of error may have no examples any more
        path.unlink()
    print_tables(*_shown(report))
    say(f"tables and plots: {folder}")
    return report


main = partial(cli.call, analyse)
command = partial(cli.run, analyse)


def write(report: Report, folder: Path, split: str) -> set[Path]:
    """Every table as `{split}_{table}.csv` and every figure as PNG, those of a task of a joint run in its folder.

    Returns:
        The files, each written whole or not at all.
    """
    written = []
    for name, rows in report.tables.items():
        written.append(_target(folder, split, f"{name}.csv"))
        write_rows(written[-1], rows)
    for name, figure in report.figures.items():
        written.append(_target(folder, split, f"{name}.png"))
        with replacing(written[-1]) as part:
            part.write_bytes(bytes(encode_png(figure, 3).numpy()))
    return set(written)


def _target(folder: Path, split: str, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f"{split}_{path.name}")


def _shown(report: Report) -> list[Table]:
    shown = []
    for name, rows in report.tables.items():
        table = class_table(rows[:SHOWN])
        table.title = name if len(rows) <= SHOWN else f"{name}: {SHOWN} of {len(rows)}"
        shown.append(table)
    return shown


def _read_run(folder: Path) -> dict[str, Any]:
    if folder.parent.name == "checkpoints":
        raise ConfigError(f"{folder} is a checkpoint: name its run, {folder.parent.parent}, whose best is analysed.")
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"{folder} has no config.yaml: name a run folder such as runs/pose_coco/20260101-120000-abc.")
    content = read(folder / "config.yaml")
    if "data" not in content:
        raise ConfigError(f"{folder / 'config.yaml'} has no section data: expected the configuration of a run.")
    return content


def _checkpoint(folder: Path, content: dict[str, Any]) -> str | Path:
    """The run itself, or for a run that only evaluated what it evaluated."""
    if any((folder / "checkpoints").glob("*.ckpt")):
        return folder
    evaluated = read_json(folder / "environment.json").get("action") in ("validate", "test", "predict")
    weights = (content["model"].get("init_args") or {}).get("weights") if evaluated else None
    return content.get("checkpoint") or weights or folder

"""What differs between two run folders that should hold the same: weights, optimiser, figures, tables, pictures."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

OWN = {"seconds", "peak_memory_bytes"}
"""Of a summary, what every run has its own of."""
UNLIKE = {"loops", "wandb_run", "dirpath", "current_score"}
"""Of a checkpoint: counters that say the same in many ways (`position` says it once), where the run lies, and the score
of this process' last validation, which nothing reads (a run resumed after its last validation has none)."""


def differences(whole: Path, found: Path) -> list[str]:
    """One sentence for each kind of difference; none where the runs are the same, bit for bit."""
    said = []
    for name in ("last.ckpt", "best.ckpt"):
        states = [_state(folder / "checkpoints" / name, folder) for folder in (whole, found)]
        said += [f"{name}: {line}" for line in unlike(*states)][:5]
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (whole, found)]
    said += [
        f"summary.json: {line}" for line in unlike(*({k: v for k, v in s.items() if k not in OWN} for s in summaries))
    ]
    tables = [logged(folder / "metrics.csv") for folder in (whole, found)]
    said += [f"metrics.csv: {line}" for line in unlike(*tables)][:5]
    files = [_files(folder) for folder in (whole, found)]
    said += [f"{line}" for line in unlike(*files)][:5]
    return said + [f"{path.relative_to(found)} was left" for path in found.rglob("*.part")]


def unlike(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """The places at which two nested values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in {**one, **other}:
            if key in UNLIKE:
                continue
            place = f"{where}{'/' * bool(where)}{key}"
            if key not in one or key not in other:
                yield f"{place} is {'missing' if key in one else 'too much'}"
            else:
                yield from unlike(one[key], other[key], place)
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from unlike(a, b, f"{where}[{i}]")
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            yield f"{where} is {one.dtype}{tuple(one.shape)}, then {other.dtype}{tuple(other.shape)}"
        elif not torch.equal(one.nan_to_num(), other.nan_to_num()) or not torch.equal(one != one, other != other):
            yield f"{where} differs by {(one.double() - other.double()).abs().max().item():.3g}"
    elif one != other and not (one != one and other != other):
        yield f"{where} is {str(one)[:60]!r}, then {str(other)[:60]!r}"


def logged(path: Path) -> dict[str, str]:
    """`step, column` -> value of metrics.csv, the last of those that a life has repeated; without rows cut short."""
    found: dict[str, str] = {}
    with path.open(newline="") as lines:
        for row in csv.DictReader(lines):
            if None not in row:  # else too many cells: the row in which a process was killed
                found |= {f"{row['step']}, {key}": value for key, value in row.items() if value}
    return found


def grown(before: bytes, after: bytes) -> bool:
    """Whether no row of metrics.csv went, and each is as it was, perhaps with more cells."""
    rows, now = before.splitlines(), after.splitlines()
    return len(now) >= len(rows) and all(new.startswith(old) for old, new in zip(rows[1:], now[1:], strict=False))


def _state(path: Path, folder: Path) -> Any:
    if not path.is_file():
        return None
    state = torch.load(path, weights_only=True, map_location="cpu")
    state["callbacks"] = {key: value for key, value in state["callbacks"].items() if not key.startswith("Timer")}
    return _without(state, str(folder))


def _without(value: Any, folder: str) -> Any:
    """The same with the run's own folder called RUN."""
    if isinstance(value, dict):
        return {_without(key, folder): _without(item, folder) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without(item, folder) for item in value]
    return value.replace(folder, "RUN") if isinstance(value, str) else value


def _files(folder: Path) -> dict[str, bytes]:
    """Tables and pictures."""
    paths = [path for name in ("predictions", "pictures") for path in sorted((folder / name).rglob("*"))]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_file()}

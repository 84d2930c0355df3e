"""Files of a run folder, whole, cut off or missing: what can be read, and a note of what cannot."""

import csv
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml


def read_mapping(path: Path, parse: Callable[[str], Any], notes: list[str]) -> dict[str, Any]:
    """A mapping by `parse`; empty, with a note, where there is none."""
    try:
        content = parse(path.read_text(encoding="utf-8-sig", errors="replace"))
    except FileNotFoundError:
        notes.append(f"no {path.name}" + (": unfinished" if path.name == "summary.json" else ""))
        return {}
    except (OSError, ValueError, yaml.YAMLError):
        notes.append(f"{path.name} cannot be read")
        return {}
    if not isinstance(content, dict):
        notes.append(f"{path.name} is no mapping")
        return {}
    return content


def read_csv(path: Path, notes: list[str]) -> list[dict[str, str]]:
    """Whole rows of a CSV file; a last line without its end was cut off, so even its last number may be."""
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace").replace("\0", "")
    except FileNotFoundError:
        notes.append(f"no {path.name}")
        return []
    except OSError:
        notes.append(f"{path.name} cannot be read")
        return []
    lines = text.splitlines(keepends=True)
    whole = lines[:-1] if lines and not lines[-1].endswith("\n") else lines
    try:
        rows = list(csv.DictReader(whole))
    except csv.Error:
        notes.append(f"{path.name} cannot be read")
        return []
    kept = [row for row in rows if None not in row and None not in row.values()]
    if len(whole) < len(lines) or len(kept) < len(rows):
        notes.append(f"{path.name} is cut off")
    return kept


def numbers(row: Mapping[str, str]) -> dict[str, float]:
    """The finite numbers of a row."""
    values = {key: _number(text) for key, text in row.items()}
    return {key: value for key, value in values.items() if math.isfinite(value)}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def scores(rows: list[dict[str, str]]) -> dict[int, float]:
    """sample -> score, of rows that have both."""
    pairs = [(_id(row.get("sample", "")), _number(row.get("score", ""))) for row in rows]
    return {sample: score for sample, score in pairs if sample is not None and math.isfinite(score)}


def _id(text: str) -> int | None:
    """Ids may have 64 bits, of which a float keeps 53."""
    try:
        return int(text)
    except ValueError:
        value = _number(text)
        return int(value) if math.isfinite(value) else None

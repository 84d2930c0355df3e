"""Files of a run folder, whole, cut off or missing: what can be read, and a note of what cannot.

A file is parsed, and what is not of the expected kind left out, so that all that follows works on what it expects.
"""

import csv
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

HUGE, MOST_LEVELS, MOST_BITS = 1e100, 100, 1000
Kind = Callable[[Any], bool]
"""Whether a value is what is expected under a key."""


def read_mapping(path: Path, parse: Callable[[str], Any], notes: list[str]) -> dict[str, Any]:
    """A mapping by `parse`; empty, with a note, where there is none."""
    try:
        content = parse(path.read_text(encoding="utf-8-sig", errors="replace"))
        _refuse_odd(content, ())
    except FileNotFoundError:
        notes.append(f"no {path.name}" + (": unfinished" if path.name == "summary.json" else ""))
        return {}
    except Exception:  # a damaged file is read as anything
        notes.append(f"{path.name} cannot be read")
        return {}
    if not isinstance(content, dict):
        notes.append(f"{path.name} is no mapping")
        return {}
    return content


def _refuse_odd(value: Any, holders: tuple[int, ...]) -> None:
    """Raise ValueError for what holds itself, is nested too deeply, or is a number that nobody can write."""
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise ValueError
    if isinstance(value, dict | list):
        if id(value) in holders or len(holders) > MOST_LEVELS:
            raise ValueError
        for inner in value.values() if isinstance(value, dict) else value:
            _refuse_odd(inner, (*holders, id(value)))


def typed(content: dict[str, Any], kinds: Mapping[str, Kind], name: str, notes: list[str]) -> dict[str, Any]:
    """What a file says without those of these keys whose values are not of their kind; they are noted."""
    odd = [key for key, kind in kinds.items() if content.get(key) is not None and not kind(content[key])]
    if odd:
        notes.append(f"{name}: {', '.join(odd)} cannot be read")
    return {key: value for key, value in content.items() if key not in odd}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < HUGE  # nor nan


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_metrics(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_number(metric) for metric in value.values())


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_text(text) for text in value.values())


def _is_git(value: Any) -> bool:
    revision, changed = (value.get("revision"), value.get("changed", [])) if isinstance(value, dict) else (0, 0)
    return isinstance(revision, str | None) and isinstance(changed, list)


SUMMARY: dict[str, Kind] = {
    "monitor": _is_text, "mode": _is_text, "modes": _are_texts, "last": _are_metrics,
    "best": lambda value: _are_metrics(value) or _is_number(value),
    **dict.fromkeys(("best_epoch", "epochs", "steps", "seconds", "parameters"), _is_count),
    **dict.fromkeys(("multiply_adds", "peak_memory_bytes"), _is_count),
}  # fmt: skip
ENVIRONMENT: dict[str, Kind] = {
    "name": _is_text, "tags": lambda value: isinstance(value, list | str), "git": _is_git, "libraries": _are_texts,
    **dict.fromkeys(("gpus", "cpus", "python"), lambda value: True),
}  # fmt: skip


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
    """The numbers of a row, without nan and what is beyond all that is measured."""
    values = {key: _number(text) for key, text in row.items()}
    return {key: value for key, value in values.items() if abs(value) < HUGE}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def scores(rows: list[dict[str, str]]) -> dict[int, float]:
    """sample -> score, of rows that have both."""
    pairs = [(_id(row.get("sample", "")), _number(row.get("score", ""))) for row in rows]
    return {sample: score for sample, score in pairs if sample is not None and abs(score) < HUGE}


def _id(text: str) -> int | None:
    """Ids may have 64 bits, of which a float keeps 53."""
    try:
        return int(text)
    except ValueError:
        value = _number(text)
        return int(value) if math.isfinite(value) else None

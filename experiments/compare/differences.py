"""In what runs differ: keys of their configurations, code, libraries and machine, as rows of a table.

A key differs for a reason. What a run lacks since it is of other tasks, or since the object that the key is of is of
another class, is said by the row of the tasks or of the class alone.
"""

import json
from collections.abc import Sequence
from typing import Any

from experiments.compare.runs import Run

IGNORED = ("runs", "name", "resume", "save_minutes", "debug", "wandb")

Row = dict[str, Any]


def config_differences(runs: Sequence[Run]) -> list[Row]:
    """A row a key whose value is not the same in all runs; then what differs in code, libraries and machine."""
    if len(runs) < 2:
        return []
    parts = [run.parts for run in runs]
    tasks = {str(i): ", ".join(names) for i, names in enumerate(parts, start=1)}
    rows = [{"key": "tasks"} | tasks] if any(parts) and len(set(tasks.values())) > 1 else []
    configs = [chosen(run) for run in runs]
    return rows + differing_rows(configs, parts) + differing_rows([_place(run) for run in runs])


def chosen(run: Run) -> Row:
    """What the user chose: the configuration without where it is kept and what it is called."""
    return {key: value for key, value in run.config.items() if key.split(".")[0] not in IGNORED}


def _place(run: Run) -> Row:
    git, libraries = run.environment.get("git") or {}, run.environment.get("libraries") or {}
    found = {
        "git revision": (git.get("revision") or "")[:10] or None,
        "git changed files": len(git["changed"]) if "changed" in git else None,
        "gpus": run.environment.get("gpus"),
        "cpus": run.environment.get("cpus"),
        "python": run.environment.get("python"),
    } | {f"{name} version": version for name, version in libraries.items()}
    return {key: value for key, value in found.items() if value is not None}


def differing_rows(mappings: Sequence[Row], parts: Sequence[Sequence[str]] = ()) -> list[Row]:
    """A row a key whose values differ among the runs that can have it.

    Args:
        mappings: Key -> value, of each run.
        parts: Of all runs, see `Run.parts`.
    """
    keys = list(dict.fromkeys(key for mapping in mappings for key in mapping))
    known = [i for i, mapping in enumerate(mappings) if mapping]
    rows = []
    for key in sorted(keys, key=lambda key: not all(key in mappings[i] for i in known)):
        members = [i for i in known if not parts or _can_have(key, i, mappings, parts)]
        members = [i for i in members if not _is_of_another_class(key, mappings[i], mappings)]
        texts = {as_text(mappings[i][key]) if key in mappings[i] else None for i in members}
        if len(texts) > 1:
            row = {str(i): as_text(m[key]) if key in m else "–" for i, m in enumerate(mappings, start=1)}
            rows.append({"key": key} | row)
    return rows


def _can_have(key: str, run: int, mappings: Sequence[Row], parts: Sequence[Sequence[str]]) -> bool:
    """Whether a run that lacks a key lacks it for another reason than being of other tasks, or of one alone.

    Args:
        key: Of the configuration.
        run: Its number, from 0.
        mappings: Configurations of all runs.
        parts: Of all runs, see `Run.parts`.
    """
    if not parts[run] or key in mappings[run]:
        return True
    first, kind, name, *_ = [*key.split("."), "", ""]
    if (first, kind) in (("model", "tasks"), ("data", "data")):
        return name in parts[run]
    having = [i for i, mapping in enumerate(mappings) if key in mapping]
    return not all(len(parts[i]) > 1 for i in having)


def _is_of_another_class(key: str, mapping: Row, mappings: Sequence[Row]) -> bool:
    """Whether a run lacks a key since the nearest object that the key is of is of another class, which has a row."""
    if key in mapping:
        return False
    having = [other for other in mappings if key in other]
    parents = [key.rsplit(".", n)[0] for n in range(1, key.count(".") + 1)]
    parent = next((parent for parent in parents if any(parent in other for other in having)), None)
    return parent is not None and mapping.get(parent) not in [other.get(parent) for other in having]


def as_text(value: Any) -> str:
    """A text itself, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)

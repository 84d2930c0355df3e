"""One run from W&B's own record of it, `wandb/offline-run-*/run-*.wandb`, which needs neither account nor network.

The file is read by the wandb package's reader, `wandb leet inspect --json`, which prints one record a line.
"""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

SECTIONS = ("model", "data", "trainer", "seed_everything", "checkpoint")
TABLE = re.compile(r"(.+)_(\d+)_[0-9a-f]+\.table\.json")  # W&B's name of a table: key, step, digest


def is_wandb_run(path: Path) -> bool:
    """Whether W&B recorded a run in this folder, offline or online."""
    return path.name.startswith(("offline-run-", "run-")) and any(path.glob("run-*.wandb"))


def read_wandb_run(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Record of one run.

    Args:
        path: Folder with a file run-*.wandb.

    Returns:
        name, config (nested, as the YAML file's sections), rows (a dict of numbers for each history record), summary
        (with the keys of summary.json that W&B knows; `peak_memory_bytes` is the resident memory as W&B sampled it),
        environment, tables (as those of predictions/*.csv); and notes of what is missing or broken.
    """
    records, notes = _records(next(path.glob("run-*.wandb")))
    run = next((record["run"] for record in records if record.get("type") == "run"), {})
    group, name = run.get("run_group"), run.get("display_name") or run.get("run_id")
    config: dict[str, Any] = {}
    values: dict[str, Any] = {}
    rows: list[dict[str, float]] = []
    for record in records:
        content = record.get(record.get("type", ""), {})
        if record.get("type") in ("run", "config"):
            config |= (content if record["type"] == "config" else content.get("config", {})).get("update", {})
        elif record.get("type") == "summary":
            values |= content.get("update", {})
        elif record.get("type") == "history":
            rows.append(_row(content.get("item", {})))
    ending = next((record["exit"] for record in records if record.get("type") == "exit"), None)
    if ending is None:
        notes.append("W&B's record has no end: unfinished")
    elif ending.get("exit_code"):
        notes.append(f"ended with exit code {ending['exit_code']}")
    content = {
        "name": "/".join(part for part in (group, name) if part),
        "config": {key: config[key] for key in SECTIONS if key in config},
        "rows": rows,
        "summary": _summary(values, records, ending),
        "environment": {"git": {"revision": run["git"].get("commit")}} if run.get("git") else {},
        "tables": _tables(path / "files" / "media" / "table"),
    }
    return content, [*notes, "from W&B's record alone"]


def _records(file: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Records before the first that is broken."""
    offline = {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false"}
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)],
        capture_output=True,
        text=True,
        env=os.environ | offline,
        timeout=120,
        check=False,
    )
    if done.returncode and not done.stdout:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return [], [f"W&B's reader, wandb 0.31 or newer, could not read {file.name}: {said}"]
    return [json.loads(line) for line in done.stdout.splitlines()], []


def _tables(folder: Path) -> dict[str, list[dict[str, str]]]:
    """Tables by the names of their CSV files, such as val_keypoints; of several steps the last."""
    found: dict[str, tuple[int, list[dict[str, str]]]] = {}
    for file in folder.rglob("*.table.json"):
        match = TABLE.fullmatch(file.relative_to(folder).as_posix())
        if match is None:
            continue
        name, step = match[1].replace("/", "_"), int(match[2])
        if step >= found.get(name, (0, []))[0]:
            content = json.loads(file.read_text())
            rows = [dict(zip(content["columns"], map(str, row), strict=True)) for row in content["data"]]
            found[name] = (step, rows)
    return {name: rows for name, (_, rows) in found.items()}


def _row(item: dict[str, Any]) -> dict[str, float]:
    media = tuple(key.removesuffix("_type") for key in item if key.endswith("._type"))  # whose sizes are no metrics
    row = {key: float(value) for key, value in item.items() if not key.startswith(("_", *media)) and _is_number(value)}
    if "trainer/global_step" in row:
        row["step"] = row.pop("trainer/global_step")
    return row


def _summary(values: dict[str, Any], records: list[dict[str, Any]], ending: dict[str, Any] | None) -> dict[str, Any]:
    best = {key.removeprefix("best/"): value for key, value in values.items() if key.startswith("best/")}
    epoch = best.pop("epoch", None)
    memory = [record["stats"].get("item", {}).get("proc.memory.rssMB") for record in records if "stats" in record]
    found: dict[str, Any] = {
        "best": {key: float(value) for key, value in best.items() if _is_number(value)},
        "best_epoch": epoch,
        "seconds": ending.get("runtime") if ending else None,
        "peak_memory_bytes": int(max((value for value in memory if value), default=0) * 2**20) or None,
    }
    found |= {key: values.get(key) for key in ("epochs", "parameters", "multiply_adds", "monitor", "mode", "modes")}
    return {key: value for key, value in found.items() if value not in (None, {})}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

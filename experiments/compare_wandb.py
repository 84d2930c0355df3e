"""One run from W&B's own record of it, `wandb/offline-run-*/run-*.wandb`, which needs neither account nor network.

The file is read by the wandb package's reader, `wandb leet inspect --json`, which prints one record a line.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SECTIONS = ("model", "data", "trainer", "seed_everything", "checkpoint")


def is_wandb_run(path: Path) -> bool:
    """Whether W&B recorded a run in this folder, offline or online."""
    return path.name.startswith(("offline-run-", "run-")) and any(path.glob("run-*.wandb"))


def read_wandb_run(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Record of one run.

    Args:
        path: Folder with a file run-*.wandb.

    Returns:
        name, config (nested, as the YAML file's sections), rows (a dict of numbers for each history record), summary
        (with the keys of summary.json that W&B knows: `best`, `best_epoch`, `last`, `seconds`, `peak_memory_bytes`,
        the resident memory as W&B sampled it), environment; and notes of what is missing or broken.
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


def _row(item: dict[str, Any]) -> dict[str, float]:
    row = {key: float(value) for key, value in item.items() if not key.startswith("_") and _is_number(value)}
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
    return {key: value for key, value in found.items() if value not in (None, {})}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

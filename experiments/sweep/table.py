"""What a search has found: its trials as a table, best first, on the terminal and in `trials.csv`."""

import csv
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from tasks.draw import class_table, print_tables


def show(study: optuna.Study, trials: Sequence[FrozenTrial], folder: Path, metric: str) -> None:
    """Print the trials, best first, what mattered, and how to run the best again; write trials.csv."""
    if not trials:
        return
    lowest_first = study.direction == optuna.study.StudyDirection.MINIMIZE
    worst = float("inf") if lowest_first else float("-inf")

    def rank(trial: FrozenTrial) -> tuple[bool, float]:
        value = worst if trial.value is None else trial.value
        return trial.state != TrialState.COMPLETE, value if lowest_first else -value

    rows = []
    for trial in sorted(trials, key=rank):
        value = float("nan") if trial.value is None else trial.value
        row = {"trial": trial.number, "state": trial.state.name.lower(), metric: value}
        row |= {key: f"{v:.4g}" if isinstance(v, float) else v for key, v in trial.params.items()}
        rows.append({**row, "run": trial.user_attrs.get("run", ""), "error": trial.user_attrs.get("error", "")})
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with (folder / "trials.csv.part").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    (folder / "trials.csv.part").replace(folder / "trials.csv")
    short = [
        {key.rsplit(".", 1)[-1]: row.get(key, "") for key in columns if key not in ("run", "error")} for row in rows
    ]
    print_tables(class_table(short))
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if len(complete) >= 8 and len({trial.value for trial in complete}) > 1:
        importance = optuna.importance.get_param_importances(study)
        print("importance: " + ", ".join(f"{key} {share:.2f}" for key, share in importance.items()))
    if complete:
        best = folder / study.best_trial.user_attrs["run"]
        print(f"best: trial {study.best_trial.number}, {metric} {study.best_value:.4f}; run folder: {best}")

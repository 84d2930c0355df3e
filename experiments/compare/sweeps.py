"""Runs as a sweep: which settings differ, what was reached with them, and which setting explains it."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from experiments.compare.differences import Row, chosen
from experiments.compare.modes import Mode
from experiments.compare.runs import Run
from experiments.compare.statistics import explained
from experiments.compare.tables import SEED_KEY

FEWEST = 4
"""Runs from which on they are drawn as a sweep."""
MOST = 14  # settings, those with the most values; more axes cannot be read
RANKED = 6
"""Runs from which on it is said what explains the metric."""


@dataclass(frozen=True)
class Setting:
    """A key of the configuration.

    Args:
        key: As flags are written.
        values: A run each.
    """

    key: str
    values: Sequence[Any]

    @property
    def is_number(self) -> bool:
        """Whether all values are numbers."""
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values)

    def text(self, value: Any) -> str:
        """A value as it is written."""
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


@dataclass(frozen=True)
class Swept:
    """Runs that differ in their settings.

    Args:
        metric: That they are compared by.
        mode: Whether less or more of it is better, if anything says it.
        settings: That differ, the seed left out.
        reached: Value of the metric, a run each.
    """

    metric: str
    mode: Mode | None
    settings: Sequence[Setting]
    reached: Sequence[float]


def swept(runs: Sequence[Run], metrics: Sequence[str | None]) -> Swept | None:
    """The runs that reached something in the metric that most are compared by, if they are enough and differ.

    Args:
        runs: To look at.
        metrics: Of each, the one to compare by.
    """
    measured = [(run, metric) for run, metric in zip(runs, metrics, strict=True) if metric in run.best]
    if not measured:
        return None
    ((metric, _),) = Counter(metric for _, metric in measured).most_common(1)
    members = [run for run, own in measured if own == metric and run.config]
    if metric is None or len(members) < FEWEST:
        return None
    configs = [chosen(run) for run in members]
    keys = [key for key in configs[0] if key != SEED_KEY and all(key in config for config in configs)]
    found = [Setting(key, [config[key] for config in configs]) for key in keys]
    counts = {setting.key: len(set(map(setting.text, setting.values))) for setting in found}
    differing = [setting for setting in found if counts[setting.key] > 1]
    kept = sorted(differing, key=lambda setting: -counts[setting.key])[:MOST]
    settings = [setting for setting in differing if setting in kept]
    return Swept(metric, members[0].mode(metric), settings, [run.best[metric] for run in members]) if settings else None


def importance(found: Swept | None) -> list[Row]:
    """A row a setting, what explains most first; none of fewer than six runs."""
    if found is None or len(found.reached) < RANKED:
        return []
    rows = []
    for setting in found.settings:
        values = setting.values if setting.is_number else list(map(setting.text, setting.values))
        share = explained(values, found.reached)
        if share is not None:
            different = len(set(map(setting.text, setting.values)))
            rows.append({"key": setting.key, "explains": share, "values": different, "runs": len(found.reached)})
    return sorted(rows, key=lambda row: -row["explains"])

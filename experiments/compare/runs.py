"""Run folders as data: configuration, curves, summary, tables and per-sample scores, as far as a run has them.

`find_runs(["runs/pose_coco"])` -> folders, `read_run(folder)` -> `Run`. Whatever is missing or cut off is said in
`Run.notes` and never an error. Imports neither torch nor lightning, so that twenty runs are read in a second.
"""

import glob
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from experiments.cli.mistakes import Mistake
from experiments.compare.modes import MONITORS, Mode, checkpoint_monitor, is_rate, known_mode, recorded_modes
from experiments.compare.reading import ENVIRONMENT, SUMMARY, numbers, read_csv, read_mapping, scores, typed

FILES = ("config.yaml", "metrics.csv", "summary.json")
RUN_NAME = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")


class RunsError(Mistake):
    """A user's mistake in what is to be compared."""


@dataclass(frozen=True)
class Run:
    """What one run left behind.

    Args:
        path: Run folder.
        name: experiment/folder.
        config: Dotted keys without `init_args`; a `class_path` is its short name under the class's own key.
        environment: As environment.json; empty where there is none.
        rows: Of metrics.csv, numbers only, the evaluation of the best checkpoint after the training left out.
        summary: As summary.json; empty where there is none.
        tables: Name such as val_keypoints -> rows of predictions/*.csv, as text.
        samples: Name such as val or val_pose -> sample -> score.
        notes: What is missing or broken.
        monitor: Metric that chose the best checkpoint; None where nothing says it.
        modes: Metric -> min or max, as recorded, and as the user says.
        parts: Tasks by the names that they have in a joint run; none where no run was aligned with such.
    """

    path: Path
    name: str
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, float]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    samples: dict[str, dict[int, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    monitor: str | None = None
    modes: Mapping[str, Mode] = field(default_factory=dict)
    parts: tuple[str, ...] = ()

    @property
    def task(self) -> str | None:
        """Class of the task."""
        return self.config.get("model") or next((self.config.get(f"model.tasks.{part}") for part in self.parts), None)

    @property
    def data(self) -> str | None:
        """Class of the data."""
        return self.config.get("data") or next((self.config.get(f"data.data.{part}") for part in self.parts), None)

    @property
    def has_results(self) -> bool:
        """Whether anything was measured."""
        return bool(self.best or self.last or self.tables or self.samples)

    @property
    def given_name(self) -> str | None:
        """What the user called the run."""
        return self.environment.get("name") or self.config.get("wandb.name")

    @property
    def tags(self) -> list[str]:
        """Labels that the user gave it."""
        tags = self.environment.get("tags") or self.config.get("wandb.tags") or []
        return [str(tag) for tag in tags] if isinstance(tags, list) else [str(tags)]

    @property
    def remarks(self) -> str | None:
        """What the user noted about it."""
        return self.config.get("wandb.notes")

    @property
    def roots(self) -> list[str]:
        """Folders of its data, each once; a joint run may have several."""
        keys = [key for key in self.config if key.split(".")[0] == "data" and key.endswith(".root")]
        return list(dict.fromkeys(str(self.config[key]) for key in keys))

    def mode(self, metric: str) -> Mode | None:
        """Whether less (min) or more (max) of a metric is better; None where nothing says it."""
        return self.modes.get(metric) or known_mode(metric)

    @property
    def best(self) -> dict[str, float]:
        """Metrics of the best checkpoint; of an unfinished run those of the best epoch so far."""
        if self.summary.get("best"):
            return self.summary["best"]
        epoch = self.best_epoch
        return {} if epoch is None else self._at(epoch)

    @property
    def best_epoch(self) -> int | None:
        """Epoch, from 0, of `best`; None of an unfinished run if its monitored metric or the direction is unknown."""
        if self.summary.get("best") and self.summary.get("best_epoch") is not None:
            return int(self.summary["best_epoch"])
        points = self.curve(self.monitor) if self.monitor else []
        mode = self.mode(self.monitor) if self.monitor else None
        if not points or mode is None:
            return None
        choose = {"min": min, "max": max}[mode]
        return int(choose(points, key=lambda point: point[1])[0])

    @property
    def last(self) -> dict[str, float]:
        """Metrics at the end of the training, or the last that were written."""
        found: dict[str, float] = {}
        for row in self.rows:
            found |= row
        values = self.summary.get("last") or found
        return {key: value for key, value in values.items() if key not in ("epoch", "step") and not is_rate(key)}

    def curve(self, metric: str) -> list[tuple[float, float]]:
        """(epoch, value), the mean where a metric was written more than once an epoch; step where epochs are none."""
        by_epoch: dict[float, list[float]] = {}
        for row in self.rows:
            if metric in row:
                by_epoch.setdefault(row.get("epoch", row.get("step", 0.0)), []).append(row[metric])
        return [(epoch, sum(values) / len(values)) for epoch, values in sorted(by_epoch.items())]

    @property
    def metrics_of_epochs(self) -> set[str]:
        """Names of what has a curve."""
        return {key for row in self.rows for key in row} - {"epoch", "step"}

    def _at(self, epoch: int) -> dict[str, float]:
        found: dict[str, float] = {}
        for row in self.rows:
            if row.get("epoch", row.get("step")) == epoch:
                found |= {key: value for key, value in row.items() if key.startswith("val/")}
        return found


def find_runs(names: Iterable[str | Path]) -> list[Path]:
    """Run folders of names, globs and parent folders, each once, in the order named.

    Raises:
        RunsError: If a name stands for no run, or for W&B's own record of one.
    """
    found: dict[Path, Path] = {}
    for name in names:
        paths = [Path(path) for path in sorted(glob.glob(str(name)))] if glob.has_magic(str(name)) else [Path(name)]
        if not paths or not all(path.exists() for path in paths):
            raise RunsError(
                f"There is nothing at {name}; name run folders, a glob, or a folder such as runs/pose_coco."
            )
        if record := next((path for path in paths if _is_record(path)), None):
            raise RunsError(
                f"{record} is W&B's record of a run: name the run folder, which its folder `wandb` lies in."
            )
        runs = [run for path in paths for run in _runs_in(path)]
        if not runs:
            raise RunsError(
                f"There is no run in {name}: a run folder has {', '.join(FILES)}; python -m experiments.run makes one."
            )
        for run in runs:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def _is_record(path: Path) -> bool:
    """Whether W&B has kept a run here, offline or online: its own file, its folder, or the folder of these."""
    folder = path.parent if path.suffix == ".wandb" else path
    return any(folder.glob("run-*.wandb")) or (folder.name == "wandb" and any(folder.glob("*/run-*.wandb")))


def _runs_in(path: Path) -> list[Path]:
    if path.name in FILES:
        return [path.parent]
    if not path.is_dir():
        return []
    if any((path / name).is_file() for name in FILES) or RUN_NAME.fullmatch(path.name):
        return [path]
    children = sorted(child for child in path.iterdir() if child.is_dir() and not child.is_symlink())
    return [run for child in children for run in _runs_in(child)]


def read_run(path: Path, metric: str | None = None, modes: Mapping[str, Mode] = MappingProxyType({})) -> Run:
    """One run from its folder.

    Args:
        path: The folder.
        metric: Monitored where nothing says what is.
        modes: Metric -> min or max; instead of what is recorded.
    """
    path = Path(path)
    name = "/".join(path.resolve().parts[-2:])
    if not any((path / file).is_file() for file in FILES):
        return Run(path, name)
    notes: list[str] = []
    config = read_mapping(path / "config.yaml", lambda text: yaml.load(text, yaml.CSafeLoader), notes)
    summary = typed(read_mapping(path / "summary.json", json.loads, notes), SUMMARY, "summary.json", notes)
    environment = read_mapping(path / "environment.json", json.loads, notes)
    environment = typed(environment, ENVIRONMENT, "environment.json", notes)
    written = [row for row in read_csv(path / "metrics.csv", notes) if not row.get("best_checkpoint")]
    rows = _last_lives([numbers(row) for row in written])
    if not isinstance(summary.get("best", {}), dict):  # the monitored one alone, of earlier versions
        best = summary.pop("best")
        summary |= {"best": {summary["monitor"]: best}} if "monitor" in summary else {}
    tables = {file.stem: read_csv(file, notes) for file in sorted((path / "predictions").glob("*.csv"))}
    flat = flatten({key: value for key, value in config.items() if key != "config"})
    flat |= {key: str(flat[key]) for key in ("model", "data", "wandb.name") if flat.get(key) is not None}
    monitored = _monitored(path, summary, flat)
    monitor, mode = monitored or (metric, None)
    modes = {**({monitor: mode} if mode else {}), **recorded_modes(summary), **modes}
    samples = {name.removesuffix("_samples"): rows for name, rows in tables.items() if name.endswith("_samples")}
    run = Run(
        path,
        name,
        flat,
        environment,
        _training_only(rows, summary.get("epochs") or flat.get("trainer.max_epochs")),
        summary,
        {name: rows for name, rows in tables.items() if not name.endswith("_samples")},
        {name: scores(rows) for name, rows in samples.items()},
        tuple(notes),
        monitor,
        modes,
    )
    return replace(run, notes=(*notes, *_missing_direction(run)))


def _monitored(path: Path, summary: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[str, Mode | None] | None:
    """Metric that chooses the best checkpoint, and its direction where it is said with it."""
    if isinstance(summary.get("monitor"), str):
        return summary["monitor"], None
    task = config.get("model")
    return checkpoint_monitor(path) or ((MONITORS[task], None) if task in MONITORS else None)


def _missing_direction(run: Run) -> Iterator[str]:
    """Why an unfinished run with metrics has no best epoch."""
    measured = sorted({key for row in run.rows for key in row if key.startswith("val/")})
    if run.best or not measured:
        return
    if run.monitor is None:
        yield f"which metric is monitored is not recorded: say --metric {measured[0]}, or another"
    elif run.curve(run.monitor) and run.mode(run.monitor) is None:
        yield f"whether less or more of {run.monitor} is better is not recorded: say --mode {run.monitor}=min, or =max"


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Nested configuration -> dotted keys as flags may be written: `model: PoseTask`, `model.backbone.variant: w32`."""
    if not isinstance(config, dict) or not config:
        return {prefix: _plain(config)}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if key == "class_path":
            flat[prefix] = str(value).rsplit(".", 1)[-1]
        elif key == "init_args":
            flat |= flatten(value, prefix) if value else {}
        else:
            flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _plain(value: Any) -> Any:
    """1.0 and 1 are the same choice."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _last_lives(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """Without what a resumed run repeats: its rows stand below those of the life before, and count.

    Within a life steps do not fall.
    """
    kept: list[dict[str, float]] = []
    for row in rows:
        step = row.get("step", math.inf)
        if kept and step < kept[-1].get("step", -math.inf):
            kept = [other for other in kept if other.get("step", -math.inf) < step]
        kept.append(row)
    return kept


def _training_only(rows: list[dict[str, float]], epochs: Any) -> list[dict[str, float]]:
    """Without the evaluation of the best checkpoint, which stands at the epoch after the last."""
    if not isinstance(epochs, int | float) or epochs <= 0:
        return rows
    kept = [row for row in rows if row.get("epoch", 0) < epochs]
    return kept or rows

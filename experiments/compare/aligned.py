"""Joint runs beside runs of one task: what is the same gets the same name.

A run of one task that has the data and the class of a joint run's part is written as the joint run writes that part:
`val/AP` as `val/mouse/AP`, `model.num_keypoints` as `model.tasks.mouse.num_keypoints`, and its samples pair with those
of the part. What a joint run gives all its parts (backbone, optimiser) keeps its name.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from experiments.compare.runs import Run

FOR_ALL_PARTS = ("root", "image_size", "batch_size", "num_workers", "overfit")
"""Of joint data; where they are given they replace those of the parts."""
UNSET = (None, False)
Source = tuple[Any, ...]


def sources(run: Run, split: str = "val") -> dict[str, Source]:
    """Part -> class, root, annotations and images of a split: where equal, equal sample ids mean the same samples.

    A run of one task has the part without a name.
    """
    config = run.config
    names = _parts(config)
    ends = ("", ".root", f".annotations.{split}", f".images.{split}")
    if not names:
        return {"": tuple(config.get(f"data{end}") for end in ends)}
    found = {}
    for name in names:
        other = config[f"data.data.{name}"]  # or the name of the part whose data it shares
        prefix = f"data.data.{other if other in names else name}"
        cls, root, *others = (config.get(f"{prefix}{end}") for end in ends)
        found[name] = (cls, root if config.get("data.root") is None else config["data.root"], *others)
    return found


def source_of(run: Run, samples: str) -> Source | None:
    """Data of samples by their name, such as val or val_mouse."""
    split, _, part = samples.partition("_")
    return sources(run, split).get(part)


def align(runs: Sequence[Run]) -> list[Run]:
    """Runs of one task with the names of a joint run's part, where it is clear which; `parts` is set then.

    Args:
        runs: To compare; without joint runs among them they stay as they are.
    """
    joint = [run for run in runs if _parts(run.config)]
    named = [_part_of(run, joint) if run not in joint else None for run in runs]
    if not any(named):
        return list(runs)
    shared = {key.split(".")[1] for run in joint for key in run.config if key.startswith("model.")} - {"tasks"}
    aligned = []
    for run, name in zip(runs, named, strict=True):
        if name:
            run = _as_part(run, name, shared)
        elif run in joint:
            run = replace(run, config=_effective(run.config, shared), parts=tuple(_parts(run.config)))
        aligned.append(run)
    return aligned


def metric_of(run: Run, metric: str) -> str:
    """A metric by the name that it has in a run, as val/mouse/AP may be for val/AP."""
    split, _, name = metric.partition("/")
    ways = [f"{split}/{part}/{name}" for part in run.parts]
    found = [way for way in ways if way in run.best or way in run.last]
    return found[0] if len(found) == 1 and metric not in run.best | run.last else metric


def _parts(config: Mapping[str, Any]) -> list[str]:
    found = (re.fullmatch(r"data\.data\.([^.]+)", key) for key in config)
    return [match[1] for match in found if match]


def _part_of(run: Run, joint: Sequence[Run]) -> str | None:
    """The name of the parts of joint runs that a run is of, if all that fit have one name."""
    (source,) = sources(run).values()
    names = {
        name
        for other in joint
        for name, theirs in sources(other).items()
        if theirs == source and other.config.get(f"model.tasks.{name}") == run.config.get("model")
    }
    return names.pop() if len(names) == 1 else None


def _as_part(run: Run, part: str, shared: set[str]) -> Run:
    def metric(name: str) -> str:
        split, slash, rest = name.partition("/")
        return f"{split}/{part}/{rest}" if slash else name

    def table(name: str) -> str:
        split, line, rest = name.partition("_")
        return f"{split}_{part}{line}{rest}"

    def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
        return {metric(name): value for name, value in values.items()}

    summary = dict(run.summary)
    for key in ("best", "last", "modes"):
        if isinstance(summary.get(key), Mapping):
            summary[key] = renamed(summary[key])
    return replace(
        run,
        config={_key(key, part, shared): value for key, value in run.config.items()},
        rows=[renamed(row) for row in run.rows],
        summary=summary,
        tables={table(name): rows for name, rows in run.tables.items()},
        samples={table(name): scores for name, scores in run.samples.items()},
        monitor=run.monitor and metric(run.monitor),
        modes=renamed(run.modes),
        parts=(part,),
    )


def _key(key: str, part: str, shared: set[str]) -> str:
    first, _, rest = key.partition(".")
    if first == "data":
        return f"data.data.{part}" + (f".{rest}" if rest else "")
    if first == "model" and rest.split(".")[0] not in shared:
        return f"model.tasks.{part}" + (f".{rest}" if rest else "")
    return key


def _effective(config: Mapping[str, Any], shared: set[str]) -> dict[str, Any]:
    """A joint configuration with what its parts go by, and without what they have and do not use."""
    names, found = _parts(config), dict(config)
    for name in names:
        for key in shared:
            if found.get(f"model.tasks.{name}.{key}", "") in UNSET:
                del found[f"model.tasks.{name}.{key}"]
    for key in FOR_ALL_PARTS:
        value = found.pop(f"data.{key}", None)
        if value is not None:
            found |= {f"data.data.{name}.{key}": value for name in names}
    return found

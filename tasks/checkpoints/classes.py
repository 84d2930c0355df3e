"""A checkpoint's plain data -> the classes and arguments that make its task. No checkpoint chooses what is imported.

Classes of this package are stored by their names, others by the whole path to them. One that is not imported yet is
imported only if the user has named its module, or the run folder whose config.yaml names it.
"""

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from tasks.checkpoints.arguments import is_ours
from tasks.heatmaps import Codec
from tasks.task import Task


def subclasses(cls: type) -> dict[str, type]:
    """`cls` and all imported classes below it, by name."""
    return {found.__name__: found for found in _below(cls)}


def import_module(name: str) -> None:
    """Import a module that the user named, also from the current folder.

    Raises:
        ValueError: If there is none, or it cannot be imported.
    """
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.append(str(Path.cwd()))
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"The module {name} cannot be imported ({error}): go to the folder that it lies in, or name that in "
            "PYTHONPATH."
        ) from error


def _below(cls: type) -> Iterator[type]:
    yield cls
    children: list[type] = cls.__subclasses__()
    for child in children:
        yield from _below(child)


def class_named(name: str, checkpoint: str, run: Path | None = None, *, bases: Sequence[type] = (Task, Codec)) -> type:
    """The task or codec that a checkpoint names, or what else is below `bases`.

    Raises:
        ValueError: If it is not imported: a stranger's file must not choose what runs.
    """
    cls = _imported(name, bases)
    if cls is None and run is not None:
        for module in sorted(_modules_of_run(run, "model")):
            import_module(module)
        cls = _imported(name, bases)
    if cls is None:
        module, kinds = name.rpartition(".")[0], " or ".join(base.__name__.lower() for base in bases)
        raise ValueError(
            f"{checkpoint} needs the class {name!r}, which is no imported {kinds}. If you trust its module, "
            f"import it before loading (--import {module or 'MODULE'}), or name the run folder instead of the file."
        )
    return cls


def import_of_data(preparation: Any, run: Path) -> None:
    """Import the modules that a run folder names for its data, where the class that prepares images is of such a one.

    Args:
        preparation: Of the checkpoint, as DataModules say it of themselves.
        run: The run folder that the user named.
    """
    foreign = {path.rpartition(".")[0] for path in _class_paths(preparation) if "." in path}
    if foreign - set(sys.modules):
        for module in sorted(_modules_of_run(run, "data")):
            import_module(module)


def _imported(name: str, bases: Sequence[type]) -> type | None:
    """By its whole path, else by its name alone, ours first: a class may have moved since."""
    known = [cls for base in bases for cls in _below(base) if cls is not base]
    named = [cls for cls in known if cls.__name__ == name.rpartition(".")[2]]
    exact = [cls for cls in named if f"{cls.__module__}.{cls.__qualname__}" == name]
    ours = [cls for cls in named if is_ours(cls)] if "." not in name else []
    return next(reversed(exact or ours or named), None)  # of a class that a notebook defined twice, the second


def _modules_of_run(run: Path, section: str) -> set[str]:
    """Modules of the classes that the configuration of a run names for its model or data."""
    file = run / "config.yaml"
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not valid YAML: {error}") from error
    paths = _class_paths(content.get(section)) if isinstance(content, dict) else []
    return {path.rpartition(".")[0] for path in paths if "." in path}


def _class_paths(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("class_path"), str):
            yield value["class_path"]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _class_paths(item)


def made(value: Any, checkpoint: str, run: Path | None) -> Any:
    """Plain data as a checkpoint has them -> arguments; {class_path, init_args} becomes a codec, or what makes a task.

    Args:
        value: The data.
        checkpoint: What messages call it.
        run: The run folder that the user named, None for a file.

    Raises:
        ValueError: If a class is not imported.
    """
    if isinstance(value, dict) and "class_path" in value:
        cls = class_named(str(value["class_path"]), checkpoint, run)
        given = value.get("init_args") or {}
        if not isinstance(given, dict):
            raise ValueError(f"{checkpoint} has the arguments {str(given)[:60]!r} for {cls.__name__}, no mapping.")
        arguments = {key: made(item, checkpoint, run) for key, item in given.items()}
        return partial(cls, **arguments) if issubclass(cls, Task) else cls(**arguments)
    if isinstance(value, dict):
        return {key: made(item, checkpoint, run) for key, item in value.items()}
    return value


def merged(arguments: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a task with others over them; the backbone, codecs and tasks of a joint run change in parts."""
    return {**arguments, **{key: _replaced(key, arguments.get(key), value) for key, value in over.items()}}


def _replaced(key: str, old: Any, new: Any) -> Any:
    if isinstance(old, Mapping) and "class_path" in old:
        given: dict[str, Any] = {"class_path": new} if isinstance(new, str) else dict(new or {})
        if not {"class_path", "init_args"} & set(given):
            given = {"init_args": given}
        if given.get("class_path", old["class_path"]) != old["class_path"] or new is None:
            return new and {"init_args": {}, **given}
        return {**old, "init_args": merged(old["init_args"], given.get("init_args", {}))}
    if key in ("backbone", "tasks") and isinstance(old, Mapping) and isinstance(new, Mapping):
        return merged(old, new)
    return new


def names_weights(value: Any) -> bool:
    """Whether arguments of a task, its backbone or its tasks name weights to start from."""
    if not isinstance(value, dict):
        return False
    return any(item is not None if key == "weights" else names_weights(item) for key, item in value.items())


def without_weights(value: Any) -> Any:
    """Arguments without what a training started from: of the task, its backbone and the tasks of a joint run."""
    if not isinstance(value, dict):
        return value
    return {key: None if key == "weights" else without_weights(item) for key, item in value.items()}

"""Arguments of a task: the network made of its own, compared with the data, and plain data in checkpoints."""

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from hrnet import HRNet


def require_channels(backbone: HRNet, data: Any) -> None:
    """Compare the channels of a network's images with those of the data.

    Raises:
        ValueError: If they differ.
    """
    channels = getattr(data, "channels", backbone.in_channels)
    if channels != backbone.in_channels:
        raise ValueError(
            f"The network has in_channels {backbone.in_channels}, and the data give images of {channels} channels: set "
            f"model.init_args.backbone.in_channels to {channels}. Grey files are read as RGB, and images of more bands "
            "are not read; a DataModule of your own that gives others says so by `channels`."
        )


def built(backbone: HRNet | Mapping[str, Any]) -> HRNet:
    """The HRNet, made here if only its arguments are given.

    Not within a constructor: `save_hyperparameters` would take that one's arguments for the HRNet's own.
    """
    return HRNet(**backbone) if isinstance(backbone, Mapping) else backbone


def is_ours(cls: type) -> bool:
    """Whether a class is of this package."""
    return cls.__module__.partition(".")[0] == __name__.partition(".")[0]


def class_path(cls: type) -> str:
    """What checkpoints call a class: its name alone if it is of this package, else the whole path to it."""
    return cls.__name__ if is_ours(cls) else f"{cls.__module__}.{cls.__qualname__}"


def plain(value: Any) -> Any:
    """Constructor arguments -> numbers, strings, lists and dicts, so that checkpoints open with `weights_only=True`.

    Raises:
        TypeError: For anything that cannot be rebuilt from plain data.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, HRNet):
        return plain(value.hparams)
    if is_dataclass(value) and not isinstance(value, type):
        return {"class_path": class_path(type(value)), "init_args": plain(asdict(value))}
    raise TypeError(f"A task's arguments are stored in its checkpoints as plain data; {value!r} is not.")

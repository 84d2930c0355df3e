"""What passes between a task and what is around it: batches and facts of the data, and plain data for checkpoints."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from hrnet import HRNet

Batch = dict[str, Any]
Losses = dict[str, Tensor]
Predictions = Any


class Data(Protocol):
    """What tasks ask of their data beside batches: `datamodules` has all of it, other data what their task asks for."""

    num_classes: int | None
    class_names: Sequence[str]
    palette: Sequence[tuple[int, int, int]]
    label_flip_pairs: Sequence[tuple[int, int]]
    num_keypoints: int | None
    skeleton: Any

    def ground_truth(self, split: Any) -> dict[str, list]:
        """COCO's ground truth of a split: images, annotations, categories."""

    def subsets(self, split: Any) -> Mapping[str, Any]:
        """Parts of a split that are evaluated on their own too, as numbers of their instances, by name."""


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


def over_samples(losses: Callable[[Any, Batch], Losses], outputs: Any, batch: Batch) -> Losses:
    """Means of what `losses` gives of each sample by itself."""
    each = [losses(one(outputs, index), one(batch, index)) for index in range(len(batch["image"]))]
    return {name: torch.stack([found[name] for found in each]).mean() for name in each[0]}


def one(value: Any, index: int) -> Any:
    """A batch, its outputs or predictions -> those of one sample, as a batch of one."""
    if isinstance(value, Mapping):
        return {key: one(item, index) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(one(item, index) for item in value)
    return value[index : index + 1]

"""How an evaluated image becomes what the network sees: one object for data set, prediction and checkpoint.

The data set calls it on the images that it evaluates, prediction calls it on photos, and a checkpoint keeps it as
{class_path, init_args}, so that a trained network sees a photo as it saw the validation. Persons: `PersonCrop`; label
masks: `EvaluationSize`; classes: `CentreCrop`. A data set that prepares images in its own way derives a frozen
dataclass from one of these, or from `Preparer`, and gives it as its `preparer`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from datamodules.images.files import PLAIN, Reading


@dataclass(frozen=True)
class Preparer(ABC):
    """Image -> what the network sees; its arguments are numbers, strings and lists, which checkpoints can hold.

    Args:
        image_size: (height, width) in pixels of what the network sees, or what its size derives from.
        reading: How image files become pixels; `upright` is None where no image of the data carried an orientation.
    """

    image_size: tuple[int, int]
    reading: Reading = PLAIN

    @abstractmethod
    def __call__(self, image: np.ndarray, *box: np.ndarray) -> dict[str, Any]:
        """What a sample of the batch table has of an image: `image`, and of a person `to_image` too, the way back.

        Args:
            image: (H, W, 3) uint8 RGB.
            *box: Of pose, one box (4,) as x, y, width, height in pixels.
        """

    def to_dict(self) -> dict[str, Any]:
        """{class_path, init_args} of numbers, strings, lists and dicts, which checkpoints hold."""
        cls = type(self)
        ours = cls.__module__.partition(".")[0] == __name__.partition(".")[0]
        path = cls.__name__ if ours else f"{cls.__module__}.{cls.__qualname__}"
        return {"class_path": path, "init_args": _plain(asdict(self))}

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Self:
        """The preparer of arguments as checkpoints hold them, with lists for tuples."""
        values = {key: _tuple(value) for key, value in arguments.items()}
        reading = {key: _tuple(value) for key, value in values.pop("reading", {}).items()}
        return cls(**values, reading=Reading(**reading))


def _plain(value: Any) -> Any:
    """Tuples as lists."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value

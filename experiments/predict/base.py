"""What a task's file has: a view of photos and the result that predictions become, found by the task's class.

A view cuts samples out of a photo, as the data of the training prepared images for evaluation, and makes a result of
what the network says of them; `predictor.py` runs the network between. The result draws itself, and knows its rows of a
table and of COCO JSON. `pose.py`, `segmentation.py`, `classification.py` and `detection.py` are such files; another one
says likewise whose view it has:

    @view_of.register
    def _(task: MyTask) -> type[View]:
        return MyView
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import singledispatch
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.base import collate
from datamodules.images.preparer import Preparer
from experiments.config import ConfigError
from experiments.export.loaded import ExportedNetwork
from experiments.predict.media import Photo
from tasks import Task, class_named
from tasks.draw import grid
from tasks.losses import Batch

Sample = dict[str, Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """Base of all results; `photo` has the image, (H, W, 3) uint8 RGB, and its file.

    result.plot() is a Pillow image, which notebooks show; result.plot().save("overlay.jpg") keeps it.
    """

    photo: Photo
    saves: ClassVar[tuple[str, ...]] = ("overlays", "csv", "json")
    """What can be written of it; "masks" too, where there is `indexed`."""
    saves_by_default: ClassVar[tuple[str, ...]] = ("overlays", "csv", "json")

    def plot(self) -> Image.Image:
        """The prediction drawn over the photo."""
        raise NotImplementedError

    def frame(self) -> Image.Image:
        """`plot` for a video, whose frames are of one size."""
        return self.plot()

    def indexed(self) -> Image.Image:
        """A class for each pixel as an image with a palette, for PNG."""
        raise NotImplementedError

    def rows(self) -> list[dict[str, Any]]:
        """Rows of the CSV."""
        raise NotImplementedError

    def records(self, image_id: int) -> list[dict[str, Any]]:
        """Entries of the JSON; `image_id` where the photo has no id of its own."""
        raise NotImplementedError

    def where(self) -> dict[str, Any]:
        """Columns of the CSV that say which picture it is."""
        where = {"image": str(self.photo.path or self.photo.name), "frame": self.photo.frame, "time": self.photo.time}
        return {key: value for key, value in where.items() if value is not None}

    def file(self) -> dict[str, Any]:
        """The same for an entry of the JSON."""
        where = self.where()
        return {"file_name": Path(where.pop("image")).as_posix(), **where}

    def picture(self) -> Tensor:
        """The photo to draw on, (3, H, W) uint8."""
        return torch.tensor(self.photo.image).permute(2, 0, 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class JointResult(Result):
    """Results of a joint run, one a task."""

    parts: Mapping[str, Result]

    def plot(self) -> Image.Image:
        """The pictures of the tasks side by side."""
        pictures = [picture.plot() for picture in self.parts.values()]
        size = max(p.width for p in pictures), max(p.height for p in pictures)
        sheets = [Image.new("RGB", size, "white") for _ in pictures]
        for sheet, picture in zip(sheets, pictures, strict=True):
            sheet.paste(picture)
        return pillow(grid([[torch.from_numpy(np.array(sheet)).permute(2, 0, 1) for sheet in sheets]]))


def pillow(picture: Tensor) -> Image.Image:
    """(3, H, W) uint8 -> the same for Pillow."""
    return Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())


def rounded(share: float) -> float:
    """A score or share as files have it."""
    return round(float(share), 4)


Finish = Callable[[list[Any]], Result]


class View(ABC):
    """What a task sees of a photo, and what becomes of its predictions.

    Args:
        task: In eval mode.
        preparer: What images go through, as in the evaluation of the training.
        boxes: Where the persons of a photo are, for a view that `looks_into_boxes`; see `boxes.py`.
        max_pixels: Of a batch, beyond which a view may cut an image into tiles.
    """

    result: ClassVar[type[Result]]
    usual: ClassVar[type[Preparer]]
    """The preparer of a task whose checkpoint names none."""
    looks_into_boxes: ClassVar[bool] = False
    finds_boxes: ClassVar[bool] = False
    """Whether its result has `boxes` (N, 4) as corners, `scores` (N,), `labels` (N,) and `class_names`."""

    @abstractmethod
    def __init__(self, task: Any, preparer: Any, *, boxes: Callable[[Photo], Any], max_pixels: int) -> None: ...

    @classmethod
    def assumed(cls, task: Any) -> dict[str, Any]:
        """Arguments of the usual preparer where nothing is known of the training's."""
        return {}

    @abstractmethod
    def prepare(self, photo: Photo) -> tuple[list[Sample], Finish]:
        """Samples of a photo (none, one or many), and what makes its result of their predictions, in their order."""

    def batch(self, samples: list[Sample]) -> Batch:
        """Samples of one shape -> batch for the task."""
        return collate(samples)

    @abstractmethod
    def split(self, predictions: dict[str, Tensor]) -> list[Any]:
        """Predictions of a batch -> those of each sample."""


@singledispatch
def view_of(task: Task) -> type[View]:
    """The view of a task, which its file registers.

    Raises:
        ConfigError: If there is none.
    """
    known = ", ".join(sorted(cls.__name__ for cls in view_of.registry if cls is not object))
    raise ConfigError(
        f"There is no prediction on pictures for {type(task).__name__}: it has no view, and is none of {known}. "
        "experiments/predict/base.py says how a view is written."
    )


@view_of.register
def _(task: ExportedNetwork) -> type[View]:
    return view_of.dispatch(task.kind)(task)


def preparer_of(task: Task | ExportedNetwork, image_size: tuple[int, int] | None = None) -> Preparer:
    """What images go through for a trained task: what its checkpoint says, with another size if one is given.

    Raises:
        ConfigError: If no size is known, or the preparer is not as the checkpoint says.
        ValueError: If the preparer's class is not imported.
    """
    view, said = view_of(task), dict(task.preparation)
    if "class_path" in said:
        cls = class_named(str(said["class_path"]), f"The checkpoint of this {type(task).__name__}", bases=(Preparer,))
        values = dict(said.get("init_args", {}))
    else:  # arguments alone: a published checkpoint, or one from before preparers were stored
        cls, values = view.usual, view.assumed(task) | said
    if image_size is not None:
        values["image_size"] = image_size
    if "image_size" not in values:
        raise ConfigError(
            f"The size that {type(task).__name__} sees images at is not known, since it was not trained here: give "
            "image_size (height, width), such as 256 192."
        )
    if unknown := sorted(set(values) - {field.name for field in fields(cls)}):
        raise ConfigError(
            f"The data of {type(task).__name__} prepared images by {', '.join(unknown)}, which {cls.__name__} does not "
            "know: use the code that it was trained with."
        )
    try:
        return cls.of(values)
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"The checkpoint of this {type(task).__name__} prepares images by {cls.__name__} with {values}, which it "
            f"does not take ({error}): give image_size, or take another checkpoint."
        ) from error

"""Classes of photos: the centre crop, and the best classes with their probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from datamodules.classification.samples import CentreCrop
from datamodules.images.preparer import Preparer
from experiments.predict.base import Finish, Result, Sample, View, pillow, rounded, view_of
from experiments.predict.boxes import BoxSource, whole_image
from experiments.predict.media import Photo
from tasks import ClassificationTask
from tasks.draw import draw_labels


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassificationResult(Result):
    """The best classes of an image, five or as many as there are.

    Args:
        labels: (5,) classes, best first.
        probabilities: (5,) of them.
        names: (5,) of them.
    """

    saves_by_default: ClassVar[tuple[str, ...]] = ("overlays", "csv")

    labels: np.ndarray
    probabilities: np.ndarray
    names: Sequence[str]

    def plot(self) -> Image.Image:
        """The photo above its classes."""
        side = min(max(*self.photo.image.shape[:2], 224), 640)
        square = ImageOps.pad(Image.fromarray(self.photo.image), (side, side), color="white")
        lines = [f"{name} {share:.2f}" for name, share in zip(self.names, self.probabilities.tolist(), strict=True)]
        return pillow(draw_labels(pil_to_tensor(square)[None], [lines], side=side))

    def rows(self) -> list[dict[str, Any]]:
        """One row: the classes, best first."""
        row = self.where()
        for place, (name, share) in enumerate(zip(self.names, self.probabilities, strict=True), start=1):
            row |= {f"class_{place}": name, f"probability_{place}": rounded(share)}
        return [row]

    def records(self, image_id: int) -> list[dict[str, Any]]:
        """COCO has no format for this; its ids are used where they fit."""
        shares = [rounded(share) for share in self.probabilities]
        best = {"category_ids": self.labels.tolist(), "names": list(self.names), "scores": shares}
        return [{"image_id": image_id, **best, **self.file()}]


class ClassificationView(View):
    """The centre crop."""

    result, usual = ClassificationResult, CentreCrop

    def __init__(
        self, task: ClassificationTask, preparer: Preparer, *, boxes: BoxSource = whole_image, max_pixels: int = 0
    ) -> None:
        self.names = task.class_names or [str(i) for i in range(task.num_classes)]
        self.preparer = preparer

    def prepare(self, photo: Photo) -> tuple[list[Sample], Finish]:
        """One sample."""

        def finish(predictions: list[np.ndarray]) -> ClassificationResult:
            probabilities = predictions[0]
            best = np.argsort(-probabilities, kind="stable")[:5]
            names = [self.names[label] for label in best]
            return ClassificationResult(photo=photo, labels=best, probabilities=probabilities[best], names=names)

        return [self.preparer(photo.image)], finish

    def split(self, predictions: dict[str, Tensor]) -> list[np.ndarray]:
        """Probabilities (num_classes,)."""
        return list(predictions["probabilities"].float().cpu().numpy())


@view_of.register
def _(task: ClassificationTask) -> type[View]:
    return ClassificationView

"""What a prediction gives: typed results that draw themselves and know their rows of a table and of COCO JSON.

result.plot() is a Pillow image, which notebooks show; result.plot().save("overlay.jpg") keeps it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image, ImageOps
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor
from torchvision.utils import draw_bounding_boxes

from experiments.predict.media import Photo
from tasks.draw import draw_labels, draw_legend, draw_mask, draw_pose, grid

VISIBLE = 0.2  # key points that score more are drawn, and count in a person's score, as in COCO's evaluation of HRNet
STRIP = 512  # rows of an image that are coloured at once


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """Base of all results; `photo` has the image, (H, W, 3) uint8 RGB, and its file."""

    photo: Photo
    saves: ClassVar[tuple[str, ...]] = ("overlays", "csv", "json")
    """What can be written of it."""
    saves_by_default: ClassVar[tuple[str, ...]] = ("overlays", "csv", "json")

    def plot(self) -> Image.Image:
        """The prediction drawn over the photo."""
        raise NotImplementedError

    def frame(self) -> Image.Image:
        """`plot` for a video, whose frames are of one size."""
        return self.plot()

    def rows(self) -> list[dict[str, Any]]:
        """Rows of the CSV."""
        raise NotImplementedError

    def records(self, image_id: int) -> list[dict[str, Any]]:
        """Entries of the JSON; `image_id` where the photo has no id of its own."""
        raise NotImplementedError

    def _where(self) -> dict[str, Any]:
        where = {"image": str(self.photo.path or self.photo.name), "frame": self.photo.frame, "time": self.photo.time}
        return {key: value for key, value in where.items() if value is not None}

    def _tensor(self) -> Tensor:
        return torch.tensor(self.photo.image).permute(2, 0, 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class PoseResult(Result):
    """N persons.

    Args:
        keypoints: (N, K, 2) x, y in pixels of the photo.
        scores: (N, K) of the key points, about 0 to 1.
        boxes: (N, 4) that were looked into, x1, y1, x2, y2 in pixels.
        box_scores: (N,) of the boxes, in [0, 1].
        skeleton: Names and limbs of the K key points.
        image_id: Of the photo, where the source of the boxes has ids, as it writes them.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    box_scores: np.ndarray
    skeleton: Mapping[str, Any]
    image_id: Any = None

    @property
    def person_scores(self) -> np.ndarray:
        """(N,) score of the box times the mean over its key points above 0.2, as COCO's evaluation ranks persons."""
        counted = self.scores > VISIBLE
        return self.box_scores * (self.scores * counted).sum(1) / np.maximum(counted.sum(1), 1)

    def plot(self, threshold: float = VISIBLE) -> Image.Image:
        """Skeletons and boxes; key points that score above `threshold`."""
        picture = self._tensor()
        if len(self.boxes):
            picture = draw_bounding_boxes(picture, torch.from_numpy(self.boxes), colors="white", width=1)
        for points, shown in zip(self.keypoints, self.scores > threshold, strict=True):
            picture = draw_pose(picture, torch.from_numpy(points), torch.from_numpy(shown), self.skeleton, scale=1)
        return _pillow(picture)

    def rows(self) -> list[dict[str, Any]]:
        """A pose a row: scores, box, and x, y, score of each key point by name."""
        rows = []
        for person, score in enumerate(self.person_scores):
            box = dict(zip(("x1", "y1", "x2", "y2"), _rounded(self.boxes[person]), strict=True))
            row = self._where() | {"instance": person, "score": _round(score)} | box
            row["box_score"] = _round(self.box_scores[person])
            for k, name in enumerate(self.skeleton["names"]):
                x, y = _rounded(self.keypoints[person, k])
                row |= {f"{name}_x": x, f"{name}_y": y, f"{name}_score": _round(self.scores[person, k])}
            rows.append(row)
        return rows

    def records(self, image_id: int) -> list[dict[str, Any]]:
        """COCO key-point results: x, y, score of each point in turn, box as x, y, width, height."""
        triplets = np.concatenate([self.keypoints, self.scores[..., None]], axis=2).reshape(
            len(self.boxes), 3 * self.scores.shape[1]
        )
        boxes = np.concatenate([self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]], axis=1)
        return [
            {
                "image_id": image_id if self.image_id is None else self.image_id,
                "category_id": 1,
                "keypoints": _rounded(points),
                "score": _round(score),
                "bbox": _rounded(box),
                **_file(self._where()),
            }
            for points, score, box in zip(triplets, self.person_scores, boxes, strict=True)
        ]


@dataclass(frozen=True, eq=False, kw_only=True)
class SegmentationResult(Result):
    """A class for each pixel.

    Args:
        mask: (H, W) uint8, classes, at the size of the photo.
        class_names: Names of the classes.
        palette: (r, g, b), 0 to 255, of each class.
    """

    saves: ClassVar[tuple[str, ...]] = ("overlays", "csv", "json", "masks")
    saves_by_default: ClassVar[tuple[str, ...]] = ("overlays", "csv", "masks")

    mask: np.ndarray
    class_names: Sequence[str]
    palette: Sequence[Sequence[int]]

    def plot(self) -> Image.Image:
        """Classes as colours, and the names of those that occur."""
        return self._plot(np.flatnonzero(self._counts()).tolist())

    def frame(self) -> Image.Image:
        """The same with the names of all classes, so that the height stays."""
        return self._plot(list(range(len(self.class_names))))

    def indexed(self) -> Image.Image:
        """The mask as an image of class ids with the palette, for PNG."""
        image = Image.fromarray(self.mask)
        image.putpalette(np.asarray(self.palette, np.uint8).tobytes())
        return image

    def rows(self) -> list[dict[str, Any]]:
        """A class a row, those that occur: its pixels and their share of the image."""
        counts = self._counts()
        return [
            {
                **self._where(),
                "label": label,
                "name": self.class_names[label],
                "pixels": int(counts[label]),
                "share": _round(counts[label] / self.mask.size),
            }
            for label in np.flatnonzero(counts).tolist()
        ]

    def records(self, image_id: int) -> list[dict[str, Any]]:
        """COCO stuff results: a run-length encoded mask for each class that occurs; category_id is the class."""
        records = []
        for label in np.flatnonzero(self._counts()).tolist():
            code = coco_mask.encode(np.asfortranarray(self.mask == label, np.uint8))
            code["counts"] = code["counts"].decode()
            record = {"image_id": image_id, "category_id": label, "segmentation": code, "score": 1.0}
            records.append(record | _file(self._where()))
        return records

    def _counts(self) -> np.ndarray:
        return np.bincount(self.mask.ravel(), minlength=len(self.class_names))

    def _plot(self, labels: Sequence[int]) -> Image.Image:
        image, mask = self._tensor(), torch.from_numpy(self.mask)
        # In strips, since colours are blended in float.
        strips = [
            draw_mask(image[:, top : top + STRIP], mask[top : top + STRIP], self.palette)
            for top in range(0, len(mask), STRIP)
        ]
        names, colours = [self.class_names[i] for i in labels], [self.palette[i] for i in labels]
        return _pillow(torch.cat([*strips, draw_legend(names, colours, image.shape[-1])], dim=1))


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
        return _pillow(draw_labels(pil_to_tensor(square)[None], [lines], side=side))

    def rows(self) -> list[dict[str, Any]]:
        """One row: the classes, best first."""
        row = self._where()
        for place, (name, share) in enumerate(zip(self.names, self.probabilities, strict=True), start=1):
            row |= {f"class_{place}": name, f"probability_{place}": _round(share)}
        return [row]

    def records(self, image_id: int) -> list[dict[str, Any]]:
        """COCO has no format for this; its ids are used where they fit."""
        shares = [_round(share) for share in self.probabilities]
        best = {"category_ids": self.labels.tolist(), "names": list(self.names), "scores": shares}
        return [{"image_id": image_id, **best, **_file(self._where())}]


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
        return _pillow(grid([[torch.from_numpy(np.array(sheet)).permute(2, 0, 1) for sheet in sheets]]))


def _pillow(picture: Tensor) -> Image.Image:
    return Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())


def _file(where: dict[str, Any]) -> dict[str, Any]:
    return {"file_name": Path(where["image"]).as_posix(), **{k: v for k, v in where.items() if k != "image"}}


def _round(value: float) -> float:
    return round(float(value), 4)


def _rounded(values: np.ndarray) -> list[float]:
    return np.round(values.astype(np.float64), 3).tolist()

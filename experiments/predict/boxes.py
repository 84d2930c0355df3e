"""Where a pose prediction takes its person boxes from: a source is any callable, photo -> Boxes.

whole_image | box_array([[10, 20, 110, 320]]) | CocoBoxes("person_keypoints_val2017.json") | TorchvisionDetector(...)
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torchvision.models import detection as torchvision_detection
from torchvision.models import get_model, list_models

from datamodules.base import DataError
from datamodules.images.names import plain_spelling
from datamodules.keypoints.coco_file import read_annotations
from datamodules.keypoints.columns import Id, identifier, read_json
from datamodules.keypoints.detections import person_labels, read_detections
from datamodules.keypoints.table import PersonTable
from datamodules.skeleton import Skeleton
from experiments.cli.mistakes import did_you_mean, nearest
from experiments.config import ConfigError
from experiments.predict.media import Photo
from hrnet.checkpoints import read_file

BOX_THRESHOLD = 0.5  # of a detector's boxes those with a lower score are not posed
PERSON = 1  # in COCO's categories, and so in torchvision's detectors


class Boxes(NamedTuple):
    """N persons of a photo; boxes as corners, x1, y1, x2, y2 in pixels of the photo."""

    corners: np.ndarray  # (N, 4) float64
    scores: np.ndarray  # (N,) in [0, 1]
    image_id: Any = None  # where the source has ids, as it writes them


BoxSource = Callable[[Photo], Boxes]


def whole_image(photo: Photo) -> Boxes:
    """One box, the image: for pictures of one person."""
    height, width = photo.image.shape[:2]
    return Boxes(np.array([[0, 0, width - 1, height - 1]], np.float64), np.ones(1))


def found_boxes(photo: Photo) -> Boxes:
    """Those that a network has found on the way to here."""
    return photo.boxes


def persons_of(result: Any, threshold: float) -> Boxes:
    """The persons among what a detection task has found on a photo.

    Args:
        result: Of a view that `finds_boxes`.
        threshold: Boxes with a lower score are left out.
    """
    sized = (result.boxes[:, 2:] > result.boxes[:, :2]).all(axis=1)
    keep = np.isin(result.labels, person_labels(result.class_names)) & (result.scores >= threshold) & sized
    # Detections are edges of what they hold; boxes of persons are told by the pixels that they reach.
    return Boxes(result.boxes[keep].astype(np.float64), result.scores[keep].astype(np.float64))


def box_array(boxes: Any) -> BoxSource:
    """Source of the same boxes for every photo: (N, 4) x1, y1, x2, y2 in pixels.

    Raises:
        ValueError: If they have another shape, or no width or height.
    """
    corners = np.asarray(boxes, np.float64).reshape(-1, 4) if np.size(boxes) % 4 == 0 else None
    if corners is None or not (np.isfinite(corners).all() and (corners[:, 2:] > corners[:, :2]).all()):
        raise ValueError(f"Boxes are (N, 4) as x1, y1, x2, y2 with x1 < x2 and y1 < y2; got {boxes!r}.")
    return lambda photo: Boxes(corners, np.ones(len(corners)))


class CocoBoxes:
    """Boxes of a COCO file: annotations (the persons that validation evaluates), or results of a detector.

    Args:
        path: Annotations, an object with images, annotations, categories; or results, a list of image_id, category_id,
            bbox, score.
        skeleton: Of the task.
        annotations: With results: a file whose `images` say which file has which id. Without it, an image's id is its
            file's name without ending: a number, as in COCO, or a text.
        threshold: Results with a lower score are left out.

    Raises:
        DataError: If a file is not as described.
    """

    def __init__(
        self, path: str | Path, skeleton: Skeleton, *, annotations: str | Path | None = None, threshold: float = 0.0
    ) -> None:
        self.path = Path(path)
        self.images: PersonTable | None = None if annotations is None else _annotations(Path(annotations), skeleton)
        if _holds_results(self.path):
            found = read_detections(self.path, self.images, threshold)
            image_ids, boxes, self.scores = found.image_ids, found.boxes, found.scores
        else:
            self.images = _annotations(self.path, skeleton)
            rows = _persons(self.images)
            image_ids = [self.images.image_ids[row] for row in self.images.images[rows].tolist()]
            boxes, self.scores = self.images.clean_boxes()[rows], np.ones(len(rows))
        self.corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        self._boxes_by_image: dict[Id | None, list[int]] = {}
        for box, image_id in enumerate(image_ids):
            self._boxes_by_image.setdefault(identifier(image_id), []).append(box)
        self._image_ids = image_ids
        self._rows_by_name: dict[str, list[int]] = {}
        for row, name in enumerate([] if self.images is None else self.images.file_names.tolist()):
            self._rows_by_name.setdefault(Path(plain_spelling(name)).name, []).append(row)

    def __call__(self, photo: Photo) -> Boxes:
        """The boxes of the photo, found by its file's name; raises DataError where the file does not know it."""
        image_id = self._image_id(photo.path)
        rows = self._boxes_by_image.get(identifier(image_id), [])
        if self.images is None and rows:
            image_id = self._image_ids[rows[0]]
        return Boxes(self.corners[rows], self.scores[rows], image_id)

    def image_size(self, path: Path) -> tuple[int, int] | None:
        """Annotated (height, width) of an image, None where that is not known."""
        row = self._row(path)
        return None if row is None else tuple(self.images.image_sizes[row].tolist())

    def _row(self, path: Path) -> int | None:
        here = Path(plain_spelling(str(path.absolute())))
        for row in self._rows_by_name.get(here.name, []):
            parts = Path(plain_spelling(str(self.images.file_names[row]))).parts
            if here.parts[-len(parts) :] == parts:
                return row
        return None

    def _image_id(self, path: Path | None) -> Any:
        row = None if path is None else self._row(path)
        if row is not None:
            return self.images.image_ids[row]
        if self.images is not None or path is None:
            raise DataError(f"{self.images.path if self.images else self.path} has no image {path}: no boxes for it.")
        image_id = identifier(path.stem)
        if isinstance(image_id, int) or any(isinstance(key, str) for key in self._boxes_by_image):
            return image_id
        raise DataError(
            f"{self.path} names images by numbers, and the name of {path} is none: name a COCO file that has its id by "
            "--annotations."
        )


def _annotations(path: Path, skeleton: Skeleton) -> PersonTable:
    return read_annotations(path, skeleton).accepted()


def _holds_results(path: Path) -> bool:
    return isinstance(read_json(path), list)


def _persons(annotations: PersonTable) -> np.ndarray:
    """Rows that validation evaluates; in a file without key points all persons with a box that are no crowd."""
    if annotations.visible.any():
        return annotations.usable()
    boxed = (annotations.clean_boxes()[:, 2:] > 0).any(axis=1)
    return np.flatnonzero(boxed & ~annotations.crowd)


class TorchvisionDetector:
    """A detector of torchvision with weights that you have as a file.

    Args:
        name: Such as fasterrcnn_resnet50_fpn.
        weights: The file, from https://pytorch.org/vision/stable/models.html (91 COCO classes).
        device: To run on.
        threshold: Boxes with a lower score are left out.

    Raises:
        ConfigError: If there is no such detector, or the file does not fit it.
    """

    def __init__(
        self, name: str, weights: str | Path, *, device: torch.device, threshold: float = BOX_THRESHOLD
    ) -> None:
        known = list_models(module=torchvision_detection)
        if name not in known:
            hint = did_you_mean(nearest(name, known))
            raise ConfigError(f"torchvision has no detector {name!r}{hint} It has: {', '.join(known)}.")
        self.detector = get_model(name, weights=None, weights_backbone=None)
        try:
            self.detector.load_state_dict(read_file(Path(weights)))
        except OSError as error:
            raise ConfigError(f"The detector's weights {weights} cannot be read ({error.strerror}).") from error
        except (RuntimeError, TypeError, AttributeError) as error:
            said = str(error).splitlines()[0]
            raise ConfigError(
                f"{weights} does not fit torchvision's {name} ({said}): name the file's detector."
            ) from error
        self.detector.eval().requires_grad_(False).to(device)
        self.device, self.threshold = device, threshold

    @torch.inference_mode()
    def __call__(self, photo: Photo) -> Boxes:
        """Persons in the photo, best first."""
        image = torch.tensor(photo.image).to(self.device).permute(2, 0, 1).float() / 255
        found = {key: value.cpu().double().numpy() for key, value in self.detector([image])[0].items()}
        sized = (found["boxes"][:, 2:] > found["boxes"][:, :2]).all(axis=1)
        keep = (found["labels"] == PERSON) & (found["scores"] >= self.threshold) & sized
        return Boxes(found["boxes"][keep], found["scores"][keep])

"""Predict with a trained task on pictures of your own.

predictor = Predictor("runs/pose_coco/20260101-120000-abcdef")     # or a checkpoint, an exported file, or a Task
result = predictor("photo.jpg")                                    # or an array, a Pillow image, a tensor, a list
result.plot()                                                      # shows in a notebook; result.keypoints, .mask, ...
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import tasks
from datamodules.base import DataError
from datamodules.images.files import Reading
from experiments.config import ConfigError
from experiments.export.loaded import ExportedNetwork, is_exported
from experiments.predict import classification, detection, pose, segmentation  # noqa: F401, each says whose view it has
from experiments.predict.base import Finish, JointResult, Result, Sample, View, preparer_of, view_of
from experiments.predict.boxes import BOX_THRESHOLD, BoxSource, CocoBoxes, found_boxes, persons_of, whole_image
from experiments.predict.media import Failure, Photo, Source, pixels_of, read_photo, read_photos
from experiments.predict.runtime import Network, Precision, Runtime, checked, network_for
from hrnet import for_inference
from tasks import Task

MAX_PIXELS = 2**22
DETECTOR = "(detector)"  # a network that only finds boxes for another one; no task of a run is called so
WAITING_PIXELS = 2**26  # of photos that wait for their batch to fill; 200 MB
Picture = str | Path | np.ndarray | Image.Image | Tensor


class Predictor:
    """A task, folded for inference, with what its run knows of preparing images.

    Args:
        source: Run folder, checkpoint (a published one too), timm name, file of `experiments.export`, or task;
            `tasks.load` takes arguments beside.
        image_size: (height, width) that crops and classified images are brought to; that of the evaluation in
            training when not given.
        boxes: Where pose takes persons from: a callable, photo -> Boxes. When not given, from the detection task of
            the same run, or of `detector`; without either the whole image is one box.
        detector: Run folder, checkpoint or task that finds the persons for a run which cannot.
        box_threshold: Of a network's boxes those with a lower score are not posed.
        runtime: What computes the network: torch, compile (torch.compile), onnx or openvino; auto times those that are
            installed on the first batch, takes the fastest with the same results and says so. When not given, torch
            for a task and auto for an exported file.
        precision: float32, bf16, or int8 for files that were quantised; what the file holds when not given.
        device: Such as "cuda:1"; a GPU if there is one.
        batch_size: Samples that pass the network at once: crops of persons of several photos, images of one size.
        max_pixels: Of a batch, and of a segmented image; a larger one is cut into tiles.
        upright: Turn photos as their EXIF orientation says; as in training when not given, and where that saw no such
            photo, turned. An annotated size that fits in one way alone decides itself.
        pixel_limit: Larger files are refused before they are decoded; as in training when not given.

    Raises:
        ConfigError: If the size is not known, there is no prediction for such a task, the tasks of a joint run were
            trained on images that were read in different ways, or a runtime cannot do what is asked.
        ValueError: If the source is no checkpoint of a task, or what prepared its images is not imported.
    """

    def __init__(
        self,
        source: str | Path | Task | ExportedNetwork,
        *,
        image_size: tuple[int, int] | None = None,
        boxes: BoxSource | None = None,
        detector: str | Path | Task | None = None,
        box_threshold: float = BOX_THRESHOLD,
        runtime: Runtime | None = None,
        precision: Precision | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 16,
        max_pixels: int = MAX_PIXELS,
        upright: bool | None = None,
        pixel_limit: int | None = None,
    ) -> None:
        if min(batch_size, max_pixels, *(image_size or ())) < 1:
            given = f"batch_size {batch_size}, max_pixels {max_pixels} and image_size {image_size}"
            raise ConfigError(f"{given} must be at least 1.")
        task = _loaded(source)
        runtime, precision, self.device = checked(task, runtime, precision, device)
        self._size_of = boxes.image_size if isinstance(boxes, CocoBoxes) else lambda path: None
        singles = task.singles()
        self.names, self.finder, self.box_threshold = list(singles), None, box_threshold
        if boxes is None and any(view_of(single).looks_into_boxes for single in singles.values()):
            if detector is not None:
                singles[DETECTOR] = _finder_of(_loaded(detector).singles(), detector)
            self.finder = next(
                (name for name, single in reversed(singles.items()) if view_of(single).finds_boxes), None
            )
        elif detector is not None:
            raise ConfigError("A detector is for pose, which looks into boxes, and where no boxes are given.")
        boxes = boxes or (whole_image if self.finder is None else found_boxes)
        sizes = {name: None if name == DETECTOR else image_size for name in singles}
        preparers = {name: preparer_of(single, sizes[name]) for name, single in singles.items()}
        self.reading = _reading([preparer.reading for preparer in preparers.values()], upright, pixel_limit)
        views = {
            name: view_of(single)(single, preparers[name], boxes=boxes, max_pixels=max_pixels)
            for name, single in singles.items()
        }
        self.parts = {
            name: _Part(network, views[name], batch_size, max_pixels)
            for name, network in self._networks(singles, runtime, precision).items()
        }

    def _networks(
        self, singles: Mapping[str, Task | ExportedNetwork], runtime: str, precision: str
    ) -> dict[str, Network]:
        """What answers for each task; a detector beside an exported file, or beside int8, is run by torch."""
        files = {name: single for name, single in singles.items() if isinstance(single, ExportedNetwork)}
        others = {name: single for name, single in singles.items() if name not in files}
        # Together, so that tasks with one backbone still share it.
        rewritten = for_inference(nn.ModuleList(others.values())).to(self.device)
        fast = dict(zip(others, rewritten, strict=True))
        found = {name: network_for(name, one, None, runtime, precision, self.device) for name, one in files.items()}
        if files:
            return found | fast
        return {
            name: network_for(name, one, fast[name], runtime, precision, self.device) for name, one in others.items()
        }

    def __call__(self, pictures: Picture | list[Picture]) -> Result | list[Result]:
        """Result of a picture, or those of a list.

        Args:
            pictures: A path; or pixels: array (H, W, 3) or (H, W) RGB or grey, Pillow image, tensor (3, H, W) or
                (H, W), of uint8 or of what the data sets read too: 16 bits, or values of the range of the training.

        Raises:
            DataError: If a file cannot be read, or has no boxes where they are looked up.
            ValueError: If an array or tensor is none of those.
        """
        several = isinstance(pictures, list)
        results = []
        for result in self.stream(self._photo(picture) for picture in (pictures if several else [pictures])):
            if isinstance(result, Failure):
                raise result.error
            results.append(result)
        return results if several else results[0]

    def files(self, sources: Sequence[Source]) -> Iterator[Result | Failure]:
        """Results of images and videos, frame by frame; see `stream`."""
        return self.stream(
            read_photos(sources, upright=self.reading.upright, size_of=self._size_of, reading=self.reading)
        )

    def stream(self, photos: Iterable[Photo | Failure]) -> Iterator[Result | Failure]:
        """Results of photos, in order, as they get ready; memory is that of some batches, however long it goes on.

        Failures pass through in their places; a photo whose boxes are not known becomes one.
        """
        streams: dict[str, Iterator[Result | Failure]] = {}
        if self.finder is not None:
            streams[self.finder], found = tee(self.parts[self.finder].stream(photos))
            photos = self._with_boxes(found)
        others = [name for name in self.names if name not in streams]
        branches = zip(others, tee(photos, len(others)), strict=True)
        streams |= {name: self.parts[name].stream(branch) for name, branch in branches}
        if self.names == [""]:
            yield from streams[""]
            return
        for results in zip(*(streams[name] for name in self.names), strict=True):
            failure = next((result for result in results if isinstance(result, Failure)), None)
            yield failure or JointResult(photo=results[0].photo, parts=dict(zip(self.names, results, strict=True)))

    def _with_boxes(self, found: Iterable[Result | Failure]) -> Iterator[Photo | Failure]:
        """The photos with the persons that were found on them."""
        for result in found:
            if isinstance(result, Failure):
                yield result
            else:
                yield replace(result.photo, boxes=persons_of(result, self.box_threshold))

    def _photo(self, picture: Picture) -> Photo:
        if isinstance(picture, str | Path):
            path = Path(picture).expanduser()
            how = {"upright": self.reading.upright, "size": self._size_of(path), "reading": self.reading}
            return read_photo(path, path.stem, **how)
        return Photo(_pixels(picture, self.reading))


def _loaded(source: str | Path | Task | ExportedNetwork) -> Task | ExportedNetwork:
    if is_exported(source):
        return ExportedNetwork(source)
    return tasks.load(source) if isinstance(source, str | Path) else source


def _finder_of(singles: Mapping[str, Task | ExportedNetwork], source: str | Path | Task) -> Task | ExportedNetwork:
    """The task of a run that finds boxes."""
    for single in singles.values():
        if view_of(single).finds_boxes:
            return single
    kinds = ", ".join(type(single).__name__ for single in singles.values())
    raise ConfigError(f"{source} is no detector: it has {kinds}. Name a run of a DetectionTask.")


@dataclass
class _Waiting:
    """A photo whose predictions are not complete, or the failure in its place."""

    finish: Finish | None
    predictions: list[Any]
    missing: int
    pixels: int = 0
    failure: Failure | None = None


class _Part:
    """One network and its view of photos."""

    def __init__(self, task: Network, view: View, batch_size: int, max_pixels: int) -> None:
        self.task, self.view, self.batch_size, self.max_pixels = task, view, batch_size, max_pixels

    def stream(self, photos: Iterable[Photo | Failure]) -> Iterator[Result | Failure]:
        """See `Predictor.stream`. Samples wait by shape until a batch is full, or too many photos wait."""
        queue: deque[_Waiting] = deque()
        shapes: dict[tuple, list[tuple[Sample, _Waiting, int]]] = {}
        pixels = 0
        for photo in photos:
            entry, samples = self._entry(photo)
            queue.append(entry)
            pixels += entry.pixels
            for place, sample in enumerate(samples):
                shape = (*sample["image"].shape[:2], *sample.get("size", ()))
                waiting = shapes.setdefault(shape, [])
                waiting.append((sample, entry, place))
                if len(waiting) >= self._full(shape):
                    self._run(shapes.pop(shape))
            while queue and (queue[0].missing == 0 or pixels > WAITING_PIXELS):
                if queue[0].missing:
                    self._run(shapes.pop(next(s for s, waiting in shapes.items() if waiting[0][1] is queue[0])))
                else:
                    pixels -= queue[0].pixels
                    yield _finished(queue.popleft())
        for waiting in shapes.values():
            self._run(waiting)
        while queue:
            yield _finished(queue.popleft())

    def _entry(self, photo: Photo | Failure) -> tuple[_Waiting, list[Sample]]:
        if isinstance(photo, Failure):
            return _Waiting(None, [], 0, failure=photo), []
        try:
            samples, finish = self.view.prepare(photo)
        except DataError as error:
            return _Waiting(None, [], 0, failure=Failure(photo.path, error)), []
        pixels = photo.image.shape[0] * photo.image.shape[1]
        return _Waiting(finish, [None] * len(samples), len(samples), pixels), samples

    def _full(self, shape: tuple[int, ...]) -> int:
        largest = max(height * width for height, width in zip(shape[::2], shape[1::2], strict=True))
        return max(1, min(self.batch_size, self.max_pixels // largest))

    @torch.inference_mode()
    def _run(self, waiting: list[tuple[Sample, _Waiting, int]]) -> None:
        batch = self.view.batch([sample for sample, _, _ in waiting])
        batch = {key: value.to(self.task.device) for key, value in batch.items()}
        found = self.view.split(self.task.predict(self.task.outputs(batch), batch))
        for (_, entry, place), prediction in zip(waiting, found, strict=True):
            entry.predictions[place] = prediction
            entry.missing -= 1


def _finished(entry: _Waiting) -> Result | Failure:
    return entry.failure or entry.finish(entry.predictions)


def _reading(trained: list[Reading], upright: bool | None, pixel_limit: int | None) -> Reading:
    """How the photos of a prediction are read: once for all tasks, as each was trained."""
    ways = {reading.upright for reading in trained} - {None} if upright is None else {upright}
    ranges = {reading.value_range for reading in trained}
    if len(ways) > 1:
        raise ConfigError(
            "One task of this run was trained on images turned as EXIF says, another on stored pixels: choose by "
            "upright, --as_shown or --as_stored."
        )
    if len(ranges) > 1:
        raise ConfigError(
            f"The tasks of this run were trained on images of different value ranges, {sorted(ranges, key=str)}: "
            "predict with one task at a time."
        )
    limit = max(reading.pixel_limit for reading in trained) if pixel_limit is None else pixel_limit
    return Reading(next(iter(ways), None), next(iter(ranges)), limit).checked()


def _pixels(picture: np.ndarray | Image.Image | Tensor, reading: Reading) -> np.ndarray:
    """(H, W, 3) uint8 RGB."""
    values = picture
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
        values = values.transpose(1, 2, 0) if values.ndim == 3 else values
    try:
        if not isinstance(values, np.ndarray | Image.Image):
            raise DataError("It is none of these.")
        image = pixels_of(values, upright=reading.upright is not False, reading=reading)
    except DataError as error:
        found = f"{picture.dtype} {tuple(picture.shape)}" if isinstance(picture, np.ndarray | Tensor) else type(picture)
        raise ValueError(
            "A picture is a path, a Pillow image, an array (H, W, 3) uint8 RGB or a tensor (3, H, W) uint8; "
            f"got {found}. {error}"
        ) from error
    return np.require(image, requirements=["C", "W"])  # torch warns of an array that cannot be written to

"""What the metrics of COCO's protocols share: images by number, rows of all processes, files of results.

`CocoKeypoints` and `CocoBoxes` are such metrics: validation hands in rows batch by batch, and when those of all
processes are together, faster-coco-eval holds them against the annotations, from memory.
"""

import gc
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class CocoMetric(Metric):
    """Base: gathers rows, keeps what was made of them as long as they stand, and knows images by number and by id.

    `compute` and all that reads the result work on the rows of all processes: call `compute` on every rank, the rest
    afterwards on whichever rank wants it.

    Args:
        images: Of the COCO dict. Batches call an image by its `number`, if it has one, else by its `id`.
        rows: Name of a state -> rows of its shape and type, none of them: (0, ...).
        seen_images_only: Evaluate only images that `update` has seen, for a validation that is cut short. Otherwise
            what is annotated in the other images counts as missed, as COCO has it.

    Raises:
        ValueError: If batches cannot carry the id of an image.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def __init__(
        self, images: Sequence[Mapping[str, Any]], rows: Mapping[str, Tensor], *, seen_images_only: bool
    ) -> None:
        super().__init__()
        self.seen_images_only = seen_images_only
        self.image_numbers = {image["id"]: _number(image) for image in images}
        self.image_ids = {number: image for image, number in self.image_numbers.items()}
        self.renamed_images = {number: image for number, image in self.image_ids.items() if number != image}
        self.empty = dict(rows)
        self._found: Any = None
        for state in self.empty:
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def add(self, **rows: Tensor) -> None:
        """Append rows to states by name."""
        for state, values in rows.items():
            getattr(self, state).append(values.detach().to(self.empty[state].dtype))

    def collect(self) -> Any:
        """What is evaluated, of the gathered `rows`."""
        raise NotImplementedError

    def rows(self) -> list[NDArray[Any]]:
        """Each state as one array."""
        self._fill_empty_states()
        return [dim_zero_cat(getattr(self, state)).cpu().numpy() for state in self.empty]

    def collect_anew(self) -> Any:
        """`collect`, which `collected` gives from here on."""
        self._found = self.collect()
        return self._found

    def collected(self) -> Any:
        """What was collected last, as long as no rows have come since."""
        # torchmetrics keeps the computed figures until the next update; as long as they stand, so do the rows.
        if self._found is None or self._computed is None:
            with self.sync_context(dist_sync_fn=self.dist_sync_fn):
                self.collect_anew()
        return self._found

    def reset(self) -> None:
        """Forget all rows, for the next epoch."""
        super().reset()
        self._found = None

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the rows of all processes."""
        self._fill_empty_states()
        super().sync(*args, **kwargs)

    def _fill_empty_states(self) -> None:
        # A process without rows must take part in the gathering with the right shape and type, or the others wait.
        for state, empty in self.empty.items():
            if isinstance(getattr(self, state), list) and not getattr(self, state):
                getattr(self, state).append(empty.to(self.device))

    def numbers_of(self, image_ids: Iterable[Any]) -> list[int]:
        """Number of each image id, as batches have it; ValueError for one that the ground truth lacks."""
        image_ids = list(image_ids)
        unknown = [image for image in dict.fromkeys(image_ids) if image not in self.image_numbers]
        if unknown:
            raise ValueError(_of_other_images(len(unknown), unknown[0]))
        return [self.image_numbers[image] for image in image_ids]

    def require_known(self, numbers: NDArray[np.int64]) -> None:
        """ValueError where one of the images is not in the ground truth."""
        unknown = np.setdiff1d(numbers, np.array(list(self.image_ids), np.int64))
        if len(unknown):
            raise ValueError(_of_other_images(len(unknown), unknown[0]))


def write_results(path: Path, results: list[dict[str, Any]]) -> Path:
    """Write results as JSON; the file appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(results))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


@contextmanager
def uncollected() -> Iterator[None]:
    """Context without Python's garbage collector.

    It would look through all the dicts of an evaluation again and again while they are made; none of them is garbage.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def coco_of(
    images: Sequence[dict[str, Any]], annotations: Sequence[dict[str, Any]], category_ids: Sequence[int]
) -> COCO:
    """COCO's object of dicts, which the evaluator may write into."""
    coco = COCO()
    categories = [{"id": category} for category in category_ids]
    coco.dataset = {"images": images, "annotations": annotations, "categories": categories}
    coco.createIndex()
    return coco


def _of_other_images(count: int, first: Any) -> str:
    return (
        f"{count} images with predictions are not in the ground truth, the first has id {first}; "
        "expected predictions and ground truth of the same split."
    )


def _number(image: Mapping[str, Any]) -> int:
    """What batches call an image: its `number` if it has one, else its id."""
    value = image.get("number", image["id"])
    if isinstance(value, str) or value != int(value) or not -(2**63) <= value < 2**63:
        raise ValueError(
            f"The ground truth has an image of id {value!r}, which batches cannot carry as image_id: give every image "
            "a `number`, a 64-bit integer, and use these in the batches."
        )
    return int(value)

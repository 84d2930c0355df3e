"""Average precision of boxes and masks after COCO's protocol, HRNet's figures of detection (TPAMI 2020, section 6).

Validation hands in what was found batch by batch; at the end faster-coco-eval holds it against the annotated objects,
from memory. `DetectionTask` owns one `CocoBoxes`.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from faster_coco_eval import COCOeval_faster
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor

from tasks.metrics.coco import CocoMetric, write_results
from tasks.metrics.detections import Detections, Kind, annotated_objects, detections_of, evaluate
from tasks.metrics.masks import encode_masks

MEANINGS = {
    "AP": "average precision, mean over IoU thresholds 0.50, 0.55, ..., 0.95 and classes",
    "AP50": "average precision at IoU 0.50",
    "AP75": "average precision at IoU 0.75",
    "APS": "AP of small objects, area up to 32² pixels",
    "APM": "AP of medium objects, area 32² to 96² pixels",
    "APL": "AP of large objects, area above 96² pixels",
    "AR": "recall, mean over the IoU thresholds and classes, at most 100 detections of a class an image",
}
PLACES = (0, 1, 2, 3, 4, 5, 8)  # of these among COCO's twelve figures
MASK = "mask_"  # before the names of what masks score


class CocoBoxes(CocoMetric):
    """COCO box AP and AR over a whole split, and mask AP beside it, with the tables and files that go with them.

    Args:
        ground_truth: COCO dict (images, annotations, categories in the order of the labels) with all annotations of
            the split, crowds too. Batches call an image by its `number`, if it has one, else by its `id`; results have
            the ids. For masks its images have `height` and `width`, and its annotations a `segmentation`. None where
            nothing is annotated: there are results then, and no figures. The dict is neither kept nor changed.
        class_names: (K,) names of the classes.
        kind: "segm" evaluates masks beside the boxes.
        seen_images_only: Evaluate only images that `update` has seen, for a validation that is cut short. Otherwise the
            objects of the other images count as missed, as COCO has it.

    Raises:
        ValueError: If there are not K categories, an annotation lacks a field or is of another category, or batches
            cannot carry the id of an image.

    Attributes:
        objects: See `annotated_objects`.
    """

    file_name = "detections.json"

    def __init__(
        self,
        ground_truth: Mapping[str, Any] | None,
        class_names: Sequence[str],
        kind: Kind = "bbox",
        *,
        seen_images_only: bool = False,
    ) -> None:
        truth = ground_truth or {"images": [], "annotations": [], "categories": []}
        rows = {
            "images": torch.empty(0, 2, dtype=torch.int64),  # number, how many detections follow
            "labels": torch.empty(0, dtype=torch.int64),
            "found": torch.empty(0, 5),  # score, box
        }
        if kind == "segm":
            rows |= {"lengths": torch.empty(0, dtype=torch.int64), "codes": torch.empty(0, dtype=torch.uint8)}
        super().__init__(truth["images"], rows, seen_images_only=seen_images_only)
        self.kind, self.class_names = kind, tuple(class_names)
        self.category_ids = [category["id"] for category in truth["categories"]] or list(range(len(class_names)))
        if len(self.category_ids) != len(class_names):
            raise ValueError(
                f"The ground truth has {len(self.category_ids)} categories and there are {len(class_names)} class "
                "names: expected one of each a class, in the order of the labels."
            )
        self.objects = annotated_objects(truth, self.image_numbers, masks=kind == "segm")
        self.sizes = _sizes(truth["images"], self.image_numbers) if kind == "segm" else {}
        self._evaluations: dict[Kind, Evaluation] = {}

    def update(self, predictions: Mapping[str, Sequence[Tensor]], batch: Mapping[str, Any]) -> None:
        """Add the detections of a batch, of an image that has none too.

        Args:
            predictions: Lists over the images: `boxes` (N, 4) x1, y1, x2, y2, edges in pixels of the original image,
                `scores` (N,) in [0, 1], `labels` (N,) 0 to K-1, and of masks `masks` (N, S, S), probabilities inside
                the boxes.
            batch: With `image_id` (B,), numbers of images of the ground truth: an image that a distributed sampler
                repeats is told by it and counted once.

        Raises:
            ValueError: If the shapes do not fit together, or the size of an image with masks is not known.
        """
        images = torch.as_tensor(batch["image_id"]).tolist()
        keys = ("boxes", "scores", "labels", *(["masks"] if self.kind == "segm" else []))
        for image, *found in zip(images, *(predictions[key] for key in keys), strict=True):
            count = len(found[0])
            shapes = [tuple(value.shape) for value in found]
            if shapes[:3] != [(count, 4), (count,), (count,)] or any(len(shape) != 3 for shape in shapes[3:]):
                raise ValueError(
                    f"CocoBoxes.update got {', '.join(keys)} of shapes {shapes} for an image, expected (N, 4), (N,), "
                    "(N,), and of masks (N, S, S)."
                )
            boxes, scores, labels = (value.to(self.device) for value in found[:3])
            columns = torch.cat([scores.float()[:, None], boxes.float()], dim=1)
            self.add(images=torch.tensor([[image, count]], device=self.device), labels=labels, found=columns)
            for probabilities in found[3:]:
                self._add_masks(image, probabilities, boxes)

    def _add_masks(self, image: int, probabilities: Tensor, boxes: Tensor) -> None:
        """Encode masks at once: at the size of their image those of a split would not fit into memory."""
        self.require_known(np.array([image]))
        values = [value.detach().float().cpu().numpy() for value in (probabilities, boxes)]
        codes = encode_masks(values[0], values[1], self.sizes[image])
        lengths = torch.tensor([len(code) for code in codes], dtype=torch.int64)
        joined = torch.from_numpy(np.frombuffer(b"".join(codes), np.uint8).copy())
        self.add(lengths=lengths.to(self.device), codes=joined.to(self.device))

    def compute(self) -> dict[str, float]:
        """AP, AP50, AP75, APS, APM, APL, AR in [0, 1], of masks mask_AP and so on; NaN where no object defines one.

        Raises:
            ValueError: If nothing is annotated, or a detection is of an image that is not in the ground truth.
        """
        detections = self.collect_anew()
        return {
            prefix + key: value
            for prefix, kind in self._kinds().items()
            for key, value in self._evaluation(kind, detections).figures.items()
        }

    def collect(self) -> Detections:
        """All gathered detections, those of a repeated image once."""
        self._evaluations = {}
        images, labels, found, *masks = self.rows()
        return detections_of(images, labels, found[:, 0], found[:, 1:], _parts(*masks) if masks else ())

    def results(self, kind: Kind = "bbox") -> list[dict[str, Any]]:
        """COCO result dicts: image_id, category_id, score, and bbox (x, y, width, height) or segmentation."""
        return self._results(kind, digits=None)

    def save(self, path: str | Path) -> Path:
        """Write results as JSON that COCO's tools and test server read, boxes rounded to 1/1000 pixel.

        Those of masks go beside it into a file of their own, as COCO wants it: detections_masks.json. A file appears
        complete or not at all.
        """
        path = Path(path)
        if self.kind == "segm":
            write_results(path.with_name(f"{path.stem}_masks{path.suffix}"), self._results("segm", digits=3))
        return write_results(path, self._results("bbox", digits=3))

    def per_class(self) -> list[dict[str, Any]]:
        """A dict a class: `name`, `objects` that are annotated (no crowds), `detections`, `AP`, `AP50`, `AP75`.

        Of masks mask_AP and so on too; NaN for a class without objects.

        Raises:
            ValueError: As `compute`.
        """
        detections, count = self.collected(), len(self.class_names)
        objects = [each["label"] for each in self._evaluated_objects(detections) if not each["iscrowd"]]
        columns: dict[str, list[Any]] = {
            "name": list(self.class_names),
            "objects": np.bincount(np.array(objects, np.int64), minlength=count).tolist(),
            "detections": np.bincount(detections.labels, minlength=count).tolist(),
        }
        for prefix, kind in self._kinds().items():
            columns |= {prefix + key: each for key, each in self._evaluation(kind, detections).of_classes.items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def table(self) -> Table:
        """The figures and what each means."""
        table = Table("metric", "value", "meaning")
        for key, value in self.compute().items():
            meaning = MEANINGS[key.removeprefix(MASK)]
            meaning = f"the same of masks: {meaning}" if key.startswith(MASK) else meaning
            table.add_row(key, "n/a" if math.isnan(value) else f"{value:.3f}", meaning)
        return table

    def _kinds(self) -> dict[str, Kind]:
        """Prefix of the figures -> what they compare."""
        return {"": "bbox"} if self.kind == "bbox" else {"": "bbox", MASK: "segm"}

    def _results(self, kind: Kind, digits: int | None) -> list[dict[str, Any]]:
        if kind not in self._kinds().values():
            raise ValueError(f'There are no masks: make CocoBoxes with kind "segm" for results of {kind}.')
        sizes = self.sizes if kind == "segm" else None
        return self.collected().results(self.category_ids, self.image_ids, sizes=sizes, digits=digits)

    def _evaluation(self, kind: Kind, detections: Detections) -> "Evaluation":
        """Of what is collected, done once."""
        if kind not in self._evaluations:
            objects, count = self._evaluated_objects(detections), len(self.class_names)
            evaluator = evaluate(objects, detections, count, kind, self.sizes)
            self._evaluations[kind] = Evaluation(_figures(evaluator), _class_precisions(evaluator, count))
        return self._evaluations[kind]

    def _evaluated_objects(self, detections: Detections) -> list[dict[str, Any]]:
        if not self.objects:
            raise ValueError(
                "The ground truth has no annotations, so there is nothing to evaluate the detections against (COCO's "
                "test splits are like this): use results() or save() and hand the file to the test server."
            )
        self.require_known(detections.images)
        if not self.seen_images_only:
            return self.objects
        seen = set(detections.images.tolist())
        return [each for each in self.objects if each["image_id"] in seen]


class Evaluation(NamedTuple):
    """Figures of boxes or of masks."""

    figures: dict[str, float]
    """Over all classes."""
    of_classes: dict[str, list[float]]
    """AP, AP50 and AP75 of each class."""


def _sizes(images: Sequence[Mapping[str, Any]], numbers: Mapping[Any, int]) -> dict[int, tuple[int, int]]:
    """(height, width) of each image by number."""
    for image in images:
        if not (image.get("height") and image.get("width")):
            raise ValueError(
                f"Image {image['id']} of the ground truth has no height and width, which masks need: state both in "
                "pixels."
            )
    return {numbers[image["id"]]: (int(image["height"]), int(image["width"])) for image in images}


def _figures(evaluator: COCOeval_faster | None) -> dict[str, float]:
    if evaluator is None:
        return dict.fromkeys(MEANINGS, math.nan)
    values = [float(evaluator.stats[place]) for place in PLACES]
    return {key: math.nan if value == -1 else value for key, value in zip(MEANINGS, values, strict=True)}


def _class_precisions(evaluator: COCOeval_faster | None, num_classes: int) -> dict[str, list[float]]:
    """AP, AP50 and AP75 (K,) of each class, from what the evaluation has counted anyway."""
    if evaluator is None:
        return {key: [math.nan] * num_classes for key in ("AP", "AP50", "AP75")}
    precision = evaluator.eval["precision"][:, :, :, 0, -1]  # (IoU thresholds, recalls, K), -1 without objects
    means = np.where(precision > -1, precision, math.nan).mean(axis=1)
    return {"AP": means.mean(axis=0).tolist(), "AP50": means[0].tolist(), "AP75": means[5].tolist()}


def _parts(lengths: NDArray[np.int64], joined: NDArray[np.uint8]) -> list[bytes]:
    """Bytes cut into parts of these lengths."""
    ends = np.cumsum(lengths).tolist()
    whole = joined.tobytes()
    return [whole[end - length : end] for end, length in zip(ends, lengths.tolist(), strict=True)]

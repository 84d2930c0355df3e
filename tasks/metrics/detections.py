"""Detections of a split and the annotated objects, and COCO's evaluation of the ones against the others, from memory.

`coco_boxes` collects them; an analysis of errors evaluates changed ones too.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval import mask as coco_mask  # pycocotools' areas end at 255 masks
from numpy.typing import NDArray

from tasks.metrics.coco import coco_of, uncollected
from tasks.metrics.masks import segmentation

Kind = Literal["bbox", "segm"]
Sizes = Mapping[int, tuple[int, int]]
"""Number of an image -> its (height, width) in pixels."""


@dataclass(frozen=True)
class Detections:
    """Detections sorted by image and within an image best first; N detections, M images."""

    images: NDArray[np.int64]  # (M,) numbers of the images that were looked at, ascending
    image_id: NDArray[np.int64]  # (N,) number of the image of each
    labels: NDArray[np.int64]  # (N,) 0 to K-1
    scores: NDArray[np.float64]  # (N,)
    boxes: NDArray[np.float64]  # (N, 4) x1, y1, x2, y2, edges in original pixels
    codes: Sequence[bytes] = ()  # (N,) run-length codes of the masks, () where there are none

    def xywh(self) -> NDArray[np.float64]:
        """(N, 4) x, y, width, height."""
        return np.concatenate([self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]], axis=1)

    def results(
        self,
        category_ids: Sequence[int],
        image_ids: Mapping[int, Any],
        *,
        sizes: Sizes | None = None,
        digits: int | None = None,
    ) -> list[dict[str, Any]]:
        """COCO result dicts: image_id, category_id, score, and bbox (x, y, width, height) or segmentation.

        Not both in one: COCO's tools would then take the area of a mask from its box.

        Args:
            category_ids: (K,) of the labels.
            image_ids: Number of an image -> its id; a number that is absent is its own id.
            sizes: For masks, which are given instead of boxes then.
            digits: Decimals of the boxes; the scores, which rank, keep all.
        """
        numbers = self.image_id.tolist()
        if sizes is not None:
            places: list[Any] = [segmentation(code, sizes[n]) for code, n in zip(self.codes, numbers, strict=True)]
        else:
            places = (self.xywh() if digits is None else self.xywh().round(digits)).tolist()
        key = "bbox" if sizes is None else "segmentation"
        columns = zip(numbers, self.labels.tolist(), places, self.scores.tolist(), strict=True)
        return [
            {"image_id": image_ids.get(n, n), "category_id": category_ids[label], key: place, "score": score}
            for n, label, place, score in columns
        ]


def detections_of(
    images: NDArray[np.int64],
    labels: NDArray[np.int64],
    scores: NDArray[np.floating],
    boxes: NDArray[np.floating],
    codes: Sequence[bytes] = (),
) -> Detections:
    """Detections in order, those of repeated images once.

    Args:
        images: (R, 2) number of an image, and how many detections it has: so many of the following, image after image.
        labels: (N,) 0 to K-1.
        scores: (N,) in [0, 1].
        boxes: (N, 4) x1, y1, x2, y2, edges in original pixels.
        codes: (N,) run-length codes of the masks, () where there are none.
    """
    numbers, first = np.unique(images[:, 0], return_index=True)
    kept = np.zeros(len(images), bool)
    kept[first] = True
    image_id = np.repeat(images[:, 0], images[:, 1])
    scores, boxes = _finite(scores.astype(np.float64), boxes.astype(np.float64), image_id)
    rows = np.flatnonzero(np.repeat(kept, images[:, 1]))
    rows = rows[np.lexsort((-scores[rows], image_id[rows]))]
    chosen = [codes[row] for row in rows.tolist()] if codes else ()
    return Detections(numbers, image_id[rows], labels[rows], scores[rows], boxes[rows], chosen)


def _finite(
    scores: NDArray[np.float64], boxes: NDArray[np.float64], image_id: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Detections with a NaN or an infinity set to zero: without area and score they match nothing."""
    broken = ~(np.isfinite(scores) & np.isfinite(boxes).all(axis=1))
    if broken.any():
        warnings.warn(
            f"{broken.sum()} of {len(broken)} detections have boxes or scores that are not finite, the first in image "
            f"{image_id[broken][0]}. They count with score 0; the network has probably diverged, look at the loss.",
            stacklevel=2,
        )
    return np.where(broken, 0, scores), np.where(broken[:, None], 0, boxes)


def annotated_objects(
    ground_truth: Mapping[str, Any], numbers: Mapping[Any, int], *, masks: bool = False
) -> list[dict[str, Any]]:
    """What the protocol reads of the annotations whose image is listed; the ground truth is neither kept nor changed.

    Args:
        ground_truth: COCO dict (annotations, categories in the order of the labels).
        numbers: Id of each listed image -> its number in batches.
        masks: Whether each has a `segmentation`.

    Returns:
        Dicts: `id`, the place among the annotations, from 1; `image_id`, the image's number; `label`, 0 to K-1; `bbox`
        x, y, width, height; `area` in pixels²; `iscrowd`, 0 or 1; for masks its `segmentation`.

    Raises:
        ValueError: If an annotation lacks a field, or is of another category.
    """
    labels = {category["id"]: label for label, category in enumerate(ground_truth["categories"])}
    needed = ("category_id", "bbox", "area", *(["segmentation"] if masks else []))
    objects = []
    # Numbered from 1: the evaluators read id 0 as "not matched", and own data often starts there.
    for number, annotation in enumerate(ground_truth["annotations"], start=1):
        if annotation["image_id"] not in numbers:
            continue
        where = f"Annotation {annotation.get('id')} of image {annotation['image_id']}"
        if missing := [key for key in needed if annotation.get(key) is None]:
            raise ValueError(
                f"{where} has no {', '.join(missing)}, expected a COCO annotation: category_id, bbox [x, y, width, "
                f"height], area in pixels²{' and segmentation' if masks else ''}."
            )
        if annotation["category_id"] not in labels:
            raise ValueError(f"{where} has category_id {annotation['category_id']}, which is not among the categories.")
        objects.append(
            {
                "id": number,
                "image_id": numbers[annotation["image_id"]],
                "label": labels[annotation["category_id"]],
                "bbox": [float(value) for value in annotation["bbox"]],
                "area": float(annotation["area"]),
                "iscrowd": int(annotation.get("iscrowd", 0)),
                **({"segmentation": annotation["segmentation"]} if masks else {}),
            }
        )
    return objects


def evaluate(
    objects: Sequence[Mapping[str, Any]],
    detections: Detections,
    num_classes: int,
    kind: Kind = "bbox",
    sizes: Sizes | None = None,
    thresholds: Sequence[float] | None = None,
) -> COCOeval_faster | None:
    """COCO's evaluation, with `stats` and `eval`, where the classes are in order; None without any image.

    Args:
        objects: As `annotated_objects` gives them, with `segmentation` for "segm".
        detections: With `codes` for "segm".
        num_classes: K.
        kind: What is compared: boxes or masks.
        sizes: Of the images, for "segm".
        thresholds: IoU from which on a detection is right; 0.50, 0.55, ..., 0.95 when not given.
    """
    with uncollected():
        truth, found = coco_pair(objects, detections, num_classes, kind, sizes)
        if not truth.dataset["images"]:
            return None
        evaluator = COCOeval_faster(truth, found, kind)
        if thresholds is not None:
            evaluator.params.iouThrs = np.array(thresholds)
        evaluator.run()
    return evaluator


def coco_pair(
    objects: Sequence[Mapping[str, Any]], detections: Detections, num_classes: int, kind: Kind, sizes: Sizes | None
) -> tuple[COCO, COCO]:
    """Truth and detections as evaluators take them: labels are category ids, detections are numbered from 1.

    Args:
        objects: See `evaluate`, as of the others.
        detections: In this order.
        num_classes: K.
        kind: Whether masks are needed.
        sizes: Of the images.
    """
    # Images are counted anew: the evaluator holds ids as doubles, in which those beyond 2^53 run together.
    numbers = np.array([each["image_id"] for each in objects], np.int64)
    known = np.union1d(numbers, detections.image_id)
    truth = [
        {**each, "image_id": image, "category_id": each["label"]}
        for each, image in zip(objects, np.searchsorted(known, numbers).tolist(), strict=True)
    ]
    found = _found(detections, np.searchsorted(known, detections.image_id), kind, sizes)
    images: list[dict[str, Any]] = [{"id": i} for i in range(len(known))]
    if kind == "segm":
        assert sizes is not None
        for image, number in zip(images, known.tolist(), strict=True):
            image["height"], image["width"] = sizes[number]
    return coco_of(images, truth, range(num_classes)), coco_of(images, found, range(num_classes))


def _found(detections: Detections, images: NDArray[np.int64], kind: Kind, sizes: Sizes | None) -> list[dict[str, Any]]:
    """Detections as the evaluator has them; the area of a mask is that of its pixels, as of COCO's mask results."""
    boxes = detections.xywh()
    if kind == "segm":
        assert sizes is not None
        codes = zip(detections.codes, detections.image_id.tolist(), strict=True)
        masks = [{"size": list(sizes[number]), "counts": code} for code, number in codes]
        areas = np.asarray(coco_mask.area(masks)).tolist() if masks else []
        places: list[dict[str, Any]] = [{"segmentation": mask} for mask in masks]
    else:
        areas = boxes[:, 2:].prod(axis=1).tolist()
        places = [{} for _ in areas]
    columns = (images.tolist(), detections.labels.tolist(), detections.scores.tolist(), boxes.tolist(), areas, places)
    return [
        {"id": i, "image_id": n, "category_id": k, "score": s, "bbox": box, "area": area, "iscrowd": 0, **place}
        for i, (n, k, s, box, area, place) in enumerate(zip(*columns, strict=True), start=1)
    ]

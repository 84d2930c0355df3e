"""Average precision of poses after COCO's key point protocol, HRNet's main figure (CVPR 2019, section 4.1).

Validation hands in poses batch by batch. At the end they are rescored (box score x mean key point score), suppression
by OKS drops double poses of a person, and COCO's evaluation runs from memory. `PoseTask` owns one `CocoKeypoints`.
"""

import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from tasks.metrics.oks import keypoint_similarity, nearest_poses, oks_nms

MEANINGS = {
    "AP": "average precision, mean over OKS thresholds 0.50, 0.55, ..., 0.95",
    "AP50": "average precision at OKS 0.50",
    "AP75": "average precision at OKS 0.75",
    "APM": "AP of medium persons, area 32² to 96² pixels",
    "APL": "AP of large persons, area above 96² pixels",
    "AR": "recall, mean over the OKS thresholds, at most 20 poses an image",
    "AR50": "recall at OKS 0.50",
    "AR75": "recall at OKS 0.75",
    "ARM": "AR of medium persons",
    "ARL": "AR of large persons",
}
POSES_PER_IMAGE = 20  # the protocol looks at no more
PCK_SIMILARITY = 0.5


@dataclass(frozen=True)
class Poses:
    """Final predictions, sorted by image and within an image best first; N poses, K key points."""

    image_id: NDArray[np.int64]  # (N,)
    keypoints: NDArray[np.float64]  # (N, K, 2) original pixels
    keypoint_scores: NDArray[np.float64]  # (N, K)
    scores: NDArray[np.float64]  # (N,)

    def triplets(self) -> NDArray[np.float64]:
        """(N, 3K) x, y, score of each key point in turn, the order of COCO's result files."""
        count, num_keypoints = self.keypoint_scores.shape
        triplets = np.concatenate([self.keypoints, self.keypoint_scores[..., None]], axis=2)
        return triplets.reshape(count, 3 * num_keypoints)


class CocoKeypoints(Metric):
    """COCO key point AP and AR over a whole split, with the tables and the result file that go with them.

    `compute` and all that reads the result work on the poses of all processes: call `compute` on every rank, the rest
    afterwards on whichever rank wants it.

    Args:
        ground_truth: COCO dict (images, annotations, one category) with all annotations of the split; crowds and
            persons without labelled key points are what the protocol ignores. The dict is neither kept nor changed.
        sigmas: (K,) COCO's spread of each key point, any K.
        names: (K,) names of the key points.
        visible_threshold: in [0, 1], key points with a higher score count in the score of the person.
        oks_threshold: in [0, 1], poses of an image with a higher OKS show the same person.
        seen_images_only: evaluate only images that `update` has seen, for a validation that is cut short. Otherwise the
            persons of the other images count as missed, as COCO has it.

    Raises:
        ValueError: sigmas, names and annotations disagree on K, an annotation lacks a field, or there is not exactly
            one category.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def __init__(
        self,
        ground_truth: Mapping[str, Any],
        sigmas: Sequence[float],
        names: Sequence[str],
        *,
        visible_threshold: float = 0.2,
        oks_threshold: float = 0.9,
        seen_images_only: bool = False,
    ) -> None:
        super().__init__()
        if len(sigmas) != len(names):
            raise ValueError(
                f"Found {len(sigmas)} sigmas and {len(names)} key point names, expected one of each a key point."
            )
        self.sigmas = np.array(sigmas, dtype=np.float64)
        self.keypoint_names = tuple(names)
        self.visible_threshold = visible_threshold
        self.oks_threshold = oks_threshold
        self.seen_images_only = seen_images_only
        self.image_ids = np.array([image["id"] for image in ground_truth["images"]], dtype=np.int64)
        known = set(self.image_ids.tolist())
        # Numbered from 1: the evaluators read id 0 as "not matched", and own data often starts there.
        self.persons = [
            {"id": number, **_person(annotation, len(names))}
            for number, annotation in enumerate(ground_truth["annotations"], start=1)
            if annotation["image_id"] in known
        ]
        self.areas = {a["id"]: float(a["area"]) for a in ground_truth["annotations"] if a["image_id"] in known}
        categories = {category["id"] for category in ground_truth["categories"]}
        if len(categories) != 1 or not categories.issuperset(person["category_id"] for person in self.persons):
            raise ValueError(
                f"The key point ground truth has {len(categories)} categories or annotations of others, expected one, "
                "the persons: keep the category that has key points, and its annotations only."
            )
        (self.category_id,) = categories
        self._empty = {
            "image_id": torch.empty(0, dtype=torch.int64),
            "instance_id": torch.empty(0, dtype=torch.int64),
            "keypoints": torch.empty(0, len(names), 2),
            "scores": torch.empty(0, len(names)),
            "box_scores": torch.empty(0),
            "area": torch.empty(0),
        }
        self._final: Poses | None = None
        for state in self._empty:
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(
        self, image_id: Tensor, instance_id: Tensor, keypoints: Tensor, scores: Tensor, box_scores: Tensor, area: Tensor
    ) -> None:
        """Add the poses of a batch, one row a box.

        Args:
            image_id: (B,) int, an image of the ground truth.
            instance_id: (B,) int, unique in the split (annotation id or row of the detections file): rows that a
                distributed sampler repeats are told by it and counted once.
            keypoints: (B, K, 2) x, y in pixels of the original image.
            scores: (B, K) key point scores, in [0, 1].
            box_scores: (B,) score of the box, 1 for ground-truth boxes.
            area: (B,) width x height of the padded box in original pixels², for the OKS suppression.

        Raises:
            ValueError: the shapes do not fit together.
        """
        batch = (image_id, instance_id, keypoints, scores, box_scores, area)
        for value, (state, empty) in zip(batch, self._empty.items(), strict=True):
            expected = (len(image_id), *empty.shape[1:])
            if tuple(value.shape) != expected:
                raise ValueError(
                    f"CocoKeypoints.update got {state} of shape {tuple(value.shape)}, expected {expected}."
                )
            getattr(self, state).append(value.detach().to(empty.dtype))

    def compute(self) -> dict[str, float]:
        """AP, AP50, AP75, APM, APL, AR, AR50, AR75, ARM, ARL in [0, 1]; NaN where no person defines the figure.

        Raises:
            ValueError: the split has no annotations, or a pose belongs to an image that is not in the ground truth.
        """
        self._final = self._collect()
        persons = self._evaluated_persons(self._final)
        if not persons:
            return dict.fromkeys(MEANINGS, math.nan)
        detections = _detections(self._final, self.category_id)
        images = [{"id": i} for i in sorted({row["image_id"] for row in [*persons, *detections]})]
        evaluator = COCOeval_faster(
            self._coco(images, persons), self._coco(images, detections), "keypoints", kpt_oks_sigmas=self.sigmas
        )
        evaluator.run()
        return {
            key: math.nan if value == -1 else float(value) for key, value in zip(MEANINGS, evaluator.stats, strict=True)
        }

    def reset(self) -> None:
        """Forget all poses, for the next epoch."""
        super().reset()
        self._final = None

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the poses of all processes."""
        self._fill_empty_states()
        super().sync(*args, **kwargs)

    def similarity(self, instance_id: Tensor, truth: Tensor, visible: Tensor, keypoints: Tensor) -> NDArray[np.float64]:
        """OKS of poses with the annotations that their boxes are of.

        Args:
            instance_id: (B,) annotation ids.
            truth: (B, K, 2) x, y in pixels of the original image.
            visible: (B, K), above 0 where labelled.
            keypoints: (B, K, 2) likewise.

        Returns:
            (B,) in [0, 1]; nan without an annotation of that id, or without labelled key points.
        """
        area = np.array([self.areas.get(i, math.nan) for i in instance_id.tolist()])
        squared = (keypoints.double() - truth.double()).square().sum(-1).cpu().numpy()
        labelled = (visible > 0).cpu().numpy()
        total = (keypoint_similarity(squared, area, self.sigmas) * labelled).sum(1)
        count = labelled.sum(1)
        return np.where(count > 0, total / np.maximum(count, 1), math.nan)

    def results(self) -> list[dict[str, Any]]:
        """COCO result dicts (image_id, category_id, keypoints: 3K numbers x, y, score; score) of the final poses."""
        return _results(self._final_poses(), self.category_id)

    def save(self, path: str | Path) -> Path:
        """Write `results` as a JSON file that COCO's tools and test server read, key points rounded to 1/1000 pixel.

        The file appears complete or not at all.
        """
        poses = self._final_poses()
        poses = replace(poses, keypoints=poses.keypoints.round(3), keypoint_scores=poses.keypoint_scores.round(3))
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            partial.write_text(json.dumps(_results(poses, self.category_id)))
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        return path

    def per_keypoint(self) -> list[dict[str, Any]]:
        """How well each key point is found, whatever the score of its pose.

        Every person with labelled key points (crowds aside) is compared with the pose of highest OKS in its image;
        several persons may share one. Without a pose in the image all key points of the person count as missed.

        Returns:
            A dict a key point: `name`; `labelled`, number of labelled key points; `pck`, share of them whose similarity
            exp(-d² / (2 area (2 sigma)²)) is at least 0.5; `error`, mean distance in pixels, and `normalised_error`,
            mean of distance / sqrt(area), both over persons that have a pose. NaN where nothing is labelled or found.

        Raises:
            ValueError: as `compute`.
        """
        poses = self._final_poses()
        persons = [p for p in self._evaluated_persons(poses) if np.any(p["keypoints"][2::3] > 0) and not p["iscrowd"]]
        labels = np.array([p["keypoints"] for p in persons]).reshape(len(persons), len(self.sigmas), 3)
        area = np.array([p["area"] for p in persons])
        labelled = labels[..., 2] > 0
        image_id = np.array([p["image_id"] for p in persons])
        person, pose = nearest_poses(labels, area, image_id, poses.keypoints, poses.image_id, self.sigmas)
        squared = np.square(poses.keypoints[pose] - labels[person, :, :2]).sum(axis=-1)
        hit = keypoint_similarity(squared, area[person], self.sigmas) >= PCK_SIMILARITY
        distance = np.sqrt(squared)
        found = labelled[person]
        with np.errstate(invalid="ignore"):
            pck = (hit & found).sum(axis=0) / labelled.sum(axis=0)
            error = (distance * found).sum(axis=0) / found.sum(axis=0)
            normalised = (distance * found / np.sqrt(area[person])[:, None]).sum(axis=0) / found.sum(axis=0)
        keys = ("name", "labelled", "pck", "error", "normalised_error")
        columns = (labelled.sum(axis=0).tolist(), pck.tolist(), error.tolist(), normalised.tolist())
        return [dict(zip(keys, row, strict=True)) for row in zip(self.keypoint_names, *columns, strict=True)]

    def table(self) -> Table:
        """The ten figures and what each means."""
        table = Table("metric", "value", "meaning")
        for key, value in self.compute().items():
            table.add_row(key, _text(value), MEANINGS[key])
        return table

    def keypoint_table(self) -> Table:
        """`per_keypoint` for reading."""
        table = Table("key point", "labelled", "PCK", "error, px", "error / √area")
        for row in self.per_keypoint():
            numbers = _text(row["pck"]), _text(row["error"], 1), _text(row["normalised_error"])
            table.add_row(row["name"], str(row["labelled"]), *numbers)
        return table

    def _final_poses(self) -> Poses:
        # torchmetrics keeps the computed figures until the next update; as long as they stand, so do the poses.
        if self._final is None or self._computed is None:
            with self.sync_context(dist_sync_fn=self.dist_sync_fn):
                self._final = self._collect()
        return self._final

    def _fill_empty_states(self) -> None:
        # A process without poses must take part in the gathering with the right shape and type, or the others wait.
        for state, empty in self._empty.items():
            if isinstance(getattr(self, state), list) and not getattr(self, state):
                getattr(self, state).append(empty.to(self.device))

    def _collect(self) -> Poses:
        """All gathered poses without repetitions, rescored and suppressed."""
        self._fill_empty_states()
        columns = [dim_zero_cat(getattr(self, state)).cpu().numpy() for state in self._empty]
        order = np.lexsort((columns[1], columns[0]))
        first = np.ones(len(order), dtype=bool)
        first[1:] = (np.diff(columns[0][order]) != 0) | (np.diff(columns[1][order]) != 0)
        image_id, _, *floats = (column[order[first]] for column in columns)
        keypoints, keypoint_scores, box_scores, area = _finite(
            [column.astype(np.float64) for column in floats], image_id
        )

        counted = keypoint_scores > self.visible_threshold
        mean = (keypoint_scores * counted).sum(axis=1) / np.maximum(counted.sum(axis=1), 1)
        scores = box_scores * mean
        bounds = np.append(np.unique(image_id, return_index=True)[1], len(image_id)).tolist()
        kept = [
            start + oks_nms(keypoints[start:end], scores[start:end], area[start:end], self.sigmas, self.oks_threshold)
            for start, end in pairwise(bounds)
        ]
        rows = np.concatenate([np.empty(0, dtype=np.int64), *kept])
        return Poses(image_id[rows], keypoints[rows], keypoint_scores[rows], scores[rows])

    def _evaluated_persons(self, poses: Poses) -> list[dict[str, Any]]:
        if not self.persons:
            raise ValueError(
                "The ground truth has no annotations, so there is nothing to evaluate the poses against (COCO's test "
                "splits are like this): use results() or save() and hand the file to the test server."
            )
        unknown = np.setdiff1d(poses.image_id, self.image_ids)
        if len(unknown):
            raise ValueError(
                f"{len(unknown)} images with poses are not in the ground truth, the first has id {unknown[0]}; "
                "expected poses and ground truth of the same split."
            )
        if not self.seen_images_only:
            return self.persons
        seen = set(poses.image_id.tolist())
        return [person for person in self.persons if person["image_id"] in seen]

    def _coco(self, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> COCO:
        coco = COCO()
        coco.dataset = {"images": images, "annotations": annotations, "categories": [{"id": self.category_id}]}
        coco.createIndex()
        return coco


def _person(annotation: Mapping[str, Any], num_keypoints: int) -> dict[str, Any]:
    """What the protocol reads of an annotation, checked."""
    where = f"Annotation {annotation.get('id')} of image {annotation['image_id']}"
    missing = [key for key in ("category_id", "bbox", "area", "keypoints") if key not in annotation]
    if missing:
        raise ValueError(
            f"{where} has no {', '.join(missing)}, expected a COCO key point annotation: category_id, "
            "bbox [x, y, width, height], area of the person in pixels² and keypoints [x, y, visibility, ...]."
        )
    keypoints = np.array(annotation["keypoints"], dtype=np.float64)
    if len(keypoints) != 3 * num_keypoints:
        raise ValueError(
            f"{where} has {len(keypoints)} numbers in keypoints, expected {3 * num_keypoints}: x, y, visibility of "
            f"{num_keypoints} key points, as many as there are sigmas and names."
        )
    labelled = np.count_nonzero(keypoints[2::3] > 0)
    return {
        "image_id": int(annotation["image_id"]),
        "category_id": annotation["category_id"],
        "keypoints": keypoints,
        "num_keypoints": int(annotation.get("num_keypoints", labelled)),
        "bbox": list(annotation["bbox"]),
        "area": float(annotation["area"]),
        "iscrowd": int(annotation.get("iscrowd", 0)),
    }


def _finite(columns: list[NDArray[np.float64]], image_id: NDArray[np.int64]) -> list[NDArray[np.float64]]:
    """Poses with a NaN or an infinity set to zero: with score 0 they cannot match anything before all others have."""
    finite = [np.isfinite(column).all(axis=tuple(range(1, column.ndim))) for column in columns]
    broken = ~np.logical_and.reduce(finite)
    if broken.any():
        warnings.warn(
            f"{broken.sum()} of {len(broken)} poses have coordinates or scores that are not finite, the first in image "
            f"{image_id[broken][0]}. They count with score 0; the network has probably diverged, look at the loss.",
            stacklevel=2,
        )
        for column in columns:
            column[broken] = 0
    return columns


def _detections(poses: Poses, category_id: int) -> list[dict[str, Any]]:
    """The poses that count as the evaluator wants them; COCO takes the extent of the key points for their area."""
    rank = np.arange(len(poses.image_id)) - np.searchsorted(poses.image_id, poses.image_id)
    top = rank < POSES_PER_IMAGE
    poses = Poses(poses.image_id[top], poses.keypoints[top], poses.keypoint_scores[top], poses.scores[top])
    area = np.ptp(poses.keypoints, axis=1).prod(axis=1)
    columns = poses.image_id.tolist(), poses.triplets(), area.tolist(), poses.scores.tolist()
    return [
        {
            "id": i,
            "image_id": image_id,
            "category_id": category_id,
            "keypoints": keypoints,
            "area": area,
            "score": score,
        }
        for i, (image_id, keypoints, area, score) in enumerate(zip(*columns, strict=True), start=1)
    ]


def _results(poses: Poses, category_id: int) -> list[dict[str, Any]]:
    columns = poses.image_id.tolist(), poses.triplets().tolist(), poses.scores.tolist()
    return [
        {"image_id": image_id, "category_id": category_id, "keypoints": keypoints, "score": score}
        for image_id, keypoints, score in zip(*columns, strict=True)
    ]


def _text(value: float, digits: int = 3) -> str:
    return "n/a" if math.isnan(value) else f"{value:.{digits}f}"

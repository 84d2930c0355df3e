"""Average precision of poses after COCO's key point protocol, HRNet's main figure (CVPR 2019, section 4.1).

Validation hands in poses batch by batch; at the end they become final (`poses`), and faster-coco-eval holds them
against the annotated persons, from memory. `PoseTask` owns one `CocoKeypoints`.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCOeval_faster
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor

from tasks.metrics.coco import CocoMetric, coco_of, write_results
from tasks.metrics.oks import keypoint_similarity
from tasks.metrics.poses import PCK_SIMILARITY, Poses, final_poses, keypoint_accuracy

POSES_PER_IMAGE = 20  # the protocol looks at no more
MEANINGS = {
    "AP": "average precision, mean over OKS thresholds 0.50, 0.55, ..., 0.95",
    "AP50": "average precision at OKS 0.50",
    "AP75": "average precision at OKS 0.75",
    "APM": "AP at medium size, area 32² to 96² pixels",
    "APL": "AP at large size, area above 96² pixels",
    "AR": "recall, mean over the OKS thresholds, at most 20 poses an image",
    "AR50": "recall at OKS 0.50",
    "AR75": "recall at OKS 0.75",
    "ARM": "AR at medium size",
    "ARL": "AR at large size",
}


class CocoKeypoints(CocoMetric):
    """COCO key point AP and AR over a whole split, with the tables and the result file that go with them.

    Args:
        ground_truth: COCO dict (images, annotations, one category) with all annotations of the split; crowds and
            persons without labelled key points are what the protocol ignores. Batches call an image or annotation by
            its `number`, if it has one, else by its `id`; results have the ids. The dict is neither kept nor changed.
        sigmas: (K,) COCO's spread of each key point, any K.
        names: (K,) names of the key points.
        visible_threshold: in [0, 1], key points with a higher score count in the score of the person.
        oks_threshold: in [0, 1], poses of an image with a higher OKS show the same person.
        seen_images_only: evaluate only images that `update` has seen, for a validation that is cut short. Otherwise the
            persons of the other images count as missed, as COCO has it.

    Raises:
        ValueError: sigmas, names and annotations disagree on K, an annotation lacks a field, or there is not exactly
            one category, or batches cannot carry the id of an image.

    Attributes:
        persons: A dict an annotation whose image is listed: `id`, its place among the annotations, from 1; `image_id`,
            the image's number; `category_id`; `keypoints`, (3K,) float array x, y, visibility; `num_keypoints`, the
            labelled ones; `bbox`; `area` in pixels²; `iscrowd`, 0 or 1.
    """

    file_name = "keypoints.json"

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
        rows = {
            "image_id": torch.empty(0, dtype=torch.int64),
            "instance_id": torch.empty(0, dtype=torch.int64),
            "keypoints": torch.empty(0, len(names), 2),
            "scores": torch.empty(0, len(names)),
            "box_scores": torch.empty(0),
            "area": torch.empty(0),
        }
        super().__init__(ground_truth["images"], rows, seen_images_only=seen_images_only)
        if len(sigmas) != len(names):
            raise ValueError(
                f"Found {len(sigmas)} sigmas and {len(names)} key point names, expected one of each a key point."
            )
        self.sigmas = np.array(sigmas, dtype=np.float64)
        self.keypoint_names = tuple(names)
        self.visible_threshold = visible_threshold
        self.oks_threshold = oks_threshold
        # Numbered from 1: the evaluators read id 0 as "not matched", and own data often starts there.
        self.persons = [
            {"id": number, "image_id": self.image_numbers[annotation["image_id"]], **_person(annotation, len(names))}
            for number, annotation in enumerate(ground_truth["annotations"], start=1)
            if annotation["image_id"] in self.image_numbers
        ]
        self.category_id = _only_category(ground_truth, self.persons)
        annotations = ground_truth["annotations"]
        numbers = [annotation.get("number", annotation.get("id")) for annotation in annotations]
        self.areas = {numbers[person["id"] - 1]: person["area"] for person in self.persons}
        ids = [annotation.get("original_id", annotation.get("id")) for annotation in annotations]
        self.renamed_annotations = {n: i for n, i in zip(numbers, ids, strict=True) if n != i}

    def update(
        self, image_id: Tensor, instance_id: Tensor, keypoints: Tensor, scores: Tensor, box_scores: Tensor, area: Tensor
    ) -> None:
        """Add the poses of a batch, one row a box.

        Args:
            image_id: (B,) int, number of an image of the ground truth.
            instance_id: (B,) int, unique in the split (annotation's number or row of the detections file): rows that
                a distributed sampler repeats are told by it and counted once.
            keypoints: (B, K, 2) x, y in pixels of the original image.
            scores: (B, K) key point scores, in [0, 1].
            box_scores: (B,) score of the box, 1 for ground-truth boxes.
            area: (B,) width x height of the padded box in original pixels², for the OKS suppression.

        Raises:
            ValueError: the shapes do not fit together.
        """
        batch = (image_id, instance_id, keypoints, scores, box_scores, area)
        for value, (state, empty) in zip(batch, self.empty.items(), strict=True):
            expected = (len(image_id), *empty.shape[1:])
            if tuple(value.shape) != expected:
                raise ValueError(
                    f"CocoKeypoints.update got {state} of shape {tuple(value.shape)}, expected {expected}."
                )
            self.add(**{state: value})

    def compute(self) -> dict[str, float]:
        """AP, AP50, AP75, APM, APL, AR, AR50, AR75, ARM, ARL in [0, 1]; NaN where no person defines the figure.

        Raises:
            ValueError: the split has no annotations, or a pose belongs to an image that is not in the ground truth.
        """
        poses = self.collect_anew()
        return self.figures(self._evaluated_persons(poses), poses)

    def collect(self) -> Poses:
        """All gathered poses without repetitions, rescored and suppressed."""
        return final_poses(
            *self.rows(),
            sigmas=self.sigmas,
            visible_threshold=self.visible_threshold,
            oks_threshold=self.oks_threshold,
        )

    def similarity(self, instance_id: Tensor, truth: Tensor, visible: Tensor, keypoints: Tensor) -> NDArray[np.float64]:
        """OKS of poses with the annotations that their boxes are of.

        Args:
            instance_id: (B,) numbers of annotations.
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
        return self.collected().results(self.category_id, self.image_ids)

    def save(self, path: str | Path) -> Path:
        """Write `results` as a JSON file that COCO's tools and test server read, key points rounded to 1/1000 pixel.

        The file appears complete or not at all.
        """
        return write_results(Path(path), self.collected().results(self.category_id, self.image_ids, digits=3))

    def per_keypoint(self) -> list[dict[str, Any]]:
        """How well each key point is found, whatever the score of its pose: see `keypoint_accuracy`.

        Raises:
            ValueError: as `compute`.
        """
        poses = self.collected()
        return keypoint_accuracy(self._evaluated_persons(poses), poses, self.keypoint_names, self.sigmas)

    def table(self) -> Table:
        """The ten figures and what each means; below it, what the columns of `per_keypoint` mean."""
        caption = (
            f"pck: share of the labelled points with a similarity exp(-d² / (2 area (2 sigma)²)) of at least "
            f"{PCK_SIMILARITY}; error: mean distance d in pixels; normalised_error: mean of d / √area"
        )
        table = Table("metric", "value", "meaning", caption=caption, caption_justify="left")
        for key, value in self.compute().items():
            table.add_row(key, "n/a" if math.isnan(value) else f"{value:.3f}", MEANINGS[key])
        return table

    def _evaluated_persons(self, poses: Poses) -> list[dict[str, Any]]:
        if not self.persons:
            raise ValueError(
                "The ground truth has no annotations, so there is nothing to evaluate the poses against (COCO's test "
                "splits are like this): use results() or save() and hand the file to the test server."
            )
        self.require_known(poses.image_id)
        if not self.seen_images_only:
            return self.persons
        seen = set(poses.image_id.tolist())
        return [person for person in self.persons if person["image_id"] in seen]

    def figures(self, persons: Sequence[Mapping[str, Any]], poses: Poses) -> dict[str, float]:
        """COCO's figures of at most 20 poses an image; what another measure computes instead."""
        if not persons:
            return dict.fromkeys(MEANINGS, math.nan)
        poses = poses.best(POSES_PER_IMAGE)
        # Counted anew: the evaluator holds ids as doubles, in which those beyond 2^53 run together.
        known = np.union1d([person["image_id"] for person in persons], poses.image_id)
        truth = [{**person, "image_id": int(np.searchsorted(known, person["image_id"]))} for person in persons]
        # COCO takes the extent of the key points for the area of a pose.
        area = np.ptp(poses.keypoints, axis=1).prod(axis=1).tolist()
        columns = np.searchsorted(known, poses.image_id).tolist(), poses.triplets(), poses.scores.tolist(), area
        found = [
            {"id": i, "category_id": self.category_id, "image_id": im, "keypoints": points, "score": score, "area": a}
            for i, (im, points, score, a) in enumerate(zip(*columns, strict=True), start=1)
        ]
        images = [{"id": i} for i in range(len(known))]
        both = [coco_of(images, annotations, [self.category_id]) for annotations in (truth, found)]
        evaluator = COCOeval_faster(*both, "keypoints", kpt_oks_sigmas=self.sigmas)
        evaluator.run()
        values = zip(MEANINGS, evaluator.stats, strict=True)
        return {key: math.nan if value == -1 else float(value) for key, value in values}


def _person(annotation: Mapping[str, Any], num_keypoints: int) -> dict[str, Any]:
    """What the protocol reads of an annotation, which is neither kept nor changed."""
    where = f"Annotation {annotation.get('id')} of image {annotation['image_id']}"
    missing = [key for key in ("category_id", "bbox", "area", "keypoints") if key not in annotation]
    if missing:
        raise ValueError(
            f"{where} has no {', '.join(missing)}, expected a COCO key point annotation: category_id, "
            "bbox [x, y, width, height], area in pixels² and keypoints [x, y, visibility, ...]."
        )
    keypoints = np.array(annotation["keypoints"], dtype=np.float64)
    if len(keypoints) != 3 * num_keypoints:
        raise ValueError(
            f"{where} has {len(keypoints)} numbers in keypoints, expected {3 * num_keypoints}: x, y, visibility of "
            f"{num_keypoints} key points, as many as there are sigmas and names."
        )
    labelled = np.count_nonzero(keypoints[2::3] > 0)
    return {
        "category_id": annotation["category_id"],
        "keypoints": keypoints,
        "num_keypoints": int(annotation.get("num_keypoints", labelled)),
        "bbox": list(annotation["bbox"]),
        "area": float(annotation["area"]),
        "iscrowd": int(annotation.get("iscrowd", 0)),
    }


def _only_category(ground_truth: Mapping[str, Any], persons: list[dict[str, Any]]) -> int:
    categories = {category["id"] for category in ground_truth["categories"]}
    if len(categories) != 1 or not categories.issuperset(person["category_id"] for person in persons):
        raise ValueError(
            f"The key point ground truth has {len(categories)} categories or annotations of others, expected one: "
            "keep the category that has key points, and its annotations only."
        )
    return categories.pop()

"""What kind of mistakes poses have, and what each kind costs: Ruggero Ronchi and Perona, ICCV 2017.

Predicted poses are matched to annotated persons as COCO does, by pycocotools itself; every labelled key point of a
match is then good, or one of four errors. Correcting one kind and evaluating again gives the AP that it costs. From
COCO dicts alone:

errors = PoseErrors(ground_truth, results, skeleton)
errors.totals()
"""

import contextlib
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tasks.metrics.coco_keypoints import POSES_PER_IMAGE, CocoKeypoints
from tasks.metrics.oks import keypoint_similarity

MATCHED = 0.1  # OKS from which on a pose is a try at that person, as in the software of Ruggero Ronchi and Perona
NEAR = 0.5  # key point similarity: within reach of a place
GOOD = 0.85  # within what human annotators differ by
KINDS = ("good", "jitter", "inversion", "swap", "miss")
ERRORS = KINDS[1:]
UNLABELLED = -1
MEANINGS = {
    "good": "similarity to the annotated place at least 0.85",
    "jitter": "near the right place: similarity 0.5 to 0.85",
    "inversion": "nearest to its own left or right counterpart",
    "swap": "nearest to the same key point, or its counterpart, of another one in the image",
    "miss": "near none of these: similarity below 0.5",
    "all four": "every key point of a matched pose at its annotated place",
    "background false positive": "poses that match nothing annotated at OKS 0.1; correction removes them",
    "background false negative": "annotated, no pose matches it at OKS 0.1; correction takes it out of the truth",
}


class PoseErrors:
    """The errors of the poses of a split.

    With ks = exp(-d² / (2 area (2 sigma)²)) a key point is good if ks to its annotated place is at least 0.85.
    Otherwise the place with the highest ks decides, among its own, that of its left or right counterpart, and both of
    every other person in the image: its own makes a jitter, the counterpart an inversion, another person a swap; and if
    that ks is below 0.5, it is a miss. Other persons count with their own area. Ties go to the first in this order.

    Args:
        ground_truth: COCO dict with all annotations of the evaluated images.
        results: COCO result dicts: image_id, keypoints (3K numbers x, y, score), score; after all suppression.
        skeleton: `names`, `sigmas` (COCO's spreads) and `flip_pairs` of the K key points.

    Attributes:
        kinds: (M, K) int, index into `KINDS`, or -1 where the person has no label.
        pose: (M,) row of the matched pose in `results`.
        person: (M,) row of its person in the annotations.
        oks: (M,) OKS of the match, in [0.1, 1].
        false_positives: Rows of `results` that match nobody. A pose on a crowd or an unlabelled person is none, nor is
            one that COCO does not look at since 20 of its image have higher scores.
        false_negatives: Rows of labelled persons, crowds aside, that no pose matches.

    Raises:
        ValueError: If skeleton, annotations and results disagree on K, or a result is of another image.
    """

    def __init__(
        self, ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], skeleton: Mapping[str, Any]
    ) -> None:
        self.ground_truth, self.results, self.skeleton = ground_truth, list(results), skeleton
        self.names = list(skeleton["names"])
        self.sigmas = np.array(skeleton["sigmas"], dtype=np.float64)
        metric = CocoKeypoints(ground_truth, skeleton["sigmas"], self.names)  # checks the annotations
        self.keypoints = self._predicted()
        self._persons = metric.persons
        self.labels = np.array([p["keypoints"] for p in self._persons]).reshape(-1, len(self.names), 3)
        self.area = np.array([p["area"] for p in self._persons], dtype=np.float64)
        self.image_id = np.array([p["image_id"] for p in self._persons], dtype=np.int64)
        self._annotation = np.array([p["id"] for p in self._persons], dtype=np.int64) - 1  # rows of the ground truth
        numbers = metric.numbers_of(result["image_id"] for result in self.results)
        numbered = [{**result, "image_id": n} for result, n in zip(self.results, numbers, strict=True)]
        matches = match_poses(self._persons, self.keypoints, numbered, self.sigmas)
        self.pose, self.person = matches.pose, matches.person
        self.false_positives, self.false_negatives = matches.false_positives, matches.false_negatives
        own, counterpart = self._own_similarity()
        others = self._similarity_to_others()
        self.kinds = _kinds(own, counterpart, others)
        self.oks = np.maximum(own, 0).sum(1) / np.maximum((own >= 0).sum(1), 1)
        self._ap: float | None = None

    # ---- figures

    def ap(self) -> float:
        """AP of the poses as they are, in [0, 1]; nan where nothing is labelled."""
        if self._ap is None:
            self._ap = average_precision(self.ground_truth, self.results, self.skeleton)
        return self._ap

    def corrected(self, *kinds: str) -> list[dict[str, Any]]:
        """The results with all key points of these kinds at their annotated places; scores stay."""
        wrong = np.isin(self.kinds, [KINDS.index(kind) for kind in kinds])
        match, point = wrong.nonzero()
        keypoints = self.keypoints.copy()
        keypoints[self.pose[match], point, :2] = self.labels[self.person[match], point, :2]
        rows = keypoints.reshape(len(keypoints), 3 * len(self.names)).tolist()
        return [{**result, "keypoints": row} for result, row in zip(self.results, rows, strict=True)]

    def totals(self) -> list[dict[str, Any]]:
        """A dict a kind: how often, and what AP would be without it.

        `name`; `count`, of key points, poses or persons; `share`, of the labelled key points of matched persons, of all
        poses or of all labelled persons; `AP` if all of this kind, and nothing else, were corrected; `gain`, the
        difference to the AP as it is; `meaning`. The gains do not add up: a pose often has errors of several kinds. A
        gain may be slightly negative, since a better pose of low score can come to match another's person.
        """
        labelled = int((self.kinds != UNLABELLED).sum())
        counts = {kind: int((self.kinds == i).sum()) for i, kind in enumerate(KINDS)}
        rows = [self._total("good", counts["good"], labelled, self.ap())]
        for kind in ERRORS:
            rows.append(self._total(kind, counts[kind], labelled, self._ap_of(self.corrected(kind))))
        errors = labelled - counts["good"]
        rows.append(self._total("all four", errors, labelled, self._ap_of(self.corrected(*ERRORS))))
        kept = np.delete(np.arange(len(self.results)), self.false_positives)
        ap = self._ap_of([self.results[row] for row in kept])
        rows.append(self._total("background false positive", len(self.false_positives), len(self.results), ap))
        persons = len(self.person) + len(self.false_negatives)
        ap = average_precision(self._without_missed(), self.results, self.skeleton)
        rows.append(self._total("background false negative", len(self.false_negatives), persons, ap))
        return rows

    def per_keypoint(self) -> list[dict[str, Any]]:
        """A dict a key point: `name`, `labelled` in matched persons, and the share of each kind, nan without labels."""
        labelled = (self.kinds != UNLABELLED).sum(0)
        with np.errstate(invalid="ignore"):
            shares = np.stack([(self.kinds == i).sum(0) for i in range(len(KINDS))], axis=1) / labelled[:, None]
        rows = zip(self.names, labelled.tolist(), shares.tolist(), strict=True)
        return [{"name": name, "labelled": n, **dict(zip(KINDS, row, strict=True))} for name, n, row in rows]

    def persons(self) -> list[dict[str, Any]]:
        """A dict a matched person, lowest OKS first: ids, score and OKS of the pose, key points of each kind."""
        rows = []
        for match in np.argsort(self.oks, kind="stable").tolist():
            counts = {kind: int((self.kinds[match] == i).sum()) for i, kind in enumerate(KINDS)}
            score = float(self.results[self.pose[match]]["score"])
            rows.append({**self._ids(self.person[match]), "score": score, "OKS": float(self.oks[match]), **counts})
        return rows

    def background(self) -> list[dict[str, Any]]:
        """A dict a pose on nobody (highest score first), then a dict a person without a pose (most labels first)."""
        poses = sorted((self.results[row] for row in self.false_positives), key=lambda result: -result["score"])
        labelled = (self.labels[self.false_negatives, :, 2] > 0).sum(1)
        missed = self.false_negatives[np.argsort(-labelled, kind="stable")]
        empty = {"annotation": "", "score": math.nan, "labelled": 0, "area": math.nan}
        return [
            {"name": "false positive", "image_id": pose["image_id"], **empty, "score": float(pose["score"])}
            for pose in poses
        ] + [
            {"name": "false negative", **self._ids(row), "score": math.nan}
            | {"labelled": int((self.labels[row, :, 2] > 0).sum()), "area": float(self.area[row])}
            for row in missed.tolist()
        ]

    # ---- matching and similarities

    def _predicted(self) -> NDArray[np.float64]:
        """(N, K, 3) x, y, score."""
        expected = 3 * len(self.names)
        for row, result in enumerate(self.results):
            if len(result["keypoints"]) != expected:
                raise ValueError(
                    f"Result {row} of image {result['image_id']} has {len(result['keypoints'])} numbers in keypoints, "
                    f"expected {expected}: predictions and skeleton belong to different data."
                )
        return np.array([r["keypoints"] for r in self.results], dtype=np.float64).reshape(-1, len(self.names), 3)

    def _similarity(
        self, pose: NDArray[np.int64], person: NDArray[np.int64], order: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """(N, K) of key point k of a pose to key point order[k] of a person; -1 where that has no label."""
        labels = self.labels[person][:, order]
        squared = np.square(self.keypoints[pose, :, :2] - labels[..., :2]).sum(-1)
        return np.where(labels[..., 2] > 0, keypoint_similarity(squared, self.area[person], self.sigmas), -1.0)

    def _own_similarity(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(M, K) to the right place and to the counterpart; -1 where there is none."""
        straight, flipped = self._orders()
        own = self._similarity(self.pose, self.person, straight)
        counterpart = self._similarity(self.pose, self.person, flipped)
        return own, np.where(straight == flipped, -1.0, counterpart)

    def _similarity_to_others(self) -> NDArray[np.float64]:
        """(M, K) highest to the same key point or its counterpart of another person of the image; -1 without any."""
        crowd = np.array([p["iscrowd"] for p in self._persons], dtype=bool)
        real = np.flatnonzero(~crowd & (self.labels[..., 2] > 0).any(1))
        real = real[np.argsort(self.image_id[real], kind="stable")]
        images, wanted = self.image_id[real], self.image_id[self.person]
        start = np.searchsorted(images, wanted, side="left")
        count = np.searchsorted(images, wanted, side="right") - start
        # All pairs of a match and a person of its image in one flat list: no loop over images.
        match = np.repeat(np.arange(len(self.pose)), count)
        other = real[np.arange(count.sum()) + np.repeat(start - np.cumsum(count) + count, count)]
        match, other = match[other != self.person[match]], other[other != self.person[match]]
        best = np.full(self.keypoints[self.pose].shape[:2], -1.0)
        for order in self._orders():
            np.maximum.at(best, match, self._similarity(self.pose[match], other, order))
        return best

    def _orders(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The key points in order, and left exchanged with right."""
        straight = np.arange(len(self.names))
        flipped = straight.copy()
        for left, right in self.skeleton["flip_pairs"]:
            flipped[left], flipped[right] = right, left
        return straight, flipped

    # ---- rows of tables

    def _total(self, name: str, count: int, of: int, ap: float) -> dict[str, Any]:
        share = count / of if of else math.nan
        gain = ap - self.ap()
        return {"name": name, "count": count, "share": share, "AP": ap, "gain": gain, "meaning": MEANINGS[name]}

    def _ap_of(self, results: Sequence[Mapping[str, Any]]) -> float:
        return average_precision(self.ground_truth, results, self.skeleton)

    def _without_missed(self) -> dict[str, Any]:
        missed = set(self._annotation[self.false_negatives].tolist())
        kept = [a for row, a in enumerate(self.ground_truth["annotations"]) if row not in missed]
        return {**self.ground_truth, "annotations": kept}

    def _ids(self, person: int) -> dict[str, Any]:
        annotation = self.ground_truth["annotations"][self._annotation[person]]
        ids = {"annotation": annotation.get("original_id", annotation.get("id", ""))}
        return {"image_id": annotation["image_id"], **ids}


def average_precision(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], skeleton: Mapping[str, Any]
) -> float:
    """AP in [0, 1] of COCO result dicts as they are: no rescoring, no suppression; nan where nothing is labelled."""
    if not ground_truth["annotations"]:
        return math.nan
    count, num_keypoints = len(results), len(skeleton["names"])
    keypoints = torch.tensor([r["keypoints"] for r in results], dtype=torch.float64).view(count, num_keypoints, 3)
    # A suppression above OKS 1 drops nothing, and with key point scores of 1 a pose keeps its score.
    metric = CocoKeypoints(ground_truth, skeleton["sigmas"], skeleton["names"], oks_threshold=1.0)
    metric.update(
        torch.tensor(metric.numbers_of(r["image_id"] for r in results), dtype=torch.int64),
        torch.arange(count),
        keypoints[..., :2],
        torch.ones(count, num_keypoints),
        torch.tensor([r["score"] for r in results], dtype=torch.float64),
        torch.ones(count),
    )
    return metric.compute()["AP"]


def _kinds(
    own: NDArray[np.float64], counterpart: NDArray[np.float64], others: NDArray[np.float64]
) -> NDArray[np.int64]:
    """(M, K) each, -1 where there is no such place -> index into `KINDS`, -1 without a label of its own."""
    places = np.stack([own, counterpart, others])
    nearest = 1 + places.argmax(0)  # jitter, inversion, swap; the first of equals
    kinds = np.where(places.max(0) >= NEAR, nearest, KINDS.index("miss"))
    return np.where(own < 0, UNLABELLED, np.where(own >= GOOD, KINDS.index("good"), kinds))


@dataclass(frozen=True)
class Matches:
    """Rows of poses and persons; see `match_poses`."""

    pose: NDArray[np.int64]  # (M,)
    person: NDArray[np.int64]  # (M,) that pose's
    false_positives: NDArray[np.int64]  # poses that match nobody
    false_negatives: NDArray[np.int64]  # labelled persons, crowds aside, that no pose matches


def match_poses(
    persons: Sequence[Mapping[str, Any]],
    keypoints: NDArray[np.float64],
    results: Sequence[Mapping[str, Any]],
    sigmas: NDArray[np.float64],
) -> Matches:
    """Greedily by score, each pose to the free person of its image with the highest OKS, of at least 0.1.

    A pose on a crowd or an unlabelled person is neither a match nor a false positive, nor is one that COCO does not
    look at since 20 of its image have higher scores.

    Args:
        persons: COCO annotations.
        keypoints: (N, K, 3) x, y, score of the N poses, in pixels.
        results: N dicts with their image_id and score.
        sigmas: (K,) COCO's spread of each key point.
    """
    area = np.ptp(keypoints[..., :2], axis=1).prod(axis=1).tolist()
    rows = keypoints.reshape(len(keypoints), keypoints.shape[1] * 3).tolist()
    # Numbered from 1: the evaluator reads id 0 as "not matched".
    poses = [
        {
            "id": i,
            "image_id": result["image_id"],
            "category_id": 1,
            "keypoints": row,
            "area": a,
            "score": result["score"],
        }
        for i, (result, row, a) in enumerate(zip(results, rows, area, strict=True), start=1)
    ]
    truth = [{**person, "id": i, "category_id": 1} for i, person in enumerate(persons, start=1)]
    images = sorted({row["image_id"] for row in [*truth, *poses]})
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_coco(images, truth), _coco(images, poses), "keypoints")
        evaluation.params.kpt_oks_sigmas = sigmas
        evaluation.params.iouThrs = np.array([MATCHED])
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [POSES_PER_IMAGE]
        evaluation.evaluate()
    found = [image for image in evaluation.evalImgs if image is not None]
    pose, person, on_ignored = (_joined(x[key] for x in found) for key in ("dtIds", "dtMatches", "dtIgnore"))
    known, ignored, matched = (_joined(x[key] for x in found) for key in ("gtIds", "gtIgnore", "gtMatches"))
    good = (person > 0) & (on_ignored == 0)
    return Matches(
        pose=pose[good] - 1,
        person=person[good] - 1,
        false_positives=pose[person == 0] - 1,
        false_negatives=known[(ignored == 0) & (matched == 0)] - 1,
    )


def _coco(images: list[int], annotations: list[dict[str, Any]]) -> COCO:
    coco = COCO()
    coco.dataset = {"images": [{"id": i} for i in images], "annotations": annotations, "categories": [{"id": 1}]}
    coco.createIndex()
    return coco


def _joined(parts: Iterable[ArrayLike]) -> NDArray[np.int64]:
    """Lists of ids, and tables of one threshold, one an image -> one array."""
    return np.concatenate([np.empty(0), *(np.asarray(part).reshape(-1) for part in parts)]).astype(np.int64)

"""Which predicted pose is whose: COCO's matching of poses to annotated persons, by pycocotools itself.

`pose_errors` builds on it: a pose may be poor and still be a try at a person, so OKS 0.1 is enough.
"""

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tasks.metrics.coco_keypoints import POSES_PER_IMAGE

MATCHED = 0.1  # OKS from which on a pose is a try at that person, as in the software of Ruggero Ronchi and Perona


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

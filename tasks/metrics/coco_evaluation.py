"""COCO's ten key point figures of final poses, by faster-coco-eval from memory.

figures = coco_figures(persons, poses, category_id, sigmas)
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from tasks.metrics.coco_poses import Poses

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


def coco_figures(
    persons: Sequence[dict[str, Any]], poses: Poses, category_id: int, sigmas: NDArray[np.float64]
) -> dict[str, float]:
    """The figures of `MEANINGS` in [0, 1]; NaN where no person defines the figure.

    Args:
        persons: As `coco_persons.annotated_persons` gives them.
        poses: At most the 20 poses of an image that the protocol looks at.
        category_id: The persons' only category.
        sigmas: (K,) COCO's spread of each key point.
    """
    if not persons:
        return dict.fromkeys(MEANINGS, math.nan)
    detections = poses.detections(category_id)
    # Counted anew: the evaluator holds ids as doubles, in which those beyond 2^53 run together.
    known = sorted({row["image_id"] for row in [*persons, *detections]})
    images = {image: number for number, image in enumerate(known)}
    truth, found = (
        _coco(list(range(len(known))), [{**row, "image_id": images[row["image_id"]]} for row in rows], category_id)
        for rows in (persons, detections)
    )
    evaluator = COCOeval_faster(truth, found, "keypoints", kpt_oks_sigmas=sigmas)
    evaluator.run()
    return {
        key: math.nan if value == -1 else float(value) for key, value in zip(MEANINGS, evaluator.stats, strict=True)
    }


def _coco(images: list[int], annotations: Sequence[dict[str, Any]], category_id: int) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i} for i in images],
        "annotations": annotations,
        "categories": [{"id": category_id}],
    }
    coco.createIndex()
    return coco

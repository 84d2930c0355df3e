"""What kind of mistakes detections are, and what each kind costs: TIDE, Bolya et al., ECCV 2020.

Detections are matched to annotated objects as COCO does, by pycocotools itself; every one that is wrong has one kind.
Correcting a kind and counting again gives the AP that it costs.

errors = DetectionErrors(metric.objects, metric.collected(), class_names)
errors.totals()
"""

import contextlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import COCOeval

from experiments.errors.report import confusion_pairs
from tasks.metrics.detections import Detections, Kind, Sizes, coco_pair

FOREGROUND, BACKGROUND = 0.5, 0.1  # IoU, as in the paper
KINDS = ("right", "class", "location", "both", "duplicate", "background")
ERRORS = KINDS[1:]
RIGHT = KINDS.index("right")
IGNORED = -1
ON_OBJECTS = ("class", "location")  # kinds whose correction makes an object found
MEANINGS = {
    "right": "IoU at least 0.5 with an object of its class, and the best detection of it",
    "class": "IoU at least 0.5 with an object of another class; correction gives it that class",
    "location": "IoU 0.1 to 0.5 with an object of its class; correction moves it onto that",
    "both": "IoU 0.1 to 0.5 with objects of other classes alone; correction removes it",
    "duplicate": "IoU at least 0.5 with an object of its class that a better one has found; correction removes it",
    "background": "IoU at most 0.1 with any object; correction removes it",
    "missed": "objects that nothing has found, nor has tried by a wrong class or place; correction takes them out",
    "all false positives": "every wrong detection; correction removes them",
    "all false negatives": "every object that is not found; correction takes them out",
}
RECALLS = np.linspace(0, 1, 101)


class DetectionErrors:
    """The errors of the detections of a split.

    A detection that COCO matches to no object of its class at IoU 0.5 is the first of these that fits. With its best
    IoU with objects of its own class and with those of others: location, if its own reaches 0.1 and not 0.5; class, if
    the other reaches 0.5; duplicate, if its own reaches 0.5; background, if neither exceeds 0.1; else both. Crowds are
    no objects here.

    Args:
        objects: See `tasks.metrics.detections.annotated_objects`.
        detections: Of the same images.
        names: (K,) names of the classes.
        kind: "segm" compares masks.
        sizes: Of the images, for masks.

    Attributes:
        kinds: (N,) index into `KINDS` for each detection, or -1 where COCO does not look: on a crowd, or where 100 of
            its class in the image score more.
        target: (N,) row in `objects` of what a right detection has found, and one of class or location should have; -1
            of others.
        overlap: (N,) best IoU with any object of the image.
        missed: Rows of `objects`.
    """

    def __init__(
        self,
        objects: Sequence[Mapping[str, Any]],
        detections: Detections,
        names: Sequence[str],
        *,
        kind: Kind = "bbox",
        sizes: Sizes | None = None,
    ) -> None:
        self.objects, self.detections, self.names = list(objects), detections, list(names)
        self.labels = np.array([each["label"] for each in objects], np.int64)
        self.image_id = np.array([each["image_id"] for each in objects], np.int64)
        self.real = np.array([not each["iscrowd"] for each in objects], bool)
        truth, found = coco_pair(objects, detections, len(names), kind, sizes)
        self.kinds, self.target = self._matched(truth, found, kind)
        self.overlap = np.zeros(len(self.kinds))
        for rows, here in self._images():
            ious = _overlaps(truth, found, rows, here, kind)
            self._tell(rows, here, ious)
        hit = np.zeros(len(self.objects), bool)
        hit[self.target[self.target >= 0]] = True
        self.missed = np.flatnonzero(self.real & ~hit)

    # ---- figures

    def ap50(self) -> float:
        """AP at IoU 0.5 of the detections as they are, in [0, 1]; nan without objects."""
        return self._ap(self.kinds == RIGHT, self.kinds != IGNORED)

    def corrected(self, kind: str) -> float:
        """AP at IoU 0.5 if all errors of a kind, and nothing else, were corrected."""
        right, counted = self.kinds == RIGHT, self.kinds != IGNORED
        if kind == "missed":
            return self._ap(right, counted, self._counts() - self._classes(self.missed))
        if kind == "all false negatives":
            return self._ap(right, counted, np.bincount(self.detections.labels[right], minlength=len(self.names)))
        if kind == "all false positives":
            return self._ap(right, right)
        wrong = self.kinds == KINDS.index(kind)
        if kind not in ON_OBJECTS:
            return self._ap(right, counted & ~wrong)
        # Of those that are now on the same object the best one stays.
        there = np.flatnonzero(right | wrong)
        order = there[np.lexsort((there, -self.detections.scores[there], self.target[there]))]
        best = order[np.unique(self.target[order], return_index=True)[1]]
        kept = np.zeros(len(self.kinds), bool)
        kept[best] = True
        labels = self.detections.labels.copy()
        labels[best] = self.labels[self.target[best]]
        return self._ap(kept, counted & (kept | ~(right | wrong)), labels=labels)

    def totals(self) -> list[dict[str, Any]]:
        """A dict a kind: how often, and what AP at IoU 0.5 would be without it.

        `name`; `count`, of detections or, of what is missed, of objects; `share` of all of these; `AP50` if all of this
        kind, and nothing else, were corrected; `gain`, the difference to AP50 as it is; `meaning`. The gains do not add
        up to what is missing.
        """
        ap, looked_at = self.ap50(), int((self.kinds != IGNORED).sum())
        counts = {kind: int((self.kinds == i).sum()) for i, kind in enumerate(KINDS)}
        rows = [self._total("right", counts["right"], looked_at, ap, ap)]
        rows += [self._total(kind, counts[kind], looked_at, self.corrected(kind), ap) for kind in ERRORS]
        objects = int(self.real.sum())
        rows.append(self._total("missed", len(self.missed), objects, self.corrected("missed"), ap))
        wrong = looked_at - counts["right"]
        rows.append(self._total("all false positives", wrong, looked_at, self.corrected("all false positives"), ap))
        left = objects - counts["right"]
        rows.append(self._total("all false negatives", left, objects, self.corrected("all false negatives"), ap))
        return rows

    def per_class(self) -> list[dict[str, Any]]:
        """A dict a class, lowest AP50 first: `name`, `objects`, `AP50`, detections of each kind, `missed` objects."""
        looked_at, right, counts = self.kinds != IGNORED, self.kinds == RIGHT, self._counts()
        missed = self._classes(self.missed)
        rows = []
        for label, name in enumerate(self.names):
            own = self.detections.labels == label
            of_kinds = {kind: int((own & (self.kinds == i)).sum()) for i, kind in enumerate(KINDS)}
            here = own & looked_at
            ap = class_precision(self.detections.scores[here], right[here], int(counts[label]))
            row = {"name": name, "objects": int(counts[label]), "AP50": ap, **of_kinds, "missed": int(missed[label])}
            rows.append(row)
        return sorted(rows, key=lambda row: (math.isnan(row["AP50"]), row["AP50"]))

    def confusions(self) -> list[dict[str, Any]]:
        """Which classes are taken for which; `share` is of the detections on objects of the true class."""
        rows = np.flatnonzero(np.isin(self.kinds, [RIGHT, KINDS.index("class")]))
        matrix = torch.zeros(len(self.names), len(self.names), dtype=torch.int64)
        places = torch.from_numpy(self.labels[self.target[rows]]), torch.from_numpy(self.detections.labels[rows])
        matrix.index_put_(places, torch.ones(len(rows), dtype=torch.int64), accumulate=True)
        return confusion_pairs(matrix, self.names)

    def images(self) -> list[dict[str, Any]]:
        """A dict an image, worst first: `sample`, its number; `badness`; objects, detections of each kind, missed.

        `badness` is the sum of the scores of its wrong detections, and 1 for each missed object.
        """
        numbers = np.union1d(self.detections.images, self.image_id[self.real])
        of_detections = np.searchsorted(numbers, self.detections.image_id)
        count = len(numbers)
        wrong = self.kinds > RIGHT
        missed = np.bincount(np.searchsorted(numbers, self.image_id[self.missed]), minlength=count)
        scores = np.bincount(of_detections[wrong], self.detections.scores[wrong], minlength=count)
        columns: dict[str, list[Any]] = {
            "sample": numbers.tolist(),
            "badness": (scores + missed).tolist(),
            "objects": np.bincount(np.searchsorted(numbers, self.image_id[self.real]), minlength=count).tolist(),
        }
        for i, kind in enumerate(KINDS):
            columns[kind] = np.bincount(of_detections[self.kinds == i], minlength=count).tolist()
        columns["missed"] = missed.tolist()
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return sorted(rows, key=lambda row: -row["badness"])

    def mistakes(self, kind: str | None = None, most: int | None = None) -> NDArray[np.int64]:
        """Rows of the wrong detections, of one kind or of all, those that score most first."""
        rows = np.flatnonzero(self.kinds > RIGHT if kind is None else self.kinds == KINDS.index(kind))
        return rows[np.argsort(-self.detections.scores[rows], kind="stable")][:most]

    # ---- matching

    def _matched(self, truth: Any, found: Any, kind: Kind) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Kinds, of which only right and ignored are told, and the objects of the right ones."""
        kinds = np.full(len(self.detections.scores), IGNORED)
        target = np.full(len(kinds), -1)
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(truth, found, kind)
            evaluation.params.iouThrs = np.array([FOREGROUND])
            evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
            evaluation.params.maxDets = [100]
            evaluation.evaluate()
        images = [image for image in evaluation.evalImgs if image is not None]
        rows, matches, ignored = (_joined([image[k] for image in images]) for k in ("dtIds", "dtMatches", "dtIgnore"))
        place = {each["id"]: row for row, each in enumerate(self.objects)}
        seen = ignored == 0
        kinds[rows[seen] - 1] = RIGHT + 1  # of some wrong kind, unless it is matched
        good = seen & (matches > 0)
        kinds[rows[good] - 1] = RIGHT
        target[rows[good] - 1] = [place[number] for number in matches[good].tolist()]
        return kinds, target

    def _images(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Rows of the detections and of the objects, crowds aside, of each image with detections."""
        objects = np.flatnonzero(self.real)
        objects = objects[np.argsort(self.image_id[objects], kind="stable")]
        images = self.image_id[objects]
        numbers, first = np.unique(self.detections.image_id, return_index=True)
        for number, rows in zip(numbers, np.split(np.arange(len(self.kinds)), first[1:]), strict=True):
            start, end = np.searchsorted(images, number, "left"), np.searchsorted(images, number, "right")
            yield rows, objects[start:end]

    def _tell(self, rows: NDArray[np.int64], here: NDArray[np.int64], ious: NDArray[np.float64]) -> None:
        """Kinds of the wrong detections of an image, of its (detections, objects) IoUs."""
        same = self.detections.labels[rows][:, None] == self.labels[here]
        own, other = (_best(np.where(where, ious, 0.0)) for where in (same, ~same))
        (own_iou, own_object), (other_iou, other_object) = own, other
        tests = {
            "location": (own_iou >= BACKGROUND) & (own_iou < FOREGROUND),
            "class": other_iou >= FOREGROUND,
            "duplicate": own_iou >= FOREGROUND,
            "background": np.maximum(own_iou, other_iou) <= BACKGROUND,
        }
        kinds = np.select(list(tests.values()), [KINDS.index(kind) for kind in tests], KINDS.index("both"))
        wrong = self.kinds[rows] > RIGHT
        self.kinds[rows[wrong]] = kinds[wrong]
        self.overlap[rows] = np.maximum(own_iou, other_iou)
        for kind, places in (("location", own_object), ("class", other_object)):
            chosen = wrong & (kinds == KINDS.index(kind))
            self.target[rows[chosen]] = here[places[chosen]]

    # ---- counting

    def _counts(self) -> NDArray[np.int64]:
        """(K,) objects of each class, without crowds."""
        return np.bincount(self.labels[self.real], minlength=len(self.names))

    def _classes(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """(K,) how many of these objects are of each class."""
        return np.bincount(self.labels[rows], minlength=len(self.names))

    def _ap(
        self,
        right: NDArray[np.bool_],
        counted: NDArray[np.bool_],
        counts: NDArray[np.int64] | None = None,
        labels: NDArray[np.int64] | None = None,
    ) -> float:
        """Mean over the classes that have objects."""
        counts = self._counts() if counts is None else counts
        labels = self.detections.labels if labels is None else labels
        found = []
        for label in np.flatnonzero(counts).tolist():
            here = counted & (labels == label)
            found.append(class_precision(self.detections.scores[here], right[here], int(counts[label])))
        return float(np.mean(found)) if found else math.nan

    def _total(self, name: str, count: int, of: int, ap: float, before: float) -> dict[str, Any]:
        share = count / of if of else math.nan
        return {
            "name": name,
            "count": count,
            "share": share,
            "AP50": ap,
            "gain": ap - before,
            "meaning": MEANINGS[name],
        }


def class_precision(scores: NDArray[np.floating], right: NDArray[np.bool_], objects: int) -> float:
    """Average precision of one class as COCO takes it, over 101 recalls; nan without objects.

    Args:
        scores: (N,); of equal ones the first counts first.
        right: (N,) which have found an object.
        objects: How many there are.
    """
    if not objects:
        return math.nan
    right = right[np.argsort(-scores, kind="mergesort")]
    hits = right.cumsum()
    precision = np.maximum.accumulate((hits / np.arange(1, len(right) + 1))[::-1])[::-1]
    place = np.searchsorted(hits / objects, RECALLS, side="left")
    return float(np.append(precision, 0.0)[np.minimum(place, len(precision))].mean())


def _best(ious: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Highest IoU of each row and its column; 0 and -1 without columns."""
    if not ious.shape[1]:
        return np.zeros(len(ious)), np.full(len(ious), -1)
    return ious.max(axis=1), ious.argmax(axis=1)


def _overlaps(
    truth: Any, found: Any, rows: NDArray[np.int64], here: NDArray[np.int64], kind: Kind
) -> NDArray[np.float64]:
    """(detections, objects) IoU, whatever their classes."""
    detections, objects = found.dataset["annotations"], truth.dataset["annotations"]
    if not len(here):
        return np.zeros((len(rows), 0))
    if kind == "segm":
        pair = ([detections[i]["segmentation"] for i in rows], [truth.annToRLE(objects[i]) for i in here])
    else:
        pair = ([detections[i]["bbox"] for i in rows], [objects[i]["bbox"] for i in here])
    return np.asarray(coco_mask.iou(*pair, [0] * len(here)))


def _joined(parts: Sequence[ArrayLike]) -> NDArray[np.int64]:
    """Lists of ids, and tables of one threshold, one an image -> one array."""
    return np.concatenate([np.empty(0), *(np.asarray(part).reshape(-1) for part in parts)]).astype(np.int64)

"""Errors of detections: constructed cases, a plain loop, and pycocotools on what is corrected by hand."""

import math

import numpy as np
import pytest
import torch

from datamodules import CocoDetection
from experiments.errors.detection_errors import ERRORS, IGNORED, KINDS, DetectionErrors, class_precision
from experiments.errors.report import report_of
from hrnet import HRNet
from tasks import DetectionTask
from tasks.metrics.coco_boxes import CocoBoxes
from tests.conftest import ROOT
from tests.tasks.metrics.test_coco_boxes import (
    CATEGORIES,
    NAMES,
    filled,
    make_ground_truth,
    make_predictions,
    referee,
)

BOX = [0.0, 0.0, 100.0, 100.0]
QUARTER = [0.0, 0.0, 50.0, 50.0]  # IoU 0.25
AWAY = [300.0, 300.0, 400.0, 400.0]
CASES = {  # image -> class of its object (BOX), and its detections: kind, box, class, score
    1: (0, [("right", BOX, 0, 0.9)]),
    2: (0, [("class", BOX, 1, 0.8)]),
    3: (0, [("location", QUARTER, 0, 0.85)]),
    4: (1, [("both", QUARTER, 0, 0.91)]),
    5: (0, [("right", BOX, 0, 0.95), ("duplicate", [0.0, 0.0, 90.0, 100.0], 0, 0.94)]),
    6: (0, [("background", AWAY, 0, 0.92)]),
    7: (1, [("right", BOX, 1, 0.7)]),
}


def truth_of(objects):
    annotations = [
        {"id": n, "image_id": image, "category_id": label, "bbox": BOX, "area": 1e4, "iscrowd": 0}
        for n, (image, label) in enumerate(objects, start=1)
    ]
    images = [{"id": i, "width": 500, "height": 500} for i in CASES]
    return {"images": images, "annotations": annotations, "categories": [{"id": 0}, {"id": 1}]}


def collected(truth, found):
    """Metric of detections (image, box, class, score)."""
    metric = CocoBoxes(truth, ["cat", "dog"])
    for image in CASES:
        here = [row for row in found if row[0] == image]
        predictions = {
            "boxes": [torch.tensor([row[1] for row in here]).view(-1, 4)],
            "labels": [torch.tensor([row[2] for row in here], dtype=torch.int64)],
            "scores": [torch.tensor([row[3] for row in here])],
        }
        metric.update(predictions, {"image_id": torch.tensor([image])})
    return metric


def ap50(truth, results):
    return referee(truth, results).stats[1] if results else 0.0


@pytest.fixture(scope="module")
def errors():
    metric = collected(
        truth_of([(image, label) for image, (label, _) in CASES.items()]),
        [(image, *row[1:]) for image, (_, rows) in CASES.items() for row in rows],
    )
    return DetectionErrors(metric.objects, metric.collected(), metric.class_names)


def test_each_detection_has_its_kind_and_the_objects_that_none_explains_are_missed(errors):
    expected = [row[0] for _, rows in CASES.values() for row in rows]
    assert [KINDS[kind] for kind in errors.kinds] == expected
    assert [errors.image_id[row] for row in errors.missed] == [4, 6]
    assert errors.overlap.round(2).tolist() == [1, 1, 0.25, 0.25, 1, 0.9, 0, 1]
    assert errors.target.tolist() == [0, 1, 2, -1, 4, -1, -1, 6]


@pytest.mark.parametrize("kind", [None, *ERRORS, "missed", "all false positives", "all false negatives"])
def test_corrections_give_what_pycocotools_says_of_detections_corrected_by_hand(errors, kind):
    objects = {image: label for image, (label, _) in CASES.items()}
    found = [(image, *row) for image, (_, rows) in CASES.items() for row in rows]
    if kind in ("both", "duplicate", "background"):
        found = [row for row in found if row[1] != kind]
    elif kind == "class":
        found = [(row[0], "right", row[2], 0, row[4]) if row[1] == kind else row for row in found]
    elif kind == "location":
        found = [(row[0], "right", BOX, *row[3:]) if row[1] == kind else row for row in found]
    elif kind == "all false positives":
        found = [row for row in found if row[1] == "right"]
    elif kind == "missed":
        objects = {image: label for image, label in objects.items() if image not in (4, 6)}
    elif kind == "all false negatives":
        objects = {image: label for image, label in objects.items() if image in (1, 5, 7)}
    truth = truth_of(objects.items())
    expected = ap50(truth, collected(truth, [(row[0], *row[2:]) for row in found]).results())
    assert (errors.ap50() if kind is None else errors.corrected(kind)) == pytest.approx(expected, abs=1e-9)


def test_gains_are_known_by_hand(errors):
    """Class 0 finds its objects with .95 and .9, after .94, .92, .91 are wrong: 2 of 5, the second with precision 2/5.

    Precision counts at 101 recalls, of which 21 are up to 1/5 and 20 more up to 2/5. Class 1 finds one of two objects
    after a wrong one: precision 1/2 at 51 recalls.
    """
    first, second = (21 + 20 * 2 / 5) / 101, 51 / 2 / 101
    assert errors.ap50() == pytest.approx((first + second) / 2)
    rows = {row["name"]: row for row in errors.totals()}
    assert rows["duplicate"]["gain"] == pytest.approx(20 * (2 / 4 - 2 / 5) / 101 / 2)
    assert rows["class"]["gain"] > rows["background"]["gain"] > 0
    assert [rows[kind]["count"] for kind in KINDS] == [3, 1, 1, 1, 1, 1]
    assert rows["missed"]["count"] == 2
    assert rows["missed"]["share"] == pytest.approx(2 / 7)
    assert rows["all false negatives"]["count"] == 4
    assert errors.confusions()[0] | {"share_of_errors": 1.0} == {
        "truth": "cat", "prediction": "dog", "count": 1, "share": 1 / 3, "share_of_errors": 1.0
    }  # fmt: skip
    worst = errors.images()
    assert worst[0]["sample"] == 6
    assert worst[0]["badness"] == pytest.approx(1.92)
    assert worst[0]["background"] == worst[0]["missed"] == 1
    classes = {row["name"]: row for row in errors.per_class()}
    assert classes["dog"]["AP50"] == pytest.approx(second)
    assert (classes["cat"]["missed"], classes["dog"]["missed"]) == (1, 1)
    assert errors.mistakes().tolist()[:2] == [5, 6]


@pytest.mark.parametrize(
    ("width", "label", "kind"),
    [
        (50, 0, "right"),  # IoU 0.5
        (49, 0, "location"),
        (10, 0, "location"),  # 0.1
        (9, 0, "background"),
        (50, 1, "class"),
        (49, 1, "both"),
        (11, 1, "both"),
        (10, 1, "background"),
    ],
)
def test_kinds_begin_where_the_paper_has_them_begin(width, label, kind):
    metric = collected(truth_of([(1, 0)]), [(1, [0.0, 0.0, float(width), 100.0], label, 0.9)])
    errors = DetectionErrors(metric.objects, metric.collected(), metric.class_names)
    assert [KINDS[found] for found in errors.kinds] == [kind]
    assert errors.missed.tolist() == ([] if kind in ("right", "location", "class") else [0])


def test_of_two_that_are_corrected_onto_one_object_the_better_one_stays():
    truth = truth_of([(1, 0)])
    found = [(1, BOX, 0, 0.5), (1, QUARTER, 0, 0.9), (1, BOX, 1, 0.7), (1, [0.0, 0.0, 40.0, 100.0], 0, 0.8)]
    metric = collected(truth, found)
    errors = DetectionErrors(metric.objects, metric.collected(), metric.class_names)
    # Without the lower ones, which would be duplicates; those of the other kind stay wrong.
    assert errors.corrected("location") == pytest.approx(1)
    assert errors.corrected("class") == pytest.approx(1 / 3)
    assert errors.ap50() == pytest.approx(1 / 3)
    assert len(errors.missed) == 0


def plain_kind(row, errors, image_rows):
    """Kind of a wrong detection, one IoU at a time."""
    x1, y1, x2, y2 = errors.detections.boxes[row]
    best = {True: 0.0, False: 0.0}
    for other in image_rows:
        a, b, w, h = errors.objects[other]["bbox"]
        inside = max(0, min(x2, a + w) - max(x1, a)) * max(0, min(y2, b + h) - max(y1, b))
        iou = inside / ((x2 - x1) * (y2 - y1) + w * h - inside)
        own = bool(errors.objects[other]["label"] == errors.detections.labels[row])
        best[own] = max(best[own], iou)
    if 0.1 <= best[True] < 0.5:
        return "location"
    if best[False] >= 0.5:
        return "class"
    if best[True] >= 0.5:
        return "duplicate"
    return "background" if max(best.values()) <= 0.1 else "both"


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(2))
def test_random_detections_against_pycocotools_and_a_plain_loop(seed, kind):
    rng = np.random.default_rng(seed)
    ground_truth = make_ground_truth(rng)
    metric = filled(ground_truth, make_predictions(rng, ground_truth), kind="segm")
    found = metric.collected()
    errors = DetectionErrors(metric.objects, found, NAMES, kind=kind, sizes=metric.sizes)
    results = metric.results(kind)
    assert errors.ap50() == pytest.approx(referee(ground_truth, results, kind).stats[1], abs=1e-9)
    for each in ("both", "duplicate", "background"):
        kept = [row for row, k in zip(results, errors.kinds, strict=True) if k != KINDS.index(each)]
        assert errors.corrected(each) == pytest.approx(referee(ground_truth, kept, kind).stats[1], abs=1e-9)
    rows = errors.totals()
    assert {row["name"]: row["count"] for row in rows}["all false positives"] == sum(r["count"] for r in rows[1:6])
    assert all(row["gain"] > -1e-9 for row in rows)
    if kind == "bbox":
        objects = {n: np.flatnonzero(errors.real & (errors.image_id == n)) for n in found.images.tolist()}
        for row in np.flatnonzero(errors.kinds > 0).tolist():
            assert KINDS[errors.kinds[row]] == plain_kind(row, errors, objects[int(found.image_id[row])])
        assert set(errors.kinds) >= {IGNORED, 0, 1, 2, 4, 5}
    assert {row["name"] for row in errors.per_class()} == set(NAMES)
    assert len(CATEGORIES) == len(NAMES)


def test_a_class_without_objects_or_detections_has_no_precision():
    assert math.isnan(class_precision(np.array([0.5]), np.array([False]), 0))
    assert class_precision(np.zeros(0), np.zeros(0, bool), 3) == 0


@pytest.mark.slow
def test_a_task_is_analysed_on_its_data(monkeypatch):
    """What a new network finds is wrong, and the report says so with pictures; the truth itself has no errors."""
    monkeypatch.chdir(ROOT)
    torch.manual_seed(0)
    data = CocoDetection("sample", image_size=(96, 128), batch_size=4, num_workers=0)
    options = {"channels": 32, "strides": [8, 16, 32], "score_threshold": 0.0, "max_detections": 5}
    task = DetectionTask(HRNet("w18_small_v1"), data.num_classes, detector="fcos", **options).eval()
    task.attach(data)
    report = report_of(task, data, 2)
    assert {"errors", "classes", "images", "detections"} <= set(report.tables)
    assert {"gain", "kinds", "classes", "worst", "examples_missed"} <= set(report.figures)
    assert len(report.tables["images"]) == 8
    totals = {row["name"]: row["count"] for row in report.tables["errors"]}
    assert totals["all false positives"] == len(report.tables["detections"]) > 0
    assert all(row["file"].endswith(".jpg") for row in report.tables["images"])
    boxes = {int(i): [] for i in data.split("val").image_ids}
    for each in task.metric.objects:
        boxes[each["image_id"]].append((each["bbox"], each["label"]))
    monkeypatch.setattr(task, "predict", lambda outputs, batch: perfect(batch, boxes))
    monkeypatch.setattr("experiments.errors.report.for_inference", lambda task: task)
    totals = {row["name"]: row for row in report_of(task, data).tables["errors"]}
    assert totals["right"]["AP50"] == pytest.approx(1)
    assert totals["all false positives"]["count"] == totals["missed"]["count"] == 0


def perfect(batch, boxes):
    here = [boxes[number] for number in batch["image_id"].tolist()]
    xywh = [torch.tensor([box for box, _ in rows]).view(-1, 4) for rows in here]
    return {
        "boxes": [torch.cat([x[:, :2], x[:, :2] + x[:, 2:]], dim=1) for x in xywh],
        "labels": [torch.tensor([label for _, label in rows], dtype=torch.int64) for rows in here],
        "scores": [torch.ones(len(rows)) for rows in here],
    }

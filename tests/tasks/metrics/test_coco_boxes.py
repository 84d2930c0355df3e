"""COCO box and mask figures with pycocotools as the referee, and what surrounds them: gathering, files, tables."""

import contextlib
import copy
import io
import json
import math
import socket

import numpy as np
import pytest
import torch
import torch.distributed
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console

from tasks.draw import class_table
from tasks.metrics.coco_boxes import CocoBoxes

KEYS = ["AP", "AP50", "AP75", "APS", "APM", "APL", "AR"]
MASK_KEYS = [f"mask_{key}" for key in KEYS]
PLACES = [0, 1, 2, 3, 4, 5, 8]
CATEGORIES = [2, 3, 7, 90]  # ids need not count from 1
NAMES = ["cat", "dog", "bee", "tiger"]
HEIGHT, WIDTH = 200, 240


def rectangle(x, y, width, height):
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def make_object(rng, number, image_id):
    width, height = rng.choice([1, 3, 8]) * rng.uniform(5, 25, 2)
    x, y = rng.uniform(0, [WIDTH - width, HEIGHT - height])
    made = {
        "id": number,
        "image_id": image_id,
        "category_id": int(rng.choice(CATEGORIES[:3])),  # nothing is of the last class
        "bbox": [x, y, width, height],
        "area": float(0.7 * width * height),
        "iscrowd": int(rng.random() < 0.15),
        "segmentation": rectangle(x, y, width, height),
    }
    if made["iscrowd"]:  # uncompressed, as COCO's crowds are
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[int(y) : int(y + height) + 1, int(x) : int(x + width) + 1] = 1
        changes = np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=0, append=0)).tolist()
        counts = np.diff([0, *changes, mask.size]).tolist()
        made["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": counts}
    return made


def make_ground_truth(rng, num_images=14):
    """Images of 0 to 6 objects of three of four classes, some crowds."""
    image_ids = (rng.permutation(10 * num_images)[:num_images] + 1).tolist()
    annotations = []
    for image_id in image_ids:
        for _ in range(rng.integers(0, 7)):
            annotations.append(make_object(rng, len(annotations) + 1, image_id))
    images = [{"id": i, "width": WIDTH, "height": HEIGHT} for i in image_ids]
    categories = [{"id": i, "name": name} for i, name in zip(CATEGORIES, NAMES, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}


def make_predictions(rng, ground_truth, most=30, digits=2):
    """Batches of one image: detections near objects and some nowhere, with ties, and none in some images."""
    batches = []
    for image in ground_truth["images"]:
        here = [a for a in ground_truth["annotations"] if a["image_id"] == image["id"]]
        count = int(rng.integers(0, most)) if rng.random() < 0.8 else 0
        boxes, labels = [], []
        for _ in range(count):
            if here and rng.random() < 0.7:
                chosen = here[rng.integers(len(here))]
                x, y, width, height = chosen["bbox"]
                noise = rng.normal(size=4) * rng.choice([0.02, 0.1, 0.3]) * min(width, height)
                box = np.array([x, y, x + width, y + height]) + noise
                label = CATEGORIES.index(chosen["category_id"]) if rng.random() < 0.9 else int(rng.integers(4))
            else:
                box, label = np.sort(rng.uniform(0, [WIDTH, HEIGHT], (2, 2)), axis=0).ravel(), int(rng.integers(4))
            boxes.append([*np.minimum(box[:2], box[2:] - 1), *box[2:]])
            labels.append(label)
        scores = rng.random(count).round(digits)  # ties
        prediction = {
            "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            "scores": torch.tensor(scores, dtype=torch.float32),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "masks": torch.tensor(rng.uniform(0.3, 1, (count, 28, 28)), dtype=torch.float32),
        }
        batches.append((image["id"], prediction))
    return batches


def joined(batches):
    """Images of predictions as one batch."""
    keys = ("boxes", "scores", "labels", "masks")
    predictions = {key: [found[key] for _, found in batches] for key in keys}
    return predictions, {"image_id": torch.tensor([image for image, _ in batches], dtype=torch.int64)}


def filled(ground_truth, batches, size=4, **options):
    metric = CocoBoxes(ground_truth, NAMES, **options)
    for start in range(0, len(batches), size):
        metric.update(*joined(batches[start : start + size]))
    return metric


def referee(ground_truth, results, kind="bbox", image_ids=None):
    """pycocotools' evaluation of results."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(ground_truth)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), kind)
        if image_ids is not None:
            evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def referee_figures(*args, **options):
    stats = referee(*args, **options).stats
    return [math.nan if stats[place] == -1 else stats[place] for place in PLACES]


@pytest.mark.parametrize("seed", range(4))
def test_box_figures_equal_those_of_pycocotools(seed):
    rng = np.random.default_rng(seed)
    ground_truth = make_ground_truth(rng)
    metric = filled(ground_truth, make_predictions(rng, ground_truth, most=(30, 400)[seed % 2]))
    if seed % 2:
        assert max(len(labels) for labels in metric.labels) > 100
    figures = metric.compute()
    assert list(figures) == KEYS
    expected = referee_figures(ground_truth, metric.results())
    np.testing.assert_allclose(list(figures.values()), expected, rtol=0, atol=1e-9)
    assert 0 < figures["AP"] < figures["AR"] < 1


def test_only_a_hundred_detections_of_a_class_count_in_an_image():
    """The right one is the 101st of its class: COCO does not look at it, and neither do detections of others count."""
    image = {"id": 1, "width": WIDTH, "height": HEIGHT}
    box = [10.0, 10.0, 50.0, 50.0]
    thing = {"id": 1, "image_id": 1, "category_id": 2, "bbox": box, "area": 2500.0, "iscrowd": 0}
    truth = {"images": [image], "annotations": [thing], "categories": [{"id": i} for i in CATEGORIES]}
    for wrong, expected in ((100, 0.0), (99, 0.01)):
        boxes = torch.tensor([[100.0, 100.0, 120.0, 120.0]] * wrong + [[10.0, 10.0, 60.0, 60.0]])
        scores = torch.linspace(1, 0.5, wrong + 1)
        others = torch.full((50,), 3)
        prediction = {
            "boxes": [torch.cat([boxes[:1].expand(50, 4), boxes])],
            "scores": [torch.cat([torch.ones(50), scores])],
            "labels": [torch.cat([others, torch.zeros(wrong + 1, dtype=torch.int64)])],
        }
        metric = CocoBoxes(truth, NAMES)
        metric.update(prediction, {"image_id": torch.tensor([1])})
        assert metric.compute()["AP"] == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_mask_figures_equal_those_of_pycocotools(seed):
    rng = np.random.default_rng(seed)
    ground_truth = make_ground_truth(rng)
    metric = filled(ground_truth, make_predictions(rng, ground_truth, most=(30, 30, 70)[seed]), kind="segm")
    assert seed < 2 or len(metric.results("segm")) > 300
    figures = metric.compute()
    assert list(figures) == KEYS + MASK_KEYS
    expected = [
        *referee_figures(ground_truth, metric.results()),
        *referee_figures(ground_truth, metric.results("segm"), kind="segm"),
    ]
    np.testing.assert_allclose(list(figures.values()), expected, rtol=0, atol=1e-9)
    assert 0 < figures["mask_AP"] != figures["AP"]
    assert filled(ground_truth, make_predictions(np.random.default_rng(seed), ground_truth)).kind == "bbox"


def test_perfect_boxes_and_masks_give_one_and_none_give_zero():
    rng = np.random.default_rng(0)
    ground_truth = make_ground_truth(rng)
    for each in ground_truth["annotations"]:  # at whole pixels, where a rectangle is exactly its pixels
        x, y, width, height = (round(value) for value in each["bbox"])
        each |= {"iscrowd": 0, "bbox": [x, y, width, height], "segmentation": rectangle(x, y, width, height)}
    batches = []
    for image in ground_truth["images"]:
        here = [a for a in ground_truth["annotations"] if a["image_id"] == image["id"]]
        corners = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in here)]
        found = {
            "boxes": torch.tensor(corners, dtype=torch.float32).reshape(-1, 4),
            "scores": torch.ones(len(here)),
            "labels": torch.tensor([CATEGORIES.index(a["category_id"]) for a in here], dtype=torch.int64),
            "masks": torch.ones(len(here), 28, 28),
        }
        batches.append((image["id"], found))
    figures = filled(ground_truth, batches, kind="segm").compute()
    assert figures == pytest.approx(dict.fromkeys(KEYS + MASK_KEYS, 1.0))
    nothing = [(image, {key: value[:0] for key, value in found.items()}) for image, found in batches]
    metric = filled(ground_truth, nothing, kind="segm")
    assert metric.compute() == dict.fromkeys(KEYS + MASK_KEYS, 0.0)
    assert metric.results() == metric.results("segm") == []
    empty = CocoBoxes(ground_truth, NAMES)
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert empty.compute() == dict.fromkeys(KEYS, 0.0)


def test_class_table_equals_pycocotools_precisions():
    rng = np.random.default_rng(1)
    ground_truth = make_ground_truth(rng)
    metric = filled(ground_truth, make_predictions(rng, ground_truth), kind="segm")
    metric.compute()
    table = metric.per_class()
    assert [row["name"] for row in table] == NAMES
    labels = [a["category_id"] for a in ground_truth["annotations"] if not a["iscrowd"]]
    assert [row["objects"] for row in table] == [labels.count(category) for category in CATEGORIES]
    assert sum(row["detections"] for row in table) == len(metric.results())
    for prefix, kind in (("", "bbox"), ("mask_", "segm")):
        precision = referee(ground_truth, metric.results(kind), kind).eval["precision"][..., 0, -1]
        for k, row in enumerate(table[:3]):
            of_class = precision[:, :, k]
            expected = [of_class.mean(), of_class[0].mean(), of_class[5].mean()]
            found = [row[f"{prefix}{key}"] for key in ("AP", "AP50", "AP75")]
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
        assert math.isnan(table[3][f"{prefix}AP"])
    assert class_table(table).row_count == 4


def test_repeated_images_count_once_and_order_does_not_matter():
    rng = np.random.default_rng(2)
    ground_truth = make_ground_truth(rng)
    batches = make_predictions(rng, ground_truth, digits=7)
    once = filled(ground_truth, batches, kind="segm")
    twice = filled(ground_truth, batches, kind="segm")
    twice.update(*joined([batches[5], batches[0], batches[5]]))
    shuffled = filled(ground_truth, [batches[i] for i in rng.permutation(len(batches))], size=20, kind="segm")
    for other in (twice, shuffled):
        assert other.compute() == once.compute()
        assert other.results() == once.results()
        assert other.results("segm") == once.results("segm")


def test_missed_images_count_unless_only_seen_images_are_wanted():
    rng = np.random.default_rng(3)
    ground_truth = make_ground_truth(rng)
    batches = make_predictions(rng, ground_truth)
    half = batches[: len(batches) // 2]
    metric, seen = filled(ground_truth, half), filled(ground_truth, half, seen_images_only=True)
    assert seen.compute()["AR"] > metric.compute()["AR"]
    expected = referee_figures(ground_truth, seen.results(), image_ids=[image for image, _ in half])
    np.testing.assert_allclose(list(seen.compute().values()), expected, rtol=0, atol=1e-9)
    objects = sum(row["objects"] for row in seen.per_class())
    assert 0 < objects < sum(row["objects"] for row in metric.per_class())
    seen.reset()
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert all(math.isnan(value) for value in seen.compute().values())


def test_an_image_that_was_seen_and_has_nothing_found_counts_as_missed():
    rng = np.random.default_rng(4)
    ground_truth = make_ground_truth(rng)
    batches = [(image, found) for image, found in make_predictions(rng, ground_truth) if len(found["labels"])]
    image = next(a["image_id"] for a in ground_truth["annotations"] if a["image_id"] not in dict(batches[:3]))
    none = (image, {key: value[:0] for key, value in batches[0][1].items()})
    without = filled(ground_truth, batches[:3], seen_images_only=True).compute()
    with_it = filled(ground_truth, [*batches[:3], none], seen_images_only=True).compute()
    assert with_it["AR"] < without["AR"]


def test_figures_that_no_object_defines_are_nan():
    rng = np.random.default_rng(5)
    ground_truth = make_ground_truth(rng)
    ground_truth["annotations"] = [a for a in ground_truth["annotations"] if a["area"] > 32**2]
    metric = filled(ground_truth, make_predictions(rng, ground_truth))
    assert math.isnan(metric.compute()["APS"])
    np.testing.assert_allclose(list(metric.compute().values()), referee_figures(ground_truth, metric.results()))
    console = Console(file=io.StringIO(), width=160)
    console.print(metric.table())
    assert console.file.getvalue().count("n/a") == 1
    for annotation in ground_truth["annotations"]:
        annotation["iscrowd"] = 1
    metric = filled(ground_truth, make_predictions(rng, ground_truth))
    assert all(math.isnan(value) for value in metric.compute().values())
    assert all(row["objects"] == 0 and math.isnan(row["AP"]) for row in metric.per_class())


def test_ground_truth_is_left_alone_and_its_numbers_do_not_matter():
    """COCO's tools read annotation 0 as "not matched", and batches may call images by other numbers than files do."""
    rng = np.random.default_rng(6)
    ground_truth = make_ground_truth(rng)
    batches = make_predictions(rng, ground_truth)
    before = copy.deepcopy(ground_truth)
    metric = filled(ground_truth, batches, kind="segm")
    expected = metric.compute()
    assert ground_truth == before
    for annotation in ground_truth["annotations"]:
        annotation["id"] -= 1
        annotation["image_id"] = f"image {annotation['image_id']:03d}"
    for image in ground_truth["images"]:
        image |= {"number": image["id"] + 2**60, "id": f"image {image['id']:03d}"}
    renamed = filled(ground_truth, [(image + 2**60, found) for image, found in batches], kind="segm")
    assert renamed.compute() == expected
    assert {row["image_id"] for row in renamed.results()} <= {image["id"] for image in ground_truth["images"]}
    assert {row["category_id"] for row in renamed.results()} <= set(CATEGORIES)


def test_saved_results_are_what_pycocotools_reads(tmp_path):
    rng = np.random.default_rng(7)
    ground_truth = make_ground_truth(rng)
    metric = filled(ground_truth, make_predictions(rng, ground_truth), kind="segm")
    figures = list(metric.compute().values())
    path = metric.save(tmp_path / "predictions" / "val_detections.json")
    assert {file.name for file in path.parent.iterdir()} == {"val_detections.json", "val_detections_masks.json"}
    boxes = json.loads(path.read_text())
    masks = json.loads(path.with_name("val_detections_masks.json").read_text())
    assert [row["score"] for row in boxes] == [row["score"] for row in metric.results()]
    assert set(boxes[0]) == {"image_id", "category_id", "bbox", "score"}
    found = [*referee_figures(ground_truth, boxes), *referee_figures(ground_truth, masks, kind="segm")]
    np.testing.assert_allclose(found, figures, atol=2e-3)
    np.testing.assert_allclose(found[7:], figures[7:], atol=1e-9)
    width, height = boxes[0]["bbox"][2:]
    area = coco_mask.area(masks[0]["segmentation"])
    assert area <= (width + 1) * (height + 1)


def test_without_annotations_results_can_be_saved_but_not_evaluated(tmp_path):
    rng = np.random.default_rng(8)
    ground_truth = make_ground_truth(rng)
    batches = make_predictions(rng, ground_truth)
    for truth in (None, {**ground_truth, "annotations": []}):
        metric = filled(truth, batches)
        with pytest.raises(ValueError, match="no annotations"):
            metric.compute()
        results = json.loads(metric.save(tmp_path / "results.json").read_text())
        ids = set(CATEGORIES) if truth else set(range(4))
        assert len(results) == sum(len(found["labels"]) for _, found in batches)
        assert {row["category_id"] for row in results} == ids


def test_mistakes_are_told_in_sentences():
    rng = np.random.default_rng(9)
    ground_truth = make_ground_truth(rng)
    batches = make_predictions(rng, ground_truth)
    first = ground_truth["annotations"][0]

    def with_first(**changes):
        annotation = {key: value for key, value in {**first, **changes}.items() if value is not None}
        return {**ground_truth, "annotations": [annotation]}

    with pytest.raises(ValueError, match="4 categories and there are 2 class names"):
        CocoBoxes(ground_truth, ["cat", "dog"])
    with pytest.raises(ValueError, match=r"Annotation 1 of image \d+ has no area"):
        CocoBoxes(with_first(area=None), NAMES)
    with pytest.raises(ValueError, match="has no segmentation"):
        CocoBoxes(with_first(segmentation=None), NAMES, "segm")
    with pytest.raises(ValueError, match="category_id 5, which is not among"):
        CocoBoxes(with_first(category_id=5), NAMES)
    with pytest.raises(ValueError, match="has no height and width"):
        CocoBoxes({**ground_truth, "images": [{"id": i["id"]} for i in ground_truth["images"]]}, NAMES, "segm")
    with pytest.raises(ValueError, match="give every image a `number`"):
        CocoBoxes({**ground_truth, "images": [{"id": "a"}], "annotations": []}, NAMES)
    predictions, batch = joined(batches[:1])
    with pytest.raises(ValueError, match=r"expected \(N, 4\)"):
        CocoBoxes(ground_truth, NAMES).update({**predictions, "boxes": [torch.zeros(2, 5)]}, batch)
    other = {"image_id": batch["image_id"] + 5000}
    metric = CocoBoxes(ground_truth, NAMES)
    metric.update(predictions, other)
    with pytest.raises(ValueError, match="not in the ground truth, the first has id"):
        metric.compute()
    with pytest.raises(ValueError, match="not in the ground truth"):
        CocoBoxes(ground_truth, NAMES, "segm").update(predictions, other)
    with pytest.raises(ValueError, match="There are no masks"):
        metric.results("segm")


def test_a_diverged_network_is_told_and_counts_as_wrong():
    rng = np.random.default_rng(10)
    ground_truth = make_ground_truth(rng)
    batches = make_predictions(rng, ground_truth)
    for _, found in batches:
        found["boxes"][::2, 1] = math.nan
        found["scores"][1::2] = math.inf
    metric = filled(ground_truth, batches)
    with pytest.warns(UserWarning, match=r"\d+ of \d+ detections .* not finite"):
        figures = metric.compute()
    assert figures["AP"] == 0
    assert np.isfinite([row["bbox"] for row in metric.results()]).all()


def test_state_is_reset_copied_and_kept_out_of_checkpoints():
    rng = np.random.default_rng(11)
    ground_truth = make_ground_truth(rng)
    batches = make_predictions(rng, ground_truth)
    metric = filled(ground_truth, batches, kind="segm").to(torch.device("cpu")).half()
    figures, results, table = metric.compute(), metric.results(), metric.per_class()
    assert metric.state_dict() == {}
    twin = copy.deepcopy(metric)
    metric.reset()
    metric.update(*joined(batches[:4]))
    assert metric.results() != results
    assert metric.compute() != figures
    assert twin.results() == results
    np.testing.assert_equal(twin.per_class(), table)
    metric.reset()
    for start in range(0, len(batches), 3):
        metric(*joined(batches[start : start + 3]))
    assert metric.compute() == figures


def gather_on_two_processes(rank, port, ground_truth, parts, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    metric = CocoBoxes(ground_truth, NAMES, "segm")
    outcome = []
    for part in parts:
        metric.reset()
        if part[rank]:
            metric.update(*joined(part[rank]))
        outcome.append((metric.compute(), metric.results(), metric.results("segm")))
        # The local detections are back afterwards, and the process may go on adding to them.
        outcome.append(sum(len(rows) for rows in metric.images))
    torch.save(outcome, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_agree_with_one(tmp_path):
    """Uneven shares with an image that both have; one without any detection; one without any image; both."""
    rng = np.random.default_rng(12)
    ground_truth = make_ground_truth(rng)
    batches = make_predictions(rng, ground_truth, digits=7)
    silent = [(image, {key: value[:0] for key, value in found.items()}) for image, found in batches[:3]]
    parts = [(batches[:9], batches[8:]), (silent, batches[3:]), (batches, []), ([], batches), ([], [])]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(gather_on_two_processes, (port, ground_truth, parts, tmp_path), nprocs=2)
    count = len(batches)
    expected = []
    for each in (batches, [*silent, *batches[3:]], batches, batches):
        metric = filled(ground_truth, each, kind="segm")
        expected.append((metric.compute(), metric.results(), metric.results("segm")))
    for rank, counts in enumerate(((9, 3, count, 0, 0), (count - 8, count - 3, 0, count, 0))):
        outcome = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert outcome[:8:2] == expected
        assert outcome[8] == (dict.fromkeys(KEYS + MASK_KEYS, 0.0), [], [])
        assert outcome[1::2] == list(counts)

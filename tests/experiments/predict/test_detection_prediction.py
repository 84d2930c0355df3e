"""Objects found in photos are those of the evaluation, in the photos' pixels; what is drawn and written of them."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

import tasks
from datamodules.detection.letterbox import Letterbox
from experiments.predict import main
from experiments.predict.base import preparer_of
from experiments.predict.detection import DetectionResult
from experiments.predict.media import Photo
from experiments.predictor import Predictor
from hrnet import HRNet
from tasks import DetectionTask
from tasks.draw import class_colours
from tasks.metrics.masks import paste_masks

NAMES = ["cat", "person"]


def photo(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def new_task(detector="fcos", **options):
    torch.manual_seed(0)
    own = {"box_channels": 32, "proposals": (50, 20)} if detector == "mask_rcnn" else {"strides": [8, 16, 32]}
    task = DetectionTask(
        HRNet("w18_small_v1"),
        2,
        detector=detector,
        channels=32,
        class_names=NAMES,
        **{"score_threshold": 0.0} | own | options,
    ).eval()
    task.preparation = Letterbox((64, 96)).to_dict()
    return task


def make_result(masks=False, category_ids=None):
    image = np.full((60, 80, 3), 90, np.uint8)
    return DetectionResult(
        photo=Photo(image, name="zoo"),
        boxes=np.array([[10.0, 20.0, 40.0, 50.0], [50.0, 5.0, 70.0, 15.0]], np.float32),
        scores=np.array([0.9, 0.2], np.float32),
        labels=np.array([1, 0]),
        class_names=NAMES,
        category_ids=category_ids,
        masks=np.ones((2, 28, 28), np.float32) if masks else None,
    )


def coloured(picture, colour):
    return (np.asarray(picture) == np.array(colour, np.uint8)).all(-1)


def test_only_what_scores_enough_is_drawn_and_the_threshold_can_be_chosen():
    cat, person = class_colours(2)
    result = make_result()
    assert coloured(result.plot(), person)[49, 10:40].all()  # the last row inside
    assert not coloured(result.plot(), cat).any()
    assert coloured(result.plot(threshold=0.1), cat).any()
    assert not coloured(result.plot(threshold=0.95), person).any()
    inside = np.asarray(make_result(masks=True).plot())[40, 30]
    np.testing.assert_allclose(inside, (np.array(person) + 90) / 2, atol=1)


def test_rows_and_records_have_boxes_classes_and_masks():
    rows = make_result().rows()
    assert rows[0] == {
        "image": "zoo", "instance": 0, "label": 1, "name": "person", "score": 0.9,
        "x1": 10.0, "y1": 20.0, "x2": 40.0, "y2": 50.0,
    }  # fmt: skip
    records = make_result(masks=True).records(7)
    assert [record["category_id"] for record in records] == [2, 1]
    assert records[0]["bbox"] == [10.0, 20.0, 30.0, 30.0]
    assert records[0]["image_id"] == 7
    assert "segmentation" not in make_result().records(7)[0]
    mask = coco_mask.decode(records[0]["segmentation"])
    assert mask.shape == (60, 80)
    assert mask[20:50, 10:40].sum() == mask.sum() >= 896  # all but the corners, where both sides fall off
    json.dumps(records)


def test_records_have_the_ids_of_the_training_data_and_say_so():
    known, unknown = (make_result(category_ids=ids).records(1) for ids in ([17, 1], None))
    assert [(record["name"], record["label"], record["category_id"]) for record in known] == [
        ("person", 1, 1),
        ("cat", 0, 17),
    ]
    assert [record["category_id"] for record in unknown] == [2, 1]
    assert {record["category_ids"] for record in known} == {"of the training data"}
    assert {record["category_ids"] for record in unknown} == {"label + 1"}
    task = new_task(category_ids=[17, 1], max_detections=4)
    records = Predictor(task)(photo(80, 90)).records(1)
    assert {record["name"]: record["category_id"] for record in records}.items() <= {"cat": 17, "person": 1}.items()
    assert records


@pytest.mark.parametrize("detector", ["fcos", "mask_rcnn"])
def test_photos_are_seen_as_in_the_evaluation_and_found_in_their_own_pixels(detector):
    task = new_task(detector, max_detections=8)
    images = [photo(120, 160), photo(90, 200, 1), photo(120, 160, 2), photo(40, 30, 3)]
    results = Predictor(task, batch_size=3)(images)
    for image, result in zip(images, results, strict=True):
        height, width = image.shape[:2]
        sample = preparer_of(task)(image)
        batch = {
            "image": torch.from_numpy(sample["image"]).permute(2, 0, 1)[None],
            "size": torch.from_numpy(sample["size"])[None],
            "to_image": torch.from_numpy(sample["to_image"])[None],
        }
        with torch.no_grad():
            expected = task.predict(task.outputs(batch), batch)
        assert len(result.boxes) == len(expected["boxes"][0]) > 0
        limit = np.array([width, height] * 2)
        np.testing.assert_allclose(result.boxes, np.clip(expected["boxes"][0], 0, limit), atol=0.05)
        np.testing.assert_allclose(result.scores, expected["scores"][0], atol=1e-4)
        np.testing.assert_array_equal(result.labels, expected["labels"][0])
        assert (result.boxes >= 0).all()
        assert (result.boxes <= limit).all()
        assert result.boxes[:, 2:].max() > 0.3 * min(height, width)  # not in the pixels of the small canvas
        assert (result.masks is None) == (detector == "fcos")
        assert result.plot().size == (width, height)


def test_the_command_writes_overlays_a_table_and_coco_results(tmp_path):
    task = new_task(max_detections=4)
    torch.save(checkpoint_of(task), tmp_path / "task.ckpt")
    (tmp_path / "photos").mkdir()
    for number in range(2):
        Image.fromarray(photo(70, 110, number)).save(tmp_path / "photos" / f"{number}.png")
    words = [
        str(tmp_path / "task.ckpt"),
        str(tmp_path / "photos"),
        "--output",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    assert not main(words)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"overlays", "predictions.csv", "predictions.json"}
    with (tmp_path / "out" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    records = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(rows) == len(records) == 8
    x1, y1 = float(rows[0]["x1"]), float(rows[0]["y1"])
    x, y = records[0]["bbox"][:2]
    assert (x1, y1) == pytest.approx((x, y))
    assert Image.open(tmp_path / "out" / "overlays" / "0.jpg").size == (110, 70)
    assert not main([*words, "--overwrite", "--model.score_threshold", "0.99"])
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) == []


def checkpoint_of(task):
    return {"state_dict": task.state_dict(), "hyper_parameters": dict(task.hparams), **task.described()}


def test_a_checkpoint_that_says_nothing_of_images_is_read_as_published():
    task = new_task()
    task.preparation = {}
    preparer = preparer_of(task)
    assert preparer.placement((480, 640)).canvas == (832, 1344)
    assert preparer.placement((640, 480)).canvas == (1344, 832)
    assert preparer.placement((480, 640)).size == (800, 1067)


def test_persons_that_are_found_can_be_posed():
    """The finder of a pose prediction reads boxes, scores, labels and names of this result."""
    result = Predictor(new_task(max_detections=6))(photo(100, 140))
    count = len(result.boxes)
    assert result.boxes.shape == (count, 4)
    assert result.scores.shape == result.labels.shape == (count,)
    assert tuple(result.class_names) == ("cat", "person")
    assert tasks.DetectionTask is DetectionTask


def test_drawn_masks_are_those_that_are_pasted():
    result = make_result(masks=True)
    masks = paste_masks(result.masks, result.boxes, (60, 80))
    changed = (np.asarray(result.plot(threshold=0.0)) != 90).any(-1)
    assert changed[masks.any(0)].all()

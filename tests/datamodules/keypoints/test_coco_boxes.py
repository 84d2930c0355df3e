"""Boxes on their way to the network: detections in any order with their scores, padding and convention of the crop.

What a data set cuts out is held against the formula, and what prediction cuts out against the data set.
"""

import json
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from datamodules import CocoPose, DataError, PersonAugmentation
from datamodules.keypoints.crop import PersonCrop
from datamodules.sample import sample_coco
from experiments.predict.base import preparer_of
from experiments.predict.boxes import Boxes, CocoBoxes
from experiments.predict.media import read_photo
from experiments.predict.pose import PoseView
from experiments.predictor import Predictor
from hrnet import HRNet
from tasks import PoseTask

SIZE = (64, 48)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_coco(tmp_path_factory.mktemp("boxes") / "coco", num_train=4, num_val=5)


@pytest.fixture(scope="module")
def detections(root: Path) -> list[dict[str, Any]]:
    """Several boxes a person, jittered, of many scores, images mixed."""
    rng = np.random.default_rng(3)
    content = json.loads((root / "annotations/person_keypoints_val2017.json").read_text())
    rows = [
        {"image_id": a["image_id"], "category_id": 1, "score": round(float(rng.uniform(0.05, 1)), 3)}
        | {"bbox": (np.array(a["bbox"]) + rng.uniform(-2, 2, 4)).round(2).tolist()}
        for a in content["annotations"]
        for _ in range(3)
    ]
    return [rows[i] for i in rng.permutation(len(rows))]


def open_data(root: Path, detections: list[dict[str, Any]] | None = None, **options: Any) -> CocoPose:
    if detections is not None:
        text = json.dumps(detections)
        path = root / f"boxes_{zlib.crc32(text.encode())}.json"
        path.write_text(text)
        options["detections"] = path.name
    return CocoPose(root, image_size=SIZE, batch_size=3, num_workers=0, **options)


def batches(loader: Any) -> dict[str, torch.Tensor]:
    found = list(loader)
    return {key: torch.cat([batch[key] for batch in found]) for key in found[0]}


# ---- detections


@pytest.mark.parametrize("order", [0, 1, 2, "by score", "by image"])
def test_each_box_keeps_its_score_image_and_place_in_any_order(root: Path, detections: list[dict], order: Any) -> None:
    if isinstance(order, int):
        rows = [detections[i] for i in np.random.default_rng(order).permutation(len(detections))]
    else:
        key = "score" if order == "by score" else "image_id"
        rows = sorted(detections, key=lambda row: row[key], reverse=order == "by score")
    batch = batches(open_data(root, rows).val_dataloader())
    assert sorted(batch["instance_id"].tolist()) == list(range(len(rows)))
    for i, row in enumerate(rows[place] for place in batch["instance_id"].tolist()):
        assert batch["image_id"][i] == row["image_id"]
        assert batch["score"][i].item() == pytest.approx(row["score"])
        matrix = batch["to_image"][i].double().numpy()
        x, y, width, height = row["bbox"]
        centre = matrix[:, :2] @ [SIZE[1] / 2, SIZE[0] / 2] + matrix[:, 2]
        np.testing.assert_allclose(centre, [x + width / 2, y + height / 2], atol=1e-3)
        padded = 1.25 * max(width, height * SIZE[1] / SIZE[0])
        assert batch["area"][i].item() == pytest.approx(padded**2 * SIZE[0] / SIZE[1], rel=1e-5)
    # An image is decoded once: its boxes come one after another, in the order of the file.
    images = batch["image_id"].tolist()
    changes = sum(a != b for a, b in pairwise(images))
    assert changes == len(set(images)) - 1
    for image in set(images):
        places = [p for p, i in zip(batch["instance_id"].tolist(), images, strict=True) if i == image]
        assert places == sorted(places)


def test_the_threshold_takes_scores_from_it_on(root: Path, detections: list[dict]) -> None:
    scores = sorted(row["score"] for row in detections)
    for threshold in (0.0, scores[3], scores[3] + 1e-6, scores[-1]):
        batch = batches(open_data(root, detections, detection_threshold=threshold).val_dataloader())
        expected = [score for score in scores if score >= threshold]
        assert sorted(batch["score"].tolist()) == pytest.approx(expected)
    with pytest.raises(DataError, match=r"0 of them scoring at least 1\.0"):
        open_data(root, detections, detection_threshold=1.0).split("val")


def test_training_takes_annotated_boxes_whatever_is_detected(root: Path, detections: list[dict]) -> None:
    def drawn(data: CocoPose) -> list:
        return [data.split("train")[i, 0] for i in range(len(data.split("train")))]

    with_boxes, without = drawn(open_data(root, detections, detection_threshold=0.5)), drawn(open_data(root))
    assert len(with_boxes) == len(without) > 0
    for a, b in zip(with_boxes, without, strict=True):
        assert (a["instance_id"], a["score"]) == (b["instance_id"], 1)
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(a["visible"], b["visible"])


def test_test_takes_the_detections_too(root: Path, detections: list[dict]) -> None:
    data = open_data(root, detections)
    data.setup("test")
    assert sorted(batches(data.test_dataloader())["instance_id"].tolist()) == list(range(len(detections)))


def test_the_score_of_a_box_weighs_its_pose(root: Path, detections: list[dict]) -> None:
    """A pose counts with box score times mean key point score, whichever order the boxes came in."""
    found = []
    for rows in (detections, detections[::-1]):
        data = open_data(root, rows)
        task = PoseTask(HRNet("w18_small_v1", multi_scale_output=False, upsample="bilinear"))
        task.attach(data)
        task.reset()
        for batch in data.val_dataloader():
            count = len(batch["score"])
            # Places that tell the boxes apart, so that none is suppressed as a double.
            spread = 500 * torch.arange(17)[None, :, None] * batch["score"][:, None, None]
            places = batch["to_image"][:, None, :, 2] + spread
            task.update({"keypoints": places, "scores": torch.full((count, 17), 0.5)}, batch)
        found.append(sorted((r["image_id"], round(r["score"], 6)) for r in task.metric.results()))
    assert found[0] == found[1]
    expected = sorted((row["image_id"], round(row["score"] * 0.5, 6)) for row in detections)
    assert len(found[0]) == len(expected)
    for (image, score), (expected_image, expected_score) in zip(found[0], expected, strict=True):
        assert image == expected_image
        assert score == pytest.approx(expected_score, abs=1e-5)


def test_only_categories_with_key_points_are_taken(root: Path, detections: list[dict]) -> None:
    mixed = [row | {"category_id": 1 if i % 3 else 18} for i, row in enumerate(detections)]
    batch = batches(open_data(root, mixed).val_dataloader())
    assert sorted(batch["instance_id"].tolist()) == [i for i in range(len(mixed)) if i % 3]


# ---- padding and convention


@pytest.mark.parametrize("padding", [1.0, 1.25, 1.7])
@pytest.mark.parametrize("crop", ["size", "unit"])
def test_padding_and_convention_reach_the_crop(root: Path, padding: float, crop: str) -> None:
    """In both splits, by the formula: the padded box fills the crop, from edge to edge or between pixel centres."""
    still = PersonAugmentation(0, 0, 0, 0, 0)
    data = open_data(root, box_padding=padding, crop=crop, augmentation=still)
    less = 1 if crop == "unit" else 0
    for split in ("train", "val"):
        content = json.loads((root / data.annotations[split]).read_text())
        boxes = {a["id"]: a["bbox"] for a in content["annotations"]}
        sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
        dataset = data.split(split)
        for sample in (dataset[i, 0] for i in range(len(dataset))):
            x, y, width, height = boxes[int(sample["instance_id"])]
            x, y = max(x, 0), max(y, 0)
            limits = np.array(sizes[int(sample["image_id"])]) - 1
            width, height = np.minimum(limits, [x + width - 1, y + height - 1]) - [x, y]
            padded = padding * max(width, height * SIZE[1] / SIZE[0])
            corners = np.array([[0, 0], [SIZE[1] - less, SIZE[0] - less]])
            matrix = sample["to_image"].astype(np.float64)
            (left, top), (right, bottom) = corners @ matrix[:, :2].T + matrix[:, 2]
            assert right - left == pytest.approx(padded, rel=1e-4)
            assert bottom - top == pytest.approx(padded * SIZE[0] / SIZE[1], rel=1e-4)
            np.testing.assert_allclose([left + right, top + bottom], [2 * x + width, 2 * y + height], atol=2e-2)
            assert sample["area"] == pytest.approx(padded**2 * SIZE[0] / SIZE[1], rel=1e-5)


class Grey(PersonCrop):
    """The crop without its colours, from another box."""

    def padded(self, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        centers, sizes = super().padded(boxes)
        return centers + 3, sizes

    def cut(self, image: np.ndarray, matrix: np.ndarray) -> dict[str, Any]:
        return super().cut(image.mean(-1, keepdims=True).astype(np.uint8).repeat(3, axis=-1), matrix)


class GreyPose(CocoPose):
    """A data set that prepares images in its own way."""

    @property
    def preparer(self) -> Grey:
        return Grey(self.image_size, self.reading, box_padding=1.5)


def test_a_data_sets_own_crop_is_cut_in_evaluation_and_prediction(root: Path) -> None:
    data = GreyPose(root, image_size=SIZE, num_workers=0)
    task = PoseTask(HRNet("w18_small_v1", multi_scale_output=False, upsample="bilinear")).eval()
    task.attach(data)
    task.preparation = json.loads(json.dumps(data.preparation()))
    dataset, path = data.split("val"), root / data.annotations["val"]
    first = next(image for image in json.loads(path.read_text())["images"] if image["id"] == dataset[0]["image_id"])
    view = PoseView(task, preparer_of(task), boxes=CocoBoxes(path, data.skeleton))
    cut, _ = view.prepare(read_photo(root / "val2017" / first["file_name"]))
    for sample, expected in zip(cut, map(dataset.__getitem__, range(len(cut))), strict=True):
        np.testing.assert_array_equal(sample["image"], expected["image"])
        np.testing.assert_array_equal(sample["to_image"], expected["to_image"])
        assert (np.ptp(sample["image"], axis=-1) == 0).all()
    plain = open_data(root, box_padding=1.5).split("val")[0]
    np.testing.assert_allclose(cut[0]["to_image"][:, 2] - plain["to_image"][:, 2], 3, atol=1e-3)


@pytest.mark.parametrize(("padding", "crop"), [(1.0, "size"), (1.25, "unit"), (1.6, "size"), (1.6, "unit")])
def test_prediction_cuts_what_the_data_set_cuts(root: Path, padding: float, crop: str) -> None:
    data = open_data(root, box_padding=padding, crop=crop)
    task = PoseTask(HRNet("w18_small_v1", multi_scale_output=False, upsample="bilinear")).eval()
    task.attach(data)
    task.preparation = data.preparation()  # as a run does at its start
    preparer = preparer_of(task)
    assert (preparer.box_padding, preparer.crop, preparer.image_size) == (padding, crop, SIZE)
    assert preparer == data.preparer
    path = root / data.annotations["val"]
    view = PoseView(task, preparer, boxes=CocoBoxes(path, data.skeleton))
    dataset = data.split("val")
    samples = [dataset[i] for i in range(len(dataset))]
    images = json.loads(path.read_text())["images"]
    seen = 0
    for image in images:
        photo = read_photo(root / "val2017" / image["file_name"])
        cut, _ = view.prepare(photo)
        expected = [sample for sample in samples if sample["image_id"] == image["id"]]
        assert len(cut) == len(expected)
        for a, b in zip(cut, expected, strict=True):
            np.testing.assert_array_equal(a["image"], b["image"])
            np.testing.assert_array_equal(a["to_image"], b["to_image"])
        seen += len(cut)
    assert seen == len(dataset) > 3


@pytest.mark.parametrize(("padding", "crop"), [(1.0, "unit"), (1.6, "size")])
def test_a_predictor_takes_padding_and_convention_from_the_task(root: Path, padding: float, crop: str) -> None:
    """What the network is shown, looked at from outside: a dot in the photo lands where the formula puts it."""
    data = open_data(root, box_padding=padding, crop=crop)
    task = PoseTask(HRNet("w18_small_v1", multi_scale_output=False, upsample="bilinear"), flip_test=False).eval()
    task.attach(data)
    task.preparation = data.preparation()
    photo = np.zeros((200, 150, 3), np.uint8)
    cv2.circle(photo, (100, 120), 6, (255, 255, 255), -1)
    box = np.array([[40.0, 50, 130, 170]])
    predictor = Predictor(task, boxes=lambda _: Boxes(box, np.array([0.7])))
    seen: list[torch.Tensor] = []
    single = predictor.parts[""].task
    real = single.outputs
    single.outputs = lambda batch: seen.append(batch["image"].clone()) or real(batch)
    result = predictor(photo)
    assert result.box_scores.tolist() == [0.7]
    (image,) = seen
    ys, xs = np.nonzero(image[0, 0].numpy() > 127)
    padded = padding * max(90, 120 * SIZE[1] / SIZE[0])
    less = 1 if crop == "unit" else 0
    scale = (SIZE[1] - less) / padded
    expected_x = (100 - 85) * scale + (SIZE[1] - less) / 2
    expected_y = (120 - 110) * (SIZE[0] - less) / (padded * SIZE[0] / SIZE[1]) + (SIZE[0] - less) / 2
    if crop == "size":
        expected_y = (120 - 110) * scale + SIZE[0] / 2
    np.testing.assert_allclose([xs.mean(), ys.mean()], [expected_x, expected_y], atol=0.3)


@pytest.mark.parametrize("padding", [0, -1.25, float("nan"), float("inf")])
def test_a_padding_that_leaves_no_crop_is_refused(root: Path, padding: float) -> None:
    with pytest.raises(DataError, match=r"box_padding .* expected"):
        open_data(root, box_padding=padding)

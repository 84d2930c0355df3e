"""COCO objects: what a sample has, what the evaluation gets, batches of one orientation, and real files."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from datamodules import CocoDetection, DetectionAugmentation
from datamodules.sample import sample_coco
from tests.datamodules.detection.conftest import CLASSES, content_of, detection


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_coco(tmp_path_factory.mktemp("objects") / "coco", num_train=12, num_val=6)


def in_pixels(sample: dict[str, Any]) -> np.ndarray:
    """Boxes of a sample in the pixels of its image file, by `to_image`."""
    matrix, boxes = sample["to_image"].astype(float), sample["boxes"].astype(float) - 0.5
    corners = boxes.reshape(-1, 2) @ matrix[:, :2].T + matrix[:, 2] + 0.5
    return corners.reshape(-1, 4)


# ---- samples


def test_an_evaluated_sample_has_the_objects_of_its_image(drawn: Path) -> None:
    data, content = detection(drawn, masks=True), content_of(drawn)
    dataset, labels = data.split("val"), {key: label for label, key in enumerate(sorted(CLASSES))}
    assert data.class_names == ["dog", "cat", "bird"]
    assert data.num_classes == 3
    assert len(dataset) == 20
    for index in range(20):
        sample = dataset[index]
        of = [a for a in content["annotations"] if a["image_id"] == sample["image_id"] and not a["iscrowd"]]
        expected = np.array([a["bbox"] for a in of], float).reshape(-1, 4)
        expected[:, 2:] += expected[:, :2]
        np.testing.assert_allclose(in_pixels(sample), expected, atol=1e-3)
        assert sample["labels"].tolist() == [labels[a["category_id"]] for a in of]
        assert (sample["boxes"].dtype, sample["labels"].dtype, sample["size"].dtype) == ("float32", "int64", "int64")
        assert sample["masks"].shape == (len(of), 128, 128)
        assert sample["masks"].dtype == bool
        for mask, (x1, y1, x2, y2) in zip(sample["masks"], sample["boxes"], strict=True):
            assert mask.sum() == pytest.approx((x2 - x1) * (y2 - y1), rel=0.2)
            # What is white in the picture is what the mask says, but for the seam.
            assert sample["image"][mask].mean() > 200
    assert dataset.name(2) == "3.png"


def test_a_training_sample_shows_what_its_boxes_say(drawn: Path) -> None:
    augmentation = DetectionAugmentation(scale=(0.5, 2.0), random_place=True)
    dataset = detection(drawn, masks=True, augmentation=augmentation, image_size=(96, 128)).split("train")
    dark, seen = [], 0
    for turn in range(20):
        for index in range(len(dataset)):
            sample = dataset[index, turn]
            sides = sample["boxes"][:, 2:] - sample["boxes"][:, :2]
            assert (sides >= 1).all()
            assert len(sample["boxes"]) == len(sample["labels"]) == len(sample["masks"])
            assert (sample["size"] <= (96, 128)).all()
            assert (sample["boxes"][:, 2:] <= sample["size"][::-1] + 1e-4).all()
            for mask in sample["masks"]:
                dark.append(sample["image"][mask].mean() < 180)
            seen += len(sides)
    assert seen > 400
    assert np.mean(dark) < 0.05  # boxes a few pixels wide are mostly seam


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_boxes_of_which_too_little_remains_are_dropped(drawn: Path, share: float) -> None:
    augmentation = DetectionAugmentation(scale=(1.5, 2.5), min_remaining=share)
    dataset = detection(drawn, augmentation=augmentation).split("train")
    whole = {
        int(i): boxes for i, boxes in zip(dataset.image_ids, np.split(dataset.boxes, dataset.first[1:-1]), strict=True)
    }
    remaining, lost = [], 0
    for turn in range(10):
        for index in range(len(dataset)):
            sample = dataset[index, turn]
            boxes = whole[int(sample["image_id"])]
            scale = 1 / abs(sample["to_image"][[0, 1], [0, 1]])
            sizes = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) * scale.prod()
            areas = (sample["boxes"][:, 2:] - sample["boxes"][:, :2]).prod(axis=1)
            lost += len(boxes) - len(areas)
            # Each area belongs to a box of the image that it is a share of.
            remaining += [max(a / s for s in sizes if a <= s * 1.001) for a in areas]
    assert min(remaining) >= share - 1e-3
    assert min(remaining) < 0.95
    assert lost > 20


def test_images_without_objects_are_learned_unless_the_user_says_otherwise(drawn: Path) -> None:
    batches = list(detection(drawn).train_dataloader())
    empty = [boxes for batch in batches for boxes in batch["boxes"] if not len(boxes)]
    assert empty
    assert {(tuple(boxes.shape), boxes.dtype) for boxes in empty} == {((0, 4), torch.float32)}
    labels = [labels for batch in batches for labels in batch["labels"] if not len(labels)]
    assert {(tuple(found.shape), found.dtype) for found in labels} == {((0,), torch.int64)}
    few = detection(drawn, empty_images=False)
    assert len(few.split("train")) < len(detection(drawn).split("train"))
    assert len(few.split("val")) == 20
    assert all(len(few.split("train").sample(i, np.random.default_rng(0))["boxes"]) for i in range(5))


def test_draws_follow_from_the_key_alone(drawn: Path) -> None:
    options = {"photometric": [{"name": "ColorJitter", "p": 0.5}], "masks": True}
    first, second = (detection(drawn, **options).split("train") for _ in range(2))
    second[5, 0]
    for index, turn in ((3, 0), (3, 1), (4, 0)):
        one, other = first[index, turn], second[index, turn]
        assert one.keys() == other.keys()
        for key, value in one.items():
            np.testing.assert_array_equal(value, other[key])
    assert any(not np.array_equal(first[3, 0]["image"], first[3, turn]["image"]) for turn in range(1, 6))


def test_colours_change_in_the_image_alone(drawn: Path) -> None:
    inverted = detection(drawn, photometric=[{"name": "InvertImg", "p": 1.0}]).split("train")[4, 0]
    plain = detection(drawn).split("train")[4, 0]
    height, width = plain["size"]
    np.testing.assert_array_equal(inverted["image"][:height, :width], 255 - plain["image"][:height, :width])
    np.testing.assert_array_equal(inverted["image"][height:], plain["image"][height:])
    np.testing.assert_array_equal(inverted["image"][:, width:], plain["image"][:, width:])


def test_overfitting_evaluates_what_it_learns_without_draws(drawn: Path) -> None:
    data = detection(drawn, overfit=4)
    train, val = data.split("train"), data.split("val")
    assert len(train) == len(val) == 4
    np.testing.assert_array_equal(train[2, 7]["image"], val[2]["image"])
    truth = data.ground_truth("val")
    assert [image["id"] for image in truth["images"]] == [train[i]["image_id"] for i in range(4)]
    assert {a["image_id"] for a in truth["annotations"]} <= {1, 2, 3, 4}
    assert len(truth["annotations"]) == sum(a["image_id"] <= 4 for a in content_of(drawn, "train")["annotations"])


# ---- the evaluation


def test_ground_truth_is_the_file_crowds_included(drawn: Path) -> None:
    truth, content = detection(drawn).ground_truth("val"), content_of(drawn)
    assert truth["categories"] == [{"id": key, "name": CLASSES[key]} for key in sorted(CLASSES)]
    assert [{k: v for k, v in a.items() if k != "segmentation"} for a in truth["annotations"]] == [
        {k: v for k, v in a.items() if k != "segmentation"} for a in content["annotations"]
    ]
    assert any(a["iscrowd"] for a in truth["annotations"])
    for found, stated in zip(truth["annotations"], content["annotations"], strict=True):
        assert found["segmentation"] == stated["segmentation"]
    assert truth["images"] == content["images"]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
    assert coco.getCatIds() == sorted(CLASSES)


# ---- the embedded data, and real ones


def test_the_sample_people(rendered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CocoDetection, "embedded", staticmethod(lambda: rendered))
    data = detection("sample", image_size=(160, 224), masks=True)
    assert data.class_names == ["person"]
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    assert batch["image"].shape == (4, 3, 160, 224)
    for boxes, masks in zip(batch["boxes"], batch["masks"], strict=True):
        assert len(boxes) > 0
        for (x1, y1, x2, y2), mask in zip(boxes.tolist(), masks, strict=True):
            rows, columns = np.nonzero(mask.numpy())
            bounds = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            # Limbs a pixel thin may vanish where the picture becomes smaller.
            assert np.abs(np.subtract(bounds, (x1, y1, x2, y2))).max() < 2.5
    assert data.ground_truth("test") == data.ground_truth("val")


def test_real_coco(shared_data: Path) -> None:
    data = detection(
        shared_data / "coco_mini", image_size=(832, 1344), sides=(800, 1333), grouped=True, masks=True, batch_size=2,
        augmentation=DetectionAugmentation(sides=[(600, 1000), (800, 1333)]),
    )  # fmt: skip
    assert data.num_classes == 80
    assert data.class_names[:2] == ["person", "bicycle"]
    assert list(data.categories)[-1] == 90
    batch = next(iter(data.train_dataloader()))
    assert tuple(batch["image"].shape[2:]) in {(832, 1344), (1344, 832)}
    data.split("val")
    content = json.loads((shared_data / "coco_mini/annotations/instances_val2017.json").read_text())
    truth = data.ground_truth("val")
    assert len(truth["annotations"]) == len(content["annotations"])
    assert sum(a["iscrowd"] for a in truth["annotations"]) == sum(a["iscrowd"] for a in content["annotations"])
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(shared_data / "coco_mini/annotations/instances_val2017.json"))
    dataset, areas = data.split("val"), []
    for index in range(0, 32, 4):
        sample = dataset[index]
        of = coco.loadAnns(coco.getAnnIds(int(sample["image_id"]), iscrowd=False))
        assert len(sample["masks"]) == len(of)
        scale = np.abs(sample["to_image"][[0, 1], [0, 1]].astype(float)).prod()
        for annotation, mask in zip(of, sample["masks"], strict=True):
            if annotation["area"] > 500:
                areas.append(mask.sum() * scale / coco.annToMask(annotation).sum())
    assert len(areas) > 15
    assert np.abs(np.array(areas) - 1).max() < 0.06


@pytest.mark.filterwarnings("ignore")
def test_real_cells_with_boxes_without_area(shared_data: Path) -> None:
    options = {"annotations": {s: f"annotations/instances_{s}.json" for s in ("train", "val")}}
    data = detection(shared_data / "bccd", images={"train": "train", "val": "val"}, **options)
    with pytest.warns(UserWarning, match=r"skipped 1 annotation \(id 2288\) whose box is less than a pixel"):
        train = data.split("train")
    assert len(train) == 205
    assert len(train.boxes) == 2804
    assert data.class_names == ["RBC", "WBC", "Platelets"]
    assert 887 not in {a["id"] for a in data.ground_truth("val")["annotations"]}
    assert len(data.ground_truth("val")["annotations"]) == 1137

"""COCO key points: crops and points as the recipe says, ground truth for pycocotools, and every mistake at start-up."""

import contextlib
import io
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from datamodules import BaseDataModule, CocoPose, DataError, PersonAugmentation, Skeleton
from datamodules.keypoints.crop import apply_affine
from datamodules.keypoints.detections import FoundBoxes, person_labels

NAMES = ["nose", "left_eye", "right_eye", "tail"]
HEIGHT, WIDTH = 120, 160
Content = dict[str, Any]


def picture(points: list[tuple[float, float]]) -> np.ndarray:
    """Black with one white dot at each point."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    dots = sum(np.exp(-((x - px) ** 2 + (y - py) ** 2) / 8) for px, py in points)
    return np.repeat((255 * np.minimum(dots, 1))[..., None], 3, axis=2).astype(np.uint8)


def person(id: int, image_id: int, points: list[tuple[float, float, int]], **changes: Any) -> dict[str, Any]:
    flat = [number for point in points for number in point]
    stated = {"num_keypoints": sum(v > 0 for *_, v in points), "area": 2000.0, "iscrowd": 0, "category_id": 1}
    return {"id": id, "image_id": image_id, "bbox": [30, 20, 60, 80], "keypoints": flat} | stated | changes


POINTS = [(40.0, 30.0, 2), (70.0, 40.0, 1), (0.0, 0.0, 0), (60.0, 90.0, 2)]


@pytest.fixture
def content() -> Content:
    """Two images; two persons on the first, on the second a crowd, one unlabelled, and one more."""
    images = [{"id": 7 + i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in range(2)]
    annotations = [
        person(11, 8, POINTS),
        person(12, 7, POINTS, bbox=[-5, 10, 300, 60.5]),
        person(13, 8, [(0, 0, 0)] * 4),
        person(14, 8, POINTS, iscrowd=1),
        person(15, 7, POINTS),
    ]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x", "keypoints": NAMES}]}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., CocoPose]:
    """Writes the content as both splits in COCO's layout and returns its data module."""
    (tmp_path / "annotations").mkdir()
    skeleton = {"names": NAMES, "flip_pairs": [[1, 2]], "sigmas": 0.05}
    (tmp_path / "skeleton.yaml").write_text(yaml.safe_dump(skeleton))

    def build(content: Content, **options: Any) -> CocoPose:
        for split in ("train", "val"):
            (tmp_path / f"{split}2017").mkdir(exist_ok=True)
            for i in range(2):
                cv2.imwrite(str(tmp_path / f"{split}2017/{i}.png"), picture([p[:2] for p in POINTS if p[2]]))
            (tmp_path / f"annotations/person_keypoints_{split}2017.json").write_text(json.dumps(content))
        options = {"skeleton": str(tmp_path / "skeleton.yaml"), "image_size": (64, 48), "num_workers": 0} | options
        return CocoPose(tmp_path, **options)

    return build


def all_of(loader: Any) -> dict[str, torch.Tensor]:
    batches = list(loader)
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


def test_evaluation_batch_is_as_the_table_says(write, content: Content) -> None:
    batch = all_of(write(content, batch_size=2).val_dataloader())
    # Crowd and unlabelled person are left out; persons of one image stand together.
    assert batch["instance_id"].tolist() == [12, 15, 11]
    assert batch["image_id"].tolist() == [7, 7, 8]
    expected = {
        "image": ((3, 3, 64, 48), torch.uint8),
        "image_id": ((3,), torch.int64),
        "instance_id": ((3,), torch.int64),
        "keypoints": ((3, 4, 2), torch.float32),
        "visible": ((3, 4), torch.int64),
        "to_image": ((3, 2, 3), torch.float32),
        "area": ((3,), torch.float32),
        "score": ((3,), torch.float32),
    }
    assert {key: (tuple(value.shape), value.dtype) for key, value in batch.items()} == expected
    assert batch["visible"].tolist() == [[2, 1, 0, 2]] * 3
    assert batch["score"].tolist() == [1, 1, 1]


def test_boxes_that_a_network_found_are_cropped_as_annotated_ones(write, content: Content) -> None:
    data = write(content)
    annotated = all_of(data.val_dataloader())
    table = data.persons("val")
    rows = [4, 0]  # instances 15 and 11
    boxes = np.concatenate([table.clean_boxes()[rows], [[5, 5, 0, 9], [1, 1, 30, 40]]])
    found = FoundBoxes([7, 8, 7, 99], boxes, np.array([0.5, 0.25, 0.9, 0.9]))  # one is empty, one of no known image
    batch = all_of(data.evaluated_on(found).val_dataloader())
    assert batch["image_id"].tolist() == [7, 8]
    assert batch["instance_id"].tolist() == [0, 1]
    assert batch["score"].tolist() == [0.5, 0.25]
    assert not batch["visible"].any()
    for key in ("image", "to_image", "area"):
        assert torch.equal(batch[key], annotated[key][1:])
    assert torch.equal(all_of(data.val_dataloader())["image"], annotated["image"])  # the data themselves stay


def test_whose_boxes_are_posed() -> None:
    assert person_labels(["chair", "Person", "pedestrian"]) == [1, 2]
    assert person_labels(["mouse"]) == [0]
    with pytest.raises(DataError, match="cat, dog: none is a person"):
        person_labels(["cat", "dog"])


def test_box_clean_up_crop_and_way_back_follow_the_official_code(write, content: Content) -> None:
    batch = all_of(write(content).val_dataloader())
    # Annotation 12: x1 = max(0, -5), x2 = min(159, 0 + 299), y2 = 10 + 59.5; then widened to 3:4 and padded by 1.25.
    width, height = 159.0, 59.5
    padded = 1.25 * max(width, 0.75 * height)
    assert batch["area"][0].item() == pytest.approx(padded * padded / 0.75, rel=1e-6)
    to_image = batch["to_image"][0].double().numpy()
    np.testing.assert_allclose(apply_affine(to_image, np.array([24.0, 32.0])), [width / 2, 10 + height / 2], atol=1e-4)
    assert to_image[0, 0] == pytest.approx(padded / 48, rel=1e-6)
    for matrix, keypoints in zip(batch["to_image"].double(), batch["keypoints"].double(), strict=True):
        back = apply_affine(matrix.numpy(), keypoints.numpy())[[0, 1, 3]]
        np.testing.assert_allclose(back, [POINTS[k][:2] for k in (0, 1, 3)], atol=1e-3)
    assert (batch["keypoints"][:, 2] == 0).all()


@pytest.mark.parametrize("crop", ["size", "unit"])
def test_training_points_stay_on_their_dots(write, content: Content, crop: str) -> None:
    data = write(content, crop=crop, image_size=(256, 192), augmentation=PersonAugmentation(half_body_min_keypoints=1))
    dataset, mirrored = data.split("train"), 0
    for epoch in range(12):
        sample = dataset[2, epoch]
        points = sample["keypoints"][sample["visible"] > 0]
        inside = ((points > 2) & (points < [189, 253])).all(axis=1)
        values = sample["image"][points[inside].round().astype(int)[:, 1], points[inside].round().astype(int)[:, 0], 0]
        assert (values > 220).all()
        # The visible eye is the left one: it becomes the right one in a mirrored picture, whose x axis points left.
        is_mirrored = np.linalg.det(sample["to_image"][:, :2]) < 0
        assert sample["visible"].tolist() == ([2, 0, 1, 2] if is_mirrored else [2, 1, 0, 2])
        mirrored += is_mirrored
    assert 0 < mirrored < 12


def test_training_is_the_same_for_any_number_of_workers(write, content: Content) -> None:
    photometric = [{"name": "ColorJitter", "p": 1.0}]
    batches = [
        all_of(write(content, num_workers=workers, batch_size=1, photometric=photometric).train_dataloader())
        for workers in (0, 2)
    ]
    for key in batches[0]:
        assert torch.equal(batches[0][key], batches[1][key]), key


def test_photometric_changes_training_only(write, content: Content) -> None:
    data = write(content, photometric=[{"name": "InvertImg", "p": 1.0}])
    still = PersonAugmentation(0, 0, 0, 0, 0)
    data.augmentation = still
    assert data.split("val")[0]["image"].mean() < 60
    assert data.split("train")[0]["image"].mean() > 60


def test_an_image_is_decoded_once_for_all_its_persons(write, content: Content, monkeypatch) -> None:
    import datamodules.keypoints.persons as persons

    read, real = [], persons.read_image
    monkeypatch.setattr(persons, "read_image", lambda path, size: read.append(Path(path).name) or real(path, size))
    list(write(content).val_dataloader())
    assert read == ["0.png", "1.png"]


def test_ground_truth_scores_perfectly_with_pycocotools(write, content: Content) -> None:
    for annotation in content["annotations"]:
        annotation["id"] -= 11  # pycocotools takes an id of 0 for "not matched"
        annotation["category_id"] = 30
    content["categories"][0]["id"] = 30
    truth = write(content).ground_truth("test")
    assert [a["iscrowd"] for a in truth["annotations"]] == [0, 0, 0, 1, 0]
    assert [a["num_keypoints"] for a in truth["annotations"]] == [3, 3, 0, 3, 3]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        chosen = [a for a in truth["annotations"] if a["num_keypoints"] and not a["iscrowd"]]
        results = [
            {key: a[key] for key in ("image_id", "keypoints")} | {"category_id": 1, "score": 1.0} for a in chosen
        ]
        evaluation = COCOeval(coco, coco.loadRes(results), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.full(4, 0.05)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_detections_replace_the_boxes_of_evaluation(write, content: Content, tmp_path: Path) -> None:
    boxes = [
        {"image_id": 8, "category_id": 1, "bbox": [30, 20, 60, 80], "score": 0.5},
        {"image_id": 7, "category_id": 2, "bbox": [30, 20, 60, 80], "score": 0.9},
        {"image_id": 7, "category_id": 1, "bbox": [-10, 20, 60, 80], "score": 0.8},
        {"image_id": 7, "category_id": 1, "bbox": [30, 20, 60, 80], "score": 0.05},
        {"image_id": 7, "category_id": 1, "bbox": [30, 20, 0, 80], "score": 0.7},
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    data = write(content, detections="boxes.json", detection_threshold=0.1)
    with pytest.warns(UserWarning, match=r"1 detection \(id 4\) have a box without area"):
        batch = all_of(data.val_dataloader())
    assert batch["instance_id"].tolist() == [2, 0]
    assert batch["score"].tolist() == pytest.approx([0.8, 0.5])
    assert not batch["visible"].any()
    # A detector's box is not clipped: its centre is x + w / 2.
    centre = apply_affine(batch["to_image"][0].numpy(), np.array([24.0, 32.0]))
    np.testing.assert_allclose(centre, [20, 60], atol=1e-3)
    assert len(data.split("train")) == 3


def test_detections_of_other_images_with_the_same_ids_are_refused(tmp_path: Path) -> None:
    truth = CocoPose("sample", image_size=(64, 48), num_workers=0).ground_truth("val")
    boxes = {a["id"]: a["bbox"] for a in truth["annotations"]}
    entry = {"category_id": 1, "score": 0.9}
    right = [entry | {"image_id": a["image_id"], "bbox": boxes[a["id"]]} for a in truth["annotations"]]
    shifted = [row | {"bbox": [row["bbox"][0] + 1000, *row["bbox"][1:]]} for row in right]
    for name, rows in {"right.json": right, "shifted.json": shifted}.items():
        (tmp_path / name).write_text(json.dumps(rows))
    CocoPose("sample", image_size=(64, 48), detections=str(tmp_path / "right.json")).setup("validate")
    with pytest.raises(DataError, match=r"shifted.json.*detections of other images"):
        CocoPose("sample", image_size=(64, 48), detections=str(tmp_path / "shifted.json")).setup("validate")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"image_id": 99, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 1}], r"1 detection \(id 0\) name images"),
        ([{"image_id": 7, "category_id": 1, "bbox": [0, 0, 9], "score": 1}], r"\[3\] numbers in `bbox`"),
        ([{"image_id": 7, "category_id": 1, "bbox": [0, 0, 9, 9]}], "not finite|no number"),
        ([{"image_id": 7, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.1}], "detection_threshold"),
        ([{"image_id": 7, "category_id": 5, "bbox": [0, 0, 9, 9], "score": 1}], r"category ids \[1\]"),
        ([], "no box is left"),
        ({"images": []}, "no detections file"),
    ],
)
def test_mistakes_of_detections(write, content: Content, tmp_path: Path, entries: Any, message: str) -> None:
    (tmp_path / "boxes.json").write_text(json.dumps(entries))
    with pytest.raises(DataError, match=message) as error:
        write(content, detections="boxes.json", detection_threshold=0.2).setup("validate")
    assert "boxes.json" in str(error.value)


def change(annotation: int, **changes: Any) -> Callable[[Content], None]:
    return lambda content: content["annotations"][annotation].update(changes)


def change_image(**changes: Any) -> Callable[[Content], None]:
    return lambda content: content["images"][1].update(changes)


def keypoint(value: float, place: int) -> Callable[[Content], None]:
    return lambda content: content["annotations"][0]["keypoints"].__setitem__(place, value)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (change(0, keypoints=[1, 2, 2] * 5), r"1 annotation \(id 11\) have \[15\] numbers.*expected 12.*`skeleton`"),
        (change(0, keypoints=["a"] * 12), r"\(id 11\) have something else than numbers in `keypoints`"),
        (change(0, keypoints=7), r"\(id 11\) have \[0\] numbers"),
        (change(0, image_id=99), r"\(id 11\) name an image_id"),
        (change(0, id=12), r"\(id 12\) repeat the id"),
        (change(0, id=None), "`id` is no number"),
        (change(0, bbox=[1, 2, 3]), r"\[3\] numbers in `bbox`"),
        (change(0, bbox=[1, 2, math.nan, 3]), r"\(id 11\) have a `bbox` that is not finite"),
        (change(0, area=math.inf), r"\(id 11\) have an `area` that is not finite"),
        (change(0, area="big"), r"`area` is no number in 1 annotation \(id 11\)"),
        (keypoint(math.nan, 0), r"\(id 11\) have labelled key points that are not finite"),
        (keypoint(math.inf, 2), r"\(id 11\) have a visibility that is not finite"),
        (change_image(id=7), r"1 image \(id 7\) repeat the id"),
        (change_image(file_name="gone.png"), r"lacks 1 of the 2 images.*gone\.png"),
        (change_image(file_name="sub/0.png"), r"lacks 1 of the 2 images.*sub/0\.png"),
        (lambda content: content["images"][1].pop("width"), r"1 image \(id 8\) of 2 lack one of id, file_name"),
        (lambda content: content["annotations"].clear(), "no usable instance: of 0 annotations"),
        (lambda content: [a.update(iscrowd=1) for a in content["annotations"]], "5 are crowds"),
        (lambda content: content.pop("images"), "not COCO JSON"),
        (lambda content: content.update(annotations=[1, 2]), "not COCO JSON"),
    ],
)
def test_mistakes_are_found_at_start_up_and_named(write, content: Content, mistake: Callable, message: str) -> None:
    mistake(content)
    with pytest.raises(DataError, match=message) as error:
        write(content).setup("fit")
    assert "2017" in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "\ufffe", '"text"'])
def test_a_file_that_is_no_coco_json_is_refused(write, content: Content, tmp_path: Path, text: str) -> None:
    data = write(content)
    (tmp_path / "annotations/person_keypoints_train2017.json").write_text(text)
    with pytest.raises(DataError, match=r"person_keypoints_train2017\.json is not COCO JSON"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("mistake", "message", "left"),
    [
        (change(0, bbox=[30, 20, 0, 0]), r"skipped 1 annotation \(id 11\) whose box", [12, 15]),
        (change(0, bbox=[500, 20, 60, 80]), r"skipped 1 annotation \(id 11\) whose box", [12, 15]),
        (lambda content: content["annotations"][0].pop("bbox"), r"skipped 1 annotation \(id 11\)", [12, 15]),
        (keypoint(-50, 0), r"\(id 11\) have labelled key points outside of the image", [12, 15, 11]),
        (keypoint(3, 2), r"\(id 11\) have a visibility other than 0, 1, 2", [12, 15, 11]),
        (change(0, num_keypoints=4), r"\(id 11\) state a num_keypoints", [12, 15, 11]),
        (change(0, area=None), r"\(id 11\) have no `area`.*0\.53", [12, 15, 11]),
        (
            lambda content: content["categories"][0].update(keypoints=["a", *NAMES[1:]]),
            "`a` where .* `nose`",
            [12, 15, 11],
        ),
    ],
)
def test_what_can_be_put_right_is_a_warning(write, content: Content, mistake, message: str, left: list[int]) -> None:
    mistake(content)
    with pytest.warns(UserWarning, match=message):
        dataset = write(content).split("val")
    assert dataset.instance_ids.tolist() == left


def test_good_data_are_read_in_silence(write, content: Content) -> None:
    content["annotations"][0]["keypoints"][6:8] = [None, math.nan]  # a gap: not labelled
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = write(content)
        data.setup()
    assert data.ground_truth("val")["annotations"][0]["keypoints"][6:9] == [0, 0, 0]


def test_a_missing_area_becomes_a_share_of_the_box(write, content: Content) -> None:
    for annotation in content["annotations"]:
        del annotation["area"]
    with pytest.warns(UserWarning, match="5 annotations"):
        truth = write(content).ground_truth("val")
    assert truth["annotations"][0]["area"] == pytest.approx(0.53 * 60 * 80)


def test_limbs_of_the_ground_truth_count_points_from_one_as_coco_does(write, content: Content, tmp_path: Path) -> None:
    limbs = [["nose", "left_eye"], ["left_eye", "tail"]]
    (tmp_path / "limbs.yaml").write_text(yaml.safe_dump({"names": NAMES, "limbs": limbs, "sigmas": 0.05}))
    truth = write(content, skeleton=str(tmp_path / "limbs.yaml")).ground_truth("val")
    assert truth["categories"][0]["skeleton"] == [[1, 2], [2, 4]]


def test_all_categories_with_key_points_are_learned(write, content: Content) -> None:
    content["categories"] += [{"id": 2, "name": "y", "keypoints": NAMES}, {"id": 3, "name": "table"}]
    content["annotations"][0]["category_id"] = 2
    content["annotations"].append({"id": 50, "image_id": 7, "category_id": 3, "bbox": [0, 0, 5, 5]})
    data = write(content)
    assert data.split("train").instance_ids.tolist() == [12, 15, 11]
    assert {a["category_id"] for a in data.ground_truth("val")["annotations"]} == {1}
    assert len(data.ground_truth("val")["annotations"]) == 5


def test_other_folders_and_a_test_split(write, content: Content, tmp_path: Path) -> None:
    data = write(content)
    (tmp_path / "images").mkdir()
    (tmp_path / "val2017").rename(tmp_path / "images/val2017")
    data.setup("validate")
    (tmp_path / "frames").mkdir()
    (tmp_path / "images/val2017").rename(tmp_path / "frames/holdout")
    for image in content["images"]:
        image["file_name"] = "holdout/" + image["file_name"]
    (tmp_path / "holdout.json").write_text(json.dumps(content))
    moved = write(content, annotations={"test": "holdout.json"}, images={"test": "frames"})
    moved.setup("test")
    assert len(all_of(moved.test_dataloader())["image"]) == 3
    with pytest.raises(DataError, match="no image folder nowhere"):
        write(content, images={"val": "nowhere"}).setup("validate")
    with pytest.raises(DataError, match=r"`annotations: \{val: FILE\}`"):
        write(content, annotations={"val": "none.json"}).setup("validate")
    with pytest.raises(DataError, match=r"entries .*'valid'"):
        write(content, annotations={"valid": "holdout.json"})


def test_missing_root_shows_cocos_tree(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"annotations/person_keypoints_train2017\.json[\s\S]*cocodataset\.org"):
        CocoPose(tmp_path / "none").setup("fit")


def test_the_constructor_is_the_configuration(tmp_path: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(BaseDataModule, "data")
    arguments = {
        "root": str(tmp_path),
        "image_size": [384, 288],
        "augmentation": {"class_path": "PersonAugmentation", "init_args": {"scale_factor": 0.25}},
        "photometric": [{"name": "ColorJitter", "p": 0.3}],
        "annotations": {"val": "my.json"},
        "crop": "unit",
    }
    config = parser.parse_object({"data": {"class_path": "CocoPose", "init_args": arguments}})
    data = parser.instantiate(config).data
    assert isinstance(data, CocoPose)
    assert data.image_size == (384, 288)
    assert data.augmentation.scale_factor == 0.25
    assert data.annotations["val"] == "my.json"
    assert data.num_keypoints == 17
    assert data.skeleton == Skeleton.load("coco")


def test_embedded_sample_data_come_in_cocos_layout(tmp_path: Path, monkeypatch, write, content: Content) -> None:
    write(content)
    monkeypatch.setattr(CocoPose, "embedded", staticmethod(lambda: tmp_path))
    data = CocoPose("sample", skeleton=str(tmp_path / "skeleton.yaml"), num_workers=0)
    data.prepare_data()
    data.setup("fit")
    assert data.folder == tmp_path
    assert len(data.split("train")) == 3


def test_real_coco(shared_data: Path) -> None:
    data = CocoPose(shared_data / "coco_mini", batch_size=16, num_workers=2)
    data.setup("fit")
    assert (len(data.split("train")), len(data.split("val"))) == (103, 40)
    batch = all_of(data.val_dataloader())
    official = {a["id"]: a for a in json.loads((data.folder / data.annotations["val"]).read_text())["annotations"]}
    assert len(data.ground_truth("val")["annotations"]) == len(official)
    for id, matrix, keypoints, visible in zip(
        *(batch[key].double().numpy() for key in ("instance_id", "to_image", "keypoints", "visible")), strict=True
    ):
        expected = np.array(official[int(id)]["keypoints"]).reshape(17, 3)
        np.testing.assert_array_equal(visible, expected[:, 2])
        back = apply_affine(matrix, keypoints)
        np.testing.assert_allclose(back[visible > 0], expected[visible > 0, :2], atol=1e-2)


def test_real_detector_boxes(shared_data: Path) -> None:
    data = CocoPose(
        shared_data / "samples/coco", annotations={"val": "test_coco.json"}, images={"val": "."}, num_workers=0,
        detections="test_coco_det_AP_H_56.json", detection_threshold=0.5,
    )  # fmt: skip
    entries = json.loads((data.folder / "test_coco_det_AP_H_56.json").read_text())
    batch = all_of(data.val_dataloader())
    chosen = [i for i, e in enumerate(entries) if e["score"] >= 0.5 and e["category_id"] == 1]
    assert sorted(batch["instance_id"].tolist()) == chosen
    assert batch["image_id"].tolist() == [entries[i]["image_id"] for i in batch["instance_id"]]


@pytest.mark.parametrize(
    ("folder", "files", "images"),
    [
        (
            "mirror_mouse",
            {s: f"annotations/keypoints_{s}.json" for s in ("train", "val")},
            {"train": "train", "val": "val"},
        ),
        ("samples/ap10k", {s: "test_ap10k.json" for s in ("train", "val")}, {"train": ".", "val": "."}),
    ],
)
def test_other_skeletons(shared_data: Path, tmp_path: Path, folder: str, files: dict, images: dict) -> None:
    category = json.loads((shared_data / folder / files["train"]).read_text())["categories"][0]
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"names": category["keypoints"], "sigmas": 0.05}))
    data = CocoPose(
        shared_data / folder, skeleton=str(tmp_path / "own.yaml"), annotations=files, images=images, num_workers=0,
        image_size=(128, 128),
    )  # fmt: skip
    data.setup("fit")
    for loader in (data.train_dataloader(), data.val_dataloader()):
        batch = next(iter(loader))
        assert batch["image"].shape[1:] == (3, 128, 128)
        assert torch.isfinite(batch["keypoints"]).all()
        assert batch["visible"].sum() > 0

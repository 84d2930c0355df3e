"""Which COCO files of objects are taken: all else is a sentence, from the loader and from the data doctor."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from datamodules import DataError
from datamodules.check import check
from datamodules.check.report import ADVICE
from datamodules.keypoints.coco_json import unpacked
from tests.datamodules.detection.conftest import content_of, detection


def spoil(root: Path, target: Path, change: Callable[[dict[str, Any]], Any], split: str = "train") -> Path:
    """A copy of the data set with another annotation file of `split`."""
    (target / "annotations").mkdir(parents=True)
    for name in ("train2017", "val2017"):
        (target / name).symlink_to(root / name)
    for name in ("train", "val"):
        content = content_of(root, name)
        if name == split:
            content = change(content) or content
        (target / "annotations" / f"instances_{name}2017.json").write_text(json.dumps(content))
    return target


def of_annotation(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["annotations"][2].update(fields)


def of_category(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["categories"][1].update(fields)


def corners(content: dict[str, Any]) -> None:
    for image in content["images"]:
        image["height"], image["width"] = 60, 60
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [x + 20, y + 20, x + w + 20, y + h + 20]


def shares(content: dict[str, Any]) -> None:
    for annotation in content["annotations"]:
        annotation["bbox"] = [v / 200 for v in annotation["bbox"]]


def without(key: str, part: str = "annotations") -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        del content[part][2][key]

    return change


GRAVE = [
    (of_annotation(bbox="here"), "have 0 numbers in `bbox`|`bbox`.*expected 4 numbers", {}),
    (of_annotation(bbox=[1, 2, "wide", 4]), "something else than numbers in `bbox`", {}),
    (of_annotation(bbox=[1, 2, 1e300, 4]), "`bbox` that is not finite", {}),
    (of_annotation(image_id=10**30), "image_id that `images` does not have", {}),
    (of_annotation(iscrowd=5), "another `iscrowd`", {}),
    (of_annotation(area=1e300), "an `area` that is not finite", {}),
    (of_annotation(id=[1]), "`id` is no number or text", {}),
    (without("id"), "`id` is no number or text", {}),
    (lambda c: c["annotations"][1].update(id=c["annotations"][0]["id"]), "repeat the id of another one", {}),
    (without("name", "categories"), "have no `name`", {}),
    (of_category(name=3), "have no `name`", {}),
    (of_category(name="bird"), "have the name of another one", {}),
    (of_category(id="dogs"), "ids that are no such numbers; expected whole numbers", {}),
    (of_category(id=2**70), "ids that are no such numbers; expected whole numbers", {}),
    (of_category(id=7), "repeat the id of another one", {}),
    (corners, "leave their images.*not two corners", {}),
    (shares, "has no usable object", {}),
    (lambda c: {**c, "annotations": []}, "has no usable object", {}),
    (lambda c: [1, 2], "is not COCO JSON", {}),
    (lambda c: {**c, "images": []}, "is not COCO JSON", {}),
    (of_annotation(segmentation=[]), "have no `segmentation`, and `masks` is true", {"masks": True}),
    (of_annotation(segmentation=[[1, 2, 3]]), "expected polygons of 3 points or more", {"masks": True}),
    (of_annotation(segmentation={"size": [3, 4], "counts": [12]}), "of size .3, 4., the image has", {"masks": True}),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("change", "words", "options"), GRAVE)
def test_what_only_the_user_can_put_right_is_a_sentence(
    drawn: Path, tmp_path: Path, change: Any, words: str, options: dict
) -> None:
    root = spoil(drawn, tmp_path / "spoiled", change)
    with pytest.raises(DataError, match=words) as error:
        detection(root, **options).split("train")
    assert "instances_train2017.json" in str(error.value)


def test_run_lengths_that_do_not_cover_the_image_are_refused(drawn: Path, tmp_path: Path) -> None:
    def cut(content: dict[str, Any]) -> None:
        packed = next(a for a in content["annotations"] if isinstance(a["segmentation"], dict) and not a["iscrowd"])
        packed["segmentation"]["counts"] = packed["segmentation"]["counts"][:1]

    root = spoil(drawn, tmp_path / "spoiled", cut)
    with pytest.raises(DataError, match=r"the run lengths (add up to \d+ pixels, its size has|are ')"):
        detection(root, masks=True).split("train")
    detection(root).split("train")  # boxes are not at fault


def test_what_can_be_put_right_is_said(drawn: Path, tmp_path: Path) -> None:
    root = spoil(drawn, tmp_path / "a", of_annotation(area=None))
    with pytest.warns(UserWarning, match=r"\(id 102\) have no `area` above 0.*the box's area is taken"):
        detection(root).split("train")
    root = spoil(drawn, tmp_path / "b", of_annotation(category_id=77))
    with pytest.warns(UserWarning, match=r"\(id 102\) name a category that `categories` lacks; left out"):
        assert 102 not in detection(root).split("train").ids
    root = spoil(drawn, tmp_path / "c", of_annotation(bbox=[5, 5, 0, 9]))
    with pytest.warns(UserWarning, match=r"skipped 1 annotation \(id 102\) whose box"):
        assert 102 not in detection(root).split("train").ids


def test_huge_and_written_ids_are_numbered(drawn: Path, tmp_path: Path) -> None:
    def renamed(content: dict[str, Any]) -> None:
        names = {image["id"]: f"photo {image['id']}" for image in content["images"]}
        for image in content["images"]:
            image["id"] = names[image["id"]]
        for annotation in content["annotations"]:
            annotation["image_id"], annotation["id"] = names[annotation["image_id"]], 10**30 + annotation["id"]

    data = detection(spoil(drawn, tmp_path / "spoiled", renamed, "val"))
    dataset, truth = data.split("val"), data.ground_truth("val")
    assert [int(dataset[i]["image_id"]) for i in range(3)] == [0, 1, 2]
    assert [(image["id"], image["number"]) for image in truth["images"][:2]] == [("photo 1", 0), ("photo 2", 1)]
    assert truth["annotations"][0]["number"] == 0


def test_files_that_are_not_there(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)found no .*none.json.*annotations: \{val: FILE\}"):
        detection(drawn, annotations={"val": "none.json"}).split("val")
    with pytest.raises(DataError, match=r"found no image folder pictures"):
        detection(drawn, images={"val": "pictures"}).split("val")
    with pytest.raises(DataError, match=r"entries \['training'\]: expected some of train, val, test"):
        detection(drawn, images={"training": "x"})
    with pytest.raises(DataError, match=r"found no folder"):
        detection(tmp_path / "nowhere").split("val")
    root = spoil(drawn, tmp_path / "a", lambda c: c["images"][3].update(file_name="gone.png"))
    with pytest.raises(DataError, match=r"lacks 1 of the 20 images that are annotated \(gone.png\)"):
        detection(root).split("train")
    root = spoil(drawn, tmp_path / "b", lambda c: c["images"][3].update(height=500))
    with pytest.raises(DataError, match="is annotated as 500 x"):
        detection(root).split("train")[3, 0]


def test_splits_have_the_same_classes(drawn: Path, tmp_path: Path) -> None:
    data = detection(spoil(drawn, tmp_path / "spoiled", of_category(name="wolf"), "val"))
    data.split("train")
    with pytest.raises(DataError, match=r"has the category 3 'wolf', .*has 'dog': labels would mean other classes"):
        data.split("val")


@pytest.mark.parametrize("options", [{"sides": (0, 5)}, {"image_size": (0, 5)}, {"batch_size": 0}])
def test_wrong_arguments_are_a_sentence(drawn: Path, options: dict) -> None:
    with pytest.raises(DataError, match=r"sides|image_size|batch_size"):
        detection(drawn, **options)


# ---- the data doctor


KINDS = [
    (of_annotation(bbox=[5, 5, 0, 0]), "box without area", "annotation 102 ("),
    (of_annotation(bbox=[-40, 5, 60, 30]), "box outside of the image", "annotation 102 ("),
    (of_annotation(bbox="here"), "malformed entry", "annotation 102 ("),
    (of_annotation(area=0), "area absent or not positive", "annotation 102 ("),
    (of_annotation(image_id=999), "unknown image", "annotation 102 (image 999)"),
    (of_annotation(category_id=77), "unknown category", "annotation 102 ("),
    (of_annotation(segmentation={"size": [3, 4], "counts": [12]}), "wrong segmentation", "annotation 102 ("),
    (of_annotation(segmentation=[[1, 2]]), "wrong segmentation", "annotation 102 ("),
    (lambda c: c["annotations"][1].update(id=c["annotations"][0]["id"]), "repeated id", "annotation 100 ("),
    (lambda c: c["images"][3].update(file_name="gone.png"), "missing image", "gone.png"),
    (lambda c: c["images"][0].update(height=500), "image of another size", "image 1 ("),
    (of_category(name="bird"), "repeated name", "category 3 (bird)"),
    (of_category(name="wolf"), "categories disagree", "category 3"),
    (without("name", "categories"), "malformed entry", "category 90 (None)"),
    (corners, "boxes beside their images", "and others"),
    (shares, "no usable sample", "instances_train2017.json"),
    (lambda c: [1], "unreadable data", "CocoDetection"),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("change", "kind", "item"), KINDS)
def test_the_doctor_finds_it(drawn: Path, tmp_path: Path, change: Any, kind: str, item: str) -> None:
    assert kind in ADVICE
    data = detection(spoil(drawn, tmp_path / "spoiled", change))
    found = [finding for finding in check(data, images="headers").findings if finding.kind == kind]
    assert any(item in finding.item for finding in found), found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("change", "words", "options"), GRAVE)
def test_what_the_loader_refuses_the_doctor_finds(
    drawn: Path, tmp_path: Path, change: Any, words: str, options: dict
) -> None:
    assert not check(detection(spoil(drawn, tmp_path / "spoiled", change), **options), images="none").clean


def test_good_data_are_clean_and_counted(drawn: Path) -> None:
    report = check(detection(drawn, masks=True))
    assert report.findings == []
    assert report.looked_at["train"] == {"images": 20, "annotations": 40}
    assert set(report.statistics["annotations"]["val"]) == {"dog", "cat", "bird"}


def test_real_cells_are_two_boxes_from_clean(shared_data: Path) -> None:
    options = {"annotations": {s: f"annotations/instances_{s}.json" for s in ("train", "val")}}
    data = detection(shared_data / "bccd", images={"train": "train", "val": "val"}, **options)
    found = [f.item for f in check(data, images="none").findings if f.kind == "box without area"]
    assert found == ["annotation 2288 (BloodImage_00343.jpg)", "annotation 887 (BloodImage_00338.jpg)"]


def test_run_lengths_are_unpacked_as_pycocotools_packs_them() -> None:
    rng = np.random.default_rng(0)
    for density in (0.0, 0.01, 0.5, 0.999, 1.0):
        mask = np.asfortranarray((rng.random((37, 53)) < density).astype(np.uint8))
        flat = np.concatenate([[0], mask.ravel(order="F")])
        edges = np.flatnonzero(np.diff(flat)).tolist()
        expected = np.diff([0, *edges, mask.size]).tolist()
        found = unpacked(coco_mask.encode(mask)["counts"].decode())
        assert found == [run for k, run in enumerate(expected) if run or k == 0]
    assert [unpacked(text) for text in ("", "é", "o", "zzz!!", "o" * 40)] == [None] * 5

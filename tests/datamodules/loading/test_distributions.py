"""What data sets say of their labels, for plots, is what a plain count of the annotation files gives."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules import LIP, WFLW, CocoDetection, CocoPose, ImageFolder, MpiiPose
from datamodules.base import BaseDataModule
from datamodules.classification import image_folder
from datamodules.loading.distributions import Histogram, evenly, some
from datamodules.segmentation import data as segmentation

SMALL: dict[str, Any] = {"image_size": (64, 48), "num_workers": 0}


def said(data: BaseDataModule) -> dict[str, Any]:
    """The distributions of `train` by their titles."""
    return {one.title: one for one in data.distributions("train")}


def coco_file(data: BaseDataModule, name: str) -> dict[str, Any]:
    return json.loads((data.folder / "annotations" / f"{name}_train2017.json").read_text())


def write_coco_file(folder: Path, kind: type[BaseDataModule], name: str, content: dict[str, Any]) -> None:
    """A data set of the images of `kind`'s sample and of other annotations."""
    (folder / "annotations").mkdir()
    (folder / "train2017").symlink_to(kind.sample_root().resolve() / "train2017")
    (folder / f"annotations/{name}_train2017.json").write_text(json.dumps(content))


def as_sorted(values: Any) -> np.ndarray:
    return np.sort(np.asarray(values, float).ravel())


def check_boxes(found: dict[str, Any], noun: str, truth: dict[str, Any], entries: list[dict[str, Any]]) -> None:
    """Sizes and centres are those of these annotations."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in truth["images"]}
    sides = as_sorted([(entry["bbox"][2] * entry["bbox"][3]) ** 0.5 for entry in entries])
    assert np.allclose(as_sorted(found[f"sizes of {noun}"].values), sides)
    places = [
        ((x + w / 2) / sizes[entry["image_id"]][0], (y + h / 2) / sizes[entry["image_id"]][1])
        for entry in entries
        for x, y, w, h in [entry["bbox"]]
    ]
    points = found["centres of the boxes"].points
    assert np.allclose(sorted(map(tuple, points.tolist())), sorted(places))


def test_key_points_are_counted_as_in_the_file() -> None:
    data = CocoPose("sample", **SMALL)
    found, truth = said(data), coco_file(data, "person_keypoints")
    entries = [entry for entry in truth["annotations"] if not entry["iscrowd"] and any(entry["keypoints"][2::3])]
    visible = np.array([entry["keypoints"][2::3] for entry in entries])
    shown = found["visibility of key points"]
    assert shown.of == f"{len(entries):,} persons"
    assert list(shown.names) == truth["categories"][0]["keypoints"]
    assert set(shown.series) == {"visible", "hidden", "not labelled"}
    for value, label in enumerate(("not labelled", "hidden", "visible")):
        assert list(shown.series[label]) == (visible == value).sum(axis=0).tolist()
    assert len(set(shown.series["hidden"])) > 1
    check_boxes(found, "persons", truth, entries)
    assert "categories" not in found  # there is one


def test_categories_of_several_kinds_of_animals_are_counted(tmp_path: Path) -> None:
    truth = coco_file(CocoPose("sample", **SMALL), "person_keypoints")
    truth["categories"].append({**truth["categories"][0], "id": 2, "name": "ape"})
    for entry in truth["annotations"][::3]:
        entry["category_id"] = 2
    write_coco_file(tmp_path, CocoPose, "person_keypoints", truth)
    found = said(CocoPose(tmp_path, **SMALL))["categories"]
    counts = Counter("ape" if entry["category_id"] == 2 else "person" for entry in truth["annotations"])
    assert dict(zip(found.names, found.values, strict=True)) == counts
    assert counts["ape"] > 100


def test_where_nothing_is_hidden_it_is_not_said_that_all_is_visible() -> None:
    data = MpiiPose("sample", num_workers=0)
    found = said(data)["visibility of key points"]
    labelled = np.array([entry["joints_vis"] for entry in json.loads((data.folder / "annot/train.json").read_text())])
    labelled = labelled[(labelled > 0).any(axis=1)]
    assert set(found.series) == {"labelled", "not labelled"}
    assert list(found.series["labelled"]) == (labelled > 0).sum(axis=0).tolist()


def test_objects_are_counted_as_in_the_file() -> None:
    data = CocoDetection("sample", **SMALL)
    found, truth = said(data), coco_file(data, "instances")
    entries = [entry for entry in truth["annotations"] if not entry["iscrowd"]]
    names = {category["id"]: category["name"] for category in truth["categories"]}
    counts = Counter(names[entry["category_id"]] for entry in entries)
    classes = found["objects of each class"]
    assert dict(zip(classes.names, classes.values, strict=True)) == {name: counts[name] for name in names.values()}
    check_boxes(found, "objects", truth, entries)
    of_images = Counter(entry["image_id"] for entry in entries)
    many = [of_images[image["id"]] for image in truth["images"]]
    assert found["objects on an image"].values.tolist() == many
    assert found["objects on an image"].of == f"{len(many)} images"


@pytest.mark.filterwarnings("ignore::UserWarning")  # of what is left out
@pytest.mark.parametrize(("kind", "name", "noun", "left_out"), [
    (CocoPose, "person_keypoints", "persons", 3), (CocoDetection, "instances", "objects", 2),
])  # fmt: skip
def test_what_is_not_learned_is_not_counted(
    tmp_path: Path, kind: type[BaseDataModule], name: str, noun: str, left_out: int
) -> None:
    truth = coco_file(kind("sample", **SMALL), name)
    rows = [row for row in truth["annotations"] if not row["iscrowd"] and any(row.get("keypoints", [1]))]
    rows[0]["iscrowd"] = 1
    rows[1]["bbox"] = [5, 5, 0, 0]
    rows[2]["keypoints"] = [0] * 51
    write_coco_file(tmp_path, kind, name, truth)
    found = said(kind(tmp_path, **SMALL))
    assert found[f"sizes of {noun}"].of == f"{len(rows) - left_out:,} {noun}"
    assert len(found["centres of the boxes"].points) == len(rows) - left_out


def test_images_without_objects_are_counted_where_they_are_learned(tmp_path: Path) -> None:
    truth = coco_file(CocoDetection("sample", **SMALL), "instances")
    empty = truth["images"][0]["id"]
    truth["annotations"] = [entry for entry in truth["annotations"] if entry["image_id"] != empty]
    write_coco_file(tmp_path, CocoDetection, "instances", truth)
    for learned in (True, False):
        many = said(CocoDetection(tmp_path, empty_images=learned, **SMALL))["objects on an image"].values
        assert (many == 0).sum() == learned
        assert len(many) == len(truth["images"]) - (not learned)


@pytest.mark.parametrize("most", [10_000, 7])
def test_pixels_are_counted_as_in_the_masks(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(segmentation, "COUNTED", most)
    data = LIP("sample", num_workers=0)
    files = sorted((data.folder / "TrainVal_parsing_annotations/train_segmentations").glob("*.png"))
    chosen = files if most > len(files) else [files[round(i * (len(files) - 1) / (most - 1))] for i in range(most)]
    masks = [np.array(Image.open(file)) for file in chosen]
    found, total = said(data), sum(mask.size for mask in masks)
    of = f"{len(files)} masks" if most > len(files) else f"{most} of {len(files)} masks"
    assert [one.of for one in found.values()] == [of] * 3
    pixels, images = found["pixels of each class"], found["images with the class"]
    assert list(pixels.names) == list(images.names) == data.class_names
    assert pixels.values == pytest.approx([sum((mask == k).sum() for mask in masks) / total for k in range(20)])
    assert list(images.values) == [sum(bool((mask == k).any()) for mask in masks) for k in range(20)]
    assert found["sizes of images"].values.tolist() == [max(mask.shape) for mask in masks]


@pytest.mark.parametrize("most", [10_000, 9])
def test_images_of_classes_are_counted_as_the_folders_have_them(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(image_folder, "SIZED", most)
    data = ImageFolder("sample", num_workers=0)
    folders = sorted(folder for folder in (data.folder / "train").iterdir() if folder.is_dir())
    found = said(data)
    classes = found["images of each class"]
    counts = {folder.name: len(list(folder.iterdir())) for folder in folders}
    assert dict(zip(classes.names, classes.values, strict=True)) == counts
    assert classes.of == f"{sum(counts.values())} images"
    sizes = [Image.open(file).size for folder in folders for file in sorted(folder.iterdir())]
    if most < len(sizes):
        assert found["sizes of images"].of == f"9 of {len(sizes)} images"
        sizes = [sizes[round(i * (len(sizes) - 1) / 8)] for i in range(9)]
    assert sorted(found["sizes of images"].values) == sorted(max(size) for size in sizes)
    assert sorted(found["shapes of images"].values) == pytest.approx(sorted(width / height for width, height in sizes))


def test_faces_are_counted_as_in_the_list() -> None:
    data = WFLW("sample", num_workers=0)
    path = data.folder / "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_train.txt"
    rows = [line.split() for line in path.read_text().splitlines()]
    found = said(data)
    # All landmarks of all faces are given, and the list tells nothing of hidden ones: that is said once.
    assert found["visibility of key points"].names == ["each of 98"]
    assert found["visibility of key points"].series == {"labelled": [len(rows)]}
    boxes = np.array([row[196:200] for row in rows], float)
    extent = boxes[:, 2:] - boxes[:, :2]
    assert np.allclose(as_sorted(found["sizes of faces"].values), as_sorted(np.sqrt(extent.prod(axis=1))))
    sizes = np.array([Image.open(data.folder / "WFLW_images" / row[206]).size for row in rows])
    places = (boxes[:, :2] + extent / 2) / sizes
    points = found["centres of the boxes"].points
    assert np.allclose(points[np.lexsort(points.T)], places[np.lexsort(places.T)])
    subsets = found["subsets"]
    names = ("pose", "expression", "illumination", "makeup", "occlusion", "blur")
    assert dict(zip(subsets.names, subsets.values, strict=True)) == {
        name: sum(row[200 + column] == "1" for row in rows) for column, name in enumerate(names)
    }


@pytest.mark.parametrize("kind", [CocoPose, CocoDetection, LIP, ImageFolder, WFLW])
def test_of_few_samples_that_are_learned_these_alone_are_counted(kind: type) -> None:
    found = list(kind("sample", num_workers=0, image_size=(64, 48), overfit=5).distributions("train"))
    assert found
    assert {one.of.split()[0] for one in found if one.title not in ("objects of each class", "sizes of objects",
            "centres of the boxes")} == {"5"}  # fmt: skip
    few = [one for one in found if isinstance(one, Histogram) and one.noun != "objects"]
    assert all(len(one.values) == 5 for one in few)


def test_rows_are_evenly_spaced() -> None:
    assert evenly(5, 9).tolist() == [0, 1, 2, 3, 4]
    assert evenly(101, 5).tolist() == [0, 25, 50, 75, 100]
    assert evenly(0, 5).tolist() == []
    assert evenly(9, 1).tolist() == [0]
    assert some(3, "masks", 3) == "3 masks"
    assert some(200, "masks", 2975) == "200 of 2,975 masks"

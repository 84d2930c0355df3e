"""Plots of labels show what a plain count of the annotation files gives, on a picture that can be read."""

import json
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torchvision.io import read_image

from datamodules import (
    LIP,
    WFLW,
    CocoDetection,
    CocoPose,
    DataError,
    ImageFolder,
    MixedPose,
    MpiiPose,
    MultiTaskDataModule,
)  # fmt: skip
from datamodules.base import BaseDataModule
from datamodules.check import draw_distributions, main
from datamodules.check.plots import figures
from datamodules.classification import image_folder
from datamodules.distributions import Bars, Distribution, Histogram, Positions, StackedBars, evenly, some
from datamodules.loading.text_files import ConfigError
from datamodules.segmentation import data as segmentation

SMALL: dict[str, Any] = {"image_size": (64, 48), "num_workers": 0}


def said(data: BaseDataModule) -> dict[str, Any]:
    """The distributions of `train` by their titles."""
    return {one.title: one for one in data.distributions("train")}


def coco_file(data: BaseDataModule, name: str) -> dict[str, Any]:
    return json.loads((data.folder / "annotations" / f"{name}_train2017.json").read_text())


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
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train2017").symlink_to(CocoPose.sample_root().resolve() / "train2017")
    truth["categories"].append({**truth["categories"][0], "id": 2, "name": "ape"})
    for entry in truth["annotations"][::3]:
        entry["category_id"] = 2
    (tmp_path / "annotations/person_keypoints_train2017.json").write_text(json.dumps(truth))
    found = said(CocoPose(tmp_path, **SMALL))["categories"]
    count = len(truth["annotations"])
    assert dict(zip(found.names, found.values, strict=True)) == {
        "person": count - -(-count // 3),
        "ape": -(-count // 3),
    }


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


def test_images_without_objects_are_counted_where_they_are_learned(tmp_path: Path) -> None:
    truth = coco_file(CocoDetection("sample", **SMALL), "instances")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train2017").symlink_to(CocoDetection.sample_root().resolve() / "train2017")
    empty = truth["images"][0]["id"]
    truth["annotations"] = [entry for entry in truth["annotations"] if entry["image_id"] != empty]
    (tmp_path / "annotations/instances_train2017.json").write_text(json.dumps(truth))
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


def test_data_of_several_kinds_have_a_row_each() -> None:
    parts = {"pose": CocoPose("sample", **SMALL), "objects": CocoDetection("sample", **SMALL)}
    joint = MultiTaskDataModule({**parts, "again": "pose"})
    shown = list(figures(joint))
    assert [figure.get_suptitle() for figure in shown] == ["pose: labels of train", "objects: labels of train"]
    assert [len(figure.axes) for figure in shown] == [3, 4]
    titles = [one.title for one in joint.distributions("train")]
    assert titles == [f"{name}: {one.title}" for name, part in parts.items() for one in part.distributions("train")]
    mixed = MixedPose({"a": {"data": parts["pose"]}, "b": {"data": MpiiPose("sample", **SMALL)}}, skeleton="union")
    assert [figure.get_suptitle()[:2] for figure in figures(mixed)] == ["a:", "b:"]
    within = MultiTaskDataModule({"people": mixed})
    assert [len(figure.axes) for figure in figures(within)] == [3, 3]


class Said(CocoPose):
    """Data that say of themselves what a test wants."""

    what: tuple[Distribution, ...] = ()

    def distributions(self, split: str) -> Any:
        """These."""
        yield from self.what


def drawn(*what: Distribution) -> list[Figure]:
    data = Said("sample", **SMALL)
    data.what = what
    shown = list(figures(data))
    for figure in shown:
        FigureCanvasAgg(figure).draw()
    return shown


MANY = "1,000,000 objects"
POINTS = {"visible": [*range(98)], "hidden": [3] * 98, "not labelled": [*range(98, 0, -1)]}
CROWDED = [
    Bars("objects of each class", MANY, [f"name of the class {k}" for k in range(1203)], [*range(1203)], "objects"),
    Histogram("sizes of objects", MANY, np.geomspace(1, 4000, 500), "square root of the box's area, pixels", "objects"),
    Positions("centres of the boxes", MANY, np.random.default_rng(0).normal(0.5, 0.3, (999, 2)), "objects"),
    StackedBars("visibility of key points", MANY, [f"point {k}" for k in range(98)], POINTS, "share of the persons"),
]  # fmt: skip


@pytest.mark.parametrize("data", [CocoPose, CocoDetection, LIP, ImageFolder, WFLW, None])
def test_no_text_lies_on_another(data: type | None) -> None:
    shown = drawn(*CROWDED) if data is None else list(figures(data("sample", num_workers=0, image_size=(64, 48))))
    for figure in shown:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        boxes = [axes.get_tightbbox(canvas.get_renderer()) for axes in figure.axes]
        assert all(box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 for box in boxes)
        for one, other in combinations(boxes, 2):
            assert one.x1 <= other.x0 + 1 or other.x1 <= one.x0 + 1
        assert max(box.y1 for box in boxes) <= figure.texts[0].get_window_extent().y0 + 1  # the title of the row
        for axes in figure.axes:
            names = [name.get_window_extent() for name in axes.get_yticklabels() if name.get_text()]
            assert all(upper.y0 >= lower.y1 - 1 or lower.y0 >= upper.y1 - 1 for upper, lower in combinations(names, 2))
            ticks = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
            low, high = axes.get_xlim()
            numbers = [name.get_window_extent() for tick, name in ticks if low <= tick <= high]
            assert len(numbers) > 1
            assert all(left.x1 <= right.x0 or right.x1 <= left.x0 for left, right in combinations(numbers, 2))


def test_of_many_classes_the_most_frequent_and_the_rarest_are_shown() -> None:
    values = np.random.default_rng(0).permutation(80).tolist()
    (figure,) = drawn(Bars("objects of each class", "9 objects", [f"class {value}" for value in values], values, "n"))
    axes = figure.axes[0]
    names = [name.get_text() for name in axes.get_yticklabels()]
    assert names == [f"class {value}" for value in (*range(79, 59, -1), *range(9, -1, -1))]
    assert [text.get_text() for text in axes.texts] == [name.split()[1] for name in names]
    title = axes.get_title(loc="left")
    assert title.splitlines()[1:] == ["9 objects", "20 most frequent, 10 rarest of 80", "1 without any"]


def test_points_beside_their_image_and_equal_sizes_are_said() -> None:
    points = np.array([[0.5, 0.5], [0.52, 0.51], [1.2, 0.5]])
    equal, places = (
        Histogram("sizes of images", "9 images", np.full(9, 512), "longer side, pixels", "images"),
        Positions("centres of the boxes", "3 faces", points, "faces"),
    )
    (figure,) = drawn(equal, places)
    titles = [axes.get_title(loc="left").splitlines()[2:] for axes in figure.axes]
    assert titles == [["all 512"], ["up to 2 in a cell", "1 outside of their images"]]


def test_names_are_drawn_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matplotlib.mathtext.MathTextParser.parse", None)
    drawn(Bars("$x$", "$y$", ["$\\frac$", "\x1b[31m"], [1, 2], "$z$"))


def test_data_that_say_nothing_have_no_plots() -> None:
    data = Said("sample", **SMALL)
    assert not list(figures(data))
    assert draw_distributions(data, 300).shape == (3, 0, 300)


def test_rows_are_evenly_spaced() -> None:
    assert evenly(5, 9).tolist() == [0, 1, 2, 3, 4]
    assert evenly(101, 5).tolist() == [0, 25, 50, 75, 100]
    assert evenly(0, 5).tolist() == []
    assert evenly(9, 1).tolist() == [0]
    assert some(3, "masks", 3) == "3 masks"
    assert some(200, "masks", 2975) == "200 of 2,975 masks"


WORDS = ["pose_coco.yaml", "sample.yaml", "--data.image_size", "[64,48]", "--data.num_workers", "0"]


def test_the_picture_has_samples_and_plots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sheet = torch.arange(3 * 50 * 1700).remainder(251).to(torch.uint8).view(3, 50, 1700)  # tested on its own
    monkeypatch.setattr("experiments.training.sheet.training_sheet", lambda data: sheet)
    path = tmp_path / "sheet.png"
    assert main([*WORDS, "--images", "none", "--picture", str(path)]) == 0
    picture, plots = read_image(str(path)), draw_distributions(CocoPose("sample", **SMALL), 1700)
    assert plots.shape[1] > 400
    assert torch.equal(picture, torch.cat([sheet, plots], dim=1))


@pytest.mark.parametrize("place", ["none/sheet.png", "sheet.jpg"])
def test_a_bad_place_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr("datamodules.check.__main__.load_data", None)
    with pytest.raises(ConfigError, match=r"--picture .*cannot be written: name a .png file in a folder"):
        main([*WORDS, "--picture", str(tmp_path / place)])


def test_defects_are_listed_although_the_data_cannot_be_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = coco_file(CocoPose("sample", **SMALL), "person_keypoints")
    truth["annotations"][0]["bbox"] = [1, 2, None]
    (tmp_path / "annotations").mkdir()
    for name in ("train2017", "val2017", "annotations/person_keypoints_val2017.json"):
        (tmp_path / name).symlink_to(CocoPose.sample_root().resolve() / name)
    (tmp_path / "annotations/person_keypoints_train2017.json").write_text(json.dumps(truth))
    words = ["pose_coco.yaml", "--data.root", str(tmp_path), "--data.num_workers", "0", "--images", "none"]
    assert main([*words, "--picture", str(tmp_path / "sheet.png")]) == 1
    shown = capsys.readouterr().out
    assert "malformed entry: 1" in shown
    assert "no picture, since these data cannot be loaded: " in shown
    assert not (tmp_path / "sheet.png").exists()


def test_what_the_doctor_did_not_find_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise DataError("masks/7.png has an id that is no class.")

    monkeypatch.setattr("datamodules.keypoints.data.KeypointData.distributions", refuse)
    with pytest.raises(DataError, match=r"masks/7.png"):
        main([*WORDS, "--images", "none", "--picture", str(tmp_path / "sheet.png")])


def test_bars_of_whole_numbers_stand_for_as_many_of_them() -> None:
    (figure,) = drawn(Histogram("objects on an image", "94 images", np.arange(-5, 90), "objects", "images"))
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert sum(heights) == 95
    assert len({*heights[:-1]}) == 1
    (figure,) = drawn(Histogram("objects on an image", "6 images", np.array([1, 1, 1, 2, 2, 4]), "objects", "images"))
    assert [bar.get_height() for bar in figure.axes[0].patches] == [3, 2, 0, 1]

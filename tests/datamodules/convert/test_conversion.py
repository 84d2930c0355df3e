"""The result of a conversion: it trains, is clean to the data doctor, and nothing that was there is touched."""

import json
import os
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import yaml
from PIL import Image

from datamodules import CocoDetection, CocoPose, DataError, FolderSegmentation, ImageFolder, Reading
from datamodules.base import BaseDataModule
from datamodules.check import check
from datamodules.convert import convert, main
from datamodules.convert.__main__ import convert_files
from datamodules.convert.formats import FORMATS
from datamodules.convert.labels import Labels, Picture, Thing
from datamodules.convert.pixels import ImageFile
from datamodules.convert.split import divide
from datamodules.loading.text_files import ConfigError
from experiments.run import main as run
from tests.datamodules.convert.pictures import entries, labelled, picture, text

CLASSES = {
    "pose": CocoPose,
    "detection": CocoDetection,
    "segmentation": FolderSegmentation,
    "classification": ImageFolder,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled(tmp_path_factory.mktemp("labels with space"))


def data_of(folder: Path, task: str) -> BaseDataModule:
    arguments = yaml.safe_load((folder / "mine.yaml").read_text(encoding="utf-8"))["data"]["init_args"]
    arguments.pop("id_map", None)
    if "reading" in arguments:
        arguments["reading"] = Reading(**arguments["reading"])
    if task == "pose":
        files = {split: f"annotations/person_keypoints_{split}2017.json" for split in ("train", "val")}
        arguments |= {"annotations": files}
    return CLASSES[task](**({"image_size": (64, 64), "num_workers": 0} | arguments))


@pytest.mark.parametrize("task", CLASSES)
def test_the_data_doctor_finds_nothing_wrong(source: Path, tmp_path: Path, task: str) -> None:
    converted = convert(source, tmp_path / "to here", task=task, val=0.4)
    report = check(data_of(converted.folder, task))
    assert report.findings == []
    assert {split: counts["images"] for split, counts in report.looked_at.items()} == {"train": 5, "val": 3}


@pytest.mark.slow
@pytest.mark.parametrize("task", CLASSES)
def test_the_printed_command_trains(source: Path, tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    converted = convert(source, tmp_path / "here", task=task, val=0.4)
    *_, experiment, overlay = converted.command.split()
    small = {"backbone": {"variant": "w18_small_v1", "weights": None}}
    if task == "detection":
        small |= {"channels": 32}
    side = 256 if task == "detection" else 64  # its coarsest map has a stride of 64
    size = {"data": {"init_args": {"image_size": [side, side]}}, "model": {"init_args": small}}
    text(tmp_path / "small.yaml", yaml.safe_dump(size))
    trainer = run([experiment, overlay, "debug.yaml", "small.yaml", "--trainer.max_steps", "1"])
    assert trainer.global_step == 1
    assert np.isfinite(trainer.callback_metrics["val/loss"].item())


def test_what_is_there_is_not_overwritten(source: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(DataError, match="is there already and is not overwritten"):
        convert(source, tmp_path / "there")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match="is there already"):
        convert(source, tmp_path / "link")
    with pytest.raises(DataError, match="neither masks nor outlines"):
        convert(labelled_points(tmp_path / "points"), tmp_path / "out", task="segmentation")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "points", "there"]  # nothing half written


def labelled_points(root: Path) -> Path:
    for i in range(2):
        image = picture(root / f"{i}.png")
        shapes = [{"label": "nose", "shape_type": "point", "points": [[i, 2]]}]
        text(root / f"{i}.json", {"shapes": shapes, "imagePath": image.name})
    return root


def test_images_are_copied_or_linked(source: Path, tmp_path: Path) -> None:
    copied, linked = convert(source, tmp_path / "copies"), convert(source, tmp_path / "links", link=True)
    for converted, is_link in ((copied, False), (linked, True)):
        files = list(converted.folder.rglob("*.jpg"))
        assert len(files) == 8
        for file in files:
            assert file.is_symlink() == is_link
            assert file.read_bytes() == (source / file.parent.name / file.name).read_bytes()


def test_a_seed_gives_one_division_and_another_seed_another(source: Path, tmp_path: Path) -> None:
    def val(name: str, seed: int) -> set[str]:
        content = (
            convert(source, tmp_path / name, seed=seed).folder / "annotations/person_keypoints_val2017.json"
        ).read_text()
        return {image["file_name"] for image in json.loads(content)["images"]}

    assert val("a", 1) == val("b", 1)
    assert len({frozenset(val(f"s{seed}", seed)) for seed in range(4)}) > 1


def pictures(tmp_path: Path, groups: list[str | None], names: list[list[str]] | None = None) -> Labels:
    made = []
    for i, group in enumerate(groups):
        things = [Thing(name, (0, 0, 1, 1)) for name in (names[i] if names else ["a"])]
        made.append(Picture(ImageFile(picture(tmp_path / f"{i}.png")), f"{i}.png", things, group=group))
    return Labels("test", made)


@pytest.mark.parametrize("seed", range(5))
def test_clips_stay_whole_and_classes_are_in_both_splits(tmp_path: Path, seed: int) -> None:
    groups = [f"clip {i // 4}" for i in range(40)]
    names = [["rare"] if i // 4 in (2, 7) else ["common"] for i in range(40)]
    splits = divide(pictures(tmp_path, groups, names), 0.2, seed)
    of = {split: {p.group for p in found} for split, found in splits.items()}
    assert not of["train"] & of["val"]
    assert len(splits["val"]) == 8
    for found in splits.values():
        assert {t.name for p in found for t in p.things} == {"rare", "common"}


def test_copies_of_a_file_are_in_one_split(tmp_path: Path) -> None:
    labels = pictures(tmp_path, [None] * 10)
    for i in range(1, 6):
        labels.pictures[i].pixels.path.write_bytes(labels.pictures[0].pixels.path.read_bytes())
    for seed in range(5):
        train = {p.name for p in divide(labels, 0.3, seed)["train"]}
        assert len(train & {f"{i}.png" for i in range(6)}) in (0, 6)


def test_the_splits_of_the_source_are_kept_test_too(tmp_path: Path) -> None:
    root = labelled(tmp_path / "all")
    for split, folder in (("train", "b"), ("val", "été 1")):
        (root / folder).rename(root / split)
    (root / "test").mkdir()
    for path in list((root / "val").glob("photo 7.*")):
        path.rename(root / "test" / path.name)
    converted = convert(root, tmp_path / "out", task="detection")
    assert {split: counts["images"] for split, counts in converted.counts.items()} == {"train": 4, "val": 3, "test": 1}
    data = data_of(converted.folder, "detection")
    assert data.test_split == "test"
    assert len(data.dataset("test")) == 1


def test_turned_photographs_are_measured_as_tools_show_them(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    for i in range(2):
        image = picture(tmp_path / f"in/{i}.jpg", exif=exif if i == 0 else Image.Exif())
        height, width = (64, 48) if i == 0 else (48, 64)
        shapes = [{"label": "a", "shape_type": "rectangle", "points": [[5, height - 9], [20, height - 1]]}]
        content = {"shapes": shapes, "imagePath": image.name, "imageHeight": height, "imageWidth": width}
        text(image.with_suffix(".json"), content)
    converted = convert(tmp_path / "in", tmp_path / "out", val=0.5)
    assert entries(converted, "instances")["0.jpg"][0]["bbox"] == [5, 55, 15, 8]
    overlay = yaml.safe_load((converted.folder / "mine.yaml").read_text())["data"]["init_args"]
    assert overlay["reading"] == {"upright": True}
    assert check(data_of(converted.folder, "detection")).findings == []


def test_what_cannot_be_used_is_said(tmp_path: Path) -> None:
    root = labelled(tmp_path / "in")
    (root / "b/photo 0.jpg").write_bytes(b"no image")
    (root / "b/photo 2.jpg").unlink()
    path = root / "b/photo 4.json"
    text(path, json.loads(path.read_text()) | {"imageWidth": 500})
    path = root / "b/photo 6.json"
    content = json.loads(path.read_text())
    content["shapes"] = [{"label": "left_ear", "shape_type": "point", "points": [[90, -5]]}]
    text(path, content)
    converted = convert(root, tmp_path / "out", task="pose")
    assert converted.left_out == {
        "images that cannot be read": 1,
        "images that were not found": 1,
        "images of another width and height than their labels say": 1,
        "things outside of their image": 1,
    }
    assert "photo 2.jpg" in "\n".join(converted.lines)


def test_names_that_no_folder_can_have_are_changed_and_none_meet(tmp_path: Path) -> None:
    images, annotations = [], []
    for i, name in enumerate(["../up.png", "a/b.png", "a/b.jpg", ".hidden.png"]):
        image = picture(tmp_path / "in" / (name if i else "up.png"))
        images.append({"id": i, "file_name": str(image) if i == 0 else name, "height": 48, "width": 64})
        annotations.append({"id": i, "image_id": i, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    converted = convert(text(tmp_path / "in/all.json", content), tmp_path / "out", val=0.5)
    found = set(entries(converted, "instances"))
    assert {name.rpartition("/")[2] for name in found} == {"up.png", "b.png", "b_2.jpg", "hidden.png"}
    inside = [path for path in converted.folder.rglob("*") if path.suffix in (".png", ".jpg")]
    assert len(inside) == 4
    assert all(os.path.realpath(path).startswith(str(converted.folder)) for path in inside)


def test_the_command_says_what_it_did(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(source), "--to", str(tmp_path / "out"), "--val", "0.4"]) == 0
    said = capsys.readouterr().out
    assert "labelme for pose; train 5 images, 5 annotations; val 3 images, 3 annotations" in said
    assert f"python -m experiments.run pose_custom.yaml {tmp_path / 'out' / 'mine.yaml'}" in said
    assert f"python -m datamodules.check pose_custom.yaml {tmp_path / 'out' / 'mine.yaml'}" in said
    assert "--task detection and --task segmentation and --task classification" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "--to", "out"], "nowhere is not there"),
        (["{source}"], "--to FOLDER is missing"),
        (["{source}", "--to", "out", "--val", "2"], "--val is 2, expected the share"),
        (["{source}", "--to", "out", "--scorer", "Ann"], "--scorer is for deeplabcut and lightning_pose"),
        (["{source}", "--to", "out", "--likelihood", "0.5"], "--likelihood is for the key points of networks"),
        (["{source}", "--to", "out", "--format", "sleap"], "gives no labelled image"),
        (["{source}", "--to", "out", "--format", "yolo"], "neither a data.yaml"),
        (["{source}", "--to", "out", "--images", "nowhere"], "--images nowhere is no folder"),
    ],
)
def test_a_mistake_is_one_sentence(source: Path, words: list[str], message: str) -> None:
    with pytest.raises((DataError, ConfigError), match=message):
        main([word.format(source=source) for word in words])
    assert not Path("out").exists()


def test_a_packed_or_unknown_source_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unpack it"):
        convert(text(tmp_path / "export.zip", "PK"), tmp_path / "out")
    picture(tmp_path / "in/a.png")
    with pytest.raises(DataError, match="no labels that are known among its 1 files"):
        convert(tmp_path / "in", tmp_path / "out")
    labelled(tmp_path / "in")
    text(tmp_path / "in/voc.xml", "<annotation><object/></annotation>")
    with pytest.raises(DataError, match="files of labelme and of voc: say which by --format"):
        convert(tmp_path / "in", tmp_path / "out")


def test_the_command_knows_every_format() -> None:
    hint = get_type_hints(convert_files)["format_"]
    assert [*get_args(get_args(hint)[0])] == [*FORMATS]

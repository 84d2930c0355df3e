"""YOLO, Pascal VOC and COCO: shares and pixels from 1 by hand figures, splits and masks as the source has them."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from datamodules import DataError, Skeleton
from datamodules.convert import convert
from tests.datamodules.convert.pictures import entries, picture, points, text


def yolo(root: Path, lines: dict[str, str], **more: object) -> Path:
    """Images and lines by `train/name`, and data.yaml."""
    for name, content in lines.items():
        picture(root / f"images/{name}.png")
        text(root / f"labels/{name}.txt", content)
    described = {"path": "../datasets/elsewhere", "train": "images/train", "val": "images/val"}
    return text(root / "data.yaml", yaml.safe_dump(described | {"names": {0: "cat", 1: "dog"}} | more))


def test_yolo_boxes_polygons_and_images_without_things(tmp_path: Path) -> None:
    lines = {
        "train/a": "0 0.5 0.5 0.25 0.5\n1 0 0 0.5 0 0.5 0.5 0 0.5\n",
        "train/b": "",
        "val/c": "1 0.25 0.25 0.125 0.25\n0 0.1 0.1 0.2 0.2 0.9\n",
    }
    yolo(tmp_path / "y", lines)
    picture(tmp_path / "y/images/train/bare.png")
    converted = convert(tmp_path / "y", tmp_path / "out")
    assert (converted.format, converted.task) == ("yolo", "detection")
    found = entries(converted, "instances")
    cat, dog = found["a.png"]
    assert (cat["bbox"], cat["category_id"]) == ([24, 12, 16, 24], 1)
    assert (dog["bbox"], dog["area"], dog["category_id"]) == ([0, 0, 32, 24], 768, 2)
    assert found["b.png"] == found["bare.png"] == []
    assert found["c.png"][0]["bbox"] == [12, 6, 8, 12]
    assert converted.counts["train"]["images"] == 3  # the source's own splits
    assert converted.left_out["lines with another count of numbers than boxes, polygons or poses have"] == 1
    assert converted.left_out["text files of images, which are taken as images without things"] == 1


@pytest.mark.parametrize("dimensions", [2, 3])
def test_yolo_poses(tmp_path: Path, dimensions: int) -> None:
    said = (" 2", " 0", " 1") if dimensions == 3 else ("", "", "")
    line = f"0 0.5 0.5 1 1 0.25 0.5{said[0]} 0 0{said[1]} 0.75 0.25{said[2]}\n"
    names = {"kpt_shape": [3, dimensions], "flip_idx": [0, 2, 1], "kpt_names": {0: ["nose", "eye_a", "eye_b"]}}
    yolo(tmp_path / "y", {"train/a": line, "train/b": line, "val/c": line}, **names)
    converted = convert(tmp_path / "y", tmp_path / "out")
    assert converted.task == "pose"
    (entry,) = entries(converted)["c.png"]
    assert points(entry) == [(16, 24, 2), (0, 0, 0), (48, 12, 1 if dimensions == 3 else 2)]
    assert entry["bbox"] == [0, 0, 64, 48]
    skeleton = Skeleton.load(converted.folder / "skeleton.yaml")
    assert (skeleton.names, skeleton.flip_pairs) == (("nose", "eye_a", "eye_b"), ((1, 2),))


def test_yolo_without_a_yaml_file(tmp_path: Path) -> None:
    for i in range(4):
        picture(tmp_path / f"y/{i}.png")
        text(tmp_path / f"y/{i}.txt", f"{i % 2} 0.5 0.5 0.5 0.5\n")
    text(tmp_path / "y/classes.txt", "left\nright\n")
    converted = convert(tmp_path / "y", tmp_path / "out", val=0.5)
    content = json.loads((converted.folder / "annotations/instances_val2017.json").read_text())
    assert [category["name"] for category in content["categories"]] == ["left", "right"]
    assert {entry["category_id"] for entry in content["annotations"]} == {1, 2}  # each class in both splits


def voc(root: Path, boxes: dict[str, str], splits: dict[str, str] | None = None) -> Path:
    for name, objects in boxes.items():
        picture(root / f"JPEGImages/{name}.jpg")
        size = "<size><width>64</width><height>48</height><depth>3</depth></size>"
        content = f"<annotation><folder>VOC</folder><filename>{name}.jpg</filename>{size}{objects}</annotation>"
        text(root / f"Annotations/{name}.xml", content)
    for split, names in (splits or {}).items():
        text(root / f"ImageSets/Main/{split}.txt", names)
    return root


def thing(name: str, corners: tuple, more: str = "") -> str:
    keys = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    return f"<object><name>{name}</name>{more}<bndbox>{''.join(f'<{k}>{v}</{k}>' for k, v in keys)}</bndbox></object>"


def test_voc_counts_pixels_from_1_and_keeps_its_splits(tmp_path: Path) -> None:
    boxes = {
        "a": thing("cat", (1, 1, 64, 48)) + thing("dog", (11, 21, 11, 30), "<difficult>1</difficult>"),
        "b": thing("dog", (3, 4, 5, 6)),
        "c": thing("cat", (3, 4, 5, 6)) + "<object><name>dog</name></object>",
    }
    root = voc(tmp_path / "VOC", boxes, {"train": "a\nb\n", "val": "c\n"})
    converted = convert(root, tmp_path / "out")
    assert (converted.format, converted.task) == ("voc", "detection")
    found = entries(converted, "instances")
    cat, dog = found["a.jpg"]
    assert (cat["bbox"], cat["iscrowd"]) == ([0, 0, 64, 48], 0)
    assert (dog["bbox"], dog["iscrowd"]) == ([10, 20, 1, 10], 1)
    assert found["b.jpg"][0]["bbox"] == [2, 3, 3, 3]
    assert converted.counts["val"] == {"images": 1, "annotations": 1}
    assert converted.left_out == {"objects without a name or a box": 1}


def test_voc_files_that_count_from_0_are_noticed(tmp_path: Path) -> None:
    boxes = {"a": thing("cat", (0, 0, 64, 48)), "b": thing("cat", (10, 20, 30, 40))}
    converted = convert(voc(tmp_path / "VOC", boxes), tmp_path / "out", val=0.5)
    found = entries(converted, "instances")
    assert found["a.jpg"][0]["bbox"] == [0, 0, 64, 48]
    assert found["b.jpg"][0]["bbox"] == [10, 20, 20, 20]
    assert any("count from 0" in line for line in converted.lines)


def palette_mask(path: Path, ids: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids.astype(np.uint8), "P")
    image.putpalette([channel for i in range(256) for channel in (i, 255 - i, 7)])
    image.save(path)


def test_voc_masks_keep_their_ids_and_lists(tmp_path: Path) -> None:
    root = tmp_path / "VOC"
    ids = np.zeros((48, 64), int)
    ids[:10], ids[20:30], ids[40:] = 15, 1, 255
    for name in "abc":
        picture(root / f"JPEGImages/{name}.jpg")
        palette_mask(root / f"SegmentationClass/{name}.png", ids)
    text(root / "ImageSets/Segmentation/train.txt", "a\nb\n")
    text(root / "ImageSets/Segmentation/val.txt", "c\n")
    converted = convert(root, tmp_path / "out")
    assert converted.task == "segmentation"
    assert (np.asarray(Image.open(converted.folder / "masks/val/c.png")) == ids).all()
    assert "num_classes: 21" in (converted.folder / "mine.yaml").read_text()


def test_masks_in_the_colours_of_a_label_map(tmp_path: Path) -> None:
    root = tmp_path / "VOC"
    colours = np.zeros((48, 64, 3), np.uint8)
    colours[:10] = (128, 0, 0)
    colours[20:30] = (0, 128, 64)
    for name in "abc":
        picture(root / f"JPEGImages/{name}.jpg")
        (root / "SegmentationClass").mkdir(exist_ok=True)
        Image.fromarray(colours).save(root / f"SegmentationClass/{name}.png")
    text(
        root / "labelmap.txt",
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nleft arm:128,0,0::\nright arm:0,128,64::\n",
    )
    converted = convert(root, tmp_path / "out", val=0.34)
    mask = np.asarray(Image.open(next((converted.folder / "masks/val").glob("*.png"))))
    assert mask.shape == (48, 64)
    assert (mask[:10] == 1).all()
    assert (mask[20:30] == 2).all()
    assert (mask[30:] == 0).all()
    overlay = yaml.safe_load((converted.folder / "mine.yaml").read_text())["data"]["init_args"]
    assert overlay["class_names"] == ["background", "left arm", "right arm"]
    assert overlay["label_flip_pairs"] == [["left arm", "right arm"]]


def test_coco_categories_become_a_skeleton(tmp_path: Path) -> None:
    category = {"id": 3, "name": "fly", "keypoints": ["head", "wing_left", "wing_right"], "skeleton": [[1, 2], [1, 3]]}
    images, annotations = [], []
    for i in range(3):
        picture(tmp_path / f"fly {i}.png")
        images.append({"id": i, "file_name": f"fly {i}.png", "height": 48, "width": 64})
        code = {"size": [48, 64], "counts": [48 * 10, 48 * 5, 48 * 49]}
        annotations.append({
            "id": i, "image_id": i, "category_id": 3, "bbox": [10, 0, 5, 48], "keypoints": [1, 2, 2, 0, 0, 0, 3, 4, 1],
            "segmentation": code, "area": 240,
        })  # fmt: skip
    content = {"images": images, "annotations": annotations, "categories": [category]}
    converted = convert(text(tmp_path / "all.json", content), tmp_path / "out")
    assert (converted.format, converted.task) == ("coco", "pose")
    (entry,) = entries(converted)["fly 1.png"]
    assert points(entry) == [(1, 2, 2), (0, 0, 0), (3, 4, 1)]
    assert (entry["bbox"], entry["area"]) == ([10, 0, 5, 48], 240)
    skeleton = Skeleton.load(converted.folder / "skeleton.yaml")
    assert skeleton.limbs == ((0, 1), (0, 2))
    assert skeleton.flip_pairs == ((1, 2),)
    with pytest.raises(DataError, match="have no classes"):
        convert(tmp_path / "all.json", tmp_path / "classes", task="classification")


def two_files(root: Path) -> Path:
    """COCO's two files of one split: people in both, with the same ids, boxes and outlines; a dog in one alone."""
    names = ["nose", "left_ear", "right_ear"]
    images = []
    for i in range(4):
        picture(root / f"images/{i}.jpg")
        images.append({"id": i, "file_name": f"{i}.jpg", "height": 48, "width": 64})

    def person(number: int, image: int, x: float) -> dict:
        outline = [x, 5.0, x + 10.5, 5.0, x + 10.5, 25.0, x, 25.0]
        box = [x, 5.0, 10.5, 20.0]
        return {
            "id": number, "image_id": image, "category_id": 1, "bbox": box, "area": 210.0, "segmentation": [outline],
            "iscrowd": 0,
        }  # fmt: skip

    people = [person(10 + i, i, 2.25) for i in range(4)] + [person(20, 0, 30.0), person(21, 0, 30.0)]
    dog = {"id": 30, "image_id": 0, "category_id": 18, "bbox": [2.25, 5.0, 10.5, 20.0], "area": 9.0, "iscrowd": 0}
    said = {"keypoints": [3, 6, 2, 0, 0, 0, 5, 8, 1], "num_keypoints": 2}
    poses = [entry | said for entry in people[:-1]]  # of two people with one box, one has no entry here
    categories = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]
    with_points = [{"id": 1, "name": "person", "keypoints": names, "skeleton": [[1, 2], [1, 3]]}]
    content = {"images": images, "annotations": [*people, dog], "categories": categories}
    text(root / "annotations/instances_train2017.json", content)
    content = {"images": images, "annotations": poses, "categories": with_points}
    text(root / "annotations/person_keypoints_train2017.json", content)
    return root


def test_coco_people_in_two_files_are_counted_once(tmp_path: Path) -> None:
    root = two_files(tmp_path / "coco")
    converted = convert(root, tmp_path / "boxes", task="detection", val=0.25)
    found = entries(converted, "instances")
    assert {name: len(things) for name, things in found.items()} == {"0.jpg": 4, "1.jpg": 1, "2.jpg": 1, "3.jpg": 1}
    assert {"5 things are in two files with one class and box; each is taken once, with all of both."} <= {
        *converted.lines
    }
    converted = convert(root, tmp_path / "poses", task="pose", val=0.25)
    found = entries(converted)
    assert {name: len(things) for name, things in found.items()} == {"0.jpg": 2, "1.jpg": 1, "2.jpg": 1, "3.jpg": 1}
    for entry in found["0.jpg"]:
        assert points(entry) == [(3, 6, 2), (0, 0, 0), (5, 8, 1)]
        assert entry["area"] == pytest.approx(210, abs=15)
        assert len(entry["segmentation"]) == 1
    assert converted.left_out == {"things without a labelled key point": 2}  # the dog, and who has no entry


def test_coco_things_with_one_box_in_one_file_stay_two(tmp_path: Path) -> None:
    root = two_files(tmp_path / "coco")
    (root / "annotations/person_keypoints_train2017.json").unlink()
    found = entries(convert(root, tmp_path / "out", val=0.25), "instances")
    assert len(found["0.jpg"]) == 4

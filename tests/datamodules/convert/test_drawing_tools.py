"""LabelMe, Label Studio, CVAT and VIA: shapes by hand figures, and which key points belong to which thing."""

import base64
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from datamodules import DataError
from datamodules.convert import convert
from datamodules.convert.source_files import parse_xml
from tests.datamodules.convert.pictures import entries, picture, points, text


def labelme(path: Path, shapes: list[dict], **more: object) -> Path:
    image = picture(path.with_suffix(".png"))
    content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": image.name, "imageData": None}
    return text(path, content | {"imageHeight": 48, "imageWidth": 64} | more)


def shape(kind: str, label: str, corners: list, **more: object) -> dict:
    return {"label": label, "points": corners, "group_id": None, "shape_type": kind, "flags": {}} | more


def png(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_labelme_shapes_become_objects(tmp_path: Path) -> None:
    root = tmp_path / "labels"
    square = [[10, 10], [20, 10], [20, 20], [10, 20]]
    labelme(root / "a b.json", [
        shape("rectangle", "cat", [[30, 40], [10, 20]]),  # drawn from the lower right corner
        shape("polygon", "dog", square, group_id=1),
        shape("polygon", "dog", [[30, 10], [34, 10], [34, 14], [30, 14]], group_id=1),
        shape("line", "leash", [[1, 1], [5, 5]]),
    ])  # fmt: skip
    labelme(root / "ü.json", [
        shape("circle", "dog", [[30, 20], [40, 20]]),
        shape("mask", "cat", [[5, 6], [8, 8]], mask=png(np.array([[1, 0, 1, 1], [0, 0, 0, 1], [0, 0, 1, 1]], bool))),
    ])  # fmt: skip
    picture(root / "unlabelled.png")
    converted = convert(root, tmp_path / "out", val=0.5)
    assert (converted.format, converted.task) == ("labelme", "detection")
    found = entries(converted, "instances")
    cat, dog = found["a b.png"]
    assert (cat["bbox"], cat["area"]) == ([10, 20, 20, 20], 400)
    assert (dog["bbox"], dog["area"]) == ([10, 10, 24, 10], 116)  # two parts: 10 x 10 and 4 x 4
    assert len(dog["segmentation"]) == 2
    dog, cat = found["ü.png"]
    assert dog["bbox"] == pytest.approx([20, 10, 20, 20], abs=0.1)
    assert dog["area"] == pytest.approx(np.pi * 100, rel=0.03)
    assert (cat["bbox"], cat["area"]) == ([5, 6, 4, 3], 6)
    assert converted.left_out == {"shapes of the kind line": 1, "images without a JSON file": 1}


def test_labelme_points_belong_to_their_group_or_the_smallest_box_about_them(tmp_path: Path) -> None:
    root = tmp_path / "labels"
    labelme(root / "0.json", [
        shape("rectangle", "mouse", [[0, 0], [60, 40]], group_id=1),
        shape("rectangle", "mouse", [[10, 10], [20, 20]]),
        shape("point", "nose", [[12, 14]]),
        shape("point", "nose", [[13, 15]], group_id=1),
        shape("point", "tail", [[50, 30]], flags={"occluded": True}),
        shape("point", "tail", [[62, 45]]),
    ])  # fmt: skip
    labelme(root / "1.json", [shape("point", "nose", [[1, 2]]), shape("point", "tail", [[30, 40]])])
    converted = convert(root, tmp_path / "out", val=0.5)
    found = entries(converted)
    large, small = found["0.png"]
    assert (large["bbox"], points(large)) == ([0, 0, 60, 40], [(13, 15, 2), (50, 30, 1)])
    assert (small["bbox"], points(small)) == ([10, 10, 10, 10], [(12, 14, 2), (0, 0, 0)])
    assert points(found["1.png"][0]) == [(1, 2, 2), (30, 40, 2)]
    assert converted.left_out == {"key points outside of every box and without a group": 1}


def test_labelme_outlines_become_masks_later_over_earlier(tmp_path: Path) -> None:
    root = tmp_path / "labels"
    for name in ("train/a", "valid/b"):
        labelme(root / f"{name}.json", [
            shape("polygon", "floor", [[0, 24], [64, 24], [64, 48], [0, 48]]),
            shape("polygon", "cup", [[10, 20], [20, 20], [20, 30], [10, 30]]),
            shape("polygon", "__ignore__", [[60, 0], [64, 0], [64, 4], [60, 4]]),
            shape("rectangle", "plate", [[1, 1], [3, 3]]),
        ])  # fmt: skip
    converted = convert(root, tmp_path / "out", task="segmentation")
    mask = np.asarray(Image.open(converted.folder / "masks/train/train/a.png"))
    expected = np.zeros((48, 64), int)
    expected[24:] = 1
    expected[20:30, 10:20] = 2
    expected[:4, 60:] = 255
    assert (mask == expected).all()
    assert (converted.folder / "images/val/valid/b.png").is_file()
    assert converted.left_out == {"things without an outline": 2}
    assert "class_names: [background, floor, cup]" in (converted.folder / "mine.yaml").read_text()


def test_labelme_flags_are_classes_and_embedded_images_are_taken(tmp_path: Path) -> None:
    root = tmp_path / "labels"
    for i in range(6):
        path = labelme(root / f"{i}.json", [], flags={"ripe": i % 2 == 0, "green": i % 2 == 1})
        content = json.loads(path.read_text()) | {"imagePath": "..\\gone\\photo.png"}
        content["imageData"] = base64.b64encode(path.with_suffix(".png").read_bytes()).decode()
        path.with_suffix(".png").unlink()
        text(path, content)
    converted = convert(root, tmp_path / "out", val=0.34)
    assert converted.task == "classification"
    found = {path.relative_to(converted.folder).as_posix() for path in converted.folder.rglob("*.png")}
    assert len(found) == 6
    assert {path.split("/")[1] for path in found if path.startswith("train/")} == {"ripe", "green"}
    assert {path.split("/")[1] for path in found if path.startswith("val/")} == {"ripe", "green"}


def region(kind: str, key: str, label: str | None, value: dict, **more: object) -> dict:
    value = value if label is None else value | {kind: [label]}
    entry = {"id": key, "type": kind, "value": value, "from_name": "l", "to_name": "i"}
    return entry | {"original_width": 64, "original_height": 48, "image_rotation": 0} | more


def brush(mask: np.ndarray) -> list[int]:
    """Label Studio's run-length code of RGBA values, one run of repeats after the other."""
    values = np.repeat(mask.ravel().astype(np.uint8) * 255, 4)
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{length:04b}" for length in (2, 3, 7, 15))
    at = 0
    while at < len(values):
        run = 1
        while at + run < len(values) and values[at + run] == values[at] and run < 1000:
            run += 1
        bits += f"1{3:02b}{run - 1:016b}{values[at]:08b}"
        at += run
    bits += "0" * (-len(bits) % 8)
    return [int(bits[place : place + 8], 2) for place in range(0, len(bits), 8)]


def label_studio(root: Path, results: list[list[dict]], **more: object) -> Path:
    tasks = []
    for i, result in enumerate(results):
        picture(root / f"images/photo{i}.png")
        annotations = [
            {"id": 9, "was_cancelled": True, "result": []},
            {"id": i, "was_cancelled": False, "result": result},
        ]
        data = {"image": f"/data/upload/1/1a2b3c4d-photo{i}.png"}
        tasks.append({"id": i, "data": data, "annotations": annotations, "predictions": []} | more)
    return text(root / "export.json", tasks)


def test_label_studio_percents_become_pixels(tmp_path: Path) -> None:
    mask = np.zeros((48, 64), bool)
    mask[10:20, 30:35] = True
    results = [
        [
            region("rectanglelabels", "r", "cat", {"x": 25, "y": 50, "width": 50, "height": 25, "rotation": 0}),
            region("polygonlabels", "p", "dog", {"points": [[0, 0], [50, 0], [50, 50], [0, 50]], "closed": True}),
        ],
        [
            # 32 x 12 pixels, a quarter turn clockwise about 32, 12: from x 20 to 32, from y 12 to 44.
            region("rectanglelabels", "t", "cat", {"x": 50, "y": 25, "width": 50, "height": 25, "rotation": 90}),
            region("brushlabels", "b", "dog", {"format": "rle", "rle": brush(mask)}),
            region("ellipselabels", "e", "dog", {"x": 50, "y": 50, "radiusX": 10, "radiusY": 25, "rotation": 0}),
        ],
    ]
    converted = convert(label_studio(tmp_path / "ls", results), tmp_path / "out", val=0.5)
    assert (converted.format, converted.task) == ("label_studio", "detection")
    found = entries(converted, "instances")
    cat, dog = found["photo0.png"]
    assert cat["bbox"] == [16, 24, 32, 12]
    assert (dog["bbox"], dog["area"]) == ([0, 0, 32, 24], 768)
    cat, dog, ellipse = found["photo1.png"]
    assert cat["bbox"] == pytest.approx([20, 12, 12, 32])
    assert (dog["bbox"], dog["area"]) == ([30, 10, 5, 10], 50)
    assert ellipse["bbox"] == pytest.approx([25.6, 12, 12.8, 24], abs=0.1)


def test_label_studio_key_points_follow_parents_and_relations(tmp_path: Path) -> None:
    box = {"x": 0, "y": 0, "width": 100, "height": 100, "rotation": 0}
    inner = {"x": 0, "y": 0, "width": 50, "height": 50, "rotation": 0}
    result = [
        region("rectanglelabels", "big", "rat", box),
        region("rectanglelabels", "small", "rat", inner),
        region("keypointlabels", "1", "nose", {"x": 10, "y": 10, "width": 0.5}, parentID="big"),
        region("keypointlabels", "2", "tail", {"x": 20, "y": 25, "width": 0.5}),
        region("keypointlabels", "3", "tail", {"x": 30, "y": 25, "width": 0.5}),
        {"type": "relation", "from_id": "3", "to_id": "big", "direction": "right"},
    ]
    turned = [region("keypointlabels", "9", "nose", {"x": 1, "y": 1, "width": 0.5}, image_rotation=90)]
    path = label_studio(tmp_path / "ls", [result, result, turned], predictions=[{"result": []}])
    converted = convert(path, tmp_path / "out")
    big, small = entries(converted)["photo0.png"]
    assert points(big) == [(6.4, 4.8, 2), (19.2, 12, 2)]
    assert points(small) == [(0, 0, 0), (12.8, 12, 2)]
    assert converted.left_out["predictions of a model"] == 3
    assert converted.left_out["regions of a turned image, or without its size"] == 1


def test_label_studio_choices_are_classes(tmp_path: Path) -> None:
    results = [[{"type": "choices", "id": "c", "value": {"choices": [name]}}] for name in ("a/b", "c") * 3]
    converted = convert(label_studio(tmp_path / "ls", results), tmp_path / "out")
    assert converted.task == "classification"
    assert {path.name for path in (converted.folder / "train").iterdir()} == {"a_b", "c"}


SVG = (
    '&lt;line data-type="edge" data-node-from="1" data-node-to="2"&gt;&lt;/line&gt;'
    '&lt;circle data-node-id="1" data-label-name="nose"&gt;&lt;/circle&gt;'
    '&lt;circle data-node-id="2" data-label-name="tail"&gt;&lt;/circle&gt;'
)
META = (
    "<meta><task><id>7</id><name>t</name><mode>{mode}</mode><labels><label><name>rat</name><type>skeleton</type>"
    f"<svg>{SVG}</svg></label><label><name>nose</name><type>points</type><parent>rat</parent></label>"
    "<label><name>tail</name><type>points</type><parent>rat</parent></label></labels>"
    "<source>run.mp4</source><original_size><width>64</width><height>48</height></original_size></task></meta>"
)


def test_cvat_images(tmp_path: Path) -> None:
    root = tmp_path / "cvat"
    for i in range(3):
        picture(root / f"images/f/{i}.png")
    image = '<image id="{0}" name="f/{0}.png" width="64" height="48">{1}</image>'
    shapes = [
        '<box label="cat" xtl="1.5" ytl="2" xbr="11.5" ybr="22" occluded="0" z_order="0"/>'
        '<box label="cat" xtl="20" ytl="20" xbr="40" ybr="30" rotation="90.00" z_order="1"/>'
        '<polygon label="dog" points="0.00,0.00;4.00,0.00;4.00,4.00;0.00,4.00" z_order="0" group_id="3"/>'
        '<polygon label="dog" points="10,0;14,0;14,4;10,4" z_order="0" group_id="3"/>'
        '<polyline label="dog" points="0,0;1,1"/>',
        '<mask label="dog" rle="2, 4, 3, 3" left="5" top="6" width="4" height="3" z_order="0"/>'
        '<ellipse label="cat" cx="30" cy="20" rx="10" ry="5" z_order="0"/>',
        "",
    ]
    body = "".join(image.format(i, content) for i, content in enumerate(shapes))
    path = text(
        root / "annotations.xml",
        f"<annotations><version>1.1</version>{META.format(mode='annotation')}{body}</annotations>",
    )
    converted = convert(path, tmp_path / "out")
    assert (converted.format, converted.task) == ("cvat", "detection")
    found = entries(converted, "instances")
    first, dog, turned = found["f/0.png"]
    assert first["bbox"] == [1.5, 2, 10, 20]
    assert (dog["bbox"], dog["area"]) == ([0, 0, 14, 4], 32)
    assert turned["bbox"] == pytest.approx([25, 15, 10, 20])  # 20 x 10 about 30, 25, a quarter turn
    patch, ellipse = found["f/1.png"]
    # Rows 0 0 1 1 / 1 1 0 0 / 0 1 1 1 from 5, 6 on.
    assert (patch["bbox"], patch["area"]) == ([5, 6, 4, 3], 7)
    assert ellipse["bbox"] == pytest.approx([20, 15, 20, 10], abs=0.1)
    assert found["f/2.png"] == []
    assert converted.left_out == {"shapes of the kind polyline": 1}


def test_cvat_skeletons_of_images_and_videos(tmp_path: Path) -> None:
    root = tmp_path / "cvat"
    for i in range(4):
        picture(root / f"images/frame_{i:06d}.PNG")
    skeleton = (
        '<skeleton frame="{0}" label="rat" outside="{1}" keyframe="1">'
        '<points label="tail" outside="1" occluded="0" points="1,1"/>'
        '<points label="nose" outside="0" occluded="1" points="{0}.5,7.00"/></skeleton>'
    )
    track = "".join(skeleton.format(i, int(i == 2)) for i in range(4))
    box = '<box frame="1" xtl="0" ytl="0" xbr="9" ybr="9" outside="0" occluded="0" keyframe="1"/>'
    body = f'<track id="0" label="rat">{track}</track><track id="1" label="rat">{box}</track>'
    path = text(root / "annotations.xml", f"<annotations>{META.format(mode='interpolation')}{body}</annotations>")
    converted = convert(path, tmp_path / "out", val=0.3)
    found = entries(converted)
    assert set(found) == {f"run/{i:06d}.PNG" for i in (0, 1, 3)}  # outside on frame 2
    assert points(found["run/000003.PNG"][0]) == [(3.5, 7, 1), (0, 0, 0)]
    assert len(found["run/000001.PNG"]) == 1
    assert converted.left_out == {"things without a labelled key point": 1}
    text_of = (converted.folder / "skeleton.yaml").read_text()
    assert "names: [nose, tail]" in text_of
    assert "limbs:\n- [nose, tail]" in text_of


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xml_with_a_document_type_is_refused(tmp_path: Path, encoding: str) -> None:
    bomb = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><annotations>&b;</annotations>'
    path = tmp_path / "annotations.xml"
    path.write_bytes(bomb.encode(encoding))
    with pytest.raises(DataError, match="declares a document type"):
        parse_xml(path)
    if encoding == "utf-8":
        with pytest.raises(DataError, match="declares a document type"):
            convert(path, tmp_path / "out")


REGIONS = [
    ({"name": "rect", "x": 5, "y": 6, "width": 10, "height": 20}, {"class": "cup"}),
    ({"name": "polygon", "all_points_x": [0, 8, 8, 0], "all_points_y": [0, 0, 4, 4]}, {"class": "dish"}),
    ({"name": "circle", "cx": 30, "cy": 20, "r": 5}, {"class": {"cup": True}}),
    ({"name": "polyline", "all_points_x": [0, 8], "all_points_y": [0, 0]}, {"class": "crack"}),
]


@pytest.mark.parametrize("kind", ["json", "project", "csv", "version 1"])
def test_via_in_each_of_its_files(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "via"
    names = ["a 1.png", "b.png"]
    for name in names:
        picture(root / name)
    regions = [{"shape_attributes": shape, "region_attributes": said} for shape, said in REGIONS]
    listed = {str(i): r for i, r in enumerate(regions)} if kind == "version 1" else regions
    images = {f"{n}99": {"filename": n, "size": 99, "regions": listed, "file_attributes": {}} for n in names}
    if kind == "csv":
        head = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"

        def cell(value: object) -> str:
            return '"' + json.dumps(value).replace('"', '""') + '"'

        rows = [f"{n},99,{cell({})},4,{i},{cell(s)},{cell(a)}\n" for n in names for i, (s, a) in enumerate(REGIONS)]
        path = text(root / "via_export.csv", head + "".join(rows))
    else:
        project = {"_via_settings": {"core": {"default_filepath": ""}}, "_via_img_metadata": images}
        path = text(root / "via.json", project if kind == "project" else images)
    converted = convert(path, tmp_path / "out", val=0.5)
    assert converted.format == "via"
    cup, dish, circle = entries(converted, "instances")["a 1.png"]
    assert cup["bbox"] == [5, 6, 10, 20]
    assert (dish["bbox"], dish["area"]) == ([0, 0, 8, 4], 32)
    assert circle["bbox"] == pytest.approx([25, 15, 10, 10], abs=0.1)
    assert circle["category_id"] == cup["category_id"] != dish["category_id"]
    assert converted.left_out == {"regions of the kind polyline": 2}


def test_via_points_are_tied_by_their_group(tmp_path: Path) -> None:
    regions = [
        {"shape_attributes": {"name": "point", "cx": x, "cy": 7}, "region_attributes": {"name": name, "group": group}}
        for x, name, group in ((1, "nose", "1"), (9, "tail", "1"), (30, "nose", "2"))
    ]
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    images = {n: {"filename": n, "size": 1, "regions": regions, "file_attributes": {}} for n in ("a.png", "b.png")}
    found = entries(convert(text(tmp_path / "via.json", images), tmp_path / "out", val=0.5))
    assert [points(entry) for entry in found["b.png"]] == [[(1, 7, 2), (9, 7, 2)], [(30, 7, 2), (0, 0, 0)]]


def via3(path: Path, files: list[dict], metadata: list[dict], views: list[list] | None = None) -> Path:
    """A project of version 3, whose ids are texts in the tables' keys and numbers or texts elsewhere."""
    attributes = {
        "1": ("Class", 4, {"0": "cup", "1": "dish"}), "2": ("group", 1, {}),
        "3": ("state", 2, {"0": "old", "1": "new"}), "4": ("label", 3, {"0": "indoors", "1": "outdoors"}),
    }  # fmt: skip
    views = [[place] for place in range(1, len(files) + 1)] if views is None else views
    project = {
        "pid": "__VIA_PROJECT_ID__", "rev": "__VIA_PROJECT_REV_ID__", "pname": "cups", "data_format_version": "3.1.1",
        "creator": "VGG Image Annotator (http://www.robots.ox.ac.uk/~vgg/software/via)", "created": 1,
        "vid_list": [str(place) for place in range(1, len(views) + 1)],
    }  # fmt: skip
    content = {
        "project": project,
        "config": {"file": {"loc_prefix": {"1": "", "2": "", "3": "photos/", "4": ""}}, "ui": {}},
        "attribute": {
            key: {"aname": name, "anchor_id": "FILE1_Z0_XY1", "type": kind, "desc": "", "options": options}
            for key, (name, kind, options) in attributes.items()
        },
        "file": {str(place): {"fid": place, **file} for place, file in enumerate(files, 1)},
        "metadata": {f"{said['vid']}_x{place}": {"flg": 0, "z": [], **said} for place, said in enumerate(metadata)},
        "view": {str(place): {"fid_list": ids} for place, ids in enumerate(views, 1)},
    }
    return text(path, content)


def image_of(name: str, place: int = 1, address: str = "") -> dict:
    return {"fname": name, "type": 2, "loc": place, "src": address}


def test_via_3_shapes_and_options(tmp_path: Path) -> None:
    root = tmp_path / "via"
    for name in ("a 1.png", "photos/b.png", "c.png", "d.png"):
        picture(root / name)
    data = "data:image/png;base64," + base64.b64encode((root / "d.png").read_bytes()).decode()
    (root / "d.png").unlink()
    files = [
        image_of("a 1.png"), image_of("any", 3, "b.png"), image_of("https://w.org/c.png", 2, "https://w.org/c.png"),
        image_of("d.png", 4, data), image_of("gone.png"),
    ]  # fmt: skip
    metadata = [
        {"vid": "1", "xy": [2, 5, 6, 10, 20], "av": {"1": "0"}},
        {"vid": "1", "xy": [7, 0, 0, 8, 0, 8, 4, 0, 4], "av": {"1": "1"}},
        {"vid": "1", "xy": [3, 30.5, 20.25, 5], "av": {"1": "0", "3": "0,1"}},
        {"vid": "1", "xy": [4, 30, 20, 10, 5], "av": {"1": "1"}},
        {"vid": "2", "xy": [8, 12, 3, 30, 9, 20, 1, 14, 33], "av": {"1": "0"}},
        {"vid": "2", "xy": [9, 20, 10, 30, 20, 20, 30], "av": {"1": "1"}},
        {"vid": "3", "xy": [6, 1, 1, 2, 2], "av": {"1": "1"}},
        {"vid": "3", "xy": [9, 1, 1, 2, 2, 3, 3], "av": {"1": "1"}},
        {"vid": "3", "xy": [2, 1, 1, 9, 9], "av": {"1": "1"}, "flg": 1},
        {"vid": "3", "xy": [2, 1, 2, 3, 4], "av": {}},
        {"vid": "4", "xy": [2, 2, 2, 9, 9], "av": {"1": "0"}},
        {"vid": "6", "xy": [], "av": {"1": "0"}},
    ]
    path = via3(root / "via_project_28Nov2026.json", files, metadata, [[1], [2], ["3"], [4], [5], [1, 2]])
    converted = convert(path, tmp_path / "out", val=0.25)
    assert (converted.format, converted.task) == ("via", "detection")
    found = entries(converted, "instances")
    names = {name for name in found if name != "a 1.png"}
    assert names == {"photos/b.png", "c.png", "d.png"}
    cup, dish, circle, ellipse = found["a 1.png"]
    assert cup["bbox"] == [5, 6, 10, 20]
    assert (dish["bbox"], dish["area"]) == ([0, 0, 8, 4], 32)
    assert circle["bbox"] == pytest.approx([25.5, 15.25, 10, 10], abs=0.1)
    assert ellipse["bbox"] == pytest.approx([20, 15, 20, 10], abs=0.1)
    assert cup["category_id"] == circle["category_id"] != dish["category_id"] == ellipse["category_id"]
    box, round_one = found["photos/b.png"]
    assert box["bbox"] == [12, 1, 18, 32]  # about the four points
    assert round_one["bbox"] == pytest.approx([10, 10, 20, 20], abs=0.1)  # about 20, 20
    assert [entry["bbox"] for entry in found["c.png"] + found["d.png"]] == [[1, 2, 3, 4], [2, 2, 9, 9]]
    assert converted.left_out == {
        "images that were not found": 1, "regions of the kind polyline": 1, "regions of the kind circle": 1,
        "regions that are deleted": 1, "regions of views of no or several files": 1,
    }  # fmt: skip


def test_via_3_points_are_tied_by_their_group_and_files_have_classes(tmp_path: Path) -> None:
    names = ("a.png", "b.png", "c.png", "d.png")
    for name in names:
        picture(tmp_path / name)
    metadata = [
        {"vid": vid, "xy": [1, x, 7], "av": {"1": option, "2": group}}
        for vid in ("1", "2")
        for x, option, group in ((1, "0", "1"), (9, "1", "1"), (30, "0", "2"))
    ]
    metadata += [{"vid": str(i), "xy": [], "av": {"4": str(i % 2)}} for i in range(1, 5)]
    path = via3(tmp_path / "p.json", [image_of(name) for name in names], metadata)
    found = entries(convert(path, tmp_path / "out", val=0.5))
    assert [points(entry) for entry in found["b.png"]] == [[(1, 7, 2), (9, 7, 2)], [(30, 7, 2), (0, 0, 0)]]
    assert set(found) == {"a.png", "b.png"}
    classes = convert(path, tmp_path / "classes", task="classification", val=0.5)
    found = {file.relative_to(classes.folder).parts[1:] for file in classes.folder.rglob("*.png")}
    assert found == {(("indoors", "outdoors")[i % 2], name) for i, name in enumerate(names, 1)}


def test_via_3_regions_of_videos_are_on_the_frame_of_their_time(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "run.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 30, (64, 48))
    for i in range(20):
        writer.write(np.full((48, 64, 3), 10 * i, np.uint8))
    writer.release()
    times = [0, 0.033, 0.233, 0.25, 0.599]  # of 30 a second, cut off after three digits: 0, 1, 7, 7 and 17
    metadata = [{"vid": "1", "z": [t], "xy": [2, 1 + i, 2, 3, 4], "av": {"1": "0"}} for i, t in enumerate(times)]
    metadata += [{"vid": "1", "z": [0.1, 0.4], "xy": [], "av": {"1": "1"}}, {"vid": "1", "xy": [], "av": {"4": "0"}}]
    path = via3(tmp_path / "p.json", [{"fname": "run.avi", "type": 4, "loc": 1, "src": ""}], metadata)
    converted = convert(path, tmp_path / "out", val=0.25)
    found = entries(converted, "instances")
    lefts = {name: [entry["bbox"][0] for entry in things] for name, things in found.items()}
    assert lefts == {
        "run.avi/000000.png": [1], "run.avi/000001.png": [2], "run.avi/000007.png": [3, 4], "run.avi/000017.png": [5]
    }  # fmt: skip
    frames = {file.name: cv2.imread(str(file)).mean() for file in converted.folder.rglob("*.png")}
    assert frames == {f"{n:06d}.png": pytest.approx(10 * n, abs=3) for n in (0, 1, 7, 17)}
    assert converted.left_out == {"segments of time, and attributes of videos and sounds": 2}

"""The data doctor finds every seeded defect by id and file name, goes on after it, and is silent on clean data."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from datamodules import ADE20K, Cityscapes, CocoPose, DataError, FolderSegmentation, ImageFolder, MultiTaskDataModule
from datamodules.base import BaseDataModule
from datamodules.check import check, main
from datamodules.check.__main__ import load_data
from datamodules.check.report import ADVICE, show_findings
from datamodules.findings import Count, Finding, Note
from datamodules.images.looking import Seen
from datamodules.loading.text_files import ConfigError
from datamodules.sample import layouts, sample_coco

LAYOUTS = {
    "coco": lambda root: CocoPose(root, image_size=(64, 48), num_workers=0),
    "folder": lambda root: FolderSegmentation(root, class_names=["a", "b", "c"], image_size=(32, 48), num_workers=0),
    "cityscapes": lambda root: Cityscapes(root, num_workers=0),
    "ade20k": lambda root: ADE20K(root, num_workers=0),
    "classes": lambda root: ImageFolder(root, num_workers=0),
}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small clean data set in each layout."""
    base = tmp_path_factory.mktemp("check")
    coco = sample_coco(base / "coco", num_train=6, num_val=4)
    roots = {"coco": coco, "cityscapes": layouts.sample_cityscapes(base / "cityscapes", coco)}
    roots["ade20k"] = layouts.sample_ade20k(base / "ade20k", coco)
    roots |= {"folder": base / "folder", "classes": base / "classes"}
    rng = np.random.default_rng(0)
    write(roots["folder"] / "masks/odd.png", np.eye(9, dtype=np.uint8))
    for split in ("train", "val"):
        for name in ("0", "1", "2"):
            write(roots["folder"] / "images" / split / f"{name}.jpg", rng.integers(0, 256, (24, 32, 3), np.uint8))
            write(roots["folder"] / "masks" / split / f"{name}.png", rng.integers(0, 3, (24, 32), np.uint8))
            for label in ("cat", "dog"):
                write(roots["classes"] / split / label / f"{name}.png", rng.integers(0, 256, (20, 20, 3), np.uint8))
    return roots


@pytest.fixture(scope="module")
def known(roots: dict[str, Path]) -> dict[str, set[Finding]]:
    """What is found in these: ten rendered pictures do not have every class in both splits."""
    return {layout: set(findings(make(roots[layout]))) for layout, make in LAYOUTS.items()}


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


Seed = Callable[[Path], object]


def findings(data: BaseDataModule, **options: str) -> list[Finding]:
    return check(data, **options).findings


def gone(name: str) -> Seed:
    return lambda root: (root / name).unlink()


def cut(name: str) -> Seed:
    """As a broken download leaves it."""
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[: (root / name).stat().st_size // 2])


def copy(source: str, target: str) -> Seed:
    return lambda root: shutil.copy(root / source, root / target)


def paint(name: str, label: int) -> Seed:
    """One pixel of a mask with another id."""

    def seed(root: Path) -> None:
        ids = np.array(Image.open(root / name))
        ids[3, 5] = label
        write(root / name, ids)

    return seed


def edit(split: str, change: Callable[[dict], object]) -> Seed:
    """Another content of a COCO file."""

    def seed(root: Path) -> None:
        path = root / "annotations" / f"person_keypoints_{split}2017.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return seed


def annotation(index: int, **fields: object) -> Seed:
    return edit("train", lambda content: content["annotations"][index].update(fields))


def first_point(index: int, place: int, value: float) -> Seed:
    """Another x (place 0) or visibility (place 2) of the first labelled point of an annotation."""

    def change(content: dict) -> None:
        points = content["annotations"][index]["keypoints"]
        points[3 * next(k for k in range(17) if points[3 * k + 2] > 0) + place] = value

    return edit("train", change)


def image_of_another_size(root: Path) -> None:
    def change(content: dict) -> None:
        content["images"][0]["height"] += 40
        for entry in content["annotations"]:
            if entry["image_id"] == content["images"][0]["id"]:
                entry.pop("segmentation", None)  # whose run-length code states the size too

    edit("train", change)(root)


def encoded_anew(root: Path) -> None:
    with Image.open(root / "train2017/000000000005.jpg") as image:
        image.save(root / "val2017/000000000005.jpg", quality=70)
        entry = {"id": 5, "file_name": "000000000005.jpg", "height": image.height, "width": image.width}
    edit("val", lambda content: content["images"].append(entry))(root)


def repeated_image(content: dict) -> None:
    content["images"].append({**content["images"][1], "file_name": "000000000003.jpg"})


def repeated_file(content: dict) -> None:
    content["images"].append({**content["images"][1], "id": 777})


def repeated_annotation(content: dict) -> None:
    content["annotations"][1]["id"] = content["annotations"][0]["id"]


VAL = "person_keypoints_val2017.json"
RLE = {"size": [7, 9], "counts": [63]}
CITY_IMAGE = "leftImg8bit/{}/sample/sample_00000{}_000019_leftImg8bit.png"
CITY_MASK = "gtFine/{}/sample/sample_00000{}_000019_gtFine_labelIds.png"
ADE_MASK = "annotations/training/ADE_000000000003.png"
# Layout, kind of finding, split, words of item and finding ({n}: id of annotation n), and what makes the defect.
DEFECTS: list[tuple[str, str, str, str, Seed]] = [
    ("coco", "unreadable data", "val", VAL, cut(f"annotations/{VAL}")),
    ("coco", "repeated id", "train", "image 2 (000000000003.jpg)", edit("train", repeated_image)),
    ("coco", "repeated id", "train", "annotation {0} (", edit("train", repeated_annotation)),
    (
        "coco",
        "repeated id",
        "train",
        "category 1 (person)",
        edit("train", lambda c: c["categories"].append(dict(c["categories"][0]))),
    ),
    ("coco", "repeated file name", "train", "image 777 (000000000002.jpg)", edit("train", repeated_file)),
    ("coco", "unknown image", "train", "annotation {2} (image 999)", annotation(2, image_id=999)),
    ("coco", "unknown category", "train", "annotation {3} (", annotation(3, category_id=77)),
    ("coco", "box without area", "train", "annotation {4} (", annotation(4, bbox=[5, 5, 0, 0])),
    ("coco", "box outside of the image", "train", "annotation {5} (", annotation(5, bbox=[-40, 5, 90, 30])),
    ("coco", "malformed entry", "train", "annotation {6} (", annotation(6, bbox=[1, 2, None])),
    ("coco", "area absent or not positive", "train", "annotation {6} (", annotation(6, area=-3)),
    ("coco", "area absent or not positive", "train", "annotation {5} (", annotation(5, area=None)),
    ("coco", "visibility not 0, 1 or 2", "train", "annotation {0} (", first_point(0, 2, 3)),
    ("coco", "key point outside of the image", "train", "annotation {1} (", first_point(1, 0, 5000.0)),
    ("coco", "num_keypoints disagrees", "train", "annotation {2} (", annotation(2, num_keypoints=23)),
    ("coco", "wrong number of key points", "train", "annotation {3} (", annotation(3, keypoints=[1, 2, 2, 4])),
    ("coco", "wrong segmentation", "train", "annotation {4} (", annotation(4, segmentation=RLE)),
    ("coco", "wrong segmentation", "train", "annotation {5} (", annotation(5, segmentation=[[1, 2, 3, 4]])),
    (
        "coco",
        "categories disagree",
        "val",
        "key point",
        edit("val", lambda c: c["categories"][0]["keypoints"].reverse()),
    ),
    ("coco", "categories disagree", "val", "'human'", edit("val", lambda c: c["categories"][0].update(name="human"))),
    ("coco", "missing image", "val", "000000100002.jpg", gone("val2017/000000100002.jpg")),
    ("coco", "unreadable image", "train", "image 4 (train2017/000000000004.jpg)", cut("train2017/000000000004.jpg")),
    ("coco", "image of another size", "train", "image 1 (train2017/000000000001.jpg)", image_of_another_size),
    ("coco", "image in two splits", "val", "val2017/000000000005.jpg", encoded_anew),
    (
        "coco",
        "malformed entry",
        "train",
        "is oops, expected an object",
        edit("train", lambda c: c["annotations"].append("oops")),
    ),
    ("folder", "missing mask", "train", "masks/train/1", gone("masks/train/1.png")),
    ("folder", "mask without image", "val", "masks/val/2.png", gone("images/val/2.jpg")),
    ("folder", "mask of another size", "train", "masks/train/0.png", copy("masks/odd.png", "masks/train/0.png")),
    ("folder", "ambiguous name", "train", "images/train/0.png", copy("images/train/1.jpg", "images/train/0.png")),
    ("folder", "unknown label", "val", "masks/val/1.png", paint("masks/val/1.png", 9)),
    ("folder", "unreadable mask", "val", "masks/val/1.png", cut("masks/val/1.png")),
    ("folder", "unreadable image", "val", "images/val/0.jpg", cut("images/val/0.jpg")),
    ("cityscapes", "missing mask", "train", CITY_MASK.format("train", 2), gone(CITY_MASK.format("train", 2))),
    ("cityscapes", "mask without image", "val", CITY_MASK.format("val", 1), gone(CITY_IMAGE.format("val", 1))),
    ("ade20k", "unknown label", "train", ADE_MASK, paint(ADE_MASK, 200)),
    ("classes", "image in two splits", "val", "val/cat/9.png", copy("train/cat/1.png", "val/cat/9.png")),
    ("classes", "one image, two classes", "train", "train/dog/9.png", copy("train/cat/1.png", "train/dog/9.png")),
    ("classes", "class absent from a split", "val", "class dog", lambda root: shutil.rmtree(root / "val/dog")),
    ("classes", "unknown class folder", "val", "val/fox", lambda root: (root / "val/fox").mkdir()),
    ("classes", "file outside of the class folders", "train", "train/0.png", copy("train/cat/1.png", "train/0.png")),
    ("classes", "unreadable image", "train", "train/cat/2.png", cut("train/cat/2.png")),
]


def copied(root: Path, target: Path) -> Path:
    return Path(shutil.copytree(root, target))


@pytest.mark.parametrize(("layout", "kind", "split", "words", "seed"), DEFECTS)
def test_a_seeded_defect_is_found_by_its_name(
    tmp_path: Path,
    roots: dict[str, Path],
    known: dict[str, set[Finding]],
    layout: str,
    kind: str,
    split: str,
    words: str,
    seed: Seed,
) -> None:
    root = copied(roots[layout], tmp_path / "root")
    before = known[layout]
    assert {finding.kind for finding in before} <= {"class absent from a split"}
    if layout == "coco":
        people = json.loads((root / "annotations/person_keypoints_train2017.json").read_text())["annotations"]
        words = words.format(*(person["id"] for person in people))
    seed(root)
    new = [finding for finding in findings(LAYOUTS[layout](root)) if finding not in before]
    assert any(f.kind == kind and f.split == split and words in f"{f.item}: {f.found}" for f in new), new
    # A class that lost its only picture is reported too; nothing else is.
    assert {finding.kind for finding in new} - {"class absent from a split"} <= {kind}, new


def test_the_seeded_defects_are_many_and_have_advice() -> None:
    assert len({(layout, kind) for layout, kind, *_ in DEFECTS}) >= 25
    assert {kind for _, kind, *_ in DEFECTS} <= set(ADVICE)


@pytest.mark.parametrize("layout", ["coco", "folder", "cityscapes", "classes"])
def test_it_goes_on_after_the_first_defect(tmp_path: Path, roots: dict[str, Path], layout: str) -> None:
    root = copied(roots[layout], tmp_path / "root")
    # What would undo another one is left out: an unreadable file, a mask for the second time, the second categories.
    seeds = [row for row in DEFECTS if row[0] == layout and row[1] not in ("unreadable data", "unreadable mask")]
    for *_, seed in seeds:
        seed(root)
    assert {kind for _, kind, *_ in seeds} <= {finding.kind for finding in findings(LAYOUTS[layout](root))}


@pytest.mark.parametrize(
    "content",
    ["", "{", "null", "[]", "7", '{"images": 1}', '{"images": [], "annotations": [], "categories": []}', "[" * 99999,
     '{"images": [null, {}, {"id": []}, {"id": 1, "file_name": 5, "height": "a"}, {"id": 2, "file_name": "\\u0000"}],'
     ' "annotations": [null, {}, {"id": {}, "image_id": [], "category_id": {}, "bbox": "abcd", "keypoints": 5},'
     ' {"id": 1, "image_id": 1, "bbox": [1e999, NaN, -1, 1], "area": "x", "iscrowd": [], "segmentation": [[1]],'
     ' "num_keypoints": "2", "keypoints": {"a": 1}}], "categories": [[], {"id": 1, "keypoints": 3, "name": []}]}'],
)  # fmt: skip
def test_no_malformed_file_stops_it(tmp_path: Path, roots: dict[str, Path], content: str) -> None:
    root = copied(roots["coco"], tmp_path / "root")
    (root / "annotations/person_keypoints_val2017.json").write_text(content)
    assert any("person_keypoints_val2017.json" in f.item or f.split == "val" for f in findings(LAYOUTS["coco"](root)))


def test_pictures_of_one_name_need_not_be_one(tmp_path: Path, roots: dict[str, Path]) -> None:
    assert findings(LAYOUTS["folder"](roots["folder"])) == []  # train/0.jpg and val/0.jpg differ
    root = copied(roots["folder"], tmp_path / "root")
    copy("images/train/1.jpg", "images/val/0.jpg")(root)
    for images in ("full", "headers"):
        (finding,) = findings(LAYOUTS["folder"](root), images=images)
        assert (finding.kind, finding.item) == ("image in two splits", "images/val/0.jpg")
        assert "images/train/1.jpg in train" in finding.found
    assert findings(LAYOUTS["folder"](root), images="none") == []


def test_headers_show_sizes_without_decoding(tmp_path: Path, roots: dict[str, Path]) -> None:
    root = copied(roots["coco"], tmp_path / "root")
    image_of_another_size(root)
    cut("train2017/000000000004.jpg")(root)
    assert [f.kind for f in findings(LAYOUTS["coco"](root), images="headers")] == ["image of another size"]


def test_detected_boxes_are_checked_too(tmp_path: Path, roots: dict[str, Path]) -> None:
    root = copied(roots["coco"], tmp_path / "root")
    good = {"image_id": 100001, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5}
    bad = [{**good, "image_id": 4}, {**good, "bbox": [1, 2, 0, 3]}, {**good, "score": None}, 5]
    (root / "boxes.json").write_text(json.dumps([good, *bad]))
    found = findings(CocoPose(root, detections="boxes.json", num_workers=0))
    assert sorted(((f.kind, f.item) for f in found), key=lambda pair: pair[1]) == [
        ("unknown image", "detection 1 of boxes.json"),
        ("box without area", "detection 2 of boxes.json"),
        ("malformed entry", "detection 3 of boxes.json"),
        ("malformed entry", "detection 4 of boxes.json"),
    ]


def test_every_part_of_a_joint_run_is_checked(tmp_path: Path, roots: dict[str, Path]) -> None:
    root = copied(roots["folder"], tmp_path / "root")
    cut("images/val/0.jpg")(root)
    data = MultiTaskDataModule(
        {"pose": LAYOUTS["coco"](roots["coco"]), "parts": LAYOUTS["folder"](root), "more": "parts"}
    )
    (finding,) = findings(data)
    assert (finding.split, finding.item) == ("parts val", "images/val/0.jpg")


def test_a_data_set_says_of_one_split_what_is_wrong_with_it(tmp_path: Path, roots: dict[str, Path]) -> None:
    root = copied(roots["folder"], tmp_path / "root")
    gone("masks/train/1.png")(root)
    cut("images/val/0.jpg")(root)
    data = MultiTaskDataModule({"parts": LAYOUTS["folder"](root)})
    facts = list(data.findings("train"))
    assert {fact.split for fact in facts} == {"parts train"}
    (finding,) = [fact for fact in facts if isinstance(fact, Finding)]
    assert (finding.kind, finding.item) == ("missing mask", str(root / "masks/train/1"))
    seen = [fact for fact in data.findings("val") if isinstance(fact, Seen)]
    assert [(image.path.name, image.problem is None) for image in seen] == [
        ("0.jpg", False), ("1.jpg", True), ("2.jpg", True),
    ]  # fmt: skip
    assert seen[1].annotated == seen[1].size == (24, 32)


def test_a_mask_that_two_splits_lack_the_image_of_is_reported_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("0", "1", "2"):
        write(tmp_path / "masks" / f"{name}.png", rng.integers(0, 3, (8, 9), np.uint8))
    for split, name in (("train", "0"), ("val", "1")):
        write(tmp_path / "images" / split / f"{name}.png", rng.integers(0, 256, (8, 9, 3), np.uint8))
    data = FolderSegmentation(
        tmp_path, class_names=["a", "b", "c"], image_size=(8, 8), masks=dict.fromkeys(("train", "val"), "masks")
    )
    assert [(f.kind, f.split, f.item) for f in findings(data)] == [("mask without image", "train", "masks/2.png")]


def test_one_class_is_refused_once(tmp_path: Path, roots: dict[str, Path]) -> None:
    root = copied(roots["classes"], tmp_path / "root")
    for split in ("train", "val"):
        shutil.rmtree(root / split / "dog")
    (finding,) = findings(LAYOUTS["classes"](root))
    assert (finding.kind, finding.split) == ("refused by the loader", "train")
    assert "has 1 class folders, expected two or more" in finding.found


def test_a_class_that_nobody_has(roots: dict[str, Path]) -> None:
    data = FolderSegmentation(roots["folder"], class_names=["a", "b", "c", "d"], image_size=(32, 48), num_workers=0)
    (finding,) = findings(data)
    assert (finding.kind, finding.item) == ("class without samples", "class d")


def test_a_foreign_data_set_is_asked_itself(roots: dict[str, Path]) -> None:
    class Foreign(BaseDataModule):
        def dataset(self, split: str):
            dataset = LAYOUTS["classes"](self.root).dataset("val")
            if split == "train":
                dataset.files[3] = b"dog/gone.png"
            return dataset

    (finding,) = findings(Foreign(roots["classes"], image_size=(32, 32), num_workers=0))
    assert (finding.kind, finding.split, finding.item) == ("refused by the loader", "train", "sample 3")
    assert "dog/gone" in finding.found


def test_a_foreign_data_set_may_say_itself_what_is_wrong(roots: dict[str, Path], capsys) -> None:
    class Foreign(BaseDataModule):
        def dataset(self, split: str):
            return LAYOUTS["classes"](self.root).dataset(split)

        def findings(self, split: str, images: str = "full"):
            yield Count(split, None, Counter(scans=3))
            if split == "val":
                yield Finding("scan of another plane", split, f"{self.folder}/7.nii", "is sagittal, expected axial")
                yield Note(split, "made in 2019")

    report = check(MultiTaskDataModule({"organ": Foreign(roots["classes"], image_size=(32, 32), num_workers=0)}))
    show_findings(report, Console(highlight=False, width=200))
    text = capsys.readouterr().out
    assert "looked at: organ train 3 scans; organ val 3 scans" in text
    assert "organ val: made in 2019" in text
    assert "scan of another plane: 1\n  organ val  7.nii: is sagittal, expected axial" in text


@pytest.mark.parametrize(
    "experiment",
    [
        "pose_coco",
        "cls_imagenet",
        "cls_folder",
        "seg_folder",
        "seg_cityscapes",
        "seg_lip",
        "seg_ade20k",
        "seg_pascal_context",
    ],
)
def test_the_sample_data_are_clean(monkeypatch, request, capsys, experiment: str) -> None:
    monkeypatch.chdir(request.config.rootpath)
    assert main([f"{experiment}.yaml", "sample.yaml", "--images", "headers"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "clean: nothing to put right"


@pytest.mark.slow
@pytest.mark.parametrize(
    "experiment", ["multitask", "seg_folder", "cls_folder", "seg_lip", "seg_ade20k", "seg_pascal_context"]
)
def test_the_decoded_sample_data_are_clean(monkeypatch, request, experiment: str) -> None:
    monkeypatch.chdir(request.config.rootpath)
    assert main([f"{experiment}.yaml", "sample.yaml"]) == 0


def test_the_command_says_what_and_how_many(tmp_path: Path, roots: dict[str, Path], capsys) -> None:
    root = copied(roots["classes"], tmp_path / "root")
    for number in range(7):
        (root / f"train/cat/bad{number}.png").write_bytes(b"nothing")
    arguments = ["cls_folder.yaml", "--json", str(tmp_path / "doctor.json"), "--statistics", "--data.root", str(root)]
    assert main(arguments) == 1
    text = capsys.readouterr().out
    assert "looked at: train 13 images; val 6 images" in text
    assert "unreadable image: 7" in text
    assert ADVICE["unreadable image"] in text
    assert "train/cat/bad4.png" in text
    assert "train/cat/bad5.png" not in text
    assert "... and 2 more (--all)" in text
    stored = json.loads((tmp_path / "doctor.json").read_text())
    assert [finding["item"] for finding in stored["findings"]] == [f"train/cat/bad{n}.png" for n in range(7)]
    assert stored["statistics"]["images"] == {"train": {"cat": 10, "dog": 3}, "val": {"cat": 3, "dog": 3}}
    assert main([*arguments, "--all"]) == 1
    assert "train/cat/bad6.png" in capsys.readouterr().out


def test_the_json_is_there_though_nobody_reads_on(tmp_path: Path, roots: dict[str, Path], monkeypatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise SystemExit(1)  # what rich makes of a broken pipe

    monkeypatch.setattr("datamodules.check.__main__.show_findings", broken)
    with pytest.raises(SystemExit):
        main(["cls_folder.yaml", "--data.root", str(roots["classes"]), "--json", str(tmp_path / "doctor.json")])
    assert json.loads((tmp_path / "doctor.json").read_text())["clean"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pose_cocoo.yaml"], "did you mean pose_coco.yaml"),
        (["pose_coco.yaml", "--data.rooot", "x"], "CocoPose has no parameter 'rooot'"),
        (["pose_coco.yaml", "--data.root", "nowhere"], "found no folder nowhere"),
        (["debug.yaml"], "data"),
    ],
)
def test_misuse_ends_with_status_two(monkeypatch, capsys, arguments: list[str], words: str) -> None:
    from datamodules.check import command

    monkeypatch.setattr("sys.argv", ["check", *arguments])
    assert command() == 2
    assert words in capsys.readouterr().err


def test_a_missing_root_is_an_error_for_callers(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found no folder"):
        check(LAYOUTS["folder"](tmp_path / "nowhere"))


def test_real_data(shared_data: Path) -> None:
    assert findings(load_data(["pose_coco.yaml"], [f"--data.root={shared_data / 'coco_mini'}"]), images="headers") == []
    flags = ["annotations={train: annotations/instances_train.json, val: annotations/instances_val.json}"]
    flags += [f"root={shared_data / 'bccd'}", "images={train: train, val: val}"]
    found = findings(load_data(["pose_custom.yaml"], [f"--data.{flag}" for flag in flags]), images="none")
    boxes = [finding.item for finding in found if finding.kind == "box without area"]
    assert boxes == ["annotation 2288 (BloodImage_00343.jpg)", "annotation 887 (BloodImage_00338.jpg)"]


def test_a_flag_may_change_one_entry_of_a_table_of_ids() -> None:
    data = load_data(["seg_folder.yaml", "sample.yaml"], ["--data.id_map", "{3: 0, 11: 255}"])
    assert data.read_labels.table[[2, 3, 4, 11]].tolist() == [2, 0, 4, 255]


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("class_names=[yes, no, other]", "put quotes around yes, no, on, off"),
        ("class_names=[a, b, off]", "put quotes around yes, no, on, off"),
        ("class_names=[1, 2, 3]", "stands in quotes: '1'"),
        ("label_flip_pairs=[[a, on]]", "put quotes around yes, no, on, off"),
    ],
)
def test_words_that_yaml_takes_for_something_else_want_quotes(flag: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        load_data(["seg_folder.yaml", "sample.yaml"], [f"--data.{flag}"])
    assert f"data.{flag.partition('=')[0]}" in str(error.value)

"""Which values of COCO JSON are taken: the loader and the data doctor agree, and all else in a file is a sentence.

The last tests change random places of a good file into random values, a few hundred times.
"""

import copy
import json
import math
import random
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules import CocoPose, DataError
from datamodules.check import check
from datamodules.keypoints.coco_file import read_annotations
from datamodules.keypoints.detections import read_detections
from datamodules.keypoints.table import PersonTable
from datamodules.sample import sample_coco
from datamodules.skeleton import Skeleton
from tasks.metrics.coco_keypoints import CocoKeypoints

ANNOTATIONS = "annotations/person_keypoints_val2017.json"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_coco(tmp_path_factory.mktemp("values") / "coco", num_train=3, num_val=3)


@pytest.fixture
def root(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "coco"))


def content_of(root: Path) -> dict[str, Any]:
    return json.loads((root / ANNOTATIONS).read_text())


def write(root: Path, content: Any) -> CocoPose:
    (root / ANNOTATIONS).write_text(content if isinstance(content, str) else json.dumps(content))
    return CocoPose(root, image_size=(64, 48), num_workers=0)


def findings(data: CocoPose) -> list:
    return [finding for finding in check(data, images="headers").findings if finding.split == "val"]


def labelled(content: dict[str, Any]) -> dict[str, Any]:
    return next(a for a in content["annotations"] if a["num_keypoints"] > 3 and not a["iscrowd"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda names: names.__setitem__(1, "antenna"), 1),  # once for all categories
        (lambda names: names.pop(), 0),  # as many as the annotations have, which are told of otherwise
        (lambda names: names.__setitem__(slice(None), [name.upper() for name in names]), 0),
    ],
)
def test_other_names_of_key_points_are_told_once(change, said: int, root: Path) -> None:
    content = content_of(root)
    change(content["categories"][0]["keypoints"])
    content["categories"].append({**content["categories"][0], "id": 7, "name": "bee"})
    (root / ANNOTATIONS).write_text(json.dumps(content))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_annotations(root / ANNOTATIONS, Skeleton.load("coco")).accepted()
    assert len([w for w in caught if "unless these mean the same" in str(w.message)]) == said


# ---- values that are taken


def as_text(entry: dict[str, Any], key: str) -> None:
    value = entry[key]
    entry[key] = [str(v) for v in value] if isinstance(value, list) else str(value)


def as_float(entry: dict[str, Any], key: str) -> None:
    value = entry[key]
    entry[key] = [float(v) for v in value] if isinstance(value, list) else float(value)


@pytest.mark.parametrize("written", [as_text, as_float])
@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("images", "id"),
        ("images", "height"),
        ("images", "width"),
        *(("annotations", key) for key in ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "keypoints")),
        ("annotations", "num_keypoints"),
        ("categories", "id"),
    ],
)
def test_numbers_as_text_and_as_floats_are_numbers(root: Path, written: Any, part: str, key: str) -> None:
    expected = read_annotations(root / ANNOTATIONS, Skeleton.load("coco")).accepted()
    before = findings(CocoPose(root, image_size=(64, 48), num_workers=0))
    content = content_of(root)
    for entry in content[part]:
        written(entry, key)
    data = write(root, content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_annotations(root / ANNOTATIONS, data.skeleton).accepted()
    for name in ("images", "boxes", "keypoints", "visible", "num_labelled", "areas", "crowd", "image_sizes"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert findings(data) == before


@pytest.mark.parametrize("true", [True, "1", 1.0, " 1 ", "1.0"])
def test_true_is_visibility_one(root: Path, true: Any) -> None:
    before = findings(CocoPose(root, image_size=(64, 48), num_workers=0))
    content = content_of(root)
    for annotation in content["annotations"]:
        flat = annotation["keypoints"]
        flat[2::3] = [true if v else [0, False, "0"][k % 3] for k, v in enumerate(flat[2::3])]
    data = write(root, content)
    assert findings(data) == before
    visible = data.split("val").visible
    assert set(np.unique(visible)) == {0, 1}


@pytest.mark.parametrize("absent", [None, "gone"])
@pytest.mark.parametrize("key", ["iscrowd", "num_keypoints"])
def test_null_is_absent(root: Path, absent: str | None, key: str) -> None:
    before = findings(CocoPose(root, image_size=(64, 48), num_workers=0))
    content = content_of(root)
    for annotation in content["annotations"]:
        if annotation["iscrowd"]:
            continue
        if absent is None:
            annotation[key] = None
        else:
            del annotation[key]
    data = write(root, content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.split("val")
    assert findings(data) == before


@pytest.mark.parametrize("area", [0, 0.0, -3, "0", None, False])
def test_an_area_of_zero_is_an_absent_one(root: Path, area: Any) -> None:
    content = content_of(root)
    for annotation in content["annotations"]:
        annotation["area"] = area
    data = write(root, content)
    with pytest.warns(
        UserWarning, match=r"have no `area` above 0, which OKS needs; replaced by the box's area x 0\.53"
    ):
        assert len(data.split("val")) > 3
    for a, b in zip(data.ground_truth("val")["annotations"], content["annotations"], strict=True):
        assert a["area"] == pytest.approx(0.53 * b["bbox"][2] * b["bbox"][3])
    assert {finding.kind for finding in findings(data)} >= {"area absent or not positive"}


def test_files_without_labels_are_taken_by_both(root: Path, plain: Path) -> None:
    content = content_of(root)
    write(root, {"images": content["images"]})
    rows = [{"image_id": a["image_id"], "bbox": a["bbox"], "score": 0.5} for a in content["annotations"]]
    read = read_annotations(root / ANNOTATIONS, Skeleton.load("coco")).accepted()
    (root / "boxes.json").write_text(json.dumps(rows))
    assert len(read_detections(root / "boxes.json", read).rows) == len(rows)
    assert "unreadable data" not in {finding.kind for finding in findings(write(root, {"images": content["images"]}))}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_every_unicode_encoding_of_json_is_read(root: Path, encoding: str) -> None:
    text = (root / ANNOTATIONS).read_text()
    before = findings(CocoPose(root, image_size=(64, 48), num_workers=0))
    (root / ANNOTATIONS).write_bytes(text.encode(encoding))
    assert findings(CocoPose(root, image_size=(64, 48), num_workers=0)) == before


# ---- values that are refused


@pytest.mark.parametrize("where", ["annotations", "detections"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": "\xe9"}'.encode("cp1252"), r"byte 12 is no UTF-8; save the file as UTF-8"),
        (b"[" * 100_000, "nested"),
        (b'{"a":' * 100_000, "nested"),
        (b'[{"image_id": ' + b"9" * 5000 + b"}]", "is not COCO JSON"),
        (b"", "is not COCO JSON"),
        (b"\x00\x01\x02", "is not COCO JSON"),
        (b"{'images': []}", "is not COCO JSON"),
    ],
)  # fmt: skip
def test_what_is_no_json_is_one_sentence(root: Path, where: str, content: bytes, message: str) -> None:
    name = ANNOTATIONS if where == "annotations" else "boxes.json"
    (root / name).write_bytes(content)
    options = {} if where == "annotations" else {"detections": name}
    with pytest.raises(DataError, match=message) as error:
        CocoPose(root, image_size=(64, 48), num_workers=0, **options).split("val")
    assert name in str(error.value)
    assert "\n" not in str(error.value)
    found = findings(CocoPose(root, image_size=(64, 48), num_workers=0, **options))
    assert any(finding.kind == "unreadable data" and name in finding.found for finding in found)


BAD: list[tuple[str, Any, str]] = [
    ("category_id", [1], "`category_id` is no number or text"),
    ("category_id", {}, "`category_id` is no number or text"),
    ("category_id", True, "`category_id` is no number or text"),
    ("image_id", [1], "`image_id` is no number or text"),
    ("image_id", 2**64, "name an image_id that `images` does not have"),
    ("image_id", 10**400, "name an image_id that `images` does not have"),
    ("image_id", None, "name an image_id that `images` does not have"),
    ("keypoints", 17, r"have \[0\] numbers in `keypoints`"),
    ("keypoints", "17", r"have \[0\] numbers in `keypoints`"),
    ("keypoints", {"nose": [1, 2, 2]}, r"have \[0\] numbers in `keypoints`"),
    ("keypoints", [[1, 2, 2]] * 17, r"have \[17\] numbers in `keypoints`"),
    ("keypoints", [[1, 2, 2]] * 51, "something else than numbers in `keypoints`"),
    ("keypoints", [10**400, 5, 2] * 17, "key points that are not finite"),
    ("keypoints", [2**64, 5, 2] * 17, "key points that are not finite"),
    ("keypoints", [5, 5, 2**64] * 17, "a visibility that is not finite"),
    ("keypoints", [5, 5, None] * 17, "a visibility that is not finite"),
    ("keypoints", [5, 5, "seen"] * 17, "something else than numbers in `keypoints`"),
    ("bbox", 10**400, r"have \[0\] numbers in `bbox`"),
    ("bbox", [10**400, 0, 1, 1], "a `bbox` that is not finite"),
    ("bbox", [2**64, 0, 1, 1], "a `bbox` that is not finite"),
    ("bbox", [0, 0, None, 1], "a `bbox` that is not finite"),
    ("bbox", [[0], [0], [5], [5]], "something else than numbers in `bbox`"),
    ("bbox", {"x": 1}, r"have \[0\] numbers in `bbox`"),
    ("area", 10**400, "an `area` that is not finite"),
    ("area", 1e16, "an `area` that is not finite"),
    ("area", [5], "`area` is no number"),
    ("iscrowd", [], "`iscrowd` is no number"),
    ("iscrowd", 2, "have another `iscrowd`"),
    ("iscrowd", 10**400, "have another `iscrowd`"),
    ("num_keypoints", 10**400, "a `num_keypoints` that is not finite"),
    ("num_keypoints", {}, "`num_keypoints` is no number"),
]


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize(("key", "value", "message"), BAD)
def test_a_value_that_cannot_be_is_one_sentence_and_a_finding(
    root: Path, key: str, value: Any, message: str, every: bool
) -> None:
    content = content_of(root)
    chosen = content["annotations"] if every else [labelled(content)]
    ids = [annotation["id"] for annotation in chosen]
    for annotation in chosen:
        annotation[key] = value
    data = write(root, content)
    with pytest.raises(DataError, match=message) as error:
        data.split("val")
    said = str(error.value)
    assert ANNOTATIONS in said
    assert "\n" not in said
    assert len(said) < 700
    assert str(ids[0]) in said
    found = findings(data)
    assert {f.kind for f in found} - {"refused by the loader", "class absent from a split", "no usable sample"}
    assert any(str(ids[0]) in finding.item for finding in found)


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("images", "height", 2**64, "a height or width below 1|not finite"),
        ("images", "height", 0, "a height or width below 1"),
        ("images", "width", None, "a height or width below 1"),
        ("images", "width", [5], "`width` is no number"),
        ("images", "width", 10**400, "a height or width below 1|not finite"),
        ("categories", "keypoints", 17, "has the `keypoints` 17; expected a list"),
        ("categories", "keypoints", {"nose": 1}, "has the `keypoints` .*; expected a list"),
        ("categories", "id", [1], "`id` is no number or text in 1 category"),
    ],
)
def test_images_and_categories_likewise(root: Path, part: str, key: str, value: Any, message: str) -> None:
    content = content_of(root)
    content[part][0][key] = value
    data = write(root, content)
    with pytest.raises(DataError, match=message):
        data.split("val")
    assert "malformed entry" in {finding.kind for finding in findings(data)}


def test_an_unknown_category_is_said_by_both(root: Path) -> None:
    content = content_of(root)
    left_out = labelled(content)
    left_out["category_id"] = 77
    data = write(root, content)
    with pytest.warns(
        UserWarning, match=rf"1 annotation \(id {left_out['id']}\) name a category that `categories` lacks"
    ):
        assert left_out["id"] not in data.split("val").instance_ids
    assert "unknown category" in {finding.kind for finding in findings(data)}


def test_annotations_of_other_categories_do_no_harm_and_are_examined(root: Path) -> None:
    content = content_of(root)
    images = len(write(root, content).split("val"))
    other = {**labelled(content), "category_id": 18, "id": 990, "image_id": 999, "bbox": [5, 5, 0, 0], "area": "x"}
    content["categories"].append({"id": 18, "name": "dog"})
    content["annotations"] += [other, {**other, "id": 991, "area": 5.0}]
    data = write(root, content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(data.split("val")) == images
    found = {(f.kind, f.item) for f in findings(data) if "99" in f.item}
    assert found == {
        ("unknown image", "annotation 990 (image 999)"),
        ("unknown image", "annotation 991 (image 999)"),
        ("malformed entry", "annotation 990 (image 999)"),
        ("box without area", "annotation 991 (no image)"),
    }


# ---- random changes

VALUES = [
    None, True, False, -1, 0, 1, 2, 1.5, -0.5, 2**31, 2**53 + 1, 2**63, 2**64, 10**400, -(2**63) - 1, 1e16, 1e300,
    math.nan, math.inf, -math.inf, "", "1", "1.5", "a", "\ud800", "\0", "a\0b/c", "..", "x" * 1000, "nan", " 7 ",
    "true", [], [[]], [1], [None], [[[[1]]]], [1, 2, 3, 4], ["1", "2", "3", "4"], {}, {"a": 1}, {"size": [1, 2]},
]  # fmt: skip


def places(node: Any, prefix: tuple = ()) -> Iterator[tuple]:
    for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        yield (*prefix, key)
        yield from places(node[key], (*prefix, key))


def mutated(good: Any, rng: random.Random) -> tuple[Any, list]:
    """A copy with one to three places gone or replaced, and what was done."""
    content, done = copy.deepcopy(good), []
    everywhere = list(places(good))
    shallow = [place for place in everywhere if len(place) <= 3]
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        *way, last = rng.choice(shallow if rng.random() < 0.7 else everywhere)
        node = content
        try:
            for key in way:
                node = node[key]
            if rng.random() < 0.15:
                del node[last]
                done.append((way, last))
            else:
                node[last] = rng.choice(VALUES)
                done.append((way, last, node[last]))
        except (KeyError, IndexError, TypeError):  # an earlier change took this place away
            continue
    return content, done


def loaded(data: CocoPose) -> tuple[str, list[str]]:
    """What the loader refuses the data for, and what it warns of; any other exception goes through."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            dataset = data.split("val")
            assert all(dataset[i]["visible"].shape == (17,) for i in (0, len(dataset) - 1))
            CocoKeypoints(data.ground_truth("val"), data.skeleton.sigmas, data.skeleton.names)
        except DataError as error:
            return str(error), []
    return "", [str(warning.message) for warning in caught]


@pytest.mark.parametrize("seed", range(4))
def test_a_file_with_random_changes_is_read_or_refused_and_the_doctor_agrees(root: Path, seed: int) -> None:
    rng, good = random.Random(seed), content_of(root)
    for annotation in good["annotations"]:
        annotation.pop("segmentation", None)  # which the loader does not look at
    before = set(findings(write(root, good)))
    outcomes = {"refused": 0, "warned": 0, "clean": 0}
    for _ in range(60):
        content, done = mutated(good, rng)
        refused, warned = loaded(write(root, content))
        found = set(findings(write(root, content))) - before
        named = {f for f in found if f.kind not in ("refused by the loader", "class absent from a split")}
        assert named or not (refused or warned), (done, refused, warned)
        for text in (refused, *(f"{finding.item}: {finding.found}" for finding in found)):
            assert text.isprintable() or "\n" not in text.split("Expected below")[0], (done, text)
            text.encode()  # a terminal has to show it
            assert len(text) < 1500, done
        outcomes["refused" if refused else "warned" if warned else "clean"] += 1
    assert min(outcomes.values()) > 0, outcomes


@pytest.mark.parametrize("seed", range(2))
def test_detections_with_random_changes_likewise(root: Path, seed: int) -> None:
    rng, content = random.Random(seed), content_of(root)
    good = [
        {"image_id": a["image_id"], "category_id": 1, "bbox": a["bbox"], "score": 0.5} for a in content["annotations"]
    ]
    data = CocoPose(root, image_size=(64, 48), num_workers=0, detections="boxes.json")
    annotations = read_annotations(root / ANNOTATIONS, data.skeleton).accepted()
    (root / "boxes.json").write_text(json.dumps(good))
    before = set(findings(data))
    refused = 0
    for _ in range(60):
        rows, done = mutated(good, rng)
        (root / "boxes.json").write_text(json.dumps(rows))
        for known in (annotations, None):
            said = refusal_of(root / "boxes.json", known)
            refused += said != ""
            assert said == "" or ("boxes.json" in said and set(findings(data)) - before), (done, said)
    assert 30 < refused < 120


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (1.0001, "beyond 0 to 1"),
        (-0.1, "beyond 0 to 1"),
        (97, "beyond 0 to 1"),
        (math.inf, "not finite"),
        (math.nan, "not finite"),
        (10**400, "not finite"),
        ("high", "`score` is no number"),
        ("0.5", ""),
        (1, ""),
        (0, ""),
        (True, ""),
    ],
)
def test_scores_of_a_detector_are_from_0_to_1(root: Path, score: Any, message: str) -> None:
    good = [
        {"image_id": a["image_id"], "category_id": 1, "bbox": a["bbox"], "score": 0.5}
        for a in content_of(root)["annotations"]
    ]
    good[2]["score"] = score
    (root / "boxes.json").write_text(json.dumps(good))
    said = refusal_of(root / "boxes.json", None)
    assert message in said
    assert bool(message) == bool(said)
    assert not said or ("boxes.json: " in said and "(id 2)" in said)
    if not said:
        assert read_detections(root / "boxes.json", None).scores[2] == float(score)


def refusal_of(path: Path, known: PersonTable | None) -> str:
    """What detections are refused for; any other exception goes through."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read_detections(path, known)
        except DataError as error:
            return str(error)
    return ""

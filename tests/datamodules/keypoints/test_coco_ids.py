"""Ids of COCO files of any kind: batches carry 64-bit numbers, and whatever is shown or written has the file's own."""

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from datamodules import CocoPose, DataError
from datamodules.check import check
from datamodules.keypoints.coco_file import read_annotations
from datamodules.keypoints.detections import read_detections
from datamodules.sample import sample_coco
from datamodules.skeleton import Skeleton
from experiments.errors.pose_errors import PoseErrors
from experiments.predict.boxes import CocoBoxes
from experiments.predict.media import Photo
from hrnet import HRNet
from tasks import PoseTask
from tasks.metrics.coco_keypoints import CocoKeypoints

Rename = Callable[[int], Any]
KINDS: dict[str, Rename] = {
    "as they are": lambda i: i,
    "hashes beyond int64": lambda i: 2**63 + 977 * i,
    "neighbours beyond 2**53": lambda i: 2**53 + i,
    "neighbours beyond 2**63": lambda i: 2**64 + i,
    "negative": lambda i: -i - 2**63 + 10**9,
    "below int64": lambda i: -(2**70) - i,
    "floats": float,
    "text": lambda i: f"{i:x}-frame",
    "numbers as text": str,
    "some text": lambda i: i if i % 2 else f"image {i}",
    "thirty digits": lambda i: 10**30 + i,
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_coco(tmp_path_factory.mktemp("ids") / "coco", num_train=4, num_val=6)


def renamed(root: Path, target: Path, image: Rename, annotation: Rename) -> CocoPose:
    """The data set with other ids."""
    shutil.copytree(root, target)
    for path in (target / "annotations").glob("person_keypoints_*.json"):
        content = json.loads(path.read_text())
        for entry in content["images"]:
            entry["id"] = image(entry["id"])
        for entry in content["annotations"]:
            entry |= {"id": annotation(entry["id"]), "image_id": image(entry["image_id"])}
        path.write_text(json.dumps(content))
    return open_data(target)


def open_data(root: Path, **options: Any) -> CocoPose:
    return CocoPose(root, image_size=(64, 48), batch_size=4, num_workers=0, **options)


def content_of(data: CocoPose) -> dict[str, Any]:
    return json.loads((data.folder / data.annotations["val"]).read_text())


def evaluated(data: CocoPose) -> CocoKeypoints:
    """A metric that was shown poses beside the truth, those of the same persons whatever the ids are."""
    metric = CocoKeypoints(data.ground_truth("val"), data.skeleton.sigmas, data.skeleton.names)
    rng = np.random.default_rng(0)
    for batch in data.val_dataloader():
        assert batch["image_id"].dtype == batch["instance_id"].dtype == torch.int64
        matrix = batch["to_image"]
        truth = batch["keypoints"] @ matrix[:, :, :2].mT + matrix[:, None, :, 2]
        noise = torch.as_tensor(rng.normal(0, 2, tuple(truth.shape)), dtype=torch.float32)
        scores = torch.as_tensor(rng.uniform(0.3, 1, tuple(truth.shape[:2])), dtype=torch.float32)
        ids = batch["image_id"], batch["instance_id"]
        metric.update(*ids, truth + noise, scores, batch["score"], batch["area"])
    return metric


def pycocotools_ap(truth: dict[str, Any], results: list[dict[str, Any]]) -> float:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kind_of_annotations", ["as they are", "hashes beyond int64", "text"])
def test_results_have_the_ids_of_the_file_and_figures_do_not_know_them(
    plain: Path, tmp_path: Path, kind: str, kind_of_annotations: str
) -> None:
    rename = KINDS[kind]
    expected = evaluated(open_data(plain))
    data = renamed(plain, tmp_path / "coco", rename, KINDS[kind_of_annotations])
    metric = evaluated(data)
    figures = metric.compute()
    assert figures == pytest.approx(expected.compute())
    assert 0.1 < figures["AP"] < 0.99
    assert metric.per_keypoint() == expected.per_keypoint()
    found = {str(r["image_id"]): r for r in json.loads(metric.save(tmp_path / "results.json").read_text())}
    assert found.keys() == {str(rename(r["image_id"])) for r in expected.results()}
    known = {type(image["id"]) for image in content_of(data)["images"]}
    assert {type(r["image_id"]) for r in metric.results()} <= known
    by_score = {r["score"]: rename(r["image_id"]) for r in expected.results()}
    assert {r["score"]: r["image_id"] for r in metric.results()} == by_score
    # The written file and the ground truth fit together for COCO's own tool, which sorts the ids.
    if len({isinstance(image["id"], str) for image in content_of(data)["images"]}) == 1:
        assert pycocotools_ap(data.ground_truth("val"), metric.results()) == pytest.approx(figures["AP"], abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_doctor_and_the_loader_take_the_same_ids(plain: Path, tmp_path: Path, kind: str) -> None:
    before = set(check(open_data(plain)).findings)
    data = renamed(plain, tmp_path / "coco", KINDS[kind], KINDS[kind])
    assert {(f.kind, f.found) for f in check(data).findings} == {(f.kind, f.found) for f in before}
    assert len(data.split("val")) == len(open_data(plain).split("val"))


def test_ids_that_fit_are_what_batches_carry(plain: Path, tmp_path: Path) -> None:
    data = renamed(plain, tmp_path / "coco", lambda i: 2**62 + i, lambda i: float(i))
    expected = {a["id"]: 2**62 + a["image_id"] for a in content_of(open_data(plain))["annotations"]}
    for batch in data.val_dataloader():
        assert [expected[i] for i in batch["instance_id"].tolist()] == batch["image_id"].tolist()


def test_an_id_is_the_same_however_a_reference_writes_it(plain: Path, tmp_path: Path) -> None:
    data = renamed(plain, tmp_path / "coco", lambda i: i, lambda i: i)
    path = data.folder / data.annotations["val"]
    content = content_of(data)
    for number, entry in enumerate(content["annotations"]):
        entry["image_id"] = [str, float, int][number % 3](entry["image_id"])
        entry["category_id"] = ["1", 1.0, 1][number % 3]
    path.write_text(json.dumps(content))
    assert [len(open_data(root).split("val")) for root in (plain, data.folder)] == [len(data.split("val"))] * 2
    known = {image["id"] for image in content["images"]}
    assert {a["image_id"] for a in data.ground_truth("val")["annotations"]} <= known
    assert check(data).findings == check(open_data(plain)).findings


@pytest.mark.parametrize("kind", ["as they are", "hashes beyond int64", "text", "numbers as text", "floats"])
def test_detections_name_images_by_the_same_ids(plain: Path, tmp_path: Path, kind: str) -> None:
    data = renamed(plain, tmp_path / "coco", KINDS[kind], KINDS["text"])
    rows = [
        {"image_id": a["image_id"], "category_id": 1, "bbox": a["bbox"], "score": 0.9 - 0.01 * n}
        for n, a in enumerate(content_of(data)["annotations"])
    ][::-1]
    (data.folder / "boxes.json").write_text(json.dumps(rows))
    dataset = open_data(data.folder, detections="boxes.json").split("val")
    numbers = read_annotations(data.folder / data.annotations["val"], data.skeleton).accepted()
    of_number = dict(zip(numbers.image_numbers.tolist(), numbers.image_ids, strict=True))
    assert len(dataset) == len(rows)
    for sample in (dataset[i] for i in range(len(dataset))):
        row = rows[sample["instance_id"]]
        assert of_number[int(sample["image_id"])] == row["image_id"]
        assert sample["score"] == pytest.approx(row["score"])
    (data.folder / "other.json").write_text(json.dumps([{**rows[0], "image_id": "nowhere"}]))
    with pytest.raises(DataError, match=r"1 detection \(id 0\) name images"):
        open_data(data.folder, detections="other.json").split("val")


@pytest.mark.parametrize("kind", ["as they are", "hashes beyond int64", "text", "numbers as text"])
def test_boxes_for_prediction_are_found_and_keep_the_id(plain: Path, tmp_path: Path, kind: str) -> None:
    rename = KINDS[kind]
    data = renamed(plain, tmp_path / "coco", rename, KINDS["text"])
    path, content = data.folder / data.annotations["val"], content_of(data)
    image = content["images"][2]
    photo = Photo(np.zeros((4, 4, 3), np.uint8), data.folder / "val2017" / image["file_name"])
    annotated = CocoBoxes(path, data.skeleton)(photo)
    assert annotated.image_id == image["id"]
    expected = CocoBoxes(plain / "annotations" / path.name, data.skeleton)(photo)
    np.testing.assert_array_equal(annotated.corners, expected.corners)
    assert len(expected.corners)
    rows = [{"image_id": a["image_id"], "bbox": a["bbox"], "score": 0.5} for a in content["annotations"]]
    (tmp_path / "boxes.json").write_text(json.dumps(rows))
    mine = [row for row in rows if row["image_id"] == image["id"]]
    found = CocoBoxes(tmp_path / "boxes.json", data.skeleton, annotations=path)(photo)
    assert (found.image_id, len(found.corners)) == (image["id"], len(mine))
    # Without annotations the name of the file is the id.
    named = Photo(photo.image, tmp_path / f"{image['id']}.jpg")
    alone = CocoBoxes(tmp_path / "boxes.json", data.skeleton)(named)
    assert (alone.image_id, len(alone.corners)) == (image["id"], len(mine))


@pytest.mark.parametrize("kind", ["hashes beyond int64", "text", "from zero", "as they are"])
def test_tables_of_persons_show_the_ids_of_the_file(plain: Path, tmp_path: Path, kind: str) -> None:
    first = min(a["id"] for a in content_of(open_data(plain))["annotations"])
    rename = KINDS.get(kind, lambda i: i - first)
    data = renamed(plain, tmp_path / "coco", rename if kind != "from zero" else lambda i: i, rename)
    images = {a["id"]: a["image_id"] for a in content_of(data)["annotations"]}
    task = PoseTask(HRNet("w18_small_v1", multi_scale_output=False))
    task.attach(data)
    shown = []
    for batch in data.val_dataloader():
        matrix = batch["to_image"]
        truth = batch["keypoints"] @ matrix[:, :, :2].mT + matrix[:, None, :, 2]
        moved = truth + 3.0
        columns = task.scores({"keypoints": moved, "scores": torch.ones(moved.shape[:2])}, batch)
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*map(list, columns.values()), strict=True)]
        shown += [(row.get("annotation", row["sample"]), row["image_id"], row["score"]) for row in rows]
    assert len({str(annotation) for annotation, *_ in shown}) == len(shown) == len(data.split("val"))
    written = {str(annotation): str(image) for annotation, image in images.items()}
    assert all(written[str(annotation)] == str(image) for annotation, image, _ in shown)
    # Each person's own area counts: OKS by its formula.
    by_id = {str(a["id"]): a for a in content_of(data)["annotations"]}
    sigmas = np.array(data.skeleton.sigmas)
    for annotation, _, score in shown:
        entry = by_id[str(annotation)]
        labelled = np.array(entry["keypoints"][2::3]) > 0
        expected = np.exp(-18 / (8 * sigmas**2 * entry["area"]))[labelled].mean()
        assert score == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("kind", ["hashes beyond int64", "text", "floats", "neighbours beyond 2**53"])
def test_error_analysis_reads_results_and_shows_the_ids_of_the_file(plain: Path, tmp_path: Path, kind: str) -> None:
    rename = KINDS[kind]
    data = renamed(plain, tmp_path / "coco", rename, rename)
    found, expected = (
        PoseErrors(d.ground_truth("val"), evaluated(d).results(), d.skeleton.to_dict())
        for d in (data, open_data(plain))
    )
    assert [row["AP"] for row in found.totals()] == pytest.approx([row["AP"] for row in expected.totals()])
    for rows, plain_rows in ((found.persons(), expected.persons()), (found.background(), expected.background())):
        ids = [(row["image_id"], row["annotation"]) for row in rows]
        assert ids == [
            (rename(row["image_id"]), row["annotation"] if row["annotation"] == "" else rename(row["annotation"]))
            for row in plain_rows
        ]
    with pytest.raises(ValueError, match="not in the ground truth, the first has id elsewhere"):
        PoseErrors(data.ground_truth("val"), [{"image_id": "elsewhere", "keypoints": [0] * 51, "score": 1}],
                   data.skeleton.to_dict())  # fmt: skip


def test_a_ground_truth_whose_ids_no_batch_can_carry_says_what_to_do() -> None:
    truth = {"images": [{"id": 2**64}], "annotations": [], "categories": [{"id": 1}]}
    with pytest.raises(ValueError, match=r"id 18446744073709551616, which batches cannot carry.*`number`"):
        CocoKeypoints(truth, [0.1], ["nose"])


@pytest.mark.parametrize("bad", [True, 1.5, None, [7], {}, "", "  ", float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["images", "annotations"])
def test_what_is_no_id_is_refused_by_both(plain: Path, tmp_path: Path, bad: Any, where: str) -> None:
    data = renamed(plain, tmp_path / "coco", lambda i: i, lambda i: i)
    content = content_of(data)
    content[where][1]["id"] = bad
    if where == "images":
        used = content_of(open_data(plain))["images"][1]["id"]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != used]
    (data.folder / data.annotations["val"]).write_text(json.dumps(content))
    with pytest.raises(DataError, match="`id` is no number or text"):
        data.split("val")
    assert ("malformed entry", "val") in {(f.kind, f.split) for f in check(data).findings}


@pytest.mark.parametrize(
    ("first", "second"), [(7, "7"), (7, 7.0), ("ab", " ab "), (2**64, str(2**64)), (2.0**60, 2**60)]
)
def test_two_spellings_of_one_id_repeat_it(plain: Path, tmp_path: Path, first: Any, second: Any) -> None:
    data = renamed(plain, tmp_path / "coco", lambda i: i, lambda i: i)
    content = content_of(data)
    content["annotations"][0]["id"], content["annotations"][1]["id"] = first, second
    (data.folder / data.annotations["val"]).write_text(json.dumps(content))
    with pytest.raises(DataError, match="repeat the id of another one"):
        data.split("val")
    assert [f.kind for f in check(data, images="none").findings if f.split == "val"].count("repeated id") == 2


def test_floats_that_run_together_are_named_as_the_cause(plain: Path, tmp_path: Path) -> None:
    data = renamed(plain, tmp_path / "coco", lambda i: i, lambda i: float(2**60 + i))
    with pytest.raises(DataError, match=r"repeat the id.*whole number or text.*above 2\^53 run together"):
        data.split("val")


def test_detections_alone_count_images_by_their_ids(tmp_path: Path) -> None:
    rows = [{"image_id": i, "bbox": [0, 0, 9, 9], "score": 0.5} for i in (2**70, "b", 5, "5", 2**70 + 1, "b")]
    (tmp_path / "boxes.json").write_text(json.dumps(rows))
    found = read_detections(tmp_path / "boxes.json", None)
    assert [(found.image_ids[i], found.images[i]) for i in range(6)] == [
        (2**70, 0), ("b", 1), ("b", 1), (5, 2), ("5", 2), (2**70 + 1, 3),
    ]  # fmt: skip
    (tmp_path / "numbers.json").write_text(json.dumps(rows[:1]))
    boxes_of = CocoBoxes(tmp_path / "numbers.json", Skeleton.load("coco"))
    with pytest.raises(DataError, match="names images by numbers"):
        boxes_of(Photo(np.zeros((4, 4, 3), np.uint8), Path("photo.jpg")))

"""Key points that are no pixels beside boxes that are: refused at start-up, found by the doctor; no false alarms."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from datamodules import CocoPose, DataError
from datamodules.check import check
from datamodules.keypoints.coco_file import read_annotations
from datamodules.sample import sample_coco
from datamodules.skeleton import Skeleton

Change = Callable[[dict[str, Any], dict[str, Any], np.ndarray], None]
KIND = "key points beside their boxes"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_coco(tmp_path_factory.mktemp("misplaced") / "coco", num_train=6, num_val=4)


def rewritten(root: Path, target: Path, change: Change, share: float = 1.0) -> CocoPose:
    """The data set with `change` applied to the labelled points (n, 2) of that share of its annotations."""
    shutil.copytree(root, target)
    for path in (target / "annotations").glob("person_keypoints_*.json"):
        content = json.loads(path.read_text())
        images = {image["id"]: image for image in content["images"]}
        persons = [a for a in content["annotations"] if any(a["keypoints"][2::3]) and not a["iscrowd"]]
        for annotation in persons[: round(share * len(persons))]:
            points = np.reshape(annotation["keypoints"], (-1, 3)).astype(float)
            labelled = points[:, 2] > 0
            xy = points[labelled, :2]
            change(annotation, images[annotation["image_id"]], xy)
            points[labelled, :2] = xy
            annotation["keypoints"] = points.ravel().tolist()
        path.write_text(json.dumps(content))
    return CocoPose(target, image_size=(64, 48), num_workers=0)


def shares(annotation: dict[str, Any], image: dict[str, Any], xy: np.ndarray) -> None:
    xy /= [image["width"], image["height"]]


def shares_in_a_box_of_the_whole_image(annotation: dict[str, Any], image: dict[str, Any], xy: np.ndarray) -> None:
    shares(annotation, image, xy)
    annotation["bbox"] = [0, 0, image["width"], image["height"]]


def centred(annotation: dict[str, Any], image: dict[str, Any], xy: np.ndarray) -> None:
    xy[:] = 2 * xy / [image["width"], image["height"]] - 1


def of_the_crop(annotation: dict[str, Any], image: dict[str, Any], xy: np.ndarray) -> None:
    xy -= annotation["bbox"][:2]
    xy /= annotation["bbox"][2:]


def elsewhere(annotation: dict[str, Any], image: dict[str, Any], xy: np.ndarray) -> None:
    annotation["bbox"][0] += 5000


@pytest.mark.parametrize("share", [1.0, 0.7])
@pytest.mark.parametrize("change", [shares, shares_in_a_box_of_the_whole_image, centred, of_the_crop, elsewhere])
def test_misplaced_points_are_refused_and_found(plain: Path, tmp_path: Path, change: Change, share: float) -> None:
    data = rewritten(plain, tmp_path / "coco", change, share)
    for split in ("train", "val"):
        with pytest.raises(DataError, match=rf"person_keypoints_{split}2017.*outside of their own boxes.*pixels"):
            data.split(split)
    found = [finding for finding in check(data, images="none").findings if finding.kind == KIND]
    assert [finding.split for finding in found] == ["train", "val"]
    assert all("outside of their own boxes" in finding.found for finding in found)


def test_the_message_says_that_shares_want_multiplying(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"at \(0\.\d+, 0\.\d+\) beside the bbox \[.*multiply them by the width"):
        rewritten(plain, tmp_path / "coco", shares).split("train")


@pytest.mark.parametrize("change", [shares, elsewhere])
def test_some_misplaced_persons_are_no_reason_to_refuse(plain: Path, tmp_path: Path, change: Change) -> None:
    data = rewritten(plain, tmp_path / "coco", change, 0.3)
    assert len(data.split("train")) > 0
    assert KIND not in {finding.kind for finding in check(data, images="none").findings}


def test_some_misplaced_points_of_every_person_are_no_reason_either(plain: Path, tmp_path: Path) -> None:
    def some(annotation: dict[str, Any], image: dict[str, Any], xy: np.ndarray) -> None:
        xy[: len(xy) // 2] = 0.5

    data = rewritten(plain, tmp_path / "coco", some)
    assert len(data.split("val")) > 0
    assert KIND not in {finding.kind for finding in check(data, images="none").findings}


@pytest.mark.parametrize("grown", [(0, 0), (4, 3), (-4, -3)])
def test_tight_and_loose_boxes_are_no_reason(plain: Path, tmp_path: Path, grown: tuple[int, int]) -> None:
    def around(annotation: dict[str, Any], image: dict[str, Any], xy: np.ndarray) -> None:
        low, high = xy.min(0) - grown, xy.max(0) + grown
        annotation["bbox"] = [*low.tolist(), *np.maximum(high - low, 1.0).tolist()]

    assert len(rewritten(plain, tmp_path / "coco", around).split("train")) > 0


def test_crowds_and_unlabelled_persons_do_not_count(plain: Path, tmp_path: Path) -> None:
    def crowd(annotation: dict[str, Any], image: dict[str, Any], xy: np.ndarray) -> None:
        shares(annotation, image, xy)
        annotation["iscrowd"] = 1

    assert len(rewritten(plain, tmp_path / "coco", crowd, 0.8).split("train")) > 0


@pytest.mark.filterwarnings("ignore")
def test_real_data_are_not_suspected(shared_data: Path, tmp_path: Path) -> None:
    files = [p for p in shared_data.rglob("*.json") if "rle" not in p.name]
    read = 0
    for path in files:
        content = json.loads(path.read_text())
        if not isinstance(content, dict) or not any(a.get("keypoints") for a in content.get("annotations", [])):
            continue
        count = next(len(a["keypoints"]) for a in content["annotations"] if a.get("keypoints")) // 3
        (tmp_path / "own.yaml").write_text(yaml.safe_dump({"names": [f"p{k}" for k in range(count)], "sigmas": 0.05}))
        read_annotations(path, Skeleton.load(tmp_path / "own.yaml")).accepted()
        read += 1
    assert read >= 8

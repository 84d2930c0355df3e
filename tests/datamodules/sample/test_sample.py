"""The rendered sample data: valid COCO, true to its own pixels, reproducible, hard enough, and never half written."""

import contextlib
import io
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from datamodules.base import DataError
from datamodules.sample import VERSION, render_scene, sample_coco
from datamodules.sample import coco as sample
from datamodules.sample.canvas import FURNITURE
from datamodules.sample.people import PART_NAMES

SPLITS = {"train": 100, "val": 150}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The full validation split and a part of the training split."""
    return sample_coco(tmp_path_factory.mktemp("sample") / "coco", num_train=SPLITS["train"], num_val=SPLITS["val"])


def load(root: Path, split: str, kind: str = "person_keypoints") -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(root / "annotations" / f"{kind}_{split}2017.json"))


def average_precision(truth: COCO, rows: list[dict]) -> float:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(rows), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def keypoints_of(annotation: dict) -> np.ndarray:
    return np.array(annotation["keypoints"], float).reshape(17, 3)


def result(annotation: dict, points: np.ndarray) -> dict:
    keypoints = np.concatenate([points, np.ones((17, 1))], axis=1).ravel().tolist()
    return {"image_id": annotation["image_id"], "category_id": 1, "keypoints": keypoints, "score": 1.0}


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_rendering_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (files(sample_coco(tmp_path / name, num_train=4, num_val=2)) for name in ("a", "b"))
    assert len(first) == 6 + 6 + 4 + 2
    assert first == second


def test_a_picture_does_not_depend_on_those_before_it() -> None:
    alone = render_scene(3).image
    render_scene(8)
    assert np.array_equal(render_scene(3).image, alone)
    assert not np.array_equal(render_scene(4).image[:200, :200], alone[:200, :200])


@pytest.mark.parametrize("split", SPLITS)
def test_annotations_agree_with_their_masks_and_pictures(root: Path, split: str) -> None:
    coco = load(root, split)
    assert len(coco.imgs) == SPLITS[split]
    assert len(coco.anns) == len(coco.dataset["annotations"]), "annotation ids repeat"
    assert 1.6 < len(coco.anns) / len(coco.imgs) < 2.1
    for annotation in coco.anns.values():
        image = coco.imgs[annotation["image_id"]]
        mask = coco.annToMask(annotation)
        rows, columns = np.nonzero(mask)
        x, y, w, h = annotation["bbox"]
        assert mask.shape == (image["height"], image["width"])
        assert annotation["area"] == mask.sum() > 0
        assert (x, y, x + w, y + h) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        points, visible = keypoints_of(annotation)[:, :2], keypoints_of(annotation)[:, 2]
        assert annotation["num_keypoints"] == (visible > 0).sum()
        assert set(visible) <= {0, 1, 2}
        assert not points[visible == 0].any()
        inside = (points >= 0) & (points <= np.array([image["width"], image["height"]]) - 1)
        assert inside[visible > 0].all()
        # What is seen of a person lies in what is seen of the person, up to the rounding of a silhouette.
        grown = cv2.dilate(mask, np.ones((5, 5), np.uint8))
        seen = np.round(points[visible == 2]).astype(int)
        assert grown[seen[:, 1], seen[:, 0]].all()


@pytest.mark.parametrize("split", SPLITS)
def test_files_have_the_official_layout(root: Path, split: str) -> None:
    coco, instances = load(root, split), load(root, split, "instances")
    assert set(coco.dataset) == {"info", "licenses", "images", "annotations", "categories"}
    names = {image["file_name"] for image in coco.imgs.values()}
    assert names == {path.name for path in (root / f"{split}2017").iterdir()}
    assert all(len(Path(name).stem) == 12 for name in names)
    for image in coco.imgs.values():
        height, width, _ = cv2.imread(str(root / f"{split}2017" / image["file_name"])).shape
        assert (height, width) == (image["height"], image["width"])
        assert 240 <= height <= 320 <= width <= 400
    (category,) = coco.dataset["categories"]
    assert category["keypoints"][:3] == ["nose", "left_eye", "right_eye"]
    assert len(category["keypoints"]) == 17
    assert {index for limb in category["skeleton"] for index in limb} == set(range(1, 18))
    for index, annotation in instances.anns.items():
        assert "keypoints" not in annotation
        assert annotation["segmentation"] == coco.anns[index]["segmentation"]
        assert annotation["bbox"] == coco.anns[index]["bbox"]


def test_train_and_val_share_no_ids(root: Path) -> None:
    train, val = load(root, "train"), load(root, "val")
    assert not set(train.imgs) & set(val.imgs)
    assert not set(train.anns) & set(val.anns)


def test_part_masks_agree_with_people_and_key_points(root: Path) -> None:
    coco = load(root, "val")
    names = (root / "parts" / "classes.txt").read_text().split()
    assert tuple(names) == PART_NAMES
    expected = {"nose": "face", "elbow": "arm", "wrist": "arm", "knee": "leg"}
    pixels, hits = np.zeros(len(names), int), []
    for image in coco.imgs.values():
        path = root / "parts" / "val2017" / f"{Path(image['file_name']).stem}.png"
        parts = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        pixels += np.bincount(parts.ravel(), minlength=len(names))
        annotations = coco.loadAnns(coco.getAnnIds(image["id"]))
        masks = np.stack([coco.annToMask(annotation) for annotation in annotations])
        assert masks.sum(axis=0).max() == 1, "people share a pixel"
        assert np.array_equal(parts > 0, masks.any(axis=0))
        for annotation in annotations:
            for name, (x, y, visible) in zip(coco.cats[1]["keypoints"], keypoints_of(annotation), strict=True):
                side, _, joint = name.rpartition("_")
                if visible == 2 and joint in expected:
                    part = f"{side}_{expected[joint]}".lstrip("_")
                    hits.append(names[parts[round(y), round(x)]] == part)
    assert (pixels > 0).all()
    assert len(hits) > 1000
    assert np.mean(hits) > 0.97


def test_key_points_are_seen_hidden_and_outside(root: Path) -> None:
    flags = np.concatenate([keypoints_of(annotation)[:, 2] for annotation in load(root, "val").anns.values()])
    outside, hidden, seen = (np.mean(flags == flag) for flag in (0, 1, 2))
    assert outside > 0.01
    assert 0.1 < hidden < 0.35
    assert seen > 0.6


def test_left_and_right_follow_from_the_view(root: Path) -> None:
    """Facing the viewer, a person's left eye and shoulder are on the right of the picture; from the back reversed."""
    front, back = [], []
    for annotation in load(root, "train").anns.values():
        points = keypoints_of(annotation)
        shoulders, hips = points[5:7], points[11:13]
        if hips[:, 1].min() < shoulders[:, 1].max() or not (shoulders[:, 2] * hips[:, 2]).all():
            continue
        leftward = shoulders[0, 0] > shoulders[1, 0]
        if (points[:3, 2] == 2).all():
            front.append(leftward and points[1, 0] > points[2, 0])
        turned_away = not points[:3, 2].any() and points[3:5, 2].all()
        if turned_away and abs(shoulders[0, 0] - shoulders[1, 0]) > 0.2 * annotation["bbox"][2]:
            back.append(not leftward)
    assert len(front) > 50
    assert len(back) > 10
    assert np.mean(front) > 0.95
    assert np.mean(back) > 0.8


def test_everything_inside_is_hidden_behind_furniture() -> None:
    scene = render_scene(12)
    person = scene.people[0]
    flags = person.visibility(np.full_like(scene.owner, FURNITURE), 0)
    height, width = scene.owner.shape
    inside = ((person.keypoints > -0.5) & (person.keypoints < (width - 0.5, height - 0.5))).all(axis=1)
    assert np.array_equal(flags, inside.astype(int))
    assert (person.visibility(scene.owner, 0) == 2).any()


def test_people_are_rarely_tiny(root: Path) -> None:
    heights = np.array([annotation["bbox"][3] for annotation in load(root, "val").anns.values()])
    assert np.mean(heights < 32) < 0.02
    assert np.ptp(heights) > 150


def test_mean_pose_does_not_solve_the_data_but_the_truth_does(root: Path) -> None:
    train, val = load(root, "train").anns.values(), load(root, "val")
    relative, known = [], []
    for annotation in train:
        x, y, w, h = annotation["bbox"]
        points = keypoints_of(annotation)
        relative.append((points[:, :2] - (x, y)) / (w, h))
        known.append(points[:, 2:] > 0)
    mean = np.sum(relative, axis=0, where=np.array(known)) / np.sum(known, axis=0)
    people = list(val.anns.values())
    baseline = [result(a, mean * a["bbox"][2:] + a["bbox"][:2]) for a in people]
    assert average_precision(val, baseline) < 0.10
    assert average_precision(val, [result(a, keypoints_of(a)[:, :2]) for a in people]) == pytest.approx(1.0)


def test_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(image_id: int) -> sample.Scene:
        if image_id == 3:
            raise KeyboardInterrupt
        return render_scene(image_id)

    monkeypatch.setattr(sample, "render_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sample_coco(tmp_path / "coco", num_train=4, num_val=1)
    assert list(tmp_path.iterdir()) == []


def test_second_call_renders_nothing_and_an_old_version_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = sample_coco(tmp_path / "coco", num_train=2, num_val=1)
    before = files(root)
    (root / "VERSION").write_text(f"{VERSION - 1} 2 1\n")
    (root / "train2017" / "left_over.jpg").write_bytes(b"")
    assert files(sample_coco(root, num_train=2, num_val=1)) == before
    assert [path.name for path in tmp_path.iterdir()] == ["coco"]
    monkeypatch.setattr(sample, "render_scene", None)
    assert sample_coco(root, num_train=2, num_val=1) == root


def test_two_at_once_leave_one_complete_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        roots = list(pool.map(lambda _: sample_coco(tmp_path / "coco", num_train=6, num_val=2), range(2)))
    assert roots == [tmp_path / "coco"] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["coco"]
    assert files(roots[0]) == files(sample_coco(tmp_path / "alone", num_train=6, num_val=2))


def test_a_folder_of_somebody_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "mine.json").write_text(json.dumps([1]))
    with pytest.raises(DataError, match="VERSION"):
        sample_coco(tmp_path / "coco", num_train=1, num_val=1)
    assert files(tmp_path) == {"coco/mine.json": b"[1]"}


def test_what_a_killed_process_was_rendering_is_taken_away_and_what_another_one_renders_stays(tmp_path: Path) -> None:
    def rendering() -> int:
        """Number of a process in the middle of it."""
        begun, seen = os.pipe()
        child = os.fork()
        if child == 0:
            sample.render_scene = lambda image_id: (os.write(seen, b"x"), time.sleep(60))
            sample_coco(tmp_path / "coco", num_train=4, num_val=1)
            os._exit(1)
        assert os.read(begun, 1) == b"x"
        return child

    killed, alive = rendering(), rendering()
    assert len(list(tmp_path.glob(".coco-*"))) == 2
    os.kill(killed, signal.SIGKILL)
    os.waitpid(killed, 0)
    (tmp_path / ".coco-of-earlier-code" / "fresh").mkdir(parents=True)
    os.utime(tmp_path / ".coco-of-earlier-code", (0, 0))
    (tmp_path / ".coco-just-begun").mkdir()
    sample_coco(tmp_path / "coco", num_train=2, num_val=1)
    names = {path.name for path in tmp_path.iterdir()}
    os.kill(alive, signal.SIGKILL)
    os.waitpid(alive, 0)
    assert len(names) == 3
    assert {".coco-just-begun", "coco"} < names
    sample_coco(tmp_path / "coco", num_train=2, num_val=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".coco-just-begun", "coco"]

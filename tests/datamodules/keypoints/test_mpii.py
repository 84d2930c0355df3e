"""MPII: crops, joints and head sizes are those of the published code, and files that are wrong are named."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import loadmat, savemat

from datamodules import DataError, MpiiPose
from datamodules.check import check
from datamodules.keypoints.crop import apply_affine
from datamodules.loading.dataset import collate
from datamodules.sample import sample_coco
from datamodules.sample.mpii import JOINTS, sample_mpii
from datamodules.skeleton import Skeleton
from tasks import MSRACodec, PoseTask
from tasks.metrics import PCKh


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_mpii(tmp_path_factory.mktemp("mpii") / "mpii", num_train=5, num_val=6)


@pytest.fixture
def root(rendered: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return shutil.copytree(rendered, tmp_path / "mpii")


def entries_of(root: Path, split: str = "valid") -> list[dict[str, Any]]:
    return json.loads((root / "annot" / f"{split}.json").read_text())


def published_matrix(center: list[float], scale: float, size: int) -> np.ndarray:
    """Image pixels -> input pixels as the published code has it: from three points, for a square input."""
    middle = np.array([center[0] - 1, center[1] + 15 * scale - 1])
    side = 200 * 1.25 * scale
    sources = middle - side / 2 * np.array([(0, 0), (0, 1), (1, 1)])
    targets = np.array([(size / 2, size / 2), (size / 2, 0), (0, 0)])
    return np.linalg.solve(np.column_stack([sources, np.ones(3)]), targets).T


def batch_of(data: MpiiPose, split: str = "val") -> dict[str, Any]:
    dataset = data.split(split)
    return collate([dataset[row, 0] for row in range(len(dataset))])


def test_crops_and_joints_are_those_of_the_published_code(rendered: Path) -> None:
    data = MpiiPose(rendered, num_workers=0)
    batch, entries = batch_of(data), entries_of(rendered)
    assert len(batch["image"]) > 6
    cut = 0
    for row, number in enumerate(batch["instance_id"].tolist()):
        entry = entries[number - 1]
        matrix = published_matrix(entry["center"], entry["scale"], 256)
        back = apply_affine(
            batch["to_image"][row].double().numpy(), apply_affine(matrix, np.array([[0.0, 0], [99, 37]]))
        )
        np.testing.assert_allclose(back, [[0, 0], [99, 37]], atol=1e-3)
        visible = np.array(entry["joints_vis"])
        np.testing.assert_array_equal(batch["visible"][row], 2 * visible)
        expected = apply_affine(matrix, np.array(entry["joints"]) - 1) * visible[:, None]
        np.testing.assert_allclose(batch["keypoints"][row], expected, atol=2e-3)
        cut += (np.abs(np.array(entry["center"]) - 150) > 100 * entry["scale"]).any()
    assert cut  # boxes that leave the picture, where clipping would move the crop


def test_training_draws_the_published_recipe(rendered: Path) -> None:
    drawn = MpiiPose(rendered).augmentation
    assert (drawn.scale_factor, drawn.rotation_factor, drawn.half_body_probability) == (0.25, 30.0, 0.0)
    assert MpiiPose(rendered).image_size == (256, 256)
    assert batch_of(MpiiPose(rendered, num_workers=0), "train")["image"].shape[1:] == (3, 256, 256)


def test_truth_has_the_head_sizes_of_the_official_file(rendered: Path) -> None:
    content = loadmat(rendered / "annot" / "gt_valid.mat")
    boxes, missing = content["headboxes_src"], content["jnt_missing"]
    assert [str(name[0]) for name in content["dataset_joints"][0]] == list(JOINTS)
    truth = MpiiPose(rendered).ground_truth("val")["annotations"]
    assert len(truth) == boxes.shape[2]
    for n, annotation in enumerate(truth):
        (x1, y1), (x2, y2) = boxes[:, :, n]
        assert annotation["head_size"] == pytest.approx(0.6 * math.hypot(x2 - x1, y2 - y1))
        points = np.reshape(annotation["keypoints"], (16, 3))
        np.testing.assert_array_equal(points[:, 2] == 0, missing[:, n] == 1)
        labelled = points[:, 2] > 0
        np.testing.assert_allclose(points[labelled, :2], content["pos_gt_src"][labelled, :, n] - 1)


def test_areas_for_oks_are_those_of_the_labelled_joints(root: Path) -> None:
    (root / "annot" / "gt_valid.mat").unlink()
    entries = entries_of(root)
    entries[0]["joints_vis"] = [0] * 15 + [1]  # one joint has no extent: a share of the square has to do
    (root / "annot" / "valid.json").write_text(json.dumps(entries))
    with pytest.warns(UserWarning, match="no published figure"):
        truth = MpiiPose(root).ground_truth("val")["annotations"]
    for entry, annotation in zip(entries, truth, strict=True):
        labelled = np.array(entry["joints"])[np.array(entry["joints_vis"]) > 0]
        expected = np.ptp(labelled, axis=0).prod() or 0.53 * (200 * entry["scale"]) ** 2
        assert annotation["area"] == pytest.approx(expected)
    assert sum(len(np.unique(np.array(e["joints"])[np.array(e["joints_vis"]) > 0])) > 2 for e in entries) > 3


@pytest.mark.parametrize(("pixels", "accepted"), [(2.0, True), (2.1, False)])
def test_joints_of_both_files_agree_to_two_pixels(pixels: float, accepted: bool, root: Path) -> None:
    path = root / "annot" / "gt_valid.mat"
    content = {k: v for k, v in loadmat(path).items() if not k.startswith("__")}
    entries = entries_of(root)
    for entry in entries:
        entry["joints"] = np.round(entry["joints"]).tolist()
    content["pos_gt_src"] = np.array([e["joints"] for e in entries], float).transpose(1, 2, 0)
    content["pos_gt_src"][:, 1] += pixels
    savemat(path, content)
    (root / "annot" / "valid.json").write_text(json.dumps(entries))
    if accepted:
        assert len(MpiiPose(root).persons("val").images) == len(entries)
    else:
        with pytest.raises(DataError, match=r"in the median 2\.1 pixels away"):
            MpiiPose(root).persons("val")


def test_the_joints_of_the_official_file_are_evaluated(root: Path) -> None:
    content = loadmat(root / "annot" / "gt_valid.mat")
    content["pos_gt_src"][9, 0, 0] += 1.5
    content["jnt_missing"][9, 0] = 0
    content["jnt_missing"][8, 0] = 1
    savemat(root / "annot" / "gt_valid.mat", {k: v for k, v in content.items() if not k.startswith("__")})
    found = np.reshape(MpiiPose(root).ground_truth("val")["annotations"][0]["keypoints"], (16, 3))
    assert found[9].tolist() == pytest.approx(
        [content["pos_gt_src"][9, 0, 0] - 1, content["pos_gt_src"][9, 1, 0] - 1, 2]
    )
    assert found[8].tolist() == [0, 0, 0]


def test_without_the_official_file_heads_are_measured_by_their_joints(root: Path) -> None:
    (root / "annot" / "gt_valid.mat").unlink()
    data = MpiiPose(root)
    with pytest.warns(UserWarning, match=r"There is no .*gt_valid.mat, so PCKh .* no published figure; training"):
        truth = data.ground_truth("val")["annotations"]
    for entry, annotation in zip(entries_of(root), truth, strict=True):
        neck, top = entry["joints"][8], entry["joints"][9]
        both = entry["joints_vis"][8] and entry["joints_vis"][9]
        expected = math.dist(neck, top) if both else math.nan
        assert annotation["head_size"] == pytest.approx(expected, nan_ok=True)
    with pytest.warns(UserWarning, match="Training persons have no head boxes"):
        assert len(MpiiPose(root, overfit=3).ground_truth("val")["annotations"]) == 3


def test_trainval_and_persons_without_a_centre(root: Path) -> None:
    train, valid = entries_of(root, "train"), entries_of(root)
    train[0]["center"] = [-1, -1]
    (root / "annot" / "trainval.json").write_text(json.dumps(train + valid))
    with pytest.warns(UserWarning, match=r"skipped 1 annotation \(id 1\)"):
        dataset = MpiiPose(root, train="trainval").split("train")
    assert len(dataset) == len(train) + len(valid) - 1


def change(root: Path, edit: Callable[[list[dict]], Any]) -> None:
    entries = entries_of(root)
    changed = edit(entries)
    (root / "annot" / "valid.json").write_text(json.dumps(entries if changed is None else changed))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda e: {"images": e}, "is not MPII's JSON: found dict, expected a list of persons"),
        (lambda e: [], "is not MPII's JSON: found list"),
        (lambda e: e[1].update(joints=e[1]["joints"][:15]), r"1 person \(id 2\) have \[30\] numbers in `joints`"),
        (lambda e: e[1].update(joints=[7] * 3), r"have \[3\] numbers in `joints`"),
        (lambda e: e[0].update(joints_vis=[1] * 15), r"have \[15\] numbers in `joints_vis`"),
        (lambda e: e[2].update(scale="large"), r"`scale` is no number in 1 person \(id 3\)"),
        (lambda e: e[2].update(scale=None), "have a `bbox` that is not finite"),
        (lambda e: e[2].update(center=[1, 2, 3]), r"have \[3\] numbers in `center`"),
        (lambda e: e[0].update(image=None), r"1 person \(id 1\) have no `image`"),
        (lambda e: e[0].update(image="nowhere.jpg"), r"lacks 1 of the \d images .*nowhere.jpg"),
    ],
)  # fmt: skip
def test_wrong_json_is_named(root: Path, edit: Callable, message: str) -> None:
    (root / "annot" / "gt_valid.mat").unlink()
    change(root, edit)
    with pytest.raises(DataError, match=message):
        MpiiPose(root).dataset("val")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m.pop("headboxes_src"), r"has no matrix headboxes_src, expected \(2, 2, \d+\)"),
        (lambda m: m.update(headboxes_src=m["headboxes_src"][..., :3]), r"of shape \(2, 2, 3\).*valid.json"),
        (lambda m: m.update(jnt_missing=m["jnt_missing"][:14]), r"of shape \(14, \d+\), expected \(16, \d+\)"),
        (lambda m: m.update(pos_gt_src=m["pos_gt_src"][..., ::-1].copy()), "other joints than .*in the median"),
    ],
)  # fmt: skip
def test_another_official_file_is_named(root: Path, edit: Callable, message: str) -> None:
    path = root / "annot" / "gt_valid.mat"
    content = {k: v for k, v in loadmat(path).items() if not k.startswith("__")}
    edit(content)
    savemat(path, content)
    with pytest.raises(DataError, match=message):
        MpiiPose(root).ground_truth("val")


def test_a_damaged_official_file_is_named_and_a_huge_one_not_unpacked(root: Path, monkeypatch) -> None:
    path = root / "annot" / "gt_valid.mat"
    savemat(path, {"pos_gt_src": np.zeros((16, 2, 50_000)), "jnt_missing": np.zeros((16, 50_000))}, do_compression=True)
    monkeypatch.setattr("scipy.io.loadmat", None)
    with pytest.raises(DataError, match=r"pos_gt_src of shape \(16, 2, 50000\)"):
        MpiiPose(root).persons("val")
    path.write_bytes(b"no MATLAB file")
    with pytest.raises(DataError, match=r"gt_valid.mat cannot be read .*go without head boxes"):
        MpiiPose(root).persons("val")


def test_missing_files_say_what_is_expected(root: Path) -> None:
    (root / "annot" / "train.json").unlink()
    with pytest.raises(DataError, match=r"no .*train.json. Expected below"):
        MpiiPose(root).dataset("train")
    (root / "annot" / "valid.json").write_text("{")
    with pytest.raises(DataError, match=r"valid.json is not MPII's JSON"):
        MpiiPose(root).dataset("val")
    shutil.rmtree(root / "images")
    with pytest.raises(DataError, match="no image folder images"):
        MpiiPose(root).image_folder("val")


def test_the_doctor_finds_nothing_in_the_sample(rendered: Path) -> None:
    report = check(MpiiPose(rendered, num_workers=0))
    assert [finding for finding in report.findings if finding.kind != "split is small"] == []


def test_joints_that_coco_has_too_are_at_the_same_places(rendered: Path, tmp_path: Path) -> None:
    coco = sample_coco(tmp_path / "coco", num_train=1, num_val=6)
    content = json.loads((coco / "annotations/person_keypoints_val2017.json").read_text())
    ours, theirs = Skeleton.load("mpii").names, Skeleton.load("coco").names
    both = [name for name in theirs if name in ours]
    compared = 0
    for entry, other in zip(entries_of(rendered), content["annotations"], strict=True):
        points = np.reshape(other["keypoints"], (17, 3))
        for name in both:
            x, y, visible = points[theirs.index(name)]
            if visible and entry["joints_vis"][ours.index(name)]:
                assert entry["joints"][ours.index(name)] == pytest.approx([x + 1, y + 1], abs=0.11)
                compared += 1
    assert compared > 50
    assert (rendered / "images" / "000100001.jpg").read_bytes() == (coco / "val2017/000000100001.jpg").read_bytes()


@torch.no_grad()
def test_encoded_joints_reach_nearly_all_of_pckh(rendered: Path) -> None:
    data = MpiiPose(rendered, num_workers=0)
    task = PoseTask({"variant": "w18_small_v1", "multi_scale_output": False}, 16, measure="pckh", flip_test=False)
    task.attach(data)
    assert isinstance(task.metric, PCKh)
    assert (task.monitor, task.mode, task.hparams["measure"]) == ("val/PCKh", "max", "pckh")
    assert (PoseTask.monitor, PoseTask.goal({"measure": "pckh"})) == ("val/AP", ("val/PCKh", "max"))
    batch = batch_of(data)
    heatmaps, _ = MSRACodec().encode(batch["keypoints"], batch["visible"], data.image_size)
    predictions = task.predict(heatmaps, batch)
    task.update(predictions, batch)
    figures = task.compute()
    assert figures["PCKh"] > 0.93  # joints out of their crop are missed
    assert set(figures) <= {name.removeprefix("val/") for name, mode in task.modes.items() if mode == "max"}


def official_layout(shared_data: Path, folder: Path) -> Path:
    (folder / "annot").mkdir(parents=True)
    (folder / "images").symlink_to(shared_data / "samples/mpii")
    for split in ("train", "valid"):
        (folder / "annot" / f"{split}.json").symlink_to(shared_data / "samples/mpii/test_mpii.json")
    return folder


def test_real_persons(shared_data: Path, tmp_path: Path) -> None:
    root = official_layout(shared_data, tmp_path / "mpii")
    data = MpiiPose(root, num_workers=0)
    batch = batch_of(data)
    assert len(batch["image"]) == len(data.split("train")) == 5
    entries = {n: entry for n, entry in enumerate(entries_of(root), start=1)}
    for row, number in enumerate(batch["instance_id"].tolist()):
        visible = np.array(entries[number]["joints_vis"]) > 0
        back = apply_affine(batch["to_image"][row].double().numpy(), batch["keypoints"][row].double().numpy())
        np.testing.assert_allclose(back[visible], np.array(entries[number]["joints"])[visible] - 1, atol=1e-2)
        inside = ((batch["keypoints"][row] > 0) & (batch["keypoints"][row] < 256)).all(dim=1).numpy()
        assert inside[visible].all()
    with pytest.warns(UserWarning, match="no published figure"):
        truth = data.ground_truth("val")
    assert [a["head_size"] > 50 for a in truth["annotations"]] == [True] * 5

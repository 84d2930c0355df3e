"""PCKh against the protocol written out joint by joint, and what surrounds it: doubles, processes, tables."""

import math
import socket

import numpy as np
import pytest
import torch
import torch.distributed

from datamodules import Skeleton
from tasks.metrics import PCKh

MPII = Skeleton.load("mpii")
LEFT_RIGHT = {
    "Shoulder": (13, 12),
    "Elbow": (14, 11),
    "Wrist": (15, 10),
    "Hip": (3, 2),
    "Knee": (4, 1),
    "Ankle": (5, 0),
}


def make_truth(rng: np.random.Generator, count: int = 60) -> dict:
    """Persons on 25 images, two crowds and one without a head size; some joints are not labelled."""
    persons = []
    for number in range(1, count + 1):
        corner, size = rng.uniform(0, 300, 2), rng.uniform(40, 250, 2)
        visible = rng.choice([0, 1, 2], 16, p=[0.2, 0.2, 0.6])
        points = np.concatenate([corner + size * rng.random((16, 2)), visible[:, None]], axis=1)
        points[visible == 0] = 0
        persons.append(
            {"id": number, "image_id": int(rng.integers(1, 26)), "category_id": 1, "keypoints": points.ravel().tolist(),
             "num_keypoints": int((visible > 0).sum()), "bbox": [*corner, *size], "area": float(size.prod()),
             "iscrowd": int(number in (3, 4)), "head_size": math.nan if number == 5 else float(rng.uniform(8, 40))}
        )  # fmt: skip
    return {
        "images": [{"id": i} for i in range(1, 26)],
        "annotations": persons,
        "categories": [{"id": 1, "name": "person"}],
    }


def make_batch(rng: np.random.Generator, truth: dict) -> dict[str, torch.Tensor]:
    """A pose of every person, off by fractions of the head."""
    persons = truth["annotations"]
    points = np.array([p["keypoints"] for p in persons]).reshape(-1, 16, 3)[..., :2]
    heads = np.nan_to_num([p["head_size"] for p in persons], nan=20.0)
    spread = heads[:, None, None] * rng.choice([0.04, 0.08, 0.4], (len(persons), 16, 1))
    return {
        "image_id": torch.tensor([p["image_id"] for p in persons]),
        "instance_id": torch.tensor([p["id"] for p in persons]),
        "keypoints": torch.as_tensor(points + rng.normal(size=points.shape) * spread, dtype=torch.float32),
        "scores": torch.as_tensor(rng.random((len(persons), 16)), dtype=torch.float32),
        "box_scores": torch.ones(len(persons)),
        "area": torch.full((len(persons),), 1e4),
    }


def slow_pckh(truth: dict, poses: dict[int, np.ndarray]) -> dict[str, float]:
    """The protocol, joint by joint; `poses` by the number of the person."""
    near = {threshold: np.zeros(16) for threshold in (0.5, 0.1, 0.11)}
    labelled = np.zeros(16)
    for person in truth["annotations"]:
        if person["iscrowd"] or math.isnan(person["head_size"]):
            continue
        for joint in range(16):
            x, y, visible = person["keypoints"][3 * joint : 3 * joint + 3]
            if not visible:
                continue
            labelled[joint] += 1
            if person["id"] in poses:
                found = poses[person["id"]][joint]
                error = math.hypot(found[0] - x, found[1] - y) / person["head_size"]
                for threshold, count in near.items():
                    count[joint] += error <= threshold
    means = {}
    for threshold, count in near.items():
        rates = count / labelled
        weights = np.array([labelled[j] if j not in (6, 7) else 0 for j in range(16)])
        means[threshold] = float((rates * weights).sum() / weights.sum())
    half = near[0.5] / labelled
    groups = {name: (half[left] + half[right]) / 2 for name, (left, right) in LEFT_RIGHT.items()}
    return {"PCKh": means[0.5], "PCKh@0.1": means[0.1], "PCKh@0.11": means[0.11], "Head": half[9], **groups}


def metric_of(truth: dict, **options) -> PCKh:
    return PCKh(truth, MPII.sigmas, MPII.names, **options)


def filled(truth: dict, batch: dict, size: int = 16, **options) -> PCKh:
    metric = metric_of(truth, **options)
    for start in range(0, len(batch["image_id"]), size):
        metric.update(**{key: value[start : start + size] for key, value in batch.items()})
    return metric


def poses_of(batch: dict) -> dict[int, np.ndarray]:
    points = batch["keypoints"].double().numpy()
    return {number: points[row] for row, number in reversed(list(enumerate(batch["instance_id"].tolist())))}


@pytest.mark.parametrize("seed", range(5))
def test_figures_are_those_of_the_protocol(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = make_truth(rng)
    batch = make_batch(rng, truth)
    figures = filled(truth, batch).compute()
    assert figures == pytest.approx(slow_pckh(truth, poses_of(batch)), abs=1e-12)
    assert 0.1 < figures["PCKh@0.1"] < figures["PCKh@0.11"] < figures["PCKh"] < 0.95  # so each threshold is seen


def test_a_joint_at_the_threshold_is_right_and_pelvis_and_thorax_do_not_count() -> None:
    points = np.full((16, 3), 2.0)
    person = {"id": 7, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81.0, "head_size": 8.0}
    person["keypoints"] = points.ravel().tolist()
    truth = {"images": [{"id": 1}], "annotations": [person], "categories": [{"id": 1}]}
    found = torch.full((1, 16, 2), 2.0)
    found[0, 0, 0] += 4.0  # half a head
    found[0, 1, 0] += 4.01
    found[0, 6:8] += 100
    metric = metric_of(truth)
    one = torch.ones(1)
    metric.update(torch.tensor([1]), torch.tensor([7]), found, torch.ones(1, 16), one, one)
    figures = metric.compute()
    assert figures["PCKh"] == pytest.approx(13 / 14)
    assert (figures["Ankle"], figures["Knee"], figures["Hip"], figures["PCKh@0.1"]) == (1.0, 0.5, 1.0, 12 / 14)
    rows = {row["name"]: row for row in metric.per_keypoint()}
    assert (rows["pelvis"]["PCKh"], rows["pelvis"]["in_mean"], rows["right_knee"]["in_mean"]) == (0.0, False, True)
    assert (rows["right_ankle"]["error"], rows["right_ankle"]["normalised_error"]) == (4.0, 0.5)


def test_repeated_rows_count_once_and_persons_without_a_pose_are_missed() -> None:
    rng = np.random.default_rng(3)
    truth = make_truth(rng)
    batch = make_batch(rng, truth)
    doubled = {key: torch.cat([value[:40], value[:15]]) for key, value in batch.items()}
    doubled["keypoints"][40:] += 1000  # which are not looked at
    expected = slow_pckh(truth, poses_of({key: value[:40] for key, value in batch.items()}))
    assert filled(truth, doubled, 55).compute() == pytest.approx(expected, abs=1e-12)
    single = {key: value[:1] for key, value in batch.items()}
    assert filled(truth, single).compute() == pytest.approx(slow_pckh(truth, poses_of(single)), abs=1e-12)


def test_only_seen_images_are_evaluated_where_that_is_wanted() -> None:
    rng = np.random.default_rng(4)
    truth = make_truth(rng)
    batch = make_batch(rng, truth)
    seen = batch["image_id"] <= 10
    part = {key: value[seen] for key, value in batch.items()}
    some = truth | {"annotations": [p for p in truth["annotations"] if p["image_id"] <= 10]}
    expected = slow_pckh(some, poses_of(batch))
    assert filled(truth, part, seen_images_only=True).compute() == pytest.approx(expected, abs=1e-12)


def test_numbers_of_batches_stand_for_ids_and_what_is_not_finite_is_wrong() -> None:
    rng = np.random.default_rng(5)
    truth = make_truth(rng)
    batch = make_batch(rng, truth)
    batch["keypoints"][0] = math.nan
    expected = slow_pckh(truth, poses_of(batch))
    named = truth | {
        "annotations": [p | {"id": 1000 + p["id"], "number": p["id"]} for p in truth["annotations"]],
    }
    with pytest.warns(UserWarning, match="not finite"):
        found = filled(named, batch).compute()
    assert found == pytest.approx(expected, abs=1e-12)


def test_table_and_results_are_there_and_a_group_needs_its_joints() -> None:
    rng = np.random.default_rng(6)
    truth = make_truth(rng)
    batch = make_batch(rng, truth)
    metric = filled(truth, batch)
    assert len(metric.results()) > 40
    assert metric.table().row_count == len(metric.compute()) == 10
    names = [name.replace("right_knee", "kneecap") for name in MPII.names]
    renamed = PCKh(truth, MPII.sigmas, names)
    renamed.update(**batch)
    assert set(metric.compute()) - set(renamed.compute()) == {"Knee"}
    empty = truth | {"annotations": [p | {"head_size": math.nan} for p in truth["annotations"]]}
    assert all(math.isnan(value) for value in filled(empty, batch).compute().values())


def test_mistakes_are_told_in_sentences() -> None:
    rng = np.random.default_rng(7)
    truth = make_truth(rng)
    batch = make_batch(rng, truth)
    lacking = [{k: v for k, v in p.items() if k != "head_size"} for p in truth["annotations"][:2]]
    with pytest.raises(ValueError, match=r"2 of 60 annotations have no `head_size`.*measure to oks"):
        metric_of(truth | {"annotations": lacking + truth["annotations"][2:]})
    batch["instance_id"][8] = 4711
    with pytest.raises(ValueError, match=r"1 poses are of no annotated person, the first of number 4711.*detections"):
        filled(truth, batch).compute()


def gather(rank: int, port: int, truth: dict, shares: list, folder) -> None:
    torch.distributed.init_process_group("gloo", f"tcp://localhost:{port}", rank=rank, world_size=2)
    metric = metric_of(truth)
    if len(shares[rank]["image_id"]):
        metric.update(**shares[rank])
    figures = metric.compute()
    if rank == 0:  # what one process alone reads afterwards
        torch.save([figures, metric.per_keypoint(), metric.results()], folder / "found.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("cut", [22, 60])
def test_two_processes_agree_with_one(cut: int, tmp_path) -> None:
    """Uneven shares with rows that both have; then one without poses."""
    rng = np.random.default_rng(8)
    truth = make_truth(rng)
    batch = make_batch(rng, truth)
    second = slice(cut - 5, None) if cut < 60 else slice(60, None)
    shares = [{key: value[rows] for key, value in batch.items()} for rows in (slice(0, cut), second)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(gather, (port, truth, shares, tmp_path), nprocs=2)
    metric = filled(truth, batch)
    figures, joints, results = torch.load(tmp_path / "found.pt", weights_only=True)
    assert (figures, joints) == (metric.compute(), metric.per_keypoint())
    assert len(results) == len(metric.results())

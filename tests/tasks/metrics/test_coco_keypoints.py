"""COCO key point figures with pycocotools as the referee, and what surrounds them: gathering, files, tables."""

import contextlib
import copy
import io
import json
import math
import socket

import numpy as np
import pytest
import torch
import torch.distributed
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console

from tasks.draw import class_table
from tasks.metrics.coco_keypoints import CocoKeypoints

KEYS = ["AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL"]
COCO_SIGMAS = [s / 1000 for s in (26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89)]


def make_person(rng, number, image_id, num_keypoints, **changes):
    width, height = rng.uniform(30, 250, 2)
    corner = rng.uniform(0, 300, 2)
    visible = rng.choice([0, 1, 2], num_keypoints, p=[0.3, 0.2, 0.5])
    points = np.concatenate([corner + [width, height] * rng.random((num_keypoints, 2)), visible[:, None]], axis=1)
    points[visible == 0] = 0
    person = {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "keypoints": points.ravel().tolist(),
        "num_keypoints": int(np.count_nonzero(visible)),
        "bbox": [*corner.tolist(), float(width), float(height)],
        "area": float(0.6 * width * height),
        "iscrowd": 0,
    }
    return {**person, **changes}


def make_ground_truth(rng, num_keypoints=17, num_images=16):
    """Images 0.. with 0 to 5 persons, some crowds and some without labelled key points."""
    image_ids = (rng.permutation(10 * num_images)[:num_images] + 1).tolist()
    annotations = []
    for image_id in image_ids:
        for _ in range(rng.integers(0, 6)):
            person = make_person(rng, len(annotations) + 1, image_id, num_keypoints)
            kind = rng.random()
            if kind < 0.2:
                person |= {"keypoints": [0] * 3 * num_keypoints, "num_keypoints": 0}
            elif kind < 0.3:
                person |= {"iscrowd": 1}
            annotations.append(person)
    images = [{"id": i, "width": 640, "height": 480} for i in image_ids]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}


def make_batch(rng, ground_truth, num_keypoints=17, num_poses=250):
    """Poses near persons and some nowhere, more than 20 in some images and none in others."""
    image_ids = [image["id"] for image in ground_truth["images"]]
    busy = rng.choice(image_ids, size=len(image_ids) * 2 // 3, replace=False)
    weights = rng.dirichlet(np.full(len(busy), 0.7))
    persons = {i: [a for a in ground_truth["annotations"] if a["image_id"] == i] for i in image_ids}
    image_id = rng.choice(busy, size=num_poses, p=weights)
    keypoints = rng.uniform(0, 500, (num_poses, num_keypoints, 2))
    area = rng.uniform(3e3, 6e4, num_poses)
    for row, image in enumerate(image_id):
        if persons[image] and rng.random() < 0.8:
            person = persons[image][rng.integers(len(persons[image]))]
            noise = rng.normal(size=(num_keypoints, 2)) * rng.choice([0.5, 3, 12])
            keypoints[row] = np.reshape(person["keypoints"], (-1, 3))[:, :2] + noise
            area[row] = 1.25**2 * person["bbox"][2] * person["bbox"][3]
    return {
        "image_id": torch.as_tensor(image_id),
        "instance_id": torch.arange(num_poses),
        "keypoints": torch.as_tensor(keypoints, dtype=torch.float32),
        "scores": torch.as_tensor(rng.random((num_poses, num_keypoints)), dtype=torch.float32),
        "box_scores": torch.as_tensor(rng.random(num_poses), dtype=torch.float32),
        "area": torch.as_tensor(area, dtype=torch.float32),
    }


def make_metric(ground_truth, num_keypoints=17, **options):
    sigmas = COCO_SIGMAS if num_keypoints == 17 else np.linspace(0.03, 0.1, num_keypoints).tolist()
    return CocoKeypoints(ground_truth, sigmas, [f"point {k}" for k in range(num_keypoints)], **options)


def filled_metric(ground_truth, batch, *args, size=32, **options):
    metric = make_metric(ground_truth, *args, **options)
    for start in range(0, len(batch["image_id"]), size):
        metric.update(**rows(batch, slice(start, start + size)))
    return metric


def rows(batch, which):
    return {key: value[which] for key, value in batch.items()}


def pycocotools_figures(ground_truth, results, sigmas, image_ids=None):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(ground_truth)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        if image_ids is not None:
            evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [math.nan if value == -1 else value for value in evaluation.stats.tolist()]


def plain_final_poses(batch, sigmas, visible_threshold=0.2, threshold=0.9):
    """Rescoring and suppression as in the paper's evaluation, pose after pose: {image: [(score, row)]}."""
    image_id, keypoints, scores, box_scores, area = (
        batch[key].double().numpy() for key in ("image_id", "keypoints", "scores", "box_scores", "area")
    )
    final: dict[int, list[tuple[float, int]]] = {}
    for image in sorted(set(image_id.astype(int).tolist())):
        poses = []
        for row in np.flatnonzero(image_id == image):
            counted = [s for s in scores[row] if s > visible_threshold]
            poses.append((box_scores[row] * (sum(counted) / len(counted) if counted else 0), int(row)))
        kept: list[tuple[float, int]] = []
        for score, row in sorted(poses, key=lambda pose: -pose[0]):
            similar = False
            for _, other in kept:
                squared = ((keypoints[row] - keypoints[other]) ** 2).sum(axis=1)
                variance = (2 * np.array(sigmas)) ** 2
                overlap = np.exp(-squared / variance / ((area[row] + area[other]) / 2) / 2).mean()
                similar |= bool(overlap > threshold)
            if not similar:
                kept.append((score, row))
        final[image] = kept
    return final


@pytest.mark.parametrize("num_keypoints", [17, 5, 23])
@pytest.mark.parametrize("seed", range(4))
def test_figures_equal_those_of_pycocotools(seed, num_keypoints):
    rng = np.random.default_rng(seed)
    ground_truth = make_ground_truth(rng, num_keypoints)
    batch = make_batch(rng, ground_truth, num_keypoints)
    assert batch["image_id"].bincount().max() > 20
    metric = filled_metric(ground_truth, batch, num_keypoints)
    figures = metric.compute()
    expected = pycocotools_figures(ground_truth, metric.results(), metric.sigmas)
    assert list(figures) == KEYS
    np.testing.assert_allclose(list(figures.values()), expected, rtol=0, atol=1e-6)
    assert 0 < figures["AP"] < figures["AR"] < 1


@pytest.mark.parametrize("thresholds", [(0.2, 0.9), (0.6, 0.9), (0.2, 0.5)])
@pytest.mark.parametrize("seed", range(3))
def test_poses_are_rescored_and_suppressed_as_the_paper_does(seed, thresholds):
    rng = np.random.default_rng(seed)
    ground_truth = make_ground_truth(rng)
    batch = make_batch(rng, ground_truth)
    batch["scores"][3] = 0.1
    visible, oks = thresholds
    results = filled_metric(ground_truth, batch, visible_threshold=visible, oks_threshold=oks).results()
    final = plain_final_poses(batch, COCO_SIGMAS, visible, oks)
    expected = [(image, row, score) for image, poses in final.items() for score, row in poses]
    assert len(expected) < len(batch["image_id"])
    assert [r["image_id"] for r in results] == [image for image, _, _ in expected]
    np.testing.assert_allclose([r["score"] for r in results], [score for _, _, score in expected], rtol=1e-12)
    triplets = np.reshape([r["keypoints"] for r in results], (-1, 17, 3))
    kept = [row for _, row, _ in expected]
    np.testing.assert_array_equal(triplets[..., :2], batch["keypoints"].double().numpy()[kept])
    np.testing.assert_array_equal(triplets[..., 2], batch["scores"].double().numpy()[kept])


def test_perfect_poses_give_one_and_no_poses_give_zero():
    rng = np.random.default_rng(0)
    ground_truth = make_ground_truth(rng)
    metric = make_metric(ground_truth)
    with pytest.warns(UserWarning, match="before the ``update``"):
        figures = metric.compute()
    assert figures == dict.fromkeys(KEYS, 0.0)
    assert metric.results() == []
    persons = [a for a in ground_truth["annotations"] if a["num_keypoints"] and not a["iscrowd"]]
    perfect = {
        "image_id": torch.tensor([a["image_id"] for a in persons]),
        "instance_id": torch.tensor([a["id"] for a in persons]),
        "keypoints": torch.tensor([a["keypoints"] for a in persons]).reshape(len(persons), 17, 3)[..., :2],
        "scores": torch.ones(len(persons), 17),
        "box_scores": torch.ones(len(persons)),
        "area": torch.tensor([a["area"] for a in persons]),
    }
    metric.reset()
    metric.update(**perfect)
    assert metric.compute() == pytest.approx(dict.fromkeys(KEYS, 1.0))
    for row in metric.per_keypoint():
        assert row["pck"] == 1
        assert row["error"] == pytest.approx(0, abs=1e-4)


def test_repeated_instances_count_once():
    """Without suppression, which would hide repetitions that were not dropped."""
    rng = np.random.default_rng(1)
    ground_truth = make_ground_truth(rng)
    batch = make_batch(rng, ground_truth)
    once, twice = (filled_metric(ground_truth, batch, oks_threshold=1.0) for _ in range(2))
    assert len(once.results()) == 250
    twice.update(**rows(batch, torch.arange(0, 250, 7)))
    twice.update(**rows(batch, torch.tensor([249, 0])))
    assert twice.compute() == once.compute()
    assert twice.results() == once.results()


def test_an_instance_is_one_within_its_image_only():
    rng = np.random.default_rng(3)
    truth = make_ground_truth(rng)
    first, second = (image["id"] for image in truth["images"][:2])
    batch = rows(make_batch(rng, truth), slice(2)) | {"image_id": torch.tensor([first, second])}
    metric = filled_metric(truth, batch | {"instance_id": torch.tensor([7, 7])})
    assert {result["image_id"] for result in metric.results()} == {first, second}


def test_a_key_point_counts_in_the_score_of_its_person_from_above_the_threshold_on():
    rng = np.random.default_rng(4)
    truth = make_ground_truth(rng)
    batch = rows(make_batch(rng, truth), slice(1)) | {"box_scores": torch.ones(1)}
    batch["scores"] = torch.tensor([[0.25] * 16 + [0.75]])
    metric = filled_metric(truth, batch, visible_threshold=0.25)
    assert metric.results()[0]["score"] == 0.75


def test_hidden_key_points_are_labelled_where_nobody_counted_them():
    rng = np.random.default_rng(5)
    truth = make_ground_truth(rng)
    for person in truth["annotations"]:
        person["keypoints"][2::3] = [min(1, visible) for visible in person["keypoints"][2::3]]
    uncounted = copy.deepcopy(truth)
    for person in uncounted["annotations"]:
        del person["num_keypoints"]
    metric = filled_metric(uncounted, make_batch(rng, truth))
    figures = list(metric.compute().values())
    assert figures == pytest.approx(pycocotools_figures(truth, metric.results(), COCO_SIGMAS), nan_ok=True)
    assert figures[0] > 0


def test_the_order_of_batches_does_not_matter():
    rng = np.random.default_rng(2)
    ground_truth = make_ground_truth(rng)
    batch = make_batch(rng, ground_truth)
    shuffled = rows(batch, torch.as_tensor(rng.permutation(250)))
    metric, other = filled_metric(ground_truth, batch), filled_metric(ground_truth, shuffled, size=250)
    assert metric.compute() == other.compute()
    assert metric.results() == other.results()


def test_equal_poses_of_two_instances_are_one_person():
    rng = np.random.default_rng(3)
    ground_truth = make_ground_truth(rng)
    batch = rows(make_batch(rng, ground_truth), slice(0, 1))
    metric = make_metric(ground_truth)
    metric.update(**batch)
    metric.update(**{**batch, "instance_id": torch.tensor([99])})
    assert len(metric.results()) == 1


def test_figures_that_no_person_defines_are_nan():
    rng = np.random.default_rng(4)
    ground_truth = make_ground_truth(rng)
    ground_truth["annotations"] = [a for a in ground_truth["annotations"] if a["area"] > 96**2]
    metric = filled_metric(ground_truth, make_batch(rng, ground_truth))
    figures = metric.compute()
    assert math.isnan(figures["APM"])
    assert math.isnan(figures["ARM"])
    assert figures["APL"] > 0
    np.testing.assert_allclose(
        list(figures.values()), pycocotools_figures(ground_truth, metric.results(), COCO_SIGMAS), atol=1e-6
    )
    console = Console(file=io.StringIO(), width=160)
    console.print(metric.table())
    text = console.file.getvalue()
    assert text.count("n/a") == 2
    assert all(key in text for key in KEYS)


def test_only_crowds_leave_everything_undefined():
    rng = np.random.default_rng(5)
    ground_truth = make_ground_truth(rng)
    for annotation in ground_truth["annotations"]:
        annotation["iscrowd"] = 1
    metric = filled_metric(ground_truth, make_batch(rng, ground_truth))
    assert all(math.isnan(value) for value in metric.compute().values())
    assert all(row["labelled"] == 0 and math.isnan(row["pck"]) for row in metric.per_keypoint())


def test_missed_images_count_unless_only_seen_images_are_wanted():
    rng = np.random.default_rng(6)
    ground_truth = make_ground_truth(rng)
    batch = make_batch(rng, ground_truth)
    half = rows(batch, batch["image_id"] < batch["image_id"].double().median())
    metric = filled_metric(ground_truth, half)
    seen = filled_metric(ground_truth, half, seen_images_only=True)
    assert seen.compute()["AR"] > metric.compute()["AR"]
    images = half["image_id"].unique().tolist()
    expected = pycocotools_figures(ground_truth, seen.results(), COCO_SIGMAS, images)
    np.testing.assert_allclose(list(seen.compute().values()), expected, atol=1e-6)
    labelled = sum(row["labelled"] for row in seen.per_keypoint())
    assert 0 < labelled < sum(row["labelled"] for row in metric.per_keypoint())
    seen.reset()
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert all(math.isnan(value) for value in seen.compute().values())


def test_annotations_numbered_from_zero_are_matched_too():
    """COCO's tools read id 0 as "not matched": here the numbers of the file do not matter."""
    rng = np.random.default_rng(7)
    ground_truth = make_ground_truth(rng)
    batch = make_batch(rng, ground_truth)
    expected = filled_metric(ground_truth, batch).compute()
    for annotation in ground_truth["annotations"]:
        annotation["id"] -= 1
    assert filled_metric(ground_truth, batch).compute() == expected


def test_ground_truth_is_left_alone_and_may_lack_ids_and_counts():
    rng = np.random.default_rng(8)
    ground_truth = make_ground_truth(rng)
    batch = make_batch(rng, ground_truth)
    before = copy.deepcopy(ground_truth)
    expected = filled_metric(ground_truth, batch).compute()
    assert ground_truth == before
    for annotation in ground_truth["annotations"]:
        del annotation["num_keypoints"], annotation["id"]
    assert filled_metric(ground_truth, batch).compute() == expected


def test_no_annotations_can_be_saved_but_not_evaluated(tmp_path):
    rng = np.random.default_rng(9)
    ground_truth = make_ground_truth(rng)
    batch = make_batch(rng, ground_truth)
    metric = filled_metric({**ground_truth, "annotations": []}, batch)
    with pytest.raises(ValueError, match="no annotations"):
        metric.compute()
    assert len(json.loads(metric.save(tmp_path / "results.json").read_text())) == len(metric.results()) > 0


def test_mistakes_are_told_in_sentences():
    rng = np.random.default_rng(10)
    ground_truth = make_ground_truth(rng)
    batch = make_batch(rng, ground_truth)
    first = ground_truth["annotations"][0]

    def with_first(annotation):
        return {**ground_truth, "annotations": [annotation]}

    with pytest.raises(ValueError, match="17 sigmas and 2 key point names"):
        CocoKeypoints(ground_truth, COCO_SIGMAS, ["nose", "tail"])
    with pytest.raises(ValueError, match=r"Annotation 1 of image \d+ has no area"):
        make_metric(with_first({k: v for k, v in first.items() if k != "area"}))
    with pytest.raises(ValueError, match="51 numbers in keypoints, expected 15"):
        make_metric(ground_truth, 5)
    with pytest.raises(ValueError, match="annotations of others"):
        make_metric(with_first({**first, "category_id": 2}))
    with pytest.raises(ValueError, match=r"got keypoints of shape \(250, 16, 2\), expected \(250, 17, 2\)"):
        make_metric(ground_truth).update(**{**batch, "keypoints": batch["keypoints"][:, :16]})
    metric = filled_metric(ground_truth, {**batch, "image_id": batch["image_id"] + 1000})
    with pytest.raises(ValueError, match="not in the ground truth, the first has id"):
        metric.compute()


def test_a_diverged_network_is_told_and_counts_as_wrong():
    rng = np.random.default_rng(11)
    ground_truth = make_ground_truth(rng)
    batch = make_batch(rng, ground_truth)
    batch["keypoints"][::2, 3, 0] = math.nan
    batch["scores"][1::2, 0] = math.inf
    metric = filled_metric(ground_truth, batch)
    with pytest.warns(UserWarning, match="250 of 250 poses .* not finite"):
        figures = metric.compute()
    assert figures["AP"] < 0.01
    assert np.isfinite([r["keypoints"] for r in metric.results()]).all()


def test_saved_results_are_what_pycocotools_reads(tmp_path):
    rng = np.random.default_rng(12)
    ground_truth = make_ground_truth(rng)
    metric = filled_metric(ground_truth, make_batch(rng, ground_truth))
    path = metric.save(tmp_path / "predictions" / "keypoints.json")
    assert [file.name for file in path.parent.iterdir()] == ["keypoints.json"]
    results = json.loads(path.read_text())
    assert [r["score"] for r in results] == [r["score"] for r in metric.results()]
    np.testing.assert_allclose(
        [r["keypoints"] for r in results], [r["keypoints"] for r in metric.results()], rtol=0, atol=5.1e-4
    )
    figures = pycocotools_figures(ground_truth, results, COCO_SIGMAS)
    np.testing.assert_allclose(figures, list(metric.compute().values()), atol=2e-3)


def test_key_point_table_equals_the_plain_loop():
    rng = np.random.default_rng(13)
    ground_truth = make_ground_truth(rng)
    metric = filled_metric(ground_truth, make_batch(rng, ground_truth))
    results = metric.results()
    labelled, hits = np.zeros(17), np.zeros(17)
    errors: list[list[tuple[float, float]]] = [[] for _ in range(17)]
    for person in ground_truth["annotations"]:
        if person["iscrowd"] or not person["num_keypoints"]:
            continue
        label, area = np.reshape(person["keypoints"], (17, 3)), person["area"]
        best, best_oks = None, -1.0
        for result in results:
            if result["image_id"] != person["image_id"]:
                continue
            distance = np.linalg.norm(np.reshape(result["keypoints"], (17, 3))[:, :2] - label[:, :2], axis=1)
            similarity = np.exp(-(distance**2) / (2 * area * (2 * np.array(COCO_SIGMAS)) ** 2))
            if similarity[label[:, 2] > 0].mean() > best_oks:
                best, best_oks = (distance, similarity), similarity[label[:, 2] > 0].mean()
        for k in np.flatnonzero(label[:, 2] > 0):
            labelled[k] += 1
            if best is not None:
                hits[k] += best[1][k] >= 0.5
                errors[k].append((best[0][k], best[0][k] / math.sqrt(area)))
    table = metric.per_keypoint()
    assert [row["name"] for row in table] == [f"point {k}" for k in range(17)]
    assert [row["labelled"] for row in table] == labelled.tolist()
    np.testing.assert_allclose([row["pck"] for row in table], hits / labelled, rtol=1e-9)
    means = np.array([np.mean(e, axis=0) for e in errors])
    np.testing.assert_allclose([(row["error"], row["normalised_error"]) for row in table], means, rtol=1e-9)
    assert class_table(table).row_count == 17


def test_state_is_reset_copied_and_kept_out_of_checkpoints():
    rng = np.random.default_rng(14)
    ground_truth = make_ground_truth(rng)
    batch = make_batch(rng, ground_truth)
    metric = filled_metric(ground_truth, batch)
    figures, results = metric.compute(), metric.results()
    assert metric.state_dict() == {}
    twin = copy.deepcopy(metric)
    metric.reset()
    metric.update(**rows(batch, slice(0, 50)))
    assert len(metric.results()) < len(results)
    assert metric.compute() != figures
    assert twin.results() == results
    metric.reset()
    metric.update(**batch)
    assert metric.compute() == figures


def test_forward_adds_the_batch_like_update():
    rng = np.random.default_rng(15)
    ground_truth = make_ground_truth(rng)
    batch = make_batch(rng, ground_truth)
    metric = make_metric(ground_truth)
    for start in (0, 125):
        metric(**rows(batch, slice(start, start + 125)))
    assert metric.results() == filled_metric(ground_truth, batch).results()


def test_ids_beyond_single_precision_and_low_precision_predictions():
    """Image ids are never floats, and half precision key points are taken as they are."""
    rng = np.random.default_rng(16)
    ground_truth = make_ground_truth(rng)
    for row in ground_truth["images"]:
        row["id"] += 2**40
    for row in ground_truth["annotations"]:
        row["image_id"] += 2**40
    batch = make_batch(rng, ground_truth)
    batch["keypoints"] = batch["keypoints"].bfloat16()
    metric = filled_metric(ground_truth, batch).to(torch.device("cpu")).half()
    expected = pycocotools_figures(ground_truth, metric.results(), COCO_SIGMAS)
    np.testing.assert_allclose(list(metric.compute().values()), expected, atol=1e-6)


def gather_on_two_processes(rank, port, ground_truth, parts, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    metric = make_metric(ground_truth)
    outcome = []
    for part in parts:
        metric.reset()
        if part[rank] is not None:
            metric.update(**part[rank])
        outcome.append((metric.compute(), metric.results()))
        # The local poses are back afterwards, and the process may go on adding to them.
        outcome.append(sum(len(rows) for rows in metric.image_id))
    torch.save(outcome, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_agree_with_one(tmp_path):
    """Uneven shares with rows that both have, as a distributed sampler gives; then one without poses; then both."""
    rng = np.random.default_rng(17)
    ground_truth = make_ground_truth(rng)
    batch = make_batch(rng, ground_truth)
    uneven = rows(batch, slice(0, 150)), rows(batch, slice(140, 250))
    parts = [uneven, (batch, None), (None, batch), (None, None)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(gather_on_two_processes, (port, ground_truth, parts, tmp_path), nprocs=2)
    metric = filled_metric(ground_truth, batch)
    whole = metric.compute(), metric.results()
    for rank, counts in enumerate(((150, 250, 0, 0), (110, 0, 250, 0))):
        outcome = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert outcome[0:6:2] == [whole] * 3
        assert outcome[6] == (dict.fromkeys(KEYS, 0.0), [])
        assert outcome[1::2] == list(counts)

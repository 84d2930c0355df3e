"""Normalised mean errors against slow plain formulas, and what surrounds them: subsets, gathering, files, tables."""

import json
import math
import socket

import numpy as np
import pytest
import torch
import torch.distributed
from rich.console import Console

from tasks.metrics import NME

NAMES = ["left", "right", "tip", "chin"]
KEYS = ["NME", "FR@0.08", "FR@0.10", "AUC@0.08", "AUC@0.10"]


def make_batch(rng: np.random.Generator, count: int = 60) -> dict[str, torch.Tensor]:
    """Faces of 40 to 90 pixels between the eyes, a third of the other points not labelled, errors up to a failure."""
    truth = rng.uniform(0, 500, (count, 4, 2))
    truth[:, 1] = truth[:, 0] + rng.uniform(40, 60, (count, 2))
    visible = rng.choice([0, 1, 2], (count, 4))
    visible[:, :2] = 2
    found = truth + rng.normal(size=truth.shape) * rng.choice([0.3, 2, 6], (count, 1, 1))
    return {
        "image_id": torch.as_tensor(rng.integers(0, 1000, count)),
        "instance_id": torch.as_tensor(rng.permutation(10 * count)[:count]),
        "keypoints": torch.as_tensor(found, dtype=torch.float32),
        "scores": torch.as_tensor(rng.random((count, 4)), dtype=torch.float32),
        "truth": torch.as_tensor(truth, dtype=torch.float32),
        "visible": torch.as_tensor(visible),
        "area": torch.as_tensor(rng.uniform(2e3, 4e4, count), dtype=torch.float32),
    }


def rows(batch, which):
    return {key: value[which] for key, value in batch.items()}


def filled(batch, normaliser=(0, 1), size=16, **options) -> NME:
    metric = NME(NAMES, normaliser, **options)
    for start in range(0, len(batch["image_id"]), size):
        metric.update(**rows(batch, slice(start, start + size)))
    return metric


def slow_errors(batch, normaliser) -> list[float | None]:
    """The error of each face, point by point; None where it has none."""
    errors = []
    for face in range(len(batch["image_id"])):
        truth, found = batch["truth"][face].tolist(), batch["keypoints"][face].tolist()
        labelled = [k for k in range(4) if batch["visible"][face, k] > 0]
        if normaliser == "box":
            length = math.sqrt(batch["area"][face])
        else:
            length = math.dist(*(truth[k] for k in normaliser)) if set(normaliser) <= set(labelled) else 0
        if not labelled or length == 0:
            errors.append(None)
        else:
            errors.append(sum(math.dist(truth[k], found[k]) / length for k in labelled) / len(labelled))
    return errors


def slow_figures(errors: list[float]) -> dict[str, float]:
    """The area by adding up the staircase of the cumulative curve, step by step."""
    found = {"NME": sum(errors) / len(errors)}
    for limit in (0.08, 0.10):
        area, last, share = 0.0, 0.0, 0.0
        for error in sorted(e for e in errors if e <= limit):
            area += share * (error - last)
            last, share = error, share + 1 / len(errors)
        found[f"AUC@{limit:.2f}"] = (area + share * (limit - last)) / limit
        found[f"FR@{limit:.2f}"] = sum(e > limit for e in errors) / len(errors)
    return found


@pytest.mark.parametrize("normaliser", [(0, 1), [1, 0], (3, 0), "box"])
@pytest.mark.parametrize("seed", range(3))
def test_figures_equal_the_slow_formulas(normaliser, seed) -> None:
    batch = make_batch(np.random.default_rng(seed))
    errors = [error for error in slow_errors(batch, normaliser) if error is not None]
    found = filled(batch, normaliser).compute()
    assert list(found) == KEYS
    assert found == pytest.approx(slow_figures(errors), rel=1e-6)
    assert 0 < found["FR@0.10"] < found["FR@0.08"] < 1 or normaliser != (0, 1)


def test_known_figures() -> None:
    """Three faces with errors 0.04, 0.09 and 0.2 of their eye distance of 100."""
    truth = torch.tensor([[0.0, 0], [100, 0], [50, 50], [50, 90]]).repeat(3, 1, 1)
    found = truth + torch.tensor([4.0, 9, 20])[:, None, None] * torch.tensor([0.6, 0.8])
    ids, ones = torch.arange(3), torch.ones(3)
    metric = NME(NAMES, (0, 1))
    metric.update(ids, ids, found, torch.ones(3, 4), truth, torch.full((3, 4), 2), ones)
    expected = {"NME": 0.11, "FR@0.08": 2 / 3, "FR@0.10": 1 / 3, "AUC@0.08": 0.5 / 3, "AUC@0.10": 0.7 / 3}
    assert metric.compute() == pytest.approx(expected, rel=1e-5)


def test_subsets_are_evaluated_with_the_whole() -> None:
    batch = make_batch(np.random.default_rng(1))
    ids, errors = batch["instance_id"].numpy(), np.array(slow_errors(batch, (0, 1)))
    subsets = {"pose": ids[::3], "blur": ids[5:9], "empty": np.array([], int), "elsewhere": np.array([10**6])}
    metric = filled(batch, subsets=subsets)
    found = metric.compute()
    assert list(found) == KEYS + [f"{name}/NME" for name in subsets]
    assert found["pose/NME"] == pytest.approx(errors[::3].mean(), rel=1e-5)
    assert found["blur/NME"] == pytest.approx(errors[5:9].mean(), rel=1e-5)
    assert math.isnan(found["empty/NME"])
    assert math.isnan(found["elsewhere/NME"])
    table = {row["name"]: row for row in metric.per_subset()}
    assert [row["faces"] for row in table.values()] == [60, 20, 4, 0, 0]
    for name, part in (("all", errors), ("pose", errors[::3]), ("blur", errors[5:9])):
        assert {key: table[name][key] for key in KEYS} == pytest.approx(slow_figures(part.tolist()), rel=1e-5)


def test_faces_without_an_error_are_left_out_and_counted() -> None:
    batch = make_batch(np.random.default_rng(2))
    batch["visible"][0] = 0  # nothing labelled
    batch["visible"][1, 0] = 0  # half of the normaliser
    batch["truth"][2, 1] = batch["truth"][2, 0]  # of length zero
    batch["truth"][3, 2:] = math.nan
    batch["visible"][3, 2:] = 0
    errors = slow_errors(batch, (0, 1))
    assert errors[:3] == [None] * 3
    metric = filled(batch)
    assert metric.compute() == pytest.approx(slow_figures([e for e in errors if e is not None]), rel=1e-5)
    console = Console(width=200, record=True)
    console.print(metric.table())
    text = console.export_text()
    assert "3 of 60 faces" in text
    assert "left to right" in text
    alone = metric.face_errors(batch["keypoints"], batch["truth"], batch["visible"], batch["area"])
    np.testing.assert_allclose(alone, [math.nan if e is None else e for e in errors], rtol=1e-5)
    assert [row["NME"] for row in metric.results()].count(None) == 3
    batch["area"][:] = 0
    assert all(math.isnan(value) for value in filled(batch, "box").compute().values())
    assert all(math.isnan(value) for value in NME(NAMES, "box").compute().values())


def test_a_diverged_network_fails() -> None:
    batch = make_batch(np.random.default_rng(3))
    batch["keypoints"][5, 0, 1] = math.nan
    found = filled(batch).compute()
    assert found["NME"] == math.inf
    errors = slow_errors(batch, (0, 1))
    errors[5] = 1e9
    expected = slow_figures(errors)
    assert {k: found[k] for k in KEYS[1:]} == pytest.approx({k: expected[k] for k in KEYS[1:]}, rel=1e-5)


def test_faces_handed_in_twice_count_once() -> None:
    batch = make_batch(np.random.default_rng(4))
    metric = filled(batch)
    once = metric.compute(), metric.results()
    metric.update(**rows(batch, slice(10, 30)))
    assert (metric.compute(), metric.results()) == once
    metric.reset()
    metric.update(**rows(batch, slice(0, 10)))
    assert metric.compute() != once[0]
    assert len(metric.results()) == 10


def test_landmark_table_equals_the_plain_loop() -> None:
    batch = make_batch(np.random.default_rng(5))
    table = filled(batch).per_landmark()
    assert [row["name"] for row in table] == NAMES
    for k, row in enumerate(table):
        pixels, shares = [], []
        for face in range(60):
            if batch["visible"][face, k] > 0:
                truth = batch["truth"][face].tolist()
                pixels.append(math.dist(truth[k], batch["keypoints"][face, k].tolist()))
                shares.append(pixels[-1] / math.dist(truth[0], truth[1]))
        assert row["labelled"] == len(pixels)
        assert row["error"] == pytest.approx(np.mean(pixels), rel=1e-5)
        assert row["normalised_error"] == pytest.approx(np.mean(shares), rel=1e-5)
        assert row["failures"] == pytest.approx(np.mean(np.array(shares) > 0.1), rel=1e-5)
    batch["visible"][:, 3] = 0
    assert math.isnan(filled(batch).per_landmark()[3]["error"])


def test_file_has_each_face_by_the_ids_of_the_data(tmp_path) -> None:
    batch = make_batch(np.random.default_rng(6))
    ids = batch["instance_id"].tolist()
    image = int(batch["image_id"][0])
    metric = filled(batch, image_ids={image: "a.jpg"}, face_ids={ids[0]: "first"})
    metric.compute()
    path = metric.save(tmp_path / "predictions" / "landmarks.json")
    assert [file.name for file in path.parent.iterdir()] == ["landmarks.json"]
    found = json.loads(path.read_text())
    assert found == metric.results()
    (first,) = (row for row in found if row["id"] == "first")
    assert first["image_id"] == "a.jpg"
    expected = torch.cat([batch["keypoints"][0], batch["scores"][0][:, None]], dim=1).flatten()
    np.testing.assert_allclose(first["keypoints"], expected, atol=1e-3)
    assert first["NME"] == pytest.approx(slow_errors(batch, (0, 1))[0], rel=1e-5)


@pytest.mark.parametrize("normaliser", [None, (0,), (0, 0), (0, 4), (-1, 2), (0, 1, 2), "eyes"])
def test_a_normaliser_that_is_none_is_refused(normaliser) -> None:
    with pytest.raises(ValueError, match="expected two different landmarks by their indices, 0 to 3"):
        NME(NAMES, normaliser)


def test_shapes_that_do_not_fit_are_refused() -> None:
    batch = make_batch(np.random.default_rng(7))
    with pytest.raises(ValueError, match=r"got truth of shape \(60, 3, 2\), expected \(60, 4, 2\)"):
        NME(NAMES, (0, 1)).update(**{**batch, "truth": batch["truth"][:, :3]})


def test_low_precision_predictions_and_large_numbers_are_taken_as_they_are() -> None:
    batch = make_batch(np.random.default_rng(8))
    batch["keypoints"] = batch["keypoints"].bfloat16()
    batch["instance_id"] += 2**40
    metric = NME(NAMES, (0, 1), subsets={"one": batch["instance_id"][:1].numpy()}).half()
    metric.update(**batch)
    errors = slow_errors({**batch, "keypoints": batch["keypoints"].float()}, (0, 1))
    assert metric.compute() == pytest.approx(slow_figures(errors) | {"one/NME": errors[0]}, rel=1e-5)


def gather_on_two_processes(rank, port, parts, subset, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    metric = NME(NAMES, (0, 1), subsets={"some": subset})
    outcome = []
    for part in parts:
        metric.reset()
        if part[rank] is not None:
            metric.update(**part[rank])
        outcome.append((metric.compute(), metric.results(), metric.per_landmark()))
        # The local faces are back afterwards, and the process may go on adding to them.
        outcome.append(sum(len(rows) for rows in metric.image_id))
    torch.save(outcome, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_agree_with_one(tmp_path) -> None:
    """Uneven shares with rows that both have, as a distributed sampler gives; then one without faces."""
    batch = make_batch(np.random.default_rng(9))
    subset = batch["instance_id"][::4].numpy().copy()  # tensors move when processes start
    parts = [(rows(batch, slice(0, 41)), rows(batch, slice(38, 60))), (batch, None), (None, batch)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(gather_on_two_processes, (port, parts, subset, tmp_path), nprocs=2)
    metric = filled(batch, subsets={"some": subset})
    whole = metric.compute(), metric.results(), metric.per_landmark()
    for rank, counts in enumerate(((41, 60, 0), (22, 0, 60))):
        outcome = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert outcome[::2] == [whole] * 3
        assert outcome[1::2] == list(counts)

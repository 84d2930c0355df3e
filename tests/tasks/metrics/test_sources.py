"""Poses of a mixture on several processes: figures of one, also where a process has nobody of a data set."""

import socket

import numpy as np
import pytest
import torch
import torch.distributed

from datamodules import Skeleton
from tasks.metrics import BySource, PCKh
from tests.tasks.metrics.test_pckh import make_batch, make_truth

MPII = Skeleton.load("mpii")
POINTS = {"first": list(range(16)), "second": list(range(19, 3, -1))}  # of 20


def mixture(truths: dict) -> BySource:
    return BySource({name: PCKh(truth, MPII.sigmas, MPII.names) for name, truth in truths.items()}, POINTS)


def mixed_batch(truths: dict, batches: dict) -> dict[str, torch.Tensor]:
    """All rows, those of a data set together, with the ids and the 20 points of the mixture."""
    parts = []
    for s, name in enumerate(truths):
        batch = dict(batches[name])
        for key in ("image_id", "instance_id"):
            batch[key] = 2 * batch[key] + s
        points, scores = torch.full((len(batch["area"]), 20, 2), 1e4), torch.zeros(len(batch["area"]), 20)
        points[:, POINTS[name]], scores[:, POINTS[name]] = batch["keypoints"], batch["scores"]
        parts.append(batch | {"keypoints": points, "scores": scores})
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def two_data_sets() -> tuple[dict, dict, dict[str, torch.Tensor]]:
    rng = np.random.default_rng(0)
    truths = {"first": make_truth(rng, 40), "second": make_truth(rng, 25)}
    batches = {name: make_batch(rng, truth) for name, truth in truths.items()}
    return truths, batches, mixed_batch(truths, batches)


def test_figures_are_those_of_each_data_set_alone_and_their_mean() -> None:
    truths, batches, whole = two_data_sets()
    metric = mixture(truths)
    order = torch.randperm(len(whole["area"]), generator=torch.Generator().manual_seed(0))
    for rows in order.split(17):
        metric.update(**{key: value[rows] for key, value in whole.items()})
    found = metric.compute()
    figures = {}
    for name, truth in truths.items():
        alone = PCKh(truth, MPII.sigmas, MPII.names)
        alone.update(**batches[name])
        figures[name] = alone.compute()
        assert {key: found[f"{name}/{key}"] for key in figures[name]} == pytest.approx(figures[name])
    for key in figures["first"]:
        assert found[key] == pytest.approx((figures["first"][key] + figures["second"][key]) / 2)
    assert figures["first"]["PCKh"] != figures["second"]["PCKh"]


def gather(rank: int, port: int, truths: dict, shares: list, folder) -> None:
    torch.distributed.init_process_group("gloo", f"tcp://localhost:{port}", rank=rank, world_size=2)
    metric = mixture(truths)
    metric.update(**shares[rank])
    figures = metric.compute()
    if rank == 0:
        torch.save([figures, len(metric.per_keypoint())], folder / "found.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_agree_with_one(tmp_path) -> None:
    truths, _, whole = two_data_sets()
    metric = mixture(truths)
    metric.update(**whole)
    shares = [{key: value[rows] for key, value in whole.items()} for rows in (slice(0, 30), slice(25, None))]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(gather, (port, truths, shares, tmp_path), nprocs=2)
    assert torch.load(tmp_path / "found.pt", weights_only=True) == [metric.compute(), 32]

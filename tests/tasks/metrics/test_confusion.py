"""Scores of segmentation against plain loops, erosions by OpenCV, and two processes against one."""

import csv
import io
import json
import math
import socket
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from rich.console import Console
from torch import Tensor

from tasks.draw import class_table
from tasks.metrics.confusion import SegmentationScores

CLASSES = 5


def batch(seed: int, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    """Predicted and true labels (2, 24, 32) in blocks, with ignored pixels; the last class occurs nowhere."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, classes - 1, (2, 2, 6, 8), generator=generator)
    labels, mask = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)
    labels = torch.where(torch.rand(labels.shape, generator=generator) < 0.6, mask, labels)
    mask = mask.clone()
    mask[torch.rand(mask.shape, generator=generator) < 0.1] = 255
    return labels, mask


def slow_matrix(labels: Tensor, mask: Tensor) -> list[list[int]]:
    matrix = [[0] * CLASSES for _ in range(CLASSES)]
    for true, predicted in zip(mask.flatten().tolist(), labels.flatten().tolist(), strict=True):
        if true != 255:
            matrix[true][predicted] += 1
    return matrix


def slow_scores(matrix: list[list[int]]) -> dict[str, float]:
    total = sum(map(sum, matrix))
    ious, accuracies, weighted = [], [], 0.0
    for k in range(CLASSES):
        true, predicted = sum(matrix[k]), sum(row[k] for row in matrix)
        if true + predicted:
            ious.append(matrix[k][k] / (true + predicted - matrix[k][k]))
            weighted += true / total * ious[-1]
        if true:
            accuracies.append(matrix[k][k] / true)
    return {
        "mIoU": sum(ious) / len(ious),
        "pixel_accuracy": sum(matrix[k][k] for k in range(CLASSES)) / total,
        "mean_accuracy": sum(accuracies) / len(accuracies),
        "fwIoU": weighted,
    }


def text(*tables: object) -> str:
    console = Console(width=200, file=io.StringIO())
    for table in tables:
        console.print(table)
    return " ".join(console.file.getvalue().split())


def test_one_matrix_for_the_whole_split() -> None:
    scores = SegmentationScores(CLASSES)
    batches = [batch(seed) for seed in range(3)]
    for labels, mask in batches:
        scores.update(labels, mask)
    together = [torch.cat(parts) for parts in zip(*batches, strict=True)]
    matrix = slow_matrix(*together)
    assert scores.compute() == pytest.approx(slow_scores(matrix))
    assert scores.confusion.tolist() == matrix
    means = [slow_scores(slow_matrix(*pair))["mIoU"] for pair in batches]
    assert scores.compute()["mIoU"] != pytest.approx(sum(means) / 3, rel=1e-6)


def test_a_class_that_is_only_predicted_counts_and_an_absent_one_does_not() -> None:
    scores = SegmentationScores(3, ["road", "sky", "car"])
    scores.update(torch.tensor([[[0, 0, 1, 0]]]), torch.tensor([[[0, 0, 0, 255]]]))
    found = scores.compute()
    assert found["mIoU"] == pytest.approx((2 / 3 + 0) / 2)
    assert found["mean_accuracy"] == pytest.approx(2 / 3)
    assert scores.absent == ["car"]
    shown = text(scores.table(), class_table(scores.per_class()))
    assert "absent, so without IoU and left out of the means: car" in shown
    assert f"mIoU {2 / 9:.4f}" in shown
    assert "n/a" in shown


def test_nothing_counted_is_nan_and_reset_forgets() -> None:
    scores = SegmentationScores(CLASSES, boundary=True)
    scores.update(*batch(0))
    scores.reset()
    scores.update(torch.zeros(1, 4, 4, dtype=torch.int64), torch.full((1, 4, 4), 255))
    assert all(math.isnan(value) for value in scores.compute().values())
    assert scores.confusion.sum() == 0


@pytest.mark.parametrize("wrong", [CLASSES, 254, 256, -1])
def test_a_label_outside_the_classes_is_named(wrong: int) -> None:
    labels, mask = batch(0)
    mask[0, 3, 4] = wrong
    with pytest.raises(ValueError, match=rf"mask has the label {wrong}, expected 0 to {CLASSES - 1}, or 255"):
        SegmentationScores(CLASSES).update(labels, mask)


def test_wrong_predictions_shapes_and_names_are_refused() -> None:
    labels, mask = batch(0)
    with pytest.raises(ValueError, match="differ in shape"):
        SegmentationScores(CLASSES).update(labels[:, 1:], mask)
    labels[0, 0, 0] = CLASSES
    with pytest.raises(ValueError, match=f"A prediction has the label {CLASSES}, expected 0 to {CLASSES - 1}:"):
        SegmentationScores(CLASSES).update(labels, mask)
    with pytest.raises(ValueError, match="3 class names for 5 classes"):
        SegmentationScores(CLASSES, ["a", "b", "c"])


def test_small_integer_types_count_alike() -> None:
    labels, mask = batch(1)
    wide, narrow = SegmentationScores(CLASSES), SegmentationScores(CLASSES)
    wide.update(labels, mask)
    narrow.update(labels.to(torch.uint8), mask.to(torch.uint8))
    assert torch.equal(wide.confusion, narrow.confusion)


def slow_bands(labels: np.ndarray, classes: int) -> list[np.ndarray]:
    """Published boundary of each class: the mask without its erosion, the image framed by background."""
    distance = max(1, round(0.02 * math.hypot(*labels.shape)))
    bands = []
    for k in range(classes):
        mask = (labels == k).astype(np.uint8)
        framed = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        eroded = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=distance)[1:-1, 1:-1]
        bands.append((mask - eroded).astype(bool))
    return bands


@pytest.mark.parametrize("size", [(24, 32), (48, 64), (97, 129), (200, 150)])
def test_boundary_iou_is_that_of_eroded_masks(size: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    pair = [generator.integers(0, 4, (7, 5)).astype(np.uint8) for _ in range(2)]
    labels, mask = (cv2.resize(x, size[::-1], interpolation=cv2.INTER_NEAREST) for x in pair)
    mask[5:9, 6:20] = 255
    labels[: size[0] // 2] = np.where(mask[: size[0] // 2] == 255, 0, mask[: size[0] // 2])
    scores = SegmentationScores(4, boundary=True)
    scores.update(torch.from_numpy(labels)[None].long(), torch.from_numpy(mask)[None].long())
    seen = np.where(mask == 255, 255, labels)
    expected = []
    for true, predicted in zip(slow_bands(mask, 4), slow_bands(seen, 4), strict=True):
        expected.append((true & predicted).sum() / (true | predicted).sum())
    assert [row["boundary_IoU"] for row in scores.per_class()] == pytest.approx(expected)
    assert scores.compute()["boundary_IoU"] == pytest.approx(np.mean(expected))


def test_boundary_iou_of_a_shifted_square() -> None:
    """On 50x50 the band is 1 pixel wide: 36 pixels of a 10x10 square, 9 above and 9 below survive the shift."""
    mask = torch.zeros(1, 50, 50, dtype=torch.int64)
    mask[0, 20:30, 20:30] = 1
    scores = SegmentationScores(2, boundary=True)
    scores.update(mask.roll(1, dims=2), mask)
    row = scores.per_class()[1]
    assert row["boundary_IoU"] == pytest.approx(18 / (36 + 36 - 18))
    assert row["boundary_IoU"] < row["IoU"]


def test_saved_files_hold_matrix_and_figures(tmp_path: Path) -> None:
    scores = SegmentationScores(CLASSES, ["a", "b", "c", "d", "e,f"])
    scores.update(*batch(2))
    content = json.loads(scores.save(tmp_path / "deep" / "val_confusion.json").read_text())
    assert content["matrix"] == slow_matrix(*batch(2))
    assert content["metrics"]["mIoU"] == pytest.approx(scores.compute()["mIoU"])
    assert content["absent"] == ["e,f"]
    assert content["per_class"][4]["IoU"] is None
    with (tmp_path / "deep" / "val_confusion.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0][1:] == ["a", "b", "c", "d", "e,f"]
    assert [[int(x) for x in row[1:]] for row in rows[1:]] == content["matrix"]


def in_one_of_two_processes(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    scores = SegmentationScores(CLASSES, boundary=True)
    for seed in (0, 1) if rank == 0 else (2,):
        scores.update(*batch(seed))
    results = scores.compute()
    torch.distributed.barrier()
    if rank == 1:  # reading the result afterwards needs no other process
        torch.save({"scores": results, "matrix": scores.confusion, "rows": scores.per_class()}, f"{folder}/result.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(in_one_of_two_processes, (port, str(tmp_path)), nprocs=2)
    found = torch.load(tmp_path / "result.pt")
    alone = SegmentationScores(CLASSES, boundary=True)
    for seed in range(3):
        alone.update(*batch(seed))
    assert found["scores"] == alone.compute()
    assert torch.equal(found["matrix"], alone.confusion)
    assert str(found["rows"]) == str(alone.per_class())

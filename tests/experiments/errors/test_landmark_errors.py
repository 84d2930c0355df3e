"""Failed, mirrored and biased faces are found on hand-made ones; a run of landmarks is analysed whole."""

import math

import numpy as np
import pytest
import torch

from experiments.errors import errors
from experiments.errors.landmarks import LandmarkErrors
from experiments.run import main as run
from tasks.metrics import NME
from tests.conftest import ROOT

NAMES = ["left_eye", "right_eye", "nose", "left_mouth", "right_mouth"]
PAIRS = [[0, 1], [3, 4]]
FACE = np.array([[0.0, 0], [100, 0], [50, 40], [20, 80], [80, 80]])


def analysed(found: list[np.ndarray], visible: list[list[int]] | None = None) -> LandmarkErrors:
    """Of predictions of one face, whose eyes are 100 pixels apart; faces are numbered from 10."""
    count = len(found)
    metric = NME(NAMES, (0, 1))
    numbers = torch.arange(10, 10 + count)
    seen = torch.full((count, 5), 2) if visible is None else torch.tensor(visible)
    truth = torch.tensor(FACE, dtype=torch.float32).expand(count, 5, 2)
    points = torch.tensor(np.array(found), dtype=torch.float32)
    metric.update(numbers, numbers, points, torch.full((count, 5), 0.5), truth, seen, torch.ones(count))
    return LandmarkErrors(NAMES, PAIRS, metric.faces)


def values(rows: list[dict]) -> dict[str, float]:
    return {row["name"]: row["value"] for row in rows}


def test_kinds_of_faces_are_counted() -> None:
    mirrored = FACE[[1, 0, 2, 4, 3]]
    unseen = [[2] * 5, [2] * 5, [2] * 5, [0] * 5]
    found = analysed([FACE + np.array([3, 4]), FACE + np.array([0, 20]), mirrored, FACE], unseen)
    summary = values(found.summary())
    assert summary["faces"] == 4
    assert summary["without error"] == 1
    assert summary["failed"] == 2
    assert summary["mirrored"] == 1
    mirror = (100 + 100 + 0 + 60 + 60) / 5 / 100
    assert summary["error of failed faces"] == pytest.approx((0.2 + mirror) / (0.05 + 0.2 + mirror), rel=1e-6)
    assert summary["swapped landmarks"] == pytest.approx(4 / 12)
    rows = found.faces()
    assert [row["sample"] for row in rows] == [12, 11, 10, 13]
    assert [row["mirrored"] for row in rows] == [True, False, False, False]
    assert [row["failed"] for row in rows] == [True, True, False, False]
    assert rows[0]["NME"] == pytest.approx(mirror)
    assert (rows[0]["worst_landmark"], rows[0]["worst_error"]) == ("left_eye", pytest.approx(1.0))
    assert math.isnan(rows[3]["NME"])


def test_landmarks_have_their_bias_and_swaps() -> None:
    shifted, swapped = FACE.copy(), FACE.copy()
    shifted[2] += [6, -8]
    swapped[[0, 1]] = FACE[[1, 0]]
    table = {row["name"]: row for row in analysed([shifted, swapped]).per_landmark()}
    assert next(iter(table)) in ("left_eye", "right_eye")  # the largest error first
    assert table["left_eye"]["normalised_error"] == pytest.approx(0.5)
    assert table["left_eye"]["swapped"] == pytest.approx(0.5)
    assert (table["nose"]["right"], table["nose"]["down"]) == pytest.approx((0.03, -0.04))
    assert math.isnan(table["nose"]["swapped"])  # it has no counterpart
    assert table["left_mouth"]["normalised_error"] == table["left_mouth"]["failures"] == 0


def test_a_counterpart_that_is_not_labelled_is_compared_with_nothing() -> None:
    found = analysed([FACE[[1, 0, 2, 4, 3]]], [[2, 2, 2, 2, 0]])
    assert values(found.summary())["swapped landmarks"] == 1.0
    table = {row["name"]: row for row in found.per_landmark()}
    assert math.isnan(table["left_mouth"]["swapped"])
    assert table["right_mouth"]["labelled"] == 0
    assert found.per_landmark()[-1]["name"] == "right_mouth"


def test_an_error_of_a_tenth_is_no_failure_yet() -> None:
    at, beyond = (analysed([FACE + np.array([step, 0])]) for step in (10, 10.5))
    assert [values(found.summary())["failed"] for found in (at, beyond)] == [0, 1]
    assert [found.faces()[0]["failed"] for found in (at, beyond)] == [False, True]
    assert [found.per_landmark()[0]["failures"] for found in (at, beyond)] == [0, 1]


@pytest.mark.slow
def test_a_run_is_analysed(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    flags = ["--runs", str(tmp_path), "--wandb.mode", "disabled"]
    report = errors(run(["landmarks_wflw.yaml", "sample.yaml", "debug.yaml", *flags]).default_root_dir)
    assert list(report.tables) == ["summary", "landmarks", "subsets", "faces"]
    assert len(report.tables["landmarks"]) == 98
    assert len(report.tables["faces"]) == 8  # two batches of four
    assert all(row["file"].endswith((".jpg", ".png")) for row in report.tables["faces"])
    assert set(report.figures) == {"cumulative_error", "landmarks", "worst"}
    assert all(picture.dtype == torch.uint8 and len(picture) == 3 for picture in report.figures.values())

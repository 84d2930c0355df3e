"""Confusions, mistakes and calibration of a classifier, counted again by plain loops and by torchmetrics."""

import math

import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from experiments.errors.classification import BINS, ClassificationErrors
from experiments.errors.report import confusion_pairs

NAMES = ["ant", "bee", "cat", "dog"]


def batches(seed=0, size=200):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (size,), generator=generator)  # no dog
    logits = 2 * torch.randn(size, 4, generator=generator)
    logits[torch.arange(size), labels] += 1.5
    return logits.softmax(1), labels, torch.arange(size) + 1000


@pytest.fixture
def errors():
    found = ClassificationErrors(4, NAMES)
    probabilities, labels, ids = batches()
    for start in range(0, 200, 64):
        part = slice(start, start + 64)
        found.update(probabilities[part], labels[part], ids[part])
    return found


def test_confusions_are_counted(errors):
    probabilities, labels, _ = batches()
    guesses = probabilities.argmax(1)
    rows = errors.confusions()
    assert [row["count"] for row in rows] == sorted((row["count"] for row in rows), reverse=True)
    assert sum(row["count"] for row in rows) == (guesses != labels).sum()
    assert sum(row["share_of_errors"] for row in rows) == pytest.approx(1)
    for row in rows:
        truth, guess = NAMES.index(row["truth"]), NAMES.index(row["prediction"])
        assert truth != guess
        assert row["count"] == ((labels == truth) & (guesses == guess)).sum()
        assert row["share"] == pytest.approx(row["count"] / (labels == truth).sum().item())


def test_mistakes_come_most_confident_first_with_their_ids(errors):
    probabilities, labels, ids = batches()
    rows = errors.mistakes()
    expected = [i for i in range(200) if probabilities[i].argmax() != labels[i]]
    expected.sort(key=lambda i: -probabilities[i].max())
    assert [row["sample"] for row in rows] == ids[expected].tolist()
    first = expected[0]
    assert rows[0]["truth"] == NAMES[labels[first]]
    assert rows[0]["prediction"] == NAMES[probabilities[first].argmax()]
    assert rows[0]["confidence"] == pytest.approx(probabilities[first].max().item())
    assert rows[0]["truth_probability"] == pytest.approx(probabilities[first, labels[first]].item())


def test_classes_come_least_accurate_first_and_those_without_images_last(errors):
    rows = errors.per_class()
    assert rows[-1]["name"] == "dog"
    assert math.isnan(rows[-1]["accuracy"])
    assert [row["accuracy"] for row in rows[:3]] == sorted(row["accuracy"] for row in rows[:3])
    pairs = {(row["truth"], row["prediction"]): row for row in errors.confusions()}
    for row in rows[:3]:
        most = max((p for (truth, _), p in pairs.items() if truth == row["name"]), key=lambda p: p["count"])
        assert row["share"] == pytest.approx(most["share"])


def test_calibration_error_is_that_of_torchmetrics_and_of_the_bins(errors):
    probabilities, labels, _ = batches()
    value = {row["name"]: row["value"] for row in errors.summary()}
    assert value["ECE"] == pytest.approx(
        multiclass_calibration_error(probabilities, labels, 4, n_bins=BINS, norm="l1").item(), abs=1e-6
    )
    bins = [row for row in errors.calibration() if row["images"]]
    assert sum(row["images"] for row in bins) == value["images"] == 200
    gaps = sum(row["images"] * abs(row["confidence"] - row["accuracy"]) for row in bins) / 200
    assert gaps == pytest.approx(value["ECE"], abs=1e-6)
    for row in bins:
        assert row["above"] <= row["confidence"] <= row["upto"]


def test_a_certain_guess_is_in_the_last_bin():
    errors = ClassificationErrors(2, ["a", "b"])
    errors.update(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]), torch.tensor([0, 1]))
    assert errors.calibration()[-1]["images"] == 2
    assert errors.calibration()[-1]["accuracy"] == 0.5
    value = {row["name"]: row["value"] for row in errors.summary()}
    assert value["overconfidence"] == pytest.approx(0.5)


def test_without_mistakes_there_are_no_rows():
    errors = ClassificationErrors(2, ["a", "b"])
    errors.update(torch.tensor([[0.9, 0.1]]), torch.tensor([0]), torch.tensor([0]))
    assert errors.mistakes() == errors.confusions() == []
    assert confusion_pairs(torch.zeros(2, 2, dtype=torch.int64), ["a", "b"]) == []

"""Where a classifier errs, and how far its confidence can be trusted (calibration; Guo et al., ICML 2017).

Which classes it takes for which, and its most confident mistakes.

errors = ClassificationErrors(num_classes, names); errors.update(probabilities, labels, ids) a batch; then the tables
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassCalibrationError

from datamodules.base import BaseDataModule
from experiments.errors.report import (
    BARS,
    EXAMPLES,
    Report,
    class_bars,
    confusion_bars,
    confusion_pairs,
    predicted,
    report_of,
)
from tasks import ClassificationTask
from tasks.draw import draw_confusion
from tasks.draw.charts import draw_gallery, draw_reliability

BINS = 15  # as in the paper


@report_of.register
def classification_report(
    task: ClassificationTask, data: BaseDataModule, limit: int | float | None = None, predictions: Path | None = None
) -> Report:
    """Confusions, classes, the most confident mistakes, calibration."""
    dataset = data.split(task.split)
    errors = ClassificationErrors(task.num_classes, task.class_names)
    for found, batch in predicted(task, data, limit):
        errors.update(found["probabilities"], batch["label"], batch["image_id"])
    mistakes = [{"file": dataset.name(row["sample"]), **row} for row in errors.mistakes()]
    summary = errors.summary()
    tables = {
        "summary": summary,
        "classes": errors.per_class(),
        "confusions": errors.confusions(),
        "mistakes": mistakes,
        "calibration": errors.calibration(),
    }
    figures = {"calibration": draw_reliability(tables["calibration"], summary[-1]["value"])}
    figures["classes"] = class_bars(tables["classes"], "accuracy")
    if task.num_classes <= BARS:
        figures["confusion_matrix"] = draw_confusion(errors.matrix, errors.names)
    if mistakes:
        figures["confusions"] = confusion_bars(tables["confusions"])
        worst = mistakes[: 2 * EXAMPLES]
        images = [torch.from_numpy(dataset[row["sample"]]["image"]).permute(2, 0, 1) for row in worst]
        captions = [
            (
                f"{row['prediction']} {row['confidence']:.2f}",
                f"is {row['truth']} {row['truth_probability']:.2f}",
                Path(row["file"]).name,
            )
            for row in worst
        ]
        figures["mistakes"] = draw_gallery(images, captions)
    return Report({name: rows for name, rows in tables.items() if rows}, figures)


class ClassificationErrors:
    """Mistakes and calibration over a split; a few numbers a sample are kept, images are not.

    Args:
        num_classes: K, at least 2.
        names: (K,) names of the classes.
    """

    def __init__(self, num_classes: int, names: Sequence[str]) -> None:
        self.num_classes, self.names = num_classes, list(names)
        self.calibration_error = MulticlassCalibrationError(num_classes, n_bins=BINS, norm="l1")
        self._batches: list[Tensor] = [torch.zeros(5, 0, dtype=torch.float64)]

    def update(self, probabilities: Tensor, labels: Tensor, ids: Tensor) -> None:
        """Count a batch: probabilities (B, K), true classes (B,), ids of the samples (B,)."""
        probabilities, labels = probabilities.float().cpu(), labels.cpu()
        confidence, guess = probabilities.max(1)
        truth = probabilities.gather(1, labels[:, None])[:, 0]
        self.calibration_error.update(probabilities, labels)
        self._batches.append(torch.stack([x.double() for x in (ids.cpu(), labels, guess, confidence, truth)]))

    @property
    def matrix(self) -> Tensor:
        """(K, K) int, counts of true class (row) and predicted class (column)."""
        _, labels, guesses, _, _ = self._samples()
        pairs = (labels * self.num_classes + guesses).long()
        return pairs.bincount(minlength=self.num_classes**2).view(self.num_classes, self.num_classes)

    def summary(self) -> list[dict[str, Any]]:
        """`name`, `value` and `meaning` of images, accuracy, mean confidence and calibration error."""
        _, labels, guesses, confidences, _ = self._samples()
        count = len(labels)
        accuracy, confidence = (labels == guesses).double().mean().item(), confidences.mean().item()
        error = self.calibration_error.compute().item() if count else math.nan
        gap = confidence - accuracy
        return [
            {"name": "images", "value": count, "meaning": "of the evaluated split"},
            {"name": "accuracy", "value": accuracy, "meaning": "share of the images whose first guess is right"},
            {"name": "mean confidence", "value": confidence, "meaning": "probability of the first guess"},
            {"name": "overconfidence", "value": gap, "meaning": "mean confidence minus accuracy"},
            {"name": "ECE", "value": error, "meaning": f"mean gap of confidence and accuracy over {BINS} bins"},
        ]

    def per_class(self) -> list[dict[str, Any]]:
        """A dict a class, least accurate first: `name`, `images`, `accuracy`, `taken_for` and with which `share`."""
        rows = []
        for label, (name, counts) in enumerate(zip(self.names, self.matrix, strict=True)):
            images, wrong = int(counts.sum()), counts.clone()
            wrong[label] = 0
            most = int(wrong.argmax())
            rows.append(
                {
                    "name": name,
                    "images": images,
                    "accuracy": int(counts[label]) / images if images else math.nan,
                    "taken_for": self.names[most] if wrong[most] else "",
                    "share": int(wrong[most]) / images if images else math.nan,
                }
            )
        return sorted(rows, key=lambda row: (math.isnan(row["accuracy"]), row["accuracy"]))

    def confusions(self) -> list[dict[str, Any]]:
        """See `confusion_pairs`."""
        return confusion_pairs(self.matrix, self.names)

    def mistakes(self) -> list[dict[str, Any]]:
        """A dict a mistake, most confident first.

        `sample`, `truth`, `prediction`, `confidence`, and `truth_probability`, what was left for the true class.
        """
        samples = self._samples()
        wrong = samples[:, samples[1] != samples[2]]
        wrong = wrong[:, wrong[3].argsort(descending=True, stable=True)]
        return [
            {"sample": int(i), "truth": self.names[int(label)], "prediction": self.names[int(guess)]}
            | {"confidence": confidence, "truth_probability": truth}
            for i, label, guess, confidence, truth in wrong.T.tolist()
        ]

    def calibration(self) -> list[dict[str, Any]]:
        """A dict a bin: `name`, `above`, `upto`, `images`, mean `confidence`, `accuracy`, nan if empty."""
        _, labels, guesses, confidence, _ = self._samples()
        right = (labels == guesses).double()
        place = (confidence * BINS).long().clamp(max=BINS - 1)
        images = place.bincount(minlength=BINS)
        means = [place.bincount(x, minlength=BINS) / images for x in (confidence, right)]
        columns = zip(images.tolist(), *(mean.tolist() for mean in means), strict=True)
        return [
            {"name": f"{i / BINS:.2f} to {(i + 1) / BINS:.2f}", "above": i / BINS, "upto": (i + 1) / BINS}
            | {"images": n, "confidence": mean, "accuracy": share}
            for i, (n, mean, share) in enumerate(columns)
        ]

    def _samples(self) -> Tensor:
        """(5, N) float64: id, true class, first guess, its probability, that of the true class."""
        return torch.cat(self._batches, dim=1)

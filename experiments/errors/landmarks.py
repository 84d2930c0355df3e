"""Error analysis of facial landmarks: the worst faces, the worst landmarks, and faces read as their mirror images.

errors = LandmarkErrors(names, flip_pairs, faces), with `NME.faces` after an evaluation; then the tables
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from datamodules.base import BaseDataModule, First
from datamodules.keypoints.crop import apply_affine, invert_affine
from datamodules.keypoints.persons import Persons
from experiments.errors.report import BARS, EXAMPLES, TILE, Report, predicted, report_of
from tasks import LandmarkTask
from tasks.draw import draw_caption, draw_pose, grid
from tasks.draw.charts import draw_bars, draw_gallery
from tasks.metrics.landmarks import Faces

FAILED = 0.10  # error of a face beyond which it counts as failed, as in the failure rates that are published
MEANINGS = {
    "faces": "of the evaluated split",
    "without error": "no labelled landmark, or a normaliser that is zero or not labelled; left out",
    "failed": f"with an error above {FAILED:.2f}",
    "mirrored": "nearer to the truth with left and right exchanged",
    "error of failed faces": "their share of the sum of all errors: what mending them alone could bring",
    "swapped landmarks": "share of the paired landmarks that lie nearer to their counterpart's true place",
}


@report_of.register
def landmark_report(
    task: LandmarkTask, data: BaseDataModule, limit: int | float | None = None, predictions: Path | None = None
) -> Report:
    """Failed and mirrored faces, each landmark, each subset, the worst faces."""
    task.reset()
    for found, batch in predicted(task, data, limit):
        task.update(found, batch)
    metric, names = task.metric, task.skeleton["names"]
    errors = LandmarkErrors(names, task.skeleton["flip_pairs"], metric.faces)
    dataset = data.split(task.split)
    dataset = dataset.dataset if isinstance(dataset, First) else dataset
    rows = {number: row for row, number in enumerate(dataset.instance_ids.tolist())}
    faces = [{"file": str(dataset.file_names[dataset.images[rows[face["sample"]]]]), **face} for face in errors.faces()]
    landmarks = errors.per_landmark()
    tables = {"summary": errors.summary(), "landmarks": landmarks, "subsets": metric.per_subset(), "faces": faces}
    worst = [row for row in landmarks if not math.isnan(row["normalised_error"])][:BARS]
    title = f"mean error of each landmark, the {len(worst)} worst of {len(names)}"
    figures = {"cumulative_error": task.tables()["cumulative_error"]}
    figures["landmarks"] = draw_bars(
        [row["name"] for row in worst], [row["normalised_error"] for row in worst], "share of the normaliser", title
    )
    chosen = [face for face in faces if not math.isnan(face["NME"])][:EXAMPLES]
    if chosen:
        figures["worst"] = worst_faces(task, dataset, errors, chosen, rows)
    return Report({name: table for name, table in tables.items() if table}, figures)


class LandmarkErrors:
    """The errors of N faces of L landmarks.

    Args:
        names: (L,) names of the landmarks.
        flip_pairs: Pairs of landmarks that are each other's mirror image.
        faces: What was found and what is true.
    """

    def __init__(self, names: Sequence[str], flip_pairs: Sequence[Sequence[int]], faces: Faces) -> None:
        self.names, self.found = list(names), faces
        self.partner = np.arange(len(self.names))
        for left, right in flip_pairs:
            self.partner[left], self.partner[right] = right, left
        paired = self.partner != np.arange(len(self.names))
        own = faces.distances
        other = np.linalg.norm(faces.keypoints - faces.truth[:, self.partner], axis=2)
        with np.errstate(invalid="ignore"):
            self.swapped = paired & (other < own)
            """(N, L) whether a landmark lies nearer to the true place of its counterpart."""
        both = ~np.isnan(own) & ~np.isnan(other)
        self.compared = paired & both
        # Over the landmarks whose counterpart is labelled too, so that both sums are of the same number.
        self.mirrored = np.where(both, other, 0).sum(1) < np.where(both, own, 0).sum(1)
        """(N,) whether a face lies nearer to the truth with left and right exchanged."""

    def summary(self) -> list[dict[str, Any]]:
        """`name`, `value` and `meaning` of how many faces there are, failed, are mirrored, and what these cost."""
        errors = self.found.errors
        counted = errors[~np.isnan(errors)]
        failed = counted > FAILED
        values = {
            "faces": len(errors),
            "without error": len(errors) - len(counted),
            "failed": int(failed.sum()),
            "mirrored": int(self.mirrored.sum()),
            "error of failed faces": _ratio(counted[failed].sum(), counted.sum()),
            "swapped landmarks": _ratio(self.swapped.sum(), self.compared.sum()),
        }
        return [{"name": name, "value": value, "meaning": MEANINGS[name]} for name, value in values.items()]

    def per_landmark(self) -> list[dict[str, Any]]:
        """A dict a landmark, largest error first, over the faces that have one.

        `name`; `labelled`; `normalised_error`, mean as a share of the normaliser; `right` and `down`, where predictions
        lie on average from the truth, likewise (far from zero: a bias and no noise); `failures`, share above 0.10;
        `swapped`, share nearer to the true place of its counterpart, nan where it has none.
        """
        faces = self.found
        counted = ~np.isnan(faces.errors)
        lengths = faces.lengths[counted, None]
        shares = faces.distances[counted] / lengths
        steps = (faces.keypoints - faces.truth)[counted] / lengths[..., None]
        rows = []
        for k, name in enumerate(self.names):
            labelled = ~np.isnan(shares[:, k])
            right, down = (_mean(steps[labelled, k, axis]) for axis in (0, 1))
            compared = self.compared[counted, k]
            rows.append(
                {
                    "name": name,
                    "labelled": int(labelled.sum()),
                    "normalised_error": _mean(shares[labelled, k]),
                    "right": right,
                    "down": down,
                    "failures": _mean(shares[labelled, k] > FAILED),
                    "swapped": _mean(self.swapped[counted, k][compared]),
                }
            )
        return sorted(rows, key=lambda row: (math.isnan(row["normalised_error"]), -row["normalised_error"]))

    def faces(self) -> list[dict[str, Any]]:
        """A dict a face, largest error first, those without one last.

        `sample`, its number; `NME`; `failed`; `mirrored`; `confidence`, mean score of its landmarks; `worst_landmark`
        and `worst_error`, as a share of the normaliser.
        """
        found, rows = self.found, []
        for i, error in enumerate(found.errors.tolist()):
            row = {"sample": int(found.instance_id[i]), "NME": error, "failed": error > FAILED}
            row |= {"mirrored": bool(self.mirrored[i]), "confidence": float(found.scores[i].mean())}
            if not math.isnan(error):
                worst = int(np.nanargmax(found.distances[i]))
                row |= {"worst_landmark": self.names[worst]}
                row |= {"worst_error": float(found.distances[i, worst] / found.lengths[i])}
            else:
                row |= {"worst_landmark": "", "worst_error": math.nan}
            rows.append(row)
        return sorted(rows, key=lambda row: (math.isnan(row["NME"]), -row["NME"]))


def worst_faces(
    task: LandmarkTask,
    dataset: Persons,
    errors: LandmarkErrors,
    faces: Sequence[dict[str, Any]],
    rows: dict[int, int],
) -> Tensor:
    """Crops of faces, truth above prediction, as (3, height, width) uint8."""
    places = {number: row for row, number in enumerate(errors.found.instance_id.tolist())}
    truths, predictions, captions = [], [], []
    for face in faces:
        sample, number = dataset[rows[face["sample"]]], places[face["sample"]]
        to_crop = invert_affine(sample["to_image"].astype(np.float64))
        image = torch.from_numpy(sample["image"]).permute(2, 0, 1)
        scale = TILE / max(image.shape[1:])
        size = [round(scale * side) for side in image.shape[1:]]
        tile = F.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True)[0]
        tile = tile.round().clamp(0, 255).to(torch.uint8)
        found = apply_affine(to_crop, np.nan_to_num(errors.found.keypoints[number], posinf=0, neginf=0))
        shown = torch.from_numpy(~np.isnan(errors.found.distances[number]))
        for tiles, points in ((truths, sample["keypoints"]), (predictions, found)):
            enlarged = torch.from_numpy((np.asarray(points, np.float64) + 0.5) * scale - 0.5)
            tiles.append(draw_pose(tile, enlarged, shown, task.skeleton, scale=1))
        kind = "mirrored: " if face["mirrored"] else ""
        captions.append([f"{kind}NME {face['NME']:.3f}", face["worst_landmark"], Path(face["file"]).name])
    truth = grid([truths], ["truth"])
    caption = draw_caption("prediction, its error, and the landmark with the largest", truth.shape[-1])
    return torch.cat([truth, caption, draw_gallery(predictions, captions, EXAMPLES)], dim=1)


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else math.nan


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan

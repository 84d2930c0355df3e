"""Error analysis of poses: tables and charts after `PoseErrors`, and the persons with the most errors of each kind."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.base import BaseDataModule, First
from datamodules.keypoints.persons import Persons
from experiments.errors.pose_errors import ERRORS, KINDS, PoseErrors
from experiments.errors.report import EXAMPLES, TILE, Report, limited, predicted, report_of
from tasks import PoseTask
from tasks.draw import draw_caption, draw_pose, grid
from tasks.draw.charts import draw_bars, draw_gallery, draw_stacked_bars


@report_of.register
def pose_report(
    task: PoseTask, data: BaseDataModule, limit: int | float | None = None, predictions: Path | None = None
) -> Report:
    """Errors after the taxonomy of `PoseErrors`, with examples of each kind where the data set has image files.

    Poses come from the run's own COCO results where there are such, else they are predicted. Of a mixture, each data
    set has tables and charts of its own.
    """
    tables: dict[str, list[dict[str, Any]]] = {}
    figures: dict[str, Tensor] = {}
    predict = cache(lambda: _predict(task, data, limit))
    for part in _parts(task, data):
        results = None if predictions is None else predictions / part.prefix / f"{task.split}_keypoints.json"
        if results is not None and results.is_file():
            poses = json.loads(results.read_text())
            seen = {pose["image_id"] for pose in poses}
        else:
            predict()
            poses = part.metric.results()
            seen = {part.metric.image_ids[number] for number in part.metric.rows()[0].tolist()}
        truth = part.truth
        if limited(limit):
            truth = {key: rows if key == "categories" else [r for r in rows if _image_of(r, key) in seen]
                     for key, rows in truth.items()}  # fmt: skip
        found = _report(PoseErrors(truth, poses, part.skeleton), truth, part.dataset)
        tables |= {part.prefix + key: rows for key, rows in found.tables.items()}
        figures |= {part.prefix + key: picture for key, picture in found.figures.items()}
    return Report(tables, figures)


@dataclass(frozen=True)
class Part:
    """A data set that poses are evaluated on: the data themselves, or each one of a mixture."""

    prefix: str
    truth: dict[str, list]
    skeleton: Mapping[str, Any]
    metric: Any
    dataset: Any


def _parts(task: PoseTask, data: BaseDataModule) -> list[Part]:
    whole, sources = data.split(task.split), getattr(data, "by_source", {})
    if not sources:
        return [Part("", data.ground_truth(task.split), task.skeleton, task.metric, whole)]
    return [
        Part(f"{name}/", source.ground_truth(task.split), source.skeleton.to_dict(), task.metric.metrics[name], dataset)
        for (name, source), dataset in zip(sources.items(), whole.parts, strict=True)
    ]


def _predict(task: PoseTask, data: BaseDataModule, limit: int | float | None) -> None:
    """Fill the metric."""
    task.reset()
    for predictions, batch in predicted(task, data, limit):
        task.update(predictions, batch)


def _report(errors: PoseErrors, truth: Mapping[str, Any], dataset: Any) -> Report:
    totals, keypoints = errors.totals(), errors.per_keypoint()
    each = "persons" if truth["categories"][0].get("name") == "person" else "instances"
    tables = {"errors": totals, "keypoints": keypoints, each: errors.persons(), "background": errors.background()}
    mistakes = totals[1:]
    shares = {kind: [row[kind] for row in [_total_shares(totals), *keypoints]] for kind in KINDS}
    gains = [row["gain"] for row in mistakes]
    title = f"what correcting each kind of error would add to AP {errors.ap():.3f}"
    figures = {
        "kinds": draw_stacked_bars(
            ["all", *errors.names], shares, f"share of the labelled key points of matched {each}", "kinds of errors"
        ),
        "gain": draw_bars([row["name"] for row in mistakes], gains, "AP gained", title),
    }
    dataset = dataset.dataset if isinstance(dataset, First) else dataset
    if isinstance(dataset, Persons):
        figures |= {f"examples_{kind}": picture for kind, picture in pose_examples(errors, dataset)}
    return Report({name: rows for name, rows in tables.items() if rows}, figures)


def _image_of(row: dict[str, Any], key: str) -> Any:
    return row["id"] if key == "images" else row["image_id"]


def _total_shares(totals: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {row["name"]: row["share"] for row in totals}


def pose_examples(errors: PoseErrors, dataset: Persons) -> Iterator[tuple[str, Tensor]]:
    """For each kind of error the persons with the most of it: truth above prediction."""
    rows = {int(image): row for row, image in enumerate(dataset.image_ids)}
    for kind in ERRORS:
        here = errors.kinds == KINDS.index(kind)
        most = np.argsort(-here.sum(1), kind="stable")[:EXAMPLES]
        truths, predictions, captions = [], [], []
        for match in (m for m in most.tolist() if here[m].any()):
            labels, pose = errors.labels[errors.person[match]], errors.keypoints[errors.pose[match]]
            row = rows[int(errors.image_id[errors.person[match]])]
            file = dataset.file_names[row]
            crop, corner, scale = _crop(dataset.image(row), labels, pose)
            points = [torch.from_numpy((part[:, :2] - corner + 0.5) * scale - 0.5) for part in (labels, pose)]
            shown = torch.from_numpy(labels[:, 2] > 0)
            for tiles, places in zip((truths, predictions), points, strict=True):
                tiles.append(draw_pose(crop, places, shown, errors.skeleton, scale=1))
            names = ", ".join(name for name, wrong in zip(errors.names, here[match], strict=True) if wrong)
            captions.append([f"{kind}: {names}", f"OKS {errors.oks[match]:.2f}, {Path(file).name}"])
        if truths:
            truth = grid([truths], ["truth"])
            caption = draw_caption("prediction, and what is wrong with it", truth.shape[-1])
            yield kind, torch.cat([truth, caption, draw_gallery(predictions, captions, EXAMPLES)], dim=1)


def _crop(image: np.ndarray, labels: np.ndarray, pose: np.ndarray) -> tuple[Tensor, np.ndarray, float]:
    """Square around a person and the prediction: (3, TILE, TILE) uint8, its upper left corner, pixels a pixel."""
    height, width = image.shape[:2]
    labelled = labels[:, 2] > 0
    points = np.concatenate([labels[labelled, :2], pose[labelled, :2]]).clip(0, (width, height))  # some are far away
    low, high = points.min(0), points.max(0)
    side = max(24, round(1.3 * (high - low).max()))
    corner = np.round((low + high - side) / 2)
    x, y = corner.astype(int).tolist()
    padding = (max(0, -x), max(0, x + side - width), max(0, -y), max(0, y + side - height))
    whole = F.pad(torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1), padding)
    cut = whole[:, y + padding[2] : y + padding[2] + side, x + padding[0] : x + padding[0] + side]
    tile = F.interpolate(cut[None].float(), size=(TILE, TILE), mode="bilinear", antialias=True)[0]
    return tile.round().clamp(0, 255).to(torch.uint8), corner, TILE / side

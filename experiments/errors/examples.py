"""Pictures of what an error analysis found: the persons with the most errors of each kind, the worst masks.

Images are read once more, and masks predicted once more, so that an analysis need not keep any.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.base import BaseDataset, collate
from datamodules.keypoints.persons import Persons
from tasks import SegmentationTask
from tasks.draw import class_colours, draw_caption, draw_pose, draw_segmentation, grid
from tasks.draw.charts import draw_gallery
from tasks.losses import IGNORED
from tasks.metrics.pose_errors import ERRORS, KINDS, PoseErrors

EXAMPLES = 8  # at most, of each kind
TILE = 224  # pixels of a side


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


@torch.inference_mode()
def worst_images(task: SegmentationTask, dataset: BaseDataset, samples: Sequence[int]) -> Tensor:
    """Truth, prediction and errors of images of any size, each shrunk into a square; predicted once more."""
    columns = []
    for sample in samples:
        batch = on_device(task.device, collate([dataset[sample]]))
        labels = task.predict(task.outputs(batch), batch)["labels"]
        height, width = labels.shape[-2:]  # the mask's; a stretched image gets its own shape back
        scale = TILE / max(height, width)
        size = (max(1, round(scale * height)), max(1, round(scale * width)))
        columns.append([_resized(x, size) for x in (batch["image"], batch["mask"][:, None], labels[:, None])])
    parts = list(zip(*columns, strict=True))
    size = [max(mask.shape[axis] for mask in parts[1]) for axis in (-2, -1)]
    images, masks, labels = (
        torch.cat([_padded(x, size, fill) for x in part])
        for part, fill in zip(parts, (0, IGNORED, IGNORED), strict=True)
    )
    palette = task.palette or class_colours(task.num_classes)
    return draw_segmentation(images, masks[:, 0], labels[:, 0], palette, task.metric.names, TILE)


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(1, C, H, W) image or labels -> (1, C, *size) uint8."""
    smooth = {"mode": "bilinear", "antialias": True} if x.shape[1] == 3 else {"mode": "nearest"}
    return F.interpolate(x.cpu().float(), size=size, **smooth).round().to(torch.uint8)


def _padded(x: Tensor, size: Sequence[int], fill: int) -> Tensor:
    """(1, C, h, w) -> (1, C, *size), filled at the bottom and right."""
    return F.pad(x, (0, size[1] - x.shape[-1], 0, size[0] - x.shape[-2]), value=fill)


def on_device(device: torch.device, batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with its tensors on the device."""
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}

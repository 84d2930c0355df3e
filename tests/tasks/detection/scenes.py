"""Drawn rectangles for detectors to find, and small tasks that find them."""

from typing import Any

import torch
from torch import Tensor

from hrnet import HRNet
from tasks import DetectionTask

SIZE = (96, 160)
CLASSES = 3
DETECTORS = ["faster_rcnn", "mask_rcnn", "fcos", "retinanet"]
COLOURS = torch.tensor([[230, 40, 40], [40, 220, 60], [60, 60, 240]], dtype=torch.uint8)


def small_task(detector: str = "fcos", **options: Any) -> DetectionTask:
    torch.manual_seed(0)
    if "rcnn" in detector:
        options = {"box_channels": 64, "proposals": (200, 100)} | options
    else:
        options = {"strides": [8, 16, 32]} | options
    return DetectionTask(HRNet("w18_small_v1"), CLASSES, detector=detector, channels=32, **options)


def batch_of(
    boxes: list[list[list[float]]], valid: list[tuple[int, int]] | None = None, size: tuple[int, int] = SIZE
) -> dict[str, Any]:
    """Images with rectangles, the k-th of class k, on noise; boxes are x1, y1, x2, y2 with whole numbers."""
    generator = torch.Generator().manual_seed(len(boxes))
    images = torch.randint(90, 130, (len(boxes), 3, *size), generator=generator, dtype=torch.uint8)
    masks = [torch.zeros(len(rows), *size, dtype=torch.bool) for rows in boxes]
    for image, mask, rows in zip(images, masks, boxes, strict=True):
        for k, (x1, y1, x2, y2) in enumerate(rows):
            image[:, int(y1) : int(y2), int(x1) : int(x2)] = COLOURS[k % CLASSES][:, None, None]
            mask[k, int(y1) : int(y2), int(x1) : int(x2)] = True
    return {
        "image": images,
        "image_id": torch.arange(len(boxes)),
        "size": torch.tensor(valid or [size] * len(boxes)),
        "to_image": torch.tensor([[1.0, 0, 0], [0, 1, 0]]).repeat(len(boxes), 1, 1),
        "boxes": [torch.tensor(rows, dtype=torch.float32).view(-1, 4) for rows in boxes],
        "labels": [torch.arange(len(rows)) % CLASSES for rows in boxes],
        "masks": masks,
    }


def random_batch(count: int = 4, seed: int = 0, most: int = 3) -> dict[str, Any]:
    """Of `count` images with one to `most` rectangles."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    boxes = []
    for _ in range(count):
        rows = []
        for _ in range(draw(1, most + 1)):
            width, height = draw(20, 60), draw(20, 60)
            x, y = draw(0, SIZE[1] - width), draw(0, SIZE[0] - height)
            rows.append([x, y, x + width, y + height])
        boxes.append(rows)
    return batch_of(boxes)


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()

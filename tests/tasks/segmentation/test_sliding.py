"""The published final test of segmentation against a plain re-enactment with OpenCV, loops and matrices."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from datamodules import ADE20K, PascalContext
from datamodules.segmentation.samples import EvaluationSize
from hrnet import HRNet
from tasks.segmentation import SegmentationTask
from tasks.segmentation.sliding import PUBLISHED_TESTS, PublishedTest

CLASSES = 4
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
Network = Callable[[Tensor], Tensor]


def normalized(image: np.ndarray) -> np.ndarray:
    return ((image / 255.0 - MEAN) / DEVIATION).astype(np.float32)


def network_that_sees_its_window(classes: int = CLASSES, seed: int = 0) -> Network:
    """Scores by a neighbourhood, and by the place in the window, so that windows, borders and mirrors all show."""
    torch.manual_seed(seed)
    convolution, across = nn.Conv2d(3, classes, 7, padding=3), torch.randn(classes, 2)

    @torch.no_grad()
    def network(images: Tensor) -> Tensor:
        places = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in images.shape[-2:]), indexing="ij")
        return 0.7 * convolution(images) + torch.einsum("kp,phw->khw", across, torch.stack(places))

    return network


def matrix(source: int, target: int, align_corners: bool) -> np.ndarray:
    """(target, source) of linear interpolation along one axis."""
    steps = np.arange(target)
    if align_corners:
        places = steps * (source - 1) / max(target - 1, 1)
    else:
        places = np.clip((steps + 0.5) * source / target - 0.5, 0, source - 1)
    low = np.minimum(places.astype(int), source - 1)
    result = np.zeros((target, source))
    np.add.at(result, (steps, low), 1 - (places - low))
    np.add.at(result, (steps, np.minimum(low + 1, source - 1)), places - low)
    return result


def resized(scores: np.ndarray, size: tuple[int, int], align_corners: bool) -> np.ndarray:
    rows, columns = (matrix(*pair, align_corners) for pair in zip(scores.shape[1:], size, strict=True))
    return rows @ scores @ columns.T


def reenacted(
    network: Network,
    image: np.ndarray,
    size: tuple[int, int],
    *,
    short: int | None,
    long: int,
    crop: tuple[int, int],
    multiple: int,
    cut: bool,
    scales: list[float],
    flip: bool,
    align_corners: bool,
) -> np.ndarray:
    """Scores (K, *size) of one image (H, W, 3) uint8, as the facts about the published code tell the steps."""
    if short is not None:
        height, width = image.shape[:2]
        wanted = (
            (int(width * short / height + 0.5), short) if height < width else (short, int(height * short / width + 0.5))
        )
        image = cv2.resize(image, wanted, interpolation=cv2.INTER_LINEAR)
    below, right = -image.shape[0] % multiple, -image.shape[1] % multiple
    image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT, value=(255 * MEAN).tolist())
    pixels, total = normalized(image), 0.0
    black = (-MEAN / DEVIATION).tolist()
    for scale in scales:
        height, width = image.shape[:2]
        longer = int(long * scale + 0.5)
        if height > width:
            wanted = int(width * longer / height + 0.5), longer
        else:
            wanted = longer, int(height * longer / width + 0.5)
        scaled = cv2.resize(pixels, wanted, interpolation=cv2.INTER_LINEAR)
        height, width = scaled.shape[:2]
        missing = max(crop[0] - height, 0), max(crop[1] - width, 0)
        scaled = cv2.copyMakeBorder(scaled, 0, missing[0], 0, missing[1], cv2.BORDER_CONSTANT, value=black)
        steps = [int(side * 2.0 / 3.0) for side in crop]
        counts = [
            int(np.ceil((side - window) / step)) + 1
            for side, window, step in zip(scaled.shape[:2], crop, steps, strict=True)
        ]
        scores, seen = None, np.zeros(scaled.shape[:2])
        for row in range(counts[0]):
            for column in range(counts[1]):
                top, left = row * steps[0], column * steps[1]
                part = scaled[top : top + crop[0], left : left + crop[1]]
                beyond = crop[0] - part.shape[0], crop[1] - part.shape[1]
                window = cv2.copyMakeBorder(part, 0, beyond[0], 0, beyond[1], cv2.BORDER_CONSTANT, value=black)
                window = torch.from_numpy(np.ascontiguousarray(window.transpose(2, 0, 1)))[None]
                logits = network(window)
                if flip:
                    logits = (logits + network(window.flip(-1)).flip(-1)) / 2
                powers = np.exp(logits[0].double().numpy())[:, : part.shape[0], : part.shape[1]]
                if scores is None:
                    scores = np.zeros((len(powers), *scaled.shape[:2]))
                scores[:, top : top + part.shape[0], left : left + part.shape[1]] += powers
                seen[top : top + part.shape[0], left : left + part.shape[1]] += 1
        total = total + resized((scores / seen)[:, :height, :width], image.shape[:2], align_corners)
    if cut:
        total = total[:, : image.shape[0] - below, : image.shape[1] - right]
    return resized(total, size, align_corners)


def normalize(image: Tensor) -> Tensor:
    return (image / 255.0 - torch.tensor(MEAN).view(3, 1, 1)).div(torch.tensor(DEVIATION).view(3, 1, 1)).float()


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("multiple", "stretched"), [(1, False), (8, False), (8, True)])
@pytest.mark.parametrize("size", [(40, 60), (61, 43), (50, 50), (20, 133)])
def test_scores_are_those_of_the_published_steps(
    size: tuple[int, int], multiple: int, stretched: bool, align_corners: bool, flip: bool
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    network, mask = network_that_sees_its_window(), (size[0] + 7, size[1] - 3)
    test = PublishedTest((33, 42), evaluation="original", long_side=57, multiple=multiple, stretched=stretched)

    def both_ways(images: Tensor) -> Tensor:
        logits = network(images)
        return (logits + network(images.flip(-1)).flip(-1)) / 2 if flip else logits

    batch = torch.from_numpy(image.transpose(2, 0, 1))[None]
    scales = [0.5, 1.0, 1.75, 2.0]
    found = test(both_ways, batch, normalize, scales=scales, size=mask, align_corners=align_corners)
    options = {"scales": scales, "flip": flip, "align_corners": align_corners, "multiple": multiple}
    steps = {"short": None, "long": 57, "crop": (33, 42), "cut": not stretched}
    expected = reenacted(network, image, mask, **steps, **options)
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=2e-3)


class SeesItsWindow(SegmentationTask):
    """The toy network in the place of backbone and head."""

    def whole(self, images: Tensor) -> Tensor:
        if not hasattr(self, "network"):
            self.network = network_that_sees_its_window(self.num_classes)
        return self.network(images)


PUBLISHED = {  # crop, short side first, multiple of 8, padding cut off before the size of the mask
    "ade20k": (ADE20K, {}, 520, 520, 8, False),
    "pascal_context": (PascalContext, {"evaluation": "original"}, 480, None, 1, True),
    "pascal_context_ocr": (
        PascalContext,
        {"evaluation": "short", "image_size": (520, 520), "base_scale": 1.0},
        520, 520, 8, True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_image_of_the_data_set_gets_the_published_labels(name: str) -> None:
    module, options, crop, short, multiple, cut = PUBLISHED[name]
    data = module("nowhere", **options)
    data.class_names, data.palette = data.class_names[:CLASSES], data.palette[:CLASSES]  # the others take time only
    original = cv2.resize(np.random.default_rng(1).integers(0, 256, (9, 12, 3), np.uint8), (187, 141))
    image = data.preparer(original)["image"]
    assert data.evaluation == "original" or data.preparer.base_size == 520
    scales = [0.75, 1.25]
    backbone = HRNet("w18_small_v1", upsample="bilinear", align_corners=name == "ade20k")
    options = {"published_test": name, "flip_test": True, "scales": scales, "window": (64, 64)}
    task = SeesItsWindow(backbone, data.num_classes, **options).eval()
    task.attach(data)
    mask = torch.zeros(1, *original.shape[:2], dtype=torch.int64)
    batch = {"image": torch.from_numpy(image.transpose(2, 0, 1).copy())[None], "mask": mask}
    found = task.predict(None, batch)["labels"][0].numpy()
    steps = {"short": short, "long": 520, "crop": (crop, crop), "multiple": multiple, "cut": cut}
    options = {"scales": scales, "flip": True, "align_corners": name == "ade20k"}
    network = network_that_sees_its_window()
    expected = reenacted(network, original, original.shape[:2], **steps, **options).argmax(0)
    assert len(np.unique(expected)) == CLASSES
    assert (found == expected).mean() > 0.998  # but for ties in the last digits


def test_scale_one_of_ade20k_is_smaller_than_the_size_in_training() -> None:
    image = np.full((512, 683, 3), 255, np.uint8)
    image = EvaluationSize((520, 520), evaluation="short")(image)["image"]
    assert image.shape[:2] == (520, 694)
    seen = []

    def network(images: Tensor) -> Tensor:
        seen.append(images)
        return torch.zeros(1, CLASSES, *images.shape[-2:])

    batch = torch.from_numpy(image.transpose(2, 0, 1))[None]
    PUBLISHED_TESTS["ade20k"](network, batch, normalize, scales=[1.0], size=(512, 683), align_corners=True)
    (window,) = seen
    assert window.shape == (1, 3, 520, 520)
    black = torch.tensor(-MEAN / DEVIATION).float().view(3, 1)
    assert (window[0, :, 388, :518] > 2).all()
    torch.testing.assert_close(window[0, :, 389:].flatten(1), black.expand(3, 131 * 520))


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("ade20k", PascalContext("nowhere"), "evaluation: short.* have long"),
        ("pascal_context", PascalContext("nowhere"), "evaluation: original; the data have long"),
        ("pascal_context_ocr", PascalContext("nowhere", evaluation="short", base_scale=1.0), "base_scale 520"),
    ],
)
def test_data_prepared_in_another_way_are_refused(name: str, data: PascalContext, words: str) -> None:
    task = SegmentationTask(HRNet("w18_small_v1", upsample="bilinear"), 59, published_test=name)
    with pytest.raises(ValueError, match=words):
        task.attach(data)


def test_an_unknown_test_is_refused() -> None:
    with pytest.raises(ValueError, match="ade20k, pascal_context, pascal_context_ocr, or left out; got 'coco'"):
        SegmentationTask(HRNet("w18_small_v1"), 5, published_test="coco")


def test_experiments_name_their_published_test() -> None:
    """The command in the comments is one that the model and the data accept."""
    folder = Path(__file__).parents[3] / "experiments" / "configs" / "segmentation"
    for name in ("ade20k", "pascal_context"):
        assert f"--model.published_test {name} " in (folder / f"seg_{name}.yaml").read_text()

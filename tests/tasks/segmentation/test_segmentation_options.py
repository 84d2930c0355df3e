"""Options of the segmentation task reach its losses and interpolations: values against plain formulas in numpy."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from hrnet import HRNet, HRNetV2
from tasks import SegmentationTask
from tests.tasks.segmentation.test_segmentation_losses import PUBLISHED_WEIGHTS

CLASSES = 4
SIZE = (24, 36)
WEIGHTS = [0.5, 2.0, 1.25, 0.1]
BACKBONE = {"variant": "w18_small_v1", "upsample": "bilinear"}


def task_of(**options: object) -> SegmentationTask:
    return SegmentationTask(HRNet(**BACKBONE), CLASSES, ocr_channels=(16, 8), **options)


def scores(seed: int = 0, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    """Logits (2, K, *SIZE), sure of some pixels and not of others, and masks with a frame that is ignored."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.randint(0, classes, (2, *SIZE), generator=generator)
    sureness = 5 * torch.rand(2, 1, *SIZE, generator=generator)
    logits = torch.randn(2, classes, *SIZE, generator=generator)
    logits = logits + sureness * F.one_hot(mask, classes).permute(0, 3, 1, 2)
    logits[:, 1] += 1.5  # the other classes are harder, so that weights make a difference
    mask[:, :2] = 255
    return logits, mask


def pixelwise(logits: Tensor, mask: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Probability of the true class, and that class, of the pixels that count."""
    values, labels = logits.double().numpy(), mask.numpy()
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    chosen = np.take_along_axis(
        powers / powers.sum(axis=1, keepdims=True), np.where(labels < 255, labels, 0)[:, None], 1
    )
    return chosen[:, 0][labels < 255], labels[labels < 255]


def plain(logits: Tensor, mask: Tensor, weights: list[float]) -> float:
    probability, label = pixelwise(logits, mask)
    factors = np.array(weights)[label]
    return float((factors * -np.log(probability)).sum() / factors.sum())


def mined(logits: Tensor, mask: Tensor, weights: list[float], threshold: float, kept: int) -> float:
    probability, label = pixelwise(logits, mask)
    limit = max(np.sort(probability)[min(kept, len(probability) - 1)], threshold)
    hard = probability < limit
    return float((np.array(weights)[label] * -np.log(probability))[hard].mean())


@pytest.mark.parametrize("head", ["v2", "ocr"])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_class_weights_weigh_both_scores(head: str, weights: list[float] | None) -> None:
    outputs, mask = scores()
    coarse, _ = scores(1)
    task = task_of(head=head, class_weights=weights)
    losses = task.losses((coarse, outputs) if head == "ocr" else outputs, {"mask": mask})
    factors = weights or [1.0] * CLASSES
    assert losses["cross_entropy"].item() == pytest.approx(plain(outputs, mask, factors), rel=1e-5)
    if head == "ocr":
        assert losses["auxiliary"].item() == pytest.approx(0.4 * plain(coarse, mask, factors), rel=1e-5)
    assert plain(outputs, mask, WEIGHTS) != pytest.approx(plain(outputs, mask, [1.0] * CLASSES), rel=0.02)


@pytest.mark.parametrize("head", ["v2", "ocr"])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize(("threshold", "kept"), [(0.3, 1), (0.9, 1), (0.3, 700), (0.3, 900), (0.9, 10**6)])
def test_mining_takes_threshold_number_and_class_weights(
    head: str, weights: list[float] | None, threshold: float, kept: int
) -> None:
    outputs, mask = scores()
    task = task_of(head=head, class_weights=weights, ohem=True, ohem_threshold=threshold, ohem_min_kept=kept)
    found = task.losses((outputs, outputs) if head == "ocr" else outputs, {"mask": mask})
    factors = weights or [1.0] * CLASSES
    assert found["cross_entropy"].item() == pytest.approx(mined(outputs, mask, factors, threshold, kept), rel=1e-5)
    if head == "ocr":
        assert found["auxiliary"].item() == pytest.approx(0.4 * plain(outputs, mask, factors), rel=1e-5)


def test_mining_without_options_is_the_published() -> None:
    outputs, mask = scores()
    found = task_of(ohem=True).losses(outputs, {"mask": mask})["cross_entropy"].item()
    assert found == pytest.approx(mined(outputs, mask, [1.0] * CLASSES, 0.9, 131072), rel=1e-5)
    few = task_of(ohem=True, ohem_min_kept=1).losses(outputs, {"mask": mask})["cross_entropy"].item()
    assert few == pytest.approx(mined(outputs, mask, [1.0] * CLASSES, 0.9, 1), rel=1e-5)
    assert few > 1.05 * found


@pytest.mark.parametrize("name", ["seg_cityscapes", "seg_cityscapes_ocr", "seg_cityscapes_w18"])
def test_cityscapes_experiments_use_the_published_class_weights(name: str) -> None:
    file = Path(__file__).parents[3] / "experiments" / "configs" / "segmentation" / f"{name}.yaml"
    options = yaml.safe_load(file.read_text())["model"]["init_args"]
    task = SegmentationTask(
        HRNet(**BACKBONE), options["num_classes"], ocr_channels=(16, 8), class_weights=options["class_weights"]
    )
    outputs, mask = scores(classes=19)
    found = task.losses(outputs, {"mask": mask})["cross_entropy"].item()
    assert found == pytest.approx(plain(outputs, mask, PUBLISHED_WEIGHTS), rel=1e-5)
    assert found != pytest.approx(plain(outputs, mask, [1.0] * 19), rel=1e-4)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(65, 97), (64, 96)])
@torch.inference_mode()
def test_align_corners_reaches_the_ocr_head_and_the_enlarged_scores(size: tuple[int, int], align_corners: bool) -> None:
    torch.manual_seed(0)
    backbone = HRNet(**BACKBONE, align_corners=align_corners)
    task = SegmentationTask(backbone, CLASSES, head="ocr", ocr_channels=(16, 8)).eval()
    images = torch.randn(1, 3, *size)
    streams = task.backbone(images)
    together = HRNetV2(align_corners)(streams)
    coarse = nn.Sequential(*task.head.aux_head)(together)
    final = task.head.cls_head(task.head.ocr_distri_head(task.head.conv3x3_ocr(together), coarse))
    options = {"size": size, "mode": "bilinear", "align_corners": align_corners}
    expected = F.interpolate(final, **options)
    torch.testing.assert_close(task(images), expected, rtol=1e-4, atol=1e-5)
    for found, plain_scores in zip(task.training_outputs(images), (coarse, final), strict=True):
        torch.testing.assert_close(found, F.interpolate(plain_scores, **options), rtol=1e-4, atol=1e-5)
    other = F.interpolate(final, size=size, mode="bilinear", align_corners=not align_corners)
    assert (other - expected).abs().max() > 1e-3


@pytest.mark.parametrize("align_corners", [False, True])
@torch.inference_mode()
def test_align_corners_reaches_losses_and_labels_at_another_size(align_corners: bool) -> None:
    task = SegmentationTask(HRNet(**BACKBONE, align_corners=align_corners), CLASSES).eval()
    outputs, _ = scores()
    mask = torch.randint(0, CLASSES, (2, 55, 71), generator=torch.Generator().manual_seed(2))
    batch = {"image": torch.zeros(2, 3, *SIZE, dtype=torch.uint8), "mask": mask}
    enlarged = F.interpolate(outputs, size=(55, 71), mode="bilinear", align_corners=align_corners)
    assert task.losses(outputs, batch)["cross_entropy"].item() == pytest.approx(
        plain(enlarged, mask, [1.0] * CLASSES), rel=1e-5
    )
    assert torch.equal(task.predict(outputs, batch)["labels"], enlarged.argmax(1))

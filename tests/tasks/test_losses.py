"""The heatmap loss against plain loops over samples, key points and pixels."""

import pytest
import torch
from torch import Tensor

from tasks.losses import KeypointMSE


@pytest.fixture
def maps() -> tuple[Tensor, Tensor, Tensor]:
    """Predictions, targets and weights (some zero, some neither 0 nor 1) of 3 samples, 10 key points."""
    generator = torch.Generator().manual_seed(0)
    heatmaps = torch.randn(3, 10, 6, 5, generator=generator)
    targets = torch.rand(3, 10, 6, 5, generator=generator)
    weights = torch.tensor([0.0, 1.0, 1.0, 1.2, 1.5])[torch.randint(0, 5, (3, 10), generator=generator)]
    return heatmaps, targets, weights


def slow_errors(heatmaps: Tensor, targets: Tensor, weights: Tensor) -> list[list[float]]:
    """Mean over the pixels of each map of the squared weighted error."""
    rows = []
    for sample in range(heatmaps.shape[0]):
        row = []
        for point in range(heatmaps.shape[1]):
            weight, total = weights[sample, point].item(), 0.0
            pixels = list(zip(heatmaps[sample, point].flatten(), targets[sample, point].flatten(), strict=True))
            for predicted, true in pixels:
                error = predicted.item() - true.item()
                total += (weight * error) ** 2
            row.append(total / len(pixels))
        rows.append(row)
    return rows


def test_official_is_half_the_mean_of_squared_weighted_errors(maps: tuple[Tensor, Tensor, Tensor]) -> None:
    errors = slow_errors(*maps)
    per_point = [0.5 * sum(row[point] for row in errors) / 3 for point in range(10)]
    assert KeypointMSE()(*maps).item() == pytest.approx(sum(per_point) / 10, rel=1e-6)


def test_official_mining_counts_the_eight_worst_points_of_each_sample(maps: tuple[Tensor, Tensor, Tensor]) -> None:
    errors = slow_errors(*maps)
    expected = sum(0.5 * sum(sorted(row)[-8:]) / 8 for row in errors) / 3
    assert KeypointMSE(ohkm=8)(*maps).item() == pytest.approx(expected, rel=1e-6)
    assert KeypointMSE(ohkm=10)(*maps).item() == pytest.approx(KeypointMSE()(*maps).item(), rel=1e-6)


@pytest.mark.parametrize("ohkm", [None, 4])
def test_unlabelled_points_neither_cost_nor_teach(maps: tuple[Tensor, Tensor, Tensor], ohkm: int | None) -> None:
    heatmaps, targets, weights = maps
    loss = KeypointMSE(ohkm)
    predicted = heatmaps.clone().requires_grad_()
    before = loss(predicted, targets, weights)
    before.backward()
    assert predicted.grad[weights == 0].abs().max() == 0
    assert predicted.grad[weights > 0].abs().max() > 0
    changed = heatmaps.where((weights > 0)[..., None, None], 7.0)
    assert loss(changed, targets, weights).item() == pytest.approx(before.item(), rel=1e-6)


@pytest.mark.parametrize("ohkm", [None, 4])
def test_without_any_labelled_point_the_loss_is_zero_and_differentiable(
    maps: tuple[Tensor, Tensor, Tensor], ohkm: int | None
) -> None:
    heatmaps = maps[0].clone().requires_grad_()
    loss = KeypointMSE(ohkm)(heatmaps, maps[1], torch.zeros(3, 10))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(heatmaps.grad, torch.zeros_like(heatmaps))


@pytest.mark.parametrize("ohkm", [None, 4])
def test_gradient_is_the_numerical_one(maps: tuple[Tensor, Tensor, Tensor], ohkm: int | None) -> None:
    heatmaps, targets, weights = maps
    loss, step = KeypointMSE(ohkm), 1e-2
    predicted = heatmaps.clone().requires_grad_()
    loss(predicted, targets, weights).backward()
    direction = predicted.grad / predicted.grad.norm()
    ahead, behind = (loss(heatmaps + sign * step * direction, targets, weights) for sign in (1, -1))
    numerical = (ahead - behind) / (2 * step)
    assert predicted.grad.norm().item() == pytest.approx(numerical.item(), rel=1e-3)


def test_half_precision_is_computed_in_float32(maps: tuple[Tensor, Tensor, Tensor]) -> None:
    """The square of 300 is more than float16 can hold."""
    heatmaps, targets, weights = maps
    large = (300 * heatmaps.sign()).half()
    expected = KeypointMSE()(large.float(), targets, weights).item()
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = KeypointMSE()(large, targets, weights)
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_layout_does_not_matter(maps: tuple[Tensor, Tensor, Tensor]) -> None:
    heatmaps, targets, weights = maps
    loss = KeypointMSE()(heatmaps.to(memory_format=torch.channels_last), targets, weights)
    assert loss.item() == pytest.approx(KeypointMSE()(heatmaps, targets, weights).item(), rel=1e-6)


def test_shapes_that_would_broadcast_are_refused(maps: tuple[Tensor, Tensor, Tensor]) -> None:
    heatmaps, targets, weights = maps
    with pytest.raises(ValueError, match="two equal shapes"):
        KeypointMSE()(heatmaps, targets, weights[..., None])
    with pytest.raises(ValueError, match="two equal shapes"):
        KeypointMSE()(heatmaps, targets[:1], weights)


def test_impossible_arguments_are_refused(maps: tuple[Tensor, Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match="there are only 10"):
        KeypointMSE(ohkm=11)(*maps)
    with pytest.raises(ValueError, match="at least 1"):
        KeypointMSE(ohkm=0)

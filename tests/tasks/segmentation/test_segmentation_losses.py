"""The losses of segmentation against plain loops over pixels, in Python floats."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from datamodules import Cityscapes
from tasks.losses import CrossEntropy, OhemCrossEntropy

CLASSES = 4
WEIGHTS = [0.5, 1.0, 2.0, 1.5]
PUBLISHED_WEIGHTS = [  # Cityscapes, as the official repository has them, by train id
    0.8373, 0.918, 0.866, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023, 0.9539, 0.9843, 1.1116, 0.9037,
    1.0865, 1.0955, 1.0865, 1.1529, 1.0507,
]  # fmt: skip


@pytest.fixture
def pixels() -> tuple[Tensor, Tensor]:
    """Logits (2, 4, 5, 7) from sure to unsure, and a mask of which a part is ignored."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.randint(0, CLASSES, (2, 5, 7), generator=generator)
    logits = torch.randn(2, CLASSES, 5, 7, generator=generator)
    sureness = 6 * torch.rand(2, 1, 5, 7, generator=generator)
    logits = logits + sureness * torch.nn.functional.one_hot(mask, CLASSES).permute(0, 3, 1, 2)
    mask[torch.rand(mask.shape, generator=generator) < 0.3] = 255
    return logits, mask


def slow_pixels(logits: Tensor, mask: Tensor) -> list[tuple[int, float]]:
    """(label, probability of it) of every pixel that is not ignored."""
    found = []
    for sample in range(mask.shape[0]):
        for row in range(mask.shape[1]):
            for column in range(mask.shape[2]):
                label = mask[sample, row, column].item()
                if label != 255:
                    powers = [math.exp(x) for x in logits[sample, :, row, column].tolist()]
                    found.append((label, powers[label] / sum(powers)))
    return found


def slow_ohem(logits: Tensor, mask: Tensor, weights: list[float], threshold: float, min_kept: int) -> float:
    """The rule of the official repository, step by step."""
    found = slow_pixels(logits, mask)
    ascending = sorted(probability for _, probability in found)
    limit = max(ascending[min(min_kept, len(ascending) - 1)], threshold)
    kept = [-weights[label] * math.log(p) for label, p in found if p < limit]
    return sum(kept) / len(kept)


@pytest.mark.parametrize("weights", [None, WEIGHTS, [0.0, 1.0, 2.0, 1.5]])
def test_cross_entropy_is_the_weighted_mean(pixels: tuple[Tensor, Tensor], weights: list[float] | None) -> None:
    factors = weights or [1.0] * CLASSES
    found = slow_pixels(*pixels)
    expected = sum(-factors[label] * math.log(p) for label, p in found) / sum(factors[label] for label, _ in found)
    assert CrossEntropy(CLASSES, weights)(*pixels).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("threshold", [0.3, 0.7, 0.9])
@pytest.mark.parametrize("min_kept", [1, 10, 40, 10_000])
def test_ohem_follows_the_official_rule(
    pixels: tuple[Tensor, Tensor], weights: list[float] | None, threshold: float, min_kept: int
) -> None:
    expected = slow_ohem(*pixels, weights or [1.0] * CLASSES, threshold, min_kept)
    loss = OhemCrossEntropy(CLASSES, weights, threshold=threshold, min_kept=min_kept)
    assert loss(*pixels).item() == pytest.approx(expected, rel=1e-5)


def test_ohem_gives_easy_pixels_no_gradient(pixels: tuple[Tensor, Tensor]) -> None:
    logits, mask = pixels
    logits.requires_grad_()
    OhemCrossEntropy(CLASSES, threshold=0.7, min_kept=1)(logits, mask).backward()
    probability = logits.detach().softmax(1).gather(1, mask.where(mask != 255, 0)[:, None])[:, 0]
    hard = (probability < 0.7) & (mask != 255)
    assert hard.any()
    assert (~hard & (mask != 255)).any()
    assert torch.equal(logits.grad.abs().sum(1) > 0, hard)


@pytest.mark.parametrize("loss", [CrossEntropy(CLASSES), CrossEntropy(CLASSES, WEIGHTS), OhemCrossEntropy(CLASSES)])
def test_all_pixels_ignored_is_zero_loss_and_zero_gradient(loss: CrossEntropy) -> None:
    logits = torch.randn(2, CLASSES, 3, 3, requires_grad=True)
    value = loss(logits, torch.full((2, 3, 3), 255))
    value.backward()
    assert value.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_a_single_easy_pixel_is_finite_under_ohem() -> None:
    mask = torch.full((1, 2, 2), 255)
    mask[0, 0, 0] = 1
    logits = torch.zeros(1, CLASSES, 2, 2)
    logits[:, 1] = 20.0
    assert OhemCrossEntropy(CLASSES)(logits, mask).item() == 0.0


def test_cityscapes_weights_are_by_name_and_for_19_classes() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 19, 8, 19)
    mask = torch.cat([torch.arange(19), torch.randint(0, 19, (133,))]).view(1, 8, 19)
    names = ["road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"]
    assert Cityscapes.class_names[:9] == names, "the weights are in the order of the train ids"
    factors = torch.tensor(PUBLISHED_WEIGHTS)
    expected = F.cross_entropy(logits, mask, factors)
    assert CrossEntropy(19, "cityscapes")(logits, mask).item() == pytest.approx(expected.item(), rel=1e-6)
    pixels = F.cross_entropy(logits, mask, reduction="none") * factors[mask]
    assert logits.softmax(1).max() < 0.9  # no pixel is easy
    assert OhemCrossEntropy(19, "cityscapes")(logits, mask).item() == pytest.approx(pixels.mean().item(), rel=1e-5)
    with pytest.raises(ValueError, match="do not fit 20 classes"):
        CrossEntropy(20, "cityscapes")


@pytest.mark.parametrize("weights", [[1.0], [1.0, 1.0, 1.0, -1.0], "camvid"])
def test_wrong_weights_are_refused(weights: list[float] | str) -> None:
    with pytest.raises(ValueError, match="class_weights"):
        CrossEntropy(CLASSES, weights)


def test_wrong_ohem_options_and_class_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="threshold"):
        OhemCrossEntropy(CLASSES, threshold=1.5)
    with pytest.raises(ValueError, match="min_kept"):
        OhemCrossEntropy(CLASSES, min_kept=0)
    with pytest.raises(ValueError, match="1 to 255 classes"):
        CrossEntropy(256)


def test_weights_are_not_saved() -> None:
    assert not OhemCrossEntropy(CLASSES, WEIGHTS).state_dict()


class Operators(TorchDispatchMode):
    """Notes the operators that run, with their arguments that are no tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, list]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found.append((func.overloadpacket.__name__, [x for x in args if not isinstance(x, torch.Tensor)]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("make", [CrossEntropy, OhemCrossEntropy])
def test_losses_run_where_training_is_asked_to_be_deterministic(make):
    """On a GPU torch refuses to sum the loss of a map then: only without a reduction (0) is it deterministic."""
    loss = make(3, [1.0, 2.0, 3.0])
    logits = torch.randn(2, 3, 8, 8, requires_grad=True)
    with Operators() as operators:
        loss(logits, torch.randint(3, (2, 8, 8))).backward()
    reductions = [values[-2] for name, values in operators.found if name == "nll_loss2d_forward"]
    assert reductions == [0]

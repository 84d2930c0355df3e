"""Losses: of heatmaps, the weighted mean squared error; of masks, cross entropy with class weights, and with mining.

HRNet is trained with the mean squared error between predicted and Gaussian heatmaps (CVPR 2019, Section 3), HRNetV2
with cross entropy (TPAMI 2020, Section 5; Cityscapes with class weights). Both have a variant for which only the
hardest key points or pixels count. Label 255 of a mask is ignored; a batch without any other label gives a loss of zero
with zero gradient.

Batches, which go in, and losses, which come out, are dictionaries; what tasks ask of their data beside them is `Data`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batch = dict[str, Any]
Losses = dict[str, Tensor]
Predictions = Any

IGNORED = 255

# One a train id, road to bicycle; the official repository trains Cityscapes with them.
CITYSCAPES_WEIGHTS = (
    *(0.8373, 0.918, 0.866, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023),
    *(0.9539, 0.9843, 1.1116, 0.9037, 1.0865, 1.0955, 1.0865, 1.1529, 1.0507),
)

ClassWeights = Literal["cityscapes"] | list[float] | None


class KeypointMSE(nn.Module):
    """Half the mean over samples, key points and pixels of (weight x prediction - weight x target)^2, as published.

    Weights act squared and unlabelled key points stay in the denominator; the published learning rates belong to that.

    Args:
        ohkm: If given, only the so many worst key points of each sample count (online hard key point mining, Chen et
            al., CVPR 2018; published: 8).

    Raises:
        ValueError: If `ohkm` is below 1; in `forward`, if the shapes do not agree or `ohkm` exceeds the key points.
    """

    def __init__(self, ohkm: int | None = None) -> None:
        super().__init__()
        if ohkm is not None and ohkm < 1:
            raise ValueError(f"KeypointMSE got ohkm={ohkm}; expected at least 1 key point, or None to count all.")
        self.ohkm = ohkm

    def forward(self, heatmaps: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Scalar float32 loss of heatmaps and targets, both (B, K, h, w), with weights (B, K)."""
        if heatmaps.shape != targets.shape or weights.shape != heatmaps.shape[:2]:
            raise ValueError(
                f"KeypointMSE got heatmaps {tuple(heatmaps.shape)}, targets {tuple(targets.shape)} and weights "
                f"{tuple(weights.shape)}; expected two equal shapes (B, K, h, w) and weights (B, K)."
            )
        if self.ohkm is not None and self.ohkm > heatmaps.shape[1]:
            raise ValueError(
                f"KeypointMSE keeps the worst ohkm={self.ohkm} key points, but there are only {heatmaps.shape[1]}; "
                "set ohkm to at most that number, or to None."
            )
        errors = F.mse_loss(heatmaps.float(), targets.float(), reduction="none").mean((2, 3))
        errors = errors * (0.5 * weights.float().square())
        return (errors if self.ohkm is None else errors.topk(self.ohkm, dim=1).values).mean()


class CrossEntropy(nn.Module):
    """Weighted mean of the cross entropy over the pixels that are not ignored; the weights of their classes sum to one.

    Args:
        num_classes: Channels of the logits, at most 255.
        class_weights: A factor a class, "cityscapes" for the published ones, or None for equal ones.

    Raises:
        ValueError: If there are more classes than labels below 255, or not one weight a class, or a negative one.
    """

    weights: Tensor

    def __init__(self, num_classes: int, class_weights: ClassWeights = None) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.register_buffer("weights", _weight_of_label(num_classes, class_weights), persistent=False)

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Logits (B, num_classes, H, W) and mask (B, H, W) int64, 0 to num_classes - 1 or 255 -> scalar."""
        weights = self.weights[: self.num_classes]
        # Not torch's own mean, which is 0 / 0 when every pixel is ignored, nor its sum, whose order is another in every
        # run on a GPU: `trainer.deterministic` refuses it.
        total = F.cross_entropy(logits.float(), mask, weights, ignore_index=IGNORED, reduction="none").sum()
        return total / self.weights[mask].sum().clamp(min=torch.finfo(total.dtype).tiny)


class OhemCrossEntropy(CrossEntropy):
    """Cross entropy of the hard pixels only: those whose true class has a probability below a threshold.

    The threshold is the larger of `threshold` and the probability of rank `min_kept` (from the hardest, counted from
    zero, or the easiest pixel if there are fewer), so that about `min_kept` pixels remain when almost all are easy. The
    loss is the plain mean, over the kept pixels, of their class-weighted cross entropy. Ranks are those of one process'
    batch, as in the official repository.

    Args:
        num_classes: How many classes there are, at most 255.
        class_weights: How much each class counts, or None for all alike, see `CrossEntropy`.
        threshold: Probability in (0, 1].
        min_kept: Pixels of the batch, at least 1.

    Raises:
        ValueError: As `CrossEntropy`, or if `threshold` or `min_kept` is out of range.
    """

    def __init__(
        self, num_classes: int, class_weights: ClassWeights = None, *, threshold: float = 0.9, min_kept: int = 131072
    ) -> None:
        super().__init__(num_classes, class_weights)
        if not 0 < threshold <= 1 or min_kept < 1:
            raise ValueError(
                f"OHEM got threshold {threshold} and min_kept {min_kept}; expected a probability in (0, 1] (published: "
                "0.9) and at least 1 pixel (published: 131072)."
            )
        self.threshold = threshold
        self.min_kept = min_kept

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Logits (B, num_classes, H, W) and mask (B, H, W) int64, 0 to num_classes - 1 or 255 -> scalar."""
        errors = F.cross_entropy(logits.float(), mask, ignore_index=IGNORED, reduction="none")
        valid = mask != IGNORED
        probability = torch.where(valid, errors.detach().neg().exp(), torch.inf)
        # Its largest is the one of rank min_kept, or the easiest where there are fewer; nothing waits for the device.
        smallest = probability.flatten().topk(min(self.min_kept + 1, mask.numel()), largest=False, sorted=False).values
        hard = torch.where(smallest.isfinite(), smallest, 0.0).amax()
        kept = valid & (probability < hard.clamp(min=self.threshold))
        weighted = torch.where(kept, errors * self.weights[mask], 0.0)
        return weighted.sum() / kept.sum().clamp(min=1)


def _weight_of_label(num_classes: int, class_weights: ClassWeights) -> Tensor:
    """(256,) weights by label, zero for the labels that are no class, so also for the ignored one."""
    if not 1 <= num_classes <= IGNORED:
        raise ValueError(
            f"Segmentation needs 1 to {IGNORED} classes, since label {IGNORED} is ignored; got {num_classes}."
        )
    weights = CITYSCAPES_WEIGHTS if class_weights == "cityscapes" else class_weights
    if weights is None:
        weights = [1.0] * num_classes
    if isinstance(weights, str) or len(weights) != num_classes or min(weights) < 0:
        raise ValueError(
            f"class_weights {class_weights!r} do not fit {num_classes} classes: give one number, zero or more, for "
            'each class, or "cityscapes" with its 19 classes, or leave them out.'
        )
    return F.pad(torch.tensor(weights, dtype=torch.float32), (0, IGNORED + 1 - num_classes))


def over_samples(losses: Callable[[Any, Batch], Losses], outputs: Any, batch: Batch) -> Losses:
    """Means of what `losses` gives of each sample by itself."""
    each = [losses(one(outputs, index), one(batch, index)) for index in range(len(batch["image"]))]
    return {name: torch.stack([found[name] for found in each]).mean() for name in each[0]}


def one(value: Any, index: int) -> Any:
    """A batch, its outputs or predictions -> those of one sample, as a batch of one."""
    if isinstance(value, Mapping):
        return {key: one(item, index) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(one(item, index) for item in value)
    return value[index : index + 1]


class Data(Protocol):
    """What tasks ask of their data beside batches: `datamodules` has all of it, other data what their task asks for."""

    num_classes: int | None
    class_names: Sequence[str]
    palette: Sequence[tuple[int, int, int]]
    label_flip_pairs: Sequence[tuple[int, int]]
    num_keypoints: int | None
    skeleton: Any

    def ground_truth(self, split: Any) -> dict[str, list]:
        """COCO's ground truth of a split: images, annotations, categories."""

    def subsets(self, split: Any) -> Mapping[str, Any]:
        """Parts of a split that are evaluated on their own too, as numbers of their instances, by name."""

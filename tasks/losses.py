"""Losses on heatmaps: the weighted mean squared error of the published pose models, also with hard key point mining.

HRNet is trained with the mean squared error between predicted and Gaussian heatmaps (Sun et al., CVPR 2019, section 3).
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional


class KeypointMSE(nn.Module):
    """Mean squared error between heatmaps, weighted per key point.

    Args:
        ohkm: if given, only the so many worst key points of each sample count (online hard key point mining, Chen et
            al., CVPR 2018; published: 8).
        reduction: "official" is half the mean over samples, key points and pixels of (weight x prediction - weight x
            target)^2: weights act squared and unlabelled key points stay in the denominator; the published learning
            rates belong to it. "visible" is the mean over key points of non-zero weight, the weight applied once,
            without the half.

    Raises:
        ValueError: if `ohkm` is below 1 or `reduction` is none of the two; in `forward`, if the shapes do not agree
            or `ohkm` exceeds the number of key points.
    """

    def __init__(self, ohkm: int | None = None, reduction: Literal["official", "visible"] = "official") -> None:
        super().__init__()
        if ohkm is not None and ohkm < 1:
            raise ValueError(f"KeypointMSE got ohkm={ohkm}; expected at least 1 key point, or None to count all.")
        if reduction not in ("official", "visible"):
            raise ValueError(f'KeypointMSE got reduction={reduction!r}; expected "official" or "visible".')
        self.ohkm = ohkm
        self.reduction = reduction

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
        weights = weights.float()
        errors = functional.mse_loss(heatmaps.float(), targets.float(), reduction="none").mean((2, 3))
        errors = errors * (0.5 * weights.square() if self.reduction == "official" else weights)
        if self.ohkm is not None:
            errors, worst = errors.topk(self.ohkm, dim=1)
            weights = weights.gather(1, worst)
        if self.reduction == "official":
            return errors.mean()
        return errors.sum() / (weights != 0).sum().clamp(min=1)

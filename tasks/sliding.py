"""Sliding window: a network applied to overlapping windows of a large image, its scores blended.

The official segmentation repositories test so where an image exceeds the size that was trained on. The memory needed
beside one window's is that of the result. Use: `logits = SlidingWindow((512, 1024))(network, images)`.
"""

from collections.abc import Callable

import torch
from torch import Tensor


class SlidingWindow:
    """Scores of large images, each pixel's the weighted mean over the windows that hold it.

    The weights fall linearly from the middle of a window to its edges, where a network sees least around a pixel. The
    last window of a row or column is moved back to end with the image; along an axis on which the image is smaller than
    the window, the window is as long as the image. The official code weighs all alike, and (except for Cityscapes) lets
    windows go beyond the border, where they are black: `published_test.py` does so.

    Args:
        size: (height, width) of the window in pixels.
        stride: (down, right) from one window to the next, in pixels, at most the window, so that no gaps are left. When
            not given, two thirds of the window as published, in steps of 32, so that the grids of all streams coincide.

    Raises:
        ValueError: If size or stride is not positive, or the stride exceeds the window.
    """

    def __init__(self, size: tuple[int, int], stride: tuple[int, int] | None = None) -> None:
        self.size = size
        self.stride = stride or tuple(_two_thirds(side) for side in size)
        if min(*self.size, *self.stride) < 1 or any(s > w for s, w in zip(self.stride, self.size, strict=True)):
            raise ValueError(
                f"A window of {size} pixels (height, width) with a stride of {self.stride} leaves gaps or does not "
                "move: expected 1 <= window_stride <= window on both axes."
            )

    def __call__(self, network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> scores (B, K, H, W), channels_last; `network` maps (B, C, h, w) to (B, K, h, w)."""
        rows = _spans(images.shape[-2], self.size[0], self.stride[0], images.device)
        columns = _spans(images.shape[-1], self.size[1], self.stride[1], images.device)
        total: Tensor | None = None
        for top, down in rows:
            for left, right in columns:
                part = (..., slice(top, top + len(down)), slice(left, left + len(right)))
                scores = network(images[part])
                if total is None:
                    options = {"dtype": scores.dtype, "device": scores.device, "memory_format": torch.channels_last}
                    total = torch.empty(*scores.shape[:2], *images.shape[-2:], **options).zero_()
                total[part] += scores * (down[:, None] * right).to(scores.dtype)
        return total


def _two_thirds(side: int) -> int:
    return max(1, side * 2 // 3 // 32 * 32 or side * 2 // 3)


def _spans(size: int, window: int, stride: int, device: torch.device) -> list[tuple[int, Tensor]]:
    """Start and weights of the windows along one axis; the weights over each pixel sum to one."""
    window = min(window, size)
    starts = [*range(0, size - window, stride), size - window]
    rising = torch.arange(1.0, window + 1, device=device)
    ramp = torch.minimum(rising, rising.flip(0))
    coverage = torch.zeros(size, device=device)
    for start in starts:
        coverage[start : start + window] += ramp
    return [(start, ramp / coverage[start : start + window]) for start in starts]

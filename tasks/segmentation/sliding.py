"""Windows: a network applied to overlapping parts of a large image, and the published code's final test by them.

Memory beside one window's is that of the result. Use: `logits = SlidingWindow((512, 1024))(network, images)`.

`SlidingWindow` lets windows end with the image and fade into one another; `PublishedTest` is the official code's final
test of segmentation step for step, for figures to be compared with its own. The two differ by some tenths of a percent
of mIoU.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

MEAN_COLOUR = (124, 116, 104)  # of ImageNet, RGB, rounded to whole grey levels as in the published padding


class SlidingWindow:
    """Scores of large images, each pixel's the weighted mean over the windows that hold it.

    The weights fall linearly from the middle of a window to its edges, where a network sees least around a pixel. The
    last window of a row or column is moved back to end with the image; along an axis on which the image is smaller than
    the window, the window is as long as the image. The official code weighs all alike, and (except for Cityscapes) lets
    windows go beyond the border, where they are black: `PublishedTest` does so.

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
        total: Any = None
        for top, down in rows:
            for left, right in columns:
                part = (..., slice(top, top + len(down)), slice(left, left + len(right)))
                scores = network(images[part])
                if total is None:
                    options: dict[str, Any] = {"dtype": scores.dtype, "device": scores.device}
                    options["memory_format"] = torch.channels_last
                    total = torch.empty(*scores.shape[:2], *images.shape[-2:], **options).zero_()
                total[part] += scores * (down[:, None] * right).to(scores.dtype)
        return total


@dataclass(frozen=True)
class PublishedTest:
    """Scores of images, in five steps.

    1. The image is padded at the bottom and right with ImageNet's mean colour, to multiples of `multiple`.
    2. For each scale its longer side becomes `long_side` times the scale, bilinear; so where the data have brought the
       shorter side to 520 pixels already, it is resized twice and scale 1 is smaller than that (389 x 520 pixels for an
       image of 512 x 683, and not 520 x 694).
    3. Windows are laid from the top left corner, by two thirds of a window each, and filled up with black beyond the
       border, also where the whole image is smaller than a window.
    4. The exponentials of the windows' logits are averaged where windows overlap, resized to the size of step 1, and
       summed over the scales; a scale with larger logits counts more.
    5. The padding of step 1 is cut off, unless `stretched`, and the sum is resized to the size of the mask.

    Args:
        window: (height, width) in pixels.
        evaluation: How the data must prepare images for it, see `evaluation` of the segmentation data sets.
        long_side: Pixels of the longer side at scale 1, and of the side that `evaluation` brings to a size.
        multiple: Of which step 1 makes height and width; 1 does not pad.
        stretched: Step 5 leaves the padding, so that labels are displaced by up to 7 pixels of 520.
    """

    window: tuple[int, int]
    evaluation: str
    long_side: int = 520
    multiple: int = 1
    stretched: bool = False

    def __call__(
        self,
        network: Callable[[Tensor], Tensor],
        images: Tensor,
        normalize: Callable[[Tensor], Tensor],
        *,
        scales: Sequence[float],
        size: tuple[int, int],
        align_corners: bool,
    ) -> Tensor:
        """Scores (B, K, *size), positive; the greatest is the class.

        Args:
            network: Normalised windows (B, 3, h, w) -> logits (B, K, h, w), mirrored ones averaged in if wanted.
            images: (B, 3, H, W) uint8.
            normalize: uint8 -> normalised.
            scales: Factors of the longer side.
            size: (height, width) of the masks.
            align_corners: Of the bilinear resizing of scores, as in the network.
        """
        height, width = images.shape[-2:]
        padded = normalize(self._padded(images))
        black = normalize(images.new_zeros(1, 3, 1, 1))
        options: dict[str, Any] = {"mode": "bilinear", "align_corners": align_corners}
        total: Any = 0.0
        for scale in scales:
            scaled = F.interpolate(padded, self.scaled_size(padded.shape[-2:], scale), mode="bilinear")
            total = total + F.interpolate(self._windows(network, scaled, black), padded.shape[-2:], **options)
        if not self.stretched:
            total = total[..., :height, :width]
        return total if total.shape[-2:] == tuple(size) else F.interpolate(total, tuple(size), **options)

    def scaled_size(self, size: Sequence[int], scale: float) -> tuple[int, int]:
        """(height, width) whose longer side is `long_side` times the scale; halves are rounded up."""
        long = int(self.long_side * scale + 0.5)
        height, width = (max(1, int(side * long / max(size) + 0.5)) for side in size)
        return height, width

    def _padded(self, images: Tensor) -> Tensor:
        height, width = (-(-side // self.multiple) * self.multiple for side in images.shape[-2:])
        colour = torch.tensor(MEAN_COLOUR, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
        return _filled_up(images, (height, width), colour)

    def _windows(self, network: Callable[[Tensor], Tensor], images: Tensor, black: Tensor) -> Tensor:
        """Exponentials of the logits of normalised images (B, 3, H, W), averaged over the windows, (B, K, H, W)."""
        height, width = images.shape[-2:]
        total: Any = None
        count = images.new_zeros(1, 1, height, width)
        for top in self._starts(height, self.window[0]):
            for left in self._starts(width, self.window[1]):
                part = images[..., top : top + self.window[0], left : left + self.window[1]]
                inside = (..., slice(top, top + part.shape[-2]), slice(left, left + part.shape[-1]))
                scores = network(_filled_up(part, self.window, black)).float().exp()
                if total is None:
                    total = scores.new_zeros(*scores.shape[:2], height, width)
                total[inside] += scores[..., : part.shape[-2], : part.shape[-1]]
                count[inside] += 1
        return total / count

    @staticmethod
    def _starts(side: int, window: int) -> range:
        stride = int(window * 2 / 3)
        return range(0, max(side - window, 0) + stride, stride)


# By name: data set, and head where they differ.
PUBLISHED_TESTS = {
    "ade20k": PublishedTest((520, 520), evaluation="short", multiple=8, stretched=True),
    "pascal_context": PublishedTest((480, 480), evaluation="original"),
    "pascal_context_ocr": PublishedTest((520, 520), evaluation="short", multiple=8),
}


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


def _filled_up(images: Tensor, size: tuple[int, int], colour: Tensor) -> Tensor:
    """Images (B, 3, h, w) at the top left of images of `size`, the rest in a colour (1, 3, 1, 1)."""
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    filled = colour.expand(len(images), -1, *size).clone(memory_format=torch.channels_last)
    filled[..., : images.shape[-2], : images.shape[-1]] = images
    return filled

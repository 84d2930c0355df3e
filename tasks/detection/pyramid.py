"""Where things lie on a pyramid: its grids, the anchors on them, and the pooling of boxes out of them.

torchvision's own generator of anchors and its pooling guess strides and scales from the sizes of the images and maps
that they meet, and take the maps' precision; here all of it is fixed when the detector is made, in float32.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import roi_align
from torchvision.ops.poolers import LevelMapper

LARGEST_ROI_STRIDE = 32  # coarser levels find boxes, and nothing is pooled from them (FPN, CVPR 2017, Section 4.2)


class Anchors(AnchorGenerator):
    """Boxes of fixed sizes about every cell of a pyramid.

    Args:
        strides: Of each level, in input pixels.
        sizes: Square roots of the areas of a level's anchors, a list a level.
        ratios: Heights by widths, of every level.
        offset: Where in its cell an anchor's middle is: 0.5 in the cell's, 0 at its top left corner.
        rounded: Whether width and height of an anchor are even numbers of pixels, as published ones.
    """

    def __init__(
        self,
        strides: Sequence[int],
        sizes: Sequence[Sequence[float]],
        ratios: Sequence[float],
        *,
        offset: float = 0.5,
        rounded: bool = True,
    ) -> None:
        super().__init__(tuple(tuple(row) for row in sizes), (tuple(ratios),) * len(sizes))
        self.strides = tuple(strides)
        self.offset = offset
        if not rounded:
            self.cell_anchors = [_exact(row, ratios) for row in sizes]

    def levels(self, size: tuple[int, int], device: torch.device) -> list[Tensor]:
        """Anchors of images of `size` (height, width), a float32 (cells * anchors a cell, 4) a level, x1 y1 x2 y2."""
        self.set_cell_anchors(torch.float32, device)
        grids = [[math.ceil(side / stride) for side in size] for stride in self.strides]
        strides = [[torch.tensor(stride, device=device)] * 2 for stride in self.strides]
        found = self.grid_anchors(grids, strides)
        return [anchors + self.offset * stride for anchors, stride in zip(found, self.strides, strict=True)]

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """As torchvision calls it: the anchors of all levels, once an image."""
        height, width = image_list.tensors.shape[-2:]
        return [torch.cat(self.levels((height, width), feature_maps[0].device))] * len(image_list.image_sizes)


def _exact(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """(ratios * sizes, 4) anchors about the origin, in the order of torchvision's, without rounding."""
    root, size = torch.tensor(ratios).sqrt()[:, None], torch.tensor(sizes)[None]
    width, height = (size / root).flatten(), (size * root).flatten()
    return torch.stack([-width, -height, width, height], dim=1) / 2


class RoIAlign(nn.Module):
    """What is inside boxes, each taken from the level that suits its size (FPN, CVPR 2017, Equation 1).

    Args:
        strides: Of the pyramid's levels, each twice the one before; those up to 32 are read.
        output_size: Height and width of what is pooled.
        samples: Places that a cell of the output is the mean of, along each side; 0 for as many as it has pixels.
        aligned: Whether pixels of a map have their centres at halves, as in later mmdetection, and not at integers.
    """

    def __init__(self, strides: Sequence[int], output_size: int, *, samples: int = 2, aligned: bool = False) -> None:
        super().__init__()
        self.strides = [stride for stride in strides if stride <= LARGEST_ROI_STRIDE]
        self.output_size = output_size
        self.samples = samples
        self.aligned = aligned
        first, last = (int(math.log2(stride)) for stride in (self.strides[0], self.strides[-1]))
        self.level_of = LevelMapper(first, last)

    def forward(self, pyramid: Sequence[Tensor], boxes: list[Tensor]) -> Tensor:
        """Levels (B, C, H_i, W_i) and boxes (N_b, 4) of each image, in input pixels -> (sum of N_b, C, size, size)."""
        rois = torch.cat([F.pad(found, (1, 0), value=i) for i, found in enumerate(boxes)])
        levels = self.level_of(boxes)
        pooled = pyramid[0].new_zeros(len(rois), pyramid[0].shape[1], self.output_size, self.output_size)
        for i, stride in enumerate(self.strides):
            here = torch.where(levels == i)[0]
            level = pyramid[i].float()  # bfloat16 would place boxes to some pixels only
            inside = roi_align(level, rois[here], self.output_size, 1 / stride, self.samples, self.aligned)
            pooled[here] = inside.to(pooled.dtype)
        return pooled

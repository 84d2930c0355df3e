"""Parameters and multiply-adds of a model, counted by torch on meta tensors (no memory, no arithmetic)."""

import copy
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


class Cost(NamedTuple):
    """Parameters, and multiply-adds of convolutions and linear layers for one image.

    The papers' "GFLOPs" are multiply-adds divided by 2**30.
    """

    parameters: int
    multiply_adds: int

    @property
    def paper_gflops(self) -> float:
        """Multiply-adds in units of 2**30, as the HRNet papers print them."""
        return self.multiply_adds / 2**30


def cost(model: nn.Module, image_size: tuple[int, int], in_channels: int = 3) -> Cost:
    """Count for one image of (height, width)."""
    model = copy.deepcopy(model).to("meta").eval()
    dtype = next(model.parameters()).dtype  # double or half after a training in such precision
    image = torch.empty(1, in_channels, *image_size, device="meta", dtype=dtype)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    return Cost(sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2)

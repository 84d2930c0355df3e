"""How exact a training step's gradients are in float32: each tensor's distance to those of float64, relative to them.

On a CPU torch's batch norm sums a channels_last map in float32, one pixel after the other, forwards and backwards (a
contiguous map in float64). With 8 images of 256 x 192 its variances are off by up to 2e-5 instead of 4e-8, and ReLUs
further up turn that into some per cent of the gradients. The order of memory is kept all the same: it makes a step
faster, and the noise has no direction and is small beside what another batch changes, which the last row shows.
"""

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.benchmark.networks import BATCH, KEYPOINTS, networks

HEADERS = ("gradients of a training step", "median error of the tensors", "exceeded by a tenth", "largest")
Row = tuple[str, float, float, float]


def gradient_noise(quick: bool = False, seed: int = 0) -> list[Row]:
    """Errors of the gradients of pose HRNet-W32 at 256x192, batch 8, over its parameters' tensors.

    Args:
        quick: A small network on small images instead.
        seed: Of images and targets.

    Returns:
        A row a way to compute: its name, and median, ninth decile and maximum of the relative errors.
    """
    _, network, size = networks(quick)
    generator = torch.Generator().manual_seed(seed)

    def batch() -> tuple[Tensor, Tensor]:
        shape = (BATCH, KEYPOINTS, size[0] // 4, size[1] // 4)
        return torch.rand(BATCH, 3, *size, generator=generator), torch.rand(shape, generator=generator)

    first, second = batch(), batch()
    exact = _gradients(network, first, _in_float64)
    ways: dict[str, tuple[Callable[[nn.Module], nn.Module], tuple[Tensor, Tensor]]] = {
        "float32, contiguous": (_contiguous, first),
        "float32, channels_last": (_channels_last, first),
        "float32, channels_last, batch norm in float64": (_norms_in_float64, first),
        "float32, contiguous, another batch": (_contiguous, second),
    }
    return [(name, *_errors(_gradients(network, data, way), exact)) for name, (way, data) in ways.items()]


def _gradients(
    network: nn.Module, batch: tuple[Tensor, Tensor], prepare: Callable[[nn.Module], nn.Module]
) -> list[Tensor]:
    network = prepare(deepcopy(network).train())
    weight = network.backbone.conv1.weight
    order = torch.channels_last if weight.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    images, targets = (part.to(weight.dtype, memory_format=order) for part in batch)
    functional.mse_loss(network(images), targets).backward()
    return [parameter.grad.double() for parameter in network.parameters()]


def _errors(found: list[Tensor], exact: list[Tensor]) -> tuple[float, float, float]:
    errors = torch.stack([(a - b).norm() / b.norm() for a, b in zip(found, exact, strict=True)])
    return errors.median().item(), errors.quantile(0.9).item(), errors.max().item()


def _in_float64(network: nn.Module) -> nn.Module:
    return network.double()


def _contiguous(network: nn.Module) -> nn.Module:
    return network.to(memory_format=torch.contiguous_format)


def _channels_last(network: nn.Module) -> nn.Module:
    return network.to(memory_format=torch.channels_last)


def _norms_in_float64(network: nn.Module) -> nn.Module:
    for module in _channels_last(network).modules():
        if isinstance(module, nn.BatchNorm2d):
            module.double()
            module.register_forward_pre_hook(lambda _, inputs: tuple(x.double() for x in inputs))
            module.register_forward_hook(lambda _, inputs, output: output.float())
    return network

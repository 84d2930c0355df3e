"""Gradients of several losses, taken one after the other so that only one graph is alive, then combined.

The step returns a scalar whose backward pass delivers the combination, so Lightning's own loop (clipping, accumulation,
mixed precision, distribution) goes on as with any loss.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Gradients = list[Tensor | None]


class _Carry(torch.autograd.Function):
    """Passes a value through and gives each parameter the gradient that was computed before."""

    @staticmethod
    def forward(ctx: Any, gradients: Gradients, value: Tensor, *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple:
        return None, slope, *(None if g is None else slope.to(g.dtype) * g for g in ctx.gradients)


def carry(value: Tensor, parameters: Sequence[Tensor], gradients: Gradients) -> Tensor:
    """`value` (scalar), whose backward pass gives `parameters` these gradients beside its own."""
    return _Carry.apply(gradients, value, *parameters)


def gradients_of(loss: Tensor, parameters: Sequence[Tensor], scale: float = 1.0) -> Gradients:
    """Gradient of a scalar at each parameter, None where it does not depend on it; frees the graph.

    Args:
        loss: Scalar.
        parameters: Leaves.
        scale: The loss is multiplied by it and the gradients are divided by it, against underflow in float16.
    """
    with torch.autocast(loss.device.type, enabled=False):
        found = torch.autograd.grad(loss * scale, parameters, allow_unused=True)
    return list(found) if scale == 1 else [None if g is None else g / scale for g in found]


def gradients_at(module: nn.Module, parameters: Sequence[Tensor], rows: Sequence[Gradients]) -> list[Gradients]:
    """Those columns of several gradients at `parameters` that belong to a module."""
    own = {id(parameter) for parameter in module.parameters()}
    columns = [k for k, parameter in enumerate(parameters) if id(parameter) in own]
    return [[row[k] for k in columns] for row in rows]


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a tensor that every process has, or the tensor itself where there is one process."""
    if not _distributed():
        return value
    value = value.detach().clone()
    torch.distributed.all_reduce(value)
    return value / torch.distributed.get_world_size()


def gram_matrix(gradients: Sequence[Gradients]) -> Tensor:
    """Inner products (T, T) of T gradients, float32; missing entries count as zero.

    With several processes these are of their mean gradients: products of each process' own would count its noise.
    """
    if _distributed():
        gradients = _means(gradients)
    products = torch.zeros(len(gradients), len(gradients))
    for i, first in enumerate(gradients):
        for j, second in enumerate(gradients[: i + 1]):
            pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
            if pairs:
                inner = torch.stack([(a.float() * b.float()).sum() for a, b in pairs]).sum()
                products = products.to(inner.device)
                products[i, j] = products[j, i] = inner
    return products


def combined(gradients: Iterable[Gradients], factors: Iterable[Sequence[Tensor]]) -> Gradients:
    """Sum over tasks of factor times gradient.

    Args:
        gradients: Of each task, one a parameter.
        factors: Of each task, one a parameter.
    """
    total: Gradients = []
    for column, weights in zip(zip(*gradients, strict=True), zip(*factors, strict=True), strict=True):
        terms = [g * w.to(g.dtype) for g, w in zip(column, weights, strict=True) if g is not None]
        total.append(sum(terms[1:], terms[0]) if terms else None)
    return total


def without_conflicts(products: Tensor, generator: torch.Generator) -> Tensor:
    """Coefficients (T,) of the sum of T gradients, each of which first loses its part along those that oppose it.

    Args:
        products: Inner products (T, T), float64.
        generator: Draws the order in which a gradient meets the others.
    """
    total = torch.zeros(len(products), dtype=torch.double)
    for i in range(len(products)):
        mine = torch.zeros_like(total)
        mine[i] = 1.0
        for j in torch.randperm(len(products), generator=generator).tolist():
            along = mine @ products[:, j]
            if j != i and along < 0:
                mine[j] -= along / products[j, j]
        total += mine
    return total


def step_values(
    names: Sequence[str], here: Sequence[int], losses: Tensor, factors: Tensor, gram: Tensor | None
) -> dict[str, Tensor]:
    """What a step is logged by: each task's loss, factor and their product, and with `gram` norms and cosines.

    Args:
        names: Of T tasks.
        here: Numbers of the tasks that the step has, ascending; to ask the losses would be to wait for a GPU.
        losses: (T,).
        factors: (T,).
        gram: Inner products (T, T) of the gradients.
    """
    values: dict[str, Tensor] = {}
    for i in here:
        values[f"{names[i]}/loss"] = losses[i]
        values[f"{names[i]}/weighted_loss"] = factors[i] * losses[i]
        values[f"{names[i]}/weight"] = factors[i]
        if gram is not None:
            values[f"{names[i]}/gradient_norm"] = gram[i, i].sqrt()
            for j in (j for j in here if j < i):
                size = (gram[i, i] * gram[j, j]).sqrt().clamp(min=torch.finfo(gram.dtype).tiny)
                values[f"gradient_cosine/{names[j]}_{names[i]}"] = gram[i, j] / size
    return values


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _means(gradients: Sequence[Gradients]) -> list[Gradients]:
    """Over the processes, each gradient as one float32 vector, so that it is one message; zeros for missing entries."""
    columns = [column for column in zip(*gradients, strict=True) if any(g is not None for g in column)]
    if not columns:
        return [[] for _ in gradients]
    filled = []
    for column in columns:
        like = next(g for g in column if g is not None)
        filled.append([(torch.zeros_like(like) if g is None else g).float().flatten() for g in column])
    return [[mean_over_processes(torch.cat(row))] for row in zip(*filled, strict=True)]

"""How the losses of a joint run are weighed against each other: fixed, by uncertainty, by progress, or by gradients.

A step hands over each task's loss and the inner products of the tasks' gradients at the last shared stage, and gets a
factor for each task's gradient: `factors = balancing(losses, gram)`. Both are means over all processes, so that these
agree on the factors and on what a method keeps.
"""

from collections.abc import Sequence
from typing import Any, Required, TypedDict

import torch
from torch import Tensor, nn

from tasks.joint.gradients import mean_over_processes, without_conflicts


class BalancingSpec(TypedDict, total=False):
    """A method by name, one of the keys of METHODS at the end of this file, and its arguments."""

    name: Required[str]
    temperature: float
    alpha: float
    lr: float
    every: int


class Balancing(nn.Module):
    """Constant weights; base of the methods.

    Args:
        names: Tasks.
        weights: Constant factor of each task's loss, 1 where not given; the methods act on the losses so weighted.
    """

    needs_all = False
    """Whether a step must have a loss of every task."""
    needs_several = False
    """Whether a step with one task gives it nothing to do."""
    needs_gradients = False
    """Whether the method works by the inner products of the gradients."""
    constant: Tensor

    def __init__(self, names: Sequence[str], weights: dict[str, float] | None = None) -> None:
        super().__init__()
        self.names = list(names)
        constant = torch.tensor([float((weights or {}).get(name, 1.0)) for name in names])
        self.register_buffer("constant", constant, persistent=False)

    def forward(self, losses: Tensor, gram: Tensor | None = None) -> Tensor:
        """Losses (T,), nan for a task that the step lacks, and inner products (T, T) -> factors (T,), heads'.

        Both arguments are of the raw losses, detached.
        """
        return self.constant

    def shared(self, factors: Tensor, gram: Tensor | None) -> Tensor:
        """Factors of the gradients at the shared parameters; those of the heads unless a method distinguishes."""
        return factors

    def wants_gradients(self) -> bool:
        """Whether the coming step must have the inner products of the gradients."""
        return self.needs_gradients

    def penalty(self, losses: Tensor) -> Tensor | None:
        """What is minimised beside, with gradients only to the method's own parameters."""
        return None

    def end_epoch(self) -> None:
        """Called after each training epoch."""


class Uncertainty(Balancing):
    """Homoscedastic uncertainty (Kendall et al., CVPR 2018): sum of L / (2 s^2) + log s with a learned s a task.

    The regression form serves all tasks; for a fixed loss it is least where s^2 = L. Learned is log s^2.
    """

    def __init__(self, names: Sequence[str], weights: dict[str, float] | None = None) -> None:
        super().__init__(names, weights)
        self.log_variance = nn.Parameter(torch.zeros(len(names)))

    def forward(self, losses: Tensor, gram: Tensor | None = None) -> Tensor:
        """Half the inverse variances."""
        return self.constant * torch.exp(-self.log_variance.detach()) / 2

    def penalty(self, losses: Tensor) -> Tensor:
        """The whole sum; the losses are constants in it."""
        here = ~losses.isnan()
        weighted = (self.constant * losses)[here]
        log_variance = self.log_variance[here]
        return (weighted * torch.exp(-log_variance) + log_variance).sum() / 2


class DynamicWeightAverage(Balancing):
    """Dynamic weight average (Liu et al., CVPR 2019): a task whose loss fell less over the last epochs weighs more.

    Args:
        temperature: How alike the weights are: the higher, the more equal; 2 in the paper.
    """

    total: Tensor
    steps: Tensor
    means: Tensor

    def __init__(
        self, names: Sequence[str], weights: dict[str, float] | None = None, *, temperature: float = 2.0
    ) -> None:
        super().__init__(names, weights)
        if temperature <= 0:
            raise ValueError(f"The temperature of dwa must be positive, got {temperature}.")
        self.temperature = temperature
        self.register_buffer("total", torch.zeros(len(names)))
        self.register_buffer("steps", torch.zeros(len(names)))
        self.register_buffer("means", torch.full((2, len(names)), torch.nan))  # of the last two epochs, older first

    def forward(self, losses: Tensor, gram: Tensor | None = None) -> Tensor:
        """T * softmax of the ratios of the last two epochs' mean losses; equal for the first two epochs."""
        here = losses.isfinite()  # neither what the step lacks nor what overflowed in half precision
        self.total += torch.where(here, losses, 0.0)
        self.steps += here
        ratios = self.means[1] / self.means[0]
        weights = self.constant * len(self.names) * torch.softmax(ratios / self.temperature, 0)
        return torch.where(ratios.isfinite().all(), weights, self.constant)

    def end_epoch(self) -> None:
        """Take the epoch's means, over all processes."""
        sums = mean_over_processes(torch.stack([self.total, self.steps]))
        self.means.copy_(torch.stack([self.means[1], sums[0] / sums[1]]))
        self.total.zero_()
        self.steps.zero_()


class Geometric(Balancing):
    """Geometric loss (Chennupati et al., CVPR workshops 2019): the T-th root of the product of the losses.

    Its gradient is the sum of grad L_i * root / (T * L_i), so the unit of a loss does not matter.
    """

    needs_all = True

    def forward(self, losses: Tensor, gram: Tensor | None = None) -> Tensor:
        """root / (T * L_i); a constant weight acts as an exponent."""
        share = self.constant / self.constant.sum()
        positive = losses.clamp(min=torch.finfo(losses.dtype).tiny)
        return share * torch.exp((share * positive.log()).sum()) / positive


class ByGradients(Balancing):
    """Base of the methods that work by the gradients' inner products, at every so many steps.

    Args:
        every: Ask for the products at every so many steps: a larger number saves the gradients that they take.
    """

    needs_gradients = True
    step: Tensor

    def __init__(self, names: Sequence[str], weights: dict[str, float] | None = None, *, every: int = 1) -> None:
        super().__init__(names, weights)
        if every < 1:
            raise ValueError(f"`every` of a balancing is a number of steps, at least 1, got {every}.")
        self.every = every
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def wants_gradients(self) -> bool:
        """At every so many steps."""
        return int(self.step) % self.every == 0


class GradNorm(ByGradients):
    """GradNorm (Chen et al., ICML 2018): weights follow until every task's gradient has the norm its pace asks for.

    The wanted norm is the mean norm times (relative inverse training rate) ** alpha; the weights take plain gradient
    steps on the sum of absolute differences and then sum to the number of tasks again.

    Args:
        alpha: Strength of the pull towards a common pace; 1.5 in the paper for unlike tasks, 0 for equal norms.
        lr: Learning rate of the weights themselves, which are no parameters of the optimiser; 0.025 in the paper.
        every: Move the weights at every so many steps: a larger number saves the gradients that it takes.
    """

    needs_all = True
    moving: Tensor
    first: Tensor

    def __init__(
        self,
        names: Sequence[str],
        weights: dict[str, float] | None = None,
        *,
        alpha: float = 1.5,
        lr: float = 0.025,
        every: int = 1,
    ) -> None:
        super().__init__(names, weights, every=every)
        self.alpha, self.lr = alpha, lr
        self.register_buffer("moving", torch.ones(len(names)))
        self.register_buffer("first", torch.full((len(names),), torch.nan))

    def forward(self, losses: Tensor, gram: Tensor | None = None) -> Tensor:
        """The weights after this step's move; none before each task had a loss above 0, to which paces relate.

        Nor in a step that overflows, as steps in half precision now and then do: the trainer leaves it out, too.
        """
        self.first.copy_(torch.where((self.first > 0) | ~losses.isfinite(), self.first, losses))
        if gram is not None and self.wants_gradients() and _moves(self.first, losses, gram):
            norms = self.constant * gram.diag().clamp(min=0).sqrt()
            pace = losses / self.first
            target = (self.moving * norms).mean() * (pace / pace.mean()) ** self.alpha
            slope = torch.sign(self.moving * norms - target) * norms
            moved = (self.moving - self.lr * slope).clamp(min=1e-3)  # a weight that reached zero would stay there
            self.moving.copy_(moved * len(self.names) / moved.sum())
        self.step += 1
        return self.constant * self.moving


class GradientMethod(ByGradients):
    """Base of the methods that combine the gradients at the shared parameters by coefficients of their inner products.

    The products are those at the last shared stage; the coefficients are used at all shared parameters. Heads keep
    their own gradients.

    Args:
        every: Find the coefficients anew at every so many steps, and use them in between.
    """

    needs_several = True
    coefficients: Tensor

    def __init__(self, names: Sequence[str], weights: dict[str, float] | None = None, *, every: int = 1) -> None:
        super().__init__(names, weights, every=every)
        self.register_buffer("coefficients", torch.ones(len(names)))

    def shared(self, factors: Tensor, gram: Tensor | None) -> Tensor:
        """Factors times coefficients; a task that the step lacks is left out by its missing gradient.

        The coefficients stay in a step that overflows.
        """
        if gram is not None and self.wants_gradients():
            products = (factors[:, None] * gram * factors).double().cpu()
            if products.isfinite().all():
                self.coefficients.copy_(self.combine(products))
        self.step += 1
        return factors * self.coefficients

    def combine(self, products: Tensor) -> Tensor:
        """Inner products (T, T) of the weighted gradients, float64 -> coefficients (T,)."""
        raise NotImplementedError


class PCGrad(GradientMethod):
    """PCGrad (Yu et al., NeurIPS 2020): a gradient that opposes another loses its part along that other.

    The others are visited in random order, drawn from the step's number.
    """

    def combine(self, products: Tensor) -> Tensor:
        """Coefficients of the sum of the projected gradients."""
        return without_conflicts(products, torch.Generator().manual_seed(int(self.step)))


class TorchJD(GradientMethod):
    """A weighting of the library torchjd (the extra `balancing`), scaled to sum to the number of tasks.

    Subclasses name it. Every step must have every task.
    """

    needs_all = True
    weighting: str

    def __init__(self, names: Sequence[str], weights: dict[str, float] | None = None, *, every: int = 1) -> None:
        super().__init__(names, weights, every=every)
        try:
            from torchjd import aggregation

            self.weigh = getattr(aggregation, self.weighting)()
        except ImportError as error:
            raise ValueError(
                f"The balancing {type(self).__name__} is that of torchjd: install it by pip install '.[balancing]'."
            ) from error

    def combine(self, products: Tensor) -> Tensor:
        """What torchjd makes of the products; zeros where that is nothing, as of gradients that cancel each other."""
        found = self.weigh(products)
        total = found.sum()
        return found * len(found) / total if total > 0 else torch.zeros_like(found)


class MGDA(TorchJD):
    """Multiple gradient descent (Sener and Koltun, NeurIPS 2018): the shortest convex combination."""

    weighting = "MGDAWeighting"


class UPGrad(TorchJD):
    """UPGrad (Quinton and Rey, 2024): each gradient projected so that it opposes none, then summed."""

    weighting = "UPGradWeighting"


class IMTLG(TorchJD):
    """IMTL-G (Liu et al., ICLR 2021): the combination with equal projections on all gradients."""

    weighting = "IMTLGWeighting"


class AlignedMTL(TorchJD):
    """Aligned-MTL (Senushkin et al., CVPR 2023): gradients made orthogonal and of one size first."""

    weighting = "AlignedMTLWeighting"


def _moves(first: Tensor, losses: Tensor, gram: Tensor) -> bool:
    """Whether a step says anything about paces and norms."""
    return bool(((first > 0) & losses.isfinite() & gram.isfinite().all(1)).all())


METHODS: dict[str, type[Balancing]] = {
    "fixed": Balancing,
    "uncertainty": Uncertainty,
    "dwa": DynamicWeightAverage,
    "geometric": Geometric,
    "gradnorm": GradNorm,
    "pcgrad": PCGrad,
    "mgda": MGDA,
    "upgrad": UPGrad,
    "imtl_g": IMTLG,
    "aligned_mtl": AlignedMTL,
}


def make_balancing(
    spec: str | BalancingSpec, names: Sequence[str], weights: dict[str, float] | None = None
) -> Balancing:
    """The method that `spec` names, for these tasks.

    Raises:
        ValueError: If there is no such method, it lacks an argument, or a weight is not positive or of no task.
    """
    options: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = options.pop("name")
    if name not in METHODS:
        raise ValueError(f"balancing: there is no method {name!r}; choose one of {', '.join(METHODS)}.")
    unknown = sorted(set(weights or {}) - set(names))
    if unknown or any(weight <= 0 for weight in (weights or {}).values()):
        raise ValueError(f"task_weights {weights} should give positive numbers to some of {', '.join(names)}.")
    try:
        return METHODS[name](names, weights, **options)
    except TypeError as error:
        raise ValueError(f"balancing: the method {name!r} does not take {', '.join(options)}: {error}.") from error

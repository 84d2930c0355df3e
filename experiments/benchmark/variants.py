"""How a variant is made: in which numbers it computes, what it takes, and whether it agrees with what is expected.

On a CPU all compute in float32. On a GPU each is timed in every precision that a training can ask for; its memory is
the most that its own copy of the weights, the optimiser and the work take together. A variant that cannot be run, or
computes something else, is named and not timed.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from experiments.benchmark.timing import Setting, Variant

Run = Callable[[], object]


@dataclass(frozen=True)
class Numbers:
    """How numbers are kept.

    Args:
        name: As in `trainer.precision`, and whether float32 is rounded to TF32 in convolutions and products.
        tf32: Whether it is.
        dtype: Of autocast, where that is used.
        tolerance: Relative error, as a norm over all outputs or gradients, up to which variants agree. An untrained
            network of this depth passes rounding errors on (bfloat16: 0.25 at the end of W32), so it is float32 without
            TF32 that shows two networks to be one; what is rounded more is only seen not to be something else.
        tuned: Whether cuDNN tries its algorithms first (`trainer.benchmark`).
    """

    name: str
    tf32: bool = False
    dtype: torch.dtype | None = None
    tolerance: float = 1e-3
    tuned: bool = False

    def label(self, way: str) -> str:
        """A way to compute in these numbers."""
        return f"{way}, {self.name}" if self.name else way

    @contextmanager
    def in_use(self, device: str) -> Iterator[None]:
        """Within the block."""
        cudnn, cublas = torch.backends.cudnn, torch.backends.cuda.matmul
        before = cudnn.allow_tf32, cublas.allow_tf32, cudnn.benchmark
        cudnn.allow_tf32 = cublas.allow_tf32 = self.tf32
        cudnn.benchmark = self.tuned
        try:
            with torch.autocast(device, dtype=self.dtype, enabled=self.dtype is not None):
                yield
        finally:
            cudnn.allow_tf32, cublas.allow_tf32, cudnn.benchmark = before


PLAIN = Numbers("")
"""On a CPU, where there is no choice."""
FP32 = Numbers("float32 without TF32")
TF32 = Numbers("float32 with TF32", tf32=True, tolerance=0.2)
TUNED = Numbers("float32 with TF32, cuDNN tuned", tf32=True, tolerance=0.2, tuned=True)
FP16 = Numbers("16-mixed", tf32=True, dtype=torch.float16, tolerance=0.2)
BF16 = Numbers("bf16-mixed", tf32=True, dtype=torch.bfloat16, tolerance=0.7)
BF16_TUNED = Numbers("bf16-mixed, cuDNN tuned", tf32=True, dtype=torch.bfloat16, tolerance=0.7, tuned=True)


def made(
    label: str, make: Callable[[], Run], agrees: Callable[[Run], str], device: str, target: float | None = None
) -> Variant:
    """A variant that was run once and seen to agree, with the memory that it takes; or why it is not."""
    on_gpu = device == "cuda"
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    try:
        run = make()
        problem = agrees(run)
        run()
    except (RuntimeError, ImportError) as error:  # out of memory, no compiler, no kernel
        return Variant(label, _nothing, problem=f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
    memory = torch.cuda.max_memory_allocated() - before if on_gpu else None
    return Variant(label, run, target, memory, problem)


def _nothing() -> None:
    """In place of what cannot be run."""


def check_output(run: Run, *, expected: Tensor, tolerance: float) -> str:
    """What is wrong with what a call returns; empty where it agrees."""
    return check(run(), expected, tolerance)


def check_outputs(run: Run, *, expected: dict[str, Tensor], tolerance: float) -> str:
    """The same of several tensors by name."""
    found = run()
    return next((text for name in expected if (text := check(found[name], expected[name], tolerance))), "")


def check(found: Tensor, expected: Tensor, tolerance: float) -> str:
    """What is wrong with it; empty where it agrees."""
    error = ((found.double() - expected.double()).norm() / expected.double().norm()).item()
    fine = error <= tolerance  # not so if it is nan
    return "" if fine else f"it differs by {error:.1e} of the size of what is expected, more than {tolerance:g}"


def nhwc(network: nn.Module) -> nn.Module:
    """A copy whose weights, and so its maps, have channels last in memory."""
    return deepcopy(network).to(memory_format=torch.channels_last)


def compiled(network: nn.Module) -> nn.Module:
    """As `compile: true` of a task does it."""
    network = nhwc(network)
    network.backbone.compile()
    return network


def predict(network: Callable, inputs: Tensor | list[Tensor], numbers: Numbers) -> object:
    """What a network makes of its inputs in these numbers, without gradients."""
    device = (inputs[0] if isinstance(inputs, list) else inputs).device.type
    with torch.inference_mode(), numbers.in_use(device):
        return network(inputs)


def captured(run: Run) -> Run:
    """Replays the kernels of a call without launching them one by one; raises RuntimeError where there is no GPU."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run()

    def replay() -> object:
        graph.replay()
        return found

    return replay


def random(setting: Setting, *shape: int) -> Tensor:
    """Numbers from 0 to 1 on the setting's device, always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(shape, generator=generator).to(setting.device)

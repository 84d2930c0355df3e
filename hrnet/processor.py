"""What the processor can do: whether it has instructions for bfloat16, and for products of eight bits.

Where it has no such instructions torch converts number by number, and a convolution takes up to some hundred times as
long as in float32. Autocast and `bfloat16()` do not say so.
"""

import time
from functools import cache
from pathlib import Path

import torch

INSTRUCTIONS = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16", "sve_bf16"})
"""Of x86 and of ARM, by the names of Linux and of torch."""
INT8_INSTRUCTIONS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "i8mm", "dot", "asimddp"})
"""That add up products of eight bits in thirty-two; older ones of x86 do so in sixteen, which overflow."""
FLAGS = Path("/proc/cpuinfo")
SIDE = 384  # of the matrices that are multiplied where nobody lists the instructions
FACTOR = 2.0  # with instructions a product is faster than in float32, without them many times slower


@cache
def has_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16; found by a measurement where nobody says."""
    flags = _flags()
    return _measured() if flags is None else bool(flags & INSTRUCTIONS)


@cache
def has_int8() -> bool:
    """Whether sums of products of eight bits are exact; no where nobody says."""
    return bool((_flags() or frozenset()) & INT8_INSTRUCTIONS)


def _flags() -> frozenset[str] | None:
    """Instruction sets as torch or Linux list them; None where neither does."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    if capabilities:
        return frozenset(name for name, there in capabilities.items() if there is True)
    try:
        lines = FLAGS.read_text().splitlines()
    except OSError:
        return None
    words = [line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))]
    return frozenset(words[0]) if words else None


def _measured() -> bool:
    """Whether a product of matrices in bfloat16 takes at most twice as long as in float32."""
    return _seconds(torch.bfloat16) < FACTOR * _seconds(torch.float32)


def _seconds(dtype: torch.dtype) -> float:
    """Of the fastest of three products."""
    matrix = torch.ones(SIDE, SIDE, dtype=dtype)
    matrix @ matrix
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        matrix @ matrix
        taken.append(time.perf_counter() - start)
    return min(taken)

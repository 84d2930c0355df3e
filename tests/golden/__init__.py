"""Golden files: outputs of independent implementations, for weights and images that follow from a rule.

`NAME.json` lists the keys and shapes of a published checkpoint and the shape of the input, `NAME.npz` has the outputs
in eval mode. The weights are not stored: each entry is a function of its key and position, so `state_for` makes them.
"""

import gzip
import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

MASK = np.uint64(0xFFFFFFFF)


def noise(seed: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float64 values in [0, 1): 32-bit hashes of position and seed, the same on every platform."""
    bits = np.arange(int(np.prod(shape, dtype=np.int64)), dtype=np.uint64)
    bits = (bits * np.uint64(2654435761) + np.uint64(zlib.crc32(seed.encode()))) & MASK
    for _ in range(2):
        bits = ((bits ^ (bits >> np.uint64(16))) * np.uint64(0x45D9F3B)) & MASK
    return ((bits ^ (bits >> np.uint64(16))) / 2.0**32).reshape(shape)


def tensor_for(key: str, shape: tuple[int, ...]) -> Tensor:
    """The entry `key` of a checkpoint: weights of unit gain, variances and scales around 1, the rest around 0."""
    u = noise(key, shape)
    kind = key.rsplit(".", 1)[-1]
    if kind == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    if len(shape) > 1:
        u = (2 * u - 1) * np.sqrt(3 / np.prod(shape[1:]))
    elif kind == "running_var":
        u = u + 0.5
    elif kind in ("running_mean", "bias"):
        u = 0.2 * u - 0.1
    else:
        u = 0.5 * u + 0.5
    return torch.from_numpy(np.asarray(u, np.float32))


def state_for(keys: list[tuple[str, list[int]]]) -> dict[str, Tensor]:
    """A checkpoint with these keys and shapes."""
    return {key: tensor_for(key, tuple(shape)) for key, shape in keys}


def image_for(name: str, shape: tuple[int, ...]) -> Tensor:
    """The input (B, 3, H, W) of the golden file `name`, float32 in [-1, 1)."""
    return torch.from_numpy((2 * noise(f"image:{name}", shape) - 1).astype(np.float32))


def old_run(name: str, folder: Path) -> Path:
    """A run folder `pose`, `segmentation`, `classification` or `joint` as this project wrote it before its rooms.

    Its checkpoints' tensors are not stored, see `state_for`; moments of the optimiser are small and positive.
    """
    run = folder / name / "20261127-203500-abcdef"
    shutil.copytree(Path(__file__).parent / "runs" / name, run, ignore=shutil.ignore_patterns("*.gz"))
    with gzip.open(Path(__file__).parent / "runs" / name / "last.json.gz", "rt") as file:
        content = _filled(json.load(file), "")
    (run / "checkpoints").mkdir()
    for each in ("last", "best"):
        torch.save(content, run / "checkpoints" / f"{each}.ckpt")
    return run


def _filled(value: Any, key: str) -> Any:
    """Plain values of a checkpoint with their tensors, tuples and keys that are no text."""
    if isinstance(value, list):
        return [_filled(each, key) for each in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"tensor", "dtype"}:
        return torch.tensor(value["tensor"], dtype=getattr(torch, value["dtype"]))
    if value.keys() == {"shape", "dtype"}:
        tensor = tensor_for(key, tuple(value["shape"])).to(getattr(torch, value["dtype"]))
        return tensor.abs() * 1e-4 if key in ("exp_avg", "exp_avg_sq", "momentum_buffer") else tensor
    if value.keys() == {"tuple"}:
        return tuple(_filled(each, key) for each in value["tuple"])
    if value.keys() == {"items"}:
        return {_filled(each, key): _filled(held, key) for each, held in value["items"]}
    return {each: _filled(held, each) for each, held in value.items()}

"""Tests that need a GPU; without one each is skipped.

    python -m pytest tests/gpu -n 4

To see that the tests themselves work, HRNET_GPU_TESTS=cpu runs them on the CPU, save those of the GPU's own properties.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT

HERE = Path(__file__).parent
DEVICE = torch.device(os.environ.get("HRNET_GPU_TESTS", "cuda"))
ACCELERATOR = ["--trainer.accelerator", "gpu" if DEVICE.type == "cuda" else "cpu", "--trainer.devices", "1"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, and say why they are skipped."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if DEVICE.type == "cuda" and not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs a GPU that torch can use"))


@pytest.fixture
def gpu() -> torch.device:
    """For tests that mean nothing elsewhere."""
    if DEVICE.type != "cuda":
        pytest.skip("of the GPU's own properties")
    return DEVICE


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether float32 convolutions and products on the GPU may round to TF32, within the block."""
    cudnn, cublas = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, cublas.allow_tf32
    cudnn.allow_tf32 = cublas.allow_tf32 = allowed
    try:
        yield
    finally:
        cudnn.allow_tf32, cublas.allow_tf32 = before


@pytest.fixture(autouse=True)
def plain_float32(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No TF32, in the repository's folder; deterministic algorithms, if a test asked for them, are off afterwards."""
    monkeypatch.chdir(ROOT)
    with tf32(False):
        yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = torch.backends.cudnn.benchmark = False

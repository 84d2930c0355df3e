"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

torch.set_num_threads(1)  # the test processes share the cores

ROOT = Path(__file__).parents[1]


def _beside_the_repository(name: str, variable: str) -> Path:
    folder = Path(os.environ.get(variable, ROOT.parent / "shared" / name))
    if not folder.is_dir():
        pytest.skip(f"needs the {name} folder: put it at {folder} or name it in {variable}")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Small real data sets beside the repository; skips when absent."""
    return _beside_the_repository("data", "SHARED_DATA")


@pytest.fixture(scope="session")
def shared_reference() -> Path:
    """Golden figures too large for the repository; skips when absent."""
    return _beside_the_repository("reference", "SHARED_REFERENCE")

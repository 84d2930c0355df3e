"""Fixtures that several test files share."""

import os
import runpy
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

OFFLINE = Path(__file__).parent / "offline"
runpy.run_path(str(OFFLINE / "sitecustomize.py"))  # before anything that tests import asks for a name
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(OFFLINE), os.environ.get("PYTHONPATH"))))
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

torch.set_num_threads(1)  # the test processes share the cores, with those that they start, too
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parents[1]


def _beside_the_repository(name: str, variable: str) -> Path:
    folder = Path(os.environ.get(variable, ROOT.parent / "shared" / name))
    if not folder.is_dir():
        pytest.skip(f"needs the {name} folder: put it at {folder} or name it in {variable}")
    return folder


@pytest.fixture(scope="session", autouse=True)
def network_notes() -> Iterator[Path]:
    """The file in which every attempt to reach another machine is noted, by this process and those that it starts."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HRNET_TEST_NETWORK"] = str(Path(folder) / "notes")
        yield Path(folder) / "notes"


@pytest.fixture(autouse=True)
def _no_network(network_notes: Path) -> Iterator[None]:
    """Fails what looks up a name or connects to another machine, also where it copes with that."""
    yield
    if network_notes.exists():
        asked = network_notes.read_text().splitlines()
        network_notes.unlink()
        pytest.fail(f"asked the network for {', '.join(dict.fromkeys(asked))}")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Small real data sets beside the repository; skips when absent."""
    return _beside_the_repository("data", "SHARED_DATA")


@pytest.fixture(scope="session")
def shared_reference() -> Path:
    """Golden figures too large for the repository; skips when absent."""
    return _beside_the_repository("reference", "SHARED_REFERENCE")

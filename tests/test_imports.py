"""Imports point one way: hrnet <- tasks <- experiments -> datamodules. Tasks and data meet only in the batch."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "hrnet": set(),
    "tasks": {"hrnet"},
    "datamodules": set(),
    "experiments": {"hrnet", "tasks", "datamodules"},
}
OURS = {*MAY_IMPORT, "tests"}


def imported_packages(source: str) -> set[str]:
    """First names of all modules imported anywhere in `source`; a relative import stays inside its package."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("import_module", "importlib.import_module"):
            names |= {str(a.value).split(".")[0] for a in node.args[:1] if isinstance(a, ast.Constant)}
    return names


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package: str) -> None:
    files = sorted(f for f in (ROOT / package).rglob("*.py") if f.name != "__main__.py")  # commands may meet anything
    assert files
    forbidden = OURS - MAY_IMPORT[package] - {package}
    found = {str(f.relative_to(ROOT)): imported_packages(f.read_text()) & forbidden for f in files}
    assert not {file: names for file, names in found.items() if names}


def test_every_package_of_ours_is_in_the_table() -> None:
    packages = {f.parent.name for f in ROOT.glob("*/__init__.py")}
    assert packages == OURS


def test_imports_are_seen_wherever_they_stand() -> None:
    source = """
import torch, tasks.pose as pose
def late():
    from hrnet.backbone import ConvBN
    import importlib
    importlib.import_module("datamodules.base")
from . import experiments
text = "import experiments"
"""
    assert imported_packages(source) == {"torch", "tasks", "hrnet", "importlib", "datamodules"}

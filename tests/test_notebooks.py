"""Every notebook is about one question, is stored without output, and runs from top to bottom, any cell twice."""

import re

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
LONG = {"07_compare_runs", "11_pyramid_and_faces"}
run_by_name = pytest.mark.parametrize(
    "path", [pytest.param(path, marks=[pytest.mark.long] * (path.stem in LONG), id=path.stem) for path in NOTEBOOKS]
)


def read(path):
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def test_notebooks_are_numbered_from_one_without_gaps():
    numbers = [re.fullmatch(r"(\d\d)_[a-z0-9_]+", path.stem) for path in NOTEBOOKS]
    assert all(numbers), [path.name for path in NOTEBOOKS]
    assert [int(number[1]) for number in numbers] == list(range(1, len(NOTEBOOKS) + 1))


@by_name
def test_notebook_asks_one_question_first(path):
    first = read(path).cells[0]
    titles = [line for line in first.source.splitlines() if line.startswith("# ")]
    assert first.cell_type == "markdown"
    assert len(titles) == 1
    assert titles[0].endswith("?")


@by_name
def test_notebook_is_stored_without_output(path):
    for cell in read(path).cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@by_name
def test_notebook_is_valid(path):
    notebook = read(path)
    assert notebook.nbformat == 4
    nbformat.validate(notebook)
    names = [cell.id for cell in notebook.cells]
    assert len(set(names)) == len(names)


@pytest.mark.slow
@run_by_name
def test_notebook_runs_in_a_kernel(path, monkeypatch):
    """In order; then again every cell that is not tagged `slow`, which a second run must not harm."""
    for name, value in {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "NO_ALBUMENTATIONS_UPDATE": "1"}.items():
        monkeypatch.setenv(name, value)
    notebook = read(path)
    client = NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(path.parent)}})
    with client.setup_kernel():
        for again in (False, True):
            for number, cell in enumerate(notebook.cells):
                if not (again and "slow" in cell.metadata.get("tags", [])):
                    client.execute_cell(cell, number)
                    assert not [*warned(cell), *not_shown(cell)]


def warned(cell) -> list[str]:
    """Warnings below a cell."""
    return [output.text for output in cell.get("outputs", []) if "Warning: " in output.get("text", "")]


def not_shown(cell) -> list[str]:
    """Objects of which a reader sees no more than `<Figure size 640x480 with 1 Axes>`."""
    shown = [output.data for output in cell.get("outputs", []) if "data" in output]
    return [data["text/plain"] for data in shown if len(data) == 1 and data.get("text/plain", "").startswith("<")]

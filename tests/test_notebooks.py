"""Every notebook is about one question, is stored without output, and runs from top to bottom, any cell twice."""

import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def test_notebooks_are_numbered_from_one_without_gaps():
    numbers = [re.fullmatch(r"(\d\d)_[a-z0-9_]+", path.stem) for path in NOTEBOOKS]
    assert all(numbers), [path.name for path in NOTEBOOKS]
    assert [int(number[1]) for number in numbers] == list(range(1, len(NOTEBOOKS) + 1))


@by_name
def test_notebook_asks_one_question_first(path):
    first = json.loads(path.read_text())["cells"][0]
    titles = [line for line in "".join(first["source"]).splitlines() if line.startswith("# ")]
    assert first["cell_type"] == "markdown"
    assert len(titles) == 1
    assert titles[0].endswith("?")


@by_name
def test_notebook_is_stored_without_output(path):
    for cell in code_cells(path):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


@by_name
def test_notebook_is_valid(path):
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    assert notebook.nbformat == 4
    nbformat.validate(notebook)
    names = [cell["id"] for cell in notebook.cells]
    assert len(set(names)) == len(names)


@pytest.mark.slow
@by_name
def test_notebook_runs(path, monkeypatch):
    """In order; then again every cell that is not tagged `slow`, which a second run must not harm."""
    monkeypatch.chdir(ROOT / "notebooks")  # where JupyterLab starts a kernel
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(plt, "show", plt.close)
    names: dict = {"__name__": "__main__"}
    cells = [
        (compile("".join(cell["source"]), f"{path.name} code cell {number}", "exec"), cell["metadata"].get("tags", []))
        for number, cell in enumerate(code_cells(path), start=1)
    ]
    with plt.rc_context({"backend": "agg"}):
        for code, _ in cells:
            exec(code, names)
        for code, tags in cells:
            if "slow" not in tags:
                exec(code, names)
    assert Path.cwd() == ROOT

"""Files that speak to tools around the code: declared dependencies, types, citation, hooks and the workflow."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGES = ("hrnet", "tasks", "datamodules", "experiments")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def normal(distribution: str) -> str:
    """A distribution's name as package indexes compare it, without versions and extras."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", distribution)[0]).lower()


def imported(folder: str) -> dict[str, str]:
    """Distributions that the files of a folder import from, each with one such file."""
    found: dict[str, str] = {}
    for file in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            found |= {name.split(".")[0]: str(file.relative_to(ROOT)) for name in names}
    outside = found.keys() - sys.stdlib_module_names - {*PACKAGES, "tests"}
    installed = packages_distributions()
    return {normal(installed.get(name, [name])[0]): found[name] for name in outside}


def test_every_imported_package_is_declared() -> None:
    required = {normal(line) for line in PROJECT["dependencies"]}
    extras = {name: {normal(line) for line in lines} for name, lines in PROJECT["optional-dependencies"].items()}
    optional = {name for extra, names in extras.items() if extra != "dev" for name in names}
    for package in PACKAGES:
        undeclared = {name: file for name, file in imported(package).items() if name not in required | optional}
        assert not undeclared, f"add {undeclared} (distribution: a file that imports it) to pyproject.toml"
    undeclared = {
        name: file for name, file in imported("tests").items() if name not in required | optional | extras["dev"]
    }
    assert not undeclared, f"add {undeclared} to the extra dev in pyproject.toml"


@pytest.mark.parametrize("package", ["hrnet", "tasks", "datamodules"])  # experiments are commands
def test_types_are_for_others_too(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "py.typed" in settings[package]


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def test_citation_is_of_this_version() -> None:
    citation = read("CITATION.cff")
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    for paper in citation["references"]:
        assert {"type", "title", "authors", "year", "url"} <= paper.keys()


def test_the_workflow_runs_what_a_developer_runs() -> None:
    jobs = read(".github/workflows/tests.yaml")["jobs"]
    assert all(job["timeout-minutes"] <= 60 for job in jobs.values())
    tests, lowest = jobs["tests"], PROJECT["requires-python"].removeprefix(">=")
    assert lowest in tests["strategy"]["matrix"]["python"]
    assert ".ci/run" in [step.get("run") for step in tests["steps"]]
    (setup,) = [step["with"] for step in jobs["lower-bounds"]["steps"] if "setup-python" in step.get("uses", "")]
    assert setup["python-version"] == lowest
    assert {"run": "make long"} in jobs["long"]["steps"]  # what .ci/run leaves out
    assert (ROOT / ".ci/run").stat().st_mode & 0o100


def test_hooks_are_the_linter_and_formatter() -> None:
    hooks = {hook["id"] for repository in read(".pre-commit-config.yaml")["repos"] for hook in repository["hooks"]}
    assert {"ruff-check", "ruff-format"} <= hooks


def test_the_changelog_has_a_place_for_what_comes_next() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "[Unreleased]"

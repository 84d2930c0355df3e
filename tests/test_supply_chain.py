"""What is installed beside the code: bounds, versions that CI takes, licences that a user may build on."""

import re
import tomllib
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

import pytest
import yaml

from tests.lowest_versions import lowest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GROUPS = {"required": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
DECLARED = [line for lines in GROUPS.values() for line in lines if not line.startswith(PROJECT["name"])]
PERMISSIVE = re.compile(
    r"MIT|BSD|Apache|\bISC\b|PSF|Python Software Foundation|MPL-2\.0|Mozilla Public License 2\.0|HPND|Zlib|0BSD|CC0"
)
# Whose metadata say nothing, or another thing than the permissive ones do.
KNOWN = {
    "faster-coco-eval": "Apache-2.0, by the file LICENSE in it",
    "cuda-toolkit": "a name for NVIDIA's packages, which torch asks for on Linux",
    "quadprog": "GPL-2.0 or later: comes with the extra balancing alone",
    "qpsolvers": "LGPL-3.0: comes with the extra balancing alone",
}
COPYLEFT = {"quadprog", "qpsolvers"}


def normal(name: str) -> str:
    """A distribution's name as package indexes compare it, without versions and extras."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name)[0]).lower()


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("line", DECLARED)
def test_every_dependency_has_a_lower_and_an_upper_bound(line: str) -> None:
    bounds = line.partition("]")[2] or line
    assert "==" in bounds or (">=" in bounds and re.search(r"<\d", bounds)), line


def test_constraints_are_within_the_bounds_and_of_all_that_is_declared() -> None:
    pinned = {normal(name): version for name, version in pins().items()}
    for line in GROUPS["required"] + [each for each in GROUPS["dev"] if not each.startswith(PROJECT["name"])]:
        version = tuple(map(int, re.findall(r"\d+", pinned[normal(line)])[:3]))
        for sign, bound in re.findall(r"(>=|<|==)([\d.]+)", line):
            stated = tuple(map(int, bound.split(".")))
            assert {">=": version >= stated, "<": version < stated, "==": version[: len(stated)] == stated}[sign], line


def test_ci_installs_from_the_constraints() -> None:
    assert "--constraint constraints.txt" in (ROOT / "Makefile").read_text()
    assert "constraints.txt" in (ROOT / ".github/workflows/tests.yaml").read_text()


def test_lower_bounds_are_tried_in_ci() -> None:
    pinned = [re.split("==", line) for line in lowest()]
    assert {normal(name) for name, _ in pinned} >= {normal(line) for line in DECLARED}
    assert ["albumentations", "2.0.8.*"] in pinned
    jobs = yaml.safe_load((ROOT / ".github/workflows/tests.yaml").read_text())["jobs"]
    assert {"run": "make lowest"} in jobs["lower-bounds"]["steps"]
    assert "tests.lowest_versions" in (ROOT / "Makefile").read_text()


def licence(found: Distribution) -> str:
    """What a distribution says of its licence: an expression, classifiers, or the first line of a text."""
    data = found.metadata
    classes = [line.rpartition("::")[2] for line in data.get_all("Classifier") or [] if line.startswith("License")]
    first = next(iter((data.get("License") or "").strip().splitlines()), "")
    return " ".join([data.get("License-Expression") or "", *classes, first]).strip()


def test_licences_of_installed_packages_are_permissive_or_known() -> None:
    said = {normal(found.metadata["Name"]): licence(found) for found in distributions()}
    odd = {
        name: text
        for name, text in said.items()
        if (not PERMISSIVE.search(text) or "GPL" in text) and not name.startswith("nvidia-") and name not in KNOWN
    }
    assert not odd, f"look at these licences and add them to KNOWN, or do without: {odd}"
    assert {name for name, text in said.items() if "GPL" in text} <= COPYLEFT


def needed(name: str, found: set[str]) -> set[str]:
    """A distribution and all that it needs without extras."""
    if name not in found:
        found.add(name)
        try:
            lines = distribution(name).requires or []
        except PackageNotFoundError:  # of another platform
            return found
        for line in lines:
            if "extra ==" not in line:
                needed(normal(line), found)
    return found


def test_what_is_required_needs_nothing_under_a_copyleft_licence() -> None:
    found: set[str] = set()
    for line in GROUPS["required"]:
        needed(normal(line), found)
    assert {"torch", "numpy", "markupsafe"} <= found
    assert not found & COPYLEFT

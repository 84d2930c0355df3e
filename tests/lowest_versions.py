"""Print the lowest versions that `pyproject.toml` allows, as constraints for pip.

python -m tests.lowest_versions > lowest.txt && pip install --editable '.[dev]' --constraint lowest.txt
"""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def lowest() -> Iterator[str]:
    """A line `name==version` of every dependency, those of all extras included."""
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    for line in sorted({line for group in groups for line in group}):
        name = re.match(r"[\w.-]+", line)
        bound = re.search(r"[>=]=([\d.]+)", line)
        if name is not None and bound is not None:
            yield f"{name[0]}=={bound[1]}.*"


if __name__ == "__main__":
    print("\n".join(lowest()))

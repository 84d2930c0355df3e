"""What is run: the only place where tasks and data meet. One command a file, one experiment a YAML."""

import importlib.util
import sys
from pathlib import Path

HOUSE = Path(__file__).parents[1]


def _hidden() -> str | None:
    """One sentence where a folder or file of another project is found in place of one of our packages."""
    for name in ("hrnet", "tasks", "datamodules"):
        spec = importlib.util.find_spec(name)
        places = [] if spec is None else [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
        found = [Path(place) for place in places if place is not None]
        if found and not any(place.is_relative_to(HOUSE / name) for place in found):
            hiding = found[0].parent if found[0].name == "__init__.py" else found[0]
            return (
                f"{hiding} hides the package {name} of this project, since Python looks there first: rename it, or "
                "start from another folder."
            )
    return None


if _sentence := _hidden():
    if sys.argv and (sys.argv[0] == "-m" or Path(sys.argv[0]).stem == "hrnet"):  # a command, not an import
        print(f"error: {_sentence}", file=sys.stderr)
        raise SystemExit(2)
    raise ImportError(_sentence)

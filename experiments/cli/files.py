"""Files that a command leaves behind: whole or not at all, so that what was there before stays until the new one is."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, beside `path`, which it replaces when the block ends; after an error it is taken away."""
    part = path.with_name(path.name + ".part")
    try:
        yield part
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str, errors: str = "strict") -> None:
    """A text file in UTF-8; `errors` as `open` has it, for names of files that are no UTF-8."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", errors=errors)


def write_json(path: Path, content: Any) -> None:
    """A JSON file without NaN."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV file with the columns of all rows, in the order in which they come."""
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)


def read_json(path: Path) -> dict[str, Any]:
    """A mapping that a run wrote; empty where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}

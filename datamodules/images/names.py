r"""File names as annotations spell them and as folders have them: `a\b.jpg` from Windows, letters and accents apart.

spelled = as_stored("data/mine/images", ["a\\b.jpg", "é.jpg"])      # {"a\\b.jpg": "a/b.jpg"}, those that differ
"""

import os
import unicodedata
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any


def is_file_name(value: Any) -> bool:
    """Whether a file can have this name: a text, not empty, without a zero or half a character."""
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)


def plain_spelling(name: str) -> str:
    r"""A name with `/` for `\` and accents joined to their letters: equal for all spellings of one path."""
    return unicodedata.normalize("NFC", name.replace("\\", "/"))


def listing(folder: str | Path) -> frozenset[str]:
    """Names in a folder; empty where there is none, so that every file in it is missing."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries)
    except OSError:
        return frozenset()


def as_stored(folder: str | Path, names: Iterable[str]) -> dict[str, str]:
    r"""Names below `folder` that it has only in another spelling, and that spelling.

    Tried are `\` as `/` and the other of Unicode's normal forms, in which macOS and Linux write accents. A folder is
    listed once, however many names it has.
    """
    listed = cache(listing)
    found: dict[str, str] = {}
    for name in names:
        parent, base = os.path.split(name)
        if base not in listed(os.path.join(folder, parent)):
            stored = _found(os.fspath(folder), plain_spelling(name).split("/"), listed)
            if stored is not None:
                found[name] = stored
    return found


def _found(folder: str, parts: list[str], listed: Any) -> str | None:
    path = ""
    for part in parts:
        entries = listed(os.path.join(folder, path))
        known = {part: part} if part in entries or part in ("", ".", "..") else {plain_spelling(e): e for e in entries}
        if part not in known:
            return None
        path = os.path.join(path, known[part])
    return path

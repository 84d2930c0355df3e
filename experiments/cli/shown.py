"""What a terminal shows. Names come from files of any origin, and a terminal obeys some characters."""

import sys


def visible(text: str) -> str:
    """With an escape in place of each character that a terminal would obey, or not show."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(text: object, *, error: bool = False) -> None:
    """Print lines at once.

    Args:
        text: The lines.
        error: Print on standard error.
    """
    print("\n".join(map(visible, str(text).split("\n"))), file=sys.stderr if error else sys.stdout, flush=True)

"""The edge of a reader: whatever is raised because of a file is one sentence with its name, and no bug is hidden."""

import struct
import sys

import pytest

from datamodules.base import DataError
from datamodules.findings import refused


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("x"), "KeyError: 'x'"),
        (TypeError("no len"), "TypeError: no len"),
        (OverflowError("too large"), "OverflowError: too large"),
        (IndexError(""), "IndexError: "),
        (ValueError("two\nlines"), "two lines"),
        (ValueError(""), "ValueError: "),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "'utf-8' codec can't decode byte 0xff"),
        (MemoryError(), "it does not fit into memory"),
        (RecursionError("maximum recursion depth exceeded"), "it is nested too deeply"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (OSError("image file is truncated"), "image file is truncated"),
        (SyntaxError("broken PNG file"), "broken PNG file"),
        (struct.error("unpack requires 4 bytes"), "error: unpack requires 4 bytes"),
        (ValueError("x" * 5000), f"{'x' * 197}..."),
    ],
)
def test_whatever_a_library_raises_is_a_sentence(error: Exception, said: str) -> None:
    with pytest.raises(DataError) as caught, refused(lambda text: f"a.x cannot be read ({text})."):
        raise error
    assert str(caught.value).startswith(f"a.x cannot be read ({said}")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error


def test_what_is_said_already_passes_and_nobody_is_kept_from_stopping() -> None:
    for error in (DataError("a.x is wrong."), KeyboardInterrupt(), SystemExit(3)):
        with pytest.raises(type(error)) as caught, refused(lambda text: f"b.x ({text})."):
            raise error
        assert caught.value is error


def test_lists_in_lists_without_end_are_a_sentence() -> None:
    def deep(level: int) -> int:
        return 1 + deep(level + 1)

    with pytest.raises(DataError, match="nested too deeply"), refused(lambda text: f"a.x ({text})."):
        deep(0)
    assert sys.getrecursionlimit() > 100

"""Names of classes come from folders and files of any origin: they are drawn and printed as they are."""

import numpy as np
import pytest
import torch
from rich.table import Table

from tasks.draw import class_table, draw_caption, draw_confusion, draw_labels, draw_legend, print_tables
from tasks.draw.charts import draw_bars, draw_stacked_bars

pytestmark = pytest.mark.filterwarnings("ignore:Glyph")  # of an escape there is none
HOSTILE = [
    "[/red]", "a$\\frac$", "\x1b[31mred\x1b[0m", "[bold]b[/bold]", ":smile:", "$x^2$", "\u202eevil\x07", "%s\\",
    "h\udcf8",
]  # fmt: skip


def test_tables_show_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("[/red]", "value", caption="absent: [/red]")
    table.add_row("\x1b[2J", "[/x]")
    print_tables(class_table([{"name": name, "[b]": 0.5} for name in HOSTILE]), table)
    said = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\u202e", "\udcf8"} & set(said)
    for name in HOSTILE:
        assert name.encode("unicode_escape").decode().replace("\\\\", "\\") in said.replace("\n", "")
    assert said.count("[/red]") == 3
    assert "absent: [/red]" in said
    assert "\\x1b[2J" in said


def test_pictures_show_names_as_they_are() -> None:
    count = len(HOSTILE)
    plain = [f"class {i}" for i in range(count)]
    matrix, images = torch.eye(count, dtype=torch.int64), torch.zeros(count, 3, 32, 32, dtype=torch.uint8)
    for draw in (
        lambda names: draw_confusion(matrix, names),
        lambda names: draw_bars(names, np.linspace(0, 1, count), "share of $\\frac$", names[1]),
        lambda names: draw_stacked_bars(names, {"part": np.ones(count)}, "share", names[1]),
        lambda names: draw_legend(names, [(0, 0, 0)] * count, 400),
        lambda names: draw_labels(images, [[name] for name in names]),
        lambda names: draw_caption(" ".join(names), 100),
    ):
        picture, other = draw(HOSTILE), draw(plain)
        assert picture.dtype == torch.uint8
        assert picture.shape != other.shape or not torch.equal(picture, other)


def test_a_dollar_begins_no_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matplotlib.mathtext.MathTextParser.parse", None)
    draw_confusion(torch.eye(2, dtype=torch.int64), ["$x$", "y"])
    draw_bars(["$x$"], [0.5], "$x$", "$x$")
    draw_stacked_bars(["$x$"], {"part": [1.0]}, "$x$", "$x$")

"""Names of any origin are shown as text: a terminal obeys none of their characters."""

from pathlib import Path

import pytest

from experiments.cli.shown import say, visible
from experiments.run import main
from tests.experiments.training.toys import toy

RED = "\x1b[31mred\x07"


def test_what_a_terminal_would_obey_is_an_escape_and_lines_stay_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert visible("a\x1b[2Jb\u202e\n") == "a\\x1b[2Jb\\u202e\\n"
    assert visible("Mäuse [/red] a$\\frac$ 鼠") == "Mäuse [/red] a$\\frac$ 鼠"
    say(f"first\n{RED}")
    say("of an error", error=True)
    assert capsys.readouterr() == ("first\n\\x1b[31mred\\x07\n", "of an error\n")


def test_a_training_shows_the_name_of_its_folder_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(main([*toy(tmp_path, max_epochs=1), "--runs", str(tmp_path / RED)]).default_root_dir)
    assert folder.parents[1].name == RED
    shown = "".join(capsys.readouterr())
    assert "\x1b" not in shown
    assert "\\x1b[31mred\\x07" in shown

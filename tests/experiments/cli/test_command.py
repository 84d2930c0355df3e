"""A command is a function: its words follow from the signature, its help from the docstrings, its end is one."""

import importlib
import inspect
import signal
import sys
from pathlib import Path
from typing import Literal

import pytest

from experiments import cli
from experiments.cli.files import replacing, write_json, write_rows, write_text
from experiments.cli.mistakes import Mistake, Stopped


def photograph(
    place: str,
    inputs: list[str],
    *,
    count: int = 3,
    overwrite: bool = False,
    sharp: bool = True,
    kind: Literal["near", "far"] = "near",
    save: list[str] | None = None,
    image_size: tuple[int, int] | None = None,
    out: Path | None = None,
    import_: tuple[str, ...] = (),
) -> dict:
    """Take pictures.

    Args:
        place: Where, 100 % sure.
        inputs: Of what.
        count: How many.
        overwrite: Replace those that are there.
        sharp: Set the focus.
        kind: How near.
        save: What to keep.
        image_size: Height and width.
        out: Where they go.
        import_: Module of your own.
    """
    return locals()


def sweep(*words: str, folder: str = "runs") -> tuple:
    """Hand words on."""
    return words, folder


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["here", "a", "b"], {}),
        (["--count", "5", "here", "a", "b"], {"count": 5}),
        (["here", "a", "b", "--overwrite"], {"overwrite": True}),
        (["here", "a", "b", "--sharp", "false"], {"sharp": False}),
        (["here", "a", "b", "--kind=far"], {"kind": "far"}),
        (["here", "a", "b", "--save", "masks", "overlays"], {"save": ["masks", "overlays"]}),
        (["here", "a", "b", "--image_size", "256", "192"], {"image_size": [256, 192]}),
        (["here", "a", "b", "--image-size", "256", "192"], {"image_size": [256, 192]}),
        (["here", "a", "b", "--out", "x/y"], {"out": Path("x/y")}),
        (["--import", "mine", "--import=yours", "here", "a", "b"], {"import_": ["mine", "yours"]}),
        (["here", "a", "b", "--debug"], {}),
    ],
)
def test_words_are_the_parameters(words, expected):
    defaults = {p.name: p.default for p in inspect.signature(photograph).parameters.values()}
    assert cli.call(photograph, words) == {**defaults, "place": "here", "inputs": ["a", "b"], **expected}


def test_words_that_are_no_flags_of_its_own_are_handed_on_in_order():
    own = ["a.yaml", "b.yaml", "--trainer.max_epochs", "3", "--data-root=y", "--debug", "false"]
    assert cli.call(sweep, [*own[:2], "--folder", "x", *own[2:]]) == (tuple(own), "x")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["here"], "inputs"),
        (["here", "a", "--sharp", "no"], "argument --sharp: invalid true_or_false value: 'no'"),
        (["here", "a", "--overwite"], "'--overwite'; did you mean --overwrite?"),
        (["here", "a", "--over"], "'--over'; did you mean --overwrite?"),
        (["here", "a", "--count", "many"], "'many'"),
        (["here", "a", "--kind", "nere"], "'nere'"),
        (["here", "a", "--image_size", "3"], "image_size"),
    ],
)
def test_a_wrong_word_is_one_sentence_and_status_2(words, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["photograph", *words])
    assert cli.run(photograph) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error
    with pytest.raises(Mistake):
        cli.call(photograph, words)


def test_help_says_what_the_docstrings_say(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.call(photograph, ["--help"])
    assert stopped.value.code == 0
    page = " ".join(capsys.readouterr().out.split())
    assert __doc__ in page
    for text in ("Where, 100 % sure.", "How many. (default: 3)", "How near. (default: near)", "{near,far}", "--import"):
        assert text in page


def entry(error: BaseException | None = None, value: object = None):
    def function():
        if error is not None:
            raise error
        return value

    return function


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (entry(), 0),
        (entry(value=1), 1),
        (entry(value=True), 0),
        (entry(value=["failed"]), 0),
        (entry(Mistake("said.")), 2),
        (entry(KeyboardInterrupt()), 130),
        (entry(Stopped(signal.SIGINT)), 130),
        (entry(Stopped(signal.SIGTERM)), 143),
    ],
)
def test_exit_status(function, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["command"])
    assert cli.status(function) == expected


FUNCTIONS = {  # those behind a package that imports them late; the runner's words are keys of the configuration
    "predict": ("experiments.predict.commandline", "predict"),
    "check": ("datamodules.check.__main__", "check_files"),
    "convert": ("datamodules.convert.__main__", "convert_files"),
    "export": ("experiments.export.commandline", "export"),
}


@pytest.mark.parametrize("word", [word for word in cli.COMMANDS if word != "run"])
def test_every_flag_of_every_command_is_explained(word):
    if word == "sweep":
        pytest.importorskip("optuna")
    if word in FUNCTIONS:
        module, name = FUNCTIONS[word]
        function = getattr(importlib.import_module(module), name)
    else:
        (function,) = importlib.import_module(cli.COMMANDS[word].module).main.args
    documented = inspect.getdoc(function)
    for name, parameter in inspect.signature(function).parameters.items():
        assert parameter.annotation is not parameter.empty
        assert f"{name}: " in documented


def test_a_file_is_replaced_whole_or_stays(tmp_path):
    file = tmp_path / "a.json"
    write_json(file, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(file, {"a": float("nan")})
    assert file.read_text() == '{\n  "a": 1\n}\n'

    def stopped() -> None:
        with replacing(file) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    write_rows(tmp_path / "a.csv", [{"a": 1}, {"b": "x,y"}])
    assert (tmp_path / "a.csv").read_text().split() == ["a,b", "1,", ',"x,y"']
    write_text(tmp_path / "b", "h\udcf8ne", errors="backslashreplace")
    assert (tmp_path / "b").read_text() == "h\\udcf8ne"

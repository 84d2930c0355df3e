"""One command with words for all others, quick to answer; folders of others that hide ours are named."""

import importlib
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from experiments import cli
from tests.conftest import ROOT

SCRIPT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["hrnet"]


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Python started in a folder that is not the repository, with our packages behind what lies there."""
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_the_script_of_the_package_is_this_command():
    assert EntryPoint("hrnet", SCRIPT, "console_scripts").load() is cli.main


@pytest.mark.parametrize("flag", ["--help", "-h", "help", "--version"])
def test_help_answers_without_torch(flag, tmp_path):
    code = (
        "import sys; from experiments.cli import main; status = main(sys.argv[1:]); "
        "print(sorted({'torch', 'lightning', 'wandb', 'numpy'} & set(sys.modules))); sys.exit(status)"
    )
    done = python(tmp_path, "-c", code, flag)
    assert done.returncode == 0, done.stderr
    *text, heavy = done.stdout.splitlines()
    assert heavy == "[]"
    if flag != "--version":
        for word in [
            "run",
            "predict",
            "compare",
            "errors",
            "sweep",
            "benchmark",
            "split",
            "check",
            "convert",
            "wandb_report",
        ]:
            assert any(line.split()[:1] == [word] for line in text)


@pytest.mark.parametrize("word", cli.COMMANDS)
def test_every_word_starts_a_module_that_is_a_command(word):
    if word == "sweep":
        pytest.importorskip("optuna")
    module = importlib.import_module(cli.COMMANDS[word].module)
    assert callable(module.command)


@pytest.mark.parametrize("word", [word for word in cli.COMMANDS if word != "run"])
def test_help_of_a_command_calls_it_as_it_was_started(word, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["hrnet"])
    with pytest.raises(SystemExit) as stopped:
        cli.main([word, "--help"])
    assert stopped.value.code == 0
    assert f"hrnet {word}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "arguments"),
    [(["run", "--help"], ["--help"]), (["validate", "--help"], ["validate", "--help"]), (["fit", "-h"], ["fit", "-h"])],
)
def test_actions_are_words_too(words, arguments, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["hrnet"])
    with pytest.raises(SystemExit):
        cli.main(words)
    assert sys.argv == ["hrnet run", *arguments]
    assert "usage: hrnet run [fit|validate" in capsys.readouterr().out


def test_status_and_message_are_those_of_the_command(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["hrnet"])
    assert cli.main(["run", "pose_cocoo.yaml"]) == 2
    assert "did you mean pose_coco.yaml?" in capsys.readouterr().err
    assert cli.main(["compare", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["comprae"], "mean compare?"),
        (["pose_coco.yaml"], "hrnet run pose_coco.yaml"),
        (["--trainer.x"], "--trainer.x"),
    ],
)
def test_what_is_no_command_says_what_there_is(words, expected, capsys):
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert "wandb_report" in error


def test_nothing_asked_is_answered_with_the_list(capsys):
    assert cli.main([]) == 2
    assert "usage: hrnet COMMAND" in capsys.readouterr().out


def hide(folder: Path, name: str) -> Path:
    if name.endswith(".py"):
        (folder / name).write_text("")
    else:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("")
    return folder / name


@pytest.mark.parametrize("name", ["tasks", "datamodules", "hrnet", "tasks.py"])
@pytest.mark.parametrize(
    "start", [["-m", "experiments.run", "x.yaml"], ["-m", "experiments.compare"], ["-c", "import experiments.run"]]
)
def test_what_hides_our_packages_is_named(name, start, tmp_path):
    hiding = hide(tmp_path, name)
    done = python(tmp_path, *start)
    assert done.returncode == (1 if "-c" in start else 2)
    last = done.stderr.strip().splitlines()[-1]
    assert str(hiding) in last
    assert "rename" in last
    assert ("Traceback" in done.stderr) == ("-c" in start)


def test_a_folder_without_python_beside_an_installed_package_hides_nothing(tmp_path):
    (tmp_path / "experiments").mkdir()  # of the user's results; ours is a package and goes before
    done = python(tmp_path, "-m", "experiments.cli", "--help")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_script_is_not_hidden_by_folders_and_finds_the_users_modules(tmp_path):
    script = tmp_path / "bin" / "hrnet"
    script.parent.mkdir()
    module, function = SCRIPT.split(":")
    script.write_text(f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    for name in ("experiments", "tasks", "datamodules"):
        hide(tmp_path, name)
    (tmp_path / "mine.py").write_text(
        "from datamodules import CocoPose\n\n\nclass Mine(CocoPose):\n    '''Of mine.'''\n\n"
        "    def __init__(self, root: str, beasts: int = 3, **kwargs):\n        super().__init__(root, **kwargs)\n"
    )
    done = python(tmp_path, str(script), "run", "pose_coco.yaml", "--data.help", "mine.Mine")
    assert done.returncode == 0, done.stderr
    assert "--data.beasts  a whole number; default 3" in done.stdout

"""A run folder: its place and name, what a run leaves in it, what it says of the code, and how it goes on."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning import Callback

from experiments.config import ConfigError
from experiments.run import main
from experiments.training.run_folder import RunFolder, environment
from experiments.training.start import check_resume, find_resumable
from tests.experiments.training.toys import toy


def test_the_environment_names_versions_and_code(monkeypatch):
    monkeypatch.setattr("sys.argv", ["run", "bees.yaml"])
    found = environment()
    assert found["command"] == ["run", "bees.yaml"]
    assert found["libraries"]["torch"] == version("torch")
    assert found["git"]["revision"] is None or len(found["git"]["revision"]) == 40
    assert isinstance(found["git"]["changed"], list)
    assert found["gpus"] == [] or torch.cuda.is_available()
    json.dumps(found)


# ---- places and names


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, of two files."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "bees.yaml").write_text("trainer: {max_epochs: 1}\n")
    words = toy(folder)
    return Path(main([words[0], str(folder / "bees.yaml"), *words[1:]]).default_root_dir)


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "runs" / "toy" / trained.name))


def config_of(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "config.yaml").read_text())


def test_a_run_is_called_after_its_files_and_lies_below_the_first(trained: Path, tmp_path: Path) -> None:
    assert trained.parent.name == "toy"
    assert config_of(trained)["name"] == "toy+bees"
    found = json.loads((trained / "environment.json").read_text())
    assert (found["name"], found["action"], found["wandb_run"]) == ("toy+bees", "fit", None)
    assert found["commands"] == [found["command"]]
    again = Path(main([str(trained / "config.yaml"), "--runs", str(tmp_path)]).default_root_dir)
    assert again.parent == tmp_path / "toy"
    assert config_of(again)["name"] == "toy+bees"
    named = Path(main([*toy(tmp_path, max_epochs=1), "--name", "wasps"]).default_root_dir)
    assert (named.parent.name, config_of(named)["name"]) == ("toy", "wasps")


def test_predictions_of_every_batch_are_kept(trained: Path, tmp_path: Path) -> None:
    trainer = main(["predict", "--checkpoint", str(trained), "--runs", str(tmp_path)])
    folder = Path(trainer.default_root_dir)
    found = torch.load(folder / "predictions" / "predict.pt", weights_only=True)
    assert [len(batch) for batch in found] == [2, 2, 1]
    assert json.loads((folder / "environment.json").read_text())["action"] == "predict"
    assert not (folder / "summary.json").exists()


@pytest.mark.parametrize(
    "words", [["--resume", "RUN"], ["--resume=RUN"], ["fit", "--resume=RUN/checkpoints/best.ckpt"]]
)
def test_a_run_goes_on_with_another_file_on_top(words: list[str], copied: Path, tmp_path: Path) -> None:
    (tmp_path / "longer.yaml").write_text("trainer: {max_epochs: 2}\n")
    action = words[:-1] if words[0] == "fit" else []
    flags = [word.replace("RUN", str(copied)) for word in words if word != "fit"]
    trainer = main([*action, str(tmp_path / "longer.yaml"), *flags])
    assert trainer.global_step == 8
    assert Path(trainer.default_root_dir) == copied
    assert config_of(copied)["trainer"]["max_epochs"] == 2
    found = json.loads((copied / "environment.json").read_text())
    assert len(found["commands"]) == 2


@pytest.mark.parametrize("action", ["validate", "test", "predict"])
def test_only_a_training_goes_on(action: str, copied: Path) -> None:
    with pytest.raises(ConfigError, match=rf"to {action} a run, give --checkpoint {copied}"):
        main([action, "--resume", str(copied)])


def test_a_damaged_checkpoint_that_is_the_only_one_says_so(copied: Path) -> None:
    (copied / "checkpoints" / "last.ckpt").write_bytes(b"PK\x03\x04, and then no more")
    with pytest.raises(ConfigError, match=r"last\.ckpt is damaged.*--resume .*best\.ckpt"):
        find_resumable(copied)
    (copied / "checkpoints" / "best.ckpt").unlink()
    with pytest.raises(ConfigError, match=r"last\.ckpt is damaged.*The run has no other checkpoint"):
        find_resumable(copied)


@pytest.mark.parametrize(
    ("epoch", "batches", "steps", "options", "refused"),
    [
        (2, 0, 8, {"max_epochs": 2}, None),
        (2, 0, 8, {"max_epochs": 1}, "up to epoch 2 and trainer.max_epochs is 1"),
        (2, 3, 11, {"max_epochs": 2}, "up to epoch 3 and trainer.max_epochs is 2"),
        (2, 3, 11, {"max_epochs": 3, "max_steps": -1}, None),
        (2, 3, 11, {"max_epochs": -1, "max_steps": 11}, None),
        (2, 3, 11, {"max_epochs": None, "max_steps": 10}, "up to step 11 and trainer.max_steps is 10"),
    ],
)
def test_a_run_that_is_to_go_on_has_something_left_to_do(epoch, batches, steps, options, refused, tmp_path) -> None:
    task = torch.nn.Linear(2, 1)
    position = {"epoch": epoch, "batches": batches, "of": 4, "validated": False, "layout": {}}
    checkpoint = {
        "state_dict": task.state_dict(), "loops": {}, "optimizer_states": [], "global_step": steps, "position": position
    }  # fmt: skip
    path = tmp_path / "checkpoints" / "last.ckpt"
    if refused is None:
        check_resume(path, checkpoint, task, options)
    else:
        with pytest.raises(ConfigError, match=refused):
            check_resume(path, checkpoint, task, options)


# ---- what is taken away again


class Broken(Callback):
    """Fails when the training begins, after a look at the validation."""

    def on_train_start(self, *_: Any) -> None:
        """Fail."""
        raise RuntimeError("on purpose")


def test_a_run_that_has_only_looked_at_its_validation_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="on purpose"):
        main(toy(tmp_path, num_sanity_val_steps=2), [Broken()])
    assert not (tmp_path / "runs").exists()


def test_what_was_there_before_stays_and_what_links_lead_to_too(tmp_path: Path) -> None:
    run, other = tmp_path / "runs" / "a" / "b", tmp_path / "other"
    for folder in (run / "checkpoints", other):
        folder.mkdir(parents=True)
        (folder / "kept.txt").write_text("kept")
    folder = RunFolder(run, "runs", "a")
    (run / "pictures" / "of").mkdir(parents=True)
    for name in ("pictures/of/one.png", "checkpoints/new.ckpt"):
        (run / name).write_text("new")
    (run / "link").symlink_to(other)
    folder.writes = False
    folder.leave_nothing()
    assert (run / "pictures" / "of" / "one.png").is_file()
    folder.writes = True
    folder.leave_nothing()
    assert sorted(path.relative_to(run).as_posix() for path in run.rglob("*")) == [
        "checkpoints",
        "checkpoints/kept.txt",
    ]
    assert (other / "kept.txt").is_file()
    new = RunFolder(None, str(tmp_path / "more"), "a")
    (tmp_path / "more" / "of mine").write_text("kept")
    new.leave_nothing()
    assert [path.name for path in (tmp_path / "more").iterdir()] == ["of mine"]


def test_a_process_that_does_not_write_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.training.run_folder.rank_zero_only.rank", 1)
    folder = RunFolder(None, str(tmp_path), "a")
    assert not folder.path.exists()
    folder.leave_nothing()

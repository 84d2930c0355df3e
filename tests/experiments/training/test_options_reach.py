"""Every key of the runner has an effect that a user sees, from a file, from a flag and from Python."""

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
import yaml
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelSummary, RichProgressBar, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from experiments import run
from experiments.config import SECTIONS, ConfigError
from experiments.run import main
from experiments.training.callbacks import PartsSummary
from tests.experiments.training.toys import toy


class Counts(Callback):
    """Batches of each loop, and what the first epoch saw."""

    def __init__(self) -> None:
        self.batches = dict.fromkeys(("train", "validation", "test", "predict"), 0)

    def on_train_batch_end(self, *_: Any) -> None:
        """One more."""
        self.batches["train"] += 1

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """One more, within the training."""
        self.batches["validation"] += trainer.state.fn != "validate"

    def on_test_batch_end(self, *_: Any) -> None:
        """One more."""
        self.batches["test"] += 1

    def on_predict_batch_end(self, *_: Any) -> None:
        """One more."""
        self.batches["predict"] += 1


@pytest.fixture(autouse=True)
def any_processor(monkeypatch):
    """These networks are small enough for bfloat16 on processors that have no instructions for it."""
    monkeypatch.setattr("experiments.training.start.has_bfloat16", lambda: True)


def from_file(words: list[str], folder: Path, key: str, value: Any) -> list[str]:
    """The words of a command, with an overlay behind its first file that says the key."""
    content: Any = value
    for part in reversed(key.split(".")):
        content = {part: content}
    path = folder / "overlay.yaml"
    path.write_text(yaml.safe_dump(content))
    return [words[0], str(path), *words[1:]]


@pytest.fixture(params=["flag", "file"])
def said(request, tmp_path):
    """A command with a key, said on the command line or in a file."""

    def command(key: str, value: Any, **options: Any) -> list[str]:
        words = toy(tmp_path, **options)
        if request.param == "file":
            return from_file(words, tmp_path, key, value)
        return [*words, f"--{key}", yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()]

    return command


def stored(trainer: Trainer) -> dict[str, Any]:
    return yaml.safe_load((Path(trainer.default_root_dir) / "config.yaml").read_text())


def test_the_keys_that_are_tried_here_and_elsewhere_are_all_there_are():
    elsewhere = {"model", "data", "name", "save_minutes", "checkpoint", "random_weights", "resume", "debug"}
    elsewhere |= {"nonfinite_loss"}
    assert set(SECTIONS) == elsewhere | {"seed_everything", "runs", "trainer", "wandb"}


def test_the_seed_reaches_the_weights(said):
    first, again, other = (
        main(said("seed_everything", seed, max_epochs=1)).lightning_module.backbone.conv1.weight for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_runs_is_the_folder_that_runs_are_made_in(said, tmp_path):
    words = said("runs", str(tmp_path / "elsewhere"), max_epochs=1)
    at = words.index("--runs")
    del words[at : at + 2]  # the toy's own
    folder = Path(main(words).default_root_dir)
    assert folder.is_relative_to(tmp_path / "elsewhere")
    assert (folder / "summary.json").is_file()


@pytest.mark.parametrize(("limit", "expected"), [(1, 1), (3, 3), (0.5, 2), (1.0, 4), (None, 4)])
def test_training_takes_as_many_batches_as_the_limit_says(limit, expected, said):
    counts = Counts()
    trainer = main(said("trainer.limit_train_batches", limit, max_epochs=1), [counts])
    assert counts.batches["train"] == trainer.global_step == expected


@pytest.mark.parametrize(("limit", "expected"), [(1, 1), (2, 2), (0.34, 1), (0, 0), (1.0, 3)])
def test_validation_takes_as_many_batches_as_the_limit_says(limit, expected, said):
    counts = Counts()
    main(said("trainer.limit_val_batches", limit, max_epochs=1), [counts])
    assert counts.batches["validation"] == expected


@pytest.mark.parametrize("action", ["test", "predict"])
@pytest.mark.parametrize(("limit", "expected"), [(1, 1), (2, 2), (None, 3)])
def test_other_loops_take_as_many_batches_as_their_limits_say(action, limit, expected, said):
    counts = Counts()
    main([action, *said(f"trainer.limit_{action}_batches", limit), "--random_weights"], [counts])
    assert counts.batches[action] == expected


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("max_steps", 3, lambda trainer: trainer.global_step),
        ("accumulate_grad_batches", 2, lambda trainer: trainer.accumulate_grad_batches),
        ("gradient_clip_val", 0.25, lambda trainer: trainer.gradient_clip_val),
        ("gradient_clip_algorithm", "value", lambda trainer: str(trainer.gradient_clip_algorithm.value)),
        ("precision", "bf16-mixed", lambda trainer: trainer.precision),
        ("check_val_every_n_epoch", 2, lambda trainer: trainer.check_val_every_n_epoch),
        ("num_sanity_val_steps", 1, lambda trainer: trainer.num_sanity_val_steps),
        ("log_every_n_steps", 3, lambda trainer: trainer.log_every_n_steps),
        ("deterministic", True, lambda trainer: torch.are_deterministic_algorithms_enabled()),
    ],
)
def test_options_of_the_trainer_arrive(key, value, found, said):
    try:
        assert found(main(said(f"trainer.{key}", value, max_epochs=2))) == value
    finally:
        torch.use_deterministic_algorithms(False)


class Slow(Callback):
    """A tenth of a second a step, and more."""

    def on_train_batch_start(self, *_: Any) -> None:
        """Sleep."""
        time.sleep(0.15)


@pytest.mark.parametrize("duration", ["00:00:00:01", {"seconds": 1}])
def test_a_training_ends_when_its_time_is_over(duration, said, capsys):
    trainer = main(said("trainer.max_time", duration, max_epochs=100), [Slow()])
    assert 2 <= trainer.global_step <= 12
    assert f"stopped after {trainer.global_step} steps" in capsys.readouterr().out
    assert (Path(trainer.default_root_dir) / "summary.json").is_file()


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_a_training_in_other_precision_has_a_summary(precision, tmp_path):
    folder = Path(main(toy(tmp_path, max_epochs=1, precision=precision)).default_root_dir)
    assert json.loads((folder / "summary.json").read_text())["parameters"] > 1e6


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("trainer.devices", "two", ["devices"]),
        ("trainer.accelerator", "gpuu", ["gpuu", "cpu"]),
        ("trainer.max_time", "3h", ["3h"]),
        ("trainer.val_check_interval", 5, ["val_check_interval", "(5)"]),
        ("trainer.profiler", "simpel", ["simple"]),
        ("trainer.gradient_clip_algorithm", "sum", ["sum", "norm"]),
        ("trainer.limit_train_batches", 2.5, ["2.5"]),
        ("trainer.max_epochs", -5, ["-5"]),
        ("trainer.strategy", "ddpp", ["ddpp"]),
        (
            "trainer.callbacks",
            {"class_path": "EarlyStopping", "init_args": {"monitor": "val/AP"}},
            ["val/AP", "val/loss"],
        ),
        ("data.num_workers", -1, ["num_workers", "-1"]),
        ("data.batch_size", 0, ["batch_size", "0"]),
        ("seed_everything", -1, ["seed_everything", "-1"]),
        ("seed_everything", 2**32, ["seed_everything"]),
        ("model.optimizer.name", "adamm", ["adamm", "adam"]),
        ("model.schedule", {"name": "cosin"}, ["cosin", "cosine"]),
    ],
)
def test_a_value_that_is_none_is_refused_by_a_sentence(key, value, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run", *from_file(toy(tmp_path, max_epochs=2), tmp_path, key, value)])
    assert run.command() == 2
    error = capsys.readouterr().err
    line = error[error.index("error: ") :]
    assert len(line.strip().splitlines()) == 1
    assert "Traceback" not in error
    for word in words:
        assert word in line


def test_an_option_that_is_not_given_has_our_default(tmp_path):
    assert main(toy(tmp_path, max_epochs=1, log_every_n_steps=None)).log_every_n_steps == 10


def test_loggers_of_the_user_stand_beside_ours(said, tmp_path):
    logger = {"class_path": "CSVLogger", "init_args": {"save_dir": str(tmp_path / "mine")}}
    trainer = main(said("trainer.logger", logger, max_epochs=1))
    assert [type(logger) for logger in trainer.loggers].count(CSVLogger) == 1
    assert (Path(trainer.default_root_dir) / "metrics.csv").is_file()
    assert list((tmp_path / "mine").rglob("metrics.csv"))


@pytest.mark.parametrize("several", [True, False])
def test_callbacks_of_the_user_stand_beside_ours(several, said):
    stop = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss", "stopping_threshold": 1e9}}
    trainer = main(said("trainer.callbacks", [stop] if several else stop, max_epochs=5))
    assert trainer.current_epoch == 1
    assert (Path(trainer.default_root_dir) / "checkpoints" / "best.ckpt").is_file()


@pytest.mark.parametrize(
    ("options", "ours", "lightnings"),
    [({}, 1, 0), ({"enable_model_summary": False}, 0, 0), ({"callbacks": [{"class_path": "ModelSummary"}]}, 0, 1)],
)
def test_there_is_one_summary_or_none(options, ours, lightnings, tmp_path):
    callbacks = main(toy(tmp_path, max_epochs=1, **{"enable_model_summary": None, **options})).callbacks
    assert sum(isinstance(callback, PartsSummary) for callback in callbacks) == ours
    assert sum(isinstance(callback, ModelSummary) for callback in callbacks) == lightnings


@pytest.mark.parametrize(
    ("where", "wanted", "kind"),
    [
        ("notebook", None, TQDMProgressBar),
        ("terminal", None, RichProgressBar),
        ("file", None, None),
        ("notebook", False, None),
        ("terminal", False, None),
    ],
)
def test_the_bar_suits_the_place(where, wanted, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: where == "terminal", raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    if where == "notebook":
        monkeypatch.setitem(sys.modules, "ipykernel", object())
    trainer = main(toy(tmp_path, max_epochs=1, enable_progress_bar=wanted))
    assert [type(c) for c in trainer.callbacks if isinstance(c, TQDMProgressBar | RichProgressBar)] == (
        [kind] if kind else []
    )


def test_settings_of_wandb_arrive_from_a_whole_command(said, monkeypatch):
    told: dict[str, Any] = {}
    real = wandb.init

    def init(**options: Any) -> Any:
        told.update(options)
        return real(**{**options, "entity": None})

    monkeypatch.setattr(wandb, "init", init)
    section = {
        "project": "bees",
        "name": "first",
        "group": "hives",
        "tags": ["a"],
        "notes": "of May",
        "mode": "offline",
    }
    words = [word for word in said("wandb", section, max_epochs=1) if word not in ("--wandb.mode", "disabled")]
    trainer = main(words)
    for key in ("project", "name", "group", "tags", "notes"):
        assert told[key] == section[key]
    assert told["settings"].mode == "offline"
    assert told["job_type"] == "fit"
    assert told["config"]["wandb"]["project"] == "bees"
    (logger,) = (logger for logger in trainer.loggers if isinstance(logger, WandbLogger))
    assert logger.experiment.group == "hives"
    assert list(Path(trainer.default_root_dir).glob("wandb/offline-run-*"))


@pytest.mark.parametrize("asked", [True, False])
def test_checkpoints_go_to_wandb_where_they_are_asked_for(asked, said, monkeypatch):
    logged = []
    monkeypatch.setattr(wandb.Artifact, "add_file", lambda self, path, name: logged.append(Path(path).name))
    section = {"mode": "offline", "log_model": asked}
    main(said("wandb", section, max_epochs=1))
    assert logged == (["best.ckpt", "last.ckpt"] if asked else [])


def test_what_has_an_effect_on_the_command_line_alone_is_refused_in_a_file(tmp_path):
    for key, value in (("debug", True), ("resume", str(tmp_path))):
        with pytest.raises(ConfigError, match=rf"{key}.*--{key} on the command line"):
            main(from_file(toy(tmp_path), tmp_path, key, value))


# From Python, as notebooks do


def test_python_gets_the_trainer_with_the_task_and_its_metrics(tmp_path):
    counts = Counts()
    trainer = main(toy(tmp_path, max_epochs=1), callbacks=[counts])
    assert trainer.lightning_module.weight.item() < 1  # it has learned
    assert counts.batches["train"] == 4
    assert "val/loss" in trainer.callback_metrics
    assert "Counts" not in (Path(trainer.default_root_dir) / "config.yaml").read_text()


def test_python_gets_errors_and_no_exit(tmp_path):
    with pytest.raises(ConfigError, match="max_epochs"):
        main([*toy(tmp_path), "--trainer.max_epoch", "3"])


def test_words_of_the_process_are_taken_where_none_are_given(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run", *toy(tmp_path, max_epochs=1)])
    assert main().global_step == 4
    assert run.command() == 0


def test_a_command_leaves_out_what_lightning_says_of_itself(tmp_path, monkeypatch):
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logger, listener = logging.getLogger("lightning.pytorch"), Listener()
    monkeypatch.setattr(logger, "level", logging.INFO)
    logger.addHandler(listener)
    try:
        main(toy(tmp_path, max_epochs=1))
        assert any("GPU available" in line for line in said)
        said.clear()
        monkeypatch.setattr(sys, "argv", ["run", *toy(tmp_path, max_epochs=1)])
        assert run.command() == 0
    finally:
        logger.removeHandler(listener)
    assert not said


def test_the_words_that_are_given_are_not_changed(tmp_path):
    words = ["fit", *toy(tmp_path, max_epochs=1)]
    before = list(words)
    main(words)
    assert words == before


def test_what_was_said_is_stored(said):
    assert stored(main(said("seed_everything", 7, max_epochs=1)))["seed_everything"] == 7

"""Options of the Trainer that touch what a run keeps: refused in one sentence before anything is written, or true."""

import json
import os
import signal
from pathlib import Path

import pytest
from jsonargparse import Namespace
from lightning import Callback

from experiments.cli.files import read_json
from experiments.compare import main as compare
from experiments.config import ConfigError
from experiments.run import main
from experiments.training.start import check_trainer
from tests.experiments.training.toys import toy


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"barebones": True}, "trainer.barebones leaves out checkpoints"),
        ({"enable_checkpointing": False}, "trainer.enable_checkpointing is false"),
        ({"overfit_batches": 2}, r"trainer.overfit_batches is 2: .*--data.overfit 8"),
        ({"overfit_batches": 0.5}, r"trainer.overfit_batches is 0.5: .*--data.overfit 8"),
        ({"max_epochs": 0}, "trainer.max_epochs is 0, so nothing would be trained"),
        ({"max_steps": 0}, "trainer.max_steps is 0, so nothing would be trained"),
        ({"limit_train_batches": 0}, "trainer.limit_train_batches is 0, so nothing would be trained"),
        ({"limit_train_batches": 0.0}, "trainer.limit_train_batches is 0, so nothing would be trained"),
    ],
)
def test_options_that_take_away_what_a_run_is(option, words, tmp_path):
    before = files(tmp_path)
    with pytest.raises(ConfigError, match=words):
        main(toy(tmp_path, **option))
    assert files(tmp_path).keys() - before.keys() == {"toy.yaml"}


def test_bfloat16_where_the_processor_has_no_such_instructions(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.training.start.has_bfloat16", lambda: False)
    for precision in ("bf16-mixed", "bf16-true"):
        with pytest.raises(ConfigError, match=rf"trainer.precision is {precision}, and this processor has no instr"):
            main(toy(tmp_path, accelerator="cpu", precision=precision))
    assert main(toy(tmp_path, accelerator="cpu", precision="32-true")).global_step > 0
    monkeypatch.setattr("experiments.training.start.has_bfloat16", lambda: True)
    assert main(toy(tmp_path, accelerator="cpu", precision="bf16-mixed")).precision == "bf16-mixed"
    monkeypatch.setattr("experiments.training.start.has_bfloat16", lambda: False)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)  # a GPU has its own
    asked = {"accelerator": "auto", "precision": "bf16-mixed", "barebones": False, "enable_checkpointing": True}
    limits = {"overfit_batches": 0, "fast_dev_run": False, "max_epochs": 1, "max_steps": -1, "limit_train_batches": 1.0}
    check_trainer("fit", Namespace(trainer=Namespace(**asked, **limits), resume=None))


def test_an_evaluation_needs_no_steps_of_training(tmp_path):
    trainer = main(["validate", *toy(tmp_path, max_epochs=0, limit_train_batches=0), "--random_weights"])
    assert trainer.callback_metrics["val/figure"] == 2


def test_a_few_steps_are_tried_and_nothing_is_kept_to_go_on_from(tmp_path, capsys):
    trainer = main(toy(tmp_path, {"schedule": {"name": "cosine"}}, fast_dev_run=2))
    folder = Path(trainer.default_root_dir)
    assert trainer.global_step == 2
    assert not (folder / "checkpoints").exists()
    assert json.loads((folder / "summary.json").read_text())["steps"] == 2
    with pytest.raises(ConfigError, match=r"has no checkpoints/last\.ckpt"):
        main(["--resume", str(folder)])


def test_a_run_that_goes_on_is_not_tried_instead(tmp_path):
    folder = Path(main(toy(tmp_path)).default_root_dir)
    before = files(folder)
    with pytest.raises(ConfigError, match="fast_dev_run keeps nothing: leave one out"):
        main(["--resume", str(folder), "--trainer.max_epochs", "5", "--trainer.fast_dev_run", "1"])
    assert files(folder) == before


@pytest.mark.parametrize("asked", [True, False])
def test_without_a_logger_nothing_is_logged_and_the_results_are_kept(asked, tmp_path, capsys, monkeypatch):
    words = toy(tmp_path, {"values": [0.2, 0.9, 0.5]}, **({} if asked else {"logger": False}))
    trainer = main([*words, "--wandb.mode", "offline"])
    folder = Path(trainer.default_root_dir)
    assert {name for name in ("metrics.csv", "wandb") if (folder / name).exists()} == (
        {"metrics.csv", "wandb"} if asked else set()
    )
    summary = read_json(folder / "summary.json")
    assert (summary["best"]["val/figure"], summary["best_epoch"]) == (pytest.approx(0.9), 1)
    assert summary["last"]["val/figure"] == pytest.approx(0.5)
    capsys.readouterr()
    compare([str(folder)])
    assert "0.9" in capsys.readouterr().out
    longer = main(["--resume", str(folder), "--trainer.max_epochs", "4", "--model.values", "[0.2, 0.9, 0.5, 0.7]"])
    assert longer.global_step == 16
    assert (folder / "metrics.csv").exists() == asked


class Interrupt(Callback):
    """Ctrl-C before the first step, or within the one after it."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *_) -> None:
        """After some steps."""
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGINT)

    def on_train_epoch_start(self, trainer, *_) -> None:
        """Before any."""
        if self.step == 0:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("step", "options", "goes_on"), [(0, {}, False), (1, {}, True), (1, {"fast_dev_run": 3}, False)]
)
def test_a_way_to_go_on_is_told_where_there_is_one(step, options, goes_on, tmp_path, capsys):
    with pytest.raises(BaseException, match="stopped by SIGINT"):
        main(toy(tmp_path, **options), [Interrupt(step)])
    assert ("go on with: python -m experiments.run --resume" in capsys.readouterr().out) == goes_on
    assert bool(list(tmp_path.rglob("last.ckpt"))) == goes_on

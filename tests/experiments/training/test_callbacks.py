"""What every run does beside training: its rate and summary, when it keeps its state, and how it stops."""

import os
import re
import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.trainer.states import TrainerFn

from experiments.cli.mistakes import Stopped
from experiments.compare.modes import is_rate
from experiments.training.callbacks import LearningRate, PartsSummary, Preflight
from experiments.training.checkpoints import (
    LastCheckpoint,
    Position,
    WholeFiles,
    store_position,
    stored_position,
)
from experiments.training.run_folder import RunFolderError
from experiments.training.signals import StopOnSignal
from hrnet import HRNet
from tasks import ClassificationTask, MultiTask, SegmentationTask


class Note:
    """Stands for a task: notes what is logged."""

    def __init__(self) -> None:
        self.logged: dict[str, float] = {}

    def log(self, name: str, value: float, *, on_step: bool, on_epoch: bool) -> None:
        assert on_step
        assert not on_epoch
        self.logged[name] = value


def rates(*groups: float) -> dict[str, float]:
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in groups]
    optimizer = torch.optim.SGD([{"params": [p], "lr": lr} for p, lr in zip(parameters, groups, strict=True)], lr=1)
    note = Note()
    LearningRate().on_train_batch_start(SimpleNamespace(optimizers=[optimizer]), note, None, 0)
    return note.logged


def test_the_rate_has_one_name_whatever_groups_there_are():
    assert rates(0.1) == {"lr": 0.1}
    assert rates(0.1, 0.1) == {"lr": 0.1}
    assert rates(0.01, 0.1, 0.05) == {"lr": 0.1, "lr_lowest": 0.01}


def test_names_of_rates_old_and_new_are_known():
    assert all(map(is_rate, ("lr", "lr_lowest", "lr-Adam", "lr-Adam/lr 0.001 decay 0.0")))
    assert not any(map(is_rate, ("train/lr", "val/loss", "lrs")))


def summary(task, capsys) -> dict[str, list[str]]:
    PartsSummary().on_fit_start(SimpleNamespace(is_global_zero=True), task)
    out = capsys.readouterr().out
    assert "FLOP" not in out
    lines = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in out.splitlines()]
    return {cells[0]: cells[1:] for cells in lines if len(cells) == 4}


def millions(*modules: torch.nn.Module) -> str:
    return f"{sum(p.numel() for module in modules for p in module.parameters()) / 1e6:.2f} M"


def test_only_parts_with_parameters_have_rows(capsys):
    task = SegmentationTask(HRNet("w18_small_v1"), 5, boundary_iou=True)
    task.backbone.requires_grad_(False)
    rows = summary(task, capsys)
    assert list(rows) == ["part", "backbone", "head", "all"]
    assert rows["backbone"] == ["HRNet", millions(task.backbone), "0"]
    assert rows["head"][1] == rows["head"][2]
    assert rows["all"] == ["SegmentationTask", millions(task), rows["head"][2]]


@pytest.mark.parametrize(("balancing", "row"), [("fixed", None), ("uncertainty", "balancing")])
def test_joint_tasks_have_rows_of_their_own_and_the_backbone_counts_once(balancing, row, capsys):
    sorts = {"a": partial(ClassificationTask, num_classes=3), "b": partial(ClassificationTask, num_classes=7)}
    task = MultiTask(HRNet("w18_small_v1"), sorts, balancing=balancing)
    rows = summary(task, capsys)
    assert set(rows) == {"part", "backbone", "tasks.a", "tasks.b", "all", *([row] if row else [])}
    assert rows["backbone"][1] == millions(task.backbone)
    assert rows["tasks.a"][1] == millions(task.tasks["a"].head)
    assert rows["all"][1] == millions(task)


def test_a_part_that_holds_another_one_counts_its_own_parameters_only(capsys):
    task = torch.nn.Module()
    task.backbone = torch.nn.Linear(10, 10, bias=False)
    task.detector = torch.nn.Sequential(task.backbone, torch.nn.Linear(10, 5, bias=False))
    rows = summary(task, capsys)
    assert (rows["backbone"][1], rows["detector"][1], rows["all"][1]) == ("100", "50", "150")


def test_other_processes_are_silent(capsys):
    PartsSummary().on_fit_start(SimpleNamespace(is_global_zero=False), ClassificationTask(HRNet("w18_small_v1"), 3))
    assert not capsys.readouterr().out


def test_lightning_takes_the_rate_from_a_callback():
    assert Trainer(callbacks=[LearningRate(), PartsSummary()], logger=False, enable_model_summary=False).callbacks


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (99_999, "99,999"), (100_000, "0.10 M"), (28_536_000, "28.54 M")]
)
def test_many_parameters_are_told_in_millions(count, text, capsys):
    with torch.device("meta"):
        task = torch.nn.Module()
        task.one = torch.nn.Linear(1, 1, bias=False)
        task.rest = torch.nn.Linear(1, count, bias=False)
    assert summary(task, capsys).get("rest", ["", "0", ""])[1] == text


@pytest.mark.parametrize("first", [True, False])
def test_samples_are_looked_at_once_by_the_first_process(first):
    asked, seen = [], []
    data = SimpleNamespace(preview=lambda count: asked.append(count) or "batch")
    Preflight().on_fit_start(SimpleNamespace(is_global_zero=first, datamodule=data), SimpleNamespace(check=seen.append))
    assert (asked, seen) == (([16], ["batch"]) if first else ([], []))


# ---- the state that is kept


class Run:
    """Stands for a Trainer: counts, and keeps the times at which a checkpoint is written."""

    def __init__(self, accumulated: int = 1, processes: int = 1, batches: float = 10, **more: Any) -> None:
        self.accumulate_grad_batches, self.world_size, self.num_training_batches = accumulated, processes, batches
        self.current_epoch, self.global_step, self.limit_train_batches = 2, 7, None
        self.fast_dev_run = self.sanity_checking = False
        self.state = SimpleNamespace(fn=TrainerFn.FITTING)
        self.datamodule, self.fit_loop = None, SimpleNamespace(restarting=True)
        self.strategy = SimpleNamespace(broadcast=lambda value: value, root_device=torch.device("cpu"))
        self.written: list[Any] = []
        self.clock = 0.0
        vars(self).update(more)

    def save_checkpoint(self, path: Path) -> None:
        self.written.append(self.clock)


def stepped(run: Run, keep: LastCheckpoint, batches: int, seconds: float, monkeypatch) -> None:
    """Train on so many batches, each of so many seconds."""
    monkeypatch.setattr("time.monotonic", lambda: run.clock)
    keep.on_train_start(run, None)
    keep.on_train_epoch_start(run, None)
    for index in range(batches):
        keep.on_train_batch_start(run, None, None, index)
        run.clock += seconds
        keep.on_train_batch_end(run, None, None, None, index)


@pytest.mark.parametrize(
    ("accumulated", "minutes", "written"),
    [
        (1, 2.0, [180.0, 360.0, 540.0]),  # later than two minutes after the last, not at two
        (1, 1.5, [120.0, 240.0, 360.0, 480.0]),
        (2, 1.5, [120.0, 240.0, 360.0, 480.0]),
        (4, 1.5, [240.0, 480.0]),  # between two steps alone
        (1, 0.0, [60.0 * i for i in range(1, 10)]),  # never before the first batch
        (1, 10.0, []),
    ],
)
def test_the_state_is_kept_when_the_minutes_are_over(accumulated, minutes, written, tmp_path, monkeypatch):
    run, keep = Run(accumulated), LastCheckpoint(tmp_path / "last.ckpt", minutes)
    stepped(run, keep, 10, 60, monkeypatch)
    assert run.written == written


def test_the_first_process_says_when_it_is_time(tmp_path, monkeypatch):
    run, keep = Run(processes=2), LastCheckpoint(tmp_path / "last.ckpt", 1.0)
    run.strategy.broadcast = lambda late: False  # its clock goes slower
    stepped(run, keep, 10, 60, monkeypatch)
    assert run.written == []


@pytest.mark.parametrize(
    ("position", "at_end"),
    [((0, 0, 0), False), ((0, 9, 10), False), ((0, 10, 10), True), ((0, 11, 10), True), ((0, 5, 0), False)],
)
def test_an_epoch_of_known_length_is_over_when_all_batches_were_trained_on(position, at_end):
    assert Position(*position).at_end == at_end


@pytest.mark.parametrize(
    ("trained", "batches", "expected"),
    [(10, 10, Position(3)), (6, 10, Position(2, 6, 10)), (6, float("inf"), Position(3))],
)
def test_an_epoch_that_was_cut_short_is_one_to_go_on_within(trained, batches, expected, tmp_path, monkeypatch):
    run, keep = Run(batches=batches), LastCheckpoint(tmp_path / "last.ckpt")
    stepped(run, keep, trained, 0, monkeypatch)
    keep.on_train_epoch_end(run, None)
    assert keep.position == expected
    assert run.written == [0.0]
    run.fast_dev_run = 3
    keep.on_train_epoch_end(run, None)
    assert run.written == [0.0]


@pytest.mark.parametrize(
    ("changes", "error", "kept"),
    [
        ({}, RuntimeError("broken"), True),
        ({"global_step": 0}, RuntimeError("broken"), False),
        ({"state": SimpleNamespace(fn=TrainerFn.VALIDATING)}, RuntimeError("broken"), False),
        ({"world_size": 2}, RuntimeError("broken"), False),  # where are the others?
        ({"world_size": 2}, Stopped(signal.SIGTERM), True),
        ({}, RunFolderError("no room"), False),
        ({"accumulate_grad_batches": 4}, RuntimeError("broken"), False),  # within a step
        ({"accumulate_grad_batches": 3}, RuntimeError("broken"), True),
    ],
)
@pytest.mark.parametrize("begun", [True, False])
def test_the_state_is_kept_at_an_error_where_it_is_a_whole_one(changes, error, kept, begun, tmp_path, monkeypatch):
    run, keep = Run(), LastCheckpoint(tmp_path / "last.ckpt")
    stepped(run, keep, 6, 0, monkeypatch)
    keep.begun = begun
    vars(run).update(changes)
    counts = SimpleNamespace(current=SimpleNamespace(processed=6, ready=6))
    run.fit_loop.epoch_loop = SimpleNamespace(batch_progress=counts)
    keep.on_exception(run, None, error)
    assert bool(run.written) == (kept and begun)


@pytest.mark.parametrize(("processed", "position"), [(4, Position(2, 4, 10)), (3, None)])
def test_after_an_error_within_a_step_the_state_is_kept_if_the_step_was_done(
    processed, position, tmp_path, monkeypatch
):
    run, keep = Run(), LastCheckpoint(tmp_path / "last.ckpt")
    stepped(run, keep, 3, 0, monkeypatch)
    keep.on_train_batch_start(run, None, None, 3)
    counts = SimpleNamespace(current=SimpleNamespace(processed=processed, ready=4))
    run.fit_loop.epoch_loop = SimpleNamespace(batch_progress=counts)
    keep.on_exception(run, None, RuntimeError("broken"))
    assert bool(run.written) == (position is not None)
    assert position in (None, keep.position)


def test_a_validation_counts_where_it_is_part_of_the_training(tmp_path, monkeypatch):
    run, keep = Run(), LastCheckpoint(tmp_path / "last.ckpt")
    stepped(run, keep, 3, 0, monkeypatch)
    for changes in ({"sanity_checking": True}, {"state": SimpleNamespace(fn=TrainerFn.VALIDATING)}):
        keep.on_validation_end(Run(**changes), None)
        assert not keep.position.validated
    keep.on_validation_end(run, None)
    assert keep.position == Position(2, 3, 10, True)
    keep.on_train_batch_end(run, None, None, None, 3)
    assert keep.position == Position(2, 4, 10, False)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"world_size": 2},
        {"limit_train_batches": 5},
        {"accumulate_grad_batches": 2},
        {"datamodule": SimpleNamespace(state_dict=lambda: {"batch_size": 8})},
    ],
)
@pytest.mark.parametrize("batches", [0, 3])
def test_a_place_within_an_epoch_holds_for_the_same_batches_alone(changes, batches, capsys):
    stopped, checkpoint = Run(datamodule=SimpleNamespace(state_dict=lambda: {"batch_size": 4})), {}
    store_position(checkpoint, Position(2, batches, 10, True), stopped)
    now = Run(**{"datamodule": stopped.datamodule, **changes})
    found = stored_position(checkpoint, now)
    anew = bool(changes and batches)
    assert found == (Position(2) if anew else Position(2, batches, 10, True))
    assert ("epoch 2 begins anew" in capsys.readouterr().out) == anew
    assert stored_position(checkpoint) == Position(2, batches, 10, True)


def test_only_a_training_takes_up_a_position(tmp_path):
    keep = LastCheckpoint(tmp_path / "last.ckpt")
    keep.on_load_checkpoint(Run(state=SimpleNamespace(fn=TrainerFn.VALIDATING)), None, {})
    assert keep.position == Position()


def test_a_first_checkpoint_that_cannot_be_written_has_none_before_it(tmp_path, monkeypatch):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RunFolderError) as error:
        WholeFiles().save_checkpoint({}, tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert "the one before" not in str(error.value)
    assert str(error.value).endswith(f"--resume {tmp_path / 'run'}")


# ---- signals


@pytest.mark.parametrize("accumulated", [1, 3])
def test_a_signal_stops_before_the_next_step(accumulated, capsys):
    stop, run = StopOnSignal(), Run(accumulated, received_sigterm=False)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        stop.on_train_start(run, None)
        stop.on_train_batch_start(run, None, None, 0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert capsys.readouterr().out == "SIGTERM: stops after this step; again to stop at once\n"
        for index in range(1, accumulated):
            stop.on_train_batch_start(run, None, None, index)
        for hook in (
            partial(stop.on_train_batch_start, run, None, None, accumulated),
            partial(stop.on_train_epoch_start, run, None),
            partial(stop.on_validation_batch_start, run, None, None, 1),
            partial(stop.on_test_batch_start, run, None, None, 1),
            partial(stop.on_predict_batch_start, run, None, None, 1),
        ):
            with pytest.raises(Stopped) as stopped:
                hook()
            assert stopped.value.number == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        stop.teardown(run, None, "fit")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_what_lightning_has_received_counts_and_handlers_of_others_stay():
    stop, run = StopOnSignal(), Run(received_sigterm=True)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        stop.on_validation_start(run, None)
        stop.on_validation_start(run, None)  # once more, as in every epoch
        with pytest.raises(Stopped, match="SIGTERM"):
            stop.on_validation_batch_start(run, None, None, 0)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        stop.on_exception(run, None, RuntimeError("broken"))
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) == before[1]
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)


def test_signals_are_heard_from_the_barrier_before_a_stage_on():
    # There Lightning's own handler broadcasts, which no other process answers.
    passed: list[str] = []

    class Strategy:
        root_device = torch.device("cpu")

        def barrier(self, name: str) -> None:
            passed.append(name)

        def reduce(self, here: torch.Tensor, reduce_op: str) -> torch.Tensor:
            return here

    stop, run = StopOnSignal(), Run(processes=2, received_sigterm=False, strategy=Strategy())
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        stop.setup(run, None, "fit")
        run.strategy.barrier("of something else")
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
        run.strategy.barrier("run-stage")
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.number == signal.SIGTERM
        run.strategy.barrier("of something else")
        assert passed == ["of something else", "run-stage", "of something else"]
        with pytest.raises(Stopped, match="SIGTERM"):
            stop.on_train_epoch_start(run, None)
    finally:
        stop.teardown(run, None, "fit")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_processes_stop_together():
    stop, run = StopOnSignal(), Run(processes=2)
    asked = []
    run.strategy.reduce = lambda here, reduce_op: asked.append((int(here), reduce_op)) or torch.tensor(15)
    with pytest.raises(Stopped, match="SIGTERM"):  # which another one got
        stop.on_train_batch_start(run, None, None, 4)
    assert asked == [(0, "max")]

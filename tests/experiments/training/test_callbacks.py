"""Every run logs its rate under one name, and its summary has no row and no column that says nothing."""

import re
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from lightning import Trainer

from experiments.compare.modes import is_rate
from experiments.training.callbacks import LearningRate, PartsSummary
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

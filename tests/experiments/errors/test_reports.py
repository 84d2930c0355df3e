"""What an analysis is made of: the checkpoint, the split and its limit; what charts and the terminal leave out."""

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from experiments.config import ConfigError
from experiments.errors import classification as error_classification
from experiments.errors import commandline, errors, main
from experiments.errors import report as error_report
from experiments.errors.classification import classification_report
from experiments.errors.report import Report, class_bars, confusion_bars

FIGURE = torch.zeros(3, 4, 4, dtype=torch.uint8)

# ---- which checkpoint, split and batches


class Analysed:
    """Stands in place of loading and analysing; keeps what is asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, parts: tuple[str, ...] = ("",)) -> None:
        self.loaded: list[Any] = []
        self.asked: list[tuple[Any, ...]] = []
        task = SimpleNamespace(to=lambda device: None, split=None, parts=dict.fromkeys(parts), attach=self.attach)
        task.single = lambda name: f"the task {name}"
        self.task = task
        self.data = SimpleNamespace(prepare_data=lambda: None, tasks={name: f"data of {name}" for name in parts})
        monkeypatch.setattr(commandline.tasks, "load", lambda run: self.loaded.append(run) or task)
        monkeypatch.setattr(commandline, "make_data", lambda content, files: self.data)
        monkeypatch.setattr(commandline, "report_of", self.report)

    def attach(self, data: Any) -> None:
        self.attached = (self.task.split, data)

    def report(self, *given: Any) -> Report:
        self.asked.append(given)
        return Report({"summary": [{"name": given[0]}]}, {"gain": FIGURE})


def run_folder(folder: Path, *, best: bool = True, action: str = "fit", **content: Any) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    if best:
        (folder / "checkpoints" / "best.ckpt").touch()
    trainer = {"limit_val_batches": 2, "limit_test_batches": 0.5}
    config = {"data": {"class_path": "X"}, "model": {"class_path": "Y"}, "trainer": trainer} | content
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "environment.json").write_text(json.dumps({"action": action}))
    return folder


@pytest.mark.parametrize(("split", "limit"), [("val", 2), ("test", 0.5)])
def test_a_split_is_analysed_on_the_batches_that_it_was_evaluated_on(split, limit, monkeypatch, tmp_path) -> None:
    analysed, folder = Analysed(monkeypatch), run_folder(tmp_path / "run")
    report = errors(folder, split)
    assert analysed.attached == (split, analysed.data)
    assert analysed.asked == [("the task ", analysed.data, limit, folder / "predictions")]
    assert analysed.loaded == [folder]
    assert (list(report.tables), list(report.figures)) == (["summary"], ["gain"])


def test_a_joint_run_is_analysed_task_by_task(monkeypatch, tmp_path) -> None:
    analysed, folder = Analysed(monkeypatch, ("pose", "parts")), run_folder(tmp_path / "run", trainer=None)
    report = errors(folder)
    assert [given[1:] for given in analysed.asked] == [
        (f"data of {name}", None, folder / "predictions" / name) for name in ("pose", "parts")
    ]
    assert set(report.tables) == {"pose/summary", "parts/summary"}
    assert report.tables["parts/summary"] == [{"name": "the task parts"}]
    assert set(report.figures) == {"pose/gain", "parts/gain"}


WEIGHTS = {"class_path": "Y", "init_args": {"weights": "w.pth"}}


@pytest.mark.parametrize(
    ("content", "action", "own", "loaded"),
    [
        ({"model": WEIGHTS, "checkpoint": "c.ckpt"}, "validate", True, None),
        ({"model": WEIGHTS, "checkpoint": "c.ckpt"}, "validate", False, "c.ckpt"),
        ({"model": WEIGHTS}, "validate", False, "w.pth"),
        ({"model": WEIGHTS}, "test", False, "w.pth"),
        ({"model": WEIGHTS}, "predict", False, "w.pth"),
        ({"model": WEIGHTS}, "fit", False, None),  # what it began with is not what it became
        ({}, "validate", False, None),
    ],
)
def test_a_run_stands_for_its_checkpoint_or_what_it_evaluated(content, action, own, loaded, monkeypatch, tmp_path):
    analysed = Analysed(monkeypatch)
    folder = run_folder(tmp_path / "run", best=own, action=action, **content)
    errors(folder)
    assert analysed.loaded == [loaded or folder]


def test_what_is_no_run_or_split_is_refused(monkeypatch, tmp_path) -> None:
    Analysed(monkeypatch)
    folder = run_folder(tmp_path / "run")
    with pytest.raises(ConfigError, match=f"is a checkpoint: name its run, {folder}, whose best"):
        errors(folder / "checkpoints" / "best.ckpt")
    with pytest.raises(ConfigError, match="split is val or test, not 'train'"):
        errors(folder, "train")


# ---- what is shown


def test_the_terminal_has_the_first_rows_and_the_file_all(monkeypatch, tmp_path, capsys) -> None:
    tables = {"many": [{"name": f"row {i:02}", "value": i} for i in range(21)], "few": [{"name": "a", "value": 1}] * 20}
    monkeypatch.setattr(commandline, "errors", lambda run, split: Report(tables, {"gain": FIGURE}))
    main([str(tmp_path)])
    said = capsys.readouterr().out
    assert "many: 20 of 21" in said
    assert "row 19" in said
    assert "row 20" not in said
    assert "few:" not in said
    assert "few" in said
    with (tmp_path / "errors" / "val_many.csv").open() as lines:
        assert len(list(csv.DictReader(lines))) == 21


@pytest.fixture
def bars(monkeypatch) -> list[tuple[Any, ...]]:
    drawn: list[tuple[Any, ...]] = []
    monkeypatch.setattr(error_report, "draw_bars", lambda *given: drawn.append(given) or FIGURE)
    return drawn


def test_a_chart_has_the_worst_classes_alone(bars) -> None:
    rows = [{"name": f"c{i}", "IoU": i / 100} for i in range(31)]
    class_bars([*rows[:30], {"name": "none", "IoU": math.nan}], "IoU")
    class_bars(rows, "IoU")
    (names, values, key, title), (others, _, _, other) = bars
    assert names == others == [f"c{i}" for i in range(30)]
    assert values == [i / 100 for i in range(30)]
    assert (key, title) == ("IoU", "IoU of each class")
    assert other == "IoU of the 30 worst of 31 classes"


def test_a_chart_has_the_most_frequent_confusions_alone(bars) -> None:
    row = {"truth": "cat", "prediction": "dog", "share": 0.5, "share_of_errors": 0.125}
    confusion_bars([row | {"share": i} for i in range(16)])
    ((names, shares, _, _),) = bars
    assert names == ["cat → dog (12.5%)"] * 15
    assert shares == list(range(15))


class Pictures:
    """Numbered images."""

    def name(self, sample: int) -> str:
        return f"folder/{sample}.png"

    def __getitem__(self, sample: int) -> dict[str, Any]:
        return {"image": np.full((4, 4, 3), sample, np.uint8)}


@pytest.mark.parametrize(("classes", "matrix"), [(30, True), (31, False)])
@pytest.mark.parametrize("wrong", [0, 3, 20])
def test_pictures_of_a_classification_are_its_most_confident_mistakes(classes, matrix, wrong, monkeypatch) -> None:
    probabilities = torch.full((24, classes), 0.1 / (classes - 1))
    probabilities[:, 0] = 0.9 - torch.arange(24) / 100
    batch = {"label": (torch.arange(24) < wrong).long(), "image_id": torch.arange(24)}
    galleries: list[tuple[Any, ...]] = []
    monkeypatch.setattr(error_classification, "predicted", lambda *_: [({"probabilities": probabilities}, batch)])
    monkeypatch.setattr(error_classification, "draw_gallery", lambda *given: galleries.append(given) or FIGURE)
    task = SimpleNamespace(split="val", num_classes=classes, class_names=[f"c{i}" for i in range(classes)])
    report = classification_report(task, SimpleNamespace(split=lambda split: Pictures()))
    assert ("confusion_matrix" in report.figures) == matrix
    assert {"mistakes", "confusions"} & set(report.tables) == ({"mistakes", "confusions"} if wrong else set())
    assert {"mistakes", "confusions"} & set(report.figures) == ({"mistakes", "confusions"} if wrong else set())
    if wrong:
        ((images, captions),) = galleries
        assert [int(image[0, 0, 0]) for image in images] == list(range(min(wrong, 16)))
        assert captions[0] == ("c0 0.90", f"is c1 {0.1 / (classes - 1):.2f}", "0.png")
        assert [row["file"] for row in report.tables["mistakes"]] == [f"folder/{i}.png" for i in range(wrong)]

"""A task as a stranger writes it, in a plain Trainer: with four methods, or with a torchmetrics Metric and tables."""

import copy
import csv
import math
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import Metric
from torchvision.io import read_image

import tasks
from hrnet import HRNet
from tasks import Pictures, Task, save_task

SMALL = {"variant": "w18_small_v1", "multi_scale_output": False}


class Four(Task):
    """Mean brightness of an image, from forward, losses, predict and update alone."""

    def __init__(self, backbone: HRNet, **kwargs) -> None:
        super().__init__(backbone, **kwargs)
        self.head = nn.Linear(self.backbone.channels[0], 1)
        self.seen: list[float] = []

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images)[0].mean((2, 3)))[:, 0]

    def losses(self, outputs: Tensor, batch: dict) -> dict[str, Tensor]:
        return {"square": (outputs - batch["level"]).square().mean()}

    def predict(self, outputs: Tensor, batch: dict) -> Tensor:
        return outputs

    def update(self, predictions: Tensor, batch: dict) -> None:
        self.seen += predictions.tolist()


class Error(Metric):
    """Mean distance from the true levels."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, batch: dict) -> None:
        self.total += (predictions - batch["level"]).abs().sum()
        self.count += len(predictions)

    def compute(self) -> dict[str, Tensor]:
        return {"error": self.total / self.count}


class Whole(Four):
    """The same by `from_streams`, with a metric, pictures, scores and a table."""

    monitor = "val/error"
    lower_is_better = ("error",)
    forward, update = Task.forward, Task.update

    def __init__(self, backbone: HRNet, **kwargs) -> None:
        super().__init__(backbone, **kwargs)
        self.metric = Error()

    def from_streams(self, streams: list[Tensor], size: tuple[int, int]) -> Tensor:
        assert size == (32, 32)
        return self.head(streams[0].mean((2, 3)))[:, 0]

    def draw(self, outputs: Tensor, predictions: Tensor, batch: dict, count: int) -> dict[str, Tensor]:
        return {"images": torch.cat(list(batch["image"][:count]), dim=2)}

    def scores(self, predictions: Tensor, batch: dict) -> dict[str, Tensor]:
        return {"sample": batch["image_id"], "score": 1 / (1 + (predictions - batch["level"]).abs())}

    def tables(self) -> dict[str, list[dict]]:
        return {"errors": [{"name": "all", "error": self.metric.compute()["error"].item()}]}


def loader(count: int = 5) -> DataLoader:
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    levels = images.float().mean((1, 2, 3)) / 255
    samples = [{"image": im, "image_id": i, "level": levels[i]} for i, im in enumerate(images)]
    return DataLoader(samples, batch_size=2)


def trainer(folder: Path, **options) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "num_sanity_val_steps": 0}
    return Trainer(
        accelerator="cpu", default_root_dir=folder, max_epochs=1, enable_model_summary=False, **quiet | options
    )


def test_four_methods_train_evaluate_and_predict(tmp_path: Path) -> None:
    task = Four(SMALL)
    before = task.head.weight.detach().clone()
    fit = trainer(tmp_path)
    fit.fit(task, loader(4), loader())
    assert not torch.equal(task.head.weight, before)
    assert len(task.seen) == 5
    found = fit.validate(task, loader(), verbose=False)[0]
    save_task(task, tmp_path / "own.ckpt")
    again = tasks.load(tmp_path / "own.ckpt")
    predictions = torch.cat(fit.predict(again, loader()))
    levels = torch.cat([batch["level"] for batch in loader()])
    square = (predictions - levels).square()
    expected = (square[:2].mean() * 2 + square[2:4].mean() * 2 + square[4]) / 5
    assert found == pytest.approx({"val/loss": expected.item(), "val/square": expected.item()}, rel=1e-4)
    assert task.modes == {"val/loss": "min", "val/square": "min"}
    assert not (tmp_path / "predictions").exists()


def test_metric_pictures_scores_and_tables_are_kept_without_a_line_about_files(tmp_path: Path, capsys) -> None:
    torch.manual_seed(0)
    task = Whole(SMALL)
    own = trainer(tmp_path, callbacks=[Pictures(count=1)])
    found = own.validate(task, loader(), verbose=False)[0]
    predictions = torch.cat(own.predict(task, loader()))
    levels = torch.cat([batch["level"] for batch in loader()])
    errors = (predictions - levels).abs()
    assert found["val/error"] == pytest.approx(errors.mean().item(), rel=1e-4)
    assert task.modes["val/error"] == "min"
    picture = read_image(str(tmp_path / "pictures" / "val_images_evaluated.png"))
    assert torch.equal(picture, next(iter(loader()))["image"][0]), "one sample, as the Trainer's own callback says"
    rows = list(csv.DictReader((tmp_path / "predictions" / "val_errors.csv").open()))
    assert float(rows[0]["error"]) == pytest.approx(found["val/error"])
    assert f"{found['val/error']:.3f}" in capsys.readouterr().out
    samples = list(csv.DictReader((tmp_path / "predictions" / "val_samples.csv").open()))
    assert [float(row["score"]) for row in samples] == pytest.approx((1 / (1 + errors)).tolist(), rel=1e-4)
    worst = list(csv.DictReader((tmp_path / "predictions" / "val_worst.csv").open()))
    assert int(worst[0]["sample"]) == int(errors.argmax())
    picture = read_image(str(tmp_path / worst[0]["picture"]))
    assert torch.equal(picture, torch.cat([batch["image"] for batch in loader()])[int(errors.argmax())])


class Terms(Four):
    """Two terms, of which one is a metric that is not defined."""

    def losses(self, outputs: Tensor, batch: dict) -> dict[str, Tensor]:
        return {**super().losses(outputs, batch), "tilt": 3 * outputs.mean()}

    def compute(self) -> dict[str, float]:
        return {"known": 0.25, "undefined": math.nan}


def test_the_terms_of_a_loss_are_summed_logged_and_minimised_together(tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = Terms(SMALL, optimizer={"name": "momentum", "lr": 0.1, "momentum": 0.0})
    alone = copy.deepcopy(task).train()
    batch = next(iter(loader(2)))
    terms = alone.losses(alone(alone.normalize(batch["image"])), batch)
    (terms["square"] + terms["tilt"]).backward()
    fit = trainer(tmp_path, limit_val_batches=0)
    fit.fit(task, loader(2))
    logged = {name: value.item() for name, value in fit.callback_metrics.items()}
    expected = {f"train/{name}": term.item() for name, term in terms.items()}
    assert logged == pytest.approx(expected | {"train/loss": sum(expected.values())}, rel=1e-4)
    torch.testing.assert_close(task.head.bias, alone.head.bias - 0.1 * alone.head.bias.grad)
    torch.testing.assert_close(task.head.weight, alone.head.weight - 0.1 * alone.head.weight.grad)


def test_figures_that_are_not_defined_are_shown_and_not_logged_and_a_sanity_check_says_nothing(
    tmp_path: Path, capsys
) -> None:
    task, fit = Terms(SMALL), trainer(tmp_path, num_sanity_val_steps=1)
    fit.fit(task, loader(4), loader())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert lines == ["epoch 0: known 0.250  undefined nan"]
    assert fit.callback_metrics["val/known"] == 0.25
    assert "val/undefined" not in fit.callback_metrics
    (found,) = fit.validate(task, loader(), verbose=False)
    assert set(found) == {"val/loss", "val/square", "val/tilt", "val/known"}
    assert "epoch" not in capsys.readouterr().out


def test_a_batch_without_samples_is_nothing_to_evaluate_or_predict(tmp_path: Path) -> None:
    """Where another process has one sample more."""
    task = Four(SMALL)
    assert task.validation_step({}, 0) is None
    assert task.predict_step({}, 0) == {}
    assert task.seen == []
    assert task.evaluated_losses.compute() == {}

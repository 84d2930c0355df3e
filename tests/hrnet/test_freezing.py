"""Statistics of batch norm are fixed for a share of the training, while scales and shifts are trained."""

from pathlib import Path

import pytest
import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hrnet import HRNet
from tasks import Task

SMALL = {"variant": "w18_small_v1", "multi_scale_output": False}


class Level(Task):
    """Mean brightness."""

    def __init__(self, backbone: HRNet, **kwargs) -> None:
        super().__init__(backbone, **kwargs)
        self.head = nn.Linear(self.backbone.channels[0], 1)
        self.moved: list[bool] = []

    def from_streams(self, streams: list[Tensor], size: tuple[int, int]) -> Tensor:
        return self.head(streams[0].mean((2, 3)))[:, 0]

    def losses(self, outputs: Tensor, batch: dict) -> dict[str, Tensor]:
        return {"square": (outputs - batch["level"]).square().mean()}

    def predict(self, outputs: Tensor, batch: dict) -> Tensor:
        return outputs

    def training_losses(self, batch: dict) -> dict[str, Tensor]:
        before = self.backbone.bn1.running_mean.clone()
        losses = super().training_losses(batch)
        self.moved.append(not torch.equal(before, self.backbone.bn1.running_mean))
        return losses


def fit(task: Task, folder: Path, **limits) -> None:
    images = torch.randint(0, 256, (8, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    samples = [{"image": im, "image_id": i, "level": im.float().mean() / 255} for i, im in enumerate(images)]
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "num_sanity_val_steps": 0}
    trainer = Trainer(accelerator="cpu", default_root_dir=folder, enable_model_summary=False, **quiet | limits)
    trainer.fit(task, DataLoader(samples, batch_size=2), DataLoader(samples, batch_size=4))


@pytest.mark.parametrize(("share", "moved"), [(0.0, 8), (0.25, 6), (0.5, 4), (1.0, 0)])
def test_statistics_move_in_the_first_steps_only_and_validation_does_not_wake_them(share, moved, tmp_path):
    task = Level(SMALL, frozen_statistics=share)
    scale = task.backbone.bn1.weight.detach().clone()
    fit(task, tmp_path, max_epochs=2)  # validated after each
    assert task.moved == [True] * moved + [False] * (8 - moved)
    assert not torch.equal(task.backbone.bn1.weight, scale), "scales are trained in any case"


def test_a_share_needs_an_end_unless_it_is_all(tmp_path):
    fit(Level(SMALL, frozen_statistics=1.0), tmp_path, max_epochs=-1, max_time={"seconds": 1})
    with pytest.raises(ValueError, match=r"needs an end: set trainer\.max_epochs"):
        fit(Level(SMALL, frozen_statistics=0.5), tmp_path, max_epochs=-1, max_time={"seconds": 1})
    with pytest.raises(ValueError, match=r"frozen_statistics is 1\.5"):
        Level(SMALL, frozen_statistics=1.5)

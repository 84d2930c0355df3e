"""A joint run whose losses and gradients are worked out by hand: the tasks pull at shared points in the plane."""

from pathlib import Path

import numpy as np
import torch
from lightning import Trainer
from torch import Tensor, nn

from datamodules import BaseDataModule, MultiTaskDataModule
from datamodules.base import BaseDataset
from hrnet import HRNet
from tasks import MultiTask, Task


class Point(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))


class Plane(HRNet):
    """No network: a shared point in the last stage, and one in the stage before."""

    def _build(self, variant, multi_scale_output) -> None:
        self.stage2, self.stage3, self.stage4 = nn.Sequential(), nn.Sequential(Point()), nn.Sequential(Point())
        self.channels, self.strides = [1], [1]

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.stage3[0].weight, self.stage4[0].weight]


class Pull(Task):
    """Half the squared distances of the shared points and of a head of its own from where the task wants them.

    A sample shifts the goal of the last stage's point to the right by the first channel of its image.
    """

    monitor = "val/error"
    mode = "min"

    def __init__(self, backbone, early: list[float], last: list[float], strength: float = 1.0, **kwargs) -> None:
        super().__init__(backbone, **kwargs)
        self.early, self.last, self.strength = early, last, strength
        self.head = nn.Parameter(torch.zeros(1))
        self.reset()

    def forward(self, images: Tensor) -> list[Tensor]:
        return [*self.backbone(images), self.head]

    def losses(self, outputs: list[Tensor], batch: dict) -> dict[str, Tensor]:
        early, last, head = outputs
        goals = torch.tensor(self.last) + torch.stack([shift := batch["image"][:, 0, 0, 0].float(), 0 * shift], 1)
        distances = (last - goals).square().sum(1).mean() + (early - torch.tensor(self.early)).square().sum()
        own = (head - 1).square().sum()
        return {"shared": 0.5 * self.strength * distances, "head": 0.5 * self.strength * own}

    def predict(self, outputs: list[Tensor], batch: dict) -> Tensor:
        return batch["image"][:, 0, 0, 0].float()

    def update(self, predictions: Tensor, batch: dict) -> None:
        self.seen += predictions.tolist()

    def scores(self, predictions: Tensor, batch: dict) -> dict[str, Tensor]:
        return {"sample": batch["image_id"], "score": 1 / (1 + predictions)}

    def compute(self) -> dict[str, float]:
        return {"error": sum(self.seen) / len(self.seen)}

    def reset(self) -> None:
        self.seen: list[float] = []


GOALS = {"a": {"early": [0.0, 2.0], "last": [-3.0, 0.0]}, "b": {"early": [-1.0, 0.0], "last": [1.0, -1.0]}}
"""At the origin the tasks' gradients are (3, 0) and (-1, 1) at the last stage, which oppose each other, and (0, -2) and
(1, 0) at the stage before, which do not; each head's is -1; the losses are 7 and 2."""

WEIGHTS = {"a": 2.0, "b": 0.5}


def pulls(goals: dict[str, dict] | None = None, **options) -> MultiTask:
    def maker(arguments: dict):
        return lambda backbone: Pull(backbone, **arguments)

    options = {"optimizer": {"name": "momentum", "lr": 0.1, "momentum": 0.0}, **options}
    return MultiTask(Plane(), {name: maker(arguments) for name, arguments in (goals or GOALS).items()}, **options)


class Shifts(BaseDataset):
    def __init__(self, shifts: list[int]) -> None:
        self.shifts = shifts

    def __len__(self) -> int:
        return len(self.shifts)

    def sample(self, index: int, rng: np.random.Generator) -> dict:
        return {"image": np.full((1, 1, 3), self.shifts[index], dtype=np.uint8), "image_id": index}


class ShiftData(BaseDataModule):
    def __init__(self, shifts: list[int], batch_size: int, val: list[int] | None = None) -> None:
        super().__init__(".", image_size=(1, 1), batch_size=batch_size, num_workers=0)
        self.shifts, self.val = shifts, val or shifts

    def dataset(self, split: str) -> Shifts:
        return Shifts(self.shifts if split == "train" else self.val)


def shift_data(a: ShiftData, b: ShiftData, **options) -> MultiTaskDataModule:
    return MultiTaskDataModule({"a": a, "b": b}, num_workers=0, **options)


def quiet_trainer(folder: Path, epochs: int, **options) -> Trainer:
    silent = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    options = {"num_sanity_val_steps": 0, "limit_val_batches": 0, "logger": False, **silent, **options}
    return Trainer(accelerator="cpu", default_root_dir=folder, max_epochs=epochs, **options)


def unlike_parts() -> tuple[ShiftData, ShiftData]:
    """Two samples a batch of the one, three of the other."""
    return ShiftData([0, 1, 2, 2, 0, 1], 2), ShiftData([2, 0, 1, 0, 3, 1, 5, 0, 2], 3)

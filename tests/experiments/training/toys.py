"""A task and data whose every number can be worked out by hand, trained by the real command in a second."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from datamodules.base import BaseDataModule, BaseDataset
from hrnet import HRNet
from tasks.task import Task


class Numbers(BaseDataset):
    """`count` samples whose label is their index; their images tell it too."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """A gradient of grey and the index."""
        image = np.full((32, 32, 3), index, np.uint8)
        image[:, 0] = 255
        return {"image": image, "image_id": index, "label": index}


class ToyData(BaseDataModule):
    """Numbers.

    Args:
        root: Any folder.
        train: Samples to train on.
        val: Samples to evaluate.
        batch_size: Of both.
        num_workers: Loader processes.
    """

    def __init__(
        self, root: str = ".", *, train: int = 8, val: int = 5, batch_size: int = 2, num_workers: int = 0
    ) -> None:
        super().__init__(root, image_size=(32, 32), batch_size=batch_size, num_workers=num_workers)
        self.counts = {"train": train, "val": val}

    def dataset(self, split: str) -> Numbers:
        """The first numbers."""
        return Numbers(self.counts[split])


class ToyTask(Task):
    """Learns one weight: its loss for the number i is weight * i, so its gradient is the mean of a batch's numbers.

    Args:
        backbone: Not used.
        values: Metric after each epoch; the mean of the evaluated numbers without.
        best: Whether the metric is best when large ("max") or small ("min").
        **kwargs: Of every task.
    """

    monitor = "val/figure"
    higher_is_better = ("count",)

    def __init__(self, backbone: HRNet, *, values: list[float] | None = None, best: str = "max", **kwargs: Any) -> None:
        super().__init__(backbone, **kwargs)
        self.mode = best
        self.values = values or []
        self.weight = nn.Parameter(torch.tensor([[1.0]]))
        self.bias = nn.Parameter(torch.tensor([0.0]))
        self.register_buffer("epochs", torch.tensor(0))
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        """Of a batch, the weight for each sample."""
        return self.weight[0, 0] + 0 * images.mean((1, 2, 3)) + 0 * self.bias[0]

    def losses(self, outputs: Tensor, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Mean of weight * number."""
        return {"product": (outputs * batch["label"]).mean()}

    def predict(self, outputs: Tensor, batch: dict[str, Any]) -> Tensor:
        """The weight."""
        return outputs

    def update(self, predictions: Tensor, batch: dict[str, Any]) -> None:
        """Keep the numbers."""
        self.seen.append(batch["label"])

    def compute(self) -> dict[str, float]:
        """The value of the epoch that the weights are of."""
        numbers = torch.cat(self.seen)
        value = self.values[int(self.epochs) - 1] if self.values else float(numbers.float().mean())
        return {"figure": value, "count": float(len(numbers)), "weight": self.weight.item()}

    def reset(self) -> None:
        """Forget them."""
        self.seen = []

    def on_train_epoch_start(self) -> None:
        """Count."""
        super().on_train_epoch_start()
        self.epochs += 1


def toy(
    folder: Path, model: dict[str, Any] | None = None, data: dict[str, Any] | None = None, **trainer: Any
) -> list[str]:
    """Arguments of the command for a toy run whose YAML and runs are below `folder`."""
    content = {
        "model": {
            "class_path": "tests.experiments.training.toys.ToyTask",
            "init_args": {
                "backbone": {"variant": "w18_small_v1"},
                "optimizer": {"name": "momentum", "lr": 0.1, "momentum": 0.0},
                **(model or {}),
            },
        },
        "data": {"class_path": "tests.experiments.training.toys.ToyData", "init_args": data or {}},
        "trainer": {"max_epochs": 3, "num_sanity_val_steps": 0, "log_every_n_steps": 1, **trainer},
        "wandb": {"mode": "disabled"},
    }
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(content))
    return [str(path), "--runs", str(folder / "runs")]

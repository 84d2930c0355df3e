"""An exported file in place of the task that it was made of: `Predictor("PoseTask.onnx")`.

    network = ExportedNetwork("PoseTask.onnx").on("openvino")
    outputs = network.outputs(batch)               # {"keypoints": ..., "scores": ...}
    predictions = network.predict(outputs, batch)  # what the task's own `predict` gives

What the task is, the size of its images and how they are prepared stand in the file.
"""

import copy
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor

from experiments.config import ConfigError
from experiments.export import detection  # noqa: F401, says how its outputs end
from experiments.export.files import ABOUT, ENDINGS, READERS, RUN, Run, require
from experiments.export.graph import ending_of
from tasks import Task, class_named
from tasks.losses import Batch, Predictions

KINDS = {ending: kind for kind, ending in ENDINGS.items()}
BEFORE_DECODING = {"heatmaps", "logits", "cls_logits"}


def is_exported(source: Any) -> bool:
    """Whether a source is an exported file, by its ending."""
    return isinstance(source, str | Path) and Path(source).suffix in KINDS


class ExportedNetwork:
    """What prediction asks of a task, answered by an exported file on the CPU.

    Args:
        path: An .onnx, .pt2 or .xml file that `experiments.export` wrote.

    Raises:
        ConfigError: If the file is absent, damaged, not of this project, or gives what is before decoding.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.format = KINDS[self.path.suffix]
        if not self.path.is_file():
            raise ConfigError(f"{self.path} is not there: export a run by `python -m experiments.export RUN`.")
        require(self.format)
        self.about = ABOUT[self.format](self.path)
        self.kind = class_named(str(self.about["task"]), str(self.path), bases=(Task,))
        self.preparation = self.about["preparation"]
        self.precision = self.about.get("precision", "float32")
        self.class_names = self.about.get("class_names") or None
        self.category_ids = self.about.get("category_ids")
        self.num_classes = self.about.get("num_classes", len(self.class_names or ()))
        self.palette = self.about.get("palette")
        self.skeleton = self.about.get("skeleton")
        self.detector = self.about.get("detector", "fcos")
        self.device = torch.device("cpu")
        self.run: Run | None = None
        if raw := sorted(BEFORE_DECODING & set(self.about["outputs"])):
            raise ConfigError(
                f"{self.path} gives {raw[0]}, which nobody decodes here: export the run without `--decode false`."
            )
        self.ending = ending_of.dispatch(self.kind)(self)

    @property
    def parts(self) -> dict[str, Self]:
        """As of a task that stands alone."""
        return {"": self}

    def singles(self) -> dict[str, Self]:
        """The same."""
        return {"": self}

    def readers(self) -> tuple[str, ...]:
        """The runtimes that read the file."""
        return READERS[self.format]

    def on(self, runtime: str, precision: Literal["float32", "bf16"] = "float32") -> Self:
        """The task with the file opened by a runtime.

        Raises:
            ConfigError: If the runtime is not installed or cannot open it.
        """
        kind = "pt2" if runtime == "torch" else runtime
        require(kind)
        loaded = copy.copy(self)
        loaded.run = RUN[kind](self.path, self.about["outputs"], precision)
        return loaded

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        """What the file gives for `image` (B, 3, H, W) uint8.

        Raises:
            ConfigError: If the images are of a size that the file does not take.
        """
        size, step = tuple(batch["image"].shape[-2:]), self.about.get("multiple_of", 1)
        if not self.ending.any_size and size != tuple(self.about["image_size"]):
            height, width = self.about["image_size"]
            raise ConfigError(
                f"{self.path} takes images of {height}x{width} and these have {size[0]}x{size[1]}: export the run with "
                f"--image_size {size[0]} {size[1]}."
            )
        if any(side % step for side in size):
            raise ConfigError(
                f"{self.path} takes images whose sides are multiples of {step} and these have {size[0]}x{size[1]}: "
                "predict with the run itself."
            )
        assert self.run is not None, "opened by `on`"
        return self.run(batch["image"])

    def predict(self, outputs: dict[str, Tensor], batch: Batch) -> Predictions:
        """What the task's own `predict` gives, without its tests by mirrored and scaled images."""
        return self.ending.predictions(outputs, batch)

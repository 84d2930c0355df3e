"""What an exported file computes: uint8 images in, what a user wants out; normalisation and decoding are inside.

    Deployed(task)(images (B, 3, H, W) uint8) -> {"keypoints": (B, K, 2), "scores": (B, K)}, say

Key points and boxes are in pixels of the network's input: the way back to a photo is the crop's, whose recipe the file
holds as metadata. A task says by `endings` how its outputs become answers.
"""

from abc import ABC, abstractmethod
from functools import singledispatch
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.config import ConfigError
from tasks import ClassificationTask, PoseTask, SegmentationTask, Task
from tasks.losses import Batch
from tasks.pose import in_image

BEST = 5


class Ending(ABC):
    """How the outputs of a task become tensors by name, and what is said about them.

    Args:
        task: Whose they are.
    """

    any_size: ClassVar[bool] = False
    """Whether height and width may differ from call to call."""

    def __init__(self, task: Any) -> None:
        self.task = task

    def outputs(self, found: dict[str, Tensor]) -> Any:
        """What `forward` gives, of `raw`: the only tensor."""
        return next(iter(found.values()))

    def canvas(self, preparer: Any) -> Any:
        """What images go through for the exported file, in place of what they went through in the evaluation."""
        return preparer

    @abstractmethod
    def raw(self, outputs: Any) -> dict[str, Tensor]:
        """What `forward` gives, by name."""

    @abstractmethod
    def decoded(self, outputs: Any, size: tuple[int, int]) -> dict[str, Tensor]:
        """What a user wants of images of `size` (height, width), by name."""

    def tested(self, outputs: Any, image: Tensor) -> dict[str, Tensor]:
        """`decoded`, averaged with the mirrored image as the task's own test does it.

        Args:
            outputs: Of `forward`.
            image: (B, 3, H, W) uint8.
        """
        raise NotImplementedError

    def aligned(self, found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
        """`found` in the order of `expected`, where rounding may turn an order."""
        return found

    @abstractmethod
    def predictions(self, found: dict[str, Tensor], batch: Batch) -> Any:
        """`decoded` of a batch -> what the task's own `predict` gives, for its metric."""

    def described(self) -> dict[str, Any]:
        """Names of classes and how many there are, or the skeleton."""
        return {"class_names": list(self.task.class_names or []), "num_classes": self.task.num_classes}


class PoseEnding(Ending):
    """Key points (x, y) in input pixels, and their scores."""

    def raw(self, outputs: Tensor) -> dict[str, Tensor]:
        """Heatmaps (B, K, H/4, W/4)."""
        return {"heatmaps": outputs}

    def decoded(self, outputs: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        """Key points (B, K, 2) and scores (B, K), by the task's codec, without the mirrored image of its flip test."""
        keypoints, scores = self.task.codec.decode(outputs.float())
        return {"keypoints": keypoints, "scores": scores}

    def tested(self, outputs: Tensor, image: Tensor) -> dict[str, Tensor]:
        """By the task's own `predict`."""
        back = torch.eye(3)[:2].expand(image.shape[0], 2, 3)
        found = self.task.predict(outputs, {"image": image, "to_image": back})
        return {"keypoints": found["input_keypoints"], "scores": found["scores"]}

    def predictions(self, found: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """In pixels of the photo."""
        return {"keypoints": in_image(found["keypoints"], batch["to_image"]), "scores": found["scores"]}

    def described(self) -> dict[str, Any]:
        """The skeleton."""
        return {"skeleton": self.task.skeleton}


class SegmentationEnding(Ending):
    """A class for each pixel."""

    any_size = True

    def raw(self, outputs: Tensor) -> dict[str, Tensor]:
        """Logits (B, num_classes, H, W)."""
        return {"logits": outputs}

    def decoded(self, outputs: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        """Classes (B, H, W) int64, of the image as it comes: without the scales and mirrored image of a test."""
        return {"labels": outputs.argmax(1)}

    def tested(self, outputs: Tensor, image: Tensor) -> dict[str, Tensor]:
        """By the task's own `predict`, with its scales."""
        return self.task.predict(outputs, {"image": image})

    def described(self) -> dict[str, Any]:
        """Colours of the classes, too."""
        return super().described() | {"palette": self.task.palette}

    def predictions(self, found: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """At the size of the masks, where there are such."""
        if "mask" not in batch:
            return found
        labels = functional.interpolate(found["labels"][:, None].float(), size=batch["mask"].shape[-2:])
        return {"labels": labels[:, 0].long()}


class ClassificationEnding(Ending):
    """The likeliest classes."""

    def raw(self, outputs: Tensor) -> dict[str, Tensor]:
        """Logits (B, num_classes)."""
        return {"logits": outputs}

    def decoded(self, outputs: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        """Probabilities (B, 5) and classes (B, 5) int64 of the five likeliest, or of all where there are fewer."""
        best = outputs.float().softmax(1).topk(min(BEST, self.task.num_classes))
        return {"probabilities": best.values, "labels": best.indices}

    def predictions(self, found: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """With 0 for the classes that are not among the likeliest."""
        empty = torch.zeros(len(found["labels"]), self.task.num_classes)
        return {"probabilities": empty.scatter(1, found["labels"], found["probabilities"])}


@singledispatch
def ending_of(task: Task) -> Ending:
    """How the outputs of a task end.

    Raises:
        ConfigError: If nobody has said so.
    """
    known = ", ".join(sorted(cls.__name__ for cls in ending_of.registry if cls is not object))
    raise ConfigError(
        f"A {type(task).__name__} cannot be exported: it is none of {known}, and has no ending of its own."
    )


@ending_of.register
def _(task: PoseTask) -> Ending:
    return PoseEnding(task)


@ending_of.register
def _(task: SegmentationTask) -> Ending:
    return SegmentationEnding(task)


@ending_of.register
def _(task: ClassificationTask) -> Ending:
    return ClassificationEnding(task)


class Deployed(nn.Module):
    """A task from pixels to answers, in eval mode.

    Args:
        task: To be exported.
        decode: Whether to give what a user wants rather than what `forward` gives.
        normalised: Whether images come normalised, for backbone and head alone.
        flip_test: Whether the mirrored image of the task's own test is averaged in.
    """

    def __init__(self, task: Task, decode: bool = True, normalised: bool = False, *, flip_test: bool = False) -> None:
        super().__init__()
        self.task = task.eval().requires_grad_(False)
        self.ending, self.decode, self.normalised, self.flip_test = ending_of(task), decode, normalised, flip_test

    @property
    def step(self) -> int:
        """Of which height and width are multiples: where streams are repeated to meet, of the coarsest stride."""
        return 1 if self.task.backbone.upsample == "bilinear" else max(self.task.backbone.strides)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W), RGB in uint8 or normalised -> tensors by name."""
        if self.normalised:
            size = (image.shape[-2], image.shape[-1])
            outputs = self.task.from_streams(self.task.backbone(image), size)
        else:
            outputs = self.task(self.task.normalize(image))
        if not self.decode:
            return self.ending.raw(outputs)
        if self.flip_test:
            return self.ending.tested(outputs, image)
        return self.ending.decoded(outputs, (image.shape[-2], image.shape[-1]))

"""Image classification with the four-resolution head (TPAMI 2020, appendix; the official HRNet-Image-Classification).

task = ClassificationTask(HRNet("w18"), num_classes=1000)
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.data import Mixup
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from hrnet import ClassificationHead, HRNet
from tasks.draw import draw_caption, draw_confusion, draw_labels
from tasks.draw.pictures import Drawn, Layers, Panel
from tasks.draw.tables import Row
from tasks.losses import Batch, Data, Losses
from tasks.task import Task


class ClassificationScores(MetricCollection):
    """top1, top5 and the mean of the per-class accuracies, in [0, 1], of probabilities (B, K) and labels (B,).

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(
            {
                "top1": MulticlassAccuracy(num_classes, average="micro", validate_args=False),
                "top5": MulticlassAccuracy(
                    num_classes, average="micro", validate_args=False, top_k=min(5, num_classes)
                ),
                "counts": MulticlassConfusionMatrix(num_classes, validate_args=False),
            },
            compute_groups=False,
        )

    def compute(self) -> dict[str, Any]:
        """The three; nan for the mean where no class has an image."""
        found = {name: self[name].compute() for name in ("top1", "top5")}
        return found | {"mean_class_accuracy": class_accuracy(self.confusion()).nanmean()}

    def confusion(self) -> Tensor:
        """(K, K) int64 images of true class (row) and predicted class (column), of all processes."""
        return self["counts"].compute().cpu()


def class_accuracy(confusion: Tensor) -> Tensor:
    """Share of each class's images that is found, (K,) float64; nan for a class without images."""
    return confusion.double().diag() / confusion.sum(1)


class ClassificationTask(Task):
    """One class for each image.

    Args:
        backbone: HRNet with all four streams.
        num_classes: Classes; published checkpoints have 1000.
        label_smoothing: Share of the target that is spread over all classes.
        mixup: Alpha of mixup in training, 0 for none (timm's Mixup; batches must be even).
        cutmix: Alpha of CutMix in training, 0 for none; with both, each batch takes one of them.
        mix_probability: Share of the batches that are mixed.
        class_names: Names of the classes; taken from the data when not given.

    Raises:
        ValueError: If the backbone gives fewer than four streams, the data or the names have another number of classes,
            or a batch to be mixed is odd.
    """

    monitor = "val/top1"
    mode = "max"
    higher_is_better = ("top1", "top5", "mean_class_accuracy")
    metric: ClassificationScores

    def __init__(
        self,
        backbone: HRNet,
        num_classes: int = 1000,
        *,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        mix_probability: float = 1.0,
        class_names: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        if num_classes < 2:
            raise ValueError(f"ClassificationTask needs at least two classes, got num_classes={num_classes}.")
        if class_names is not None and len(class_names) != num_classes:
            raise ValueError(f"Found {len(class_names)} class names for {num_classes} classes, expected one a class.")
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.class_names = class_names
        self._asked = class_names is None
        self.head = ClassificationHead(self.backbone.channels, num_classes)
        self.mixer = None
        if mixup or cutmix:
            self.mixer = Mixup(
                mixup, cutmix, prob=mix_probability, label_smoothing=label_smoothing, num_classes=num_classes
            )
        self.metric = ClassificationScores(num_classes)

    def from_streams(self, streams: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Streams -> logits (B, num_classes)."""
        return self.head(streams)

    def training_losses(self, batch: Batch) -> Losses:
        """Of mixed images."""
        images, batch = self.mix(self.normalize(batch["image"]), batch)
        return self.losses(self(images), batch)

    def mix(self, images: Tensor, batch: Batch) -> tuple[Tensor, Batch]:
        """Mixup or CutMix; `target` then has the share of each class, (B, num_classes)."""
        if self.mixer is None:
            return images, batch
        if len(images) % 2:
            raise ValueError(
                f"Mixup and CutMix take pairs, and a batch of {len(images)} images came: they need an even one. Make "
                "data.init_args.batch_size even, and no larger than the data set."
            )
        images, target = self.mixer(images.contiguous(memory_format=torch.channels_last), batch["label"])
        return images, {**batch, "target": target}

    def losses(self, outputs: Tensor, batch: Batch) -> Losses:
        """Logits -> {"cross_entropy": with label smoothing; against shares where images were mixed}."""
        if "target" in batch:
            return {"cross_entropy": F.cross_entropy(outputs, batch["target"])}
        smoothing = self.label_smoothing if self.training else 0.0
        return {"cross_entropy": F.cross_entropy(outputs, batch["label"], label_smoothing=smoothing)}

    def predict(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Logits -> probabilities (B, num_classes)."""
        return {"probabilities": outputs.softmax(1)}

    def update(self, predictions: dict[str, Tensor], batch: Batch) -> None:
        """Count hits and confusions."""
        self.metric.update(predictions["probabilities"], batch["label"])

    def attach(self, datamodule: Data) -> None:
        """Compare the number of classes and take their names, if none were given."""
        if datamodule.num_classes != self.num_classes:
            raise ValueError(
                f"The model has {self.num_classes} classes and the data have {datamodule.num_classes}: "
                f"set model.init_args.num_classes to {datamodule.num_classes}."
            )
        if self._asked:
            self.class_names = [str(name) for name in datamodule.class_names]
            self.hparams["class_names"] = self.class_names

    def scores(self, predictions: dict[str, Tensor], batch: Batch) -> dict[str, Tensor | list]:
        """Whether the most likely class is the true one, 1 or 0, and how sure the network was."""
        names = self._names()
        confidence, guesses = predictions["probabilities"].float().max(1)
        return {
            "sample": batch["image_id"],
            "score": (guesses == batch["label"]).float(),
            "label": [names[i] for i in batch["label"].tolist()],
            "prediction": [names[i] for i in guesses.tolist()],
            "confidence": confidence,
        }

    def check(self, batch: Batch) -> None:
        """There is more than one class."""
        super().check(batch)
        if len(batch["label"]) > 1 and len(batch["label"].unique()) == 1:
            raise ValueError(
                f"{len(batch['label'])} training images, spread over the data set, are all of one class, "
                f"{self._names()[int(batch['label'][0])]}: are the other classes' folders empty?"
            )

    def tables(self) -> dict[str, list[Row] | Tensor]:
        """Images and accuracy of each class, and how many of them were taken for which, as numbers and as a picture."""
        names, counts = self._names(), self.metric.confusion()
        images, accuracy = counts.sum(1).tolist(), class_accuracy(counts).tolist()
        classes = [{"name": n, "images": i, "accuracy": a} for n, i, a in zip(names, images, accuracy, strict=True)]
        confusion = [
            {"truth": name} | dict(zip(names, row, strict=True))
            for name, row in zip(names, counts.tolist(), strict=True)
        ]
        return {"classes": classes, "confusion_matrix": confusion, "confusion": draw_confusion(counts, names)}

    def draw(self, outputs: Tensor, predictions: dict[str, Tensor], batch: Batch, count: int) -> Drawn:
        """Images with the true class and the most likely ones."""
        names, images = self._names(), batch["image"][:count].cpu()
        captions = []
        for label, shares in zip(
            batch["label"][:count].tolist(), predictions["probabilities"][:count].cpu(), strict=True
        ):
            best = shares.topk(min(5, self.num_classes))
            guesses = [f"{names[i]} {p:.2f}" for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
            captions.append([f"is {names[label]}", *guesses])
        picture = draw_labels(images, captions)
        caption = draw_caption("the true class; below it the likeliest with their probabilities", picture.shape[-1])
        numbers = batch["image_id"][:count].tolist() if "image_id" in batch else range(len(images))
        layers = [
            Layers(image, f"image {number}", names, labels={"truth": truth, "prediction": ", ".join(guesses)})
            for image, number, (truth, *guesses) in zip(images, numbers, captions, strict=True)
        ]
        return {"classes (truth, five best)": Panel(torch.cat([caption, picture], dim=1), layers)}

    def _names(self) -> list[str]:
        return self.class_names or [str(i) for i in range(self.num_classes)]

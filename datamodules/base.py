"""The base of every data set: batches as described below, loaders, all that a task may ask, and what is wrong.

A new data set is one file: a `BaseDataset` whose `sample` returns facts about one image, and a `BaseDataModule` whose
`dataset(split)` builds it. Nothing here knows a network, a stride or a loss.

A batch is a dict. Sizes are (height, width), points (x, y), in pixels with pixel centres at integers:

| key | shape, type | who |
|---|---|---|
| `image` | (B, 3, H, W) uint8 RGB, channels_last | all |
| `image_id` | (B,) int64 | all |
| `label` | (B,) int64 | classification |
| `mask` | (B, H, W) int, 255 ignored | segmentation |
| `boxes`, `labels`, `masks` | lists of (N, 4) xyxy float edges, (N,) int, (N, H, W) bool | detection |
| `size` | (B, 2) int64 height and width up to the last pixel of the image; beside it, the mean colour | detection |
| `keypoints`, `visible` | (B, K, 2) float32 input pixels (x, y), (B, K) int64 0/1/2 | pose, landmarks |
| `to_image` | (B, 2, 3) float32, input pixels -> original pixels | pose, landmarks, detection |
| `area`, `score`, `instance_id` | (B,) float32, float32, int64 | pose evaluation |

A sample is the same without the batch axis, in numpy; its `image` is (H, W, 3) uint8, so that a batch stacks straight
into channels_last memory.
"""

import copy
import os
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, DistributedSampler

from datamodules.findings import Count, DataError, Fact, Finding, Mode, Split
from datamodules.images.files import PLAIN, Reading
from datamodules.images.orientation import Orientations, Tagged
from datamodules.images.preparer import Preparer
from datamodules.loading.dataset import BaseDataset, First, available_cores, collate, errors_of, start_worker
from datamodules.loading.distributions import Distribution
from datamodules.loading.samplers import EvaluationSampler, TrainingSampler, even_batch_size, reached_by, world
from datamodules.skeleton import Skeleton

# albumentations asks a server for its newest version when it is first imported; training must not depend on that.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


class BaseDataModule(LightningDataModule, ABC):
    """Loaders for the splits of one data set; a subclass writes `dataset(split)`.

    Args:
        root: Folder of the data set, or `sample` for the small embedded data that are rendered on first use.
        image_size: (height, width) in pixels of the images that reach the network.
        batch_size: Samples a batch and process.
        num_workers: Loader processes; None takes one per available core, at most 8.
        overfit: Train and evaluate on the first so many training samples, without augmentation; a model that cannot
            learn them has a bug.
        reading: How image files become pixels: orientation, depth, largest size.
    """

    layout: ClassVar[str] = ""
    """The folder tree expected below `root`, shown when it is missing."""
    source: ClassVar[str] = ""
    """Where the data come from, shown when they are missing."""
    embedded: ClassVar[Callable[[], Path] | None] = None
    """Renders the embedded sample data in this data set's layout if they are absent, and returns their folder."""
    channels: ClassVar[int] = 3
    """Of the images that reach the network: every file is read as RGB, grey ones too."""
    test_split: Split = "val"
    """What `test` evaluates: most test labels are not public, so it is `val` unless a data set says otherwise."""
    num_classes: int | None = None
    """Of the labels, masks or boxes; a task that learns classes compares it with the model's."""
    class_names: Sequence[str] = ()
    """Of the `num_classes` classes, in the order of their numbers."""
    palette: Sequence[tuple[int, int, int]] = ()
    """(r, g, b) of each class, 0 to 255, in which masks are drawn."""
    label_flip_pairs: Sequence[tuple[int, int]] = ()
    """Classes that exchange when an image is mirrored, such as left and right arm."""
    num_keypoints: int | None = None
    """Of an instance; a task that learns key points compares it with the model's."""
    skeleton: Skeleton | None = None
    """What the key points are."""

    def __init__(
        self,
        root: str | Path,
        *,
        image_size: tuple[int, int],
        batch_size: int = 32,
        num_workers: int | None = None,
        overfit: int | None = None,
        reading: Reading | None = None,
    ) -> None:
        super().__init__()
        if min(image_size) < 1 or batch_size < 1:
            raise DataError(f"image_size {image_size} and batch_size {batch_size} must be positive: correct them.")
        if num_workers is not None and num_workers < 0:
            raise DataError(f"num_workers is a number of loader processes, 0 or more, or null; it is {num_workers}.")
        if overfit is not None and overfit < 1:
            raise DataError(f"overfit is a number of samples, at least 1, or null for none; it is {overfit}.")
        self.root = root
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.batch_size = batch_size
        self.num_workers = min(8, available_cores()) if num_workers is None else num_workers
        self.overfit = overfit
        self.stated_reading = (reading or PLAIN).checked()
        self._datasets: dict[str, BaseDataset] = {}
        self._resumed: tuple[int, int] | None = None

    @abstractmethod
    def dataset(self, split: Split) -> BaseDataset:
        """Build the data set of `split`; raises DataError where the files are not as they should be."""

    def ground_truth(self, split: Split) -> dict[str, list]:
        """COCO's ground truth of a split as a dict (images, annotations, categories); `test` is `test_split`.

        Metrics take it where they need more than batches hold: crowds, and instances without key points.

        Raises:
            DataError: If the data set has none.
        """
        raise DataError(
            f"{type(self).__name__} has no ground truth in COCO's form, which this task is evaluated by: write its "
            "`ground_truth(split)`, or use data that have it."
        )

    @property
    def reading(self) -> Reading:
        """How image files are read: as the user says, and turned or not as annotated sizes tell where he does not."""
        return replace(self.stated_reading, upright=self.orientations.upright)

    @cached_property
    def orientations(self) -> Orientations:
        """Which images are turned, decided once for all splits."""
        return Orientations(self.stated_reading.upright, self.tagged, self.split_names)

    def tagged(self, split: Split) -> list[Tagged]:
        """The images of a split that carry an EXIF orientation, for data with annotations that may be turned or not."""
        return []

    @property
    def preparer(self) -> Preparer | None:
        """What an evaluated image goes through on its way to the network; None where nothing says it.

        Checkpoints keep it, so that prediction sees what evaluation saw.
        """
        return None

    @property
    def split_names(self) -> tuple[Split, ...]:
        """The splits that there are."""
        return tuple(dict.fromkeys(("train", "val", self.test_split)))

    @property
    def parts(self) -> Mapping[str, "BaseDataModule"]:
        """The data sets of which this one is made, by name: of a joint run several, else itself, without a name."""
        return {"": self}

    def findings(self, split: Split, images: Mode = "full") -> Iterator[Fact]:
        """What is wrong with a split, and what is good to know: the data doctor asks for it and compares the splits.

        A data set that knows its files says which of them are wrong and why, without stopping at the first. Any other
        one is asked to read itself: what its samples raise is found. `images` says how far these are read, see `Mode`.
        """
        dataset = self._made(split)
        if isinstance(dataset, Finding):
            yield dataset
            return
        yield Count(split, None, Counter(samples=len(dataset)))
        if images == "full":
            for index, error in errors_of(dataset, f"samples of {split}"):
                yield Finding("refused by the loader", split, f"sample {index}", error)

    def distributions(self, split: Split) -> Iterator[Distribution]:
        """How classes, sizes, positions and visibility are spread in a split, for plots, where a data set says it."""
        for name, part in self.parts.items():
            for found in part.distributions(split) if part is not self else ():
                yield replace(found, title=f"{name}: {found.title}")

    def refusal(self, split: Split) -> Finding | None:
        """What training would stop with as soon as a split is made, if anything."""
        made = self._made(split)
        return made if isinstance(made, Finding) else None

    def _made(self, split: Split) -> BaseDataset | Finding:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what they warn of is among the findings
                return self.dataset(split)
        except DataError as error:
            return Finding("refused by the loader", split, type(self).__name__, str(error))

    @classmethod
    def sample_root(cls) -> Path:
        """The folder of the `embedded` data; raises DataError where there are none."""
        if cls.embedded is None:
            raise DataError(f"{cls.__name__} has no embedded sample data: set `root` to the folder of the data set.")
        return cls.embedded()

    @property
    def folder(self) -> Path:
        """The folder of the data; raises DataError with the expected tree if there is none."""
        if str(self.root) == "sample":
            return self.sample_root()
        folder = Path(self.root).expanduser()
        if not folder.is_dir():
            way = "\nWithout them, `sample.yaml` or `root: sample` runs on a small embedded data set."
            raise DataError(
                f"{type(self).__name__} found no folder {folder} (from {Path.cwd()}). Expected there:\n{self.layout}\n"
                f"The data come from {self.source}{way if self.embedded is not None else ''}"
            )
        return folder

    def existing(self, what: str, *names: str) -> Path:
        """The first of these folders below root that exists; raises DataError, with the expected tree, if none does.

        What they hold, such as images, is said of it in the message.
        """
        for name in names:
            if (self.folder / name).is_dir():
                return self.folder / name
        raise DataError(
            f"{type(self).__name__} found no {what} folder {' or '.join(names)} in {self.folder}. Expected there:\n"
            f"{self.layout}\nThe data come from {self.source}"
        )

    def split(self, name: Split) -> BaseDataset:
        """The data set of a split, built once; `test` is `test_split`."""
        name = self.test_split if name == "test" else name
        if self.overfit is not None:
            name = "train"
        if name not in self._datasets:
            dataset = self.dataset(name)
            self._datasets[name] = dataset if self.overfit is None else First(dataset, self.overfit)
        return self._datasets[name]

    def unread(self) -> Self:
        """A copy that has read nothing yet."""
        data = copy.copy(self)
        data._datasets = {}
        return data

    def prepare_data(self) -> None:
        """Look for the data, or render the sample, in one process before the others start."""
        _ = self.folder

    def setup(self, stage: str | None = None) -> None:
        """Read and check the splits that `stage` needs; all of them for None."""
        stages: dict[str | None, tuple[Split, ...]] = {"fit": ("train", "val"), "validate": ("val",)}
        for name in stages.get(stage, ("test",) if stage else ("train", "val", "test")):
            self.split(name)

    def preparation(self) -> dict[str, Any]:
        """What checkpoints keep for prediction: {class_path, init_args} of the preparer, else the size of images."""
        if self.preparer is None:
            return {"image_size": list(self.image_size)}
        return self.preparer.to_dict()

    def preview(self, count: int) -> dict[str, Any]:
        """A batch of so many training samples, or all there are, spread evenly over the data set."""
        dataset = self.split("train")
        rows = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int).tolist()
        return collate([dataset[row, 0] for row in rows])

    def training_names(self, epoch: int, batch: int, **options: Any) -> list[str]:
        """What reports call the samples of a batch of an epoch on this process, such as their files.

        `options` are those of the sampler, see `TrainingSampler`.
        """
        dataset = self.split("train")
        indices = self.training_sampler(dataset, *world(), **options).batch(epoch, batch, self.batch_size)
        return [dataset.name(index) for index in indices]

    def train_dataloader(self) -> DataLoader:
        """Batches of `train`, shuffled by (seed, epoch); an incomplete last batch is dropped after a full one."""
        dataset = self.split("train")
        epoch, batches = self.position()
        sampler = self.training_sampler(dataset, *world(), start=(epoch, batches * self.batch_size))
        return self.loader(dataset, sampler, self.batch_size, drop_last=len(sampler) >= self.batch_size)

    def training_sampler(self, dataset: BaseDataset, num_replicas: int, rank: int, **options: Any) -> TrainingSampler:
        """The order of the training samples on one of several processes, see `TrainingSampler`."""
        return TrainingSampler(dataset, num_replicas, rank, **options)

    def state_dict(self) -> dict[str, Any]:
        """What a place within an epoch depends on, kept in checkpoints: samples and batch size."""
        return {"samples": len(self.split("train")), "batch_size": self.batch_size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at batch `batches` of `epoch`, if `state` has these keys; called before the loader is made.

        A loader may be made, and its workers fetch ahead, before Lightning has restored its own counters.
        """
        if "epoch" in state:
            self._resumed = state["epoch"], state["batches"]

    def position(self) -> tuple[int, int]:
        """(epoch that is running or comes next, batches of it that are behind)."""
        if self.trainer is None:
            return 0, 0
        reached = reached_by(self.trainer)
        return self._resumed if self._resumed is not None and self._resumed[0] >= reached[0] else reached

    def teardown(self, stage: str) -> None:
        """Forget where a resumed training went on."""
        self._resumed = None

    def val_dataloader(self) -> DataLoader:
        """Batches of `val` in order, every sample once."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader:
        """Batches of `test` in order, every sample once."""
        return self._evaluation_loader("test")

    predict_dataloader = test_dataloader

    def _evaluation_loader(self, split: Split) -> DataLoader:
        dataset, (num_replicas, rank) = self.split(split), world()
        if len(dataset) < num_replicas:
            raise DataError(
                f"{type(self).__name__} has {len(dataset)} samples in `{split}` for {num_replicas} processes: every "
                f"process needs one, so use at most {len(dataset)} devices."
            )
        if not self.stacks(dataset):
            return self.loader(dataset, EvaluationSampler(dataset, num_replicas, rank, evened=True), 1)
        sampler = EvaluationSampler(dataset, num_replicas, rank)
        return self.loader(dataset, sampler, even_batch_size(len(dataset), num_replicas, self.batch_size))

    def stacks(self, dataset: BaseDataset) -> bool:
        """Whether samples that are evaluated stack into batches; else they come one a batch."""
        return True

    def loader(
        self, dataset: BaseDataset, sampler: DistributedSampler, batch_size: int, *, drop_last: bool = False
    ) -> DataLoader:
        """The batches of a data set in the order of a sampler, read by `num_workers` processes."""
        strategy = None if self.trainer is None else self.trainer.strategy
        to_gpu = torch.cuda.is_available() if strategy is None else strategy.root_device.type == "cuda"
        workers: dict[str, Any] = {"num_workers": self.num_workers, "persistent_workers": self.num_workers > 0}
        # Lightning builds a loader anew for `predict` and needs the batch size as a keyword for that.
        batches: dict[str, Any] = {"batch_size": batch_size, "sampler": sampler, "drop_last": drop_last}
        options = {"collate_fn": collate, "pin_memory": to_gpu, "worker_init_fn": start_worker}
        return DataLoader(dataset, **batches, **workers, **options)

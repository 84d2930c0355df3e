"""Several data sets, one for each task of a joint run; every batch says whose it is: {task: that task's batch}.

Which batch comes when follows from (seed, step) alone, so a resumed run goes on where it stopped and nothing is stored.

    data = MultiTaskDataModule({"pose": CocoPose("data/coco"), "segmentation": LIP("data/lip")})
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader, DistributedSampler

from datamodules.base import BaseDataModule
from datamodules.findings import DataError, Fact, Mode, Split
from datamodules.loading.dataset import BaseDataset
from datamodules.loading.samplers import stream, world

Policy = Literal["all", "round_robin", "proportional", "temperature", "ratios"]


class MultiTaskDataModule(BaseDataModule):
    """One DataModule a task, behind one loader.

    With the policy `all` every step has a batch of every task, of the part's own batch size, and an epoch is as many
    steps as the part with the most batches has, or the fewest. With any other policy a step has a batch of one task, an
    epoch is as many steps as all parts have batches together, and the policy says how many of them each part gets:

    | policy | share of part i with n_i training batches |
    |---|---|
    | `round_robin` | equal, in turn |
    | `proportional` | n_i |
    | `temperature` | n_i ** (1 / temperature) |
    | `ratios` | ratios[i] |

    A part that is through its samples begins anew, in another order and with other augmentation, and goes on across
    epochs: no sample comes a second time before all came once.

    Args:
        data: DataModule of each task; or the name of another entry whose images are labelled for this task too.
        policy: Which parts a step has batches of; each policy is described before the arguments.
        temperature: How equal the policy `temperature` makes the shares: 1 is proportional, the higher the more equal.
        ratios: How often the policy `ratios` takes each part, as positive numbers such as {pose: 2, parts: 1}.
        epoch_length: Steps an epoch, instead of the lengths above. With `all` also `shortest`, the fewest that a part
            has, or a share of these from above 0 to 1: at 0.5 the shortest part is through after two epochs.
        root: Folder for every part, in place of its own, such as `sample`.
        image_size: (height, width) in pixels for every part, in place of its own.
        batch_size: Samples a batch and process for every part, in place of its own.
        num_workers: Loader processes of all parts together; None takes one per available core, at most 8.
        overfit: Train and evaluate on the first so many training samples of every part, without augmentation.

    Raises:
        DataError: If an entry names no other one, or policy, temperature and ratios do not go together.
    """

    def __init__(
        self,
        data: dict[str, BaseDataModule | str],
        *,
        policy: Policy = "all",
        temperature: float | None = None,
        ratios: dict[str, float] | None = None,
        epoch_length: int | float | Literal["shortest"] | None = None,
        root: str | Path | None = None,
        image_size: tuple[int, int] | None = None,
        batch_size: int | None = None,
        num_workers: int | None = None,
        overfit: int | None = None,
    ) -> None:
        self.sources = _sources(data)
        self._parts = {name: part for name, part in data.items() if isinstance(part, BaseDataModule)}
        first = next(iter(self.parts.values()))
        super().__init__(
            first.root if root is None else root,
            image_size=first.image_size if image_size is None else image_size,
            batch_size=first.batch_size if batch_size is None else batch_size,
            num_workers=num_workers,
            overfit=overfit,
        )
        for part in self.parts.values():
            part.root = part.root if root is None else root
            part.image_size = part.image_size if image_size is None else self.image_size
            part.batch_size = part.batch_size if batch_size is None else batch_size
            part.num_workers = -(-self.num_workers // len(self.parts))
            part.overfit = part.overfit if overfit is None else overfit
        self.tasks = {name: self.parts[source] for name, source in self.sources.items()}
        self.policy, self.temperature, self.ratios, self.epoch_length = policy, temperature, ratios, epoch_length
        self._check_policy()

    def _check_policy(self) -> None:
        if (self.ratios is not None) != (self.policy == "ratios"):
            raise DataError(f"policy is {self.policy!r} and ratios is {self.ratios}: `policy: ratios` and ratios go "
                            "together.")  # fmt: skip
        if (self.temperature is not None) != (self.policy == "temperature"):
            raise DataError(
                f"policy is {self.policy!r} and temperature is {self.temperature}: `policy: temperature` and "
                "temperature go together."
            )
        if self.temperature is not None and self.temperature <= 0:
            raise DataError(f"temperature must be positive, got {self.temperature}.")
        if self.ratios is not None and (set(self.ratios) != set(self.parts) or min(self.ratios.values()) <= 0):
            raise DataError(f"ratios {self.ratios} should give a positive number to each of {', '.join(self.parts)}.")
        if isinstance(self.epoch_length, str | float) and self.policy != "all":
            raise DataError(
                f"`epoch_length: {self.epoch_length}` goes with `policy: all`, and policy is {self.policy!r}: "
                "make it null or a number of steps."
            )
        if isinstance(self.epoch_length, float) and not 0 < self.epoch_length <= 1:
            raise DataError(f"epoch_length must be whole, or a share from above 0 to 1, got {self.epoch_length}.")
        if isinstance(self.epoch_length, int) and self.epoch_length < 1:
            raise DataError(f"epoch_length must be at least 1, got {self.epoch_length}.")

    @property
    def parts(self) -> dict[str, BaseDataModule]:
        """The DataModules, each under the name of the entry that has it."""
        return self._parts

    def findings(self, split: Split, images: Mode = "full") -> Iterator[Fact]:
        """What every part says of its split, which is called `pose train`, say."""
        for name, part in self.parts.items():
            for fact in part.findings(split, images):
                yield replace(fact, split=f"{name} {split}")

    def dataset(self, split: Split) -> BaseDataset:
        """There is no one data set; raises DataError."""
        raise DataError(
            f"MultiTaskDataModule has one data set for each of {', '.join(self.parts)}: ask `parts[name]` for it."
        )

    def prepare_data(self) -> None:
        """Look for the data of every part."""
        for part in self.parts.values():
            part.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Read and check what `stage` needs of every part."""
        for part in self.parts.values():
            part.setup(stage)

    def counts(self) -> dict[str, int]:
        """Training batches that each part gives in an epoch, on each process."""
        processes, _ = world()
        own = {
            name: max(1, len(part.split("train")) // (processes * part.batch_size)) for name, part in self.parts.items()
        }
        if self.policy == "all":
            share = 1.0 if self.epoch_length == "shortest" else self.epoch_length
            if isinstance(share, float):
                return dict.fromkeys(own, max(1, int(share * min(own.values()))))
            return dict.fromkeys(own, share or max(own.values()))
        shares = {
            "round_robin": dict.fromkeys(own, 1.0),
            "proportional": own,
            "temperature": {name: count ** (1 / (self.temperature or 1.0)) for name, count in own.items()},
            "ratios": self.ratios or {},
        }[self.policy]
        return apportion(shares, int(self.epoch_length or sum(own.values())))

    def preparation(self) -> dict[str, Any]:
        """{task: the preparer of its part, as plain data}."""
        return {name: part.preparation() for name, part in self.tasks.items()}

    def preview(self, count: int) -> dict[str, Any]:
        """{task: a batch of so many of its training samples}."""
        batches = {name: part.preview(count) for name, part in self.parts.items()}
        return {name: batches[part] for name, part in self.sources.items()}

    def training_names(self, epoch: int, batch: int, **options: Any) -> list[str]:
        """Of the parts that the step has."""
        counts = self.counts()
        turns = StepOrder(counts, self.policy).whole(epoch) if self.policy != "all" else []
        names = []
        for number, (name, part) in enumerate(self.parts.items()):
            if turns and turns[batch] != name:
                continue
            place = turns[:batch].count(name) if turns else batch
            samples = counts[name] * part.batch_size
            found = part.training_names(epoch, place, samples=samples, part=number, **options)
            names += [f"{name}: {sample}" for sample in found]
        return names

    def train_dataloader(self) -> CombinedLoader:
        """Batches as the class says; `counts` says how many."""
        counts = self.counts()
        start = self.position()
        order = StepOrder(counts, self.policy, *start)
        loaders = {}
        for number, (name, part) in enumerate(self.parts.items()):
            dataset = part.split("train")
            sampler = part.training_sampler(
                dataset,
                *world(),
                samples=counts[name] * part.batch_size,
                start=(start[0], order.taken(name) * part.batch_size),
                part=number,
            )
            loaders[name] = part.loader(dataset, sampler, part.batch_size)
        if self.policy == "all":
            return CombinedLoader(loaders, "min_size")
        return CombinedLoader(OneByOne(loaders, order), "min_size")

    def state_dict(self) -> dict[str, Any]:
        """What a place within an epoch depends on, kept in checkpoints: each part's, its batches, and the policy."""
        parts = {name: part.state_dict() | {"batches": self.counts()[name]} for name, part in self.parts.items()}
        return {"parts": parts, "policy": self.policy}

    def val_dataloader(self) -> CombinedLoader:
        """Batches of `val` of all parts side by side, every sample once; a part that is through is left out."""
        return CombinedLoader({name: part.val_dataloader() for name, part in self.parts.items()}, "max_size")

    def test_dataloader(self) -> CombinedLoader:
        """Batches of `test`, in the same way."""
        return CombinedLoader({name: part.test_dataloader() for name, part in self.parts.items()}, "max_size")

    def predict_dataloader(self) -> DataLoader:
        """The batches of `test`, one part after the other."""
        loaders = {name: part.test_dataloader() for name, part in self.parts.items()}
        order = StepOrder({name: len(loader) for name, loader in loaders.items()}, "in_order")
        return OneByOne(loaders, order)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """{part: batch or None} -> {task: batch}; tasks that share a part share the tensors."""
        return {name: batch[part] for name, part in self.sources.items() if batch.get(part)}


def _sources(data: dict[str, BaseDataModule | str]) -> dict[str, str]:
    """Task -> entry that has its DataModule."""
    if not any(isinstance(part, BaseDataModule) for part in data.values()):
        raise DataError("data should give a DataModule to each task, such as {pose: {class_path: CocoPose, ...}}.")
    for name, part in data.items():
        if isinstance(part, str) and not isinstance(data.get(part), BaseDataModule):
            known = ", ".join(key for key, value in data.items() if isinstance(value, BaseDataModule))
            raise DataError(f"data.{name} refers to {part!r}, which has no DataModule: name one of {known}.")
    return {name: part if isinstance(part, str) else name for name, part in data.items()}


def apportion(shares: dict[str, float], total: int) -> dict[str, int]:
    """`total` split in proportion to `shares` by largest remainders, at least one each.

    Raises:
        DataError: If `total` is smaller than the number of shares.
    """
    if total < len(shares):
        raise DataError(f"An epoch of {total} steps is too short for {len(shares)} tasks: raise epoch_length.")
    exact = {name: share * total / sum(shares.values()) for name, share in shares.items()}
    counts = {name: max(1, int(value)) for name, value in exact.items()}
    while sum(counts.values()) != total:
        sign = 1 if sum(counts.values()) < total else -1
        able = [name for name in counts if sign > 0 or counts[name] > 1]
        chosen = max(able, key=lambda name: sign * (exact[name] - counts[name]))
        counts[chosen] += sign
    return counts


class StepOrder:
    """Whose turn each step of an epoch is: in turn, shuffled by (seed, epoch), or (`in_order`) one after the other.

    Args:
        counts: Steps an epoch of each part.
        policy: Of the DataModule, or `in_order`.
        epoch: Epoch to begin with.
        behind: Steps of that epoch that a resumed training has behind it.
    """

    def __init__(self, counts: dict[str, int], policy: str, epoch: int = 0, behind: int = 0) -> None:
        self.counts, self.policy, self.start, self.epoch = counts, policy, (epoch, behind), epoch

    def __len__(self) -> int:
        return max(self.counts.values()) if self.policy == "all" else sum(self.counts.values())

    def set_epoch(self, epoch: int) -> None:
        """As samplers have it."""
        self.epoch = epoch

    def whole(self, epoch: int) -> list[str]:
        """Names of all steps of an epoch."""
        names = list(self.counts)
        if self.policy == "round_robin":
            turns = sorted((turn, i) for i, name in enumerate(names) for turn in range(self.counts[name]))
            return [names[i] for _, i in turns]
        order = np.repeat(np.arange(len(names)), [self.counts[name] for name in names])
        if self.policy != "in_order":
            order = stream("turns", epoch).permutation(order)
        return [names[i] for i in order]

    def taken(self, name: str) -> int:
        """Batches of a part among the steps that are behind."""
        epoch, behind = self.start
        return behind if self.policy == "all" else self.whole(epoch)[:behind].count(name)

    def __iter__(self) -> Iterator[str]:
        epoch, behind = self.start
        yield from self.whole(self.epoch)[behind if self.epoch == epoch else 0 :]


class OneByOne:
    """Batches {part: batch} of one part a step.

    Args:
        loaders: Of each part.
        order: Whose turn it is.
    """

    def __init__(self, loaders: dict[str, DataLoader], order: StepOrder) -> None:
        self.loaders, self.order = loaders, order
        self.sampler = self  # Lightning looks for both names, and calls `set_epoch` of the first
        self.batch_sampler = None

    def __len__(self) -> int:
        return len(self.order)

    def set_epoch(self, epoch: int) -> None:
        """For the order and all parts."""
        self.order.set_epoch(epoch)
        for loader in self.loaders.values():
            if isinstance(loader.sampler, DistributedSampler):
                loader.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        iterators = {name: iter(loader) for name, loader in self.loaders.items()}
        for name in self.order:
            yield {name: next(iterators[name])}

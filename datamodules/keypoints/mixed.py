"""Key-point data sets with different skeletons, mixed for one model: each point is one of a union skeleton.

A data set keeps its own files, boxes, crops and augmentation; here its points find their places, and those that it
lacks have visibility 0, so that no loss looks at them. Each is evaluated on its own points, with its own truth.

    sources = {"coco": {"data": CocoPose("data/coco")}, "mpii": {"data": MpiiPose("data/mpii")}}
    data = MixedPose(sources, skeleton="union")
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from datamodules.base import BaseDataModule, BaseDataset, DataError, Split
from datamodules.findings import Fact, Mode
from datamodules.keypoints.crop import PersonCrop
from datamodules.keypoints.data import KeypointData
from datamodules.skeleton import Skeleton


class Source(TypedDict):
    """A data set of a mixture.

    `data` is its DataModule. `mapping` has the name of ours for each of its points that is learned, and none for those
    that are left out; without it these are the points that are called the same. `weight` is how often each of its
    persons comes in an epoch, 1 where it is not given; below 1, others come in the next one.
    """

    data: KeypointData
    mapping: NotRequired[dict[str, str] | None]
    weight: NotRequired[float]


@dataclass(frozen=True)
class SourcePoints:
    """What a data set has of the union: its K own points that are mapped.

    Args:
        data: The data set.
        own: (K,) indices of these points in its own skeleton.
        points: (K,) their indices in the union.
        weight: How often its persons come.
    """

    data: KeypointData
    own: tuple[int, ...]
    points: tuple[int, ...]
    weight: float

    @property
    def skeleton(self) -> Skeleton:
        """Of these points alone."""
        whole, place = self.data.skeleton, {k: row for row, k in enumerate(self.own)}
        pairs = [[(place[a], place[b]) for a, b in pairs if a in place and b in place]
                 for pairs in (whole.limbs, whole.flip_pairs)]  # fmt: skip
        return Skeleton(
            names=tuple(whole.names[k] for k in self.own),
            limbs=tuple(pairs[0]),
            flip_pairs=tuple(pairs[1]),
            sigmas=tuple(whole.sigmas[k] for k in self.own),
            upper_body=tuple(place[k] for k in whole.upper_body if k in place),
        )

    def ground_truth(self, split: Split) -> dict[str, list]:
        """The COCO dict of the data set's split, with these points only."""
        truth = self.data.ground_truth(split)
        if list(self.own) == list(range(self.data.skeleton.num_keypoints)):
            return truth
        return truth | {"annotations": [self._restricted(annotation) for annotation in truth["annotations"]]}

    def _restricted(self, annotation: dict[str, Any]) -> dict[str, Any]:
        points = np.reshape(annotation["keypoints"], (-1, 3))[list(self.own)]
        return annotation | {"keypoints": points.ravel().tolist(), "num_keypoints": int((points[:, 2] > 0).sum())}


class MixedPersons(BaseDataset):
    """The persons of several data sets with the K points of the union: one data set after the other, or by turns.

    Ids of images and instances become `id * S + s` in the s-th of S data sets, so that no two of them are the same.

    Args:
        parts: Data set of each.
        sources: Whose points are which.
        num_keypoints: K.
        counts: Samples that each has here; of more or fewer than there are, they are drawn evenly.
        by_turns: Whether every stretch of the samples has of each data set as many as its share is.
    """

    def __init__(
        self,
        parts: Sequence[BaseDataset],
        sources: Mapping[str, SourcePoints],
        num_keypoints: int,
        counts: Sequence[int],
        *,
        by_turns: bool = False,
    ) -> None:
        self.parts, self.counts, self.num_keypoints = list(parts), list(counts), num_keypoints
        self.names = list(sources)
        self.own = [np.array(source.own) for source in sources.values()]
        self.points = [np.array(source.points) for source in sources.values()]
        self.ends = np.cumsum(self.counts)
        shares = np.concatenate([(np.arange(count) + 0.5) / count for count in self.counts])
        self.order = np.argsort(shares, kind="stable") if by_turns else np.arange(len(shares))

    def __len__(self) -> int:
        return int(self.ends[-1])

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """A person as its data set has it, its points at their places."""
        s, place = self._place(index)
        part, count = self.parts[s], self.counts[s]
        # Each sample stands for a stretch of the data set, of one person if there are as many.
        row = place if count == len(part) else int((place + rng.random()) * len(part) / count)
        sample = part.sample(min(row, len(part) - 1), rng)
        keypoints = np.zeros((self.num_keypoints, 2), np.float32)
        visible = np.zeros(self.num_keypoints, np.int64)
        keypoints[self.points[s]] = sample["keypoints"][self.own[s]]
        visible[self.points[s]] = sample["visible"][self.own[s]]
        ids = {key: self._number(int(sample[key]), s) for key in ("image_id", "instance_id")}
        return {**sample, "keypoints": keypoints, "visible": visible, **ids}

    def name(self, index: int) -> str:
        """Of the data set, and what it calls the sample at this place."""
        s, place = self._place(index)
        return f"{self.names[s]}: {self.parts[s].name(place * len(self.parts[s]) // self.counts[s])}"

    def _place(self, index: int) -> tuple[int, int]:
        row = int(self.order[index])
        s = int(np.searchsorted(self.ends, row, side="right"))
        return s, row - int(self.ends[s]) + self.counts[s]

    def _number(self, number: int, s: int) -> int:
        if not -(2**63) <= number * len(self.parts) < 2**63 - len(self.parts):
            raise DataError(
                f"{self.names[s]} has the id {number}, too large to be mixed: give its images and annotations ids "
                f"below {2**63 // len(self.parts)}."
            )
        return number * len(self.parts) + s


class MixedPose(BaseDataModule):
    """Key-point data sets with different skeletons, for one model of all their points.

    Boxes, detections, crops and augmentation are those of each data set; size of image and batch are the mixture's.

    Args:
        sources: The data sets by name, each with `data`, and perhaps `mapping` and `weight`.
        skeleton: The union: `union`, which has the points of COCO, MPII, CrowdPose and AP-10K, or the path of a YAML
            file.
        root: Folder for every data set, in place of its own, such as `sample`.
        image_size: (height, width) of the crops of every data set.
        batch_size: Crops a batch and process.
        num_workers: Loader processes; None takes one per available core, at most 8.
        overfit: Train and evaluate on the first so many training crops of every data set, without augmentation.

    Raises:
        DataError: If a mapping does not fit the skeletons, or crops are made in different ways.
    """

    def __init__(
        self,
        sources: dict[str, Source],
        *,
        skeleton: str,
        root: str | Path | None = None,
        image_size: tuple[int, int] = (256, 192),
        batch_size: int = 32,
        num_workers: int | None = None,
        overfit: int | None = None,
    ) -> None:
        if not sources or any(set(name) & set("/.") for name in sources):
            raise DataError(f"sources are {sorted(sources)}: name one data set or more, without slashes and dots.")
        self.skeleton = Skeleton.load(skeleton)
        self.num_keypoints = self.skeleton.num_keypoints
        self.by_source = {name: _points_of(name, source, self.skeleton) for name, source in sources.items()}
        super().__init__(root, image_size=image_size, batch_size=batch_size, num_workers=num_workers, overfit=overfit)
        self.test_split = (
            "val" if all(source.data.test_split == "val" for source in self.by_source.values()) else "test"
        )
        self._refuse_different_crops()

    # What holds for every data set is handed down whenever it is set, as a joint run does later.

    @property
    def root(self) -> str | Path | None:
        """The folder that all data sets were given; None if each has its own."""
        return self._root

    @root.setter
    def root(self, root: str | Path | None) -> None:
        self._root = root
        self._hand_down("root", root)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the crops."""
        return next(iter(self.by_source.values())).data.image_size

    @image_size.setter
    def image_size(self, size: tuple[int, int]) -> None:
        self._hand_down("image_size", size)

    @property
    def overfit(self) -> int | None:
        """None: each data set leaves out its other crops itself."""
        return None

    @overfit.setter
    def overfit(self, count: int | None) -> None:
        self._hand_down("overfit", count)

    def _hand_down(self, name: str, value: Any) -> None:
        for source in self.by_source.values():
            setattr(source.data, name, getattr(source.data, name) if value is None else value)

    def _refuse_different_crops(self) -> None:
        crops = {name: (source.data.crop, source.data.box_padding) for name, source in self.by_source.items()}
        if len(set(crops.values())) > 1:
            said = ", ".join(f"{name} {crop} {padding:g}" for name, (crop, padding) in crops.items())
            raise DataError(f"The sources have different `crop` and `box_padding` ({said}): give all of them the same.")

    @property
    def preparer(self) -> PersonCrop:
        """The crop of an evaluated box, the same in all data sets."""
        return next(iter(self.by_source.values())).data.preparer

    @property
    def parts(self) -> Mapping[str, BaseDataModule]:
        """The data sets."""
        return {name: source.data for name, source in self.by_source.items()}

    @property
    def folder(self) -> Path:
        """The one that holds the folders of all data sets."""
        return Path(os.path.commonpath([source.data.folder.absolute() for source in self.by_source.values()]))

    def prepare_data(self) -> None:
        """Look for the data of every data set."""
        for source in self.by_source.values():
            source.data.prepare_data()

    def dataset(self, split: Split) -> MixedPersons:
        """The persons of all data sets; raises DataError where one is not as expected."""
        parts = [source.data.split(split) for source in self.by_source.values()]
        weights = [source.weight if split == "train" else 1.0 for source in self.by_source.values()]
        counts = [max(1, round(weight * len(part))) for weight, part in zip(weights, parts, strict=True)]
        # An evaluation that is cut short (`limit_val_batches`), and the pictures of its first batch, have all of them.
        return MixedPersons(parts, self.by_source, self.num_keypoints, counts, by_turns=split != "train")

    def ground_truth(self, split: Split) -> dict[str, list]:
        """There is no one truth; raises DataError."""
        raise DataError(
            f"MixedPose has a truth for each of {', '.join(self.by_source)}, on points of its own: ask "
            "`by_source[name]` for it, or take the one DataModule that is wanted."
        )

    def findings(self, split: Split, images: Mode = "full") -> Iterator[Fact]:
        """What every data set says of its split, which is called `coco train`, say."""
        for name, source in self.by_source.items():
            for fact in source.data.findings(split, images):
                yield replace(fact, split=f"{name} {split}")


def _points_of(name: str, source: Source, union: Skeleton) -> SourcePoints:
    """Which points of a data set are which of the union; raises DataError where the mapping does not say it."""
    unknown = sorted(set(source) - {"data", "mapping", "weight"})
    weight = source.get("weight", 1.0)
    if unknown or not 0 < weight < np.inf:
        found = f"the keys {', '.join(unknown)}" if unknown else f"weight {weight}"
        raise DataError(f"sources.{name} has {found}: expected data, mapping, and a weight above 0.")
    own = source["data"].skeleton
    mapping = source.get("mapping") or {point: point for point in own.names if point in union.names}
    for said, points, skeleton in (("", mapping, own), ("the union's ", mapping.values(), union)):
        absent = [point for point in points if point not in skeleton.names]
        if absent:
            raise DataError(
                f"sources.{name}.mapping has the points {absent}, which are not among {said or 'its '}"
                f"{', '.join(skeleton.names)}."
            )
    if len(set(mapping.values())) < len(mapping) or not mapping:
        what = "two points for one of the union" if mapping else "no point of the union"
        raise DataError(f"sources.{name}.mapping has {what}: give each of its points one of its own, or leave it out.")
    order = [point for point in own.names if point in mapping]
    ours = {own.names.index(point): union.names.index(mapping[point]) for point in order}
    for point, place in ours.items():
        mirrored = ours.get(own.flip_permutation[point], union.flip_permutation[place])
        if union.flip_permutation[place] != mirrored:
            raise DataError(
                f"sources.{name}.mapping takes {own.names[point]} for {union.names[place]}, and their mirror images "
                f"{own.names[own.flip_permutation[point]]} and {union.names[union.flip_permutation[place]]} are not "
                "taken for each other: correct it, or `flip_pairs` of the skeletons."
            )
    return SourcePoints(source["data"], tuple(ours), tuple(ours.values()), float(weight))

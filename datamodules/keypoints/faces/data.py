"""What all sets of faces share: square crops as published, where lists and images are looked for, named subsets.

A data set is a `FaceData` that says who is on which image and which faces make a subset (`read`), such as `wflw.py`.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from datamodules.base import DataError, Split
from datamodules.images.files import Reading
from datamodules.keypoints.crop import Crop, PersonAugmentation
from datamodules.keypoints.data import KeypointData
from datamodules.keypoints.table import PersonTable
from datamodules.loading.distributions import Bars, Distribution, some

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Faces:
    """The faces of a split.

    Args:
        table: All of them.
        subsets: Name -> `ids` in the table of those that are evaluated on their own too.
    """

    table: PersonTable
    subsets: Mapping[str, Sequence[Any]] = field(default_factory=dict)


class FaceAugmentation(PersonAugmentation):
    """Draws the crop of a face as the published recipe: uniform scale and rotation.

    Args:
        scale_factor: The size is multiplied by a number between 1 - scale_factor and 1 + scale_factor.
        rotation_factor: Largest angle to either side, degrees.
        rotation_probability: How often a face is rotated at all.
        flip_probability: How often the image is mirrored.
    """

    def __init__(
        self,
        scale_factor: float = 0.25,
        rotation_factor: float = 30.0,
        rotation_probability: float = 0.6,
        flip_probability: float = 0.5,
    ) -> None:
        super().__init__(scale_factor, rotation_factor, rotation_probability, flip_probability, 0.0)

    def drawn(self, rng: np.random.Generator) -> tuple[float, float]:
        """Factor on the size, and rotation in degrees."""
        factor = 1 + self.scale_factor * rng.uniform(-1, 1)
        rotated = rng.random() < self.rotation_probability
        return factor, self.rotation_factor * rng.uniform(-1, 1) if rotated else 0.0


class FaceData(KeypointData):
    """Faces with landmarks, one a sample. A data set writes `read` and says where its lists and images are.

    Args:
        root: Folder of the data set, or `sample` for the embedded data.
        image_size: (height, width) of the crop; the paper has (256, 256).
        batch_size: Faces a batch and process.
        num_workers: Loader processes; None takes one per available core, at most 8.
        skeleton: What the landmarks are: `wflw`, `w300`, `cofw`, `aflw`, or the path of a YAML file.
        annotations: List of each split (train, val, test), relative to root; the others are looked for where the
            published distributions have them.
        images: Folder of the images, relative to root, which the lists' names are relative to; None looks for it where
            the published distributions have it.
        first_pixel: What the coordinates of the list call the first pixel: 0 takes them as they are, as published
            networks were trained; 1 takes one pixel off (lists made with MATLAB, such as 300W's, AFLW's and COFW's).
        augmentation: Geometry of the training crops; None is the published recipe for faces.
        photometric: albumentations transforms of the training crops, such as [{name: ColorJitter, p: 0.5}].
        crop: "size" is the published crop, "unit" that of UDP; choose UDPCodec with the latter.
        box_padding: Factor on the box's sides.
        overfit: Train and evaluate on the first so many training crops, without augmentation.
        reading: How image files become pixels: orientation, depth, largest size.
    """

    lists: ClassVar[Mapping[Split, tuple[str, ...]]] = {}
    """Where the published distributions have the list of each split; the first that exists is taken."""
    image_folders: ClassVar[tuple[str, ...]] = ("images",)
    """Where they have the images."""
    image_key: ClassVar[str] = "images"
    things: ClassVar[str] = "faces"

    def __init__(
        self,
        root: str | Path,
        *,
        image_size: tuple[int, int] = (256, 256),
        batch_size: int = 32,
        num_workers: int | None = None,
        skeleton: str,
        annotations: dict[str, str] | None = None,
        images: str | None = None,
        first_pixel: Literal[0, 1] = 0,
        augmentation: FaceAugmentation | None = None,
        photometric: list[dict[str, Any]] | None = None,
        crop: Crop = "size",
        box_padding: float = 1.25,
        overfit: int | None = None,
        reading: Reading | None = None,
    ) -> None:
        super().__init__(
            root,
            image_size=image_size,
            batch_size=batch_size,
            num_workers=num_workers,
            skeleton=skeleton,
            augmentation=augmentation or FaceAugmentation(),
            photometric=photometric,
            crop=crop,
            box_padding=box_padding,
            overfit=overfit,
            reading=reading,
        )
        unknown = sorted(set(annotations or ()) - set(SPLITS))
        if unknown:
            raise DataError(f"`annotations` has the entries {unknown}: expected some of {', '.join(SPLITS)}.")
        if first_pixel not in (0, 1):
            raise DataError(f"first_pixel is {first_pixel}: expected 0 or 1, what the list calls the first pixel.")
        self.annotations, self.images, self.first_pixel = dict(annotations or {}), images, first_pixel
        if "test" in self.annotations:
            self.test_split = "test"

    # ---- what a data set says

    @abstractmethod
    def read(self, path: Path, split: Split) -> Faces:
        """The faces of a split in a list; raises DataError where it cannot be read. Wrong rows are in the table."""

    # ---- what is made of it

    def persons(self, split: Split) -> PersonTable:
        """All faces of a split."""
        table = self.read(self.list_of(split), split).table
        if not self.first_pixel:
            return table
        shift = np.array([1.0, 1.0, 0.0, 0.0])
        return replace(table, keypoints=table.keypoints - 1, boxes=table.boxes - shift)

    def subsets(self, split: Split) -> dict[str, np.ndarray]:
        """Name -> numbers of the faces of each subset of an evaluated split, without those that have none."""
        split = self.test_split if split == "test" else split
        if self.overfit is not None or split == "train":
            return {}
        faces = self.read(self.list_of(split), split)
        numbers = dict(zip(faces.table.ids or (), faces.table.numbers.tolist(), strict=True))
        found = {name: [numbers[key] for key in ids if key in numbers] for name, ids in faces.subsets.items()}
        return {name: np.array(chosen, np.int64) for name, chosen in found.items() if chosen}

    def distributions(self, split: Split) -> Iterator[Distribution]:
        """As of all key points, and how many faces are in each subset of the list."""
        yield from super().distributions(split)
        faces = self.read(self.list_of(split), split)
        table = faces.table.accepted()
        learned = {table.ids[row] for row in table.usable()[: self.overfit].tolist()}
        sizes = {name: len(learned.intersection(ids)) for name, ids in faces.subsets.items()}
        if any(sizes.values()):
            yield Bars("subsets", some(len(learned), "faces"), list(sizes), list(sizes.values()), "faces")

    def batch_areas(self, table: PersonTable, rows: np.ndarray) -> np.ndarray:
        """(n,) areas of the face boxes, by whose square roots errors may be divided."""
        return table.areas[rows]

    def list_of(self, split: Split) -> Path:
        """The list of a split; raises DataError with the expected tree if there is none."""
        names = (self.annotations[split],) if split in self.annotations else self.lists.get(split, ())
        for name in names:
            if (self.folder / name).exists():
                return self.folder / name
        looked = " or ".join(names) or f"list of {split}"
        raise DataError(
            f"{type(self).__name__} found no {looked} in {self.folder}. Expected there:\n{self.layout}\nor set "
            f"`annotations: {{{split}: FILE}}`. The data come from {self.source}"
        )

    def image_folder(self, split: Split) -> Path:
        """Folder of the images; raises DataError if there is none."""
        return self.existing("image", *((self.images,) if self.images is not None else self.image_folders))

"""COCO objects, one image a sample: the data of the paper's detection experiments (TPAMI 2020, section 6).

Serves any data in COCO's form too: other classes, other folders (`annotations`, `images`).

    data = CocoDetection("data/coco", image_size=(832, 1344), sides=(800, 1333), grouped=True, batch_size=2)
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from datamodules.base import BaseDataset, DataError, Split
from datamodules.detection.augmentation import DetectionAugmentation
from datamodules.detection.letterbox import Letterbox
from datamodules.detection.samples import ObjectImages
from datamodules.detection.table import ObjectTable, read_objects
from datamodules.images.annotated import AnnotatedImages
from datamodules.images.files import Reading
from datamodules.images.photometric import Photometric
from datamodules.keypoints.coco_json import CocoFiles, coco_tree
from datamodules.keypoints.defects import listed
from datamodules.loading.distributions import Distribution
from datamodules.loading.samplers import GroupedSampler, TrainingSampler
from datamodules.sample import sample_coco


class CocoDetection(CocoFiles, AnnotatedImages):
    """COCO objects with boxes and masks, or any data in that format.

    Labels are the places of the categories, their ids ascending. Crowds are evaluated as COCO does and not learned;
    boxes without area are reported and left out. `test` is `val` unless `annotations` has an entry `test`.

    Args:
        root: Folder of the data set, or `sample` for the embedded data.
        image_size: (height, width) in pixels of the canvas on which an image lies, its aspect kept; networks want
            multiples of their largest stride.
        batch_size: Images a batch and process.
        num_workers: Loader processes; None takes one per available core, at most 8.
        annotations: Annotation file of each split (train, val, test), relative to root; the others keep COCO's names.
        images: Image folder of each split, relative to root; the others are looked for where COCO has them.
        sides: (shorter, longer) side in pixels that images are brought to at most, published [800, 1333]; None makes
            them as large as the canvas allows.
        grouped: Make batches of landscape or of portrait images alone, and exchange height and width of `image_size`
            for the latter, as published recipes do; without it every batch has the canvas `image_size`.
        masks: Give the objects' masks too, which learning them needs.
        augmentation: Geometry of the training images; None mirrors every other one and nothing else, as published.
        photometric: albumentations transforms of the training images, such as [{name: ColorJitter, p: 0.5}].
        empty_images: Learn from images without objects too.
        overfit: Train and evaluate on the first so many training images, without augmentation.
        reading: How image files become pixels: orientation, depth, largest size.
    """

    layout: ClassVar[str] = coco_tree("instances")
    embedded = staticmethod(sample_coco)

    def __init__(
        self,
        root: str | Path,
        *,
        image_size: tuple[int, int],
        batch_size: int = 2,
        num_workers: int | None = None,
        annotations: dict[str, str] | None = None,
        images: dict[str, str] | None = None,
        sides: tuple[int, int] | None = None,
        grouped: bool = False,
        masks: bool = False,
        augmentation: DetectionAugmentation | None = None,
        photometric: list[dict[str, Any]] | None = None,
        empty_images: bool = True,
        overfit: int | None = None,
        reading: Reading | None = None,
    ) -> None:
        shared = {"batch_size": batch_size, "num_workers": num_workers, "overfit": overfit, "reading": reading}
        super().__init__(root, image_size=image_size, **shared)
        self.set_files("instances", annotations, images)
        if sides is not None and min(sides) < 1:
            raise DataError(
                f"sides is {tuple(sides)}, expected a shorter and a longer side in pixels such as 800, 1333."
            )
        self.sides = None if sides is None else (int(min(sides)), int(max(sides)))
        self.grouped, self.masks, self.empty_images = grouped, masks, empty_images
        self.augmentation = augmentation or DetectionAugmentation()
        self.photometric = None if not photometric else Photometric(photometric)
        self._classes: tuple[str, dict[int, str]] | None = None  # of the file that was read first
        self._evaluated: dict[str, ObjectTable] = {}

    # ---- what tasks ask for

    @property
    def categories(self) -> dict[int, str]:
        """Id -> name of the classes, in the order of their labels; those of the file that was read first."""
        if self._classes is None:
            there = [split for split in ("val", "train") if (self.folder / self.annotations[split]).is_file()]
            split = there[0] if there else "train"
            self._agree(read_objects(self.annotation_file(split), segmentations=False).accepted())
        return self._classes[1]

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of their labels."""
        return list(self.categories.values())

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.categories)

    @property
    def preparer(self) -> Letterbox:
        """How an evaluated image lies on its canvas."""
        return Letterbox(self.image_size, self.reading, self.sides, self.grouped)

    def annotated(self, split: Split) -> ObjectTable:
        """The objects of a split as its file has them; raises DataError where it cannot be read."""
        wanted = self.masks or split != "train"
        return read_objects(self.annotation_file(split), segmentations=wanted, masks=self.masks)

    def dataset(self, split: Split) -> ObjectImages:
        """Read and check the objects of `split`; raises DataError where they or the images are not as expected."""
        training, folder = split == "train", self.image_folder(split)
        table, turned = self.loaded(split)
        rows = np.arange(len(table.file_names))
        if training:
            table.require_objects()
            if not self.empty_images:
                rows = np.unique(table.images[table.learned()])
        else:
            self._evaluated[split] = table
            if self.grouped:  # of all batches one at most has both
                rows = np.argsort(table.image_sizes[:, 0] > table.image_sizes[:, 1], kind="stable")
        self.require_images(folder, table.file_names[rows].tolist())
        drawn = training and not self.overfit
        return ObjectImages(
            folder,
            table,
            rows,
            preparer=self.preparer,
            masks=self.masks,
            augmentation=self.augmentation if drawn else None,
            photometric=self.photometric if drawn else None,
            reading=self.stated_reading,
            turned=turned,
        )

    def training_sampler(self, dataset: BaseDataset, num_replicas: int, rank: int, **options: Any) -> TrainingSampler:
        """As in every data set, or batches of one orientation each."""
        if not self.grouped:
            return super().training_sampler(dataset, num_replicas, rank, **options)
        return GroupedSampler(dataset, num_replicas, rank, batch_size=self.batch_size, **options)

    def state_dict(self) -> dict[str, Any]:
        """What a place within an epoch depends on: the order too is another in batches of one orientation."""
        return super().state_dict() | ({"grouped": True} if self.grouped else {})

    def ground_truth(self, split: Split) -> dict[str, list]:
        """The COCO dict of a split for the metric, crowds included; of `overfit` the images that are learned."""
        if self.overfit is not None:
            table = self.accepted("train", self.annotated("train"))
            truth = table.to_coco()
            rows = self.split("train").dataset.rows[: self.overfit]
            images = [truth["images"][row] for row in rows]
            known = {image["id"] for image in images}
            annotations = [entry for entry in truth["annotations"] if entry["image_id"] in known]
            return truth | {"images": images, "annotations": annotations}
        split = self.test_split if split == "test" else split
        table = self._evaluated.get(split) or self.accepted(split, self.annotated(split))
        return table.to_coco()

    def distributions(self, split: Split) -> Iterator[Distribution]:
        """Classes, sizes and positions of the objects that are learned, and how many an image has."""
        table, _ = self.loaded(split)
        rows = table.learned()
        images = np.arange(len(table.file_names)) if self.empty_images else np.unique(table.images[rows])
        images = images[: self.overfit]
        yield from table.distributions(rows[np.isin(table.images[rows], images)], images)

    # ---- what may be wrong

    def examined(self, split: Split) -> ObjectTable:
        """The objects with their segmentations, whatever is learned of them."""
        return read_objects(self.annotation_file(split), masks=self.masks)

    def require_usable(self, split: Split, table: ObjectTable) -> None:
        """Raise DataError where there is nothing to learn."""
        if split == "train":
            table.require_objects()

    def accepted(self, split: Split, table: ObjectTable, turned: Iterable[int] = ()) -> ObjectTable:
        """As of all tables; with masks where they are learned, and of the same classes in all splits."""
        table = super().accepted(split, table, turned)
        if self.masks:
            self._require_masks(table)
        self._agree(table)
        return table

    def _require_masks(self, table: ObjectTable) -> None:
        bare = [table.ids[row] for row in table.learned() if not table.segmentations[row]]
        if bare:
            raise DataError(
                f"{table.path}: {listed(bare)} have no `segmentation`, and `masks` is true: add polygons or run-length "
                "codes, or set `masks: false` and learn boxes alone."
            )

    def _agree(self, table: ObjectTable) -> None:
        """Take the classes of the first file that is read; raises DataError where another one has others."""
        if self._classes is None:
            self._classes = str(table.path), dict(table.categories)
        path, known = self._classes
        differing = [key for key in {**known, **table.categories} if known.get(key) != table.categories.get(key)]
        if differing:
            key = differing[0]
            raise DataError(
                f"{table.path} has the category {key} {table.categories.get(key)!r}, {path} has {known.get(key)!r}: "
                f"labels would mean other classes ({len(differing)} differ), so give both files the same `categories`."
            )

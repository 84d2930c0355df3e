"""What all key-point data sets share: crops of persons, boxes of a detector, the ground truth, what may be wrong.

A data set is a `KeypointData` that says who is on which image (`persons`), such as `coco_pose.py`.
"""

import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from datamodules.base import DataError, Split
from datamodules.findings import Count, Fact, Finding
from datamodules.images.annotated import AnnotatedImages, found_in
from datamodules.images.files import Reading
from datamodules.images.photometric import Photometric
from datamodules.keypoints.crop import Crop, PersonAugmentation, PersonCrop
from datamodules.keypoints.detections import FoundBoxes, detections_in, read_detections
from datamodules.keypoints.persons import Persons
from datamodules.keypoints.table import PersonTable
from datamodules.loading.distributions import Distribution
from datamodules.skeleton import Skeleton


class KeypointData(AnnotatedImages):
    """Persons, or other things, with key points: one a sample. A data set writes `persons(split)`.

    Args:
        root: Folder of the data set, or `sample` for the embedded data.
        image_size: (height, width) of the crop; the paper has (256, 192) and (384, 288).
        batch_size: Crops, one a person or other annotated thing, a batch and process.
        num_workers: Loader processes; None takes one per available core, at most 8.
        skeleton: What the key points are: `coco`, `mpii`, or the path of a YAML file.
        detections: COCO results file with the boxes to evaluate on `val` and `test`, relative to root; None takes the
            annotated boxes, with which figures come out higher than published ones.
        detection_threshold: Detections with a lower score are left out.
        augmentation: Geometry of the training crops; None is the published COCO recipe.
        photometric: albumentations transforms of the training crops, such as [{name: ColorJitter, p: 0.5}].
        crop: "size" is the classic crop, "unit" that of UDP; choose UDPCodec with the latter.
        box_padding: Factor on the box's sides.
        overfit: Train and evaluate on the first so many training crops, without augmentation.
        reading: How image files become pixels: orientation, depth, largest size.
    """

    things: ClassVar[str] = ""
    """What has key points, in the plural; persons or instances, as the categories say, where it is empty."""

    def __init__(
        self,
        root: str | Path,
        *,
        image_size: tuple[int, int] = (256, 192),
        batch_size: int = 32,
        num_workers: int | None = None,
        skeleton: str = "coco",
        detections: str | None = None,
        detection_threshold: float = 0.0,
        augmentation: PersonAugmentation | None = None,
        photometric: list[dict[str, Any]] | None = None,
        crop: Crop = "size",
        box_padding: float = 1.25,
        overfit: int | None = None,
        reading: Reading | None = None,
    ) -> None:
        shared = {"batch_size": batch_size, "num_workers": num_workers, "overfit": overfit, "reading": reading}
        super().__init__(root, image_size=image_size, **shared)
        self.skeleton = Skeleton.load(skeleton)
        self.num_keypoints = self.skeleton.num_keypoints
        self.detections, self.detection_threshold = detections, detection_threshold
        self.augmentation = augmentation or PersonAugmentation()
        self.photometric = None if not photometric else Photometric(photometric)
        if not 0 < box_padding < math.inf:
            raise DataError(f"box_padding is {box_padding}, expected a factor on the box's sides such as 1.25.")
        self.crop, self.box_padding = crop, box_padding
        self._boxes: FoundBoxes | None = None
        self._evaluated: dict[str, PersonTable] = {}

    # ---- what a data set says

    @abstractmethod
    def persons(self, split: Split) -> PersonTable:
        """All persons of a split as the files have them; raises DataError where these cannot be read."""

    def annotated(self, split: Split) -> PersonTable:
        """The table of persons."""
        return self.persons(split)

    def subsets(self, split: Split) -> dict[str, np.ndarray]:
        """Parts of a split that are also evaluated on their own: name -> numbers of its instances (`instance_id`)."""
        return {}

    def batch_areas(self, table: PersonTable, rows: np.ndarray) -> np.ndarray | None:
        """(n,) what batches call the `area` of these rows, square pixels; None takes the padded boxes."""
        return None

    # ---- what is made of it

    @property
    def preparer(self) -> PersonCrop:
        """The crop of an evaluated box."""
        return PersonCrop(self.image_size, self.reading, self.crop, self.box_padding)

    def dataset(self, split: Split) -> Persons:
        """Read and check the persons of `split`; raises DataError where they or the images are not as expected.

        Detected boxes have no key points: their `visible` is 0.
        """
        training = split == "train"
        table, turned = self.loaded(split)  # a list that is wrong is said before a folder that is missing
        folder = self.image_folder(split)
        if not training:
            self._evaluated[split] = table
        areas = None
        if not training and self._boxes is not None:
            images, boxes, scores = self._boxes.rows_of(table)
            instance_ids = np.arange(len(boxes))
            keypoints, visible = self._unlabelled(len(boxes))
        elif training or self.detections is None:
            rows = table.usable()
            images, instance_ids = table.images[rows], table.numbers[rows]
            boxes, scores = table.clean_boxes()[rows], np.ones(len(rows))
            keypoints, visible = table.keypoints[rows], table.visible[rows]
            areas = self.batch_areas(table, rows)
        else:
            found = read_detections(self.folder / self.detections, table, self.detection_threshold)
            images, instance_ids, boxes, scores = found.images, found.rows, found.boxes, found.scores
            keypoints, visible = self._unlabelled(len(boxes))
        self.require_images(folder, table.file_names[np.unique(images)].tolist())
        preparer = self.preparer
        centers, sizes = preparer.padded(boxes)
        drawn = training and not self.overfit
        return Persons(
            folder,
            image_ids=table.image_numbers,
            file_names=table.file_names,
            image_sizes=table.image_sizes,
            images=images,
            instance_ids=instance_ids,
            centers=centers,
            sizes=sizes,
            keypoints=keypoints,
            visible=visible,
            scores=scores,
            areas=areas,
            skeleton=self.skeleton,
            preparer=preparer,
            augmentation=self.augmentation if drawn else None,
            photometric=self.photometric if drawn else None,
            reading=self.stated_reading,
            turned=turned,
        )

    def _unlabelled(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Key points of boxes that were not annotated."""
        return np.zeros((count, self.num_keypoints, 2)), np.zeros((count, self.num_keypoints))

    def ground_truth(self, split: Split) -> dict[str, list]:
        """The COCO dict of a split for the metric, crowds and unlabelled persons included, all in category 1."""
        if self.overfit is not None:
            table = self.accepted("train", self.persons("train"))
            truth = table.to_coco(self.skeleton)
            return truth | {"annotations": [truth["annotations"][row] for row in table.usable()[: self.overfit]]}
        split = self.test_split if split == "test" else split
        table = self._evaluated.get(split) or self.accepted(split, self.persons(split))
        return table.to_coco(self.skeleton)

    def evaluated_on(self, boxes: FoundBoxes) -> Self:
        """The same data, evaluated on boxes that a network has just found rather than on annotated ones."""
        data = self.unread()
        data._boxes, data._evaluated = boxes, {}
        return data

    def distributions(self, split: Split) -> Iterator[Distribution]:
        """Visibility of the key points, sizes and positions of the boxes, of those that are learned."""
        table, _ = self.loaded(split)
        noun = self.things or f"{table.noun}s"
        yield from table.distributions(table.usable()[: self.overfit], self.skeleton.names, noun)

    # ---- what may be wrong

    def require_fit(self, table: PersonTable) -> None:
        """Raise DataError where the persons have another number of key points than the skeleton."""
        count = table.keypoints.shape[1]
        if count != self.num_keypoints:
            raise DataError(
                f"{table.path}: the persons have {count} key points and the skeleton {self.num_keypoints}: set "
                "`skeleton` (coco, mpii or the path of a YAML file) to the one of these data."
            )

    def require_usable(self, split: Split, table: PersonTable) -> None:
        """Raise DataError where there is nobody to learn from, or to be evaluated by."""
        table.usable()

    def counted(self, split: Split, table: PersonTable) -> Iterator[Count]:
        """Labelled key points of each kind."""
        labelled = (table.visible > 0).sum(axis=0).tolist()
        yield Count(split, "labelled key points", Counter(dict(zip(self.skeleton.names, labelled, strict=True))))

    def other_findings(self, split: Split, table: PersonTable) -> Iterator[Fact]:
        """What is wrong with the detections."""
        if split == self.test_split and self.detections is not None:
            path = self.folder / self.detections
            try:
                yield from found_in(split, detections_in(path, table).defects)
            except DataError as error:
                yield Finding("unreadable data", split, str(path), str(error))

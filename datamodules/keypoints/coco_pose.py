"""COCO key points, one person a sample: the data of the paper's pose experiments (HRNet, section 4.1; Lin et al. 2014).

Serves any data in COCO's key-point format too: other points (`skeleton`), other folders (`annotations`, `images`),
several categories. The crop follows the official code; `crop: unit` is UDP's.

    data = CocoPose("data/coco", image_size=(256, 192))
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.base import BaseDataModule, DataError, Split
from datamodules.images.files import Reading
from datamodules.images.names import as_stored
from datamodules.images.orientation import Orientations, Tagged, find_tagged
from datamodules.keypoints.coco_annotations import CocoAnnotations
from datamodules.keypoints.coco_reader import read_annotations, read_detections
from datamodules.keypoints.crop import Crop, PersonAugmentation, PersonCrop
from datamodules.keypoints.persons import Persons
from datamodules.photometric import Photometric
from datamodules.sample import sample_coco
from datamodules.skeleton import Skeleton


class CocoPose(BaseDataModule):
    """COCO key points, or any data in that format.

    `test` is `val` unless `annotations` has an entry `test`.

    Args:
        root: Folder of the data set, or `sample` for the embedded data.
        image_size: (height, width) of the crop; the paper has (256, 192) and (384, 288).
        batch_size: Crops, one a person or other annotated thing, a batch and process.
        num_workers: Loader processes; None takes one per available core, at most 8.
        skeleton: What the key points are: `coco`, `mpii`, or the path of a YAML file.
        annotations: Annotation file of each split (train, val, test), relative to root; the others keep COCO's names.
        images: Image folder of each split, relative to root; the others are looked for where COCO has them.
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

    layout: ClassVar[str] = """\
    annotations/person_keypoints_train2017.json
    annotations/person_keypoints_val2017.json
    train2017/000000000009.jpg ...      (or images/train2017)
    val2017/000000000139.jpg ...        (or images/val2017)"""
    source: ClassVar[str] = "https://cocodataset.org/#download (2017 Train, Val and Train/Val annotations)."

    def __init__(
        self,
        root: str | Path,
        *,
        image_size: tuple[int, int] = (256, 192),
        batch_size: int = 32,
        num_workers: int | None = None,
        skeleton: str = "coco",
        annotations: dict[str, str] | None = None,
        images: dict[str, str] | None = None,
        detections: str | None = None,
        detection_threshold: float = 0.0,
        augmentation: PersonAugmentation | None = None,
        photometric: list[dict[str, Any]] | None = None,
        crop: Crop = "size",
        box_padding: float = 1.25,
        overfit: int | None = None,
        reading: Reading | None = None,
    ) -> None:
        super().__init__(root, image_size=image_size, batch_size=batch_size, num_workers=num_workers, overfit=overfit)
        self.skeleton = Skeleton.load(skeleton)
        self.num_keypoints = self.skeleton.num_keypoints
        self.annotations = {split: f"annotations/person_keypoints_{split}2017.json" for split in ("train", "val")}
        self.annotations |= _by_split(annotations, "annotations")
        self.images = _by_split(images, "images")
        self.test_split = "test" if "test" in self.annotations else "val"
        self.detections, self.detection_threshold = detections, detection_threshold
        self.augmentation = augmentation or PersonAugmentation()
        self.photometric = None if not photometric else Photometric(photometric)
        if not 0 < box_padding < math.inf:
            raise DataError(f"box_padding is {box_padding}, expected a factor on the box's sides such as 1.25.")
        self.crop, self.box_padding = crop, box_padding
        self._evaluated: dict[str, CocoAnnotations] = {}
        self.stated_reading = (reading or Reading()).checked()
        splits = ("train", "val", *(("test",) if self.test_split == "test" else ()))
        self.orientations = Orientations(self.stated_reading.upright, self._tagged, splits)

    @classmethod
    def sample_root(cls) -> Path:
        """Render the embedded persons if they are absent, and return their folder."""
        return sample_coco()

    @property
    def reading(self) -> Reading:
        """How image files are read, with what the annotated sizes say of their orientation."""
        return replace(self.stated_reading, upright=self.orientations.upright)

    @property
    def preparer(self) -> PersonCrop:
        """The crop of an evaluated box."""
        return PersonCrop(self.image_size, self.reading, self.crop, self.box_padding)

    def dataset(self, split: Split) -> Persons:
        """Read and check the annotations of `split`; raises DataError where they or the images are not as expected.

        Detected boxes have no key points: their `visible` is 0.
        """
        training = split == "train"
        annotations = self._spelled_as_stored(self._read(split), self.image_folder(split))
        if not training:
            self._evaluated[split] = annotations
        if training or self.detections is None:
            rows = annotations.usable()
            images, instance_ids = annotations.images[rows], annotations.ids[rows]
            boxes, scores = annotations.clean_boxes()[rows], np.ones(len(rows))
            keypoints, visible = annotations.keypoints[rows], annotations.visible[rows]
        else:
            found = read_detections(self.folder / self.detections, annotations, self.detection_threshold)
            images, instance_ids, boxes, scores = found.images, found.rows, found.boxes, found.scores
            keypoints = np.zeros((len(boxes), self.num_keypoints, 2))
            visible = np.zeros((len(boxes), self.num_keypoints))
        preparer = self.preparer
        centers, sizes = preparer.padded(boxes)
        return Persons(
            self.image_folder(split),
            image_ids=annotations.image_ids,
            file_names=annotations.file_names,
            image_sizes=annotations.image_sizes,
            images=images,
            instance_ids=instance_ids,
            centers=centers,
            sizes=sizes,
            keypoints=keypoints,
            visible=visible,
            scores=scores,
            skeleton=self.skeleton,
            preparer=preparer,
            augmentation=self.augmentation if training and not self.overfit else None,
            photometric=self.photometric if training and not self.overfit else None,
            reading=self.stated_reading,
            turned=self.orientations.turned(split, self._tagged(split, annotations)),
        )

    def ground_truth(self, split: Split) -> dict[str, list]:
        """The COCO dict of a split for the metric, crowds and unlabelled persons included, all in category 1."""
        if self.overfit is not None:
            annotations = self._read("train")
            truth = annotations.to_coco(self.skeleton)
            return truth | {"annotations": [truth["annotations"][row] for row in annotations.usable()[: self.overfit]]}
        split = self.test_split if split == "test" else split
        annotations = self._evaluated.get(split) or self._read(split)
        return annotations.to_coco(self.skeleton)

    def _read(self, split: Split) -> CocoAnnotations:
        path = self.folder / self.annotations[split]
        if not path.is_file():
            raise DataError(
                f"{type(self).__name__} found no {path}. Expected below {self.folder}:\n{self.layout}\nor set "
                f"`annotations: {{{split}: FILE}}`. The data come from {self.source}"
            )
        return read_annotations(path, self.skeleton)

    def _spelled_as_stored(self, annotations: CocoAnnotations, folder: Path) -> CocoAnnotations:
        """The annotations with the names that their files have, and a word where these differ."""
        names = annotations.file_names.tolist()
        stored = as_stored(folder, names)
        if not stored:
            return annotations
        first = next(iter(stored))
        rank_zero_warn(
            f"{annotations.path} spells {len(stored)} of {len(names)} images otherwise than {folder} does, the first "
            f"{first!r} for {stored[first]!r}; these are taken."
        )
        return replace(annotations, file_names=np.array([stored.get(name, name) for name in names]))

    def _tagged(self, split: Split, annotations: CocoAnnotations | None = None) -> list[Tagged]:
        folder = self.image_folder(split)
        annotations = annotations or self._spelled_as_stored(self._read(split), folder)
        paths = [folder / name for name in annotations.file_names.tolist()]
        sizes = [tuple(size) for size in annotations.image_sizes.tolist()]
        return find_tagged(paths, sizes.__getitem__, self.stated_reading.pixel_limit)

    def image_folder(self, split: Split) -> Path:
        """Folder of the images of `split`; raises DataError if there is none."""
        names = (self.images[split],) if split in self.images else (f"{split}2017", f"images/{split}2017")
        for name in names:
            if (self.folder / name).is_dir():
                return self.folder / name
        raise DataError(
            f"{type(self).__name__} found no image folder {' or '.join(names)} in {self.folder}: set "
            f"`images: {{{split}: FOLDER}}`, relative to root."
        )


def _by_split(paths: dict[str, str] | None, key: str) -> dict[str, str]:
    unknown = sorted(set(paths or ()) - {"train", "val", "test"})
    if unknown:
        raise DataError(f"`{key}` has the entries {unknown}: expected some of train, val, test.")
    return dict(paths or {})

"""Pictures in a folder a class: ImageNet (TPAMI 2020, appendix; Russakovsky et al. 2015) and your own.

data = ImageNet("data/imagenet", image_size=(224, 224), batch_size=64)
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from datamodules.base import BaseDataModule
from datamodules.classification.samples import CentreCrop, LabelledImages, TrainingView
from datamodules.findings import Count, DataError, Fact, Finding, Mode, Split
from datamodules.images.files import Reading, images_below, is_image, read_header
from datamodules.images.looking import Seen, files_left_out, look
from datamodules.loading.dataset import in_threads
from datamodules.loading.distributions import Bars, Distribution, Histogram, evenly, some
from datamodules.loading.text_files import ConfigError, read_text
from datamodules.sample.layouts import sample_image_folder, sample_imagenet

SIZED = 2000
"""Images of a split whose heads are read for a plot, at most."""


class ImageFolder(BaseDataModule):
    """Images in a folder a class, and in its folders; `train` names the classes, in the order of their names.

    Training draws a crop of 8 to 100 % of the area with aspect 3/4 to 4/3, resized, and mirrors every other one;
    evaluation resizes (short side 256 for 224) and takes the centre crop, both as published.

    Args:
        root: Folder with train/ and val/, or images/train and images/val, or `sample` for the embedded data.
        image_size: (height, width) of the images, pixels.
        batch_size: Samples a batch and process.
        num_workers: Loader processes; None takes one per available core, at most 8.
        overfit: Train and evaluate on the first so many training samples, without augmentation.
        crop_ratio: Share of the resized image that the evaluated centre crop covers; 224/256 as published.
        rand_augment: timm's description of RandAugment, such as rand-m9-mstd0.5; None for none, as published.
        random_erasing: Probability that a rectangle of a training image becomes noise.
        reading: How image files become pixels: orientation, depth, largest size. A class is of the picture as it is
            shown, so images are turned as EXIF says; the published ImageNet figures are of stored pixels, which differ
            in few images: `upright: false`.
    """

    layout: ClassVar[str] = """\
    train/<class>/<any name>.jpg ...     (or images/train/<class>)
    val/<class>/<any name>.jpg ...       (or images/val/<class>)"""
    source: ClassVar[str] = "you: images in a folder for each class."
    embedded = staticmethod(sample_image_folder)

    def __init__(
        self,
        root: str | Path,
        *,
        image_size: tuple[int, int] = (224, 224),
        batch_size: int = 32,
        num_workers: int | None = None,
        overfit: int | None = None,
        crop_ratio: float = 0.875,
        rand_augment: str | None = None,
        random_erasing: float = 0.0,
        reading: Reading | None = None,
    ) -> None:
        reading = reading or Reading()
        reading = replace(reading, upright=reading.upright is not False)
        shared = {"batch_size": batch_size, "num_workers": num_workers, "overfit": overfit, "reading": reading}
        super().__init__(root, image_size=image_size, **shared)
        if not (0 < crop_ratio <= 1 and 0 <= random_erasing <= 1):
            raise DataError(f"crop_ratio {crop_ratio} must be in (0, 1], random_erasing {random_erasing} in [0, 1].")
        self.crop_ratio, self.rand_augment, self.random_erasing = crop_ratio, rand_augment, random_erasing
        self._folders: list[str] | None = None

    @property
    def folders(self) -> list[str]:
        """Names of the class folders of `train`, sorted: the position is the class."""
        if self._folders is None:
            found = subfolders(self.split_folder("train"))
            if len(found) < 2:
                raise DataError(
                    f"{self.split_folder('train')} has {len(found)} class folders, expected two or more:\n{self.layout}"
                )
            self._folders = found
        return self._folders

    @property
    def class_names(self) -> list[str]:
        """Names of the classes."""
        return self.folders

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def preparer(self) -> CentreCrop:
        """The crop of an evaluated image."""
        return CentreCrop(self.image_size, self.reading, self.crop_ratio)

    def dataset(self, split: Split) -> LabelledImages:
        """List the images of `split`; raises DataError for classes without images or unknown to `train`."""
        folder, known, classes = self.split_folder(split), self.folders, self._files(split)
        unknown = [name for name in classes if name not in set(known)]
        if unknown:
            raise DataError(
                f"{folder} has the class folders {unknown[:5]}, which `train` lacks: rename or remove them."
            )
        found = [(label, name, classes.get(name, [])) for label, name in enumerate(known)]
        empty = [name for _, name, files in found if not files]
        if len(empty) == len(known):
            raise DataError(f"{folder} has no images in class folders such as {known[0]}. Expected:\n{self.layout}")
        if empty and split == "train":
            raise DataError(f"{folder} has no images of the classes {empty[:5]}: add some, or remove the folders.")
        files = [os.fsencode(os.path.join(name, file)) for _, name, files in found for file in files]
        labels = np.repeat([label for label, _, _ in found], [len(files) for _, _, files in found]).astype(np.int64)
        files = np.array(files)
        if split != "train":  # the first batch, of which pictures are drawn, has many classes
            order = np.argsort(np.concatenate([np.arange(len(files)) for _, _, files in found]), kind="stable")
            files, labels = files[order], labels[order]
        view = None
        if split == "train" and not self.overfit:
            view = TrainingView(self.image_size, self.rand_augment, self.random_erasing)
        return LabelledImages(folder, files, labels, preparer=self.preparer, view=view, reading=self.reading)

    def split_folder(self, split: str) -> Path:
        """Folder of `split`, which has the class folders; raises DataError if there is none."""
        return self.existing("image", split, f"images/{split}")

    def findings(self, split: Split, images: Mode = "full") -> Iterator[Fact]:
        """Images that cannot be read or are of two classes or none, and folders that `train` does not have."""
        try:
            folder = self.split_folder(split)
        except DataError as error:
            yield Finding("unreadable data", split, str(self.folder / split), str(error))
            return
        for file in sorted(file for file in folder.iterdir() if is_image(file.name) and file.is_file()):
            yield Finding("file outside of the class folders", split, str(file), "has no class")
        classes = self._files(split)
        try:
            known = self.folders
        except DataError as error:  # no `train`, or not as many classes as there should be
            known = list(classes)
            if split == "train":
                yield Finding("refused by the loader", split, str(folder), str(error))
        for name in classes:
            if name not in known:
                yield Finding("unknown class folder", split, str(folder / name), "train has no folder of this name")
        counts = Counter({name: len(files) for name, files in classes.items()})
        yield Count(split, "images", counts, known, "image", required=True)
        paths = [folder / name / file for name, files in classes.items() for file in files]
        yield Count(split, None, Counter(images=len(paths)))
        look_at = partial(look, size=None, mode=images, reading=self.reading, split=split)
        seen = in_threads(look_at, paths, f"images of {split}")
        yield from seen
        yield from files_left_out(split, [folder])
        yield from _of_two_classes(folder, seen)

    def distributions(self, split: Split) -> Iterator[Distribution]:
        """Images of each class, and sizes and shapes of some of them, evenly spaced over the classes."""
        classes, folder = self._files(split), self.split_folder(split)
        files = [(name, file) for name in self.folders for file in classes.get(name, [])][: self.overfit]
        counts = Counter(name for name, _ in files)
        found = [counts[name] for name in self.folders]
        names = self.class_names[: len(found)]
        yield Bars("images of each class", some(len(files), "images"), names, found, "images")
        paths = [folder / name / file for name, file in (files[row] for row in evenly(len(files), SIZED))]
        headers = in_threads(partial(read_header, limit=self.reading.pixel_limit), paths, f"sizes of {split}")
        sizes = np.array([header.shown if self.reading.upright else header.size for header in headers])
        of = some(len(paths), "images", len(files))
        yield Histogram("sizes of images", of, sizes.max(axis=1), "longer side, pixels", "images")
        yield Histogram("shapes of images", of, sizes[:, 1] / sizes[:, 0], "width / height", "images")

    def _files(self, split: Split) -> dict[str, list[str]]:
        """The files of each class folder of a split, relative to it."""
        folder = self.split_folder(split)
        return {name: images_below(folder / name) for name in subfolders(folder)}


class ImageNet(ImageFolder):
    """ILSVRC 2012 in synset folders: 1,281,167 train and 50,000 val images; classes in the order of the synsets.

    Args:
        root: Folder with train/ and val/, or images/train and images/val, or `sample` for the embedded data.
        num_classes: Classes of the model; a root with another number of folders is refused. The embedded data have
            fewer folders, which are the first classes.
        **kwargs: Size, augmentation, loaders: see `ImageFolder`.
    """

    layout: ClassVar[str] = """\
    train/n01440764/n01440764_10026.JPEG ...          (or images/train/...)
    val/n01440764/ILSVRC2012_val_00000293.JPEG ...    (or images/val/..., in synset folders too)"""
    source: ClassVar[str] = "https://image-net.org (ILSVRC 2012: train and val images)."
    embedded = staticmethod(sample_imagenet)

    def __init__(self, root: str | Path, *, num_classes: int = 1000, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self._num_classes = num_classes

    @property
    def folders(self) -> list[str]:
        """Names of the synset folders, sorted."""
        folders = super().folders
        if len(folders) != self._num_classes and str(self.root) != "sample":
            raise DataError(
                f"{self.split_folder('train')} has {len(folders)} synset folders, expected {self._num_classes}: "
                "complete them, or set num_classes of data and model."
            )
        return folders

    @property
    def class_names(self) -> list[str]:
        """Names of the synsets, from LOC_synset_mapping.txt where root has it; `unused` beyond the embedded ones."""
        from timm.data import ImageNetInfo

        names, file = {}, self.folder / "LOC_synset_mapping.txt"
        if file.is_file():
            names = dict(line.split(maxsplit=1) for line in _lines(file) if " " in line)
        else:
            info = ImageNetInfo()
            names = {synset: info.label_name_to_description(synset, False) for synset in info.label_names()}
        known = [names.get(synset, synset) for synset in self.folders]
        return [*known, *(f"unused {label}" for label in range(len(known), self._num_classes))]


def _lines(file: Path) -> list[str]:
    try:
        return read_text(file).splitlines()
    except ConfigError as error:
        raise DataError(f"The names of the classes cannot be read. {error}") from error


def _of_two_classes(folder: Path, seen: Sequence[Seen]) -> Iterator[Finding]:
    """Decoded images that are in the folders of two classes."""
    places: dict[str, list[Seen]] = defaultdict(list)
    for image in seen:
        if image.is_decoded:
            places[image.fingerprint].append(image)
    for first, *others in places.values():
        for other in others:
            if other.path.relative_to(folder).parts[0] != first.path.relative_to(folder).parts[0]:
                found = f"is the same picture as {first.path}"
                yield Finding("one image, two classes", other.split, str(other.path), found)


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in `folder`, sorted."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))

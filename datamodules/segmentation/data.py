"""What all segmentation data sets share: scale, crop and evaluation size, loaders, and what may be wrong with masks.

A data set is a `SegmentationData` that says which files are a split's and what their ids mean (`pairs`).
"""

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from datamodules.base import BaseDataModule
from datamodules.findings import Count, DataError, Fact, Finding, Mode, Note, Split
from datamodules.images.files import Reading
from datamodules.images.looking import Seen, files_left_out, look
from datamodules.images.orientation import Tagged, find_tagged
from datamodules.images.photometric import Photometric
from datamodules.loading.dataset import BaseDataset, in_threads
from datamodules.loading.distributions import Bars, Distribution, Histogram, evenly, some
from datamodules.segmentation.masks import IGNORED, IndexMasks, UnknownLabels, mask_size
from datamodules.segmentation.pairs import MASK_ENDINGS, Pairs, Unpaired
from datamodules.segmentation.samples import Evaluation, EvaluationSize, ImageMasks

COUNTED = 200
"""Masks of a split whose pixels are counted for a plot, at most."""


class ClassLabels(NamedTuple):
    """The classes of a published data set, in the order of their labels."""

    names: list[str]
    palette: list[tuple[int, int, int]]  # r, g, b from 0 to 255
    flip_pairs: list[tuple[int, int]]  # those that exchange when the image is mirrored


def class_labels(name: str) -> ClassLabels:
    """The classes of `<name>.yaml` beside this file, which the tasks read too: published checkpoints mean the same."""
    content = yaml.safe_load(Path(__file__).with_name(f"{name}.yaml").read_text(encoding="utf-8"))
    palette, pairs = ([tuple(row) for row in content[key]] for key in ("palette", "flip_pairs"))
    return ClassLabels(content["names"], palette, pairs)


class SegmentationData(BaseDataModule):
    """Images with a class for every pixel.

    Samples that are evaluated come one a batch where the images of the split differ in size, or their masks do.
    Missing folders, files without a partner and, in evaluation, masks of another size are found at the start; ids that
    are no class, and masks of another size in training, when the file is read.

    Args:
        root: Folder of the data set, or `sample` for the embedded data.
        image_size: (height, width) of the training crop, pixels.
        batch_size: Samples a batch and process.
        num_workers: Loader processes; None takes one per available core, at most 8.
        overfit: Train and evaluate on the first so many training samples, without augmentation.
        base_scale: Longer side of a training image at scale 1, in lengths of the crop's longer side: 2 on Cityscapes,
            whose images are 2048 wide and crops 1024.
        scale: Lowest and highest random scale, in steps of 0.1.
        evaluation: Size of the images that are evaluated: `original`; `long` or `short` side brought to `base_scale`
            crop lengths; or `stretch` to `image_size`. Masks keep their size: predictions are resized to them.
        photometric: albumentations transforms of the training crops, such as [{name: ColorJitter, p: 0.5}]; the
            published runs have none.
        reading: How image files become pixels: orientation, depth, largest size. Masks are read as stored.
    """

    class_names: list[str]
    palette: list[tuple[int, int, int]]
    label_flip_pairs: list[tuple[int, int]]
    stretched = False
    """Whether training too begins with stretching the image to `image_size`."""
    named_by_user = False
    """Whether the user named the classes, so that one that no mask has is a mistake; official data may be subsets."""

    def __init__(
        self,
        root: str | Path,
        *,
        image_size: tuple[int, int],
        batch_size: int = 8,
        num_workers: int | None = None,
        overfit: int | None = None,
        base_scale: float = 1.0,
        scale: tuple[float, float] = (0.5, 2.1),
        evaluation: Evaluation = "original",
        photometric: list[dict[str, Any]] | None = None,
        reading: Reading | None = None,
    ) -> None:
        shared = {"batch_size": batch_size, "num_workers": num_workers, "overfit": overfit, "reading": reading}
        super().__init__(root, image_size=image_size, **shared)
        if base_scale <= 0 or not 0 < scale[0] <= scale[1]:
            raise DataError(
                f"base_scale {base_scale} and scale {tuple(scale)} must be positive, the lowest scale first."
            )
        self.base_scale, self.scale, self.evaluation = base_scale, tuple(scale), evaluation
        self.photometric = None if not photometric else Photometric(photometric)

    @property
    def preparer(self) -> EvaluationSize:
        """The size of an evaluated image."""
        return EvaluationSize(self.image_size, self.reading, self.evaluation, self.base_scale)

    @property
    def num_classes(self) -> int:
        """How many classes the masks have."""
        return len(self.class_names)

    def index_masks(self, table: np.ndarray) -> IndexMasks:
        """The reader of masks of one id a pixel, whose classes are in `table`, see `lookup`."""
        return IndexMasks(table, self.class_names, self.stated_reading.pixel_limit)

    @abstractmethod
    def pairs(self, split: Split) -> Pairs:
        """Images of a split, their masks, and the reader of the masks."""

    def dataset(self, split: Split) -> ImageMasks:
        """Pair and check the files of `split`; raises DataError where they are not as expected."""
        from datamodules.segmentation.crop import RandomCrop  # albumentations takes half a second to import

        images, masks, read_labels = self.pairs(split)
        options: dict[str, Any] = {"preparer": self.preparer}
        if split == "train":
            options["augmentation"] = RandomCrop(
                self.image_size,
                max(1, round(self.base_scale * max(self.image_size))),
                self.scale,
                stretch=self.stretched,
                flip_pairs=self.label_flip_pairs,
                draw=not self.overfit,
            )
            options["photometric"] = None if self.overfit else self.photometric
        options["turned"] = self.orientations.turned(split, self.tagged(split, (images, masks, read_labels)))
        return ImageMasks(images, masks, read_labels=read_labels, reading=self.stated_reading, **options)

    def tagged(self, split: Split, pairs: Pairs | None = None) -> list[Tagged]:
        """The images that carry an EXIF orientation, whose masks' sizes tell whether to turn them."""
        images, masks, _ = pairs or self.pairs(split)
        limit = self.stated_reading.pixel_limit
        return find_tagged(images, lambda row: mask_size(masks[row], limit), limit)

    def stacks(self, dataset: BaseDataset) -> bool:
        """Not where images differ in size."""
        return not (isinstance(dataset, ImageMasks) and dataset.sizes_vary)

    def findings(self, split: Split, images: Mode = "full") -> Iterator[Fact]:
        """Images and masks without a partner, of another size, that cannot be read, and labels that are no class.

        Only `full` looks for labels.
        """
        try:
            pairs, problems, advice = self._complete(split)
        except DataError as error:
            yield Finding("unreadable data", split, str(self.folder), str(error))
            return
        for kind, path in problems:
            found = "another file has its name" if kind == "ambiguous name" else "is not there"
            yield Finding(kind, split, str(path), found)
        if advice:
            yield Note(split, advice)
        for mask in self._lonely_masks(split, pairs):
            yield Finding("mask without image", split, str(mask), "no image has its name")
        files, total = list(zip(*pairs[:2], strict=True)), np.zeros(IGNORED + 1, np.int64)
        yield Count(split, None, Counter(images=len(files), masks=len(files)))
        look_at = _Look(split, pairs[2], images, self.stated_reading)
        for seen, defects, counts in in_threads(look_at, files, f"images and masks of {split}"):
            yield seen
            yield from defects
            total += counts
        yield from files_left_out(split, _uppermost([file.parent for pair in files for file in pair]), MASK_ENDINGS)
        if images == "full":
            pixels = Counter(dict(zip(self.class_names, total.tolist(), strict=False)))
            if total[IGNORED]:
                pixels["(ignored)"] = int(total[IGNORED])
            yield Count(split, "pixels", pixels, self.class_names, "pixel", self.named_by_user)

    def distributions(self, split: Split) -> Iterator[Distribution]:
        """Pixels of each class, images that have it, and sizes of the images, of masks evenly spaced over the split."""
        _, masks, read_labels = self.pairs(split)
        masks = masks[: self.overfit]
        chosen = [masks[row] for row in evenly(len(masks), COUNTED)]

        def look_at(mask: Path) -> tuple[np.ndarray, tuple[int, ...]]:
            labels = read_labels(mask)
            return np.bincount(labels.ravel(), minlength=IGNORED + 1), labels.shape

        counts, shapes = map(np.array, zip(*in_threads(look_at, chosen, f"masks of {split}"), strict=True))
        labels = [*range(self.num_classes), *([IGNORED] if counts[:, IGNORED].any() else [])]
        names = [*self.class_names, "(ignored)"][: len(labels)]
        of, counts = some(len(chosen), "masks", len(masks)), counts[:, labels]
        shares = counts.sum(axis=0) / max(1, counts.sum())
        yield Bars("pixels of each class", of, names, shares.tolist(), "share of the pixels")
        yield Bars("images with the class", of, names, np.count_nonzero(counts, axis=0).tolist(), "images")
        yield Histogram("sizes of images", of, shapes.max(axis=1), "longer side, pixels", "images")

    def _complete(self, split: Split) -> tuple[Pairs, list[tuple[str, Path]], str]:
        """The pairs of a split that are complete, what is wrong with the other files, and what might help them all."""
        try:
            return self.pairs(split), [], ""
        except Unpaired as error:
            return error.pairs, error.problems, error.advice

    def _lonely_masks(self, split: Split, pairs: Pairs) -> list[Path]:
        """Masks that no split has an image for, unless the splits are chosen from the images of a larger folder."""
        complete = {split: pairs}
        for other in self.split_names:
            with suppress(DataError):  # of another split, which says so itself
                complete.setdefault(other, self._complete(other)[0])
        used_images, used_masks = ({file for found in complete.values() for file in found[side]} for side in (0, 1))
        images, masks, _ = pairs
        if not images or not _files({image.parent for image in images}, "") <= used_images:
            return []
        letters = zip(images[0].stem, masks[0].stem, strict=False)
        tail = masks[0].name[sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], letters)) :]
        earlier = [complete[other][1] for other in takewhile(split.__ne__, self.split_names) if other in complete]
        folders = {mask.parent for mask in masks} - {mask.parent for found in earlier for mask in found}
        return sorted(_files(folders, tail) - used_masks)


@dataclass(frozen=True)
class _Look:
    """Looks at an image and its mask.

    Args:
        split: Split that both are of.
        read_labels: Mask file -> classes (H, W) uint8, 255 ignored.
        mode: How far to read.
        reading: How the images become pixels.
    """

    split: Split
    read_labels: Callable[[Path], np.ndarray]
    mode: Mode
    reading: Reading

    def __call__(self, files: tuple[Path, Path]) -> tuple[Seen, list[Finding], np.ndarray]:
        """The image, what is wrong with the mask, and how many pixels each class has (256,)."""
        (image, mask), defects = files, []
        seen = look(image, None, self.mode, self.reading, split=self.split)
        counts, size = np.zeros(IGNORED + 1, np.int64), None
        try:
            if self.mode == "full":
                labels = self.read_labels(mask)
                counts, size = np.bincount(labels.ravel(), minlength=IGNORED + 1), labels.shape
            elif self.mode == "headers" and mask.suffix != ".mat":
                size = mask_size(mask, self.reading.pixel_limit)
        except UnknownLabels as error:
            size = mask_size(mask, self.reading.pixel_limit)
            defects.append(Finding("unknown label", self.split, str(mask), str(error)))
        except Exception as error:  # whatever a decoder says about a damaged file is a finding; the others are read
            defects.append(Finding("unreadable mask", self.split, str(mask), str(error) or type(error).__name__))
        if size is not None and seen.header is not None and not seen.may_be(size, self.reading.upright):
            found = f"has {size[0]} x {size[1]} pixels (height x width), its image {seen.size[0]} x {seen.size[1]}"
            defects.append(Finding("mask of another size", self.split, str(mask), found))
        return replace(seen, annotated=size), defects, counts


def _files(folders: set[Path], tail: str) -> set[Path]:
    """Images and masks in the folders whose names end with `tail`."""
    files = (file for folder in folders for file in folder.iterdir() if file.suffix.lower() in MASK_ENDINGS)
    return {file for file in files if file.name.endswith(tail) and not file.name.startswith(".")}


def _uppermost(folders: list[Path]) -> list[Path]:
    """Those of the folders that are in no other one of them."""
    return [folder for folder in sorted(set(folders)) if not set(folder.parents) & set(folders)]

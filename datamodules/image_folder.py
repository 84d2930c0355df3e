"""Pictures in a folder a class: ImageNet (TPAMI 2020, appendix; Russakovsky et al. 2015) and your own.

data = ImageNet("data/imagenet", image_size=(224, 224), batch_size=64)
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from datamodules.base import BaseDataModule, BaseDataset, DataError, Split
from datamodules.images import read_image
from datamodules.sample_layouts import sample_image_folder, sample_imagenet

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")
IMAGENET_MEAN = (124, 116, 104)  # the grey that RandAugment fills with


class TrainingView:
    """Random resized crop and mirror, then optionally RandAugment and random erasing.

    Args:
        image_size: (height, width) of the result, pixels.
        rand_augment: timm's description of RandAugment, such as rand-m9-mstd0.5.
        random_erasing: Probability that a rectangle of 2 to 33 % becomes noise.
    """

    def __init__(self, image_size: tuple[int, int], rand_augment: str | None, random_erasing: float) -> None:
        import albumentations as A  # half a second

        self._crop = A.Compose([A.RandomResizedCrop(image_size, area_for_downscale="image"), A.HorizontalFlip()])
        self._erase = A.Compose([A.Erasing(fill="random", p=random_erasing)]) if random_erasing else None
        self._augment = None
        if rand_augment is not None:
            from timm.data.auto_augment import rand_augment_transform

            hparams = {"translate_const": int(0.45 * min(image_size)), "img_mean": IMAGENET_MEAN}
            try:
                self._augment = rand_augment_transform(rand_augment, hparams)
            except (AssertionError, KeyError, ValueError) as error:
                raise DataError(
                    f"timm does not understand rand_augment {rand_augment!r} ({error}): write rand-m9-mstd0.5, say."
                ) from error

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(H, W, 3) uint8 -> the same of `image_size`."""
        self._crop.set_random_seed(int(rng.integers(2**31)))
        image = self._crop(image=image)["image"]
        if self._augment is not None:
            with _global_draws(int(rng.integers(2**31))):
                image = np.array(self._augment(Image.fromarray(image)))
        if self._erase is not None:
            self._erase.set_random_seed(int(rng.integers(2**31)))
            image = self._erase(image=image)["image"]
        return image


class LabelledImages(BaseDataset):
    """N images of C classes.

    Args:
        folder: Folder that has a folder for each class.
        files: (N,) file names below it, as bytes, in order of the classes.
        labels: (N,) classes.
        image_size: (height, width) of the images, pixels.
        crop_ratio: Share of the resized image that the evaluated centre crop covers.
        view: Augmentation; None takes the centre crop.
    """

    def __init__(
        self,
        folder: Path,
        files: np.ndarray,
        labels: np.ndarray,
        *,
        image_size: tuple[int, int],
        crop_ratio: float,
        view: TrainingView | None,
    ) -> None:
        self.folder, self.files, self.labels = str(folder), files, labels
        self.image_size, self.crop_ratio, self.view = image_size, crop_ratio, view

    def __len__(self) -> int:
        return len(self.files)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """One image and its class, in the keys of the batch table."""
        image = read_image(os.path.join(self.folder, os.fsdecode(self.files[index])))
        image = centre_crop(image, self.image_size, self.crop_ratio) if self.view is None else self.view(image, rng)
        return {"image": np.ascontiguousarray(image), "image_id": index, "label": self.labels[index]}


class ImageFolder(BaseDataModule):
    """Images in a folder a class; `train` names the classes, in the order of their names.

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
    """

    layout: ClassVar[str] = """\
    train/<class>/<any name>.jpg ...     (or images/train/<class>)
    val/<class>/<any name>.jpg ...       (or images/val/<class>)"""
    source: ClassVar[str] = "you: images in a folder for each class."

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
    ) -> None:
        super().__init__(root, image_size=image_size, batch_size=batch_size, num_workers=num_workers, overfit=overfit)
        if not (0 < crop_ratio <= 1 and 0 <= random_erasing <= 1):
            raise DataError(f"crop_ratio {crop_ratio} must be in (0, 1], random_erasing {random_erasing} in [0, 1].")
        self.crop_ratio, self.rand_augment, self.random_erasing = crop_ratio, rand_augment, random_erasing
        self._folders: list[str] | None = None

    @classmethod
    def sample_root(cls) -> Path:
        """Cut the embedded pictures if they are absent, and return their folder."""
        return sample_image_folder()

    @property
    def folders(self) -> list[str]:
        """Names of the class folders of `train`, sorted: the position is the class."""
        if self._folders is None:
            self._folders = _subfolders(self._split_folder("train"))
            if len(self._folders) < 2:
                raise DataError(
                    f"{self._split_folder('train')} has {len(self._folders)} class folders, expected two or more:\n"
                    f"{self.layout}"
                )
        return self._folders

    @property
    def class_names(self) -> list[str]:
        """Names of the classes."""
        return self.folders

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    def dataset(self, split: Split) -> LabelledImages:
        """List the images of `split`; raises DataError for classes without images or unknown to `train`."""
        folder, known = self._split_folder(split), self.folders
        unknown = [name for name in _subfolders(folder) if name not in set(known)]
        if unknown:
            raise DataError(
                f"{folder} has the class folders {unknown[:5]}, which `train` lacks: rename or remove them."
            )
        found = [(label, name, _images(folder / name)) for label, name in enumerate(known)]
        empty = [name for _, name, files in found if not files]
        if len(empty) == len(known):
            raise DataError(f"{folder} has no images in class folders such as {known[0]}. Expected:\n{self.layout}")
        if empty and split == "train":
            raise DataError(f"{folder} has no images of the classes {empty[:5]}: add some, or remove the folders.")
        files = [os.fsencode(os.path.join(name, file)) for _, name, files in found for file in files]
        labels = np.repeat([label for label, _, _ in found], [len(files) for _, _, files in found]).astype(np.int64)
        view = None
        if split == "train" and not self.overfit:
            view = TrainingView(self.image_size, self.rand_augment, self.random_erasing)
        sizes = {"image_size": self.image_size, "crop_ratio": self.crop_ratio}
        return LabelledImages(folder, np.array(files), labels, view=view, **sizes)

    def _split_folder(self, split: str) -> Path:
        for name in (split, f"images/{split}"):
            if (self.folder / name).is_dir():
                return self.folder / name
        raise DataError(
            f"{type(self).__name__} found no folder {split} in {self.folder}. Expected there:\n{self.layout}\nThe data "
            f"come from {self.source}"
        )


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

    def __init__(self, root: str | Path, *, num_classes: int = 1000, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self._num_classes = num_classes

    @classmethod
    def sample_root(cls) -> Path:
        """Cut the embedded pictures if they are absent, and return their folder."""
        return sample_imagenet()

    @property
    def folders(self) -> list[str]:
        """Names of the synset folders, sorted."""
        folders = super().folders
        if len(folders) != self._num_classes and str(self.root) != "sample":
            raise DataError(
                f"{self._split_folder('train')} has {len(folders)} synset folders, expected {self._num_classes}: "
                "complete them, or set num_classes of data and model."
            )
        return folders

    @property
    def class_names(self) -> list[str]:
        """Names of the synsets, from LOC_synset_mapping.txt where root has it; `unused` beyond the embedded ones."""
        from timm.data import ImageNetInfo

        names, file = {}, self.folder / "LOC_synset_mapping.txt"
        if file.is_file():
            names = dict(line.split(maxsplit=1) for line in file.read_text().splitlines() if " " in line)
        else:
            info = ImageNetInfo()
            names = {synset: info.label_name_to_description(synset, False) for synset in info.label_names()}
        known = [names.get(synset, synset) for synset in self.folders]
        return [*known, *(f"unused {label}" for label in range(len(known), self._num_classes))]


def centre_crop(image: np.ndarray, size: tuple[int, int], ratio: float) -> np.ndarray:
    """Resize with anti-aliasing so that `size` (height, width) is `ratio` of the tighter side, and cut the middle.

    Image (H, W, 3) uint8 -> (height, width, 3) uint8.
    """
    factor = max(wanted / ratio / side for wanted, side in zip(size, image.shape[:2], strict=True))
    height, width = (max(wanted, round(factor * side)) for wanted, side in zip(size, image.shape[:2], strict=True))
    # Pillow's bilinear filter widens when it shrinks, as in the published evaluation; OpenCV's would alias.
    image = np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    top, left = round((height - size[0]) / 2), round((width - size[1]) / 2)
    return image[top : top + size[0], left : left + size[1]]


@contextmanager
def _global_draws(seed: int) -> Iterator[None]:
    """Seed the global generators, from which timm draws, and put them back afterwards."""
    before = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


def _subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.name.lower().endswith(SUFFIXES))

"""Your own images and masks: a folder of each, the classes in the YAML; nothing of it is from the paper.

data = FolderSegmentation("data/mine", class_names=["road", "car"], image_size=(512, 512))
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from datamodules.base import DataError, Split
from datamodules.sample.layouts import sample_folder_segmentation
from datamodules.segmentation.data import SegmentationData
from datamodules.segmentation.masks import IGNORED, ColourMasks, IndexMasks, lookup, voc_palette
from datamodules.segmentation.pairs import Pairs, match_files, read_stems


class FolderSegmentation(SegmentationData):
    """Folders of images and of masks with the same names; `test` is `val` unless it is named in `images` or `splits`.

    Args:
        root: Folder of the data set, or `sample` for the embedded data (body parts of rendered people).
        class_names: Names of the classes; the position is the class.
        image_size: (height, width) of the training crop, pixels.
        images: Image folder of each split, relative to root; images/train, images/val where not given, or, with
            `splits`, images.
        masks: Mask folder of each split, likewise masks/train, masks/val, or masks.
        splits: Text file of each split, relative to root, with the name of an image in every line; None takes all
            images of a split's folder.
        mask_suffix: What mask names have more than image names before the ending, such as _L.
        id_map: Class of each id in the masks, 255 to ignore it; None when the ids are the classes.
        ignore_label: Id that is ignored, unless id_map names it; further ones go into id_map.
        colour_masks: The masks are pictures in the colours of `palette`.
        palette: (r, g, b) of each class, in colour masks and in drawings; PASCAL VOC's where not given.
        ignore_colours: Colours that are ignored in colour masks.
        label_flip_pairs: Pairs of class names that exchange in a mirror, such as left and right arm.
        **kwargs: Scale, evaluation, loaders: see `SegmentationData`.

    Raises:
        DataError: names, colours or ids do not fit together.
    """

    layout: ClassVar[str] = """\
    images/train/a.jpg ...    images/val/b.jpg ...    (set `images` for other folders)
    masks/train/a.png ...     masks/val/b.png ...     (set `masks` for other folders)"""
    source: ClassVar[str] = "you: images, and PNG masks of the same names."
    embedded = staticmethod(sample_folder_segmentation)
    named_by_user = True

    def __init__(
        self,
        root: str | Path,
        *,
        class_names: list[str],
        image_size: tuple[int, int],
        images: dict[str, str] | None = None,
        masks: dict[str, str] | None = None,
        splits: dict[str, str] | None = None,
        mask_suffix: str = "",
        id_map: dict[int, int] | None = None,
        ignore_label: int = IGNORED,
        colour_masks: bool = False,
        palette: list[tuple[int, int, int]] | None = None,
        ignore_colours: list[tuple[int, int, int]] | None = None,
        label_flip_pairs: list[tuple[str, str]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, image_size=image_size, **kwargs)
        if not 1 < len(class_names) < IGNORED or len(set(class_names)) < len(class_names):
            raise DataError(f"class_names has {len(class_names)} entries: expected 2 to 254 different names.")
        if palette is not None and len(palette) != len(class_names):
            raise DataError(f"palette has {len(palette)} colours for {len(class_names)} classes: give one each.")
        if colour_masks and (palette is None or id_map is not None):
            raise DataError("colour_masks needs a palette with the colour of each class, and takes no id_map.")
        self.class_names = list(class_names)
        self.palette = [tuple(colour) for colour in palette or voc_palette(len(class_names))]
        self.label_flip_pairs = self._by_index(label_flip_pairs or [])
        self.images, self.masks, self.splits = images or {}, masks or {}, splits or {}
        unknown = sorted({*self.images, *self.masks, *self.splits} - {"train", "val", "test"})
        if unknown:
            raise DataError(f"images, masks or splits have the entries {unknown}: expected some of train, val, test.")
        self.test_split = "test" if "test" in {**self.images, **self.splits} else "val"
        self.mask_suffix = mask_suffix
        self.read_labels: ColourMasks | IndexMasks
        if colour_masks:
            self.read_labels = ColourMasks(self.palette, ignore_colours or (), self.stated_reading.pixel_limit)
        else:
            classes = {index: index for index in range(len(class_names))} if id_map is None else id_map
            if id_map is not None and ignore_label != IGNORED and id_map.get(ignore_label, IGNORED) != IGNORED:
                raise DataError(
                    f"The mask id {ignore_label} is both ignore_label and, by id_map, class {id_map[ignore_label]}: "
                    "take it out of one of them."
                )
            ignored = {} if id_map is not None and ignore_label in id_map else {ignore_label: IGNORED}
            table = lookup({**classes, **ignored}, len(class_names), max(256, *classes, ignore_label) + 1)
            self.read_labels = self.index_masks(table)

    def pairs(self, split: Split) -> Pairs:
        """Images, masks and reader of a split."""
        below = "" if self.splits else f"/{split}"
        images = self.existing("image", self.images.get(split, f"images{below}"))
        masks = self.existing("mask", self.masks.get(split, f"masks{below}"))
        stems = None
        if self.splits:
            if split not in self.splits:
                raise DataError(f"`splits` has no entry {split}: name its text file, relative to root.")
            stems = read_stems(self.folder / self.splits[split])
        return match_files(images, masks, self.read_labels, stems, mask_suffix=self.mask_suffix)

    def _by_index(self, pairs: Sequence[Sequence[str]]) -> list[tuple[int, int]]:
        unknown = sorted({name for pair in pairs for name in pair} - set(self.class_names))
        if unknown:
            raise DataError(f"label_flip_pairs names {unknown}, which class_names lacks: correct one of them.")
        return [(self.class_names.index(left), self.class_names.index(right)) for left, right in pairs]

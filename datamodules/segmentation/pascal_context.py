"""PASCAL-Context, 59 classes or 60 with background (Mottaghi et al. 2014; TPAMI 2020, Table 5).

data = PascalContext("data/VOCdevkit/VOC2010", num_classes=59)
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from datamodules.base import Split
from datamodules.sample.layouts import sample_pascal_context
from datamodules.segmentation.data import SegmentationData, class_labels
from datamodules.segmentation.masks import IGNORED, lookup
from datamodules.segmentation.pairs import Pairs, match_files, read_stems
from datamodules.segmentation.samples import Evaluation

# Of the data set's 459 categories, those of the protocol with 60; sorted, so that the position is the class.
IDS = (
    0, 2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159,
    162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397,
    415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip
CLASSES = class_labels("pascal_context")


class PascalContext(SegmentationData):
    """4,998 train and 5,105 val images of VOC 2010.

    With 59 classes the background is ignored, with 60 it is class 0. Evaluated with the long side at 520 (13/12 of a
    480 crop), which is where the published final test of the plain head begins. For its figures exactly (windows filled
    up with black, each scale from the original image) set `evaluation: original` here and `published_test:
    pascal_context` of the model; for those of the OCR head, trained on crops of 520 with `base_scale: 1`, `evaluation:
    short` and `published_test: pascal_context_ocr`. (During training the published code validates on images stretched
    to 480 x 480.)

    Args:
        root: Folder VOC2010, or one with VOCdevkit/VOC2010 in it, or `sample`.
        num_classes: 59 or 60.
        image_size: (height, width) of the training crop, pixels.
        base_scale: How large a training image is at scale 1: its longer side, in lengths of the crop's. 13/12 makes it
            520 pixels for the published crops of 480.
        evaluation: How large images are evaluated: `original`; `long` or `short` side brought to `base_scale` crop
            lengths; or `stretch` to `image_size`. Predictions are resized to the masks.
        masks: Folder of the masks; `trainval` for the original .mat files.
        ids: What the masks hold: `60`, the position in the protocol's list, or `459`, the original ids (.mat files or
            16-bit PNG), of which those outside the list are background.
        **kwargs: Loaders: see `SegmentationData`.
    """

    layout: ClassVar[str] = """\
    JPEGImages/2008_000002.jpg ...
    SegmentationClassContext/2008_000002.png ...     (or `masks: trainval`, `ids: 459` for the original .mat files)
    ImageSets/SegmentationContext/{train,val}.txt"""
    source: ClassVar[str] = (
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2010 (images) and https://cs.stanford.edu/~roozbeh/pascal-context "
        "(labels of 459 ids)."
    )
    embedded = staticmethod(sample_pascal_context)
    label_flip_pairs = CLASSES.flip_pairs

    def __init__(
        self,
        root: str | Path,
        *,
        num_classes: Literal[59, 60] = 59,
        image_size: tuple[int, int] = (480, 480),
        base_scale: float = 520 / 480,
        evaluation: Evaluation = "long",
        masks: str = "SegmentationClassContext",
        ids: Literal[60, 459] = 60,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, image_size=image_size, base_scale=base_scale, evaluation=evaluation, **kwargs)
        first = 60 - num_classes
        self.class_names, self.palette = CLASSES.names[first:], CLASSES.palette[first:]
        self.masks, self.table = masks, id_table(num_classes, ids)

    def pairs(self, split: Split) -> Pairs:
        """Images, masks and reader of a split."""
        images = self.existing("image", "JPEGImages", "VOCdevkit/VOC2010/JPEGImages")
        masks = self.existing("mask", str((images.parent / self.masks).relative_to(self.folder)))
        stems = read_stems(images.parent / "ImageSets" / "SegmentationContext" / f"{split}.txt")
        return match_files(images, masks, self.index_masks(self.table), stems)


def id_table(num_classes: Literal[59, 60], ids: Literal[60, 459]) -> np.ndarray:
    """Table from mask ids to classes, (256,) for positions in the list of 60 or (460,) for the original ids."""
    background = 0 if num_classes == 60 else IGNORED
    classes = {index: index - (60 - num_classes) for index in range(1, 60)} | {0: background}
    if ids == 60:
        return lookup({**classes, 255: IGNORED}, num_classes)
    # 255 is a category here; every id outside the list is background.
    original = dict.fromkeys(range(460), background) | {IDS[index]: label for index, label in classes.items()}
    return lookup(original, num_classes, size=460)

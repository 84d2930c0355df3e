"""Cityscapes, 19 classes of street scenes (Cordts et al. 2016; TPAMI 2020, Table 3): 2975 train, 500 val images.

data = Cityscapes("data/cityscapes", image_size=(512, 1024))
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from datamodules.base import DataError, Split
from datamodules.sample.layouts import sample_cityscapes
from datamodules.segmentation.data import SegmentationData, class_labels
from datamodules.segmentation.masks import IGNORED, lookup
from datamodules.segmentation.pairs import Pairs, Unpaired

# Of each class in *_labelIds.png; all other ids are void.
IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
NUM_IDS = 34
_IDS, _TRAIN_IDS = "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"


class Cityscapes(SegmentationData):
    """Fine annotations, mapped from the 34 ids to the 19 train ids on reading; ready *_labelTrainIds.png do too.

    Evaluated at the original 1024 x 2048 pixels. `test` is `val`, since the test labels are not public.

    Args:
        root: Folder with leftImg8bit/ and gtFine/, or `sample`.
        image_size: (height, width) of the training crop, pixels.
        base_scale: How large a training image is at scale 1: its longer side, in lengths of the crop's. 2 makes it 2048
            pixels for the published crops of 1024.
        train_folders: Folders to train on; [train, val] for the runs that are sent to the test server.
        **kwargs: Scale, evaluation, loaders: see `SegmentationData`.
    """

    layout: ClassVar[str] = """\
    leftImg8bit/{train,val}/<city>/<city>_000000_000019_leftImg8bit.png
    gtFine/{train,val}/<city>/<city>_000000_000019_gtFine_labelIds.png      (or ..._labelTrainIds.png)"""
    source: ClassVar[str] = "https://www.cityscapes-dataset.com (leftImg8bit_trainvaltest, gtFine_trainvaltest)."
    embedded = staticmethod(sample_cityscapes)
    class_names, palette, label_flip_pairs = class_labels("cityscapes")

    def __init__(
        self,
        root: str | Path,
        *,
        image_size: tuple[int, int] = (512, 1024),
        base_scale: float = 2.0,
        train_folders: Sequence[str] = ("train",),
        **kwargs: Any,
    ) -> None:
        super().__init__(root, image_size=image_size, base_scale=base_scale, **kwargs)
        self.train_folders = tuple(train_folders)

    def pairs(self, split: Split) -> Pairs:
        """Images, masks and reader of a split."""
        images: list[Path] = []
        for folder in self.train_folders if split == "train" else (split,):
            images += sorted(self.existing("image", f"leftImg8bit/{folder}").glob("*/*_leftImg8bit.png"))
        if not images:
            raise DataError(f"{self.folder}/leftImg8bit has no */*_leftImg8bit.png for `{split}`:\n{self.layout}")
        labelled: dict[str, list[Path]] = {}
        for ending in (_IDS, _TRAIN_IDS):
            labelled[ending] = [image for image in images if self._mask(image, ending).is_file()]
            if len(labelled[ending]) == len(images):
                break
        ending = max(labelled, key=lambda ending: len(labelled[ending]))
        table = IDS_TO_CLASSES if ending == _IDS else TRAIN_IDS_TO_CLASSES
        read_labels = self.index_masks(table)
        pairs = labelled[ending], [self._mask(image, ending) for image in labelled[ending]], read_labels
        if len(labelled[ending]) < len(images):
            missing = [self._mask(image, ending) for image in sorted(set(images) - set(labelled[ending]))]
            raise Unpaired(
                f"{len(missing)} of {len(images)} Cityscapes images have no mask, the first is "
                f"{missing[0]}: fetch gtFine from {self.source}",
                pairs,
                [("missing mask", mask) for mask in missing],
            )
        return pairs

    def _mask(self, image: Path, ending: str) -> Path:
        folder = self.folder / "gtFine" / image.parent.parent.name / image.parent.name
        return folder / (image.name.removesuffix("_leftImg8bit.png") + ending)


# The licence plate's id -1 is 255 in a PNG.
IDS_TO_CLASSES = lookup(
    {**dict.fromkeys([*range(NUM_IDS), 255], IGNORED), **{id_: label for label, id_ in enumerate(IDS)}},
    len(IDS),
)
TRAIN_IDS_TO_CLASSES = lookup({**{label: label for label in range(len(IDS))}, 255: IGNORED}, len(IDS))

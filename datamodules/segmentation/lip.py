"""LIP, 20 classes of clothes and body parts of one person (Gong et al. 2017; TPAMI 2020, Table 6).

data = LIP("data/lip", image_size=(473, 473))
"""

from pathlib import Path
from typing import Any, ClassVar

from datamodules.base import Split
from datamodules.sample.layouts import sample_lip
from datamodules.segmentation.data import SegmentationData, class_labels
from datamodules.segmentation.masks import IGNORED, lookup
from datamodules.segmentation.pairs import Pairs, match_files
from datamodules.segmentation.samples import Evaluation


class LIP(SegmentationData):
    """30,462 train and 10,000 val images, stretched to `image_size`; val masks keep their size, as published.

    A mirror exchanges left and right arm, leg and shoe.

    Args:
        root: Folder with TrainVal_images/ and TrainVal_parsing_annotations/, or `sample`.
        image_size: (height, width) that images are stretched to, and of the training crop, pixels.
        scale: Lowest and highest random scale.
        evaluation: How large images are evaluated: `original`; `long` or `short` side brought to `base_scale` crop
            lengths; or `stretch` to `image_size`. Predictions are resized to the masks.
        **kwargs: Loaders: see `SegmentationData`.
    """

    layout: ClassVar[str] = """\
    TrainVal_images/{train_images,val_images}/77_471474.jpg ...
    TrainVal_parsing_annotations/{train_segmentations,val_segmentations}/77_471474.png ..."""
    source: ClassVar[str] = "http://sysu-hcp.net/lip (single person: TrainVal_images, TrainVal_parsing_annotations)."
    embedded = staticmethod(sample_lip)
    class_names, palette, label_flip_pairs = class_labels("lip")
    stretched = True

    def __init__(
        self,
        root: str | Path,
        *,
        image_size: tuple[int, int] = (473, 473),
        scale: tuple[float, float] = (0.5, 1.6),
        evaluation: Evaluation = "stretch",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, image_size=image_size, scale=scale, evaluation=evaluation, **kwargs)

    def pairs(self, split: Split) -> Pairs:
        """Images, masks and reader of a split."""
        images = self.existing("image", f"TrainVal_images/{split}_images")
        masks = self.existing("mask", f"TrainVal_parsing_annotations/{split}_segmentations")
        table = lookup({**{label: label for label in range(20)}, 255: IGNORED}, 20)
        return match_files(images, masks, self.index_masks(table))

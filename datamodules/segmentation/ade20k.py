"""ADE20K, the 150 classes of the scene parsing benchmark (Zhou et al. 2017): 20,210 train, 2,000 val images.

data = ADE20K("data/ADEChallengeData2016", image_size=(520, 520))
"""

from pathlib import Path
from typing import Any, ClassVar

from datamodules.base import Split
from datamodules.sample.layouts import sample_ade20k
from datamodules.segmentation.data import SegmentationData, class_labels
from datamodules.segmentation.masks import IGNORED, lookup
from datamodules.segmentation.pairs import Pairs, match_files
from datamodules.segmentation.samples import Evaluation


class ADE20K(SegmentationData):
    """Scene parsing: mask id 0 is ignored, ids 1 to 150 are the classes 0 to 149.

    Evaluated with the short side at 520, and seen whole at that size; predictions are resized to the masks. The
    published final test resizes such an image once more, its long side to 520, and fills it up to 520 x 520: set
    `published_test: ade20k` of the model for figures to compare with the published ones. (During training the published
    code validates on a random crop.) In training a crop is scaled once, from the original, and not by way of 520.

    Args:
        root: Folder with images/ and annotations/, or `sample`.
        image_size: (height, width) of the training crop, pixels.
        scale: Lowest and highest random scale; (0.5, 1.6) as published for the plain head, (0.5, 2.1) for OCR.
        evaluation: How large images are evaluated: `original`; `long` or `short` side brought to `base_scale` crop
            lengths; or `stretch` to `image_size`. Predictions are resized to the masks.
        **kwargs: Loaders: see `SegmentationData`.
    """

    layout: ClassVar[str] = """\
    images/{training,validation}/ADE_train_00000001.jpg ...        (or train/image, val/image)
    annotations/{training,validation}/ADE_train_00000001.png ...   (or train/label, val/label)"""
    source: ClassVar[str] = "http://sceneparsing.csail.mit.edu (ADEChallengeData2016.zip)."
    embedded = staticmethod(sample_ade20k)
    class_names, palette, label_flip_pairs = class_labels("ade20k")

    def __init__(
        self,
        root: str | Path,
        *,
        image_size: tuple[int, int] = (520, 520),
        scale: tuple[float, float] = (0.5, 1.6),
        evaluation: Evaluation = "short",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, image_size=image_size, scale=scale, evaluation=evaluation, **kwargs)

    def pairs(self, split: Split) -> Pairs:
        """Images, masks and reader of a split."""
        official = {"train": "training", "val": "validation"}[split]
        images = self.existing("image", f"images/{official}", f"{split}/image")
        masks = self.existing("mask", f"annotations/{official}", f"{split}/label")
        table = lookup({0: IGNORED, **{label + 1: label for label in range(150)}, 255: IGNORED}, 150)
        return match_files(images, masks, self.index_masks(table))

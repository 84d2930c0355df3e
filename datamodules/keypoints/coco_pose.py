"""COCO key points, one person a sample: the data of the paper's pose experiments (HRNet, section 4.1; Lin et al. 2014).

Serves any data in COCO's key-point format too: other points (`skeleton`), other folders (`annotations`, `images`),
several categories. The crop follows the official code; `crop: unit` is UDP's.

    data = CocoPose("data/coco", image_size=(256, 192))
"""

from pathlib import Path
from typing import Any, ClassVar

from datamodules.base import Split
from datamodules.keypoints.coco_file import read_annotations
from datamodules.keypoints.coco_json import CocoFiles, coco_tree
from datamodules.keypoints.data import KeypointData
from datamodules.keypoints.table import PersonTable
from datamodules.sample import sample_coco


class CocoPose(CocoFiles, KeypointData):
    """COCO key points, or any data in that format.

    `test` is `val` unless `annotations` has an entry `test`.

    Args:
        root: Folder of the data set, or `sample` for the embedded data.
        annotations: Annotation file of each split (train, val, test), relative to root; the others keep COCO's names.
        images: Image folder of each split, relative to root; the others are looked for where COCO has them.
        **kwargs: Skeleton, detections, crops, loaders: see `KeypointData`.
    """

    layout: ClassVar[str] = coco_tree("person_keypoints")
    embedded = staticmethod(sample_coco)

    def __init__(
        self,
        root: str | Path,
        *,
        annotations: dict[str, str] | None = None,
        images: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.set_files("person_keypoints", annotations, images)

    def persons(self, split: Split) -> PersonTable:
        """The annotations of the categories with key points."""
        return self._read(split, thorough=False)

    def examined(self, split: Split) -> PersonTable:
        """These, with what is wrong with annotations of other categories and with segmentations."""
        return self._read(split, thorough=True)

    def _read(self, split: Split, *, thorough: bool) -> PersonTable:
        return read_annotations(self.annotation_file(split), self.skeleton, thorough=thorough)

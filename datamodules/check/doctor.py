"""The data doctor: reads the data set that a YAML names, and says everything that is wrong with it and what to do.

python -m datamodules.check pose_coco.yaml                       # decodes every image
python -m datamodules.check pose_coco.yaml --images headers      # minutes become seconds
python -m datamodules.check seg_folder.yaml --data.root data/mine --statistics --json doctor.json
"""

import warnings

from datamodules.base import BaseDataModule, BaseDataset, DataError, Split
from datamodules.check.classification import check_image_folder
from datamodules.check.findings import Report
from datamodules.check.images import Mode, look_at_all
from datamodules.check.keypoints import check_coco_pose
from datamodules.check.segmentation import check_segmentation
from datamodules.classification.image_folder import ImageFolder
from datamodules.keypoints.coco_pose import CocoPose
from datamodules.multitask import MultiTaskDataModule
from datamodules.segmentation.data import SegmentationData


def check(data: BaseDataModule, images: Mode = "full") -> Report:
    """Everything that is wrong with the files of a data set.

    Args:
        data: Any DataModule; with one that is not of ours, what its data sets refuse is found.
        images: `full` decodes every image and mask, `headers` reads their sizes, `none` asks whether they are there.

    Raises:
        DataError: If the root folder is missing.
    """
    report = Report()
    if isinstance(data, MultiTaskDataModule):
        for name, part in data.parts.items():
            report.part = name
            _check_one(part, report, images)
    else:
        _check_one(data, report, images)
    return report


def _check_one(data: BaseDataModule, report: Report, images: Mode) -> None:
    data.prepare_data()
    report.root = str(data.folder)
    if isinstance(data, CocoPose):
        check_coco_pose(data, report, images)
    elif isinstance(data, SegmentationData):
        check_segmentation(data, report, images)
    elif isinstance(data, ImageFolder):
        check_image_folder(data, report, images)
    _ask_the_loader(data, report, images)


def _ask_the_loader(data: BaseDataModule, report: Report, images: Mode) -> None:
    """Find what the data sets themselves refuse, where nothing was found that explains it."""
    ours = isinstance(data, CocoPose | SegmentationData | ImageFolder)
    for split in dict.fromkeys(("train", "val", data.test_split)):
        if report.hidden_by(split):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what they warn of is among the findings
                dataset = data.dataset(split)
        except DataError as error:
            report.add("refused by the loader", split, type(data).__name__, str(error))
            continue
        if not ours:
            report.saw(split, samples=len(dataset))
            _read_samples(dataset, split, report, images)


def _read_samples(dataset: BaseDataset, split: Split, report: Report, images: Mode) -> None:
    """Find the samples that a data set unknown to the doctor refuses."""

    def refusal(index: int) -> str | None:
        try:
            dataset[index]
        except Exception as error:  # what a foreign data set says about a damaged file is a finding too
            return f"{type(error).__name__}: {error}"
        return None

    found = look_at_all(refusal, range(len(dataset) if images == "full" else 0), f"samples of {split}")
    for index, message in enumerate(found):
        if message is not None:
            report.add("refused by the loader", split, f"sample {index}", message)

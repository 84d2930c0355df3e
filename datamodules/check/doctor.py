"""The data doctor: reads the data set that a YAML names, and says everything that is wrong with it and what to do.

python -m datamodules.check pose_coco.yaml                       # decodes every image
python -m datamodules.check pose_coco.yaml --images headers      # minutes become seconds
python -m datamodules.check seg_folder.yaml --data.root data/mine --statistics --json doctor.json
"""

from datamodules.base import BaseDataModule
from datamodules.check.classification import check_image_folder
from datamodules.check.findings import Report
from datamodules.check.keypoints import check_coco_pose
from datamodules.check.segmentation import check_segmentation
from datamodules.classification.image_folder import ImageFolder
from datamodules.findings import Mode
from datamodules.keypoints.coco_pose import CocoPose
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
    for name, part in data.parts.items():
        part.prepare_data()
        report.part, report.root = name, str(part.folder)
        _check_one(part, report, images)
    return report


def _check_one(data: BaseDataModule, report: Report, images: Mode) -> None:
    splits = tuple(dict.fromkeys(("train", "val", data.test_split)))
    if isinstance(data, CocoPose):
        check_coco_pose(data, report, images)
    elif isinstance(data, SegmentationData):
        check_segmentation(data, report, images)
    elif isinstance(data, ImageFolder):
        check_image_folder(data, report, images)
    else:
        for fact in (fact for split in splits for fact in data.findings(split, images)):
            report.record(fact)
    for split in splits:
        refused = None if report.hidden_by(split) else data.refusal(split)
        if refused is not None:
            report.record(refused)

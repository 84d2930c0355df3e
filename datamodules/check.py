"""The data doctor: reads the data set that a YAML names, and says everything that is wrong with it and what to do.

python -m datamodules.check pose_coco.yaml                       # decodes every image
python -m datamodules.check pose_coco.yaml --images headers      # minutes become seconds
python -m datamodules.check seg_folder.yaml --data.root data/mine --statistics --json doctor.json
"""

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentError, ArgumentParser
from rich.console import Console

from datamodules.base import BaseDataModule, BaseDataset, DataError, Split
from datamodules.check_coco import check_coco_pose
from datamodules.check_findings import Report, show_findings, show_statistics
from datamodules.check_folders import check_image_folder
from datamodules.check_images import Mode, look_at_all
from datamodules.check_masks import check_segmentation
from datamodules.coco_pose import CocoPose
from datamodules.constructors import kept_arguments
from datamodules.image_folder import ImageFolder
from datamodules.multitask import MultiTaskDataModule
from datamodules.segmentation import SegmentationData
from datamodules.yaml_files import ConfigError, Rules, combine, find, flagged, read, split_flags
from datamodules.yaml_mistakes import explain


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


def load_data(files: Sequence[str], flags: Sequence[str]) -> BaseDataModule:
    """The DataModule of the `data` section of YAML files, later ones over earlier ones, flags over all.

    Raises:
        ConfigError: If a file is missing or a key is unknown.
        DataError: If the DataModule does not take its arguments.
    """
    contents = [(path, read(path)) for path in map(find, files)]
    values, questions = split_flags(list(flags))
    if questions:
        raise ConfigError(f"The data doctor has no {questions[0]}; see `python -m experiments.run {questions[0]}`.")
    merged = combine([content for _, content in contents], values, Rules(kept_arguments([BaseDataModule])))
    if "data" not in merged:
        raise ConfigError("No data: section; name an experiment, such as pose_coco.yaml.")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--data", type=BaseDataModule, required=True)
    try:
        config = parser.parse_args([f"--data={json.dumps(merged['data'])}"])
    except ArgumentError as error:
        sources = [*((str(path), content) for path, content in contents), *flagged(values)]
        raise ConfigError(explain(str(error), merged, sources, {"data": BaseDataModule})) from error
    return parser.instantiate(config).data


def main(argv: Sequence[str] | None = None) -> int:
    """Check as the command line does; 0 where the data are clean, 1 where something was found."""
    parser = argparse.ArgumentParser(
        prog=sys.argv[0] if sys.argv[0] == "hrnet check" else "python -m datamodules.check",
        usage="%(prog)s EXPERIMENT.yaml [OVERLAY.yaml ...] [options] [--data.key value ...]",
        description="Read a data set and say everything that is wrong with it. Exit status: 0 clean, 1 not, 2 misuse.",
        allow_abbrev=False,
    )
    parser.add_argument("files", nargs="+", help="YAML files as for experiments.run")
    parser.add_argument("--images", choices=("none", "headers", "full"), default="full", help="how far to read them")
    parser.add_argument("--all", action="store_true", help="list every finding, not the first five of a kind")
    parser.add_argument("--statistics", action="store_true", help="print class balance and sizes too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write findings and statistics for machines")
    options, flags = parser.parse_known_args(argv)
    data = load_data(options.files, flags)
    report = check(data, options.images)
    if options.json is not None:  # before anything is shown: what reads that may stop, as `| head` does
        _write_json(options.json, report)
    console = Console(highlight=False)
    if options.statistics:
        show_statistics(report, console)
    show_findings(report, console, first=None if options.all else 5)
    return 0 if report.clean else 1


def _write_json(path: Path, report: Report) -> None:
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_text(json.dumps(report.to_dict(), indent=1))
        partial.replace(path)
    except OSError as error:
        raise ConfigError(
            f"--json {path} cannot be written ({error.strerror}): name a file in a folder that is there."
        ) from error


def command() -> int:
    """`main` with exit status 2 and one message for a user's mistake."""
    try:
        return main()
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(command())

"""Read a data set and say everything that is wrong with it: by id or file, and what to do.

python -m datamodules.check pose_custom.yaml mine.yaml
python -m datamodules.check pose_custom.yaml mine.yaml --picture sheet.png    # what the network will see
python -m datamodules.check cls_folder.yaml --data.root photos --images headers --statistics --json findings.json

YAML files and flags are those of experiments.run. Exit status: 0 clean, 1 something was found, 2 misuse.
"""

import json as json_text
import sys
from functools import partial
from pathlib import Path
from typing import Literal

from rich.console import Console
from torch import cat
from torch.nn.functional import pad

from datamodules.base import BaseDataModule, DataError
from datamodules.check.doctor import check
from datamodules.check.plots import WIDTH, draw_distributions
from datamodules.check.report import Report, show_findings, show_statistics
from datamodules.loading.text_files import ConfigError
from experiments import cli
from experiments.cli.files import write_text
from experiments.config.files import files_and_flags
from experiments.config.parser import load_data


def check_files(
    *words: str,
    images: Literal["none", "headers", "full"] = "full",
    all_: bool = False,
    statistics: bool = False,
    json: Path | None = None,
    picture: Path | None = None,
) -> int:
    """Check as the command line does; 0 where the data are clean, 1 where something was found.

    Args:
        words: YAML files as for experiments.run, then its flags.
        images: How far to read them.
        all_: List every finding, not the first five of a kind.
        statistics: Print class balance and sizes too.
        json: Write findings and statistics for machines to this file.
        picture: Draw augmented training samples with their labels, as the network gets them, and plots of classes,
            sizes, positions and visibility, into this PNG file.

    Raises:
        ConfigError: For a mistake in the words.
        DataError: If the DataModule does not take its arguments.
    """
    if picture is not None and (picture.suffix.lower() != ".png" or not picture.parent.is_dir()):
        raise ConfigError(f"--picture {picture} cannot be written: name a .png file in a folder that is there.")
    data = load_data(*files_and_flags(words))
    report = check(data, images)
    if picture is not None:  # before anything is shown: what reads that may stop, as `| head` does
        _write_picture(picture, data, report)
    if json is not None:
        _write_json(json, report)
    console = Console(highlight=False)
    if statistics:
        show_statistics(report, console)
    show_findings(report, console, first=None if all_ else 5)
    return 0 if report.clean else 1


def _write_picture(path: Path, data: BaseDataModule, report: Report) -> None:
    """Draw what there is to see; of data that were found to be defective the report says it if they cannot be drawn."""
    from torchvision.io import write_png

    from experiments.training.sheet import training_sheet  # what draws is a second of import

    try:
        sheet = training_sheet(data)
        plots = draw_distributions(data, max(sheet.shape[-1], WIDTH))
    except DataError as error:
        if report.clean:
            raise
        report.notes.append(f"no picture, since these data cannot be loaded: {error}")
        return
    sheet = pad(sheet, (0, plots.shape[-1] - sheet.shape[-1]), value=255)
    write_png(cat([sheet, plots], dim=1), str(path))


def _write_json(path: Path, report: Report) -> None:
    try:
        write_text(path, json_text.dumps(report.to_dict(), indent=1))
    except OSError as error:
        raise ConfigError(
            f"--json {path} cannot be written ({error.strerror}): name a file in a folder that is there."
        ) from error


main = partial(cli.call, check_files)
command = partial(cli.run, check_files)

if __name__ == "__main__":
    sys.exit(command())

"""Make a folder that trains of what another labelling tool wrote.

python -m datamodules.convert my_dlc_project --to data/mice
python -m datamodules.convert annotations.xml --to data/cells --images frames --task segmentation --link

Reads DeepLabCut, Lightning Pose, SLEAP, LabelMe, Label Studio, CVAT, VIA, YOLO, Pascal VOC and COCO, and says what was
left out and which command trains on the result. Exit status: 0 written, 2 misuse.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Literal

from datamodules.convert.conversion import convert
from datamodules.loading.text_files import ConfigError
from experiments import cli


def convert_files(
    source: Path,
    *,
    to: Path | None = None,
    format_: Literal[
        "deeplabcut", "lightning_pose", "sleap", "labelme", "label_studio", "cvat", "via", "yolo", "voc", "coco"
    ]
    | None = None,
    task: Literal["pose", "detection", "segmentation", "classification"] | None = None,
    val: float = 0.2,
    seed: int = 0,
    images: Path | None = None,
    link: bool = False,
    scorer: str | None = None,
    likelihood: float | None = None,
) -> int:
    """Convert as the command line does; 0 where the folder was written.

    Args:
        source: File or folder that the labelling tool wrote.
        to: Folder to write, which must not be there yet.
        format_: Of the source; recognised by its content when not given.
        task: What the result is for; key points, else boxes, masks, or classes of images, when not given.
        val: Share of the images that are evaluated, where the source has no splits; clips are not divided.
        seed: Of the drawing of these images.
        images: Folder of the images, where they are not beside the labels.
        link: Link to the images rather than copying them.
        scorer: Of DeepLabCut: take the labels of this person alone.
        likelihood: Of key points that a network found: leave out those below it (0.6 when not given).

    Raises:
        ConfigError: If no folder is named.
        DataError: If the source cannot be read, or the folder is there already.
    """
    if to is None:
        raise ConfigError("--to FOLDER is missing: name the folder to write.")
    converted = convert(
        source,
        to,
        format=format_,
        task=task,
        val=val,
        seed=seed,
        images=images,
        link=link,
        scorer=scorer,
        likelihood=likelihood,
    )
    print("\n".join(converted.lines))
    return 0


main = partial(cli.call, convert_files)
command = partial(cli.run, convert_files)

if __name__ == "__main__":
    sys.exit(command())

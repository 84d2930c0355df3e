"""Pairing images with masks by their names, whatever their endings: which belong together, and which lack a partner."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from datamodules.findings import DataError
from datamodules.images.files import IMAGE_ENDINGS, images_below
from datamodules.loading.text_files import ConfigError, read_text

MASK_ENDINGS = (*IMAGE_ENDINGS, ".mat")
Pairs = tuple[list[Path], list[Path], Callable[[Path], np.ndarray]]
"""Images, the mask of each, and the reader of the masks: file -> classes (H, W) uint8, 255 ignored."""


class Unpaired(DataError):
    """Files of a split that lack their partner, or have two.

    Args:
        message: What the user reads.
        pairs: Those that are complete.
        problems: The others: `missing image`, `missing mask` or `ambiguous name`, and the file.
        advice: What would likely complete all of them; empty where nothing is known.
    """

    def __init__(self, message: str, pairs: Pairs, problems: list[tuple[str, Path]], advice: str = "") -> None:
        super().__init__(f"{message} {advice}".strip())
        self.pairs, self.problems, self.advice = pairs, problems, advice


def match_files(
    images: Path,
    masks: Path,
    read_labels: Callable[[Path], np.ndarray],
    stems: Sequence[str] | None = None,
    *,
    mask_suffix: str = "",
) -> Pairs:
    """Images and the masks of the same name, sorted by name; folders within are searched too.

    Args:
        images: Folder of the images.
        masks: Folder of the masks; they may have another ending (PNG, MATLAB's .mat). May be the folder of the images,
            or lie in it: masks are not images.
        read_labels: Reader of the masks.
        stems: Names without ending that belong to the split; None takes all images.
        mask_suffix: What mask names have more than image names, before the ending.

    Raises:
        DataError: No images, or masks that nothing tells from images.
        Unpaired: An image or mask is missing, or two files have one name.
    """
    found, image_twins = _by_stem(images, IMAGE_ENDINGS, masks)
    labels, mask_twins = _by_stem(masks, MASK_ENDINGS, images)
    together = images.resolve() == masks.resolve()
    if together:
        if not mask_suffix:
            raise DataError(
                f"Images and masks are both in {images}, and nothing tells them apart: set `mask_suffix` to what the "
                f"masks' names have more, or move the masks. {_advice(list(found), labels, '')}".strip()
            )
        ends = len(mask_suffix)
        found = {name: path for name, path in found.items() if name[-ends:] != mask_suffix or name[:-ends] not in found}
        mask_twins = []  # they are those of the images
    names = sorted(found) if stems is None else list(stems)
    if not names:
        raise DataError(f"{images} has no images ({', '.join(IMAGE_ENDINGS)}): correct the folder, or fill it.")
    complete = [name for name in names if name in found and name + mask_suffix in labels]
    pairs = [found[name] for name in complete], [labels[name + mask_suffix] for name in complete], read_labels
    without_image = [name for name in names if name not in found]
    without_mask = [name for name in names if name + mask_suffix not in labels]
    problems = [("ambiguous name", path) for twins in (*image_twins, *mask_twins) for path in twins]
    problems += [("missing image", images / name) for name in without_image]
    problems += [("missing mask", masks / (name + mask_suffix)) for name in without_mask]
    for first, second in (*image_twins, *mask_twins):
        raise Unpaired(f"{first} and {second} have one name: remove or rename one of them.", pairs, problems)
    for missing, kind, folder in ((without_image, "image", images), (without_mask, "mask", masks)):
        if missing:
            shown = ", ".join(missing[:3]) + ", ..." * (len(missing) > 3)
            raise Unpaired(
                f"{folder} lacks the {kind} of {len(missing)} of {len(names)} names ({shown}): put the files there, or "
                "take the names out of the split.",
                pairs,
                problems,
                _advice(missing, labels, "" if together else mask_suffix) if kind == "mask" else "",
            )
    return pairs


def _advice(names: Sequence[str], labels: Mapping[str, Path], mask_suffix: str) -> str:
    """What the masks of most `names` have more than these, as a sentence; empty if they have nothing in common.

    Args:
        names: Of the images whose masks were not found.
        labels: Masks by their names.
        mask_suffix: What they were looked for with; empty where images and masks are in one folder.
    """
    some = names[:: max(1, len(names) // 20)]
    if mask_suffix and 2 * sum(name in labels for name in some) >= len(some):
        return f"Masks there have the images' names, without {mask_suffix}: leave `mask_suffix` out."
    ends = Counter(label.removeprefix(name) for name in some for label in labels if label.startswith(name))
    suffix, count = max(((end, n) for end, n in ends.items() if end), key=lambda pair: pair[1], default=("", 0))
    if 2 * count < len(some) or not suffix:
        return ""
    example = next(path.name for label, path in labels.items() if label.endswith(suffix))
    return f"Masks there have names such as {example}: FolderSegmentation finds them by `mask_suffix: {suffix}`."


def read_stems(path: Path) -> list[str]:
    """Names of a split file in UTF-8, one a line: the first column, without the ending of an image.

    Raises:
        DataError: The file is absent, empty, or in another encoding.
    """
    try:
        lines = read_text(path).splitlines()
    except ConfigError as error:
        raise DataError(f"The names of a split cannot be read. {error}") from error
    names = [Path(line.split()[0]) for line in lines if line.strip()]
    if not names:
        raise DataError(f"The split file {path} is empty: expected the name of an image in every line.")
    return [(name.with_suffix("") if name.suffix.lower() in IMAGE_ENDINGS else name).as_posix() for name in names]


def _by_stem(folder: Path, endings: tuple[str, ...], besides: Path) -> tuple[dict[str, Path], list[tuple[Path, Path]]]:
    """Files by name without ending, and pairs of files that share one; not those of the folder `besides` in it."""
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}: correct its name, or put the files there.")
    within = f"{besides.relative_to(folder)}{os.sep}" if folder in besides.parents else None
    files: dict[str, Path] = {}
    twins: list[tuple[Path, Path]] = []
    for name in images_below(folder, endings):
        if within is None or not name.startswith(within):
            path = folder / name
            first = files.setdefault(Path(name).with_suffix("").as_posix(), path)
            if first != path:
                twins.append((first, path))
    return files, twins

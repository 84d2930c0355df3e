"""What the labels of a published data set are called, how they are drawn and which exchange in a mirror.

The files lie here: published checkpoints mean the same by their outputs, so `tasks/checkpoints/published.py` reads
them too.
"""

from dataclasses import dataclass
from pathlib import Path

import yaml

NAMES = Path(__file__).parent


@dataclass(frozen=True)
class ClassLabels:
    """The classes of a data set, in the order of their labels.

    Args:
        names: Their names.
        palette: Their colours, (r, g, b) from 0 to 255.
        flip_pairs: Those that exchange when the image is mirrored.
    """

    names: list[str]
    palette: list[tuple[int, int, int]]
    flip_pairs: list[tuple[int, int]]


def class_labels(name: str) -> ClassLabels:
    """The classes of `names/<name>.yaml`: cityscapes, ade20k, pascal_context, lip."""
    content = yaml.safe_load((NAMES / f"{name}.yaml").read_text(encoding="utf-8"))
    palette, pairs = ([tuple(row) for row in content[key]] for key in ("palette", "flip_pairs"))
    return ClassLabels(content["names"], palette, pairs)

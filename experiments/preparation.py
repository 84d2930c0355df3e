"""How a run prepares images for evaluation, read from its config.yaml: prediction prepares them in the same way.

preparations("runs/pose_coco/...")     # {"": Preparation(image_size=(256, 192), crop="size", ...)}
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from datamodules.image_masks import Evaluation
from datamodules.transforms import Crop


@dataclass(frozen=True)
class Preparation:
    """Arguments of the DataModules that say what the network sees; each has its meaning in the docstring there.

    Args:
        image_size: (height, width) of crops and classified images, and what sizes of segmented images derive from.
        crop: Convention of a person's crop, see `CocoPose`.
        box_padding: Factor on a person's box.
        evaluation: Size of segmented images, see `SegmentationData`.
        base_scale: With it.
        crop_ratio: Share of the resized image that a classified centre crop covers, see `ImageFolder`.
    """

    image_size: tuple[int, int]
    crop: Crop = "size"
    box_padding: float = 1.25
    evaluation: Evaluation = "original"
    base_scale: float = 1.0
    crop_ratio: float = 0.875

    @property
    def base_size(self) -> int:
        """Pixels of the side that `evaluation` long or short brings images to."""
        return max(1, round(self.base_scale * max(self.image_size)))


def preparations(source: str | Path) -> dict[str, Preparation]:
    """Preparation of each task of a joint run by name, of a single task by the empty name; none without config.yaml.

    Args:
        source: Run folder, or a checkpoint in it.
    """
    folder = run_folder_of(source)
    if folder is None:
        return {}
    arguments = yaml.safe_load((folder / "config.yaml").read_text())["data"]["init_args"]
    if "data" not in arguments:
        return {"": _preparation(arguments)}
    parts = arguments["data"]
    size = arguments.get("image_size")
    over = {} if size is None else {"image_size": size}
    # An entry that is a name stands for the data of the task of that name.
    own = {name: parts[part] if isinstance(part, str) else part for name, part in parts.items()}
    return {name: _preparation(part["init_args"] | over) for name, part in own.items()}


def run_folder_of(source: str | Path) -> Path | None:
    """The run folder that `source` is, or whose checkpoints/ has it; None where there is no config.yaml."""
    path = Path(source).absolute()
    folder = path.parent.parent if path.parent.name == "checkpoints" else path
    return folder if (folder / "config.yaml").is_file() else None


def _preparation(arguments: Mapping[str, Any]) -> Preparation:
    given = {field.name: arguments[field.name] for field in fields(Preparation) if field.name in arguments}
    return Preparation(**given | {"image_size": tuple(given["image_size"])})

"""How the data of a trained task prepare images for evaluation: prediction prepares them in the same way.

preparation_of(tasks.load("runs/pose_coco/..."))     # Preparation(image_size=(256, 192), crop="size", ...)
"""

from dataclasses import dataclass, fields

from datamodules.images.files import PLAIN, Reading
from datamodules.keypoints.crop import Crop
from datamodules.segmentation.samples import Evaluation
from experiments.config import ConfigError
from tasks import PoseTask, SegmentationTask, Task, UDPCodec


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
        reading: How image files become pixels; `upright` is None where no image of the training carried an orientation.
    """

    image_size: tuple[int, int]
    crop: Crop = "size"
    box_padding: float = 1.25
    evaluation: Evaluation = "original"
    base_scale: float = 1.0
    crop_ratio: float = 0.875
    reading: Reading = PLAIN

    @property
    def base_size(self) -> int:
        """Pixels of the side that `evaluation` long or short brings images to."""
        return max(1, round(self.base_scale * max(self.image_size)))


def preparation_of(task: Task, image_size: tuple[int, int] | None = None) -> Preparation:
    """What a trained task's checkpoint says, with another size if one is given.

    Raises:
        ConfigError: If no size is known.
    """
    known = dict(task.preparation)
    if image_size is not None:
        known["image_size"] = image_size
    if "image_size" not in known and isinstance(task, SegmentationTask):
        known["image_size"] = (1, 1)  # images keep their own size
    if "image_size" not in known:
        raise ConfigError(
            f"The size that {type(task).__name__} sees images at is not known, since it was not trained here: give "
            "image_size (height, width), such as 256 192."
        )
    if not task.preparation and isinstance(task, PoseTask) and isinstance(task.codec, UDPCodec):
        known["crop"] = "unit"
    unknown = sorted(set(known) - {field.name for field in fields(Preparation)})
    if unknown:
        raise ConfigError(
            f"The data of {type(task).__name__} prepared images by {', '.join(unknown)} (`prepared_by`), which "
            "prediction does not know: use its own code in Python."
        )
    reading = known.pop("reading", {})
    if reading.get("value_range") is not None:
        reading = reading | {"value_range": tuple(reading["value_range"])}
    return Preparation(**known | {"image_size": tuple(known["image_size"]), "reading": Reading(**reading)})

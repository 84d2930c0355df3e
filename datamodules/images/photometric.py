"""Changes of colour, noise and blur by albumentations (Buslaev et al. 2020), seeded by the sample's own generator.

Optional and applied to the crop; geometry belongs to `keypoints/crop.py`, where the key points follow.
"""

import difflib
import warnings
from typing import Any

import numpy as np

from datamodules.base import DataError
from datamodules.loading.samplers import draw_from


class Photometric:
    """Changes of colour, noise and blur by albumentations, drawn from the sample's own generator.

    Args:
        transforms: One mapping a transform: albumentations' `name` and its arguments, such as
            `{name: ColorJitter, brightness: 0.2, p: 0.5}`. Only transforms that leave every pixel in its place
            (ImageOnlyTransform) or cover it (dropouts) are accepted: the key points would not follow others.

    Raises:
        DataError: unknown or geometric transform, wrong argument, or a result that is not uint8 of the same size.
    """

    def __init__(self, transforms: list[dict[str, Any]]) -> None:
        import albumentations  # half a second, only for those who ask for it

        self._compose = albumentations.Compose([_photometric_transform(entry) for entry in transforms])
        draw_from(np.random.default_rng(0), self._compose)
        for transform in self._compose:
            _refuse_what_fails(transform)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(H, W, 3) uint8 the changed image."""
        draw_from(rng, self._compose)
        return self._compose(image=image)["image"]


def _refuse_what_fails(transform: Any) -> None:
    """Try a transform, however seldom it is to be drawn, instead of failing in the middle of an epoch."""
    name, blank = type(transform).__name__, np.zeros((512, 512, 3), np.uint8)
    try:
        result = transform(image=blank, force_apply=True)["image"]
    except Exception as error:  # whatever a transform raises, such as for arguments that come with each call
        raise DataError(f"The photometric transform {name} fails on an image: {error} Leave it out.") from error
    if result.dtype != np.uint8 or result.shape != blank.shape:
        raise DataError(
            f"The photometric transform {name} turns uint8 {blank.shape} into {result.dtype} {result.shape}: leave out "
            "normalisation and conversions, the task normalises on the device."
        )


def _photometric_transform(entry: dict[str, Any]) -> Any:
    import albumentations
    from albumentations.core.transforms_interface import ImageOnlyTransform

    if "name" not in entry:
        raise DataError(f"The photometric transform {entry} has no `name`: write {{name: ColorJitter, p: 0.5}}.")
    name, arguments = entry["name"], {key: value for key, value in entry.items() if key != "name"}
    accepted = (ImageOnlyTransform, albumentations.CoarseDropout, albumentations.GridDropout)
    kind = vars(albumentations).get(name) if isinstance(name, str) else None
    if not isinstance(kind, type) or not issubclass(kind, albumentations.BasicTransform):
        near = difflib.get_close_matches(str(name), vars(albumentations), n=1)
        raise DataError(f"albumentations has no transform {name}{f', did you mean {near[0]}?' if near else '.'}")
    if not issubclass(kind, accepted):
        raise DataError(
            f"{name} is a geometric transform and would move pixels away from their key points: rotation, scale and "
            "flip belong to `augmentation`."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # albumentations only warns of an argument it does not know
            return kind(**arguments)
    except (UserWarning, TypeError, ValueError) as error:
        raise DataError(f"albumentations does not accept {arguments} for {name}: {error}") from error

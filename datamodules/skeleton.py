"""What the key points of a data set mean: names, limbs, left/right pairs, OKS sigmas, upper body.

A skeleton is a YAML file; `keypoints/` holds the known ones, and yours is a path. Points are named by name or by index
from 0; where names are numbers, a number is the name:

    names: [nose, left_paw, right_paw]
    limbs: [[nose, left_paw], [nose, right_paw]]      # by name or by index, for drawing
    flip_pairs: [[left_paw, right_paw]]               # swapped when an image is mirrored
    sigmas: 0.05                                      # one for all or one each; spread in OKS, larger is more lenient
    upper_body: [nose]                                # optional, for half-body augmentation
    normaliser: [left_paw, right_paw]                 # optional, the length that errors are divided by; or `box`
"""

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.findings import DataError
from datamodules.loading.text_files import ConfigError, read_yaml

KNOWN = Path(__file__).parent / "keypoints"
"""Skeletons of published data sets. Published checkpoints mean the same by their outputs: the tasks read these too."""
DEFAULT_SIGMA = 0.05


@dataclass(frozen=True)
class Skeleton:
    """The meaning of K key points; indices count from 0.

    Args:
        names: K different names.
        limbs: Pairs of indices that are drawn as lines.
        flip_pairs: Disjoint pairs of indices that swap when the image is mirrored.
        sigmas: K positive numbers, the spread of each point in OKS (COCO: 0.025 for eyes to 0.107 for hips).
        upper_body: Indices of the upper body; empty where there is none.
        normaliser: What errors in pixels are divided by, for landmarks: the distance of two points in the ground truth,
            given by their indices (of faces the outer eye corners), or "box", the square root of the box's area; None
            where there is no such convention.

    Raises:
        DataError: where these disagree.
    """

    names: tuple[str, ...]
    limbs: tuple[tuple[int, int], ...]
    flip_pairs: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...]
    upper_body: tuple[int, ...] = ()
    normaliser: tuple[int, int] | Literal["box"] | None = None

    def __post_init__(self) -> None:
        normal = {
            "names": tuple(_name(name) for name in _listed(self.names, "names")),
            "limbs": _groups(self.limbs, "limbs"),
            "flip_pairs": _groups(self.flip_pairs, "flip_pairs"),
            "sigmas": tuple(_sigma(sigma) for sigma in _listed(self.sigmas, "sigmas")),
            "upper_body": tuple(_listed(self.upper_body, "upper_body")),
            "normaliser": _normaliser(self.normaliser),
        }
        for field, value in normal.items():
            object.__setattr__(self, field, value)
        self._check_names_and_sigmas()
        self._check_indices()

    def _check_names_and_sigmas(self) -> None:
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        if not self.names or repeated:
            raise DataError(f"A skeleton needs different names, found {repeated or 'none'}: name every key point once.")
        if len(self.sigmas) != self.num_keypoints:
            raise DataError(
                f"The skeleton has {self.num_keypoints} names but {len(self.sigmas)} sigmas: give one sigma for each "
                "name, or a single number for all."
            )
        bad = [sigma for sigma in self.sigmas if not (math.isfinite(sigma) and sigma > 0)]
        if bad:
            raise DataError(f"The skeleton's sigmas must be positive and finite, found {bad}: usual are 0.025 to 0.11.")

    def _check_indices(self) -> None:
        for field, groups in (
            ("limbs", self.limbs),
            ("flip_pairs", self.flip_pairs),
            ("upper_body", [self.upper_body]),
            ("normaliser", [] if self.normaliser in (None, "box") else [self.normaliser]),
        ):
            for group in groups:
                if field != "upper_body" and (len(group) != 2 or group[0] == group[1]):
                    raise DataError(f"The skeleton's {field} hold {list(group)}: expected pairs of different points.")
                out = [index for index in group if type(index) is not int or not 0 <= index < self.num_keypoints]
                if out:
                    raise DataError(
                        f"The skeleton's {field} name the key points {out}: expected indices from 0 to "
                        f"{self.num_keypoints - 1} for its {self.num_keypoints} names."
                    )
        paired = [index for pair in self.flip_pairs for index in pair]
        twice = sorted({self.names[index] for index in paired if paired.count(index) > 1})
        if twice:
            raise DataError(f"The skeleton's flip_pairs use {twice} more than once: a point has one mirror image.")

    @property
    def num_keypoints(self) -> int:
        """K."""
        return len(self.names)

    @property
    def flip_permutation(self) -> list[int]:
        """K indices: point k of a mirrored image is point `flip_permutation[k]` of the image."""
        permutation = list(range(self.num_keypoints))
        for left, right in self.flip_pairs:
            permutation[left], permutation[right] = right, left
        return permutation

    def to_dict(self) -> dict[str, Any]:
        """Plain lists with indices, for checkpoints; `Skeleton(**skeleton.to_dict())` is the same skeleton."""
        return {
            "names": list(self.names),
            "limbs": [list(pair) for pair in self.limbs],
            "flip_pairs": [list(pair) for pair in self.flip_pairs],
            "sigmas": list(self.sigmas),
            "upper_body": list(self.upper_body),
            "normaliser": list(self.normaliser) if isinstance(self.normaliser, tuple) else self.normaliser,
        }

    @classmethod
    def load(cls, source: str | Path) -> "Skeleton":
        """The skeleton of a name (`coco`, `wflw`) or of a YAML file; raises DataError where it is absent or wrong."""
        named = Path(source).name == str(source) and not Path(source).suffix
        path = KNOWN / f"{source}.yaml" if named else Path(source).expanduser()
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in KNOWN.glob("*.yaml")))
            looked = "" if named or path.is_absolute() else f" in {Path.cwd()}"
            raise DataError(f"There is no skeleton {source}{looked}: give one of {known}, or the path of a YAML file.")
        try:
            return cls.from_yaml(read_yaml(path))
        except (ConfigError, DataError) as error:
            raise DataError(f"{path} is no skeleton. {str(error)[:600]}") from error

    @classmethod
    def from_yaml(cls, content: Any) -> "Skeleton":
        """The skeleton of a YAML file's content: points by name or index, one sigma or one each."""
        known = ("names", "limbs", "flip_pairs", "sigmas", "upper_body", "normaliser")
        if not isinstance(content, Mapping) or not content.get("names") or set(content) - set(known):
            found = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
            raise DataError(f"Found {found}, expected a mapping with `names` and optionally {', '.join(known[1:])}.")
        names = [_name(name) for name in _listed(content["names"], "names")]
        sigmas = content.get("sigmas")
        if sigmas is None:
            sigmas = DEFAULT_SIGMA
            rank_zero_warn(
                f"The skeleton states no sigmas, so OKS and AP use {DEFAULT_SIGMA} for every key point: add `sigmas`."
            )
        normaliser = _normaliser(content.get("normaliser"))
        limbs, flip_pairs = (_groups(content.get(field) or (), field) for field in ("limbs", "flip_pairs"))
        return cls(
            names=tuple(names),
            limbs=tuple(_indices(names, pair, "limbs") for pair in limbs),
            flip_pairs=tuple(_indices(names, pair, "flip_pairs") for pair in flip_pairs),
            sigmas=tuple(sigmas) if isinstance(sigmas, list | tuple) else (sigmas,) * len(names),
            upper_body=_indices(names, _listed(content.get("upper_body") or (), "upper_body"), "upper_body"),
            normaliser=_indices(names, normaliser, "normaliser") if isinstance(normaliser, tuple) else normaliser,
        )


def _indices(names: list[str], points: Sequence[Any], field: str) -> tuple[int, ...]:
    """Names or indices -> indices; a number that is also a name is the name."""
    known = [_name(point) in names for point in points]
    numbered = all(_is_integer(name) for name in names)
    unknown = [p for p, is_name in zip(points, known, strict=True) if not is_name and (type(p) is not int or numbered)]
    if unknown:
        raise DataError(f"The skeleton's {field} hold {unknown}, which are not among its names {names}.")
    return tuple(names.index(_name(p)) if is_name else p for p, is_name in zip(points, known, strict=True))


def _is_integer(name: str) -> bool:
    return name.removeprefix("-").isdecimal()


def _name(value: Any) -> str:
    """The name of a key point."""
    if isinstance(value, bool):
        raise DataError(
            f"Found the name {str(value).lower()}: YAML reads yes, no, on, off so; put quotes around yes, no, on, off."
        )
    if value is None or isinstance(value, list | tuple | Mapping):
        raise DataError(f"Found the name {value!r}, expected a text: name every key point.")
    return str(value)


def _sigma(value: Any) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"The skeleton's sigmas hold {value!r}: expected a number for each name, or a single one for all."
        ) from error


def _normaliser(value: Any) -> Any:
    """A pair of points as a tuple; "box" and None as they are."""
    if value is None or value == "box":
        return value
    if isinstance(value, list | tuple):
        return tuple(value)
    raise DataError(f"The skeleton's normaliser is {value!r}: expected a pair of points, box, or nothing.")


def _listed(value: Any, field: str) -> list[Any]:
    if isinstance(value, str | bytes | Mapping | Set) or not isinstance(value, Iterable):
        raise DataError(f"The skeleton's {field} hold {value!r}: expected a list.")
    return list(value)


def _groups(value: Any, field: str) -> tuple[tuple[Any, ...], ...]:
    return tuple(tuple(_listed(pair, field)) for pair in _listed(value, field))

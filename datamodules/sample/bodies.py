"""Bodies of the people in the embedded sample data: a 3D skeleton within anatomical limits, and what it wears.

Not from the paper; it stands in for COCO so that every experiment runs without a download. `sample_pose` and
`sample_look` draw at random what `datamodules.sample.people` then shows in a picture.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

_LENGTHS = {
    "belly": 0.075, "chest": 0.215, "neck": 0.025, "head": 0.092, "shoulders": 0.115, "hips": 0.066,
    "arm": 0.165, "forearm": 0.145, "thigh": 0.235, "shin": 0.225,
}  # fmt: skip
# On the ellipsoid of the head, in its half axes: x to the person's left, y up, z forward.
POINTS_OF_FACE = {
    "nose": (0.0, -0.16, 1.08), "l_eye": (0.42, 0.08, 0.90), "r_eye": (-0.42, 0.08, 0.90),
    "l_ear": (1.10, -0.08, -0.05), "r_ear": (-1.10, -0.08, -0.05),
}  # fmt: skip
KEYPOINTS = (
    "nose", "l_eye", "r_eye", "l_ear", "r_ear", "l_shoulder", "r_shoulder", "l_elbow", "r_elbow", "l_wrist", "r_wrist",
    "l_hip", "r_hip", "l_knee", "r_knee", "l_ankle", "r_ankle",
)  # fmt: skip
_SKIN = ((203, 224, 250), (175, 205, 240), (150, 185, 226), (110, 150, 200), (80, 115, 165), (50, 75, 115))
_HAIR = ((35, 35, 40), (30, 50, 80), (50, 90, 140), (110, 190, 230), (40, 70, 160), (170, 170, 175))
_SIGN = {"l": 1, "r": -1}  # the person's left is +x
# Probability; pelvis pitch, spine lean; abduction, flexion, knee of one leg and of the other, in degrees.
_STANCES = (
    (0.26, 0, 3, (5, 0, 4), (5, 0, 4)),  # standing
    (0.18, 0, 5, (4, 28, 12), (4, -20, 24)),  # walking
    (0.10, 0, 0, (22, 0, 4), (22, 0, 4)),  # legs apart
    (0.15, 0, 4, (12, 85, 85), (12, 85, 85)),  # sitting
    (0.08, 5, 14, (20, 75, 95), (20, 75, 95)),  # squatting
    (0.09, 18, 55, (6, 20, 6), (6, 20, 6)),  # bending
    (0.08, 0, -4, (24, 35, 75), (24, 10, 50)),  # jumping
    (0.06, 5, 12, (4, 65, 70), (6, -25, 12)),  # lunging
)
# Probability; abduction, flexion, inward twist, elbow of one arm, in degrees.
_ARMS = (
    (0.20, 9, 0, 25, 15),  # hanging
    (0.09, 10, 35, 15, 30),  # swinging forward
    (0.08, 10, -30, 0, 18),  # swinging back
    (0.10, 45, -8, 75, 100),  # hand on the hip
    (0.12, 155, 0, 0, 15),  # raised
    (0.11, 92, 0, -80, 80),  # waving
    (0.10, 85, 0, 0, 12),  # stretched sideways
    (0.07, 12, 80, 10, 15),  # reaching forward
    (0.06, 40, 45, 40, 120),  # at the ear
    (0.07, 12, 30, 60, 95),  # before the body
)


def turn(axis: int, degrees: float) -> Array:
    """Right-handed rotation about axis x, y or z (0, 1, 2) as a (3, 3) matrix."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = cos, -sin, sin, cos
    return matrix


def _pick(rng: np.random.Generator, rows: tuple) -> tuple:
    return rows[rng.choice(len(rows), p=[row[0] for row in rows])][1:]


@dataclass(frozen=True)
class Pose:
    """A skeleton in body heights: x to the person's left, y up, z forward, the pelvis at the origin.

    points: (3,) each: joints, face, hands, feet and marks on the clothes; chest, head: (3, 3) frames;
    skull: (3,) half axes of the head; sitting: whether something to sit on belongs under the pelvis.
    """

    points: dict[str, Array]
    chest: Array
    head: Array
    skull: Array
    sitting: bool


def sample_pose(rng: np.random.Generator) -> Pose:
    """Draw stance, arms, proportions and the direction of the head at random."""
    pitch, lean, *legs = _pick(rng, _STANCES)
    sitting = legs[0][1] > 70
    lean, pitch = lean + rng.normal(0, 6), pitch + rng.normal(0, 3)
    if rng.random() < 0.5:
        legs.reverse()
    length = {name: value * rng.uniform(0.92, 1.08) for name, value in _LENGTHS.items()}
    pelvis = turn(0, pitch) @ turn(2, rng.normal(0, 4))
    waist = pelvis @ turn(0, 0.4 * lean)
    chest = waist @ turn(0, 0.6 * lean) @ turn(2, rng.normal(0, 6)) @ turn(1, rng.normal(0, 8))
    head = chest @ turn(1, np.clip(rng.normal(0, 15), -45, 45)) @ turn(0, rng.normal(0, 7) - 0.5 * lean)
    head = head @ turn(2, rng.normal(0, 6))
    p = {"pelvis": np.zeros(3), "waist": pelvis @ (0, length["belly"], 0)}
    p["neck"] = p["waist"] + waist @ (0, 0.08, 0) + chest @ (0, length["chest"] - 0.08, 0)
    p["head"] = p["neck"] + 0.5 * (chest + head) @ (0, length["neck"] + length["head"], 0.01)
    for side, leg in zip("lr", legs, strict=True):
        p |= _arm(rng, side, p["neck"], chest, length) | _leg(rng, side, pelvis, leg, length)
        p[side + "_waist"] = p["waist"] + waist @ (_SIGN[side] * 0.040, 0, 0)
    size = length["head"] * np.array([0.80, 1.0, 0.90])
    for name, q in POINTS_OF_FACE.items():
        p[name] = p["head"] + head @ (size * q)
    p["crown"], p["nape"] = (p["head"] + head @ (size * q) for q in ((0, 0.15, -0.35), (0, -1.2, -0.75)))
    p["badge"] = p["neck"] + chest @ (0.055, -0.075, 0.055)
    p["placket"], p["collar"] = p["waist"] + chest @ (0, 0.01, 0.06), p["neck"] + chest @ (0, -0.02, 0.045)
    return Pose(p, chest, head, size, sitting)


def _arm(rng: np.random.Generator, side: str, neck: Array, chest: Array, length: dict[str, float]) -> dict[str, Array]:
    sign = _SIGN[side]
    abduction, swing, twist, elbow = _pick(rng, _ARMS) + rng.normal(0, (9, 11, 12, 10))
    arm = chest @ turn(2, sign * abduction) @ turn(0, -swing) @ turn(1, -sign * twist)
    forearm = arm @ turn(0, -np.clip(elbow, 2, 140))
    p = {"shoulder": neck + chest @ (sign * length["shoulders"], -0.025, 0)}
    p["elbow"] = p["shoulder"] + arm @ (0, -length["arm"], 0)
    p["wrist"] = p["elbow"] + forearm @ (0, -length["forearm"], 0)
    p["hand"] = p["wrist"] + forearm @ (0, -0.045, 0)
    p["thumb"] = p["wrist"] + forearm @ (-sign * 0.022, -0.03, 0.012)
    p["elbow_tip"] = p["elbow"] + arm @ (0, 0, -0.016)
    p["cuff"] = 0.42 * p["shoulder"] + 0.58 * p["elbow"]
    return {f"{side}_{name}": point for name, point in p.items()}


def _leg(
    rng: np.random.Generator, side: str, pelvis: Array, angles: tuple[float, ...], length: dict[str, float]
) -> dict[str, Array]:
    sign = _SIGN[side]
    spread, flexion, knee = angles + rng.normal(0, (4, 7, 7))
    thigh = pelvis @ turn(2, sign * spread) @ turn(0, -flexion) @ turn(1, sign * rng.uniform(0, 25))
    shin = thigh @ turn(0, np.clip(knee, 1, 130))
    p = {"hip": pelvis @ (sign * length["hips"], 0, 0)}
    p["knee"] = p["hip"] + thigh @ (0, -length["thigh"], 0)
    p["ankle"] = p["knee"] + shin @ (0, -length["shin"], 0)
    p["heel"] = p["ankle"] + shin @ (0, -0.026, -0.018)
    p["toe"] = p["ankle"] + shin @ (0, -0.034, 0.085)
    p["kneecap"] = p["knee"] + thigh @ (0, 0, 0.022)
    p["hem"] = 0.25 * p["hip"] + 0.75 * p["knee"]
    return {f"{side}_{name}": point for name, point in p.items()}


@dataclass(frozen=True)
class Look:
    """Colours (3,) BGR and clothes of one person; sleeves 0 to 2 segments long."""

    skin: Array
    hair: Array
    shirt: Array
    accent: Array
    trousers: Array
    shoes: Array
    build: float
    sleeves: int
    legs: str
    stripes: int
    long_hair: bool
    watch: bool


def _colour(rng: np.random.Generator, saturation: tuple[int, int], value: tuple[int, int]) -> Array:
    hsv = np.array([[[rng.integers(180), rng.integers(*saturation), rng.integers(*value)]]], np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].astype(float)


def sample_look(rng: np.random.Generator) -> Look:
    """Draw colours, build and clothes at random."""
    skin = np.array(_SKIN[rng.integers(len(_SKIN))]) + rng.normal(0, 5, 3)
    hair = np.array(_HAIR[rng.integers(len(_HAIR))]) + rng.normal(0, 6, 3)
    return Look(
        skin=np.clip(skin, 20, 250),
        hair=np.clip(hair, 15, 240),
        shirt=_colour(rng, (50, 210), (110, 250)),
        accent=_colour(rng, (0, 120), (200, 255)),
        trousers=_colour(rng, (20, 190), (50, 190)),
        shoes=_colour(rng, (0, 200), (25, 110)),
        build=rng.uniform(1.05, 1.4),
        sleeves=int(rng.choice(3, p=(0.15, 0.45, 0.4))),
        legs=str(rng.choice(("trousers", "shorts", "skirt"), p=(0.62, 0.22, 0.16))),
        stripes=int(rng.choice((0, 3, 5), p=(0.6, 0.2, 0.2))),
        long_hair=bool(rng.random() < 0.3),
        watch=bool(rng.random() < 0.6),
    )

"""Faces of the embedded sample data as 3D points: the 98 landmarks of WFLW on a head with an expression and a pose.

Not from the paper; it stands in for WFLW so that every experiment runs without a download. Lengths are in half widths
of the face, x to the right of the picture (the person's left), y down, z towards the viewer; the eyes are about y = 0.
"""

from dataclasses import dataclass

import numpy as np

from datamodules.sample.bodies import Array, turn

CONTOUR, RIGHT_BROW, LEFT_BROW, BRIDGE, NOSTRILS = (
    slice(*ends) for ends in ((0, 33), (33, 42), (42, 51), (51, 55), (55, 60))
)
RIGHT_EYE, LEFT_EYE, OUTER_LIPS, INNER_LIPS = (slice(*ends) for ends in ((60, 68), (68, 76), (76, 88), (88, 96)))
NUM_LANDMARKS = 98
# A left brow or eye runs through the mirrored points of the right one in this order.
_MIRRORED_BROW = (4, 3, 2, 1, 0, 8, 7, 6, 5)
_MIRRORED_EYE = (4, 3, 2, 1, 0, 7, 6, 5)
_MIRROR = np.array([-1.0, 1.0, 1.0])
_DISTANCE = 7.0  # of the camera, which gives perspective
_RIBS = np.radians([0.0, 15.0, 30.0, 45.0, 60.0])


@dataclass(frozen=True)
class Expression:
    """How a face looks at the moment: opening and smile of the mouth, lids and brows (right, left), gaze (x, y).

    mouth: 0 closed to 0.5 wide open; smile: -0.5 sad to 1; lids: 0 closed to 1; brows: -1 frowning to 1 raised.
    """

    mouth: float
    smile: float
    lids: tuple[float, float]
    brows: tuple[float, float]
    gaze: tuple[float, float]

    @property
    def is_strong(self) -> bool:
        """Whether it is far from a neutral face."""
        return self.mouth > 0.28 or self.smile > 0.85 or min(self.lids) < 0.3 or max(map(abs, self.brows)) > 1.0


@dataclass(frozen=True)
class Head:
    """A face in a picture.

    landmarks: (98, 2) x, y in pixels; forehead: (n, 2) the outline from the left temple over the top to the right one;
    ears, neck, crown: (m, 2) pixels; width: half of the face's, pixels; angles: yaw, pitch, roll in degrees.
    """

    landmarks: Array
    forehead: Array
    ears: Array
    neck: Array
    expression: Expression
    width: float
    angles: tuple[float, float, float]

    @property
    def outline(self) -> Array:
        """(m, 2) the contour of the face and the top of the head, a closed polygon."""
        return np.concatenate([self.landmarks[CONTOUR], self.forehead])


def sample_expression(rng: np.random.Generator) -> Expression:
    """Draw an expression at random: most are calm, some laugh, shout, frown, wink or close their eyes."""
    mouth = 0.0 if rng.random() < 0.45 else float(rng.beta(1.3, 2.2)) * 0.5
    smile = float(np.clip(rng.normal(0.25, 0.45), -0.5, 1))
    openness = float(np.clip(rng.normal(0.85, 0.2), 0.05, 1.25))
    lids = [openness, openness]
    if rng.random() < 0.06:
        lids[int(rng.integers(2))] = 0.08
    brow = float(np.clip(rng.normal(0, 0.5), -1, 1.2))
    brows = (brow + float(rng.normal(0, 0.12)), brow + float(rng.normal(0, 0.12)))
    gaze = np.clip(rng.normal(0, (0.35, 0.2)), -0.8, 0.8).tolist()
    return Expression(mouth, smile, (lids[0], lids[1]), brows, (gaze[0], gaze[1]))


def sample_head(rng: np.random.Generator) -> Head:
    """Draw a head about the origin, of a half width of 1, with all that varies between persons and moments."""
    expression = sample_expression(rng)
    points = _landmarks(rng, expression)
    yaw, pitch, roll = rng.normal(0, (21, 10, 13))
    yaw, pitch, roll = float(np.clip(yaw, -38, 38)), float(np.clip(pitch, -22, 22)), float(np.clip(roll, -42, 42))
    # y points down, so a positive pitch looks up and a positive roll turns clockwise on the screen.
    view = turn(2, roll) @ turn(0, pitch) @ turn(1, yaw)
    upright = turn(0, pitch) @ turn(1, yaw)
    points[CONTOUR] = _visible_outline(points[CONTOUR], upright)
    crown = rng.uniform(0.95, 1.15)
    ear = np.array([(1.0, y, z) for y, z in ((-0.22, -0.1), (-0.2, -0.35), (0.05, -0.38), (0.3, -0.2), (0.36, 0.0))])
    throat = np.array([(x, y, -0.35) for x in (-0.62, 0.62) for y in (0.6, 2.6)])

    def seen(points: Array, matrix: Array = view) -> Array:
        turned = points @ matrix.T
        return turned[:, :2] * (_DISTANCE / (_DISTANCE - turned[:, 2:]))

    neck = seen(throat, turn(2, 0.4 * roll) @ turn(1, 0.5 * yaw))
    ears = np.stack([seen(ear * _MIRROR), seen(ear)])
    return Head(seen(points), seen(_forehead(points, crown)), ears, neck, expression, 1.0, (yaw, pitch, roll))


def grown(points: Array, factor: float, shift: Array | tuple[float, float] = (0.0, 0.0)) -> Array:
    """Points (N, 2) scaled about their middle and moved."""
    middle = 0.5 * (points.min(axis=0) + points.max(axis=0))
    return middle + factor * (points - middle) + np.asarray(shift)


def smooth(points: Array, steps: int = 4) -> Array:
    """A closed curve through points (N, 2), by Catmull and Rom's spline."""
    before, after, second = (np.roll(points, shift, axis=0) for shift in (1, -1, -2))
    t = (np.arange(steps) / steps)[:, None, None]
    curve = 0.5 * (
        2 * points
        + (after - before) * t
        + (2 * before - 5 * points + 4 * after - second) * t**2
        + (3 * points - before - 3 * after + second) * t**3
    )
    return curve.transpose(1, 0, 2).reshape(-1, 2)


def detector_box(rng: np.random.Generator, landmarks: Array) -> Array:
    """(4,) x_min, y_min, x_max, y_max about the landmarks, whole pixels, as inexact as a detector's."""
    low, high = landmarks.min(axis=0), landmarks.max(axis=0)
    size = high - low
    middle = 0.5 * (low + high) + rng.normal(0, 0.04, 2) * size
    half = 0.5 * size * rng.uniform(0.95, 1.12)
    return np.concatenate([np.floor(middle - half), np.ceil(middle + half)])


def _landmarks(rng: np.random.Generator, expression: Expression) -> Array:
    """(98, 3) of a face that looks straight at the viewer."""
    points = np.zeros((NUM_LANDMARKS, 3))
    nose = rng.uniform(0.42, 0.54)
    mouth = nose + rng.uniform(0.32, 0.4)
    points[CONTOUR] = _contour(rng, mouth + rng.uniform(0.36, 0.5) + 0.9 * expression.mouth)
    eye_x, eye_y = rng.uniform(0.40, 0.46), rng.uniform(-0.03, 0.03)
    half = rng.uniform(0.175, 0.215)
    right, left = (_eye(rng, eye_x, eye_y, half, lid) for lid in expression.lids)
    points[RIGHT_EYE], points[LEFT_EYE] = right * _MIRROR, left[list(_MIRRORED_EYE)]
    height, tilt, thick = rng.uniform(0.24, 0.31), rng.uniform(-0.03, 0.05), rng.uniform(0.05, 0.085)
    right, left = (_brow(eye_x, eye_y - height, tilt, thick, raised) for raised in expression.brows)
    points[RIGHT_BROW], points[LEFT_BROW] = right * _MIRROR, left[list(_MIRRORED_BROW)]
    points[BRIDGE] = _bridge(nose)
    points[NOSTRILS] = _nostrils(nose, rng.uniform(0.17, 0.23))
    points[OUTER_LIPS], points[INNER_LIPS] = _lips(rng, mouth, expression)
    gaze_x, gaze_y = expression.gaze
    for pupil, middle in ((96, points[RIGHT_EYE].mean(axis=0)), (97, points[LEFT_EYE].mean(axis=0))):
        points[pupil] = middle + np.array([0.5 * half * gaze_x, 0.25 * half * gaze_y, 0.02])
    return points


def _contour(rng: np.random.Generator, chin: float) -> Array:
    """(33, 3) from the right temple over the chin, which is at y = `chin`, to the left one."""
    jaw, power = rng.uniform(0.62, 0.95), rng.uniform(0.85, 1.05)
    angle = np.linspace(np.pi, 0, 33)
    cosine, sine = np.cos(angle), np.sin(angle)
    x = np.sign(cosine) * np.abs(cosine) ** jaw
    y = -0.18 + (chin + 0.18) * sine**power
    return np.stack([x, y, 0.02 + 0.55 * sine**2], axis=1)


def _eye(rng: np.random.Generator, x: float, y: float, half: float, lid: float) -> Array:
    """(8, 3) of the left eye from the outer corner over the upper lid to the inner one and back below."""
    upper, lower = 0.42 * half * lid * rng.uniform(0.95, 1.05), 0.3 * half * (0.35 + 0.65 * lid)
    along = np.array([1, 0.55, 0, -0.55, -1, -0.5, 0, 0.5])
    rise = np.array([0, -0.85, -1, -0.75, 0, 0.8, 1, 0.85])
    tall = np.where(rise < 0, upper, lower)
    slant = -0.03 * along  # the outer corner is the higher one
    across = x + half * along
    return np.stack([across, y + rise * tall + slant, 0.76 - 0.5 * (across - 0.2) ** 2], axis=1)


def _brow(x: float, y: float, tilt: float, thick: float, raised: float) -> Array:
    """(9, 3) of the left brow: five above from the outer end to the inner one, four below back again."""
    along = np.array([1, 0.55, 0.05, -0.45, -0.95, -0.9, -0.42, 0.08, 0.58])
    arch = -0.09 * (1 - along**2)
    below = np.array([0, 0.1, 0, 0, 0.1, 1, 1, 0.95, 0.75]) * thick
    # Raised brows go up as a whole, frowning ones come down and together at the inner end.
    lift = -0.11 * raised + 0.06 * np.minimum(raised, 0) * (along - 1)
    across = x + 0.03 + 0.29 * along + 0.05 * min(raised, 0)
    return np.stack([across, y + arch + below + lift + tilt * along, 0.8 - 0.45 * across**2], axis=1)


def _bridge(nose: float) -> Array:
    """(4, 3) from between the eyes to the tip, which is at y = `nose`."""
    share = np.array([0.02, 0.3, 0.62, 1.0])
    return np.stack([np.zeros(4), share * nose - 0.02, 0.8 + 0.34 * share**1.4], axis=1)


def _nostrils(nose: float, half: float) -> Array:
    """(5, 3) below the tip from the right wing to the left one."""
    x = half * np.array([-1, -0.5, 0, 0.5, 1])
    y = nose + np.array([0.05, 0.125, 0.145, 0.125, 0.05])
    return np.stack([x, y, np.array([0.8, 0.9, 0.94, 0.9, 0.8])], axis=1)


def _lips(rng: np.random.Generator, y: float, expression: Expression) -> tuple[Array, Array]:
    """(12, 3) outer and (8, 3) inner points about height y, each from the right corner over the top and back below."""
    smile, opening = expression.smile, expression.mouth
    half = rng.uniform(0.29, 0.36) + 0.08 * smile - 0.12 * opening
    upper, lower = rng.uniform(0.06, 0.11), rng.uniform(0.08, 0.14)
    raised = -0.13 * smile

    def bent(x: Array) -> Array:
        return raised * x**2 + 0.35 * opening * x**2

    x = np.array([-1, -0.62, -0.24, 0, 0.24, 0.62, 1, 0.6, 0.28, 0, -0.28, -0.6])
    bow = upper * np.array([0, -0.75, -1.1, -0.92, -1.1, -0.75, 0, 0, 0, 0, 0, 0])
    belly = (lower + opening) * np.array([0, 0, 0, 0, 0, 0, 0, 0.72, 0.95, 1, 0.95, 0.72])
    outer = np.stack([half * x, y + bow + belly + bent(x), 0.92 - 0.7 * (half * x) ** 2], axis=1)
    x = np.array([-1, -0.5, 0, 0.5, 1, 0.5, 0, -0.5])
    gap = opening * np.array([0, 0, 0, 0, 0, 0.78, 1, 0.78]) + 0.008 * np.array([0, -1, -1, -1, 0, 1, 1, 1])
    inner = np.stack([0.86 * half * x, y + gap + bent(0.86 * x), 0.9 - 0.7 * (half * x) ** 2], axis=1)
    return outer, inner


def _forehead(points: Array, crown: float) -> Array:
    """(15, 3) from the left temple over the top of the head to the right temple."""
    angle = np.linspace(0, np.pi, 17)[1:-1]
    start = points[32]
    return np.stack([np.cos(angle), start[1] - crown * np.sin(angle) ** 0.8, 0.02 + 0.35 * np.sin(angle)], axis=1)


def _visible_outline(contour: Array, view: Array) -> Array:
    """(33, 3) the points of the cheeks that are seen at the side: of a turned head they slide towards the viewer."""
    side, depth = np.cos(_RIBS), np.sin(_RIBS)
    ribs = np.stack(
        [
            contour[:, None, 0] * side,
            np.broadcast_to(contour[:, None, 1], (33, len(_RIBS))),
            contour[:, None, 2] + 0.85 * np.abs(contour[:, None, 0]) * depth,
        ],
        axis=2,
    )
    outward = (ribs @ view[0]) * np.sign(contour[:, :1] + 1e-9)
    return np.take_along_axis(ribs, outward.argmax(axis=1)[:, None, None], axis=1)[:, 0]

"""Faces of the embedded sample data, drawn with OpenCV: skin, hair, features, glasses, what hides them, light, blur.

Not from the paper; it stands in for WFLW so that every experiment runs without a download. A picture is drawn back to
front at twice its size and reduced at the end; `face_shape.py` says where the landmarks are, `face_layouts.py` writes
the pictures down as the data sets have them.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from datamodules.sample.bodies import Array
from datamodules.sample.canvas import develop, draw_background
from datamodules.sample.face_shape import (
    BRIDGE,
    INNER_LIPS,
    LEFT_BROW,
    LEFT_EYE,
    NOSTRILS,
    OUTER_LIPS,
    RIGHT_BROW,
    RIGHT_EYE,
    Head,
    detector_box,
    grown,
    sample_head,
    smooth,
)

ATTRIBUTES = ("pose", "expression", "illumination", "makeup", "occlusion", "blur")
_SEED = 7
_SKIN = ((198, 216, 245), (176, 202, 238), (150, 184, 226), (118, 156, 206), (84, 118, 170), (56, 82, 126))
_HAIR = ((32, 32, 38), (30, 48, 78), (45, 84, 132), (96, 172, 214), (40, 66, 150), (170, 170, 176))
_IRIS = ((60, 80, 110), (40, 55, 80), (150, 120, 70), (90, 120, 80), (120, 110, 105))


@dataclass(frozen=True)
class Face:
    """One rendered picture of a face.

    image: (H, W, 3) BGR uint8; landmarks: (98, 2) x, y in its pixels; box: (4,) x_min, y_min, x_max, y_max, as of a
    detector; attributes: (6,) bool, those of `ATTRIBUTES` that the face has.
    """

    image: Array
    landmarks: Array
    box: Array
    attributes: Array


@dataclass(frozen=True)
class _Style:
    """Colours (3,) BGR and what varies from one face to another beside its shape."""

    skin: Array
    hair: Array
    iris: Array
    lips: Array
    shirt: Array
    makeup: bool
    long_hair: bool
    bald: bool
    beard: bool
    glasses: int  # 0 none, 1 clear, 2 dark
    light: float  # -1 from the left, 1 from the right
    cover: int  # 0 nothing, 1 a mask over mouth and nose, 2 a hand, 3 a lock of hair, 4 a thing before the face


def render_face(number: int) -> Face:
    """Render the face `number`; the same number gives the same picture."""
    rng = np.random.default_rng([_SEED, number])
    height, width = int(rng.integers(136, 169)), int(rng.integers(136, 169))
    head, style = _placed(rng, sample_head(rng), height, width), _style(rng)
    canvas = _Canvas(draw_background(rng, height, width))
    _draw_behind(canvas, head, style)
    _draw_skin(canvas, head, style)
    for brow, eye, pupil in ((RIGHT_BROW, RIGHT_EYE, 96), (LEFT_BROW, LEFT_EYE, 97)):
        _draw_eye(canvas, head, style, eye, pupil)
        canvas.fill(head.landmarks[brow], 0.75 * style.hair + 0.12 * style.skin)
    _draw_nose(canvas, head, style)
    _draw_mouth(canvas, head, style)
    _draw_before(rng, canvas, head, style)
    image = canvas.finish()
    dark, blurred = rng.random() < 0.12, rng.random() < 0.15
    image = _lit(image, style.light * (0.5 if rng.random() < 0.2 else 0.15), 0.5 if dark else 1.0)
    if blurred:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(1.0, 1.7))
    image = develop(rng, image)
    yaw, pitch, roll = np.abs(head.angles)
    attributes = (
        yaw > 30 or pitch > 17 or roll > 28,
        head.expression.is_strong,
        dark,
        style.makeup,
        style.cover > 0 or style.glasses == 2,
        blurred,
    )
    return Face(image, head.landmarks, detector_box(rng, head.landmarks), np.array(attributes, bool))


def _placed(rng: np.random.Generator, head: Head, height: int, width: int) -> Head:
    """The head in a picture of (height, width) px, its landmarks inside."""
    scale = rng.uniform(0.24, 0.33) * min(height, width)
    low, high = scale * head.landmarks.min(axis=0), scale * head.landmarks.max(axis=0)
    room = np.array([width - 1, height - 1]) - (high - low)
    offset = np.clip(rng.normal(0.5, 0.12, 2), 0.1, 0.9) * room - low
    offset[1] = max(offset[1], 0.30 * height - 0.2 * scale)  # room for the forehead
    offset[1] = min(offset[1], height - 3 - high[1])
    points = {name: scale * getattr(head, name) + offset for name in ("landmarks", "forehead", "ears", "neck")}
    return replace(head, **points, width=scale)


def _style(rng: np.random.Generator) -> _Style:
    def one_of(colours: tuple, spread: float) -> Array:
        return np.clip(np.array(colours[rng.integers(len(colours))]) + rng.normal(0, spread, 3), 15, 250)

    skin, makeup = one_of(_SKIN, 6), bool(rng.random() < 0.2)
    red = np.array((70.0, 50, 190)) + rng.normal(0, 20, 3)
    lips = (0.25 * skin + 0.75 * red) if makeup else (0.72 * skin + 0.28 * red) * (0.82, 0.8, 0.95)
    long_hair = makeup or rng.random() < 0.35
    return _Style(
        skin=skin,
        hair=one_of(_HAIR, 7),
        iris=one_of(_IRIS, 8),
        lips=np.clip(lips, 20, 240),
        shirt=rng.uniform(30, 230, 3),
        makeup=makeup,
        long_hair=bool(long_hair),
        bald=bool(not long_hair and rng.random() < 0.12),
        beard=bool(not long_hair and rng.random() < 0.3),
        glasses=int(rng.choice(3, p=(0.78, 0.16, 0.06))),
        light=float(rng.choice((-1, 1))),
        cover=int(rng.choice(5, p=(0.82, 0.05, 0.05, 0.03, 0.05))),
    )


class _Canvas:
    """A picture drawn at twice its size; coordinates are pixels of the final one, pixel centres at integers."""

    def __init__(self, background: Array) -> None:
        self.image = cv2.resize(background, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)

    @staticmethod
    def fixed(points: Array) -> Array:
        """(N, 1, 2) int32 in sixteenths of the canvas' pixels."""
        return np.round((2 * points + 0.5) * 16).astype(np.int32)[:, None]

    def fill(self, points: Array, colour: Array, share: float = 1.0) -> None:
        """Fill a polygon (N, 2), with less than a `share` of 1 as if it were glass."""
        if share == 1:
            cv2.fillPoly(self.image, [self.fixed(points)], colour.tolist(), cv2.LINE_AA, 4)
            return
        low = np.maximum(np.floor(2 * points.min(axis=0)).astype(int) - 1, 0)
        high = np.maximum(np.ceil(2 * points.max(axis=0)).astype(int) + 3, low)
        window = self.image[low[1] : high[1], low[0] : high[0]]
        if not window.size:
            return
        painted = window.copy()
        cv2.fillPoly(painted, [self.fixed(points - low / 2)], colour.tolist(), cv2.LINE_AA, 4)
        cv2.addWeighted(painted, share, window, 1 - share, 0, dst=window)

    def line(self, points: Array, colour: Array, width: float, *, closed: bool = False) -> None:
        """Draw a line through points (N, 2), `width` px wide."""
        thickness = max(1, round(2 * width))
        cv2.polylines(self.image, [self.fixed(points)], closed, colour.tolist(), thickness, cv2.LINE_AA, 4)

    def spot(self, centre: Array, radius: float, colour: Array) -> None:
        """Draw a disc."""
        x, y = self.fixed(centre[None])[0, 0].tolist()
        cv2.circle(self.image, (x, y), round(32 * radius), colour.tolist(), -1, cv2.LINE_AA, 4)

    def finish(self) -> Array:
        """(H, W, 3) BGR uint8."""
        height, width = self.image.shape[:2]
        return cv2.resize(self.image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)


def _draw_behind(canvas: _Canvas, head: Head, style: _Style) -> None:
    """Hair behind the head, neck, shoulders and ears."""
    size, chin = head.width, head.landmarks[16]
    if style.long_hair:
        back = grown(head.forehead, 1.22, (0, -0.02 * size))
        falls = np.array([(-1.25, 1.9), (1.25, 1.9)]) * size + head.landmarks[51]
        canvas.fill(cv2.convexHull(np.concatenate([back, falls]).astype(np.float32))[:, 0], 0.8 * style.hair)
    top, bottom = head.neck[[0, 2]], head.neck[[1, 3]]
    canvas.fill(np.concatenate([top, bottom[::-1]]), 0.74 * style.skin)
    shoulder = max(float(chin[1]), float(top[:, 1].max())) + 0.42 * size
    middle = 0.5 * (top.mean(axis=0) + bottom.mean(axis=0))
    width = np.array([-2.4, -0.75, 0.0, 0.75, 2.4])
    rows = shoulder + size * np.array([0.5, 0.0, 0.22, 0.0, 0.5])
    line = np.stack([middle[0] + size * width, rows], axis=1)
    corners = np.array([[line[-1, 0], 2e3], [line[0, 0], 2e3]])
    canvas.fill(np.concatenate([line, corners]), style.shirt)
    for ear in head.ears:
        canvas.fill(smooth(ear), 0.8 * style.skin)
        canvas.fill(smooth(grown(ear, 0.6)), 0.68 * style.skin)


def _draw_skin(canvas: _Canvas, head: Head, style: _Style) -> None:
    """The face, darker at its border and away from the light, and the hair above it."""
    outline, size = head.outline, head.width
    canvas.fill(outline, 0.72 * style.skin)
    for factor, shade in ((0.97, 0.84), (0.9, 0.92), (0.78, 1.0)):
        canvas.fill(grown(outline, factor, (style.light * 0.35 * (1 - factor) * size, 0)), shade * style.skin)
    if style.beard:
        chin = np.concatenate([head.landmarks[5:28], head.landmarks[[82, 59, 57, 55, 76]]])
        canvas.fill(chin, 0.6 * style.hair + 0.3 * style.skin, 0.55)
    if style.makeup:
        for cheek in ((3, 55), (29, 59)):
            middle = head.landmarks[list(cheek)].mean(axis=0) + np.array([0, 0.02 * size])
            angle = np.linspace(0, 2 * np.pi, 12)
            blush = middle + 0.2 * size * np.stack([np.cos(angle), 0.7 * np.sin(angle)], axis=1)
            canvas.fill(blush, np.clip(style.skin * (0.85, 0.8, 1.08), 0, 255), 0.6)
    if style.bald:
        return
    crown = grown(head.forehead, 1.08, (0, -0.05 * size))
    temples = head.landmarks[[0, 32]]
    # The hairline lies between the top of the head and the brows.
    brows = np.stack([head.landmarks[LEFT_BROW].mean(axis=0), head.landmarks[RIGHT_BROW].mean(axis=0)])
    top = head.forehead[len(head.forehead) // 2]
    line = np.stack([0.52 * brows[0] + 0.48 * head.forehead[4], 0.36 * brows.mean(axis=0) + 0.64 * top,
                     0.52 * brows[1] + 0.48 * head.forehead[-5]])  # fmt: skip
    hair = np.concatenate([temples[1:], crown, temples[:1], line[::-1]])
    canvas.fill(hair, style.hair)
    canvas.fill(
        grown(hair, 0.72, (style.light * 0.06 * size, -0.03 * size)), np.minimum(1.25 * style.hair + 8, 255), 0.5
    )


def _draw_eye(canvas: _Canvas, head: Head, style: _Style, eye: slice, pupil: int) -> None:
    """White, iris and pupil between the lids, the lids' lines, and the shade of the socket."""
    lids, size = head.landmarks[eye], head.width
    curve = smooth(lids)
    canvas.fill(grown(curve, 1.45, (0, -0.03 * size)), (0.72 if style.makeup else 0.86) * style.skin, 0.8)
    low = np.maximum(np.floor(2 * curve.min(axis=0)).astype(int) - 2, 0)
    high = np.maximum(np.ceil(2 * curve.max(axis=0)).astype(int) + 4, low)
    window = canvas.image[low[1] : high[1], low[0] : high[0]]
    if not window.size:
        return
    inside = np.zeros(window.shape[:2], np.uint8)
    cv2.fillPoly(inside, [canvas.fixed(curve - low / 2)], 255, cv2.LINE_AA, 4)
    ball = _Canvas.__new__(_Canvas)
    ball.image = np.full(window.shape, 238, np.uint8)
    middle = head.landmarks[pupil] - low / 2
    ball.spot(middle, 0.115 * size, 0.5 * style.iris)
    ball.spot(middle, 0.098 * size, style.iris)
    ball.spot(middle, 0.05 * size, np.array((15.0, 15, 15)))
    ball.spot(middle + np.array([0.03 * style.light, -0.035]) * size, 0.022 * size, np.array((250.0, 250, 250)))
    share = inside[..., None].astype(np.float32) / 255
    window[:] = (share * ball.image + (1 - share) * window).astype(np.uint8)
    upper = np.concatenate([lids[:5]])
    canvas.line(upper, 0.25 * style.hair + 0.1 * style.skin, (0.05 if style.makeup else 0.032) * size)
    canvas.line(np.concatenate([lids[4:], lids[:1]]), 0.6 * style.skin, 0.016 * size)


def _draw_nose(canvas: _Canvas, head: Head, style: _Style) -> None:
    """The shaded side of the bridge, the wings, the nostrils and the light on the tip."""
    points, size = head.landmarks, head.width
    tip, bottom = points[54], points[NOSTRILS]
    away = bottom[0] if style.light > 0 else bottom[4]
    canvas.fill(np.concatenate([points[BRIDGE], [away]]), 0.8 * style.skin, 0.75)
    canvas.line(points[BRIDGE] + (-0.05 * style.light * size, 0), 0.66 * style.skin, 0.02 * size)
    canvas.fill(smooth(np.concatenate([bottom, [tip]])), 0.9 * style.skin, 0.6)
    canvas.line(bottom, 0.55 * style.skin, 0.022 * size)
    for nostril, outer in ((bottom[1], bottom[0]), (bottom[3], bottom[4])):
        canvas.spot(0.72 * nostril + 0.28 * outer + (0, -0.025 * size), 0.036 * size, 0.36 * style.skin)
    canvas.spot(tip, 0.05 * size, np.minimum(1.1 * style.skin + 8, 255))


def _draw_mouth(canvas: _Canvas, head: Head, style: _Style) -> None:
    """Teeth and the dark of an open mouth, both lips, the line between them."""
    outer, inner, size = head.landmarks[OUTER_LIPS], head.landmarks[INNER_LIPS], head.width
    canvas.fill(grown(outer, 1.12, (0, 0.04 * size)), 0.86 * style.skin, 0.5)
    canvas.fill(smooth(inner), np.array((35.0, 25, 60)))
    opening = float(np.linalg.norm(inner[6] - inner[2]))
    if opening > 0.1 * size:
        reach = min(0.5, 0.09 * size / opening)
        teeth = np.concatenate([inner[1:4], (1 - reach) * inner[3:0:-1] + reach * inner[5:8]])
        canvas.fill(teeth, np.array((225.0, 235, 240)))
    canvas.fill(np.concatenate([outer[:7], inner[4::-1]]), 0.86 * style.lips)
    canvas.fill(np.concatenate([outer[6:], outer[:1], inner[:1], inner[:3:-1]]), style.lips)
    canvas.line(inner[:5], 0.45 * style.lips, 0.016 * size)
    canvas.line(inner[4:][[0, 1, 2, 3]], 0.5 * style.lips, 0.012 * size)


def _draw_before(rng: np.random.Generator, canvas: _Canvas, head: Head, style: _Style) -> None:
    """Glasses, and what hides a part of the face."""
    points, size = head.landmarks, head.width
    right, left = points[RIGHT_EYE], points[LEFT_EYE]
    if style.glasses:
        frame = np.array((30.0, 30, 35)) if rng.random() < 0.7 else rng.uniform(30, 160, 3)
        across = (left.mean(axis=0) - right.mean(axis=0)) / np.linalg.norm(left.mean(axis=0) - right.mean(axis=0))
        down = np.array([-across[1], across[0]])
        angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
        for eye, temple in ((right, points[1]), (left, points[31])):
            half = 0.5 * np.linalg.norm(eye[4] - eye[0]) + 0.1 * size
            ring = eye.mean(axis=0) + (0.02 * size) * down
            ring = ring + half * np.cos(angle)[:, None] * across + 0.21 * size * np.sin(angle)[:, None] * down
            canvas.fill(ring, np.array((40.0, 36, 34)) if style.glasses == 2 else np.array((235.0, 230, 225)),
                        0.93 if style.glasses == 2 else 0.12)  # fmt: skip
            canvas.line(ring, frame, 0.035 * size, closed=True)
            canvas.line(np.stack([eye[0] + (eye[0] - eye[4]) * 0.25, temple]), frame, 0.03 * size)
        canvas.line(np.stack([right[4], left[0]]), frame, 0.03 * size)
    colour = rng.uniform(40, 220, 3)
    if style.cover == 1:
        mask = np.concatenate([points[4:29], points[[59, 53, 55]]])
        canvas.fill(mask, colour)
        for share in (0.35, 0.6):
            canvas.line(share * points[[5, 16, 27]] + (1 - share) * points[[55, 57, 59]], 0.8 * colour, 0.02 * size)
    elif style.cover == 2:
        _draw_hand(rng, canvas, head, style)
    elif style.cover == 3:
        side = 1 if rng.random() < 0.5 else -1
        top = head.forehead[len(head.forehead) // 2 - 3 * side]
        end = points[[26, 20]] if side > 0 else points[[6, 12]]
        canvas.fill(
            np.concatenate([[top], points[[30 if side > 0 else 2]], end[:1], end.mean(axis=0)[None]]), style.hair
        )
    elif style.cover == 4:
        start = points[rng.integers(0, 33)]
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.35, 0.6) * size
        long = np.array([np.cos(angle), np.sin(angle)]) * reach
        wide = np.array([-long[1], long[0]]) * rng.uniform(0.5, 1)
        block = start + np.stack([long + wide, long - wide, -long - wide, -long + wide])
        canvas.fill(block, colour)
        canvas.line(block, 0.6 * colour, 0.03 * size, closed=True)


def _draw_hand(rng: np.random.Generator, canvas: _Canvas, head: Head, style: _Style) -> None:
    """Four fingers from below, over cheek or mouth."""
    points, size = head.landmarks, head.width
    target = points[[76, 82, 85, 10, 22][int(rng.integers(5))]]
    lean = rng.uniform(-0.5, 0.5)
    up = np.array([np.sin(lean), -np.cos(lean)])
    side = np.array([-up[1], up[0]])
    for finger in (-1.5, -0.5, 0.5, 1.5):
        root = target - 1.1 * size * up + 0.17 * size * finger * side
        tip = target + (0.25 - 0.07 * abs(finger)) * size * up + 0.16 * size * finger * side
        canvas.line(np.stack([root, tip]), 0.62 * style.skin, 0.19 * size)
        canvas.line(np.stack([root, tip]), 0.94 * style.skin, 0.15 * size)


def _lit(image: Array, side: float, level: float) -> Array:
    """The picture under light that falls from one side: `level` in the middle, `side` more to the right end."""
    if level == 1 and abs(side) < 0.2:
        return image
    ramp = level * (1 + side * np.linspace(-1, 1, image.shape[1], dtype=np.float32))
    return np.clip(image * ramp[None, :, None], 0, 255).astype(np.uint8)

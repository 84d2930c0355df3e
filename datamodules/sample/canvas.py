"""The picture of the embedded sample data: a canvas, and the scenery on it: rooms, streets, furniture, light and grain.

Not from the paper; it stands in for COCO so that every experiment runs without a download. A picture is drawn far to
near at twice its size and reduced at the end: smooth edges for the eye, exact masks and visibility for the labels. The
canvas draws solid shapes and remembers for every pixel what lies on top. `coco.py` begins with `draw_background`, puts
people and furniture that hides them on a `Canvas`, and ends with `develop`.
"""

import cv2
import numpy as np

from datamodules.sample.bodies import Array

FURNITURE = 255  # in Canvas.owner: a thing that may hide people
_CIRCLE = np.stack([np.cos(np.arange(20) * np.pi / 10), np.sin(np.arange(20) * np.pi / 10)], axis=1)


class Canvas:
    """A picture drawn at twice its size: `image` (2H, 2W, 3) BGR uint8 and `owner` (2H, 2W) uint8, who is on top.

    Coordinates given to its methods are pixels of the final picture (x, y), pixel centres at integers.
    """

    def __init__(self, background: Array, light: Array) -> None:
        self.image = cv2.resize(background, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
        self.owner = np.zeros(self.image.shape[:2], np.uint8)
        self.light = light

    def fill(self, circles: Array, colour: Array, owner: int | None = None) -> None:
        """Fill the convex hull of circles (N, 3), x, y, radius; without `owner` the pixels keep theirs."""
        points = (circles[:, None, :2] + circles[:, None, 2:] * _CIRCLE).reshape(-1, 2)
        outline = cv2.convexHull(points.astype(np.float32))
        fixed = np.round((2 * outline + 0.5) * 16).astype(np.int32)
        cv2.fillConvexPoly(self.image, fixed, colour.tolist(), cv2.LINE_AA, 4)
        if owner is not None:
            cv2.fillConvexPoly(self.owner, fixed, owner, cv2.LINE_8, 4)

    def solid(self, circles: Array, colour: Array, owner: int, line: float = 0.0) -> None:
        """Fill a hull with a dark outline `line` px wide, a shaded side and a light side."""
        grown = circles + np.array((0, 0, line))
        self.fill(grown, 0.5 * colour, owner)
        self.fill(circles, 0.84 * colour)
        lit = circles[:, 2:] * (*self.light, 0)
        self.fill(circles * (1, 1, 0.8) + 0.2 * lit, colour)
        self.fill(circles * (1, 1, 0.4) + 0.42 * lit, np.minimum(1.1 * colour + 6, 255))

    def limb(self, circles: Array, colour: Array, owner: int, line: float) -> None:
        """Draw a limb (first and last circle its joints); its outline fades at both, so that segments flow together."""
        middle = circles.mean(axis=0) + np.array((0, 0, line))
        lower = 0.5 * (middle + circles[-1]) + np.array((0, 0, 0.4 * line))
        grown = np.stack([circles[0], middle, lower, circles[-1]])
        self.fill(grown, 0.5 * colour, owner)
        self.solid(circles, colour, owner)

    def ellipsoid(self, centre: Array, frame: Array, axes: Array) -> tuple[tuple[slice, slice], Array, Array]:
        """Cast rays at an ellipsoid with half axes (3,) px; `frame` (3, 3) leads from its own frame to the picture.

        Returns its window (rows, columns) of the canvas, for every pixel of the window the surface point (h, w, 3) in
        half axes of its own frame, and the depth (h, w): largest in the middle, 0 on the silhouette, negative outside.
        """
        reach = float(axes.max())
        low = np.maximum(np.floor(2 * (centre - reach)), 0).astype(int)
        high = np.maximum(np.ceil(2 * (centre + reach)).astype(int) + 2, low)
        window = slice(low[1], min(high[1], len(self.owner))), slice(low[0], min(high[0], self.owner.shape[1]))
        x = (np.arange(low[0], max(window[1].stop, low[0])) - 0.5) / 2 - centre[0]
        y = (np.arange(low[1], max(window[0].stop, low[1])) - 0.5) / 2 - centre[1]
        across, down, away = (frame.T / axes[:, None]).T
        start = x[None, :, None] * across + y[:, None, None] * down
        squared = away @ away
        half = start @ away
        depth = half**2 - squared * ((start**2).sum(axis=-1) - 1)
        hit = (np.sqrt(np.maximum(depth, 0)) - half) / squared
        return window, start + hit[..., None] * away, depth / squared

    def finish(self) -> tuple[Array, Array]:
        """Return the picture (H, W, 3) BGR uint8 and the owner of each of its pixels (H, W) uint8."""
        height, width = self.owner.shape
        image = cv2.resize(self.image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        return image, np.ascontiguousarray(self.owner[1::2, 1::2])


def _tint(rng: np.random.Generator, low: int, high: int, spread: int = 22) -> Array:
    """Draw a muted colour (3,) BGR, so that backgrounds stay behind people."""
    return np.clip(rng.uniform(low, high) + rng.normal(0, spread, 3), 10, 250)


def _box(image: Array, left: float, top: float, right: float, bottom: float, colour: Array) -> None:
    corners = [round(float(value)) for value in (left, top, right, bottom)]
    cv2.rectangle(image, corners[:2], corners[2:], colour.tolist(), -1)


def _gradient(image: Array, top: int, bottom: int, first: Array, last: Array) -> None:
    t = np.linspace(0, 1, max(bottom - top, 1))[:, None, None]
    image[top:bottom] = np.clip((1 - t) * first + t * last, 0, 255).astype(np.uint8)


def draw_background(rng: np.random.Generator, height: int, width: int) -> Array:
    """Draw a room or a street: (height, width, 3) BGR uint8."""
    image = np.empty((height, width, 3), np.uint8)
    horizon = int(height * rng.uniform(0.55, 0.8))
    (_street if rng.random() < 0.45 else _room)(rng, image, horizon)
    _floor(rng, image, horizon)
    for _ in range(rng.integers(0, 3)):
        _plant(
            rng, image, rng.uniform(0, width), horizon + rng.uniform(0, 0.2) * height, height * rng.uniform(0.1, 0.3)
        )
    return image


def _room(rng: np.random.Generator, image: Array, horizon: int) -> None:
    width = image.shape[1]
    wall = _tint(rng, 120, 225)
    _gradient(image, 0, horizon, wall, 0.88 * wall)
    line = (0.85 * wall).tolist()
    texture = rng.integers(4)
    step = int(rng.integers(10, 26))
    if texture == 0:  # bricks
        for row, y in enumerate(range(0, horizon, step)):
            cv2.line(image, (0, y), (width, y), line, 1)
            for x in range((row % 2) * step, width, 2 * step):
                cv2.line(image, (x, y), (x, min(y + step, horizon)), line, 1)
    elif texture == 1:  # planks or wallpaper
        for x in range(int(rng.integers(step)), width, step):
            _box(image, x, 0, x + step * rng.choice((0.0, 0.4)), horizon, 0.9 * wall)
    for _ in range(rng.integers(1, 5)):
        _picture(rng, image, rng.uniform(0, width), rng.uniform(0, 0.7 * horizon), rng.uniform(0.08, 0.25) * width)
    if rng.random() < 0.6:
        _cupboard(rng, image, horizon)
    _box(image, 0, horizon - 4, width, horizon, _tint(rng, 60, 230, 8))


def _picture(rng: np.random.Generator, image: Array, x: float, y: float, size: float) -> None:
    """Hang a framed poster or a window with its top left corner at (x, y)."""
    w, h = size, size * rng.uniform(0.6, 1.5)
    _box(image, x, y, x + w, y + h, _tint(rng, 40, 220))
    _box(image, x + 3, y + 3, x + w - 3, y + h - 3, _tint(rng, 120, 240, 30))
    for _ in range(rng.integers(0, 4)):
        centre = (int(x + w * rng.uniform(0.25, 0.75)), int(y + h * rng.uniform(0.25, 0.75)))
        cv2.circle(
            image, centre, int(w * rng.uniform(0.05, 0.2)) + 1, _tint(rng, 60, 220, 40).tolist(), -1, cv2.LINE_AA
        )


def _cupboard(rng: np.random.Generator, image: Array, horizon: int) -> None:
    height, width = image.shape[:2]
    colour = _tint(rng, 70, 190)
    w, h, x = width * rng.uniform(0.15, 0.4), height * rng.uniform(0.2, 0.5), rng.uniform(-0.1, 0.9) * width
    top = horizon + 0.03 * height - h
    _box(image, x, top, x + w, top + h, colour)
    rows = int(rng.integers(2, 5))
    for row in range(rows):
        y = top + (row + 0.1) * h / rows
        _box(image, x + 3, y, x + w - 3, y + 0.8 * h / rows, rng.uniform(0.75, 1.1) * colour)
        _box(image, x + 0.45 * w, y + 3, x + 0.55 * w, y + 5, 0.5 * colour)


def _street(rng: np.random.Generator, image: Array, horizon: int) -> None:
    width = image.shape[1]
    _gradient(image, 0, horizon, np.array((235.0, 190, 140)) + rng.normal(0, 15, 3), np.array((240.0, 230, 215)))
    x = -rng.uniform(0, 40)
    built = rng.random() < 0.6
    while x < width:
        w, h = width * rng.uniform(0.12, 0.3), horizon * rng.uniform(0.25, 0.85)
        colour = _tint(rng, 110, 210)
        if built:
            _box(image, x, horizon - h, x + w, horizon, colour)
            for wx in np.arange(x + 6, x + w - 8, 14):
                for wy in np.arange(horizon - h + 6, horizon - 10, 18):
                    _box(image, wx, wy, wx + 6, wy + 9, 0.72 * colour)
        else:
            hill = (int(w), int(0.7 * h))
            green = (0.55 * colour + (20, 70, 30)).tolist()
            cv2.ellipse(image, (int(x + w / 2), horizon), hill, 0, 180, 360, green, -1, cv2.LINE_AA)
        x += w * rng.uniform(0.8, 1.3)


def _floor(rng: np.random.Generator, image: Array, horizon: int) -> None:
    height, width = image.shape[:2]
    floor = _tint(rng, 90, 200)
    _gradient(image, horizon, height, 0.85 * floor, floor)
    if rng.random() < 0.7:
        vanish = (int(width * rng.uniform(0.2, 0.8)), horizon - int(0.3 * height))
        line = (0.8 * floor).tolist()
        below = image[horizon:]
        for x in range(-2 * width, 3 * width, width // 5):
            cv2.line(below, (vanish[0], vanish[1] - horizon), (x, height - horizon), line, 1, cv2.LINE_AA)
        for t in np.linspace(0, 1, 6)[1:] ** 2:
            y = round(float(t) * (height - horizon))
            cv2.line(below, (0, y), (width, y), line, 1)


def _plant(rng: np.random.Generator, image: Array, x: float, y: float, size: float) -> None:
    leaf = np.array((50.0, 130, 60)) + rng.normal(0, 18, 3)
    for angle in rng.uniform(-80, 80, 9):
        tip = np.array((x + size * np.sin(np.radians(angle)), y - size * np.cos(np.radians(angle))))
        centre = (0.5 * tip + 0.5 * np.array((x, y))).astype(int).tolist()
        shape = (int(size * 0.5), int(size * 0.09) + 1)
        colour = (leaf * rng.uniform(0.75, 1.25)).tolist()
        cv2.ellipse(image, centre, shape, angle - 90, 0, 360, colour, -1, cv2.LINE_AA)
    _box(image, x - 0.2 * size, y - 0.05 * size, x + 0.2 * size, y + 0.3 * size, _tint(rng, 60, 180))


_GRAIN = np.random.default_rng(0).normal(0, 3.0, (512, 640, 3)).astype(np.int16)


def develop(rng: np.random.Generator, image: Array) -> Array:
    """Add uneven light, a slight blur now and then, and grain: (H, W, 3) uint8 to the same."""
    height, width = image.shape[:2]
    light = cv2.resize(rng.uniform(0.82, 1.08, (3, 4)), (width, height), interpolation=cv2.INTER_CUBIC)
    image = cv2.multiply(image, cv2.merge([light.astype(np.float32)] * 3), dtype=cv2.CV_8U)
    if rng.random() < 0.12:
        image = cv2.GaussianBlur(image, (3, 3), 0)
    top, left = rng.integers(512 - height), rng.integers(640 - width)
    grain = _GRAIN[top : top + height, left : left + width]
    return cv2.add(image, grain, dtype=cv2.CV_8U)


def draw_shadow(background: Array, feet: Array, reach: float) -> None:
    """Darken the floor about feet (N, 2) and `reach` px to both sides."""
    height, width = background.shape[:2]
    x, y = feet[:, 0].mean(), np.clip(feet[:, 1].max(), 0, height - 1)
    reach += 0.5 * np.ptp(feet[:, 0])
    ground = background[int(y), int(np.clip(x, 0, width - 1))]
    shape = (int(reach), int(0.2 * reach) + 1)
    cv2.ellipse(background, (int(x), int(y)), shape, 0, 0, 360, (0.72 * ground).tolist(), -1, cv2.LINE_AA)


def draw_seat(rng: np.random.Generator, canvas: Canvas, pelvis: Array, floor: float, height: float) -> None:
    """Put a stool that stands on `floor` (y) under the pelvis (x, y) of a person of `height` px."""
    colour = rng.uniform(50, 160) + rng.normal(0, 20, 3)
    x, seat, half = pelvis[0], pelvis[1] + 0.07 * height, 0.13 * height
    for leg in (-0.8 * half, 0.8 * half):
        post = np.array([(x + leg, seat, 0.016 * height), (x + leg, max(floor, seat), 0.014 * height)])
        canvas.solid(post, 0.8 * colour, FURNITURE, 1.0)
    board = np.array([(x - half, seat, 0.03 * height), (x + half, seat, 0.03 * height)])
    canvas.solid(board, colour, FURNITURE, 1.0)


def draw_obstacle(rng: np.random.Generator, canvas: Canvas, height: int, width: int) -> None:
    """Put a low counter in front of everybody in a picture of (height, width) px."""
    left, top = rng.uniform(-0.1, 0.9) * width, rng.uniform(0.68, 0.85) * height
    right = left + rng.uniform(0.15, 0.35) * width
    colour = np.clip(rng.uniform(60, 190) + rng.normal(0, 25, 3), 20, 235)
    corners = np.array([(x, y, 2.0) for x in (left, right) for y in (top, height + 5)])
    canvas.fill(corners, 0.5 * colour, FURNITURE)
    canvas.fill(corners * (1, 1, 0.2), 0.9 * colour)
    canvas.solid(np.array([(left - 3, top, 4.0), (right + 3, top, 4.0)]), colour, FURNITURE, 1.0)

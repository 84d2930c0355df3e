"""People of the embedded sample data, drawn with OpenCV as a clean illustration whose every pixel knows its body part.

Not from the paper; it stands in for COCO so that every experiment runs without a download. `coco.py` places
people with `sample_person`, draws them far to near on one `Canvas`, then asks `Person.visibility` what can be seen.
"""

from dataclasses import dataclass, replace

import numpy as np

from datamodules.sample.bodies import KEYPOINTS, POINTS_OF_FACE, Array, Look, Pose, sample_look, sample_pose, turn
from datamodules.sample.canvas import FURNITURE, Canvas

# What lies on top of a pixel, as a person sees it; the left one of a pair is even, the right one odd.
CHEST, HIPS, SKIRT, NECK, FACE, HAIR = 1, 2, 3, 4, 5, 6
EARS, UPPER_ARMS, FOREARMS, HANDS, THIGHS, SHINS, SHOES = 8, 10, 12, 14, 16, 18, 20
SURFACES = 32  # surfaces a person may have; surface s of person n is n * SURFACES + s in Canvas.owner
PART_NAMES = (
    "background", "hair", "face", "torso", "hips", "left_arm", "right_arm", "left_leg", "right_leg", "left_shoe",
    "right_shoe",
)  # fmt: skip
PART_OF_SURFACE = np.array(
    [0, 3, 4, 4, 3, 2, 1, 0, 2, 2, 5, 6, 5, 6, 5, 6, 7, 8, 7, 8, 9, 10] + [0] * 10, dtype=np.uint8
)
_OWN_SURFACES = {
    "nose": (FACE,), "eye": (FACE,), "ear": (EARS,), "shoulder": (UPPER_ARMS,), "elbow": (UPPER_ARMS, FOREARMS),
    "wrist": (FOREARMS, HANDS), "hip": (THIGHS,), "knee": (THIGHS, SHINS), "ankle": (SHINS, SHOES),
}  # fmt: skip
_TRUNK = {"shoulder": (CHEST, NECK), "hip": (HIPS, SKIRT, CHEST)}


@dataclass(frozen=True)
class Person:
    """A posed and dressed person in a picture.

    points: (x, y, z) each, pixels, z towards the viewer; view: (3, 3) from the pose's frame; height: px of the body.
    """

    points: dict[str, Array]
    pose: Pose
    view: Array
    look: Look
    height: float

    @property
    def keypoints(self) -> Array:
        """(17, 2) COCO key points, px, those outside the picture too."""
        return np.stack([self.points[name][:2] for name in KEYPOINTS])

    def moved(self, offset: Array) -> "Person":
        """Return the person shifted by `offset` (x, y) px."""
        shift = np.array([*offset, 0.0])
        return replace(self, points={name: point + shift for name, point in self.points.items()})

    def hull(self, *circles: tuple[str, float]) -> Array:
        """Return circles (N, 3), x, y, radius in px, about named points; radii given in body heights."""
        scale = self.height * self.look.build
        return np.array([(*self.points[name][:2], radius * scale) for name, radius in circles])

    def draw(self, canvas: Canvas, number: int) -> None:
        """Draw the person, who is the `number`-th of the picture (0 to 6), the farthest pieces first."""
        pieces = self._trunk_pieces() + self._limb_pieces("l_", 0) + self._limb_pieces("r_", 1)
        for _, draw, surface, *arguments in sorted(pieces, key=lambda piece: piece[0]):
            draw(canvas, number * SURFACES + surface, *arguments)

    def _depth(self, *names: str) -> float:
        return float(np.mean([self.points[name][2] for name in names])) / self.height

    def _trunk_pieces(self) -> list[tuple]:
        look = self.look
        throat = min(self._depth("neck"), self._depth("head")) - 0.005
        pieces = [
            (self._depth("pelvis", "waist"), self._hips, HIPS),
            (self._depth("neck", "waist") + 0.012, self._chest, CHEST),
            (throat, self._limb, NECK, "neck", "head", 0.03, 0.03, 0.92 * look.skin),
            (self._depth("head"), self._head, FACE),
        ]
        if look.legs == "skirt":
            depth = max(self._depth(name) for name in ("l_knee", "r_knee", "pelvis"))
            pieces.append((depth + 0.003, self._skirt, SKIRT))
        if look.long_hair:
            pieces.append((self._depth("nape"), self._limb, HAIR, "crown", "nape", 0.06, 0.055, look.hair))
        return pieces

    def _limb_pieces(self, n: str, side: int) -> list[tuple]:
        """Pieces of one side: depth, drawing method, surface, arguments; the names of its points begin with `n`."""
        look, limb = self.look, self._limb
        sleeve = look.shirt if look.sleeves == 2 else look.skin
        trouser = look.trousers if look.legs == "trousers" else look.skin
        shoulder, elbow, wrist = n + "shoulder", n + "elbow", n + "wrist"
        hip, knee, ankle = n + "hip", n + "knee", n + "ankle"
        upper_arm, thigh = self._depth(shoulder, elbow) + 0.03, self._depth(hip, knee)
        pieces = [
            (upper_arm, limb, UPPER_ARMS + side, shoulder, elbow, 0.034, 0.026, sleeve),
            (self._depth(elbow, wrist) + 0.035, limb, FOREARMS + side, elbow, wrist, 0.025, 0.018, sleeve),
            (self._depth(n + "hand") + 0.034, self._hand, HANDS + side, n),
            (thigh, limb, THIGHS + side, hip, knee, 0.052, 0.036, trouser),
            (self._depth(knee, ankle) - 0.002, limb, SHINS + side, knee, ankle, 0.035, 0.023, trouser),
            (self._depth(ankle) - 0.004, self._shoe, SHOES + side, n),
        ]
        if look.sleeves == 1:
            pieces.append((upper_arm + 1e-4, limb, UPPER_ARMS + side, shoulder, n + "cuff", 0.035, 0.034, look.shirt))
        if look.legs == "shorts":
            pieces.append((thigh + 1e-4, limb, THIGHS + side, hip, n + "hem", 0.053, 0.046, look.trousers))
        # Seen from the front only, or from the back only: they tell the view of a limb whose person's face is hidden.
        for joint, mark, surface, colour in ((knee, "kneecap", SHINS, trouser), (elbow, "elbow_tip", FOREARMS, sleeve)):
            if self._depth(n + mark) > self._depth(joint):
                front = max(piece[0] for piece in pieces if piece[2] in (surface + side, surface + side - 2))
                pieces.append((front + 1e-4, self._patch, surface + side, n + mark, colour))
        ear = n + "ear"
        if look.long_hair:  # falls over the ears
            pieces.append((self._depth(ear) - 0.01, limb, HAIR, ear, "nape", 0.022, 0.040, look.hair))
        else:
            pieces.append((self._depth(ear) - 0.01, self._ear, EARS + side, ear))
        return pieces

    @property
    def _line(self) -> float:
        return 0.8 + 0.004 * self.height

    def _limb(self, canvas: Canvas, owner: int, start: str, end: str, r0: float, r1: float, colour: Array) -> None:
        canvas.limb(self.hull((start, r0), (end, r1)), colour, owner, self._line)

    def _patch(self, canvas: Canvas, owner: int, name: str, colour: Array) -> None:
        canvas.fill(self.hull((name, 0.020)), 0.6 * colour, owner)
        canvas.fill(self.hull((name, 0.015)), np.minimum(1.15 * colour + 30, 255))

    def _ear(self, canvas: Canvas, owner: int, name: str) -> None:
        canvas.solid(self.hull((name, 0.016)), 0.92 * self.look.skin, owner, 0.7 * self._line)

    def _hand(self, canvas: Canvas, owner: int, n: str) -> None:
        skin = self.look.skin
        canvas.solid(self.hull((n + "wrist", 0.014), (n + "thumb", 0.009)), skin, owner, 0.6 * self._line)
        canvas.solid(self.hull((n + "wrist", 0.016), (n + "hand", 0.021)), skin, owner, self._line)
        if self.look.watch and n == "l_":
            canvas.fill(self.hull((n + "wrist", 0.021)), np.array((40.0, 40, 40)))
            canvas.fill(self.hull((n + "wrist", 0.010)), np.array((230.0, 230, 235)))

    def _shoe(self, canvas: Canvas, owner: int, n: str) -> None:
        shoe = self.hull((n + "ankle", 0.022), (n + "heel", 0.021), (n + "toe", 0.019))
        canvas.solid(shoe, self.look.shoes, owner, self._line)
        canvas.fill(self.hull((n + "toe", 0.010)), np.minimum(1.5 * self.look.shoes + 40, 255))

    def _hips(self, canvas: Canvas, owner: int) -> None:
        hips = self.hull(("l_hip", 0.050), ("r_hip", 0.050), ("waist", 0.062))
        canvas.solid(hips, self.look.trousers, owner, self._line)

    def _skirt(self, canvas: Canvas, owner: int) -> None:
        names = ("waist", 0.062), ("l_hip", 0.055), ("r_hip", 0.055), ("l_hem", 0.058), ("r_hem", 0.058)
        canvas.solid(self.hull(*names), self.look.trousers, owner, self._line)

    def _chest(self, canvas: Canvas, owner: int) -> None:
        """Draw the trunk with stripes, and on its front a collar, a seam and a badge over the heart."""
        look, points = self.look, self.points
        trunk = self.hull(("l_shoulder", 0.036), ("r_shoulder", 0.036), ("l_waist", 0.052), ("r_waist", 0.052))
        canvas.solid(trunk, look.shirt, owner, self._line)
        left, right = trunk[[0, 2]], trunk[[1, 3]]
        for t in (np.arange(look.stripes) + 0.8) / max(look.stripes, 1):
            ends = np.stack([(1 - t) * left[0] + t * left[1], (1 - t) * right[0] + t * right[1]])
            canvas.fill(ends * (1, 1, 0.0) + (0, 0, 0.008 * self.height), 0.5 * (look.accent + 0.4 * look.shirt))
        if (self.view @ self.pose.chest)[2, 2] < 0.3:
            return
        canvas.fill(self.hull(("collar", 0.022), ("neck", 0.024)), look.skin)
        canvas.fill(self.hull(("collar", 0.003), ("placket", 0.003)), 0.55 * look.shirt)
        badge = np.array([[*points["badge"][:2], 0.020 * self.height]])
        canvas.fill(badge, 0.3 * look.shirt)
        canvas.fill(badge * (1, 1, 0.7), look.accent)

    def _head(self, canvas: Canvas, owner: int) -> None:
        """Ray-cast the ellipsoid of the head, so that hair and face are right from every side."""
        look, frame, axes = self.look, self.view @ self.pose.head, self.pose.skull * self.height
        window, q, depth = canvas.ellipsoid(self.points["head"][:2], frame, axes)
        x, y, z = q[..., 0], q[..., 1], q[..., 2]
        hairline = 0.42 - 0.5 * x * x if look.long_hair else 0.5 - 0.25 * x * x
        hair = ((y > hairline) | (z < 0.12)) & (y > -0.62 - 0.3 * look.long_hair)
        kind = hair.astype(np.uint8)
        for n, sign in (("l_eye", 1), ("r_eye", -1)):
            eye = POINTS_OF_FACE[n]
            away = ((q - eye) * (1.0, 1.25, 1.0)) ** 2
            kind[away.sum(axis=-1) < 0.21**2] = 2
            kind[((q - eye) ** 2).sum(axis=-1) < 0.13**2] = 3
            brow = (np.abs(y - 0.33) < 0.045) & (np.abs(x - sign * 0.42) < 0.2) & (z > 0) & ~hair
            kind[brow] = 1
        kind[(np.abs(y + 0.52 - 0.3 * x * x) < 0.05) & (np.abs(x) < 0.28) & (z > 0)] = 4
        palette = np.stack([look.skin, look.hair, np.full(3, 245.0), np.full(3, 30.0), 0.55 * look.skin])
        palette = np.minimum(palette, 255)
        inside = depth > 0
        shade = np.where(depth < 2.4 * self._line / axes[1], 0.5, 0.86 + 0.14 * np.sqrt(np.maximum(depth, 0)))
        window_image, window_owner = canvas.image[window], canvas.owner[window]
        window_image[inside] = (palette[kind] * shade[..., None])[inside].astype(np.uint8)
        # Brows and hair share a colour; only the scalp and what hangs from it are the part "hair".
        window_owner[inside] = np.where(hair, owner - FACE + HAIR, owner)[inside]
        if self.points["nose"][2] > self.points["head"][2]:
            canvas.fill(self.hull(("nose", 0.0155)), 0.62 * look.skin, owner)
            canvas.fill(self.hull(("nose", 0.0115)), 0.86 * look.skin, owner)

    def visibility(self, owner: Array, number: int) -> Array:
        """What the picture shows of each key point: (17,) of 0 not labelled, 1 hidden, 2 visible.

        owner: (H, W) of the finished canvas. A key point is hidden by another person, by furniture or by a part of its
        own body that is not one of the limbs meeting there. Not labelled are points outside the picture, and nose and
        eyes of a face turned away, which COCO's annotators leave out as well.
        """
        height, width = owner.shape
        flags = np.zeros(len(KEYPOINTS), np.int64)
        for k, name in enumerate(KEYPOINTS):
            column, row = np.round(self.points[name][:2]).astype(int)
            turned_away = name.split("_")[-1] in ("nose", "eye") and self.points[name][2] < self.points["head"][2]
            if 0 <= column < width and 0 <= row < height and not turned_away:
                flags[k] = 2 if self._shows(name, int(owner[row, column]), number) else 1
        return flags

    def _shows(self, name: str, top: int, number: int) -> bool:
        joint, side = name.split("_")[-1], int(name.startswith("r_"))
        if top == 0:
            return True
        if top == FURNITURE or top // SURFACES != number:
            return False
        surface = top % SURFACES
        if surface in _TRUNK.get(joint, ()):
            # A joint on the trunk is seen through its skin from the front or back, not through the whole body.
            middle = self.points["pelvis" if joint == "hip" else "neck"][2]
            return bool(self.points[name][2] > middle - 0.05 * self.height)
        return surface in [own + (side if own >= EARS else 0) for own in _OWN_SURFACES[joint]]


def sample_person(rng: np.random.Generator, height: float) -> Person:
    """Draw a person of `height` px (standing upright) whose pelvis is at the origin; four fifths face the viewer."""
    pose = sample_pose(rng)
    yaw = np.clip(rng.normal(0, 33), -85, 85) if rng.random() < 0.8 else 180 + rng.normal(0, 28)
    roll = rng.normal(0, 7) if rng.random() < 0.96 else rng.uniform(-75, 75)
    view = np.diag((1.0, -1.0, 1.0)) @ turn(2, roll) @ turn(0, rng.uniform(2, 16)) @ turn(1, yaw)
    points = {name: height * (view @ point) for name, point in pose.points.items()}
    return Person(points, pose, view, sample_look(rng), height)

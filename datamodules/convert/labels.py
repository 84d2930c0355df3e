"""What labelling tools say, in one form: pictures and the things on them, in pixels, before any layout is written.

Readers (`formats/`) make `Labels` of a source, writers (`layouts/`) make a folder of them. Coordinates are COCO's: from
0, x to the right and y down, boxes x, y, width, height. What is not taken over is counted in `LeftOut`, with examples.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from datamodules.convert.pixels import Pixels

Box = tuple[float, float, float, float]
UNNAMED = "object"
"""Class of what a source draws and does not name."""


class Point(NamedTuple):
    """A key point in pixels; `visible` is COCO's: 1 for labelled but hidden, 2 for visible."""

    x: float
    y: float
    visible: int = 2


class Patch(NamedTuple):
    """The pixels of a thing: (h, w) bool whose upper left corner is the image's pixel x, y."""

    pixels: np.ndarray
    x: int = 0
    y: int = 0


@dataclass
class Thing:
    """One labelled thing.

    Args:
        name: Its class.
        box: x, y, width, height in pixels; None where the source draws none.
        points: Its labelled key points, by name.
        polygons: Outlines of its parts, x, y of each corner in turn.
        mask: Its pixels, where they are not outlined.
        crowd: Whether it is evaluated as COCO's crowds are, and not learned.
        group: What ties the shapes of one thing together in the source.
    """

    name: str
    box: Box | None = None
    points: dict[str, Point] = field(default_factory=dict)
    polygons: list[list[float]] = field(default_factory=list)
    mask: Patch | None = None
    crowd: bool = False
    group: Any = None

    @property
    def outlined(self) -> bool:
        """Whether it is known which pixels are its own."""
        return bool(self.polygons) or self.mask is not None

    def extent(self) -> Box | None:
        """Its box, or the smallest one about its outlines; None if it has neither."""
        if self.box is not None:
            return self.box
        if self.polygons:
            return hull([xy for polygon in self.polygons for xy in zip(polygon[::2], polygon[1::2], strict=True)])
        if self.mask is not None and self.mask.pixels.any():
            rows, columns = (np.flatnonzero(self.mask.pixels.any(axis=axis)) for axis in (1, 0))
            x, y = self.mask.x + int(columns[0]), self.mask.y + int(rows[0])
            return float(x), float(y), float(columns[-1] - columns[0] + 1), float(rows[-1] - rows[0] + 1)
        return None


@dataclass
class Picture:
    """One image and what is said of it.

    Args:
        pixels: Where its pixels are.
        name: What it is called in the result, with `/` between folders.
        things: What is labelled on it.
        classes: Classes of the image as a whole.
        mask: Gives (H, W) uint8 places in `Labels.mask_classes`, 255 where nothing is scored; None without a mask.
        size: (height, width) in pixels that the source states.
        group: The clip that it is of; None for a photograph of its own.
        split: train, val or test where the source says so.
    """

    pixels: Pixels
    name: str
    things: list[Thing] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    mask: Callable[[], np.ndarray] | None = None
    size: tuple[int, int] | None = None
    group: str | None = None
    split: str | None = None


class LeftOut:
    """What was not taken over: how many of each reason, and the first few."""

    def __init__(self) -> None:
        self.items: dict[str, list[str]] = {}
        self.counts: dict[str, int] = {}

    def add(self, reason: str, item: str, count: int = 1) -> None:
        """Count `item` under `reason`, which says what it is in the plural and why it is not taken."""
        item = item.encode("utf-8", "replace").decode()  # a file's name may be no text
        self.counts[reason] = self.counts.get(reason, 0) + count
        items = self.items.setdefault(reason, [])
        if len(items) < 3 and item not in items:
            items.append(item)

    def lines(self) -> list[str]:
        """A line for each reason: `3 images that were not found (a.png, b.png, ...)`."""
        return [
            f"{count} {reason} ({', '.join(self.items[reason])}{', ...' * (count > len(self.items[reason]))})"
            for reason, count in self.counts.items()
        ]


@dataclass
class Labels:
    """All that a source says.

    Args:
        format: Name of the reader.
        pictures: The images.
        points: Names of the key points in the source's order; empty takes the order in which they come.
        limbs: Pairs of them that are joined by a line.
        flip_pairs: Pairs of them that a mirror exchanges; empty looks for left and right in the names.
        classes: Names of classes in the source's order; further ones follow as they come.
        mask_classes: Names of the values of the pictures' masks, in order.
        left_out: What was not taken over.
        notes: Sentences about what was decided.
    """

    format: str
    pictures: list[Picture] = field(default_factory=list)
    points: list[str] = field(default_factory=list)
    limbs: list[tuple[str, str]] = field(default_factory=list)
    flip_pairs: list[tuple[str, str]] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    mask_classes: list[str] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)
    notes: list[str] = field(default_factory=list)

    def things(self) -> Iterable[Thing]:
        """The things on all pictures."""
        return (thing for picture in self.pictures for thing in picture.things)

    def point_names(self) -> list[str]:
        """Names of the key points: the stated ones, then others as they come."""
        return list(dict.fromkeys([*self.points, *(name for thing in self.things() for name in thing.points)]))

    def class_names(self, things: Iterable[Thing]) -> list[str]:
        """Classes that some of `things` have: in the stated order, then others as they come."""
        used = dict.fromkeys(thing.name for thing in things)
        return [
            *(name for name in dict.fromkeys(self.classes) if name in used),
            *(n for n in used if n not in self.classes),
        ]


def hull(points: Sequence[Sequence[float]]) -> Box:
    """The smallest box about points, each x, y and perhaps more."""
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def circle(x: float, y: float, radius_x: float, radius_y: float, degrees: float = 0.0) -> list[float]:
    """An ellipse as a polygon of 48 corners, turned clockwise about its centre."""
    angles, turn = np.linspace(0, 2 * np.pi, 48, endpoint=False), np.deg2rad(degrees)
    across, down = radius_x * np.cos(angles), radius_y * np.sin(angles)
    corners = np.stack([across * np.cos(turn) - down * np.sin(turn), across * np.sin(turn) + down * np.cos(turn)], 1)
    return (corners + np.array([x, y])).ravel().tolist()


def turned(box: Box, degrees: float, about: tuple[float, float]) -> list[float]:
    """The corners of a box that is turned clockwise, as it looks on the screen, about a point: a polygon."""
    x, y, width, height = box
    turn, centre = np.deg2rad(degrees), np.array(about)
    corners = np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)]) - centre
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return (corners @ matrix.T + centre).ravel().tolist()


def assemble(
    things: list[Thing], points: Iterable[tuple[str, Point, Any]], left_out: LeftOut, item: str
) -> list[Thing]:
    """Things with the key points that a source draws as shapes of their own: name, point, and group if it has one.

    A group decides; a point without one belongs to the smallest box that it is in; where nothing has a box, the loose
    points of an image are one thing. A second point of one name on one thing is left out.
    """
    things = list(things)
    by_group = {thing.group: thing for thing in things if thing.group is not None}
    boxed = [thing for thing in things if thing.extent() is not None]
    loose: Thing | None = None
    for name, point, group in points:
        holder = by_group.get(group) if group is not None else _smallest_about(point, boxed)
        if holder is None and group is not None:
            holder = by_group[group] = Thing(UNNAMED, group=group)
            things.append(holder)
        if holder is None and not boxed:
            if loose is None:
                loose = Thing(UNNAMED)
                things.append(loose)
            holder = loose
        if holder is None:
            left_out.add("key points outside of every box and without a group", f"{name} on {item}")
        elif name in holder.points:
            left_out.add("key points that a thing already has", f"{name} on {item}")
        else:
            holder.points[name] = point
    return things


def _smallest_about(point: Point, things: Iterable[Thing]) -> Thing | None:
    """The thing with the smallest box that has the point inside or on its border."""
    found = []
    for thing in things:
        x, y, width, height = thing.extent() or (0, 0, -1, -1)
        if x <= point.x <= x + width and y <= point.y <= y + height:
            found.append((width * height, len(found), thing))
    return min(found)[2] if found else None

"""What may be wrong with one COCO annotation: box, area, key points, segmentation (Lin et al. 2014, data format).

`check_coco.py` asks for every annotation of a file.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from datamodules.keypoints.coco_table import number, numbers

TOLERANCE = 1.0
"""Pixels by which a box may leave the image: COCO's own are rounded."""
Defect = tuple[str, str]  # kind of finding, what was found


@dataclass(frozen=True)
class Facts:
    """One annotation and what its image and skeleton demand.

    Args:
        entry: Of the JSON file.
        size: (height, width) of the image in pixels, None where unknown.
        num_keypoints: Of the skeleton.
    """

    entry: dict[str, Any]
    size: tuple[int, int] | None
    num_keypoints: int

    @cached_property
    def box(self) -> list[float] | None:
        """x, y, width, height; None where they are not as they should be."""
        return numbers(self.entry.get("bbox"), 4)

    @cached_property
    def points(self) -> list[tuple[float | None, float | None, float]]:
        """x, y, visibility of each key point, None for no number; empty where the list is not as it should be."""
        flat = self.entry.get("keypoints")
        if not isinstance(flat, list) or len(flat) != 3 * self.num_keypoints:
            return []
        values = [number(value) for value in flat]
        points = list(zip(values[::3], values[1::3], values[2::3], strict=True))
        return [] if any(v is None for _, _, v in points) else points


def annotation_defects(facts: Facts) -> Iterator[Defect]:
    """All that is wrong with an annotation, but for its ids."""
    yield from _box_defects(facts)
    yield from _area_defects(facts)
    yield from _keypoint_defects(facts)
    yield from _segmentation_defects(facts)
    crowd = facts.entry.get("iscrowd")
    if crowd is not None and number(crowd) not in (0, 1):
        yield "malformed entry", f"iscrowd is {crowd!r}, expected 0 or 1"


def _box_defects(facts: Facts) -> Iterator[Defect]:
    stated, box = facts.entry.get("bbox"), facts.box
    if box is None:
        yield "malformed entry", f"bbox is {_short(stated)}, expected 4 finite numbers x, y, width, height"
        return
    x, y, width, height = box
    if min(width, height) < 1:
        yield "box without area", f"bbox is {stated}"
    elif facts.size is not None:
        rows, columns = facts.size
        over = max(-x, -y, x + width - columns, y + height - rows)
        if over > TOLERANCE:
            yield "box outside of the image", f"bbox is {stated}, by {over:.4g} pixels outside of {rows} x {columns}"


def _area_defects(facts: Facts) -> Iterator[Defect]:
    stated = facts.entry.get("area")
    area = number(stated)
    if stated is None:
        yield "area absent or not positive", "has no area"
    # A box that is reported for having none need not be reported for this too.
    elif area is None or (area <= 0 and (facts.box is None or min(facts.box[2:]) >= 1)):
        yield "area absent or not positive", f"area is {_short(stated)}"


def _keypoint_defects(facts: Facts) -> Iterator[Defect]:
    flat, stated = facts.entry.get("keypoints"), facts.entry.get("num_keypoints")
    count = number(stated)
    if stated is not None and (count is None or count < 0):
        yield "malformed entry", f"num_keypoints is {_short(stated)}, expected a count"
        return
    if flat is None or flat == []:
        if stated:
            yield "num_keypoints disagrees", f"num_keypoints is {stated}, but there are no keypoints"
        return
    if not isinstance(flat, list):
        yield "malformed entry", f"keypoints is {_short(flat)}, expected a list"
        return
    if len(flat) != 3 * facts.num_keypoints:
        expected = f"expected {3 * facts.num_keypoints} for {facts.num_keypoints} key points"
        yield "wrong number of key points", f"keypoints has {len(flat)} numbers, {expected}"
        return
    if not facts.points:
        odd = next(v for v in flat[2::3] if number(v) is None)
        yield "visibility not 0, 1 or 2", f"a visibility is {_short(odd)}"
        return
    yield from _point_defects(facts)
    labelled = sum(v > 0 for _, _, v in facts.points)
    if stated is not None and count != labelled:
        yield "num_keypoints disagrees", f"num_keypoints is {stated}, but {labelled} are labelled"


def _point_defects(facts: Facts) -> Iterator[Defect]:
    flat = facts.entry["keypoints"]
    for index, (x, y, v) in enumerate(facts.points):
        if v not in (0, 1, 2):
            yield "visibility not 0, 1 or 2", f"key point {index} has visibility {v:g}"
        stated = flat[3 * index : 3 * index + 2]
        if v <= 0:
            odd = [value for value in stated if not isinstance(value, float) and value is not None]
            if any(number(value) is None for value in odd):  # null and nan are gaps
                yield "malformed entry", f"key point {index} is at {_short(stated)}, expected numbers"
        elif x is None or y is None:
            yield "malformed entry", f"key point {index} is labelled at {_short(stated)}, expected finite numbers"
        elif facts.size is not None and not (0 <= x <= facts.size[1] and 0 <= y <= facts.size[0]):
            where = f"{facts.size[0]} x {facts.size[1]} (height x width)"
            yield "key point outside of the image", f"key point {index} is at ({x}, {y}), outside of {where}"


def _segmentation_defects(facts: Facts) -> Iterator[Defect]:
    stated = facts.entry.get("segmentation")
    if not stated:
        return
    if isinstance(stated, dict):
        size = numbers(stated.get("size"), 2)
        if size is None or "counts" not in stated:
            yield "wrong segmentation", f"segmentation is {_short(stated)}, expected size and counts"
        elif facts.size is not None and tuple(size) != facts.size:
            expected = f"the image has {list(facts.size)} (height, width)"
            yield "wrong segmentation", f"the run-length code is of size {stated['size']}, {expected}"
        return
    polygons = stated if isinstance(stated, list) else []
    bad = [p for p in polygons if not isinstance(p, list) or len(p) < 6 or len(p) % 2 or numbers(p, len(p)) is None]
    if bad or not polygons:
        yield (
            "wrong segmentation",
            f"has a polygon {_short(bad[0] if bad else stated)}, expected x, y of 3 points or more",
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

"""The persons of a split as a table of arrays: all that a key-point data set has to say, whatever its files look like.

Crops, detections, the ground truth of the evaluation and the data doctor start from it (`data.py`). Arrays, because
plain Python objects of 150,000 persons would be copied into every loader process by reference counting.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.base import DataError
from datamodules.keypoints.annotations import Annotated
from datamodules.keypoints.columns import capped
from datamodules.keypoints.defects import Defect, Notes, listed
from datamodules.loading.distributions import Bars, Distribution, StackedBars, some
from datamodules.skeleton import Skeleton

PERSONS = frozenset({"person", "persons", "people", "human", "pedestrian"})
"""Categories of which messages and tables speak as persons."""
SEGMENT_SHARE = 0.53
"""Mean share of a COCO person's box that the segment covers: stands in where no area is stated."""


@dataclass(frozen=True)
class PersonTable(Annotated):
    """I images and N persons, or other things, with K key points each, in the order of their file.

    The first six are what every data set has. Lists do as well as arrays.

    Args:
        path: File or folder that it was read from, which messages name.
        file_names: (I,) of the images, below their folder.
        images: (N,) row of each person's image.
        boxes: (N, 4) x, y, width, height in pixels of the image.
        keypoints: (N, K, 2) x, y in pixels of the image; anything where not labelled.
        visible: (N, K) 0 not labelled, 1 labelled but hidden, 2 visible.
        image_sizes: (I, 2) height, width in pixels; 0, or None for all, where the image file has to say it.
        areas: (N,) of the persons themselves in square pixels, for OKS; None takes a share of the box.
        crowd: (N,) bool, whether the box is of a crowd, which is neither learned nor evaluated; None for no crowds.
        num_labelled: (N,) labelled key points as the file states them, for the evaluation; None, or nan, counts them.
        image_ids: (I,) ids of the images, numbers or text, as they are shown and written; None counts from 1.
        ids: (N,) likewise, of the persons.
        categories: Id -> name of what is annotated.
        category_ids: Those of which the N are; a detector's boxes of these are taken.
        counts: Name -> annotations of each category, for statistics; None for N of the only one.
        clipped: Whether boxes are clipped to their images, as the official code does COCO's; False crops them as they
            are.
        defects: What was found wrong while reading.

    Raises:
        DataError: If the columns do not fit together.
    """

    path: Path
    file_names: np.ndarray
    images: np.ndarray
    boxes: np.ndarray
    keypoints: np.ndarray
    visible: np.ndarray
    image_sizes: np.ndarray | None = None
    areas: np.ndarray | None = None
    crowd: np.ndarray | None = None
    num_labelled: np.ndarray | None = None
    image_ids: Sequence[Any] | None = None
    ids: Sequence[Any] | None = None
    categories: Mapping[Any, str] = field(default_factory=lambda: {1: "person"})
    category_ids: frozenset[int | str | None] = frozenset({1})
    counts: Counter | None = None
    clipped: bool = True
    defects: Sequence[Defect] = ()

    def __post_init__(self) -> None:
        count, shares = len(self.images), self.areas is None
        array = isinstance(self.keypoints, np.ndarray)
        points = self.keypoints.shape[1:2] if array else (len(next(iter(self.keypoints), ())),)
        is_whole = isinstance(self.visible, np.ndarray) and self.visible.dtype.kind in "biu"
        columns = {
            "keypoints": (np.float64, (count, *points, 2), None),
            "visible": (None if is_whole else np.float64, (count, *points), None),
            "num_labelled": (np.float64, (count,), np.nan),
        }
        self.set_columns(columns, "persons")
        if shares:
            object.__setattr__(self, "areas", self._shares())
        self.set_ids("persons")
        if self.counts is None:
            object.__setattr__(self, "counts", Counter({name: count for name in self.category_names}))

    # ---- what is asked of it

    @property
    def category_names(self) -> tuple[str, ...]:
        """Of what has key points."""
        return tuple(dict.fromkeys(name for key, name in self.categories.items() if key in self.category_ids))

    @property
    def noun(self) -> str:
        """What one annotated thing is called: a person, or, of other categories, an instance."""
        return "person" if all(name.lower() in PERSONS for name in self.category_names) else "instance"

    def clean_boxes(self) -> np.ndarray:
        """(N, 4) boxes clipped to their images, one pixel smaller, as in the official code; of size 0 if unusable.

        Those that are not `clipped` are as they are stated.
        """
        if not self.clipped:
            return np.column_stack([self.boxes[:, :2], np.where(self.areas[:, None] > 0, self.boxes[:, 2:], 0)])
        start = np.maximum(0, self.boxes[:, :2])
        # An image of unknown size limits nothing: a box is not at fault for a file that is not there.
        extent = np.fmin(self.limits() - 1, start + np.maximum(0, self.boxes[:, 2:] - 1)) - start
        # A box one pixel wide has no width left, but its height still gives a crop.
        usable = (self.areas > 0) & (extent >= 0).all(axis=1) & (extent > 0).any(axis=1)
        return np.column_stack([start, np.where(usable[:, None], extent, 0)])

    def usable(self) -> np.ndarray:
        """(n,) rows to learn from, those of an image together: no crowd, some key point labelled, a box with area."""
        labelled = ~self.crowd & (self.visible > 0).any(axis=1)
        boxed = (self.clean_boxes()[:, 2:] > 0).any(axis=1)
        without = [self.ids[row] for row in np.flatnonzero(labelled & ~boxed)]
        if without:
            rank_zero_warn(f"{self.path}: skipped {listed(without)} whose box or area is empty inside the image.")
        rows = np.flatnonzero(labelled & boxed)
        if not len(rows):
            raise DataError(
                f"{self.path} has no usable {self.noun}: of {len(self.ids)} annotations in categories with key points, "
                f"{int(self.crowd.sum())} are crowds, {int((~labelled & ~self.crowd).sum())} have no labelled key "
                f"point and {len(without)} no box with area. Expected at least one with `keypoints` and `bbox`."
            )
        return rows[np.argsort(self.images[rows], kind="stable")]

    def distributions(self, rows: np.ndarray, names: Sequence[str], noun: str) -> Iterator[Distribution]:
        """Visibility of the key points of these rows (n,), which have K `names`; sizes and places of their boxes.

        Where nothing is hidden, as in files that tell no hidden point from a visible one, it is whether they are
        labelled; where it is the same of all key points, it is said once.
        """
        visible = self.visible[rows]
        counts = [np.count_nonzero(visible == value, axis=0).tolist() for value in (2, 1, 0)]
        labels = ("visible", "hidden", "not labelled") if any(counts[1]) else ("labelled", "hidden", "not labelled")
        series = {label: found for label, found in zip(labels, counts, strict=True) if any(found)}
        if len({*zip(*counts, strict=True)}) == 1 and len(names) > 1:
            names, series = [f"each of {len(names)}"], {label: found[:1] for label, found in series.items()}
        if len(rows):
            of = some(len(rows), noun)
            yield StackedBars("visibility of key points", of, names, series, f"share of the {noun}")
        kinds = {name: count for name, count in self.counts.items() if count}
        if len(kinds) > 1:
            of = f"{sum(kinds.values()):,} annotations, learned or not"
            yield Bars("categories", of, list(kinds), list(kinds.values()), "annotations")
        yield from self.spread(rows, noun)

    def to_coco(self, skeleton: Skeleton) -> dict[str, list]:
        """A COCO ground-truth dict for the metric, crowds and unlabelled persons included.

        All categories with key points become category 1, since one network predicts the points of all of them. Ids
        are as `coco_annotations` says.
        """
        points = np.concatenate([self.keypoints, self.visible[..., None]], axis=2).reshape(len(self.ids), -1)
        columns: dict[str, Sequence] = {
            "category_id": [1] * len(self.ids),
            "bbox": self.boxes.tolist(),
            "area": self.areas.tolist(),
            "iscrowd": self.crowd.astype(int).tolist(),
            "keypoints": points.tolist(),
            "num_keypoints": self.num_labelled.astype(int).tolist(),
        }
        limbs = [[first + 1, second + 1] for first, second in skeleton.limbs]
        names = self.category_names
        name = self.noun if self.noun == "person" or len(names) != 1 else names[0]
        return {
            "images": self.coco_images(),
            "annotations": self.coco_annotations(columns),
            "categories": [{"id": 1, "name": name, "keypoints": list(skeleton.names), "skeleton": limbs}],
        }

    # ---- what may be wrong with it

    def checked(self) -> "PersonTable":
        """The table with what can be put right put right, and in `defects` all that is wrong."""
        notes = Notes(self.path, "annotation", self.ids, self.label, list(self.defects))
        with np.errstate(invalid="ignore", over="ignore"):  # numbers that are not finite are among the defects
            self.check_boxes(notes, inside=self.clipped)
            areas = self._checked_areas(notes)
            keypoints, visible = self._checked_keypoints(notes)
            num_labelled = self._checked_counts(notes, visible)
            changed = {"keypoints": keypoints, "visible": visible, "areas": areas, "num_labelled": num_labelled}
            table = replace(self, **changed, defects=notes.defects)
            table._find_misplaced(notes)  # of the points as they now are
        return table

    def _checked_areas(self, notes: Notes) -> np.ndarray:
        """(N,) above 0 wherever the box is."""
        kind, expected = "area absent or not positive", "square pixels"
        areas = capped(self.areas)

        def one(row: int) -> str:
            return "has no area" if np.isnan(self.areas[row]) else f"area is {self.areas[row]:g}"

        notes.refuse(np.isinf(areas), kind, "have an `area` that is not finite", expected, one)
        shares = self._shares()
        absent = ~(areas > 0) & ~(areas == shares)  # exporters write 0 for what they do not know
        found = f"have no `area` above 0, which OKS needs; replaced by the box's area x {SEGMENT_SHARE}."
        notes.warn(absent, kind, found, one)
        return np.where(absent, shares, areas)

    def _checked_keypoints(self, notes: Notes) -> tuple[np.ndarray, np.ndarray]:
        """(N, K, 2) coordinates, zero where not labelled, and (N, K) visibility 0, 1, 2."""
        kind, stated = "visibility not 0, 1 or 2", self.visible

        def seen(row: int) -> str:
            return f"a visibility is {next(v for v in stated[row].tolist() if v not in (0, 1, 2)):g}"

        finite = np.isfinite(stated)
        notes.refuse(~finite.all(axis=1), kind, "have a visibility that is not finite", "0, 1 or 2", seen)
        odd = (finite & ~np.isin(stated, (0, 1, 2))).any(axis=1)
        notes.warn(odd, kind, "have a visibility other than 0, 1, 2; clipped to these.", seen)
        # A fraction still says "labelled".
        visible = np.clip(np.ceil(np.where(finite, stated, 0)), 0, 2).astype(np.int8)
        labelled, points = visible > 0, self.keypoints
        broken = labelled & ~np.isfinite(points).all(axis=2)
        notes.refuse(
            broken.any(axis=1),
            "malformed entry",
            "have labelled key points that are not finite",
            "numbers, or visibility 0",
            lambda row: f"a labelled key point is at {points[row][broken[row]][0].tolist()}",
        )
        # COCO's own coordinates reach the width and the height themselves.
        limits = self.limits()[:, None]
        outside = labelled & ~broken & ((points < 0) | (points > limits)).any(axis=2)
        notes.warn(
            outside.any(axis=1),
            "key point outside of the image",
            "have labelled key points outside of the image; kept.",
            lambda row: f"a key point is at {points[row][outside[row]][0].tolist()}, outside of {self.size_of(row)}",
        )
        return np.where(labelled[..., None], points, 0.0), visible

    def _checked_counts(self, notes: Notes, visible: np.ndarray) -> np.ndarray:
        """(N,) labelled key points as the evaluation counts them."""
        stated, counted = capped(self.num_labelled), np.count_nonzero(visible, axis=1)

        def one(row: int) -> str:
            return f"num_keypoints is {stated[row]:g}, but {counted[row]} are labelled"

        found = "have a `num_keypoints` that is not finite"
        notes.refuse(np.isinf(stated), "malformed entry", found, "a count", one)
        notes.mention(stated < 0, "malformed entry", one)
        taken = np.where((stated >= 0) & np.isfinite(stated), np.floor(stated), counted)  # nan where absent
        found = "state a num_keypoints other than their labelled ones; kept for evaluation."
        notes.warn((stated >= 0) & (stated != counted), "num_keypoints disagrees", found, one)
        return taken

    def _find_misplaced(self, notes: Notes) -> None:
        """Find key points that are no pixels, such as shares of the image, beside boxes that are.

        If most labelled points of most persons lie outside of their own boxes, no network could learn them. So it is
        with points as shares of the image, in another order than x, y, or of another picture; shares in a box that is
        the whole image lie inside it, and are told by being at most 1.
        """
        labelled = (self.visible > 0) & np.isfinite(self.keypoints).all(axis=2)
        rows = np.flatnonzero(~self.crowd & labelled.any(axis=1) & (self.boxes[:, 2:] >= 1).all(axis=1))
        labelled, points, boxes = labelled[rows], self.keypoints[rows], self.boxes[rows]
        start, extent = boxes[:, :2], boxes[:, 2:]
        slack = 1 + 0.1 * extent  # annotators draw boxes tightly
        low, high = (start - slack)[:, None], (start + extent + slack)[:, None]
        outside = ((points < low) | (points > high)).any(axis=2) & labelled
        shares = (((points >= 0) & (points <= 1)).all(axis=2) | ~labelled).all(axis=1) & (extent.max(axis=1) > 4)
        wrong = (2 * outside.sum(axis=1) > labelled.sum(axis=1)) | shares
        if 2 * np.count_nonzero(wrong) <= len(rows):
            return
        first = int(np.flatnonzero(wrong)[0])
        x, y = points[first][labelled[first]][0].tolist()
        pixels = "multiply them by the width and height" if 2 * np.count_nonzero(shares) > len(rows) else "as boxes are"
        said = (
            f"of {len(rows)} with key points have most of them outside of their own boxes, the first at "
            f"({x:.6g}, {y:.6g}) beside the bbox {boxes[first].tolist()}; expected x, y in pixels of the image "
            f"({pixels})"
        )
        sentence = f"{self.path}: {listed([self.ids[row] for row in rows[wrong]])} {said}."
        item, found = f"{self.label(rows[first])} and others", f"{np.count_nonzero(wrong)} annotations {said}"
        notes.defects.append(Defect("key points beside their boxes", sentence, lambda: [(item, found)], grave=True))

    def _shares(self) -> np.ndarray:
        return SEGMENT_SHARE * self.boxes[:, 2] * self.boxes[:, 3]

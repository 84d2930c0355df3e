"""PCKh, the measure of MPII: the share of joints that are found within half a head (Andriluka et al. 2014).

Every person has a pose in its own annotated box, and no pose competes with another. `PoseTask(measure="pckh")` owns one
`PCKh`; gathering, files and similarities are those of `coco_keypoints`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from tasks.metrics.coco_keypoints import CocoKeypoints
from tasks.metrics.poses import Poses

THRESHOLD = 0.5
GROUPS = {
    "Head": ("head_top",),
    "Shoulder": ("left_shoulder", "right_shoulder"),
    "Elbow": ("left_elbow", "right_elbow"),
    "Wrist": ("left_wrist", "right_wrist"),
    "Hip": ("left_hip", "right_hip"),
    "Knee": ("left_knee", "right_knee"),
    "Ankle": ("left_ankle", "right_ankle"),
}
LEFT_OUT = ("pelvis", "thorax")
"""MPII's joints 6 and 7, which no mean has."""
MEANINGS = {
    "PCKh": "share of all labelled joints within 0.5 head sizes, pelvis and thorax left out",
    "PCKh@0.1": "the same within 0.1 head sizes",
    "PCKh@0.11": "the same within 0.11, at which the published code takes its `Mean@0.1`",
    **{name: f"PCKh of {' and '.join(joints).replace('_', ' ')}, their mean" for name, joints in GROUPS.items()},
}


class PCKh(CocoKeypoints):
    """PCKh of a split instead of AP, after the protocol of MPII's validation.

    A joint is right if it is at most a threshold times the head size of its person away. Persons that no pose is handed
    in for count as missed, unless `seen_images_only`.

    Args:
        ground_truth: As of `CocoKeypoints`; annotations have a `head_size` in pixels too, nan where it is not known:
            these, and crowds, are left out.
        sigmas: (K,) spreads, for the similarities.
        names: (K,) names of the joints; those of MPII make up the groups.
        **options: See `CocoKeypoints`.

    Raises:
        ValueError: If annotations have no head sizes, or as `CocoKeypoints`.
    """

    def __init__(
        self, ground_truth: Mapping[str, Any], sigmas: Sequence[float], names: Sequence[str], **options: Any
    ) -> None:
        super().__init__(ground_truth, sigmas, names, **options)
        annotations = ground_truth["annotations"]
        lacking = [annotation for annotation in annotations if "head_size" not in annotation]
        if lacking:
            raise ValueError(
                f"PCKh needs the head size of every person, and {len(lacking)} of {len(annotations)} annotations have "
                "no `head_size`: MpiiPose gives it; for other data set model.init_args.measure to oks."
            )
        people = [annotations[person["id"] - 1] for person in self.persons]
        self.places = {person.get("number", person.get("id")): row for row, person in enumerate(people)}
        self.head_sizes = np.array([person["head_size"] for person in people], np.float64)
        self.labels = np.array([p["keypoints"] for p in self.persons], np.float64).reshape(len(people), len(names), 3)
        known = (self.head_sizes > 0) & ~np.array([p["iscrowd"] for p in self.persons], bool)
        self.counted = (self.labels[..., 2] > 0) & known[:, None]
        self._joints: list[dict[str, Any]] = []

    def figures(self, persons: Sequence[Mapping[str, Any]], poses: Poses) -> dict[str, float]:
        """PCKh, PCKh@0.1, PCKh@0.11 and PCKh of each group of joints, in [0, 1]; nan without labelled joints.

        Of all poses as they were handed in: the final ones lack those that look like another.

        Raises:
            ValueError: If a pose is of no annotated person.
        """
        distance, evaluated = self._distances(), {person["id"] for person in persons}
        counted = self.counted & np.array([[person["id"] in evaluated] for person in self.persons])
        scaled = distance / self.head_sizes[:, None]  # nan, so never near, without a pose or a head size

        def rates(threshold: float, joints: NDArray[np.bool_]) -> float:
            chosen = counted & joints
            return _share(int(((scaled <= threshold) & chosen).sum()), int(chosen.sum()))

        names = self.keypoint_names
        mean = np.array([name not in LEFT_OUT for name in names])
        each = {name: rates(THRESHOLD, np.array(names) == name) for name in names}
        self._joints = [
            {"name": name, "labelled": int(counted[:, k].sum()), "PCKh": each[name]}
            | {"PCKh@0.1": rates(0.1, np.array(names) == name), **_errors(distance[:, k], scaled[:, k], counted[:, k])}
            | {"in_mean": bool(mean[k])}
            for k, name in enumerate(names)
        ]
        groups = {key: joints for key, joints in GROUPS.items() if set(joints) <= set(names)}
        return {
            "PCKh": rates(THRESHOLD, mean),
            "PCKh@0.1": rates(0.1, mean),
            "PCKh@0.11": rates(0.11, mean),
            **{key: float(np.mean([each[joint] for joint in joints])) for key, joints in groups.items()},
        }

    def per_keypoint(self) -> list[dict[str, Any]]:
        """A dict a joint.

        `name`; `labelled`, how many; `PCKh` and `PCKh@0.1`; `error`, mean distance in pixels, and `normalised_error`,
        in head sizes, both of persons that have a pose; `in_mean`, whether the means have it.
        """
        self.compute()  # again only if there is more since
        return self._joints

    def table(self) -> Table:
        """The figures and what each means."""
        table = Table("metric", "value", "meaning")
        for key, value in self.compute().items():
            table.add_row(key, "n/a" if math.isnan(value) else f"{value:.3f}", MEANINGS[key])
        return table

    def _distances(self) -> NDArray[np.float64]:
        """(P, K) of each joint from the first pose of its person in pixels; nan without one."""
        gathered = dict(zip(self.empty, self.rows(), strict=True))
        numbers, points = gathered["instance_id"], gathered["keypoints"].astype(np.float64)
        unknown = [number for number in numbers.tolist() if number not in self.places]
        if unknown:
            raise ValueError(
                f"{len(unknown)} poses are of no annotated person, the first of number {unknown[0]}: PCKh is measured "
                "in annotated boxes, so leave data.init_args.detections out."
            )
        numbers, first = np.unique(numbers, return_index=True)
        rows = [self.places[number] for number in numbers.tolist()]
        distance = np.full(self.labels.shape[:2], np.nan)
        distance[rows] = np.linalg.norm(points[first] - self.labels[rows, :, :2], axis=2)
        return distance


def _share(count: int, of: int) -> float:
    return count / of if of else math.nan


def _errors(distance: NDArray[np.float64], scaled: NDArray[np.float64], counted: NDArray[np.bool_]) -> dict[str, float]:
    """Means over the labelled joints that have a finite place."""
    found = counted & np.isfinite(distance)
    means = [float(values[found].mean()) if found.any() else math.nan for values in (distance, scaled)]
    return dict(zip(("error", "normalised_error"), means, strict=True))

"""Average precision of poses after COCO's key point protocol, HRNet's main figure (CVPR 2019, section 4.1).

Validation hands in poses batch by batch; at the end they become final (`coco_poses`) and `coco_evaluation` holds them
against the annotated persons (`coco_persons`). `PoseTask` owns one `CocoKeypoints`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from tasks.metrics.coco_evaluation import MEANINGS, coco_figures
from tasks.metrics.coco_persons import annotated_persons, image_numbers, person_category
from tasks.metrics.coco_poses import Poses, final_poses
from tasks.metrics.keypoint_accuracy import figure, keypoint_accuracy, keypoint_table
from tasks.metrics.oks import keypoint_similarity

POSES_PER_IMAGE = 20  # the protocol looks at no more


class CocoKeypoints(Metric):
    """COCO key point AP and AR over a whole split, with the tables and the result file that go with them.

    `compute` and all that reads the result work on the poses of all processes: call `compute` on every rank, the rest
    afterwards on whichever rank wants it.

    Args:
        ground_truth: COCO dict (images, annotations, one category) with all annotations of the split; crowds and
            persons without labelled key points are what the protocol ignores. Batches call an image or annotation by
            its `number`, if it has one, else by its `id`; results have the ids. The dict is neither kept nor changed.
        sigmas: (K,) COCO's spread of each key point, any K.
        names: (K,) names of the key points.
        visible_threshold: in [0, 1], key points with a higher score count in the score of the person.
        oks_threshold: in [0, 1], poses of an image with a higher OKS show the same person.
        seen_images_only: evaluate only images that `update` has seen, for a validation that is cut short. Otherwise the
            persons of the other images count as missed, as COCO has it.

    Raises:
        ValueError: sigmas, names and annotations disagree on K, an annotation lacks a field, or there is not exactly
            one category.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def __init__(
        self,
        ground_truth: Mapping[str, Any],
        sigmas: Sequence[float],
        names: Sequence[str],
        *,
        visible_threshold: float = 0.2,
        oks_threshold: float = 0.9,
        seen_images_only: bool = False,
    ) -> None:
        super().__init__()
        if len(sigmas) != len(names):
            raise ValueError(
                f"Found {len(sigmas)} sigmas and {len(names)} key point names, expected one of each a key point."
            )
        self.sigmas = np.array(sigmas, dtype=np.float64)
        self.keypoint_names = tuple(names)
        self.visible_threshold = visible_threshold
        self.oks_threshold = oks_threshold
        self.seen_images_only = seen_images_only
        self.image_numbers = image_numbers(ground_truth)
        self.image_ids = {number: image for image, number in self.image_numbers.items()}
        self.renamed_images = {number: image for number, image in self.image_ids.items() if number != image}
        self.persons = annotated_persons(ground_truth, len(names))
        self.category_id = person_category(ground_truth, self.persons)
        annotations = ground_truth["annotations"]
        numbers = [annotation.get("number", annotation.get("id")) for annotation in annotations]
        self.areas = {numbers[person["id"] - 1]: person["area"] for person in self.persons}
        ids = [annotation.get("original_id", annotation.get("id")) for annotation in annotations]
        self.renamed_annotations = {n: i for n, i in zip(numbers, ids, strict=True) if n != i}
        self._empty = {
            "image_id": torch.empty(0, dtype=torch.int64),
            "instance_id": torch.empty(0, dtype=torch.int64),
            "keypoints": torch.empty(0, len(names), 2),
            "scores": torch.empty(0, len(names)),
            "box_scores": torch.empty(0),
            "area": torch.empty(0),
        }
        self._final: Poses | None = None
        for state in self._empty:
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(
        self, image_id: Tensor, instance_id: Tensor, keypoints: Tensor, scores: Tensor, box_scores: Tensor, area: Tensor
    ) -> None:
        """Add the poses of a batch, one row a box.

        Args:
            image_id: (B,) int, number of an image of the ground truth.
            instance_id: (B,) int, unique in the split (annotation's number or row of the detections file): rows that
                a distributed sampler repeats are told by it and counted once.
            keypoints: (B, K, 2) x, y in pixels of the original image.
            scores: (B, K) key point scores, in [0, 1].
            box_scores: (B,) score of the box, 1 for ground-truth boxes.
            area: (B,) width x height of the padded box in original pixels², for the OKS suppression.

        Raises:
            ValueError: the shapes do not fit together.
        """
        batch = (image_id, instance_id, keypoints, scores, box_scores, area)
        for value, (state, empty) in zip(batch, self._empty.items(), strict=True):
            expected = (len(image_id), *empty.shape[1:])
            if tuple(value.shape) != expected:
                raise ValueError(
                    f"CocoKeypoints.update got {state} of shape {tuple(value.shape)}, expected {expected}."
                )
            getattr(self, state).append(value.detach().to(empty.dtype))

    def compute(self) -> dict[str, float]:
        """AP, AP50, AP75, APM, APL, AR, AR50, AR75, ARM, ARL in [0, 1]; NaN where no person defines the figure.

        Raises:
            ValueError: the split has no annotations, or a pose belongs to an image that is not in the ground truth.
        """
        self._final = self._collect()
        persons = self._evaluated_persons(self._final)
        return coco_figures(persons, self._final.best(POSES_PER_IMAGE), self.category_id, self.sigmas)

    def reset(self) -> None:
        """Forget all poses, for the next epoch."""
        super().reset()
        self._final = None

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the poses of all processes."""
        self._fill_empty_states()
        super().sync(*args, **kwargs)

    def similarity(self, instance_id: Tensor, truth: Tensor, visible: Tensor, keypoints: Tensor) -> NDArray[np.float64]:
        """OKS of poses with the annotations that their boxes are of.

        Args:
            instance_id: (B,) numbers of annotations.
            truth: (B, K, 2) x, y in pixels of the original image.
            visible: (B, K), above 0 where labelled.
            keypoints: (B, K, 2) likewise.

        Returns:
            (B,) in [0, 1]; nan without an annotation of that id, or without labelled key points.
        """
        area = np.array([self.areas.get(i, math.nan) for i in instance_id.tolist()])
        squared = (keypoints.double() - truth.double()).square().sum(-1).cpu().numpy()
        labelled = (visible > 0).cpu().numpy()
        total = (keypoint_similarity(squared, area, self.sigmas) * labelled).sum(1)
        count = labelled.sum(1)
        return np.where(count > 0, total / np.maximum(count, 1), math.nan)

    def results(self) -> list[dict[str, Any]]:
        """COCO result dicts (image_id, category_id, keypoints: 3K numbers x, y, score; score) of the final poses."""
        return self._final_poses().results(self.category_id, self.image_ids)

    def save(self, path: str | Path) -> Path:
        """Write `results` as a JSON file that COCO's tools and test server read, key points rounded to 1/1000 pixel.

        The file appears complete or not at all.
        """
        path = Path(path)
        self._final_poses().rounded(3).save(path, self.category_id, self.image_ids)
        return path

    def numbers_of(self, image_ids: Iterable[Any]) -> list[int]:
        """Number of each image id, as batches have it; ValueError for one that the ground truth lacks."""
        image_ids = list(image_ids)
        unknown = [image for image in dict.fromkeys(image_ids) if image not in self.image_numbers]
        if unknown:
            raise ValueError(_of_other_images(len(unknown), unknown[0]))
        return [self.image_numbers[image] for image in image_ids]

    def per_keypoint(self) -> list[dict[str, Any]]:
        """How well each key point is found, whatever the score of its pose: see `keypoint_accuracy`.

        Raises:
            ValueError: as `compute`.
        """
        poses = self._final_poses()
        return keypoint_accuracy(self._evaluated_persons(poses), poses, self.keypoint_names, self.sigmas)

    def table(self) -> Table:
        """The ten figures and what each means."""
        table = Table("metric", "value", "meaning")
        for key, value in self.compute().items():
            table.add_row(key, figure(value), MEANINGS[key])
        return table

    def keypoint_table(self) -> Table:
        """`per_keypoint` for reading."""
        return keypoint_table(self.per_keypoint())

    def _final_poses(self) -> Poses:
        # torchmetrics keeps the computed figures until the next update; as long as they stand, so do the poses.
        if self._final is None or self._computed is None:
            with self.sync_context(dist_sync_fn=self.dist_sync_fn):
                self._final = self._collect()
        return self._final

    def _fill_empty_states(self) -> None:
        # A process without poses must take part in the gathering with the right shape and type, or the others wait.
        for state, empty in self._empty.items():
            if isinstance(getattr(self, state), list) and not getattr(self, state):
                getattr(self, state).append(empty.to(self.device))

    def _collect(self) -> Poses:
        """All gathered poses without repetitions, rescored and suppressed."""
        self._fill_empty_states()
        return final_poses(
            *(dim_zero_cat(getattr(self, state)).cpu().numpy() for state in self._empty),
            sigmas=self.sigmas,
            visible_threshold=self.visible_threshold,
            oks_threshold=self.oks_threshold,
        )

    def _evaluated_persons(self, poses: Poses) -> list[dict[str, Any]]:
        if not self.persons:
            raise ValueError(
                "The ground truth has no annotations, so there is nothing to evaluate the poses against (COCO's test "
                "splits are like this): use results() or save() and hand the file to the test server."
            )
        unknown = np.setdiff1d(poses.image_id, np.array(list(self.image_ids), np.int64))
        if len(unknown):
            raise ValueError(_of_other_images(len(unknown), unknown[0]))
        if not self.seen_images_only:
            return self.persons
        seen = set(poses.image_id.tolist())
        return [person for person in self.persons if person["image_id"] in seen]


def _of_other_images(count: int, first: Any) -> str:
    return (
        f"{count} images with poses are not in the ground truth, the first has id {first}; "
        "expected poses and ground truth of the same split."
    )

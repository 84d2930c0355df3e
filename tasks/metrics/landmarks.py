"""Normalised mean error of facial landmarks, HRNet's figure for faces, with failure rates and areas under its curve.

The mean over a face's labelled points of the distance to the truth, as a share of the face's own length (between the
outer corners of the eyes for WFLW, 300W and COFW, the side of its box for AFLW), and the mean of that over the faces.
`LandmarkTask` owns one `NME`.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

Normaliser = Sequence[int] | Literal["box"]

THRESHOLDS = (0.08, 0.10)
"""Of the error of a face, beyond which it counts as failed."""
MEANINGS = {
    "NME": "mean over faces of the mean error of a face's points, as a share of its normaliser",
    **{f"FR@{t:.2f}": f"failure rate: share of the faces with an error above {t:.2f}" for t in THRESHOLDS},
    **{f"AUC@{t:.2f}": f"area under the cumulative error curve up to {t:.2f}, as a share of all" for t in THRESHOLDS},
}


@dataclass(frozen=True)
class Faces:
    """N faces of L landmarks after an evaluation, each once."""

    image_id: NDArray[np.int64]  # (N,)
    instance_id: NDArray[np.int64]  # (N,) ascending
    keypoints: NDArray[np.float64]  # (N, L, 2) predicted x, y in original pixels
    scores: NDArray[np.float64]  # (N, L)
    truth: NDArray[np.float64]  # (N, L, 2) likewise, nan where not labelled
    distances: NDArray[np.float64]  # (N, L) to the truth in original pixels, nan where not labelled
    lengths: NDArray[np.float64]  # (N,) in original pixels, which errors are shares of; nan where undefined
    errors: NDArray[np.float64]  # (N,) mean over a face's landmarks of distance / length; nan where undefined

    def errors_of(self, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        """Errors of the faces with these numbers that are among them."""
        return self.errors[np.isin(self.instance_id, numbers)]


class NME(Metric):
    """Normalised mean error (NME), FR@0.08, FR@0.10, AUC@0.08 and AUC@0.10 over a split, and its subsets in one go.

    Points that are not labelled count nowhere. A face without a labelled point, or whose normaliser is zero or not
    labelled, has no error: it is left out, and `table` says how many are. All figures are fractions (0.046 is 4.6 %).

    `compute` and all that reads the result work on the faces of all processes: call `compute` on every rank, the rest
    afterwards on whichever rank wants it.

    Args:
        names: (L,) names of the landmarks.
        normaliser: Two landmarks, by index from 0, whose true distance an error is a share of; or "box", the square
            root of the `area` of the face.
        subsets: Numbers of the faces, as `instance_id` has them, of each named subset.
        image_ids: Number of an image -> its id in the files, where they differ.
        face_ids: Number of a face -> its id in the files, where they differ.

    Raises:
        ValueError: If the normaliser is neither "box" nor two different landmarks.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    file_name = "landmarks.json"

    def __init__(
        self,
        names: Sequence[str],
        normaliser: Normaliser | None,
        *,
        subsets: Mapping[str, Any] | None = None,
        image_ids: Mapping[int, Any] | None = None,
        face_ids: Mapping[int, Any] | None = None,
    ) -> None:
        super().__init__()
        self.names = tuple(names)
        self.normaliser = _checked(normaliser, len(self.names))
        self.subsets = {name: np.unique(np.asarray(ids, np.int64)) for name, ids in (subsets or {}).items()}
        self.renamed_images, self.renamed_annotations = dict(image_ids or {}), dict(face_ids or {})
        count = len(self.names)
        self._empty = {
            "image_id": torch.empty(0, dtype=torch.int64),
            "instance_id": torch.empty(0, dtype=torch.int64),
            "keypoints": torch.empty(0, count, 2),
            "scores": torch.empty(0, count),
            "truth": torch.empty(0, count, 2),
            "visible": torch.empty(0, count, dtype=torch.int64),
            "area": torch.empty(0),
        }
        self._final: Faces | None = None
        for state in self._empty:
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(
        self,
        image_id: Tensor,
        instance_id: Tensor,
        keypoints: Tensor,
        scores: Tensor,
        truth: Tensor,
        visible: Tensor,
        area: Tensor,
    ) -> None:
        """Add the faces of a batch.

        Args:
            image_id: (B,) int.
            instance_id: (B,) int, unique in the split: faces that a distributed sampler repeats are told by it.
            keypoints: (B, L, 2) predicted x, y in pixels of the original image.
            scores: (B, L) of the predictions, in [0, 1].
            truth: (B, L, 2) x, y in pixels of the original image; anything where not labelled.
            visible: (B, L) above zero where labelled.
            area: (B,) of the face in original pixels²; read if the normaliser is "box".

        Raises:
            ValueError: The shapes do not fit together.
        """
        batch = (image_id, instance_id, keypoints, scores, truth, visible, area)
        for value, (state, empty) in zip(batch, self._empty.items(), strict=True):
            expected = (len(image_id), *empty.shape[1:])
            if tuple(value.shape) != expected:
                raise ValueError(f"NME.update got {state} of shape {tuple(value.shape)}, expected {expected}.")
            getattr(self, state).append(value.detach().to(empty.dtype))
        self._final = None

    def compute(self) -> dict[str, float]:
        """The figures of `MEANINGS` in [0, 1] (an NME may be larger), and `<subset>/NME`; nan where no face has one."""
        faces = self._final = self._collect()
        subsets = {f"{name}/NME": figures(faces.errors_of(ids))["NME"] for name, ids in self.subsets.items()}
        return figures(faces.errors) | subsets

    def reset(self) -> None:
        """Forget all faces, for the next epoch."""
        super().reset()
        self._final = None

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the faces of all processes."""
        self._fill_empty_states()
        super().sync(*args, **kwargs)

    @property
    def faces(self) -> "Faces":
        """Each face once, in the order of their numbers."""
        if self._final is None:
            with self.sync_context(dist_sync_fn=self.dist_sync_fn):
                self._final = self._collect()
        return self._final

    def face_errors(self, keypoints: Tensor, truth: Tensor, visible: Tensor, area: Tensor) -> NDArray[np.float64]:
        """(B,) errors of faces alone, see `update`; nan for a face that has none."""
        return self._measured(*(x.detach().cpu().double().numpy() for x in (keypoints, truth, visible, area)))[2]

    def per_landmark(self) -> list[dict[str, Any]]:
        """A dict a landmark, over the faces that have an error.

        `name`; `labelled`, how often; `error`, mean distance in pixels; `normalised_error`, its mean as a share of the
        normaliser; `failures`, share of its errors above 0.10 of that. Nan where it is never labelled.
        """
        faces = self.faces
        counted = ~np.isnan(faces.errors)
        distances = faces.distances[counted]
        shares = distances / faces.lengths[counted, None]
        labelled = ~np.isnan(distances)
        columns = (
            labelled.sum(0),
            _means(distances, labelled),
            _means(shares, labelled),
            _means(shares > THRESHOLDS[-1], labelled),
        )
        keys = ("name", "labelled", "error", "normalised_error", "failures")
        rows = zip(self.names, *(column.tolist() for column in columns), strict=True)
        return [dict(zip(keys, row, strict=True)) for row in rows]

    def per_subset(self) -> list[dict[str, Any]]:
        """A dict for the whole split and each subset: `name`, `faces` that have an error, and the figures."""
        parts = {"all": self.faces.errors} | {name: self.faces.errors_of(ids) for name, ids in self.subsets.items()}
        return [{"name": name, "faces": int((~np.isnan(x)).sum())} | figures(x) for name, x in parts.items()]

    def table(self) -> Table:
        """The figures of the split and its subsets, and how many faces have none."""
        table = Table("metric", "value", "meaning", caption_justify="left")
        for name, value in self.compute().items():
            meaning = MEANINGS.get(name) or f"NME of the faces of {name.removesuffix('/NME')}"
            table.add_row(name, "n/a" if math.isnan(value) else f"{value:.4f}", meaning)
        missing = int(np.isnan(self.faces.errors).sum())
        if missing:
            said = "box" if isinstance(self.normaliser, str) else " to ".join(self.names[k] for k in self.normaliser)
            table.caption = (
                f"{missing} of {len(self.faces.errors)} faces have no error and are left out: no labelled landmark, or "
                f"a normaliser ({said}) that is zero or not labelled."
            )
        return table

    def results(self) -> list[dict[str, Any]]:
        """A dict a face: image_id, id, keypoints (3L numbers x, y, score), NME (None where it has none)."""
        faces = self.faces
        triplets = np.concatenate([faces.keypoints, faces.scores[..., None]], axis=2)
        triplets = triplets.reshape(len(triplets), 3 * len(self.names)).round(3)
        rows = zip(faces.image_id.tolist(), faces.instance_id.tolist(), triplets.tolist(), faces.errors, strict=True)
        return [
            {
                "image_id": self.renamed_images.get(image, image),
                "id": self.renamed_annotations.get(face, face),
                "keypoints": points,
                "NME": float(error) if math.isfinite(error) else None,
            }
            for image, face, points, error in rows
        ]

    def save(self, path: str | Path) -> Path:
        """Write `results` as JSON; the file appears complete or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            partial.write_text(json.dumps(self.results()), encoding="utf-8")
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        return path

    def _fill_empty_states(self) -> None:
        # A process without faces must take part in the gathering with the right shape and type, or the others wait.
        for state, empty in self._empty.items():
            if isinstance(getattr(self, state), list) and not getattr(self, state):
                getattr(self, state).append(empty.to(self.device))

    def _collect(self) -> Faces:
        self._fill_empty_states()
        columns = [dim_zero_cat(getattr(self, state)).cpu().numpy() for state in self._empty]
        _, first = np.unique(columns[1], return_index=True)
        image_id, instance_id, keypoints, scores, truth, visible, area = (column[first] for column in columns)
        keypoints, scores, truth, area = (x.astype(np.float64) for x in (keypoints, scores, truth, area))
        measured = self._measured(keypoints, truth, visible, area)
        truth = np.where(visible[..., None] > 0, truth, math.nan)
        return Faces(image_id, instance_id, keypoints, scores, truth, *measured)

    def _measured(
        self,
        keypoints: NDArray[np.float64],
        truth: NDArray[np.float64],
        visible: NDArray[np.float64],
        area: NDArray[np.float64],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Distances (N, L), lengths (N,) and errors (N,), see `Faces`."""
        labelled = visible > 0
        # A prediction that is not finite is as wrong as can be.
        distances = np.nan_to_num(np.linalg.norm(keypoints - truth, axis=2), nan=math.inf, posinf=math.inf)
        distances[~labelled] = math.nan
        if isinstance(self.normaliser, str):
            lengths = np.sqrt(np.maximum(area, 0))
        else:
            one, other = self.normaliser
            lengths = np.linalg.norm(truth[:, one] - truth[:, other], axis=1)
            lengths[~(labelled[:, one] & labelled[:, other])] = math.nan
        lengths[~(lengths > 0)] = math.nan
        return distances, lengths, _means(distances.T, labelled.T) / lengths


def figures(errors: NDArray[np.float64]) -> dict[str, float]:
    """NME, FR@0.08, FR@0.10, AUC@0.08 and AUC@0.10 of the errors of faces (N,); nan ones are left out.

    The area under the cumulative curve is exact: the curve is a staircase, and a face of error e is counted from e on.
    """
    errors = errors[~np.isnan(errors)]
    if not len(errors):
        return dict.fromkeys(MEANINGS, math.nan)
    found = {"NME": errors.mean()}
    found |= {f"FR@{t:.2f}": (errors > t).mean() for t in THRESHOLDS}
    found |= {f"AUC@{t:.2f}": np.maximum(0, 1 - errors / t).mean() for t in THRESHOLDS}
    return {name: float(value) for name, value in found.items()}


def _means(values: NDArray[Any], labelled: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Means over the first axis of what is labelled; nan where nothing is."""
    with np.errstate(invalid="ignore"):
        return np.where(labelled, values, 0).sum(axis=0) / labelled.sum(axis=0)


def _checked(normaliser: Normaliser | None, count: int) -> tuple[int, int] | Literal["box"]:
    if normaliser == "box":
        return "box"
    pair = [] if normaliser is None or isinstance(normaliser, str) else [int(index) for index in normaliser]
    if len(pair) != 2 or pair[0] == pair[1] or not all(0 <= index < count for index in pair):
        raise ValueError(
            f"The normaliser of the landmark errors is {normaliser!r}; expected two different landmarks by their "
            f'indices, 0 to {count - 1}, such as the outer corners of the eyes, or "box": set `normaliser` in the '
            "skeleton's YAML file."
        )
    return pair[0], pair[1]

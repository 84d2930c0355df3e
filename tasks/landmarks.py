"""Facial landmarks by heatmaps: one face a crop, HRNetV2 (TPAMI 2020; official HRNet-Facial-Landmark-Detection).

task = LandmarkTask(HRNet("w18", upsample="bilinear"), num_landmarks=98)
"""

from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from hrnet import HRNet, SegmentationHead
from tasks.draw.charts import draw_cumulative
from tasks.draw.tables import Row
from tasks.heatmaps import Codec, FaceCodec
from tasks.losses import Batch, Data, Losses
from tasks.metrics.landmarks import NME, THRESHOLDS
from tasks.pose import PoseTask, in_image, in_the_file

LIMIT = 0.15  # of the errors in the picture of the cumulative curve


class LandmarkTask(PoseTask):
    """Landmarks of the face in a crop: a pose task on all four streams, measured by the normalised mean error.

    Args:
        backbone: HRNet with all four streams; the published ones are w18 with upsample="bilinear".
        num_landmarks: Heatmaps of the head.
        codec: Landmarks <-> heatmaps: FaceCodec (published), DarkCodec, UDPCodec or MSRACodec. FaceCodec() when not
            given.
        flip_test: Average with the mirrored image at prediction, which the published protocol does not do.
        ohkm: Online hard key point mining: only the so many worst landmarks of each face count.
        skeleton: Names, limbs, flip pairs, normaliser as plain data (`Skeleton.to_dict()`); the data bring it along.

    Raises:
        ValueError: If the backbone gives fewer than four streams, the data have another number of landmarks or no
            normaliser, or for a reason of PoseTask.
    """

    monitor = "val/NME"
    mode = "min"
    higher_is_better = tuple(f"AUC@{t:.2f}" for t in THRESHOLDS)
    lower_is_better = ("NME", *(f"FR@{t:.2f}" for t in THRESHOLDS))
    settled = ("num_keypoints", "measure")

    def __init__(
        self,
        backbone: HRNet,
        num_landmarks: int,
        *,
        codec: Codec | None = None,
        flip_test: bool = False,
        ohkm: int | None = None,
        skeleton: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            backbone,
            num_landmarks,
            codec=codec or FaceCodec(),
            flip_test=flip_test,
            ohkm=ohkm,
            skeleton=skeleton,
            measure="oks",
            **kwargs,
        )

    def make_head(self) -> nn.Module:
        """The published head, whose maps start near zero, which most of every target is."""
        if len(self.backbone.channels) != 4:
            raise ValueError(
                f"LandmarkTask reads four streams and the backbone gives {len(self.backbone.channels)}: build it with "
                "multi_scale_output=True."
            )
        head = SegmentationHead(self.backbone.channels, self.num_keypoints, align_corners=self.backbone.align_corners)
        last = cast(nn.Conv2d, head[3])
        nn.init.normal_(last.weight, std=0.001)
        nn.init.zeros_(cast(Tensor, last.bias))
        return head

    def from_streams(self, streams: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Streams -> heatmaps (B, L, H/4, W/4)."""
        return self.head(streams)

    def losses(self, outputs: Tensor, batch: Batch) -> Losses:
        """Heatmaps -> {"heatmap": mean squared error over all maps, as published, those without a target at zero}."""
        return {name: 2 * value for name, value in super().losses(outputs, batch).items()}

    def update(self, predictions: dict[str, Tensor], batch: Batch) -> None:
        """Hand landmarks in original pixels to the metric, and what is labelled."""
        self._require_errors().update(
            batch["image_id"],
            batch["instance_id"],
            predictions["keypoints"],
            predictions["scores"],
            in_image(batch["keypoints"], batch["to_image"]),
            batch["visible"],
            batch["area"],
        )

    @property
    def modes(self) -> dict[str, str]:
        """As of every task; errors of subsets are best when small."""
        subsets = {} if self.metric is None else self._require_errors().subsets
        return super().modes | {f"{self.split}/{name}/NME": "min" for name in subsets}

    def attach(self, datamodule: Data) -> None:
        """Take the skeleton, with what errors are normalised by, and the subsets of the evaluated split."""
        if datamodule.num_keypoints != self.num_keypoints:
            raise ValueError(
                f"The model has {self.num_keypoints} landmarks and the data have {datamodule.num_keypoints}: "
                f"set model.init_args.num_landmarks to {datamodule.num_keypoints}."
            )
        self.skeleton = datamodule.skeleton.to_dict()
        self.hparams["skeleton"] = self.skeleton
        truth = datamodule.ground_truth(self.split)
        self.metric = NME(
            self.skeleton["names"],
            self.skeleton.get("normaliser"),
            subsets=datamodule.subsets(self.split),
            image_ids=_renamed(truth["images"]),
            face_ids=_renamed(truth["annotations"]),
        )

    def scores(self, predictions: dict[str, Tensor], batch: Batch) -> dict[str, Tensor | list]:
        """NME of each face, and 1 - NME, at least 0, as its score; nan where nothing is labelled."""
        metric, faces = self._require_errors(), batch["instance_id"].tolist()
        truth = in_image(batch["keypoints"], batch["to_image"])
        errors = metric.face_errors(predictions["keypoints"], truth, batch["visible"], batch["area"])
        columns = {
            "sample": faces,
            "score": np.maximum(0, 1 - errors).tolist(),
            "NME": errors.tolist(),
            "image_id": in_the_file(batch["image_id"].tolist(), metric.renamed_images),
            "confidence": predictions["scores"].float().mean(1),
        }
        if metric.renamed_annotations:
            columns["annotation"] = in_the_file(faces, metric.renamed_annotations)
        return columns

    def tables(self) -> dict[str, list[Row] | Tensor]:
        """How well each landmark is found, each subset of the data, and the cumulative curve of the errors."""
        metric = self._require_errors()
        errors = metric.faces.errors[~np.isnan(metric.faces.errors)]
        curve = draw_cumulative(errors, LIMIT, "NME of a face", f"cumulative error of {len(errors)} faces")
        subsets = {"subsets": metric.per_subset()} if metric.subsets else {}
        return {"landmarks": metric.per_landmark(), **subsets, "cumulative_error": curve}

    def _require_errors(self) -> NME:
        if self.metric is None:
            raise ValueError("LandmarkTask has no names and normaliser to evaluate by: attach a DataModule first.")
        return cast(NME, self.metric)


def _renamed(rows: list[dict[str, Any]]) -> dict[int, Any]:
    """Numbers that batches have -> ids of the files, where they differ."""
    ids = {row.get("number", row["id"]): row.get("original_id", row["id"]) for row in rows}
    return {number: name for number, name in ids.items() if number != name}

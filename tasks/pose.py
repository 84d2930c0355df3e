"""Human (or any) pose by key point heatmaps: top-down, one person a crop, HRNetV1 (CVPR 2019; TPAMI 2020, Section 4).

task = PoseTask(HRNet("w32", multi_scale_output=False), num_keypoints=17)
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrnet import HRNet, HRNetV1, KeypointHead
from tasks.draw import draw_heatmaps, draw_keypoint_names, draw_pose, grid
from tasks.draw.pictures import Box, Drawn, Layers, Panel
from tasks.draw.tables import Row
from tasks.heatmaps import Codec, MSRACodec
from tasks.losses import Batch, Data, KeypointMSE, Losses
from tasks.metrics.coco_keypoints import CocoKeypoints
from tasks.metrics.pckh import GROUPS, PCKh
from tasks.metrics.sources import BySource
from tasks.task import Task

SEEN = 0.2  # score of a key point from which on it is drawn
LAYER_SCALE = 3  # of crops with boxes, so that these can be told apart


class PoseTask(Task):
    """Key points of the person in a crop.

    Args:
        backbone: HRNet, best with multi_scale_output=False since only the finest stream is read.
        num_keypoints: Heatmaps of the head.
        codec: Key points <-> heatmaps: MSRACodec (published), DarkCodec or UDPCodec. MSRACodec() when not given.
        flip_test: Average with the mirrored image at prediction, as published; needs a skeleton, for left and right.
        ohkm: Online hard key point mining: only the so many worst key points of each person count.
        measure: What poses are measured by, and checkpoints chosen by: `oks` is COCO's AP over object key point
            similarity, `pckh` the share of joints within half a head, for data that state head sizes, such as MPII.
        skeleton: Names, limbs, flip pairs and sigmas as plain data (`Skeleton.to_dict()`); the data bring it along.

    Raises:
        ValueError: If the data or the skeleton have another number of key points, the codec's heatmaps are not those of
            the network, or flip_test lacks a skeleton.
    """

    monitor = "val/AP"
    mode = "max"
    higher_is_better: ClassVar[tuple[str, ...]] = (
        *("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL"),
        *("PCKh", "PCKh@0.1", "PCKh@0.11", *GROUPS),
        "AP_detected",  # of a joint run, on boxes of its own
    )

    def __init__(
        self,
        backbone: HRNet,
        num_keypoints: int = 17,
        *,
        codec: Codec | None = None,
        flip_test: bool = True,
        ohkm: int | None = None,
        measure: Literal["oks", "pckh"] = "oks",
        skeleton: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        self.num_keypoints = num_keypoints
        self.codec = codec or MSRACodec()
        if self.codec.stride != self.backbone.strides[0]:
            raise ValueError(
                f"The codec's heatmaps have stride {self.codec.stride} and the network's {self.backbone.strides[0]}: "
                f"set model.init_args.codec.init_args.stride to {self.backbone.strides[0]}."
            )
        if skeleton is not None and len(skeleton["names"]) != num_keypoints:
            raise ValueError(
                f"The skeleton has {len(skeleton['names'])} key points and the model num_keypoints={num_keypoints}: "
                "make them equal, or leave skeleton out, since the data bring it along."
            )
        self.flip_test = flip_test
        self.measure = measure
        self.monitor, self.mode = self.goal({"measure": measure})
        self.skeleton = skeleton
        self.representation = HRNetV1()
        self.head = self.make_head()
        self.loss = KeypointMSE(ohkm=ohkm)

    def make_head(self) -> nn.Module:
        """What makes heatmaps of the representation of the streams."""
        return KeypointHead(self.backbone.channels[0], self.num_keypoints)

    @classmethod
    def goal(cls, options: Mapping[str, Any]) -> tuple[str, str]:
        """What checkpoints are chosen by, and "max" or "min"."""
        return ("val/PCKh", "max") if options.get("measure") == "pckh" else super().goal(options)

    def from_streams(self, streams: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Streams -> heatmaps (B, K, H/4, W/4)."""
        return self.head(self.representation(streams))

    def losses(self, outputs: Tensor, batch: Batch) -> Losses:
        """Heatmaps -> {"heatmap": weighted mean squared error against the codec's targets}."""
        targets, weights = self.codec.encode(batch["keypoints"], batch["visible"], tuple(batch["image"].shape[-2:]))
        return {"heatmap": self.loss(outputs, targets, weights)}

    def predict(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Heatmaps -> key points (B, K, 2) in original pixels and their scores (B, K), with the ids of the batch."""
        heatmaps = outputs.float()
        if self.flip_test:
            mirrored = self(self.normalize(batch["image"].flip(-1)))
            heatmaps = (heatmaps + self.codec.flip_back(mirrored, self._flip_permutation())) / 2
        keypoints, scores = self.codec.decode(heatmaps)
        return {
            "keypoints": in_image(keypoints, batch["to_image"]),
            "scores": scores,
            "input_keypoints": keypoints,
        }

    def update(self, predictions: dict[str, Tensor], batch: Batch) -> None:
        """Hand key points in original pixels to the evaluation."""
        self._require_metric().update(
            batch["image_id"],
            batch["instance_id"],
            predictions["keypoints"],
            predictions["scores"],
            batch["score"],
            batch["area"],
        )

    @property
    def modes(self) -> dict[str, str]:
        """As of every task; of a mixture each data set has its own figures."""
        sources = self.metric.points if isinstance(self.metric, BySource) else {}
        names = [f"{self.split}/{source}/{name}" for source in sources for name in self.higher_is_better]
        return super().modes | dict.fromkeys(names, "max")

    def compute(self) -> dict[str, float]:
        """Figures of poses, which need the data; see the metrics."""
        self._require_metric()
        return super().compute()

    def attach(self, datamodule: Data) -> None:
        """Take the skeleton and the ground truth of the evaluated split.

        COCO's protocol counts persons that no crop shows (missed by the detector, crowds), so the whole annotation is
        needed and not only what travels in the batches.
        """
        if datamodule.num_keypoints != self.num_keypoints:
            raise ValueError(
                f"The model has {self.num_keypoints} key points and the data have {datamodule.num_keypoints}: "
                f"set model.init_args.num_keypoints to {datamodule.num_keypoints}."
            )
        self.skeleton = datamodule.skeleton.to_dict()
        self.hparams["skeleton"] = self.skeleton
        kind = {"oks": CocoKeypoints, "pckh": PCKh}[self.measure]
        sources = getattr(datamodule, "by_source", {})
        if sources:
            metrics = {
                name: kind(source.ground_truth(self.split), source.skeleton.sigmas, source.skeleton.names)
                for name, source in sources.items()
            }
            self.metric = BySource(metrics, {name: source.points for name, source in sources.items()})
        else:
            self.metric = kind(datamodule.ground_truth(self.split), self.skeleton["sigmas"], self.skeleton["names"])

    def scores(self, predictions: dict[str, Tensor], batch: Batch) -> dict[str, Tensor | list]:
        """OKS of each annotated person with the pose found in its own box; nan for boxes of a detector."""
        truth = in_image(batch["keypoints"], batch["to_image"])
        metric, samples = self._require_metric(), batch["instance_id"].tolist()
        similarity = metric.similarity(batch["instance_id"], truth, batch["visible"], predictions["keypoints"])
        columns = {
            "sample": samples,
            "score": similarity.tolist(),
            "image_id": in_the_file(batch["image_id"].tolist(), metric.renamed_images),
            "confidence": predictions["scores"].float().mean(1),
        }
        if metric.renamed_annotations:
            columns["annotation"] = in_the_file(samples, metric.renamed_annotations)
        return columns

    def check(self, batch: Batch) -> None:
        """Key points are labelled, inside the crops, and come back from their heatmaps."""
        super().check(batch)
        keypoints, count = batch["keypoints"], len(batch["image"])
        if not (batch["visible"] > 0).any():
            raise ValueError(
                f"None of {count} training crops has a labelled key point: is the visibility in the annotations 1 or 2 "
                "(0 means not labelled)?"
            )
        targets, weights = self.codec.encode(keypoints, batch["visible"], tuple(batch["image"].shape[-2:]))
        if not (weights > 0).any() or targets.max() <= 0:
            raise ValueError(
                f"The heatmaps of {count} training crops are all zero: no labelled key point is inside its crop. Are "
                "key points (x, y) in pixels of the original image, and boxes [x, y, width, height]?"
            )
        found, _ = self.codec.decode(targets)
        error = (found - keypoints).norm(dim=-1)[weights > 0].median().item()
        if error > self.codec.stride:
            raise ValueError(
                f"Key points that are encoded and decoded again are off by {error:.1f} pixels of the crop, more than "
                f"one pixel of the heatmap: {self.codec} does not suit crops of {tuple(batch['image'].shape[-2:])}."
            )

    def tables(self) -> dict[str, list[Row] | Tensor]:
        """How well each key point is found."""
        return {"keypoints": self._require_metric().per_keypoint()}

    def draw(self, outputs: Tensor, predictions: dict[str, Tensor], batch: Batch, count: int) -> Drawn:
        """Crops with true and predicted skeletons, the heatmaps over them, and the names of the first one's points."""
        if self.skeleton is None:
            return {}
        images = batch["image"][:count].cpu()
        targets, _ = self.codec.encode(batch["keypoints"], batch["visible"], tuple(images.shape[-2:]))
        seen = predictions["scores"] > SEEN
        points, found = batch["keypoints"], predictions["input_keypoints"]
        side = 384 if self.num_keypoints > 20 else 288  # many points need room
        scale = min(4, max(1, round(side / images.shape[-1])))
        rows = [
            [draw_pose(im, points[i], batch["visible"][i], self.skeleton, scale) for i, im in enumerate(images)],
            [draw_pose(im, found[i], seen[i], self.skeleton, scale) for i, im in enumerate(images)],
            [draw_heatmaps(im, targets[i], scale) for i, im in enumerate(images)],
            [draw_heatmaps(im, outputs[i], scale) for i, im in enumerate(images)],
        ]
        captions = [
            "truth: left orange, right blue, middle green",
            f"prediction: key points that score above {SEEN}",
            "target: maximum over the heatmaps",
            "predicted: maximum over the heatmaps",
        ]
        named = draw_keypoint_names(images[0], points[0], batch["visible"][0], self.skeleton)
        layers = self._layers(predictions, batch, images)
        return {"pose (truth, prediction, target, heatmaps)": grid(rows, captions), "point_names": Panel(named, layers)}

    def _layers(self, predictions: dict[str, Tensor], batch: Batch, images: Tensor) -> list[Layers]:
        """Crops with a small box about every key point, so that truth and prediction, and each point, can be hidden."""
        images = F.interpolate(images, scale_factor=LAYER_SCALE, mode="nearest")
        shown = predictions["scores"] > SEEN
        names: dict[int, Any] = {} if self.metric is None else self._require_metric().renamed_images
        ids = in_the_file(batch["image_id"].tolist(), names)
        points = [] if self.skeleton is None else self.skeleton["names"]
        limbs = [] if self.skeleton is None else [(a, b) for a, b in self.skeleton["limbs"]]
        layers = []
        for i, image in enumerate(images):
            truth = _point_boxes(batch["keypoints"][i], batch["visible"][i] > 0, batch["visible"][i])
            found = _point_boxes(predictions["input_keypoints"][i], shown[i], predictions["scores"][i])
            caption = f"image {ids[i]}, instance {int(batch['instance_id'][i])}"
            places = {
                "truth": _enlarged(batch["keypoints"][i], batch["visible"][i] > 0),
                "prediction": _enlarged(predictions["input_keypoints"][i], shown[i]),
            }
            boxes = {"truth": truth, "prediction": found}
            layers.append(Layers(image, caption, points, boxes=boxes, points=places, limbs=limbs))
        return layers

    def _require_metric(self) -> CocoKeypoints:
        if self.metric is None:
            raise ValueError(f"{type(self).__name__} has nothing to evaluate against: attach a DataModule first.")
        return cast(CocoKeypoints, self.metric)

    def _flip_permutation(self) -> Tensor:
        if self.skeleton is None:
            raise ValueError(
                "flip_test needs to know which key points are left and right: attach a DataModule, pass skeleton=, "
                "or set flip_test=False."
            )
        order = list(range(self.num_keypoints))
        for left, right in self.skeleton["flip_pairs"]:
            order[left], order[right] = right, left
        return torch.tensor(order, device=self.device)


def in_the_file(numbers: list[int], ids: dict[int, Any]) -> list[Any]:
    """Ids as the file has them, as text where it does not have the numbers: tables show no integer beyond 64 bits."""
    return [str(ids.get(number, number)) for number in numbers] if ids else numbers


def in_image(points: Tensor, to_image: Tensor) -> Tensor:
    """Points (B, K, 2) of the crops, x, y in input pixels, at their places in the original images, in float32.

    Not by a matrix product, which autocast computes in half precision and TF32 in little more: there a point at pixel
    600 is off by some pixels.

    Args:
        points: (B, K, 2).
        to_image: (B, 2, 3) of each crop.
    """
    matrix = to_image.float()
    return (points.float()[:, :, None] * matrix[:, None, :, :2]).sum(-1) + matrix[:, None, :, 2]


def _enlarged(points: Tensor, shown: Tensor) -> Tensor:
    """Points (K, 2) at their places in the enlarged crop, nan where they are not shown."""
    places = (points.detach().float().cpu() + 0.5) * LAYER_SCALE - 0.5
    return places.masked_fill(~shown.cpu()[:, None], float("nan"))


def _point_boxes(points: Tensor, shown: Tensor, scores: Tensor) -> list[Box]:
    """A box of a few pixels of the enlarged crop about each point that is shown."""
    places = _enlarged(points, shown).tolist()
    return [
        Box(x - LAYER_SCALE, y - LAYER_SCALE, x + LAYER_SCALE, y + LAYER_SCALE, k, float(scores[k]))
        for k, (x, y) in enumerate(places)
        if shown[k]
    ]

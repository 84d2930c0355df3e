"""Speed of what follows the network: decoding heatmaps, OKS suppression, COCO's evaluation of a whole split.

Each is compared with the plain loop of `peers.py`, or with pycocotools on JSON files, on synthetic poses of the
size that COCO val2017 has with a detector's boxes.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.skeleton import Skeleton
from experiments.benchmark.peers import plain_dark, plain_evaluation, plain_msra, plain_oks_nms
from experiments.benchmark.timing import Comparison, Setting, Variant, require
from experiments.benchmark.variants import made
from tasks.heatmaps import Codec, DarkCodec, MSRACodec
from tasks.metrics.coco_keypoints import CocoKeypoints
from tasks.metrics.oks import oks_nms
from tasks.pose import in_image

SKELETON = Skeleton.load("coco")
SIGMAS = np.array(SKELETON.sigmas)
THRESHOLD = 0.9
SIZE = (256, 192)


def decode(setting: Setting) -> Iterator[Comparison]:
    """Heatmaps 17x64x48 -> key points in original pixels in the CPU's memory, by MSRA's and by DARK's decoding.

    On a GPU the maps are there: copied for the loop over joints, and decoded where they are.
    """
    batch = 4 if setting.quick else 64 if setting.precisions else 32
    generator = torch.Generator().manual_seed(0)
    # Away from the border, where the plain decoding refines nothing and ours does.
    points = 16 + torch.rand(batch, 17, 2, generator=generator) * torch.tensor([SIZE[1] - 32, SIZE[0] - 32])
    to_image = torch.tensor([[1.7, 0, 120], [0, 1.7, 35]]).repeat(batch, 1, 1)
    to_image[:, :, 2] += 100 * torch.rand(batch, 2, generator=generator)
    for codec, plain in ((MSRACodec(), plain_msra), (DarkCodec(), plain_dark)):
        heatmaps, _ = codec.encode(points, torch.ones(batch, 17), SIZE)
        heatmaps += 0.01 * torch.rand(heatmaps.shape, generator=generator)
        yield _decoding(setting, codec, plain, heatmaps.to(setting.device), to_image)


def _decoding(
    setting: Setting, codec: Codec, plain: Callable, heatmaps: torch.Tensor, to_image: torch.Tensor
) -> Comparison:
    matrices = to_image.double().numpy() @ np.diag([codec.stride, codec.stride, 1.0])
    on_device = to_image.to(setting.device)

    def loop() -> tuple[np.ndarray, np.ndarray]:
        return plain(heatmaps.cpu().numpy(), matrices)

    def ours() -> tuple[np.ndarray, np.ndarray]:
        keypoints, scores = codec.decode(heatmaps)
        return in_image(keypoints, on_device).cpu().numpy(), scores.cpu().numpy()

    (keypoints, scores), (expected, expected_scores) = ours(), loop()
    far = np.abs(keypoints - expected).max()
    require(f"{type(codec).__name__} and the loop differ by {far:.4f} pixels", far < 0.02)
    require("scores of the decoders differ", np.allclose(scores, expected_scores[..., 0], atol=1e-6))
    name = f"decode {'x'.join(map(str, heatmaps.shape))}, {type(codec).__name__}"
    variants = [
        made(label, lambda run=run: run, lambda run: "", setting.device, target)
        for label, run, target in (
            ("loop over joints", loop, None),
            ("ours", ours, None if setting.precisions else 4.0),
        )
    ]
    return Comparison(name, "persons", len(heatmaps), tuple(variants), setting.device)


@dataclass(frozen=True)
class Poses:
    """N poses and the ground truth they are meant for, sorted by image."""

    ground_truth: dict[str, Any]
    image_id: np.ndarray  # (N,)
    keypoints: np.ndarray  # (N, K, 2)
    scores: np.ndarray  # (N, K)
    box_scores: np.ndarray  # (N,)
    area: np.ndarray  # (N,)


def oks_suppression(setting: Setting) -> Iterator[Comparison]:
    """Suppression of double poses, image by image, 37 poses an image as the published detections have."""
    images = 5 if setting.quick else 200
    poses = synthetic_poses(images, images, 4 * images, 37 * images)
    starts = np.searchsorted(poses.image_id, np.unique(poses.image_id))
    scores = poses.box_scores * poses.scores.mean(axis=1)
    parts = [
        (poses.keypoints[rows], scores[rows], poses.area[rows]) for rows in np.split(np.arange(len(scores)), starts[1:])
    ]

    def plain() -> list[list[int]]:
        return [plain_oks_nms(*part, SIGMAS, THRESHOLD) for part in parts]

    def ours() -> list[list[int]]:
        return [oks_nms(*part, SIGMAS, THRESHOLD).tolist() for part in parts]

    kept = ours()
    require("the suppressions keep different poses", kept == plain())
    require("no pose was suppressed", sum(map(len, kept)) < len(scores))
    yield Comparison(
        f"OKS suppression, {len(parts)} images of {len(scores) / len(parts):.0f} poses",
        "poses",
        len(scores),
        (Variant("loop over pairs", plain), Variant("ours", ours, 7.0)),
    )


def evaluation(setting: Setting) -> Iterator[Comparison]:
    """Poses in memory -> COCO's ten figures.

    Both rescore the poses and suppress double ones alike (vectorised); then ours evaluates from memory, the peer writes
    and reads JSON and runs pycocotools, as the usual pipeline does.
    """
    poses = synthetic_poses(30, 20, 60, 400) if setting.quick else synthetic_poses(5000, 2693, 11000, 100000)
    metric = CocoKeypoints(poses.ground_truth, SKELETON.sigmas, SKELETON.names, oks_threshold=THRESHOLD)
    batch = [torch.from_numpy(x) for x in (poses.keypoints, poses.scores, poses.box_scores, poses.area)]
    image_id = torch.from_numpy(poses.image_id)

    def refill() -> None:
        metric.reset()
        metric.update(image_id, torch.arange(len(image_id)), *batch)

    def ours() -> dict[str, float]:
        refill()
        return metric.compute()

    with tempfile.TemporaryDirectory() as folder:
        truth, file = Path(folder) / "truth.json", Path(folder) / "results.json"
        truth.write_text(json.dumps(poses.ground_truth))

        def plain() -> np.ndarray:
            refill()
            return plain_evaluation(truth, metric.results(), file)

        figures, expected = list(ours().values()), plain()
        require(f"the figures {figures} and {expected} differ", np.allclose(figures, expected, atol=1e-9))
        yield Comparison(
            f"evaluation, {len(poses.ground_truth['images'])} images, {len(image_id)} poses",
            "poses",
            len(image_id),
            (Variant("pycocotools, JSON files", plain), Variant("ours, in memory", ours, 3.5)),
        )


def synthetic_poses(images: int, inhabited: int, persons: int, poses: int) -> Poses:
    """Persons at random places in `inhabited` of the images, 58 % with key points, and `poses` guesses at them.

    Guesses are a person's key points with an error of its own size class: some excellent, some hopeless, some double.
    """
    rng = np.random.default_rng(0)
    owner = np.sort(np.concatenate([np.arange(inhabited), rng.integers(inhabited, size=persons - inhabited)]))
    side = np.exp(rng.uniform(np.log(40), np.log(300), size=persons))
    corner = rng.uniform(0, 340, size=(persons, 2))
    keypoints = corner[:, None] + rng.random((persons, 17, 2)) * side[:, None, None]
    labelled = rng.random(persons) < 0.58
    visible = rng.integers(0, 3, size=(persons, 17)) * labelled[:, None]
    drawn = keypoints * (visible > 0)[..., None]
    annotations = [
        {
            "id": i + 1,
            "image_id": int(owner[i]) + 1,
            "category_id": 1,
            "iscrowd": int(rng.random() < 0.01),
            "bbox": [*corner[i].tolist(), float(side[i]), float(side[i])],
            "area": float(0.6 * side[i] ** 2),
            "num_keypoints": int(np.count_nonzero(visible[i])),
            "keypoints": np.column_stack([drawn[i], visible[i]]).reshape(-1).tolist(),
        }
        for i in range(persons)
    ]
    ground_truth = {
        "images": [{"id": i + 1, "width": 640, "height": 640} for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}],
    }
    target = rng.permutation(np.resize(np.arange(persons), poses))
    target = target[np.argsort(owner[target], kind="stable")]
    error = np.exp(rng.uniform(np.log(0.002), np.log(0.5), size=poses)) * side[target]
    guesses = keypoints[target] + rng.standard_normal((poses, 17, 2)) * error[:, None, None]
    return Poses(
        ground_truth,
        owner[target] + 1,
        guesses.astype(np.float32),
        rng.random((poses, 17)).astype(np.float32),
        rng.random(poses).astype(np.float32),
        (1.5 * side[target] ** 2).astype(np.float32),
    )

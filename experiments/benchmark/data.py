"""Speed of the data: samples/s of CocoPose in one process and one thread, against the plain recipe.

Both read the same persons, make the same draws, and end in a batch. The plain recipe normalises and draws targets for
each sample; ours hands over uint8 and key points, and the task does both for the whole batch on its device. The third
variant does that too, on the CPU, and is what a machine without a GPU gets.
"""

import os
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from datamodules.base import collate
from datamodules.keypoints.coco_pose import CocoPose
from datamodules.keypoints.persons import Persons
from datamodules.loading.samplers import stream
from experiments.benchmark.peers import UNIT, Recipe, Record, plain_sample
from experiments.benchmark.timing import Comparison, Setting, Variant, require
from hrnet import HRNet
from tasks.heatmaps import MSRACodec
from tasks.pose import PoseTask

BATCH = 32
SIZE = (256, 192)
EPOCH = 0


def data_train(setting: Setting) -> Iterator[Comparison]:
    """Training crops, shuffled: every sample decodes its own image."""
    persons, recipe = _persons(setting, "train")
    count = min(len(persons), 8 if setting.quick else 3 * BATCH)
    indices = np.random.default_rng(0).permutation(len(persons))[:count].tolist()
    yield _compare("training", setting, persons, recipe, indices, target=1.7)


def data_eval(setting: Setting) -> Iterator[Comparison]:
    """Evaluation crops in order: ours decodes an image once for all its persons."""
    persons, recipe = _persons(setting, "val")
    count = min(len(persons), 8 if setting.quick else 3 * BATCH)
    images = len(np.unique(persons.images[:count]))
    name = f"evaluation, {count / images:.1f} boxes an image"
    yield _compare(name, setting, persons, recipe, list(range(count)), target=2.5)


def _compare(
    name: str, setting: Setting, persons: Persons, recipe: Recipe, indices: list[int], target: float
) -> Comparison:
    training = persons.augmentation is not None
    records = {index: _record(persons, index) for index in indices}
    task = PoseTask(HRNet("w18_small_v1", multi_scale_output=False))
    batches = [indices[start : start + BATCH] for start in range(0, len(indices), BATCH)]

    def plain() -> None:
        rng = np.random.default_rng(0) if training else None
        for batch in batches:
            default_collate([plain_sample(records[i], recipe, rng) for i in batch])

    def ours() -> None:
        for batch in batches:
            collate([persons[(i, EPOCH) if training else i] for i in batch])

    def ours_complete() -> None:
        for batch in batches:
            _complete(collate([persons[(i, EPOCH) if training else i] for i in batch]), task)

    _check(persons, records, recipe, task)
    return Comparison(
        f"{name}, {setting.data_root}",
        "samples",
        len(indices),
        (
            Variant("plain recipe", plain),
            Variant("ours, uint8 and facts", ours, target),
            Variant("ours, with targets on the CPU", ours_complete),
        ),
    )


def _complete(batch: dict[str, Tensor], task: PoseTask) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised images, targets and weights of a batch, as a training step makes them."""
    targets, weights = task.codec.encode(batch["keypoints"], batch["visible"], tuple(batch["image"].shape[-2:]))
    return task.normalize(batch["image"]), targets, weights


def _check(persons: Persons, records: dict[int, Record], recipe: Recipe, task: PoseTask) -> None:
    """Both ways give the same crops, targets and weights for the same draws."""
    training = persons.augmentation is not None
    for index in list(records)[:16]:
        image, targets, weights = _complete(collate([persons[(index, EPOCH) if training else index]]), task)
        rng = stream("sample", EPOCH, index) if training else None
        plain_image, plain_targets, plain_weights = plain_sample(records[index], recipe, rng)
        # OpenCV rounds positions to 1/32 pixel, so a mirrored crop may differ by a few grey levels at sharp edges.
        difference = (image[0] - plain_image).abs().mean().item()
        require(f"crops of person {index} differ by {difference:.3f} deviations", difference < 0.05)
        require(f"targets of person {index} differ", torch.allclose(targets[0], plain_targets, atol=1e-5))
        require(f"weights of person {index} differ", torch.equal(weights[0], plain_weights[:, 0]))


def _persons(setting: Setting, split: str) -> tuple[Persons, Recipe]:
    data = CocoPose(setting.data_root, image_size=SIZE, num_workers=0)
    skeleton = data.skeleton
    codec = MSRACodec()
    return data.dataset(split), Recipe(SIZE, skeleton.flip_pairs, skeleton.upper_body, codec.stride, codec.sigma)


def _record(persons: Persons, index: int) -> Record:
    row = persons.images[index]
    labelled = (persons.visible[index] > 0).astype(np.float64)
    joints = np.zeros((len(labelled), 3))
    joints[:, :2] = persons.keypoints[index]
    visible = np.stack([labelled, labelled, np.zeros_like(labelled)], axis=1)
    return Record(
        os.path.join(persons.folder, persons.file_names[row]),
        persons.centers[index],
        persons.sizes[index] / UNIT,
        joints,
        visible,
    )

"""PoseTask: shapes, the mirrored image, the ceiling of each codec, and what it says when something is missing."""

import pytest
import torch

from datamodules import CocoPose
from hrnet import HRNet
from tasks import DarkCodec, MSRACodec, PoseTask, UDPCodec
from tasks.metrics import CocoKeypoints
from tasks.pose import Task

SKELETON = {"names": ["left", "right", "tip"], "limbs": [[0, 2]], "flip_pairs": [[0, 1]], "sigmas": [0.05] * 3}
SMALL = {"variant": "w18_small_v1", "multi_scale_output": False}


def small_task(**options) -> PoseTask:
    torch.manual_seed(0)
    return PoseTask(SMALL, 3, skeleton=SKELETON, **options).eval()


def batch_of(images: torch.Tensor) -> dict:
    count = len(images)
    return {
        "image": images,
        "keypoints": torch.full((count, 3, 2), 20.0),
        "visible": torch.full((count, 3), 2),
        "to_image": torch.tensor([[2.0, 0, 5], [0, 2, 7]]).expand(count, 2, 3),
    }


def test_defaults_suffice_and_give_stride_4_heatmaps():
    task = PoseTask(HRNet("w18_small_v1", multi_scale_output=False))
    assert task(torch.rand(2, 3, 64, 96)).shape == (2, 17, 16, 24)


def test_all_parameters_get_a_gradient():
    task = small_task().train()
    batch = batch_of(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    losses = task.losses(task(task.normalize(batch["image"])), batch)
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in task.parameters())


@torch.no_grad()
def test_mirrored_image_gives_the_mirrored_prediction_with_flip_test():
    task = small_task(codec=UDPCodec())
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    batch, mirrored = batch_of(image), batch_of(image.flip(-1))
    here = task.predict(task(task.normalize(batch["image"])), batch)
    there = task.predict(task(task.normalize(mirrored["image"])), mirrored)
    back = there["input_keypoints"][:, [1, 0, 2]]
    back[..., 0] = 63 - back[..., 0]
    torch.testing.assert_close(here["input_keypoints"], back, atol=2.0, rtol=0)  # half a pixel of the map
    torch.testing.assert_close(here["scores"], there["scores"][:, [1, 0, 2]], atol=1e-4, rtol=0)


@torch.no_grad()
def test_predictions_are_in_original_pixels():
    task = small_task(flip_test=False)
    batch = batch_of(torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8))
    predictions = task.predict(task(task.normalize(batch["image"])), batch)
    expected = 2 * predictions["input_keypoints"] + torch.tensor([5.0, 7.0])
    torch.testing.assert_close(predictions["keypoints"], expected)


def test_flip_test_without_a_skeleton_says_what_to_do():
    task = PoseTask(SMALL).eval()
    batch = batch_of(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    with pytest.raises(ValueError, match="flip_test"):
        task.predict(task(task.normalize(batch["image"])), batch)


def ceiling(data: CocoPose, codec) -> float:
    """AP of the annotated key points pushed through encode, decode, mapping back and evaluation."""
    data.setup("validate")
    metric = CocoKeypoints(data.ground_truth("val"), data.skeleton.sigmas, data.skeleton.names)
    for batch in data.val_dataloader():
        heatmaps, _ = codec.encode(batch["keypoints"], batch["visible"], data.image_size)
        keypoints, scores = codec.decode(heatmaps)
        to_image = batch["to_image"]
        original = keypoints @ to_image[:, :, :2].mT + to_image[:, None, :, 2]
        metric.update(batch["image_id"], batch["instance_id"], original, scores, batch["score"], batch["area"])
    return metric.compute()["AP"]


@pytest.mark.parametrize(("codec", "crop", "least"), [(UDPCodec(), "unit", 0.99), (DarkCodec(), "size", 0.99)])
@pytest.mark.parametrize("source", ["sample", "coco_mini"])
def test_codec_loses_next_to_nothing_at_256x192(source, codec, crop, least, request, monkeypatch):
    monkeypatch.chdir(request.config.rootpath)
    root = "sample" if source == "sample" else request.getfixturevalue("shared_data") / source
    assert ceiling(CocoPose(root, num_workers=0, crop=crop), codec) >= least


@pytest.mark.parametrize(("size", "least", "most"), [((256, 192), 0.99, 1.0), ((128, 96), 0.88, 0.96)])
def test_quarter_pixel_decoding_loses_little_at_256x192_and_more_at_half_of_it(size, least, most, request, monkeypatch):
    monkeypatch.chdir(request.config.rootpath)
    assert least <= ceiling(CocoPose("sample", image_size=size, num_workers=0), MSRACodec()) <= most


def test_another_number_of_key_points_names_the_key(request, monkeypatch):
    monkeypatch.chdir(request.config.rootpath)
    with pytest.raises(ValueError, match=r"model.init_args.num_keypoints to 17"):
        small_task().attach(CocoPose("sample"))


def test_evaluation_without_ground_truth_says_so():
    with pytest.raises(ValueError, match="attach a DataModule"):
        small_task().compute()


def test_arguments_are_kept_as_plain_data():
    task = small_task(codec=UDPCodec(sigma=3.0), optimizer={"name": "adam", "lr": 0.1})
    assert isinstance(task, Task)
    assert task.hparams["codec"] == {"class_path": "UDPCodec", "init_args": {"stride": 4, "sigma": 3.0}}
    assert task.hparams["backbone"]["variant"] == "w18_small_v1"
    assert task.hparams["num_keypoints"] == 3

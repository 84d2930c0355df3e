"""LandmarkTask: the published head and loss, figures from a batch alone, and what it says when something is missing."""

import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import tasks
from hrnet import HRNet
from tasks import DarkCodec, FaceCodec, LandmarkTask, MSRACodec, MultiTask, UDPCodec, save_task
from tasks.draw.charts import draw_cumulative
from tests.tasks.test_heatmaps import slow_encode

SKELETON = {
    "names": ["left", "right", "tip"],
    "limbs": [[0, 2]],
    "flip_pairs": [[0, 1]],
    "sigmas": [0.05] * 3,
    "upper_body": [],
    "normaliser": [0, 1],
}
SMALL = {"variant": "w18_small_v1", "upsample": "bilinear"}


class Faces:
    """As much of a DataModule as the task asks for: four faces, which the files call by names."""

    num_keypoints = 3

    def __init__(self, **skeleton) -> None:
        self.skeleton = SimpleNamespace(to_dict=lambda: SKELETON | skeleton)

    def ground_truth(self, split):
        faces = [{"id": i + 1, "original_id": f"face {i}", "number": i, "image_id": i} for i in range(4)]
        return {"images": [{"id": f"{i}.jpg", "number": i} for i in range(4)], "annotations": faces}

    def subsets(self, split):
        return {"blur": np.array([1, 3])} if split == "val" else {}


def small_task(**options) -> LandmarkTask:
    torch.manual_seed(0)
    return LandmarkTask(SMALL, 3, skeleton=SKELETON, **options).eval()


def batch_of(images: torch.Tensor) -> dict:
    """Faces of 40 original pixels between the eyes; a pixel of the crop is two of these."""
    count = len(images)
    return {
        "image": images,
        "keypoints": torch.tensor([[20.0, 24], [40, 24], [30, 44]]).expand(count, 3, 2),
        "visible": torch.full((count, 3), 2),
        "to_image": torch.tensor([[2.0, 0, 5], [0, 2, 7]]).expand(count, 2, 3),
        "image_id": torch.arange(count),
        "instance_id": torch.arange(count),
        "area": torch.full((count,), 2500.0),
        "score": torch.ones(count),
    }


def test_defaults_are_the_published_ones():
    task = LandmarkTask(HRNet("w18", upsample="bilinear"), 98)
    assert task(torch.rand(1, 3, 64, 96)).shape == (1, 98, 16, 24)
    assert sum(p.numel() for p in task.parameters()) == 9_662_528  # counted on the official module
    assert task.codec == FaceCodec(stride=4, sigma=1.5)
    assert not task.flip_test
    assert (task.monitor, task.mode) == ("val/NME", "min")
    assert task.head[3].weight.std().item() == pytest.approx(0.001, rel=0.1)
    assert not task.head[3].bias.any()
    assert task.head[0].weight.std() > 0.01


def test_a_backbone_of_one_stream_is_refused():
    with pytest.raises(ValueError, match="multi_scale_output=True"):
        LandmarkTask(HRNet("w18_small_v1", multi_scale_output=False), 3)


@pytest.mark.parametrize("codec", [FaceCodec(), FaceCodec(sigma=1.0), MSRACodec(), DarkCodec(sigma=1.5), UDPCodec()])
def test_loss_is_the_plain_mean_over_all_maps_without_those_that_have_no_target(codec):
    generator = torch.Generator().manual_seed(0)
    batch = batch_of(torch.zeros(2, 3, 64, 96, dtype=torch.uint8))
    batch["keypoints"] = 60 * torch.rand(2, 3, 2, generator=generator)
    batch["keypoints"][1, 1] = torch.tensor([500.0, 12.0])  # far outside
    batch["visible"] = torch.tensor([[2, 1, 0], [1, 2, 2]])
    outputs = torch.randn(2, 3, 16, 24, generator=generator).requires_grad_()
    errors = np.zeros((2, 3, 16, 24))
    for face in range(2):
        for point in range(3):
            place, seen = batch["keypoints"][face, point].numpy(), int(batch["visible"][face, point])
            target, weight = slow_encode(codec, place, seen, (64, 96))
            errors[face, point] = weight * (outputs[face, point].detach().numpy() - target) ** 2
    loss = small_task(codec=codec).losses(outputs, batch)["heatmap"]
    assert loss.item() == pytest.approx(errors.mean(), rel=1e-5)
    (slopes,) = torch.autograd.grad(loss, outputs)
    assert (slopes.abs().amax((2, 3)) > 0).tolist() == [[True, True, False], [True, False, True]]


def test_all_parameters_get_a_gradient():
    task = small_task().train()
    batch = batch_of(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    sum(task.training_losses(batch).values()).backward()
    assert all(parameter.grad is not None for parameter in task.parameters())


@torch.no_grad()
def test_the_network_runs_once_and_mirrored_if_asked():
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    for flip_test, expected in ((False, 1), (True, 2)):
        task, runs = small_task(flip_test=flip_test, codec=UDPCodec(sigma=1.5)), []
        task.backbone.register_forward_hook(lambda *_, runs=runs: runs.append(1))
        batch, mirrored = batch_of(image), batch_of(image.flip(-1))
        here = task.predict(task.outputs(batch), batch)
        assert len(runs) == expected
    there = task.predict(task.outputs(mirrored), mirrored)
    torch.testing.assert_close(here["scores"], there["scores"][:, [1, 0, 2]], atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_head_brings_streams_to_one_size_as_the_backbone_does():
    both = [LandmarkTask(HRNet(**SMALL, align_corners=corners), 3).eval() for corners in (False, True)]
    both[1].load_state_dict(both[0].state_dict())
    streams = [torch.rand(1, channels, 16 >> i, 16 >> i) for i, channels in enumerate(both[0].backbone.channels)]
    maps = [task.from_streams(streams, (64, 64)) for task in both]
    assert not torch.allclose(*maps)


# ---- evaluation


def evaluated(task: LandmarkTask, split: str = "val") -> tuple[dict, dict]:
    """Four faces, whose points are 0, 1, 2 and 3 heatmap pixels right of where they are labelled."""
    task.split = split
    task.attach(Faces())
    batch = batch_of(torch.zeros(4, 3, 64, 64, dtype=torch.uint8))
    shifted = batch["keypoints"] + 4 * torch.arange(4.0)[:, None, None] * torch.tensor([1.0, 0])
    maps, _ = task.codec.encode(shifted, batch["visible"], (64, 64))
    return task.predict(maps, batch), batch


@torch.no_grad()
def test_figures_come_from_the_batch_in_original_pixels():
    task = small_task(codec=DarkCodec(sigma=1.5))
    predictions, batch = evaluated(task)
    for part in (slice(0, 3), slice(2, 4)):  # one face twice, as a sampler repeats it
        task.update({k: v[part] for k, v in predictions.items()}, {k: v[part] for k, v in batch.items()})
    # A heatmap pixel is 4 of the crop and 8 of the image, where the eyes are 40 apart.
    expected = {"NME": 0.3, "FR@0.08": 0.75, "FR@0.10": 0.75, "AUC@0.08": 0.25, "AUC@0.10": 0.25, "blur/NME": 0.4}
    assert task.compute() == pytest.approx(expected, abs=5e-3)
    modes = {f"val/{name}": "max" if "AUC" in name else "min" for name in expected}
    assert modes.items() <= task.modes.items()
    tables = task.tables()
    assert [row["name"] for row in tables["landmarks"]] == ["left", "right", "tip"]
    assert [row["error"] for row in tables["landmarks"]] == pytest.approx([12.0] * 3, abs=0.2)
    assert [row["name"] for row in tables["subsets"]] == ["all", "blur"]
    errors, words = task.metric.faces.errors, ("NME of a face", "cumulative error of 4 faces")
    farther = np.where(errors > 0.15, 9, errors)  # up to there the curve is shown, as in the field
    assert torch.equal(tables["cumulative_error"], draw_cumulative(farther, 0.15, *words))
    scores = task.scores(predictions, batch)
    assert scores["sample"] == [0, 1, 2, 3]
    assert scores["NME"] == pytest.approx([0, 0.2, 0.4, 0.6], abs=5e-3)
    assert scores["score"] == pytest.approx([1, 0.8, 0.6, 0.4], abs=5e-3)
    assert scores["image_id"] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert scores["annotation"] == ["face 0", "face 1", "face 2", "face 3"]
    task.reset()
    assert math.isnan(task.compute()["NME"])


@torch.no_grad()
def test_the_score_of_a_sample_stays_in_its_range_and_is_nan_without_labels():
    task = small_task()
    predictions, batch = evaluated(task)
    predictions["keypoints"] = predictions["keypoints"] + torch.tensor([0.0, 5, 100, 0])[:, None, None]
    batch["visible"] = torch.tensor([2, 2, 2, 0])[:, None].expand(4, 3)
    scores = task.scores(predictions, batch)["score"]
    assert 0 == scores[2] < scores[1] < scores[0] <= 1
    assert math.isnan(scores[3])


@torch.no_grad()
def test_a_split_without_subsets_has_none():
    task = small_task()
    predictions, batch = evaluated(task, split="test")
    task.update(predictions, batch)
    assert [name for name in task.compute() if "/" in name] == []
    assert "subsets" not in task.tables()


@torch.no_grad()
def test_pictures_show_the_faces():
    task = small_task()
    predictions, batch = evaluated(task)
    drawn = task.draw(task.outputs(batch), predictions, batch, 2)
    assert list(drawn) == ["pose (truth, prediction, target, heatmaps)", "point_names"]
    assert drawn["point_names"].layers[1].caption == "image 1.jpg, instance 1"


# ---- data and checkpoints


def test_attaching_takes_the_skeleton_into_the_checkpoint(tmp_path):
    task = small_task(codec=DarkCodec(sigma=1.5))
    task.attach(Faces(names=["a", "b", "c"]))
    assert task.hparams["skeleton"]["names"] == task.skeleton["names"] == ["a", "b", "c"]
    assert task.hparams["num_landmarks"] == 3
    assert not {"num_keypoints", "measure"} & set(task.hparams)
    save_task(task, tmp_path / "faces.ckpt")
    again = tasks.load(tmp_path / "faces.ckpt")
    assert isinstance(again, LandmarkTask)
    assert (again.codec, again.skeleton, again.flip_test) == (DarkCodec(sigma=1.5), task.skeleton, False)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(images), task(images))


def test_data_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"model\.init_args\.num_landmarks to 3"):
        LandmarkTask(SMALL, 5).attach(Faces())
    with pytest.raises(ValueError, match=r"normaliser .* is None; expected two different landmarks"):
        small_task().attach(Faces(normaliser=None))


def test_what_poses_are_measured_by_is_no_option_here():
    with pytest.raises(TypeError, match="measure"):
        small_task(measure="pckh")


def test_evaluation_without_data_says_so():
    with pytest.raises(ValueError, match="attach a DataModule"):
        small_task().compute()


def test_a_joint_run_shares_one_pass():
    joint = MultiTask(HRNet(**SMALL), {"face": partial(LandmarkTask, num_landmarks=3)})
    found = joint.eval()(torch.rand(1, 3, 64, 64))
    assert found["face"].shape == (1, 3, 16, 16)
    assert joint.modes["val/face/NME"] == "min"

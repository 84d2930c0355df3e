"""PoseTask: shapes, options, the mirrored image, the ceiling of each codec, what it says when something is missing."""

import numpy as np
import pytest
import torch

from datamodules import CocoPose
from hrnet import HRNet
from tasks import DarkCodec, MSRACodec, PoseTask, UDPCodec
from tasks.metrics import CocoKeypoints
from tasks.pose import Task
from tests.tasks.test_heatmaps import slow_encode

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


@pytest.mark.parametrize("ohkm", [None, 1, 2, 3])
@pytest.mark.parametrize("codec", [MSRACodec(sigma=1.5), DarkCodec()])
def test_mining_counts_the_so_many_worst_key_points_of_each_person(ohkm, codec):
    generator = torch.Generator().manual_seed(0)
    batch = batch_of(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    batch["keypoints"] = 60 * torch.rand(2, 3, 2, generator=generator)
    batch["visible"] = torch.tensor([[2, 1, 0], [1, 2, 2]])
    outputs = torch.randn(2, 3, 16, 16, generator=generator)
    targets, weights = codec.encode(batch["keypoints"], batch["visible"], (64, 64))
    errors = (((outputs - targets) * weights[..., None, None]) ** 2).mean(dim=(2, 3)) / 2
    expected = np.mean([np.mean(sorted(row)[-(ohkm or 3) :]) for row in errors.tolist()])
    losses = small_task(ohkm=ohkm, codec=codec).losses(outputs, batch)
    assert losses["heatmap"].item() == pytest.approx(expected, rel=1e-5)


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


# ---- every option reaches what it is an option of

CODECS = [MSRACodec(), MSRACodec(sigma=3.0), DarkCodec(sigma=1.5), UDPCodec(), UDPCodec(sigma=3.0)]


def labelled(keypoints: list[list[float]], visible: list[int]) -> dict:
    """One crop of 64 x 96 pixels, two original pixels each, shifted by (5, 7)."""
    return {
        "image": torch.zeros(1, 3, 64, 96, dtype=torch.uint8),
        "keypoints": torch.tensor([keypoints]),
        "visible": torch.tensor([visible]),
        "to_image": torch.tensor([[[2.0, 0, 5], [0, 2, 7]]]),
    }


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_loss_is_against_the_targets_of_the_given_codec(codec):
    batch = labelled([[20.0, 30.0], [50.3, 11.8], [70.0, 40.0]], [2, 1, 0])
    outputs = torch.randn(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    expected = 0.0
    for point, (place, visible) in enumerate(zip(batch["keypoints"][0], batch["visible"][0], strict=True)):
        target, weight = slow_encode(codec, place.numpy(), int(visible), (64, 96))
        assert weight == (visible > 0)
        expected += 0.5 * weight * np.square(outputs[0, point].numpy() - target).mean() / 3
    assert small_task(codec=codec).losses(outputs, batch)["heatmap"].item() == pytest.approx(expected, rel=1e-5)


def test_what_is_not_labelled_or_far_outside_neither_costs_nor_teaches():
    task = small_task()
    near = labelled([[20.0, 30.0], [50.0, 12.0], [95.0, 63.0]], [2, 1, 2])
    far = labelled([[20.0, 30.0], [500.0, 12.0], [30.0, 40.0]], [2, 1, 0])
    outputs = torch.randn(1, 3, 16, 24).requires_grad_()
    for batch, taught in ((near, [True, True, True]), (far, [True, False, False])):
        (slopes,) = torch.autograd.grad(task.losses(outputs, batch)["heatmap"], outputs)
        assert (slopes.abs().amax((0, 2, 3)) > 0).tolist() == taught


@pytest.mark.parametrize("codec", CODECS, ids=str)
@torch.no_grad()
def test_prediction_reads_the_maps_of_the_given_codec(codec):
    batch = labelled([[40.0, 24.0], [50.3, 31.8], [47.0, 36.0]], [2, 2, 2])
    maps, _ = codec.encode(batch["keypoints"], batch["visible"], (64, 96))
    found = small_task(codec=codec, flip_test=False).predict(maps, batch)
    error = 2.0 if isinstance(codec, MSRACodec) else 0.1
    assert (found["input_keypoints"] - batch["keypoints"]).abs().max() <= error
    torch.testing.assert_close(found["keypoints"], 2 * found["input_keypoints"] + torch.tensor([5.0, 7.0]))
    torch.testing.assert_close(found["scores"], maps.amax((2, 3)))


@pytest.mark.parametrize(("codec", "shift"), [(MSRACodec(), 1), (DarkCodec(), 1), (UDPCodec(), 0)], ids=str)
@torch.no_grad()
def test_flip_test_averages_with_the_mirrored_image_left_and_right_exchanged(codec, shift):
    """The network's place is taken by one whose maps are the image's own channels, at stride 4."""
    image = torch.randint(0, 256, (2, 3, 64, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    task = small_task(codec=codec)
    task.forward = lambda images: images[:, :, ::4, ::4]
    batch = batch_of(image)
    outputs = task(task.normalize(image))
    other = task.normalize(image).numpy()[..., ::-1][:, :, ::4, ::4]  # maps of the mirrored image
    back = other[:, [1, 0, 2], :, ::-1]
    if shift:
        back = np.concatenate([back[..., :1], back[..., :-1]], axis=-1)
    expected, scores = codec.decode(torch.from_numpy((outputs.numpy() + back) / 2))
    found = task.predict(outputs, batch)
    torch.testing.assert_close(found["input_keypoints"], expected)
    torch.testing.assert_close(found["scores"], scores)
    task.flip_test = False
    alone, _ = codec.decode(outputs)
    torch.testing.assert_close(task.predict(outputs, batch)["input_keypoints"], alone)
    assert not torch.equal(alone, expected)


@torch.no_grad()
def test_without_flip_test_the_network_runs_once():
    task, runs = small_task(flip_test=False), []
    task.backbone.register_forward_hook(lambda *_: runs.append(1))
    batch = batch_of(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    task.predict(task.outputs(batch), batch)
    assert len(runs) == 1


@pytest.mark.parametrize("count", [1, 3, 5])
def test_as_many_heatmaps_as_key_points(count):
    assert PoseTask(SMALL, count)(torch.zeros(1, 3, 64, 64)).shape == (1, count, 16, 16)


def test_a_codec_of_another_stride_is_refused_at_once():
    with pytest.raises(ValueError, match=r"codec\.init_args\.stride to 4"):
        PoseTask(SMALL, codec=UDPCodec(stride=8))


def test_a_skeleton_of_other_key_points_is_refused_at_once():
    with pytest.raises(ValueError, match=r"3 key points.*num_keypoints=5"):
        PoseTask(SMALL, 5, skeleton=SKELETON)


def evaluated(task: PoseTask) -> list[dict]:
    """Results of three boxes in two of three images, with scores 0.5, 1 and 1; two of them show the same person."""
    person = {"category_id": 1, "bbox": [0, 0, 90, 90], "area": 4000.0, "iscrowd": 0, "num_keypoints": 3}
    truth = {
        "images": [{"id": i} for i in (1, 2, 3)],
        "annotations": [{**person, "id": i, "image_id": i, "keypoints": [30, 30, 2] * 3} for i in (1, 2, 3)],
        "categories": [{"id": 1}],
    }
    task.metric = CocoKeypoints(truth, SKELETON["sigmas"], SKELETON["names"])
    task.reset()
    batch = {
        "image_id": torch.tensor([1, 2, 2]),
        "instance_id": torch.tensor([10, 20, 21]),
        "score": torch.tensor([0.5, 1.0, 1.0]),
        "area": torch.tensor([5000.0, 5000.0, 5000.0]),
    }
    scores = torch.tensor([[0.8, 0.4, 0.1], [0.9, 0.9, 0.9], [0.5, 0.5, 0.5]])
    keypoints = torch.full((3, 3, 2), 30.0)
    keypoints[2] += 1  # a pixel away is the same person, at this size
    task.update({"keypoints": keypoints, "scores": scores}, batch)
    return task.metric.results()


def test_boxes_bring_their_scores_and_areas_to_the_evaluation():
    found = evaluated(small_task())
    # Box score times the mean of the key points above 0.2; of two poses on one another the better stays.
    assert [row["image_id"] for row in found] == [1, 2]
    assert [row["score"] for row in found] == pytest.approx([0.5 * 0.6, 0.9])


def test_persons_of_images_that_were_not_looked_at_count_only_in_a_whole_evaluation():
    task = small_task()
    evaluated(task)
    assert task.compute()["AR"] == pytest.approx(2 / 3)
    evaluated(task)
    task.partial = True
    assert task.compute()["AR"] == pytest.approx(1.0)


def test_attaching_takes_the_skeleton_into_the_checkpoint(request, monkeypatch):
    monkeypatch.chdir(request.config.rootpath)
    data = CocoPose("sample", image_size=(64, 48), num_workers=0)
    task = PoseTask(SMALL)
    task.attach(data)
    assert task.hparams["skeleton"] == data.skeleton.to_dict() == task.skeleton
    order = list(range(17))
    for left, right in data.skeleton.flip_pairs:
        order[left], order[right] = right, left
    assert task._flip_permutation().tolist() == order != list(range(17))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_key_points_have_their_places_in_the_image_in_mixed_precision_too(dtype):
    """A crop far from the image's origin: as a product in half precision its points would be off by pixels."""
    task = PoseTask({"variant": "w18_small_v1", "multi_scale_output": False}, flip_test=False).eval()
    generator = torch.Generator().manual_seed(0)
    keypoints = 16 + torch.rand(3, 17, 2, generator=generator) * torch.tensor([160, 224])
    heatmaps, _ = task.codec.encode(keypoints, torch.ones(3, 17), (256, 192))
    turn = torch.tensor([[2.17, -0.31, 1011.0], [0.31, 2.17, 603.0]])
    batch = {"image": torch.zeros(3, 3, 256, 192, dtype=torch.uint8), "to_image": turn.repeat(3, 1, 1)}
    with torch.autocast("cpu", dtype=dtype):
        found = task.predict(heatmaps, batch)
    points = found["input_keypoints"].double()
    expected = torch.einsum("ij,bkj->bki", turn[:, :2].double(), points) + turn[:, 2].double()
    torch.testing.assert_close(found["keypoints"].double(), expected, rtol=0, atol=1e-3)
    # They were decoded right, too: within the half heatmap pixel that MSRA's targets round to.
    assert (points - keypoints).abs().max() <= 2


def test_scores_of_key_points_are_the_same_in_mixed_precision(monkeypatch):
    """Truth and prediction at the same place have OKS 1."""
    task = PoseTask({"variant": "w18_small_v1", "multi_scale_output": False}, flip_test=False)
    seen = {}

    class Metric:
        renamed_images = renamed_annotations = None

        def similarity(self, instance_id, truth, visible, keypoints):
            seen.update(truth=truth, keypoints=keypoints)
            return torch.ones(len(truth))

    monkeypatch.setattr(task, "_require_metric", Metric)
    keypoints = 200 * torch.rand(2, 17, 2)
    matrix = torch.tensor([[3.3, 0.0, 777.0], [0.0, 3.3, 1234.0]]).repeat(2, 1, 1)
    batch = {"keypoints": keypoints, "to_image": matrix, "visible": torch.ones(2, 17)}
    batch |= {"instance_id": torch.arange(2), "image_id": torch.arange(2)}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        task.scores({"keypoints": keypoints * 3.3 + torch.tensor([777.0, 1234.0]), "scores": torch.ones(2, 17)}, batch)
    torch.testing.assert_close(seen["truth"], seen["keypoints"], rtol=0, atol=1e-3)

"""A GPU computes what the CPU computes: outputs, losses, gradients, targets, key points, metrics, predictions."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from datamodules import Skeleton
from hrnet import HRNet, SegmentationHead, for_inference
from tasks import ClassificationTask, DarkCodec, MSRACodec, MultiTask, PoseTask, SegmentationTask, Task, UDPCodec
from tasks.heatmaps import Codec
from tasks.losses import CrossEntropy
from tasks.metrics.coco_keypoints import CocoKeypoints
from tasks.metrics.confusion import SegmentationScores, image_confusion, image_iou
from tasks.pose import in_image
from tests.gpu.conftest import DEVICE, tf32

COCO = Skeleton.load("coco").to_dict()
CODECS = [MSRACodec(), DarkCodec(), UDPCodec(), DarkCodec(sigma=3.0)]
COUNT, SIZE = 4, (96, 64)

TASKS: dict[str, Callable[[HRNet], Task]] = {
    "pose": partial(PoseTask, skeleton=COCO),
    "pose, UDP, ohkm": partial(PoseTask, codec=UDPCodec(), ohkm=8, flip_test=False),
    "segmentation": partial(SegmentationTask, num_classes=19, class_weights="cityscapes", flip_test=True),
    "segmentation, ohem": partial(SegmentationTask, num_classes=5, ohem=True, ohem_min_kept=100, scales=[0.5, 1.0]),
    "segmentation, ocr": partial(SegmentationTask, num_classes=5, head="ocr", ocr_channels=(64, 32), window=(64, 64)),
    "classification": partial(ClassificationTask, num_classes=5, label_smoothing=0.1),
    "joint": partial(
        MultiTask,
        tasks={
            "pose": partial(PoseTask, skeleton=COCO),
            "parts": partial(SegmentationTask, num_classes=5),
            "kind": partial(ClassificationTask, num_classes=5),
        },
    ),
}


def made(name: str) -> Task:
    torch.manual_seed(0)
    task = TASKS[name](HRNet("w18_small_v1", upsample="bilinear"))
    for module in task.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0  # draws differ from device to device
    return task.to(memory_format=torch.channels_last)


def batch_for(task: Task) -> dict:
    generator = torch.Generator().manual_seed(1)
    batch = {
        "image": torch.randint(256, (COUNT, 3, *SIZE), dtype=torch.uint8, generator=generator),
        "keypoints": 80 * torch.rand(COUNT, 17, 2, generator=generator) - 8,
        "visible": torch.randint(3, (COUNT, 17), generator=generator),
        "to_image": torch.tensor([[2.0, 0.3, 900.0], [-0.3, 2.0, 500.0]]).repeat(COUNT, 1, 1),
        "mask": torch.randint(5, (COUNT, *SIZE), generator=generator),
        "label": torch.randint(5, (COUNT,), generator=generator),
    }
    batch["mask"][:, :9] = 255
    return dict.fromkeys(task.tasks, batch) if isinstance(task, MultiTask) else batch


def moved(value, device: torch.device):
    if isinstance(value, dict):
        return {key: moved(item, device) for key, item in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


def flat(value) -> dict[str, Tensor]:
    if isinstance(value, Tensor):
        return {"": value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {f"{key}.{name}": x for key, item in items for name, x in flat(item).items()}


def error(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference, relative to that of what is expected."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    assert found.isfinite().all()
    return ((found - expected).norm() / expected.norm().clamp(min=1e-12)).item()


@pytest.mark.parametrize("name", TASKS)
def test_outputs_and_losses(name):
    task = made(name).eval()
    batch = batch_for(task)
    with torch.no_grad():
        outputs = task.outputs(batch)
        losses = task.losses(outputs, batch)
        task.to(DEVICE)
        found = task.outputs(moved(batch, DEVICE))
        found_losses = task.losses(found, moved(batch, DEVICE))
    for key, expected in flat(outputs).items():
        assert flat(found)[key].device.type == DEVICE.type
        assert error(flat(found)[key], expected) < 1e-4, key
    for key, expected in losses.items():
        assert found_losses[key].item() == pytest.approx(expected.item(), rel=1e-4), key


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", TASKS)
def test_outputs_in_mixed_precision_are_near(gpu, name, precision):
    task = made(name).eval().to(gpu)
    batch = moved(batch_for(task), gpu)
    with torch.no_grad():
        expected = flat(task.outputs(batch))
        with torch.autocast("cuda", dtype=precision):
            found = flat(task.outputs(batch))
    for key, value in expected.items():
        assert error(found[key], value) < (0.05 if precision == torch.float16 else 0.3), key


@pytest.mark.parametrize("name", [name for name in TASKS if name != "joint"])
def test_gradients(name):
    """In float64, in which rounding is no noise; losses are in float32."""
    gradients = []
    for device in (torch.device("cpu"), DEVICE):
        task = made(name).double().train().to(device)
        for module in task.modules():
            if isinstance(module, CrossEntropy):
                module.float()
        losses = task.training_losses(moved(batch_for(task), device))
        torch.stack(list(losses.values())).sum().backward()
        gradients.append(torch.cat([p.grad.flatten().cpu() for p in task.parameters() if p.grad is not None]))
    assert error(gradients[1], gradients[0]) < 1e-4


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_targets_and_key_points(codec: Codec):
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(32, 17, 2, generator=generator) * torch.tensor([210, 276]) - 10
    visible = torch.randint(3, (32, 17), generator=generator)
    heatmaps, weights = codec.encode(points, visible, (256, 192))
    found, found_weights = codec.encode(points.to(DEVICE), visible.to(DEVICE), (256, 192))
    torch.testing.assert_close(found.cpu(), heatmaps, rtol=1e-5, atol=1e-6)
    assert torch.equal(found_weights.cpu(), weights)
    noisy = heatmaps * torch.rand(32, 17, 1, 1, generator=generator)
    noisy += 0.003 * torch.rand(noisy.shape, generator=generator)
    for maps in (noisy, noisy.to(memory_format=torch.channels_last)):
        keypoints, scores = codec.decode(maps)
        on_device, device_scores = codec.decode(maps.to(DEVICE))
        torch.testing.assert_close(on_device.cpu(), keypoints, rtol=0, atol=2e-3)
        assert torch.equal(device_scores.cpu(), scores)
    order = torch.randperm(17, generator=generator)
    assert torch.equal(codec.flip_back(noisy.to(DEVICE), order.to(DEVICE)).cpu(), codec.flip_back(noisy, order))


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_key_points_are_decoded_in_float32_under_autocast_and_tf32(codec: Codec):
    generator = torch.Generator().manual_seed(0)
    points = 16 + torch.rand(8, 17, 2, generator=generator) * torch.tensor([160, 224])
    heatmaps, _ = codec.encode(points, torch.ones(8, 17), (256, 192))
    heatmaps += 0.003 * torch.rand(heatmaps.shape, generator=generator)
    matrix = torch.tensor([[2.17, -0.31, 1011.0], [0.31, 2.17, 603.0]]).repeat(8, 1, 1)
    expected = in_image(codec.decode(heatmaps)[0], matrix)
    for dtype in (torch.float16, torch.bfloat16):
        with tf32(True), torch.autocast(DEVICE.type, dtype=dtype):
            found = in_image(codec.decode(heatmaps.to(DEVICE))[0], matrix.to(DEVICE))
        torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=0.1)  # TF32 blurs with ten binary digits


@pytest.mark.parametrize("boundary", [False, True])
def test_segmentation_scores(boundary):
    generator = torch.Generator().manual_seed(0)
    metrics = [SegmentationScores(7, boundary=boundary), SegmentationScores(7, boundary=boundary).to(DEVICE)]
    for dtype in (torch.uint8, torch.int64):
        mask = torch.randint(7, (3, 8, 12), generator=generator).repeat_interleave(9, 1).repeat_interleave(9, 2)
        labels = torch.where(torch.rand(mask.shape, generator=generator) < 0.9, mask, 3)
        mask[:, :4] = 255
        for metric in metrics:
            metric.update(labels.to(metric.device), mask.to(metric.device, dtype))
        confusions = [image_confusion(labels.to(d), mask.to(d, dtype), 7) for d in (metrics[0].device, DEVICE)]
        assert torch.equal(confusions[0], confusions[1].cpu())
        torch.testing.assert_close(image_iou(confusions[0]), image_iou(confusions[1]).cpu(), equal_nan=True)
    assert metrics[1].compute() == metrics[0].compute()
    assert metrics[1].per_class() == metrics[0].per_class()


def test_key_point_scores():
    generator = torch.Generator().manual_seed(0)
    points = 20 + 200 * torch.rand(12, 17, 2, generator=generator)
    annotations = [
        {
            "id": i + 1,
            "image_id": i // 3,
            "category_id": 1,
            "iscrowd": 0,
            "bbox": [0.0, 0.0, 240.0, 240.0],
            "area": 20000.0,
            "num_keypoints": 17,
            "keypoints": torch.cat([points[i], torch.full((17, 1), 2.0)], 1).flatten().tolist(),
        }
        for i in range(12)
    ]
    truth = {
        "images": [{"id": i, "width": 640, "height": 640} for i in range(4)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}],
    }
    found = points + 6 * torch.randn(points.shape, generator=generator)
    rows = (torch.arange(12) // 3, torch.arange(12) + 1, found, torch.rand(12, 17, generator=generator))
    rows = (*rows, torch.ones(12), torch.full((12,), 57600.0))
    metrics = [CocoKeypoints(truth, COCO["sigmas"], COCO["names"]).to(device) for device in ("cpu", DEVICE)]
    for metric in metrics:
        metric.update(*(x.to(metric.device) for x in rows))
    expected, figures = (metric.compute() for metric in metrics)
    assert 0 < expected["AP"] < 1
    assert figures == pytest.approx(expected, nan_ok=True)
    similar = [m.similarity(*(x.to(m.device) for x in (rows[1], points, torch.ones(12, 17), found))) for m in metrics]
    assert similar[1].tolist() == pytest.approx(similar[0].tolist(), rel=1e-9)


def test_classification_scores():
    generator = torch.Generator().manual_seed(0)
    labels, shares = torch.randint(5, (64,), generator=generator), torch.rand(64, 5, generator=generator).softmax(1)
    tasks = [made("classification") for _ in range(2)]
    tasks[1].to(DEVICE)
    for task in tasks:
        task.update({"probabilities": shares.to(task.device)}, {"label": labels.to(task.device)})
    assert tasks[1].compute() == tasks[0].compute()
    tables, expected = tasks[1].tables(), tasks[0].tables()
    assert torch.equal(tables.pop("confusion"), expected.pop("confusion"))
    assert tables == expected


@pytest.mark.parametrize("name", ["segmentation", "segmentation, ohem", "segmentation, ocr"])
def test_predicted_labels(name):
    """With mirrored images, scales and windows; ties of a random network are few."""
    task = made(name).eval()
    batch = batch_for(task)
    with torch.no_grad():
        expected = task.predict(task.outputs(batch), batch)["labels"]
        task.to(DEVICE)
        batch = moved(batch, DEVICE)
        found = task.predict(task.outputs(batch), batch)["labels"].cpu()
    assert (found == expected).double().mean() > 0.999


def test_a_large_map_is_finished_whole_and_equals_strips():
    torch.manual_seed(0)
    head = SegmentationHead([18, 36, 72, 144], 19).eval()
    streams = [torch.rand(1, c, 256 // s, 512 // s) for c, s in zip((18, 36, 72, 144), (1, 2, 4, 8), strict=True)]
    with torch.no_grad():
        expected = head(streams)
        found = head.to(DEVICE)([x.to(DEVICE) for x in streams])
    assert error(found, expected) < 1e-5


@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_a_network_prepared_for_inference(upsample, precision):
    torch.manual_seed(0)
    task = PoseTask(HRNet("w18_small_v1", upsample=upsample), flip_test=False).eval().to(DEVICE)
    fast, images = for_inference(task), torch.rand(2, 3, *SIZE, device=DEVICE)
    with torch.inference_mode(), torch.autocast(DEVICE.type, dtype=precision, enabled=precision is not None):
        assert error(fast(images), task(images)) < (1e-4 if precision is None else 0.3)

"""What a task computes stays on the device of its batch and never waits for it, with meta tensors in place of a GPU's.

Meta tensors have shapes and a device, but no values: an operator that mixes devices fails on them as on a GPU, and so
does asking for a value, for which a GPU would have to finish first.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from datamodules import Skeleton
from hrnet import HRNet, HRNetV2p
from tasks import ClassificationTask, DarkCodec, MSRACodec, MultiTask, PoseTask, SegmentationTask, Task, UDPCodec
from tasks.optim import EMA

COUNT, SIZE = 4, (64, 96)
COCO = Skeleton.load("coco").to_dict()


class Streams(HRNet):
    """Four convolutions in place of the network, which has a test of its own."""

    def _build(self, variant: object, multi_scale_output: bool) -> None:
        self.strides = [4, 8, 16, 32] if multi_scale_output else [4]
        self.channels = [8 * 2**i for i in range(len(self.strides))]
        self.bn1 = nn.BatchNorm2d(3)
        streams = zip(self.channels, self.strides, strict=True)
        self.stage4 = nn.ModuleList(nn.Conv2d(3, c, 3, stride=stride, padding=1) for c, stride in streams)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [conv(self.bn1(images)) for conv in self.stage4]


class Transfers(TorchDispatchMode):
    """Notes each operator that takes a tensor from one device to another."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        devices = {x.device.type for x in (*args, out) if isinstance(x, Tensor)}
        if len(devices) > 1 and func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            self.found.append(str(func))
        return out


TASKS: dict[str, Callable[[HRNet], Task]] = {
    "pose, MSRA": partial(PoseTask, codec=MSRACodec(), skeleton=COCO),
    "pose, DARK": partial(PoseTask, codec=DarkCodec(), skeleton=COCO),
    "pose, UDP": partial(PoseTask, codec=UDPCodec(), skeleton=COCO),
    "pose, ohkm": partial(PoseTask, ohkm=8, flip_test=False),
    "segmentation": partial(SegmentationTask, num_classes=19, class_weights="cityscapes"),
    "segmentation, ohem": partial(SegmentationTask, num_classes=5, ohem=True, flip_test=True, scales=[0.5, 1.0]),
    "segmentation, ocr": partial(SegmentationTask, num_classes=5, head="ocr", ocr_channels=(32, 16), window=(32, 64)),
    "classification": partial(ClassificationTask, num_classes=5, label_smoothing=0.1),
    "classification, mixed": partial(ClassificationTask, num_classes=5, mixup=0.5, cutmix=1.0),
}
JOINT = {"pose": TASKS["pose, MSRA"], "segmentation": TASKS["segmentation"]}


@pytest.fixture(autouse=True)
def autocast_on_meta_tensors(monkeypatch):
    """Torch has none, and the code switches it off for the device of its tensors."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())


def made(make: Callable[[HRNet], Task]) -> Task:
    return make(Streams("w18_small_v1")).to("meta")


def meta_batch() -> dict[str, Tensor]:
    """As the data give it, all keys of all tasks."""
    with torch.device("meta"):
        return {
            "image": torch.empty(COUNT, 3, *SIZE, dtype=torch.uint8),
            "keypoints": torch.empty(COUNT, 17, 2),
            "visible": torch.empty(COUNT, 17, dtype=torch.int64),
            "to_image": torch.empty(COUNT, 2, 3),
            "mask": torch.empty(COUNT, *SIZE, dtype=torch.uint8),
            "label": torch.empty(COUNT, dtype=torch.int64),
        }


def devices(value: object) -> set[str]:
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return {value.device.type} if isinstance(value, Tensor) else set().union(*map(devices, values))


def test_meta_tensors_tell_what_they_are_trusted_to_tell():
    x = torch.ones(2, device="meta")
    with pytest.raises(RuntimeError):
        x + torch.ones(2)
    with pytest.raises(RuntimeError):
        bool(x.sum() > 0)
    with Transfers() as transfers:
        x * 2
        assert not transfers.found
        torch.ones(2).to("meta")
        torch.empty(2, device="meta").copy_(torch.ones(2))
        assert len(transfers.found) == 2


@pytest.mark.parametrize("name", TASKS)
def test_a_training_step_neither_leaves_its_device_nor_waits_for_it(name):
    task, batch = made(TASKS[name]).train(), meta_batch()
    with Transfers() as transfers:
        losses = task.training_losses(batch)
        torch.stack(list(losses.values())).sum().backward()
    assert devices(losses) | {p.grad.device.type for p in task.parameters() if p.grad is not None} == {"meta"}
    assert not transfers.found


@pytest.mark.parametrize("balancing", ["fixed", "dwa", "geometric"])
@pytest.mark.parametrize("batch_norm", ["shared", "per_task"])
def test_a_joint_step_neither_leaves_its_device_nor_waits_for_it(balancing, batch_norm):
    logged: dict[str, Tensor] = {}
    joint = made(partial(MultiTask, tasks=JOINT, balancing=balancing, batch_norm=batch_norm, gradient_every=0)).train()
    joint.trainer = Trainer(accelerator="cpu", logger=False, barebones=True)
    joint.log = lambda name, value, **_: logged.update({name: value})
    joint.log_dict = lambda values, **_: logged.update(values)
    with Transfers() as transfers:
        joint.training_step(dict.fromkeys(JOINT, meta_batch()), 0).backward()
    assert devices(logged) | {p.grad.device.type for p in joint.parameters() if p.grad is not None} == {"meta"}
    assert {"train/pose/weighted_loss", "train/segmentation/weight", "train/loss"} <= set(logged)
    assert not transfers.found


@pytest.mark.parametrize("name", [name for name in TASKS if name != "pose, DARK"])
def test_predictions_stay_on_their_device(name):
    """DARK's blurs whole only the maps that need it: how many, meta tensors cannot know."""
    task, batch = made(TASKS[name]).eval(), meta_batch()
    with torch.no_grad():
        outputs = task.outputs(batch)
        assert devices(task.losses(outputs, batch)) == {"meta"}
        assert devices(outputs) | devices(task.predict(outputs, batch)) == {"meta"}


@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
def test_the_network_stays_on_its_device(upsample):
    network, pyramid = HRNet("w18_small_v1", upsample=upsample).to("meta"), HRNetV2p([16, 32, 64, 128]).to("meta")
    images = torch.empty(1, 3, 64, 64, device="meta")
    with Transfers() as transfers:
        assert devices(pyramid(network(images))) == {"meta"}
    assert not transfers.found


def test_averaged_weights_are_where_the_model_is():
    """Lightning makes them while the model is still in the CPU's memory."""
    task, average = PoseTask(Streams("w18_small_v1")), EMA()
    trainer = Trainer(accelerator="cpu", logger=False, barebones=True)
    average.setup(trainer, task, "fit")
    average.on_fit_start(trainer, task.to("meta"))
    found = average._average_model.module
    assert {x.device.type for x in (*found.parameters(), *found.buffers())} == {"meta"}

"""Wrappers are seen through and layouts recognised; what is no HRNet, or two of them, is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hrnet import HRNet, load_weights
from tests.hrnet.published import (
    SMALL,
    State,
    Task,
    classification,
    filled,
    listed,
    ocr,
    official,
    pose,
    prefixed,
    same,
    segmentation,
    unchanged,
)

WRAPPERS = {
    "plain": lambda s: s,
    "state_dict": lambda s: {"epoch": 3, "state_dict": prefixed("module.")(s), "optimizer": {"state": {}}},
    "pose training": lambda s: {
        "epoch": 210,
        "model": "pose_hrnet",
        "state_dict": prefixed("module.")(s),
        "best_state_dict": {k: x + 1 for k, x in s.items()},
        "perf": np.float64(0.75),
        "optimizer": {},
    },
    "best only": lambda s: {"best_state_dict": s},
    "segmentation": lambda s: prefixed("model.")(s) | {"loss.criterion.weight": torch.ones(19)},
    "segmentation training": lambda s: {
        "best_mIoU": np.float64(0.8),
        "state_dict": prefixed("module.model.")(s) | {"module.loss.criterion.weight": torch.ones(19)},
    },
    "model": lambda s: {"model": s, "ema": 1},
    "nested": lambda s: {"model": {"state_dict": s}},
    "compiled": lambda s: prefixed("_orig_mod.")(s),
    "compiled inside": lambda s: prefixed("module._orig_mod.net.")(s),
    "net": prefixed("net."),
    "student": prefixed("student."),
    "backbone before everything": prefixed("model.backbone."),
    "moving average": lambda s: {"state_dict": {k: x + 1 for k, x in s.items()}, "state_dict_ema": s},
    "averaged model": lambda s: prefixed("module.")(s) | {"n_averaged": torch.tensor(7)},
    "no counters": lambda s: {k: x for k, x in s.items() if not k.endswith("num_batches_tracked")},
    "half precision": lambda s: {k: x.half() if x.is_floating_point() else x for k, x in s.items()},
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
@pytest.mark.parametrize(
    ("build", "head"), [(pose, "final_layer."), (segmentation, "last_layer.")], ids=["pose", "segmentation"]
)
def test_wrappers_are_seen_through(wrap: Callable, build: Callable[[], Task], head: str, tmp_path: Path) -> None:
    task = build()
    state = filled(task)
    if wrap is WRAPPERS["half precision"]:
        state = {k: x.half().to(x.dtype) for k, x in state.items()}
    torch.save(wrap(official(state, head)), tmp_path / "file.pth")
    report = load_weights(task, tmp_path / "file.pth")
    assert same(task, state)
    assert set(report.matched) == listed(state)


def mmseg(state: State) -> State:
    names = {
        "head.0.": "decode_head.convs.0.conv.",
        "head.1.": "decode_head.convs.0.bn.",
        "head.3.": "decode_head.conv_seg.",
    }
    renamed = {
        next((new + k.removeprefix(old) for old, new in names.items() if k.startswith(old)), k): x
        for k, x in state.items()
    }
    return renamed | {"auxiliary_head.conv_seg.bias": torch.zeros(5)}


LAYOUTS = {
    "ocr": (ocr, lambda s: official(s, "")),
    "classification": (classification, lambda s: official(s, "")),
    "face": (segmentation, lambda s: official(s, "head.")),
    "mmpose": (pose, lambda s: {k.replace("head.", "head.final_layer."): x for k, x in s.items()}),
    "older mmpose": (pose, lambda s: {k.replace("head.", "keypoint_head.final_layer."): x for k, x in s.items()}),
    "mmseg": (segmentation, mmseg),
    "ours pose": (pose, lambda s: s),
    "ours with compiled parts": (
        pose,
        lambda s: {
            k.replace("backbone.", "backbone._orig_mod.").replace("head.", "head._orig_mod."): x for k, x in s.items()
        },
    ),
    "ours segmentation": (segmentation, lambda s: s),
    "ours ocr": (ocr, lambda s: s),
    "ours classification": (classification, lambda s: s),
}


@pytest.mark.parametrize(("build", "rename"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_layouts_are_recognised(build: Callable[[], Task], rename: Callable[[State], State], tmp_path: Path) -> None:
    task = build()
    state = filled(task)
    torch.save({"meta": {"epoch": 1}, "state_dict": rename(state)}, tmp_path / "file.pth")
    assert not load_weights(task, tmp_path / "file.pth").unexpected
    assert same(task, state)


def test_mmseg_convolution_without_bias(tmp_path: Path) -> None:
    task = segmentation()
    state = filled(task)
    torch.save({k: x for k, x in mmseg(state).items() if k != "decode_head.convs.0.conv.bias"}, tmp_path / "file.pth")
    assert load_weights(task, tmp_path / "file.pth").zeroed == ["head.0.bias"]
    assert same(task, state | {"head.0.bias": torch.zeros(240)})


@pytest.mark.parametrize("build", [pose, segmentation, ocr, classification])
def test_head_of_another_task_is_left_out(build: Callable[[], Task], tmp_path: Path) -> None:
    """A backbone takes the trunk of any file, and no file's head counts as a surprise."""
    for source, head in ((segmentation(), "last_layer."), (classification(), ""), (ocr(), "")):
        state = filled(source)
        torch.save(official(state, head), tmp_path / "file.pth")
        backbone = build().backbone
        report = load_weights(backbone, tmp_path / "file.pth")
        assert not report.unexpected
        own = backbone.state_dict()
        assert all(torch.equal(own[n], state[f"backbone.{n}"]) for n in own)
        assert set(report.matched) == listed(own)


def test_clash_of_final_layer(tmp_path: Path) -> None:
    """In pose files `final_layer` is the head, in classification files a block before the scores."""
    torch.save(official(filled(classification()), ""), tmp_path / "classification.pth")
    task = pose()
    before = task.head.weight.clone()
    report = load_weights(task, tmp_path / "classification.pth", strict=False)
    assert report.missing == ["head.weight", "head.bias"]
    assert not report.unexpected
    assert not report.mismatched
    assert torch.equal(task.head.weight, before)


def test_first_imagenet_files(tmp_path: Path) -> None:
    """The pose repository's ImageNet files: another head (`head.0.i.j`, `fc`), in part no counters."""
    backbone = HRNet(SMALL, multi_scale_output=False)
    state = {k: x for k, x in filled(HRNet(SMALL)).items() if not k.endswith("num_batches_tracked")}
    extra = {
        "head.0.0.0.conv1.weight": torch.ones(8, 16, 1, 1),
        "fc.weight": torch.ones(3, 8),
        "fc.bias": torch.ones(3),
    }
    torch.save(state | extra, tmp_path / "file.pth")
    report = load_weights(backbone, tmp_path / "file.pth")
    assert set(report.matched) == listed(backbone.state_dict())
    assert not report.unexpected


def test_mmdetection_backbone(tmp_path: Path) -> None:
    backbone = HRNet(SMALL)
    state = filled(backbone)
    detector = {f"backbone.{k}": x for k, x in state.items()}
    detector |= {k: torch.ones(2) for k in ("neck.reduction_conv.conv.bias", "rpn_head.rpn_cls.bias", "bbox_head.bias")}
    torch.save({"meta": {}, "state_dict": detector, "optimizer": {}}, tmp_path / "file.pth")
    load_weights(backbone, tmp_path / "file.pth")
    assert same(backbone, state)


def test_own_checkpoint_of_a_joint_run(tmp_path: Path) -> None:
    task = pose()
    state = filled(task)
    joint = {k: x for k, x in state.items() if k.startswith("backbone.")}
    joint |= {f"tasks.seg.{k}": x for k, x in filled(segmentation()).items() if k.startswith("head.")}
    joint |= {f"tasks.person.{k}": x for k, x in state.items()}
    torch.save({"pytorch-lightning_version": "2.6.6", "state_dict": joint}, tmp_path / "file.ckpt")
    load_weights(task, tmp_path / "file.ckpt")
    assert same(task, state)


def test_joint_module_takes_its_own_checkpoint(tmp_path: Path) -> None:
    def joint() -> nn.Module:
        first = pose()
        module = nn.Module()
        module.backbone = first.backbone
        module.tasks = nn.ModuleDict({"person": first})
        return module

    source, target = joint(), joint()
    source.load_state_dict(filled(source))
    torch.save(source.state_dict(), tmp_path / "file.ckpt")
    report = load_weights(target, tmp_path / "file.ckpt")
    assert same(target, source.state_dict())
    assert "tasks.person.head.weight" in report.matched
    assert len(report.matched) == len(set(report.matched)) == len(listed(pose().state_dict()))


def test_buffers_beside_the_head(tmp_path: Path) -> None:
    """Published files need not know a task's own buffers, such as the normalisation; our checkpoints do."""
    task = pose()
    task.register_buffer("mean", torch.zeros(3))
    state = filled(task)
    torch.save(state, tmp_path / "ours.ckpt")
    torch.save({k: x for k, x in official(state, "final_layer.").items() if k != "mean"}, tmp_path / "official.pth")
    assert not load_weights(task, tmp_path / "official.pth").missing
    assert torch.equal(task.mean, torch.zeros(3))
    load_weights(task, tmp_path / "ours.ckpt")
    assert same(task, state)
    torch.save({k: x for k, x in state.items() if k != "mean"}, tmp_path / "ours.ckpt")
    assert load_weights(task, tmp_path / "ours.ckpt", strict=False).missing == ["mean"]


def test_other_networks_are_refused(tmp_path: Path) -> None:
    torch.save({"layer1.conv.weight": torch.ones(1), "fc.weight": torch.ones(1)}, tmp_path / "file.pth")
    unchanged(HRNet(SMALL), tmp_path / "file.pth", r"holds no HRNet.*it has layer1\.conv\.weight")


def test_two_networks_are_refused(tmp_path: Path) -> None:
    state = filled(HRNet(SMALL))
    both = prefixed("student.")(state) | {f"teacher.{k}": x + 1 for k, x in state.items()}
    torch.save(both, tmp_path / "file.pth")
    unchanged(HRNet(SMALL), tmp_path / "file.pth", "two networks, 'student.' and 'teacher.'")

"""Published checkpoints give published outputs; wrappers are seen through; what does not fit is said and refused."""

import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import hrnet.weights
from hrnet import (
    VARIANTS,
    ClassificationHead,
    HRNet,
    HRNetV2p,
    KeypointHead,
    OCRHead,
    SegmentationHead,
    load_weights,
)
from tests.golden import image_for, state_for

HERE = Path(__file__).parents[1] / "golden"
SMALL = "w18_small_v1"
TIMM = {"w18_small_v1": "hrnet_w18_small"} | {v: f"hrnet_{v}" for v in VARIANTS if v != SMALL}
State = dict[str, Tensor]


class Task(nn.Module):
    """A network as tasks hold it: `backbone` and `head`."""

    def __init__(self, backbone: HRNet, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        streams = self.backbone(images)
        return self.head(streams[0] if isinstance(self.head, KeypointHead) else streams)


def pose(variant: str = SMALL, num_keypoints: int = 5) -> Task:
    backbone = HRNet(variant, multi_scale_output=False)
    return Task(backbone, KeypointHead(backbone.channels[0], num_keypoints))


def segmentation(variant: str = SMALL, num_classes: int = 5) -> Task:
    backbone = HRNet(variant, upsample="bilinear")
    return Task(backbone, SegmentationHead(backbone.channels, num_classes))


def classification(variant: str = SMALL, num_classes: int = 10) -> Task:
    backbone = HRNet(variant)
    return Task(backbone, ClassificationHead(backbone.channels, num_classes))


def ocr(variant: str = SMALL, num_classes: int = 5) -> Task:
    backbone = HRNet(variant, upsample="bilinear", align_corners=True)
    return Task(backbone, OCRHead(backbone.channels, num_classes, mid_channels=16, key_channels=8, align_corners=True))


def filled(module: nn.Module) -> State:
    """A state dict like that of `module` with other values, none of them what a new network has."""
    return state_for([(k, list(x.shape)) for k, x in module.state_dict().items()])


def official(state: State, head: str) -> State:
    """Our names -> the official: no `backbone.`, the head as published."""
    return {
        k.removeprefix("backbone.").replace("head.", head, 1) if k.startswith(("backbone.", "head.")) else k: x
        for k, x in state.items()
    }


def same(module: nn.Module, state: State) -> bool:
    own = module.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[k], x) for k, x in state.items())


def listed(state: State) -> set[str]:
    return {k for k in state if not k.endswith("num_batches_tracked")}


# Golden files.


def check_golden(folder: Path, name: str, build: Callable[[dict], Task], tmp_path: Path) -> None:
    facts = json.loads((folder / f"{name}.json").read_text())
    file = tmp_path / f"{name}.pth"
    torch.save(state_for(facts["keys"]), file)
    task = build(facts).eval()
    report = load_weights(task, file)
    assert sum(p.numel() for p in task.parameters()) == facts["params"]
    assert set(report.matched) == listed(task.state_dict())
    with torch.no_grad():
        actual = task(image_for(name, tuple(facts["input_shape"])))
    expected = torch.from_numpy(np.load(folder / f"{name}.npz")["output0"])
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_golden_classification_small(tmp_path: Path) -> None:
    check_golden(HERE, "cls_w18_small_v1", lambda d: classification(d["variant"], d["num_classes"]), tmp_path)


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("pose_w32_k17", lambda d: pose(d["variant"], d["num_keypoints"])),
        ("cls_w18", lambda d: classification(d["variant"], d["num_classes"])),
        ("seg_w18_k19_noac", lambda d: segmentation(d["variant"], d["num_classes"])),
        ("face_w18_k98", lambda d: segmentation(d["variant"], d["num_landmarks"])),
    ],
)
def test_golden(name: str, build: Callable[[dict], Task], tmp_path: Path, shared_reference: Path) -> None:
    check_golden(shared_reference / "golden", name, build, tmp_path)


# timm.


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Callable[[nn.Module], None]:
    """Makes timm's download give a network at hand."""

    def offer(network: nn.Module) -> None:
        monkeypatch.setattr(hrnet.weights, "_hub_reachable", lambda: True)
        monkeypatch.setattr(timm, "create_model", lambda name, pretrained: network)

    return offer


@pytest.mark.parametrize("variant", VARIANTS)
def test_timm_weights_give_timm_streams(variant: str, offer: Callable[[nn.Module], None]) -> None:
    reference = timm.create_model(TIMM[variant], features_only=True, feature_location="").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, x in reference.state_dict().items():
            if x.ndim == 1:
                u = torch.rand(x.shape, generator=generator)
                x.copy_(u - 0.5 if name.endswith(("bias", "running_mean")) else u + 0.5)
    offer(reference)
    backbone = HRNet(variant, weights=f"{TIMM[variant]}.ms_in1k").eval()
    images = torch.randn(1, 3, 64, 64, generator=generator)
    with torch.no_grad():
        expected = reference(images)[1:]
        actual = backbone(images)
    for a, b in zip(actual, expected, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_timm_name_without_its_tag_and_of_the_whole_network(offer: Callable[[nn.Module], None]) -> None:
    offer(timm.create_model("hrnet_w18_small", num_classes=10))
    task = classification()
    report = load_weights(task, "hrnet_w18_small")
    assert set(report.matched) == listed(task.state_dict())


def test_ssld_network_has_no_bias_before_batch_norm(offer: Callable[[nn.Module], None]) -> None:
    # The published ssld networks have the shape of w18 and w48; here small, with their head's convolutions.
    network = timm.create_model("hrnet_w18_small", num_classes=10, head_conv_bias=False)
    offer(network)
    task = classification()
    for name, x in task.state_dict().items():
        if name.endswith("bias"):
            x.fill_(3.0)
    report = load_weights(task, "hrnet_w18_ssld.paddle_in1k")
    assert report.zeroed == [f"head.downsamp_modules.{i}.0.bias" for i in range(3)] + ["head.final_layer.0.bias"]
    assert not report.missing
    assert "biases the source does without, set to 0: 4 in head" in str(report)
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(task.eval()(images), network.eval()(images), rtol=1e-4, atol=1e-5)


def test_timm_without_network_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("socket.create_connection", unreachable)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(ValueError, match=r"could not download 'hrnet_w32.ms_in1k'.*path of the file"):
        HRNet("w32", weights="hrnet_w32.ms_in1k")
    assert not hrnet.weights.constants.HF_HUB_OFFLINE


def test_unknown_timm_name_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"neither a file nor a timm model 'hrnet_w33'.*hrnet_w32\.ms_in1k"):
        load_weights(HRNet(SMALL), "hrnet_w33")


# Wrappers and layouts.


def prefixed(prefix: str) -> Callable[[State], dict]:
    return lambda state: {prefix + k: x for k, x in state.items()}


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


def test_safetensors(tmp_path: Path) -> None:
    task = pose()
    state = filled(task)
    save_file(official(state, "final_layer."), tmp_path / "file.safetensors")
    load_weights(task, str(tmp_path / "file.safetensors"))
    assert same(task, state)


@pytest.mark.parametrize("in_channels", [1, 4, 6])
def test_other_image_channels(in_channels: int, tmp_path: Path) -> None:
    """One channel gets the sum of the filters; more get them in turn, weaker by as much as there are more."""
    state = filled(HRNet(SMALL))
    torch.save(state, tmp_path / "file.pth")
    backbone = HRNet(SMALL, in_channels=in_channels)
    assert "conv1.weight" in load_weights(backbone, tmp_path / "file.pth").matched
    published = state["conv1.weight"]
    for channel in range(in_channels):
        expected = published.sum(dim=1) if in_channels == 1 else published[:, channel % 3] * 3 / in_channels
        torch.testing.assert_close(backbone.conv1.weight[:, channel], expected)
    assert torch.equal(backbone.conv2.weight, state["conv2.weight"])


# What does not fit.


def unchanged(module: nn.Module, source: Path | str, match: str, strict: bool = True) -> str:
    before = {k: x.clone() for k, x in module.state_dict().items()}
    with pytest.raises(ValueError, match=match) as caught:
        load_weights(module, source, strict)
    assert same(module, before)
    return str(caught.value)


def test_head_of_another_size(tmp_path: Path) -> None:
    state = filled(pose(num_keypoints=17))
    torch.save(official(state, "final_layer."), tmp_path / "file.pth")
    task = pose(num_keypoints=5)
    before = task.head.weight.clone()
    message = unchanged(task, tmp_path / "file.pth", "strict=False to leave the task's head")
    assert "head.weight [17, 16, 1, 1] in the source, [5, 16, 1, 1] here" in message
    report = load_weights(task, tmp_path / "file.pth", strict=False)
    assert report.mismatched == {"head.weight": ((17, 16, 1, 1), (5, 16, 1, 1)), "head.bias": ((17,), (5,))}
    assert torch.equal(task.head.weight, before)
    assert torch.equal(task.backbone.conv1.weight, state["backbone.conv1.weight"])


def test_features_need_no_scores(tmp_path: Path) -> None:
    torch.save(official(filled(classification()), ""), tmp_path / "file.pth")
    report = load_weights(classification(num_classes=0), tmp_path / "file.pth")
    assert not report.unexpected


def test_backbone_file_into_a_task(tmp_path: Path) -> None:
    torch.save(official(filled(classification()), ""), tmp_path / "file.pth")
    task = segmentation()
    message = unchanged(task, tmp_path / "file.pth", r"load it into the backbone alone.*strict=False")
    assert "missing: 8 in head (head.0.weight, head.0.bias, head.1.weight, ...)" in message
    assert len(load_weights(task, tmp_path / "file.pth", strict=False).missing) == 8


def test_pose_file_into_all_streams(tmp_path: Path) -> None:
    state = filled(pose())
    torch.save(official(state, "final_layer."), tmp_path / "file.pth")
    backbone = HRNet(SMALL)
    message = unchanged(backbone, tmp_path / "file.pth", "trained with multi_scale_output=False")
    assert "in stage4 (stage4.0.fuse_layers.1.0.0.0.weight" in message
    report = load_weights(backbone, tmp_path / "file.pth", strict=False)
    # Towards streams 1, 2 and 3 go 3, 4 and 6 convolutions, each with four tensors of its batch norm.
    assert len(report.missing) == 13 * 5
    assert all(n.startswith("stage4.0.fuse_layers.") for n in report.missing)
    assert torch.equal(backbone.conv1.weight, state["backbone.conv1.weight"])


@pytest.mark.parametrize("strict", [True, False])
def test_wrong_variant_is_refused(strict: bool, tmp_path: Path) -> None:
    with torch.device("meta"):
        keys = [(k, list(x.shape)) for k, x in HRNet("w30").state_dict().items()]
    torch.save({k: torch.zeros(shape) for k, shape in keys}, tmp_path / "file.pth")
    total = len(listed(HRNet("w18").state_dict()))
    # Stem (2 x 5) and stage 1 (4 x 15 and the projection's 5) do not depend on the width.
    message = unchanged(HRNet("w18"), tmp_path / "file.pth", rf"matches only 75 of {total} backbone tensors", strict)
    assert "first stream has width 30 (HRNet('w30')), the model's 18." in message


def test_too_little_is_refused_even_if_not_strict(tmp_path: Path) -> None:
    state = {k: x for k, x in filled(HRNet(SMALL)).items() if k.startswith(("layer1", "stage2", "conv"))}
    torch.save(state, tmp_path / "file.pth")
    unchanged(HRNet(SMALL), tmp_path / "file.pth", "matches only", strict=False)


def test_tensors_nobody_knows(tmp_path: Path) -> None:
    backbone = HRNet(SMALL)
    state = filled(backbone)
    torch.save(state | {"surprise.weight": torch.ones(1)}, tmp_path / "file.pth")
    assert "1 in surprise (surprise.weight)" in unchanged(backbone, tmp_path / "file.pth", "1 unexpected")
    assert load_weights(backbone, tmp_path / "file.pth", strict=False).unexpected == ["surprise.weight"]
    assert same(backbone, state)


def test_other_networks_are_refused(tmp_path: Path) -> None:
    torch.save({"layer1.conv.weight": torch.ones(1), "fc.weight": torch.ones(1)}, tmp_path / "file.pth")
    unchanged(HRNet(SMALL), tmp_path / "file.pth", r"holds no HRNet.*it has layer1\.conv\.weight")


def test_two_networks_are_refused(tmp_path: Path) -> None:
    state = filled(HRNet(SMALL))
    both = prefixed("student.")(state) | {f"teacher.{k}": x + 1 for k, x in state.items()}
    torch.save(both, tmp_path / "file.pth")
    unchanged(HRNet(SMALL), tmp_path / "file.pth", "two networks, 'student.' and 'teacher.'")


def test_module_without_backbone() -> None:
    with pytest.raises(ValueError, match=r"task with an HRNet as `backbone`, got Linear"):
        load_weights(nn.Linear(2, 2), "hrnet_w32.ms_in1k")


@pytest.mark.parametrize("name", ["missing.pth", "hrnet_w32.pth", "folder"])
def test_missing_file_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    unchanged(HRNet(SMALL), tmp_path / name, rf"{name} is (not there|a folder)")


def test_backbone_argument_is_strict(tmp_path: Path) -> None:
    torch.save(official(filled(pose()), "final_layer."), tmp_path / "file.pth")
    with pytest.raises(ValueError, match="multi_scale_output=False"):
        HRNet(SMALL, weights=str(tmp_path / "file.pth"))
    assert HRNet(SMALL, multi_scale_output=False, weights=str(tmp_path / "file.pth")).conv1.weight.requires_grad


# Files that are not what they seem.


class Trap:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple:
        return Path.touch, (self.victim,)


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    state: dict = filled(HRNet(SMALL))
    torch.save({"state_dict": state, "extra": Trap(tmp_path / "run")}, tmp_path / "file.pth")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Trap(tmp_path / "run"), protocol=2))
    unchanged(HRNet(SMALL), tmp_path / "file.pth", r"holds Python objects .* not opened.*convert")
    unchanged(HRNet(SMALL), tmp_path / "plain.pkl", r"Python objects|not a PyTorch checkpoint")
    assert not (tmp_path / "run").exists()


def test_pickled_module_says_how_to_convert(tmp_path: Path) -> None:
    torch.save({"state_dict": nn.Sequential(nn.Conv2d(3, 64, 3)), "best_nme": np.float64(4.6)}, tmp_path / "file.pth")
    unchanged(HRNet(SMALL), tmp_path / "file.pth", r"whole pickled module.*network\.state_dict\(\)")


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04 cut off", bytes(range(256))])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_garbage(content: bytes, suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"file.{suffix}").write_bytes(content)
    unchanged(HRNet(SMALL), tmp_path / f"file.{suffix}", "download or save it again")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_half_a_download(suffix: str, tmp_path: Path) -> None:
    save = torch.save if suffix == "pth" else save_file
    save(filled(HRNet(SMALL)), tmp_path / f"file.{suffix}")
    content = (tmp_path / f"file.{suffix}").read_bytes()
    (tmp_path / f"file.{suffix}").write_bytes(content[: len(content) // 2])
    unchanged(HRNet(SMALL), tmp_path / f"file.{suffix}", "download or save it again")


def test_file_without_a_state_dict(tmp_path: Path) -> None:
    torch.save([torch.ones(1)], tmp_path / "file.pth")
    unchanged(HRNet(SMALL), tmp_path / "file.pth", "holds a list, expected a state dict")


# Batch norm of the old segmentation files, and what is logged.


def negative(state: State, share: float) -> State:
    """With the first `share` of every batch norm's scales negated."""
    state = {k: x.clone() for k, x in state.items()}
    for k in [k for k in state if k.endswith("running_var")]:
        scale = state[k.replace("running_var", "weight")]
        scale[: round(share * len(scale))] *= -1
    return state


@pytest.mark.parametrize("build", [segmentation, lambda: segmentation().backbone], ids=["task", "backbone"])
def test_inplace_abn_files_are_converted(build: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = filled(segmentation())
    torch.save(official(negative(state, 0.5), "last_layer."), tmp_path / "hrnet_lip_5583_torch04.pth")
    module = build()
    with caplog.at_level(logging.INFO, logger="hrnet"):
        load_weights(module, tmp_path / "hrnet_lip_5583_torch04.pth")
    assert "InPlaceABN" in caplog.text
    own = module.state_dict()
    prefix = "" if isinstance(module, HRNet) else "backbone."
    torch.testing.assert_close(own[f"{prefix}bn1.weight"], state["backbone.bn1.weight"] + 1e-5, rtol=0, atol=1e-8)
    assert torch.equal(own[f"{prefix}bn1.bias"], state["backbone.bn1.bias"])
    assert torch.equal(own[f"{prefix}conv1.weight"], state["backbone.conv1.weight"])


@pytest.mark.parametrize(
    ("name", "build", "head", "share", "warned"),
    [
        ("best.pth", segmentation, "last_layer.", 0.5, True),
        ("best.pth", segmentation, "last_layer.", 0.0, False),
        ("hrnet_cs_8090_torch11.pth", segmentation, "last_layer.", 0.5, False),
        ("best.pth", pose, "final_layer.", 0.5, False),
        ("pose_torch04.pth", pose, "final_layer.", 0.5, False),
    ],
)
def test_negative_scales_elsewhere_are_kept_and_in_segmentation_questioned(
    name: str,
    build: Callable[[], Task],
    head: str,
    share: float,
    warned: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    task = build()
    state = negative(filled(task), share)
    torch.save(official(state, head), tmp_path / name)
    load_weights(task, tmp_path / name)
    assert same(task, state)
    assert ("50 % of the batch-norm scales" in caplog.text and "torch04" in caplog.text) == warned


def test_one_line_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = pose()
    torch.save(official(filled(task), "final_layer."), tmp_path / "file.pth")
    with caplog.at_level(logging.INFO, logger="hrnet"):
        report = load_weights(task, tmp_path / "file.pth")
    assert [r.levelname for r in caplog.records] == ["INFO"]
    assert caplog.messages[0].endswith(
        f"file.pth (pose): {len(report.matched)} tensors matched, 0 missing, 0 unexpected, 0 of another shape"
    )


def test_nearest_upsampling_under_a_segmentation_file_is_questioned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(official(filled(segmentation()), "last_layer."), tmp_path / "file.pth")
    load_weights(HRNet(SMALL, upsample="bilinear"), tmp_path / "file.pth")
    assert "bilinear" not in caplog.text
    load_weights(HRNet(SMALL), tmp_path / "file.pth")
    assert 'trained with upsample="bilinear"' in caplog.text


def test_pyramid_of_a_task_is_left_alone_and_listed(tmp_path: Path) -> None:
    backbone = HRNet(SMALL)
    task = Task(backbone, HRNetV2p(backbone.channels))
    torch.save(official(filled(classification()), ""), tmp_path / "file.pth")
    report = load_weights(task, tmp_path / "file.pth", strict=False)
    assert set(report.missing) == {n for n in task.state_dict() if n.startswith("head.")}

"""Published weights give published outputs; what does not fit is said and refused, and leaves the module as it was."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hrnet import HRNet, HRNetV2p, for_inference, load_weights
from tests.golden import image_for, state_for
from tests.hrnet.published import (
    SMALL,
    State,
    Task,
    classification,
    filled,
    listed,
    official,
    pose,
    same,
    segmentation,
    unchanged,
)

HERE = Path(__file__).parents[1] / "golden"


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


def test_module_without_backbone() -> None:
    with pytest.raises(ValueError, match=r"task with an HRNet as `backbone`, got Linear"):
        load_weights(nn.Linear(2, 2), "hrnet_w32.ms_in1k")


@pytest.mark.parametrize("rewrite", [for_inference, lambda network: torch.compile(network, backend="eager")])
def test_what_was_made_of_a_network_is_no_network(rewrite: Callable[[HRNet], nn.Module], tmp_path: Path) -> None:
    torch.save(filled(HRNet(SMALL)), tmp_path / "file.pth")
    rewritten = rewrite(HRNet(SMALL))
    unchanged(rewritten, tmp_path / "file.pth", "pass the network itself, not a wrapper of it nor what for_inference")


def test_backbone_argument_is_strict_and_advises_what_yaml_can_say(tmp_path: Path) -> None:
    torch.save(official(filled(pose()), "final_layer."), tmp_path / "file.pth")
    with pytest.raises(ValueError, match="multi_scale_output=False") as caught:
        HRNet(SMALL, weights=str(tmp_path / "file.pth"))
    assert "strict" not in str(caught.value)
    state = filled(HRNet(SMALL))
    torch.save({k: x for k, x in state.items() if "stage2" not in k}, tmp_path / "half.pth")
    with pytest.raises(ValueError, match="Is this the right variant") as caught:
        HRNet(SMALL, weights=str(tmp_path / "half.pth"))
    assert "strict" not in str(caught.value)
    assert HRNet(SMALL, multi_scale_output=False, weights=str(tmp_path / "file.pth")).conv1.weight.requires_grad


# Values that are none.


def broken(x: torch.Tensor, kind: str) -> torch.Tensor:
    if kind in ("nan", "inf", "-inf"):
        x = x.clone()
        x.view(-1)[-1] = float(kind)
        return x
    if kind == "quantised":
        return torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)
    return {"meta": x.to("meta"), "int8": x.to(torch.int8), "sparse": x.to_sparse(), "complex": x.to(torch.complex64)}[
        kind
    ]


@pytest.mark.parametrize("key", ["backbone.stage4.0.branches.3.1.conv2.weight", "backbone.bn1.running_var"])
@pytest.mark.parametrize("kind", ["nan", "inf", "-inf", "quantised", "int8", "meta", "sparse", "complex"])
def test_values_that_are_none_are_refused_by_name(kind: str, key: str, tmp_path: Path) -> None:
    state = filled(pose())
    state[key] = broken(state[key], kind)
    torch.save(official(state, "final_layer."), tmp_path / "file.pth")
    if kind == "meta":
        state = {k: x.to("meta") for k, x in state.items()} if key.endswith("weight") else state
    word = {"nan": "NaN", "inf": "infinity", "-inf": "infinity", "int8": "quantised"}.get(kind, kind)
    for strict in (True, False):
        message = unchanged(pose(), tmp_path / "file.pth", word, strict)
        assert key in message or kind == "meta"
        assert "file.pth" in message


def test_half_precision_is_loaded_and_a_head_left_out_may_be_broken(tmp_path: Path) -> None:
    state = filled(pose())
    halves = {k: x.bfloat16() if x.is_floating_point() else x for k, x in state.items()}
    torch.save(official(halves, "final_layer."), tmp_path / "half.pth")
    task = pose()
    load_weights(task, tmp_path / "half.pth")
    torch.testing.assert_close(task.backbone.conv1.weight, state["backbone.conv1.weight"], rtol=1e-2, atol=1e-3)
    state["head.weight"] = torch.full_like(state["head.weight"], float("nan"))
    torch.save(official(state, "final_layer."), tmp_path / "file.pth")
    backbone = HRNet(SMALL, multi_scale_output=False)
    load_weights(backbone, tmp_path / "file.pth")
    assert torch.equal(backbone.conv1.weight, state["backbone.conv1.weight"])


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


@pytest.mark.parametrize("head", ["last_layer.", "head."])
def test_nearest_upsampling_under_a_segmentation_or_face_file_is_questioned(
    head: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(official(filled(segmentation()), head), tmp_path / "file.pth")
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

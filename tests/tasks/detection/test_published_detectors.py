"""Published Faster and Mask R-CNN files become tasks that count as the code that trained them: every convention."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

import tasks
from hrnet import HRNet, load_weights
from tasks import DetectionTask
from tasks.checkpoints.published import coco_categories, coco_names
from tasks.detection.pyramid import Anchors
from tests.tasks.detection.scenes import random_batch

CLASSES = 3
CPU = torch.device("cpu")
State = dict[str, Tensor]
OFFICIAL = {  # ours -> the official repository's, mmdetection 1's where they differ
    "neck.reduction_conv.0.": "neck.reduction_conv.0.",
    "neck.fpn_conv.": "neck.fpn_conv.",
    "head.rpn.head.conv.0.0.": "rpn_head.rpn_conv.",
    "head.rpn.head.cls_logits.": "rpn_head.rpn_cls.",
    "head.rpn.head.bbox_pred.": "rpn_head.rpn_reg.",
    "head.roi_heads.box_head.fc6.": "bbox_head.shared_fcs.0.",
    "head.roi_heads.box_head.fc7.": "bbox_head.shared_fcs.1.",
    "head.roi_heads.box_predictor.cls_score.": "bbox_head.fc_cls.",
    "head.roi_heads.box_predictor.bbox_pred.": "bbox_head.fc_reg.",
    "head.roi_heads.mask_head.": "mask_head.convs.",
    "head.roi_heads.mask_predictor.conv5_mask.": "mask_head.upsample.",
    "head.roi_heads.mask_predictor.mask_fcn_logits.": "mask_head.conv_logits.",
}


def task_of(detector: str, convention: str = "official") -> DetectionTask:
    torch.manual_seed(3)
    options = {"box_channels": 48, "proposals": (1000, 1000), "convention": convention}
    task = DetectionTask(HRNet("w18_small_v1"), CLASSES, detector=detector, channels=16, **options).eval()
    with torch.no_grad():
        for name, parameter in task.named_parameters():
            if "box_predictor" in name or "cls_logits" in name:
                parameter.normal_(std=0.1)
    return task


def published(task: DetectionTask, layout: str) -> State:
    """The task's weights as a file of that layout has them."""
    state = {}
    for name, x in task.state_dict().items():
        start = next((ours for ours in OFFICIAL if name.startswith(ours)), None)
        theirs = name if start is None else OFFICIAL[start] + name.removeprefix(start)
        if theirs.startswith("mask_head.convs."):
            theirs = theirs.replace(".0.weight", ".conv.weight").replace(".0.bias", ".conv.bias")
        if layout != "official":
            theirs = theirs.replace("reduction_conv.0.", "reduction_conv.conv.")
            if theirs.startswith("neck.fpn_conv."):
                theirs = theirs.replace("fpn_conv.", "fpn_convs.").replace(".weight", ".conv.weight")
                theirs = theirs.replace(".bias", ".conv.bias")
        if layout == "mmdet2":
            if "fc_cls" in theirs:
                x = torch.cat([x[1:], x[:1]])  # background last
            elif "fc_reg" in theirs:
                x = x[4:]
            elif "conv_logits" in theirs:
                x = x[1:]
            theirs = f"roi_head.{theirs}" if theirs.startswith(("bbox_head", "mask_head")) else theirs
        state[theirs] = x.clone()
    return state


def with_zero_background(task: DetectionTask) -> None:
    """What files of mmdetection 2 have no rows for."""
    heads = task.head.roi_heads
    with torch.no_grad():
        for part, rows in ((heads.box_predictor.bbox_pred, 4), (heads.mask_predictor, 1)):
            layer = part if rows == 4 else part and part.mask_fcn_logits
            if layer is not None:
                layer.weight[:rows], layer.bias[:rows] = 0, 0


@pytest.mark.parametrize("layout", ["official", "mmdet1", "mmdet2"])
@pytest.mark.parametrize("detector", ["faster_rcnn", "mask_rcnn"])
def test_a_file_alone_is_the_detector_that_it_was(detector: str, layout: str, tmp_path: Path) -> None:
    task = task_of(detector, "mmdet2" if layout == "mmdet2" else "official")
    if layout == "mmdet2":
        with_zero_background(task)
    path = tmp_path / "faster_rcnn_hrnetv2p.pth"
    meta = {"CLASSES": ["cup", "dog", "car"]} if layout == "mmdet1" else {}
    torch.save({"meta": meta, "state_dict": published(task, layout)}, path)
    found = tasks.load(path)
    assert isinstance(found, DetectionTask)
    assert (found.detector, found.num_classes) == (detector, CLASSES)
    assert found.class_names == (["cup", "dog", "car"] if meta else None)
    assert found.hparams["convention"] == ("mmdet2" if layout == "mmdet2" else "official")
    assert found.preparation["sides"] == [800, 1333]
    assert all(torch.equal(x, found.state_dict()[name]) for name, x in task.state_dict().items())
    batch = random_batch(2)
    with torch.no_grad():
        expected, seen = (one.predict(one.outputs(batch), batch) for one in (task, found))
    assert len(expected["boxes"][0])
    for key in expected:
        assert all(torch.equal(a, b) for a, b in zip(expected[key], seen[key], strict=True))


@pytest.mark.parametrize("layout", ["official", "mmdet1", "mmdet2"])
def test_a_task_takes_every_tensor_of_a_file_and_background_before_objects(layout: str, tmp_path: Path) -> None:
    task = task_of("faster_rcnn")
    state = published(task, layout)
    torch.save(state, tmp_path / "file.pth")
    other = DetectionTask(HRNet("w18_small_v1"), CLASSES, channels=16, box_channels=48)
    report = load_weights(other, tmp_path / "file.pth")
    assert report.complete
    assert report.matched
    predictor, expected = other.head.roi_heads.box_predictor, task.head.roi_heads.box_predictor
    assert torch.equal(predictor.cls_score.weight, expected.cls_score.weight)
    assert torch.equal(predictor.bbox_pred.weight[4:], expected.bbox_pred.weight[4:])
    if layout == "mmdet2":
        assert state["roi_head.bbox_head.fc_reg.weight"].shape[0] == 4 * CLASSES
        assert not predictor.bbox_pred.weight[:4].any()
        assert not predictor.bbox_pred.bias[:4].any()


def test_another_number_of_classes_leaves_the_predictor_new_and_keeps_the_rest(tmp_path: Path) -> None:
    torch.save(published(task_of("faster_rcnn"), "mmdet2"), tmp_path / "file.pth")
    other = DetectionTask(HRNet("w18_small_v1"), 7, channels=16, box_channels=48)
    report = load_weights(other, tmp_path / "file.pth", strict=False)
    assert {name.split(".")[-2] for name in report.mismatched} == {"cls_score", "bbox_pred"}
    assert "head.roi_heads.box_head.fc6.weight" in report.matched
    with pytest.raises(ValueError, match="does not fit entirely"):
        load_weights(other, tmp_path / "file.pth")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["bbox_head.fcos_cls.weight"], "is an FCOS.*--model.backbone.weights"),
        (["bbox_head.scales.0.scale", "bbox_head.cls_convs.0.conv.weight"], "is an FCOS"),
        (["bbox_head.0.fc_cls.weight", "rpn_head.rpn_conv.weight"], "Cascade R-CNN or HTC"),
        (["roi_head.bbox_head.1.fc_cls.weight"], "Cascade R-CNN or HTC"),
        (["bbox_head.retina_cls.weight"], "a detector whose head is none of those here"),
        (["bbox_head.fc_cls.weight"], "lacks parts of a detector"),
    ],
)
def test_what_no_detector_here_is_is_said_in_one_sentence(keys: list[str], words: str, tmp_path: Path) -> None:
    state = {f"backbone.{name}": x for name, x in HRNet("w18_small_v1").state_dict().items()}
    torch.save(state | {key: torch.ones(4, 2) for key in keys}, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=words):
        tasks.load(tmp_path / "file.pth")


def test_the_authors_fcos_is_told_by_its_towers(tmp_path: Path) -> None:
    state = {f"module.backbone.body.{name}": x for name, x in HRNet("w18_small_v1").state_dict().items()}
    torch.save({"model": state | {"module.rpn.head.cls_tower.0.weight": torch.ones(2)}}, tmp_path / "FCOS_hrnet.pth")
    with pytest.raises(ValueError, match="is an FCOS"):
        tasks.load(tmp_path / "FCOS_hrnet.pth")


def test_coco_classes_are_named() -> None:
    names = coco_names()
    assert len(names) == 80
    assert (names[0], names[-1]) == ("person", "toothbrush")
    assert len(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]) == 91
    ids = coco_categories()
    assert list(ids) == sorted(ids)
    assert (ids[1], ids[18], ids[90]) == ("person", "dog", "toothbrush")
    assert {12, 26, 29, 30, 45, 66, 68, 69, 71, 83} == set(range(1, 91)) - set(ids)


def test_a_published_coco_file_has_the_ids_of_coco(tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {"channels": 16, "box_channels": 48, "proposals": (50, 20)}
    torch.save(published(DetectionTask(HRNet("w18_small_v1"), 80, **options), "official"), tmp_path / "file.pth")
    found = tasks.load(tmp_path / "file.pth")
    assert dict(zip(found.category_ids, found.class_names, strict=True)) == coco_categories()


WORDS = r"was trained with the convention {0}, and this DetectionTask counts by {1}.*--model\.convention {0}"


@pytest.mark.parametrize(
    ("layout", "convention", "words"),
    [
        ("mmdet2", "official", WORDS.format("mmdet2", "official")),
        ("official", "mmdet2", WORDS.format("official", "mmdet2")),
        ("mmdet1", "mmdet2", WORDS.format("official", "mmdet2")),
        ("mmdet2", "mmdet2", None),
        ("mmdet1", "official", None),
    ],
)
def test_weights_of_another_convention_are_said(
    layout: str, convention: str, words: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "file.pth"
    torch.save(published(task_of("faster_rcnn"), layout), path)
    options = {"channels": 16, "box_channels": 48, "convention": convention}
    task = DetectionTask(HRNet("w18_small_v1"), CLASSES, weights=str(path), **options)
    task.load_start()
    said = [record.getMessage() for record in caplog.records if "convention" in record.getMessage()]
    assert len(said) == (words is not None)
    assert words is None or re.search(words, said[0])
    caplog.clear()
    fcos = DetectionTask(HRNet("w18_small_v1"), CLASSES, detector="fcos", channels=32, weights=str(path))
    fcos.load_start()
    assert not any("convention" in record.getMessage() for record in caplog.records)
    tasks.restore(task, path)
    assert any("convention" in record.getMessage() for record in caplog.records) == (words is not None)


def v1_anchors(size: tuple[int, int], stride: int) -> np.ndarray:
    """Of mmdetection 1: boxes end with their last pixel, and the middle of a cell is at (stride - 1) / 2."""
    middle, root = 0.5 * (stride - 1), np.sqrt(np.array([0.5, 1.0, 2.0]))
    width, height = stride / root * 8, stride * root * 8
    base = np.stack([middle - 0.5 * (width - 1), middle - 0.5 * (height - 1)], 1)
    base = np.concatenate([base, np.stack([middle + 0.5 * (width - 1), middle + 0.5 * (height - 1)], 1)], 1).round()
    rows, columns = -(-size[0] // stride), -(-size[1] // stride)
    places = np.array([[x, y, x, y] for y in range(rows) for x in range(columns)]) * stride
    return (places[:, None] + base[None]).reshape(-1, 4)


def v2_anchors(size: tuple[int, int], stride: int) -> np.ndarray:
    """Of mmdetection 2: about the cell's corner, in edges, not rounded."""
    root = np.sqrt(np.array([0.5, 1.0, 2.0]))
    half = np.stack([stride / root * 8, stride * root * 8], 1) / 2
    rows, columns = -(-size[0] // stride), -(-size[1] // stride)
    places = np.array([[x, y, x, y] for y in range(rows) for x in range(columns)]) * stride
    return (places[:, None] + np.concatenate([-half, half], 1)[None]).reshape(-1, 4)


@pytest.mark.parametrize("convention", ["official", "mmdet2"])
def test_anchors_are_those_of_the_code_that_trained_the_file(convention: str) -> None:
    size, strides = (96, 160), [4, 8, 16, 32, 64]
    anchors: Anchors = task_of("faster_rcnn", convention).head.anchors
    for stride, found in zip(strides, anchors.levels(size, CPU), strict=True):
        if convention == "official":
            expected = v1_anchors(size, stride) + np.array([0, 0, 1, 1])  # from the last pixel to its edge
        else:
            expected = v2_anchors(size, stride)
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-4)


def test_boxes_are_decoded_as_by_the_code_that_trained_the_file() -> None:
    """mmdetection 1's formula with its pixels that count, on the same deltas, and the result in edges."""
    rng = np.random.default_rng(0)
    anchors = v1_anchors((96, 160), 16)
    deltas = rng.normal(scale=[0.5, 0.5, 0.8, 0.8], size=(len(anchors), 4))
    width, height = anchors[:, 2] - anchors[:, 0] + 1, anchors[:, 3] - anchors[:, 1] + 1
    middle_x, middle_y = (anchors[:, 0] + anchors[:, 2]) / 2, (anchors[:, 1] + anchors[:, 3]) / 2
    limit = abs(np.log(16 / 1000))
    new_width, new_height = (
        side * np.exp(np.clip(delta, -limit, limit))
        for side, delta in ((width, deltas[:, 2] * 0.2), (height, deltas[:, 3] * 0.2))
    )
    x, y = middle_x + width * deltas[:, 0] * 0.1, middle_y + height * deltas[:, 1] * 0.1
    corners = [x - new_width / 2 + 0.5, y - new_height / 2 + 0.5, x + new_width / 2 - 0.5, y + new_height / 2 - 0.5]
    expected = np.stack(corners, 1) + np.array([0, 0, 1, 1])
    coder = task_of("faster_rcnn").head.roi_heads.box_coder
    boxes = torch.from_numpy(anchors + np.array([0, 0, 1, 1])).double()
    found = coder.decode_single(torch.from_numpy(deltas), boxes)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-4)

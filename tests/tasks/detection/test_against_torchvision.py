"""Losses and detections are those of torchvision's own detectors, given the same weights, features and samples."""

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign, remove_small_boxes, roi_align

from tasks.detection.one_stage import OneStage
from tasks.detection.pyramid import Anchors, RoIAlign
from tasks.detection.two_stage import Convention, TwoStage
from tests.tasks.detection.scenes import DETECTORS

SIZE = (128, 192)  # a multiple of every stride, or torchvision's strides are others
CHANNELS, CLASSES = 32, 4
TORCHVISION = Convention(offset=0.0, rounded=True, aligned=False, samples=2)
COMMON: dict[str, Any] = {
    "sizes": 8.0,
    "ratios": [0.5, 1.0, 2.0],
    "score_threshold": 0.05,
    "nms_threshold": 0.5,
    "max_detections": 30,
}
NAMES = {  # theirs -> ours
    "loss_objectness": "objectness",
    "loss_rpn_box_reg": "proposal_box",
    "loss_classifier": "classification",
    "loss_box_reg": "box",
    "loss_mask": "mask",
    "bbox_regression": "box",
    "bbox_ctrness": "centerness",
}


class Given(nn.Module):
    """A backbone that has one answer."""

    def __init__(self, pyramid: dict[str, Tensor]) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.out_channels = CHANNELS

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        assert images.shape[-2:] == SIZE
        self.stream = torch.get_rng_state()  # what resizes the images draws too
        return OrderedDict(self.pyramid)


def strides_of(detector: str) -> list[int]:
    return [4, 8, 16, 32, 64] if "rcnn" in detector else [8, 16, 32]


def made(detector: str) -> OneStage | TwoStage:
    torch.manual_seed(1)
    if "rcnn" not in detector:
        head: OneStage | TwoStage = OneStage(detector, CLASSES, CHANNELS, strides_of(detector), **COMMON)
        head.anchors.offset = 0.0
    else:
        options = {"masks": detector == "mask_rcnn", "box_channels": 48, "proposals": (100, 60)}
        head = TwoStage(CLASSES, CHANNELS, strides_of(detector), convention=TORCHVISION, **options, **COMMON)
    for name, parameter in head.named_parameters():  # scores that spread, boxes that move
        nn.init.normal_(parameter, std=0.3 if "norm" not in name and parameter.ndim < 3 else 0.05)
    return head


def reference(detector: str, head: OneStage | TwoStage, pyramid: dict[str, Tensor]) -> nn.Module:
    strides = strides_of(detector)
    options: dict[str, Any] = {
        "min_size": SIZE[0],
        "max_size": SIZE[1],
        "image_mean": [0.0] * 3,
        "image_std": [1.0] * 3,
    }
    if isinstance(head, OneStage):
        limits = {"score_thresh": 0.05, "nms_thresh": 0.5, "detections_per_img": 30}
        if detector == "fcos":
            anchors = AnchorGenerator(tuple((s,) for s in strides), ((1.0,),) * 3)
            model: nn.Module = FCOS(Given(pyramid), CLASSES, anchor_generator=anchors, **limits, **options)
        else:
            sizes = tuple(tuple(int(8 * s * 2 ** (i / 3)) for i in range(3)) for s in strides)
            anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 3)
            model = RetinaNet(Given(pyramid), CLASSES, anchor_generator=anchors, **limits, **options)
        model.load_state_dict(head.detector.state_dict())
        return model
    anchors = AnchorGenerator(tuple((8 * s,) for s in strides), ((0.5, 1.0, 2.0),) * 5)
    options |= {"rpn_anchor_generator": anchors, "box_detections_per_img": 30}
    options |= {f"rpn_pre_nms_top_n_{mode}": 100 for mode in ("train", "test")}
    options |= {f"rpn_post_nms_top_n_{mode}": 60 for mode in ("train", "test")}
    levels = ["0", "1", "2", "3"]
    parts = {
        "box_head": head.roi_heads.box_head,
        "box_predictor": head.roi_heads.box_predictor,
        "box_roi_pool": MultiScaleRoIAlign(levels, 7, 2),
    }
    if detector == "mask_rcnn":
        parts |= {"mask_head": head.roi_heads.mask_head, "mask_predictor": head.roi_heads.mask_predictor}
        model = MaskRCNN(Given(pyramid), mask_roi_pool=MultiScaleRoIAlign(levels, 14, 2), **parts, **options)
    else:
        model = FasterRCNN(Given(pyramid), **parts, **options)
    model.load_state_dict(head.state_dict())
    return model


def random_pyramid(detector: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        str(i): torch.randn(3, CHANNELS, SIZE[0] // s, SIZE[1] // s, generator=generator)
        for i, s in enumerate(strides_of(detector))
    }


def targets_of(first: int) -> list[dict[str, Tensor]]:
    """Objects of three images; the second has none."""
    boxes = [[[10.0, 12, 60, 90], [50, 20, 81, 44], [100, 60, 190, 128]], [], [[4, 4, 124, 100]]]
    labels = [[0, 2, 3], [], [1]]
    masks = []
    for rows in boxes:
        mask = torch.zeros(len(rows), *SIZE, dtype=torch.bool)
        for k, (x1, y1, x2, y2) in enumerate(rows):
            mask[k, int(y1) : int(y2), int(x1) : int(x2) - 5] = True
        masks.append(mask)
    return [
        {
            "boxes": torch.tensor(rows, dtype=torch.float32).view(-1, 4),
            "labels": torch.tensor(kinds, dtype=torch.int64) + first,
            "masks": mask,
        }
        for rows, kinds, mask in zip(boxes, labels, masks, strict=True)
    ]


@pytest.mark.parametrize("detector", DETECTORS)
def test_losses_and_gradients_are_torchvisions(detector: str) -> None:
    head, pyramid = made(detector), random_pyramid(detector)
    targets, model = targets_of(head.first_label), reference(detector, head, pyramid)
    expected = model(list(torch.rand(3, 3, *SIZE)), targets)
    names = [name for name, _ in head.named_parameters()]
    total = torch.stack(list(expected.values())).sum()
    gradients = torch.autograd.grad(total, [p for p in model.parameters() if p.requires_grad])
    torch.set_rng_state(model.backbone.stream)
    found = head.losses(head(pyramid), targets, SIZE, [SIZE] * 3)
    assert found.keys() == {NAMES.get(name, name) for name in expected}
    for name, value in expected.items():
        torch.testing.assert_close(found[NAMES.get(name, name)], value, rtol=1e-5, atol=1e-6)
    ours = torch.autograd.grad(torch.stack(list(found.values())).sum(), list(head.parameters()))
    theirs = dict(zip([name for name, _ in model.named_parameters()], gradients, strict=True))
    for name, gradient in zip(names, ours, strict=True):
        torch.testing.assert_close(gradient, theirs[name.removeprefix("detector.")], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("detector", DETECTORS)
@torch.no_grad()
def test_detections_are_torchvisions(detector: str) -> None:
    head, pyramid = made(detector).eval(), random_pyramid(detector)
    expected = reference(detector, head, pyramid).eval()(list(torch.rand(3, 3, *SIZE)))
    found = head.detections(head(pyramid), SIZE, [SIZE] * 3)
    assert sum(len(one["boxes"]) for one in expected) > 10
    for ours, theirs in zip(found, expected, strict=True):
        kept = remove_small_boxes(theirs["boxes"], 1e-2)
        theirs = {key: row[kept] for key, row in theirs.items()}
        assert (ours["scores"].diff() <= 0).all()
        assert torch.equal(ours["labels"], theirs["labels"])
        torch.testing.assert_close(ours["scores"], theirs["scores"])
        torch.testing.assert_close(ours["boxes"], theirs["boxes"], rtol=0, atol=1e-3)
        if detector == "mask_rcnn":  # theirs are pasted into the image, so compare where a box is as large as a mask
            whole = [k for k, box in enumerate(theirs["boxes"]) if (box[2:] - box[:2]).min() > 28]
            assert ours["masks"].shape == (len(theirs["boxes"]), 28, 28)
            for k in whole[:5]:
                x1, y1, x2, y2 = theirs["boxes"][k].round().int().tolist()
                inside = theirs["masks"][k, 0, y1:y2, x1:x2]
                assert inside.mean().item() == pytest.approx(ours["masks"][k].mean().item(), abs=0.06)


def test_pooling_is_torchvisions_where_it_guesses_right() -> None:
    pyramid = random_pyramid("faster_rcnn")
    boxes = [torch.tensor([[3.0, 4, 60, 70], [0, 0, 192, 128]]), torch.zeros(0, 4), torch.tensor([[9.0, 9, 19, 12]])]
    expected = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)(pyramid, boxes, [SIZE] * 3)
    found = RoIAlign(strides_of("faster_rcnn"), 7)(list(pyramid.values()), boxes)
    torch.testing.assert_close(found, expected)


def test_aligned_pooling_reads_half_a_pixel_before() -> None:
    ramp = torch.arange(48.0).view(1, 1, 1, 48).expand(1, 1, 32, 48)
    boxes = [torch.tensor([[40.0, 40, 96, 96]])]
    plain, aligned = (RoIAlign([4], 7, samples=2, aligned=flag)([ramp], boxes) for flag in (False, True))
    torch.testing.assert_close(plain - aligned, torch.full_like(plain, 0.5))
    direct = roi_align(ramp, boxes, 7, 0.25, 0, True)
    torch.testing.assert_close(RoIAlign([4], 7, samples=0, aligned=True)([ramp], boxes), direct)


def test_anchors_are_torchvisions_on_sizes_that_strides_divide() -> None:
    ours = Anchors([8, 16], [[20, 30], [50, 70]], [0.5, 1.0, 2.0], offset=0.0)
    theirs = AnchorGenerator(((20, 30), (50, 70)), ((0.5, 1.0, 2.0),) * 2)
    grids = [(16, 24), (8, 12)]
    theirs.set_cell_anchors(torch.float32, torch.device("cpu"))
    expected = theirs.grid_anchors(grids, [[torch.tensor(s)] * 2 for s in (8, 16)])
    for level, anchors in zip(ours.levels(SIZE, torch.device("cpu")), expected, strict=True):
        torch.testing.assert_close(level, anchors)

"""Small networks held as tasks hold them, and their weights as others publish them; for the tests of `load_weights`."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hrnet import ClassificationHead, HRNet, KeypointHead, OCRHead, SegmentationHead, load_weights
from tests.golden import state_for

SMALL = "w18_small_v1"
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


def prefixed(prefix: str) -> Callable[[State], dict]:
    return lambda state: {prefix + k: x for k, x in state.items()}


def unchanged(module: nn.Module, source: Path | str, match: str, strict: bool = True) -> str:
    before = {k: x.clone() for k, x in module.state_dict().items()}
    with pytest.raises(ValueError, match=match) as caught:
        load_weights(module, source, strict)
    assert same(module, before)
    return str(caught.value)

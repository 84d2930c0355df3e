"""What is published of each variant, and small networks held as tasks hold them, with weights as others publish them.

A variant of your own has no row here: what every variant must do is tested for each of `hrnet.VARIANTS`, and computed
from its row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hrnet import ClassificationHead, HRNet, KeypointHead, OCRHead, SegmentationHead, load_weights
from tests.golden import state_for

SMALL = "w18_small_v1"
State = dict[str, Tensor]


@dataclass(frozen=True)
class Figures:
    """Of one published variant.

    Args:
        parts: Parameters of stem, layer1, transition1, stage2, transition2, stage3, transition3, stage4, and of stage 4
            with one output (pose), counted on the official modules.
        trunk: Parameters of all parts with four outputs.
        classification: Parameters of the ImageNet network (official READMEs: 13.2M, 15.6M, 21.3M, ...).
        timm: Its name in timm.
    """

    parts: tuple[int, ...]
    trunk: int
    classification: int
    timm: str


PUBLISHED = {
    "w18_small_v1": Figures(
        (38_848, 24_192, 55_392, 51_680, 18_560, 233_056, 73_984, 982_208, 788_960),
        trunk=1_477_920,
        classification=13_187_464,
        timm="hrnet_w18_small",
    ),
    "w18_small_v2": Figures(
        (38_848, 145_408, 124_524, 65_340, 23_472, 884_304, 93_600, 2_485_224, 2_240_856),
        trunk=3_860_720,
        classification=15_597_464,
        timm="hrnet_w18_small_v2",
    ),
    "w18": Figures(
        (38_848, 286_208, 124_524, 124_092, 23_472, 2_162_880, 93_600, 6_708_636, 6_464_268),
        trunk=9_562_260,
        classification=21_299_004,
        timm="hrnet_w18",
    ),
    "w30": Figures(
        (38_848, 286_208, 207_540, 343_620, 65_040, 5_996_640, 259_680, 18_614_700, 17_937_780),
        trunk=25_812_276,
        classification=37_712_220,
        timm="hrnet_w30",
    ),
    "w32": Figures(
        (38_848, 286_208, 221_376, 390_848, 73_984, 6_821_632, 295_424, 21_177_216, 20_407_232),
        trunk=29_305_536,
        classification=41_232_680,
        timm="hrnet_w32",
    ),
    "w40": Figures(
        (38_848, 286_208, 276_720, 610_160, 115_520, 10_653_120, 461_440, 33_079_200, 31_877_040),
        trunk=45_521_216,
        classification=57_557_160,
        timm="hrnet_w40",
    ),
    "w44": Figures(
        (38_848, 286_208, 304_392, 738_056, 139_744, 12_887_776, 558_272, 40_021_344, 38_567_144),
        trunk=54_974_640,
        classification=67_064_984,
        timm="hrnet_w44",
    ),
    "w48": Figures(
        (38_848, 286_208, 332_064, 878_112, 166_272, 15_335_040, 664_320, 47_624_256, 45_894_048),
        trunk=65_325_120,
        classification=77_469_864,
        timm="hrnet_w48",
    ),
    "w64": Figures(
        (38_848, 286_208, 442_752, 1_559_936, 295_424, 27_250_176, 1_180_672, 84_643_584, 81_569_664),
        trunk=115_697_600,
        classification=128_059_944,
        timm="hrnet_w64",
    ),
}


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

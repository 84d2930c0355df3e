"""The nine published HRNet variants as rows of data (TPAMI 2020, Section 3 and Table 7; the official repositories).

A variant is one integer, the width C of the first stream, and a few counts; stream i has `C * 2**i` channels. A new
width is one row in `VARIANTS`. The network is built from its row (`backbone.py`); a checkpoint's tensors say which row
they are of: `HRNet(**architecture_of(contents.trunk, name))`, with `contents` from `layouts.take_apart`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Variant:
    """Shape of one HRNet.

    Args:
        width: Channels C of the highest-resolution stream; stream i has `C * 2**i`.
        stage1_blocks: Bottleneck blocks of stage 1.
        stage1_width: Inner width of these bottlenecks; stage 1 gives four times as many channels.
        units: Exchange units of stages 2, 3 and 4.
        blocks: Basic blocks in a row on each stream of a unit.
    """

    width: int
    stage1_blocks: int = 4
    stage1_width: int = 64
    units: tuple[int, int, int] = (1, 4, 3)
    blocks: int = 4


VARIANTS: dict[str, Variant] = {
    "w18_small_v1": Variant(16, stage1_blocks=1, stage1_width=32, units=(1, 1, 1), blocks=2),
    "w18_small_v2": Variant(18, stage1_blocks=2, units=(1, 3, 2), blocks=2),
    "w18": Variant(18),
    "w30": Variant(30),
    "w32": Variant(32),
    "w40": Variant(40),
    "w44": Variant(44),
    "w48": Variant(48),
    "w64": Variant(64),
}


def architecture_of(trunk: Mapping[str, Tensor], name: str) -> dict[str, Any]:
    """`variant`, `in_channels` and `multi_scale_output` of the network that these tensors fill.

    What shapes cannot tell (`upsample`, `align_corners`) follows from the checkpoint's layout or stays as by default.

    Args:
        trunk: Tensors by our names, `backbone.*`.
        name: What messages call the checkpoint.

    Raises:
        ValueError: If it is none of the published variants, or tensors are missing that would tell.
    """
    try:
        found = _shape_of(trunk)
        in_channels = trunk["backbone.conv1.weight"].shape[1]
    except (LookupError, TypeError, ValueError) as error:  # of tensors that are absent, or of another shape
        raise ValueError(f"{name} lacks parts of an HRNet ({error}): is the file complete?") from error
    variant = next((variant for variant, shape in VARIANTS.items() if shape == found), None)
    if variant is None:
        raise ValueError(
            f"{name} holds an HRNet of another shape ({found}) than the published variants {', '.join(VARIANTS)}: add "
            "a row for it to hrnet.VARIANTS."
        )
    last = f"backbone.stage4.{found.units[2] - 1}.fuse_layers.1."
    return {
        "variant": variant,
        "in_channels": in_channels,
        "multi_scale_output": any(key.startswith(last) for key in trunk),
    }


def _shape_of(trunk: Mapping[str, Tensor]) -> Variant:
    def count(beginning: str) -> int:
        """How many parts are numbered after these words."""
        numbers = {match[1] for key in trunk if (match := re.match(rf"backbone\.{beginning}\.(\d+)\.", key))}
        if not numbers:
            raise ValueError(f"it has no {beginning}")
        return len(numbers)

    return Variant(
        width=trunk["backbone.transition1.0.0.weight"].shape[0],
        stage1_blocks=count("layer1"),
        stage1_width=trunk["backbone.layer1.0.conv1.weight"].shape[0],
        units=(count("stage2"), count("stage3"), count("stage4")),
        blocks=count(r"stage2.0.branches.0"),
    )

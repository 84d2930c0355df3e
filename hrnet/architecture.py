"""Which HRNet a checkpoint is of: the arguments of `HRNet` that the shapes of its trunk tell.

Use: `HRNet(**architecture_of(contents.trunk, name))`, where `contents` is what `checkpoint_layouts.take_apart` gives.
What the shapes cannot tell (`upsample`, `align_corners`) follows from the layout or stays as it is by default.
"""

import re
from typing import Any

from hrnet.checkpoint_files import State
from hrnet.variants import VARIANTS, Variant


def architecture_of(trunk: State, name: str) -> dict[str, Any]:
    """`variant`, `in_channels` and `multi_scale_output` of the network that these tensors fill.

    Args:
        trunk: Tensors by our names, `backbone.*`.
        name: What messages call the checkpoint.

    Raises:
        ValueError: If it is none of the published variants, or tensors are missing that would tell.
    """
    try:
        found = _shape_of(trunk)
        in_channels = trunk["backbone.conv1.weight"].shape[1]
    except (KeyError, ValueError) as error:
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


def _shape_of(trunk: State) -> Variant:
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

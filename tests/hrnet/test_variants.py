"""The shapes of a checkpoint tell which network it is of."""

import pytest
import torch

from hrnet import VARIANTS, HRNet
from hrnet.layouts import take_apart
from hrnet.variants import architecture_of
from tests.hrnet.published import SMALL, State, filled


def trunk_of(state: State) -> State:
    return take_apart(state, "file.pth").trunk


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("options", [{}, {"in_channels": 1, "multi_scale_output": False}])
def test_every_variant_is_recognised(variant: str, options: dict) -> None:
    with torch.device("meta"):
        state = HRNet(variant, **options).state_dict()
        expected = {"variant": variant, "in_channels": 3, "multi_scale_output": True} | options
        assert architecture_of(trunk_of(state), "file.pth") == expected


def test_what_is_none_of_them_is_said() -> None:
    state = filled(HRNet(SMALL))
    state["transition1.0.0.weight"] = torch.zeros(20, 128, 3, 3)
    with pytest.raises(ValueError, match=r"file\.pth holds an HRNet of another shape .*width=20.*w18_small_v1"):
        architecture_of(trunk_of(state), "file.pth")
    for part in ("conv1.weight", "transition1.0.0.weight", "layer1", "stage3", "stage2.0.branches.0"):
        partial = {k: x for k, x in filled(HRNet(SMALL)).items() if not k.startswith(part)}
        with pytest.raises(ValueError, match=r"file\.pth lacks parts of an HRNet.*complete"):
            architecture_of(trunk_of(partial), "file.pth")

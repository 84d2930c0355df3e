"""Pictures of what happens inside the network."""

import pytest
import torch

from hrnet import HRNet
from tasks.draw.features import draw_exchange, draw_map, draw_streams, draw_table, exchange_terms


def inputs_of_last_unit(backbone: HRNet, size: tuple[int, int]) -> list[torch.Tensor]:
    seen = []
    hook = backbone.stage4[-1].register_forward_pre_hook(lambda _, given: seen.extend(x.clone() for x in given[0]))
    with torch.no_grad():
        backbone(torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0)))
    hook.remove()
    return seen


@pytest.mark.parametrize(("upsample", "size"), [("nearest", (64, 96)), ("bilinear", (65, 97))])
@pytest.mark.parametrize("all_streams", [True, False])
def test_terms_add_up_to_what_the_unit_computes(upsample, size, all_streams):
    backbone = HRNet("w18_small_v1", upsample=upsample, multi_scale_output=all_streams).eval()
    unit, streams = backbone.stage4[-1], inputs_of_last_unit(backbone, size)
    terms = exchange_terms(unit, streams)
    with torch.no_grad():
        outputs = unit([x.clone() for x in streams])
    assert [len(row) for row in terms] == [4] * (4 if all_streams else 1)
    for row, output in zip(terms, outputs, strict=True):
        torch.testing.assert_close(sum(row).relu(), output, rtol=1e-4, atol=1e-4)


def test_lowest_value_is_darkest_and_pixels_stay_blocks():
    picture = draw_map(torch.tensor([[-3.0, 5.0], [0.0, 1.0]]), (8, 6))
    assert picture.shape == (3, 8, 6)
    assert picture.dtype == torch.uint8
    blocks = picture.unflatten(1, (2, 4)).unflatten(3, (2, 3))  # (3, 2, 4, 2, 3)
    assert (blocks == blocks[:, :, :1, :, :1]).all()
    brightness = blocks[:, :, 0, :, 0].int().sum(0)
    assert brightness[0, 0] < brightness[1, 0] < brightness[1, 1] < brightness[0, 1]


def test_constant_map_is_drawn():
    assert draw_map(torch.full((2, 2), 7.0), (4, 4)).unique(dim=1).shape[1] == 1


def test_table_leaves_empty_places_white():
    dark = torch.zeros(3, 10, 40, dtype=torch.uint8)
    picture = draw_table([[dark, None], [dark, dark]], [["a", ""], ["b", "c"]])
    assert (picture[:, 20:30, 44:84] == 255).all()
    assert (picture[:, 20:30, 2:42] == 0).all()


def test_streams_and_exchange_are_drawn_in_rows():
    backbone = HRNet("w18_small_v1").eval()
    streams = inputs_of_last_unit(backbone, (64, 64))
    rows = draw_streams([x[0] for x in streams], (32, 32), channels=3)
    table = draw_exchange(backbone.stage4[-1], streams, (32, 32))
    assert rows.shape == (3, 4 * (32 + 18 + 2) + 2, 4 * 34 + 2)
    assert table.shape == (3, 4 * (32 + 18 + 2) + 2, 5 * 34 + 2)

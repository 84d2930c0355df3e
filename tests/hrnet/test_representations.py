"""HRNetV1, V2 and V2p against the formulas of the paper written out plainly."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrnet import HRNet, HRNetV1, HRNetV2, HRNetV2p

CHANNELS = [4, 8, 16, 32]


def random_streams(height: int, width: int) -> list[Tensor]:
    """Four streams of an image of four times this size, odd sizes rounded up."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, c, -(-height // 2**i), -(-width // 2**i), generator=generator) for i, c in enumerate(CHANNELS)
    ]


def concatenated(streams: list[Tensor], align_corners: bool = False) -> Tensor:
    size = streams[0].shape[-2:]
    maps = [F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners) for x in streams]
    return torch.cat(maps, dim=1)


def test_v1_is_the_finest_stream_itself() -> None:
    streams = random_streams(16, 24)
    assert HRNetV1()(streams) is streams[0]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(16, 24), (25, 33)])
def test_v2_concatenates_all_streams_at_the_finest_size(size: tuple[int, int], align_corners: bool) -> None:
    streams = random_streams(*size)
    joined = HRNetV2(align_corners)(streams)
    assert joined.shape == (2, 60, *size)
    torch.testing.assert_close(joined, concatenated(streams, align_corners))
    assert torch.equal(joined[:, :4], streams[0])


def test_v2_keeps_constants_and_channel_order() -> None:
    streams = [torch.full_like(x, float(i)) for i, x in enumerate(random_streams(16, 24))]
    joined = HRNetV2()(streams)
    expected = torch.cat([torch.full((c,), float(i)) for i, c in enumerate(CHANNELS)])
    torch.testing.assert_close(joined, expected[None, :, None, None].expand_as(joined))


@pytest.mark.parametrize("size", [(64, 64), (25, 33)])
def test_v2p_is_concatenation_convolution_pooling_and_a_convolution_a_level(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    neck, streams = HRNetV2p(CHANNELS, out_channels=24), random_streams(*size)
    nn.init.normal_(neck.reduction_conv[0].bias)
    pyramid = neck(streams)
    reduced = neck.reduction_conv(concatenated(streams))
    for i, (name, level) in enumerate(pyramid.items()):
        expected = neck.fpn_conv[i](F.avg_pool2d(reduced, 2**i, 2**i, ceil_mode=True))
        assert name == str(i)
        torch.testing.assert_close(level, expected, rtol=1e-4, atol=1e-5)


def test_v2p_gives_five_maps_of_256_channels_at_strides_4_to_64() -> None:
    network = HRNet("w18_small_v1").eval()
    neck = HRNetV2p(network.channels)
    with torch.no_grad():
        pyramid = neck(network(torch.zeros(1, 3, 256, 256)))
    assert list(pyramid) == ["0", "1", "2", "3", "4"]
    assert [tuple(x.shape) for x in pyramid.values()] == [(1, 256, s, s) for s in (64, 32, 16, 8, 4)]
    assert neck.out_channels == 256


def test_v2p_sends_the_same_gradients_as_the_concatenation() -> None:
    torch.manual_seed(0)
    neck, streams = HRNetV2p(CHANNELS, out_channels=8, levels=3), random_streams(16, 24)
    weight = neck.reduction_conv[0].weight
    mine = torch.autograd.grad(sum((x**2).mean() for x in neck(streams).values()), weight)[0]
    reduced = neck.reduction_conv(concatenated(streams))
    plain = sum((conv(F.avg_pool2d(reduced, 2**i)) ** 2).mean() for i, conv in enumerate(neck.fpn_conv))
    torch.testing.assert_close(mine, torch.autograd.grad(plain, weight)[0], rtol=1e-4, atol=1e-6)


def test_v2p_may_begin_at_a_coarser_level() -> None:
    torch.manual_seed(0)
    streams, whole = random_streams(25, 33), HRNetV2p(CHANNELS, out_channels=8, levels=4)
    later = HRNetV2p(CHANNELS, out_channels=8, levels=3, finest=2)
    later.reduction_conv.load_state_dict(whole.reduction_conv.state_dict())
    for i, conv in enumerate(later.fpn_conv):
        conv.load_state_dict(whole.fpn_conv[i + 1].state_dict())
    expected, found = list(whole(streams).values())[1:], list(later(streams).values())
    assert [level.shape for level in found] == [level.shape for level in expected]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)

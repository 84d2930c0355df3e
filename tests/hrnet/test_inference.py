"""The network rewritten for inference gives what the original gives, and leaves the original alone."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from hrnet import ClassificationHead, HRNet, KeypointHead, OCRHead, SegmentationHead, inference
from hrnet.backbone import BasicBlock, Bottleneck
from hrnet.inference import KEPT_SHAPES, FusedConv, for_inference

TOLERANCE = 1e-4


def trained(module: nn.Module, in_channels: int = 3) -> nn.Module:
    """`module` with batch norms as after training (all different), in eval mode."""
    generator = torch.Generator().manual_seed(2)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(norm.bias, 0.0, 0.2, generator=generator)
            norm.momentum = 1.0
    with torch.no_grad():
        module.train()(images(2, in_channels, 64, 64))
    return module.eval()


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def small(**options: object) -> HRNet:
    torch.manual_seed(0)
    return HRNet("w18_small_v2", **options)


def assert_same(fast: list[Tensor], plain: list[Tensor]) -> None:
    assert len(fast) == len(plain)
    for a, b in zip(fast, plain, strict=True):
        assert a.shape == b.shape
        assert ((a - b).norm() / b.norm()).item() < TOLERANCE


class WithHead(nn.Module):
    """What every task looks like to `for_inference`."""

    def __init__(self, backbone: HRNet, head: nn.Module, finest_only: bool = False) -> None:
        super().__init__()
        self.backbone, self.head, self.finest_only = backbone, head, finest_only

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        streams = self.backbone(image)
        return self.head(streams[0] if self.finest_only else streams)


@pytest.mark.parametrize("multi_scale_output", [True, False])
@pytest.mark.parametrize(
    ("upsample", "align_corners", "size"),
    [("nearest", False, (64, 96)), ("bilinear", False, (97, 129)), ("bilinear", True, (97, 129))],
)
def test_streams_are_the_same(
    upsample: str, align_corners: bool, size: tuple[int, int], multi_scale_output: bool
) -> None:
    network = trained(small(upsample=upsample, align_corners=align_corners, multi_scale_output=multi_scale_output))
    fast = for_inference(network)
    assert fast.channels == network.channels
    with torch.inference_mode():
        for batch in (1, 2):
            x = images(batch, 3, *size)
            assert_same(fast(x), network(x))


@pytest.mark.parametrize("head", [KeypointHead, SegmentationHead, ClassificationHead, OCRHead])
def test_heads_are_the_same(head: type[nn.Module]) -> None:
    backbone = small(multi_scale_output=head is not KeypointHead)
    channels = backbone.channels[0] if head is KeypointHead else backbone.channels
    task = trained(WithHead(backbone, head(channels, 5), finest_only=head is KeypointHead))
    fast = for_inference(task)
    with torch.inference_mode():
        outputs, expected = fast(images(2, 3, 64, 96)), task(images(2, 3, 64, 96))
        assert_same(outputs if head is OCRHead else [outputs], expected if head is OCRHead else [expected])
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fast.modules())


@pytest.mark.parametrize("in_channels", [1, 3])
def test_both_memory_formats_are_taken_and_channels_last_given(in_channels: int) -> None:
    network = trained(small(in_channels=in_channels), in_channels)
    fast, x = for_inference(network), images(2, in_channels, 64, 96)
    with torch.inference_mode():
        for y in (x, x.contiguous(memory_format=torch.channels_last)):
            outputs = fast(y)
            assert_same(outputs, network(x))
            assert all(o.is_contiguous(memory_format=torch.channels_last) for o in outputs)


def test_the_original_stays_as_it_was() -> None:
    network = trained(small()).train()
    before = copy.deepcopy(network.state_dict())
    x = images(2, 3, 64, 64)
    given = x.clone()
    fast = for_inference(network)
    with torch.inference_mode():
        fast(x)
    assert network.training
    assert not fast.training
    assert torch.equal(x, given)
    assert all(p.requires_grad for p in network.parameters())
    assert not any(p.requires_grad for p in fast.parameters())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("block", [BasicBlock(16), Bottleneck(16, 4), Bottleneck(16, 8)])
def test_blocks_of_a_head_leave_the_streams_to_other_heads(block: nn.Module) -> None:
    fast = for_inference(nn.Sequential(block.eval()))
    x = images(1, 16, 8, 8).contiguous(memory_format=torch.channels_last)
    given = x.clone()
    with torch.inference_mode():
        assert_same([fast(x)], [block(given)])
    assert torch.equal(x, given)


def test_wrong_sizes_are_still_refused() -> None:
    with pytest.raises(ValueError, match="128x160"):
        for_inference(small())(images(1, 3, 97, 129))


def test_a_backbone_that_two_tasks_share_stays_shared() -> None:
    backbone = small(multi_scale_output=False)
    both = nn.ModuleDict({name: WithHead(backbone, KeypointHead(18, 3), finest_only=True) for name in "ab"})
    fast = for_inference(both)
    assert fast["a"].backbone is fast["b"].backbone
    with torch.inference_mode():
        for name in both:
            assert_same([fast[name](images(1, 3, 64, 64))], [both[name].eval()(images(1, 3, 64, 64))])


def test_shapes_may_change_from_call_to_call() -> None:
    plain = trained(small())
    fast = for_inference(plain)
    shapes = [(1, 3, 64, 64), (2, 3, 64, 64), (1, 3, 96, 64), (1, 3, 64, 128), (1, 3, 64, 64), (2, 3, 96, 96)]
    layers = [layer for layer in fast.modules() if isinstance(layer, FusedConv)]
    with torch.inference_mode():
        for shape in shapes:
            assert_same(fast(images(*shape)), plain(images(*shape)))
            assert all(len(layer._packed) <= KEPT_SHAPES for layer in layers)  # each is as large as the weights


def test_packed_weights_are_those_of_the_layer_after_a_change_of_type() -> None:
    layer, x = FusedConv(nn.Conv2d(8, 8, 3, padding=1), relu=False), images(1, 8, 16, 16)
    with torch.inference_mode():
        before = layer(x)
        layer.bfloat16().float()
        assert_same([layer(x)], [nn.functional.conv2d(x, layer.weight, layer.bias, padding=1)])
        assert (layer(x) - before).abs().max() > TOLERANCE


def test_weights_stay_packed_for_the_shapes_that_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, packed = FusedConv(nn.Conv2d(8, 8, 3, padding=1), relu=False), []
    reorder = torch.ops.mkldnn._reorder_convolution_weight
    monkeypatch.setattr(
        torch.ops.mkldnn,
        "_reorder_convolution_weight",
        lambda weight, *geometry: packed.append(geometry[-1][-1]) or reorder(weight, *geometry),
    )
    with torch.inference_mode():
        for width in (16, 24, 16, 32, 16, 48, 16):
            layer(images(1, 8, 16, width))
    assert packed == [16, 24, 32, 48]


def test_copies_pickles_and_changes_of_type_keep_the_values() -> None:
    fast, x = for_inference(trained(small())), images(1, 3, 64, 64)
    with torch.inference_mode():
        expected = fast(x)
        assert_same(copy.deepcopy(fast)(x), expected)
        assert_same(pickle.loads(pickle.dumps(fast))(x), expected)
        assert_same([y.float() for y in fast.double()(x.double())], expected)
        assert_same(fast.float()(x), expected)


def test_where_the_library_has_other_operators_the_plain_ones_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, x = trained(small()), images(2, 3, 64, 64)
    monkeypatch.setattr(inference, "HAS_OPERATORS", False)
    monkeypatch.setattr(torch.ops.mkldnn, "_convolution_pointwise", None, raising=False)
    with torch.inference_mode():
        assert_same(for_inference(plain)(x), plain(x))


@pytest.mark.filterwarnings("ignore:TF32")
def test_it_exports_and_without_onednn_gives_the_same() -> None:
    fast, x = for_inference(trained(small())), images(2, 3, 64, 64)
    with torch.inference_mode():
        expected = fast(x)
        with torch.backends.mkldnn.flags(enabled=False):
            assert_same(fast(x), expected)
    program = torch.export.export(fast, (x,))
    assert not any("mkldnn" in str(node.target) for node in program.graph.nodes)
    with torch.no_grad():
        assert_same(program.module()(x), expected)

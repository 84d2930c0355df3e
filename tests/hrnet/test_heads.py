"""Heads against plain formulas, published parameter counts, and the shapes a task relies on."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrnet import ClassificationHead, HRNet, HRNetV2, KeypointHead, OCRHead, SegmentationHead, representations
from hrnet.representations import mixed_strips
from tests.hrnet.published import PUBLISHED

# (variant, classes or landmarks, parameters) of the published networks.
SEGMENTATION = [
    ("w48", 19, 65_859_379),
    ("w40", 19, 45_894_435),
    ("w18_small_v1", 19, 1_540_819),
    ("w18_small_v2", 19, 3_939_579),
    ("w18", 19, 9_641_119),
    ("w30", 19, 26_024_695),
    ("w32", 19, 29_546_515),
    ("w44", 19, 55_424_779),
    ("w64", 19, 116_640_339),
    ("w48", 59, 65_888_219),
    ("w48", 150, 65_953_830),
    ("w18", 98, 9_662_528),
    ("w18", 68, 9_654_398),
    ("w18", 29, 9_643_829),
]
OCR = [("w48", 19, 70_372_678), ("w48", 59, 70_422_038), ("w48", 20, 70_373_912)]
CHANNELS = [4, 8, 16, 32]


def parameters(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def random_streams(size: tuple[int, int] = (16, 24), seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    return [
        torch.randn(2, c, -(-height // 2**i), -(-width // 2**i), generator=generator) for i, c in enumerate(CHANNELS)
    ]


def randomise(module: nn.Module) -> None:
    """Weights and statistics away from their initial ones and zeros, so that no term hides."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, x in module.state_dict().items():
            if x.ndim > 1:
                x.copy_(torch.randn(x.shape, generator=generator) * (x[0].numel() ** -0.5))
            elif x.is_floating_point():
                u = torch.rand(x.shape, generator=generator)
                x.copy_(u - 0.5 if name.endswith(("bias", "running_mean")) else u + 0.5)


@pytest.mark.parametrize("variant", PUBLISHED)
def test_classification_parameters_are_the_published(variant: str) -> None:
    with torch.device("meta"):
        backbone = HRNet(variant)
        assert parameters(backbone, ClassificationHead(backbone.channels)) == PUBLISHED[variant].classification


@pytest.mark.parametrize(("variant", "num_classes", "expected"), SEGMENTATION)
def test_segmentation_and_landmark_parameters_are_the_published(variant: str, num_classes: int, expected: int) -> None:
    with torch.device("meta"):
        backbone = HRNet(variant)
        assert parameters(backbone, SegmentationHead(backbone.channels, num_classes)) == expected


@pytest.mark.parametrize(("variant", "num_classes", "expected"), OCR)
def test_ocr_parameters_are_the_published(variant: str, num_classes: int, expected: int) -> None:
    with torch.device("meta"):
        backbone = HRNet(variant)
        assert parameters(backbone, OCRHead(backbone.channels, num_classes)) == expected


@pytest.mark.parametrize(
    ("variant", "num_keypoints", "expected"),
    [("w32", 17, 28_536_113), ("w48", 17, 63_595_745), ("w32", 16, 28_536_080), ("w48", 16, 63_595_696)],
)
def test_pose_parameters_are_the_published(variant: str, num_keypoints: int, expected: int) -> None:
    with torch.device("meta"):
        backbone = HRNet(variant, multi_scale_output=False)
        assert parameters(backbone, KeypointHead(backbone.channels[0], num_keypoints)) == expected


def test_ocr_key_names_are_the_official() -> None:
    names = [n for n in OCRHead(CHANNELS, 5).state_dict() if not n.endswith("num_batches_tracked")]
    assert len(OCRHead(CHANNELS, 5).state_dict()) == 7 + 42 + 9 + 2
    block = "ocr_distri_head.object_context_block"
    for expected in (
        "conv3x3_ocr.0.bias",
        "aux_head.3.weight",
        f"{block}.f_pixel.1.0.running_mean",
        f"{block}.f_object.2.weight",
        f"{block}.f_down.1.0.weight",
        f"{block}.f_up.0.weight",
        "ocr_distri_head.conv_bn_dropout.1.0.bias",
        "cls_head.bias",
    ):
        assert expected in names


def test_keypoint_head_starts_near_zero() -> None:
    head = KeypointHead(32, 17)
    assert list(head.state_dict()) == ["weight", "bias"]
    heatmaps = head(torch.randn(2, 32, 64, 48, generator=torch.Generator().manual_seed(0)))
    assert heatmaps.shape == (2, 17, 64, 48)
    assert 0 < heatmaps.abs().max() < 0.1


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(16, 24), (25, 33)])
def test_segmentation_head_equals_convolutions_over_the_concatenation(
    align_corners: bool, training: bool, size: tuple[int, int]
) -> None:
    head = SegmentationHead(CHANNELS, 7, align_corners=align_corners).train(training)
    randomise(head)
    reference = nn.Sequential(nn.Conv2d(60, 60, 1), nn.BatchNorm2d(60), nn.ReLU(), nn.Conv2d(60, 7, 1)).train(training)
    reference.load_state_dict(head.state_dict())
    streams = [x.requires_grad_() for x in random_streams(size)]
    upsampled = [F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners) for x in streams]
    expected = reference(torch.cat(upsampled, dim=1))
    actual = head(streams)
    assert actual.shape == (2, 7, *size)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn(actual.shape, generator=torch.Generator().manual_seed(2))
    ours = torch.autograd.grad((actual * weights).mean(), [*streams, *head.parameters()])
    theirs = torch.autograd.grad((expected * weights).mean(), [*streams, *reference.parameters()])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head[1].running_var, reference[1].running_var)


@pytest.mark.parametrize("align_corners", [False, True])
def test_ocr_head_equals_attention_pixel_by_pixel(align_corners: bool) -> None:
    head = OCRHead(CHANNELS, 3, mid_channels=8, key_channels=4, align_corners=align_corners).eval()
    randomise(head)
    streams = random_streams((4, 6))
    with torch.no_grad():
        coarse, final = head(streams)
        joined = torch.cat(
            [F.interpolate(x, size=(4, 6), mode="bilinear", align_corners=align_corners) for x in streams], dim=1
        )
        pixels = head.conv3x3_ocr(joined)
        torch.testing.assert_close(coarse, nn.Sequential(*head.aux_head)(joined), rtol=1e-5, atol=1e-5)
        block = head.ocr_distri_head.object_context_block
        for b in range(2):
            scores, features = coarse[b].reshape(3, 24), pixels[b].reshape(8, 24)
            regions = [sum(scores[k].softmax(0)[n] * features[:, n] for n in range(24)) for k in range(3)]
            columns = [region.reshape(1, 8, 1, 1) for region in regions]
            keys = [block.f_object(column).flatten() for column in columns]
            values = [block.f_down(column).flatten() for column in columns]
            queries = block.f_pixel(pixels[b : b + 1])[0].reshape(4, 24)
            context = torch.stack(
                [
                    sum(
                        share * value
                        for share, value in zip(
                            torch.stack([queries[:, n] @ key / 4**0.5 for key in keys]).softmax(0), values, strict=True
                        )
                    )
                    for n in range(24)
                ],
                dim=1,
            ).reshape(1, 4, 4, 6)
            joined = torch.cat([block.f_up(context), pixels[b : b + 1]], dim=1)
            expected = head.cls_head(head.ocr_distri_head.conv_bn_dropout(joined))[0]
            torch.testing.assert_close(final[b], expected, rtol=1e-5, atol=1e-5)


def test_ocr_head_trains_both_outputs_and_drops_whole_channels() -> None:
    head = OCRHead(CHANNELS, 3, mid_channels=8, key_channels=4, dropout=0.5)
    coarse, final = head(random_streams())
    assert coarse.shape == final.shape == (2, 3, 16, 24)
    (coarse.mean() + final.mean()).backward()
    assert all(p.grad is not None for p in head.parameters())
    assert not torch.equal(head(random_streams())[1], final)
    head.eval()
    torch.testing.assert_close(head(random_streams())[1], head(random_streams())[1])


def test_classification_head_equals_its_formula() -> None:
    head = ClassificationHead(CHANNELS, 10).eval()
    randomise(head)
    streams = random_streams((8, 16))
    with torch.no_grad():
        total = head.incre_modules[0](streams[0])
        for i in range(3):
            total = head.incre_modules[i + 1](streams[i + 1]) + head.downsamp_modules[i](total)
        expected = head.classifier(F.adaptive_avg_pool2d(head.final_layer(total), 1).flatten(1))
        torch.testing.assert_close(head(streams), expected)
    assert head.incre_modules[2][0].downsample[0].weight.shape == (512, 16, 1, 1)
    assert head.downsamp_modules[0][0].bias is not None


def test_classification_head_without_classes_gives_features() -> None:
    head = ClassificationHead(CHANNELS, 0).eval()
    assert head(random_streams((8, 8))).shape == (2, 2048)
    assert not any(n.startswith("classifier") for n in head.state_dict())


def test_classification_head_names_what_it_needs() -> None:
    with pytest.raises(ValueError, match=r"four streams.*\[32\].*multi_scale_output=True"):
        ClassificationHead([32])


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(119, 119), (130, 64)])
def test_strips_are_the_published_head(size: tuple[int, int], align_corners: bool, monkeypatch) -> None:
    """Of sizes that are no multiple of one another, in strips of eight rows with a remainder."""
    monkeypatch.setattr(representations, "STRIP_BYTES", 1)
    head = SegmentationHead(CHANNELS, 5, align_corners=align_corners).eval()
    randomise(head)
    streams = random_streams(size)
    expected = nn.Sequential.forward(head, HRNetV2(align_corners)(streams))
    strips = list(mixed_strips(head[0], streams, align_corners))
    assert [strip.shape[2] for strip in strips] == [*[8] * (size[0] // 8), size[0] % 8]
    found = head(streams)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    gradients = [torch.autograd.grad(y.square().sum(), head[0].weight)[0] for y in (found, expected)]
    assert (gradients[0] - gradients[1]).abs().max() < 3e-4 * gradients[1].abs().max()

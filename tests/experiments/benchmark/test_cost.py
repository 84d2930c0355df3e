"""The networks of the table of cost are those of the papers, and the paper's ratios stand beside what is measured."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN

from experiments.benchmark import main
from experiments.benchmark.commandline import report, statement
from experiments.benchmark.cost import NETWORKS, PAPER, Memory, Training, compared, scaled
from experiments.benchmark.timing import Comparison, Setting, Variant, measure

TRUNKS = {50: 23_508_032, 101: 42_500_160, 152: 58_143_808}  # ResNets without their classifier, as torchvision says
RISE = (
    (2048 + 256 + 256) * 256 * 16 + 3 * 2 * 256 + 256 * 17 + 17
)  # three transposed convolutions, batch norm, heatmaps
PSP = 4 * (2048 * 512 + 2 * 512) + 4096 * 512 * 9 + 2 * 512 + 512 * 19 + 19
ASPP = (2048 + 3 * 9 * 2048 + 2048 + 5 * 256) * 256 + 6 * 2 * 256 + 256 * 256 * 9 + 2 * 256 + 256 * 19 + 19
PARAMETERS = {
    "SimpleBaseline ResNet-50": TRUNKS[50] + RISE,
    "SimpleBaseline ResNet-152": TRUNKS[152] + RISE,
    "HRNetV1-W32": 28_536_113,
    "PSPNet, dilated ResNet-101": TRUNKS[101] + PSP,
    "DeepLabV3, dilated ResNet-101": TRUNKS[101] + ASPP,
    "HRNetV2-W48": 65_859_379,
    "HRNetV2p-W18": 9_562_260 + 15 * 18 * 256 + 256 + 5 * (256 * 256 * 9 + 256),
    "HRNetV2p-W32": 29_305_536 + 15 * 32 * 256 + 256 + 5 * (256 * 256 * 9 + 256),
}
PRINTED = {  # in millions, where the papers' networks are these to the last layer
    "SimpleBaseline ResNet-50": "34.0",
    "SimpleBaseline ResNet-152": "68.6",
    "HRNetV1-W32": "28.5",
    "HRNetV2-W48": "65.9",
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_networks_have_the_parameters_of_their_layers(name):
    with torch.device("meta"):
        network = NETWORKS[name]()
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == PARAMETERS[name]
    assert name not in PRINTED or f"{count / 1e6:.1f}" == PRINTED[name]


def test_the_detector_of_a_resnet_is_torchvisions():
    with torch.device("meta"):
        network = FasterRCNN(NETWORKS["ResNet-50-FPN"](), 91)
    # torchvision prints 41,755,286, batch norm not counted since it is fixed there.
    assert sum(parameter.numel() for parameter in network.parameters()) == 41_755_286 + 53_120


def test_every_network_of_the_table_can_be_made():
    assert {name for printed in PAPER.values() for name in printed} == set(NETWORKS)
    assert PARAMETERS.keys() <= NETWORKS.keys()


def test_ratios_of_the_paper():
    names = list(PAPER["segmentation"])
    variants = compared(tuple(Variant(name, print) for name in names), "segmentation", training=True)
    assert [round(variant.published, 2) for variant in variants] == [1.0, 0.98, 1.21]
    assert [round(variant.published_memory, 2) for variant in variants] == [1.0, 0.92, 0.97]
    inference = compared(tuple(Variant(name, print) for name in names), "segmentation", training=False)
    assert [round(variant.published, 2) for variant in inference] == [1.0, 0.97, 2.65]
    detection = compared((Variant("ResNet-101-FPN", print), Variant("ResNet-50-FPN", print)), "detection", False)
    assert detection[1].published_memory is None


@pytest.mark.parametrize(
    ("ratio", "published", "words"),
    [
        (1.5, 2.6, "faster, as in the paper"),
        (0.5, 1.21, "slower here, faster in the paper"),
        (1.05, 0.98, "alike, as in the paper"),
        (1.3, 0.98, "faster here, alike in the paper"),
        (1.3, None, ""),
    ],
)
def test_what_is_said_of_a_ratio(ratio, published, words):
    assert statement(ratio, published) == words


def test_the_table_shows_the_papers_figures(capsys):
    names = ("PSPNet, dilated ResNet-101", "HRNetV2-W48")
    variants = compared(tuple(Variant(name, lambda: None, memory=2**30) for name in names), "segmentation", False)
    results = measure("cost", Comparison("segmentation", "images", 1, variants), 2)
    report(results, markdown=True, console=None)
    printed = capsys.readouterr().out.splitlines()
    assert "| network | seconds | speed | paper | memory | ratio | paper | statement |" in printed
    assert [cell.strip() for cell in printed[-1].split("|")[4:8]] == ["2.65", "1.00 GiB", "1.00", "1.12"]


def test_sizes_are_multiples_of_the_stride():
    assert scaled((800, 1344), 0.5) == (384, 672)
    assert scaled((1024, 2048), 1.0) == (1024, 2048)
    assert scaled((64, 64), 0.1) == (32, 32)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux, which says what is taken at most")
def test_memory_is_what_a_block_takes_at_most():
    with Memory("cpu") as memory:
        large = torch.ones(2**25)  # 128 MiB
        del large
    assert 0.9 * 2**27 < memory.peak < 1.5 * 2**27
    with Memory("cpu") as memory:
        torch.ones(2**18)
    assert memory.peak < 2**25


@pytest.mark.parametrize("task", ["pose", "segmentation", "detection"])
def test_a_step_moves_the_weights(task):
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, images, targets=None):
            found = torch.stack([self.conv(image) for image in images])
            return found if targets is None else {"one": found.mean(), "other": found.std()}

    network = Small()
    before = network.conv.weight.clone()
    Training(task, network, torch.rand(2, 3, 8, 8))()
    assert not torch.equal(network.conv.weight, before)


def test_a_scale_is_a_factor(capsys, monkeypatch):
    assert Setting().scale == 0.5
    with pytest.raises(Exception, match=r"--scale: expected a factor above 0 and up to 1, got .0\.0."):
        main(["cost", "--scale", "0"])

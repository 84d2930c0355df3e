"""The table agrees with independently counted figures, variants are compared fairly, and every benchmark runs."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from experiments.benchmark import BENCHMARKS, command, main
from experiments.benchmark.networks import networks
from experiments.benchmark.peers import Recipe, plain_affine, plain_oks_nms, plain_targets, plain_transform
from experiments.benchmark.table import (
    HEADS,
    ROWS,
    Row,
    as_published,
    cells,
    compare,
    count,
    verdict,
)
from experiments.benchmark.timing import Comparison, Setting, Variant, measure, require
from experiments.training.cost import cost
from hrnet import HRNet, OCRHead, SegmentationHead

# Parameters and GFLOPs of the official networks, counted on the official code; GFLOPs as many digits as were noted.
COUNTED = {
    ("pose", "w32", 17, (256, 192)): (28_536_113, "7.12"),
    ("pose", "w32", 17, (384, 288)): (28_536_113, "16.02"),
    ("pose", "w48", 17, (256, 192)): (63_595_745, "14.61"),
    ("pose", "w48", 17, (384, 288)): (63_595_745, "32.88"),
    ("pose", "w32", 16, (256, 256)): (28_536_080, "9.49"),
    ("pose", "w48", 16, (256, 256)): (63_595_696, "19.49"),
    ("classification", "w18_small_v1", 1000, (224, 224)): (13_187_464, "1.492"),
    ("classification", "w18_small_v2", 1000, (224, 224)): (15_597_464, "2.417"),
    ("classification", "w18", 1000, (224, 224)): (21_299_004, "3.989"),
    ("classification", "w30", 1000, (224, 224)): (37_712_220, "7.549"),
    ("classification", "w32", 1000, (224, 224)): (41_232_680, "8.308"),
    ("classification", "w40", 1000, (224, 224)): (57_557_160, "11.820"),
    ("classification", "w44", 1000, (224, 224)): (67_064_984, "13.861"),
    ("classification", "w48", 1000, (224, 224)): (77_469_864, "16.091"),
    ("classification", "w64", 1000, (224, 224)): (128_059_944, "26.911"),
    ("segmentation", "w18_small_v1", 19, (1024, 2048)): (1_540_819, "31.10"),
    ("segmentation", "w18_small_v2", 19, (1024, 2048)): (3_939_579, "71.58"),
    ("segmentation", "w18", 19, (1024, 2048)): (9_641_119, "137.28"),
    ("segmentation", "w30", 19, (1024, 2048)): (26_024_695, "301.36"),
    ("segmentation", "w32", 19, (1024, 2048)): (29_546_515, "336.42"),
    ("segmentation", "w40", 19, (1024, 2048)): (45_894_435, "498.67"),
    ("segmentation", "w44", 19, (1024, 2048)): (55_424_779, "593.0"),
    ("segmentation", "w48", 19, (1024, 2048)): (65_859_379, "696.18"),
    ("segmentation", "w48", 19, (512, 1024)): (65_859_379, "174.04"),
    ("segmentation", "w64", 19, (1024, 2048)): (116_640_339, "1196.9"),
    ("OCR", "w48", 19, (1024, 2048)): (70_372_678, "1206.37"),
    ("OCR", "w48", 19, (512, 1024)): (70_372_678, "301.6"),
    ("segmentation", "w48", 59, (480, 480)): (65_888_219, "76.87"),
    ("segmentation", "w48", 59, (520, 520)): (65_888_219, "91.70"),
    ("segmentation", "w48", 60, (480, 480)): (65_888_940, ""),
    ("OCR", "w48", 59, (520, 520)): (70_422_038, "157.82"),
    ("segmentation", "w48", 20, (473, 473)): (65_860_100, "75.98"),
    ("OCR", "w48", 20, (473, 473)): (70_373_912, "131.12"),
    ("segmentation", "w48", 150, (520, 520)): (65_953_830, "92.73"),
    ("segmentation", "w48", 171, (520, 520)): (65_968_971, "92.97"),
    ("landmarks", "w18", 98, (256, 256)): (9_662_528, "4.371"),
    ("landmarks", "w18", 68, (256, 256)): (9_654_398, "4.340"),
    ("landmarks", "w18", 29, (256, 256)): (9_643_829, "4.300"),
    ("landmarks", "w18", 19, (256, 256)): (9_641_119, "4.290"),
}
TRUNKS = {"w18": (18, 9_562_260), "w32": (32, 29_305_536), "w48": (48, 65_325_120)}  # width, parameters


def detector_parameters(detector: str, variant: str) -> int:
    """By the layers that the text names: weights and biases, none of them shared unless it says so."""
    width, trunk = TRUNKS[variant]
    three = 256 * 256 * 9 + 256  # a convolution 3x3 from 256 to 256 channels
    total = trunk + 15 * width * 256 + 256 + 5 * three
    if detector == "fcos":  # two towers of four convolutions with group norm, shared by the levels
        return total + 2 * 4 * (three + 2 * 256) + (80 + 4 + 1) * (256 * 9 + 1)
    total += three + 15 * (256 + 1)  # RPN: 3 anchors, each a score and a box
    total += (49 * 256 + 1) * 1024 + 1025 * 1024 + 1025 * 81 * 5
    if detector == "mask_rcnn":
        total += 4 * three + 256 * 256 * 4 + 256 + 81 * 257
    return total


COUNTED |= {
    (detector, variant, 80, (800, 1344)): (detector_parameters(detector, variant), "")
    for detector, variant in [
        *(("faster_rcnn", variant) for variant in TRUNKS),
        *((detector, variant) for detector in ("mask_rcnn", "fcos") for variant in ("w18", "w32")),
    ]
}
NOT_REPRODUCIBLE = {("pose", "w32", "7.10"), ("segmentation", "w40", "493.2"), ("landmarks", "w18", "4.3")}
NOT_REPRODUCIBLE |= {("faster_rcnn", "w18", "159.1"), ("faster_rcnn", "w32", "245.3"), ("faster_rcnn", "w48", "399.1")}
NOT_REPRODUCIBLE |= {("mask_rcnn", "w18", "247.9"), ("mask_rcnn", "w32", "341.0")}
NOT_REPRODUCIBLE |= {("fcos", "w18", "180.3"), ("fcos", "w32", "273.3")}
NOT_MEASURED = {("segmentation", "w48", "76.5"), ("segmentation", "w48", "74.3")}


def key(row: Row) -> tuple:
    return row.task, row.variant, row.outputs, row.size


def test_the_table_has_every_published_network_once():
    assert sorted(map(key, ROWS)) == sorted(COUNTED)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.task}-{row.variant}-{row.outputs}-{row.size[0]}")
def test_rows_equal_the_official_networks_to_the_last_digit(row):
    parameters, gflops = COUNTED[key(row)]
    counted = count(row)
    assert counted.parameters == parameters
    if gflops:
        assert compare(counted.gflops, gflops) == "equal"
    if row.parameters or row.gflops:
        differs = verdict(row, counted) == "differs"
        assert differs == ((row.task, row.variant, row.gflops) in NOT_REPRODUCIBLE | NOT_MEASURED)
        assert not differs or row.note
    if row.task in ("mask_rcnn", "fcos"):
        assert compare(counted.parameters / 1e6, row.parameters) == "equal"
    if row.task == "fcos":
        assert counted.executed_gflops == pytest.approx(float(row.gflops), rel=0.004)
    if row.task in ("pose", "classification"):
        assert counted.executed_multiply_adds == counted.published_multiply_adds
    else:
        assert counted.executed_multiply_adds < counted.published_multiply_adds


def test_trunk_and_head_counted_apart_are_the_whole_network():
    row = Row("OCR", "", "w18_small_v2", 7, (97, 129))
    backbone = HRNet("w18_small_v2", upsample="bilinear")
    whole = cost(nn.Sequential(backbone, HEADS["OCR"](backbone.channels, 7)), row.size)
    counted = count(row)
    assert (counted.parameters, counted.executed_multiply_adds) == (whole.parameters, whole.multiply_adds)


@pytest.mark.parametrize("head", [SegmentationHead, OCRHead])
def test_the_published_formula_gives_what_ours_gives(head):
    torch.manual_seed(0)
    streams = [torch.rand(2, 4 * 2**i, 9 // 2**i + 1, 7 // 2**i + 1) for i in range(4)]
    module = head([4, 8, 16, 32], 5).eval()
    with torch.no_grad():
        ours = module(streams)
        theirs = as_published(module, streams)
    torch.testing.assert_close(ours[-1] if head is OCRHead else ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("value", "printed", "expected"),
    [
        (7.12, "7.10", "differs"),
        (7.12, "7.1", "equal"),
        (70.372678, "70.4", "equal"),
        (70.372678, "70.3", "equal, cut off"),
        (1206.37, "1206.3", "equal, cut off"),
        (696.18, "696.2", "equal"),
        (593.02, "593", "equal"),
        (9.66, "9.3", "differs"),
    ],
)
def test_compare_looks_at_the_printed_digits(value, printed, expected):
    assert compare(value, printed) == expected


def test_cells_show_both_counts_and_the_printed_figures():
    row = next(row for row in ROWS if row.task == "OCR" and row.gflops)
    assert cells(row)[3:] == ("70,372,678", "1206.37", "70.3M / 1206.3", "equal, cut off", "1154.50")


def test_markdown_has_a_line_a_network(monkeypatch, capsys):
    monkeypatch.setattr("experiments.benchmark.commandline.ROWS", ROWS[:2])
    assert main(["--table", "--markdown"]) == []
    lines = capsys.readouterr().out.strip().splitlines()[2:]
    assert lines[2] == ("| pose w32 | COCO, 17 | 256x192 | 28,536,113 | 7.12 | 28.5M / 7.10 | differs [1] | 7.12 |")
    assert "[1] The CVPR paper prints 7.10 GFLOPs; equal at one digit, 7.1." in lines
    assert len({line.count("|") for line in lines[:4]}) == 1


def test_the_terminal_table_shows_every_figure_in_full(capsys):
    assert main(["--table"]) == []
    text = capsys.readouterr().out
    assert all(f"{count(row).parameters:,}" in text for row in ROWS)
    assert "[6] The quoted 9.3M parameters cannot be reproduced" in text
    assert "…" not in text


def test_ratios_are_of_medians_and_turns_rotate(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    calls = []
    durations = {"slow": iter([9.0, 4.0, 6.0, 8.0]), "fast": iter([9.0, 2.0, 2.0, 1.0])}

    def work(name):
        calls.append(name)
        clock[0] += next(durations[name])

    variants = (Variant("slow", lambda: work("slow")), Variant("fast", lambda: work("fast"), target=3.5))
    slow, fast = measure("test", Comparison("work", "things", 10, variants), rounds=3)
    assert calls == ["slow", "fast", "slow", "fast", "fast", "slow", "slow", "fast"]
    assert (slow.ratio, slow.lowest, slow.highest, slow.met) == (1.0, 1.0, 1.0, None)
    assert (fast.ratio, fast.lowest, fast.highest) == (3.0, 2.0, 8.0)
    assert (fast.seconds, fast.per_second, fast.met) == (2.0, 5.0, False)


def test_nothing_is_timed_when_variants_disagree():
    require("they differ", True)
    with pytest.raises(RuntimeError, match="Nothing was timed: they differ"):
        require("they differ", False)


def test_plain_affine_maps_the_box_onto_the_input():
    matrix = plain_affine(np.array([100.0, 80.0]), np.array([0.3, 0.4]), 0.0, (256, 192))
    np.testing.assert_allclose(plain_transform(np.array([100.0, 80.0]), matrix), [96, 128], atol=1e-3)
    np.testing.assert_allclose(plain_transform(np.array([70.0, 40.0]), matrix), [0, 0], atol=1e-3)


def test_plain_target_is_the_published_patch():
    joints = np.array([[40.0, 40.0, 0], [-100, 40, 0], [40, 40, 0]])
    visible = np.array([[1.0, 1, 0], [1, 1, 0], [0, 0, 0]])
    targets, weights = plain_targets(joints, visible, Recipe((256, 192), (), ()))
    assert weights[:, 0].tolist() == [1, 0, 0]
    assert np.count_nonzero(targets[0]) == 13 * 13
    assert targets[0, 10, 10] == 1
    np.testing.assert_allclose(targets[0, 10, [12, 16]], np.exp([-0.5, -4.5]), rtol=1e-6)
    assert not targets[1:].any()


def test_plain_suppression_keeps_the_best_of_double_poses():
    pose = np.arange(34.0).reshape(17, 2) * 5
    poses = np.stack([pose, pose + 0.5, pose + 500])
    assert plain_oks_nms(poses, np.array([0.5, 0.9, 0.1]), np.full(3, 1e4), np.full(17, 0.1), 0.9) == [1, 2]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", [name for name, one in BENCHMARKS.items() if one.named])
def test_what_is_run_only_when_named_runs(name, tmp_path):
    """In a process of its own, since other libraries' pools of threads stay in one for good."""
    file = tmp_path / "results.json"
    words = [sys.executable, "-m", "experiments.benchmark", name, "--quick", "--threads", "1", "--json", str(file)]
    assert subprocess.run(words, timeout=900).returncode == 0
    rows = json.loads(file.read_text())["results"]
    assert {row["benchmark"] for row in rows} == {name}
    assert all(row["seconds"] > 0 for row in rows)


@pytest.mark.parametrize("name", [name for name, one in BENCHMARKS.items() if not one.named])
def test_every_benchmark_runs(name, tmp_path, capsys):
    file = tmp_path / "new" / "results.json"
    threads = torch.get_num_threads()
    results = main([name, "--quick", "--threads", "1", "--json", str(file)])
    assert torch.get_num_threads() == threads
    assert {result.benchmark for result in results} == {name}
    assert results[0].work in capsys.readouterr().out
    assert results[0].ratio == 1
    for result in results:
        assert 0 < result.lowest <= result.highest
        assert result.seconds > 0
        assert result.rounds == 2
    stored = json.loads(file.read_text())
    assert [row["variant"] for row in stored["results"]] == [result.variant for result in results]
    assert stored["quick"] is True
    assert stored["environment"]["libraries"]["torch"]


def test_real_sizes_have_targets():
    comparison = next(BENCHMARKS["decode"].comparisons(Setting()))
    assert comparison.amount == 32
    assert [variant.target for variant in comparison.variants] == [None, 4.0]


def test_mistakes_are_sentences(monkeypatch, capsys, tmp_path):
    for words, message in (
        (["desode"], "There is no benchmark 'desode'; did you mean decode?"),
        (["decode", "--rounds", "0"], "expected a whole number above zero, got '0'"),
        (["data_train", "--quick", "--data-root", str(tmp_path / "absent")], "found no folder"),
    ):
        monkeypatch.setattr("sys.argv", ["benchmark", *words])
        assert command() == 2
        assert message in capsys.readouterr().err
    assert main(["--list"]) == []
    listed = capsys.readouterr().out
    assert all(name in listed for name in BENCHMARKS)


def test_gradients_are_exact_in_either_order_of_memory_but_for_rounding_in_batch_norm(capsys):
    assert main(["--noise", "--quick", "--threads", "1"]) == []
    printed = capsys.readouterr().out
    errors = {}
    for line in printed.splitlines():
        if "float32" in line:
            name, *values = line.rsplit(maxsplit=3)
            errors[name.strip()] = [float(value) for value in values]
    contiguous, last, cured, other = errors.values()
    assert list(errors) == [
        "float32, contiguous",
        "float32, channels_last",
        "float32, channels_last, batch norm in float64",
        "float32, contiguous, another batch",
    ]
    # A tenth of the tensors, and the worst: the medians of so small a network are much the same.
    assert last[1] > 2 * contiguous[1]
    assert cured[1] < 1.5 * contiguous[1]
    assert last[2] < 0.1
    assert other[0] > 0.5


def test_the_order_of_memory_changes_no_gradient_in_float64():
    _, network, size = networks(quick=True)
    network = network.double().train()
    images, targets = torch.rand(4, 3, *size, dtype=torch.double), torch.rand(4, 17, *(s // 4 for s in size)).double()

    def gradients(order: torch.memory_format) -> list[torch.Tensor]:
        network.to(memory_format=order).zero_grad()
        functional.mse_loss(network(images.to(memory_format=order)), targets).backward()
        return [parameter.grad.clone() for parameter in network.parameters()]

    for one, other in zip(gradients(torch.channels_last), gradients(torch.contiguous_format), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("order", "limit"), [(torch.contiguous_format, 1e-6), (torch.channels_last, 2e-4)])
def test_the_variances_of_batch_norm_are_as_exact_as_the_notes_say(order, limit):
    images = torch.randn(8, 32, 128, 96, generator=torch.Generator().manual_seed(0))
    norm = nn.BatchNorm2d(32, momentum=1.0)
    norm(images.to(memory_format=order))
    exact = images.double().var(dim=(0, 2, 3))
    assert ((norm.running_var - exact) / exact).abs().max() < limit

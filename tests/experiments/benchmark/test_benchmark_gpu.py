"""The GPU's comparisons: their variants agree (here on the CPU), and what cannot be run is named and not timed."""

import time

import pytest
import torch

from experiments.benchmark import BENCHMARKS, command, report
from experiments.benchmark.timing import Comparison, Setting, Variant, measure
from experiments.benchmark.variants import BF16, FP32, TF32, TUNED, check_output, made

ON_CPU = Setting(quick=True, device="cpu", precisions=True)


@pytest.mark.parametrize("name", ["segmentation", "joint", "decode"])
def test_variants_agree(name):
    for comparison in BENCHMARKS[name].comparisons(ON_CPU):
        assert [variant.problem for variant in comparison.variants] == [""] * len(comparison.variants)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inference", "train"])
def test_networks_agree_in_every_precision(name):
    (comparison,) = BENCHMARKS[name].comparisons(ON_CPU)
    problems = {variant.label: variant.problem for variant in comparison.variants if "graph" not in variant.label}
    assert set(problems.values()) == {""}
    for numbers in ("float32 without TF32", "float32 with TF32", "bf16-mixed", "16-mixed"):
        assert any(label.startswith("ours") and label.endswith(numbers) for label in problems)


def test_numbers_are_kept_within_the_block_alone():
    cudnn, cublas = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, cublas.allow_tf32, cudnn.benchmark
    for numbers in (FP32, TF32, TUNED):
        with numbers.in_use("cpu"):
            assert (cudnn.allow_tf32, cublas.allow_tf32, cudnn.benchmark) == (numbers.tf32, numbers.tf32, numbers.tuned)
        assert (cudnn.allow_tf32, cublas.allow_tf32, cudnn.benchmark) == before
    with BF16.in_use("cpu"):
        assert torch.nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.bfloat16


def test_what_differs_or_fails_is_named():
    expected = torch.tensor([3.0, 4.0])

    def variant(found: torch.Tensor) -> Variant:
        def check(run):
            return check_output(run, expected=expected, tolerance=0.1)

        return made("ours", lambda: lambda: found, check, "cpu")

    assert not variant(expected + torch.tensor([0.0, 0.49])).problem
    assert "differs by 1.0e-01" in variant(expected + torch.tensor([0.0, 0.51])).problem
    assert "differs by nan" in variant(expected * torch.nan).problem

    def no_memory():
        raise torch.OutOfMemoryError("Tried to allocate 99 GiB.\nA trace")

    failed = made("ours", no_memory, lambda run: "", "cpu")
    assert failed.problem == "OutOfMemoryError: Tried to allocate 99 GiB."


def test_a_variant_with_a_problem_is_passed_over(monkeypatch, capsys):
    clock, calls = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def work(name: str, seconds: float):
        def run():
            calls.append(name)
            clock[0] += seconds

        return run

    variants = (
        Variant("peer", work("peer", 4.0)),
        Variant("broken", work("broken", 1.0), target=2.0, problem="no kernel"),
        Variant("ours", work("ours", 2.0), memory=3 * 2**30),
    )
    results = measure("test", Comparison("work", "things", 10, variants, calls=3), rounds=2)
    assert "broken" not in calls
    assert calls.count("peer") == calls.count("ours") == 1 + 2 * 3
    peer, broken, ours = results
    assert (peer.ratio, ours.ratio, ours.seconds, ours.per_second, ours.memory) == (1.0, 2.0, 2.0, 5.0, 3 * 2**30)
    assert (broken.ratio, broken.seconds, broken.met, broken.problem) == (None, None, None, "no kernel")
    report(results, True, None)
    printed = capsys.readouterr().out
    assert "| broken | n/a |" in printed
    assert "broken was not timed: no kernel" in printed
    with pytest.raises(RuntimeError, match="peer, which all are compared with: gone"):
        measure("test", Comparison("work", "things", 1, (Variant("peer", work("peer", 1.0), problem="gone"),)), 1)


def test_devices_that_are_not_there_are_named(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def said(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["benchmark", *words])
        assert command() == 2
        return capsys.readouterr().err

    assert "sees no GPU here" in said("--device", "cuda")
    assert "--compile goes with --device cuda" in said("--compile")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    said = said("data_train", "--device", "cuda")
    assert "data_train runs on the CPU alone" in said
    assert "inference, train, segmentation, joint, cost, decode" in said

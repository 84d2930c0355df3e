"""Whether a processor computes in bfloat16 is read off its instructions, and measured where nobody lists them."""

from pathlib import Path

import pytest
import torch

from hrnet import processor


@pytest.fixture
def asked_anew():
    for question in (processor.has_bfloat16, processor.has_int8):
        question.cache_clear()
    yield
    for question in (processor.has_bfloat16, processor.has_int8):
        question.cache_clear()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16 avx512_vnni", True),
        ("flags\t\t: fpu amx_tile amx_bf16", True),
        ("flags\t\t: fpu avx2 avx512f avx512_vnni", False),
        ("Features\t: fp asimd bf16 i8mm", True),
        ("Features\t: fp asimd", False),
    ],
)
def test_linux_lists_the_instructions(line, expected, tmp_path, monkeypatch, asked_anew):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: bf16\n{line}\n\nprocessor\t: 1\n{line}\n")
    monkeypatch.setattr(processor, "FLAGS", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    monkeypatch.setattr(processor, "_measured", lambda: pytest.fail("measured in spite of a list"))
    assert processor.has_bfloat16() is expected


@pytest.mark.parametrize(("there", "expected"), [({"avx512_bf16": True}, True), ({"avx512_bf16": False}, False)])
def test_torch_lists_the_instructions(there, expected, monkeypatch, asked_anew):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "bf16", **there}, raising=False)
    monkeypatch.setattr(processor, "FLAGS", Path("/nowhere"))
    assert processor.has_bfloat16() is expected


@pytest.mark.parametrize(("flags", "expected"), [("avx2 avx_vnni", True), ("avx2 avx512f", False), ("", False)])
def test_products_of_eight_bits(flags, expected, tmp_path, monkeypatch, asked_anew):
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n" if flags else "")
    monkeypatch.setattr(processor, "FLAGS", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    assert processor.has_int8() is expected


@pytest.mark.parametrize(("slower", "expected"), [(0.5, True), (350.0, False)])
def test_it_is_measured_where_nobody_says(slower, expected, monkeypatch, asked_anew):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    monkeypatch.setattr(processor, "FLAGS", Path("/nowhere"))
    monkeypatch.setattr(processor, "_seconds", lambda dtype: slower if dtype == torch.bfloat16 else 1.0)
    assert processor.has_bfloat16() is expected


def test_a_product_takes_time():
    assert processor._seconds(torch.float32) > 0


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="needs Linux, which lists the instructions")
def test_torch_and_linux_agree_here(monkeypatch, asked_anew):
    by_torch = processor.has_bfloat16()
    processor.has_bfloat16.cache_clear()
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    assert processor.has_bfloat16() is by_torch

"""How large and how fast: the table of published networks, and ratios of speed to the plain way or to other libraries.

    python -m experiments.benchmark --table               # parameters and multiply-adds beside the published figures
    python -m experiments.benchmark                       # all benchmarks, some five minutes on two cores
    python -m experiments.benchmark cost                  # the paper's table of time and memory, at half its sizes
    python -m experiments.benchmark runtimes --markdown   # float32, bfloat16, exported, int8
    python -m experiments.benchmark train data_train --data_root data/coco
    python -m experiments.benchmark --quick               # tiny sizes: does it work?
    python -m experiments.benchmark --noise               # rounding errors of a training step's gradients
    python -m experiments.benchmark --device cuda         # networks on a GPU, in every precision; --compile: compiled

A ratio is the peer's median time divided by ours over rounds in which all take turns; in brackets the range of the
rounds' own ratios. Before anything is timed the variants are seen to agree.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Literal

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # albumentations asks the network at import otherwise

import torch
from rich.console import Console

from experiments.benchmark.cost import cost
from experiments.benchmark.data import data_eval, data_train
from experiments.benchmark.evaluation import decode, evaluation, oks_suppression
from experiments.benchmark.networks import inference, joint, segmentation, train
from experiments.benchmark.noise import HEADERS as NOISE_HEADERS
from experiments.benchmark.noise import gradient_noise
from experiments.benchmark.runtimes import runtimes
from experiments.benchmark.table import HEADERS, ROWS, cells, legend
from experiments.benchmark.timing import Benchmark, Result, Setting, measure
from experiments.benchmark.timing import threads as threads_of
from experiments.cli import call, run
from experiments.cli.files import write_json
from experiments.cli.mistakes import Mistake, did_you_mean, nearest
from experiments.cli.tables import MISSING, Rows, show
from experiments.cli.tables import markdown as in_markdown
from experiments.training.run_folder import environment

BENCHMARKS: dict[str, Benchmark] = {
    "inference": Benchmark(
        "images/s of pose HRNet-W32 256x192, batch 8 and 1, against timm", 7, inference, networks=True, on_gpu=True
    ),
    "runtimes": Benchmark(
        "for_inference, bfloat16, ONNX Runtime, OpenVINO and int8: pose W32, V2-W18, V2-W48",
        7,
        runtimes,
        networks=True,
        named=True,
    ),
    "train": Benchmark("a training step of the same, batch 8, against timm", 5, train, networks=True, on_gpu=True),
    "segmentation": Benchmark(
        "the head at 512x1024 against its published order", 9, segmentation, networks=True, on_gpu=True
    ),
    "joint": Benchmark("one backbone for three tasks against three networks", 5, joint, networks=True, on_gpu=True),
    "cost": Benchmark(
        "the paper's table of time and memory: HRNet beside SimpleBaseline, PSPNet, DeepLabV3, ResNet and ResNeXt",
        3,
        cost,
        networks=True,
        on_gpu=True,
        named=True,
    ),
    "data_train": Benchmark("training samples/s of CocoPose against the plain recipe, one thread", 9, data_train),
    "data_eval": Benchmark("evaluation samples/s of the same", 9, data_eval),
    "decode": Benchmark("heatmaps to key points, MSRA and DARK, against a loop over joints", 15, decode, on_gpu=True),
    "oks_nms": Benchmark("suppression of double poses against a loop over pairs", 5, oks_suppression),
    "evaluation": Benchmark("COCO evaluation of a split as large as val2017 against pycocotools", 3, evaluation),
}


COST_HEADERS = ("network", "seconds", "speed", "paper", "memory", "ratio", "paper", "statement")


def benchmark(
    names: list[str] | None = None,
    *,
    list_: bool = False,
    table: bool = False,
    noise: bool = False,
    markdown: bool = False,
    quick: bool = False,
    rounds: int | None = None,
    threads: int = 2,
    data_root: str = "sample",
    json: Path | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    compile: bool = False,
    scale: float = 0.5,
) -> list[Result]:
    """Measure, and print and store each comparison as soon as it is there.

    Args:
        names: Benchmarks to run; all but `cost` and `runtimes`, which take long, when none is named.
        list_: Say which benchmarks there are.
        table: Parameters and multiply-adds of the published networks.
        noise: Errors of a training step's gradients in float32; takes minutes.
        markdown: Print the table or the results as Markdown.
        quick: Tiny sizes, to see that everything works.
        rounds: Rounds of each benchmark instead of its own number.
        threads: Threads of the networks; the rest has one.
        data_root: COCO's folder for the data; `sample` is the embedded data.
        json: Also write the results to this file.
        device: What networks run on.
        compile: On a GPU: torch.compile beside timm's eager network; compiling takes minutes, which are not counted.

        scale: Of `cost`: factor of the paper's image sizes of segmentation and detection; 1 needs some 32 GB.

    Returns:
        One result a variant; none for `--table`, `--noise` and `--list`.

    Raises:
        Mistake: If there is no such benchmark or device.
        DataError: If the data are not where `--data_root` says.
    """
    for flag, number in (("--rounds", rounds), ("--threads", threads)):
        if number is not None and number < 1:
            raise Mistake(f"{flag}: expected a whole number above zero, got '{number}'.")
    if not 0 < scale <= 1:
        raise Mistake(f"--scale: expected a factor above 0 and up to 1, got '{scale}'.")
    # Rich takes 80 columns where there is no terminal, too few for the tables.
    console = Console() if sys.stdout.isatty() else Console(width=130)
    if list_:
        console.print(*(f"{name:<12} {one.about}" for name, one in BENCHMARKS.items()), sep="\n")
    elif table:
        heads, rows = HEADERS, [cells(row) for row in ROWS]
        print_table("Published networks", heads, rows, markdown, console)
        console.print("", *legend(), sep="\n\n" if markdown else "\n", markup=False, soft_wrap=markdown)
    elif noise:
        with threads_of(threads):
            rows = [(name, *(f"{value:.2g}" for value in errors)) for name, *errors in gradient_noise(quick)]
        print_table(f"rounding errors, {_threads(threads)}", NOISE_HEADERS, rows, markdown, console)
    else:
        _check(names or (), device, compile)
        if json is not None:
            json.parent.mkdir(parents=True, exist_ok=True)  # before minutes of work that it should hold
        return _measure(
            names or [name for name, one in BENCHMARKS.items() if not one.named],
            Setting(quick, data_root, device, compile, precisions=device == "cuda", scale=scale),
            rounds,
            threads,
            markdown,
            json,
            console,
        )
    return []


def _check(names: Sequence[str], device: str, compiled: bool) -> None:
    """Refuse a name or a device that is not there, or a benchmark that has nothing to compare on the device."""
    for name in names:
        if name not in BENCHMARKS:
            hint = did_you_mean(nearest(name, BENCHMARKS))
            raise Mistake(f"There is no benchmark {name!r}{hint} Benchmarks: {', '.join(BENCHMARKS)}.")
    if compiled and device != "cuda":
        raise Mistake("--compile goes with --device cuda: add it, or leave --compile out.")
    if device != "cuda":
        return
    if not torch.cuda.is_available():
        raise Mistake(f"--device cuda: torch {torch.__version__} sees no GPU here; leave it out to measure on the CPU.")
    there = [name for name, one in BENCHMARKS.items() if one.on_gpu]
    for name in names:
        if name not in there:
            raise Mistake(f"{name} runs on the CPU alone; with --device cuda there are {', '.join(there)}.")


def _measure(
    names: Sequence[str],
    setting: Setting,
    rounds: int | None,
    threads: int,
    markdown: bool,
    json: Path | None,
    console: Console,
) -> list[Result]:
    results: list[Result] = []
    for name in names:
        one = BENCHMARKS[name]
        with threads_of(threads if one.networks else 1):
            for comparison in one.comparisons(setting) if one.on_gpu or setting.device == "cpu" else ():
                found = measure(name, comparison, rounds or (2 if setting.quick else one.rounds))
                if setting.quick:
                    found = [replace(result, target=None) for result in found]  # tiny sizes say nothing about speed
                report(found, markdown, console)
                results += found
                if json is not None:
                    rows = [{**asdict(result), "met": result.met} for result in results]
                    write_json(json, {"quick": setting.quick, "environment": environment(), "results": rows})
    return results


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def report(results: Sequence[Result], markdown: bool, console: Console) -> None:
    """Print the variants of one comparison."""
    first = results[0]
    where = _threads(first.threads) if first.device == "cpu" else first.device
    if any(result.published for result in results):
        headers, rows = COST_HEADERS, [(result.variant, *_beside_the_paper(result, first)) for result in results]
    else:
        on_gpu = first.device != "cpu"
        headers = ("variant", "ratio", "range", "seconds", f"{first.unit}/s", "memory" if on_gpu else "target")
        rows = [(result.variant, *_figures(result, on_gpu)) for result in results]
    print_table(f"{first.work} ({first.rounds} rounds, {where})", headers, rows, markdown, console)
    for result in results:
        if result.problem:
            text = f"{result.variant} was not timed: {result.problem}"
            print(f"\n{text}") if markdown else console.print(text, markup=False)


def _figures(result: Result, on_gpu: bool) -> tuple[str, ...]:
    if result.ratio is None:
        return (MISSING,) * 5
    target = "" if result.target is None else f"{result.target:g}: {'reached' if result.met else 'missed'}"
    return (
        f"{result.ratio:.2f}",
        f"{result.lowest:.2f} to {result.highest:.2f}",
        f"{result.seconds:.3g}",
        f"{result.per_second:.4g}",
        f"{(result.memory or 0) / 2**30:.2f} GiB" if on_gpu else target,
    )


def _beside_the_paper(result: Result, peer: Result) -> tuple[str, ...]:
    """Ratios of time and memory, the paper's beside them, and whether both say the same."""
    if result.ratio is None:
        return (MISSING,) * 7
    memory = result.memory / peer.memory if result.memory and peer.memory else None
    return (
        f"{result.seconds:.3g}",
        f"{result.ratio:.2f} ({result.lowest:.2f} to {result.highest:.2f})",
        _ratio(result.published),
        f"{(result.memory or 0) / 2**30:.2f} GiB" if result.memory else MISSING,
        _ratio(memory),
        _ratio(result.published_memory),
        "" if result is peer else statement(result.ratio, result.published),
    )


def _ratio(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


def statement(ratio: float, published: float | None) -> str:
    """How a ratio of speed compares with the paper's: on which side of equal, to a tenth, either is."""
    if published is None:
        return ""
    words = {-1: "slower", 0: "alike", 1: "faster"}
    here, there = (words[(value > 1.1) - (value < 1 / 1.1)] for value in (ratio, published))
    return f"{here}, as in the paper" if here == there else f"{here} here, {there} in the paper"


def print_table(title: str, heads: Sequence[str], rows: Rows, as_markdown: bool, console: Console) -> None:
    """Print a table for the terminal, or as Markdown."""
    if as_markdown:
        print(f"\n{title}\n\n{in_markdown(heads, rows)}", flush=True)
    else:
        show(console, heads, rows, title, fold=True)


main = partial(call, benchmark)
command = partial(run, benchmark)

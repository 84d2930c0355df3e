"""How large and how fast: the table of published networks, and ratios of speed to the plain way or to other libraries.

    python -m experiments.benchmark --table               # parameters and multiply-adds beside the published figures
    python -m experiments.benchmark                       # all benchmarks, some five minutes on two cores
    python -m experiments.benchmark train data_train --data-root data/coco
    python -m experiments.benchmark --quick               # tiny sizes: does it work?
    python -m experiments.benchmark --noise               # rounding errors of a training step's gradients
    python -m experiments.benchmark --device cuda         # networks on a GPU, in every precision; --compile: compiled

A ratio is the peer's median time divided by ours over rounds in which all take turns; in brackets the range of the
rounds' own ratios. Before anything is timed the variants are seen to agree.
"""

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # albumentations asks the network at import otherwise

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from experiments.benchmark import gpu as benchmark_gpu
from experiments.benchmark.data import data_eval, data_train
from experiments.benchmark.evaluation import decode, evaluation, oks_suppression
from experiments.benchmark.networks import inference, joint, segmentation, train
from experiments.benchmark.noise import HEADERS as NOISE_HEADERS
from experiments.benchmark.noise import gradient_noise
from experiments.benchmark.table import markdown_table, rich_table
from experiments.benchmark.timing import Benchmark, Result, Setting, measure, threads
from experiments.cli import program
from experiments.cli.mistakes import sentence_of
from experiments.training.run_folder import environment, write_json

BENCHMARKS: dict[str, Benchmark] = {
    "inference": Benchmark(
        "images/s of pose HRNet-W32 256x192, batch 8 and 1, against timm",
        7,
        inference,
        networks=True,
        on_gpu=benchmark_gpu.inference,
    ),
    "train": Benchmark(
        "a training step of the same, batch 8, against timm", 5, train, networks=True, on_gpu=benchmark_gpu.train
    ),
    "segmentation": Benchmark(
        "the head at 512x1024 against its published order",
        9,
        segmentation,
        networks=True,
        on_gpu=benchmark_gpu.segmentation,
    ),
    "joint": Benchmark(
        "one backbone for three tasks against three networks", 5, joint, networks=True, on_gpu=benchmark_gpu.joint
    ),
    "data_train": Benchmark("training samples/s of CocoPose against the plain recipe, one thread", 9, data_train),
    "data_eval": Benchmark("evaluation samples/s of the same", 9, data_eval),
    "decode": Benchmark(
        "heatmaps to key points, MSRA and DARK, against a loop over joints", 15, decode, on_gpu=benchmark_gpu.decode
    ),
    "oks_nms": Benchmark("suppression of double poses against a loop over pairs", 5, oks_suppression),
    "evaluation": Benchmark("COCO evaluation of a split as large as val2017 against pycocotools", 3, evaluation),
}


def main(argv: Sequence[str] | None = None) -> list[Result]:
    """Run benchmarks as the command line does; for notebooks and tests.

    Args:
        argv: Names and flags; those of the process when not given.

    Returns:
        One result a variant; none for `--table`, `--noise` and `--list`.

    Raises:
        DataError: If the data are not where `--data-root` says.
    """
    parser = make_parser()
    options = parser.parse_args(argv)
    # Rich takes 80 columns where there is no terminal, too few for the tables.
    console = Console() if sys.stdout.isatty() else Console(width=130)
    if options.list:
        console.print(*(f"{name:<12} {benchmark.about}" for name, benchmark in BENCHMARKS.items()), sep="\n")
        return []
    if options.table:
        if options.markdown:
            print(markdown_table())
        else:
            console.print(rich_table())
        return []
    if options.noise:
        with threads(options.threads):
            rows = [(name, *(f"{value:.2g}" for value in errors)) for name, *errors in gradient_noise(options.quick)]
        title = f"rounding errors, {options.threads} thread{'s' * (options.threads > 1)}"
        print_table(title, NOISE_HEADERS, rows, options.markdown, console)
        return []
    for name in options.names:
        if name not in BENCHMARKS:
            near = difflib.get_close_matches(name, BENCHMARKS, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            parser.error(f"there is no benchmark {name!r}.{hint} Benchmarks: {', '.join(BENCHMARKS)}.")
    check_device(options, parser)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)  # before minutes of work that it should hold
    return run(options, console)


def check_device(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Leave with a message where the device is not there, or a named benchmark has nothing to compare on it."""
    if options.compile and options.device != "cuda":
        parser.error("--compile goes with --device cuda: add it, or leave --compile out.")
    if options.device != "cuda":
        return
    if not torch.cuda.is_available():
        parser.error(f"--device cuda: torch {torch.__version__} sees no GPU here; leave it out to measure on the CPU.")
    there = [name for name, benchmark in BENCHMARKS.items() if benchmark.on_gpu]
    for name in options.names:
        if name not in there:
            parser.error(f"{name} runs on the CPU alone; with --device cuda there are {', '.join(there)}.")


def make_parser() -> argparse.ArgumentParser:
    """Parser of the command line."""
    parser = argparse.ArgumentParser(
        prog=program("experiments.benchmark"),
        description="Parameters, multiply-adds and speed of this code, beside published figures and peers.",
        allow_abbrev=False,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="Benchmarks to run; all when none is named.")
    parser.add_argument("--list", action="store_true", help="Say which benchmarks there are.")
    parser.add_argument("--table", action="store_true", help="Parameters and multiply-adds of the published networks.")
    parser.add_argument(
        "--noise", action="store_true", help="Errors of a training step's gradients in float32; takes minutes."
    )
    parser.add_argument("--markdown", action="store_true", help="Print the table or the results as Markdown.")
    parser.add_argument("--quick", action="store_true", help="Tiny sizes, to see that everything works.")
    parser.add_argument("--rounds", type=positive, help="Rounds of each benchmark instead of its own number.")
    parser.add_argument(
        "--threads", type=positive, default=2, help="Threads of the networks; the rest has one. Default: 2."
    )
    parser.add_argument("--data-root", default="sample", help="COCO's folder for the data. Default: the sample data.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="Also write the results to this file.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="What networks run on. Default: cpu.")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="On a GPU: torch.compile beside timm's eager network; compiling takes minutes, which are not counted.",
    )
    return parser


def run(options: argparse.Namespace, console: Console) -> list[Result]:
    """Measure the named benchmarks one after the other; print and store each as soon as it is there."""
    setting = Setting(options.quick, options.data_root, options.device, options.compile)
    results: list[Result] = []
    for name in options.names or BENCHMARKS:
        benchmark = BENCHMARKS[name]
        comparisons = benchmark.comparisons if options.device == "cpu" else benchmark.on_gpu
        rounds = options.rounds or (2 if setting.quick else benchmark.rounds)
        with threads(options.threads if benchmark.networks else 1):
            for comparison in comparisons(setting) if comparisons else ():
                found = measure(name, comparison, rounds)
                if setting.quick:
                    found = [replace(result, target=None) for result in found]  # tiny sizes say nothing about speed
                report(found, options.markdown, console)
                results += found
                if options.json is not None:
                    rows = [{**asdict(result), "met": result.met} for result in results]
                    write_json(options.json, {"quick": options.quick, "environment": environment(), "results": rows})
    return results


def report(results: Sequence[Result], markdown: bool, console: Console) -> None:
    """Print the variants of one comparison."""
    first = results[0]
    on_gpu = first.device != "cpu"
    headers = ("variant", "ratio", "range", "seconds", f"{first.unit}/s", "memory" if on_gpu else "target")
    rows = [(result.variant, *_figures(result, on_gpu)) for result in results]
    where = first.device if on_gpu else f"{first.threads} thread{'s' * (first.threads > 1)}"
    print_table(f"{first.work} ({first.rounds} rounds, {where})", headers, rows, markdown, console)
    for result in results:
        if result.problem:
            text = f"{result.variant} was not timed: {result.problem}"
            print(f"\n{text}") if markdown else console.print(text, markup=False)


def _figures(result: Result, on_gpu: bool) -> tuple[str, ...]:
    if result.ratio is None:
        return ("n/a",) * 5
    target = "" if result.target is None else f"{result.target:g}: {'reached' if result.met else 'missed'}"
    return (
        f"{result.ratio:.2f}",
        f"{result.lowest:.2f} to {result.highest:.2f}",
        f"{result.seconds:.3g}",
        f"{result.per_second:.4g}",
        f"{(result.memory or 0) / 2**30:.2f} GiB" if on_gpu else target,
    )


def print_table(
    title: str, headers: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool, console: Console
) -> None:
    """Print a table for the terminal, or as Markdown; the first column is text, the others are numbers."""
    if markdown:
        lines = [headers, ["---"] * len(headers), *rows]
        print(f"\n{title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines), flush=True)
        return
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column, header in enumerate(headers):
        table.add_column(header, justify="right" if column else "left", no_wrap=column > 0)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def positive(text: str) -> int:
    """A whole number above zero, for argparse.

    Raises:
        argparse.ArgumentTypeError: If it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above zero, got {text!r}")
    return int(text)


def command() -> int:
    """`main` with exit status: 0 on success, 2 with one message for a user's mistake."""
    try:
        main()
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return 2
    return 0

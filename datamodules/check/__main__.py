"""`python -m datamodules.check`: which data set, from the YAML files of an experiment, and where the findings go."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentError, ArgumentParser
from rich.console import Console

from datamodules.base import BaseDataModule, DataError
from datamodules.check.doctor import check
from datamodules.check.findings import Report, show_findings, show_statistics
from datamodules.text_files import ConfigError
from experiments.config.constructors import kept_arguments
from experiments.config.files import Rules, combine, find, flagged, read, split_flags
from experiments.config.mistakes import explain


def load_data(files: Sequence[str], flags: Sequence[str]) -> BaseDataModule:
    """The DataModule of the `data` section of YAML files, later ones over earlier ones, flags over all.

    Raises:
        ConfigError: If a file is missing or a key is unknown.
        DataError: If the DataModule does not take its arguments.
    """
    contents = [(path, read(path)) for path in map(find, files)]
    values, questions = split_flags(list(flags))
    if questions:
        raise ConfigError(f"The data doctor has no {questions[0]}; see `python -m experiments.run {questions[0]}`.")
    merged = combine([content for _, content in contents], values, Rules(kept_arguments([BaseDataModule])))
    if "data" not in merged:
        raise ConfigError("No data: section; name an experiment, such as pose_coco.yaml.")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--data", type=BaseDataModule, required=True)
    try:
        config = parser.parse_args([f"--data={json.dumps(merged['data'])}"])
    except ArgumentError as error:
        sources = [*((str(path), content) for path, content in contents), *flagged(values)]
        raise ConfigError(explain(str(error), merged, sources, {"data": BaseDataModule})) from error
    return parser.instantiate(config).data


def main(argv: Sequence[str] | None = None) -> int:
    """Check as the command line does; 0 where the data are clean, 1 where something was found."""
    parser = argparse.ArgumentParser(
        prog=sys.argv[0] if sys.argv[0] == "hrnet check" else "python -m datamodules.check",
        usage="%(prog)s EXPERIMENT.yaml [OVERLAY.yaml ...] [options] [--data.key value ...]",
        description="Read a data set and say everything that is wrong with it. Exit status: 0 clean, 1 not, 2 misuse.",
        allow_abbrev=False,
    )
    parser.add_argument("files", nargs="+", help="YAML files as for experiments.run")
    parser.add_argument("--images", choices=("none", "headers", "full"), default="full", help="how far to read them")
    parser.add_argument("--all", action="store_true", help="list every finding, not the first five of a kind")
    parser.add_argument("--statistics", action="store_true", help="print class balance and sizes too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write findings and statistics for machines")
    options, flags = parser.parse_known_args(argv)
    data = load_data(options.files, flags)
    report = check(data, options.images)
    if options.json is not None:  # before anything is shown: what reads that may stop, as `| head` does
        _write_json(options.json, report)
    console = Console(highlight=False)
    if options.statistics:
        show_statistics(report, console)
    show_findings(report, console, first=None if options.all else 5)
    return 0 if report.clean else 1


def _write_json(path: Path, report: Report) -> None:
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_text(json.dumps(report.to_dict(), indent=1))
        partial.replace(path)
    except OSError as error:
        raise ConfigError(
            f"--json {path} cannot be written ({error.strerror}): name a file in a folder that is there."
        ) from error


def command() -> int:
    """`main` with exit status 2 and one message for a user's mistake."""
    try:
        return main()
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(command())

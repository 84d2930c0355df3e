"""YAML files and flags -> one checked configuration; every mistake is one sentence."""

from datamodules.loading.text_files import ConfigError
from experiments.config.files import find, find_all, merge, read, split_flags
from experiments.config.mistakes import explain, find_mistake
from experiments.config.parser import load_data, make_parser, parse
from experiments.config.sections import SECTIONS, WandbSpec

__all__ = [
    "SECTIONS",
    "ConfigError",
    "WandbSpec",
    "explain",
    "find",
    "find_all",
    "find_mistake",
    "load_data",
    "make_parser",
    "merge",
    "parse",
    "read",
    "split_flags",
]

"""YAML files of experiments and flags -> one mapping, as yet unchecked; every mistake is one sentence.

Files are merged in order: mappings merge, everything else replaces. `key+:` appends to a list, `key=:` replaces a whole
mapping, and so does a file's table whose keys are numbers (`id_map`). A new `class_path` starts afresh; a class derived
from the one before keeps the arguments that it takes. `experiments/config/parser.py` checks the result.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datamodules.loading.text_files import ConfigError, parse_yaml, read_yaml
from experiments.cli.mistakes import did_you_mean, nearest
from experiments.config.sections import FLAGS_ALONE, SECTIONS, SWITCHES

CONFIGS = Path(__file__).parents[1] / "configs"
ACTIONS = ("fit", "validate", "test", "predict")
ALSO_CALLED = {"train": "fit", "training": "fit", "val": "validate", "eval": "validate", "evaluate": "validate"}
Kept = Callable[[str, str], set[str]]
"""(class before, class now) -> the arguments of the former that are kept."""


def find_all(names: Sequence[str]) -> list[Path]:
    """The YAML files of a command, an experiment and its overlays: one beside the experiment comes before namesakes.

    So a kind of experiments may have a `sample.yaml` of its own.

    Raises:
        ConfigError: If there is none of one of these names.
    """
    first = [find(name) for name in names[:1]]
    return first + [find(name, beside=first[0]) for name in names[1:]]


def find(name: str, beside: Path | None = None) -> Path:
    """YAML file as given, else beside that one, else in a folder of `configs/`; the ending .yaml may be left out.

    Raises:
        ConfigError: If there is none.
    """
    names = [name] if Path(name).suffix else [name, f"{name}.yaml"]
    near = [] if beside is None or not beside.resolve().is_relative_to(CONFIGS) else [beside.parent]
    for path in (folder / file for file in names for folder in (Path(), *near, *_folders())):
        if path.is_file():
            return path
    known = sorted({path.name for folder in _folders() for path in folder.glob("*.yaml")})
    if Path(name).is_dir():
        inside = Path(name) / "config.yaml"
        advice = f"name {inside}, or --resume {name}" if inside.is_file() else "name a YAML file in it"
        raise ConfigError(f"{name} is a folder, where a YAML file is expected: {advice}.")
    if name in ACTIONS:
        raise ConfigError(f"{name} stands behind a file: what to do comes first, as in `{name} pose_coco.yaml`.")
    if "=" in name:
        raise ConfigError(f"There is no file {name}: a flag begins with two dashes, as in --{name}.")
    also = [ALSO_CALLED[name]] if name in ALSO_CALLED else []
    near = [*also, *nearest(Path(name).stem, [Path(file).stem for file in known]), *nearest(name, ACTIONS)][:1]
    near = [f"{near[0]}.yaml" if f"{near[0]}.yaml" in known else near[0]] if near else []
    raise ConfigError(
        f"There is no file {name}, neither here nor among the experiments{did_you_mean(near)} "
        f"Experiments: {', '.join(known)}."
    )


def _folders() -> list[Path]:
    """Overlays for every experiment come before those of one kind."""
    return sorted(
        (path for path in CONFIGS.iterdir() if path.is_dir()), key=lambda path: (path.name != "overlays", path)
    )


def read(path: Path) -> dict[str, Any]:
    """One YAML file of an experiment as a mapping.

    Raises:
        ConfigError: If it is no YAML mapping, or has an unknown section.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        what = "is empty" if content is None else f"is {str(content)[:80]!r}"
        raise ConfigError(f"{path} should be a mapping with sections such as model, data, trainer; it {what}.")
    if "config" in content:
        raise ConfigError(
            f"{path}: config: inside a file would replace sections rather than merge them; "
            "name both files on the command line instead."
        )
    for key in content:
        name = str(key).rstrip("+=")
        if name not in SECTIONS:
            near = nearest(name, SECTIONS)
            raise ConfigError(
                f"{path}: there is no section {key!r}{did_you_mean(near)} Sections: {', '.join(SECTIONS)}."
            )
        if name in FLAGS_ALONE and content[key] not in (None, FLAGS_ALONE[name]):
            raise ConfigError(f"{path}: {name}: has no effect in a file; say --{name} on the command line.")
    return content


@dataclass
class Rules:
    """What is kept of what another file said before, and what was dropped."""

    kept: Kept = lambda before, now: set()
    """Which arguments of a class another one keeps."""
    replace_tables: bool = True
    """A table whose keys are numbers replaces the one before; else it changes the entries that it has."""
    dropped: list[str] = field(default_factory=list)
    """A sentence for all that a new class or table has dropped."""


def merge(base: Any, over: Any, rules: Rules | None = None, path: str = "") -> Any:
    """`over` on top of `base`: mappings merge, `key+` appends, `key=` and all else replace.

    Where one of them names a class and the other has its arguments alone, these are the class's `init_args`. A new
    class_path replaces the arguments of the one before, except for those that the rules keep.

    Args:
        base: What was said before.
        over: What is said now.
        rules: What is kept; gets a sentence for all that is dropped.
        path: Of the keys so far, for messages.

    Raises:
        ConfigError: If `key+` meets something that is no list.
    """
    rules = Rules() if rules is None else rules
    if isinstance(base, dict) and "class_path" in base and isinstance(over, str):
        over = {"class_path": over}  # a class named without arguments
    if isinstance(base, str) and base.rpartition(".")[2][:1].isupper() and isinstance(over, dict) and over:
        base = {"class_path": base}
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return _suffixes_off(over)
    if "class_path" in over and "class_path" in base and over["class_path"] != base["class_path"]:
        return _of_another_class(base, over, rules, path)
    if rules.replace_tables and _is_table(base) and _is_table(over):
        if gone := [key for key in base if key not in over]:
            rules.dropped.append(f"{path} is replaced: dropped {', '.join(map(str, gone))}")
        return over
    if base and "class_path" in over and not {"class_path", "init_args"} & set(base):
        base = {"init_args": base}
    if {"class_path", "init_args"} & set(base) and not {"class_path", "init_args"} & set(over):
        over = {"init_args": over}
    if "init_args" in over and "class_path" not in {*base, *over} and "init_args" not in base and base:
        over = over["init_args"]
    merged = dict(base)
    table = _is_table(base)
    for key, value in over.items():
        if table and isinstance(key, str) and key.isdigit():
            key = int(key)  # as a flag says it: --data.id_map.7 3
        name = str(key).rstrip("+=") if isinstance(key, str) else key
        inner = path if name == "init_args" else f"{path}.{name}".lstrip(".")
        if isinstance(key, str) and key.endswith("+"):
            merged[name] = _appended(merged.get(name), value, inner)
        elif isinstance(key, str) and key.endswith("="):
            merged[name] = _suffixes_off(value)
        elif key in merged:
            merged[key] = merge(merged[key], value, rules, inner)
        else:
            merged[key] = _suffixes_off(value)
    return merged


def _of_another_class(base: dict[str, Any], over: dict[str, Any], rules: Rules, path: str) -> dict[str, Any]:
    old, new = str(base["class_path"]), str(over["class_path"])
    before = base.get("init_args") or {}
    stays = rules.kept(old, new)
    gone = [key for key in before if key not in stays]
    if gone:
        rules.dropped.append(f"{path or 'class_path'}: {new} instead of {old}; dropped {', '.join(map(str, gone))}")
    left = {key: value for key, value in before.items() if key in stays}
    fresh = _suffixes_off(over)
    if left:
        fresh["init_args"] = merge(left, over.get("init_args") or {}, rules, path)
    return fresh


def _appended(base: Any, value: Any, path: str) -> list[Any]:
    """A list and what is appended to it; one object counts as a list of one."""
    if isinstance(base, dict) and "class_path" in base:
        base = [base]
    if base is not None and not isinstance(base, list):
        raise ConfigError(f"{path}+ appends to a list, but {path} is {str(base)[:80]!r}: set {path} as a whole.")
    return [*(base or []), *(value if isinstance(value, list) else [value])]


def _is_table(value: dict[Any, Any]) -> bool:
    return bool(value) and all(isinstance(key, int) and not isinstance(key, bool) for key in value)


def _suffixes_off(value: Any) -> Any:
    """A mapping that nothing lies below: there `key+` and `key=` say no more than `key`."""
    return merge({}, value) if isinstance(value, dict) and value else value


def files_and_flags(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Words of a command line -> those before the first flag, which name YAML files, and the rest."""
    flags_at = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    return list(words[:flags_at]), list(words[flags_at:])


def split_flags(flags: list[str]) -> tuple[list[tuple[str, Any]], list[str]]:
    """Flags -> (dotted key, value as YAML) in order, and those that ask for help or print the configuration.

    Raises:
        ConfigError: If a flag has no value, or a word is no flag.
    """
    values: list[tuple[str, Any]] = []
    questions: list[str] = []
    at = 0
    while at < len(flags):
        word = flags[at]
        key, equals, text = word.removeprefix("--").partition("=")
        if key.split(".")[-1] in ("help", "print_config") or word == "-h":
            named = flags[at + 1 : at + 2] if key.endswith("help") and not equals else []
            asked = [word, *(name for name in named if not name.startswith("-"))]  # --model.help PoseTask
            questions += asked
            at += len(asked)
            continue
        if not word.startswith("--"):
            raise ConfigError(_no_flag(word, values))
        at += 1
        following = flags[at] if at < len(flags) and not flags[at].startswith("--") else None
        if key in SWITCHES and not equals:
            text = "true"
            if following in ("true", "false"):
                text, at = following, at + 1
        elif text.startswith("=") or (equals and not text and following is not None):  # --key=={...}, --key= {...}
            key, text = key if key.endswith("+") else f"{key}=", text[1:]
            text, at = (text, at) if text or following is None else (following, at + 1)
        elif not equals:
            if following is None:
                raise ConfigError(f"The flag --{key} lacks a value.")
            text, at = following, at + 1
        if not all(part.rstrip("+=") for part in key.split(".")):
            raise ConfigError(f"{word!r} is no flag: expected the name of a key, as in --trainer.max_epochs 10.")
        values.append((key, _flag_value(key, text)))
    return values, questions


def _no_flag(word: str, values: list[tuple[str, Any]]) -> str:
    if word.endswith((".yaml", ".yml")):
        return f"{word} stands behind a flag: YAML files come before the flags."
    if word.startswith("-"):
        return f"{word!r} is no flag: flags have two dashes and the name of a key, as in --trainer.max_epochs 10."
    if values and values[-1][0] not in SWITCHES:
        return (
            f"{word!r} is left over behind --{values[-1][0]}, which takes one value; a list is written in brackets, "
            "as in --data.image_size '[256, 192]'."
        )
    return f"{word!r} is neither a YAML file before the flags nor a flag such as --trainer.max_epochs 10."


def _flag_value(key: str, text: str) -> Any:
    """The value of a flag: YAML, or the text itself where that is not meant to be any, such as @home."""
    try:
        return parse_yaml(text, f"The value of --{key} is not valid YAML")
    except ConfigError:
        if text[:1] in ("[", "{", "&", "'", '"'):
            raise
        return text


def nested(values: list[tuple[str, Any]]) -> list[dict[str, Any]]:
    """Dotted keys -> a mapping each."""
    found = []
    for key, value in values:
        for part in reversed(key.split(".")):
            value = {part: value}
        found.append(value)
    return found


def flagged(values: list[tuple[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """What flags say, each with the words that name the place in messages."""
    return [("on the command line", content) for content in nested(values)]


def combine(
    contents: list[dict[str, Any]],
    values: list[tuple[str, Any]],
    rules: Rules | None = None,
    guess: Callable[[str, Mapping[str, Any]], str | None] | None = None,
) -> dict[str, Any]:
    """Contents of files, later ones over earlier ones, then the dotted keys of the flags over them all.

    Args:
        contents: Of the files.
        values: Of the flags.
        rules: See `merge`; a table in a flag changes entries of the one before.
        guess: Where the configuration has a key of a name, for flags that name it without its section.

    Raises:
        ConfigError: If a flag's first word is no section.
    """
    rules = Rules() if rules is None else rules
    entries = replace(rules, replace_tables=False)
    merged: dict[str, Any] = {}
    for content in contents:
        merged = merge(merged, content, rules)
    for (key, _), value in zip(values, nested(values), strict=True):
        first = key.split(".")[0].rstrip("+=")
        if first not in SECTIONS:
            near = nearest(first, SECTIONS)
            full = guess(first, merged) if guess is not None and not near else None
            near = near or ([f"--{full}"] if full else [])
            raise ConfigError(
                f"There is no flag --{key}{did_you_mean(near)} Flags are keys of the YAML files, which begin with "
                f"{', '.join(SECTIONS)}."
            )
        merged = merge(merged, value, entries)
    return merged

"""From a labelling tool's files to a folder that trains: read, check the images, split, write beside, rename.

converted = convert(Path("labels"), Path("data/mice"))
print(converted.command)                 # python -m experiments.run pose_custom.yaml data/mice/mine.yaml
"""

import json
import os
import re
import shlex
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from datamodules.convert.formats import FORMATS
from datamodules.convert.labels import Labels, Picture
from datamodules.convert.layouts import LAYOUTS, Task, Written
from datamodules.convert.source_files import SourceFiles
from datamodules.convert.split import divide
from datamodules.findings import DataError
from datamodules.images.files import IMAGE_ENDINGS, SIDEWAYS, Header
from datamodules.images.names import plain_spelling
from datamodules.loading.text_files import ConfigError

OVERLAY = "mine.yaml"
OF_TABLES = ("deeplabcut", "lightning_pose")


@dataclass(frozen=True)
class Converted:
    """What a conversion did.

    Args:
        folder: The result.
        format: Of the source.
        task: What it is for.
        command: Trains on it.
        counts: Split -> noun -> how many.
        left_out: Reason -> how many.
        lines: All of it in sentences.
    """

    folder: Path
    format: str
    task: str
    command: str
    counts: dict[str, dict[str, int]]
    left_out: dict[str, int]
    lines: list[str]


def convert(
    source: Path,
    to: Path,
    *,
    format: str | None = None,
    task: str | None = None,
    val: float = 0.2,
    seed: int = 0,
    images: Path | None = None,
    link: bool = False,
    scorer: str | None = None,
    likelihood: float | None = None,
) -> Converted:
    """Write what a labelling tool says as a folder that trains; the arguments are those of the command.

    Raises:
        DataError: If the source cannot be read or has nothing for the task, or `to` is there already.
    """
    folder = Path(os.path.abspath(to.expanduser()))
    if os.path.lexists(folder):
        raise DataError(f"{to} is there already and is not overwritten: name another folder, or remove it.")
    if not 0 < val < 1:
        raise DataError(f"--val is {val:g}, expected the share of val between 0 and 1, such as 0.2.")
    files = SourceFiles(source, images, scorer, 0.6 if likelihood is None else likelihood)
    name = format or recognised(files)
    if scorer is not None and name not in OF_TABLES:
        raise DataError(f"--scorer is for {' and '.join(OF_TABLES)}, the source is {name}: leave it out.")
    if likelihood is not None and name not in (*OF_TABLES, "sleap"):
        raise DataError(f"--likelihood is for the key points of networks, the source is {name}: leave it out.")
    labels = _read(name, files)
    headers = _with_sizes(labels)
    if not labels.pictures:
        found = "; ".join(labels.left_out.lines()) or "no file of this format has labels"
        raise DataError(
            f"{source} ({name}) gives no labelled image: {found}. Correct --format, or name the images' folder by "
            "--images."
        )
    possible = possible_tasks(labels)
    task = task or (possible[0] if possible else "detection")
    LAYOUTS[task].select(labels)
    _name(labels.pictures)
    splits = divide(labels, val, seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        written = LAYOUTS[task].write(Task(labels, splits, beside, link))
        empty = [split for split in ("train", "val") if not splits[split]]
        if empty:
            raise DataError(f"Nothing is left for {empty[0]}: {'; '.join(labels.left_out.lines())}.")
        _configure(written, _upright(labels, headers), beside, folder)
        converted = _report(labels, written, task, [other for other in possible if other != task], to)
        about = {"source": str(source), "format": name, "task": task, "counts": written.counts}
        about |= {"left_out": labels.left_out.counts, "notes": [*labels.notes, *written.notes]}
        (beside / "conversion.json").write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding="utf-8")
        beside.chmod(0o777 & ~_umask())
        os.rename(beside, folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return converted


def _read(name: str, files: SourceFiles) -> Labels:
    """What the source says; raises DataError where it is not as the tool writes it."""
    try:
        return FORMATS[name].read(files)
    except (DataError, ConfigError):
        raise
    except Exception as error:  # what is damaged, or written by hand, is read as anything
        raise DataError(
            f"{files.source} is not as {name} writes it ({type(error).__name__}: {error}): export it again; --debug "
            "shows where."
        ) from error


def recognised(files: SourceFiles) -> str:
    """The format of a source, by its content; raises DataError where it is none or may be two."""
    found = [name for name, reader in FORMATS.items() if reader.recognise(files)]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{files.source} has files of {' and of '.join(found)}: say which by --format.")
    raise DataError(
        f"{files.source} has no labels that are known among its {len(files.files)} files. Known are "
        f"{', '.join(FORMATS)}: name the file or folder that the tool exported, or --format."
    )


def possible_tasks(labels: Labels) -> list[str]:
    """What a source may be for, what it says most about first."""
    things = list(labels.things())
    found = {
        "pose": any(thing.points for thing in things),
        "detection": any(thing.extent() is not None for thing in things),
        "segmentation": any(thing.outlined for thing in things) or any(p.mask is not None for p in labels.pictures),
        "classification": len({name for picture in labels.pictures for name in picture.classes}) > 1,
    }
    return [task for task, has in found.items() if has]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _with_sizes(labels: Labels) -> dict[tuple, Header]:
    """Give pictures their sizes and leave out those that cannot be read; the heads of their files, by pixels.

    A picture that comes twice, in two label files, is one with the things of both.
    """
    headers: dict[tuple, Header] = {}
    known: dict[tuple, Picture] = {}
    pictures, again = [], 0
    for picture in labels.pictures:
        key = picture.pixels.key
        if key in known:
            known[key].things += picture.things
            known[key].classes += [name for name in picture.classes if name not in known[key].classes]
            again += 1
            continue
        try:
            header = picture.pixels.header()
        except DataError as error:
            labels.left_out.add("images that cannot be read", str(error))
            continue
        if picture.size not in (None, header.size, header.shown):
            said = (
                f"{picture.name}: {picture.size[1]} x {picture.size[0]} said, {header.size[1]} x {header.size[0]} found"
            )
            labels.left_out.add("images of another width and height than their labels say", said)
            continue
        picture.size = picture.size or header.shown
        headers[key], known[key] = header, picture
        pictures.append(picture)
    labels.pictures = pictures
    if again:
        labels.notes.append(f"{again} images came twice; the labels of both places are taken.")
    return headers


def _upright(labels: Labels, headers: dict[tuple, Header]) -> bool | None:
    """Whether images are turned as EXIF says; None where none asks for it, or labels disagree."""
    tagged = [(picture, headers[picture.pixels.key]) for picture in labels.pictures]
    tagged = [(picture, header) for picture, header in tagged if header.orientation != 1]
    sideways = {p.size == h.shown for p, h in tagged if h.orientation in SIDEWAYS and h.size != h.shown}
    if not tagged or len(sideways) > 1:
        return None
    return sideways != {False}  # tools show the turned picture


def _name(pictures: list[Picture]) -> None:
    """Give pictures names that a folder can have, that end as an image and that differ in more than the ending."""
    taken: set[str] = set()
    for picture in pictures:
        spelled = plain_spelling(picture.name).encode("utf-8", "replace").decode()
        parts = [re.sub(r'[\x00-\x1f\x7f<>:"|?*]', "_", part) for part in spelled.split("/")]
        parts = [part.lstrip(".") or "_" for part in parts if part not in ("", ".", "..")] or ["image"]
        path = PurePosixPath(*parts)
        ending = picture.pixels.ending()
        stem = path.with_suffix("") if path.suffix.lower() in IMAGE_ENDINGS else path
        name, number = stem, 2
        while name.as_posix().lower() in taken:
            name, number = stem.with_name(f"{stem.name}_{number}"), number + 1
        taken.add(name.as_posix().lower())
        picture.name = f"{name.as_posix()}{ending}"


def _configure(written: Written, upright: bool | None, beside: Path, folder: Path) -> None:
    """Write what the experiment has to be told."""
    keys: dict[str, Any] = {"data.init_args.root": str(folder)} | written.overlay
    if "data.init_args.skeleton" in keys:
        keys["data.init_args.skeleton"] = str(folder / keys["data.init_args.skeleton"])
    if upright is not None and written.experiment != "cls_folder.yaml":
        keys["data.init_args.reading"] = {"upright": upright}
    content: dict[str, Any] = {}
    for key, value in keys.items():
        *parents, last = key.split(".")
        inner = content
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    text = f"# {_command(written, folder)}\n# Paths are absolute: correct them where the folder moves.\n"
    text += yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    (beside / OVERLAY).write_text(text, encoding="utf-8")


def _command(written: Written, folder: Path) -> str:
    return f"python -m experiments.run {written.experiment} {shlex.quote(str(folder / OVERLAY))}"


def _report(labels: Labels, written: Written, task: str, others: list[str], to: Path) -> Converted:
    """What was done, in sentences."""
    counts = "; ".join(f"{s} " + ", ".join(f"{n} {what}" for what, n in c.items()) for s, c in written.counts.items())
    lines = [f"{to}: {labels.format} for {task}; {counts}", *labels.notes, *written.notes]
    lines += [f"left out: {line}" for line in labels.left_out.lines()]
    if others:
        lines.append(f"The source serves --task {' and --task '.join(others)} too.")
    command = _command(written, to)
    lines += ["", "Look at it, then train:", command.replace("experiments.run", "datamodules.check"), command]
    return Converted(to, labels.format, task, command, written.counts, dict(labels.left_out.counts), lines)

"""What a message tells the user to set is an argument of the DataModule that it is about, whatever file is missing."""

import inspect
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import datamodules
from datamodules import BaseDataModule, DataError
from tests.conftest import ROOT

KEY = re.compile(r"`(\w+)(?:: [^`]*)?`|\bset (\w+) (?:to|of)\b|\binit_args\.(\w+)")
NEEDED: dict[str, dict[str, Any]] = {
    "CocoDetection": {"image_size": (64, 64)},
    "FolderSegmentation": {"image_size": (64, 64), "class_names": [f"part {number}" for number in range(20)]},
    **{name: {"image_size": (64, 64)} for name in ("ADE20K", "Cityscapes", "LIP", "PascalContext")},
}
SINGLE = sorted(
    name
    for name in datamodules.__all__
    if isinstance(cls := getattr(datamodules, name), type)
    and issubclass(cls, BaseDataModule)
    and not inspect.isabstract(cls)
    and "root" in inspect.signature(cls).parameters
    and inspect.signature(cls).parameters["root"].default is inspect.Parameter.empty
)


def keys_of(cls: type) -> set[str]:
    """Arguments of a class and, where it hands others on, of its parents."""
    found: set[str] = set()
    for parent in cls.__mro__:
        if "__init__" in vars(parent):
            parameters = inspect.signature(vars(parent)["__init__"]).parameters.values()
            found |= {parameter.name for parameter in parameters}
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
                break
    return found


def named_in(message: str) -> set[str]:
    """Keys of the class's own: splits are names too, and advice may be to take another class by a key of its."""
    message = re.sub(r"FolderSegmentation finds them by `[^`]*`", "", message)
    return {next(filter(None, groups)) for groups in KEY.findall(message)} - {"train", "val"}


def complaint(name: str, root: Path) -> str | None:
    """What is said of a root when its splits are made, the first that is wrong; None if nothing is."""
    try:
        data = getattr(datamodules, name)(str(root), num_workers=0, **NEEDED.get(name, {}))
        data.prepare_data()
        data.setup()
    except DataError as error:
        return str(error)
    return None


def link(source: str, target: str) -> None:
    os.symlink(os.path.abspath(source), target)


def broken(root: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Copies of a root, each without something: one image of each folder, a whole folder of images, a list."""
    files = sorted(file.relative_to(root) for file in root.rglob("*") if file.is_file())
    pictures = [file for file in files if file.suffix in (".jpg", ".png")]
    folders = sorted({file.parent for file in pictures})
    lists = [file for file in files if file not in pictures and not file.name.startswith(".")]
    firsts = [next(file for file in pictures if file.parent == parent) for parent in folders[:8]]
    for number, gone in enumerate([*firsts, *folders[:8], *lists[:8]]):
        copy = folder / str(number)
        shutil.copytree(root, copy, copy_function=link)
        (shutil.rmtree if (copy / gone).is_dir() else Path.unlink)(copy / gone)
        yield str(gone), copy


@pytest.mark.parametrize("name", SINGLE)
def test_a_root_that_is_missing_is_named_and_so_are_only_keys_that_there_are(name: str, tmp_path: Path) -> None:
    said = complaint(name, tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in said
    assert "root" in named_in(said), "`root: sample` runs without"
    (tmp_path / "empty").mkdir()
    for message in (said, complaint(name, tmp_path / "empty")):
        assert named_in(message) <= keys_of(getattr(datamodules, name)), message


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", SINGLE)
def test_files_that_are_missing_are_said_with_keys_that_there_are(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    cls = getattr(datamodules, name)
    said = {gone: complaint(name, copy) for gone, copy in broken(cls.sample_root(), tmp_path)}
    assert any(said.values())
    for gone, message in said.items():
        assert message is None or named_in(message) <= keys_of(cls), f"without {gone}: {message}"


def test_what_the_keys_of_a_message_are() -> None:
    assert named_in("set `images` to it, or `reading: {upright: true}`; set `root: sample`, `sample.yaml`") == {
        "images",
        "reading",
        "root",
    }
    assert named_in("set data.init_args.masks to true, or set num_classes of data") == {"masks", "num_classes"}
    assert keys_of(datamodules.MpiiPose) >= {"train", "root", "reading", "detections"}
    assert "images" not in keys_of(datamodules.MpiiPose)
    assert "detections" not in keys_of(datamodules.WFLW), "FaceData takes none"

"""README and docs/ are true: commands work (see `python`), links lead somewhere, and the reference is whole."""

import importlib
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

import datamodules
import hrnet
import tasks
from hrnet import HRNet
from tasks import DetectionTask, save_task
from tests.datamodules.convert.pictures import labelled
from tests.golden import old_run

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
SAMPLE = ROOT / "data" / "sample"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every command in the blocks without a language, once, without its comment."""
    lines = [
        line
        for page in PAGES
        for language, text in FENCE.findall(page.read_text())
        if not language
        for line in text.splitlines()
    ]
    found = [shlex.split(line, comments=True) for line in lines]
    return sorted({shlex.join(words) for words in found if words and words[0] in PROGRAMS})


def make(words: list[str], folder: Path) -> None:
    """Continuous integration makes the targets; here they are there."""
    assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def pip(words: list[str], folder: Path) -> None:
    """This environment is what they install; here the extras are there."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert words[:2] == ["install", "-e"]
    assert set(re.findall(r"\[(\w+)\]", words[2])) <= extras.keys()


def wandb(words: list[str], folder: Path) -> None:
    """It asks a server; here the search is one of W&B's and its command is one of ours."""
    search = yaml.safe_load((ROOT / words[1]).read_text())
    assert search["method"] == "bayes" or search["method"] in ("grid", "random")
    assert "experiments.run" in search["command"]


def python(words: list[str], folder: Path) -> None:
    """Within this process; what would take minutes is asked for its configuration or its help."""
    if words[0] != "-m":
        assert Path(words[0]).stem in (ROOT / "tests/experiments/export/test_export.py").read_text()  # run there
        return
    module, *words = words[1:]
    words = [stands_for(word, folder) for word in words]
    main = importlib.import_module(module).main
    if module in LONG:
        with pytest.raises(SystemExit) as end:
            main([*words, LONG[module]])
        assert not end.value.code
    elif module != "experiments.run" or "--checkpoint" in words:
        main([*words, *SHORT.get(module, [])])
    elif "--resume" in words:
        main([*[word.replace("60", "2") for word in words], *SHORT[module], "--trainer.limit_train_batches", "1"])
    else:  # an experiment: trained in test_yaml_files.py
        asked = any("help" in word or word == "--print_config" for word in words)
        with pytest.raises(SystemExit) as end:
            main([*words, *([] if asked else ["--print_config"])])
        assert not end.value.code


PROGRAMS = {function.__name__: function for function in (make, pip, wandb, python)}
SHORT = {"experiments.run": ["--trainer.limit_val_batches", "1"], "experiments.export": ["--limit-batches", "1"]}
LONG = {"experiments.benchmark": "--help", "experiments.sweep": "--help", "experiments.wandb_report": "--help"}


def stands_for(word: str, folder: Path) -> str:
    """What the documentation's words in capitals, and its files, are: made here when a command names them."""
    path = folder / word
    if word == "RUN":
        runs = folder / "runs"
        return str(next((runs / "pose").iterdir()) if runs.exists() else old_run("pose", runs))
    if word == "FILE":
        return str(Path(stands_for("RUN", folder)) / "checkpoints" / "best.ckpt")
    if word == "RUN_OF_DETECTION":
        detector = DetectionTask(HRNet("w18_small_v1"), 1, detector="fcos", channels=32, strides=[8, 16])
        save_task(detector, folder / "detector.ckpt")
        return str(folder / "detector.ckpt")
    if word.endswith((".jpg", "photos/")):
        path.mkdir() if word.endswith("/") else None
        Image.new("RGB", (96, 128), (90, 120, 60)).save(path / "one.png" if word.endswith("/") else path)
    elif word.endswith(".mp4"):
        video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (96, 128))
        for shade in (50, 100, 150):
            video.write(np.full((128, 96, 3), shade, np.uint8))
        video.release()
    elif word == "labels/":
        labelled(path)
    elif word == "boxes.json":
        path.write_text('[{"image_id": "photo.jpg", "bbox": [10, 10, 60, 90], "score": 0.9, "category_id": 1}]')
    elif word == "mine.yaml":
        shutil.copy(ROOT / "experiments/configs/overlays/sample.yaml", path)
    return word


@pytest.mark.parametrize("command", commands())
def test_every_command_works(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if SAMPLE.is_dir():  # rendered by other tests
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "sample").symlink_to(SAMPLE)
    program, *words = shlex.split(command)
    PROGRAMS[program](words, tmp_path)


def test_pages_are_linked_and_links_lead_somewhere() -> None:
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    listed = set(re.findall(r"[\w/]+\.md", str(navigation)))
    assert listed == {str(page.relative_to(ROOT / "docs")) for page in PAGES if page.parent != ROOT}
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)[)#]", page.read_text()):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("package", [hrnet, tasks, datamodules])
def test_the_reference_has_every_public_name(package: object) -> None:
    page = (ROOT / "docs" / "api" / f"{package.__name__}.md").read_text()
    assert sorted(re.findall(r"^::: (\S+)$", page, re.MULTILINE)) == sorted(
        f"{package.__name__}.{name}" for name in package.__all__
    )

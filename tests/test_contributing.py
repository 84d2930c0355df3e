"""The recipes of CONTRIBUTING.md are true: their files work as they stand there, and reading first is short."""

import csv
import json
import math
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import datamodules.check
import experiments.predict
import experiments.run
from datamodules.sample import sample_coco
from hrnet import VARIANTS, HRNet, Variant, load_weights

ROOT = Path(__file__).parents[1]
TINY = [
    "--data.init_args.batch_size=4",
    "--data.init_args.num_workers=0",
    "--trainer.limit_train_batches=1",
    "--trainer.max_epochs=1",
    "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=1",
    "--trainer.accelerator=cpu",
    "--trainer.num_sanity_val_steps=0",
]
SMALL = "--model.init_args.backbone.variant=w18_small_v1"
READING = {"A key-point data set": (3, 500), "A task": (4, 900), "A width": (4, 900)}  # files, lines


def recipe(title: str) -> str:
    return re.split(r"^## ", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)[list(READING).index(title) + 1]


def blocks(title: str) -> list[tuple[str, str]]:
    """(language, text) of each block of code of a recipe."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", recipe(title), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("title", READING)
def test_what_to_read_first_is_short(title: str) -> None:
    assert recipe(title).startswith(title + "\n")
    names = re.findall(r"`([^`]+)`", re.search(r"^Read first: (.*?)\n\n", recipe(title), re.MULTILINE | re.DOTALL)[1])
    files, lines = READING[title]
    assert len(names) <= files
    counts = {name: len((ROOT / name).read_text().splitlines()) for name in names}
    assert sum(counts.values()) <= lines, counts


class Desk:
    """A folder of one's own with the files of a recipe; its commands are run there, within this process."""

    def __init__(self, folder: Path, title: str) -> None:
        self.folder = folder
        self.commands: list[list[str]] = []
        for language, text in blocks(title):
            if language:
                name = re.match(r"# (\S+\.\w+)\n", text)
                if name:
                    (folder / name[1]).write_text(text.split("\n", 1)[1])
            else:
                self.commands += [shlex.split(line, comments=True) for line in text.splitlines()]

    def run(self, module: str, *extra: str) -> object:
        """The one command of a module, with words for a small run at its end."""
        (words,) = [words for words in self.commands if words[:3] == ["python", "-m", module]]
        words = [str(self.trained()) if word == "RUN" else word for word in words[3:]]
        main = {
            "datamodules.check": datamodules.check.main,
            "experiments.run": experiments.run.main,
            "experiments.predict": experiments.predict.main,
        }[module]
        return main([*words, *extra])

    def trained(self) -> Path:
        (run,) = (self.folder / "runs").glob("*/*/")
        return run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the commands run, as a shell's folder: found by imports, forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for file in tmp_path.glob("*.py"):
        sys.modules.pop(file.stem, None)


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_coco(tmp_path_factory.mktemp("recipe") / "coco", num_train=6, num_val=4)


def table(output: Path) -> list[dict[str, str]]:
    with (output / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_keypoint_data_set(folder: Path, coco: Path) -> None:
    desk = Desk(folder, "A key-point data set")
    data = folder / "data" / "csv_points"
    for split in ("train", "val"):
        content = json.loads((coco / f"annotations/person_keypoints_{split}2017.json").read_text())
        shutil.copytree(coco / f"{split}2017", data / split)
        names = {image["id"]: image["file_name"] for image in content["images"]}
        persons = [a for a in content["annotations"] if a["num_keypoints"] and not a["iscrowd"]]
        with (data / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([names[a["image_id"]], *a["bbox"], *a["keypoints"]] for a in persons)
    assert desk.run("datamodules.check") == 0
    trainer = desk.run("experiments.run", *TINY, SMALL, "--data.init_args.image_size=[64,64]")
    assert trainer.global_step == 1
    assert math.isfinite(trainer.callback_metrics["val/loss"])
    assert 0 <= trainer.callback_metrics["val/AP"] <= 1
    shutil.copy(next((data / "val").iterdir()), folder / "photo.jpg")
    assert not desk.run("experiments.predict", "--output", "out")
    (row,) = table(folder / "out")
    assert all(math.isfinite(float(row[f"nose_{axis}"])) for axis in "xy")


@pytest.mark.slow
def test_a_task(folder: Path) -> None:
    desk = Desk(folder, "A task")
    generator = np.random.default_rng(0)
    for split, grade in product(("train", "val"), range(4)):
        place = folder / "data" / "grades" / split / str(grade)
        place.mkdir(parents=True)
        for number in range(2):
            Image.fromarray(generator.integers(0, 256, (80, 90, 3), np.uint8)).save(place / f"{number}.jpg")
    assert desk.run("datamodules.check") == 0
    trainer = desk.run("experiments.run", *TINY, SMALL, "--data.init_args.image_size=[64,64]")
    assert trainer.global_step == 1
    assert {"val/loss", "val/distance", "val/error"} <= trainer.callback_metrics.keys()
    assert 0 <= trainer.callback_metrics["val/error"] <= 3
    summary = json.loads((desk.trained() / "summary.json").read_text())
    assert summary["modes"]["val/error"] == "min"
    shutil.copy(place / "0.jpg", folder / "photo.jpg")
    assert not desk.run("experiments.predict", "--output", "out")
    (row,) = table(folder / "out")
    assert row["grade"] in {"0", "1", "2", "3"}


@pytest.mark.slow
def test_a_width(folder: Path, coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ((_, row), *_) = [block for block in blocks("A width") if block[0] == "python"]
    for name, variant in eval(f"{{{row}}}", {"Variant": Variant}).items():
        monkeypatch.setitem(VARIANTS, name, variant)
    desk = Desk(folder, "A width")
    trainer = desk.run("experiments.run", *TINY, f"--data.init_args.root={coco}", "--data.init_args.image_size=[64,64]")
    assert trainer.global_step == 1
    assert trainer.lightning_module.backbone.channels == [24]
    assert load_weights(HRNet("w24", multi_scale_output=False), desk.trained()).complete
    shutil.copy(next((coco / "val2017").iterdir()), folder / "photo.jpg")
    assert not desk.run("experiments.predict", "--output", "out")
    assert len(table(folder / "out")) == 1

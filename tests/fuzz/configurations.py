"""What users write: skeletons, experiments in YAML with flags, lists of names."""

import random
from pathlib import Path
from typing import Any

import yaml

from datamodules.segmentation.pairs import read_stems
from datamodules.skeleton import Skeleton
from experiments.config import find, load_data, make_parser, parse
from experiments.config.files import CONFIGS
from tests.fuzz.harness import Kind
from tests.fuzz.mutations import TOKENS, VALUES, changed_bytes, changed_text, changed_value

ODD: list[Any] = [
    *(value for value in VALUES if value != 10**400), "2024-05-01", "@home", "yes", {"name": {}}, [{"name": {}}],
    [{"name": 5}], {"class_path": "PoseTask"}, {"class_path": "hrnet.HRNet"}, {"class_path": "datamodules.nothing.X"},
    {"class_path": 5}, {"init_args": 5}, {"class_path": "ImageFolder", "init_args": {"root": "sample"}}, "w32",
    "sample", {"+": 1}, {"a+": [1], "a=": {}},
]  # fmt: skip
KEYS = (
    "runs", "data.root", "trainer.max_epochs", "model.optimizer", "data.image_size", "model+", "model.backbone", "x",
    "data.init_args.photometric", "wandb.name", "seed_everything",
)  # fmt: skip


def as_yaml(content: Any, rng: random.Random) -> bytes:
    """YAML of a value, in flow or block style, seldom with changed text."""
    text = yaml.safe_dump(content, default_flow_style=rng.random() < 0.3, allow_unicode=True)
    return changed_text(text, rng) if rng.random() < 0.3 else text.encode("utf-8", "surrogatepass")


class Skeletons(Kind):
    """Skeletons in YAML."""

    name, share = "skeletons", 3

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.good = {
            "names": ["nose", "left_paw", "right_paw"], "limbs": [["nose", "left_paw"], [0, 2]], "upper_body": ["nose"],
            "flip_pairs": [["left_paw", "right_paw"]], "sigmas": [0.05, 0.1, 0.1], "normaliser": ["nose", "left_paw"],
        }  # fmt: skip

    def write(self, rng: random.Random) -> Path:
        path = self.folder / "skeleton.yaml"
        values = [*ODD, "nose", "tail", [["nose", "nose"]], [["nose"]], "box"]
        path.write_bytes(as_yaml(changed_value(self.good, rng, values), rng))
        return path

    def read(self, path: Path, rng: random.Random) -> None:
        skeleton = Skeleton.load(path)
        assert len(set(skeleton.names)) == len(skeleton.names) == len(skeleton.sigmas) > 0
        assert Skeleton(**skeleton.to_dict()) == skeleton
        assert sorted(skeleton.flip_permutation) == list(range(skeleton.num_keypoints))


class Experiments(Kind):
    """Experiments of the house, changed, with overlays and flags: what is not refused makes a DataModule."""

    name, share, names_file = "experiments", 5, False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.good = [
            yaml.safe_load((CONFIGS / name).read_text())
            for name in ("pose/pose_coco.yaml", "segmentation/seg_folder.yaml", "classification/cls_folder.yaml",
                         "detection/det_coco.yaml", "people/multitask_people.yaml")
        ]  # fmt: skip
        self.parser = make_parser()

    def write(self, rng: random.Random) -> Path:
        path = self.folder / "mine.yaml"
        path.write_bytes(as_yaml(changed_value(rng.choice(self.good), rng, ODD), rng))
        return path

    def read(self, path: Path, rng: random.Random) -> None:
        overlays = [find(name) for name in rng.choice(([], ["sample.yaml"], ["debug.yaml"]))]
        flags = []
        for _ in range(rng.choice((0, 0, 1, 2))):
            key = rng.choice(KEYS)
            value = rng.choice([*ODD, *(token.decode(errors="replace") for token in TOKENS)])
            flags += rng.choice(([f"--{key}", str(value)], [f"--{key}={value}"], [f"-{key}"], [str(value)]))
        if rng.random() < 0.5:
            config = parse(self.parser, [path, *overlays], flags)
            assert config.model is not None
        else:
            data = load_data([str(path), *(overlay.name for overlay in overlays)], flags)
            assert min(data.image_size) > 0


class Names(Kind):
    """The names of a split, one a line."""

    name = "names"

    def write(self, rng: random.Random) -> Path:
        path = self.folder / "train.txt"
        good = "a/one.jpg\n\ntwo.png 5\nthree\n"
        path.write_bytes(changed_text(good, rng) if rng.random() < 0.6 else changed_bytes(good.encode(), rng))
        return path

    def read(self, path: Path, rng: random.Random) -> None:
        assert all(isinstance(name, str) and name for name in read_stems(path))

"""Run folders for a comparison: cut off, damaged or of another hand, they are compared as far as they go, or named."""

import io
import json
import random
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from experiments.compare import compare
from experiments.compare.text import print_tables
from tests.fuzz.harness import Kind
from tests.fuzz.mutations import VALUES, as_json, changed_bytes, changed_text, changed_value

BACKBONE = {"class_path": "hrnet.HRNet", "init_args": {"variant": "w32"}}
CONFIG: dict[str, Any] = {
    "seed_everything": 1,
    "model": {"class_path": "tasks.PoseTask", "init_args": {"backbone": BACKBONE}},
    "data": {"class_path": "CocoPose", "init_args": {"root": "sample", "image_size": [256, 192]}},
    "trainer": {"max_epochs": 3},
}  # fmt: skip
SUMMARY = {
    "monitor": "val/AP", "mode": "max", "modes": {"val/AP": "max"}, "best": {"val/AP": 0.5}, "best_epoch": 1,
    "epochs": 3, "last": {"val/AP": 0.4}, "steps": 30, "seconds": 5.0, "parameters": 1000, "multiply_adds": 2000,
    "peak_memory_bytes": 10**9,
}  # fmt: skip
ENVIRONMENT = {
    "name": "mine",
    "tags": ["a"],
    "git": {"revision": "abc", "changed": []},
    "libraries": {"torch": "2.9"},
    "gpus": [],
}
METRICS = "step,epoch,train/loss,val/AP\n1,0,2.0,\n2,0,,0.3\n3,1,1.5,\n4,1,,0.5\n5,2,1.2,\n6,2,,0.4\n"
SAMPLES = "sample,score\n1,0.5\n2,0.25\n3,0.75\n4,0.5\n5,0.1\n6,0.9\n"
POINTS = "name,AP,count\nnose,0.5,3\nleft_eye,0.25,4\n"


class Runs(Kind):
    """A changed run beside a good one: every page, table and file of the comparison is made."""

    name, share = "runs", 4
    names_file, refuses = False, False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._write(folder / "good", {})

    def _write(self, run: Path, changed: dict[str, bytes]) -> None:
        (run / "predictions").mkdir(parents=True, exist_ok=True)
        good = {
            "config.yaml": yaml.safe_dump(CONFIG).encode(),
            "summary.json": json.dumps(SUMMARY).encode(),
            "environment.json": json.dumps(ENVIRONMENT).encode(),
            "metrics.csv": METRICS.encode(),
            "predictions/val_samples.csv": SAMPLES.encode(),
            "predictions/val_keypoints.csv": POINTS.encode(),
        }
        for name, data in (good | changed).items():
            (run / name).write_bytes(data)

    def write(self, rng: random.Random) -> Path:
        changed: dict[str, bytes] = {}
        for _ in range(rng.choice((1, 1, 2))):
            match rng.randrange(5):
                case 0:
                    values = [value for value in VALUES if value != 10**400]
                    text = yaml.safe_dump(changed_value(CONFIG, rng, values), allow_unicode=True)
                    changed["config.yaml"] = (
                        changed_text(text, rng) if rng.random() < 0.4 else text.encode(errors="replace")
                    )
                case 1:
                    changed["summary.json"] = as_json(changed_value(SUMMARY, rng), rng)
                case 2:
                    changed["environment.json"] = as_json(changed_value(ENVIRONMENT, rng), rng)
                case 3:
                    changed["metrics.csv"] = _csv(METRICS, rng)
                case _:
                    name, good = rng.choice((("val_samples", SAMPLES), ("val_keypoints", POINTS)))
                    changed[f"predictions/{name}.csv"] = _csv(good, rng)
        self._write(self.folder / "odd", changed)
        return self.folder / "odd"

    def read(self, path: Path, rng: random.Random) -> None:
        runs = [self.folder / "good", path]
        found = compare(runs if rng.random() < 0.5 else runs[::-1])
        out = io.StringIO()
        print_tables(found.titled, Console(file=out, width=180))
        for text in (found.to_html(), found.to_markdown(), out.getvalue()):
            assert not {"\x1b", "\u202e", "\x07"} & set(text)
        found.to_csv()


def _csv(good: str, rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        rows = changed_value([line.split(",") for line in good.splitlines()], rng)
        try:
            good = "\n".join(",".join(map(str, row)) for row in rows) + "\n"
        except (TypeError, ValueError):  # no table any more
            return changed_bytes(good.encode(), rng)
    return changed_text(good, rng) if rng.random() < 0.5 else good.encode(errors="replace")

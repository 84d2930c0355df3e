"""The embedded sample data: small pictures of people, rendered once, in the official layout of COCO.

Not from the paper; `root: sample` on a DataModule renders them on first use, so that every experiment runs without a
download. `sample_coco()` returns the folder; reading it takes the very code that reads the real COCO.
"""

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from datamodules.base import DataError
from datamodules.sample.bodies import Array
from datamodules.sample.canvas import FURNITURE, Canvas, develop, draw_background, draw_obstacle, draw_seat, draw_shadow
from datamodules.sample.people import PART_NAMES, PART_OF_SURFACE, SURFACES, Person, sample_person
from datamodules.skeleton import Skeleton

VERSION = 6  # a change of the pictures or labels must raise it, or folders rendered earlier stay in use
_SEED = 1
FIRST_VAL_ID = 100_001
IN_USE = "in_use"
FORGOTTEN = 3600.0  # seconds after which a folder without a lock is nobody's


@dataclass(frozen=True)
class Scene:
    """One rendered picture.

    image: (H, W, 3) BGR uint8; people: far to near, in pixels of the picture; owner: (H, W) uint8, 0 background,
    255 furniture, else person number * 32 + surface (see `sample_people`).
    """

    image: Array
    people: list[Person]
    owner: Array

    @property
    def parts(self) -> Array:
        """The visible body parts (H, W) uint8, indices of `PART_NAMES`."""
        return np.where(self.owner == FURNITURE, 0, PART_OF_SURFACE[self.owner % SURFACES]).astype(np.uint8)

    def mask(self, number: int) -> Array:
        """Return the visible pixels (H, W) bool of person `number`."""
        return (self.owner // SURFACES == number) & (self.owner != FURNITURE) & (self.owner % SURFACES != 0)


def render_scene(image_id: int) -> Scene:
    """Render the picture `image_id`; the same number gives the same picture."""
    rng = np.random.default_rng([_SEED, image_id])
    height, width = int(rng.integers(240, 321)), int(rng.integers(320, 401))
    people = _people(rng, height, width)
    background = draw_background(rng, height, width)
    for person in people:
        feet = np.stack([person.points[name][:2] for name in ("l_heel", "r_heel", "l_toe", "r_toe")])
        draw_shadow(background, feet, 0.07 * person.height)
    light = np.array((rng.choice((-0.7, 0.7)), -0.7))
    canvas = Canvas(background, light)
    for number, person in enumerate(people):
        if person.pose.sitting:
            floor = max(person.points["l_heel"][1], person.points["r_heel"][1])
            draw_seat(rng, canvas, person.points["pelvis"][:2], floor, person.height)
        person.draw(canvas, number)
    if rng.random() < 0.08:
        draw_obstacle(rng, canvas, height, width)
    image, owner = canvas.finish()
    return Scene(develop(rng, image), people, owner)


def _people(rng: np.random.Generator, height: int, width: int) -> list[Person]:
    """Draw one to four people that hide one another partly at most, the smaller (farther) ones first."""
    people: list[Person] = []
    wanted = int(rng.choice((1, 2, 3, 4), p=(0.47, 0.30, 0.14, 0.09)))
    for attempt in range(40):
        size = rng.choice((rng.uniform(0.22, 0.4), rng.uniform(0.45, 0.85), rng.uniform(0.8, 1.2)), p=(0.1, 0.6, 0.3))
        person = sample_person(rng, height * size * (1.1 - 0.1 * wanted))
        person = _placed(rng, person, height, width)
        seen = ((person.keypoints >= 0) & (person.keypoints < (width, height))).all(axis=1).sum()
        if seen >= 8 and all(_overlap(person, other) < 0.25 for other in people):
            people.append(person)
        if len(people) == wanted or (people and attempt > 8):
            break
    return sorted(people, key=lambda person: person.height)


def _placed(rng: np.random.Generator, person: Person, height: int, width: int) -> Person:
    """Return the person at a random place, feet on the floor or cut by the border of the picture."""
    low, high = person.keypoints.min(axis=0), person.keypoints.max(axis=0)
    middle = width * rng.uniform(0.04, 0.96)
    head = 0.1 * person.height  # of it above the ears, and of the feet below the ankles
    extent = high[1] - low[1] + 1.5 * head
    if extent > height or (extent > 0.6 * height and rng.random() < 0.2):
        bottom = extent + rng.uniform(-0.03, 0.45) * height
    else:
        nearness = 0.70 + 0.28 * person.height / height + rng.normal(0, 0.05)
        bottom = max(min(nearness, 0.98) * height, extent)
    return person.moved(np.array((middle - 0.5 * (low[0] + high[0]), bottom - 0.5 * head - high[1])))


def _overlap(first: Person, second: Person) -> float:
    """Return the share of the smaller box of key points that the boxes have in common."""
    a, b = first.keypoints, second.keypoints
    common = np.minimum(a.max(axis=0), b.max(axis=0)) - np.maximum(a.min(axis=0), b.min(axis=0))
    smaller = min(np.prod(np.ptp(a, axis=0)), np.prod(np.ptp(b, axis=0)))
    return float(np.prod(np.maximum(common, 0)) / smaller)


def _run_lengths(mask: Array) -> dict:
    """Return a mask (H, W) as COCO's uncompressed run lengths: column by column, background first."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], edges, [mask.size]]))
    return {"size": list(mask.shape), "counts": counts[: len(counts) - (counts[-1] == 0)].tolist()}


def _annotation(scene: Scene, number: int, image_id: int) -> dict | None:
    """Return the COCO annotation of a person, or None when nothing of the person is visible."""
    mask = scene.mask(number)
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return None
    person = scene.people[number]
    visible = person.visibility(scene.owner, number)
    # A point up to half a pixel beyond the outermost pixel centres is still in the picture.
    points = np.clip(np.round(person.keypoints, 1), 0, np.array(mask.shape[::-1]) - 1)
    keypoints = np.concatenate([points, visible[:, None]], axis=1) * (visible > 0)[:, None]
    return {
        "id": 10 * image_id + number,
        "image_id": image_id,
        "category_id": 1,
        "bbox": [float(v) for v in (columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1)],
        "area": float(mask.sum()),
        "iscrowd": 0,
        "segmentation": _run_lengths(mask),
        "num_keypoints": int((visible > 0).sum()),
        "keypoints": [int(v) if v == int(v) else float(v) for v in keypoints.ravel()],
    }


def _write_split(root: Path, split: str, image_ids: range) -> None:
    """Render the pictures of a split with their part masks and both annotation files."""
    folder, parts = root / f"{split}2017", root / "parts" / f"{split}2017"
    folder.mkdir(parents=True)
    parts.mkdir(parents=True)
    images, annotations = [], []
    for image_id in image_ids:
        scene = render_scene(image_id)
        name = f"{image_id:012d}"
        # Not cv2.imwrite, which is silent about a full disk.
        (folder / f"{name}.jpg").write_bytes(cv2.imencode(".jpg", scene.image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1])
        (parts / f"{name}.png").write_bytes(cv2.imencode(".png", scene.parts)[1])
        height, width = scene.owner.shape
        images.append({"id": image_id, "file_name": f"{name}.jpg", "width": width, "height": height, "license": 1})
        found = (_annotation(scene, number, image_id) for number in range(len(scene.people)))
        annotations += [annotation for annotation in found if annotation]
    head = {
        "info": {"description": "Rendered sample people", "version": str(VERSION), "year": 2017},
        "licenses": [{"id": 1, "name": "Rendered by this project", "url": ""}],
        "images": images,
    }
    person = {"id": 1, "name": "person", "supercategory": "person"}
    skeleton = Skeleton.load("coco")
    limbs = [[start + 1, end + 1] for start, end in skeleton.limbs]
    pose = {**person, "keypoints": list(skeleton.names), "skeleton": limbs}
    boxes = [{k: v for k, v in a.items() if k not in ("keypoints", "num_keypoints")} for a in annotations]
    for kind, category, rows in (("person_keypoints", pose, annotations), ("instances", person, boxes)):
        content = {**head, "annotations": rows, "categories": [category]}
        (root / "annotations" / f"{kind}_{split}2017.json").write_text(json.dumps(content))


def sample_coco(root: Path = Path("data/sample/coco"), num_train: int = 600, num_val: int = 150) -> Path:
    """Return the folder of the sample data, rendering it when it is absent or of another version (some ten seconds).

    The layout is COCO's: train2017/, val2017/, annotations/{person_keypoints,instances}_{train,val}2017.json; besides,
    parts/{train,val}2017/*.png are masks (H, W) of the indices in parts/classes.txt. Boxes, masks and areas are of the
    visible region. Processes may render at the same time; an interrupted rendering leaves no folder.

    Raises:
        DataError: `root` exists and was not written by this function.
    """

    def write(fresh: Path) -> None:
        (fresh / "annotations").mkdir()
        _write_split(fresh, "train", range(1, num_train + 1))
        _write_split(fresh, "val", range(FIRST_VAL_ID, FIRST_VAL_ID + num_val))
        (fresh / "parts" / "classes.txt").write_text("\n".join(PART_NAMES) + "\n")

    return written_once(root, f"{VERSION} {num_train} {num_val}\n", write)


def written_once(root: Path, stamp: str, write: Callable[[Path], None]) -> Path:
    """`root`, filled by `write(folder)` when it is absent or of another stamp; whole, or not at all.

    Raises:
        DataError: `root` exists and was not written by this function.
    """
    root = Path(root)
    _remove_unfinished(root)
    if _read_stamp(root) == stamp:
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as temporary,
        (Path(temporary) / IN_USE).open("w") as lock,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)  # given back when the process ends, however it ends
        fresh = Path(temporary) / "fresh"
        fresh.mkdir()
        write(fresh)
        (fresh / "VERSION").write_text(stamp)
        _publish(fresh, root, Path(temporary) / "stale")
    return root


def _remove_unfinished(root: Path) -> None:
    """Take away what processes that were killed have left of `root`; what others are rendering stays."""
    for left in root.parent.glob(f".{root.name}-*"):
        try:
            with (left / IN_USE).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
        except FileNotFoundError:  # not locked yet, or taken away meanwhile, or of code that had no locks
            with contextlib.suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > FORGOTTEN:
                    shutil.rmtree(left, ignore_errors=True)
        except OSError:  # in use, or no locks here
            continue


def _read_stamp(root: Path) -> str | None:
    """Return what an earlier rendering in `root` says of itself, or None without one; refuse a foreign folder."""
    try:
        return (root / "VERSION").read_text()
    except (FileNotFoundError, NotADirectoryError):
        if not root.exists() or (root.is_dir() and not any(root.iterdir())):
            return None
        raise DataError(
            f"{root.absolute()} exists but has no VERSION file, so it is not rendered sample data and is not touched; "
            "expected a folder that sample_coco wrote, or none. Move it away or give another root."
        ) from None


def _publish(fresh: Path, root: Path, stale: Path) -> None:
    """Rename `fresh` to `root`; whoever renders the same at the same time and comes second drops the copy."""
    stamp = (fresh / "VERSION").read_text()
    if _read_stamp(root) == stamp:
        return
    with contextlib.suppress(FileNotFoundError):
        os.rename(root, stale)
    try:
        os.rename(fresh, root)
    except OSError:
        if _read_stamp(root) != stamp:
            raise

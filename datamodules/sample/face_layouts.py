"""The embedded sample data of faces in the official layouts of the landmark data sets.

All are the pictures of `faces.py`, rendered once in WFLW's layout; the other data sets have those of its 98 landmarks
that stand for theirs.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from datamodules.images.pixels import read_image
from datamodules.sample.coco import written_once
from datamodules.sample.face_shape import BRIDGE, INNER_LIPS, NOSTRILS, OUTER_LIPS
from datamodules.sample.faces import Face, render_face

VERSION = 2  # a change of the pictures or landmarks must raise it
SAMPLE = Path("data/sample")
NUM_FACES = {"train": 600, "test": 150}


def _points(part: slice) -> range:
    return range(part.start, part.stop)


# Which of WFLW's landmarks stand for those of the others.
W300 = (
    *range(0, 33, 2), *range(33, 38), *range(42, 47), *_points(BRIDGE), *_points(NOSTRILS),
    60, 61, 63, 64, 65, 67, 68, 69, 71, 72, 73, 75, *_points(OUTER_LIPS), *_points(INNER_LIPS),
)  # fmt: skip
COFW = (
    33, 46, 37, 42, 35, 40, 44, 48, 60, 72, 64, 68, 62, 66, 70, 74, 96, 97, 55, 59, 54, 57, 76, 82, 79, 90, 94, 85, 16,
)  # fmt: skip
AFLW = (33, 35, 37, 42, 44, 46, 60, 96, 64, 68, 97, 72, 55, 54, 59, 76, 90, 82, 16)
_FIRST_TEST = 100_001
_LIST = "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_{split}.txt"


def sample_wflw(
    root: Path = SAMPLE / "wflw", num_train: int = NUM_FACES["train"], num_test: int = NUM_FACES["test"]
) -> Path:
    """Return the folder of the sample faces, rendering them when they are absent or of another version.

    The layout is that of WFLW, one face a picture; the attributes are what was drawn.

    Raises:
        DataError: `root` exists and was not written by this function.
    """

    def write(fresh: Path) -> None:
        for split, first, count in (("train", 1, num_train), ("test", _FIRST_TEST, num_test)):
            lines = []
            for number in range(first, first + count):
                face, name = render_face(number), f"0--Sample/0_Sample_{number:06d}.jpg"
                _write(fresh / "WFLW_images" / name, face.image)
                lines.append(_line(face, name))
            path = fresh / _LIST.format(split=split)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(lines))

    return written_once(root, f"{VERSION} {num_train} {num_test}\n", write)


def sample_w300(root: Path = SAMPLE / "w300", wflw: Path | None = None) -> Path:
    """The 68 landmarks of 300W; of the test faces the difficult ones are iBUG's, and some are the test of 600."""

    def write(wflw: Path, fresh: Path) -> None:
        train = [_face(row, W300, f"helen/trainset/{row.number:06d}.jpg") for row in _rows(wflw, "train")]
        rows = _rows(wflw, "test")
        count, valid = 2 * len(rows) // 3, []
        for row in rows[:count]:
            place = "ibug" if row.attributes[[0, 4]].any() else "lfpw/testset"
            valid.append(_face(row, W300, f"{place}/{row.number:06d}.jpg"))
        private = [_face(row, W300, f"test/01_Indoor/{row.number:06d}.jpg") for row in rows[count:]]
        hard = [face for face in valid if face.name.startswith("ibug")]
        lists = {"train": train, "valid": valid, "test": private, "valid_challenge": hard}
        lists["valid_common"] = [face for face in valid if face not in hard]
        _published(wflw, fresh, "300w", lists)

    return _derived(root, wflw, write)


def sample_cofw(root: Path = SAMPLE / "cofw", wflw: Path | None = None) -> Path:
    """The 29 landmarks of COFW and the pictures in MATLAB files; no landmark is marked as hidden."""
    from scipy.io import savemat  # only COFW comes in this format

    def write(wflw: Path, fresh: Path) -> None:
        for split, suffix in (("train", "Tr"), ("test", "T")):
            rows = _rows(wflw, split)
            pictures = np.empty((len(rows), 1), object)
            for index, row in enumerate(rows):
                pictures[index, 0] = read_image(wflw / "WFLW_images" / row.picture)
            points = np.stack([row.points[list(COFW)] for row in rows])
            stated = np.concatenate([points[..., 0], points[..., 1], np.zeros((len(rows), len(COFW)))], axis=1)
            low, high = np.stack([row.box for row in rows]).reshape(-1, 2, 2).transpose(1, 0, 2)
            content = {
                f"Is{suffix}": pictures,
                f"phis{suffix}": stated,
                f"bboxes{suffix}": np.hstack([low, high - low]),
            }
            savemat(fresh / f"COFW_{split}_color.mat", content, do_compression=True)

    return _derived(root, wflw, write)


def sample_aflw(root: Path = SAMPLE / "aflw", wflw: Path | None = None) -> Path:
    """The 19 landmarks of AFLW; faces that are not turned far are the frontal ones."""

    def write(wflw: Path, fresh: Path) -> None:
        train = [_face(row, AFLW, f"0/image{row.number:06d}.jpg") for row in _rows(wflw, "train")]
        test = [_face(row, AFLW, f"2/image{row.number:06d}.jpg") for row in _rows(wflw, "test")]
        frontal = [face for face in test if not face.attributes[0]]
        _published(wflw, fresh, "aflw", {"train": train, "test": test, "test_frontal": frontal}, box_size=True)

    return _derived(root, wflw, write)


def sample_face_list(root: Path = SAMPLE / "face_list", wflw: Path | None = None) -> Path:
    """All 98 landmarks in lists as one writes them oneself."""

    def write(wflw: Path, fresh: Path) -> None:
        for name, split in (("train", "train"), ("val", "test")):
            lines = [["image", "x", "y", "width", "height", *(f"{axis}{k}" for k in range(98) for axis in "xy")]]
            for row in _rows(wflw, split):
                low, high = row.box.reshape(2, 2)
                numbers = [*low, *(high - low), *row.points.ravel()]
                lines.append([f"{name}/{row.number:06d}.jpg", *(f"{value:.10g}" for value in numbers)])
                _copy(wflw, row.picture, fresh / "images" / lines[-1][0])
            (fresh / f"{name}.csv").write_text("".join(",".join(line) + "\n" for line in lines))

    return _derived(root, wflw, write)


def _derived(root: Path, wflw: Path | None, write: Callable[[Path, Path], None]) -> Path:
    """`root`, written from the sample faces when it is absent or of another version."""
    wflw = wflw or sample_wflw()
    stamp = f"{VERSION} of {(wflw / 'VERSION').read_text()}"
    return written_once(root, stamp, lambda fresh: write(wflw, fresh))


@dataclass(frozen=True, eq=False)
class _Row:
    """A face of the rendered list and the `name` that another data set gives its picture.

    points: (K, 2) pixels; box: (4,) x_min, y_min, x_max, y_max; attributes: (6,) bool.
    """

    number: int
    picture: str
    points: np.ndarray
    box: np.ndarray
    attributes: np.ndarray
    name: str = ""


def _rows(wflw: Path, split: str) -> list[_Row]:
    """The faces of a rendered list."""
    rows = []
    for line in (wflw / _LIST.format(split=split)).read_text().splitlines():
        *cells, picture = line.split()
        numbers = np.array(cells, np.float64)
        number = int(Path(picture).stem.rpartition("_")[2])
        rows.append(_Row(number, picture, numbers[:196].reshape(-1, 2), numbers[196:200], numbers[200:] > 0))
    return rows


def _face(row: _Row, chosen: Sequence[int], name: str) -> _Row:
    return replace(row, points=row.points[list(chosen)], name=name)


def _published(
    wflw: Path, fresh: Path, title: str, lists: Mapping[str, Sequence[_Row]], box_size: bool = False
) -> None:
    """Lists as HRNet's code for faces has them, and their pictures."""
    for name, faces in lists.items():
        head = ["image_name", "scale", *(["box_size"] if box_size else []), "center_w", "center_h"]
        count = len(faces[0].points)
        lines = [[*head, *(f"original_{k}_{axis}" for k in range(count) for axis in "xy")]]
        for face in faces:
            side, center = np.ptp(face.box.reshape(2, 2), axis=0).max(), face.box.reshape(2, 2).mean(axis=0)
            stated = [
                f"{side / 200:.4f}",
                *([f"{side:.1f}"] if box_size else []),
                *(f"{value:.1f}" for value in center),
            ]
            lines.append([face.name, *stated, *(f"{value:.4f}" for value in face.points.ravel())])
            _copy(wflw, face.picture, fresh / "images" / face.name)
        text = "".join(",".join(line) + "\n" for line in lines)
        (fresh / f"face_landmarks_{title}_{name}.csv").write_text(text)


def _copy(wflw: Path, picture: str, target: Path) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(wflw / "WFLW_images" / picture, target)


def _line(face: Face, name: str) -> str:
    numbers = [f"{value:.4f}" for value in face.landmarks.ravel()]
    return (
        " ".join([*numbers, *(f"{value:.0f}" for value in face.box), *map(str, face.attributes.astype(int)), name])
        + "\n"
    )


def _write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not cv2.imwrite, which is silent about a full disk.
    path.write_bytes(cv2.imencode(path.suffix, pixels, [cv2.IMWRITE_JPEG_QUALITY, 92])[1])

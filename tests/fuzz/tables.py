"""Annotations: COCO's key points, objects and detections, MPII's JSON, faces in CSV, dlib's XML and MATLAB files."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

from datamodules import AFLW, COFW, WFLW, CocoDetection, CocoPose, FaceLandmarks, MpiiPose
from datamodules.base import BaseDataModule
from datamodules.check import check
from datamodules.keypoints.coco_file import read_annotations
from datamodules.keypoints.detections import read_detections
from datamodules.sample import sample_coco, sample_mpii
from datamodules.skeleton import Skeleton
from tasks.metrics import CocoBoxes, CocoKeypoints
from tests.fuzz.harness import Kind
from tests.fuzz.mutations import as_json, changed_bytes, changed_text, changed_value


def samples_are_right(data: BaseDataModule, split: str = "val") -> None:
    """First and last sample of a split are as the batch table says."""
    dataset = data.split(split)
    for row in {0, len(dataset) - 1}:
        sample = dataset[row, 0] if split == "train" else dataset[row]
        image = sample["image"]
        assert image.dtype == np.uint8, image.dtype
        assert image.ndim == 3, image.shape
        assert image.shape[2] == 3, image.shape
        for key in ("keypoints", "area", "boxes", "to_image"):
            if key in sample:
                assert np.isfinite(np.asarray(sample[key])).all(), (key, sample[key])
        if "visible" in sample:
            assert set(np.unique(sample["visible"])) <= {0, 1, 2}


class _Coco(Kind):
    """A file of annotations in COCO's form among good ones."""

    file: str

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.root = sample_coco(folder / "coco", num_train=3, num_val=3)
        self.path = self.root / "annotations" / self.file
        self.good = json.loads(self.path.read_text())

    def write(self, rng: random.Random) -> Path:
        self.path.write_bytes(as_json(changed_value(self.good, rng), rng))
        return self.path


class CocoKeyPoints(_Coco):
    """Key points: crops, the ground truth of the metric, and the data doctor."""

    name, share, file = "coco_keypoints", 6, "person_keypoints_val2017.json"

    def read(self, path: Path, rng: random.Random) -> None:
        data = CocoPose(self.root, image_size=(64, 48), num_workers=0)
        if rng.random() < 0.3:
            check(data, images="headers")
        samples_are_right(data)
        CocoKeypoints(data.ground_truth("val"), data.skeleton.sigmas, data.skeleton.names)


class CocoObjects(_Coco):
    """Objects, with masks or without."""

    name, share, file = "coco_objects", 4, "instances_val2017.json"

    def read(self, path: Path, rng: random.Random) -> None:
        data = CocoDetection(self.root, image_size=(64, 64), num_workers=0, masks=rng.random() < 0.5)
        if rng.random() < 0.3:
            check(data, images="headers")
        samples_are_right(data)
        CocoBoxes(data.ground_truth("val"), data.class_names, "segm" if data.masks else "bbox")


class Detections(_Coco):
    """A detector's results, with the persons that they are of or without."""

    name, share, file = "detections", 3, "person_keypoints_val2017.json"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.persons = read_annotations(self.path, Skeleton.load("coco")).accepted()
        self.good = [
            {"image_id": row["image_id"], "category_id": 1, "bbox": row["bbox"], "score": 0.5}
            for row in self.good["annotations"]
        ]
        self.path = folder / "boxes.json"

    def read(self, path: Path, rng: random.Random) -> None:
        found = read_detections(path, self.persons if rng.random() < 0.7 else None, rng.choice((0.0, 0.3)))
        assert np.isfinite(found.boxes).all()
        assert (found.boxes[:, 2:] > 0).all()
        assert ((found.scores >= 0) & (found.scores <= 1)).all(), found.scores
        assert (found.images >= 0).all()


class Mpii(Kind):
    """MPII's JSON of persons, or the file of its head boxes."""

    name, share = "mpii", 2

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.root = sample_mpii(folder / "mpii", num_train=3, num_val=3)
        self.files = {name: (self.root / "annot" / name).read_bytes() for name in ("valid.json", "gt_valid.mat")}

    def write(self, rng: random.Random) -> Path:
        for name, data in self.files.items():
            (self.root / "annot" / name).write_bytes(data)
        path = self.root / "annot" / rng.choice(("valid.json", "valid.json", "gt_valid.mat"))
        good = self.files[path.name]
        changed = (
            as_json(changed_value(json.loads(good), rng), rng) if path.suffix == ".json" else changed_bytes(good, rng)
        )
        path.write_bytes(changed)
        return path

    def read(self, path: Path, rng: random.Random) -> None:
        data = MpiiPose(self.root, num_workers=0, image_size=(64, 64))
        samples_are_right(data)
        for row in data.ground_truth("val")["annotations"]:
            assert np.isnan(row["head_size"]) or 0 <= row["head_size"] < 1e9, row["head_size"]


class FaceLists(Kind):
    """Lists of faces: CSV and dlib's XML of one's own, WFLW's text and its published CSV."""

    name, share = "face_lists", 4

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "images").mkdir()
        Image.fromarray(np.full((90, 90, 3), 90, np.uint8)).save(folder / "images" / "a.png")
        points = [(20 + 4 * k, 30 + 3 * k) for k in range(5)]
        flat = ",".join(f"{v}" for point in points for v in point)
        parts = "".join(f"<part name='{k}' x='{x}' y='{y}'/>" for k, (x, y) in enumerate(points))
        box = f"<box top='20' left='15' width='40' height='45'>{parts}</box>"
        faces = 2 * f"<image file='a.png'>{box}</image>"
        wide = [f"{20 + k % 40}.5" for k in range(196)]
        head = "image_name,scale,center_w,center_h"
        (folder / "skeleton.yaml").write_text("names: [a, b, c, d, e]\nsigmas: 0.05\n")
        self.good = {
            "val.csv": "image,x,y,width,height,points\n" + 3 * f"a.png,15,20,40,45,{flat}\n",
            "val.xml": f"<?xml version='1.0'?><dataset><images>{faces}</images></dataset>",
            "list_98pt_rect_attr_test.txt": 2 * f"{' '.join(wide)} 15 20 60 65 0 0 1 0 0 0 a.png\n",
            "face_landmarks_wflw_test.csv": f"{head}\n" + 2 * f"a.png,0.3,40,40,{','.join(wide)}\n",
        }  # fmt: skip

    def write(self, rng: random.Random) -> Path:
        name = rng.choice(list(self.good))
        path = self.folder / name
        good = self.good[name]
        if rng.random() < 0.5 and not name.endswith(".xml"):
            mark = " " if name.endswith(".txt") else ","
            rows = changed_value([line.split(mark) for line in good.splitlines()], rng)
            good = "\n".join(mark.join(map(_text, row)) if isinstance(row, list) else _text(row) for row in _list(rows))
        path.write_bytes(changed_text(good, rng) if rng.random() < 0.7 else good.encode(errors="replace"))
        return path

    def read(self, path: Path, rng: random.Random) -> None:
        options: dict[str, Any] = {"num_workers": 0, "image_size": (32, 32), "images": "images"}
        options["annotations"] = {"val": path.name}
        if "wflw" in path.name or path.suffix == ".txt":
            data: BaseDataModule = WFLW(self.folder, **options)
        else:
            data = FaceLandmarks(self.folder, skeleton=str(self.folder / "skeleton.yaml"), **options)
        if rng.random() < 0.3:
            check(data, images="headers")
        samples_are_right(data)


def _text(value: Any) -> str:
    try:
        return str(value)
    except ValueError:  # a number of more digits than Python writes
        return "9" * 5000


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


class FaceMatlab(Kind):
    """COFW's and AFLW's MATLAB files, of version 5 and of 7.3."""

    name, share = "face_matlab", 2

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        pictures = np.empty((2, 1), object)
        for row in range(2):
            pictures[row, 0] = np.full((60, 60, 3), 90, np.uint8)
        phis = np.concatenate([np.tile(np.linspace(10, 50, 29), (2, 2)), np.zeros((2, 29))], axis=1)
        savemat(folder / "cofw.mat", {"IsT": pictures, "phisT": phis})
        savemat(folder / "small.mat", {"IsT": pictures, "phisT": phis}, do_compression=True)
        self.good = {"COFW_test_color.mat": [(folder / n).read_bytes() for n in ("cofw.mat", "small.mat")]}
        names = np.array([["a.png"], ["b.png"]], object)
        content = {"ra": np.array([[1, 2]]), "nameList": names, "data": np.tile(np.linspace(1, 9, 38), (2, 1))}
        savemat(folder / "aflw.mat", content | {"mask_new": np.ones((2, 19)), "bbox": np.ones((2, 4))})
        self.good["AFLWinfo_release.mat"] = [(folder / "aflw.mat").read_bytes()]
        self._add_version_73(folder, phis)

    def _add_version_73(self, folder: Path, phis: np.ndarray) -> None:
        try:
            import h5py
        except ImportError:  # an extra
            return
        with h5py.File(folder / "new.mat", "w", userblock_size=512) as file:
            file["phisT"] = phis.T
            cells = [file.create_dataset(f"refs/{row}", data=np.full((3, 60, 60), 90, np.uint8)).ref for row in (0, 1)]
            file.create_dataset("IsT", data=np.array([cells], h5py.ref_dtype), dtype=h5py.ref_dtype)
        data = bytearray((folder / "new.mat").read_bytes())
        head = b"MATLAB 7.3 MAT-file, Platform: GLNXA64"
        data[: len(head)] = head
        self.good["COFW_test_color.mat"].append(bytes(data))

    def write(self, rng: random.Random) -> Path:
        name = rng.choice(["COFW_test_color.mat"] * 3 + ["AFLWinfo_release.mat"])
        path = self.folder / name
        path.write_bytes(changed_bytes(rng.choice(self.good[name]), rng))
        return path

    def read(self, path: Path, rng: random.Random) -> None:
        data = (COFW if path.name.startswith("COFW") else AFLW)(self.folder, num_workers=0, image_size=(32, 32))
        samples_are_right(data)

"""The people of the embedded sample data in MPII's official layout: 16 joints, head boxes, numbers that count from 1.

The pictures are those of `sample_coco()`, rendered anew since only the bodies know where pelvis, neck and head are.
"""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from datamodules.sample.coco import FIRST_VAL_ID, VERSION, Scene, render_scene, written_once
from datamodules.sample.people import Person

MPII_VERSION = 1  # a change of the joints must raise it
SAMPLE = Path("data/sample/mpii")
JOINTS = {
    "rank": "r_ankle", "rkne": "r_knee", "rhip": "r_hip", "lhip": "l_hip", "lkne": "l_knee", "lank": "l_ankle",
    "pelv": "pelvis", "thor": "neck", "neck": "chin", "head": "top", "rwri": "r_wrist", "relb": "r_elbow",
    "rsho": "r_shoulder", "lsho": "l_shoulder", "lelb": "l_elbow", "lwri": "l_wrist",
}  # fmt: skip
"""MPII's short names of the joints, in its order, and ours of the bodies; chin and top are poles of the head."""


def sample_mpii(root: Path = SAMPLE, num_train: int = 600, num_val: int = 150) -> Path:
    """The folder of the sample data in MPII's layout, rendered when it is absent or of another version.

    images/*.jpg; annot/train.json and annot/valid.json; annot/gt_valid.mat with the head boxes of the latter.
    """

    def write(fresh: Path) -> None:
        (fresh / "images").mkdir()
        (fresh / "annot").mkdir()
        _write_split(fresh, "train", range(1, num_train + 1))
        _write_truth(fresh, _write_split(fresh, "valid", range(FIRST_VAL_ID, FIRST_VAL_ID + num_val)))

    return written_once(root, f"{MPII_VERSION} of {VERSION} {num_train} {num_val}\n", write)


def _write_split(root: Path, split: str, image_ids: range) -> list[dict[str, Any]]:
    """The pictures and the JSON of a split; its entries, with the head boxes that the JSON does not have."""
    entries = []
    for image_id in image_ids:
        scene = render_scene(image_id)
        name = f"{image_id:09d}.jpg"
        # Not cv2.imwrite, which is silent about a full disk.
        (root / "images" / name).write_bytes(cv2.imencode(".jpg", scene.image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1])
        shown = [person for number, person in enumerate(scene.people) if scene.mask(number).any()]
        entries += [{"image": name, **_entry(person, scene)} for person in shown]
    stored = [{key: value for key, value in entry.items() if key != "head_box"} for entry in entries]
    (root / "annot" / f"{split}.json").write_text(json.dumps(stored))
    return entries


def _entry(person: Person, scene: Scene) -> dict[str, Any]:
    """What MPII says of a person: the joints inside the picture, hidden ones too, which its annotators guess."""
    size = np.array(scene.owner.shape[::-1])
    frame, axes = person.view @ person.pose.head, person.pose.skull * person.height
    poles = {name: person.points["head"] + frame @ (axes * (0, y, 0)) for name, y in (("chin", -1.0), ("top", 1.0))}
    places = person.points | poles
    joints = np.stack([places[name][:2] for name in JOINTS.values()]).round(1)
    inside = ((joints >= 0) & (joints <= size - 1)).all(axis=1)
    middle = (person.points["pelvis"][:2] + person.points["neck"][:2]) / 2
    extent = np.sqrt(np.square(frame * axes).sum(axis=1))[:2]  # of the ellipsoid of the head, from its middle
    head = person.points["head"][:2]
    return {
        "center": (1 + np.clip(middle, 0, size - 1)).round(1).tolist(),
        "scale": round(person.height / 200, 6),
        "joints": np.where(inside[:, None], joints + 1, 0).tolist(),
        "joints_vis": inside.astype(int).tolist(),
        "head_box": (1 + np.stack([head - extent, head + extent])).round(1).tolist(),
    }


def _write_truth(root: Path, entries: list[dict[str, Any]]) -> None:
    """gt_valid.mat, whose arrays have the persons last."""
    from scipy.io import savemat

    columns = {key: np.array([entry[key] for entry in entries]) for key in ("joints", "joints_vis", "head_box")}
    content = {
        "dataset_joints": np.array([list(JOINTS)], dtype=object),
        "jnt_missing": 1.0 - columns["joints_vis"].T,
        "pos_gt_src": columns["joints"].transpose(1, 2, 0),
        "headboxes_src": columns["head_box"].transpose(1, 2, 0),
    }
    savemat(root / "annot" / "gt_valid.mat", content)

"""DeepLabCut, Lightning Pose and SLEAP: the coordinates of hand-made files, whoever labelled them and in which form."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from datamodules import DataError, Skeleton
from datamodules.convert import convert
from tests.datamodules.convert.pictures import entries, picture, points, text

HEADER = (
    "scorer,,,Ann,Ann,Ann,Ann,Ann,Ann\nbodyparts,,,left_ear,left_ear,right_ear,right_ear,tail,tail\n"
    "coords,,,x,y,x,y,x,y\n"
)


def project(root: Path) -> Path:
    """A project of two videos and one animal."""
    for video in ("vid 1", "vidéo2"):
        rows = [f"labeled-data,{video},img{i}.png,{10 + i},20.5,30,{21 + i},,\n" for i in range(3)]
        text(root / "labeled-data" / video / "CollectedData_Ann.csv", HEADER + "".join(rows))
        for i in range(3):
            picture(root / "labeled-data" / video / f"img{i}.png")
    config = {"scorer": "Ann", "bodyparts": ["tail", "left_ear", "right_ear"], "skeleton": [["left_ear", "tail"]]}
    text(root / "config.yaml", yaml.safe_dump(config))
    text(root / "training-datasets/it0/CollectedData_Ann.csv", HEADER + "labeled-data,vid 1,img0.png,1,1,1,1,1,1\n")
    return root


def test_a_deeplabcut_project_becomes_coco_key_points(tmp_path: Path) -> None:
    converted = convert(project(tmp_path / "mice"), tmp_path / "out")
    assert (converted.format, converted.task) == ("deeplabcut", "pose")
    found = entries(converted)
    assert set(found) == {f"{video}/img{i}.png" for video in ("vid 1", "vidéo2") for i in range(3)}
    (entry,) = found["vid 1/img2.png"]
    assert points(entry) == [(0, 0, 0), (12, 20.5, 2), (30, 23, 2)]  # in the order of config.yaml; the tail is empty
    assert entry["num_keypoints"] == 2
    # About 12 to 30 and 20.5 to 23, a tenth of 18 more on each side.
    assert entry["bbox"] == pytest.approx([10.2, 18.7, 21.6, 6.1])
    skeleton = Skeleton.load(converted.folder / "skeleton.yaml")
    assert skeleton.names == ("tail", "left_ear", "right_ear")
    assert skeleton.limbs == ((1, 0),)
    assert skeleton.flip_pairs == ((1, 2),)
    videos = [{name.split("/")[0] for name in names(converted.folder, split)} for split in ("train", "val")]
    assert len(videos[0]) == len(videos[1]) == 1
    assert videos[0] != videos[1]


def names(folder: Path, split: str) -> set[str]:
    content = json.loads((folder / f"annotations/person_keypoints_{split}2017.json").read_text())
    for image in content["images"]:
        assert (folder / f"{split}2017" / image["file_name"]).is_file()
    return {image["file_name"] for image in content["images"]}


def test_several_animals_are_several_entries_and_unique_parts_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "labeled-data/v"
    header = (
        "scorer,,,A,A,A,A,A,A\nindividuals,,,m1,m1,m2,m2,single,single\nbodyparts,,,nose,nose,nose,nose,lever,lever\n"
        "coords,,,x,y,x,y,x,y\n"
    )
    rows = (
        "".join(f"labeled-data,v,{i}.png,5,6,{40 + i},41,1,1\n" for i in range(3)) + "labeled-data,v,3.png,7,8,,,1,1\n"
    )
    path = text(folder / "CollectedData_A.csv", header + rows)
    for i in range(4):
        picture(folder / f"{i}.png")
    converted = convert(path, tmp_path / "out")
    found = entries(converted)
    assert [points(entry) for entry in found["v/1.png"]] == [[(5, 6, 2)], [(41, 41, 2)]]
    assert [points(entry) for entry in found["v/3.png"]] == [[(7, 8, 2)]]
    assert converted.left_out == {"key points of no animal (DeepLabCut's unique body parts)": 4}
    assert any("one clip" in line for line in converted.lines)
    assert names(converted.folder, "val") == {"v/3.png"}  # the end of the clip


def scorers(folder: Path) -> Path:
    header = "scorer,Ann,Ann,Bob,Bob\nbodyparts,nose,nose,nose,nose\ncoords,x,y,x,y\n"
    rows = "labeled-data/v/0.png,1,2,3,4\nlabeled-data/v/1.png,5,6,,\nlabeled-data/v/2.png,,,7,8\n"
    for i in range(3):
        picture(folder / f"labeled-data/v/{i}.png")
    return text(folder / "labeled-data/v/CollectedData_all.csv", header + rows)


def test_of_several_scorers_the_first_with_labels_is_taken_or_the_one_asked_for(tmp_path: Path) -> None:
    path = scorers(tmp_path)
    converted = convert(path, tmp_path / "out")
    found = {name: points(entry) for name, (entry,) in entries(converted).items()}
    assert found == {"v/0.png": [(1, 2, 2)], "v/1.png": [(5, 6, 2)], "v/2.png": [(7, 8, 2)]}
    assert converted.left_out == {"images' labels by Bob, which Ann labelled too": 1}
    only = convert(path, tmp_path / "bob", scorer="Bob")
    found = {name: points(entry) for name, (entry,) in entries(only).items()}
    assert found == {"v/0.png": [(3, 4, 2)], "v/2.png": [(7, 8, 2)]}
    assert only.left_out["images that --scorer did not label"] == 1
    with pytest.raises(DataError, match="--scorer Eve labelled nothing here: choose one of Ann, Bob"):
        convert(path, tmp_path / "eve", scorer="Eve")


def test_unlikely_key_points_of_a_network_are_not_labelled(tmp_path: Path) -> None:
    header = "scorer,DLC,DLC,DLC,DLC,DLC,DLC\nbodyparts,a,a,a,b,b,b\ncoords,x,y,likelihood,x,y,likelihood\n"
    rows = "".join(f"labeled-data/v/{i}.png,1,2,0.7,3,4,0.5\n" for i in range(2))
    path = text(tmp_path / "labeled-data/v/machinelabels-iter0.csv", header + rows)
    for i in range(2):
        picture(tmp_path / f"labeled-data/v/{i}.png")
    converted = convert(path, tmp_path / "out")
    assert points(entries(converted)["v/0.png"][0]) == [(1, 2, 2), (0, 0, 0)]
    assert converted.left_out == {"key points with a likelihood below 0.6": 2}
    assert points(entries(convert(path, tmp_path / "all", likelihood=0.5))["v/0.png"][0]) == [(1, 2, 2), (3, 4, 2)]


def test_what_a_network_found_in_a_video_is_no_labels(tmp_path: Path) -> None:
    path = text(
        tmp_path / "clipDLC_resnet50.csv", "scorer,D,D,D\nbodyparts,a,a,a\ncoords,x,y,likelihood\n0,1,2,1\n1,1,2,1\n"
    )
    with pytest.raises(DataError, match="numbers of frames instead of names of images"):
        convert(path, tmp_path / "out")


def hdf(
    path: Path, columns: list[tuple[str, ...]], index: list[tuple[str, ...]], blocks: list[list[int]], values
) -> Path:
    """A table as pandas' `to_hdf` stores it: levels and codes of each axis, numbers in blocks of columns."""
    h5py = pytest.importorskip("h5py")

    def axis(group, name: str, rows: list[tuple[str, ...]]) -> None:
        group.attrs[f"{name}_variety"] = np.bytes_("multi")
        group.attrs[f"{name}_nlevels"] = len(rows[0])
        for level, cells in enumerate(zip(*rows, strict=True)):
            known = sorted(set(cells))
            group[f"{name}_level{level}"] = np.array([cell.encode() for cell in known])
            group[f"{name}_label{level}"] = np.array([known.index(cell) for cell in cells], np.int8)

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        group = file.create_group("df_with_missing")
        group.attrs["pandas_type"] = np.bytes_("frame")
        group.attrs["nblocks"] = len(blocks)
        axis(group, "axis0", columns)
        if len(index[0]) == 1:
            group.attrs["axis1_variety"] = np.bytes_("regular")
            group["axis1"] = np.array([row[0].encode() for row in index])
        else:
            axis(group, "axis1", index)
        for number, places in enumerate(blocks):
            axis(group, f"block{number}_items", [columns[place] for place in places])
            group[f"block{number}_values"] = np.array(values)[:, places]
    return path


@pytest.mark.parametrize("levels", [1, 3])
def test_hdf5_says_what_the_csv_says(tmp_path: Path, levels: int) -> None:
    columns = [("Ann", part, c) for part in ("nose", "tail") for c in ("x", "y")]
    index = [("labeled-data", "v", f"{i}.png") for i in range(2)]
    index = index if levels == 3 else [("/".join(row),) for row in index]
    path = tmp_path / "labeled-data/v/CollectedData_Ann.h5"
    hdf(path, columns, index, [[0, 3], [1, 2]], [[1.5, 2, 3, 4], [5, 6, np.nan, np.nan]])
    for i in range(2):
        picture(path.parent / f"{i}.png")
    found = entries(convert(tmp_path, tmp_path / "out"))
    assert points(found["v/0.png"][0]) == [(1.5, 2, 2), (3, 4, 2)]
    assert points(found["v/1.png"][0]) == [(5, 6, 2), (0, 0, 0)]


def test_pickled_columns_are_not_read(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "CollectedData_Ann.h5"
    with h5py.File(path, "w") as file:
        file.create_group("df_with_missing").attrs["pandas_type"] = np.bytes_("frame_table")
    with pytest.raises(DataError, match="pickled"):
        convert(path, tmp_path / "out")


def test_lightning_pose_names_images_relative_to_its_file(tmp_path: Path) -> None:
    header = "scorer,s,s,s,s\nbodyparts,paw_l,paw_l,paw_r,paw_r\ncoords,x,y,x,y\n"
    for file, videos in (("CollectedData.csv", "ab"), ("CollectedData_new.csv", "c")):
        rows = [f"labeled-data/{video}/img{i}.png,{i + 1},2,nan,nan\n" for video in videos for i in range(2)]
        text(tmp_path / "mirror" / file, header + "".join(rows))
    for video in "abc":
        for i in range(2):
            picture(tmp_path / f"mirror/labeled-data/{video}/img{i}.png")
    converted = convert(tmp_path / "mirror", tmp_path / "out")
    assert converted.format == "lightning_pose"
    found = entries(converted)
    assert len(found) == 6
    assert points(found["c/img1.png"][0]) == [(2, 2, 2), (0, 0, 0)]
    assert Skeleton.load(converted.folder / "skeleton.yaml").flip_pairs == ((0, 1),)


def test_images_that_are_not_there_are_counted(tmp_path: Path) -> None:
    path = scorers(tmp_path)
    (tmp_path / "labeled-data/v/1.png").unlink()
    converted = convert(path, tmp_path / "out")
    assert converted.left_out["images that were not found"] == 1
    assert any("1 images that were not found (labeled-data/v/1.png)" in line for line in converted.lines)


# ---- SLEAP

SKELETON = {
    "links": [
        {"source": 0, "target": 1, "type": {"py/reduce": [{"py/type": "sleap.skeleton.EdgeType"}, {"py/tuple": [1]}]}},
        {"source": 0, "target": 2, "type": {"py/id": 1}},
        {"source": 1, "target": 2, "type": {"py/reduce": [{"py/type": "sleap.skeleton.EdgeType"}, {"py/tuple": [2]}]}},
        {"source": 2, "target": 1, "type": {"py/id": 2}},
    ],
    "nodes": [{"id": 0}, {"id": 1}, {"id": 2}],
}


def slp(path: Path, video: dict, version: float = 1.2, stored: list[bytes] | None = None) -> Path:
    """A project with a labelled instance on frames 0, 2 and 4, and one of a network on frame 0."""
    h5py = pytest.importorskip("h5py")
    metadata = {"skeletons": [SKELETON], "nodes": [{"name": name} for name in ("nose", "ear_L", "ear_R")]}
    frame = [
        ("frame_id", "u8"),
        ("video", "u4"),
        ("frame_idx", "u8"),
        ("instance_id_start", "u8"),
        ("instance_id_end", "u8"),
    ]
    instance = [
        ("instance_id", "i8"), ("instance_type", "u1"), ("frame_id", "u8"), ("skeleton", "u4"), ("track", "i4"),
        ("from_predicted", "i8"), ("score", "f4"), ("point_id_start", "u8"), ("point_id_end", "u8"),
    ]  # fmt: skip
    point = [("x", "f8"), ("y", "f8"), ("visible", "?"), ("complete", "?")]
    with h5py.File(path, "w") as file:
        group = file.create_group("metadata")
        group.attrs["format_id"], group.attrs["json"] = version, np.bytes_(json.dumps(metadata))
        file["videos_json"] = np.array([json.dumps(video).encode()], dtype=h5py.string_dtype())
        file["frames"] = np.array([(0, 0, 0, 0, 2), (1, 0, 2, 2, 3), (2, 0, 4, 3, 4)], frame)
        file["instances"] = np.array(
            [(i, kind, 0, 0, -1, -1, 0.0, at, at + 3) for i, (kind, at) in enumerate([(0, 0), (1, 0), (0, 3), (0, 6)])],
            instance,
        )
        rows = []
        for x in (10.5, 20.5, 30.5):
            rows += [(x, 8.0, True, False), (x + 1, 9.0, False, False), (np.nan, np.nan, True, False)]
        file["points"] = np.array(rows, point)
        file["pred_points"] = np.array([(1.0, 1.0, True, False, 0.9)] * 3, [*point, ("score", "f8")])
        if stored:
            width = max(map(len, stored))
            file["video0/video"] = np.array([np.frombuffer(d.ljust(width, b"\0"), np.int8) for d in stored])
            file["video0/video"].attrs["format"] = "png"
            file["video0/frame_numbers"] = [0, 2, 4]
    return path


@pytest.mark.parametrize(("version", "shift"), [(1.2, 0.0), (1.0, 0.5)])
def test_sleap_takes_what_people_labelled(tmp_path: Path, version: float, shift: float) -> None:
    images = [picture(tmp_path / f"clip/a{i}.png") for i in range(5)]
    backend = {"filename": str(images[0]), "filenames": [f"clip/a{i}.png" for i in range(5)]}
    path = slp(tmp_path / "labels.slp", {"backend": backend}, version)
    converted = convert(path, tmp_path / "out")
    found = entries(converted)
    assert set(found) == {"clip/a0.png", "clip/a2.png", "clip/a4.png"}
    (entry,) = found["clip/a2.png"]
    assert points(entry) == [(20.5 - shift, 8 - shift, 2), (0, 0, 0), (0, 0, 0)]
    assert converted.left_out == {"instances that a network found": 1}
    skeleton = Skeleton.load(converted.folder / "skeleton.yaml")
    assert (skeleton.limbs, skeleton.flip_pairs) == (((0, 1), (0, 2)), ((1, 2),))


def test_sleap_packages_have_their_images_inside(tmp_path: Path) -> None:
    stored = [picture(tmp_path / f"x{i}.png").read_bytes() for i in range(3)]
    path = slp(tmp_path / "labels.pkg.slp", {"backend": {"filename": ".", "dataset": "video0/video"}}, stored=stored)
    converted = convert(path, tmp_path / "out")
    assert len(entries(converted)) == 3
    (last,) = (converted.folder / "val2017").rglob("*.png")
    assert last.name == "000004.png"
    assert last.read_bytes().rstrip(b"\0") == stored[2].rstrip(b"\0")


def test_sleap_frames_are_taken_from_the_video(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter(str(tmp_path / "run.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for i in range(5):
        writer.write(np.full((48, 64, 3), 50 * i, np.uint8))
    writer.release()
    path = slp(tmp_path / "labels.slp", {"backend": {"filename": "/home/somebody/videos/run.avi"}})
    converted = convert(path, tmp_path / "out")
    for split, frames in (("train", (0, 2)), ("val", (4,))):
        for frame in frames:
            pixels = cv2.imread(str(converted.folder / f"{split}2017/run.avi/{frame:06d}.png"))
            assert abs(pixels.mean() - 50 * frame) < 3


def test_sleap_analysis_files_are_read_with_their_scores(tmp_path: Path) -> None:
    h5py, cv2 = pytest.importorskip("h5py"), pytest.importorskip("cv2")
    writer = cv2.VideoWriter(str(tmp_path / "run.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for i in range(3):
        writer.write(np.full((48, 64, 3), 50 * i, np.uint8))
    writer.release()
    tracks = np.full((2, 2, 2, 3), np.nan)  # tracks, x y, nodes, frames
    tracks[0, :, 0] = [[1, 2, 3], [4, 5, 6]]
    tracks[0, :, 1] = [[7, 8, 9], [10, 11, 12]]
    tracks[1, :, 0, 1] = [20, 30]
    scores = np.where(np.isfinite(tracks[:, 0]), 0.9, np.nan)
    scores[0, 1, 1] = 0.1
    with h5py.File(tmp_path / "run.analysis.h5", "w") as file:
        file["tracks"], file["point_scores"] = tracks, scores
        file["track_occupancy"] = np.ones((3, 2))
        file["node_names"] = np.array([b"nose", b"tail"])
        file["edge_inds"] = np.array([[0, 1]])
        file["video_path"] = "C:\\videos\\run.avi"
    converted = convert(tmp_path / "run.analysis.h5", tmp_path / "out")
    found = entries(converted)
    assert [points(e) for e in found["run/000001.png"]] == [[(2, 5, 2), (0, 0, 0)], [(20, 30, 2), (0, 0, 0)]]
    assert [points(e) for e in found["run/000002.png"]] == [[(3, 6, 2), (9, 12, 2)]]
    assert converted.left_out == {"key points with a likelihood below 0.6": 1}

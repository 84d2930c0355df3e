"""SLEAP: a project or package (.slp, .pkg.slp), or an analysis file (.h5) beside its video.

Of a project the instances that people labelled are taken, not those that a network found. Coordinates have pixel
centres at integers; files of format 1.0 count from the corner of the first pixel, so 0.5 is taken from theirs.
"""

import json
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from datamodules.convert.formats.hdf import is_hdf, opened_hdf, text, values_of
from datamodules.convert.labels import UNNAMED, Labels, Picture, Point, Thing
from datamodules.convert.pixels import Embedded, ImageFile, Pixels, VideoFrame
from datamodules.convert.source_files import SourceFiles
from datamodules.findings import DataError
from datamodules.images.names import plain_spelling

LIMB, SYMMETRY = 1, 2
LABELLED = 0  # instance_type of people; 1 is of a network


def recognise(files: SourceFiles) -> list[Path]:
    """Projects by their ending; analysis files by what is in them."""
    projects = [path for path in files.ending_in(".slp") if is_hdf(path)]
    return projects or [path for path in files.ending_in(".h5", ".hdf5") if is_hdf(path) and _is_analysis(path)]


def _is_analysis(path: Path) -> bool:
    try:
        with opened_hdf(path) as file:
            return {"tracks", "node_names", "track_occupancy"} <= set(file)
    except DataError:
        return False


def read(files: SourceFiles) -> Labels:
    """The labels of all projects, or of all analysis files."""
    labels = Labels("sleap")
    for path in recognise(files):
        with opened_hdf(path) as file:
            if "metadata" in file:
                _read_project(file, path, files, labels)
            else:
                _read_analysis(file, path, files, labels)
    return labels


# ---- projects


def _read_project(file: Any, path: Path, files: SourceFiles, labels: Labels) -> None:
    metadata = json.loads(text(file["metadata"].attrs["json"]))
    shift = 0.5 if float(file["metadata"].attrs.get("format_id", 1.2)) < 1.1 else 0.0
    skeletons = [_Skeleton(metadata, place) for place in range(len(metadata["skeletons"]))]
    for skeleton in skeletons[:1]:
        labels.points += [name for name in skeleton.names if name not in labels.points]
        labels.limbs += [pair for pair in skeleton.pairs[LIMB] if pair not in labels.limbs]
        labels.flip_pairs += [pair for pair in skeleton.pairs[SYMMETRY] if pair not in labels.flip_pairs]
    videos = [_Video(file, json.loads(text(entry)), path, files) for entry in values_of(file["videos_json"], path)]
    instances, points = values_of(file["instances"], path), values_of(file["points"], path)
    for frame in values_of(file["frames"], path):
        video, number = videos[int(frame["video"])], int(frame["frame_idx"])
        item, things = f"frame {number} of {video.name}", []
        for instance in instances[int(frame["instance_id_start"]) : int(frame["instance_id_end"])]:
            if instance["instance_type"] != LABELLED:
                labels.left_out.add("instances that a network found", item)
            elif int(instance["skeleton"]) != 0:
                labels.left_out.add("instances of a further skeleton", item)
            else:
                rows = points[int(instance["point_id_start"]) : int(instance["point_id_end"])]
                thing = Thing(UNNAMED, points=_points(skeletons[0].names, rows, shift))
                things += [thing] if thing.points else []
        if not things:
            labels.left_out.add("frames without a labelled instance", item)
        elif (pixels := video.frame(number)) is None:
            labels.left_out.add("images that were not found", item)
        else:
            labels.pictures.append(Picture(pixels, video.picture_name(number), things, group=video.name))


def _points(names: list[str], rows: np.ndarray, shift: float) -> dict[str, Point]:
    """Those that are visible: SLEAP leaves hidden ones where its guess put them."""
    placed = zip(names, rows["x"].tolist(), rows["y"].tolist(), rows["visible"].tolist(), strict=True)
    return {n: Point(x - shift, y - shift) for n, x, y, visible in placed if visible and np.isfinite([x, y]).all()}


class _Skeleton:
    """Names of the nodes, and pairs of names by the type of edge. SLEAP writes it as jsonpickle writes a graph."""

    def __init__(self, metadata: dict[str, Any], place: int) -> None:
        skeleton, nodes = metadata["skeletons"][place], [str(node["name"]) for node in metadata["nodes"]]
        self.names = [nodes[int(node["id"])] for node in skeleton["nodes"]]
        self.pairs: dict[int, list[tuple[str, str]]] = {LIMB: [], SYMMETRY: []}
        kinds: list[int] = []  # in the order in which they come; later ones refer to them by place, from 1
        for link in skeleton.get("links", []):
            kind = link.get("type", {})
            if "py/reduce" in kind:
                kinds.append(next(int(p["py/tuple"][0]) for p in kind["py/reduce"] if "py/tuple" in p))
            found = kinds[-1] if "py/reduce" in kind else kinds[int(kind["py/id"]) - 1] if "py/id" in kind else LIMB
            pair = (nodes[int(link["source"])], nodes[int(link["target"])])
            known = self.pairs[found]
            if pair not in known and not (found == SYMMETRY and pair[::-1] in known):
                known.append(pair)


class _Video:
    """A video of a project: a video file, images, or frames within the package."""

    def __init__(self, file: Any, entry: dict[str, Any], path: Path, files: SourceFiles) -> None:
        backend = entry.get("backend", entry)
        stated = entry.get("filename") or backend.get("filenames") or backend.get("filename")
        self.path, self.files = path, files
        self.stored: dict[int, int] = {}
        dataset = backend.get("dataset")
        if dataset and dataset in file:
            self.data, group = file[dataset], file[dataset].parent
            numbers = group["frame_numbers"][()].tolist() if "frame_numbers" in group else range(len(self.data))
            self.stored = {int(number): place for place, number in enumerate(numbers)}
            source = json.loads(text(group["source_video"].attrs["json"])) if "source_video" in group else {}
            stated = source.get("filename") or source.get("backend", {}).get("filename") or f"{path.name}/{dataset}"
        self.images = [plain_spelling(str(name)) for name in stated] if isinstance(stated, list) else []
        whole = plain_spelling(str(stated[0] if self.images else stated))
        parts = PurePosixPath(whole).parts
        self.stated = whole
        self.name = "/".join((parts[:-1] if self.images else parts)[-2:]) or path.stem

    def frame(self, number: int) -> Pixels | None:
        """Where the pixels of a frame are; None where they are not found."""
        if number in self.stored:
            row = self.data[self.stored[number]]
            return Embedded(np.asarray(row).astype(np.int8).tobytes(), self.path) if np.ndim(row) == 1 else None
        if self.images:
            found = self.files.image(self.images[number], self.path.parent) if number < len(self.images) else None
            return None if found is None else ImageFile(found)
        found = self.files.video(self.stated, self.path.parent)
        return None if found is None else VideoFrame(found, number)

    def picture_name(self, number: int) -> str:
        """What a frame is called in the result."""
        folder = PurePosixPath(self.name).name
        if self.images and number < len(self.images):
            return f"{folder}/{PurePosixPath(self.images[number]).name}"
        return f"{folder}/{number:06d}.png"


# ---- analysis files


def _read_analysis(file: Any, path: Path, files: SourceFiles, labels: Labels) -> None:
    """Tracks (tracks, x y, nodes, frames), likewise their scores."""
    names = [text(name) for name in values_of(file["node_names"], path)]
    tracks = values_of(file["tracks"], path)
    if tracks.ndim != 4 or tracks.shape[1:3] != (2, len(names)):
        raise DataError(f"{path} has tracks of shape {tracks.shape}, expected (tracks, 2, {len(names)}, frames).")
    scores = values_of(file["point_scores"], path) if "point_scores" in file else None
    if scores is not None and scores.shape != (tracks.shape[0], len(names), tracks.shape[3]):
        scores = None
    labels.points += [name for name in names if name not in labels.points]
    for pair in values_of(file["edge_inds"], path).reshape(-1, 2).tolist() if "edge_inds" in file else ():
        labels.limbs.append((names[pair[0]], names[pair[1]]))
    stated = text(file["video_path"][()]) if "video_path" in file else ""
    video = files.video(stated, path.parent)
    if video is None:
        raise DataError(
            f"{path} is of the video {stated or '(not named)'}, which is not found: put it beside the file."
        )
    labels.notes.append(f"{path.name} has tracks, which may be a network's and not corrected by people.")
    for number in np.flatnonzero(np.isfinite(tracks).any(axis=(0, 1, 2))).tolist():
        things = []
        for track in range(len(tracks)):
            points = {}
            for node, name in enumerate(names):
                x, y = tracks[track, :, node, number].tolist()
                if not np.isfinite([x, y]).all():
                    continue
                score = None if scores is None else scores[track, node, number]
                if score is not None and np.isfinite(score) and score < files.likelihood:
                    reason = f"key points with a likelihood below {files.likelihood:g}"
                    labels.left_out.add(reason, f"{name} on frame {number} of {video.name}")
                else:
                    points[name] = Point(x, y)
            things += [Thing(UNNAMED, points=points)] if points else []
        if things:
            name = f"{video.stem}/{number:06d}.png"
            labels.pictures.append(Picture(VideoFrame(video, number), name, things, group=video.name))

"""The data doctor for a folder a class: unreadable images, classes that a split lacks, images of no or two classes."""

from collections import Counter, defaultdict
from functools import partial
from pathlib import Path

from datamodules.base import DataError, Split
from datamodules.check.findings import Report
from datamodules.check.images import (
    Seen,
    find_shared_images,
    look,
    note_left_out,
    note_orientations,
    relative,
    size_histogram,
)
from datamodules.classification.image_folder import ImageFolder, subfolders
from datamodules.findings import Mode
from datamodules.images.files import images_below, is_image
from datamodules.workers import in_threads


def check_image_folder(data: ImageFolder, report: Report, mode: Mode) -> None:
    """Write what is wrong with the folders and images of both splits to `report`."""
    folders = {}
    for split in ("train", "val"):
        try:
            folders[split] = data.split_folder(split)
        except DataError as error:
            report.add("unreadable data", split, str(data.folder / split), str(error))
    classes = {split: subfolders(folder) for split, folder in folders.items()}
    _compare_folders(data, folders, classes, report)
    seen = {split: _look_at_split(data, split, folder, report, mode) for split, folder in folders.items()}
    find_shared_images(seen, report, data.folder)
    note_orientations(seen, data.reading, report, data.folder)
    note_left_out({split: [folder] for split, folder in folders.items()}, report)
    for split, images in seen.items():
        _find_contradictions(data, split, folders[split], images, report)


def _compare_folders(
    data: ImageFolder, folders: dict[Split, Path], classes: dict[Split, list[str]], report: Report
) -> None:
    counts: dict[str, Counter] = {}
    for split, folder in folders.items():
        counts[split] = Counter({name: len(images_below(folder / name)) for name in classes[split]})
        for file in sorted(file for file in folder.iterdir() if is_image(file.name) and file.is_file()):
            report.add("file outside of the class folders", split, relative(file, data.folder), "has no class")
        report.count("images", split, counts[split])
    known = classes.get("train", [])
    try:
        _ = data.folders
    except DataError as error:
        report.add(
            "refused by the loader", "train", relative(folders.get("train", data.folder), data.folder), str(error)
        )
    for split in counts:
        for name in classes[split]:
            if "train" in classes and name not in known:
                path = relative(folders[split] / name, data.folder)
                report.add("unknown class folder", split, path, "train has no folder of this name")
    report.compare_classes(counts, known, stated=True, noun="image")


def _look_at_split(data: ImageFolder, split: Split, folder: Path, report: Report, mode: Mode) -> list[Seen]:
    files = [folder / name / file for name in subfolders(folder) for file in images_below(folder / name)]
    seen = in_threads(partial(look, size=None, mode=mode, reading=data.reading), files, f"images of {split}")
    for image in seen:
        if image.problem:
            report.add(image.problem[0], split, relative(image.path, data.folder), image.problem[1])
    report.saw(split, images=len(files))
    sizes = [image.size for image in seen if image.size]
    report.count("images, longer side in pixels", split, size_histogram(sizes))
    return seen


def _find_contradictions(data: ImageFolder, split: Split, folder: Path, seen: list[Seen], report: Report) -> None:
    """Find decoded images that are in the folders of two classes."""
    places: dict[str, list[Path]] = defaultdict(list)
    for image in seen:
        if image.fingerprint is not None and not image.fingerprint.endswith(" bytes"):
            places[image.fingerprint].append(image.path)
    for first, *others in places.values():
        for other in others:
            if other.relative_to(folder).parts[0] != first.relative_to(folder).parts[0]:
                found = f"is the same picture as {relative(first, data.folder)}"
                report.add("one image, two classes", split, relative(other, data.folder), found)

"""DeepLabCut: a project, its `labeled-data`, or a file of labels (CollectedData_<scorer>.csv or .h5).

Of one animal or several. `config.yaml` gives the order of body parts and the skeleton. A CSV is read rather than the
HDF5 file of the same name. What a network found (machinelabels) is taken where nobody labelled the folder.
"""

from pathlib import Path
from typing import Any

from datamodules.convert.formats.hdf import frame_in, is_hdf, opened_hdf
from datamodules.convert.formats.point_tables import chosen_scorers, is_point_csv, pictures_of, read_table
from datamodules.convert.labels import Labels
from datamodules.convert.source_files import SourceFiles
from datamodules.findings import DataError
from datamodules.loading.text_files import ConfigError, read_yaml

NOT_LABELS = {"training-datasets", "dlc-models", "dlc-models-pytorch", "evaluation-results", "videos"}
"""Folders of a project whose tables repeat labels, or are what a network found."""


def recognise(files: SourceFiles) -> list[Path]:
    """The files of labels, those of a CSV's name in another format apart."""
    found = []
    for path in files.ending_in(".csv", ".h5", ".hdf5"):
        if NOT_LABELS & set(Path(files.name_of(path)).parts[:-1]):
            continue
        if path.suffix.lower() == ".csv":
            if is_point_csv(path) and (_of_deeplabcut(files, path) or _config(files) is not None):
                found.append(path)
        elif (
            (not path.with_suffix(".csv").is_file() or files.source == path)
            and is_hdf(path)
            and (path.stem.startswith("CollectedData") or _has_frame(path))
        ):
            found.append(path)
    by_people = {path.parent for path in found if path.stem.startswith("CollectedData")}
    return [path for path in found if path.parent not in by_people or path.stem.startswith("CollectedData")]


def _of_deeplabcut(files: SourceFiles, path: Path) -> bool:
    """Whether a table is of DeepLabCut: in `labeled-data`, among its images, or of several individuals."""
    if "labeled-data" in path.resolve().parts[:-1] or path.stem.startswith("machinelabels"):
        return True
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return (
            any(file.readline(65536).startswith("individuals,") for _ in range(2)) or ",," in file.readline(65536)[:40]
        )


def _has_frame(path: Path) -> bool:
    try:
        with opened_hdf(path) as file:
            return frame_in(file, path) is not None
    except DataError:
        return False


def _config(files: SourceFiles) -> dict[str, Any] | None:
    """What the project's config.yaml says; None where there is none."""
    for folder in (files.root, files.root.parent, files.root.parent.parent):
        path = folder / "config.yaml"
        if path.is_file():
            try:
                content = read_yaml(path)
            except ConfigError:
                continue
            if isinstance(content, dict) and ({"bodyparts", "multianimalbodyparts"} & set(content)):
                return content
    return None


def read(files: SourceFiles) -> Labels:
    """The labels of all people, see `chosen_scorers`."""
    labels, config = Labels("deeplabcut"), _config(files) or {}
    tables = [read_table(path) for path in recognise(files)]
    stated = config.get("multianimalbodyparts") or config.get("bodyparts")
    if isinstance(stated, list):
        labels.points += [str(part) for part in stated]
    pictures_of(tables, files, labels, chosen_scorers(tables, files, config.get("scorer")))
    for pair in config.get("skeleton") or []:
        if isinstance(pair, list) and len(pair) == 2 and set(map(str, pair)) <= set(labels.points):
            labels.limbs.append((str(pair[0]), str(pair[1])))
    return labels

"""Lightning Pose: CSV files of labels beside the folder of their images (CollectedData.csv, labeled-data/...).

The table is DeepLabCut's for one animal, with one column of image names that are relative to the CSV's folder.
"""

from pathlib import Path

from datamodules.convert.formats import deeplabcut
from datamodules.convert.formats.point_tables import chosen_scorers, is_point_csv, pictures_of, read_table
from datamodules.convert.labels import Labels
from datamodules.convert.source_files import SourceFiles


def recognise(files: SourceFiles) -> list[Path]:
    """The CSV files with such a table, where none is DeepLabCut's."""
    return [] if deeplabcut.recognise(files) else _tables(files)


def read(files: SourceFiles) -> Labels:
    """The labels of all CSV files."""
    labels = Labels("lightning_pose")
    tables = [read_table(path) for path in _tables(files)]
    pictures_of(tables, files, labels, chosen_scorers(tables, files))
    return labels


def _tables(files: SourceFiles) -> list[Path]:
    return [path for path in files.ending_in(".csv") if is_point_csv(path)]

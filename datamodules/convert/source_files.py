"""The files of a source: what is there, parsed once, and the image that a label file means.

Label files are other people's: XML with a document type, which may hold entity bombs, is refused, and JSON is read by
the reader of COCO files.
"""

import csv
import io
import os
import re
from collections import defaultdict
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from datamodules.convert.pixels import VIDEO_ENDINGS
from datamodules.findings import DataError
from datamodules.images.files import IMAGE_ENDINGS, files_below, is_image
from datamodules.images.names import plain_spelling
from datamodules.keypoints.columns import read_json
from datamodules.loading.text_files import ConfigError, read_text

SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip


class SourceFiles:
    """A file or folder that a labelling tool wrote.

    Args:
        source: The file or folder.
        images: Folder of the images, where they are elsewhere.
        scorer: Whose labels are taken, where several people labelled.
        likelihood: Key points that a network found less likely are not taken.

    Raises:
        DataError: If there is no such file or folder, or it is packed.
    """

    def __init__(
        self, source: Path, images: Path | None = None, scorer: str | None = None, likelihood: float = 0.6
    ) -> None:
        self.scorer, self.likelihood = scorer, likelihood
        self.source = source.expanduser()
        if not self.source.exists():
            raise DataError(f"{source} is not there: name the file or folder that the labelling tool wrote.")
        if self.source.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"):
            raise DataError(f"{source} is packed: unpack it, and name the folder.")
        if images is not None and not images.expanduser().is_dir():
            raise DataError(f"--images {images} is no folder: name the one that has the images.")
        self.root = self.source if self.source.is_dir() else self.source.parent
        self.images = None if images is None else images.expanduser()
        self._json: dict[Path, Any] = {}

    @cached_property
    def files(self) -> list[Path]:
        """The file, or all files below the folder, sorted."""
        return [self.source] if self.source.is_file() else [self.root / name for name in sorted(files_below(self.root))]

    def ending_in(self, *endings: str) -> list[Path]:
        """Those with one of these endings, in any case."""
        return [path for path in self.files if path.suffix.lower() in endings]

    def json(self, path: Path) -> Any:
        """What a JSON file holds; raises DataError where it is none."""
        if path not in self._json:
            self._json = {path: read_json(path, "JSON")}  # the last one alone: LabelMe's files hold the images
        return self._json[path]

    def name_of(self, path: Path) -> str:
        """How messages call a file."""
        return os.path.relpath(path, self.root)

    def split_of(self, path: Path) -> str | None:
        """The split that a folder on the way to a file names."""
        for part in Path(self.name_of(path)).parts[:-1]:
            if part.lower() in SPLITS:
                return SPLITS[part.lower()]
        return None

    # ---- images

    @cached_property
    def _pictures(self) -> dict[str, list[Path]]:
        return self._by_name([*IMAGE_ENDINGS])

    @cached_property
    def _videos(self) -> dict[str, list[Path]]:
        return self._by_name([*VIDEO_ENDINGS])

    def _by_name(self, endings: list[str]) -> dict[str, list[Path]]:
        """Files of these endings below the folders, by their names without folders."""
        found: dict[str, list[Path]] = defaultdict(list)
        for folder in (self.root, self.images):
            for name in sorted(files_below(folder)) if folder is not None else ():
                if name.lower().endswith(tuple(endings)):
                    found[plain_spelling(os.path.basename(name))].append(folder / name)
        return found

    def image(self, stated: str, beside: Path) -> Path | None:
        """The image file that a label file in the folder `beside` calls `stated`; None where it is not found.

        Looked for as stated, relative to the label file, to the source and to --images, and at last by its name alone,
        where only one file has it.
        """
        return self._found(stated, beside, self._pictures) if stated else None

    def video(self, stated: str, beside: Path) -> Path | None:
        """The video file that is called `stated`, likewise."""
        return self._found(stated, beside, self._videos) if stated else None

    def _found(self, stated: str, beside: Path, known: dict[str, list[Path]]) -> Path | None:
        name = plain_spelling(_file_of(stated))
        folders = [self.images, beside, self.root, beside.parent]
        for folder in dict.fromkeys(filter(None, folders)):
            for below in ("", "images", "JPEGImages"):
                path = folder / below / name
                if _is_file(path):
                    return path
        base = name.rpartition("/")[2]
        if _is_file(beside / base):
            return beside / base
        without_prefix = re.sub(r"^[0-9a-f]{8}-", "", base)  # which Label Studio puts before names of uploads
        for wanted in dict.fromkeys((base, without_prefix)):
            files = known.get(wanted, [])
            ends = [path for path in files if plain_spelling(f"/{path.as_posix()}").endswith(f"/{name}")]
            if len(set(map(os.path.realpath, ends or files))) == 1:
                return (ends or files)[0]
        return None

    def image_of_stem(self, stem: str, beside: Path) -> Path | None:
        """The image whose name without ending is `stem`, likewise."""
        for ending in (*IMAGE_ENDINGS, *(ending.upper() for ending in IMAGE_ENDINGS)):
            path = self.image(stem + ending, beside)
            if path is not None:
                return path
        return None

    def images_in(self, folder: Path) -> list[Path]:
        """All images below a folder, sorted."""
        return [folder / name for name in sorted(files_below(folder)) if is_image(os.path.basename(name))]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _file_of(stated: str) -> str:
    """The path that is meant by a path, a URL, or Label Studio's `/data/local-files/?d=path`."""
    url = urlparse(stated)
    if "d" in (asked := parse_qs(url.query)):
        return asked["d"][0]
    return unquote(url.path) if len(url.scheme) > 1 else stated  # one letter is a drive of Windows


def parse_xml(path: Path, data: bytes | None = None) -> Element:
    """The root of an XML file.

    Raises:
        DataError: If it is no XML, or declares a document type, which labels never need and entity bombs do.
    """

    def refuse(*_: object) -> None:
        raise DataError(f"{path} declares a document type (DOCTYPE), which is not read: remove that line.")

    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(path.read_bytes() if data is None else data, True)
        return builder.close()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from error
    except (expat.ExpatError, AssertionError, ValueError, LookupError) as error:
        raise DataError(f"{path} is no XML ({error}): export it again.") from error


def read_csv(path: Path) -> list[list[str]]:
    """The rows of a CSV file in UTF-8; raises DataError where it cannot be read."""
    try:
        return list(csv.reader(io.StringIO(read_text(path), newline="")))
    except (ConfigError, csv.Error) as error:
        raise DataError(f"{path} is no CSV file that can be read. {error}") from error

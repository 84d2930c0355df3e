"""Reading label masks: what a file holds (ids, colours, a MATLAB map) becomes class ids, 255 where nothing is scored.

Used by every segmentation data set; a value that is no class stops the run with the file's name. Ids are the stored
numbers, also where these have 1, 2 or 4 bits; formats that change numbers to save space (JPEG) are refused.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.base import DataError
from datamodules.images.files import PIXEL_LIMIT, format_of, opened, read_bytes, read_header, refuse_beyond
from datamodules.images.matlab import read_matlab, shapes_in
from datamodules.images.pixels import deep_values

IGNORED = 255
MAP = "LabelMap"
MATLAB = {
    "expected": f"a MATLAB file with the matrix {MAP} (height, width)",
    "advice": "Fetch it again or remove its image.",
}
_UNKNOWN = -1
PGM = re.compile(rb"P[25](?:#.*\n|\s)+\d+(?:#.*\n|\s)+\d+(?:#.*\n|\s)+(\d{1,9})")
LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")
WHITE_OR_BLACK, WHITE_IS_ZERO = 262, 0
"""Tag of a TIFF and its value where the number 0 is white."""


def lookup(classes: Mapping[int, int], num_classes: int, size: int = 256) -> np.ndarray:
    """Table (size,) int16 from the ids in mask files to classes; -1 for ids that must not occur.

    Raises:
        DataError: an id outside 0..size-1, or a class that is neither one of `num_classes` nor 255.
    """
    table = np.full(size, _UNKNOWN, np.int16)
    for value, label in classes.items():
        if not (0 <= value < size and (0 <= label < num_classes or label == IGNORED)):
            raise DataError(
                f"The mask id {value} is mapped to class {label}: ids are 0 to {size - 1}, classes 0 to "
                f"{num_classes - 1}, and {IGNORED} for what is ignored. Correct id_map or class_names."
            )
        table[value] = label
    return table


def voc_palette(count: int) -> list[tuple[int, int, int]]:
    """The (r, g, b) of PASCAL VOC's colour map: bits of the index dealt to the three channels, high bits first."""

    def channel(index: int, shift: int) -> int:
        return sum(((index >> (3 * bit + shift)) & 1) << (7 - bit) for bit in range(3))

    return [(channel(index, 0), channel(index, 1), channel(index, 2)) for index in range(count)]


class UnknownLabels(DataError):
    """A mask has ids or colours that are no class."""


class IndexMasks:
    """Reads masks of one id a pixel.

    Args:
        table: (ids,) class of each id, see `lookup`.
        class_names: Names of the classes, which the error message shows.
        pixel_limit: Larger files are refused before they are decoded.
    """

    def __init__(self, table: np.ndarray, class_names: Sequence[str], pixel_limit: int = PIXEL_LIMIT) -> None:
        self.table, self.class_names, self.pixel_limit = table, list(class_names), pixel_limit

    def __call__(self, path: Path) -> np.ndarray:
        """The classes (H, W) uint8; raises DataError for a file that cannot be read or an id that is no class."""
        ids = _read(path, self.pixel_limit)
        if ids.ndim != 2:
            raise DataError(
                f"The mask {path} has {ids.shape[2]} colour channels, expected one id a pixel: convert it, or, with "
                "FolderSegmentation, give the classes' colours as `palette` and set `colour_masks: true`."
            )
        if ids.dtype.kind == "f":
            ids = _whole(ids, path)
        if ids.dtype != np.uint8:
            inside = np.where((ids < 0) | (ids >= len(self.table)), len(self.table), ids)
            classes = np.append(self.table, np.int16(_UNKNOWN))[inside]
        else:
            classes = np.pad(self.table, (0, max(0, 256 - len(self.table))), constant_values=_UNKNOWN)[ids]
        unknown = classes == _UNKNOWN
        if unknown.any():
            self._refuse(path, np.unique(ids[unknown]).tolist(), unknown)
        return classes.astype(np.uint8)

    def _refuse(self, path: Path, found: list[int], unknown: np.ndarray) -> None:
        known = np.flatnonzero(self.table != _UNKNOWN)
        raise UnknownLabels(
            f"The mask {path} has {int(unknown.sum())} pixels of the ids {found[:8]}, which are no class: the known "
            f"ids are {_ranges(known)}, for the {len(self.class_names)} classes {', '.join(self.class_names[:3])}, "
            "... Correct the mask or the class names; FolderSegmentation also has `id_map` and `ignore_label`."
        )


class ColourMasks:
    """Reads masks of one colour a pixel.

    Args:
        palette: (r, g, b) of each class.
        ignored: Colours of what is not scored.
        pixel_limit: Larger files are refused before they are decoded.

    Raises:
        DataError: a colour stands for two classes.
    """

    def __init__(
        self, palette: Sequence[Sequence[int]], ignored: Iterable[Sequence[int]] = (), pixel_limit: int = PIXEL_LIMIT
    ) -> None:
        self.pixel_limit = pixel_limit
        classes = [*range(len(palette)), *(IGNORED for _ in ignored)]
        codes = _codes(np.array([*palette, *ignored], np.int32).reshape(-1, 3))
        order = np.argsort(codes)
        self.codes, self.classes = codes[order], np.array(classes, np.uint8)[order]
        twice = self.codes[1:][np.diff(self.codes) == 0]
        if len(twice):
            raise DataError(f"The colour {_colour(twice[0])} stands for two classes: correct `palette`.")

    def __call__(self, path: Path) -> np.ndarray:
        """The classes (H, W) uint8; raises DataError for a file that cannot be read or a colour that is no class."""
        colours = _read(path, self.pixel_limit, colours=True)
        if colours.ndim != 3 or colours.shape[2] < 3:
            raise DataError(
                f"The mask {path} has one number a pixel, expected colours: leave `colour_masks` out, or write masks "
                "in the colours of `palette`."
            )
        codes = _codes(colours.astype(np.int32))
        positions = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
        unknown = self.codes[positions] != codes
        if unknown.any():
            found = ", ".join(str(_colour(code)) for code in np.unique(codes[unknown])[:4])
            raise UnknownLabels(
                f"The mask {path} has {int(unknown.sum())} pixels of the colours {found}, which are no class: correct "
                "`palette`, or name them in `ignore_colours`. JPEG changes colours: masks must be PNG."
            )
        return self.classes[positions]


def _codes(colours: np.ndarray) -> np.ndarray:
    return colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]


def _colour(code: int) -> tuple[int, int, int]:
    return int(code) >> 16, int(code) >> 8 & 255, int(code) & 255


def _ranges(values: np.ndarray) -> str:
    """Sorted integers as `0-10, 255`."""
    runs = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs if len(run))


def _whole(values: np.ndarray, path: Path) -> np.ndarray:
    """Ids that a file holds as floats; DataError where some are no whole numbers."""
    broken = ~np.isfinite(values) | (values != np.rint(values))
    if broken.any():
        raise DataError(
            f"The mask {path} holds {values.dtype} numbers, {int(broken.sum())} of them not whole, such as "
            f"{values[broken][0]:.4g}: these are no ids of classes (probabilities, or an interpolated mask?). Write "
            "one whole number a pixel."
        )
    return values.astype(np.int64)


def mask_size(path: Path, pixel_limit: int = PIXEL_LIMIT) -> tuple[int, int]:
    """(height, width) of a mask, from the file's head."""
    return _matlab_size(path, pixel_limit) if path.suffix == ".mat" else read_header(path, limit=pixel_limit).size


def _read(path: Path, pixel_limit: int, *, colours: bool = False) -> np.ndarray:
    """Stored pixels of a mask file: (H, W) ids, or (H, W, C) of a colour file."""
    if path.suffix == ".mat":
        return _matlab(path, pixel_limit)
    try:
        data = read_bytes(path)
        bits = data[24] if data[12:16] == b"IHDR" and len(data) > 24 else 8
        if format_of(data[:16]) == "TIFF":
            header = read_header(path, data, limit=pixel_limit)
            bits = header.bits
            if bits > 8 or header.number != "unsigned":
                return deep_values(path, data, header, pixel_limit)
        # Not OpenCV, which turns the indices of a palette PNG into colours.
        with opened(path, data, limit=pixel_limit) as image:
            _refuse_lossy(path, image, data)
            return np.asarray(image.convert("RGB")) if colours else _stored_ids(image, data, bits)
    except DataError as error:
        raise DataError(f"The mask {path} cannot be read: {error}") from error


def _refuse_lossy(path: Path, image: Image.Image, data: bytes) -> None:
    """Raise DataError for a mask whose format changes values: some at every border become other classes in silence."""
    if (
        image.format == "JPEG"
        or image.info.get("compression") in LOSSY_TIFF
        or (image.format == "WEBP" and _is_lossy_webp(data))
    ):
        raise DataError(
            f"it is a {image.format} that saves space by changing values, so that ids and colours of classes become "
            "others; write masks as PNG."
        )


def _is_lossy_webp(data: bytes) -> bool:
    at = 12
    while at + 8 <= len(data) and data[at : at + 4] != b"VP8 ":
        at += 8 + (int.from_bytes(data[at + 4 : at + 8], "little") + 1) // 2 * 2
    return data[at : at + 4] == b"VP8 "


def _stored_ids(image: Image.Image, data: bytes, bits: int) -> np.ndarray:
    """The numbers of a file, where Pillow makes grey of them: 255 for the highest that its bits hold, or for 0."""
    scale = PGM.match(data)
    if scale and int(scale[1]) not in (255, 65535):
        raise DataError(f"it is a PGM whose white is {int(scale[1])}, expected 255; write masks as PNG.")
    ids = np.asarray(image)
    turned = image.tag_v2.get(WHITE_OR_BLACK) == WHITE_IS_ZERO if image.format == "TIFF" else image.format == "PPM"
    if image.mode == "1":
        return (~ids if turned else ids).astype(np.uint8)
    if image.mode != "L":
        return ids
    ids = 255 - ids if turned and image.format == "TIFF" else ids
    return ids // (255 // (2**bits - 1)) if bits in (2, 4) else ids


def _matlab_size(path: Path, pixel_limit: int) -> tuple[int, int]:
    """(height, width) of the map in a MATLAB file, of which only PASCAL-Context has some."""
    shape = shapes_in(path, MAP, **MATLAB).get(MAP, ())
    if len(shape) != 2:
        raise DataError(f"{path} cannot be read (it has {MAP} {shape}): expected {MATLAB['expected']}.")
    refuse_beyond(pixel_limit, path, (shape[0], shape[1]))
    return shape[0], shape[1]


def _matlab(path: Path, pixel_limit: int) -> np.ndarray:
    _matlab_size(path, pixel_limit)
    ids = np.asarray(read_matlab(path, MAP, **MATLAB)[0])
    if ids.ndim != 2 or ids.dtype.kind not in "biuf":
        found = f"it has {MAP} {ids.shape} of {ids.dtype}"
        raise DataError(f"{path} cannot be read ({found}): expected {MATLAB['expected']}, of numbers.")
    return ids

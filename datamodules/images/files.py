"""Which files are images, and opening them: the only place where that happens.

Pillow left to itself opens whatever it knows, by the content and not by the name; for PostScript it starts Ghostscript,
so that a downloaded `photo.jpg` could run programs. Here a file has to begin like one of seven formats.
"""

import contextlib
import io
import os
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from datamodules.findings import DataError, refused

IMAGE_ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
    ".pnm",
)  # fmt: skip
"""Endings, in any case, by which every data set and prediction know images in a folder."""
PIXEL_LIMIT = 178_956_970
"""Pixels beyond which a file is refused before it is decoded, Pillow's own figure: half a gigabyte as RGB."""
ORIENTATION = ExifTags.Base.Orientation

OPENERS: dict[str, Callable[..., Image.Image]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "BMP": BmpImageFile,
    "GIF": GifImageFile,
    "WEBP": WebPImageFile,
    "TIFF": TiffImageFile,
    "PPM": PpmImageFile,
}
SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"BM": "BMP",
    b"GIF8": "GIF",
    b"RIFF": "WEBP",  # and WEBP four bytes later, or it is a sound or a video
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    **{b"P%d" % kind: "PPM" for kind in range(1, 7)},
}
SIDEWAYS = (5, 6, 7, 8)  # orientations that exchange height and width
GREYS = ("1", "L", "LA", "I", "I;16", "I;16B")


@dataclass(frozen=True)
class Reading:
    """How the files of a data set become pixels.

    Args:
        upright: Turn images as their EXIF orientation says. Where not given, annotations decide for the whole data set:
            if any image has its annotated size, or its mask's, only when turned, all that carry an orientation are
            turned, else none. Classified images are turned.
        value_range: (lowest, highest) value that becomes black and white, in images of more than 8 bits or of floats;
            values beyond are cut off. Where not given, 16 bits keep their upper 8, and images that would come out
            almost black are refused, as are floats.
        pixel_limit: Images and masks of more pixels are refused before they are decoded.
    """

    upright: bool | None = None
    value_range: tuple[float, float] | None = None
    pixel_limit: int = PIXEL_LIMIT

    def checked(self) -> "Reading":
        """This; raises DataError where the range is empty, or the limit below 1."""
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise DataError(f"value_range {list(self.value_range)} should be the lowest value, then the highest.")
        if self.pixel_limit < 1:
            raise DataError(f"pixel_limit is a number of pixels, at least 1; it is {self.pixel_limit}.")
        return self


PLAIN = Reading()


class Header(NamedTuple):
    """What the head of an image file says; of the stored pixels, before any turning."""

    size: tuple[int, int]  # height, width
    orientation: int = 1  # 1 to 8, as in EXIF; 1 stands upright
    bits: int = 8  # of a value
    number: str = "unsigned"  # kind of the values: unsigned, signed or float
    bands: int = 3  # values of a pixel, without transparency

    @property
    def shown(self) -> tuple[int, int]:
        """(height, width) as a viewer shows the image."""
        return self.size[::-1] if self.orientation in SIDEWAYS else self.size

    @property
    def depth(self) -> str:
        """Such as `16-bit unsigned, 1 band`."""
        return f"{self.bits}-bit {self.number}, {self.bands} band{'s' * (self.bands != 1)}"


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image: one of `IMAGE_ENDINGS`, and not hidden (`._a.jpg`)."""
    return name.lower().endswith(IMAGE_ENDINGS) and not name.startswith(".")


def files_below(folder: str | Path) -> Iterator[str]:
    """Files in a folder and its folders, links followed, relative to it, in no order; not those in hidden folders."""
    been: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        place = os.stat(parent)
        if (place.st_dev, place.st_ino) in been:  # a link to a folder above
            folders.clear()
            continue
        been.add((place.st_dev, place.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = os.path.relpath(parent, folder)
        yield from (name if below == "." else os.path.join(below, name) for name in names)


def images_below(folder: str | Path, endings: tuple[str, ...] = IMAGE_ENDINGS) -> list[str]:
    """The images in a folder and its folders, relative to it and sorted; every data set and prediction take these."""
    names = (name for name in files_below(folder) if name.lower().endswith(endings))
    return sorted(name for name in names if not os.path.basename(name).startswith("."))


def left_out(folder: str | Path, endings: tuple[str, ...] = IMAGE_ENDINGS) -> Counter:
    """How many files in a folder and its folders are not taken for images, by ending."""
    counts: Counter = Counter()
    for name in files_below(folder):
        stem, ending = os.path.splitext(os.path.basename(name))
        if stem.startswith("."):
            counts["hidden"] += 1
        elif ending.lower() not in endings:
            counts[ending.lower() or "without ending"] += 1
    return counts


def format_of(start: bytes) -> str | None:
    """The format of a file that starts so, a key of `OPENERS`; None for all others."""
    found = next((name for signature, name in SIGNATURES.items() if start.startswith(signature)), None)
    return None if found == "WEBP" and start[8:12] != b"WEBP" else found


def read_bytes(path: str | Path) -> bytes:
    """The content of an image file; raises DataError where there is none."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"The image {path} cannot be read ({error.strerror}): check root and file names.") from error


@contextmanager
def opened(path: str | Path, data: bytes | None = None, *, limit: int = PIXEL_LIMIT) -> Iterator[Image.Image]:
    """The file as a Pillow image, not yet decoded; its pixels will be the stored ones, whatever the orientation.

    Args:
        path: Of the file.
        data: Its content, where that has been read.
        limit: Of pixels.

    Raises:
        DataError: The file is absent, of another format, damaged, or beyond the limit; also while it is decoded.
    """
    name = _known_format(path, data)
    if name == "TIFF":
        data = as_stored(read_bytes(path) if data is None else data)
    with _damage(path), OPENERS[name](os.fspath(path) if data is None else io.BytesIO(data)) as image:
        refuse_beyond(limit, path, (image.height, image.width))
        yield image


def read_header(path: str | Path, data: bytes | None = None, *, limit: int = PIXEL_LIMIT) -> Header:
    """Size, orientation and depth of an image file, without decoding it; arguments and errors are those of `opened`."""
    name = _known_format(path, data)
    with _damage(path), open(path, "rb") if data is None else io.BytesIO(data) as file:
        header = _tiff_header(file) if name == "TIFF" else _header(file, name)
    refuse_beyond(limit, path, header.size)
    return header


def jpeg_head(data: bytes) -> tuple[tuple[int, int] | None, bool]:
    """(height, width) of a JPEG by its first bytes, None where they do not say, and whether it may be tagged.

    Ten times faster than `read_header`, for what is done with every image.
    """
    size, tagged, at, marker = None, False, 2, 0
    while at + 9 <= len(data) and data[at] == 0xFF and (marker := data[at + 1]) != 0xDA:
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            size = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
        tagged |= marker == 0xE1
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4])
    return size, tagged or marker != 0xDA


def refuse_beyond(limit: int, path: str | Path, size: tuple[int, int]) -> None:
    """Raise DataError if `size` (height, width) has more pixels than `limit`."""
    if size[0] * size[1] > limit:
        raise DataError(
            f"{path} has {size[0]} x {size[1]} pixels (height x width), more than the limit of {limit:,}: shrink it or "
            f"cut it into tiles, or raise the limit by `reading: {{pixel_limit: {size[0] * size[1]}}}`, in prediction "
            "by --pixel_limit."
        )


def as_stored(data: bytes) -> bytes:
    """A TIFF file that stands upright as stored: decoders turn TIFF by its orientation without being asked."""
    order, wide = "<" if data[:2] == b"II" else ">", data[2:4] in (b"+\0", b"\0+")
    place, count, entry = ("Q", "Q", 20) if wide else ("I", "H", 12)
    with contextlib.suppress(struct.error):  # a damaged head is for the decoder to refuse
        (start,) = struct.unpack_from(order + place, data, 8 if wide else 4)
        (entries,) = struct.unpack_from(order + count, data, start)
        for at in range(start + struct.calcsize(order + count), start + entry * entries, entry):
            tag, kind = struct.unpack_from(order + "HH", data, at)
            if (tag, kind) == (ORIENTATION, 3):
                changed = bytearray(data)
                struct.pack_into(order + "H", changed, at + (12 if wide else 8), 1)
                return bytes(changed)
    return data


def _tiff_header(file: IO[bytes]) -> Header:
    start = file.read(16)
    end = file.seek(0, os.SEEK_END)
    tags = ImageFileDirectory_v2(start if start[2:4] in (b"+\0", b"\0+") else start[:8])
    file.seek(tags.next)
    tags.load(file)
    for starts, lengths in ((273, 279), (324, 325)):  # of strips or tiles; OpenCV fills what is missing
        if starts in tags and max(map(sum, zip(tags[starts], tags.get(lengths, (0,)), strict=False))) > end:
            raise OSError("the file ends before its pixels do")
    bands = tags.get(277, 1) - (tags.get(262) == 5)  # cyan, magenta, yellow, black are three colours
    # 1 and 2 are transparency. A fourth value that no tag explains may be anything, such as near infrared.
    bands -= sum(extra in (1, 2) for extra in tags.get(338, ()))
    number = {1: "unsigned", 2: "signed", 3: "float"}.get(tags.get(339, (1,))[0], "unsigned")
    return Header((tags[257], tags[256]), _valid(tags.get(ORIENTATION, 1)), max(tags.get(258, (1,))), number, bands)


def _header(file: IO[bytes], name: str) -> Header:
    with OPENERS[name](file) as image:
        # Of a PNG, image.getexif would decode the pixels first, since the tag may stand behind them.
        number = Image.Image.getexif(image).get(ORIENTATION) or (_png_orientation(file) if name == "PNG" else 1)
        file.seek(24)
        bits = 16 if image.mode.startswith("I") or (name == "PNG" and file.read(1) == b"\x10") else 8
        return Header((image.height, image.width), _valid(number), bits, bands=1 if image.mode in GREYS else 3)


def _png_orientation(file: IO[bytes]) -> int:
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"eXIf":
            exif = Image.Exif()
            exif.load(file.read(length))
            return exif.get(ORIENTATION, 1)
        file.seek(length + 4, os.SEEK_CUR)
    return 1


def _known_format(path: str | Path, data: bytes | None) -> str:
    start, size = (data[:16], len(data)) if data is not None else _start(path)
    name = format_of(start)
    if name is None:
        raise DataError(
            f"{path} ({size} bytes) is no image that can be read, whatever its name says: expected one of "
            f"{', '.join(OPENERS)}; convert or remove it."
        )
    return name


def _start(path: str | Path) -> tuple[bytes, int]:
    try:
        with open(path, "rb") as file:
            return file.read(16), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise DataError(f"The image {path} cannot be read ({error.strerror}): check root and file names.") from error


class _OurLimit:
    """While any thread is within, Pillow's own limit, a global variable, is lifted: ours is checked, and can be set."""

    def __init__(self) -> None:
        self._lock, self._within, self._before = threading.Lock(), 0, None

    def __enter__(self) -> None:
        with self._lock:
            if not self._within:
                self._before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._within += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._within -= 1
            if not self._within:
                Image.MAX_IMAGE_PIXELS = self._before


_our_limit = _OurLimit()


@contextmanager
def _damage(path: str | Path) -> Iterator[None]:
    """Whatever a decoder says of a damaged file is one sentence with its name."""
    with (
        refused(lambda said: f"The image {path} is damaged or cut off ({said}): fetch it again or remove it."),
        _our_limit,
    ):
        yield


def _valid(orientation: object) -> int:
    return orientation if orientation in range(1, 9) else 1

"""Reading images: every file becomes RGB uint8, and what would become something else in silence is a sentence.

Used by every data set and by prediction; decoding is the floor of the loader's speed, so the usual JPEG takes the
shortest way.
"""

from pathlib import Path

import cv2
import numpy as np

from datamodules.findings import DataError
from datamodules.images.files import (
    PLAIN,
    Header,
    Reading,
    format_of,
    jpeg_head,
    opened,
    read_bytes,
    read_header,
    refuse_beyond,
)
from datamodules.images.files import as_stored as stored_tiff
from datamodules.images.orientation import oriented

RAW_RGB = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
DIM = 4
"""16-bit images whose highest value is below this share of the range come out almost black."""


class ManyBands(DataError):
    """An image is neither grey nor RGB."""


class UnknownRange(DataError):
    """An image has values of which nothing says what is black and what is white."""


def read_image(path: str | Path, size: tuple[int, int] | None = None, reading: Reading = PLAIN) -> np.ndarray:
    """The image as (H, W, 3) uint8 RGB.

    Grey, CMYK and palette images are converted, transparency is ignored; `reading` says what becomes of more than 8
    bits. The pixels are as stored unless `reading.upright`; where that is open, they are turned as EXIF says if only
    then they have `size`, the annotated (height, width).

    Raises:
        DataError: the file is absent, damaged, cut off, no image, too large, of another size than annotated, or has
            values or bands that RGB uint8 cannot hold without more being said.
    """
    data = read_bytes(path)
    image = _stored(path, data, reading)
    turn = reading.upright or (reading.upright is None and size is not None and image.shape[:2] != tuple(size))
    shown = oriented(image, _orientation(path, data, reading)) if turn else image
    if size is None or shown.shape[:2] == tuple(size):
        return shown
    found = (shown if reading.upright else image).shape
    raise DataError(
        f"The image {path} has {found[0]} x {found[1]} pixels (height x width), but is annotated as "
        f"{size[0]} x {size[1]}: boxes and points would be misplaced, so correct height and width, or the image."
    )


def as_rgb(
    values: np.ndarray, what: str, value_range: tuple[float, float] | None = None, bits: int | None = None
) -> np.ndarray:
    """Values of a picture as RGB.

    Args:
        values: (H, W), (H, W, 1) or (H, W, 3) of any type.
        what: Begins the error message, such as `The image a.png`.
        value_range: (lowest, highest) value, black and white, of other types than uint8; see `Reading`.
        bits: Of the values, where the type has more.

    Returns:
        (H, W, 3) uint8.

    Raises:
        DataError: Another number of bands, or values whose range has to be stated.
    """
    bands = values.shape[2] if values.ndim == 3 else 1
    if values.ndim not in (2, 3) or bands not in (1, 3) or not values.size:
        raise ManyBands(
            f"{what} has the shape {values.shape}: expected (height, width) or (height, width, 3), grey or RGB. Keep "
            "one or three bands."
        )
    if values.dtype.kind not in "buif":
        raise UnknownRange(f"{what} holds {values.dtype}, which are no brightnesses: expected numbers.")
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * 255
    if values.dtype != np.uint8:
        values = _scaled(values, what, value_range, bits or 8 * values.itemsize)
    return np.ascontiguousarray(np.broadcast_to(values.reshape(*values.shape[:2], bands), (*values.shape[:2], 3)))


def _scaled(values: np.ndarray, what: str, value_range: tuple[float, float] | None, bits: int) -> np.ndarray:
    if value_range is not None:
        low, high = value_range
        factor = 255 / (high - low)
        return np.rint(np.nan_to_num((values - np.float32(low)) * factor).clip(0, 255)).astype(np.uint8)
    lowest, highest = np.nanmin(values), np.nanmax(values)
    if values.dtype.kind != "u" or bits > 16:
        likely = next(
            (f"0, {top}" for top in (1, 255) if 0 <= lowest <= highest <= top), f"{lowest:.6g}, {highest:.6g}"
        )
        raise UnknownRange(
            f"{what} holds {values.dtype} values from {lowest:.6g} to {highest:.6g}, and which of them are black and "
            f"white is not known: state the range of the whole data set, `reading: {{value_range: [{likely}]}}`, say."
        )
    if 0 < highest < 2**bits // DIM:
        likely = 2 ** int(highest).bit_length() - 1
        raise UnknownRange(
            f"{what} holds {bits}-bit values up to {highest} of {2**bits - 1}, almost black: state the range of "
            f"the whole data set, `reading: {{value_range: [0, {likely}]}}`, say."
        )
    return (values >> (bits - 8)).astype(np.uint8)


def _stored(path: str | Path, data: bytes, reading: Reading) -> np.ndarray:
    """(H, W, 3) uint8 before any turning."""
    size = _usual_size(data)
    if size is not None:
        refuse_beyond(reading.pixel_limit, path, size)
        if not _is_complete(data):
            _decode_with_pillow(path, data, reading.pixel_limit)
        image = _decode(data, RAW_RGB)
        return _decode_with_pillow(path, data, reading.pixel_limit) if image is None else image
    header = read_header(path, data, limit=reading.pixel_limit)
    if header.bands not in (1, 3):
        raise ManyBands(
            f"The image {path} is {header.depth}: expected grey or RGB. Export the three bands that show the most; the "
            "data sets read no others."
        )
    if header.bits > 8 or header.number != "unsigned":
        return _deep(path, data, header, reading)
    return _decode_with_pillow(path, data, reading.pixel_limit)


def _usual_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a JPEG or of a PNG of up to 8 bits, for which no more of the head needs to be known."""
    if data[:2] == b"\xff\xd8":
        return jpeg_head(data)[0]
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and data[24:25] < b"\x10":
        return int.from_bytes(data[20:24]), int.from_bytes(data[16:20])
    return None


def _orientation(path: str | Path, data: bytes, reading: Reading) -> int:
    size, tagged = jpeg_head(data) if data[:2] == b"\xff\xd8" else (None, True)
    return 1 if size and not tagged else read_header(path, data, limit=reading.pixel_limit).orientation


def _is_complete(data: bytes) -> bool:
    # JPEG and PNG end with a marker, which a file cut off by a broken download lacks; decoders may return such a JPEG
    # with grey rows. The few other cases (trailing bytes after the marker) are for Pillow to check.
    if data[:2] == b"\xff\xd8":
        return data[-2:] == b"\xff\xd9"
    return data[-8:-4] == b"IEND"


def _decode(data: bytes, flags: int) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None


def _decode_with_pillow(path: str | Path, data: bytes, limit: int) -> np.ndarray:
    with opened(path, data, limit=limit) as image:
        return np.array(image.convert("RGB"))


def deep_values(path: str | Path, data: bytes, header: Header, limit: int) -> np.ndarray:
    """The stored values (H, W) or (H, W, 3) of an image of more than 8 bits, or of signed or broken numbers.

    Raises:
        DataError: The file is damaged, or of a kind that neither OpenCV nor Pillow know.
    """
    name = format_of(data[:16])
    values = None
    if name == "PNG" and not _is_complete(data):
        _decode_with_pillow(path, data, limit)
    if name != "PPM" and header.bits in (8, 16, 32, 64):
        values = _decode(stored_tiff(data) if name == "TIFF" else data, cv2.IMREAD_UNCHANGED)
    if values is None:  # 12 bits
        with opened(path, data, limit=limit) as image:
            return np.array(image)
    return values[..., 2::-1] if values.ndim == 3 and values.shape[2] > 1 else values


def _deep(path: str | Path, data: bytes, header: Header, reading: Reading) -> np.ndarray:
    """An image of more than 8 bits, or of signed or broken numbers, as RGB."""
    values = deep_values(path, data, header, reading.pixel_limit)
    # The head of a PPM says what white is, and Pillow has scaled by that.
    stated = (0, 65535) if format_of(data[:16]) == "PPM" else reading.value_range
    return as_rgb(values, f"The image {path}", stated, min(header.bits, 8 * values.itemsize))

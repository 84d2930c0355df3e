"""Reading images: what OpenCV or Pillow knows becomes RGB uint8, and a damaged file is an error, not grey rows.

Used by every data set; decoding is the floor of the loader's speed, so the usual JPEG takes the shortest way.
"""

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from datamodules.base import DataError

RAW_RGB = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


def read_image(path: str | Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """The image as (H, W, 3) uint8 RGB.

    Grey, CMYK and palette images are converted, 16 bits are reduced to the upper 8, transparency is ignored. COCO's
    boxes and points refer to the stored pixels, so an EXIF orientation is not applied, unless `size`, the annotated
    (height, width), says that the annotator saw the turned image.

    Raises:
        DataError: the file is absent, damaged, cut off, no image, or of another size than annotated.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"The image {path} cannot be read ({error.strerror}): check root and file names.") from error
    if not _is_complete(data):
        _refuse_damaged(data, path)
    image = _decode(data, RAW_RGB)
    if image is None:
        image = _decode_with_pillow(data, path)
    if size is None or image.shape[:2] == tuple(size):
        return image
    turned = _decode(data, cv2.IMREAD_COLOR_RGB)
    if turned is None or turned.shape[:2] != tuple(size):
        raise DataError(
            f"The image {path} has {image.shape[0]} x {image.shape[1]} pixels (height x width), but is annotated as "
            f"{size[0]} x {size[1]}: boxes and points would be misplaced, so correct height and width, or the image."
        )
    return turned


def _is_complete(data: bytes) -> bool:
    # JPEG and PNG end with a marker, which a file cut off by a broken download lacks; decoders may return such a JPEG
    # with grey rows. The few other cases (trailing bytes after the marker, other formats) are for Pillow to check.
    if data[:2] == b"\xff\xd8":
        return data[-2:] == b"\xff\xd9"
    return data[:4] == b"\x89PNG" and data[-8:-4] == b"IEND"


def _refuse_damaged(data: bytes, path: str | Path) -> None:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except UnidentifiedImageError as error:
        # OpenCV knows formats that Pillow does not (16-bit colour, EXR); what neither knows is refused.
        if not data or _decode(data, RAW_RGB) is None:
            raise DataError(
                f"{path} ({len(data)} bytes) is no image that can be read: replace or remove it."
            ) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"The image {path} is damaged or cut off ({error}): fetch it again or remove it.") from error


def _decode(data: bytes, flags: int) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None


def _decode_with_pillow(data: bytes, path: str | Path) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"The image {path} cannot be decoded ({error}): fetch it again or remove it.") from error

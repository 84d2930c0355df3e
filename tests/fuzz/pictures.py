"""Images and masks: PNG, JPEG, TIFF, GIF, WebP, BMP, PPM, and masks in MATLAB files too."""

import io
import random
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scipy.io import savemat

from datamodules.base import DataError
from datamodules.images.files import Reading, read_header
from datamodules.images.looking import look
from datamodules.images.orientation import find_tagged
from datamodules.images.pixels import read_image
from datamodules.segmentation.masks import ColourMasks, IndexMasks, lookup, mask_size
from experiments.predict.media import Failure, Photo, Source, read_photos
from tests.fuzz.harness import Kind
from tests.fuzz.mutations import changed_bytes, changed_png

LIMIT = 2**22
NAMES = ["a", "b", "c"]


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _encoded(kind: str, values: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(kind, values, options)[1].tobytes()


def good_images() -> dict[str, list[bytes]]:
    """Small images by their ending."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (23, 31, 3), np.uint8))
    grey, deep = rgb.convert("L"), rng.integers(0, 65536, (23, 31)).astype(np.uint16)
    exif = Image.Exif()
    exif[274] = 6
    tiffs = [_saved(rgb.convert(mode), "TIFF") for mode in ("RGB", "L", "1", "P", "CMYK")]
    tiffs += [_saved(rgb, "TIFF", compression=kind) for kind in ("tiff_lzw", "tiff_adobe_deflate", "jpeg")]
    tiffs += [_saved(rgb, "TIFF", big_tiff=True), _saved(Image.fromarray(deep.astype(np.float32)), "TIFF")]
    tiffs += [
        _encoded(".tiff", deep),
        _encoded(".tiff", deep.astype(np.int32)),
        _encoded(".tiff", np.dstack([deep] * 3)),
    ]
    return {
        "png": [
            *(_saved(rgb.convert(mode), "PNG") for mode in ("RGB", "L", "RGBA", "LA", "P", "1")),
            _saved(rgb, "PNG", exif=exif), _encoded(".png", deep), _encoded(".png", np.dstack([deep] * 3)),
            _saved(rgb.convert("P"), "PNG", transparency=3), _saved(rgb.quantize(4), "PNG", bits=2),
        ],
        "jpg": [
            _saved(rgb, "JPEG"), _saved(grey, "JPEG"), _saved(rgb.convert("CMYK"), "JPEG"),
            _saved(rgb, "JPEG", exif=exif), _saved(rgb, "JPEG", progressive=True),
        ],
        "tif": tiffs,
        "gif": [_saved(rgb, "GIF"), _saved(rgb, "GIF", save_all=True, append_images=[grey.convert("RGB")])],
        "webp": [_saved(rgb, "WEBP"), _saved(rgb.convert("RGBA"), "WEBP", lossless=True)],
        "bmp": [_saved(rgb.convert(mode), "BMP") for mode in ("RGB", "L", "1", "P")],
        "ppm": [_saved(rgb, "PPM"), _saved(grey, "PPM"), b"P3 2 1 255 1 2 3 4 5 6\n", b"P6 3 2 4095\n" + bytes(36)],
    }  # fmt: skip


class Images(Kind):
    """Images: their heads, their pixels, a look at them, and photos to predict on."""

    name, share = "images", 8

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.good = good_images()

    def write(self, rng: random.Random) -> Path:
        kind = rng.choice(["png", "png", "jpg", "jpg", "tif", "tif", "gif", "webp", "bmp", "ppm"])
        good = rng.choice(self.good[kind])
        change = changed_png if kind == "png" and rng.random() < 0.6 else changed_bytes
        path = self.folder / f"picture.{kind}"
        path.write_bytes(change(good, rng))
        return path

    def read(self, path: Path, rng: random.Random) -> None:
        reading = Reading(rng.choice((None, True, False)), rng.choice((None, (0, 255))), LIMIT)
        find_tagged([path], lambda row: None, LIMIT)
        seen = look(path, None, "full", reading)
        (photo,) = read_photos([Source(path, "picture")], upright=True, reading=reading)
        assert isinstance(photo, Failure | Photo)
        image = read_image(path, None, reading)
        assert image.dtype == np.uint8
        assert image.ndim == 3, image.shape
        assert image.shape[2] == 3, image.shape
        assert 0 < image.shape[0] * image.shape[1] <= LIMIT
        sizes = {read_header(path, limit=LIMIT).size, read_header(path, limit=LIMIT).shown}
        assert image.shape[:2] in sizes, (image.shape, sizes)
        assert seen.problem is None or seen.problem[0] == "image almost black", seen.problem


class Masks(Kind):
    """Masks of ids and of colours, also in MATLAB's files: every pixel is a class, or ignored."""

    name, share = "masks", 6

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        rng = np.random.default_rng(0)
        ids = rng.integers(0, 3, (23, 31), np.uint8)
        palette = Image.fromarray(ids).convert("P")
        palette.putpalette([0, 0, 0, 90, 0, 0, 0, 90, 0])
        colours = Image.fromarray(np.array([(0, 0, 0), (90, 0, 0), (0, 90, 0)], np.uint8)[ids])
        self.good: dict[str, list[bytes]] = {
            "png": [
                _saved(Image.fromarray(ids), "PNG"), _saved(palette, "PNG"), _saved(palette, "PNG", bits=2),
                _saved(Image.fromarray(ids > 0), "PNG"), _encoded(".png", ids.astype(np.uint16)),
                _saved(colours, "PNG"),
            ],
            "tif": [
                _encoded(".tiff", ids.astype(kind)) for kind in (np.uint8, np.uint16, np.int32, np.float32, np.float64)
            ] + [_saved(colours, "TIFF"), _saved(Image.fromarray(ids > 0), "TIFF")],
            "bmp": [_saved(Image.fromarray(ids), "BMP")],
            "mat": [],
        }  # fmt: skip
        for kind in (np.uint8, np.uint16, np.float64, np.int8):
            for compressed in (False, True):
                savemat(folder / "good.mat", {"LabelMap": ids.astype(kind)}, do_compression=compressed)
                self.good["mat"].append((folder / "good.mat").read_bytes())
        for odd in (np.zeros((2, 3, 4)), ids * 1j, "text", {"a": ids}, np.array([[ids]], object), ids[:0], ids[0, 0]):
            savemat(folder / "good.mat", {"LabelMap": odd})
            self.good["mat"].append((folder / "good.mat").read_bytes())
        table = lookup({0: 0, 1: 1, 2: 2, 255: 255}, 3)
        self.readers = [
            IndexMasks(table, NAMES, LIMIT),
            ColourMasks([(0, 0, 0), (90, 0, 0), (0, 90, 0)], [(255, 255, 255)], LIMIT),
        ]

    def write(self, rng: random.Random) -> Path:
        kind = rng.choice(["png", "png", "png", "tif", "bmp", "mat", "mat"])
        change = changed_png if kind == "png" and rng.random() < 0.6 else changed_bytes
        path = self.folder / f"mask.{kind}"
        good = rng.choice(self.good[kind])
        path.write_bytes(good if rng.random() < 0.05 else change(good, rng))
        return path

    def read(self, path: Path, rng: random.Random) -> None:
        try:
            size = mask_size(path, LIMIT)
        except DataError:
            size = None
        classes = rng.choice(self.readers)(path)
        assert classes.dtype == np.uint8, classes.dtype
        assert classes.ndim == 2, classes.shape
        assert classes.shape == size, (classes.shape, size)
        assert set(np.unique(classes)) <= {0, 1, 2, 255}, np.unique(classes)

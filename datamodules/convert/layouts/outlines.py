"""Outlines as pixels: the polygons and patches of a thing, rasterised as pycocotools does."""

import numpy as np
from pycocotools import mask as run_lengths

from datamodules.convert.labels import Thing


def code_of(thing: Thing, size: tuple[int, int]) -> dict:
    """The run-length code of all parts of a thing on an image of (height, width), its counts as text."""
    codes = []
    polygons = [polygon for polygon in thing.polygons if len(polygon) >= 6]
    if polygons:
        codes += run_lengths.frPyObjects([[float(v) for v in polygon] for polygon in polygons], *size)
    if thing.mask is not None:
        codes.append(run_lengths.encode(np.asfortranarray(_placed(thing, size).astype(np.uint8))))
    code = run_lengths.merge(codes) if codes else run_lengths.encode(np.zeros(size, np.uint8, order="F"))
    return {"size": list(size), "counts": code["counts"].decode()}


def pixels_of(thing: Thing, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool, the pixels of a thing."""
    return run_lengths.decode(code_of(thing, size)).astype(bool)


def _placed(thing: Thing, size: tuple[int, int]) -> np.ndarray:
    """A patch where it belongs, cut off at the image's border."""
    whole, (pixels, x, y) = np.zeros(size, bool), thing.mask
    left, top = max(0, x), max(0, y)
    right, bottom = min(size[1], x + pixels.shape[1]), min(size[0], y + pixels.shape[0])
    if right > left and bottom > top:
        whole[top:bottom, left:right] = pixels[top - y : bottom - y, left - x : right - x]
    return whole

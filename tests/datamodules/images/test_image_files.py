"""Which files are images, and how they are opened: no program is started, no limit passed, no file left out unsaid."""

import io
import os
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from subprocess import CalledProcessError

import cv2
import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from datamodules import DataError, FolderSegmentation, ImageFolder, Reading
from datamodules.check import check
from datamodules.images.files import IMAGE_ENDINGS, PIXEL_LIMIT, images_below, left_out, read_header
from datamodules.images.looking import look
from datamodules.images.orientation import find_tagged
from datamodules.images.pixels import read_image
from datamodules.segmentation.masks import ColourMasks, IndexMasks, lookup, mask_size
from experiments.predict.media import find_sources, pixels_of, read_photo, read_photos

ROOT = Path(__file__).parents[3]
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n{} loop\n%%EOF\n"
IDS = IndexMasks(lookup({0: 0, 1: 1}, 2), ["a", "b"])
COLOURS = ColourMasks([(0, 0, 0), (255, 255, 255)])

READERS: dict[str, Callable[[Path], object]] = {
    "image": read_image,
    "image of a size": lambda path: read_image(path, (20, 20)),
    "upright image": lambda path: read_image(path, None, Reading(upright=True)),
    "header": read_header,
    "ids": IDS,
    "colours": COLOURS,
    "mask's size": mask_size,
    "photo": read_photo,
    "upright photo": lambda path: read_photo(path, upright=True),
    "photo of a size": lambda path: read_photo(path, size=(20, 20)),
}


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there once anybody has started Ghostscript."""
    started = tmp_path / "bin" / "started"
    started.parent.mkdir()
    for name in ("gs", "gswin32c", "gswin64c"):
        (started.parent / name).write_text(f"#!/bin/sh\ntouch {started}\nexit 1\n")
        (started.parent / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{started.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return started


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "photo.tif", "photo.eps"])
@pytest.mark.parametrize("reader", READERS)
def test_postscript_is_refused_and_no_program_started(
    tmp_path: Path, ghostscript: Path, name: str, reader: str
) -> None:
    (tmp_path / name).write_bytes(EPS)
    with pytest.raises(DataError, match=f"{name} .*no image that can be read.*JPEG, PNG"):
        READERS[reader](tmp_path / name)
    assert not ghostscript.exists()


def test_postscript_is_a_finding_a_failure_and_no_picture(tmp_path: Path, ghostscript: Path) -> None:
    path = tmp_path / "photos" / "photo.jpg"
    path.parent.mkdir()
    path.write_bytes(EPS)
    for mode in ("headers", "full"):
        assert look(path, (20, 20), mode).problem[0] == "unreadable image"
    (failure,) = read_photos(find_sources([str(path)]), upright=True)
    assert "photo.jpg" in str(failure.error)
    assert find_tagged([path], lambda row: None) == []
    with pytest.raises(DataError, match="PostScript"):
        pixels_of(Image.open(path))
    with Image.open(path) as image, pytest.raises((OSError, CalledProcessError)):
        image.load()  # the trap works
    assert ghostscript.exists()


@pytest.mark.parametrize("kind", ["ICO", "TGA", "PCX", "SGI", "DDS", "ICNS", "JPEG2000", "AVIF", "XBM", "IM", "PDF"])
def test_formats_beyond_the_seven_are_refused(tmp_path: Path, kind: str) -> None:
    picture = Image.new("1" if kind == "XBM" else "RGB", (32, 32))
    buffer = io.BytesIO()
    try:
        picture.save(buffer, kind)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow writes no {kind}")
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    for read in READERS.values():
        with pytest.raises(DataError, match=r"a\.jpg .*expected one of JPEG, PNG, BMP, GIF, WEBP, TIFF, PPM"):
            read(tmp_path / "a.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
def test_the_content_decides_on_the_format_and_not_the_name(tmp_path: Path, kind: str) -> None:
    values = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    Image.fromarray(values).save(tmp_path / "a.png", kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.abs(read_image(tmp_path / "a.png")[..., 0].astype(int) - values).max() <= (8 if kind == "JPEG" else 0)
    assert read_header(tmp_path / "a.png").size == (3, 4)


def test_nothing_else_opens_images() -> None:
    # peers.py is the loader of others, on images of ours; side_by_side.py needs no torch for pictures of our making.
    allowed = {"datamodules/images/files.py", "datamodules/images/pixels.py", "experiments/benchmark/peers.py"}
    allowed |= {"experiments/compare/page/side_by_side.py"}
    openers = re.compile(
        r"Image\.open\(|imread|imdecode|torchvision\.io import .*(read|decode)|decode_image|plt\.imread"
    )
    found = {
        path.relative_to(ROOT).as_posix()
        for package in ("hrnet", "tasks", "datamodules", "experiments")
        for path in (ROOT / package).rglob("*.py")
        if openers.search(path.read_text())
    }
    assert found <= allowed


# ---- the limit


def bomb(path: Path, height: int, width: int) -> Path:
    """A PNG of a few bytes that says it has so many pixels."""
    good = cv2.imencode(".png", np.zeros((8, 8), np.uint8))[1].tobytes()
    head = b"IHDR" + width.to_bytes(4) + height.to_bytes(4) + good[24:29]
    path.write_bytes(good[:12] + head + zlib.crc32(head).to_bytes(4) + good[33:])
    return path


@pytest.mark.parametrize("reader", [name for name in READERS if name != "photo of a size"])
def test_what_is_too_large_is_refused_by_its_head(tmp_path: Path, reader: str) -> None:
    path = bomb(tmp_path / "large.png", 13_000, 15_000)
    with pytest.raises(DataError, match=r"large\.png has 13000 x 15000 .*limit of 178,956,970.*pixel_limit"):
        READERS[reader](path)


@pytest.mark.parametrize("ending", ["jpg", "png", "bmp", "gif", "webp", "tif", "ppm"])
def test_the_limit_can_be_moved_both_ways(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(np.full((20, 30), 100, np.uint8)).save(path)
    assert read_image(path, None, Reading(pixel_limit=600)).shape == (20, 30, 3)
    with pytest.raises(DataError, match=r"20 x 30 pixels .*limit of 599"):
        read_image(path, None, Reading(pixel_limit=599))
    table = lookup({100: 0}, 2)
    if ending not in ("jpg", "webp", "gif"):
        assert IndexMasks(table, ["a", "b"], 600)(path).shape == (20, 30)
    with pytest.raises(DataError, match="limit of 599"):
        IndexMasks(table, ["a", "b"], 599)(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        assert read_image(path).shape == (20, 30, 3)
        assert Image.MAX_IMAGE_PIXELS == 100
    assert PIXEL_LIMIT == 178_956_970


def test_data_sets_hand_the_limit_on(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / kind / split).mkdir(parents=True)
            Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / kind / split / "a.png")
    options = {"class_names": ["a", "b"], "image_size": (16, 16), "num_workers": 0}
    assert FolderSegmentation(tmp_path, **options).split("train")[0]["mask"].shape == (16, 16)
    small = FolderSegmentation(tmp_path, reading=Reading(pixel_limit=599), **options)
    for split in ("train", "val"):
        with pytest.raises(DataError, match="limit of 599"):
            small.split(split)[0]
    masks = tmp_path / "masks" / "train" / "a.png"
    bomb(masks, 20_000, 20_000)
    with pytest.raises(DataError, match=r"masks/train/a\.png cannot be read.*20000 x 20000"):
        FolderSegmentation(tmp_path, **options).split("train")[0]


# ---- endings


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(root / name, "PNG")


NAMES = ["a.JPG", "b.jfif", "c.jpeg", "d.JPE", "e.Tiff", "sub/f.gif", "sub/deeper/g.webp", "h.pnm", "i.bmp"]
OTHERS = ["._a.jpg", "sub/._f.gif", ".hidden/z.png", "j.heic", "k.txt", "sub/l.HEIC", "README"]


def test_one_rule_for_all_data_sets_and_prediction(tmp_path: Path) -> None:
    for root in ("train/one", "train/two", "val/one", "val/two", "images/train", "images/val"):
        touch(tmp_path / root, *NAMES, *OTHERS)
    for split in ("train", "val"):
        for name in NAMES:
            touch(tmp_path / "masks" / split, str(Path(name).with_suffix(".png")))
    expected = sorted(NAMES)
    assert images_below(tmp_path / "train/one") == expected
    classified = ImageFolder(tmp_path, image_size=(8, 8)).split("train")
    assert sorted(classified.name(i) for i in range(len(classified))) == [
        f"{folder}/{name}" for folder in ("one", "two") for name in expected
    ]
    images, masks, _ = FolderSegmentation(tmp_path, class_names=["a", "b"], image_size=(8, 8)).pairs("train")
    assert [path.relative_to(tmp_path / "images/train").as_posix() for path in images] == sorted(
        NAMES, key=lambda name: Path(name).with_suffix("").as_posix()
    )
    assert len(masks) == len(NAMES)
    predicted = [
        source.path.relative_to(tmp_path / "train/one").as_posix()
        for source in find_sources([str(tmp_path / "train/one")])
    ]
    assert predicted == expected
    assert all(name.lower().endswith(IMAGE_ENDINGS) for name in NAMES)


def test_check_counts_by_ending_what_is_left_out(tmp_path: Path) -> None:
    for folder in ("train/one", "train/two", "val/one", "val/two"):
        touch(tmp_path / folder, "a.png", "b.jfif")
    touch(tmp_path / "train/one", *OTHERS)
    assert left_out(tmp_path / "train") == Counter({".heic": 2, "hidden": 2, ".txt": 1, "without ending": 1})
    report = check(ImageFolder(tmp_path, image_size=(8, 8)), "headers")
    (note,) = report.notes
    assert note.startswith("train: files left out")
    for words in ("2 .heic", "2 hidden", "1 .txt", "1 without ending"):
        assert words in note
    assert report.to_dict()["notes"] == [note]
    assert report.to_dict()["statistics"]["files left out"] == {"train": dict(left_out(tmp_path / "train"))}


def test_a_linked_class_folder_is_followed_and_a_circle_ends(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "a.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path / "data")
    assert images_below(tmp_path / "data") == ["link/a.png"]


def test_one_picture_twice_in_the_folders_of_one_class_is_no_contradiction(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for folder in ("train/one/monday", "train/one/tuesday", "train/two", "val/one", "val/two"):
        touch(tmp_path / folder, "a.png")
        if "one/" not in folder:
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / folder / "a.png")
    assert check(ImageFolder(tmp_path, image_size=(8, 8))).clean
    touch(tmp_path / "train/two/sub", "b.png")
    findings = check(ImageFolder(tmp_path, image_size=(8, 8))).findings
    assert {(finding.kind, finding.item) for finding in findings} == {("one image, two classes", "train/two/sub/b.png")}

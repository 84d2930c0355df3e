"""Images: every mode comes out as RGB like Pillow says, damaged files are refused, stored orientation is kept."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from datamodules import DataError
from datamodules.images.pixels import read_image


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    return cv2.resize(small, (60, 40), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("RGB", "jpg"), ("L", "jpg"), ("CMYK", "jpg"), ("RGB", "png"), ("RGBA", "png"), ("P", "png"), ("LA", "png"),
     ("1", "png"), ("L", "png"), ("P", "gif"), ("RGB", "bmp"), ("RGB", "tiff"), ("RGB", "webp")],
)  # fmt: skip
def test_every_mode_is_rgb_as_pillow_says(tmp_path: Path, picture: np.ndarray, mode: str, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(picture).convert(mode).save(path)
    image = read_image(path, picture.shape[:2])
    assert image.dtype == np.uint8
    reference = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert np.abs(image.astype(int) - reference).max() <= (2 if mode == "CMYK" else 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_keep_the_upper_eight(tmp_path: Path, channels: int) -> None:
    deep = np.random.default_rng(1).integers(0, 2**16, (7, 9, channels), np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    expected = np.broadcast_to((deep >> 8)[..., ::-1], (7, 9, 3))
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png"), expected)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "tiff", "webp"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_file_cut_off_is_refused_by_name(tmp_path: Path, picture: np.ndarray, suffix: str, share: float) -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, {"jpg": "JPEG"}.get(suffix, suffix.upper()))
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(buffer.getvalue()[: int(share * len(buffer.getvalue()))])
    with pytest.raises(DataError, match=f"cut.{suffix}"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_cut_off_file_is_refused_though_the_decoder_fills_it_with_grey(
    tmp_path: Path, picture: np.ndarray, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(picture).save(tmp_path / f"whole.{suffix}")
    (tmp_path / f"cut.{suffix}").write_bytes((tmp_path / f"whole.{suffix}").read_bytes()[:-40])
    monkeypatch.setattr(cv2, "imdecode", lambda data, flags: np.full((40, 60, 3), 128, np.uint8))  # as OpenCV 4 does
    assert read_image(tmp_path / f"whole.{suffix}").shape == (40, 60, 3)
    with pytest.raises(DataError, match="damaged or cut off"):
        read_image(tmp_path / f"cut.{suffix}")


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xd8\xff\xd9", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"odd\.jpg"):
        read_image(tmp_path / "odd.jpg")


def test_bytes_after_the_end_do_no_harm(tmp_path: Path, picture: np.ndarray) -> None:
    Image.fromarray(picture).save(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes() + b"\r\nappended by a camera")
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), read_image(tmp_path / "b.jpg"))


def test_missing_file_and_folder_are_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jpg", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            read_image(path)


def test_orientation_is_applied_only_if_the_annotation_says_so(tmp_path: Path, picture: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    Image.fromarray(picture).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(picture).save(tmp_path / "turned.jpg", exif=exif, quality=100)
    for name in ("turned.png", "turned.jpg"):
        stored = np.asarray(Image.open(tmp_path / name))
        np.testing.assert_array_equal(read_image(tmp_path / name), stored)
        np.testing.assert_array_equal(read_image(tmp_path / name, (40, 60)), stored)
        np.testing.assert_array_equal(read_image(tmp_path / name, (60, 40)), np.rot90(stored, -1))
    with pytest.raises(DataError, match=r"40 x 60 pixels.*annotated as 50 x 50"):
        read_image(tmp_path / "turned.jpg", (50, 50))


def test_real_photographs_are_as_pillow_decodes_them(shared_data: Path) -> None:
    for path in sorted((shared_data / "coco_mini" / "val2017").glob("*.jpg"))[:5]:
        reference = np.asarray(Image.open(path).convert("RGB")).astype(int)
        assert np.abs(read_image(path).astype(int) - reference).max() <= 1

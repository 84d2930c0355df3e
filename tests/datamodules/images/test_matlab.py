"""MATLAB's files are read by name, and what would unpack to more than it should is refused before it is unpacked."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from datamodules import DataError
from datamodules.images import matlab
from datamodules.images.matlab import read_matlab, shapes_in


def cells(*arrays: np.ndarray) -> np.ndarray:
    found = np.empty(len(arrays), object)
    found[:] = arrays
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    content = {
        "points": np.arange(12.0).reshape(3, 4),
        "pictures": cells(np.zeros((400, 300, 3), np.uint8), np.ones((2, 5), np.uint8)),
        "a": np.array([[7]]),  # a name of so few letters stands within its tag
    }
    savemat(tmp_path / "a.mat", content, do_compression=True)
    return tmp_path / "a.mat"


@pytest.mark.parametrize("options", [{}, {"do_compression": True}, {"format": "4"}], ids=["5", "5 packed", "4"])
def test_variables_come_by_name_in_every_old_format(tmp_path: Path, options: dict) -> None:
    stated = {"first": np.arange(6.0).reshape(2, 3), "b": np.arange(4.0).reshape(4, 1)}
    savemat(tmp_path / "a.mat", stated, **options)
    b, first = read_matlab(tmp_path / "a.mat", "b", "first")
    np.testing.assert_array_equal(first, stated["first"])
    np.testing.assert_array_equal(b, stated["b"])
    assert shapes_in(tmp_path / "a.mat", "first", "other") == {"first": (2, 3)}
    with pytest.raises(DataError, match=r"a\.mat lacks the variables other; expected b, other"):
        read_matlab(tmp_path / "a.mat", "b", "other")


@pytest.mark.parametrize("limit", [360_000, 370_000])
def test_cells_are_unpacked_up_to_the_limit_and_never_beyond(file: Path, limit: int, monkeypatch) -> None:
    """A cell array's own shape says nothing of what is in its cells: they are unpacked in pieces and thrown away."""
    assert file.stat().st_size < 2000
    monkeypatch.setattr(matlab, "LIMIT", limit)
    monkeypatch.setattr(matlab, "_PIECE", 4096)
    if limit > 400 * 300 * 3 + 1000:
        first, second = read_matlab(file, "pictures")[0]
        assert first.shape == (400, 300, 3)
        assert second.tolist() == [[1] * 5] * 2
    else:
        monkeypatch.setattr("scipy.io.loadmat", None)
        with pytest.raises(DataError, match=r"a\.mat would unpack to more than 360,000 bytes"):
            read_matlab(file, "pictures")


def test_what_is_not_asked_for_is_not_unpacked(file: Path, monkeypatch) -> None:
    monkeypatch.setattr(matlab, "LIMIT", 1000)
    points, one = read_matlab(file, "points", "a")
    assert points.shape == (3, 4)
    assert one == [[7]]
    assert shapes_in(file, "pictures", "points") == {"pictures": (1, 2), "points": (3, 4)}


def test_a_matrix_is_refused_by_its_shape_though_its_numbers_are_small(tmp_path: Path, monkeypatch) -> None:
    savemat(tmp_path / "a.mat", {"x": np.zeros((1000, 1000))}, do_compression=True)
    monkeypatch.setattr(matlab, "LIMIT", 7_999_999)
    monkeypatch.setattr("scipy.io.loadmat", None)
    with pytest.raises(DataError, match="would unpack to more than 7,999,999 bytes"):
        read_matlab(tmp_path / "a.mat", "x")


def test_a_name_without_end_is_damage(file: Path) -> None:
    """Names are read before anything else is known."""
    element = struct.pack("<4I", 14, 2**31, 6, 8) + bytes(8) + struct.pack("<4I", 5, 8, 1, 1)
    packed = zlib.compress(element + struct.pack("<2I", 1, 2**31) + bytes(2**16))
    head = file.read_bytes()[:128]
    file.write_bytes(head + struct.pack("<2I", 15, len(packed)) + packed)
    for read in (read_matlab, shapes_in):
        with pytest.raises(DataError, match=r"a variable has a name of 2147483648 letters.*Fetch it again"):
            read(file, "points")


@pytest.mark.parametrize("length", [0, 5, 127, 130, 200])
def test_a_file_that_was_cut_is_damage_or_lacks_what_is_asked_for(file: Path, length: int) -> None:
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(DataError, match=r"a\.mat (cannot be read|lacks the variables)"):
        read_matlab(file, "points", "pictures")


def test_version_7_3_has_the_limit_too(tmp_path: Path, monkeypatch) -> None:
    h5py = pytest.importorskip("h5py", reason="needs h5py, which reads MATLAB 7.3: pip install h5py")
    path = tmp_path / "a.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        large = file.create_dataset("#refs#/0", data=np.zeros((300, 400), np.uint8), compression="gzip")
        file.create_dataset("pictures", data=np.array([[large.ref] * 3], h5py.ref_dtype))
        file.create_dataset("points", data=np.arange(12.0).reshape(4, 3))
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(128))
    assert [part.shape for part in read_matlab(path, "pictures")[0]] == [(400, 300)] * 3
    assert shapes_in(path, "points") == {"points": (3, 4)}
    monkeypatch.setattr(matlab, "LIMIT", 3 * 120_000)
    with pytest.raises(DataError, match="would unpack to more than 360,000 bytes"):
        read_matlab(path, "pictures")
    assert read_matlab(path, "points")[0].shape == (3, 4)


@pytest.mark.parametrize("packed", [False, True])
def test_an_element_of_a_kind_that_there_is_not_ends_no_process(packed: bool, tmp_path: Path) -> None:
    """scipy takes the reader of such an element from beyond a table of its own, which is a segmentation fault."""
    savemat(tmp_path / "good.mat", {"mask": np.zeros((23, 31)) + 1j})
    data = (tmp_path / "good.mat").read_bytes()
    imaginary = 128 + 8 + 2 * 16 + 8 + 8 + 23 * 31 * 8  # behind head, tag, flags, shape, name and the real part
    assert struct.unpack_from("<II", data, imaginary) == (9, 23 * 31 * 8)
    data = data[:imaginary] + bytes(8) + data[imaginary + 8 :]
    if packed:
        content = zlib.compress(data[128:])
        data = data[:128] + struct.pack("<II", 15, len(content)) + content
    (tmp_path / "bad.mat").write_bytes(data)
    read_matlab(tmp_path / "good.mat", "mask")
    with pytest.raises(DataError, match=r"bad.mat cannot be read \(it has an element of kind 0\)"):
        read_matlab(tmp_path / "bad.mat", "mask")

"""Pairing images with masks: layouts of other tools, names that do not fit, and lists in other encodings."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import DataError, FolderSegmentation, ImageNet
from datamodules.check import check
from datamodules.segmentation.pairs import read_stems


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        mask = name.startswith("masks") or "mask" in Path(name).stem
        shape = (12, 16) if mask else (12, 16, 3)
        Image.fromarray(np.full(shape, 1 if mask else 90, np.uint8)).save(root / name)


def data(root: Path, **options: object) -> FolderSegmentation:
    options = {"class_names": ["a", "b"], "image_size": (12, 16), "num_workers": 0} | options
    return FolderSegmentation(root, **options)


SHARED = {"images": {"train": "train", "val": "valid"}, "masks": {"train": "train", "val": "valid"}}


@pytest.mark.parametrize("suffix", ["_mask", "-seg", ".mask"])
def test_masks_beside_their_images_are_not_images(tmp_path: Path, suffix: str) -> None:
    for folder in ("train", "valid"):
        write(tmp_path / folder, "x.jpg", "y.jpg", "sub/z.jpeg", "mask_of_nobody.jpg")
        for name in ("x", "y", "sub/z", "mask_of_nobody"):
            path = tmp_path / folder / f"{name}{suffix}.png"
            Image.fromarray(np.ones((12, 16), np.uint8)).save(path)
        (tmp_path / folder / "_classes.csv").write_text("Pixel Value, Class\n0, a\n1, b\n")
    module = data(tmp_path, mask_suffix=suffix, **SHARED)
    for split in ("train", "val"):
        images, masks, _ = module.pairs(split)
        assert [path.stem for path in images] == ["mask_of_nobody", "z", "x", "y"]
        assert [path.stem for path in masks] == [f"{path.stem}{suffix}" for path in images]
        assert set(np.unique(module.split(split)[0]["mask"])) <= {1, 255}
    assert not [finding for finding in check(module, "headers").findings if finding.kind != "image in two splits"]
    with pytest.raises(DataError, match=rf"both in .*train.*set `mask_suffix`.*`mask_suffix: {suffix}`"):
        data(tmp_path, **SHARED).pairs("train")


def test_a_mask_that_is_missing_in_a_shared_folder_is_named(tmp_path: Path) -> None:
    write(tmp_path / "train", "x.jpg", "x_mask.png", "y.jpg")
    with pytest.raises(DataError, match=r"lacks the mask of 1 of 2 names \(y\)"):
        data(tmp_path, mask_suffix="_mask", **SHARED).pairs("train")


@pytest.mark.parametrize(("images", "masks"), [("train", "train/masks"), ("train/images", "train")])
def test_one_folder_within_the_other(tmp_path: Path, images: str, masks: str) -> None:
    write(tmp_path, f"{images}/x.jpg", f"{images}/y.jpg")
    for name in ("x", "y"):
        (tmp_path / masks).mkdir(exist_ok=True)
        Image.fromarray(np.ones((12, 16), np.uint8)).save(tmp_path / masks / f"{name}.png")
    found, labels, _ = data(tmp_path, images={"train": images}, masks={"train": masks}).pairs("train")
    assert [path.relative_to(tmp_path / images).as_posix() for path in found] == ["x.jpg", "y.jpg"]
    assert [path.relative_to(tmp_path / masks).as_posix() for path in labels] == ["x.png", "y.png"]


@pytest.mark.parametrize("suffix", [".jpg", "_L", "_label", "-0"])
def test_the_suffix_of_masks_is_suggested_and_works(tmp_path: Path, suffix: str) -> None:
    for split in ("train", "val"):
        for name in ("000", "001", "0", "00"):  # beginnings of each other
            write(tmp_path, f"images/{split}/{name}.jpg", f"masks/{split}/{name}{suffix}.png")
    with pytest.raises(DataError, match=rf"lacks the mask of 4 of 4 names .*`mask_suffix: {suffix}`") as error:
        data(tmp_path).pairs("train")
    assert f"{suffix}.png" in str(error.value)
    notes = check(data(tmp_path), "headers").notes
    assert any(f"mask_suffix: {suffix}" in note for note in notes)
    assert len(data(tmp_path, mask_suffix=suffix).pairs("train")[0]) == 4


@pytest.mark.parametrize("suffix", [".png", "_mask.png", "_L"])
def test_a_suffix_that_masks_do_not_have_is_to_be_left_out(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, *(f"{kind}/train/{name}.png" for kind in ("images", "masks") for name in ("a", "b")))
    with pytest.raises(DataError, match=r"the images' names, without .*: leave `mask_suffix` out"):
        data(tmp_path, mask_suffix=suffix).pairs("train")


def test_a_wrong_suffix_in_a_shared_folder_is_corrected(tmp_path: Path) -> None:
    write(tmp_path / "train", "x.png", "y.png", "x_mask.png", "y_mask.png")
    with pytest.raises(DataError, match="by `mask_suffix: _mask`"):
        data(tmp_path, mask_suffix="_mask.png", **SHARED).pairs("train")


def test_nothing_is_suggested_where_names_have_nothing_in_common(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path, f"images/train/{name}.jpg", f"masks/train/other_{name}.png")
    with pytest.raises(DataError, match="lacks the mask of 3 of 3") as error:
        data(tmp_path).pairs("train")
    assert "mask_suffix" not in str(error.value)


# ---- text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lists_may_begin_with_a_byte_order_mark(tmp_path: Path, encoding: str, end: str) -> None:
    (tmp_path / "train.txt").write_bytes(end.join(["müll.jpg 1", "", "b", "sub/c.PNG"]).encode(encoding))
    assert read_stems(tmp_path / "train.txt") == ["müll", "b", "sub/c"]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "latin-1", "shift-jis"])
def test_lists_in_other_encodings_are_one_sentence(tmp_path: Path, encoding: str) -> None:
    text = "caf\u00e9.jpg" if encoding != "shift-jis" else "\u5199\u771f.jpg"
    (tmp_path / "train.txt").write_bytes(f"plain.jpg\n{text}\n".encode(encoding))
    with pytest.raises(DataError, match=r"train\.txt is not in UTF-8 \(line \d, byte 0x..\): save it as UTF-8"):
        read_stems(tmp_path / "train.txt")
    write(tmp_path, "images/x.jpg", "masks/x.png")
    module = data(tmp_path, splits={"train": "train.txt", "val": "train.txt"})
    kinds = {(finding.kind, finding.split) for finding in check(module, "headers").findings}
    assert kinds == {("unreadable data", "train"), ("unreadable data", "val")}


def test_names_of_synsets_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write(tmp_path / split, "n1/a.png", "n2/a.png")
    mapping = tmp_path / "LOC_synset_mapping.txt"
    mapping.write_bytes("n1 tench\nn2 café\n".encode("utf-8-sig"))
    assert ImageNet(tmp_path, num_classes=2).class_names == ["tench", "café"]
    mapping.write_bytes("n1 tench\nn2 café\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"LOC_synset_mapping\.txt is not in UTF-8 \(line 2, byte 0xe9\)"):
        _ = ImageNet(tmp_path, num_classes=2).class_names

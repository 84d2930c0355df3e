r"""Names of image files in annotations: `\` for `/` and the other normal form of Unicode are found, and said."""

import json
import shutil
import unicodedata
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datamodules import CocoPose, DataError
from datamodules.check import check
from datamodules.images.names import as_stored, is_file_name
from datamodules.sample import sample_coco
from experiments.predict.boxes import CocoBoxes
from experiments.predict.media import Photo

NFC, NFD = (lambda text, form=form: unicodedata.normalize(form, text) for form in ("NFC", "NFD"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_coco(tmp_path_factory.mktemp("names") / "coco", num_train=3, num_val=3)


def moved(plain: Path, target: Path, stored: Callable[[str], str], said: Callable[[str], str]) -> CocoPose:
    """The data set with its files of val under `stored` of their names, and annotations that say `said`."""
    shutil.copytree(plain, target)
    path = target / "annotations/person_keypoints_val2017.json"
    content = json.loads(path.read_text())
    for image in content["images"]:
        name = image["file_name"]
        place = target / "val2017" / stored(name)
        place.parent.mkdir(parents=True, exist_ok=True)
        (target / "val2017" / name).rename(place)
        image["file_name"] = said(name)
    path.write_text(json.dumps(content))
    return CocoPose(target, image_size=(64, 48), num_workers=0)


SPELLINGS = {
    "backslashes": (lambda n: f"a/b/{n}", lambda n: f"a\\b\\{n}"),
    "mixed slashes": (lambda n: f"a/b/{n}", lambda n: f"a/b\\{n}"),
    "accents apart": (lambda n: NFC(f"é{n}"), lambda n: NFD(f"é{n}")),
    "accents joined": (lambda n: NFD(f"ñandú {n}"), lambda n: NFC(f"ñandú {n}")),
    "accents in folders": (lambda n: f"{NFD('Köln')}/{NFC('ü')}{n}", lambda n: f"{NFC('Köln')}\\{NFD('ü')}{n}"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_another_spelling_is_found_and_said(plain: Path, tmp_path: Path, spelling: str) -> None:
    stored, said = SPELLINGS[spelling]
    data = moved(plain, tmp_path / "coco", stored, said)
    with pytest.warns(UserWarning, match="spells 3 of 3 images otherwise than .*val2017 does.*these are taken"):
        dataset = data.split("val")
    expected = CocoPose(plain, image_size=(64, 48), num_workers=0).split("val")
    for i in range(len(expected)):
        np.testing.assert_array_equal(dataset[i]["image"], expected[i]["image"])
    before = check(CocoPose(plain, image_size=(64, 48), num_workers=0)).findings
    new = [finding for finding in check(data).findings if finding not in before]
    assert {(finding.kind, finding.split) for finding in new} == {("file name spelled otherwise", "val")}
    assert len(new) == 3


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_boxes_for_prediction_are_found_by_any_spelling(plain: Path, tmp_path: Path, spelling: str) -> None:
    stored, said = SPELLINGS[spelling]
    data = moved(plain, tmp_path / "coco", stored, said)
    path = tmp_path / "coco/annotations/person_keypoints_val2017.json"
    boxes = CocoBoxes(path, data.skeleton)
    for image in json.loads((plain / "annotations" / path.name).read_text())["images"]:
        photo = Photo(np.zeros((4, 4, 3), np.uint8), tmp_path / "coco/val2017" / stored(image["file_name"]))
        assert boxes(photo).image_id == image["id"]
        assert boxes.image_size(photo.path) == (image["height"], image["width"])


def test_names_as_they_are_stored_are_read_in_silence(plain: Path, tmp_path: Path) -> None:
    """A file whose name holds a backslash is meant, where there is one."""
    data = moved(plain, tmp_path / "coco", lambda n: f"a\\{NFD('é')}{n}", lambda n: f"a\\{NFD('é')}{n}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(data.split("val")) > 0
    assert "file name spelled otherwise" not in {finding.kind for finding in check(data).findings}


def test_what_is_missing_stays_missing(plain: Path, tmp_path: Path) -> None:
    data = moved(plain, tmp_path / "coco", lambda n: n, lambda n: f"other\\{n}")
    with pytest.raises(DataError, match="lacks 3 of the 3 images"):
        data.split("val")
    assert [finding.kind for finding in check(data).findings].count("missing image") == 3


def test_only_names_that_differ_are_given(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.jpg", "sub/b.jpg", f"sub/{NFD('ö')}.jpg"):
        (tmp_path / name).touch()
    names = [
        "a.jpg",
        "sub\\b.jpg",
        "./sub/b.jpg",
        f"sub\\{NFC('ö')}.jpg",
        "c.jpg",
        "x/y.jpg",
        "../sub",
        "sub\\..\\a.jpg",
    ]
    assert as_stored(tmp_path, names) == {
        "sub\\b.jpg": "sub/b.jpg",
        f"sub\\{NFC('ö')}.jpg": f"sub/{NFD('ö')}.jpg",
        "sub\\..\\a.jpg": "sub/../a.jpg",
    }


@pytest.mark.parametrize("bad", ["", None, 7, True, ["a.jpg"], "a\0.jpg", "a\ud800.jpg"])
def test_what_no_file_can_be_called_is_refused_by_both(plain: Path, tmp_path: Path, bad: object) -> None:
    assert not is_file_name(bad)
    root = Path(shutil.copytree(plain, tmp_path / "coco"))
    path = root / "annotations/person_keypoints_val2017.json"
    content = json.loads(path.read_text())
    content["images"][1]["file_name"] = bad
    path.write_text(json.dumps(content))
    data = CocoPose(root, image_size=(64, 48), num_workers=0)
    with pytest.raises(DataError, match=r"1 image \(id \d+\) have no `file_name`"):
        data.split("val")
    assert "malformed entry" in {finding.kind for finding in check(data).findings}

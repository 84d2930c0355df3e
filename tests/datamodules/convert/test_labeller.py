"""Labelling in a notebook: what is clicked, typed or removed is in LabelMe's files, and `convert` reads it back."""

import base64
import io
import json
import re
import sys
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datamodules import DataError
from datamodules.convert import PointLabeller, convert
from tests.datamodules.convert.pictures import entries, picture, points, text
from tests.experiments.compare.browser import CHROMIUM, browser

NAMES = ["nose", "left_ear", "right_ear"]
TIMES = count()


def labeller(root: Path, many: int = 3, **options: Any) -> PointLabeller:
    """Of photographs of 64 x 48 pixels."""
    photographs = [picture(root / f"photos/{i}.png") for i in range(many)]
    return PointLabeller(photographs, NAMES, root / "labels", **options)


def click(widget: PointLabeller, across: float, down: float) -> None:
    """As the picture's own script says it: shares of its width and height, and a time."""
    widget.place_clicked.value = f"{across} {down} {next(TIMES)}"


def written(widget: PointLabeller, number: int = 0) -> dict[str, Any]:
    return json.loads(widget.file_of(widget.photographs[number]).read_text(encoding="utf-8"))


def drawn(widget: PointLabeller) -> list[tuple[float, float]]:
    """Places of the marks in the picture."""
    return [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([^"]+)" cy="([^"]+)"', widget.picture.value)]


def test_clicks_become_points_that_convert_reads_back(tmp_path: Path) -> None:
    widget = labeller(tmp_path, thing="mouse")
    for number in range(3):
        assert [widget.photo.value, widget.point.value, widget.points] == [number, "nose", {}]
        click(widget, 0.25, 0.5 + number / 8)
        assert widget.point.value == "left_ear"  # the next one is chosen
        click(widget, 0.5, 0.125)
        widget.hidden.value = True
        click(widget, 1.001, -0.001)  # a click at the border is at the border
        assert drawn(widget) == [(16, 24 + 6 * number), (32, 6), (64, 0)]
        assert widget.state.value == f"{number + 1} of 3: 3 of 3 points"
        widget.next.click()
    assert widget.photo.value == 2  # there is no further one
    found = entries(convert(tmp_path / "labels", tmp_path / "out", val=0.34))
    assert {name: len(rows) for name, rows in found.items()} == {"0.png": 1, "1.png": 1, "2.png": 1}
    for number in range(3):
        (entry,) = found[f"{number}.png"]
        assert points(entry) == [(16, 24 + 6 * number, 2), (32, 6, 2), (64, 0, 1)]
        assert entry["bbox"] == [0, 0, 64, 48]  # the whole photograph
    skeleton = (tmp_path / "out/skeleton.yaml").read_text()
    assert "names: [nose, left_ear, right_ear]" in skeleton
    assert "- [left_ear, right_ear]" in skeleton


def test_a_point_is_moved_by_numbers_hidden_and_removed(tmp_path: Path) -> None:
    widget = labeller(tmp_path, whole=False)
    widget.hidden.value = True  # of a point that is not placed yet, it places nothing
    assert widget.points == {}
    widget.hidden.value = False
    click(widget, 0.25, 0.25)
    widget.point.value = "nose"
    assert (widget.x.value, widget.y.value) == (16, 12)
    widget.x.value, widget.y.value = 20.5, 13
    widget.hidden.value = True
    assert [(s["label"], s["points"], s["flags"]) for s in written(widget)["shapes"]] == [
        ("nose", [[20.5, 13]], {"occluded": True})
    ]
    widget.hidden.value = False
    assert written(widget)["shapes"][0]["flags"] == {}
    widget.clear.click()
    assert written(widget)["shapes"] == []
    assert drawn(widget) == []
    assert (widget.x.value, widget.y.value) == (32, 24)  # the middle, from where a number moves it
    widget.clear.click()  # of what is not there, nothing
    assert widget.unlabelled() == widget.photographs


def test_fields_follow_photographs_without_moving_their_points(tmp_path: Path) -> None:
    wide, narrow = picture(tmp_path / "a.png", 200, 100), picture(tmp_path / "b.png", 20, 10)
    widget = PointLabeller([wide, narrow], NAMES)
    widget.place("nose", 150, 90)
    widget.point.value = "nose"
    widget.open(narrow)  # whose highest x is below the one in the field
    assert widget.points == {}
    assert not widget.file_of(narrow).exists()
    assert (widget.x.max, widget.y.max) == (20, 10)
    widget.place("nose", 3, 4)
    widget.open(wide)
    assert widget.points == {"nose": (150, 90, 2)}
    assert written(widget)["shapes"][-1]["points"] == [[150, 90]]
    assert written(widget, 1)["shapes"][-1]["points"] == [[3, 4]]


def test_the_next_point_without_a_place_is_chosen_and_marks_say_which_and_whether_hidden(tmp_path: Path) -> None:
    widget = labeller(tmp_path)
    widget.point.value = "left_ear"
    click(widget, 0.5, 0.5)
    assert widget.point.value == "right_ear"
    click(widget, 0.25, 0.5)
    assert widget.point.value == "nose"  # from the last one on to the first
    widget.place("nose", 1, 1, hidden=True)
    marks = re.findall(r'fill="(\w+)" stroke="(\w+)" stroke-width="[^"]+"/><text', widget.picture.value)
    assert marks == [("orange", "orange"), ("orange", "orange"), ("none", "deepskyblue")]


def test_a_large_photograph_is_sent_at_two_pixels_for_one_of_the_screen(tmp_path: Path) -> None:
    for width, sent in ((300, (200, 100)), (150, (150, 75))):
        widget = PointLabeller([picture(tmp_path / f"{width}.png", width, width // 2)], NAMES, width=100)
        (data,) = re.findall(r"data:image/jpeg;base64,([^\"]+)", widget.picture.value)
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == sent
        assert f'viewBox="0 0 {width} {width // 2}"' in widget.picture.value


def test_work_goes_on_where_it_was_left_and_other_shapes_are_kept(tmp_path: Path) -> None:
    first = labeller(tmp_path)
    first.place("nose", 10, 20)
    path = first.file_of(first.photographs[0])
    content = json.loads(path.read_text())
    outline = {"label": "fur", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon", "flags": {}}
    tail = {"label": "tail", "points": [[5, 5]], "shape_type": "point", "flags": {}, "group_id": None}
    content["shapes"] = [outline, *content["shapes"], tail]
    content["shapes"][2] |= {"group_id": 7, "description": "sharp"}
    text(path, content | {"imageData": "AAAA", "flags": {"day": True}})
    again = labeller(tmp_path)
    assert again.points == {"nose": (10, 20, 2)}
    assert again.point.value == "left_ear"
    assert again.unlabelled() == again.photographs[1:]
    again.place("nose", 11, 21, hidden=True)
    shapes = written(again)["shapes"]
    assert (written(again)["imageData"], written(again)["flags"]) == ("AAAA", {"day": True})
    assert [shape["label"] for shape in shapes] == ["fur", "object", "tail", "nose"]
    assert shapes[0] == outline
    assert shapes[2] == tail
    assert shapes[3] == content["shapes"][2] | {"points": [[11, 21]], "flags": {"occluded": True}}
    assert list(path.parent.iterdir()) == [path]


def test_a_photograph_on_its_side_is_labelled_as_it_is_shown(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photographs = [picture(tmp_path / f"photos/{i}.jpg", 64, 48, exif=exif) for i in range(2)]
    widget = PointLabeller(photographs, NAMES, tmp_path / "labels")
    assert 'viewBox="0 0 48 64"' in widget.picture.value
    for photograph in photographs:
        widget.open(photograph)
        click(widget, 0.5, 0.75)
    converted = convert(tmp_path / "labels", tmp_path / "out", val=0.5)
    assert points(entries(converted)["0.jpg"][0]) == [(24, 48, 2)]
    assert "upright: true" in (tmp_path / "out/mine.yaml").read_text()


def test_a_box_is_drawn_about_the_points_where_it_is_not_the_photograph(tmp_path: Path) -> None:
    widget = labeller(tmp_path, 2, whole=False)
    for photograph in widget.photographs:
        widget.open(photograph)
        widget.place("nose", 10, 10)
        widget.place("left_ear", 30, 20)
    converted = convert(tmp_path / "labels", tmp_path / "out", val=0.5)
    assert entries(converted)["0.png"][0]["bbox"] == [8, 8, 24, 14]


def test_a_damaged_photograph_is_said_and_does_not_stop_the_others(tmp_path: Path) -> None:
    widget = labeller(tmp_path)
    widget.photographs[1].write_bytes(b"no image")
    widget.next.click()
    assert "1.png" in widget.picture.value
    assert "<svg" not in widget.picture.value
    click(widget, 0.5, 0.5)
    widget.x.value = 0
    assert widget.state.value.startswith("Not written: ")
    widget.clear.click()
    widget.next.click()
    click(widget, 0.5, 0.5)
    assert [path.name for path in (tmp_path / "labels").iterdir()] == ["2.json"]
    with pytest.raises(DataError, match=r"1\.png"):
        widget.open(widget.photographs[1])
    with pytest.raises(DataError, match=r"1\.png"):
        widget.place("nose", 1, 1)


def test_a_label_that_cannot_be_written_is_said_and_not_shown(tmp_path: Path) -> None:
    text(tmp_path / "labels", "a file where the folder would be")
    widget = labeller(tmp_path)
    click(widget, 0.5, 0.5)
    assert widget.state.value.startswith("Not written: ")
    assert "labels" in widget.state.value
    assert (widget.points, drawn(widget), widget.point.value) == ({}, [], "nose")
    with pytest.raises(OSError, match="labels"):
        widget.place("nose", 1, 1)


def test_shapes_that_are_not_whole_are_no_points(tmp_path: Path) -> None:
    shapes = [{"label": "nose", "shape_type": "point", "points": corners} for corners in ([], [[1]], 5)]
    kinds = [{**shape, "label": name} for shape, name in zip(shapes, NAMES, strict=True)]
    text(tmp_path / "labels/0.json", {"shapes": [*kinds, {"label": "fur", "flags": [1]}]})
    widget = labeller(tmp_path)
    assert widget.points == {}
    widget.place("nose", 2, 3)
    assert labeller(tmp_path).points == {"nose": (2, 3, 2)}


def test_a_notebook_shows_the_widget_and_names_are_only_text(tmp_path: Path) -> None:
    widget = PointLabeller([picture(tmp_path / "a.png", 300, 200)], ["<b>nose</b>"], width=100)
    widget.place("<b>nose</b>", 1, 2)
    assert "<b>" not in widget.picture.value
    assert "&lt;b&gt;nose" in widget.picture.value
    shown = widget._repr_mimebundle_()
    data = shown[0] if isinstance(shown, tuple) else shown
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == widget.widget.model_id


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"images": []}, "no file of LabelMe"),
        ({"shapes": ["nose"]}, "no file of LabelMe"),
        ({"shapes": [], "imageHeight": 480, "imageWidth": 640}, "640 x 480 pixels, .*64 x 48"),
        ({"shapes": 2 * [{"label": "nose", "shape_type": "point", "points": [[1, 1]]}]}, "nose more than once"),
        ("{", "not LabelMe JSON"),
    ],
)
def test_labels_of_another_kind_are_refused_and_left_alone(tmp_path: Path, content: Any, said: str) -> None:
    path = text(tmp_path / "labels/0.json", content)
    before = path.read_bytes()
    with pytest.raises(DataError, match=said):
        labeller(tmp_path)
    assert path.read_bytes() == before


def test_what_cannot_be_labelled_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photograph = picture(tmp_path / "a.png")
    with pytest.raises(DataError, match="no photograph"):
        PointLabeller([], NAMES)
    with pytest.raises(DataError, match="found nose"):
        PointLabeller([photograph], ["nose", "nose"])
    with pytest.raises(DataError, match="found none"):
        PointLabeller([photograph], [])
    with pytest.raises(DataError, match=r"Several photographs .*a\.json"):
        PointLabeller([photograph, picture(tmp_path / "b/a.png")], NAMES, tmp_path / "labels")
    with pytest.raises(DataError, match=r"gone\.png"):
        PointLabeller([tmp_path / "gone.png"], NAMES)
    widget = PointLabeller([photograph], NAMES)
    with pytest.raises(ValueError, match="no key point 'tail'"):
        widget.place("tail", 1, 1)
    for x, y in ((64.5, 1), (1, -0.5), (float("nan"), 1)):
        with pytest.raises(ValueError, match="outside of the photograph, which has 64 x 48"):
            widget.place("nose", x, y)
    assert not widget.file_of(photograph).exists()
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(DataError, match=r"needs ipywidgets.*pip install 'hrnet-lightning\[notebooks\]'"):
        PointLabeller([photograph], NAMES)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium or google-chrome on the PATH")
def test_a_click_of_the_mouse_says_where_it_was(tmp_path: Path) -> None:
    """The script in the picture, with fields about it as ipywidgets lays them out."""
    widget = labeller(tmp_path)
    page = f"""<!doctype html><div class="point-labeller"><div>{widget.picture.value}</div>
    <div class="point-labeller-place" style="display: none"><input></div></div>
    <script>
    said = [];
    document.querySelector('input').addEventListener('input', event => said.push(event.target.value));
    </script>
    """
    text(tmp_path / "page.html", page)
    with browser(tmp_path / "profile") as opened:
        opened.open(tmp_path / "page.html")
        opened.click("svg")  # its middle
        opened.click("svg")
        said = opened.value("said")
        assert opened.mistakes() == []
    assert len(set(said)) == 2  # though at one place
    for place in said:
        widget.point.value = "nose"
        widget.place_clicked.value = place
    assert widget.points["nose"] == pytest.approx((32, 24, 2), abs=0.1)

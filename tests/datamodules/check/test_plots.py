"""Plots of labels are drawn as they are said, can be read, and stand below the samples in the data doctor's picture."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torchvision.io import read_image

from datamodules import (
    LIP,
    WFLW,
    CocoDetection,
    CocoPose,
    DataError,
    ImageFolder,
    MixedPose,
    MpiiPose,
    MultiTaskDataModule,
)  # fmt: skip
from datamodules.check import draw_distributions, main
from datamodules.check.plots import figures
from datamodules.loading.distributions import Bars, Distribution, Histogram, Positions, StackedBars
from datamodules.loading.text_files import ConfigError

SMALL: dict[str, Any] = {"image_size": (64, 48), "num_workers": 0}


def test_data_of_several_kinds_have_a_row_each() -> None:
    parts = {"pose": CocoPose("sample", **SMALL), "objects": CocoDetection("sample", **SMALL)}
    joint = MultiTaskDataModule({**parts, "again": "pose"})
    shown = list(figures(joint))
    assert [figure.get_suptitle() for figure in shown] == ["pose: labels of train", "objects: labels of train"]
    assert [len(figure.axes) for figure in shown] == [3, 4]
    titles = [one.title for one in joint.distributions("train")]
    assert titles == [f"{name}: {one.title}" for name, part in parts.items() for one in part.distributions("train")]
    mixed = MixedPose({"a": {"data": parts["pose"]}, "b": {"data": MpiiPose("sample", **SMALL)}}, skeleton="union")
    assert [figure.get_suptitle()[:2] for figure in figures(mixed)] == ["a:", "b:"]
    within = MultiTaskDataModule({"people": mixed})
    assert [len(figure.axes) for figure in figures(within)] == [3, 3]


class Said(CocoPose):
    """Data that say of themselves what a test wants."""

    what: tuple[Distribution, ...] = ()

    def distributions(self, split: str) -> Any:
        """These."""
        yield from self.what


def drawn(*what: Distribution) -> list[Figure]:
    data = Said("sample", **SMALL)
    data.what = what
    shown = list(figures(data))
    for figure in shown:
        FigureCanvasAgg(figure).draw()
    return shown


MANY = "1,000,000 objects"
POINTS = {"visible": [*range(98)], "hidden": [3] * 98, "not labelled": [*range(98, 0, -1)]}
CROWDED = [
    Bars("objects of each class", MANY, [f"name of the class {k}" for k in range(1203)], [*range(1203)], "objects"),
    Histogram("sizes of objects", MANY, np.geomspace(1, 4000, 500), "square root of the box's area, pixels", "objects"),
    Positions("centres of the boxes", MANY, np.random.default_rng(0).normal(0.5, 0.3, (999, 2)), "objects"),
    StackedBars("visibility of key points", MANY, [f"point {k}" for k in range(98)], POINTS, "share of the persons"),
]  # fmt: skip


@pytest.mark.parametrize("data", [CocoPose, CocoDetection, LIP, ImageFolder, WFLW, None])
def test_no_text_lies_on_another(data: type | None) -> None:
    shown = drawn(*CROWDED) if data is None else list(figures(data("sample", num_workers=0, image_size=(64, 48))))
    for figure in shown:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        boxes = [axes.get_tightbbox(canvas.get_renderer()) for axes in figure.axes]
        assert all(box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 for box in boxes)
        for one, other in combinations(boxes, 2):
            assert one.x1 <= other.x0 + 1 or other.x1 <= one.x0 + 1
        assert max(box.y1 for box in boxes) <= figure.texts[0].get_window_extent().y0 + 1  # the title of the row
        for axes in figure.axes:
            names = [name.get_window_extent() for name in axes.get_yticklabels() if name.get_text()]
            assert all(upper.y0 >= lower.y1 - 1 or lower.y0 >= upper.y1 - 1 for upper, lower in combinations(names, 2))
            ticks = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
            low, high = axes.get_xlim()
            numbers = [name.get_window_extent() for tick, name in ticks if low <= tick <= high]
            assert len(numbers) > 1
            assert all(left.x1 <= right.x0 or right.x1 <= left.x0 for left, right in combinations(numbers, 2))


def test_of_many_classes_the_most_frequent_and_the_rarest_are_shown() -> None:
    values = np.random.default_rng(0).permutation(80).tolist()
    (figure,) = drawn(Bars("objects of each class", "9 objects", [f"class {value}" for value in values], values, "n"))
    axes = figure.axes[0]
    names = [name.get_text() for name in axes.get_yticklabels()]
    assert names == [f"class {value}" for value in (*range(79, 59, -1), *range(9, -1, -1))]
    assert [text.get_text() for text in axes.texts] == [name.split()[1] for name in names]
    title = axes.get_title(loc="left")
    assert title.splitlines()[1:] == ["9 objects", "20 most frequent, 10 rarest of 80", "1 without any"]


def test_points_beside_their_image_and_equal_sizes_are_said() -> None:
    points = np.array([[0.5, 0.5], [0.52, 0.51], [1.2, 0.5]])
    equal, places = (
        Histogram("sizes of images", "9 images", np.full(9, 512), "longer side, pixels", "images"),
        Positions("centres of the boxes", "3 faces", points, "faces"),
    )
    (figure,) = drawn(equal, places)
    titles = [axes.get_title(loc="left").splitlines()[2:] for axes in figure.axes]
    assert titles == [["all 512"], ["up to 2 in a cell", "1 outside of their images"]]


def test_names_are_drawn_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matplotlib.mathtext.MathTextParser.parse", None)
    drawn(Bars("$x$", "$y$", ["$\\frac$", "\x1b[31m"], [1, 2], "$z$"))


def test_data_that_say_nothing_have_no_plots() -> None:
    data = Said("sample", **SMALL)
    assert not list(figures(data))
    assert draw_distributions(data, 300).shape == (3, 0, 300)


WORDS = ["pose_coco.yaml", "sample.yaml", "--data.image_size", "[64,48]", "--data.num_workers", "0"]


def test_the_picture_has_samples_and_plots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sheet = torch.arange(3 * 50 * 1700).remainder(251).to(torch.uint8).view(3, 50, 1700)  # tested on its own
    monkeypatch.setattr("experiments.training.sheet.training_sheet", lambda data: sheet)
    path = tmp_path / "sheet.png"
    assert main([*WORDS, "--images", "none", "--picture", str(path)]) == 0
    picture, plots = read_image(str(path)), draw_distributions(CocoPose("sample", **SMALL), 1700)
    assert plots.shape[1] > 400
    assert torch.equal(picture, torch.cat([sheet, plots], dim=1))


@pytest.mark.parametrize("place", ["none/sheet.png", "sheet.jpg"])
def test_a_bad_place_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr("datamodules.check.__main__.load_data", None)
    with pytest.raises(ConfigError, match=r"--picture .*cannot be written: name a .png file in a folder"):
        main([*WORDS, "--picture", str(tmp_path / place)])


def test_defects_are_listed_although_the_data_cannot_be_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, file = CocoPose.sample_root().resolve(), "annotations/person_keypoints_train2017.json"
    truth = json.loads((root / file).read_text())
    truth["annotations"][0]["bbox"] = [1, 2, None]
    (tmp_path / "annotations").mkdir()
    for name in ("train2017", "val2017", "annotations/person_keypoints_val2017.json"):
        (tmp_path / name).symlink_to(root / name)
    (tmp_path / file).write_text(json.dumps(truth))
    words = ["pose_coco.yaml", "--data.root", str(tmp_path), "--data.num_workers", "0", "--images", "none"]
    assert main([*words, "--picture", str(tmp_path / "sheet.png")]) == 1
    shown = capsys.readouterr().out
    assert "malformed entry: 1" in shown
    assert "no picture, since these data cannot be loaded: " in shown
    assert not (tmp_path / "sheet.png").exists()


def test_what_the_doctor_did_not_find_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise DataError("masks/7.png has an id that is no class.")

    monkeypatch.setattr("datamodules.keypoints.data.KeypointData.distributions", refuse)
    with pytest.raises(DataError, match=r"masks/7.png"):
        main([*WORDS, "--images", "none", "--picture", str(tmp_path / "sheet.png")])


def test_bars_of_whole_numbers_stand_for_as_many_of_them() -> None:
    (figure,) = drawn(Histogram("objects on an image", "94 images", np.arange(-5, 90), "objects", "images"))
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert sum(heights) == 95
    assert len({*heights[:-1]}) == 1
    (figure,) = drawn(Histogram("objects on an image", "6 images", np.array([1, 1, 1, 2, 2, 4]), "objects", "images"))
    assert [bar.get_height() for bar in figure.axes[0].patches] == [3, 2, 0, 1]


def test_a_place_is_drawn_where_it_is() -> None:
    (figure,) = drawn(Positions("centres of the boxes", "40 objects", np.full((40, 2), [0.1, 0.9]), "objects"))
    axes = figure.axes[0]
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)
    left, bottom, width, height = axes.get_window_extent().bounds
    inside = pixels[::-1][round(bottom) + 3 : round(bottom + height) - 3, round(left) + 3 : round(left + width) - 3]
    rows, columns = (inside.sum(axis=2) < 400).nonzero()  # from the bottom and from the left
    assert (columns.mean() / inside.shape[1], rows.mean() / inside.shape[0]) == pytest.approx((0.1, 0.1), abs=0.1)
    assert columns.max() < 0.25 * inside.shape[1]


def test_bars_are_as_long_as_what_they_stand_for() -> None:
    of_classes = Bars(
        "pixels of each class", "2 masks", ["sky", "sea", "sand"], [0.25, 0.7, 0.05], "share of the pixels"
    )
    series = {"visible": [3, 0], "hidden": [1, 2], "not labelled": [0, 2]}
    points = StackedBars("visibility of key points", "4 persons", ["nose", "tail"], series, "share of the persons")
    (figure,) = drawn(of_classes, points)
    bars, stacked = figure.axes
    assert [bar.get_width() for bar in bars.patches] == [0.7, 0.25, 0.05]
    assert [text.get_text() for text in bars.texts] == ["70 %", "25 %", "5 %"]
    assert [name.get_text() for name in bars.get_yticklabels()] == ["sea", "sky", "sand"]
    assert [(bar.get_x(), bar.get_width()) for bar in stacked.patches] == [
        (0, 0.75), (0, 0), (0.75, 0.25), (0, 0.5), (1, 0), (0.5, 0.5),
    ]  # fmt: skip
    assert [text.get_text() for text in stacked.get_legend().get_texts()] == list(series)
    for axes in figure.axes:  # the first thing is at the top
        assert axes.transData.transform((0, 0))[1] > axes.transData.transform((0, 1))[1]


def test_sizes_that_differ_much_have_an_axis_of_logarithms() -> None:
    near, far = np.linspace(100.5, 400.5, 90), np.geomspace(3.5, 900, 90)
    (figure,) = drawn(
        *(Histogram("sizes of objects", "90 objects", sizes, "pixels", "objects") for sizes in (near, far))
    )
    assert [axes.get_xscale() for axes in figure.axes] == ["linear", "log"]
    for axes, sizes in zip(figure.axes, (near, far), strict=True):
        assert sum(bar.get_height() for bar in axes.patches) == 90
        assert axes.lines[0].get_xdata() == pytest.approx([np.median(sizes)] * 2)
    assert max(bar.get_height() for bar in figure.axes[1].patches) <= 11  # of 9 bins, equal in logarithms

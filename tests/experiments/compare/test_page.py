"""The page of a comparison: its figures, what is marked in it, and that it works in a browser without a network."""

import base64
import json
import math
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from plotly.offline import get_plotlyjs

from experiments.compare import compare, main
from experiments.compare.page.figures import draw_curves, draw_parallel, run_name, smoothed
from experiments.compare.page.side_by_side import draw_examples, shown_examples
from experiments.compare.runs import read_run
from experiments.compare.statistics import explained
from experiments.compare.sweeps import swept
from tasks.draw.examples import example
from tasks.draw.pictures import Layers
from tests.experiments.compare.browser import CHROMIUM, browser
from tests.experiments.compare.test_compare import make_run, write_csv


def searched(folder: Path, count: int = 8) -> list[Path]:
    """Runs of a search whose AP follows the learning rate, best in the middle."""
    rates = [10 ** (-4 + 3 * i / (count - 1)) for i in range(count)]
    values = [0.6 - 0.1 * (math.log10(rate) + 2.4) ** 2 for rate in rates]
    return [
        make_run(folder / f"run{i}", lr=rate, ap=value, variant=("w18", "w32")[i % 2], seed=i)
        for i, (rate, value) in enumerate(zip(rates, values, strict=True))
    ]


# What is computed


def test_smoothing_is_the_debiased_moving_average() -> None:
    values = list(np.random.default_rng(0).normal(size=30))
    for weight in (0.0, 0.5, 0.9):
        powers = weight ** np.arange(30)[::-1]
        expected = [np.average(values[: n + 1], weights=powers[29 - n :]) if weight else values[n] for n in range(30)]
        assert smoothed(values, weight) == pytest.approx(expected)
    assert smoothed([3.0] * 5, 0.95) == pytest.approx([3.0] * 5)


def least_squares(columns: list[np.ndarray], target: np.ndarray) -> float:
    """Adjusted R2 by the normal equations."""
    design = np.stack([np.ones(len(target)), *columns], axis=1)
    fitted = design @ np.linalg.solve(design.T @ design, design.T @ target)
    left = len(target) - design.shape[1]
    return 1 - ((target - fitted) ** 2).sum() / left / target.var(ddof=1)


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks of values of which no two are equal."""
    return values.argsort().argsort() + 1.0


def test_what_a_setting_explains_is_adjusted_r2_of_ranks() -> None:
    random = np.random.default_rng(0)
    number, noise = random.uniform(size=40), random.normal(0, 0.3, 40)
    names = random.choice(["a", "b", "c"], 40)
    reached = -((number - 0.4) ** 2) + (names == "b") * 0.05 + 0.1 * noise
    target, r = ranks(reached), ranks(number)
    assert explained(number.tolist(), reached.tolist()) == pytest.approx(least_squares([r, r**2], target))
    groups = [(names == name).astype(float) for name in "bc"]
    assert explained(names.tolist(), reached.tolist()) == pytest.approx(max(0, least_squares(groups, target)))
    assert explained(number.tolist(), (number**3).tolist()) == pytest.approx(1)
    assert explained(["a", "b", "c", "d"], [1.0, 2.0, 3.0, 4.0]) is None
    assert explained([1.0, 2.0, 1.0, 2.0, 1.0], [0.5] * 5) is None


def test_the_setting_that_was_searched_explains_the_metric(tmp_path: Path) -> None:
    rows = compare(searched(tmp_path)).tables["importance"]
    assert [row["key"] for row in rows] == ["model.optimizer.lr", "model.backbone.variant"]
    assert rows[0]["explains"] > 0.8 > 0.2 > rows[1]["explains"]
    assert "importance" not in compare(sorted(tmp_path.iterdir())[:5]).tables


def test_runs_of_a_sweep_are_lines_through_their_settings(tmp_path: Path) -> None:
    paths = searched(tmp_path)
    other = make_run(tmp_path / "other", metric="val/mIoU", task="SegmentationTask")
    runs = [read_run(path) for path in (*paths, other)]
    found = swept(runs, [run.monitor for run in runs])
    assert found is not None
    assert [setting.key for setting in found.settings] == ["model.backbone.variant", "model.optimizer.lr"]
    variant, rate, metric = draw_parallel(found).data[0].dimensions
    assert list(variant.ticktext) == ["w18", "w32"]
    assert list(rate.values) == pytest.approx([-4 + 3 * i / 7 for i in range(8)])
    assert rate.ticktext[0] == "0.0001"
    assert list(metric.values) == [run.best["val/AP"] for run in runs[:-1]]
    assert swept(runs[:3], ["val/AP"] * 3) is None


def test_the_best_value_of_each_metric_is_marked(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"{i}", ap=0.5 + i / 10) for i in range(3)]
    for run, loss in zip(runs, (0.1, 0.3, 0.2), strict=True):
        summary = json.loads((run / "summary.json").read_text())
        summary["best"] |= {"val/loss": loss, "val/odd": loss, "val/AR": 0.5}
        (run / "summary.json").write_text(json.dumps(summary))
    comparison = compare(runs)
    table = comparison.titled["best"]
    marked = {(table.rows[i]["metric"], key) for i, key in table.best}
    assert marked == {("val/AP", "3"), ("val/loss", "1")}  # nobody said which way val/odd goes; val/AR is equal
    turned = table.turned()
    assert {(turned.rows[i]["run"], key) for i, key in turned.best} == {("3", "val/AP"), ("1", "val/loss")}
    assert comparison.titled["runs"].best == {(2, "best")}
    for text in (comparison.to_html(), comparison._repr_html_()):
        assert text.count('<td class="number best">0.7000</td>') == 2  # of the run and of the metric
        assert text.count('<td class="number best">0.1000</td>') == 1


def test_the_best_run_is_marked_among_those_on_the_same_data(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / f"{i}", ap=0.5 + i / 10) for i in range(4)]
    other = paths[3] / "config.yaml"
    other.write_text(other.read_text().replace("root: sample", "root: data/coco"))
    segmented = [make_run(tmp_path / f"s{i}", ap=0.3, metric="val/mIoU", task="SegmentationTask") for i in range(2)]
    table = compare([*paths, *segmented]).titled["runs"]
    assert table.best == {(2, "best")}  # the fourth is alone on its data, and the last two are equal


def test_remarks_are_shown_beside_names_and_tags(tmp_path: Path) -> None:
    plain, noted = make_run(tmp_path / "plain"), make_run(tmp_path / "noted")
    config = yaml.safe_load((noted / "config.yaml").read_text())
    config["wandb"] = {"notes": "more colour, as in table 3"}
    (noted / "config.yaml").write_text(yaml.safe_dump(config))
    assert [row["remarks"] for row in compare([plain, noted]).tables["runs"]] == [None, "more colour, as in table 3"]
    assert "remarks" not in compare([plain]).tables["runs"][0]


def test_curves_are_those_of_the_runs_and_smoothed_by_the_slider(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b<b>", ap=0.8)
    runs = [read_run(path) for path in (a, make_run(tmp_path / "c", metric="val/x"), b)]
    figure = draw_curves(runs, "val/AP")
    lines = [trace for trace in figure.data if trace.name]
    assert [line.name for line in lines] == [run_name(1, runs[0]), run_name(3, runs[2])]
    assert lines[1].name.endswith("b&lt;b&gt;")
    assert numbers(lines[1].y) == pytest.approx([0.6, 0.8, 0.7])
    last = figure.layout.sliders[0].steps[-1]
    values, places = last.args
    assert [figure.data[place] for place in places] == lines
    assert numbers(values["y"][1]) == pytest.approx(smoothed([0.6, 0.8, 0.7], float(last.label)), rel=1e-6)


def numbers(spec: dict[str, str]) -> list[float]:
    """The numbers that a figure holds as bytes."""
    assert spec["dtype"] == "f4"
    return np.frombuffer(base64.b64decode(spec["bdata"]), "<f4").tolist()


# The same samples from every run

SKELETON = ["nose", "left_eye", "right_eye"]


def add_examples(run: Path, scores: dict[int, float], name: str = "val", shift: float = 0.0) -> None:
    """Examples of key points, as an evaluation keeps them."""
    truth = torch.tensor([[10.0, 10.0], [30.0, 20.0], [float("nan"), float("nan")]])
    found = []
    for sample, score in scores.items():
        image = torch.full((3, 60, 40), sample, dtype=torch.uint8)
        points = {"truth": truth, "prediction": truth + shift}
        layers = Layers(image, f"image {sample}", SKELETON, points=points, limbs=[(0, 1), (1, 2)])
        found.append({"sample": sample, "score": score, **example(layers)})
    folder = run / "predictions"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}_examples.json").write_text(json.dumps({"version": 1, "examples": found}))


def test_samples_come_in_the_order_in_which_runs_differ(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / name) for name in "abcd"]
    add_examples(paths[0], {1: 0.5, 2: 0.9, 3: 0.2, 9: 1.0})
    add_examples(paths[1], {1: 0.6, 2: 0.3, 3: 0.2, 8: 0.0})
    add_examples(paths[2], {1: 0.4, 2: 0.8, 3: 0.9}, shift=4.0)
    runs = [read_run(path) for path in paths]
    (shown,), (note,) = shown_examples(runs)
    assert shown.runs == [1, 2, 3]
    assert [[one["score"] for one in row] for row in shown.rows] == [[0.2, 0.2, 0.9], [0.9, 0.3, 0.8], [0.5, 0.6, 0.4]]
    assert re.search(r"Without examples: 4\. .*validate --checkpoint", note)
    figure = draw_examples(shown, runs)
    assert [step.label for step in figure.layout.sliders[0].steps] == ["1", "2", "3"]
    heads = [[note.text for note in frame.layout.annotations] for frame in figure.frames]
    assert heads[0][0] == "truth: image 3"
    assert [text.rsplit(": ", 1)[1] for text in heads[0][1:]] == ["0.200", "0.200", "0.900"]
    points = figure.frames[0].data[3 * 5 + 2]  # of run 3, after its picture and lines
    assert list(points.x) == pytest.approx([14.5 / 40, 34.5 / 40], abs=1e-4)
    assert list(points.hovertext) == SKELETON[:2]


def test_one_run_with_other_samples_does_not_hide_those_of_the_others(tmp_path: Path) -> None:
    samples = {"a": {8: 0.1, 9: 0.2}, "b": {1: 0.5, 2: 0.9}, "c": {1: 0.6, 2: 0.3}, "d": {7: 0.5, 9: 0.4}}
    for name, scores in samples.items():
        add_examples(make_run(tmp_path / name), scores)
    shown, (note,) = shown_examples([read_run(tmp_path / name) for name in samples])
    assert [(group.runs, [row[0]["sample"] for row in group.rows]) for group in shown] == [
        ([1, 4], [9]),
        ([2, 3], [2, 1]),
    ]
    assert note == "Runs evaluated other samples of val, and are shown apart: 1, 4; 2, 3."


def test_samples_of_other_data_are_not_mixed(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    (b / "config.yaml").write_text((b / "config.yaml").read_text().replace("root: sample", "root: data/coco"))
    for run in (a, b):
        add_examples(run, {1: 0.5})
    shown, _ = shown_examples([read_run(a), read_run(b)])
    assert [group.runs for group in shown] == [[1], [2]]


def test_layers_that_no_sample_has_are_neither_drawn_nor_offered(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    image = torch.zeros(3, 60, 40, dtype=torch.uint8)
    mask = torch.zeros(60, 40, dtype=torch.uint8)
    over = {
        "points": {"points": {"prediction": torch.zeros(3, 2)}},
        "masks": {"masks": {"prediction": mask}},
        "labels": {"labels": {"prediction": "cat"}},
    }
    for name, layers in over.items():
        one = {"sample": 1, "score": 0.5, **example(Layers(image, "", SKELETON, **layers))}
        text = json.dumps({"version": 1, "examples": [one]})
        (path / "predictions" / f"{name}_examples.json").write_text(text)
    run = read_run(path)
    figures = {shown.name: draw_examples(shown, [run]) for shown in shown_examples([run])[0]}
    kinds = {name: [trace.type for trace in figure.data[: len(figure.data) // 2]] for name, figure in figures.items()}
    assert kinds == {"points": ["image", *["scatter"] * 4], "masks": ["image", "image"], "labels": ["image"]}
    buttons = {name: [menu.buttons[0].label for menu in figure.layout.updatemenus] for name, figure in figures.items()}
    assert buttons["masks"] == ["pictures on/off", "masks on/off"]
    assert buttons["points"] == buttons["labels"] == ["pictures on/off"]


def test_a_picture_that_many_panels_show_is_in_the_page_once(tmp_path: Path) -> None:
    for name in "abc":
        add_examples(make_run(tmp_path / name), {1: 0.5, 2: 0.6})
    text = compare([tmp_path]).to_html()
    stored = json.loads(text[text.index('<script id="pictures"') :].split(">", 1)[1].split("</script>", 1)[0])
    assert len(stored) == len(set(stored)) == 2
    assert all(text.count(picture) == 1 for picture in stored)
    figure = json.loads(text[text.index('id="examples0"') :].split('json">', 1)[1].split("</script>", 1)[0])
    shown = [[stored[trace["source"]] for trace in frame["data"] if "source" in trace] for frame in figure["frames"]]
    assert shown == [[picture] * 4 for picture in (stored[0], stored[1])]


@pytest.mark.parametrize(
    "content",
    [
        b"{", b"[]", b"\xff\xfe", b'{"examples": []}', b'{"examples": [{"sample": 1}]}',
        b'{"examples": [{"sample": 1, "score": 1, "aspect": 1, "picture": "PHN2Zz4=", "layers": {}, "caption": ""}]}',
        b'{"examples": [{"sample": 1, "score": 1, "aspect": 1, "picture": "\\"><b>", "layers": {}, "caption": ""}]}',
    ],
)  # fmt: skip
def test_examples_that_are_none_are_a_sentence(content: bytes, tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    (path / "predictions" / "val_examples.json").write_bytes(content)
    shown, (note,) = shown_examples([read_run(path)])
    assert shown == []
    assert "val_examples.json of run 1 cannot be shown" in note
    assert "cannot be shown" in compare([path]).to_html()


# In a browser

DRAWN = "document.querySelectorAll('.figure:not(.js-plotly-plot)').length == 0"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium or google-chrome on the PATH")
def test_page_is_operated_without_a_network(tmp_path: Path) -> None:
    bad = "<img src=x onerror=document.title=1>"
    for i, path in enumerate(searched(tmp_path / "runs", 20)):
        rows = [{"epoch": e, "step": e, "train/loss": 1 / (e + 1), "val/AP": math.sin(e + i)} for e in range(30)]
        write_csv(path / "metrics.csv", rows)
        summary = json.loads((path / "summary.json").read_text())
        (path / "summary.json").write_text(json.dumps(summary | {"epochs": 30}))
    (path / "environment.json").write_text(json.dumps({"name": bad}))
    main([str(tmp_path / "runs"), "--html", str(tmp_path / "page.html")])
    with browser(tmp_path / "profile") as page:
        page.open(tmp_path / "page.html")
        page.wait(DRAWN)
        assert page.requests() == [(tmp_path / "page.html").as_uri()]
        assert page.mistakes() == []
        assert page.value("document.title") == "Comparison of runs"
        assert bad in page.value("document.querySelector('table').innerText")
        assert bad in page.value(
            "[...document.querySelectorAll('#curves0 .legendtext')].map(e => e.textContent).join()"
        )
        # The legend has room for all runs.
        bottoms = (
            "[document.querySelector('#curves0 .legend .bg'), [...document.querySelectorAll('#curves0 .traces')].pop()]"
        )
        legend, last = page.value(f"{bottoms}.map(e => e.getBoundingClientRect().bottom)")
        assert last <= legend
        # The slider smooths: a drag of its grip to the end changes the lines that have a name, and no others.
        shown = "JSON.stringify(document.getElementById('curves0')._fullData.map(t => Array.from(t.y).slice(0, 9)))"
        before = json.loads(page.value(shown))
        page.value("document.querySelector('#curves0 .slider-rail-touch-rect').scrollIntoView({block: 'center'})")
        rail = "document.querySelector('#curves0 .slider-rail-touch-rect').getBoundingClientRect()"
        x, y, width = (page.value(f"{rail}.{name}") for name in ("x", "y", "width"))
        page.mouse("mousePressed", x + width - 3, y + 5, button="left", clickCount=1)
        page.mouse("mouseReleased", x + width - 3, y + 5, button="left", clickCount=1)
        page.wait(f"{shown} != {json.dumps(json.dumps(before, separators=(',', ':')))}")
        after = json.loads(page.value(shown))
        assert after[:20] == before[:20]
        assert after[20] == pytest.approx(smoothed(before[20], 0.95), rel=1e-3, abs=1e-4)
        # A click in the legend hides a run; hovering shows values.
        page.click("#curves0 .legendtoggle", 0)
        page.wait("document.getElementById('curves0').data[20].visible == 'legendonly'")
        page.click("#curves0 .nsewdrag")
        page.wait("document.querySelectorAll('#curves0 .hoverlayer text').length > 1")
        hidden = ".hoverlayer *, .parcoords .axis-extent-text"
        texts = f"[...document.querySelectorAll('td, th, main p, main svg text:not({hidden})')]"
        small = f"{texts}.filter(e => parseFloat(getComputedStyle(e).fontSize) < 14).map(e => e.textContent)"
        assert page.value(small) == []
        for scheme, dark in (("light", False), ("dark", True)):
            page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            background = page.value("getComputedStyle(document.body).backgroundColor")
            text = page.value("getComputedStyle(document.querySelector('#curves0 .xtick text')).fill")
            assert (sum(rgb(background)) < 200, sum(rgb(text)) > 600) == (dark, dark)
        # In print all figures are as wide as the text, which the browser shrinks to the paper.
        widths = "[...document.querySelectorAll('.main-svg')].map(e => e.clientWidth)"
        page.value(f"addEventListener('beforeprint', () => window.printed = {widths})")
        assert len(page.send("Page.printToPDF", preferCSSPageSize=True)["data"]) > 10_000
        assert set(page.value("window.printed")) == {1400}
        page.wait("document.querySelector('#curves0 .main-svg').clientWidth < 1400")
        assert page.mistakes() == []
        assert len(page.requests()) == 1


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium or google-chrome on the PATH")
def test_samples_are_gone_through_and_layers_hidden(tmp_path: Path) -> None:
    for i in range(3):
        path = make_run(tmp_path / "runs" / f"run{i}", ap=0.5 + i / 10)
        add_examples(path, {1: 0.5, 2: 0.5 + i / 10}, shift=float(i))
    comparison = compare([tmp_path / "runs"])
    (tmp_path / "page.html").write_text(comparison.to_html())
    with browser(tmp_path / "profile") as page:
        page.open(tmp_path / "page.html")
        heads = "[...document.querySelectorAll('#examples0 .annotation-text')].map(e => e.textContent)"
        page.wait(f"{heads}.length == 4")
        assert page.value(heads)[0] == "truth: image 2"
        places = "document.getElementById('examples0').data[7].x"
        before = page.value(f"Array.from({places})")
        page.click("#examples0 .legendtoggle", 1)  # predictions
        page.wait("document.getElementById('examples0').data[6].visible == 'legendonly'")
        page.value("document.querySelector('#examples0 .slider-rail-touch-rect').scrollIntoView({block: 'center'})")
        rail = "document.querySelector('#examples0 .slider-rail-touch-rect').getBoundingClientRect()"
        x, y, width = (page.value(f"{rail}.{name}") for name in ("x", "y", "width"))
        page.mouse("mousePressed", x + width - 3, y + 5, button="left", clickCount=1)
        page.mouse("mouseReleased", x + width - 3, y + 5, button="left", clickCount=1)
        page.wait(f"{heads}[0] == 'truth: image 1'")
        assert page.value(f"Array.from({places})") == before  # of the same truth
        assert page.value("document.getElementById('examples0').data[6].visible") == "legendonly"
        page.click("#examples0 .updatemenu-button", 0)
        page.wait("document.getElementById('examples0').data[5].visible === false")  # the picture
        assert page.value("document.getElementById('examples0').data[7].visible") is not False
        page.click("#examples0 .updatemenu-button", 0)
        page.wait("document.getElementById('examples0').data[5].visible === true")
        assert page.mistakes() == []
        assert len(page.requests()) == 1


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium or google-chrome on the PATH")
def test_twenty_long_runs_open_little_later_than_the_script_of_plotly(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    masks = torch.from_numpy(random.integers(0, 3, (16, 12, 16), np.uint8)).repeat_interleave(20, 1)
    masks = masks.repeat_interleave(20, 2)
    photos = torch.from_numpy(random.integers(0, 256, (12, 3, 240, 320), np.uint8))
    for i, path in enumerate(searched(tmp_path / "runs", 20)):
        rows = [{"epoch": e, "step": e, "train/loss": x, "val/AP": x} for e, x in enumerate(random.uniform(size=1000))]
        write_csv(path / "metrics.csv", rows)
        over = [{"truth": masks[sample], "prediction": masks[(sample + i) % 16]} for sample in range(12)]
        found = [
            {"sample": s, "score": 0.5, **example(Layers(photos[s], f"{s}", SKELETON, masks=over[s]))}
            for s in range(12)
        ]
        (path / "predictions/val_examples.json").write_text(json.dumps({"version": 1, "examples": found}))
    (tmp_path / "page.html").write_text(compare([tmp_path / "runs"]).to_html())
    (tmp_path / "plotly.html").write_text(f"<!doctype html><p>x<script>{get_plotlyjs()}</script>")
    seconds = {}
    for turn, name in enumerate(("plotly", "page") * 2):
        with browser(tmp_path / f"profile{turn}") as page:
            start = time.perf_counter()
            page.open(tmp_path / f"{name}.html")
            if name == "page":
                page.wait("document.querySelector('.figure.js-plotly-plot .main-svg') !== null")
            seconds[name] = min(time.perf_counter() - start, seconds.get(name, math.inf))
            if name == "page":
                page.wait(DRAWN)
                assert page.mistakes() == []
    assert seconds["page"] < 2 * seconds["plotly"] + 0.5, seconds


def rgb(text: str) -> list[float]:
    """Red, green and blue of a colour as a browser writes it."""
    return [float(number) for number in text[text.index("(") + 1 : -1].split(",")[:3]]

"""The same samples from every run as one figure of plotly: truth first, a slider through samples, layers to toggle.

`predictions/*_examples.json` of run folders are matched by data and id. A file that is of no use is left out with a
sentence; what stands in it is taken for data and never for HTML. Every panel has the same traces, up to six; a step of
the slider exchanges what they show and leaves what is hidden hidden.
"""

import base64
import binascii
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from PIL import Image
from plotly.subplots import make_subplots

from experiments.compare.aligned import Source, source_of
from experiments.compare.page.figures import CLEAR, layout, plain, run_name, slider
from experiments.compare.runs import Run

SAMPLES = 24
"""Samples that are shown of up to six runs; of more runs half as many."""
COLUMNS = 5
CLASSES = 6  # of a mask, whose colours are named
WIDTH = 1500  # pixels of all panels beside each other, about
TALLEST = 400  # pixels of a panel, about: a figure is as high as a sheet of paper
NOTHING = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAAC0lEQVR4nGNgAAIAAAUAAXpeqz8AAAAASUVORK5CYII="
"""One transparent pixel."""
TRUTH, FOUND = "#2ca02c", "#ff7f0e"
SIDES = {"left": "#ff8c1a", "right": "#2e86ff"}
MIDDLE = "#35c759"
Example = Mapping[str, Any]
COLOUR = re.compile(r"#[0-9a-f]{6}")
HEADS = {"picture": b"\xff\xd8\xff", "mask": b"\x89PNG\r\n\x1a\n"}


@dataclass(frozen=True)
class Shown:
    """Samples of a split that several runs evaluated.

    Args:
        name: Of the split, and of the task in a joint run.
        runs: Numbers of the runs, from 1.
        rows: A row a sample: what each run has of it.
    """

    name: str
    runs: Sequence[int]
    rows: Sequence[Sequence[Example]]

    @property
    def layers(self) -> list[str]:
        """What some of the samples have over their pictures: masks, and marks, which are points and boxes."""
        found = [layer for row in self.rows for example in row for layer in example["layers"].values()]
        keys = {"masks": ("mask",), "marks": ("points", "boxes")}
        return [name for name, those in keys.items() if any(layer.get(key) for layer in found for key in those)]


def shown_examples(runs: Sequence[Run]) -> tuple[list[Shown], list[str]]:
    """Samples of which all runs on the same data have examples, those first in which their scores differ most.

    Runs that have none in common with the others are a group of their own; of a run without any it is said why.

    Args:
        runs: In the order of their numbers.

    Returns:
        Groups, and sentences.
    """
    groups: dict[tuple[str, Source | None], dict[int, dict[int, Example]]] = {}
    notes, without = [], []
    for number, run in enumerate(runs, start=1):
        files = sorted((run.path / "predictions").glob("*_examples.json"))
        if not files:
            without.append(str(number))
        for file in files:
            name = _name(run, file.stem.removesuffix("_examples"))
            try:
                found = read_examples(file)
            except (OSError, ValueError) as error:
                notes.append(f"{file.name} of run {number} cannot be shown ({error}); evaluate the run again.")
                continue
            groups.setdefault((name, source_of(run, name)), {})[number] = found
    if without and len(without) < len(runs):
        notes.append(
            f"Without examples: {', '.join(without)}. They were not evaluated to the end, or by an earlier version; "
            "`python -m experiments.run validate --checkpoint RUN` makes them."
        )
    shown = []
    for (name, _), found in groups.items():
        parts = _in_common(found)
        for numbers, common in parts:
            rows = [[found[number][sample] for number in numbers] for sample in common]
            shown.append(Shown(name, numbers, sorted(rows, key=_order)))
        if len(parts) > 1:
            apart = "; ".join(", ".join(map(str, numbers)) for numbers, _ in parts)
            notes.append(f"Runs evaluated other samples of {name}, and are shown apart: {apart}.")
    return shown, notes


def _in_common(found: Mapping[int, Mapping[int, Example]]) -> list[tuple[list[int], set[int]]]:
    """Runs that have samples in common, and these: about the run that shares with most, then of the others likewise."""
    parts, left = [], dict(found)
    while left:
        first = max(left, key=lambda run: sum(not left[run].keys().isdisjoint(other) for other in left.values()))
        common, members = set(left[first]), {first}
        for run, samples in left.items():
            if common & samples.keys():
                common &= samples.keys()
                members.add(run)
        parts.append(([run for run in left if run in members], common))
        left = {run: samples for run, samples in left.items() if run not in members}
    return parts


def read_examples(file: Path) -> dict[int, Example]:
    """Sample -> example, checked to be what `tasks/draw/examples.py` writes.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is something else.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["examples"]
        examples = {int(example["sample"]): _checked(example) for example in found}
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError("it has another form than examples have") from error
    if not examples:
        raise ValueError("it has no examples")
    return examples


def _name(run: Run, stem: str) -> str:
    return f"{stem}_{run.parts[0]}" if len(run.parts) == 1 and "_" not in stem else stem


def _order(row: Sequence[Example]) -> tuple[float, float, int]:
    """Where scores differ most, then the lowest ones."""
    scores = [example["score"] for example in row]
    return min(scores) - max(scores), sum(scores), row[0]["sample"]


def _checked(example: Example) -> Example:
    _encoded("picture", example["picture"])
    _finite(example["score"], example["aspect"])
    if example["aspect"] <= 0:
        raise ValueError("a picture has no size")
    for layer in example["layers"].values():
        for point in filter(None, layer.get("points", [])):
            _finite(*point[:2])
            str.strip(point[2])
        for box in layer.get("boxes", []):
            _finite(*box[:4], box[5])
            str.strip(box[4])
        if "mask" in layer:
            _encoded("mask", layer["mask"])
        if not all(COLOUR.fullmatch(colour) for colour in layer.get("classes", {}).values()):
            raise ValueError("a colour is none")
        str.strip(layer.get("label", ""))
        for a, b in example["limbs"]:
            if "points" in layer and not 0 <= min(a, b) <= max(a, b) < len(layer["points"]):
                raise ValueError("a limb has no key point")
    str.strip(example["caption"])
    return example


def _encoded(kind: str, text: str) -> None:
    try:
        content = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"a {kind} is no base64") from error
    if not content.startswith(HEADS[kind]):
        raise ValueError(f"a {kind} is no picture")


def _finite(*values: float) -> None:
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        raise ValueError("a number is none")


def draw_examples(shown: Shown, runs: Sequence[Run]) -> go.Figure:
    """Panels of truth and of each run's prediction, whose axes zoom together.

    Args:
        shown: Samples in the order of the slider.
        runs: All that are compared.
    """
    names = [run_name(number, runs[number - 1]) for number in shown.runs]
    rows = shown.rows[: SAMPLES if len(names) <= 6 else SAMPLES // 2]
    count, columns = len(names) + 1, min(COLUMNS, len(names) + 1)
    lines, side = -(-count // columns), min(TALLEST, WIDTH // columns)
    figure = make_subplots(lines, columns, horizontal_spacing=0.01, vertical_spacing=min(0.3, 110 / (side * lines)))
    domains = [
        (figure.layout[f"xaxis{i or ''}"].domain, figure.layout[f"yaxis{i or ''}"].domain)
        for i in (0, *range(2, count + 1))
    ]
    for panel in range(count):
        for trace in _traces(panel, shown.layers):
            figure.add_trace(trace, row=panel // columns + 1, col=panel % columns + 1)
    frames = [_frame(row, names, domains, shown.layers) for row in rows]
    figure.frames = [{**frame, "name": str(i)} for i, frame in enumerate(frames)]
    for trace, content in zip(figure.data, frames[0]["data"], strict=True):
        trace.update(content)
    highest = max(example["aspect"] for row in rows for example in row)
    height = 300 + round(lines * (side * min(highest, 1.6) + 80))
    steps = [_step(i) for i in range(len(rows))]
    figure.update_xaxes(visible=False, range=[0, 1], matches="x")
    figure.update_yaxes(visible=False, range=[highest, 0], matches="y")
    figure.update_layout(
        **layout(f"{shown.name}: the same samples from every run", height)
        | {"margin": {"l": 10, "r": 10, "t": 150, "b": 90}},
        annotations=frames[0]["layout"]["annotations"],
        sliders=[slider(steps, "sample ")],
        updatemenus=_switches(count, shown.layers),
        legend={
            "orientation": "h", "x": 0, "y": 1 - 44 / height, "yref": "container", "yanchor": "top",
            "font": {"size": 14}, "itemsizing": "constant",
        },
    )  # fmt: skip
    return figure


def _traces(panel: int, shown: Sequence[str]) -> list[Any]:
    """Picture, mask, lines and points of what the panel is of, and lines and points of the truth over a prediction."""
    traces: list[Any] = [go.Image(hoverinfo="skip")]
    if "masks" in shown:
        traces.append(go.Image(hoverinfo="skip", opacity=0.6))
    own, colour = ("truth", TRUTH) if not panel else ("predictions", FOUND)
    layers = [(own, colour, True), ("truth over predictions", TRUTH, "legendonly" if panel else False)]
    for name, ink, visible in layers if "marks" in shown else ():
        more = {"legendgroup": name, "name": name, "visible": visible}
        first = panel == 0 if name == "truth" else panel == 1
        traces.append(
            go.Scatter(mode="lines", line={"color": ink, "width": 2.5}, hoverinfo="skip", showlegend=first, **more)
        )
        marker = {"size": 7, "line": {"color": "#111", "width": 1}}
        look = {"mode": "markers+text", "textposition": "bottom right", "textfont": {"size": 14, "color": ink}}
        traces.append(go.Scatter(**look, marker=marker, hoverinfo="text", showlegend=False, **more))
    return traces


def _frame(
    row: Sequence[Example], names: Sequence[str], domains: Sequence[tuple[Any, Any]], shown: Sequence[str]
) -> dict[str, Any]:
    """What all traces show of a sample, and what stands above the panels."""
    data, notes = [], []
    for panel, (x, y) in enumerate(domains):
        example = row[max(0, panel - 1)]
        truth, found = (example["layers"].get(layer, {}) for layer in ("truth", "prediction"))
        own = found if panel else truth
        data.append(_image(example["picture"], "jpeg", example["aspect"]))
        if "masks" in shown:
            data.append(_image(own.get("mask"), "png", example["aspect"]))
        if "marks" in shown:
            data += [*_drawn(own, example["limbs"]), *_drawn(truth if panel else {}, example["limbs"])]
        head = f"{names[panel - 1]}: {example['score']:.3f}" if panel else f"truth: {plain(example['caption'])}"
        lines = [head, *([plain(own["label"])] if "label" in own else []), *_legend(own.get("classes", {}))]
        notes.append(
            {
                "text": "<br>".join(lines), "x": x[0], "y": y[1], "xref": "paper", "yref": "paper", "showarrow": False,
                "xanchor": "left", "yanchor": "bottom", "align": "left", "font": {"size": 15},
            }
        )  # fmt: skip
    return {"data": data, "layout": {"annotations": notes}}


def _image(content: str | None, kind: str, aspect: float) -> dict[str, Any]:
    """A picture that fills the panel from 0 to 1, whatever its resolution."""
    if content is None:
        return {"type": "image", "source": f"data:image/png;base64,{NOTHING}", "x0": 0.5, "dx": 1, "y0": 0.5, "dy": 1}
    width, height = _size(content, kind)
    dx, dy = 1 / width, aspect / height
    source = f"data:image/{kind};base64,{content}"
    return {"type": "image", "source": source, "x0": dx / 2, "dx": dx, "y0": dy / 2, "dy": dy}


def _size(content: str, kind: str) -> tuple[int, int]:
    """Width and height of a picture in base64."""
    with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
        return picture.size


def _drawn(layer: Mapping[str, Any], limbs: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """Lines of skeletons and boxes, and points with their names, those of boxes at their corners."""
    points, boxes = layer.get("points", []), layer.get("boxes", [])
    ends = [(points[a], points[b]) for a, b in limbs if points and points[a] and points[b]]
    paths = [[a[:2], b[:2]] for a, b in ends]
    paths += [[(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)] for x1, y1, x2, y2, *_ in boxes]
    line = [place for path in paths for place in (*path, (None, None))] or [(None, None)]
    named = [(x, y, "", name, _side(name)) for x, y, name in filter(None, points)]
    named += [
        (x1, y1, *2 * (f"{name} {score:.2f}" if score < 1 else name,), MIDDLE) for x1, y1, _, _, name, score in boxes
    ]
    x, y, text, hover, colour = zip(*named, strict=True) if named else ([None], [None], [""], [""], [CLEAR])
    return [
        {"type": "scatter", "x": [place[0] for place in line], "y": [place[1] for place in line]},
        {
            "type": "scatter", "x": list(x), "y": list(y), "text": [plain(each) for each in text],
            "hovertext": [plain(each) for each in hover], "marker": {"color": list(colour)},
        },
    ]  # fmt: skip


def _legend(classes: Mapping[str, str]) -> list[str]:
    """Lines that say which colour is which class of a mask."""
    texts = [f'<span style="color:{colour}">■</span> {plain(name)}' for name, colour in list(classes.items())[:CLASSES]]
    return [" ".join(texts[i : i + 3]) for i in range(0, len(texts), 3)]


def _side(name: str) -> str:
    return next((colour for side, colour in SIDES.items() if side in name), MIDDLE)


def _step(number: int) -> dict[str, Any]:
    instantly = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    return {"method": "animate", "label": str(number + 1), "args": [[str(number)], instantly]}


def _switches(count: int, shown: Sequence[str]) -> list[dict[str, Any]]:
    """Buttons for the layers that a legend does not have: pictures and masks."""
    kinds = ["pictures", *(["masks"] if "masks" in shown else [])]
    step = len(_traces(0, shown))
    buttons = []
    for place, name in enumerate(kinds):
        traces = list(range(place, count * step, step))
        hide, show = [{"visible": False}, traces], [{"visible": True}, traces]
        button = {"method": "restyle", "label": f"{name} on/off", "args": hide, "args2": show}
        buttons.append(
            {
                "type": "buttons", "buttons": [button], "active": -1, "showactive": False, "bgcolor": CLEAR,
                "x": 1 - 0.13 * place, "xanchor": "right", "y": 1, "yanchor": "bottom", "pad": {"b": 80},
                "font": {"size": 14},
            }
        )  # fmt: skip
    return buttons

"""Label key points on photographs in a notebook; the files are LabelMe's, so that LabelMe and `convert` read them too.

labeller = PointLabeller(sorted(Path("photos").glob("*.jpg")), ["nose", "tail"], "labels")
labeller                                   # last in a cell: click where the chosen point is, and the next is chosen
convert(Path("labels"), Path("data/mice"))

No picture of ipywidgets says where it was clicked. Here it is HTML whose own handler writes the place into a text field
that is not shown, so that no further package is needed; the fields x and y do the same without a mouse.
"""

import base64
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import cv2

from datamodules.convert.formats.labelme import HIDDEN
from datamodules.convert.labels import UNNAMED, Point
from datamodules.findings import DataError
from datamodules.images.files import Reading
from datamodules.images.pixels import read_image
from datamodules.keypoints.columns import number, read_json

CLICKED = """
const box = this.getBoundingClientRect();
const field = this.closest('.point-labeller').querySelector('.point-labeller-place input');
field.value = [(event.clientX - box.x) / box.width, (event.clientY - box.y) / box.height, event.timeStamp].join(' ');
field.dispatchEvent(new Event('input', {bubbles: true}));
"""  # the time makes two clicks at one place two values


class PointLabeller:
    """Label one thing a photograph; what is placed is written at once, and what is labelled already is shown.

    Shapes that LabelMe has drawn in the same files, key points of other names too, are kept as they are.

    Args:
        photographs: Image files; they are shown as their EXIF orientation says.
        names: Of the key points, in the order in which they are placed.
        folder: Where the labels go, a JSON file a photograph; beside the photographs when not given, as LabelMe has it.
        thing: Class of what has the points.
        whole: Whether its box is the whole photograph, as prediction without a detector takes it; else `convert` draws
            the box about the points.
        width: Of the photograph on the screen, in pixels.

    Raises:
        DataError: If ipywidgets is not installed, there is nothing to label, two photographs would share a file of
            labels, a photograph cannot be read, or its labels are of several things.
    """

    def __init__(
        self,
        photographs: Sequence[str | Path],
        names: Sequence[str],
        folder: str | Path | None = None,
        *,
        thing: str = UNNAMED,
        whole: bool = True,
        width: int = 640,
    ) -> None:
        try:
            import ipywidgets as widgets
        except ImportError as error:
            raise DataError(
                "Labelling in a notebook needs ipywidgets, which is not installed: pip install "
                "'hrnet-lightning[notebooks]'."
            ) from error
        self.photographs, self.names = [Path(path) for path in photographs], list(names)
        self.folder = None if folder is None else Path(folder)
        self.thing, self.whole, self.width = thing, whole, width
        self._check()
        self.points: dict[str, Point] = {}
        self.size = (0, 0)
        self._content: dict[str, Any] = {}  # of the file, when it was opened
        self._pixels = ""
        self._problem: DataError | None = None
        self._filling = False  # the fields are set to what is known, rather than by a person

        titles = [(path.name, place) for place, path in enumerate(self.photographs)]
        self.photo = widgets.Dropdown(options=titles, layout={"width": "auto"})
        self.back, self.next = widgets.Button(description="back"), widgets.Button(description="next")
        self.state = widgets.Label()
        self.picture = widgets.HTML()
        self.place_clicked = widgets.Text(layout={"display": "none"})
        self.point = widgets.ToggleButtons(options=self.names, style={"button_width": "auto"})
        self.x, self.y = (widgets.BoundedFloatText(description=axis, step=0.5) for axis in "xy")
        self.hidden = widgets.Checkbox(description="hidden by something", indent=False)
        self.clear = widgets.Button(description="remove", tooltip="this point")
        rows = [self.back, self.next, self.photo, self.state], [self.x, self.y, self.hidden, self.clear]
        above, below = (widgets.HBox(row) for row in rows)
        self.widget = widgets.VBox([above, self.point, self.picture, below, self.place_clicked])
        self.widget.add_class("point-labeller")
        self.place_clicked.add_class("point-labeller-place")

        self.photo.observe(self._opened, "value")
        self.back.on_click(lambda _: self._go(-1))
        self.next.on_click(lambda _: self._go(1))
        self.place_clicked.observe(self._clicked, "value")
        self.point.observe(self._chosen, "value")
        for field in (self.x, self.y, self.hidden):
            field.observe(self._typed, "value")
        self.clear.on_click(self._cleared)
        self._opened()
        self._raise()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.widget._repr_mimebundle_(**options)

    # ---- as a program labels

    def open(self, photograph: str | Path) -> None:
        """Show a photograph; raises DataError where it or its labels cannot be read."""
        self.photo.value = self.photographs.index(Path(photograph))
        self._raise()

    def place(self, name: str, x: float, y: float, *, hidden: bool = False) -> None:
        """Put a key point of the open photograph somewhere, and write it.

        Args:
            name: Of the key point.
            x: Pixels from the left edge, as LabelMe counts.
            y: Pixels from the upper edge.
            hidden: Whether something hides it, so that its place is guessed.

        Raises:
            ValueError: If there is no such point, or it is outside of the photograph.
            OSError: If the file cannot be written.
        """
        self._raise()
        if name not in self.names:
            raise ValueError(f"There is no key point {name!r}: name one of {', '.join(self.names)}.")
        height, width = self.size
        if not (0 <= x <= width and 0 <= y <= height):
            raise ValueError(f"{name} at ({x:g}, {y:g}) is outside of the photograph, which has {width} x {height}.")
        self._write(self.points | {name: Point(float(x), float(y), 1 if hidden else 2)})

    def remove(self, name: str) -> None:
        """Take a key point away from the open photograph, if it has it."""
        self._raise()
        if name in self.points:
            self._write({other: point for other, point in self.points.items() if other != name})

    def unlabelled(self) -> list[Path]:
        """The photographs without any of the key points."""
        return [path for path in self.photographs if not self._points(self._read(path))]

    def file_of(self, photograph: str | Path) -> Path:
        """Where the labels of a photograph are, or will be."""
        path = Path(photograph).with_suffix(".json")
        return path if self.folder is None else self.folder / path.name

    # ---- as a person does

    def _go(self, step: int) -> None:
        self.photo.value = min(max(self.photo.value + step, 0), len(self.photographs) - 1)

    def _opened(self, change: Any = None) -> None:
        path = self.photographs[self.photo.value]
        self.points, self.size, self._problem = {}, (0, 0), None
        try:
            image = read_image(path, reading=Reading(upright=True))
            self._content = self._read(path, image.shape[:2])
            self.points = self._points(self._content)
        except DataError as error:  # shown in the picture's place
            self._problem = error
        else:
            self.size = image.shape[:2]
            self._pixels = _as_jpeg(image, 2 * self.width)  # screens may have two pixels for one
        self.point.value = next((name for name in self.names if name not in self.points), self.names[0])
        self._show()

    def _clicked(self, change: Any) -> None:
        across, down = (min(max(float(word), 0.0), 1.0) for word in change["new"].split()[:2])
        (height, width), name = self.size, self.point.value
        with self._saying():
            self.place(name, round(across * width, 2), round(down * height, 2), hidden=self.hidden.value)
            self._choose_after(name)

    def _choose_after(self, name: str) -> None:
        """The next key point that has no place yet, if there is one."""
        place = self.names.index(name)
        others = (*self.names[place + 1 :], *self.names[:place])
        self.point.value = next((other for other in others if other not in self.points), name)

    def _chosen(self, change: Any) -> None:
        self._show()

    def _typed(self, change: Any) -> None:
        only_hidden = change["owner"] is self.hidden and self.point.value not in self.points
        if not (self._filling or only_hidden):  # which is then said of the click that follows
            with self._saying():
                self.place(self.point.value, self.x.value, self.y.value, hidden=self.hidden.value)

    def _cleared(self, button: Any) -> None:
        with self._saying():
            self.remove(self.point.value)

    @contextmanager
    def _saying(self) -> Iterator[None]:
        """What a person's action raises is said above the picture, since notebooks show it nowhere."""
        try:
            yield
        except (DataError, OSError) as error:
            self.state.value = f"Not written: {error}"

    def _show(self) -> None:
        """Set all fields to what is known of the open photograph and the chosen point."""
        height, width = self.size
        point = self.points.get(self.point.value, Point(width / 2, height / 2))
        self._filling = True
        self.x.max, self.y.max = width, height
        self.x.value, self.y.value, self.hidden.value = point.x, point.y, point.visible == 1
        self._filling = False
        self.state.value = (
            f"{self.photo.value + 1} of {len(self.photographs)}: {len(self.points)} of {len(self.names)} points"
        )
        self.picture.value = escape(str(self._problem)) if self._problem else self._drawn()

    def _drawn(self) -> str:
        """The photograph with its points, the chosen one blue, those that are hidden hollow."""
        (height, width), unit = self.size, self.size[1] / self.width
        marks = []
        for name, (x, y, visible) in self.points.items():
            colour = "deepskyblue" if name == self.point.value else "orange"
            fill = "none" if visible == 1 else colour
            marks.append(
                f'<circle cx="{x:g}" cy="{y:g}" r="{4 * unit:g}" fill="{fill}" stroke="{colour}" '
                f'stroke-width="{1.5 * unit:g}"/><text x="{x + 7 * unit:g}" y="{y + 4 * unit:g}" fill="white" '
                f'stroke="black" stroke-width="{3 * unit:g}" paint-order="stroke" font-size="{13 * unit:g}">'
                f"{escape(name)}</text>"
            )
        return (
            f'<svg viewBox="0 0 {width} {height}" onclick="{escape(CLICKED)}" style="display: block; width: '
            f'{self.width}px; max-width: 100%; height: auto; cursor: crosshair"><image href="{self._pixels}" '
            f'width="{width}" height="{height}" preserveAspectRatio="none"/>{"".join(marks)}</svg>'
        )

    # ---- files

    def _check(self) -> None:
        if not self.photographs:
            raise DataError("There is no photograph to label: the list is empty.")
        twice = sorted(name for name, count in Counter(self.names).items() if count > 1)
        if not self.names or twice:
            raise DataError(f"Key points need different names, found {', '.join(twice) or 'none'}: name each once.")
        files = Counter(map(self.file_of, self.photographs))
        shared = next((file for file, count in files.items() if count > 1), None)
        if shared is not None:
            raise DataError(f"Several photographs have their labels in {shared}: give each a name of its own.")

    def _raise(self) -> None:
        if self._problem is not None:
            raise self._problem

    def _read(self, photograph: Path, size: tuple[int, int] | None = None) -> dict[str, Any]:
        """What is in a photograph's file; of one without, what LabelMe would begin with."""
        path = self.file_of(photograph)
        if not path.exists():
            stated = Path(os.path.relpath(photograph, path.parent)).as_posix()
            return {"version": "5.4.1", "flags": {}, "shapes": [], "imagePath": stated, "imageData": None}
        content = read_json(path, "LabelMe JSON")
        shapes = content.get("shapes") if isinstance(content, dict) else None
        if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
            raise DataError(f"{path} is there already and is no file of LabelMe: name another folder for the labels.")
        said = content.get("imageHeight"), content.get("imageWidth")
        if size is not None and None not in said and said != size:
            raise DataError(
                f"{path} is of a photograph of {said[1]} x {said[0]} pixels, {photograph} has {size[1]} x {size[0]}: "
                "remove the labels, or bring the photograph back."
            )
        repeated = [name for name, count in Counter(map(self._name_of, shapes)).items() if name and count > 1]
        if repeated:
            raise DataError(
                f"{path} has {repeated[0]} more than once, and one thing a photograph is labelled here: use LabelMe."
            )
        return content

    def _name_of(self, shape: dict[str, Any]) -> str | None:
        """Which of the key points a shape is."""
        is_point = shape.get("shape_type") == "point" and shape.get("label") in self.names
        return shape["label"] if is_point else None

    def _points(self, content: dict[str, Any]) -> dict[str, Point]:
        found: dict[str, Point] = {}
        for shape in content["shapes"]:
            name, corners = self._name_of(shape), shape.get("points")
            corner = corners[0] if isinstance(corners, list) and corners else None
            values = [number(value) for value in corner] if name and isinstance(corner, list) else []
            if len(values) == 2 and None not in values:
                found[name] = Point(*values, 1 if any(_flags(shape).get(flag) is True for flag in HIDDEN) else 2)
        return found

    def _write(self, points: dict[str, Point]) -> None:
        """Write the file, whole or not at all: what others have drawn, the box, the points; then show them."""
        path, (height, width) = self.file_of(self.photographs[self.photo.value]), self.size
        known = {self._name_of(shape): shape for shape in self._content["shapes"]}
        shapes = [shape for shape in self._content["shapes"] if self._name_of(shape) is None]
        if self.whole and not any(shape.get("label") == self.thing for shape in shapes):
            shapes.insert(0, _shape("rectangle", self.thing) | {"points": [[0, 0], [width, height]]})
        for name in filter(points.__contains__, self.names):
            x, y, visible = points[name]
            shape = known.get(name) or _shape("point", name)
            flags = {flag: on for flag, on in _flags(shape).items() if flag not in HIDDEN}
            flags |= {HIDDEN[0]: True} if visible == 1 else {}
            shapes.append(shape | {"points": [[x, y]], "flags": flags})
        content = self._content | {"shapes": shapes, "imageHeight": height, "imageWidth": width}
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        part.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
        part.replace(path)
        self.points = points
        self._show()


def _shape(kind: str, label: str) -> dict[str, Any]:
    return {"label": label, "points": [], "group_id": None, "shape_type": kind, "flags": {}}


def _flags(shape: dict[str, Any]) -> dict[str, Any]:
    flags = shape.get("flags")
    return flags if isinstance(flags, dict) else {}


def _as_jpeg(image: Any, width: int) -> str:
    """(H, W, 3) uint8 RGB as an address that holds the picture, no wider than `width`."""
    if image.shape[1] > width:
        height = max(1, round(image.shape[0] * width / image.shape[1]))
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"

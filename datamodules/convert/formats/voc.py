"""Pascal VOC: XML files of boxes, masks of classes (SegmentationClass), and the lists of splits in ImageSets.

Pixels count from 1 and borders are inside: a box 1, 1, W, H is the whole image, x from 0 and W wide here. Tools that
write 0 or fractions count from 0, which is noticed. Objects marked as difficult are evaluated as crowds
and not learned.
"""

import re
from pathlib import Path
from xml.etree.ElementTree import Element

from datamodules.convert.labels import Labels, Picture, Thing
from datamodules.convert.pixels import ImageFile
from datamodules.convert.source_files import SourceFiles, parse_xml
from datamodules.findings import DataError
from datamodules.images.files import opened
from datamodules.keypoints.columns import number
from datamodules.loading.text_files import read_text
from datamodules.segmentation.masks import ColourMasks, IndexMasks, lookup, mask_size, voc_palette
from datamodules.segmentation.pairs import read_stems

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
MASKS = "SegmentationClass"
IGNORED = 255


def recognise(files: SourceFiles) -> list[Path]:
    """XML files whose root is `annotation`, and masks in a folder SegmentationClass."""
    boxes = [path for path in files.ending_in(".xml") if _is_voc(path)]
    return boxes + [path for path in files.ending_in(".png") if MASKS in path.parts[-3:-1]]


def _is_voc(path: Path) -> bool:
    with path.open("rb") as file:
        return re.search(rb"<\s*annotation\s*[ >]", file.read(4096)) is not None


def read(files: SourceFiles) -> Labels:
    """The boxes of all XML files and the masks, an image each."""
    labels, paths = Labels("voc"), recognise(files)
    roots = {path.stem: (path, parse_xml(path)) for path in paths if path.suffix.lower() == ".xml"}
    masks = {path.stem: path for path in paths if path.suffix.lower() == ".png"}
    splits = _splits(files, "Main" if roots else "Segmentation")
    base = _first_pixel([root for _, root in roots.values()], labels)
    reader = _mask_reader(files, sorted(masks.values()), labels) if masks else None
    for stem in dict.fromkeys([*roots, *masks]):
        path, root = roots.get(stem, (masks.get(stem), None))
        image = (
            files.image_of_stem(stem, path.parent.parent / "JPEGImages") if root is None else _image(root, path, files)
        )
        if image is None:
            labels.left_out.add("images that were not found", stem if root is None else root.findtext("filename", stem))
            continue
        picture = Picture(ImageFile(image), image.name, split=splits.get(stem) or files.split_of(path))
        if root is not None:
            sides = number(root.findtext("size/height")), number(root.findtext("size/width"))
            picture.size = (int(sides[0]), int(sides[1])) if None not in sides and min(sides) >= 1 else None
            picture.things = [
                t for entry in root.iter("object") if (t := _thing(entry, base, path, labels)) is not None
            ]
        if stem in masks and reader is not None:
            picture.mask = lambda mask=masks[stem]: reader(mask)
            picture.size = picture.size or mask_size(masks[stem])
        labels.pictures.append(picture)
    return labels


def _image(root: Element, path: Path, files: SourceFiles) -> Path | None:
    """The image that an XML file names, else that of its own name: exports keep old names inside."""
    names = [name for name in (root.findtext("filename"), root.findtext("path")) if name]
    for name in names:
        found = files.image(name, path.parent.parent) or files.image(name, path.parent)
        if found is not None:
            return found
    return files.image_of_stem(path.stem, path.parent.parent) or files.image_of_stem(path.stem, path.parent)


def _splits(files: SourceFiles, kind: str) -> dict[str, str]:
    """Name of an image -> its split, by ImageSets."""
    found: dict[str, str] = {}
    for path in files.ending_in(".txt"):
        of_split = path.stem in ("train", "val", "test") and path.parent.name in (kind, "ImageSets")
        if of_split and "ImageSets" in path.parts and path.stat().st_size:
            found |= dict.fromkeys((Path(stem).name for stem in read_stems(path)), path.stem)
    return found


def _first_pixel(roots: list[Element], labels: Labels) -> int:
    """The coordinate of the first pixel: 1, or 0 where a box begins there or has fractions."""
    values = [
        number(box.findtext(key))
        for root in roots
        for box in root.iter("bndbox")
        for key in ("xmin", "ymin", "xmax", "ymax")
    ]
    if any(value is not None and (value < 1 or value != int(value)) for value in values):
        labels.notes.append("Boxes have 0 or fractions, so their pixels count from 0 (VOC's own count from 1).")
        return 0
    return 1


def _thing(entry: Element, base: int, path: Path, labels: Labels) -> Thing | None:
    name, item = entry.findtext("name", "").strip(), f"{entry.findtext('name')} in {path.name}"
    numbers = [number(entry.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")]
    if entry.find("part") is not None:
        labels.left_out.add("parts of things", item)
    if not name or None in numbers:
        labels.left_out.add("objects without a name or a box", item)
        return None
    left, top, right, bottom = numbers
    crowd = entry.findtext("difficult", "").strip() == "1"
    thing = Thing(name, (left - base, top - base, right - left + base, bottom - top + base), crowd=crowd)
    corners = []
    outline = entry.find("polygon")
    for place in range(1, len(outline) if outline is not None else 0):
        corner = number(outline.findtext(f"x{place}")), number(outline.findtext(f"y{place}"))
        if None in corner:
            break
        corners += [corner[0] - base, corner[1] - base]
    if len(corners) >= 6:
        thing.polygons = [corners]
    return thing


# ---- masks


def _mask_reader(files: SourceFiles, masks: list[Path], labels: Labels) -> IndexMasks | ColourMasks:
    """Reads the masks: of colours by labelmap.txt, else of indices, VOC's own names where these are 0 to 20."""
    lists = [path for path in files.ending_in(".txt") if path.name == "labelmap.txt"]
    if lists:
        colours = _label_map(lists[0])
        labels.mask_classes = list(colours)
        if _is_coloured(masks[0]):
            return ColourMasks(list(colours.values()), [] if (224, 224, 192) in colours.values() else [(224, 224, 192)])
        names = labels.mask_classes
    elif _is_coloured(masks[0]):
        palette = voc_palette(len(CLASSES))
        labels.mask_classes = list(CLASSES)
        return ColourMasks(palette, [(224, 224, 192)])
    else:
        every = IndexMasks(lookup({value: value for value in range(256)}, 255), [])
        highest = max((int(ids[ids != IGNORED].max(initial=0)) for ids in map(every, masks)), default=0)
        names = (
            list(CLASSES) if highest < len(CLASSES) else ["background", *(f"class_{i}" for i in range(1, highest + 1))]
        )
        labels.mask_classes = names
        if highest >= len(CLASSES):
            labels.notes.append("The masks have more classes than VOC, and nothing names them: class_1, class_2, ...")
    return IndexMasks(lookup({**{place: place for place in range(len(names))}, IGNORED: IGNORED}, len(names)), names)


def _is_coloured(path: Path) -> bool:
    with opened(path) as image:
        return image.mode in ("RGB", "RGBA")


def _label_map(path: Path) -> dict[str, tuple[int, int, int]]:
    """Name -> colour, of lines `name:r,g,b:parts:actions`."""
    found: dict[str, tuple[int, int, int]] = {}
    for line in read_text(path).splitlines():
        name, colour = (*line.split(":"), "")[:2]
        if line.strip() and not line.startswith("#"):
            numbers = [number(value) for value in colour.split(",")]
            if len(numbers) != 3 or None in numbers:
                raise DataError(f"{path} has the line {line!r}: expected name:r,g,b:parts:actions.")
            found[name] = (int(numbers[0]), int(numbers[1]), int(numbers[2]))
    return found

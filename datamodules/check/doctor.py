"""The data doctor: asks a DataModule what is wrong with each split, compares these, and asks the loader at last.

python -m datamodules.check pose_coco.yaml                       # decodes every image
python -m datamodules.check pose_coco.yaml --images headers      # minutes become seconds
python -m datamodules.check seg_folder.yaml --data.root data/mine --statistics --json doctor.json

What is wrong with a file is for the data set to say (`BaseDataModule.findings`); here is what shows between splits.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from datamodules.base import BaseDataModule
from datamodules.check.report import Report
from datamodules.findings import Count, Fact, Finding, Mode, Note, Split
from datamodules.images.files import Reading
from datamodules.images.looking import Seen, size_histogram
from datamodules.images.orientation import Tagged, describe

SAME_LOOKS = 1.0
"""Mean difference of 16 x 16 grey values up to which two images are one; saving as JPEG again costs about 0.3."""
Images = Mapping[Split, Sequence[Seen]]


def check(data: BaseDataModule, images: Mode = "full") -> Report:
    """Everything that is wrong with the files of a data set.

    Args:
        data: Any DataModule; one that does not write `findings` is asked to read itself.
        images: `full` decodes every image and mask, `headers` reads their sizes, `none` asks whether they are there.

    Raises:
        DataError: If the root folder is missing.
    """
    report = Report()
    for name, part in data.parts.items():
        part.prepare_data()
        report.part, report.root = name, str(part.folder)
        for fact in _facts(part, images):
            report.record(fact)
    return report


def _facts(data: BaseDataModule, mode: Mode) -> list[Fact]:
    """What a data set says of its splits, what their comparison says, and what the loader refuses beyond that."""
    facts = [fact for split in data.split_names for fact in data.findings(split, mode)]
    images: dict[Split, list[Seen]] = defaultdict(list)
    for fact in facts:
        if isinstance(fact, Seen):
            images[fact.split].append(fact)
    for split, seen in images.items():
        sizes = filter(None, (image.size or image.annotated for image in seen))
        facts.append(Count(split, "images, longer side in pixels", size_histogram(sizes)))
    facts += [*_shared_images(images), *_copies(images), *_orientations(images, data.stated_reading)]
    facts += _absent_classes([fact for fact in facts if isinstance(fact, Count) and fact.classes])
    defects = [fact for fact in facts if isinstance(fact, Finding) or (isinstance(fact, Seen) and fact.problem)]
    explained, said = {fact.split for fact in defects}, {getattr(fact, "found", None) for fact in defects}
    refusals = [data.refusal(split) for split in data.split_names if split not in explained]
    return [*facts, *(refusal for refusal in refusals if refusal is not None and refusal.found not in said)]


def _shared_images(images: Images) -> Iterator[Finding]:
    """Images of one split that are in a later one too, by their fingerprints."""
    places: dict[str, list[Seen]] = defaultdict(list)
    for image in (image for seen in images.values() for image in seen if image.fingerprint is not None):
        places[image.fingerprint].append(image)
    for found in places.values():
        if len({image.split for image in found}) > 1:
            for first, *others in [found] if found[0].is_decoded else _same_files(found):
                for other in others:
                    if other.split != first.split:
                        said = f"is the same picture as {first.path} in {first.split}"
                        yield Finding("image in two splits", other.split, str(other.path), said)


def _same_files(found: list[Seen]) -> list[list[Seen]]:
    """Files of one length, grouped by their bytes."""
    groups: dict[bytes, list[Seen]] = defaultdict(list)
    for image in found:
        groups[hashlib.blake2b(image.path.read_bytes()).digest()].append(image)
    return list(groups.values())


def _copies(images: Images) -> Iterator[Finding]:
    """Images that differ from one of the same name and size in an earlier split by no more than encoding."""
    earlier: dict[tuple, Seen] = {}
    for image in (image for seen in images.values() for image in seen if image.is_decoded):
        other = earlier.setdefault((image.path.stem, image.size), image)
        difference = np.abs(image.miniature.astype(int) - other.miniature).mean()
        if other.split != image.split and other.fingerprint != image.fingerprint and difference < SAME_LOOKS:
            found = f"has the name, the size and the looks of {other.path} in {other.split}"
            yield Finding("image in two splits", image.split, str(image.path), found)


def _orientations(images: Images, reading: Reading) -> Iterator[Note | Finding]:
    """The images that carry an EXIF orientation, and those of which it is not clear whether to turn them."""
    tagged = {
        split: [
            Tagged(row, image.path, image.header, image.annotated)
            for row, image in enumerate(seen)
            if image.header is not None and image.header.orientation != 1
        ]
        for split, seen in images.items()
    }
    told = {tag.told for tags in tagged.values() for tag in tags}
    upright = (True in told) if reading.upright is None else reading.upright
    for split, tags in tagged.items():
        if tags:
            yield Note(split, describe(tags, upright))
        for tag in tags if reading.upright is None else ():
            item, number = str(tag.path), f"EXIF orientation {tag.header.orientation}"
            if told == {None}:
                yield Finding("orientation not decided", split, item, f"{number}; read as stored")
            elif told >= {True, False} and tag.told is False:
                yield Finding("orientations disagree", split, item, f"{number}; read as stored, others are turned")


def _absent_classes(counts: Sequence[Count]) -> Iterator[Finding]:
    """Classes that one split has and another lacks, or, where they are `required`, that none has."""
    for table in dict.fromkeys(count.table for count in counts):
        columns = [count for count in counts if count.table == table]
        for name in dict.fromkeys(name for column in columns for name in column.classes):
            having = [column for column in columns if column.counts[name]]
            lacking = [column for column in columns if not column.counts[name]]
            if having:
                found = f"no {having[0].noun}; {having[0].split} has {having[0].counts[name]}"
                for column in lacking:
                    yield Finding("class absent from a split", column.split, f"class {name}", found)
            elif lacking[0].required:
                splits = ", ".join(column.split for column in lacking)
                found = f"no {lacking[0].noun} in any split"
                yield Finding("class without samples", splits, f"class {name}", found)

"""Train and val: the source's own splits, or a seeded share, a clip's frames and a file's copies together."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from datamodules.convert.labels import Labels, Picture
from datamodules.convert.pixels import Embedded, ImageFile
from datamodules.findings import DataError

Group = list[Picture]


def divide(labels: Labels, share: float, seed: int) -> dict[str, list[Picture]]:
    """The pictures of `labels` by split.

    Args:
        labels: Their pictures; `notes` gets how they were divided.
        share: Of the pictures that go to val, where the source has no such split.
        seed: Of the order in which groups are drawn.

    Raises:
        DataError: If there are fewer than two pictures to divide.
    """
    given: dict[str, list[Picture]] = defaultdict(list)
    for picture in labels.pictures:
        given[picture.split or ""].append(picture)
    if given["train"] and given["val"]:
        if given[""]:
            labels.notes.append(f"{len(given[''])} images of no split of the source went to train.")
        labels.notes.append("The splits are the source's own.")
        train, val = given["train"] + given[""], given["val"]
    else:
        rest = [picture for split in ("train", "val", "") for picture in given[split]]
        train, val = _drawn(rest, share, seed, labels)
    return {"train": train, "val": val} | ({"test": given["test"]} if given["test"] else {})


def _drawn(pictures: list[Picture], share: float, seed: int, labels: Labels) -> tuple[list[Picture], list[Picture]]:
    """Groups for train and for val, so that every class that two groups have is in both."""
    if len(pictures) < 2:
        raise DataError(f"The source has {len(pictures)} usable images, of which train and val cannot both have some.")
    groups, wanted = grouped(pictures), share * len(pictures)
    if len(groups) == 1:
        count = min(len(pictures) - 1, max(1, round(wanted)))
        labels.notes.append(
            f"All images are of one clip, so its last {count} are val: they look like the others, and scores flatter."
        )
        return pictures[:-count], pictures[-count:]
    order = [groups[place] for place in np.random.default_rng(seed).permutation(len(groups))]
    of_group = [{*(t.name for p in group for t in p.things), *(c for p in group for c in p.classes)} for group in order]
    having: dict[str, list[int]] = defaultdict(list)
    for place, names in enumerate(of_group):
        for name in sorted(names):
            having[name].append(place)
    val: set[int] = set()

    def may_go(place: int) -> bool:
        stays = all(set(having[name]) - val - {place} for name in of_group[place])
        return place not in val and stays and len(val) < len(order) - 1

    for name in sorted(having, key=lambda name: (len(having[name]), name)):
        if not val & set(having[name]):
            going = next((place for place in having[name] if may_go(place)), None)
            val |= set() if going is None else {going}
    count = sum(len(order[place]) for place in val)
    for place, group in enumerate(order):
        if abs(count + len(group) - wanted) < abs(count - wanted) and may_go(place):
            val.add(place)
            count += len(group)
    if not val:
        val.add(min(range(len(order)), key=lambda place: len(order[place])))
    if any(picture.group is not None for picture in pictures):
        labels.notes.append(f"{len(groups)} clips, of which {len(val)} are val: the frames of one are in one split.")
    chosen = {id(picture) for place in val for picture in order[place]}
    return [p for p in pictures if id(p) not in chosen], [p for p in pictures if id(p) in chosen]


def grouped(pictures: Sequence[Picture]) -> list[Group]:
    """Pictures that belong into one split: of a clip, or with files of the same bytes."""
    sizes: dict[int, list[Picture]] = defaultdict(list)
    for picture in pictures:
        if isinstance(picture.pixels, ImageFile):
            sizes[picture.pixels.path.stat().st_size].append(picture)
    alike = {id(p): _digest(p) for same in sizes.values() if len(same) > 1 for p in same}
    alike |= {id(p): _digest(p) for p in pictures if isinstance(p.pixels, Embedded)}
    parent = list(range(len(pictures)))

    def root(place: int) -> int:
        while parent[place] != place:
            place = parent[place] = parent[parent[place]]
        return place

    first: dict[object, int] = {}
    for place, picture in enumerate(pictures):
        keys = [("clip", picture.group)] if picture.group is not None else []
        keys += [("bytes", alike[id(picture)])] if id(picture) in alike else []
        for key in keys:
            parent[root(place)] = root(first.setdefault(key, place))
    groups: dict[int, Group] = defaultdict(list)
    for place, picture in enumerate(pictures):
        groups[root(place)].append(picture)
    return list(groups.values())


def _digest(picture: Picture) -> bytes:
    pixels = picture.pixels
    data = pixels.data if isinstance(pixels, Embedded) else pixels.path.read_bytes()
    return hashlib.blake2b(data, digest_size=16).digest()

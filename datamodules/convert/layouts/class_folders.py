"""Folders of classes (<split>/<class>/<image>), as `ImageFolder` reads them: pictures with one class each."""

from collections import Counter
from pathlib import Path

from datamodules.convert.labels import Labels, Picture
from datamodules.convert.layouts.result import Task, Written, put_pictures
from datamodules.findings import DataError


def select_classes(labels: Labels) -> None:
    """Leave the pictures of one class; raises DataError where fewer than two classes have some."""
    for picture in labels.pictures:
        if len(set(picture.classes)) != 1:
            which = "without a class of their own" if not picture.classes else "of several classes"
            labels.left_out.add(f"images {which}", picture.name)
    labels.pictures = [picture for picture in labels.pictures if len(set(picture.classes)) == 1]
    names = sorted({folder_of(picture) for picture in labels.pictures})
    if len(names) < 2:
        found = f"the class {names[0]} alone" if names else "no classes"
        raise DataError(f"The images as a whole have {found}: classification needs two or more. Say another --task.")


def write_classes(task: Task) -> Written:
    """Images by their class; those of classes that `train` lacks, by the source's own splits, are left out."""
    labels = task.labels
    learned = {folder_of(picture) for picture in task.splits["train"]}
    for split, pictures in task.splits.items():
        for picture in pictures:
            if folder_of(picture) not in learned:
                labels.left_out.add("images of classes that are not learned", f"{picture.classes[0]}: {picture.name}")
        task.splits[split] = [picture for picture in pictures if folder_of(picture) in learned]
    put_pictures(task, lambda split, picture: [Path(split, folder_of(picture), picture.name)])
    counts = {
        split: {"images": len(pictures), "classes": len(Counter(map(folder_of, pictures)))}
        for split, pictures in task.splits.items()
    }
    return Written("cls_folder.yaml", {"model.init_args.num_classes": len(learned)}, counts)


def folder_of(picture: Picture) -> str:
    """The name of a picture's class as a folder has it."""
    name = "".join(
        "_" if character in '/\\:*?"<>|' or ord(character) < 32 else character for character in picture.classes[0]
    )
    return name.strip().lstrip(".") or "_"

"""Annotated persons as COCO's evaluation reads them, checked: any key point ground truth, COCO's or one's own.

persons = annotated_persons(ground_truth, num_keypoints=17)
"""

from collections.abc import Mapping
from typing import Any

import numpy as np


def image_numbers(ground_truth: Mapping[str, Any]) -> dict[Any, int]:
    """Id of each image -> what batches call it: its `number` if it has one, else the id itself.

    Raises:
        ValueError: That is no 64-bit integer.
    """
    return {image["id"]: _number(image) for image in ground_truth["images"]}


def _number(image: Mapping[str, Any]) -> int:
    value = image.get("number", image["id"])
    if isinstance(value, str) or value != int(value) or not -(2**63) <= value < 2**63:
        raise ValueError(
            f"The ground truth has an image of id {value!r}, which batches cannot carry as image_id: give every image "
            "a `number`, a 64-bit integer, and use these in the batches."
        )
    return int(value)


def annotated_persons(ground_truth: Mapping[str, Any], num_keypoints: int) -> list[dict[str, Any]]:
    """What the protocol reads of each annotation whose image is listed; the ground truth is neither kept nor changed.

    Returns:
        A dict a person: `id`, its place among the annotations, from 1; `image_id`, the image's number; `category_id`;
        `keypoints`, (3K,) float array x, y, visibility; `num_keypoints`, the labelled ones; `bbox`; `area` in
        pixels²; `iscrowd`, 0 or 1.

    Raises:
        ValueError: An annotation lacks a field or has another number of key points.
    """
    images = image_numbers(ground_truth)
    # Numbered from 1: the evaluators read id 0 as "not matched", and own data often starts there.
    return [
        {"id": number, "image_id": images[annotation["image_id"]], **_person(annotation, num_keypoints)}
        for number, annotation in enumerate(ground_truth["annotations"], start=1)
        if annotation["image_id"] in images
    ]


def person_category(ground_truth: Mapping[str, Any], persons: list[dict[str, Any]]) -> int:
    """Id of the only category.

    Raises:
        ValueError: There is another number of categories, or an annotation of another category.
    """
    categories = {category["id"] for category in ground_truth["categories"]}
    if len(categories) != 1 or not categories.issuperset(person["category_id"] for person in persons):
        raise ValueError(
            f"The key point ground truth has {len(categories)} categories or annotations of others, expected one: "
            "keep the category that has key points, and its annotations only."
        )
    return categories.pop()


def _person(annotation: Mapping[str, Any], num_keypoints: int) -> dict[str, Any]:
    where = f"Annotation {annotation.get('id')} of image {annotation['image_id']}"
    missing = [key for key in ("category_id", "bbox", "area", "keypoints") if key not in annotation]
    if missing:
        raise ValueError(
            f"{where} has no {', '.join(missing)}, expected a COCO key point annotation: category_id, "
            "bbox [x, y, width, height], area in pixels² and keypoints [x, y, visibility, ...]."
        )
    keypoints = np.array(annotation["keypoints"], dtype=np.float64)
    if len(keypoints) != 3 * num_keypoints:
        raise ValueError(
            f"{where} has {len(keypoints)} numbers in keypoints, expected {3 * num_keypoints}: x, y, visibility of "
            f"{num_keypoints} key points, as many as there are sigmas and names."
        )
    labelled = np.count_nonzero(keypoints[2::3] > 0)
    return {
        "category_id": annotation["category_id"],
        "keypoints": keypoints,
        "num_keypoints": int(annotation.get("num_keypoints", labelled)),
        "bbox": list(annotation["bbox"]),
        "area": float(annotation["area"]),
        "iscrowd": int(annotation.get("iscrowd", 0)),
    }

"""The worst samples of an evaluation are the worst, whatever the batches, and each is drawn from its own row."""

import math

import pytest
import torch

from tasks.draw.tables import SampleScores
from tasks.losses import one
from tasks.metrics.coco_keypoints import CocoKeypoints
from tasks.metrics.confusion import SegmentationScores, image_confusion, image_iou


def filled(scores: list[float], batch_size: int, worst: int) -> SampleScores:
    samples = SampleScores(worst)
    for start in range(0, len(scores), batch_size):
        part = torch.tensor(scores[start : start + batch_size])
        ids = torch.arange(start, start + len(part))
        samples.update({"sample": ids, "score": part}, lambda i, ids=ids: torch.full((3, 1, 1), int(ids[i])))
    return samples


@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_worst_are_the_lowest_scores_with_their_own_pictures(batch_size):
    scores = torch.rand(10, generator=torch.Generator().manual_seed(0)).tolist()
    tables = filled(scores, batch_size, worst=4).tables()
    assert [row["sample"] for row in tables["samples"]] == list(range(10))
    expected = sorted(range(10), key=lambda i: scores[i])[:4]
    assert [row["sample"] for row in tables["worst"]] == expected
    assert [int(row["picture"][0, 0, 0]) for row in tables["worst"]] == expected


def test_undefined_scores_are_left_out_and_repeated_samples_count_once():
    samples = SampleScores()
    samples.update({"sample": [1, 2, 1, 3], "score": [0.5, math.nan, 0.5, 0.2]}, lambda i: None)
    tables = samples.tables()
    assert [row["sample"] for row in tables["samples"]] == [1, 3]
    assert [row["sample"] for row in tables["worst"]] == [3, 1]
    assert SampleScores().tables() == {}


def test_of_equal_scores_the_most_confident_is_the_worst():
    samples = SampleScores(worst=2)
    columns = {"sample": [1, 2, 3, 4], "score": [0.0, 0.0, 1.0, 0.0], "confidence": [0.5, 0.9, 0.99, 0.6]}
    samples.update(columns, lambda i: None)
    assert [row["sample"] for row in samples.tables()["worst"]] == [2, 4]


def test_one_is_a_batch_of_one():
    batch = {"image": torch.arange(12).view(3, 4), "boxes": ["a", "b", "c"], "more": (torch.arange(3),)}
    assert one(batch, 1)["image"].tolist() == [[4, 5, 6, 7]]
    assert one(batch, 1)["boxes"] == ["b"]
    assert one(batch, 1)["more"][0].tolist() == [1]


def test_oks_of_a_sample_is_the_plain_formula():
    truth = torch.tensor([[[10.0, 10.0], [20.0, 20.0], [5.0, 5.0]]]).repeat(3, 1, 1)
    found = truth + torch.tensor([[3.0, 4.0], [0.0, 0.0], [100.0, 0.0]])
    visible = torch.tensor([[2, 1, 0], [0, 0, 0], [2, 2, 2]])
    annotation = {"id": 7, "image_id": 1, "category_id": 1, "bbox": [0, 0, 30, 30], "area": 400.0, "iscrowd": 0}
    annotation |= {"keypoints": [10, 10, 2, 20, 20, 1, 0, 0, 0], "num_keypoints": 2}
    truth_file = {"images": [{"id": 1}], "annotations": [annotation], "categories": [{"id": 1}]}
    metric = CocoKeypoints(truth_file, [0.1, 0.2, 0.3], ["a", "b", "c"])
    similarity = metric.similarity(torch.tensor([7, 7, 8]), truth, visible, found)
    assert similarity[0] == pytest.approx((math.exp(-25 / (2 * 400 * 0.2**2)) + 1) / 2)
    assert math.isnan(similarity[1])  # nothing labelled
    assert math.isnan(similarity[2])  # not an annotation


def test_iou_of_an_image_is_that_of_a_split_of_this_image_alone():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (3, 6, 7), generator=generator)
    mask = torch.randint(0, 3, (3, 6, 7), generator=generator)
    mask[1, :3] = 255
    mask[2] = 255
    found = image_iou(image_confusion(labels, mask, 5)).nanmean(1)
    for i in (0, 1):
        alone = SegmentationScores(5)
        alone.update(labels[i : i + 1], mask[i : i + 1])
        assert found[i].item() == pytest.approx(alone.compute()["mIoU"])
    assert found[2].isnan()

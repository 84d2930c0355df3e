"""Pictures of errors show the right places of the right samples; an analysis looks at the batches it is asked to."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datamodules.base import DataError, collate
from experiments.errors import pose as error_pose
from experiments.errors import report as error_report
from experiments.errors import segmentation as error_segmentation
from experiments.errors.pose import pose_examples
from experiments.errors.pose_errors import KINDS
from experiments.errors.report import EXAMPLES, TILE, Report, predicted, report_of
from experiments.errors.segmentation import segmentation_report, worst_images
from hrnet import HRNet
from tasks import Task
from tasks.losses import IGNORED

SKELETON = {"names": ["head", "tail"], "limbs": [], "flip_pairs": []}


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn: (crop, places, shown) each, in order."""
    calls = []

    def draw(crop, places, shown, skeleton, scale):
        calls.append((crop, places.numpy(), shown.tolist()))
        return crop

    monkeypatch.setattr(error_pose, "draw_pose", draw)
    return calls


def pose_errors(kinds, labels, poses):
    """Errors (M, 2) of M persons, each alone in a black image with white squares at the labelled points."""
    images = []
    for points in labels:
        pixels = np.zeros((120, 200, 3), np.uint8)
        for x, y, visible in points:
            if visible:
                pixels[max(0, int(y) - 2) : int(y) + 3, max(0, int(x) - 2) : int(x) + 3] = 255
        images.append(pixels)
    ids = np.arange(len(labels)) * 10 + 7
    order = np.arange(len(labels))[::-1]  # rows of the data set are in another order than the persons
    dataset = SimpleNamespace(
        image_ids=ids[order],
        file_names=[f"folder/image{i}.png" for i in order],
        image=lambda row: images[order[row]],
    )
    errors = SimpleNamespace(
        kinds=np.array([[KINDS.index(kind) for kind in row] for row in kinds]),
        labels=np.array(labels, float),
        keypoints=np.array(poses, float),
        person=np.arange(len(labels)),
        pose=np.arange(len(labels)),
        image_id=ids,
        oks=np.linspace(0.1, 0.9, len(labels)),
        skeleton=SKELETON,
        names=SKELETON["names"],
    )
    return errors, dataset


@pytest.mark.parametrize("corner", [(90, 50), (3, 3), (196, 116)])  # within the image, and partly outside
def test_places_in_a_crop_are_those_in_the_image(corner, drawn):
    x, y = corner
    labels = [[(x, y, 2), (x - 20 if x > 100 else x + 20, y, 0)]]
    poses = [[(x, y, 1), (x - 30 if x > 100 else x + 30, y, 1)]]
    list(pose_examples(*pose_errors([["jitter", "good"]], labels, poses)))
    (crop, truth, shown), (_, prediction, _) = drawn
    assert crop.shape == (3, TILE, TILE)
    assert shown == [True, False]
    column, row = truth[0].round().astype(int)
    assert crop[0, row, column] > 200  # the white square
    assert (crop[0] > 200).float().mean() < 0.1
    bright = (crop[0] > 127).nonzero().float().mean(0).flip(0)  # its centre x, y
    if corner == (90, 50):
        np.testing.assert_allclose(bright.numpy(), truth[0], atol=0.51)
    np.testing.assert_allclose(prediction[0], truth[0])
    scale = (prediction[1, 0] - prediction[0, 0]) / (poses[0][1][0] - x)
    assert scale > 0
    np.testing.assert_allclose(prediction[1, 1], prediction[0, 1])
    np.testing.assert_allclose(abs(truth[1, 0] - truth[0, 0]) / 20, scale, rtol=1e-5)


def test_a_crop_holds_truth_and_prediction(drawn):
    errors, dataset = pose_errors([["miss", "good"]], [[(20, 20, 2), (40, 30, 2)]], [[(150, 100, 1)] * 2])
    list(pose_examples(errors, dataset))
    for _, places, _ in drawn:
        assert places.min() >= 0
        assert places.max() <= TILE - 1


def test_examples_are_the_persons_with_the_most_errors_of_a_kind(drawn, monkeypatch):
    captions = []
    monkeypatch.setattr(
        error_pose,
        "draw_gallery",
        lambda tiles, lines, columns: captions.append(lines) or torch.stack(tiles).sum(0),
    )
    monkeypatch.setattr(error_pose, "grid", lambda rows, captions: torch.stack(rows[0]).sum(0))
    kinds = [["good", "swap"], ["jitter", "jitter"], ["jitter", "good"], ["swap", "swap"]]
    labels = [[(40 + 5 * i, 60, 2), (80, 60, 2)] for i in range(4)]
    poses = [[(50, 70, 1), (90, 70, 1)]] * 4
    found = dict(pose_examples(*pose_errors(kinds, labels, poses)))
    assert list(found) == ["jitter", "swap"]
    assert [[line for line, _ in lines] for lines in captions] == [
        ["jitter: head, tail", "jitter: head"],
        ["swap: head, tail", "swap: tail"],
    ]
    assert [[line.rsplit(" ", 1)[1] for _, line in lines] for lines in captions] == [
        ["image1.png", "image2.png"],
        ["image3.png", "image0.png"],
    ]
    assert captions[0][0][1].startswith("OKS 0.37")


def test_examples_of_a_kind_are_few(drawn):
    many = EXAMPLES + 3
    errors, dataset = pose_errors([["miss", "good"]] * many, [[(20, 20, 2)] * 2] * many, [[(9, 9, 1)] * 2] * many)
    list(pose_examples(errors, dataset))
    assert len(drawn) == 2 * EXAMPLES


class Segmenter:
    """Predicts class 1 where an image is bright; masks of its data are wrong in one column."""

    device = torch.device("cpu")
    num_classes, palette = 2, None
    metric = SimpleNamespace(names=["dark", "bright"])
    split = "val"

    def outputs(self, batch):
        return batch["image"].float().mean(1)

    def predict(self, outputs, batch):
        return {"labels": (outputs > 127).long()}


class Masks:
    """Images of several sizes, bright in their right half; `wrong` columns of the mask are not."""

    sizes = ((64, 32), (32, 96), (40, 40))

    def __getitem__(self, sample):
        height, width = self.sizes[sample]
        image = np.zeros((height, width, 3), np.uint8)
        image[:, width // 2 :] = 255
        mask = (image[..., 0] > 0).astype(np.int64)
        mask[:, width // 2 : width // 2 + 8] = 0
        return {"image": image, "mask": mask, "image_id": sample}


def test_worst_images_are_shown_whole_and_in_order(monkeypatch):
    calls = []
    monkeypatch.setattr(
        error_segmentation, "draw_segmentation", lambda *args: calls.append(args) or torch.zeros(3, 1, 1)
    )
    worst_images(Segmenter(), Masks(), [1, 0])
    ((images, masks, labels, palette, names, side),) = calls
    assert (side, names, len(palette)) == (TILE, ["dark", "bright"], 2)
    assert images.shape[-2:] == masks.shape[-2:] == labels.shape[-2:] == (TILE, TILE)
    for i, (height, width) in enumerate([(round(TILE / 3), TILE), (TILE, TILE // 2)]):
        assert (masks[i, height:] == IGNORED).all()
        assert (masks[i, :, width:] == IGNORED).all()
        assert (labels[i, :height, :width] == (images[i, 0, :height, :width] > 127)).float().mean() > 0.98
        assert not (masks[i, :height, :width] == IGNORED).any()
    wrong = (masks != labels) & (masks != IGNORED)
    assert wrong[0].float().sum() / (TILE * round(TILE / 3)) == pytest.approx(8 / 96, abs=0.01)
    assert wrong[1].float().sum() / (TILE * TILE // 2) == pytest.approx(8 / 32, abs=0.01)


def test_the_worst_images_of_a_segmentation_come_first(monkeypatch):
    chosen = []
    monkeypatch.setattr(error_report, "for_inference", lambda task: task)
    monkeypatch.setattr(
        error_segmentation, "worst_images", lambda task, data, samples: chosen.extend(samples) or torch.zeros(3, 1, 1)
    )
    dataset = Masks()
    dataset.name = lambda sample: f"image{sample}.png"
    batches = [collate([dataset[i]]) for i in range(3)]
    data = SimpleNamespace(split=lambda split: dataset, val_dataloader=lambda: batches)
    report = segmentation_report(Segmenter(), data, None)
    # IoU of 8 of a half's columns wrong: the narrower the image, the worse.
    assert chosen == [0, 2, 1]
    assert [row["file"] for row in report.tables["images"]] == ["image0.png", "image2.png", "image1.png"]
    bright, dark = [(width / 2 - 8) / (width / 2) for width in (32, 40, 96)], [w / (w + 16) for w in (32, 40, 96)]
    assert [row["mIoU"] for row in report.tables["images"]] == pytest.approx(
        [(a + b) / 2 for a, b in zip(bright, dark, strict=True)]
    )


@pytest.mark.parametrize(
    ("limit", "batches"), [(None, 7), (3, 3), (1, 1), (20, 7), (1.0, 7), (0.5, 3), (0.99, 6), (0.3, 2), (0, 0)]
)
@pytest.mark.parametrize("split", ["val", "test"])
def test_as_many_batches_are_predicted_as_lightning_would_take(split, limit, batches, monkeypatch):
    monkeypatch.setattr(error_report, "for_inference", lambda task: task)
    task = Segmenter()
    task.split = split
    loaders = {
        name: [{"image": torch.full((1, 3, 2, 2), 9.0), "name": f"{name}{i}"} for i in range(7)]
        for name in ("val", "test")
    }
    data = SimpleNamespace(val_dataloader=lambda: loaders["val"], test_dataloader=lambda: loaders["test"])
    found = [batch["name"] for _, batch in predicted(task, data, limit)]
    assert found == [f"{split}{i}" for i in range(batches)]


# ---- tasks of one's own


class Toy(Task):
    """Of nobody's kind."""


class Studied(Toy):
    """The same with an analysis."""


@report_of.register
def studied_report(task: Studied, data: object, limit: object = None, predictions: object = None) -> Report:
    return Report({"summary": [{"name": "of", "value": data}]}, {})


def test_the_analysis_is_that_of_the_tasks_class() -> None:
    backbone = HRNet("w18_small_v1")
    assert report_of(Studied(backbone), "its data").tables == {"summary": [{"name": "of", "value": "its data"}]}
    with pytest.raises(DataError, match=r"no error analysis for Toy: .* none of .*PoseTask.*Studied"):
        report_of(Toy(backbone), "its data")

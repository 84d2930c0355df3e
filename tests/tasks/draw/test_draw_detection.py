"""Drawn detections: boxes on their pixels, truth and prediction in the input's pixels, layers for W&B."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tasks.draw import class_colours, draw_boxes, draw_detection
from tasks.draw.detection import in_input
from tasks.draw.pictures import log_pictures
from tasks.losses import one
from tests.tasks.detection.scenes import random_batch, small_task
from tests.tasks.draw.test_pictures import Recorder

RED, BLUE = (255, 0, 0), (0, 0, 255)


def coloured(picture, colour):
    """Rows and columns that a colour reaches: first and last of each."""
    here = (picture == torch.tensor(colour, dtype=torch.uint8).view(3, 1, 1)).all(0)
    rows, columns = here.nonzero().T
    return rows.min().item(), rows.max().item(), columns.min().item(), columns.max().item()


def test_a_box_is_drawn_on_the_outermost_pixels_that_it_covers():
    image = torch.full((3, 40, 60), 90, dtype=torch.uint8)
    boxes = torch.tensor([[3.0, 5.0, 6.0, 20.0], [10.0, 10.0, 50.0, 30.0]])
    picture = draw_boxes(image, boxes, [RED, BLUE])
    assert coloured(picture, RED) == (5, 19, 3, 5)
    assert coloured(picture, BLUE) == (10, 29, 10, 49)
    assert (picture[:, 15, 30] == 90).all()
    assert (image == 90).all()


def test_the_first_box_is_on_top_and_captions_stay_inside():
    image = torch.full((3, 60, 90), 90, dtype=torch.uint8)
    boxes = torch.tensor([[70.0, 0.0, 90.0, 20.0]] * 2)
    assert coloured(draw_boxes(image, boxes, [RED, BLUE]), RED) == (0, 19, 70, 89)
    with_text = draw_boxes(image, boxes[:1], [BLUE], ["a long caption"])
    _, _, left, right = coloured(with_text, BLUE)
    assert left < 40  # moved to the left, where there is room
    assert right == 89
    none = draw_boxes(image, torch.zeros(0, 4), [], [], torch.zeros(0, 60, 90, dtype=torch.bool))
    assert torch.equal(none, image)


def test_masks_are_painted_in_the_colours_of_their_boxes():
    image = torch.full((3, 40, 60), 100, dtype=torch.uint8)
    masks = torch.zeros(2, 40, 60, dtype=torch.bool)
    masks[0, 10:20, 10:20] = True
    masks[1, 15:30, 15:30] = True
    picture = draw_boxes(image, torch.tensor([[10.0, 10, 20, 20], [15, 15, 30, 30]]), [RED, BLUE], masks=masks.numpy())
    assert picture[0, 12, 12] > 170 > 60 > picture[2, 12, 12]
    assert picture[0, 17, 17] > picture[2, 17, 17]  # the first on top
    assert picture[2, 25, 25] > 170
    assert (picture[:, 35, 50] == 100).all()


def make_sample(masks=True):
    """Two images of 100 x 120 pixels in canvases of 40 x 60, shrunk to a third and mirrored in the second."""
    matrices = [[[3.0, 0, 1.0], [0, 3.0, 1.0]], [[-3.0, 0, 118.0], [0, 3.0, 1.0]]]
    batch = {
        "image": torch.full((2, 3, 40, 60), 80, dtype=torch.uint8),
        "image_id": torch.tensor([7, 9]),
        "to_image": torch.tensor(matrices),
        "boxes": [torch.tensor([[2.0, 3.0, 12.0, 23.0]]), torch.zeros(0, 4)],
        "labels": [torch.tensor([1]), torch.zeros(0, dtype=torch.int64)],
    }
    predictions = {
        "boxes": [torch.tensor([[6.0, 9.0, 36.0, 69.0], [60.0, 9.0, 90.0, 30.0]]), torch.tensor([[6.0, 9, 36, 69]])],
        "scores": [torch.tensor([0.9, 0.1]), torch.tensor([0.8])],
        "labels": [torch.tensor([1, 0]), torch.tensor([0])],
    }
    if masks:
        truth = torch.zeros(1, 40, 60, dtype=torch.bool)
        truth[0, 3:23, 2:12] = True
        batch["masks"] = [truth, torch.zeros(0, 40, 60, dtype=torch.bool)]
        predictions["masks"] = [torch.ones(2, 28, 28), torch.ones(1, 28, 28)]
    return batch, predictions


def test_boxes_go_back_through_the_matrix_of_their_image():
    batch, predictions = make_sample()
    # Edges: a third of the original, where the canvas starts with the image, and where it is mirrored in 120 columns.
    for index, expected in ((0, [2, 3, 12, 23]), (1, [28, 3, 38, 23])):
        found = in_input(predictions["boxes"][index][:1], batch["to_image"][index])
        torch.testing.assert_close(found, torch.tensor([expected], dtype=torch.float32), atol=1e-4, rtol=0)
    assert in_input(torch.zeros(0, 4), batch["to_image"][0]).shape == (0, 4)


@pytest.mark.parametrize("masks", [False, True])
def test_truth_and_prediction_are_drawn_and_have_layers(masks):
    batch, predictions = make_sample(masks)
    panel = draw_detection(batch["image"], batch, predictions, ["cat", "dog"], image_ids=["a", "b"])
    cat, dog = (torch.tensor(colour, dtype=torch.uint8) for colour in class_colours(2))
    half = panel.picture.shape[1] // 2
    for part, label, there in ((slice(0, half), cat, False), (slice(half, None), dog, True)):
        here = (panel.picture[:, part] == label.view(3, 1, 1)).all(0)
        assert here.any() == there
    first, second = panel.layers
    assert (first.caption, second.caption) == ("image a", "image b")
    assert [box.label for box in first.boxes["prediction"]] == [1]  # the other one scores too little
    np.testing.assert_allclose(first.boxes["prediction"][0][:4], first.boxes["truth"][0][:4], atol=1e-4)
    assert first.boxes["prediction"][0].score == pytest.approx(0.9)
    assert second.boxes["truth"] == []
    assert set(first.masks) == ({"truth", "prediction"} if masks else set())
    if masks:
        assert torch.equal(first.masks["truth"], first.masks["prediction"])
        assert first.masks["truth"].unique().tolist() == [1, 255]
        assert (second.masks["truth"] == 255).all()


def test_no_detection_at_all_can_be_drawn():
    batch, predictions = make_sample()
    nothing = {key: [value[:0] for value in values] for key, values in predictions.items()}
    empty = {key: [value[:0] for value in batch[key]] for key in ("boxes", "labels", "masks")}
    panel = draw_detection(batch["image"], batch | empty, nothing, ["cat", "dog"])
    assert panel.picture.dtype == torch.uint8
    assert [layer.boxes for layer in panel.layers] == [{"truth": [], "prediction": []}] * 2


def test_wandb_gets_boxes_and_masks_of_every_sample(tmp_path):
    batch, predictions = make_sample()
    panel = draw_detection(batch["image"], batch, predictions, ["cat", "dog"])
    recorder = Recorder()
    trainer = SimpleNamespace(
        default_root_dir=tmp_path, current_epoch=0, state=SimpleNamespace(fn=None), loggers=[recorder], global_step=0
    )
    log_pictures({"detection": panel}, trainer, "val")
    ((_, images, options),) = recorder.images
    assert [image.shape for image in images] == [(40, 60, 3)] * 2
    assert options["caption"] == ["image 7", "image 9"]
    box = options["boxes"][0]["prediction"]["box_data"][0]
    assert box["position"] == pytest.approx({"minX": 2, "maxX": 12, "minY": 3, "maxY": 23}, abs=1e-4)
    assert box["box_caption"] == "dog"
    mask = options["masks"][1]["prediction"]
    assert mask["class_labels"] == {0: "cat", 1: "dog", 255: "ignored"}
    assert set(np.unique(mask["mask_data"])) == {0, 255}


@pytest.mark.parametrize("detector", ["fcos", "mask_rcnn"])
def test_the_task_draws_a_batch_and_single_samples_of_it(detector):
    task, batch = small_task(detector, score_threshold=0.0).eval(), random_batch(3)
    if detector == "fcos":
        del batch["masks"]
    outputs = task.outputs(batch)
    predictions = task.predict(outputs, batch)
    panel = task.draw(outputs, predictions, batch, 2)["detection (truth, prediction)"]
    assert [layer.caption for layer in panel.layers] == ["image 0", "image 1"]
    assert [bool(layer.masks) for layer in panel.layers] == [detector == "mask_rcnn"] * 2
    single = task.draw({}, one(predictions, 2), one(batch, 2), 1)["detection (truth, prediction)"]
    assert [layer.caption for layer in single.layers] == ["image 2"]
    assert [box[:4] for box in single.layers[0].boxes["truth"]] == [tuple(box) for box in batch["boxes"][2].tolist()]

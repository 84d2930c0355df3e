"""DetectionTask: what can go wrong in silence with anchors, pooling, boxes and sampling; and that it learns."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.ops import box_iou

import tasks
from hrnet import HRNet
from hrnet.inference import for_inference
from tasks import DetectionTask, MultiTask, SegmentationTask, save_task
from tasks.detection.pyramid import Anchors
from tasks.detection.task import in_original, quality
from tests.tasks.detection.scenes import CLASSES, DETECTORS, SIZE, batch_of, random_batch, small_task, total

TWO_STAGE = ["faster_rcnn", "mask_rcnn"]
CPU = torch.device("cpu")


class Batches(torch.utils.data.Dataset):
    """Ready batches."""

    def __init__(self, batches: list[dict[str, Any]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.batches[index]


def loader(*seeds: int) -> DataLoader:
    return DataLoader(Batches([random_batch(2, seed) for seed in seeds]), batch_size=None)


def quiet(folder: Path, **options: Any) -> Trainer:
    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "num_sanity_val_steps": 0}
    return Trainer(
        accelerator="cpu", default_root_dir=folder, enable_model_summary=False, callbacks=[], **silent | options
    )


def losses_of(task: DetectionTask, batch: dict[str, Any]) -> dict[str, Tensor]:
    return task.losses(task.outputs(batch), batch)


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize(
    "boxes",
    [
        [[[10, 10, 60, 70]], []],
        [[], []],
        [[[10, 10, 10.4, 70]], [[3, 3, 40, 40]]],
        [[[10, 10, 10, 70]], [[3, 3, 40, 40]]],
    ],
    ids=["one empty", "all empty", "below a pixel", "without width"],
)
def test_images_without_objects_train_every_parameter(detector: str, boxes: list) -> None:
    task, batch = small_task(detector).train(), batch_of([[], []])
    batch["boxes"] = [torch.tensor(rows, dtype=torch.float32).view(-1, 4) for rows in boxes]
    batch["labels"] = [torch.zeros(len(rows), dtype=torch.int64) for rows in boxes]
    batch["masks"] = [torch.zeros(len(rows), *SIZE, dtype=torch.bool) for rows in boxes]
    losses = losses_of(task, batch)
    assert all(value.isfinite() for value in losses.values())
    total(losses).backward()
    for name, parameter in task.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("detector", DETECTORS)
def test_each_loss_has_a_name_and_no_place_is_lost(detector: str) -> None:
    task, batch = small_task(detector), random_batch()
    outputs = task.outputs(batch)
    names = {
        "fcos": {"classification", "box", "centerness"},
        "retinanet": {"classification", "box"},
        "faster_rcnn": {"objectness", "proposal_box", "classification", "box"},
    }
    names["mask_rcnn"] = names["faster_rcnn"] | {"mask"}
    assert task.losses(outputs, batch).keys() == names[detector]
    anchors = sum(len(level) for level in task.head.anchors.levels(SIZE, CPU))
    assert outputs["deltas" if "rcnn" in detector else "bbox_regression"].shape == (len(batch["image"]), anchors, 4)


def test_no_distance_of_a_new_fcos_is_stuck_at_zero() -> None:
    """A ReLU gives distances to the sides of a box: where it is shut at the start, some seeds never learn boxes."""
    batch = random_batch()
    distances = small_task("fcos").outputs(batch)["bbox_regression"]  # in strides
    assert distances.min() > 1
    assert distances.mean().item() == pytest.approx(4, abs=0.5)


def test_anchors_keep_their_strides_where_the_last_cells_are_cut() -> None:
    levels = Anchors([4, 32, 64], [[32], [256], [512]], [1.0]).levels((96, 160), CPU)
    middles = [(level[:, :2] + level[:, 2:]) / 2 for level in levels]
    assert [len(level) for level in levels] == [24 * 40, 3 * 5, 2 * 3]
    assert middles[2].tolist() == [[32, 32], [96, 32], [160, 32], [32, 96], [96, 96], [160, 96]]
    assert middles[0][:2].tolist() == [[2, 2], [6, 2]]
    sides = [level[:, 2:] - level[:, :2] for level in levels]
    assert [side.unique().tolist() for side in sides] == [[32], [256], [512]]


def test_anchors_of_the_pyramid_have_its_sizes() -> None:
    for size in ((96, 160), (64, 224), (160, 96)):
        for detector in ("faster_rcnn", "fcos"):
            task = small_task(detector)
            pyramid = task.neck(task.backbone(torch.zeros(1, 3, *size)))
            cells = [level.shape[-2] * level.shape[-1] for level in pyramid.values()]
            each = task.head.anchors.num_anchors_per_location()[0]
            assert [len(level) for level in task.head.anchors.levels(size, CPU)] == [each * count for count in cells]


@pytest.mark.parametrize("detector", DETECTORS)
@torch.no_grad()
def test_in_bfloat16_boxes_are_computed_in_float32(detector: str) -> None:
    task, batch = small_task(detector, score_threshold=0.0).eval(), random_batch(2)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = task.outputs(batch)
        assert task.neck(task.backbone(torch.zeros(1, 3, *SIZE)))["0"].dtype == torch.bfloat16
        losses, found = task.losses(outputs, batch), task.predict(outputs, batch)
        placed = task.head.proposals(outputs, SIZE, [SIZE] * 2) if "rcnn" in detector else found["boxes"]
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    assert all(boxes.dtype == torch.float32 for boxes in found["boxes"])
    if "rcnn" in detector:
        expected = task.head.proposals(outputs, SIZE, [SIZE] * 2)
    else:
        expected = task.predict(outputs, batch)["boxes"]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(placed, expected, strict=True))
    assert all(level.dtype == torch.float32 for level in task.head.anchors.levels(SIZE, CPU))
    wide = Anchors([64], [[512]], [1.0]).levels((800, 1344), CPU)[0]
    assert ((wide[:, 0] + wide[:, 2]) / 2 == 1312).any(), "which bfloat16 has not"


@torch.no_grad()
def test_levels_that_boxes_are_pooled_from_do_not_depend_on_what_came_before() -> None:
    low = batch_of([[[5, 5, 60, 40]]], [(SIZE[0] // 2, SIZE[1])])
    whole = random_batch(2, 3)
    first, second = (small_task("faster_rcnn", score_threshold=0.0).eval() for _ in range(2))
    second.predict(second.outputs(low), low)
    expected, found = (task.predict(task.outputs(whole), whole) for task in (first, second))
    for ours, theirs in zip(found["boxes"], expected["boxes"], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("detector", DETECTORS)
@torch.no_grad()
def test_detections_stay_inside_the_valid_part_and_images_do_not_mix(detector: str) -> None:
    task = small_task(detector, score_threshold=0.0).eval()
    both = batch_of([[[5, 5, 60, 40]], [[30, 30, 90, 80]]], [(48, 100), SIZE])
    alone = {key: value[:1] for key, value in both.items()}
    together, single = (task.predict(task.outputs(batch), batch) for batch in (both, alone))
    for key, found in single.items():
        torch.testing.assert_close(together[key][0], found[0], rtol=1e-4, atol=1e-3)
    boxes = together["boxes"][0]
    assert len(boxes)
    assert (boxes >= 0).all()
    assert boxes[:, [0, 2]].max() <= 100
    assert boxes[:, [1, 3]].max() <= 48
    for scores, labels in zip(together["scores"], together["labels"], strict=True):
        assert (scores.diff() <= 0).all()
        assert labels.dtype == torch.int64
        assert set(labels.tolist()) <= set(range(CLASSES))


def test_edges_go_to_the_original_image_half_a_pixel_from_centres() -> None:
    scale = 2.5  # an image of 250 columns seen in 100: edge e of the input is edge 2.5 e there
    to_image = torch.tensor([[scale, 0.0, (scale - 1) / 2], [0.0, scale, (scale - 1) / 2]])
    boxes = torch.tensor([[0.0, 0.0, 100.0, 40.0], [3.0, 4.0, 6.0, 8.0]])
    torch.testing.assert_close(in_original(boxes, to_image), boxes * scale)


@pytest.mark.parametrize("detector", TWO_STAGE)
def test_sampling_in_evaluation_is_the_same_each_time_and_leaves_no_trace(detector: str) -> None:
    task, batch = small_task(detector).eval(), random_batch()
    torch.manual_seed(5)
    first = losses_of(task, batch)
    stream = torch.rand(3)
    torch.manual_seed(6)
    again = losses_of(task, batch)
    assert all(torch.equal(first[name], again[name]) for name in first)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), stream)
    task.train()
    torch.manual_seed(5)
    losses_of(task, batch)
    assert not torch.equal(torch.rand(3), stream), "a training draws its samples"


def test_a_training_is_the_same_with_and_without_validation(tmp_path: Path) -> None:
    weights = []
    for validated in (False, True):
        task = small_task("faster_rcnn", optimizer={"name": "momentum", "lr": 0.01})
        limit = {} if validated else {"limit_val_batches": 0}
        quiet(tmp_path, max_epochs=2, val_check_interval=1, **limit).fit(task, loader(0, 1), loader(2))
        weights.append(torch.cat([p.detach().flatten() for p in task.parameters()]))
    assert torch.equal(*weights)


@pytest.mark.parametrize("detector", DETECTORS)
def test_validation_runs_the_backbone_once_for_losses_and_predictions(detector: str, tmp_path: Path) -> None:
    task, calls = small_task(detector), []
    task.backbone.register_forward_hook(lambda *_: calls.append(1))
    task.neck.register_forward_hook(lambda *_: calls.append(2))
    found = quiet(tmp_path).validate(task, loader(0, 1, 2), verbose=False)[0]
    assert calls == [1, 2] * 3
    assert found["val/loss"] == pytest.approx(sum(v for k, v in found.items() if k != "val/loss"), rel=1e-4)


@pytest.mark.parametrize("detector", DETECTORS)
@torch.no_grad()
def test_copies_and_rewritten_networks_find_the_same(detector: str) -> None:
    task, batch = small_task(detector, score_threshold=0.0).eval(), random_batch(2)
    expected = task.predict(task.outputs(batch), batch)
    for other in (copy.deepcopy(task), for_inference(task)):
        found = other.predict(other.outputs(batch), batch)
        for ours, theirs in zip(found["boxes"], expected["boxes"], strict=True):
            assert (box_iou(ours, theirs).amax(1) > 0.99).float().mean() > 0.95


@pytest.mark.parametrize("detector", DETECTORS)
@torch.no_grad()
def test_a_saved_task_comes_back_with_its_names(detector: str, tmp_path: Path) -> None:
    names = ["cup", "dog", "car"]
    task, batch = (
        small_task(detector, class_names=names, category_ids=[3, 5, 9], score_threshold=0.0).eval(),
        random_batch(2),
    )
    save_task(task, tmp_path / "det.ckpt")
    again = tasks.load(tmp_path / "det.ckpt")
    assert isinstance(again, DetectionTask)
    assert (again.class_names, again.category_ids) == (names, [3, 5, 9])
    assert again.detector == detector
    expected, found = (one.predict(one.outputs(batch), batch) for one in (task, again))
    assert all(torch.equal(a, b) for key in expected for a, b in zip(found[key], expected[key], strict=True))


def test_in_a_joint_run_it_is_a_task_like_others() -> None:
    torch.manual_seed(0)
    makers = {
        "boxes": partial(DetectionTask, num_classes=CLASSES, detector="fcos", channels=32, strides=[8, 16, 32]),
        "parts": partial(SegmentationTask, num_classes=4),
    }
    joint, calls = MultiTask(HRNet("w18_small_v1"), makers).train(), []
    joint.backbone.register_forward_hook(lambda *_: calls.append(1))
    batch = random_batch(2)
    images = joint.normalize(batch["image"])
    assert joint(images).keys() == {"boxes", "parts"}
    assert len(calls) == 1, "one pass serves both"
    losses = joint.losses(joint.outputs({"boxes": batch}), {"boxes": batch})
    assert losses.keys() == {"boxes/classification", "boxes/box", "boxes/centerness"}
    single = joint.eval().single("boxes")
    parts = joint.predict(joint.outputs({"boxes": batch}), {"boxes": batch})["boxes"]
    alone = single.predict(single.outputs(batch), batch)
    assert all(torch.equal(a, b) for a, b in zip(parts["boxes"], alone["boxes"], strict=True))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"detector": "fcos", "channels": 48}, "32 groups.*channels is 48"),
        ({"detector": "yolo"}, "faster_rcnn.*not 'yolo'"),
        ({"detector": "fcos", "anchor_size": 8.0}, "fcos has no anchor_size"),
        ({"detector": "retinanet", "box_channels": 8, "proposals": (1, 1)}, "retinanet has no box_channels, proposals"),
        ({"strides": [4, 8, 32]}, r"each twice.*\[4, 8, 32\]"),
        ({"strides": [2, 4]}, "first is 4"),
        ({"strides": []}, "pyramid"),
        ({"detector": "faster_rcnn", "convention": "other"}, "official, mmdet2, not 'other'"),
        ({"category_ids": [1, 2]}, "category_ids are 2 and num_classes is 3"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DetectionTask(HRNet("w18_small_v1"), CLASSES, **{"channels": 32} | options)


def test_other_mistakes_are_sentences() -> None:
    with pytest.raises(ValueError, match="four streams"):
        DetectionTask(HRNet("w18_small_v1", multi_scale_output=False), CLASSES)
    task, batch = small_task("mask_rcnn"), random_batch(2)
    del batch["masks"]
    with pytest.raises(ValueError, match=r"lacks masks.*data\.init_args\.masks"):
        losses_of(task, batch)
    batch["boxes"] = [boxes * 40 for boxes in batch["boxes"]]
    with pytest.raises(ValueError, match="beyond its image of 96x160"):
        task.check(batch)
    with pytest.raises(ValueError, match="None of 2 training images has an object"):
        task.check(batch_of([[], []]))


class Truth:
    """What a DataModule says of a batch's objects; category ids are 10, 20, 30."""

    num_classes = CLASSES
    class_names = ("red", "green", "blue")

    def __init__(self, batch: dict[str, Any]) -> None:
        self.batch = batch

    def ground_truth(self, split: str) -> dict[str, list]:
        assert split == "val"
        rows = [
            (image, label, box)
            for image, (labels, boxes) in enumerate(zip(self.batch["labels"], self.batch["boxes"], strict=True))
            for label, box in zip(labels.tolist(), boxes.tolist(), strict=True)
        ]
        annotations = [
            {
                "id": number,
                "image_id": image,
                "category_id": 10 * (label + 1),
                "iscrowd": 0,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
            }
            for number, (image, label, (x1, y1, x2, y2)) in enumerate(rows, start=1)
        ]
        images = [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(len(self.batch["image"]))]
        categories = [{"id": 10 * (k + 1), "name": name} for k, name in enumerate(self.class_names)]
        return {"images": images, "annotations": annotations, "categories": categories}


@pytest.mark.parametrize("detector", ["mask_rcnn", "fcos"])
def test_perfect_detections_score_1_and_are_told_by_class(detector: str) -> None:
    task, batch = small_task(detector), random_batch(4, 2)
    task.attach(Truth(batch))
    assert task.class_names == task.hparams["class_names"] == ["red", "green", "blue"]
    assert task.category_ids == task.hparams["category_ids"] == [10, 20, 30]
    perfect = {
        "boxes": batch["boxes"],
        "labels": batch["labels"],
        "scores": [torch.ones(len(boxes)) for boxes in batch["boxes"]],
        "masks": [torch.ones(len(boxes), 28, 28) for boxes in batch["boxes"]],
    }
    task.update(perfect, batch)
    found = task.compute()
    expected = ["AP", "AP50", "AR"] + ["mask_AP"] * (detector == "mask_rcnn")
    assert [found[name] for name in expected] == pytest.approx([1.0] * len(expected), abs=0.02)
    assert set(found) <= set(task.higher_is_better)
    assert [row["name"] for row in task.tables()["classes"]] == ["red", "green", "blue"]
    assert task.scores(perfect, batch)["score"] == pytest.approx([1.0] * 4)
    other = Truth(batch)
    other.num_classes = 80
    with pytest.raises(ValueError, match=r"model\.init_args\.num_classes to 80"):
        task.attach(other)


def test_quality_of_an_image_counts_overlaps_and_what_is_left_over() -> None:
    truth, labels = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]]), torch.tensor([0, 1])
    nothing, none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    assert quality(truth, labels, truth, labels) == quality(nothing, none, nothing, none) == 1
    assert quality(nothing, none, truth, labels) == quality(truth, labels, nothing, none) == 0
    assert quality(truth, labels.flip(0), truth, labels) == 0
    shifted = torch.tensor([[0.0, 0, 10, 8], [0, 0, 10, 10], [50, 50, 60, 60]])  # the first, less well, takes it
    assert quality(shifted, torch.tensor([0, 0, 1]), truth, labels) == pytest.approx(0.8 / (1 + 2 / 2 + 1 / 2))


def test_boxes_that_overlap_by_half_are_no_pair_yet() -> None:
    truth, label = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([0])
    assert quality(torch.tensor([[0.0, 0, 10, 5]]), label, truth, label) == 0
    assert quality(torch.tensor([[0.0, 0, 10, 5.5]]), label, truth, label) == pytest.approx(0.55)


def test_images_are_scored_by_what_would_be_drawn_in_original_pixels() -> None:
    task, batch = small_task(), batch_of([[[10, 10, 60, 50], [70, 20, 110, 70]], []])
    batch["to_image"][0] = torch.tensor([[2.0, 0, 0.5], [0, 2, 0.5]])  # twice as large
    boxes = 2 * batch["boxes"][0]
    found = {
        "boxes": [torch.cat([boxes, boxes[:1] + 40]), boxes[:1]],
        "scores": [torch.tensor([0.9, 0.3, 0.299]), torch.tensor([0.1])],
        "labels": [torch.tensor([0, 1, 2]), torch.tensor([0])],
    }
    scores = task.scores(found, batch)
    assert scores["score"] == pytest.approx([1.0, 1.0])  # what scores less is as if it were not there
    assert (scores["objects"], scores["detections"]) == ([2, 0], [2, 0])
    assert scores["sample"].tolist() == [0, 1]


def test_names_that_were_given_stay_and_an_evaluation_cut_short_counts_what_it_has_seen() -> None:
    task, batch = small_task(class_names=["a", "b", "c"]), random_batch(4, 2)
    task.attach(Truth(batch))
    assert task.class_names == ["a", "b", "c"]
    assert [row["name"] for row in task.tables()["classes"]] == ["a", "b", "c"]
    seen = {key: value[:2] for key, value in batch.items()}
    perfect = {key: seen[key] for key in ("boxes", "labels")} | {"scores": [torch.ones(len(b)) for b in seen["boxes"]]}
    recalls = []
    for task.partial in (True, False):
        task.reset()
        task.update(perfect, seen)
        recalls.append(task.compute()["AR"])
    assert recalls[0] == pytest.approx(1)
    assert 0 < recalls[1] < 1


@pytest.mark.parametrize("beyond", [0.5, 0.6])
@pytest.mark.parametrize("side", range(4))
def test_boxes_may_leave_their_image_by_half_a_pixel(side: int, beyond: float) -> None:
    task, batch = small_task(), random_batch(2)
    batch["boxes"][1][0] = torch.tensor([0.0, 0, SIZE[1], SIZE[0]])
    batch["boxes"][1][0, side] += beyond * (1 if side > 1 else -1)
    if beyond == 0.5:
        task.check(batch)
    else:
        with pytest.raises(ValueError, match="beyond its image of 96x160"):
            task.check(batch)


@pytest.mark.parametrize(("detector", "overlap"), [("fcos", 0.6), ("retinanet", 0.5), ("mask_rcnn", 0.5)])
def test_options_and_what_stands_for_them_reach_the_detector(detector: str, overlap: float) -> None:
    def limits(**options: Any) -> tuple[float, float, int]:
        head = small_task(detector, **options).head
        own = head.roi_heads if "rcnn" in detector else head.detector
        return own.score_thresh, own.nms_thresh, own.detections_per_img

    assert limits() == (0.05, overlap, 100)
    assert limits(score_threshold=0.2, nms_threshold=0.7, max_detections=9) == (0.2, 0.7, 9)


def test_anchors_and_proposals_are_the_published_ones_unless_told() -> None:
    def sides(detector: str, **options: Any) -> list[int]:
        level = DetectionTask(HRNet("w18_small_v1"), CLASSES, detector=detector, channels=32, **options).head.anchors
        areas = (level.levels((256, 256), CPU)[0][:, 2:] - level.levels((256, 256), CPU)[0][:, :2]).prod(1).sqrt()
        return sorted({round(side) for side in areas.tolist()})

    assert sides("faster_rcnn", aspect_ratios=[1.0]) == [32]  # eight strides of four
    assert sides("faster_rcnn", aspect_ratios=[1.0], anchor_size=4.0) == [16]
    assert sides("retinanet", aspect_ratios=[1.0]) == [32, 40, 50]  # four strides of eight, and thirds of an octave
    assert sides("retinanet", aspect_ratios=[1.0], strides=[16, 32], anchor_size=2.0) == [32, 40, 50]
    head = DetectionTask(HRNet("w18_small_v1"), CLASSES, channels=32).head
    assert (head.rpn.pre_nms_top_n(), head.rpn.post_nms_top_n()) == (2000, 1000)
    assert head.roi_heads.box_head.fc6.out_features == 128
    assert head.anchors.strides == (4, 8, 16, 32, 64)
    assert head.anchors.offset == 0.5
    other = DetectionTask(HRNet("w18_small_v1"), CLASSES, channels=32, convention="mmdet2", proposals=(7, 5)).head
    assert (other.rpn.pre_nms_top_n(), other.rpn.post_nms_top_n(), other.anchors.offset) == (7, 5, 0)
    assert (other.roi_heads.box_roi_pool.aligned, other.roi_heads.box_roi_pool.samples) == (True, 0)
    assert small_task("fcos", strides=None).head.anchors.strides == (8, 16, 32, 64, 128)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("detector", "steps", "rate"),
    [
        ("mask_rcnn", 120, 3e-3),
        ("fcos", 120, 3e-3),
        pytest.param("retinanet", 240, 2e-3, marks=pytest.mark.long),  # compared with torchvision above, too
    ],
)
def test_rectangles_are_learned_by_heart(detector: str, steps: int, rate: float, tmp_path: Path) -> None:
    batch = random_batch(4, 1)
    task = small_task(detector, optimizer={"name": "adamw", "lr": rate, "weight_decay": 1e-4})
    data = DataLoader(Batches([batch] * steps), batch_size=None)
    quiet(tmp_path, max_epochs=1, gradient_clip_val=10.0).fit(task, data)
    with torch.no_grad():
        found = task.eval().predict(task.outputs(batch), batch)
    for i, (boxes, labels) in enumerate(zip(batch["boxes"], batch["labels"], strict=True)):
        overlaps = box_iou(boxes, found["boxes"][i][: len(boxes)])
        assert (overlaps.amax(1) > 0.6).all()
        assert torch.equal(found["labels"][i][overlaps.argmax(1)], labels)
        if detector == "mask_rcnn":
            assert found["masks"][i][: len(boxes)].mean() > 0.8, "a rectangle fills its box"

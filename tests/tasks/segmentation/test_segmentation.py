"""SegmentationTask: sizes, protocols, losses, and what a run leaves behind."""

import json
import runpy
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

import tasks
from hrnet import HRNet, HRNetV2
from tasks.draw import class_colours, draw_confusion, draw_errors, draw_mask, draw_segmentation
from tasks.segmentation import SegmentationTask
from tasks.segmentation.sliding import SlidingWindow

CLASSES = 5
SIZE = (64, 96)


def small_task(**options: object) -> SegmentationTask:
    torch.manual_seed(0)
    backbone = HRNet("w18_small_v1", upsample="bilinear")
    return SegmentationTask(backbone, CLASSES, **{"ocr_channels": (32, 16)} | options).eval()


def random_batch(size: tuple[int, int] = SIZE, count: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (count, 3, *size), generator=generator, dtype=torch.uint8)
    mask = torch.randint(0, CLASSES, (count, *size), generator=generator)
    mask[torch.rand(mask.shape, generator=generator) < 0.2] = 255
    return {"image": image, "image_id": torch.arange(count), "mask": mask}


class Pointwise(SegmentationTask):
    """Scores that depend on each pixel alone: whatever windows are laid, the result is the whole image's."""

    def whole(self, images: Tensor) -> Tensor:
        self.largest = max(getattr(self, "largest", 0), images.shape[-2] * images.shape[-1])
        mix = torch.linspace(-1, 1, 3 * CLASSES).view(CLASSES, 3)
        return torch.einsum("kc,bchw->bkhw", mix, images).sin()


class LeftAndRight(SegmentationTask):
    """Class 1 left of the middle and 2 right of it, as a body's parts are; class 0 where the image is black."""

    def whole(self, images: Tensor) -> Tensor:
        scores = torch.zeros(len(images), CLASSES, *images.shape[-2:])
        half = images.shape[-1] // 2
        scores[:, 1, :, :half], scores[:, 2, :, half:] = 2.0, 1.0
        scores[:, 0] = 5.0 * (images.mean(1) < -1.5)
        return scores


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("head", ["v2", "ocr"])
@pytest.mark.parametrize("size", [SIZE, (97, 129), (65, 33)])
@torch.inference_mode()
def test_logits_have_exactly_the_input_size(size: tuple[int, int], head: str, align_corners: bool) -> None:
    backbone = HRNet("w18_small_v1", upsample="bilinear", align_corners=align_corners)
    task = SegmentationTask(backbone, CLASSES, head=head, ocr_channels=(32, 16)).eval()
    logits = task(torch.randn(1, 3, *size))
    assert logits.shape == (1, CLASSES, *size)
    assert logits.isfinite().all()


@torch.inference_mode()
def test_lip_size_473() -> None:
    assert small_task()(torch.randn(1, 3, 473, 473)).shape == (1, CLASSES, 473, 473)


@pytest.mark.parametrize("align_corners", [False, True])
@torch.inference_mode()
def test_logits_are_those_of_the_published_head_over_the_concatenation(align_corners: bool) -> None:
    torch.manual_seed(0)
    backbone = HRNet("w18_small_v1", upsample="bilinear", align_corners=align_corners)
    task = SegmentationTask(backbone, CLASSES).eval()
    image = torch.randn(2, 3, 65, 97)
    published = nn.Sequential(*task.head)(HRNetV2(align_corners)(task.backbone(image)))
    expected = F.interpolate(published, size=(65, 97), mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(task(image), expected, rtol=1e-4, atol=1e-5)


def test_golden_logits_of_a_published_checkpoint(shared_reference: Path, tmp_path: Path) -> None:
    """Loaded by name through the prefixes that published files carry."""
    fill = runpy.run_path(str(shared_reference / "golden" / "fill.py"))
    files = sorted((shared_reference / "golden").glob("seg_*.json"))
    assert files
    for facts_file in files:
        facts = json.loads(facts_file.read_text())
        state = {f"module.model.{k}": torch.from_numpy(fill["tensor_for"](k, tuple(s))) for k, s in facts["keys"]}
        torch.save({"state_dict": state}, tmp_path / "published.pth")
        backbone = HRNet(facts["variant"], upsample="bilinear", align_corners=facts["align_corners"])
        task = SegmentationTask(backbone, facts["num_classes"]).eval()
        assert tasks.task.load_weights(task, tmp_path / "published.pth").complete
        image = torch.from_numpy(fill["image_for"](facts["name"], tuple(facts["input_shape"])))
        expected = torch.from_numpy(np.load(facts_file.with_suffix(".npz"))["output0"])
        with torch.inference_mode():
            found = task.head(task.backbone(image))
            whole = task(image)
        scale = expected.abs().max()
        assert (found - expected).abs().max() < 1e-4 * scale
        upsampled = F.interpolate(
            expected, size=image.shape[-2:], mode="bilinear", align_corners=facts["align_corners"]
        )
        assert (whole - upsampled).abs().max() < 1e-4 * scale


def test_fewer_streams_are_refused() -> None:
    with pytest.raises(ValueError, match="multi_scale_output=True"):
        SegmentationTask(HRNet("w18_small_v1", multi_scale_output=False), CLASSES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "v3"}, "heads"),
        ({"scales": []}, "scales"),
        ({"scales": [1.0, 0.0]}, "scales"),
        ({"window": (32, 32), "window_stride": (33, 32)}, "gaps"),
        ({"window_stride": (32, 32)}, "window_stride"),
        ({"class_weights": "cityscapes"}, "5 classes"),
        ({"class_names": ["road"]}, "1 class names"),
    ],
)
def test_options_that_do_not_fit_are_refused_at_once(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_task(**options)


def test_nearest_upsampling_names_the_next_valid_size() -> None:
    task = SegmentationTask(HRNet("w18_small_v1"), CLASSES)
    assert task(torch.randn(2, 3, 64, 32)).shape == (2, CLASSES, 64, 32)
    with pytest.raises(ValueError, match="96x64"):
        task(torch.randn(2, 3, 65, 64))


# Losses


def test_ocr_trains_on_both_scores_and_evaluates_the_final_ones() -> None:
    task, batch = small_task(head="ocr").train(), random_batch()
    images = task.normalize(batch["image"])
    coarse, final = task.training_outputs(images)
    losses = task.losses((coarse, final), batch)
    assert losses["cross_entropy"].item() == pytest.approx(
        F.cross_entropy(final, batch["mask"], ignore_index=255).item()
    )
    auxiliary = F.cross_entropy(coarse, batch["mask"], ignore_index=255).item()
    assert losses["auxiliary"].item() == pytest.approx(0.4 * auxiliary)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in task.parameters())
    assert set(task.losses(final, batch)) == {"cross_entropy"}


@pytest.mark.parametrize("options", [{}, {"ohem": True}, {"head": "ocr", "ohem": True}])
def test_a_batch_of_ignored_pixels_moves_nothing(options: dict[str, object]) -> None:
    task, batch = small_task(**options).train(), random_batch()
    batch["mask"] = torch.full_like(batch["mask"], 255)
    total = sum(task.losses(task.training_outputs(task.normalize(batch["image"])), batch).values())
    total.backward()
    assert total.item() == 0.0
    assert all(p.grad.abs().max() == 0 for p in task.parameters())


def test_ohem_is_on_the_final_scores_only() -> None:
    task, batch = small_task(head="ocr", ohem=True, ohem_min_kept=1, ohem_threshold=0.2), random_batch()
    plain = small_task(head="ocr")
    outputs = (torch.randn(2, CLASSES, *SIZE), torch.randn(2, CLASSES, *SIZE))
    mined, all_pixels = task.losses(outputs, batch), plain.losses(outputs, batch)
    assert mined["auxiliary"] == all_pixels["auxiliary"]
    assert mined["cross_entropy"] > all_pixels["cross_entropy"]


# Prediction


@torch.inference_mode()
def test_labels_have_the_size_of_the_mask_or_else_of_the_image() -> None:
    task, batch = small_task(), random_batch()
    outputs = task(task.normalize(batch["image"]))
    assert torch.equal(task.predict(outputs, batch)["labels"], outputs.argmax(1))
    original = {**batch, "mask": torch.zeros(2, 101, 57, dtype=torch.int64)}
    resized = F.interpolate(outputs, size=(101, 57), mode="bilinear", align_corners=False)
    assert torch.equal(task.predict(outputs, original)["labels"], resized.argmax(1))
    assert task.losses(outputs, original)["cross_entropy"].isfinite()
    del batch["mask"]
    assert task.predict(outputs, batch)["labels"].shape == (2, *SIZE)


@torch.inference_mode()
def test_both_memory_orders_give_the_same_labels() -> None:
    task, batch = small_task(), random_batch()
    outputs = torch.randn(2, CLASSES, *SIZE)
    row = task.predict(outputs.contiguous(), batch)["labels"]
    assert torch.equal(row, task.predict(outputs.contiguous(memory_format=torch.channels_last), batch)["labels"])


@torch.inference_mode()
def test_flip_test_averages_logits_and_is_blind_to_mirroring() -> None:
    task, batch = small_task(flip_test=True), random_batch()
    images = task.normalize(batch["image"])
    outputs = task(images)
    average = (outputs + task(images.flip(-1)).flip(-1)) / 2
    assert torch.equal(task.predict(outputs, batch)["labels"], average.argmax(1))
    turned = {name: value.flip(-1) if name in ("image", "mask") else value for name, value in batch.items()}
    labels = task.predict(task(task.normalize(turned["image"])), turned)["labels"]
    assert (labels.flip(-1) == average.argmax(1)).float().mean() > 0.999


@torch.inference_mode()
def test_flip_test_exchanges_left_and_right() -> None:
    image = torch.full((1, 3, *SIZE), 255, dtype=torch.uint8)
    image[..., :10] = 0  # asymmetric: black at the left
    batch = {"image": image}
    backbone = HRNet("w18_small_v1", upsample="bilinear")
    expected = torch.full((1, *SIZE), 1)
    expected[..., SIZE[1] // 2 :] = 2
    expected[..., :10] = 0

    def labels(**options: object) -> Tensor:
        task = LeftAndRight(backbone, CLASSES, **options).eval()
        return task.predict(task(task.normalize(image)), batch)["labels"]

    assert torch.equal(labels(), expected)
    assert torch.equal(labels(flip_test=True, label_flip_pairs=[(1, 2)]), expected)
    # Without the exchange the mirrored image says "left" of the right half, and surer.
    assert not torch.equal(labels(flip_test=True), expected)


@pytest.mark.parametrize("size", [SIZE, (67, 93)])
@torch.inference_mode()
def test_scales_average_probabilities(size: tuple[int, int]) -> None:
    scales, whole = [0.5, 1.0, 1.5, 1.25], size
    task, batch = small_task(scales=scales, flip_test=True), random_batch(whole)
    images, seen = task.normalize(batch["image"]), []
    task.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[-2:])))
    task.predict(torch.zeros(2, CLASSES, *whole), batch)
    assert list(dict.fromkeys(seen)) == [tuple(int(side * scale + 0.5) for side in whole) for scale in scales]
    total = torch.zeros(2, CLASSES, *whole)
    for scale in scales:
        size = tuple(int(side * scale + 0.5) for side in whole)
        scaled = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
        logits = (task(scaled) + task(scaled.flip(-1)).flip(-1)) / 2
        total += F.interpolate(logits, size=whole, mode="bilinear", align_corners=False).softmax(1) / len(scales)
    labels = task.predict(task(images), batch)["labels"]
    assert (labels == total.argmax(1)).float().mean() > 0.999
    assert not torch.equal(labels, small_task().predict(task(images), batch)["labels"])


# Sliding window


@pytest.mark.parametrize("window", [(32, 32), (40, 96), (33, 50), (64, 200), (200, 200)])
@pytest.mark.parametrize("stride", [None, (7, 11), (32, 32)])
def test_windows_of_a_pointwise_network_are_the_whole_image(
    window: tuple[int, int], stride: tuple[int, int] | None
) -> None:
    images = torch.randn(2, 3, 64, 97)
    network = nn.Conv2d(3, CLASSES, 1)
    found = SlidingWindow(window, stride)(network, images)
    torch.testing.assert_close(found, network(images), rtol=1e-5, atol=1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_windows_cover_every_pixel_and_stay_inside() -> None:
    seen = torch.zeros(1, 1, 70, 90)
    largest = []

    def network(images: Tensor) -> Tensor:
        largest.append(tuple(images.shape[-2:]))
        seen.view(-1)[images.flatten().long()] += 1
        return images

    places = torch.arange(70.0 * 90).view(1, 1, 70, 90)
    found = SlidingWindow((32, 48), (20, 30))(network, places)
    assert seen.min() >= 1
    assert set(largest) == {(32, 48)}
    torch.testing.assert_close(found, places)


def test_windows_count_most_in_their_middle() -> None:
    """Two windows side by side, 0 and 1: the seam is a ramp and not a step."""
    numbers = iter([0.0, 1.0])
    found = SlidingWindow((8, 12), (8, 8))(lambda x: torch.full_like(x, next(numbers)), torch.zeros(1, 1, 8, 20))
    row = found[0, 0, 0]
    assert torch.equal(row[:8], torch.zeros(8))
    assert torch.equal(row[12:], torch.ones(8))
    assert torch.allclose(row[8:12], torch.tensor([1 / 5, 2 / 5, 3 / 5, 4 / 5]))


@torch.inference_mode()
def test_the_task_never_runs_the_network_on_more_than_a_window() -> None:
    batch = random_batch((130, 150))
    backbone = HRNet("w18_small_v1", upsample="bilinear")
    options = {"flip_test": True, "scales": [1.0, 2.0]}
    whole = Pointwise(backbone, CLASSES, **options).eval()
    windows = Pointwise(backbone, CLASSES, window=(48, 64), **options).eval()
    images = whole.normalize(batch["image"])
    torch.testing.assert_close(windows(images), whole(images), rtol=1e-4, atol=1e-5)
    labels = windows.predict(windows(images), batch)["labels"]
    assert (labels == whole.predict(whole(images), batch)["labels"]).float().mean() > 0.999
    assert windows.largest == 48 * 64
    assert whole.largest == 4 * 130 * 150


@torch.inference_mode()
def test_an_image_within_the_window_is_not_cut() -> None:
    task, windowed, images = small_task(), small_task(window=SIZE), torch.randn(1, 3, *SIZE)
    torch.testing.assert_close(windowed(images), task(images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("stride", "count"), [(None, 9), ((16, 48), 6), ((32, 24), 6)])
@torch.inference_mode()
def test_windows_are_as_far_apart_as_asked(stride: tuple[int, int] | None, count: int) -> None:
    """A 64 x 96 image by windows of 32 x 48: rows from 0, 21, 32 or 0, 16, 32 or 0, 32; columns likewise."""
    task, runs = (
        Pointwise(HRNet("w18_small_v1", upsample="bilinear"), CLASSES, window=(32, 48), window_stride=stride),
        [],
    )
    whole = task.whole
    task.whole = lambda images: runs.append(1) or whole(images)
    task.eval()(torch.randn(1, 3, *SIZE))
    assert len(runs) == count


def test_training_sees_whole_images_whatever_the_window() -> None:
    task = Pointwise(HRNet("w18_small_v1", upsample="bilinear"), CLASSES, window=(32, 48)).train()
    task(torch.randn(1, 3, *SIZE))
    assert task.largest == SIZE[0] * SIZE[1]


# Options reach what they are options of


def test_ocr_has_the_channels_that_are_asked() -> None:
    task = small_task(head="ocr", ocr_channels=(24, 8))
    sizes = {name: tuple(p.shape[:2]) for name, p in task.head.named_parameters() if p.ndim == 4}
    assert sizes["conv3x3_ocr.0.weight"][0] == 24
    assert sizes["ocr_distri_head.object_context_block.f_pixel.0.weight"] == (8, 24)


@pytest.mark.parametrize("classes", [2, 7])
def test_as_many_classes_as_asked(classes: int) -> None:
    task = SegmentationTask(HRNet("w18_small_v1", upsample="bilinear"), classes).eval()
    assert task(torch.zeros(1, 3, 32, 32)).shape == (1, classes, 32, 32)
    assert len(task.metric.names) == classes


@pytest.mark.parametrize("boundary", [False, True])
def test_boundary_iou_is_measured_where_asked_and_stays_so_with_data(boundary: bool) -> None:
    task = SegmentationTask(HRNet("w18_small_v1", upsample="bilinear"), 2, boundary_iou=boundary)
    for attach in (lambda: None, lambda: task.attach(Stripes())):
        attach()
        task.update({"labels": torch.zeros(1, 8, 8, dtype=torch.int64)}, {"mask": torch.zeros(1, 8, 8).long()})
        assert ("boundary_IoU" in task.compute()) is boundary


def test_scores_are_each_images_own_mean_iou() -> None:
    labels = torch.tensor([[[0, 0, 1, 1]], [[0, 0, 0, 0]], [[2, 2, 2, 2]]])
    mask = torch.tensor([[[0, 1, 1, 1]], [[0, 0, 0, 255]], [[255] * 4]])
    found = small_task().scores({"labels": labels}, {"mask": mask, "image_id": torch.tensor([7, 8, 9])})
    assert found["sample"].tolist() == [7, 8, 9]
    assert found["score"][:2].tolist() == pytest.approx([(1 / 2 + 2 / 3) / 2, 1.0])
    assert found["score"][2].isnan()


def test_pictures_have_the_colours_and_names_that_are_given() -> None:
    batch = {"image": torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "mask": torch.zeros(1, 64, 64, dtype=torch.int64)}
    batch["image_id"] = torch.tensor([0])
    labels = {"labels": torch.ones(1, 64, 64, dtype=torch.int64)}

    def picture(**options: object) -> Tensor:
        task = SegmentationTask(HRNet("w18_small_v1", upsample="bilinear"), 2, **options)
        return task.draw(None, labels, batch, count=1)["segmentation (truth, prediction, errors)"].picture.float()

    red, green = (250, 0, 0), (0, 250, 0)
    first, second = picture(palette=[red, green]), picture(palette=[green, red])
    # Class 0, the truth, is painted above in the first colour; class 1, the prediction, below it in the second.
    for drawn, (truth, prediction) in ((first, (0, 1)), (second, (1, 0))):
        column = drawn[:, :, 160]
        assert column[:, 160].argmax() == truth
        assert column[:, 320 + 160].argmax() == prediction
    assert not torch.equal(first, picture(palette=[red, green], class_names=["dark", "bright"]))


# With data


class Stripes(lightning.LightningDataModule):
    """Bright and dark halves of noise; class 1 is bright, class 0 dark, the frame is ignored."""

    num_classes = 2
    class_names = ["dark", "bright"]
    palette = [(0, 0, 128), (255, 255, 0)]
    label_flip_pairs: list[tuple[int, int]] = []

    def loader(self, seed: int) -> DataLoader:
        generator = torch.Generator().manual_seed(seed)
        samples = []
        for i in range(8):
            mask = torch.zeros(64, 64, dtype=torch.int64)
            mask[:, int(torch.randint(16, 48, (1,), generator=generator)) :] = 1
            noise = torch.randint(0, 60, (3, 64, 64), generator=generator)
            image = (150 * mask + noise).to(torch.uint8)
            mask[:2] = 255
            samples.append({"image": image, "mask": mask, "image_id": torch.tensor(i)})
        return DataLoader(samples, batch_size=4)

    def train_dataloader(self) -> DataLoader:
        return self.loader(0)

    def val_dataloader(self) -> DataLoader:
        return self.loader(1)


def test_another_number_of_classes_names_the_key_to_set() -> None:
    with pytest.raises(ValueError, match=r"set model\.init_args\.num_classes to 2"):
        small_task().attach(Stripes())


def test_a_run_learns_reports_and_comes_back_from_its_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = HRNet("w18_small_v1", upsample="bilinear")
    options = {"boundary_iou": True, "window": (64, 48), "scales": [1.0, 1.5], "flip_test": True}
    task = SegmentationTask(backbone, 2, optimizer={"name": "adam", "lr": 3e-3}, **options)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, max_epochs=8, log_every_n_steps=1, **quiet)
    trainer.fit(task, Stripes())
    assert trainer.callback_metrics["val/mIoU"] > 0.9
    assert {
        "val/pixel_accuracy",
        "val/mean_accuracy",
        "val/fwIoU",
        "val/boundary_IoU",
    } < trainer.callback_metrics.keys()
    assert "val/loss" in trainer.callback_metrics
    assert list((tmp_path / "pictures").glob("val_segmentation_*.png"))
    metrics = trainer.validate(task, Stripes(), verbose=False)[0]
    content = json.loads((tmp_path / "predictions" / "val_confusion.json").read_text())
    assert content["metrics"]["mIoU"] == pytest.approx(metrics["val/mIoU"])
    assert [row["name"] for row in content["per_class"]] == ["dark", "bright"]
    assert sum(map(sum, content["matrix"])) == 8 * 62 * 64
    assert (tmp_path / "pictures" / "val_confusion_evaluated.png").is_file()
    assert (tmp_path / "predictions" / "val_classes.csv").is_file()

    trainer.save_checkpoint(tmp_path / "task.ckpt")
    loaded = tasks.load(tmp_path / "task.ckpt")
    assert isinstance(loaded, SegmentationTask)
    assert loaded.class_names == ["dark", "bright"]
    assert [tuple(colour) for colour in loaded.palette] == Stripes.palette
    image = task.normalize(next(iter(Stripes().val_dataloader()))["image"])
    with torch.inference_mode():
        torch.testing.assert_close(loaded(image), task.eval()(image))


def test_data_give_names_colours_and_pairs_to_the_checkpoint() -> None:
    data = Stripes()
    data.label_flip_pairs = [(np.int64(0), 1)]
    task = SegmentationTask(HRNet("w18_small_v1", upsample="bilinear"), 2)
    task.attach(data)
    assert task.hparams["class_names"] == ["dark", "bright"]
    assert task.hparams["label_flip_pairs"] == [[0, 1]]
    assert type(task.hparams["label_flip_pairs"][0][0]) is int
    assert task.metric.names == ["dark", "bright"]


def test_names_colours_and_pairs_that_are_given_stay() -> None:
    given = {"class_names": ["a", "b"], "palette": [[1, 2, 3], [4, 5, 6]], "label_flip_pairs": [[0, 1]]}
    for name, value in given.items():
        task = SegmentationTask(HRNet("w18_small_v1", upsample="bilinear"), 2, **{name: value})
        task.attach(Stripes())
        from_data = {
            "class_names": ["dark", "bright"],
            "palette": [[0, 0, 128], [255, 255, 0]],
            "label_flip_pairs": [],
        }
        expected = from_data | {name: value}
        assert {key: getattr(task, key) for key in expected} == expected
        assert {key: task.hparams[key] for key in expected} == expected
        assert task.metric.names == expected["class_names"]


# Pictures


def test_masks_are_painted_and_ignored_pixels_darkened() -> None:
    image = torch.full((3, 2, 2), 100, dtype=torch.uint8)
    mask = torch.tensor([[0, 1], [255, 1]])
    painted = draw_mask(image, mask, [(250, 0, 0), (0, 250, 0)], opacity=0.5)
    assert painted[:, 0, 0].tolist() == [175, 50, 50]
    assert painted[:, 0, 1].tolist() == [50, 175, 50]
    assert painted[:, 1, 0].tolist() == [50, 50, 50]
    errors = draw_errors(image, mask, torch.tensor([[0, 0], [0, 1]]))
    red = (errors[0].int() - errors[1].int()) > 100
    assert red.tolist() == [[False, True], [False, False]]


def test_pictures_of_any_number_of_classes() -> None:
    names = [f"class {i}" for i in range(150)]
    palette = class_colours(150)
    assert len(set(palette)) == 150
    image = torch.randint(0, 256, (2, 3, 40, 60), dtype=torch.uint8)
    mask = torch.randint(0, 150, (2, 50, 70))
    picture = draw_segmentation(image, mask, mask.flip(0), palette, names)
    assert picture.dtype == torch.uint8
    assert picture.shape[0] == 3
    assert picture.shape[2] >= 2 * 320
    for count in (2, 150):
        drawn = draw_confusion(torch.eye(count, dtype=torch.int64), names[:count])
        assert drawn.dtype == torch.uint8
        assert drawn.float().std() > 0

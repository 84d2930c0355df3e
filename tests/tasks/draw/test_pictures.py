"""Pictures of an evaluation: one panel a kind, the same samples in every epoch, masks and boxes that can be hidden."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import wandb
from lightning import LightningDataModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from torch.utils.data import DataLoader

from hrnet import HRNet
from tasks import ClassificationTask, MultiTask, PoseTask, SegmentationTask
from tasks.draw.pictures import EPOCHS, Box, Layers, Panel, Pictures, log_pictures, thinned

KEY = "val/segmentation (truth, prediction, errors)"
IDS = [3, 5, 8, 11]
SKELETON = {
    "names": ["left_eye", "right_eye"],
    "limbs": [[0, 1]],
    "flip_pairs": [[0, 1]],
    "sigmas": [0.1, 0.1],
    "upper_body": [],
}


class Recorder(WandbLogger):
    """Notes what W&B is told."""

    def __init__(self) -> None:
        self.images: list[tuple[str, list[Any], dict[str, list[Any]]]] = []

    @property
    def experiment(self) -> Any:
        """None is needed."""
        return None

    @property
    def save_dir(self) -> None:
        """Nowhere."""

    @property
    def name(self) -> str:
        """As Lightning asks for it."""
        return "recorder"

    @property
    def version(self) -> str:
        """As Lightning asks for it."""
        return "0"

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Not looked at."""

    def log_hyperparams(self, *_: Any) -> None:
        """Not looked at."""

    def finalize(self, status: str) -> None:
        """Nothing to end."""

    def log_graph(self, *_: Any) -> None:
        """Not looked at."""

    def log_table(self, *_: Any, **__: Any) -> None:
        """Not looked at."""

    def log_image(self, key: str, images: list[Any], step: int | None = None, **options: list[Any]) -> None:
        """Note it; W&B wants as many of each option, and images of one size."""
        assert all(len(values) == len(images) for values in options.values())
        assert len({image.shape for image in images}) == 1
        self.images.append((key, images, options))


class Stripes(LightningDataModule):
    """Images of other sizes, one by one: bright from a column on, which is class 1; the first rows are ignored."""

    num_classes, class_names, palette, label_flip_pairs = 2, ["dark", "bright"], [[0, 0, 0], [255, 255, 0]], []
    sizes = [(64, 64), (32, 64), (64, 96), (32, 32)]

    def val_dataloader(self) -> DataLoader:
        samples = []
        for number, (height, width) in zip(IDS, self.sizes, strict=True):
            mask = torch.zeros(height, width, dtype=torch.int64)
            mask[:, width // 2 :] = 1
            mask[:2] = 255
            image = torch.full((3, height, width), 20 + number, dtype=torch.uint8)
            samples.append({"image": image, "mask": mask, "image_id": number})
        return DataLoader(samples, batch_size=1)

    def train_dataloader(self) -> DataLoader:
        samples = [{"image": torch.rand(3, 32, 32).mul(255).byte(), "mask": torch.randint(2, (32, 32)), "image_id": 0}]
        return DataLoader(samples * 4, batch_size=2)


def evaluated(task: Any, data: LightningDataModule, folder: Any, epochs: int = 0) -> Recorder:
    recorder = Recorder()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(
        accelerator="cpu", default_root_dir=folder, logger=recorder, max_epochs=epochs, num_sanity_val_steps=1, **quiet
    )
    if epochs:
        trainer.fit(task, data)
    else:
        trainer.validate(task, data, verbose=False)
    return recorder


def test_images_of_other_sizes_share_one_panel_and_one_file(tmp_path):
    task = SegmentationTask(HRNet("w18_small_v1", upsample="bilinear"), 2)
    recorder = evaluated(task, Stripes(), tmp_path)
    assert [key for key, *_ in recorder.images if "segmentation" in key] == [KEY]
    assert sorted(path.name for path in (tmp_path / "pictures").glob("val_segmentation*")) == [
        "val_segmentation_evaluated.png"
    ]
    (_, images, options), *_ = [found for found in recorder.images if found[0] == KEY]
    assert options["caption"] == [f"image {number}" for number in IDS]
    for image, masks, number, (height, width) in zip(images, options["masks"], IDS, Stripes.sizes, strict=True):
        assert image.shape == (64, 96, 3)
        assert (image[:height, :width] == 20 + number).all()
        assert set(masks) == {"truth", "prediction"}
        truth = masks["truth"]["mask_data"]
        assert truth.shape == (64, 96)
        assert (truth[:2] == 255).all()
        assert (truth[2:height, : width // 2] == 0).all()
        assert (truth[2:height, width // 2 : width] == 1).all()
        assert (truth[height:] == 255).all()
        assert masks["prediction"]["class_labels"] == {0: "dark", 1: "bright", 255: "ignored"}


def test_every_epoch_shows_the_same_samples_once(tmp_path):
    task = SegmentationTask(HRNet("w18_small_v1", upsample="bilinear"), 2)
    recorder = evaluated(task, Stripes(), tmp_path, epochs=2)
    shown = [options["caption"] for key, _, options in recorder.images if key == KEY]
    assert shown == [[f"image {number}" for number in IDS]] * 2  # nothing of the sanity check
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {
        f"val_segmentation_epoch{epoch:03d}.png" for epoch in range(2)
    }


def pose_batch(count: int) -> tuple[torch.Tensor, dict, dict]:
    points = torch.tensor([[10.0, 20.0], [40.0, 50.0]]).repeat(count, 1, 1)
    visible = torch.tensor([[2, 0]]).repeat(count, 1)
    batch = {
        "image": torch.zeros(count, 3, 64, 64, dtype=torch.uint8),
        "keypoints": points,
        "visible": visible,
        "image_id": torch.arange(count),
        "instance_id": 7 + torch.arange(count),
    }
    scores = torch.tensor([[0.9, 0.1]]).repeat(count, 1)
    return torch.zeros(count, 2, 16, 16), {"input_keypoints": points + 1, "scores": scores}, batch


def test_poses_have_a_box_for_every_point_that_is_shown():
    task = PoseTask(HRNet("w18_small_v1", multi_scale_output=False), num_keypoints=2, skeleton=SKELETON)
    outputs, predictions, batch = pose_batch(3)
    drawn = task.draw(outputs, predictions, batch, count=2)
    layers = drawn["point_names"].layers
    assert [layer.caption for layer in layers] == ["image 0, instance 7", "image 1, instance 8"]
    scale = layers[0].image.shape[-1] / 64
    (truth,), (found,) = layers[0].boxes["truth"], layers[0].boxes["prediction"]
    for box, (x, y) in ((truth, (10, 20)), (found, (11, 21))):
        assert (box.x1 + box.x2) / 2 == pytest.approx((x + 0.5) * scale - 0.5)
        assert (box.y1 + box.y2) / 2 == pytest.approx((y + 0.5) * scale - 0.5)
        assert layers[0].names[box.label] == "left_eye"
    assert found.score == pytest.approx(0.9)


def test_joint_tasks_have_their_own_panels(tmp_path):
    backbone = HRNet("w18_small_v1", upsample="bilinear")
    joint = MultiTask(backbone, {"pose": lambda net: PoseTask(net, 2, skeleton=SKELETON), "sort": ClassificationTask})
    outputs, predictions, batch = pose_batch(1)
    recorder = Recorder()
    trainer = SimpleNamespace(
        default_root_dir=tmp_path,
        state=SimpleNamespace(fn=None),
        current_epoch=0,
        loggers=[recorder],
        sanity_checking=False,
        is_global_zero=True,
    )
    shown = Pictures()
    shown.on_validation_batch_end(
        trainer, joint, {"outputs": {"pose": outputs}, "predictions": {"pose": predictions}}, {"pose": batch}, 0
    )
    shown.on_validation_end(trainer, joint)
    panels = {key: options for key, _, options in recorder.images}
    assert set(panels) == {"val/pose/pose (truth, prediction, target, heatmaps)", "val/pose/point_names"}
    assert panels["val/pose/point_names"]["caption"] == ["image 0, instance 7"]


@pytest.fixture
def trainer(tmp_path) -> SimpleNamespace:
    state = SimpleNamespace(fn=None)
    return SimpleNamespace(default_root_dir=tmp_path, state=state, current_epoch=0, loggers=[Recorder()])


def test_layers_take_the_place_of_the_picture_in_wandb_alone(trainer, tmp_path):
    picture = torch.zeros(3, 8, 8, dtype=torch.uint8)
    boxes = {"truth": [Box(1, 2, 3, 4, 1, 0.5)], "prediction": []}
    layers = [Layers(picture, "image 7", ["cat", "dog"], boxes=boxes)]
    log_pictures({"a": picture, "b": Panel(picture, layers)}, trainer, "test")
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {"test_a_evaluated.png", "test_b_evaluated.png"}
    (first, _, plain), (second, _, options) = trainer.loggers[0].images
    assert (first, plain, second) == ("test/a", {}, "test/b")
    assert options["caption"] == ["image 7"]
    assert "masks" not in options
    (sample,) = options["boxes"]
    assert sample["prediction"]["box_data"] == []
    (box,) = sample["truth"]["box_data"]
    assert box["position"] == {"minX": 1, "maxX": 3, "minY": 2, "maxY": 4}
    assert box["domain"] == "pixel"
    assert (box["class_id"], box["box_caption"], box["scores"]) == (1, "dog", {"score": 0.5})


def test_wandb_takes_masks_and_boxes_as_they_are_given(trainer, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        Recorder,
        "log_image",
        lambda self, key, images, **options: made.append(
            wandb.Image(images[0], **{name: values[0] for name, values in options.items()})
        ),
    )
    picture = torch.zeros(3, 8, 8, dtype=torch.uint8)
    mask = torch.tensor([[0, 1], [255, 1]]).repeat(4, 4)
    sample = Layers(picture, "c", ["cat", "dog"], {"truth": mask}, {"truth": [Box(1, 2, 3, 4, 1, 0.5)]})
    log_pictures({"b": Panel(picture, [sample])}, trainer, "val")
    assert len(made) == 1


def test_a_table_of_epochs_keeps_the_first_the_last_and_some_between() -> None:
    kept: list[tuple[int, list[Layers]]] = []
    for epoch in range(100):
        kept = thinned([*kept, (epoch, [])])
        assert len(kept) <= EPOCHS
        assert (kept[0][0], kept[-1][0]) == (0, epoch)
    numbers = [epoch for epoch, _ in kept]
    assert numbers == sorted(set(numbers))
    assert len(kept) > EPOCHS // 2

"""Trainings on a GPU: every task in every precision, the options that touch the device, resuming, and predicting."""

import csv
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from datamodules import CocoPose
from experiments import errors, predict
from experiments.predictor import Predictor
from experiments.run import main
from tasks import EMA
from tests.gpu.conftest import ACCELERATOR, DEVICE

QUICK = ["sample.yaml", "debug.yaml", "--wandb.mode", "disabled", *ACCELERATOR]
EXPERIMENTS = [
    "pose_coco.yaml",
    "pose_coco_dark.yaml",
    "seg_folder.yaml",
    "seg_cityscapes_ocr.yaml",
    "cls_imagenet_modern.yaml",  # mixup, CutMix and averaged weights
    "multitask.yaml",
    "multitask_pose_seg.yaml",
]
PRECISIONS = ["32-true", "16-mixed", "bf16-mixed"]
METHODS = ["uncertainty", "dwa", "geometric", "gradnorm", "pcgrad", "{name: gradnorm, every: 2}"]


@pytest.fixture(scope="module", autouse=True)
def sample_data() -> None:
    CocoPose.sample_root()


def run(name: str, folder: Path, *flags: str, callbacks: tuple[Callback, ...] = ()) -> Path:
    trainer = main([name, *QUICK, "--runs", str(folder), *flags], callbacks)
    assert trainer.strategy.root_device.type == DEVICE.type
    return Path(trainer.default_root_dir)


def losses(folder: Path) -> list[float]:
    with (folder / "metrics.csv").open() as lines:
        return [float(row["train/loss"]) for row in csv.DictReader(lines) if row.get("train/loss")]


def check(folder: Path, steps: int = 2) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["steps"] == steps
    assert summary["monitor"] in summary["best"]
    assert summary["peak_memory_bytes"] > 2**24
    assert len(losses(folder)) == steps
    assert np.isfinite(losses(folder)).all()
    state = torch.load(folder / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in state.values())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_task_trains_in_every_precision(name, precision, tmp_path):
    check(run(name, tmp_path, "--trainer.precision", precision))


def test_loader_processes_hand_over_pinned_batches(gpu, tmp_path):
    seen: list[torch.device] = []

    class Look(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            seen.append(batch["image"].device)
            assert batch["image"].is_contiguous(memory_format=torch.channels_last)
            assert trainer.train_dataloader.pin_memory

    check(run("pose_coco.yaml", tmp_path, "--data.num_workers", "2", callbacks=(Look(),)))
    assert {device.type for device in seen} == {"cuda"}


@pytest.mark.parametrize("balancing", METHODS)
def test_joint_training_in_half_precision(balancing, tmp_path):
    """Five steps and the scaler's, whose first is large enough to overflow: nothing not finite is kept."""
    flags = ["--trainer.precision", "16-mixed", "--trainer.limit_train_batches", "5", "--data.epoch_length", "5"]
    folder = run("multitask_pose_seg.yaml", tmp_path, "--model.balancing", balancing, *flags)
    state = torch.load(folder / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() or "first" in name or "means" in name for name, value in state.items())


@pytest.mark.parametrize("name", ["multitask.yaml", "multitask_pose_seg.yaml"])
def test_batch_norm_of_each_task(name, tmp_path):
    check(run(name, tmp_path, "--model.batch_norm", "per_task", "--model.frozen_statistics", "0"))


@pytest.mark.parametrize("name", ["pose_coco.yaml", "multitask_pose_seg.yaml"])
def test_gradient_checkpointing_takes_less_memory(gpu, name, tmp_path):
    flags = ["--data.batch_size", "8"]
    plain = run(name, tmp_path / "a", *flags)
    checkpointed = run(name, tmp_path / "b", *flags, "--model.backbone.gradient_checkpointing", "true")
    check(checkpointed)
    taken = [json.loads((x / "summary.json").read_text())["peak_memory_bytes"] for x in (plain, checkpointed)]
    assert taken[1] < taken[0]
    assert losses(checkpointed) == pytest.approx(losses(plain), rel=1e-2)


def test_averaged_weights_stay_on_the_gpu(tmp_path):
    seen: set[str] = set()

    class Look(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            average = next(c for c in trainer.callbacks if isinstance(c, EMA))._average_model
            seen.update(p.device.type for p in average.module.parameters())

    flags = ["--trainer.callbacks", "[{class_path: EMA, init_args: {decay: 0.5}}]"]
    check(run("seg_folder.yaml", tmp_path, *flags, callbacks=(Look(),)))
    assert seen == {DEVICE.type}


class CountWaits(Callback):
    """How often a training step makes the CPU wait for the GPU; of the first, too, which makes what later ones use."""

    def __init__(self) -> None:
        self.waits: list[list[str]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Watch the task's own step, which Lightning's loop and optimiser are no part of."""
        step = type(pl_module).training_step

        def watched(batch, batch_idx):
            torch.cuda.set_sync_debug_mode("warn")
            try:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    return step(pl_module, batch, batch_idx)
            finally:
                torch.cuda.set_sync_debug_mode("default")
                self.waits.append([f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)])

        if stage == "fit":
            pl_module.training_step = watched


@pytest.mark.parametrize(("name", "flags"), [(name, ()) for name in EXPERIMENTS] + [
    ("multitask_pose_seg.yaml", ("--model.balancing", "dwa")),
    ("multitask_pose_seg.yaml", ("--model.balancing", "geometric")),
])  # fmt: skip
def test_a_training_step_never_waits_for_the_gpu(gpu, name, flags, tmp_path):
    waits = CountWaits()
    limits = ["--trainer.limit_train_batches", "4", "--model.gradient_every", "0"]
    limits = limits if name.startswith("multitask") else limits[:2]
    if name.startswith("multitask"):
        limits += ["--data.epoch_length", "4", "--model.frozen_statistics", "0"]
    run(name, tmp_path, *limits, *flags, callbacks=(waits,))
    assert len(waits.waits) == 4
    assert waits.waits[1:] == [[], [], []]


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if "dark" not in name])
def test_a_resumed_training_is_the_uninterrupted_one_bit_for_bit(name, precision, tmp_path):
    flags = ["--trainer.deterministic", "true", "--trainer.precision", precision, "--trainer.limit_val_batches", "1"]
    if "multitask" in name:
        flags += ["--data.epoch_length", "2"]
    if "16" in precision:
        flags += ["--model.schedule", "null"]
    else:
        flags += ["--model.schedule", "{name: constant}"]
    whole = run(name, tmp_path / "a", *flags, "--trainer.max_epochs", "2")
    half = run(name, tmp_path / "b", *flags, "--trainer.max_epochs", "1")
    main(["--resume", str(half), "--trainer.max_epochs", "2", "--wandb.mode", "disabled"])
    states = [torch.load(x / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True) for x in (whole, half)]
    assert states[0]["global_step"] == states[1]["global_step"]
    for key, expected in states[0]["state_dict"].items():
        assert torch.equal(states[1]["state_dict"][key], expected), key
    assert losses(half) == losses(whole)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_compiled_backbone_trains_as_the_plain_one(gpu, precision, tmp_path):
    flags = ["--trainer.precision", precision, "--trainer.limit_val_batches", "1"]
    plain = run("pose_coco.yaml", tmp_path / "a", *flags)
    compiled = run("pose_coco.yaml", tmp_path / "b", *flags, "--model.compile", "true")
    check(compiled)
    assert losses(compiled) == pytest.approx(losses(plain), rel=2e-2)


@pytest.mark.parametrize("name", ["pose_coco.yaml", "seg_folder.yaml", "cls_folder.yaml", "multitask.yaml"])
def test_predictions_on_pictures(name, tmp_path):
    folder = run(name, tmp_path)
    photos = sorted(CocoPose.sample_root().rglob("*.jpg"))[:3]
    assert photos
    assert (
        predict.main([str(folder), *map(str, photos), "--device", str(DEVICE), "--output", str(tmp_path / "p")]) == []
    )
    results = [Predictor(folder, device=device)(str(photos[0])) for device in ("cpu", DEVICE)]
    for on_cpu, found in zip(*(getattr(r, "parts", {"": r}).values() for r in results), strict=True):
        if hasattr(found, "mask"):
            assert (found.mask == on_cpu.mask).mean() > 0.99
        elif hasattr(found, "keypoints"):
            assert found.scores == pytest.approx(on_cpu.scores, rel=1e-2, abs=1e-4)
        else:
            assert found.probabilities == pytest.approx(on_cpu.probabilities, rel=1e-2)


@pytest.mark.parametrize("name", ["pose_coco.yaml", "seg_folder.yaml", "cls_folder.yaml"])
def test_errors_are_analysed(name, tmp_path):
    folder = run(name, tmp_path)
    assert errors.main([str(folder)]).tables

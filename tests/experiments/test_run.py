"""The command trains, evaluates, resumes and says what is wrong; every experiment file runs on the sample data."""

import csv
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from lightning import Callback

import tasks
from datamodules import Skeleton
from experiments import run
from experiments.run import main
from tests.conftest import ROOT

EXPERIMENTS = sorted(path.name for path in (ROOT / "experiments" / "configs").glob("*/*.yaml"))
OVERLAYS = ["debug.yaml", "overfit.yaml", "sample.yaml", "sweep_pose.yaml", "w18.yaml", "w48.yaml"]
QUICK = ["pose_coco.yaml", "sample.yaml", "debug.yaml", "--wandb.mode", "disabled"]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)  # the sample data are rendered once, into data/sample


class StopAt(Callback):
    """Raise after an optimiser step.

    Args:
        step: After which.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *_) -> None:
        """Stop there."""
        if trainer.global_step == self.step:
            raise RuntimeError("stopped on purpose")


def folder_of(trainer) -> Path:
    return Path(trainer.default_root_dir)


def losses(folder: Path) -> dict[int, float]:
    with (folder / "metrics.csv").open() as lines:
        return {int(row["step"]): float(row["train/loss"]) for row in csv.DictReader(lines) if row["train/loss"]}


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name not in OVERLAYS])
def test_every_experiment_runs_on_the_sample_data(name, tmp_path):
    trainer = main([name, "sample.yaml", "debug.yaml", "--runs", str(tmp_path), "--wandb.mode", "disabled"])
    folder = folder_of(trainer)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["steps"] == 2
    assert summary["parameters"] > 1e6
    assert (folder / "checkpoints" / "best.ckpt").is_file()
    assert (folder / "config.yaml").is_file()
    assert list((folder / "pictures").glob("*.png"))
    assert trainer.lightning_module.monitor in summary["best"]


def test_resumed_run_goes_through_the_same_losses(tmp_path):
    flags = ["--data.batch_size", "8", "--trainer.limit_train_batches", "3"]
    whole = folder_of(main([*QUICK, *flags, "--trainer.max_epochs", "2", "--runs", str(tmp_path / "a")]))
    first = folder_of(main([*QUICK, *flags, "--trainer.max_epochs", "1", "--runs", str(tmp_path / "b")]))
    seconds = json.loads((first / "summary.json").read_text())["seconds"]
    resumed = folder_of(main(["--resume", str(first), "--trainer.max_epochs", "2", "--wandb.mode", "disabled"]))
    assert resumed == first
    expected, found = losses(whole), losses(first)
    assert list(expected) == list(found) == [0, 1, 2, 3, 4, 5]
    assert found == pytest.approx(expected, rel=1e-4)
    assert json.loads((first / "summary.json").read_text())["seconds"] > seconds > 0


def test_stored_config_runs_again_and_checkpoint_opens_as_plain_data(tmp_path):
    trainer = main([*QUICK, "--runs", str(tmp_path)])
    folder = folder_of(trainer)
    checkpoint = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert checkpoint["task"] == "PoseTask"
    again = main([str(folder / "config.yaml"), "--runs", str(tmp_path / "again")])
    assert losses(folder_of(again)) == pytest.approx(losses(folder), rel=1e-4)
    task = tasks.load(folder)
    image = torch.rand(1, 3, 128, 96)
    with torch.no_grad():
        torch.testing.assert_close(task(image), trainer.lightning_module.eval()(image), rtol=1e-4, atol=1e-5)
    assert task.skeleton["names"][0] == "nose"


def test_wandb_is_offline_without_a_key_and_keeps_config_and_id(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    folder = folder_of(main(["pose_coco.yaml", "sample.yaml", "debug.yaml", "--runs", str(tmp_path)]))
    runs = list((folder / "wandb").glob("offline-run-*"))
    assert len(runs) == 1
    assert runs[0].name.endswith(folder.name)
    assert "wandb sync" in capsys.readouterr().out


def test_ema_validates_and_stores_the_average(tmp_path):
    ema = '{"class_path": "EMA", "init_args": {"decay": 0.5}}'
    folder = folder_of(main([*QUICK, "--trainer.callbacks+", ema, "--runs", str(tmp_path)]))
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    average, current = checkpoint["state_dict"]["head.weight"], checkpoint["current_model_state"]["head.weight"]
    assert not torch.equal(average, current)
    assert int(checkpoint["averaging_state"]["n_averaged"]) == 2


def test_ema_that_has_not_begun_changes_nothing(tmp_path):
    ema = '{"class_path": "EMA", "init_args": {"update_starting_at_step": 100}}'
    folder = folder_of(main([*QUICK, "--trainer.callbacks+", ema, "--runs", str(tmp_path / "a")]))
    plain = folder_of(main([*QUICK, "--runs", str(tmp_path / "b")]))
    weights = [torch.load(f / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for f in (folder, plain)]
    torch.testing.assert_close(weights[0]["head.weight"], weights[1]["head.weight"])


def test_frozen_backbone_does_not_move(tmp_path):
    trainer = main([*QUICK, "--model.freeze_backbone", "true", "--runs", str(tmp_path)])
    task = trainer.lightning_module
    assert not any(p.requires_grad for p in task.backbone.parameters())
    assert int(task.backbone.bn1.num_batches_tracked) == 0
    assert task.head.weight.requires_grad


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pose_cocoo.yaml"], ["did you mean pose_coco.yaml"]),
        (
            [
                "pose_coco.yaml",
                "--data.root",
                "nowhere",
                "--model.backbone.weights",
                "null",
                "--wandb.mode",
                "disabled",
            ],
            ["nowhere", "annotations/"],
        ),
        ([*QUICK, "--model.backbone.variant", "w19"], ["w19", "w18"]),
        ([*QUICK, "--model.num_keypoints", "16"], ["model.init_args.num_keypoints", "17"]),
        ([*QUICK, "--model.weights", "missing.pth"], ["missing.pth"]),
        ([*QUICK, "--model.optimizer.name", "adamm"], ["adamm"]),
        ([*QUICK, "--data.image_size", "[100, 96]"], ["100x96", "128x96"]),
        (["--resume", "runs/none"], ["runs/none", "config.yaml"]),
    ],
)
def test_a_users_mistake_is_one_message_and_status_2(arguments, words, tmp_path, monkeypatch, capsys):
    runs = [] if "--resume" in arguments else ["--runs", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["run", *arguments, *runs])
    assert run.command() == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "Traceback" not in error
    for word in words:
        assert word in error


def coco_folder(root: Path, break_it=lambda root, annotations: None) -> Path:
    """Four persons in four pictures, the same for train and val; `break_it` changes the val split."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        (root / f"{split}2017").mkdir(parents=True)
        for i in range(1, 5):
            cv2.imwrite(str(root / f"{split}2017" / f"{i}.jpg"), rng.integers(0, 255, (120, 90, 3), dtype=np.uint8))
        names = Skeleton.load("coco").names
        annotations = {
            "images": [{"id": i, "file_name": f"{i}.jpg", "height": 120, "width": 90} for i in range(1, 5)],
            "annotations": [
                {
                    "id": i, "image_id": i, "category_id": 1, "iscrowd": 0, "area": 4000.0, "bbox": [10, 10, 70, 100],
                    "num_keypoints": 17, "keypoints": [30, 40, 2] * 17,
                }
                for i in range(1, 5)
            ],
            "categories": [{"id": 1, "name": "person", "keypoints": list(names), "skeleton": []}],
        }  # fmt: skip
        if split == "val":
            break_it(root, annotations)
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"person_keypoints_{split}2017.json").write_text(json.dumps(annotations))
    return root


def truncate(root, annotations):
    path = root / "val2017" / "2.jpg"
    path.write_bytes(path.read_bytes()[:2000])


def name_a_missing_image(root, annotations):
    annotations["annotations"][0]["image_id"] = 77


def lose_an_image(root, annotations):
    (root / "val2017" / "3.jpg").unlink()


def count_wrongly(root, annotations):
    annotations["annotations"][1]["keypoints"] = [1, 2, 2] * 16


def empty_boxes(root, annotations):
    for person in annotations["annotations"]:
        person["bbox"] = [10, 10, 0, 0]


def nobody(root, annotations):
    annotations["annotations"] = []


def detect_elsewhere(root, annotations):
    found = [{"image_id": 99, "category_id": 1, "bbox": [1, 1, 50, 80], "score": 0.9}]
    (root / "found.json").write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("break_it", "words", "flags"),
    [
        (truncate, ["2.jpg"], []),
        (truncate, ["2.jpg"], ["--data.num_workers", "1"]),
        (name_a_missing_image, ["id 1", "image_id"], []),
        (lose_an_image, ["3.jpg"], []),
        (count_wrongly, ["id 2", "17"], []),
        (empty_boxes, ["no usable person"], []),
        (nobody, ["no usable person"], []),
        (detect_elsewhere, ["found.json", "image"], ["--data.detections", "found.json"]),
    ],
)
def test_broken_data_are_one_message_and_status_2(break_it, words, flags, tmp_path, monkeypatch, capfd):
    root = coco_folder(tmp_path / "data", break_it)
    arguments = [*QUICK, "--data.root", str(root), "--runs", str(tmp_path / "runs"), *flags]
    monkeypatch.setattr(sys, "argv", ["run", *arguments])
    assert run.command() == 2
    error = capfd.readouterr().err
    assert "error: " in error
    for word in words:
        assert word in error.split("error: ", 1)[1]


@pytest.mark.slow
def test_eight_real_crops_are_learned_by_heart(shared_data, tmp_path):
    flags = ["--data.root", str(shared_data / "coco_mini"), "--runs", str(tmp_path), "--wandb.mode", "disabled"]
    flags += ["--model.optimizer.lr", "1.0e-3", "--trainer.max_epochs", "100"]
    trainer = main(["pose_coco_udp.yaml", "sample.yaml", "overfit.yaml", *flags])
    assert trainer.callback_metrics["val/AP"] > 0.9


@pytest.mark.parametrize(
    "name", ["pose_coco.yaml", pytest.param("multitask.yaml", marks=[pytest.mark.slow, pytest.mark.long])]
)
def test_interrupted_within_an_epoch_goes_on_where_it_was(name, tmp_path):
    flags = ["--data.batch_size", "8", "--trainer.limit_train_batches", "3"]
    flags += ["--trainer.max_epochs", "2", "--data.num_workers", "1"]
    command = [name, *QUICK[1:], *flags]
    whole = folder_of(main([*command, "--runs", str(tmp_path / "a")]))
    stop = "{class_path: StopAt, init_args: {step: 5}}"
    with pytest.raises(RuntimeError, match="stopped on purpose"):
        main([*command, "--trainer.callbacks+", stop, "--runs", str(tmp_path / "b")])
    (folder,) = (tmp_path / "b" / Path(name).stem).iterdir()
    main(["--resume", str(folder), "--trainer.callbacks", "null", "--wandb.mode", "disabled"])
    expected, found = losses(whole), losses(folder)
    assert set(expected) - set(found) <= {4}  # the step that was cut short came before its line in the log
    assert found == pytest.approx({step: expected[step] for step in found}, rel=1e-4)

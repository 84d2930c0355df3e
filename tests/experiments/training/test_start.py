"""The weights that were asked for are evaluated or trained from; otherwise the command says so and stops."""

import json
import logging
import sys
from pathlib import Path

import pytest
import torch
from lightning import Callback

import tasks
from datamodules import CocoPose, FolderSegmentation
from experiments import run
from experiments.config import ConfigError, make_parser, parse
from experiments.run import main, split_arguments
from experiments.training.start import begin, check_start, show_weight_reports, to_instantiate
from hrnet import HRNet
from tasks import PoseTask, SegmentationTask, save_task
from tests.conftest import ROOT
from tests.hrnet.published import filled, official

SMALL = {"variant": "w18_small_v1"}
QUICK = ["sample.yaml", "debug.yaml", "--wandb.mode", "disabled", "--trainer.limit_val_batches", "1"]
QUICK += [word for stage in ("train", "test", "predict") for word in (f"--trainer.limit_{stage}_batches", "1")]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)  # the sample data are rendered once, into data/sample


@pytest.fixture(scope="module")
def pose_file(tmp_path_factory) -> Path:
    """A published pose file, whose tensors follow from their names."""
    path = tmp_path_factory.mktemp("files") / "pose_hrnet_small_128x96.pth"
    network = PoseTask(HRNet(**SMALL, multi_scale_output=False))
    torch.save(official(filled(network), "final_layer."), path)
    return path


class Seen(Callback):
    """Weights, and what a restored run would have counted, when training begins."""

    def on_train_start(self, trainer, pl_module) -> None:
        self.state = {key: value.clone() for key, value in pl_module.state_dict().items()}
        self.steps = trainer.global_step, trainer.current_epoch
        self.moments = [len(optimizer.state) for optimizer in trainer.optimizers]


def are_in(task: tasks.Task, file: Path) -> bool:
    """Whether a task has the weights of `pose_file`."""
    stored = torch.load(file, weights_only=True)
    own = official(task.state_dict(), "final_layer.")
    return own.keys() == stored.keys() and all(torch.equal(own[key], value) for key, value in stored.items())


# ---- what is used


@pytest.mark.parametrize("action", ["validate", "test", "predict"])
@pytest.mark.parametrize("flag", ["--model.weights", "--checkpoint"])
def test_evaluation_uses_the_weights_that_are_named(action, flag, pose_file, tmp_path, capsys):
    trainer = main([action, "pose_coco.yaml", *QUICK, flag, str(pose_file), "--runs", str(tmp_path)])
    assert are_in(trainer.lightning_module, pose_file)
    lines = [line for line in capsys.readouterr().out.splitlines() if str(pose_file) in line]
    assert len(lines) == 1
    assert "292 tensors match" in lines[0]


@pytest.mark.slow
def test_a_run_evaluates_without_yaml_as_it_did_itself(tmp_path):
    trained = main(["pose_coco.yaml", *QUICK, "--data.batch_size", "6", "--runs", str(tmp_path)])
    folder = Path(trained.default_root_dir)
    best = json.loads((folder / "summary.json").read_text())["best"]
    for source in (folder, folder / "checkpoints" / "best.ckpt"):
        trainer = main(["validate", "--checkpoint", str(source), "--runs", str(tmp_path / "again")])
        assert Path(trainer.default_root_dir) != folder
        assert trainer.datamodule.batch_size == 6
        assert trainer.callback_metrics["val/loss"].item() == pytest.approx(best["val/loss"], rel=1e-5)


def test_fit_begins_with_a_checkpoint_and_a_new_optimiser(pose_file, tmp_path):
    seen = Seen()
    # weights: of the experiment are not even looked for
    flags = ["--checkpoint", str(pose_file), "--runs", str(tmp_path)]
    overlay = tmp_path / "weights.yaml"
    overlay.write_text("model: {init_args: {backbone: {weights: nowhere.pth}, weights: nowhere.pth}}\n")
    trainer = main(["pose_coco.yaml", *QUICK[:2], str(overlay), *QUICK[2:], *flags], callbacks=[seen])
    assert are_in(_with(trainer.lightning_module, seen.state), pose_file)
    assert seen.steps == (0, 0)
    assert seen.moments == [0]
    assert trainer.global_step == 1


def _with(task: tasks.Task, state: dict) -> tasks.Task:
    task.load_state_dict(state)
    return task


def test_a_joint_run_evaluates_the_weights_of_its_parts(tmp_path):
    torch.manual_seed(1)
    pose = PoseTask(HRNet(**SMALL, upsample="bilinear"))
    parts = SegmentationTask(HRNet(**SMALL, upsample="bilinear"), 20)
    save_task(pose, tmp_path / "pose.ckpt")
    save_task(parts, tmp_path / "parts.ckpt")
    flags = ["--model.backbone.weights", str(tmp_path / "pose.ckpt"), "--runs", str(tmp_path / "runs")]
    overlay = tmp_path / "parts.yaml"
    overlay.write_text(
        f"model: {{init_args: {{tasks: {{pose: {{init_args: {{weights: {tmp_path}/pose.ckpt}}}}, "
        f"parts: {{init_args: {{weights: {tmp_path}/parts.ckpt}}}}}}}}}}\n"
    )
    words = ["validate", "multitask_pose_seg.yaml", *QUICK[:2], str(overlay), *QUICK[2:], *flags]
    task = main(words).lightning_module
    assert torch.equal(task.backbone.conv1.weight, pose.backbone.conv1.weight)
    assert torch.equal(task.tasks["pose"].head.weight, pose.head.weight)
    assert torch.equal(task.tasks["parts"].head[3].weight, parts.head[3].weight)


def test_images_that_are_prepared_otherwise_are_said(pose_file, caplog):
    action, config = checked("validate", "pose_coco.yaml", "sample.yaml", "--checkpoint", str(pose_file))
    for size, crop, words in (
        ((128, 96), "size", []),
        ((64, 96), "size", ["image_size [128, 96], and the data have [64, 96]"]),
        ((128, 96), "unit", ["crop size, and the data have unit"]),
    ):
        caplog.clear()
        task = PoseTask(HRNet(**SMALL, multi_scale_output=False))
        begin(action, task, CocoPose("sample", image_size=size, crop=crop), config)
        assert are_in(task, pose_file)
        assert len(caplog.messages) == 1 + len(words)
        for word in words:
            assert word in caplog.text


def test_a_preparer_of_another_class_is_said(tmp_path, caplog):
    data = CocoPose("sample", image_size=(128, 96), box_padding=1.4)
    trained = PoseTask(HRNet(**SMALL, multi_scale_output=False))
    action, config = checked("validate", "pose_coco.yaml", "sample.yaml", "--checkpoint", str(tmp_path / "a.ckpt"))
    for name, words in (("PersonCrop", ""), ("elsewhere.Fisheye", "preparer elsewhere.Fisheye, and the data have ")):
        caplog.clear()
        trained.preparation = {**data.preparation(), "class_path": name}
        save_task(trained, tmp_path / "a.ckpt")
        begin(action, PoseTask(HRNet(**SMALL, multi_scale_output=False)), data, config)
        assert len(caplog.messages) == 1 + bool(words)
        assert words in caplog.text


def test_the_crop_of_a_segmentation_training_is_none_of_its_evaluation(tmp_path, caplog):
    def data(**options) -> FolderSegmentation:
        return FolderSegmentation(".", class_names=["a", "b"], **{"image_size": (64, 64), **options})

    trained = SegmentationTask(HRNet(**SMALL), 2)
    trained.preparation = data(evaluation="long").preparation()
    save_task(trained, tmp_path / "a.ckpt")
    action, config = checked("validate", "pose_coco.yaml", "sample.yaml", "--checkpoint", str(tmp_path / "a.ckpt"))
    for now, words in (
        (data(evaluation="long", image_size=(32, 96)), ""),
        (data(evaluation="short"), "evaluation long, and the data have short"),
    ):
        caplog.clear()
        begin(action, SegmentationTask(HRNet(**SMALL), 2), now, config)
        assert len(caplog.messages) == 1 + bool(words)
        assert words in caplog.text


# ---- what is refused


def checked(*words: str):
    """A command line as `main` takes it, up to before anything is built."""
    action, files, flags = split_arguments(list(words))
    config = parse(make_parser(), files, flags)
    check_start(action, config, flags)
    return action, config


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("validate", ["pose_coco.yaml", "sample.yaml"]),
        ("test", ["pose_coco.yaml"]),  # names weights of the backbone alone
        ("predict", ["seg_cityscapes.yaml", "sample.yaml", "--model.backbone.weights", "file.pth"]),
        ("validate", ["multitask_pose_seg.yaml", "sample.yaml"]),
        ("predict", ["pose_coco.yaml", "sample.yaml", "--random_weights", "false"]),
    ],
)
def test_random_weights_are_not_evaluated_unasked(action, words):
    with pytest.raises(ConfigError, match=rf"Nothing to {action}.*--checkpoint.*--model\.weights.*--random_weights"):
        checked(action, *words)


@pytest.mark.parametrize("more", [["--random_weights"], ["--checkpoint", "runs/x"], ["--model.weights", "file.pth"]])
@pytest.mark.parametrize("action", ["validate", "test", "predict"])
def test_weights_of_any_kind_or_a_word_are_enough(action, more):
    checked(action, "pose_coco.yaml", "sample.yaml", *more)


@pytest.mark.parametrize("other", [["--checkpoint", "a.ckpt"], ["--resume", "runs/x"]])
@pytest.mark.parametrize("flag", ["--model.weights", "--model.backbone.weights", "--model.init_args.weights=b.pth"])
def test_two_sources_of_weights_are_one_too_many(flag, other):
    words = [flag] if "=" in flag else [flag, "b.pth"]
    with pytest.raises(ConfigError, match=rf"{flag.split('=')[0]} and {other[0]} both"):
        checked("fit", "pose_coco.yaml", *words, *other)


def test_weights_that_are_taken_away_are_no_second_source():
    for other in (["--checkpoint", "a.ckpt"], ["--resume", "runs/x"]):
        checked("fit", "pose_coco.yaml", "--model.backbone.weights", "null", *other)
    with pytest.raises(ConfigError, match="names weights of the backbone only"):
        checked("validate", "pose_coco.yaml", "--model.weights", "null")
    with pytest.raises(ConfigError, match=r"would be random\. Give --checkpoint"):
        checked("validate", "pose_coco.yaml", "--model.backbone.weights", "null")


def test_weights_that_would_be_overwritten_are_not_read():
    words = ["pose_coco.yaml", "--model.weights", "whole.pth"]
    found = {}
    for action, more in (("fit", []), ("validate", []), ("validate", ["--random_weights"])):
        model = to_instantiate(*checked(action, *words, *more)).model.init_args
        found[action, bool(more)] = (model.weights, model.backbone.init_args.weights)
    assert found == {
        ("fit", False): ("whole.pth", "hrnet_w32.ms_in1k"),
        ("validate", False): ("whole.pth", None),
        ("validate", True): ("whole.pth", "hrnet_w32.ms_in1k"),
    }
    joint = ["multitask_pose_seg.yaml", "--model.tasks.pose.init_args.weights", "head.ckpt"]
    _, config = checked("validate", *joint)
    stored = config.clone()
    config.checkpoint = "runs/x"
    model = to_instantiate("validate", config).model.init_args
    assert model.backbone.init_args.weights is None
    assert "head.ckpt" not in str(model)
    assert "head.ckpt" in str(config)
    assert stored.model == config.model


def damaged(folder: Path, file: Path, kind: str) -> str:
    """A checkpoint that cannot be evaluated, as the words of a flag."""
    state = torch.load(file, weights_only=True)
    if kind == "folder":
        return str(folder)
    if kind == "nan":
        state["conv1.weight"][:] = float("nan")
    elif kind == "half":
        state = {key: value for key, value in state.items() if "final_layer" not in key}
    elif kind == "w18":
        state = official(PoseTask(HRNet("w18", multi_scale_output=False)).state_dict(), "final_layer.")
    elif kind == "five":
        state = official(PoseTask(HRNet(**SMALL, multi_scale_output=False), 5).state_dict(), "final_layer.")
    torch.save(state, folder / "bad.pth")
    if kind == "garbage":
        (folder / "bad.pth").write_bytes(b"<html>")
    return str(folder / ("gone.pth" if kind == "gone" else "bad.pth"))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("gone", ["gone.pth"]),
        ("folder", ["best.ckpt"]),
        ("nan", ["NaN", "conv1.weight"]),
        ("garbage", ["bad.pth", "damaged"]),
        ("w18", ["bad.pth", "w18"]),
        ("five", ["bad.pth"]),
        ("half", ["bad.pth"]),
    ],
)
@pytest.mark.parametrize("flag", ["--checkpoint", "--model.weights"])
def test_what_cannot_be_evaluated_is_one_sentence(kind, words, flag, pose_file, tmp_path, monkeypatch, capsys):
    source = damaged(tmp_path, pose_file, kind)
    arguments = ["validate", "pose_coco.yaml", *QUICK, flag, source, "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", ["run", *arguments])
    assert run.command() == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    for word in words:
        assert word in error
    if kind in ("w18", "five") and flag == "--checkpoint":
        assert {"w18": "backbone.variant to w18", "five": "num_keypoints to 5"}[kind] in error
    if kind in ("five", "half") and flag == "--model.weights":
        assert "head.weight" in error


def test_a_checkpoint_of_no_run_does_not_say_on_which_data(pose_file, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run", "validate", "--checkpoint", str(pose_file)])
    assert run.command() == 2
    assert "name an experiment" in capsys.readouterr().err


def test_reports_are_printed_once_wherever_the_output_goes(capsys):
    for _ in range(3):
        show_weight_reports()
    logging.getLogger("hrnet").info("said")
    assert capsys.readouterr().out == "said\n"

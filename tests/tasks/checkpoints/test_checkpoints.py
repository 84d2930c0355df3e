"""Checkpoints of ours: old ones load, foreign classes need the user's word, what does not fit is named by its key."""

import json
import logging
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tasks
from hrnet import HRNet, load_weights
from tasks import ClassificationTask, MultiTask, PoseTask, SegmentationTask, save_task
from tests.conftest import ROOT
from tests.golden import image_for, state_for

OLD = Path(__file__).parents[2] / "golden" / "checkpoints"
SMALL = {"variant": "w18_small_v1"}


def old_checkpoint(name: str, folder: Path) -> tuple[Path, dict]:
    """A checkpoint as this project wrote it in its first version; its tensors follow from their names."""
    content = json.loads((OLD / f"{name}.json").read_text())
    outputs = content.pop("outputs")
    content["state_dict"] = state_for(content.pop("keys"))
    torch.save(content, folder / "old.ckpt")
    return folder / "old.ckpt", outputs


@pytest.mark.parametrize("name", ["pose", "segmentation", "classification", "multitask"])
def test_first_version_loads_and_gives_the_same(name: str, tmp_path: Path) -> None:
    path, outputs = old_checkpoint(name, tmp_path)
    task = tasks.load(path)
    with torch.no_grad():
        found = task(image_for(name, (1, 3, 64, 64)))
    for key, (shape, expected) in outputs.items():
        values = found[key] if key else found
        assert list(values.shape) == shape
        sampled = values.flatten()[:: max(1, values.numel() // 40)]
        torch.testing.assert_close(sampled, torch.tensor(expected), rtol=1e-4, atol=1e-4)
    if name == "multitask":
        assert task.single("pose").skeleton["names"][0] == "nose"
        assert task.preparation["pose"]["crop"] == "unit"
    else:
        assert task.preparation["image_size"]
        assert task.skeleton if name == "pose" else task.class_names
    save_task(task, tmp_path / "new.ckpt")
    again = tasks.load(tmp_path / "new.ckpt")
    assert type(again) is type(task)
    assert dict(again.hparams) == dict(task.hparams)


def test_what_a_training_started_from_is_not_loaded_again(tmp_path: Path) -> None:
    start = PoseTask(HRNet(**SMALL, multi_scale_output=False))
    save_task(start, tmp_path / "start.ckpt")
    makers = {"pose": partial(PoseTask, weights=str(tmp_path / "start.ckpt"))}
    joint = MultiTask(HRNet(**SMALL), makers)
    save_task(joint, tmp_path / "joint.ckpt")
    (tmp_path / "start.ckpt").unlink()
    again = tasks.load(tmp_path / "joint.ckpt")
    assert again.tasks["pose"].weights is None
    again.load_start()  # nothing is looked for


# ---- classes of others

MODULE = """
from dataclasses import dataclass
import tasks

@dataclass(frozen=True)
class Codec{n}(tasks.MSRACodec):
    spread: float = 1.0

class Task{n}(tasks.PoseTask):
    def forward(self, images):
        return super().forward(images) + 1

class PoseTask(tasks.PoseTask):
    pass
"""


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """A module outside of this repository, and how to forget its classes as a new process would."""
    number = abs(hash(request.node.name)) % 10**8
    name = f"foreign_{number}"
    (tmp_path / f"{name}.py").write_text(MODULE.replace("{n}", str(number)))
    monkeypatch.syspath_prepend(tmp_path)
    module = __import__(name)
    yield module, number
    sys.modules.pop(name, None)


IN_A_NEW_PROCESS = """
import sys
import pytest, torch, tasks
name, task_name, run = sys.argv[1:]
for source in (run, run + "/checkpoints/best.ckpt"):
    with pytest.raises(ValueError, match=name + "." + task_name + ".*--import " + name):
        tasks.load(source)
with open(run + "/config.yaml", "w") as config:
    config.write(f"model: {{class_path: {name}.{task_name}, init_args: {{codec: {{class_path: MSRACodec}}}}}}")
with pytest.raises(ValueError, match="or name the run folder"):
    tasks.load(run + "/checkpoints/best.ckpt")
assert name not in sys.modules
task = tasks.load(run)
assert type(task).__module__ == name and task.codec.spread == 2.0
torch.save(task(torch.zeros(1, 3, 64, 64)).detach(), run + "/found.pt")
"""


@pytest.mark.slow
def test_foreign_classes_are_stored_whole_and_imported_only_by_the_users_word(foreign, tmp_path: Path) -> None:
    module, number = foreign
    name, task_name = module.__name__, f"Task{number}"
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    codec = getattr(module, f"Codec{number}")(spread=2.0)
    task = getattr(module, task_name)(HRNet(**SMALL, multi_scale_output=False), 5, codec=codec).eval()
    save_task(task, run / "checkpoints" / "best.ckpt")
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert content["task"] == f"{name}.{task_name}"
    assert content["hyper_parameters"]["codec"]["class_path"] == f"{name}.Codec{number}"
    expected = task(torch.zeros(1, 3, 64, 64)).detach()
    torch.testing.assert_close(tasks.load(run)(torch.zeros(1, 3, 64, 64)), expected)  # imported already
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", IN_A_NEW_PROCESS, name, task_name, str(run)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.load(run / "found.pt", weights_only=True), expected)


def test_a_checkpoint_that_asks_for_more_than_its_run_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "trap.py").write_text("open('sprung', 'w')")
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("model: {class_path: PoseTask}\n")
    save_task(PoseTask(HRNet(**SMALL, multi_scale_output=False)), run / "checkpoints" / "best.ckpt")
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    for change in ({"task": "trap.Task"}, {"task": "trap.TrapTask"}, {"task": "os.system"}):
        torch.save(content | change, run / "checkpoints" / "best.ckpt")
        with pytest.raises(ValueError, match="no imported task"):
            tasks.load(run)
    assert "trap" not in sys.modules


def test_short_names_mean_our_classes(foreign, tmp_path: Path) -> None:
    module, _ = foreign
    assert module.PoseTask.__name__ == "PoseTask"
    path, _ = old_checkpoint("pose", tmp_path)
    assert type(tasks.load(path)) is PoseTask
    own = module.PoseTask(HRNet(**SMALL, multi_scale_output=False))
    save_task(own, tmp_path / "own.ckpt")
    assert type(tasks.load(tmp_path / "own.ckpt")) is module.PoseTask


def test_a_class_that_moved_is_found_by_its_name(foreign, tmp_path: Path) -> None:
    module, number = foreign
    save_task(getattr(module, f"Task{number}")(HRNet(**SMALL, multi_scale_output=False)), tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    torch.save(content | {"task": f"__main__.Task{number}"}, tmp_path / "a.ckpt")
    assert type(tasks.load(tmp_path / "a.ckpt")).__name__ == f"Task{number}"


# ---- odd contents


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hyper_parameters": None}, "lacks a state_dict or hyper_parameters"),
        ({"hyper_parameters": ["w32"]}, "lacks a state_dict or hyper_parameters"),
        ({"hyper_parameters": {"num_keypoints": 3}}, "lacks a state_dict or hyper_parameters"),
        ({"state_dict": None}, "lacks a state_dict"),
        ({"hyper_parameters": {"backbone": SMALL, "num_points": 3}}, "num_points"),
        ({"hyper_parameters": {"backbone": {"width": 18}}}, "width"),
        ({"hyper_parameters": {"backbone": SMALL, "num_keypoints": 9}}, "does not fit the PoseTask"),
        ({"hyper_parameters": {"backbone": SMALL, "num_keypoints": "many"}}, "no PoseTask can be made"),
        ({"hyper_parameters": {"backbone": SMALL, "num_keypoints": -5}}, "no PoseTask can be made"),
        ({"hyper_parameters": {"backbone": SMALL, "num_keypoints": 2**62}}, "no PoseTask can be made"),
        ({"hyper_parameters": {"backbone": {"variant": ["w32"]}}}, "no PoseTask can be made"),
        ({"hyper_parameters": {"backbone": SMALL, "skeleton": 5}}, "no PoseTask can be made"),
        ({"hyper_parameters": {"backbone": SMALL, "codec": {"class_path": "UDPCodec", "init_args": 5}}}, "no mapping"),
        ({"hyper_parameters": {"backbone": SMALL, 5: 5}}, "no PoseTask can be made"),
        ({"preparation": [1, 2]}, "expected a mapping"),
        ({"preparation": {"class_path": "PersonCrop", "init_args": 5}}, "expected a mapping"),
        ({"task": "NoSuchTask"}, "NoSuchTask"),
        ({"task": 3}, "'3'"),
    ],
)
def test_odd_contents_are_one_sentence(changes: dict, words: str, tmp_path: Path) -> None:
    save_task(PoseTask(HRNet(**SMALL)), tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    torch.save(content | changes, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=words) as caught:
        tasks.load(tmp_path / "a.ckpt")
    assert "a.ckpt" in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_diverged_weights_are_refused_by_name(value: float, tmp_path: Path) -> None:
    task = PoseTask(HRNet(**SMALL))
    task.backbone.bn2.running_var[3] = value
    save_task(task, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a\.ckpt holds NaN or infinity .*backbone\.bn2\.running_var"):
        tasks.load(tmp_path / "a.ckpt")


@pytest.mark.parametrize("key", ["backbone.bn2.num_batches_tracked", "backbone.bn2.running_mean"])
def test_a_count_without_a_value_is_refused_by_name(key: str, tmp_path: Path) -> None:
    task = PoseTask(HRNet(**SMALL))
    save_task(task, tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    content["state_dict"][key] = content["state_dict"][key].to("meta")
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=rf"a\.ckpt holds {key} as a tensor without values"):
        tasks.load(tmp_path / "a.ckpt")


def test_infinity_in_a_buffer_of_ones_own_is_nobodys_business(tmp_path: Path) -> None:
    task = MultiTask(HRNet(**SMALL), {"pose": PoseTask}, balancing="dwa")
    assert task.state_dict()["balancing.means"].isnan().all()
    save_task(task, tmp_path / "a.ckpt")
    assert isinstance(tasks.load(tmp_path / "a.ckpt"), MultiTask)


# ---- into a task of an experiment


def weights_of(task: tasks.Task) -> dict[str, Tensor]:
    return {k: x.clone() for k, x in task.state_dict().items()}


def test_everything_is_restored_and_one_line_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, _ = old_checkpoint("pose", tmp_path)
    task = PoseTask(HRNet(**SMALL, multi_scale_output=False), codec=tasks.DarkCodec(sigma=2.5))
    with caplog.at_level(logging.INFO, logger="hrnet"):
        tasks.restore(task, path)
    expected = torch.load(path, weights_only=True)["state_dict"]
    assert all(torch.equal(x, expected[k]) for k, x in task.state_dict().items())
    count = sum("num_batches" not in k for k in expected)
    assert caplog.messages == [f"{path}: all {count} tensors match"]


@pytest.mark.parametrize(
    ("name", "task", "words"),
    [
        (
            "pose",
            lambda: PoseTask(HRNet("w18", multi_scale_output=False)),
            ["model.init_args.backbone.variant to w18_small_v1 (it is w18)"],
        ),
        (
            "pose",
            lambda: PoseTask(HRNet(**SMALL, multi_scale_output=False), 16),
            ["model.init_args.num_keypoints to 17 (it is 16)"],
        ),
        (
            "pose",
            lambda: PoseTask(HRNet(**SMALL, upsample="bilinear")),
            ["backbone.multi_scale_output to False (it is True)", "backbone.upsample to nearest (it is bilinear)"],
        ),
        ("classification", lambda: ClassificationTask(HRNet(**SMALL), 7), ["num_classes to 6 (it is 7)"]),
        (
            "segmentation",
            lambda: SegmentationTask(HRNet(**SMALL, upsample="bilinear", align_corners=True), 20),
            ["model.init_args.head to ocr (it is v2)"],
        ),
        (
            "segmentation",
            lambda: SegmentationTask(HRNet(**SMALL), 20, head="ocr", ocr_channels=(64, 16)),
            ["model.init_args.ocr_channels to [32, 16] (it is [64, 16])"],
        ),
        ("pose", lambda: ClassificationTask(HRNet(**SMALL), 17), ["holds a PoseTask and the experiment a Classif"]),
        ("multitask", lambda: PoseTask(HRNet(**SMALL)), ["holds a MultiTask", "experiments.split"]),
        (
            "multitask",
            lambda: MultiTask(HRNet(**SMALL), {"pose": PoseTask, "parts": partial(SegmentationTask, num_classes=19)}),
            ["model.init_args.batch_norm to per_task", "model.init_args.tasks.parts.init_args.num_classes to 20"],
        ),
    ],
)
def test_what_does_not_fit_is_named_by_its_key(name, task, words, tmp_path: Path) -> None:
    path, _ = old_checkpoint(name, tmp_path)
    task = task()
    before = weights_of(task)
    with pytest.raises(ValueError, match=r"old\.ckpt") as caught:
        tasks.restore(task, path)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(x, before[k]) for k, x in task.state_dict().items())


def test_a_split_task_with_four_streams(tmp_path: Path) -> None:
    """It has the streams of the joint run, and that one's interpolation."""
    joint = tasks.load(old_checkpoint("multitask", tmp_path)[0])
    save_task(joint.single("pose"), tmp_path / "pose.ckpt")
    task = PoseTask(HRNet(**SMALL, multi_scale_output=False))
    with pytest.raises(ValueError, match=r"multi_scale_output to True .*backbone\.upsample to bilinear"):
        tasks.restore(task, tmp_path / "pose.ckpt")


def test_tensors_that_fit_a_network_that_computes_otherwise_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, _ = old_checkpoint("segmentation", tmp_path)
    other = HRNet(**SMALL, upsample="bilinear", align_corners=False)
    with caplog.at_level(logging.WARNING, logger="hrnet"):
        tasks.restore(SegmentationTask(other, 20, head="ocr", ocr_channels=(32, 16)), path)
    assert "trained with backbone.align_corners True, and is used with False" in caplog.text


def test_per_task_statistics_come_along_with_a_task_of_a_joint_run(tmp_path: Path) -> None:
    path, _ = old_checkpoint("multitask", tmp_path)
    expected = tasks.load(path).single("pose")
    task = PoseTask(HRNet(**SMALL, upsample="bilinear"))
    load_weights(task, path, strict=False)
    for name, value in task.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name]) or name.endswith("num_batches_tracked"), name


def test_of_a_joint_run_the_head_of_the_same_shape_is_loaded_and_two_are_one_too_many(tmp_path: Path) -> None:
    for name, points in (("hands", 21), ("twins", 5)):
        parts = {name: partial(PoseTask, num_keypoints=points), "other": partial(PoseTask, num_keypoints=5)}
        save_task(MultiTask(HRNet(**SMALL), parts), tmp_path / f"{name}.ckpt")
    task = PoseTask(HRNet(**SMALL), 21)
    load_weights(task, tmp_path / "hands.ckpt", strict=False)
    expected = tasks.load(tmp_path / "hands.ckpt").tasks["hands"].head.weight
    assert torch.equal(task.head.weight, expected)
    with pytest.raises(ValueError, match=r"several heads that fit: twins, other\. Split off the one"):
        load_weights(PoseTask(HRNet(**SMALL), 5), tmp_path / "twins.ckpt", strict=False)


def test_start_weights_are_loaded_once_and_what_is_left_is_listed(tmp_path: Path) -> None:
    save_task(PoseTask(HRNet(**SMALL)), tmp_path / "pose.ckpt")
    path = str(tmp_path / "pose.ckpt")
    assert PoseTask(HRNet(**SMALL), weights=path).load_start() == set()
    assert PoseTask(HRNet(**SMALL), 5, weights=path).load_start() == {"head.weight", "head.bias"}
    assert PoseTask(HRNet(**SMALL, weights=path)).load_start() == {"head.weight", "head.bias"}
    assert len(PoseTask(HRNet(**SMALL)).load_start()) > 300
    parts = partial(SegmentationTask, num_classes=3)
    joint = MultiTask(HRNet(**SMALL, weights=path), {"pose": partial(PoseTask, weights=path), "parts": parts})
    assert {name.split(".head.")[0] for name in joint.load_start()} == {"tasks.parts"}
    assert joint.started
    trained = PoseTask(HRNet(**SMALL), weights=path)
    trained.load_state_dict(PoseTask(HRNet(**SMALL)).state_dict())
    assert trained.started

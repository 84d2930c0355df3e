"""Exported files answer as the network does at every batch size, and tell what they are, not where they come from."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

import tasks
from experiments.config import ConfigError
from experiments.export import commandline, export, graph
from experiments.predictor import Predictor
from hrnet import HRNet
from tasks import ClassificationTask, DetectionTask, MultiTask, PoseTask, SegmentationTask
from tests.conftest import ROOT
from tests.golden import old_run

SIZE = (64, 64)


def images(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def trained(task: tasks.Task) -> tasks.Task:
    """With statistics of a batch, so that its outputs differ from place to place."""
    task.train()(task.normalize(images(4, 3, *SIZE)))
    return task.eval()


@pytest.fixture(scope="module")
def pose() -> PoseTask:
    torch.manual_seed(0)
    skeleton = {"names": ["nose", "left", "right"], "flip_pairs": [[1, 2]], "limbs": [], "sigmas": [0.1] * 3}
    backbone = HRNet("w18_small_v1", multi_scale_output=False)
    return trained(PoseTask(backbone, 3, skeleton=skeleton, flip_test=False))


@pytest.fixture(scope="module")
def segmenter() -> SegmentationTask:
    torch.manual_seed(0)
    return trained(SegmentationTask(HRNet("w18_small_v1", upsample="bilinear"), 4, class_names=list("abcd")))


def exported(task: tasks.Task, folder: Path, **options) -> Path:
    tasks.save_task(task, folder / "task.ckpt")
    (path,) = export(str(folder / "task.ckpt"), output=folder / "out", image_size=SIZE, **options).values()
    return path


def onnx_runner(path: Path):
    session = onnxruntime.InferenceSession(str(path))
    names = [value.name for value in session.get_outputs()]
    return lambda image: dict(zip(names, session.run(None, {"image": image.numpy()}), strict=True)), session


def test_key_points_of_onnx_are_those_of_the_network(pose, tmp_path):
    path = exported(pose, tmp_path)
    run, session = onnx_runner(path)
    assert [(value.name, value.shape, value.type) for value in session.get_inputs()] == [
        ("image", ["batch", 3, 64, 64], "tensor(uint8)")
    ]
    assert [(value.name, value.shape) for value in session.get_outputs()] == [
        ("keypoints", ["batch", 3, 2]),
        ("scores", ["batch", 3]),
    ]
    for count in (1, 3, 5):
        image = images(count, 3, *SIZE)
        with torch.inference_mode():
            keypoints, scores = pose.codec.decode(pose(pose.normalize(image)))
        found = run(image)
        np.testing.assert_allclose(found["keypoints"], keypoints, atol=1e-3)
        np.testing.assert_allclose(found["scores"], scores, atol=1e-5)
    about = json.loads(session.get_modelmeta().custom_metadata_map["hrnet"])
    assert (about["task"], about["image_size"], about["outputs"]) == ("PoseTask", [64, 64], ["keypoints", "scores"])
    assert about["skeleton"]["names"] == ["nose", "left", "right"]
    assert about["preparation"] == {"class_path": "PersonCrop", "init_args": about["preparation"]["init_args"]}
    beside = json.loads(path.with_name(path.name + ".json").read_text())
    assert beside["agreement"]["difference"].keys() == {"keypoints", "scores"}
    assert beside["checkpoint"] == about["checkpoint"] is not None
    content = path.read_bytes()
    for told in (str(ROOT), str(tmp_path), "site-packages", "stack_trace"):
        assert told.encode() not in content
    assert not [file for file in path.parent.iterdir() if file.name.startswith("new-")]


@pytest.mark.slow
def test_classes_of_pixels_at_sizes_never_seen(segmenter, tmp_path):
    run, session = onnx_runner(exported(segmenter, tmp_path))
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    for shape in ((1, 3, 97, 129), (3, 3, 64, 96)):
        image = images(*shape)
        with torch.inference_mode():
            labels = segmenter(segmenter.normalize(image)).argmax(1)
        assert (run(image)["labels"] == labels.numpy()).mean() > 0.9999


@pytest.mark.slow
def test_the_five_likeliest_classes_by_torch_alone(tmp_path):
    torch.manual_seed(0)
    task = trained(ClassificationTask(HRNet("w18_small_v1"), 7, class_names=list("abcdefg")))
    path = exported(task, tmp_path, format="pt2")
    extra = {"hrnet": ""}
    with path.open("rb") as file:
        network = torch.export.load(file, extra_files=extra).module()
    assert json.loads(extra["hrnet"])["class_names"] == list("abcdefg")
    for count in (1, 3):
        image = images(count, 3, *SIZE)
        with torch.inference_mode():
            best = task(task.normalize(image)).softmax(1).topk(5)
        found = network(image)
        assert torch.equal(found["labels"], best.indices)
        torch.testing.assert_close(found["probabilities"], best.values, rtol=1e-4, atol=1e-6)
    assert str(ROOT).encode() not in path.read_bytes()


@pytest.mark.slow
def test_boxes_of_fcos_are_those_of_the_network(tmp_path):
    torch.manual_seed(0)
    task = DetectionTask(HRNet("w18_small_v1"), 3, detector="fcos", channels=32, strides=[8, 16, 32])
    trained(task)
    with torch.no_grad():  # an untrained head scores every place alike, about 0.01
        task.head.detector.head.classification_head.cls_logits.weight.mul_(40)
    task.class_names = task.hparams["class_names"] = list("abc")
    run, _ = onnx_runner(exported(task, tmp_path))
    image = images(3, 3, *SIZE)
    batch = {"image": image, "size": torch.tensor([SIZE] * 3), "to_image": torch.eye(3)[None, :2].repeat(3, 1, 1)}
    with torch.inference_mode():
        expected = task.predict(task.outputs(batch), batch)
    found = {name: torch.from_numpy(value) for name, value in run(image).items()}
    predictions = graph.ending_of(task).predictions(found, batch)
    assert all(len(boxes) > 10 for boxes in expected["boxes"])
    assert len(torch.cat(expected["labels"]).unique()) > 1
    for key in ("boxes", "scores", "labels"):
        for ours, theirs in zip(predictions[key], expected[key], strict=True):
            assert ours.shape == theirs.shape
            torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=1e-4)
    rcnn = DetectionTask(HRNet("w18_small_v1"), 3, channels=32, box_channels=32)
    with pytest.raises(ConfigError, match="faster_rcnn cannot be exported"):
        graph.ending_of(rcnn)


@pytest.mark.parametrize("format", ["pt2", "openvino"])
@pytest.mark.slow
def test_key_points_of_other_formats(pose, tmp_path, format):
    if format == "openvino" and find_spec("openvino") is None:
        pytest.skip("needs the extra `export`")
    path = exported(pose, tmp_path, format=format, decode=False)
    assert json.loads(path.with_name(path.name + ".json").read_text())["outputs"] == ["heatmaps"]
    files = {file.name for file in path.parent.iterdir()}
    assert files == {path.name, path.name + ".json"} | ({"PoseTask.bin"} if format == "openvino" else set())


@pytest.mark.slow
def test_a_joint_run_gives_a_file_a_task(tmp_path):
    skeleton = {"names": list("abc"), "flip_pairs": [], "limbs": [], "sigmas": [0.1] * 3}
    makers = {
        "pose": lambda backbone: PoseTask(backbone, 3, skeleton=skeleton),
        "parts": lambda backbone: SegmentationTask(backbone, 4),
    }
    torch.manual_seed(0)
    joint = trained(MultiTask(HRNet("w18_small_v1"), makers))
    tasks.save_task(joint, tmp_path / "joint.ckpt")
    found = export(str(tmp_path / "joint.ckpt"), output=tmp_path, image_size=SIZE)
    assert [path.name for path in found.values()] == ["pose.onnx", "parts.onnx"]
    run, session = onnx_runner(found["parts"])
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    image = images(2, 3, 96, 64)
    with torch.inference_mode():
        labels = joint(joint.normalize(image))["parts"].argmax(1)
    assert (run(image)["labels"] == labels.numpy()).mean() > 0.999


@pytest.mark.slow
def test_the_metric_of_a_run_is_compared(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    run = old_run("classification", tmp_path)
    (path,) = export(str(run), limit_batches=2).values()
    assert path == run / "exported" / "ClassificationTask.onnx"
    agreement = json.loads(path.with_name(path.name + ".json").read_text())["agreement"]
    assert agreement["top1"] == pytest.approx(agreement["top1 of the network"], abs=1e-3)


def test_a_file_that_disagrees_is_not_kept(pose, tmp_path, monkeypatch, capsys):
    tasks.save_task(pose, tmp_path / "task.ckpt")
    words = [str(tmp_path / "task.ckpt"), "--output", str(tmp_path / "out"), "--image_size", "64", "64"]
    monkeypatch.setitem(commandline.RUN, "pt2", lambda path, names: lambda image: {
        "keypoints": torch.zeros(len(image), 3, 2), "scores": torch.zeros(len(image), 3)
    })  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["export", *words, "--format", "pt2"])
    assert commandline.command() == 2
    assert "of the pt2 file differs from the network" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


def test_a_users_mistake_is_one_message(pose, tmp_path, monkeypatch, capsys):
    tasks.save_task(pose, tmp_path / "task.ckpt")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "PoseTask.onnx").write_text("mine")
    words = [str(tmp_path / "task.ckpt"), "--output", str(tmp_path / "out"), "--image_size", "64", "64"]

    def refused(*more: str) -> str:
        monkeypatch.setattr(sys, "argv", ["export", *words, *more])
        assert commandline.command() == 2
        return capsys.readouterr().err

    assert "--overwrite" in refused()
    assert (tmp_path / "out" / "PoseTask.onnx").read_text() == "mine"
    monkeypatch.setattr("experiments.export.files.find_spec", lambda name: None)
    assert "hrnet-lightning[export]" in refused("--overwrite")
    monkeypatch.undo()

    class Unknown(tasks.Task):
        """Of nobody's kind."""

    with pytest.raises(ConfigError, match="cannot be exported"):
        graph.ending_of(Unknown(HRNet("w18_small_v1")))


@pytest.mark.slow
def test_a_consumer_without_torch(pose, tmp_path):
    """The 30 lines of docs/ find what the project finds."""
    path = exported(pose, tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    code = (
        f"import sys, runpy; sys.modules['torch'] = None; sys.argv = {['x', str(path), str(tmp_path / 'photo.png')]}; "
    )
    code += f"runpy.run_path({str(ROOT / 'docs' / 'pose_without_torch.py')!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == ["nose", "left", "right"]
    result = Predictor(pose, image_size=SIZE)(tmp_path / "photo.png")
    np.testing.assert_allclose(np.array([row[1:3] for row in rows], float), result.keypoints[0], atol=1e-2)
    np.testing.assert_allclose([float(row[3]) for row in rows], result.scores[0], atol=1e-3)
    assert onnx.load(path).opset_import[0].version == 20

"""Whatever runs the network, the answers are the task's; what cannot be done is said in one sentence."""

import json
import pickle
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import tasks
from experiments import predict
from experiments.config import ConfigError
from experiments.export import export, files
from experiments.export.loaded import ExportedNetwork
from experiments.predict import runtime
from experiments.predict.runtime import Fastest, by_library, in_bfloat16
from experiments.predictor import Predictor
from hrnet import HRNet
from tasks import ClassificationTask, DetectionTask, LandmarkTask, MultiTask, PoseTask, SegmentationTask

SIZE = (64, 64)
SKELETON = {"names": ["nose", "left", "right"], "flip_pairs": [[1, 2]], "limbs": [], "sigmas": [0.1] * 3}


def trained(task: tasks.Task) -> tasks.Task:
    """With statistics of a batch, so that its outputs differ from place to place."""
    images = torch.randint(0, 256, (4, 3, *SIZE), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    task.train()(task.normalize(images))
    return task.eval()


def pose(**options) -> PoseTask:
    torch.manual_seed(0)
    return trained(PoseTask(HRNet("w18_small_v1", multi_scale_output=False), 3, skeleton=SKELETON, **options))


def segmenter(**options) -> SegmentationTask:
    torch.manual_seed(0)
    options = {"class_names": list("abcd"), "palette": [[9 * i, 0, 0] for i in range(4)], **options}
    task = trained(SegmentationTask(HRNet("w18_small_v1", upsample="bilinear"), 4, **options))
    images = torch.randint(0, 256, (2, 3, 96, 96), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    with torch.no_grad():  # so that each class is the likeliest somewhere
        task.head[3].bias -= task(task.normalize(images)).mean((0, 2, 3))
    return task


def exported(task: tasks.Task, folder: Path, **options) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tasks.save_task(task, folder / "task.ckpt")
    (path,) = export(str(folder / "task.ckpt"), output=folder / "out", image_size=SIZE, **options).values()
    return path


@pytest.fixture(scope="module")
def pose_file(tmp_path_factory) -> Path:
    return exported(pose(flip_test=False), tmp_path_factory.mktemp("pose"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    sizes = ((90, 70), (64, 64), (50, 120))
    for i, size in enumerate(sizes):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / f"{i}.png")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("way", ["onnx", "openvino"])
def test_an_exported_file_poses_like_the_task(way, pose_file, photos):
    expected = Predictor(pose(flip_test=False), image_size=SIZE, batch_size=2)(photos)
    found = Predictor(pose_file, runtime=way, batch_size=2)(photos)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.keypoints, theirs.keypoints, atol=1e-3)
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)
        assert ours.skeleton == theirs.skeleton


@pytest.mark.parametrize(
    ("way", "task"),
    [
        pytest.param("onnx", lambda: pose(flip_test=True), id="mirrored pose"),
        pytest.param("openvino", lambda: segmenter(), id="segmentation"),
        pytest.param(
            "openvino",
            lambda: segmenter(scales=[0.5, 1.0], flip_test=True, label_flip_pairs=[[1, 2]]),
            id="scaled and mirrored",
        ),
        pytest.param("onnx", lambda: segmenter(window=(64, 64)), id="windows"),
    ],
)
@pytest.mark.slow
def test_a_task_predicts_the_same_by_a_library(way, task, photos):
    task = task()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    options = {} if task.monitor == "val/mIoU" else {"image_size": SIZE}
    expected = Predictor(task, **options)(photos)
    found = Predictor(task, runtime=way, **options)(photos)
    for ours, theirs in zip(found, expected, strict=True):
        if options:
            np.testing.assert_allclose(ours.keypoints, theirs.keypoints, atol=1e-3)
        else:
            assert (ours.mask == theirs.mask).mean() > 0.999
    assert options or len(np.unique(np.concatenate([result.mask.ravel() for result in expected]))) > 1
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())
    assert all(parameter.requires_grad for parameter in task.parameters())
    assert "forward" not in vars(task.backbone)


def fcos() -> DetectionTask:
    torch.manual_seed(0)
    task = DetectionTask(HRNet("w18_small_v1"), 3, detector="fcos", channels=32, strides=[8, 16, 32])
    trained(task)
    with torch.no_grad():  # an untrained head scores every place alike, about 0.01
        task.head.detector.head.classification_head.cls_logits.weight.mul_(40)
        # Small boxes: a file knows no borders but those of its canvas when it suppresses what overlaps.
        task.head.detector.head.regression_head.bbox_reg.bias.fill_(0.5)
    task.class_names = task.hparams["class_names"] = list("abc")
    return task


def landmarks() -> LandmarkTask:
    torch.manual_seed(0)
    task = LandmarkTask(HRNet("w18_small_v1", upsample="bilinear"), 3, skeleton=SKELETON)
    torch.nn.init.normal_(task.head[3].weight, std=0.1)
    return trained(task)


def classifier() -> ClassificationTask:
    torch.manual_seed(0)
    return trained(ClassificationTask(HRNet("w18_small_v1"), 7, class_names=list("abcdefg")))


@pytest.mark.parametrize("task", [segmenter, fcos, landmarks, classifier])
@pytest.mark.slow
def test_files_of_every_task_predict_like_it(task, tmp_path, photos):
    task = task()
    path = exported(task, tmp_path)
    asked = {} if task.monitor == "val/mIoU" else {"image_size": SIZE}
    expected = Predictor(task, **asked)(photos)
    for ours, theirs in zip(Predictor(path)(photos), expected, strict=True):
        for name in set(vars(theirs)) - {"photo", "class_names", "names", "skeleton", "masks"}:
            ours_of, theirs_of = np.asarray(getattr(ours, name)), np.asarray(getattr(theirs, name))
            if getattr(theirs, name) is None:
                assert getattr(ours, name) is None
                continue
            assert ours_of.shape == theirs_of.shape
            if name == "mask":
                assert (ours_of == theirs_of).mean() > 0.999
            elif name != "image_id":
                np.testing.assert_allclose(ours_of, theirs_of, atol=2e-3, rtol=1e-4)
        if hasattr(theirs, "class_names"):
            assert list(ours.class_names) == list(theirs.class_names)
        assert [row.keys() for row in ours.rows()] == [row.keys() for row in theirs.rows()]


@pytest.mark.slow
def test_files_of_torch_and_openvino_predict_too(tmp_path, photos):
    expected = Predictor(pose(flip_test=False), image_size=SIZE)(photos)
    for format in ("pt2", "openvino"):
        path = exported(pose(flip_test=False), tmp_path / format, format=format)
        for ours, theirs in zip(Predictor(path)(photos), expected, strict=True):
            np.testing.assert_allclose(ours.keypoints, theirs.keypoints, atol=1e-3)


@pytest.mark.slow
@pytest.mark.long
def test_a_joint_run_by_a_library(photos, capsys):
    makers = {
        "pose": lambda backbone: PoseTask(backbone, 3, skeleton=SKELETON),
        "parts": lambda backbone: SegmentationTask(backbone, 4, class_names=list("abcd")),
    }
    torch.manual_seed(0)
    joint = trained(MultiTask(HRNet("w18_small_v1"), makers))
    joint.preparation = {
        "pose": {"image_size": SIZE},
        "parts": {"class_path": "EvaluationSize", "init_args": {"image_size": SIZE, "evaluation": "crop"}},
    }
    expected, found = Predictor(joint)(photos[1]), Predictor(joint, runtime="auto")(photos[1])
    np.testing.assert_allclose(found.parts["pose"].keypoints, expected.parts["pose"].keypoints, atol=1e-3)
    assert (found.parts["parts"].mask == expected.parts["parts"].mask).mean() > 0.999
    said = capsys.readouterr().out
    assert "runtime of pose: " in said
    assert "runtime of parts: " in said
    assert "onnx" in said


@pytest.mark.parametrize(
    "task", [lambda: pose(), lambda: segmenter(flip_test=True, scales=[1.0, 1.5], label_flip_pairs=[[1, 2]])]
)
@pytest.mark.slow
def test_a_file_may_hold_the_test_with_mirrored_images(task, tmp_path, photos):
    task = task()
    path = exported(task, tmp_path, flip_test=True)
    options = {} if task.monitor == "val/mIoU" else {"image_size": SIZE}
    for ours, theirs in zip(Predictor(path)(photos), Predictor(task, **options)(photos), strict=True):
        if options:
            np.testing.assert_allclose(ours.keypoints, theirs.keypoints, atol=1e-3)
        else:
            assert (ours.mask == theirs.mask).mean() > 0.999


@pytest.mark.parametrize(
    ("task", "options", "words"),
    [
        (lambda: pose(flip_test=False), {}, "the PoseTask of this run is evaluated without mirrored images"),
        (classifier, {}, "the ClassificationTask of this run is evaluated without mirrored images"),
        (pose, {"decode": False}, "--flip_test goes with decoding"),
    ],
)
def test_a_test_that_there_is_none_of(task, options, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        exported(task(), tmp_path, flip_test=True, **options)


class Fake:
    """A network that takes so long and gives so much."""

    device = torch.device("cpu")

    def __init__(self, clock: list[float], seconds: float, value: float, problem: str = "") -> None:
        self.clock, self.seconds, self.value, self.problem = clock, seconds, value, problem

    def outputs(self, batch):
        if self.problem:
            raise ConfigError(self.problem)
        self.clock[0] += self.seconds
        return {"heatmaps": torch.tensor([1.0, self.value])}

    def predict(self, outputs, batch):
        return outputs["heatmaps"][1].item()


def fastest(monkeypatch, reference: bool, **networks: tuple) -> Fastest:
    clock = [0.0]
    monkeypatch.setattr(runtime.time, "perf_counter", lambda: clock[0])
    ways = {name: (lambda values=values: Fake(clock, *values)) for name, values in networks.items()}
    options = {"reference": Fake(clock, 0.1, 0.5), "exact": True} if reference else {"exact": False}
    return Fastest("", ways, torch.device("cpu"), **options)


BATCH = {"image": torch.zeros(2, 3, 64, 48, dtype=torch.uint8)}


def test_the_fastest_with_the_same_results_is_taken_and_said_once(monkeypatch, capsys):
    ways = {"torch": (0.3, 0.5), "quick": (0.1, 0.50001), "wrong": (0.01, 0.6), "broken": (0.1, 0.5, "no compiler")}
    network = fastest(monkeypatch, True, **ways)
    for _ in range(2):
        assert network.predict(network.outputs(BATCH), BATCH) == pytest.approx(0.50001)
    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        "runtime: quick, 100 ms a batch; torch 300 (2 x 64x48); wrong left out, its outputs differ from the others' "
        "by 1.0e-01 of the largest; broken left out, no compiler"
    )


def test_where_nothing_can_be_taken_it_is_said_why(monkeypatch):
    with pytest.raises(ConfigError, match=r"--runtime wrong: its outputs differ .* by 1\.0e-01 of the largest$"):
        fastest(monkeypatch, True, wrong=(0.1, 0.6)).outputs(BATCH)


def test_without_a_reference_lower_precision_is_taken(monkeypatch, capsys):
    network = fastest(monkeypatch, False, a=(0.2, 0.5), b=(0.1, 0.52))
    assert network.predict(network.outputs(BATCH), BATCH) == pytest.approx(0.52)
    assert fastest(monkeypatch, False, only=(0.2, 0.5)).outputs(BATCH)["heatmaps"][1] == 0.5
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize("task", [pose, segmenter, fcos])
def test_bfloat16_computes_in_it_and_answers_in_float32(task):
    task = task()
    low = in_bfloat16(task, torch.device("cpu"))
    batch = {"image": torch.randint(0, 256, (1, 3, *SIZE), dtype=torch.uint8)}
    with torch.inference_mode():
        found, expected = low.outputs(batch), task.outputs(batch)
    assert low.mean.dtype == torch.float32
    pairs = zip(found.values(), expected.values(), strict=True) if isinstance(found, dict) else [(found, expected)]
    for ours, theirs in pairs:
        assert ours.dtype == torch.float32
        assert 1e-5 < ((ours - theirs).norm() / theirs.norm()).item() < 0.2
    assert next(task.parameters()).dtype == torch.float32


@pytest.mark.slow
def test_bfloat16_of_openvino(photos, monkeypatch):
    task = pose(flip_test=False)
    monkeypatch.setattr(runtime, "has_bfloat16", lambda: True)
    batch = {"image": torch.randint(0, 256, (1, 3, *SIZE), dtype=torch.uint8)}
    with torch.inference_mode():
        found, expected = by_library(task, "openvino", "bf16").outputs(batch), task.outputs(batch)
        assert ((found - expected).norm() / expected.norm()).item() < 0.2
    result = Predictor(task, image_size=SIZE, runtime="auto", precision="bf16")(photos[0])
    assert result.keypoints.shape == (1, 3, 2)


@pytest.mark.slow
def test_a_compiled_network_predicts_the_same(photos):
    task = pose(flip_test=False)
    expected = Predictor(task, image_size=SIZE)(photos[0])
    found = Predictor(task, image_size=SIZE, runtime="compile")(photos[0])
    np.testing.assert_allclose(found.keypoints, expected.keypoints, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "int8"}, "int8 needs a quantised file: python -m experiments.export RUN --int8"),
        ({"precision": "bf16", "runtime": "onnx"}, "ONNX Runtime has no bfloat16"),
        ({"runtime": "onnx", "device": "cuda"}, "onnx runs on the CPU here: leave --device out"),
    ],
)
def test_what_a_task_cannot_do(options, words):
    with pytest.raises(ConfigError, match=words):
        Predictor(pose(), image_size=SIZE, **options)


def test_what_a_processor_cannot_do(monkeypatch):
    monkeypatch.setattr(runtime, "has_bfloat16", lambda: False)
    with pytest.raises(ConfigError, match="This processor has no instructions for bfloat16"):
        Predictor(pose(), image_size=SIZE, precision="bf16")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"runtime": "torch"}, "is read by onnx and openvino and not by torch"),
        ({"runtime": "compile"}, "is read by onnx and openvino and not by compile"),
        ({"precision": "int8"}, "holds float32 and not int8: python -m experiments.export RUN --int8 writes"),
        ({"device": "cuda"}, "runs on the CPU here"),
    ],
)
def test_what_a_file_cannot_do(options, words, pose_file):
    with pytest.raises(ConfigError, match=words):
        Predictor(pose_file, **options)


def test_a_library_that_is_not_installed(pose_file, monkeypatch):
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"openvino needs openvino: pip install 'hrnet-lightning\[export\]'"):
        Predictor(pose(), image_size=SIZE, runtime="openvino")
    with pytest.raises(ConfigError, match="onnx needs onnx"):
        Predictor(pose_file)


def test_images_of_another_size_than_the_files(pose_file, photos):
    with pytest.raises(ConfigError, match=r"takes images of 64x64 and these have 96x64: .*--image_size 96 64"):
        Predictor(pose_file, image_size=(96, 64), runtime="onnx")(photos[0])


def test_files_that_are_none_of_ours(pose_file, tmp_path):
    with pytest.raises(ConfigError, match="is not there: export a run"):
        Predictor(tmp_path / "absent.onnx")
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(pose_file.read_bytes()[:1000])
    with pytest.raises(ConfigError, match=r"cannot be opened .* it is damaged or incomplete"):
        Predictor(damaged)
    model = onnx.load(pose_file)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(ConfigError, match="does not say which task it is of, so this project did not write it"):
        Predictor(tmp_path / "foreign.onnx")
    about = {"task": "PoseTask", "outputs": ["heatmaps"], "image_size": [64, 64], "preparation": {}}
    onnx.helper.set_model_props(model, {"hrnet": json.dumps(about)})
    onnx.save(model, tmp_path / "raw.onnx")
    with pytest.raises(ConfigError, match=r"gives heatmaps, which nobody decodes here: .*without `--decode false`"):
        Predictor(tmp_path / "raw.onnx")
    onnx.helper.set_model_props(model, {"hrnet": json.dumps(about | {"task": "os.Task"})})
    onnx.save(model, tmp_path / "stranger.onnx")
    with pytest.raises(ValueError, match=r"needs the class 'os.Task', which is no imported task"):
        Predictor(tmp_path / "stranger.onnx")


class Evil:
    """Runs code when it is unpickled."""

    ran: list[int] = []

    def __reduce__(self):
        return Evil.ran.append, (1,)


@pytest.mark.parametrize("kind", ["pickled weight", "pickled inputs"])
def test_a_file_of_torch_that_would_run_code_is_refused(kind, tmp_path):
    about = {"task": "PoseTask", "outputs": ["keypoints"], "image_size": [64, 64], "preparation": {}}
    config = {"config": {"w": {"path_name": "weight_0", "use_pickle": kind == "pickled weight"}}}
    with zipfile.ZipFile(tmp_path / "a.pt2", "w") as archive:
        archive.writestr("a/extra/hrnet", json.dumps(about))
        archive.writestr("a/data/weights/model_weights_config.json", json.dumps(config))
        archive.writestr("a/data/sample_inputs/model.pt", pickle.dumps(Evil()))
    task = ExportedNetwork(tmp_path / "a.pt2")
    with pytest.raises(ConfigError, match="opening such a file runs code from it"):
        task.on("torch")
    assert not Evil.ran


def test_an_exported_file_on_the_command_line(pose_file, photos, tmp_path, capsys):
    task = tmp_path / "task.ckpt"
    tasks.save_task(pose(flip_test=False), task)
    words = [str(photos[0]), "--save", "json"]
    predict.main([str(pose_file), *words, "--output", str(tmp_path / "file"), "--runtime", "onnx"])
    predict.main([str(task), *words, "--output", str(tmp_path / "task"), "--image_size", "64", "64"])
    found, expected = (json.loads((tmp_path / name / "predictions.json").read_text()) for name in ("file", "task"))
    np.testing.assert_allclose(found[0]["keypoints"], expected[0]["keypoints"], atol=2e-3)
    with pytest.raises(ConfigError, match="is exported, so its flip_test cannot be replaced"):
        predict.main([str(pose_file), *words, "--model.flip_test", "true"])
    with pytest.raises(ConfigError, match="--save masks: a PoseTask gives no masks"):
        predict.main([str(pose_file), str(photos[0]), "--save", "masks"])
    assert SimpleNamespace(**json.loads(pose_file.with_name("PoseTask.onnx.json").read_text())).multiple_of == 1

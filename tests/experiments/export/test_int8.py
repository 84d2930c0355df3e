"""Quantised files: convolutions in eight bits, answers near those before, and none that loses more than is allowed."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import tasks
from experiments.config import ConfigError
from experiments.export import commandline, export
from experiments.export.files import RUN, WRITE, traced
from experiments.export.graph import Deployed
from experiments.export.loaded import ExportedNetwork
from experiments.export.quantised import quantise
from experiments.predictor import Predictor
from hrnet import HRNet
from tasks import PoseTask
from tests.conftest import ROOT
from tests.golden import old_run

SIZE = (64, 64)
ABOUT = {"task": "PoseTask", "outputs": ["heatmaps"], "image_size": [64, 64], "preparation": {}}


def images(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, *SIZE), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path, Path]:
    """A network in float32, in int8, and with its last convolution spared."""
    torch.manual_seed(0)
    task = PoseTask(HRNet("w18_small_v1", multi_scale_output=False), 3, flip_test=False)
    task.train()(task.normalize(images(4)))
    folder = tmp_path_factory.mktemp("int8")
    paths = tuple(folder / f"{name}.onnx" for name in ("float32", "int8", "spared"))
    network = Deployed(task, decode=False)
    WRITE["onnx"](traced(network, SIZE), paths[0], ["heatmaps"], ABOUT)
    for spared, path in enumerate(paths[1:]):
        path.write_bytes(paths[0].read_bytes())
        quantise(path, list(images(8)), ABOUT | {"precision": "int8"}, spared=spared)
    return paths


def test_convolutions_are_in_eight_bits_and_the_rest_is_not(files):
    plain, small, spared = (onnx.load(path) for path in files)
    kinds = {value.name: value.data_type for value in small.graph.initializer}
    made = {name: node for node in small.graph.node for name in node.output}
    convolutions = [node for node in small.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == sum(node.op_type == "Conv" for node in plain.graph.node)
    for node in convolutions:
        image, weight = (made[name] for name in node.input[:2])
        assert (image.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        assert kinds[weight.input[0]] == onnx.TensorProto.INT8
        assert kinds[image.input[2]] == onnx.TensorProto.UINT8
        (channels,) = next(value.dims for value in small.graph.initializer if value.name == weight.input[1])
        assert channels == next(value.dims for value in small.graph.initializer if value.name == weight.input[0])[0]
    for op in ("Sub", "Div"):  # the normalisation
        assert all(name not in made or "Linear" not in made[name].op_type
                   for node in small.graph.node if node.op_type == op for name in node.input)  # fmt: skip
    counts = [sum(node.op_type == "QuantizeLinear" for node in model.graph.node) for model in (small, spared)]
    assert counts[1] < counts[0]
    assert files[1].stat().st_size < 0.4 * files[0].stat().st_size
    assert json.loads(small.metadata_props[0].value)["precision"] == "int8"


def test_the_answers_are_near_those_before(files):
    plain, small, spared = (RUN["onnx"](path, ["heatmaps"]) for path in files)
    expected = plain(images(3))["heatmaps"]
    for run in (small, spared):
        found = run(images(3))["heatmaps"]
        error = ((found - expected).norm() / expected.norm()).item()
        assert 1e-3 < error < 0.5
    by_openvino = RUN["openvino"](files[1], ["heatmaps"])(images(3))["heatmaps"]
    assert ((by_openvino - expected).norm() / expected.norm()).item() < 0.5


@pytest.mark.slow
def test_a_runs_metric_before_and_after_is_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    run = old_run("classification", tmp_path)
    monkeypatch.setattr(commandline, "LOSS", 1.0)  # its weights follow from a rule, and it knows nothing
    (path,) = export(str(run), int8=True, limit_batches=2).values()
    assert path == run / "exported" / "ClassificationTask.int8.onnx"
    agreement = json.loads(path.with_name(path.name + ".json").read_text())["agreement"]
    assert {"top1 of the network", "top1 in int8"} <= agreement.keys()
    assert "top1 in int8: " in capsys.readouterr().out
    task = ExportedNetwork(path)
    assert task.precision == "int8"
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    found = Predictor(path)(picture)
    assert found.probabilities.shape == Predictor(tasks.load(run))(picture).probabilities.shape
    assert "runtime: " in capsys.readouterr().out
    for precision, words in (("float32", "holds int8 and not float32"), ("bf16", "cannot be computed in bfloat16")):
        with pytest.raises(ConfigError, match=words):
            Predictor(path, precision=precision)
    monkeypatch.setattr(commandline, "LOSS", -1.0)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"top1 of the network is 0\.\d{4} and in int8 0\.\d{4}, which loses more"):
        export(str(run), int8=True, limit_batches=2, overwrite=True)
    assert path.read_bytes() == before
    assert {file.name for file in path.parent.iterdir()} == {path.name, path.name + ".json"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "openvino"}, "--int8 writes ONNX, which OpenVINO reads too, and not openvino"),
        ({"decode": False}, "leave --decode false out"),
        ({"image_size": (64, 64)}, "leave --image_size out"),
    ],
)
def test_what_int8_does_not_go_with(options, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        export(str(tmp_path), int8=True, **options)


def test_without_data_there_is_no_int8(tmp_path):
    task = PoseTask(HRNet("w18_small_v1", multi_scale_output=False), 3)
    task.skeleton = {"names": list("abc"), "flip_pairs": [], "limbs": [], "sigmas": [0.1] * 3}
    task.preparation = {"image_size": [64, 64]}
    tasks.save_task(task, tmp_path / "task.ckpt")
    with pytest.raises(ConfigError, match="int8 takes ranges from training images of the run"):
        export(str(tmp_path / "task.ckpt"), int8=True, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_quantised_runs_anywhere(files):
    session = onnxruntime.InferenceSession(str(files[1]))
    assert [(value.name, value.shape) for value in session.get_inputs()] == [("image", ["batch", 3, 64, 64])]

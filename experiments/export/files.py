"""The exported file: one graph for every batch size, with speaking names, what it is as metadata, and no foreign path.

Each format is three functions: how a graph is written, what a file says of itself, and how it runs again, images ->
tensors by name.
"""

import importlib
import json
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from experiments.cli.files import replacing
from experiments.config import ConfigError
from experiments.export.graph import Deployed

Run = Callable[[Tensor], dict[str, Tensor]]
OPSET = 20
METADATA = "hrnet"  # the key under which a file says what it is, as JSON
MODULES = {"pt2": (), "onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",)}


def require(kind: str) -> None:
    """Raises ConfigError where a format's library is not installed."""
    if missing := [name for name in MODULES[kind] if find_spec(name) is None]:
        raise ConfigError(f"{kind} needs {', '.join(missing)}: pip install 'hrnet-lightning[export]'.")


def traced(network: Deployed, image_size: tuple[int, int]) -> ExportedProgram:
    """The graph, for any number of images; for any height and width too where the task's answers go with each pixel."""
    image = torch.zeros(2, 3, *image_size, dtype=torch.float32 if network.normalised else torch.uint8)
    sizes: dict[int, Any] = {0: Dim("batch", min=1)}
    if network.ending.any_size:
        sizes |= {2: _sides("height", network.step), 3: _sides("width", network.step)}
    program = torch.export.export(network, (image,), dynamic_shapes=(sizes,), strict=False)
    for module in program.graph_module.modules():
        for node in getattr(module, "graph", torch.fx.Graph()).nodes:
            node.meta.pop("stack_trace", None)  # of the machine that exports
    return program


def _sides(name: str, step: int) -> Any:
    return Dim.DYNAMIC if step == 1 else step * Dim(f"{name}_in_strides", min=1)


def write_pt2(program: ExportedProgram, path: Path, names: list[str], metadata: Mapping[str, Any]) -> None:
    """For `torch.export.load`."""
    with replacing(path) as part, part.open("wb") as file:
        torch.export.save(program, file, extra_files={METADATA: json.dumps(metadata)})


def about_pt2(path: Path) -> dict[str, Any]:
    """What the file says of itself."""
    with _reading(path), zipfile.ZipFile(path) as archive:
        said = [name for name in archive.namelist() if name.endswith(f"extra/{METADATA}")]
        return _described(archive.read(said[0]).decode() if said else "", path)


def _refuse_code(path: Path) -> None:
    """Refuse what torch would unpickle, or load as a library: opening a stranger's file must not run code of his.

    Raises:
        ConfigError: If there is such.
    """
    refusal = f"{path} holds Python objects beside tensors, and opening such a file runs code from it: export it again."
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if "/aotinductor/" in name:
                raise ConfigError(refusal)
            if name.endswith("_config.json"):
                for entry in json.loads(archive.read(name)).get("config", {}).values():
                    if entry.get("use_pickle") or not entry["path_name"].startswith(("weight_", "tensor_")):
                        raise ConfigError(refusal)
            if name.endswith(".pt"):
                try:
                    torch.load(BytesIO(archive.read(name)), weights_only=True)
                except pickle.UnpicklingError:
                    raise ConfigError(refusal) from None


def run_pt2(path: Path, names: list[str], precision: str = "float32") -> Run:
    """By torch alone."""
    with _reading(path):
        _refuse_code(path)
        with path.open("rb") as file:
            network = torch.export.load(file).module()

    def run(image: Tensor) -> dict[str, Tensor]:
        with torch.inference_mode():
            return network(image)

    return run


def write_onnx(program: ExportedProgram, path: Path, names: list[str], metadata: Mapping[str, Any]) -> None:
    """One file, weights included."""
    import onnx

    options: dict[str, Any] = {"input_names": ["image"], "output_names": names, "opset_version": OPSET}
    made = torch.onnx.export(program, dynamo=True, external_data=False, verbose=False, **options)
    model = made.model_proto
    _tidy(model)
    model.metadata_props.append(onnx.StringStringEntryProto(key=METADATA, value=json.dumps(metadata)))
    onnx.checker.check_model(model)
    with replacing(path) as part:
        part.write_bytes(model.SerializeToString())


def _tidy(model: Any) -> None:
    """Speaking names for the sizes that may differ, and nothing of the machine that exports."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
    for part in graph.node:
        part.doc_string = ""
    del graph.value_info[:]  # sizes of what lies between, by names that are changed here
    axes = dict(zip(("batch", None, "height", "width"), graph.input[0].type.tensor_type.shape.dim, strict=True))
    renamed = {dim.dim_param: name for name, dim in axes.items() if name and dim.dim_param}
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in renamed:
                dim.dim_param = renamed[dim.dim_param]


def about_onnx(path: Path) -> dict[str, Any]:
    """What the file says of itself."""
    import onnx

    with _reading(path):
        said = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
        return _described(said.get(METADATA, ""), path)


def run_onnx(path: Path, names: list[str], precision: str = "float32") -> Run:
    """By ONNX Runtime, on as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    with _reading(path):
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(image: Tensor) -> dict[str, Tensor]:
        found = session.run(names, {"image": np.ascontiguousarray(image.numpy())})
        return {name: torch.from_numpy(value) for name, value in zip(names, found, strict=True)}

    return run


def _openvino() -> Any:
    """OpenVINO, which reports each import to a server if the package for that can be imported, and else does not."""
    sys.modules.setdefault("openvino_telemetry", None)
    return importlib.import_module("openvino")


def write_openvino(program: ExportedProgram, path: Path, names: list[str], metadata: Mapping[str, Any]) -> None:
    """A pair of files, .xml and .bin beside it, which OpenVINO makes of the ONNX graph."""
    openvino = _openvino()
    require("onnx")
    path.parent.mkdir(parents=True, exist_ok=True)
    graph = path.with_name(f"part-{path.stem}.onnx")
    try:
        write_onnx(program, graph, names, metadata)
        model = openvino.Core().read_model(graph)
    finally:
        graph.unlink(missing_ok=True)
    model.set_rt_info(json.dumps(metadata), METADATA)
    parts = path.with_name(f"part-{path.name}")
    try:
        openvino.save_model(model, parts, compress_to_fp16=False)
        parts.with_suffix(".bin").replace(path.with_suffix(".bin"))
        parts.replace(path)
    finally:
        parts.unlink(missing_ok=True)
        parts.with_suffix(".bin").unlink(missing_ok=True)


def about_openvino(path: Path) -> dict[str, Any]:
    """What the file says of itself."""
    openvino = _openvino()
    with _reading(path):
        model = openvino.Core().read_model(path)
        return _described(model.get_rt_info(METADATA).value if model.has_rt_info(METADATA) else "", path)


def run_openvino(path: Path, names: list[str], precision: str = "float32") -> Run:
    """By OpenVINO, ONNX files too; by itself it would take bfloat16 on processors that have it."""
    openvino = _openvino()
    hint = {"float32": "f32", "bf16": "bf16"}[precision]
    options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    with _reading(path):
        network = openvino.Core().compile_model(str(path), "CPU", options)

    def run(image: Tensor) -> dict[str, Tensor]:
        found = network({"image": np.ascontiguousarray(image.numpy())})
        return {name: torch.from_numpy(np.array(found[name])) for name in names}

    return run


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """A library's own error about a file, whatever its class, as one sentence about the file."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise ConfigError(f"{path} cannot be opened ({said}): it is damaged or incomplete, export it again.") from error


def _described(said: str, path: Path) -> dict[str, Any]:
    """The metadata of a file.

    Raises:
        ConfigError: If it has none of this project's.
    """
    try:
        about = json.loads(said)
    except ValueError:
        about = None
    if not isinstance(about, dict) or not {"task", "outputs", "image_size", "preparation"} <= about.keys():
        raise ConfigError(
            f"{path} does not say which task it is of, so this project did not write it: predict with a file of "
            "`python -m experiments.export`, or with a run."
        )
    return about


def difference_of(found: Any, expected: Any) -> float:
    """The largest difference of two answers: a share of the tensor's largest number; of classes, of the places.

    Args:
        found: A tensor, or several by name or in a list.
        expected: The same.
    """
    if isinstance(expected, Mapping):
        return max(difference_of(found[name], value) for name, value in expected.items())
    if not isinstance(expected, Tensor):
        return max((difference_of(a, b) for a, b in zip(found, expected, strict=True)), default=0.0)
    if found.shape != expected.shape:
        return float("inf")
    if not expected.is_floating_point():  # classes: the share that differs; rounding may turn a tie
        return float((found != expected).double().mean())
    scale = max(float(expected.abs().max()), 1e-12)
    return float((found.double() - expected.double()).abs().max()) / scale


READERS = {"pt2": ("torch",), "onnx": ("onnx", "openvino"), "openvino": ("openvino",)}
"""The runtimes that read a format."""
ENDINGS = {"pt2": ".pt2", "onnx": ".onnx", "openvino": ".xml"}
WRITE = {"pt2": write_pt2, "onnx": write_onnx, "openvino": write_openvino}
RUN = {"pt2": run_pt2, "onnx": run_onnx, "openvino": run_openvino}
ABOUT = {"pt2": about_pt2, "onnx": about_onnx, "openvino": about_openvino}
